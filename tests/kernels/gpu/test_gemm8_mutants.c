/* kernels/gpu/gemm8 with each of its faults (kernels/gpu/mutants.h): all are found, by the bits, by a finding of the twin or by the
 * wavefronts of shared memory, each in the body that has it. */
#define DRAW_SEED 20261135
#include "tests/kernels/gpu/found.h"
#include "tests/kernels/gpu/gemm8_case.h"

/* Stages enough that slots are used again, a tile that is not full, columns, blocks and units that end within theirs; fewer blocks
 * than tasks. */
static const struct gemm8_case cases[] = {
    {.body = GEMM8_MMA,
     .dtype = SL_I4,
     .digits = 1,
     .n = 40,
     .k = 736,
     .tokens = 25,
     .experts = 2,
     .top_k = 2},
    {.body = GEMM8_MMA,
     .dtype = SL_I3,
     .digits = 2,
     .swiglu = true,
     .n = 40,
     .k = 160,
     .tokens = 40,
     .experts = 3,
     .top_k = 2},
    {.body = GEMM8_MMA,
     .dtype = SL_I2,
     .digits = 1,
     .n = 150,
     .k = 100,
     .tokens = 40,
     .experts = 2,
     .top_k = 2,
     .blocks = 2},
    {.body = GEMM8_WGMMA,
     .dtype = SL_I4,
     .digits = 1,
     .n = 40,
     .k = 1300,
     .tokens = 25,
     .experts = 2,
     .top_k = 2},
    {.body = GEMM8_FEW,
     .dtype = SL_I4,
     .digits = 2,
     .n = 190,
     .k = 600,
     .tokens = 12,
     .experts = 2,
     .top_k = 2,
     .blocks = 1},
    {.body = GEMM8_FEW,
     .dtype = SL_I3,
     .digits = 1,
     .swiglu = true,
     .dense = true,
     .n = 40,
     .k = 300,
     .tokens = 11,
     .experts = 1,
     .top_k = 1},
};
enum {
    MMA = 3,
    WGMMA = 1,
    FEW = 2,            /* so many, one behind the other */
    FEW_RUNS = 24 * FEW /* a warp has to fall behind by a whole task */
};
_Static_assert(sizeof cases / sizeof *cases == MMA + WGMMA + FEW, "each case is of a body");

static struct gpu_outcome run_mma(uint32_t i)
{
    return gemm8_go(&cases[i], i);
}

static struct gpu_outcome run_wgmma(uint32_t i)
{
    return gemm8_go(&cases[MMA + i], i);
}

static struct gpu_outcome run_few(uint32_t i)
{
    return gemm8_go(&cases[MMA + WGMMA + i % FEW], i);
}

SL_TEST(every_mutant_of_gemm8_is_found)
{
    ARE_FOUND(GPU_MUTANTS_GEMM8, run_mma, MMA);
    ARE_FOUND(GPU_MUTANTS_GEMM8_WG, run_wgmma, WGMMA);
    ARE_FOUND(GPU_MUTANTS_GEMM8_FEW, run_few, FEW_RUNS);
}
