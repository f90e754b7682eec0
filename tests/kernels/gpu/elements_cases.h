/* Rows element by element on the twin against kernels/ref: one case, for the sound kernels and the broken ones. */
#ifndef SL_TESTS_KERNELS_GPU_ELEMENTS_CASES_H
#define SL_TESTS_KERNELS_GPU_ELEMENTS_CASES_H

#include "kernels/gpu/elements.h"
#include "kernels/isa.h"
#include "tests/check.h"
#include "tests/kernels/draw.h"
#include "tests/kernels/gpu/bits.h"

struct elements_case {
    uint32_t n_rows, n, k; /* of width n; k experts of each */
};
enum { ELEMENTS_VOCAB = 11 };

static float *drawn(size_t n)
{
    float *x = take(n * sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = below(200) == 0 ? (below(2) ? NAN : INFINITY) : 3 * draw_unit();
    return x;
}

static uint64_t wrong_of_embed(const struct elements_case *c, uint32_t bf16, uint64_t seed)
{
    size_t n = (size_t)ELEMENTS_VOCAB * c->n;
    float *table = drawn(n), *want = take((size_t)c->n_rows * c->n * sizeof *want);
    uint16_t *halves = take(n * sizeof *halves);
    uint32_t *ids = take(c->n_rows * sizeof *ids);
    for (size_t i = 0; i < n; i++)
        halves[i] = sl_f32_to_bf16(table[i]);
    for (size_t r = 0; r < c->n_rows; r++) {
        ids[r] = below(ELEMENTS_VOCAB);
        for (size_t i = 0; i < c->n; i++)
            want[r * c->n + i] = bf16 ? sl_bf16_to_f32(halves[ids[r] * c->n + i]) : table[ids[r] * c->n + i];
    }
    struct sl_gpu_embed p = {.embed = bf16 ? on_device(halves, n * 2) : on_device(table, n * 4),
                             .ids = on_device(ids, c->n_rows * sizeof *ids),
                             .rows = unwritten((size_t)c->n_rows * c->n * 4),
                             .d = c->n,
                             .bf16 = bf16};
    gpu_launch(&sl_gpu_embed, &p, c->n_rows, 0, seed);
    uint64_t wrong = differing_bytes(want, p.rows, (size_t)c->n_rows * c->n * 4);
    free(table), free(want), free(halves), free(ids);
    return wrong;
}

/* What the experts add; `routed`, or else a single one of each row. */
static uint64_t wrong_of_combine(const struct elements_case *c, bool routed, uint64_t seed)
{
    uint32_t k = routed ? c->k : 1, n_pairs = c->n_rows * k;
    size_t n = c->n, floats = c->n_rows * n;
    float *want = drawn(floats), *outputs = drawn(n_pairs * n), *gates = drawn(n_pairs);
    uint32_t *pairs = take(n_pairs * sizeof *pairs);
    for (uint32_t i = 0; i < n_pairs; i++)
        pairs[i] = routed ? below(n_pairs) : i;
    struct sl_gpu_combine p = {.y = on_device(want, floats * 4),
                               .outputs = on_device(outputs, n_pairs * n * 4),
                               .pairs = routed ? on_device(pairs, n_pairs * 4) : NULL,
                               .gates = on_device(gates, n_pairs * 4),
                               .n_rows = on_device(&c->n_rows, 4),
                               .n = c->n,
                               .k = k};
    for (size_t r = 0; r < c->n_rows; r++) {
        const float *rows[64];
        for (uint32_t i = 0; i < k; i++)
            rows[i] = outputs + pairs[r * k + i] * n;
        sl_ops_ref.combine(want + r * n, rows, gates + r * k, k, c->n);
    }
    gpu_launch(&sl_gpu_combine, &p, c->n_rows + 3, 0, seed);
    uint64_t wrong = differing_floats(want, p.y, floats);
    free(want), free(outputs), free(gates), free(pairs);
    return wrong;
}

/* As experts/single.c has it. */
static uint64_t wrong_of_sigmoid(const struct elements_case *c, uint64_t seed)
{
    size_t n = c->n;
    float *w = take(n * sizeof *w), *x = take(c->n_rows * n * sizeof *x),
          *want = take(c->n_rows * sizeof *want);
    for (size_t i = 0; i < n; i++)
        w[i] = draw_unit();
    for (size_t r = 0; r < c->n_rows; r++) {
        float gate = 0;
        for (size_t i = 0; i < n; i++) {
            x[r * n + i] = r == 1 && i == 2 ? NAN : draw_unit();
            gate = fmaf(w[i], x[r * n + i], gate);
        }
        want[r] = 1.0f / (1.0f + sl_expf(-gate));
    }
    struct sl_gpu_sigmoid p = {.w = on_device(w, n * 4),
                               .x = on_device(x, c->n_rows * n * 4),
                               .gates = unwritten(c->n_rows * 4),
                               .n_rows = on_device(&c->n_rows, 4),
                               .k = c->n};
    gpu_launch(&sl_gpu_sigmoid, &p, c->n_rows / SL_GPU_SIGMOID_ROWS + 2, SL_GPU_SIGMOID_SHARED, seed);
    uint64_t wrong = differing_floats(want, p.gates, c->n_rows);
    free(w), free(x), free(want);
    return wrong;
}

static uint64_t wrong_of_elements(const struct elements_case *c, uint64_t seed)
{
    uint64_t wrong = wrong_of_embed(c, 0, seed) + wrong_of_embed(c, 1, seed) +
                     wrong_of_combine(c, true, seed) + wrong_of_combine(c, false, seed) +
                     wrong_of_sigmoid(c, seed);
    gpu_free_all();
    return wrong;
}

static inline void check_elements(const struct elements_case *c, uint64_t seed)
{
    uint64_t wrong = wrong_of_elements(c, seed);
    struct gpu_report r = gpu_take_report();
    if (wrong > 0 || gpu_findings(&r) > 0 || r.wavefronts != r.wavefronts_ideal)
        sl_test_fail(__FILE__, __LINE__,
                     "%u rows of %u, %u experts: %llu wrong, %llu wavefronts of %llu, found: %s", c->n_rows,
                     c->n, c->k, (unsigned long long)wrong, (unsigned long long)r.wavefronts,
                     (unsigned long long)r.wavefronts_ideal, r.first);
}

static const struct elements_case elements_cases[] = {{1, 1, 1}, {5, 64, 8}, {33, 700, 2}, {3, 1025, 5}};
enum { ELEMENTS_CASES = sizeof elements_cases / sizeof *elements_cases };

#endif
