/* Rows element by element on the twin against kernels/ref: a case of each kernel, for the sound ones and the broken ones. */
#ifndef SL_TESTS_KERNELS_GPU_ELEMENTS_CASES_H
#define SL_TESTS_KERNELS_GPU_ELEMENTS_CASES_H

#include "kernels/gpu/elements.h"
#include "kernels/isa.h"
#include "tests/kernels/draw.h"
#include "tests/kernels/gpu/outcome.h"

struct elements_case {
    uint32_t n_rows, n,
        k;     /* of width n; k experts of each; k = 0: none is chosen, a row has one of its own */
    bool bf16; /* the table of embeddings */
};
enum { ELEMENTS_VOCAB = 11, ELEMENTS_EXPERTS_MOST = 64 };

static inline float *drawn(size_t n)
{
    float *x = take(n * sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = below(200) == 0 ? (below(2) ? draw_nan() : INFINITY) : 3 * draw_unit();
    return x;
}

static inline struct gpu_outcome embed_go(const struct elements_case *c, uint64_t seed)
{
    const size_t n = (size_t)ELEMENTS_VOCAB * c->n, floats = (size_t)c->n_rows * c->n;
    struct gpu_outcome o = {0};
    float *table = drawn(n), *want = take(floats * sizeof *want);
    uint16_t *halves = take(n * sizeof *halves);
    uint32_t *ids = take(c->n_rows * sizeof *ids);
    for (size_t i = 0; i < n; i++)
        halves[i] = sl_f32_to_bf16(table[i]);
    for (size_t r = 0; r < c->n_rows; r++) {
        ids[r] = below(ELEMENTS_VOCAB);
        for (size_t i = 0; i < c->n; i++)
            want[r * c->n + i] =
                c->bf16 ? sl_bf16_to_f32(halves[ids[r] * c->n + i]) : table[ids[r] * c->n + i];
    }
    struct sl_gpu_embed p = {.embed = c->bf16 ? on_device(halves, n * 2) : on_device(table, n * 4),
                             .ids = on_device(ids, c->n_rows * sizeof *ids),
                             .rows = unwritten(floats * 4),
                             .d = c->n,
                             .bf16 = c->bf16};
    run_kernel(&o, &sl_gpu_embed, &p, c->n_rows, 0, seed, CONFLICTS_COUNT);
    compare_things(&o, want, p.rows, floats, sizeof *want); /* copied: NaNs, too */
    gpu_free_all();
    free(table), free(want), free(halves), free(ids);
    return o;
}

/* What the experts add. */
static inline struct gpu_outcome combine_go(const struct elements_case *c, uint64_t seed)
{
    const uint32_t k = c->k ? c->k : 1, n_pairs = c->n_rows * k;
    const size_t n = c->n, floats = c->n_rows * n;
    struct gpu_outcome o = {0};
    float *want = drawn(floats), *outputs = drawn(n_pairs * n), *gates = drawn(n_pairs);
    uint32_t *pairs = take(n_pairs * sizeof *pairs);
    for (uint32_t i = 0; i < n_pairs; i++)
        pairs[i] = c->k ? below(n_pairs) : i;
    struct sl_gpu_combine p = {.y = on_device(want, floats * 4),
                               .outputs = on_device(outputs, n_pairs * n * 4),
                               .pairs = c->k ? on_device(pairs, n_pairs * 4) : NULL,
                               .gates = on_device(gates, n_pairs * 4),
                               .n_rows = on_device(&c->n_rows, 4),
                               .n = c->n,
                               .k = k};
    for (size_t r = 0; r < c->n_rows; r++) {
        const float *rows[ELEMENTS_EXPERTS_MOST];
        for (uint32_t i = 0; i < k; i++)
            rows[i] = outputs + pairs[r * k + i] * n;
        sl_ops_ref.combine(want + r * n, rows, gates + r * k, k, c->n);
    }
    run_kernel(&o, &sl_gpu_combine, &p, c->n_rows + 3, 0, seed, CONFLICTS_COUNT);
    compare_floats(&o, want, p.y, floats);
    gpu_free_all();
    free(want), free(outputs), free(gates), free(pairs);
    return o;
}

/* As experts/single.c has it. */
static inline struct gpu_outcome sigmoid_go(const struct elements_case *c, uint64_t seed)
{
    const size_t n = c->n;
    struct gpu_outcome o = {0};
    float *w = take(n * sizeof *w), *x = take(c->n_rows * n * sizeof *x),
          *want = take(c->n_rows * sizeof *want);
    for (size_t i = 0; i < n; i++)
        w[i] = draw_unit();
    for (size_t r = 0; r < c->n_rows; r++) {
        float gate = 0;
        for (size_t i = 0; i < n; i++) {
            x[r * n + i] = r % 50 == 1 && i == 2 ? draw_nan() : draw_unit();
            gate = fmaf(w[i], x[r * n + i], gate);
        }
        want[r] = 1.0f / (1.0f + sl_expf(-gate));
    }
    struct sl_gpu_sigmoid p = {.w = on_device(w, n * 4),
                               .x = on_device(x, c->n_rows * n * 4),
                               .gates = unwritten(c->n_rows * 4),
                               .n_rows = on_device(&c->n_rows, 4),
                               .k = c->n};
    run_kernel(&o, &sl_gpu_sigmoid, &p, c->n_rows / SL_GPU_SIGMOID_ROWS + 2, SL_GPU_SIGMOID_SHARED, seed,
               CONFLICTS_COUNT);
    compare_floats(&o, want, p.gates, c->n_rows);
    gpu_free_all();
    free(w), free(x), free(want);
    return o;
}

static const struct elements_case elements_cases[] = {
    {1, 1, 1, false}, {5, 64, 8, true}, {33, 700, 2, false}, {3, 1025, 5, true}, {7, 513, 0, false}};
enum { ELEMENTS_CASES = sizeof elements_cases / sizeof *elements_cases };

#endif
