/* kernels/gpu/elements with faults in it (mutants.h): each is found, by the bits of its outputs or by the twin. */
#define DRAW_SEED 20261133
#include "tests/kernels/gpu/elements_cases.h"
#include "tests/kernels/gpu/found.h"

static struct gpu_outcome run(uint32_t i)
{
    return i % 2 ? combine_go(&elements_cases[i / 2], i) : sigmoid_go(&elements_cases[i / 2], i);
}

SL_TEST(every_mutant_of_elements_is_found)
{
    ARE_FOUND(GPU_MUTANTS_ELEMENTS, run, 2 * ELEMENTS_CASES);
}
