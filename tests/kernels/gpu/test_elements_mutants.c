/* kernels/gpu/elements with faults in it (mutants.h): each is found, by the bits of its outputs or by the twin. */
#define DRAW_SEED 20261133
#include "tests/kernels/gpu/elements_cases.h"
#include "tests/kernels/gpu/found.h"

static uint64_t wrong_of(uint32_t i)
{
    return wrong_of_elements(&elements_cases[i], i);
}

SL_TEST(every_mutant_of_elements_is_found)
{
#define IS_FOUND(name, what) is_found(GPU_MUTANT_##name, wrong_of, ELEMENTS_CASES);
    GPU_MUTANTS_ELEMENTS(IS_FOUND)
#undef IS_FOUND
}
