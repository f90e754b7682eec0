/* The rows of q|k|v on their way to attention, for the device: nvcc compiles what the host does (place_twin.c). */
#include "kernels/gpu/place.inc"
