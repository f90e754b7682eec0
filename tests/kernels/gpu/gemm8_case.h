/* One launch of the grouped integer product on the twin beside kernels/ref, for its own tests and for those of its mutants. */
#ifndef SL_TESTS_KERNELS_GPU_GEMM8_CASE_H
#define SL_TESTS_KERNELS_GPU_GEMM8_CASE_H

#include "kernels/gpu/gemm8.h"
#include "kernels/ref/ref.h"
#include "kernels/team_ops.h"
#include "tests/kernels/draw.h"
#include "tests/kernels/gpu/outcome.h"

struct gemm8_case {
    enum sl_dtype dtype;
    enum gemm8_body body;
    bool swiglu, accumulate, dense; /* dense: one expert, a pair is its token, and the kernel cuts them */
    uint32_t digits, n, k, tokens, experts, top_k,
        blocks; /* blocks: that are launched; 0: one to more than tasks */
};

struct gemm8_setting { /* a case's memory, all of it of gpu_alloc but begin and want */
    const struct gemm8_case *c;
    struct sl_panel w; /* of expert 0 */
    size_t expert_bytes;
    struct sl_rows8 x[2];
    uint32_t pairs, *rows, *begin; /* begin[experts + 1]: the pairs of each */
    struct gemm8_tile *tiles;
    uint32_t *count;
    float *y, *want;
    size_t stride, floats;
};

/* Random bits are legal weights; every third block is at an end of its range. Outputs beyond n have S = 0. */
static inline void gemm8_draw_weights(struct gemm8_setting *s)
{
    const struct gemm8_case *c = s->c;
    uint32_t n = c->swiglu ? 2 * sl_round_lanes(c->n) : c->n;
    s->w = (struct sl_panel){.n = n, .k = c->k, .dtype = c->dtype, .digits = c->digits};
    s->expert_bytes = sl_panel_bytes(c->dtype, n, c->k);
    size_t block = sl_quant_block_bytes(c->dtype, c->k), bytes = c->experts * s->expert_bytes;
    uint8_t *at = gpu_alloc(bytes);
    for (size_t i = 0; i < bytes; i++)
        at[i] = i / block % 3 == 1 ? (i / block % 2 ? 0xFF : 0) : (uint8_t)below(256);
    for (size_t i = 0; i < bytes / block * SL_LANES; i++) {
        bool there = i / SL_LANES % (s->expert_bytes / block) * SL_LANES + i % SL_LANES < n;
        float scale = sl_round_up12((float)(1 + below(4000)) * 1e-6f);
        ((float *)(void *)(at + i / SL_LANES * block))[i % SL_LANES] = there ? scale : 0.0f;
    }
    s->w.data = at;
}

/* Rows of floats as the tree quantises them; one has a NaN, one is all zeros. */
static inline void gemm8_draw_rows(struct gemm8_setting *s)
{
    const struct gemm8_case *c = s->c;
    size_t stride = sl_rows8_stride(c->k);
    float *x = malloc((size_t)c->tokens * c->k * sizeof *x), *temp = malloc(c->k * sizeof *temp);
    for (int digit = 0; digit < 2; digit++)
        s->x[digit] = (struct sl_rows8){gpu_alloc(c->tokens * stride), stride, gpu_alloc(c->tokens * 4),
                                        gpu_alloc(c->tokens * 4)};
    for (size_t i = 0; i < (size_t)c->tokens * c->k; i++) {
        uint32_t token = (uint32_t)(i / c->k);
        x[i] = draw_unit() * (below(7) == 0 ? 50.0f : 4.0f);
        x[i] = token == 3 && i % c->k == c->k / 2 ? NAN : token == 4 ? 0.0f : x[i];
    }
    sl_quantise_rows(&sl_ops_ref, &s->w, x, c->k, &s->x[0], &s->x[1], 0, c->tokens, temp);
    free(x);
    free(temp);
}

/* Pairs shared out among the experts unevenly, some with none; tiles of them. */
static inline void gemm8_draw_pairs(struct gemm8_setting *s)
{
    const struct gemm8_case *c = s->c;
    s->pairs = c->tokens * c->top_k;
    s->rows = gpu_alloc(s->pairs * 4);
    s->begin = calloc(c->experts + 1, sizeof *s->begin);
    for (uint32_t i = 0; i < s->pairs; i++)
        s->rows[i] = below(c->tokens);
    for (uint32_t e = 1; e <= c->experts; e++) {
        uint32_t left = s->pairs - s->begin[e - 1], n = below(2 * s->pairs / c->experts + 1);
        s->begin[e] = e == c->experts || n > left ? s->pairs : s->begin[e - 1] + n;
    }
    const uint32_t most = gemm8_tokens(c->body);
    s->tiles = gpu_alloc((s->pairs / most + c->experts) * sizeof *s->tiles);
    s->count = gpu_alloc(4);
    *s->count = 0;
    for (uint32_t e = 0; e < c->experts; e++)
        for (uint32_t first = s->begin[e]; first < s->begin[e + 1]; first += most) {
            uint32_t left = s->begin[e + 1] - first;
            s->tiles[(*s->count)++] = (struct gemm8_tile){e, first, left < most ? left : most, 0};
        }
}

static inline void gemm8_draw_y(struct gemm8_setting *s)
{
    const struct gemm8_case *c = s->c;
    s->stride = c->n + below(4);
    s->floats = s->pairs * s->stride;
    s->want = malloc(s->floats * 4);
    for (size_t i = 0; c->accumulate && i < s->floats; i++)
        s->want[i] = (float)below(1000) * 0.25f;
    s->y = c->accumulate ? on_device(s->want, s->floats * 4) : unwritten(s->floats * 4);
    memcpy(s->want, s->y, s->floats * 4);
}

static inline void gemm8_run_twin(struct gemm8_setting *s, struct gpu_outcome *o, uint64_t seed)
{
    const struct gemm8_case *c = s->c;
    struct gemm8_params p = {
        .rows = c->dense ? NULL : s->rows,
        .weights = s->w.data,
        .expert_stride = s->expert_bytes,
        .tiles = c->dense ? NULL : s->tiles,
        .count = s->count,
        .y = s->y,
        .y_stride = s->stride * 4,
        .n_out = c->n,
        .accumulate = c->accumulate,
    };
    for (int digit = 0; digit < 2; digit++)
        p.x[digit] = (struct gemm8_rows){s->x[digit].q, s->x[digit].scale, s->x[digit].sum};
    gemm8_describe(&p, &s->w);
    const struct gpu_kernel *kernel = gemm8_kernel(c->body, c->dtype, c->swiglu, c->digits);
    const uint32_t blocks = gemm8_blocks(c->body);
    uint32_t tasks = *s->count * ((p.n_blocks + blocks - 1) / blocks);
    if (c->dense)
        *s->count = s->pairs;
    run_kernel(o, kernel, &p, c->blocks ? c->blocks : 1 + below(tasks + 2), gemm8_shared(kernel), seed,
               CONFLICTS_COUNT);
}

/* One expert's pairs: two digits are two products, the second onto the first, and SwiGLU behind both. */
static inline void gemm8_run_ref(struct gemm8_setting *s, uint32_t expert)
{
    const struct gemm8_case *c = s->c;
    uint32_t first = s->begin[expert], m = s->begin[expert + 1] - first;
    float *wide = malloc(((size_t)m * s->w.n + 1) * sizeof *wide), *y = s->want + first * s->stride;
    bool by_wide = c->swiglu && c->digits == 2;
    struct sl_gemm8 g = {.w = s->w, .m = m, .col_end = by_wide ? s->w.n : c->n, .accumulate = c->accumulate};
    g.w.data = (const uint8_t *)s->w.data + expert * s->expert_bytes;
    g.rows = c->dense ? NULL : s->rows + first;
    g.y = by_wide ? wide : y;
    g.y_stride = by_wide ? s->w.n : s->stride;
    for (uint32_t digit = 0; digit < c->digits; digit++) {
        g.x = s->x[digit];
        g.accumulate = digit > 0 || c->accumulate;
        (c->swiglu && !by_wide ? sl_ref_gemm8_swiglu : sl_ref_gemm8)(&g, NULL);
    }
    for (uint32_t i = 0; by_wide && i < m; i++)
        sl_ops_ref.swiglu(y + i * s->stride, wide + (size_t)i * s->w.n, c->n);
    free(wide);
}

/* Outputs are all floats of y, those between rows, too. */
static inline struct gpu_outcome gemm8_go(const struct gemm8_case *c, uint64_t seed)
{
    struct gemm8_setting s = {.c = c};
    struct gpu_outcome o = {0};
    gemm8_draw_weights(&s);
    gemm8_draw_rows(&s);
    gemm8_draw_pairs(&s);
    gemm8_draw_y(&s);
    gemm8_run_twin(&s, &o, seed);
    for (uint32_t e = 0; e < c->experts; e++)
        gemm8_run_ref(&s, e);
    compare_floats(&o, s.want, s.y, s.floats);
    free(s.want);
    free(s.begin);
    gpu_free_all();
    return o;
}

#endif
