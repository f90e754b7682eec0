/* States of attention to the rows of the output product, for the twin: the host compiles what nvcc does (mix.cu). */
#include "kernels/gpu/mix.inc"
