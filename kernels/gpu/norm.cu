/* RMS norm of rows on their way into a product, for the device: nvcc compiles what the host does (norm_twin.c). */
#include "kernels/gpu/norm.inc"
