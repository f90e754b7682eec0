/* The probe of what four warps do together, for the only architecture that has it: the body is tests/gpu/probe/probe_wg.inc. */
#include "tests/gpu/probe/probe_wg.inc"
