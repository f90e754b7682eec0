/* States of attention to the rows of the output product, for the device: nvcc compiles what the host does (mix_twin.c). */
#include "kernels/gpu/mix.inc"
