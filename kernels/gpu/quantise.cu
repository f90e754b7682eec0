/* Rows to s8 for nvcc: the body is kernels/gpu/quantise.inc. */
#include "kernels/gpu/quantise.inc"
