/* kernels/gpu/attend with faults in it (mutants.h): each is found, by the bits of its outputs or by the twin. */
#include "tests/kernels/gpu/attend_cases.h"
#include "tests/kernels/gpu/found.h"

static struct gpu_outcome run(uint32_t i)
{
    struct case_run *c = attend_run(&attend_cases[i], i);
    struct gpu_outcome o = case_sum(c);
    case_destroy(c);
    return o;
}

SL_TEST(every_mutant_of_attend_is_found)
{
    ARE_FOUND(GPU_MUTANTS_ATTEND, run, ATTEND_CASES);
}
