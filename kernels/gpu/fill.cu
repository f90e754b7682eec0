/* fill for the device: the body is kernels/gpu/fill.inc. */
#include "kernels/gpu/fill.inc"
