/* Rows to s8 on the twin against sl_quantise_rows: one case. */
#ifndef SL_TESTS_KERNELS_GPU_QUANTISE_CASES_H
#define SL_TESTS_KERNELS_GPU_QUANTISE_CASES_H

#include "kernels/gpu/quantise.h"
#include "tests/kernels/gpu/row8_case.h"

struct quantise_case {
    uint32_t rows, k, rotation, digits;
};

/* Rows of every kind: one large element, nothing, next to nothing, not finite; most are just drawn. */
static inline void draw_rows(const struct quantise_case *c, float *x)
{
    for (uint32_t r = 0; r < c->rows; r++, x += c->k) {
        const uint32_t kind = r < 6 ? r : below(12), odd = below(c->k);
        for (uint32_t i = 0; i < c->k; i++)
            x[i] = kind == 2 ? 0.0f : draw_unit() * (kind == 3 ? 1e-38f : 1.0f);
        x[odd] = kind == 1   ? 1e6f
                 : kind == 4 ? draw_nan()
                 : kind == 5 ? (below(2) ? INFINITY : -INFINITY)
                             : x[odd];
    }
}

static inline struct gpu_outcome quantise_go(const struct quantise_case *c, uint64_t seed)
{
    const size_t floats = (size_t)c->rows * c->k;
    struct gpu_outcome o = {0};
    const uint32_t each = c->rows % 2 == 0 ? 2 : 1, n_rows = c->rows / each;
    float *x = take(floats * sizeof *x);
    draw_rows(c, x);
    struct sl_gpu_quantise p = {.x = on_device(x, floats * sizeof *x),
                                .n_rows = on_device(&n_rows, sizeof n_rows),
                                .to = row8_unwritten(c->rows, c->k, c->rotation, c->digits),
                                .each = each,
                                .k = c->k};
    const uint32_t blocks = seed % 3 == 0 ? 1 + c->rows / 2 : c->rows + 3;
    run_kernel(&o, &sl_gpu_quantise, &p, blocks, sl_gpu_row_shared(c->k), seed, CONFLICTS_COUNT);
    compare_row8(&o, &p.to, x, c->rows, c->k);
    gpu_free_all();
    free(x);
    return o;
}

static inline void check_quantise(const struct quantise_case *c, const struct gpu_outcome *o)
{
    expect_sound(o, "%u rows of %u inputs, rotation %u, %u digits", c->rows, c->k, c->rotation, c->digits);
}

#endif
