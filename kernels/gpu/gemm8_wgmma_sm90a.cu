/* The grouped integer product by wgmma for the device (sm_90a): the body is kernels/gpu/gemm8_wgmma.inc. */
#include "kernels/gpu/gemm8_wgmma.inc"
