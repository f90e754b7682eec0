/* The grouped integer product of few rows for the twin: the body is kernels/gpu/gemm8_few.inc. */
#include "kernels/gpu/gemm8_few.inc"
