/* Products of gpu_cases.h: of experts, each with so many rows, and of dense matrices, by every body that there is. Experts are a few
 * distinct ones again and again; rows of activations, too. What is compared are the first and the last expert's first and last rows. */
#include "bench/gpu_cases.h"
#include "bench/kernel_cases.h"
#include "kernels/gpu/gemm.h"
#include "kernels/gpu/gemm8.h"
#include "kernels/team_ops.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DISTINCT = 4, PERIOD = 31, TOP_K = 8 };

struct product_case {
    const char *name; /* "gate|up" */
    enum sl_dtype dtype;
    uint32_t experts; /* 1: dense */
    uint32_t n, k, rows;
    bool swiglu;
};

static struct { /* of the case that is made: on the host */
    struct product_case p;
    struct sl_panel panel; /* of an expert */
    size_t expert_bytes;
    uint8_t *weights; /* [DISTINCT] */
    float *x;         /* [PERIOD][k] */
    struct sl_rows8 x8;
    uint32_t *tokens, n_tokens; /* of each pair; NULL: itself */
} host;

/* ---- operands ---- */

static uint32_t pairs_of(const struct product_case *p)
{
    return p->experts * p->rows;
}

static void make_host(const struct product_case *p)
{
    size_t stride = sl_rows8_stride(p->k),
           blocks = p->swiglu ? 2 * sl_round_lanes(p->n) : sl_round_lanes(p->n);
    host.p = *p;
    host.panel = (struct sl_panel){.n = (uint32_t)blocks, .k = p->k, .dtype = p->dtype, .digits = 1};
    host.expert_bytes = sl_panel_bytes(p->dtype, (uint32_t)blocks, p->k);
    host.weights = malloc(DISTINCT * host.expert_bytes);
    host.x = malloc(PERIOD * (size_t)p->k * sizeof *host.x);
    host.x8 = (struct sl_rows8){calloc(PERIOD, stride), stride, calloc(PERIOD, 4), calloc(PERIOD, 4)};
    for (uint32_t i = 0; i < DISTINCT; i++)
        sl_bench_random_panel(host.weights + i * host.expert_bytes, p->dtype, (uint32_t)blocks, p->k, 1 + i);
    sl_bench_random_panel((uint8_t *)host.x, SL_F32, PERIOD, p->k, 9);
    for (size_t r = 0; r < PERIOD; r++)
        sl_ops_ref.quantise(host.x + r * p->k, p->k, host.x8.q + r * stride, stride, &host.x8.scale[r],
                            &host.x8.sum[r]);
    host.tokens = NULL;
    host.n_tokens = pairs_of(p);
    if (p->experts == 1 || !p->swiglu)
        return;
    host.n_tokens = pairs_of(p) / TOP_K + 1; /* experts' inputs are tokens', which have several */
    host.tokens = malloc(pairs_of(p) * sizeof *host.tokens);
    for (uint32_t i = 0; i < pairs_of(p); i++)
        host.tokens[i] = (i * 7 + 3) % host.n_tokens;
}

static void free_host(void)
{
    free(host.weights);
    free(host.x);
    free(host.x8.q);
    free(host.x8.scale);
    free(host.x8.sum);
    free(host.tokens);
}

/* Tiles of so many rows, and their number. */
static const struct gemm8_tile *put_tiles(struct sl_bench_gpu *g, uint32_t most, uint32_t *n,
                                          const uint32_t **n_tiles)
{
    const struct product_case *p = &host.p;
    uint32_t each = (p->rows + most - 1) / most;
    struct gemm8_tile *tiles = malloc((size_t)p->experts * each * sizeof *tiles);
    *n = 0;
    for (uint32_t e = 0; e < p->experts; e++)
        for (uint32_t first = 0; first < p->rows; first += most) {
            uint32_t m = p->rows - first < most ? p->rows - first : most;
            tiles[(*n)++] = (struct gemm8_tile){.expert = e, .first = e * p->rows + first, .m = m};
        }
    const struct gemm8_tile *at = sl_bench_gpu_put(g, tiles, *n * sizeof *tiles);
    *n_tiles = sl_bench_gpu_put(g, n, sizeof *n);
    free(tiles);
    return at;
}

/* ---- launches ---- */

static const struct gpu_kernel *kernel_of(const struct product_case *p, enum gemm8_body body,
                                          uint32_t *shared)
{
    *shared = SL_GPU_GEMM_SHARED;
    if (!sl_dtype_is_integer(p->dtype)) {
        const struct gpu_kernel *const kernels[2][2] = {{&sl_gpu_gemm_f32, &sl_gpu_gemm_f32_swiglu},
                                                        {&sl_gpu_gemm_bf16, &sl_gpu_gemm_bf16_swiglu}};
        return body == GEMM8_MMA ? kernels[p->dtype == SL_BF16][p->swiglu] : NULL;
    }
    const struct gpu_kernel *kernel = gemm8_kernel(body, p->dtype, p->swiglu, 1);
    *shared = gemm8_shared(kernel);
    return kernel;
}

static void launch_integers(struct sl_bench_gpu *g, struct sl_bench_launch *l, enum gemm8_body body,
                            void *weights, float *y)
{
    const struct product_case *p = &host.p;
    uint32_t n_tiles, pairs = pairs_of(p);
    struct gemm8_params params = {.expert_stride = host.expert_bytes,
                                  .weights = weights,
                                  .y = y,
                                  .y_stride = (uint64_t)p->n * sizeof(float),
                                  .n_out = p->n};
    gemm8_describe(&params, &host.panel);
    params.x[0] =
        (struct gemm8_rows){sl_bench_gpu_put_often(g, host.x8.q, host.x8.stride, PERIOD, host.n_tokens),
                            sl_bench_gpu_put_often(g, host.x8.scale, 4, PERIOD, host.n_tokens),
                            sl_bench_gpu_put_often(g, host.x8.sum, 4, PERIOD, host.n_tokens)};
    if (host.tokens)
        params.rows = sl_bench_gpu_put(g, host.tokens, pairs * sizeof(uint32_t));
    params.tiles = put_tiles(g, gemm8_tokens(body), &n_tiles, &params.count);
    l->blocks = (size_t)n_tiles * ((params.n_blocks + gemm8_blocks(body) - 1) / gemm8_blocks(body));
    l->pointer = offsetof(struct gemm8_params, weights);
    memcpy(l->params, &params, sizeof params);
}

static void launch_floats(struct sl_bench_gpu *g, struct sl_bench_launch *l, void *weights, float *y)
{
    const struct product_case *p = &host.p;
    const uint32_t each = SL_GPU_GEMM_COLUMNS / SL_LANES;
    uint32_t n_tiles;
    struct sl_gpu_gemm params = {
        .x = sl_bench_gpu_put_often(g, host.x, p->k * sizeof(float), PERIOD, host.n_tokens),
        .x_stride = p->k,
        .weights = weights,
        .expert_stride = host.expert_bytes,
        .k = p->k,
        .n_blocks = host.panel.n / SL_LANES,
        .y = y,
        .y_stride = p->n,
        .n_out = p->n};
    if (host.tokens)
        params.rows = sl_bench_gpu_put(g, host.tokens, pairs_of(p) * sizeof(uint32_t));
    params.tasks = put_tiles(g, SL_GPU_GEMM_ROWS, &n_tiles, &params.count);
    l->blocks = (size_t)n_tiles * ((params.n_blocks + each - 1) / each);
    l->pointer = offsetof(struct sl_gpu_gemm, weights);
    memcpy(l->params, &params, sizeof params);
}

/* ---- what comes of it ---- */

static void by_ref(float *want, uint32_t expert, uint32_t row)
{
    const struct product_case *p = &host.p;
    uint32_t from = row % PERIOD;
    struct sl_panel w = host.panel;
    w.data = host.weights + expert % DISTINCT * host.expert_bytes;
    if (sl_dtype_is_integer(p->dtype))
        (p->swiglu ? sl_ops_ref.gemm8_swiglu : sl_ops_ref.gemm8)(
            &(struct sl_gemm8){
                .x = host.x8, .rows = &from, .m = 1, .w = w, .col_end = p->n, .y = want, .y_stride = p->n},
            NULL);
    else
        (p->swiglu ? sl_ops_ref.gemm_swiglu : sl_ops_ref.gemm)(&(struct sl_gemm){.x = host.x,
                                                                                 .x_stride = p->k,
                                                                                 .rows = &from,
                                                                                 .m = 1,
                                                                                 .w = w,
                                                                                 .col_end = p->n,
                                                                                 .y = want,
                                                                                 .y_stride = p->n},
                                                               NULL);
}

static bool is_equal(struct sl_bench_gpu *g, const struct sl_bench_gpu_case *c)
{
    const struct product_case *p = &host.p;
    float *want = malloc(2 * p->n * sizeof *want), *got = want + p->n;
    bool equal = true;
    for (int i = 0; i < 4; i++) {
        uint32_t expert = i < 2 ? 0 : p->experts - 1, pair = expert * p->rows + (i % 2 ? p->rows - 1 : 0);
        by_ref(want, expert, host.tokens ? host.tokens[pair] : pair);
        sl_bench_gpu_get(g, got, c->out + (size_t)pair * p->n * sizeof *got, p->n * sizeof *got);
        equal = equal && memcmp(got, want, p->n * sizeof *got) == 0;
    }
    free(want);
    return equal;
}

/* ---- the list ---- */

static void make_case(const struct sl_bench_gpu_list *to, const struct product_case *p,
                      struct sl_bench_gpu_case *c, uint32_t body)
{
    struct sl_bench_gpu *g = to->gpu;
    make_host(p);
    uint32_t places = p->experts > 1 ? p->experts : sl_bench_gpu_copies(g, host.expert_bytes);
    void *weights = sl_bench_gpu_put_often(g, host.weights, host.expert_bytes, DISTINCT, places);
    c->out_bytes = (size_t)pairs_of(p) * p->n * sizeof(float);
    c->out = sl_bench_gpu_take(g, c->out_bytes);
    float *y = (float *)(uintptr_t)c->out;
    if (c->integers)
        launch_integers(g, &c->launch, body, weights, y);
    else
        launch_floats(g, &c->launch, weights, y);
    c->launch.copies = p->experts > 1 ? 1 : places;
    c->launch.step = host.expert_bytes;
    c->ops = 2.0 * pairs_of(p) * (p->swiglu ? 2.0 : 1.0) * p->n * p->k;
    c->bytes = (double)host.expert_bytes * p->experts;
    c->is_equal = is_equal;
    sl_bench_gpu_each(to, c);
    free_host();
}

static void add(const struct sl_bench_gpu_list *to, const struct product_case *p)
{
    for (enum gemm8_body body = GEMM8_FEW; body < GEMM8_BODIES; body++) {
        struct sl_bench_gpu_case c = {
            .format = sl_dtype_name(p->dtype), .rows = p->rows, .integers = sl_dtype_is_integer(p->dtype)};
        c.launch.kernel = kernel_of(p, body, &c.launch.shared);
        if (p->experts > 1)
            snprintf(c.shape, sizeof c.shape, "%u experts, %s %ux%u", p->experts, p->name, p->k, p->n);
        else
            snprintf(c.shape, sizeof c.shape, "%s %ux%u", p->name, p->k, p->n);
        if (c.launch.kernel && to->wants(to->arg, &c) && sl_bench_gpu_has(to->gpu, c.launch.kernel))
            make_case(to, p, &c, body);
    }
}

void sl_bench_gpu_products(const struct sl_bench_gpu_list *to)
{
    static const enum sl_dtype formats[] = {SL_I8, SL_I4, SL_I4G16, SL_I3, SL_I2, SL_BF16};
    static const uint32_t of_experts[] = {1, 4, 16, 32, 64, 128, 256}, of_dense[] = {1, 16, 64, 512, 4096};
    const bool twin = to->gpu->twin;
    const uint32_t experts = twin ? 3 : 128, d_model = twin ? 96 : 2048, inner = twin ? 48 : 768,
                   qkv = twin ? 80 : 5120;
    const uint32_t most = twin ? 16 : 4096;
    for (size_t f = 0; f < sizeof formats / sizeof *formats; f++)
        for (size_t r = 0; r < sizeof of_experts / sizeof *of_experts && of_experts[r] <= most; r++) {
            add(to,
                &(struct product_case){"gate|up", formats[f], experts, inner, d_model, of_experts[r], true});
            add(to,
                &(struct product_case){"down", formats[f], experts, d_model, inner, of_experts[r], false});
        }
    for (size_t r = 0; r < sizeof of_dense / sizeof *of_dense && of_dense[r] <= most; r++) {
        add(to, &(struct product_case){"q|k|v", SL_I8, 1, qkv, d_model, of_dense[r], false});
        add(to, &(struct product_case){"q|k|v", SL_BF16, 1, qkv, d_model, of_dense[r], false});
        add(to, &(struct product_case){"router", SL_F32, 1, 128, d_model, of_dense[r], false});
    }
}
