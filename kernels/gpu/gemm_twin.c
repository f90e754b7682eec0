/* The product of floats for the twin: the body is kernels/gpu/gemm.inc. */
#include "kernels/gpu/gemm.inc"
