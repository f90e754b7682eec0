/* The product of floats for nvcc: the body is kernels/gpu/gemm.inc. */
#include "kernels/gpu/gemm.inc"
