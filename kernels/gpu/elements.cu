/* Rows element by element for nvcc: the body is kernels/gpu/elements.inc. */
#include "kernels/gpu/elements.inc"
