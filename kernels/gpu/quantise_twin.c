/* Rows to s8 for the twin: the body is kernels/gpu/quantise.inc. */
#include "kernels/gpu/quantise.inc"
