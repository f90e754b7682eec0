/* The probe for the twin: the bodies are the device's. */
#include "tests/gpu/probe/probe.inc"
#include "tests/gpu/probe/probe_wg.inc"
