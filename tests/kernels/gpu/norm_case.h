/* Rows through norm on the twin and by kernels/ref: one case. For test_norm.c and test_attend8_mutants.c. */
#ifndef SL_TESTS_KERNELS_GPU_NORM_CASE_H
#define SL_TESTS_KERNELS_GPU_NORM_CASE_H

#ifndef DRAW_SEED
#define DRAW_SEED 20261201
#endif
#include "kernels/gpu/norm.h"
#include "tests/kernels/gpu/row8_case.h"

struct norm_shape {
    uint32_t n, rows, rotation, digits;
    bool floats, no_bytes; /* wanted of it */
    bool odd;              /* NaN, infinities, zeros and tiny numbers among the rows */
};

static inline void norm_draw(const struct norm_shape *s, float *x)
{
    for (uint32_t i = 0; i < s->rows * s->n; i++) {
        uint32_t row = i / s->n;
        x[i] = draw_unit() * (i % 13 == 0 ? 30.0f : 1.0f);
        if (s->odd && row % 2)
            x[i] = row % 8 == 1   ? 0.0f
                   : row % 8 == 3 ? x[i] * 1e-38f
                   : i % 31 == 7  ? (row % 8 == 5 ? INFINITY : draw_nan())
                                  : x[i];
    }
}

static inline struct gpu_outcome norm_go(const struct norm_shape *s, uint64_t seed)
{
    const size_t floats = (size_t)s->rows * s->n;
    struct gpu_outcome o = {0};
    float *x = take(floats * sizeof *x), *gain = take(s->n * sizeof *gain),
          *want = take(floats * sizeof *want);
    norm_draw(s, x);
    for (uint32_t i = 0; i < s->n; i++)
        gain[i] = 1.0f + draw_unit() * 0.5f;
    struct sl_gpu_norm p = {.x = on_device(x, floats * sizeof *x),
                            .gain = on_device(gain, s->n * sizeof *gain),
                            .normed = s->floats ? unwritten(floats * sizeof *x) : NULL,
                            .to = row8_unwritten(s->rows, s->n, s->rotation, s->digits),
                            .n_rows = on_device(&s->rows, sizeof s->rows),
                            .n = s->n,
                            .eps = 1e-5f};
    if (s->no_bytes)
        p.to.q = NULL;
    run_kernel(&o, &sl_gpu_norm, &p, 1 + (uint32_t)seed % 3, sl_gpu_row_shared(s->n), seed, CONFLICTS_COUNT);
    for (size_t r = 0; r < s->rows; r++)
        sl_ops_ref.rmsnorm(want + r * s->n, x + r * s->n, gain, s->n, p.eps);
    if (s->floats)
        compare_floats(&o, want, p.normed, floats);
    if (!s->no_bytes)
        compare_row8(&o, &p.to, want, s->rows, s->n);
    gpu_free_all();
    free(x), free(gain), free(want);
    return o;
}

#endif
