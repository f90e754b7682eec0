/* peak_wgmma for the device (sm_90a): the body is kernels/gpu/peak_wgmma.inc. */
#include "kernels/gpu/peak_wgmma.inc"
