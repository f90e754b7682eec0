/* Attention's kernels broken on purpose (kernels/gpu/mutants.h): each fault is found by bits that differ, by a finding of the twin, or by
 * conflicts of banks; and nothing is found in them as they are. */
#include "tests/kernels/gpu/attention_case.h"
#include "tests/kernels/gpu/found.h"
#include "tests/kernels/gpu/norm_case.h"

static const struct case_shape shapes[] = {
    {.n_q = 6,
     .n_kv = 2,
     .d_head = 64,
     .kv_dtype = SL_I8,
     .bias = true,
     .qk_norm = true,
     .slices = {{0, 70, 0}}},
    {.n_q = 2, .n_kv = 1, .d_head = 64, .kv_dtype = SL_I8, .slices = {{2060, 1, 0}}},
    {.n_q = 2, .n_kv = 1, .d_head = 64, .kv_dtype = SL_I8, .wanted = 8, .slices = {{4100, 1, 0}}},
    {.n_q = 3, .n_kv = 3, .d_head = 64, .kv_dtype = SL_I8, .odd = true, .slices = {{0, 7, 0}, {0, 1, 0}}},
    {.n_q = 1, .n_kv = 1, .d_head = 80, .kv_dtype = SL_I8, .qk_norm = true, .slices = {{0, 3, 0}}},
    {.n_q = 2, .n_kv = 2, .d_head = 64, .kv_dtype = SL_I8, .last = true, .slices = {{0, 9, 6}}},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };
static const struct norm_shape norm = {.n = 2048, .rows = 60, .rotation = 2048, .digits = 2, .floats = true};

static struct gpu_outcome run(uint32_t i)
{
    if (i == SHAPES)
        return norm_go(&norm, i);
    struct case_run *c = case_go(&shapes[i], i);
    struct gpu_outcome o = case_sum(c);
    case_destroy(c);
    return o;
}

SL_TEST(every_mutant_of_attention_and_rows_is_found)
{
    ARE_FOUND(GPU_MUTANTS_ATTEND8, run, SHAPES + 1);
    ARE_FOUND(GPU_MUTANTS_ROWS8, run, SHAPES + 1);
    ARE_FOUND(GPU_MUTANTS_PLACE, run, SHAPES + 1);
}
