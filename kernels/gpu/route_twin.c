/* The route of a chunk for the twin: the body is kernels/gpu/route.inc. */
#include "kernels/gpu/route.inc"
