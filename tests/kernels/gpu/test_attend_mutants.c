/* kernels/gpu/attend with faults in it (mutants.h): each is found, by the bits of its outputs or by the twin. */
#include "tests/kernels/gpu/attend_cases.h"
#include "tests/kernels/gpu/mutants.h"

static void is_found(enum gpu_mutant mutant)
{
    uint64_t found = 0;
    gpu_mutant = mutant;
    for (uint32_t i = 0; i < ATTEND_CASES && found == 0; i++) {
        struct gpu_report r;
        found = wrong_of_attend(&attend_cases[i], &r, i);
        found += gpu_findings(&r);
    }
    gpu_mutant = GPU_MUTANT_NONE;
    if (found == 0)
        sl_test_fail(__FILE__, __LINE__, "%s was not found: %s", gpu_mutant_name(mutant),
                     gpu_mutant_what(mutant));
}

SL_TEST(every_mutant_of_attend_is_found)
{
#define IS_FOUND(name, what) is_found(GPU_MUTANT_##name);
    GPU_MUTANTS_ATTEND(IS_FOUND)
#undef IS_FOUND
}
