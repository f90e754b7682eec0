/* The grouped integer product by wgmma for the twin: the body is kernels/gpu/gemm8_wgmma.inc. */
#include "kernels/gpu/gemm8_wgmma.inc"
