/* The grouped integer product for the device: the body is kernels/gpu/gemm8.inc. */
#include "kernels/gpu/gemm8.inc"
