/* kernels/gpu/lanes with faults in it (mutants.h): each is found, by the checksum or by the twin. */
#define DRAW_SEED 20261134
#include "tests/kernels/gpu/found.h"
#include "tests/kernels/gpu/lanes_cases.h"

static uint64_t wrong_of(uint32_t i)
{
    return wrong_of_lanes(&lanes_cases[i], i);
}

SL_TEST(every_mutant_of_lanes_is_found)
{
#define IS_FOUND(name, what) is_found(GPU_MUTANT_##name, wrong_of, LANES_CASES);
    GPU_MUTANTS_LANES(IS_FOUND)
#undef IS_FOUND
}
