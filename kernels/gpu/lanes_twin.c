/* The checksum by lanes for the twin: the body is kernels/gpu/lanes.inc. */
#include "kernels/gpu/lanes.inc"
