/* The checksum by lanes for nvcc: the body is kernels/gpu/lanes.inc. */
#include "kernels/gpu/lanes.inc"
