/* Attention over i8 pages, all sizes of head, for the twin: the host compiles what nvcc does (attend8.cu). */
#include "kernels/gpu/attend8_all.inc"
