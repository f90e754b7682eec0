/* The route of a chunk for nvcc: the body is kernels/gpu/route.inc. */
#include "kernels/gpu/route.inc"
