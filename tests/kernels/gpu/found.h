/* Whether a mutant (mutants.h) is found: by the outputs of one of the cases, or by the twin. */
#ifndef SL_TESTS_KERNELS_GPU_FOUND_H
#define SL_TESTS_KERNELS_GPU_FOUND_H

#include "kernels/gpu/host.h"
#include "tests/check.h"
#include "tests/kernels/gpu/mutants.h"

/* wrong_of(i): how many outputs of case i differ; what else is wrong is in the report. */
static inline void is_found(enum gpu_mutant mutant, uint64_t (*wrong_of)(uint32_t i), uint32_t n_cases)
{
    uint64_t wrong = 0, found = 0;
    gpu_mutant = mutant;
    for (uint32_t i = 0; i < n_cases && wrong + found == 0; i++) {
        wrong = wrong_of(i);
        struct gpu_report r = gpu_take_report();
        found = gpu_findings(&r) + (r.wavefronts != r.wavefronts_ideal);
    }
    gpu_mutant = GPU_MUTANT_NONE;
    if (wrong + found == 0)
        sl_test_fail(__FILE__, __LINE__, "%s was not found: %s", gpu_mutant_name(mutant),
                     gpu_mutant_what(mutant));
}

#endif
