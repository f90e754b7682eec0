/* fill for the twin: the body is kernels/gpu/fill.inc. */
#include "kernels/gpu/fill.inc"
