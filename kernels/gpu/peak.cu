/* peak_mma for the device: the body is kernels/gpu/peak.inc. */
#include "kernels/gpu/peak.inc"
