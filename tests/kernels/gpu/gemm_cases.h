/* The product of floats on the twin against kernels/ref: one case, for the sound kernels and the broken ones. */
#ifndef SL_TESTS_KERNELS_GPU_GEMM_CASES_H
#define SL_TESTS_KERNELS_GPU_GEMM_CASES_H

#include "kernels/gpu/gemm.h"
#include "kernels/isa.h"
#include "tests/kernels/draw.h"
#include "tests/kernels/gpu/outcome.h"

/* m rows of each expert, two if `experts`: else one matrix, whose rows the kernel cuts. */
struct gemm_case {
    uint32_t m, k, n; /* n: columns of y */
    bool bf16, swiglu, accumulate, experts, gather, tiny;
};
enum { GEMM_PAD = 3 };

/* Floats, and bf16 of them, with what is no number here and there; `tiny` products are rounded to zeros of either sign. */
static void draw_floats(const struct gemm_case *c, float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = draw_unit() * (c->tiny ? 1e-23f : 1);
    if (below(3) == 0)
        x[below((uint32_t)n)] = below(2) ? draw_nan() : INFINITY;
}

/* Panels of `experts` matrices, one behind the other. Outputs beyond n are zero. */
static void *draw_panels(const struct gemm_case *c, uint32_t outputs, uint32_t experts, size_t *bytes)
{
    enum sl_dtype dtype = c->bf16 ? SL_BF16 : SL_F32;
    *bytes = sl_panel_bytes(dtype, outputs, c->k);
    size_t n = experts * *bytes / sl_dtype_bytes(dtype);
    float *w = take(n * sizeof *w);
    draw_floats(c, w, n);
    if (c->bf16)
        for (size_t i = 0; i < n; i++) {
            uint16_t half = sl_f32_to_bf16(w[i]);
            memcpy((uint8_t *)w + 2 * i, &half, 2);
        }
    return w;
}

struct gemm_operands {
    float *x, *y;
    void *w;
    uint32_t *rows, pairs, outputs, experts;
    size_t x_stride, y_stride, w_bytes;
};

static struct gemm_operands draw_operands(const struct gemm_case *c)
{
    struct gemm_operands o = {.experts = c->experts ? 2 : 1,
                              .outputs = c->swiglu ? 2 * sl_round_lanes(c->n) : c->n,
                              .x_stride = c->k + GEMM_PAD,
                              .y_stride = c->n + 1};
    o.pairs = o.experts * c->m;
    o.x = take(o.pairs * o.x_stride * sizeof *o.x);
    o.y = take(o.pairs * o.y_stride * sizeof *o.y);
    o.rows = take(o.pairs * sizeof *o.rows);
    o.w = draw_panels(c, o.outputs, o.experts, &o.w_bytes);
    draw_floats(c, o.x, o.pairs * o.x_stride);
    draw_floats(c, o.y, o.pairs * o.y_stride);
    for (uint32_t i = 0; i < o.pairs; i++)
        o.rows[i] = below(o.pairs);
    return o;
}

static void gemm_on_host(const struct gemm_case *c, struct gemm_operands *o)
{
    for (size_t e = 0; e < o->experts; e++) {
        size_t first = e * c->m;
        struct sl_panel w = {.data = (uint8_t *)o->w + e * o->w_bytes,
                             .n = o->outputs,
                             .k = c->k,
                             .dtype = c->bf16 ? SL_BF16 : SL_F32};
        struct sl_gemm g = {.x = c->gather ? o->x : o->x + first * o->x_stride,
                            .x_stride = o->x_stride,
                            .rows = c->gather ? o->rows + first : NULL,
                            .m = c->m,
                            .w = w,
                            .col_end = c->n,
                            .y = o->y + first * o->y_stride,
                            .y_stride = o->y_stride,
                            .accumulate = c->accumulate};
        (c->swiglu ? sl_ops_ref.gemm_swiglu : sl_ops_ref.gemm)(&g, NULL);
    }
}

/* Tasks of two heights of each expert. */
static uint32_t gemm_tasks(const struct gemm_case *c, const struct gemm_operands *o, struct gemm8_tile *task)
{
    uint32_t n = 0;
    for (uint32_t e = 0; e < o->experts; e++)
        for (uint32_t row = 0, m; row < c->m; row += m) {
            m = c->m - row < SL_GPU_GEMM_ROWS - n % 3 ? c->m - row : SL_GPU_GEMM_ROWS - n % 3;
            task[n++] = (struct gemm8_tile){e, e * c->m + row, m, 0};
        }
    return n;
}

static struct gpu_outcome gemm_go(const struct gemm_case *c, uint64_t seed)
{
    static const struct gpu_kernel *const kernels[2][2] = {{&sl_gpu_gemm_f32, &sl_gpu_gemm_f32_swiglu},
                                                           {&sl_gpu_gemm_bf16, &sl_gpu_gemm_bf16_swiglu}};
    struct gemm_operands o = draw_operands(c);
    struct gemm8_tile task[64];
    uint32_t n_tasks = gemm_tasks(c, &o, task), count = c->experts ? n_tasks : c->m;
    struct sl_gpu_gemm p = {.x = on_device(o.x, o.pairs * o.x_stride * 4),
                            .x_stride = o.x_stride,
                            .rows = c->gather ? on_device(o.rows, o.pairs * 4) : NULL,
                            .weights = on_device(o.w, o.experts * o.w_bytes),
                            .expert_stride = o.w_bytes,
                            .tasks = c->experts ? on_device(task, n_tasks * sizeof *task) : NULL,
                            .count = on_device(&count, sizeof count),
                            .k = c->k,
                            .n_blocks = sl_round_lanes(o.outputs) / SL_LANES,
                            .y = on_device(o.y, o.pairs * o.y_stride * 4), /* what lies between rows stays */
                            .y_stride = o.y_stride,
                            .n_out = c->n,
                            .accumulate = c->accumulate};
    struct gpu_outcome out = {0};
    gemm_on_host(c, &o);
    run_kernel(&out, kernels[c->bf16][c->swiglu], &p, 1 + (uint32_t)seed % 5, SL_GPU_GEMM_SHARED, seed,
               CONFLICTS_COUNT);
    compare_floats(&out, o.y, p.y, o.pairs * o.y_stride);
    gpu_free_all();
    free(o.x), free(o.y), free(o.rows), free(o.w);
    return out;
}

static const struct gemm_case gemm_cases[] = {
    {.m = 1, .k = 1, .n = 1},
    {.m = 9, .k = 70, .n = 33, .accumulate = true},
    {.m = 67, .k = 100, .n = 40, .bf16 = true, .experts = true, .gather = true},
    {.m = 20, .k = 65, .n = 70, .swiglu = true, .gather = true},
    {.m = 70, .k = 32, .n = 16, .bf16 = true, .swiglu = true, .experts = true},
    {.m = 8, .k = 35, .n = 17, .accumulate = true, .tiny = true},
    {.m = 130, .k = 96, .n = 65},
};
enum { GEMM_CASES = sizeof gemm_cases / sizeof *gemm_cases };

#endif
