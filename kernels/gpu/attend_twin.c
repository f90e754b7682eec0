/* Attention over pages of floats for the twin: the body is kernels/gpu/attend.inc. */
#include "kernels/gpu/attend_all.inc"
