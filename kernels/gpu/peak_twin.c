/* peak_mma for the twin: the body is kernels/gpu/peak.inc. */
#include "kernels/gpu/peak.inc"
