/* kernels/gpu/quantise with faults in it (mutants.h): each is found, by the bits of its outputs or by the twin. */
#define DRAW_SEED 20261132
#include "tests/kernels/gpu/found.h"
#include "tests/kernels/gpu/quantise_cases.h"

static uint64_t wrong_of(uint32_t i)
{
    return wrong_of_quantise(&quantise_cases[i], i);
}

SL_TEST(every_mutant_of_quantise_is_found)
{
#define IS_FOUND(name, what) is_found(GPU_MUTANT_##name, wrong_of, QUANTISE_CASES);
    GPU_MUTANTS_QUANTISE(IS_FOUND)
#undef IS_FOUND
}
