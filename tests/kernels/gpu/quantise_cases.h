/* Rows to s8 on the twin against sl_quantise_rows with the reference kernels: one case, for the sound kernel and the broken ones.
 * */
#ifndef SL_TESTS_KERNELS_GPU_QUANTISE_CASES_H
#define SL_TESTS_KERNELS_GPU_QUANTISE_CASES_H

#include "kernels/gpu/quantise.h"
#include "kernels/team_ops.h"
#include "tests/check.h"
#include "tests/kernels/draw.h"
#include "tests/kernels/gpu/bits.h"

struct quantise_case {
    uint32_t k, rotation, digits, interleaved;
};
enum { QUANTISE_ROWS = 6, QUANTISE_PAD = 3 };

/* Rows of every kind: drawn, one large element, nothing, next to nothing, not finite. */
static void draw_rows(float *x, uint32_t width, size_t stride)
{
    for (size_t r = 0; r < QUANTISE_ROWS; r++)
        for (uint32_t i = 0; i < width; i++) {
            float *at = &x[r * stride + i];
            *at = draw_unit() * (r == 1 && i == width / 2 ? 1e6f : r == 3 ? 1e-38f : 1);
            if (r == 2)
                *at = 0;
        }
    x[4 * stride + below(width)] = NAN;
    x[5 * stride + below(width)] = below(2) ? INFINITY : -INFINITY;
}

static struct sl_rows8 rows8(uint32_t k)
{
    size_t stride = sl_rows8_stride(k);
    return (struct sl_rows8){take(QUANTISE_ROWS * stride), stride, take(QUANTISE_ROWS * 4),
                             take(QUANTISE_ROWS * 4)};
}

static struct sl_gpu_rows8 gpu_rows8(uint32_t k)
{
    size_t stride = sl_rows8_stride(k);
    return (struct sl_gpu_rows8){unwritten(QUANTISE_ROWS * stride), stride, unwritten(QUANTISE_ROWS * 4),
                                 unwritten(QUANTISE_ROWS * 4)};
}

static uint64_t differing_rows8(struct sl_rows8 *want, const struct sl_gpu_rows8 *got)
{
    uint64_t wrong = differing_bytes(want->q, got->q, QUANTISE_ROWS * want->stride) +
                     differing_floats(want->scale, got->scale, QUANTISE_ROWS) +
                     differing_bytes(want->sum, got->sum, QUANTISE_ROWS * 4);
    free(want->q), free(want->scale), free(want->sum);
    return wrong;
}

static uint64_t wrong_of_quantise(const struct quantise_case *c, uint64_t seed)
{
    uint32_t width = c->interleaved ? 2 * sl_round_lanes(c->k) : c->k;
    size_t stride = width + QUANTISE_PAD;
    float *x = take(QUANTISE_ROWS * stride * sizeof *x), *temp = take(c->k * sizeof *temp), *rows = x;
    size_t rows_stride = stride;
    struct sl_panel w = {.k = c->k, .dtype = SL_I8, .rotation = c->rotation, .digits = c->digits};
    struct sl_rows8 first = rows8(c->k), second = rows8(c->k);
    draw_rows(x, width, stride);
    if (c->interleaved) {
        rows_stride = c->k;
        rows = take(QUANTISE_ROWS * rows_stride * sizeof *rows);
        for (size_t r = 0; r < QUANTISE_ROWS; r++)
            sl_ops_ref.swiglu(rows + r * rows_stride, x + r * stride, c->k);
    }
    sl_quantise_rows(&sl_ops_ref, &w, rows, rows_stride, &first, &second, 0, QUANTISE_ROWS, temp);
    const uint32_t half = QUANTISE_ROWS / 2;
    struct sl_gpu_quantise p = {.x = on_device(x, QUANTISE_ROWS * stride * sizeof *x),
                                .x_stride = stride,
                                .to = gpu_rows8(c->k),
                                .second = gpu_rows8(c->k),
                                .n_rows = on_device(&half, 4),
                                .each = 2,
                                .k = c->k,
                                .rotation = c->rotation,
                                .digits = c->digits,
                                .interleaved = c->interleaved};
    if (c->digits < 2) /* nobody writes it, and what was taken is as it was */
        memset(p.second.q, 0x5A, QUANTISE_ROWS * p.second.stride),
            memset(p.second.scale, 0x5A, QUANTISE_ROWS * 4), memset(p.second.sum, 0x5A, QUANTISE_ROWS * 4);
    gpu_launch(&sl_gpu_quantise, &p, QUANTISE_ROWS + 3, sl_gpu_quantise_shared(c->k), seed);
    uint64_t wrong = differing_rows8(&first, &p.to) + differing_rows8(&second, &p.second);
    gpu_free_all();
    if (rows != x)
        free(rows);
    free(x), free(temp);
    return wrong;
}

static inline void check_quantise(const struct quantise_case *c, uint64_t seed)
{
    uint64_t wrong = wrong_of_quantise(c, seed);
    struct gpu_report r = gpu_take_report();
    if (wrong > 0 || gpu_findings(&r) > 0 || r.wavefronts != r.wavefronts_ideal)
        sl_test_fail(
            __FILE__, __LINE__,
            "%u inputs, rotation %u, %u digits, interleaved %u: %llu wrong, %llu wavefronts of %llu, found: %s",
            c->k, c->rotation, c->digits, c->interleaved, (unsigned long long)wrong,
            (unsigned long long)r.wavefronts, (unsigned long long)r.wavefronts_ideal, r.first);
}

static const struct quantise_case quantise_cases[] = {
    {1, 0, 1, 0},     {7, 0, 2, 1},    {64, 64, 2, 0},    {300, 4, 2, 0},     {768, 256, 2, 0},
    {768, 256, 1, 1}, {1000, 8, 1, 1}, {2048, 128, 1, 0}, {16640, 256, 2, 0}, {8197, 0, 2, 1},
};
enum { QUANTISE_CASES = sizeof quantise_cases / sizeof *quantise_cases };

#endif
