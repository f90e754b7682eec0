/* Rows through norm on the twin and by kernels/ref, compared byte by byte. For test_norm.c and test_attend8_mutants.c. */
#ifndef SL_TESTS_KERNELS_GPU_NORM_CASE_H
#define SL_TESTS_KERNELS_GPU_NORM_CASE_H

#include "kernels/gpu/host.h"
#include "kernels/gpu/norm.h"
#include "kernels/isa.h"
#include "kernels/team_ops.h"
#ifndef DRAW_SEED
#define DRAW_SEED 20261201
#endif
#include "tests/kernels/draw.h"
#include <math.h>

struct norm_shape {
    uint32_t n, rows, rotation, digits;
    bool floats, no_bytes; /* wanted of it */
    bool odd;              /* NaN, infinities, zeros and tiny numbers among the rows */
};

struct norm_result {
    uint64_t n_wrong;
    struct gpu_report report;
};

static inline void norm_draw(const struct norm_shape *s, float *x)
{
    for (uint32_t i = 0; i < s->rows * s->n; i++) {
        uint32_t row = i / s->n;
        x[i] = draw_unit() * (i % 13 == 0 ? 30.0f : 1.0f);
        if (s->odd && row % 2)
            x[i] = row % 8 == 1   ? 0.0f
                   : row % 8 == 3 ? x[i] * 1e-38f
                   : i % 31 == 7  ? (row % 8 == 5 ? INFINITY : NAN)
                                  : x[i];
    }
}

static inline uint64_t norm_differ(const void *want, const void *got, size_t n)
{
    uint64_t wrong = 0;
    for (size_t i = 0; i < n; i++)
        wrong += ((const uint8_t *)want)[i] != ((const uint8_t *)got)[i];
    return wrong;
}

static inline uint64_t norm_compare(const struct norm_shape *s, const struct sl_gpu_norm *p, const float *x)
{
    const struct sl_panel w = {.k = s->n, .dtype = SL_I8, .rotation = s->rotation, .digits = s->digits};
    float *y = take(s->n * sizeof(float)), *temp = take(s->n * sizeof(float)), scale[2];
    int8_t *q = take(2 * p->to.stride);
    int32_t sum[2];
    const struct sl_rows8 to = {q, p->to.stride, &scale[0], &sum[0]};
    const struct sl_rows8 second = {q + p->to.stride, p->to.stride, &scale[1], &sum[1]};
    uint64_t wrong = 0;
    for (uint32_t r = 0; r < s->rows; r++) {
        sl_ops_ref.rmsnorm(y, x + (size_t)r * s->n, p->gain, s->n, p->eps);
        for (uint32_t i = 0; s->floats && i < s->n; i++)
            wrong += memcmp(&y[i], &p->normed[(size_t)r * s->n + i], 4) != 0;
        if (s->no_bytes)
            continue;
        sl_quantise_rows(&sl_ops_ref, &w, y, s->n, &to, &second, 0, 1, temp);
        wrong += norm_differ(to.q, p->to.q + r * to.stride, to.stride);
        wrong += norm_differ(&scale[0], &p->to.scale[r], 4) + norm_differ(&sum[0], &p->to.sum[r], 4);
        if (s->digits < 2)
            continue;
        wrong += norm_differ(second.q, p->to.second + r * to.stride, to.stride);
        wrong +=
            norm_differ(&scale[1], &p->to.second_scale[r], 4) + norm_differ(&sum[1], &p->to.second_sum[r], 4);
    }
    free(y), free(temp), free(q);
    return wrong;
}

static inline struct norm_result norm_go(const struct norm_shape *s, uint64_t seed)
{
    const size_t bytes = s->rows * s->n * sizeof(float), stride = sl_rows8_stride(s->n);
    float *x = gpu_alloc(bytes), *gain = gpu_alloc(s->n * sizeof(float));
    uint32_t *n_rows = gpu_alloc(sizeof *n_rows);
    *n_rows = s->rows;
    norm_draw(s, x);
    for (uint32_t i = 0; i < s->n; i++)
        gain[i] = 1.0f + draw_unit() * 0.5f;
    struct sl_gpu_norm p = {.x = x,
                            .gain = gain,
                            .normed = s->floats ? gpu_alloc(bytes) : NULL,
                            .to = {.q = s->no_bytes ? NULL : gpu_alloc(s->rows * stride),
                                   .scale = gpu_alloc(s->rows * 4),
                                   .sum = gpu_alloc(s->rows * 4),
                                   .second = gpu_alloc(s->rows * stride),
                                   .second_scale = gpu_alloc(s->rows * 4),
                                   .second_sum = gpu_alloc(s->rows * 4),
                                   .stride = stride,
                                   .rotation = s->rotation,
                                   .digits = s->digits},
                            .n_rows = n_rows,
                            .n = s->n,
                            .eps = 1e-5f};
    gpu_launch(&sl_gpu_norm, &p, 2, sl_gpu_row_shared(s->n), seed);
    struct norm_result r = {.n_wrong = norm_compare(s, &p, x), .report = gpu_take_report()};
    gpu_free_all();
    return r;
}

#endif
