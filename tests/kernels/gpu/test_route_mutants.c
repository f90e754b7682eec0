/* kernels/gpu/route with faults in it (mutants.h): each is found, by the bits of its outputs or by the twin. */
#define DRAW_SEED 20261131
#include "tests/kernels/gpu/found.h"
#include "tests/kernels/gpu/route_cases.h"

static struct gpu_outcome run(uint32_t i)
{
    return route_go(&route_cases[i], i);
}

SL_TEST(every_mutant_of_route_is_found)
{
    ARE_FOUND(GPU_MUTANTS_ROUTE, run, ROUTE_CASES);
}
