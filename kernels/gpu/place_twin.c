/* The rows of q|k|v on their way to attention, for the twin: the host compiles what nvcc does (place.cu). */
#include "kernels/gpu/place.inc"
