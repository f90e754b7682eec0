/* The grouped integer product for the twin: the body is kernels/gpu/gemm8.inc. */
#include "kernels/gpu/gemm8.inc"
