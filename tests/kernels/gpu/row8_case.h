/* Rows of s8 that a kernel leaves (kernels/gpu/row8.h) beside those of sl_quantise_rows, for the kernels that make such rows. */
#ifndef SL_TESTS_KERNELS_GPU_ROW8_CASE_H
#define SL_TESTS_KERNELS_GPU_ROW8_CASE_H

#include "kernels/gpu/row8.h"
#include "kernels/isa.h"
#include "kernels/team_ops.h"
#include "tests/kernels/draw.h"
#include "tests/kernels/gpu/outcome.h"

/* Unwritten, for `rows` of k. */
static inline struct sl_gpu_row8 row8_unwritten(uint32_t rows, uint32_t k, uint32_t rotation, uint32_t digits)
{
    const size_t stride = sl_rows8_stride(k);
    return (struct sl_gpu_row8){.q = unwritten(rows * stride),
                                .scale = unwritten(rows * sizeof(float)),
                                .sum = unwritten(rows * sizeof(int32_t)),
                                .second = unwritten(rows * stride),
                                .second_scale = unwritten(rows * sizeof(float)),
                                .second_sum = unwritten(rows * sizeof(int32_t)),
                                .stride = stride,
                                .rotation = rotation,
                                .digits = digits};
}

/* x: what they were made of, [rows][k] in the host's memory. */
static inline void compare_row8(struct gpu_outcome *o, const struct sl_gpu_row8 *got, const float *x,
                                uint32_t rows, uint32_t k)
{
    const struct sl_panel w = {.k = k, .dtype = SL_I8, .rotation = got->rotation, .digits = got->digits};
    struct sl_rows8 want[2];
    float *temp = take(k * sizeof *temp);
    for (int i = 0; i < 2; i++)
        want[i] = (struct sl_rows8){take(rows * got->stride), got->stride, take(rows * sizeof(float)),
                                    take(rows * sizeof(int32_t))};
    sl_quantise_rows(&sl_ops_ref, &w, x, k, &want[0], &want[1], 0, rows, temp);
    compare_things(o, want[0].q, got->q, rows * got->stride, 1);
    compare_floats(o, want[0].scale, got->scale, rows);
    compare_things(o, want[0].sum, got->sum, rows, sizeof *got->sum);
    if (got->digits > 1) {
        compare_things(o, want[1].q, got->second, rows * got->stride, 1);
        compare_floats(o, want[1].scale, got->second_scale, rows);
        compare_things(o, want[1].sum, got->second_sum, rows, sizeof *got->sum);
    } else {
        expect_unwritten(o, got->second, rows * got->stride);
        expect_unwritten(o, got->second_scale, rows * sizeof(float));
        expect_unwritten(o, got->second_sum, rows * sizeof(int32_t));
    }
    for (int i = 0; i < 2; i++)
        free(want[i].q), free(want[i].scale), free(want[i].sum);
    free(temp);
}

#endif
