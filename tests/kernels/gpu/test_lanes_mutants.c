/* kernels/gpu/lanes with faults in it (mutants.h): each is found, by the checksum or by the twin. */
#define DRAW_SEED 20261134
#include "tests/kernels/gpu/found.h"
#include "tests/kernels/gpu/lanes_cases.h"

static struct gpu_outcome run(uint32_t i)
{
    return lanes_go(&lanes_cases[i], i);
}

SL_TEST(every_mutant_of_lanes_is_found)
{
    ARE_FOUND(GPU_MUTANTS_LANES, run, LANES_CASES);
}
