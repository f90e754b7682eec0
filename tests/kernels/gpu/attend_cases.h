/* Attention over pages of floats on the twin against kernels/ref: one case of attention_case.h, for the sound kernels and the broken
 * ones. */
#ifndef SL_TESTS_KERNELS_GPU_ATTEND_CASES_H
#define SL_TESTS_KERNELS_GPU_ATTEND_CASES_H

#include "kernels/gpu/attend.h"
#include "tests/kernels/gpu/attention_case.h"

/* The caller destroys it. */
static inline struct case_run *attend_run(const struct case_shape *sh, uint64_t seed)
{
    struct case_run *c = case_begin(sh, sl_gpu_attend_rows(sh->d_head), seed);
    struct sl_gpu_attend p = {.over = case_over(c),
                              .q = c->qkv,
                              .q_stride = c->width,
                              .q_factor = 1.5f / sqrtf((float)sh->d_head) * SL_EXP_LOG2E_HI};
    run_kernel(&c->attended, sl_gpu_attend_kernel(sh->kv_dtype == SL_BF16, sh->d_head), &p, 3,
               SL_GPU_ATTEND_SHARED, seed, CONFLICTS_MAY_BE);
    case_finish(c, (struct sl_gpu_row8){0}, seed);
    return c;
}

static const struct case_shape attend_cases[] = {
    {.n_q = 4, .n_kv = 2, .d_head = 128, .kv_dtype = SL_F32, .slices = {{0, 7, 0}, {60, 9, 0}}},
    {.n_q = 3,
     .n_kv = 1,
     .d_head = 6,
     .kv_dtype = SL_F32,
     .qk_norm = true,
     .odd = true,
     .slices = {{62, 11, 0}}},
    {.n_q = 4,
     .n_kv = 1,
     .d_head = 64,
     .kv_dtype = SL_BF16,
     .last = true,
     .slices = {{0, 9, 8}, {2046, 4, 0}}},
    {.n_q = 5,
     .n_kv = 1,
     .d_head = 72,
     .kv_dtype = SL_BF16,
     .odd = true,
     .wanted = 12,
     .slices = {{2047, 1, 0}}},
    {.n_q = 2, .n_kv = 2, .d_head = 200, .kv_dtype = SL_F32, .slices = {{100, 2, 0}}},
    {.n_q = 2, .n_kv = 1, .d_head = 512, .kv_dtype = SL_BF16, .slices = {{66, 2, 0}, {3, 1, 0}}},
};
enum { ATTEND_CASES = sizeof attend_cases / sizeof *attend_cases };

#endif
