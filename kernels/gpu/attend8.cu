/* Attention over i8 pages, all sizes of head, for the device: nvcc compiles what the host does (attend8_twin.c). */
#include "kernels/gpu/attend8_all.inc"
