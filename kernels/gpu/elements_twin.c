/* Rows element by element for the twin: the body is kernels/gpu/elements.inc. */
#include "kernels/gpu/elements.inc"
