/* The probe for the device: the body is tests/gpu/probe/probe.inc. */
#include "tests/gpu/probe/probe.inc"
