/* kernels/gpu/gemm with faults in it (mutants.h): each is found, by the bits of its outputs or by the twin. */
#define DRAW_SEED 20261134
#include "tests/kernels/gpu/found.h"
#include "tests/kernels/gpu/gemm_cases.h"

static struct gpu_outcome run(uint32_t i)
{
    return gemm_go(&gemm_cases[i], i);
}

SL_TEST(every_mutant_of_gemm_is_found)
{
    ARE_FOUND(GPU_MUTANTS_GEMM, run, GEMM_CASES);
}
