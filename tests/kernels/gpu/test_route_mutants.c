/* kernels/gpu/route with faults in it (mutants.h): each is found, by the bytes of a route or by the twin. */
#define DRAW_SEED 20261131
#include "tests/kernels/gpu/mutants.h"
#include "tests/kernels/gpu/route_cases.h"

static void is_found(enum gpu_mutant mutant)
{
    uint64_t wrong = 0, found = 0;
    gpu_mutant = mutant;
    for (uint32_t i = 0; i < ROUTE_CASES && wrong + found == 0; i++) {
        wrong = wrong_of_route(&route_cases[i], i);
        struct gpu_report r = gpu_take_report();
        found = gpu_findings(&r);
    }
    gpu_mutant = GPU_MUTANT_NONE;
    if (wrong + found == 0)
        sl_test_fail(__FILE__, __LINE__, "%s was not found: %s", gpu_mutant_name(mutant),
                     gpu_mutant_what(mutant));
}

SL_TEST(every_mutant_of_route_is_found)
{
#define IS_FOUND(name, what) is_found(GPU_MUTANT_##name);
    GPU_MUTANTS_ROUTE(IS_FOUND)
#undef IS_FOUND
}
