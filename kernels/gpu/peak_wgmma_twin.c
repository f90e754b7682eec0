/* peak_wgmma for the twin: the body is kernels/gpu/peak_wgmma.inc. */
#include "kernels/gpu/peak_wgmma.inc"
