/* RMS norm of rows on their way into a product, for the twin: the host compiles what nvcc does (norm.cu). */
#include "kernels/gpu/norm.inc"
