/* kernels/gpu/gemm with faults in it (mutants.h): each is found, by the bits of its outputs or by the twin. */
#define DRAW_SEED 20261134
#include "tests/kernels/gpu/found.h"
#include "tests/kernels/gpu/gemm_cases.h"

static uint64_t wrong_of(uint32_t i)
{
    return wrong_of_gemm(&gemm_cases[i], i);
}

SL_TEST(every_mutant_of_gemm_is_found)
{
#define IS_FOUND(name, what) is_found(GPU_MUTANT_##name, wrong_of, GEMM_CASES);
    GPU_MUTANTS_GEMM(IS_FOUND)
#undef IS_FOUND
}
