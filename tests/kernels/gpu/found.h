/* Whether a mutant (mutants.h) is found: by what is wrong with one of the cases. SLUICE_PAGE=1 prints what found which. */
#ifndef SL_TESTS_KERNELS_GPU_FOUND_H
#define SL_TESTS_KERNELS_GPU_FOUND_H

#include "tests/kernels/draw.h"
#include "tests/kernels/gpu/mutants.h"
#include "tests/kernels/gpu/outcome.h"

static inline const char *what_finds(enum gpu_mutant mutant, struct gpu_outcome (*run)(uint32_t i),
                                     uint32_t n_cases)
{
    const char *by = NULL;
    gpu_mutant = mutant;
    for (uint32_t i = 0; i < n_cases && !by; i++) {
        rng.index = (uint64_t)i << 32; /* its draws, whichever mutants there were before */
        struct gpu_outcome o = run(i);
        by = wrong_by(&o);
        if (by && getenv("SLUICE_PAGE"))
            printf("| %s | %llu of %llu | %s | %s |\n", gpu_mutant_what(mutant), (unsigned long long)o.differ,
                   (unsigned long long)o.outputs, by, o.report.first);
    }
    gpu_mutant = GPU_MUTANT_NONE;
    return by;
}

/* Each of them is; and in the kernels as they are nothing is. */
static inline void are_found(const enum gpu_mutant *mutants, size_t n, struct gpu_outcome (*run)(uint32_t i),
                             uint32_t n_cases)
{
    const char *none = what_finds(GPU_MUTANT_NONE, run, n_cases);
    if (none)
        sl_test_fail(__FILE__, __LINE__, "kernels as they are: %s", none);
    for (size_t i = 0; i < n; i++)
        if (!what_finds(mutants[i], run, n_cases))
            sl_test_fail(__FILE__, __LINE__, "%s was not found: %s", gpu_mutant_name(mutants[i]),
                         gpu_mutant_what(mutants[i]));
}

/* The mutants of a list of mutants.h, one behind the other. */
#define MUTANT_OF(name, what) GPU_MUTANT_##name,
#define ARE_FOUND(list, run, n_cases)                                                                        \
    do {                                                                                                     \
        static const enum gpu_mutant mutants_[] = {list(MUTANT_OF)};                                         \
        are_found(mutants_, sizeof mutants_ / sizeof *mutants_, run, n_cases);                               \
    } while (0)

#endif
