/* Attention over i8 pages and work on rows, as cases of gpu_cases.h. A row of attention is compared behind the kernel that merges what
 * attention leaves; of rows, the first and the last. */
#include "bench/gpu_cases.h"
#include "bench/kernel_cases.h"
#include "kernels/exp.h"
#include "kernels/gpu/attend_cut.h"
#include "kernels/gpu/elements.h"
#include "kernels/gpu/norm.h"
#include "kernels/gpu/quantise.h"
#include "kernels/page.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PERIOD = 31, PAGES = 8, WANTED = 1024, SPARE_SEGMENTS = 16, TOP_K = 8 };
static const float eps = 1e-6f;

static float *random_rows(uint32_t n, uint32_t k)
{
    float *x = malloc((size_t)n * k * sizeof *x);
    sl_bench_random_panel((uint8_t *)x, SL_F32, n, k, 1);
    return x;
}

static void *pointer(sl_cu_at at)
{
    return (void *)(uintptr_t)at;
}

/* ---- attention ---- */

static struct {
    uint32_t n_q, n_kv, d, rows, context, n_slots;
    float *q;        /* [rows][n_q * d] */
    uint8_t *pages;  /* [PAGES]{K|V}: that of a slot and head is any of them */
    uint32_t *slots; /* the sequence's */
    size_t k_bytes, head_bytes;
    sl_cu_at states, mixed;
    struct sl_gpu_cut cut;
    const struct sl_gpu_mix_row *rows_at;
    const uint32_t *n_rows;
} a;

/* Slots and heads have the pages in turn, since the memory repeats them. */
static const uint8_t *page_of(uint32_t slot, uint32_t head)
{
    return a.pages + (slot * a.n_kv + head) % PAGES * a.head_bytes;
}

static void make_attention(uint32_t rows, uint32_t context)
{
    a.rows = rows, a.context = context;
    a.n_slots = (context + SL_PAGE_TOKENS - 1) / SL_PAGE_TOKENS;
    a.k_bytes = (sl_page_k_bytes(SL_I8, a.d) + 63) / 64 * 64;
    a.head_bytes = a.k_bytes + (sl_page_v_bytes(SL_I8, a.d) + 63) / 64 * 64;
    a.q = random_rows(rows, a.n_q * a.d);
    a.pages = calloc(PAGES, a.head_bytes);
    a.slots = malloc(a.n_slots * sizeof *a.slots);
    for (uint32_t i = 0; i < PAGES; i++)
        sl_bench_random_page(a.pages + i * a.head_bytes, a.pages + i * a.head_bytes + a.k_bytes, SL_I8, a.d,
                             1 + i);
    for (uint32_t i = 0; i < a.n_slots; i++)
        a.slots[i] = a.n_slots - 1 - i;
}

static void cut(const struct sl_gpu_cut_config *config)
{
    const struct sl_attention_slice slice = {.n = a.rows, .pos = a.context - a.rows, .pages = a.slots};
    a.cut = (struct sl_gpu_cut){.places = malloc(a.rows * sizeof *a.cut.places),
                                .slots = malloc(a.n_slots * sizeof *a.cut.slots),
                                .items = malloc(sl_gpu_cut_items(config, a.rows, 1) * sizeof *a.cut.items),
                                .rows = malloc(a.rows * sizeof *a.cut.rows),
                                .kept = malloc(a.rows * sizeof *a.cut.kept)};
    sl_gpu_cut_chunk(&a.cut, config, &slice, 1, false);
}

static void free_attention(void)
{
    free(a.q), free(a.pages), free(a.slots);
    free(a.cut.places), free(a.cut.slots), free(a.cut.items), free(a.cut.rows), free(a.cut.kept);
}

static float softmax_scale(void)
{
    return 1.0f / sqrtf((float)a.d);
}

/* Queries as the kernel before leaves them. */
static void put_queries(struct sl_bench_gpu *g, struct sl_gpu_attend8 *p)
{
    const size_t n = (size_t)a.rows * a.n_q, stride = sl_rows8_stride(a.d);
    const float factor = softmax_scale() * SL_EXP_LOG2E_HI;
    int8_t *q = calloc(n, stride);
    float *scale = malloc(n * sizeof *scale), *x = malloc(a.d * sizeof *x);
    int32_t *sum = malloc(n * sizeof *sum);
    for (size_t r = 0; r < n; r++) {
        for (uint32_t i = 0; i < a.d; i++)
            x[i] = a.q[r * a.d + i] * factor;
        sl_ops_ref.quantise(x, a.d, q + r * stride, stride, &scale[r], &sum[r]);
    }
    p->q = sl_bench_gpu_put(g, q, n * stride);
    p->q_scale = sl_bench_gpu_put(g, scale, n * sizeof *scale);
    p->q_sum = sl_bench_gpu_put(g, sum, n * sizeof *sum);
    p->q_stride = (uint32_t)stride;
    free(q), free(scale), free(x), free(sum);
}

static bool attention_is_equal(struct sl_bench_gpu *g, const struct sl_bench_gpu_case *c)
{
    const uint32_t width = a.n_q * a.d;
    const void **k = malloc(2 * a.n_slots * sizeof *k), **v = k + a.n_slots;
    float *want = malloc(2 * width * sizeof *want), *got = want + width;
    void *scratch = malloc(sl_ops_ref.scratch_bytes(a.d));
    struct sl_bench_launch l = {
        .kernel = &sl_gpu_mix, .shared = sl_gpu_row_shared(width), .blocks = a.rows, .copies = 1};
    struct sl_gpu_mix p = {pointer(a.states), a.rows_at, a.n_rows, pointer(a.mixed), {0}, a.n_q, a.d};
    bool equal = true;
    (void)c;
    memcpy(l.params, &p, sizeof p);
    sl_bench_gpu_launch(g, &l);
    for (uint32_t row = 0; row<a.rows; row += a.rows> 1 ? a.rows - 1 : 1) {
        for (uint32_t h = 0; h < a.n_kv; h++) {
            for (uint32_t i = 0; i < a.n_slots; i++) {
                k[i] = page_of(a.slots[i], h);
                v[i] = page_of(a.slots[i], h) + a.k_bytes;
            }
            uint32_t rep = a.n_q / a.n_kv;
            sl_ops_ref.attend8(&(struct sl_attend){.q = a.q + (size_t)row * width + h * rep * a.d,
                                                   .q_stride = width,
                                                   .n_rep = rep,
                                                   .d_head = a.d,
                                                   .n_tok = 1,
                                                   .pos = a.context - a.rows + row,
                                                   .k_pages = k,
                                                   .v_pages = v,
                                                   .kv_dtype = SL_I8,
                                                   .scale = softmax_scale(),
                                                   .out = want + h * rep * a.d,
                                                   .out_stride = width},
                               scratch);
        }
        sl_bench_gpu_get(g, got, a.mixed + (size_t)row * width * sizeof *got, width * sizeof *got);
        equal = equal && memcmp(got, want, width * sizeof *got) == 0;
    }
    free(k), free(want), free(scratch);
    return equal;
}

static void make_attention_case(const struct sl_bench_gpu_list *to, struct sl_bench_gpu_case *c)
{
    struct sl_bench_gpu *g = to->gpu;
    const size_t slot_bytes = a.n_kv * a.head_bytes,
                 kv_bytes = (a.n_slots + PAGES) / PAGES * PAGES * slot_bytes;
    const uint32_t segments = sl_attend_segments(a.context - 1), copies = sl_bench_gpu_copies(g, kv_bytes);
    const struct sl_gpu_cut_config config = {.n_q = a.n_q,
                                             .n_kv = a.n_kv,
                                             .d_head = a.d,
                                             .item_rows = sl_gpu_attend8_rows(a.d),
                                             .wanted = WANTED,
                                             .max_states = (a.rows + SPARE_SEGMENTS * segments) * a.n_q};
    cut(&config);
    c->out_bytes = config.max_states * sl_attend_state_floats(a.d) * sizeof(float);
    c->out = a.states = sl_bench_gpu_take(g, c->out_bytes);
    a.mixed = sl_bench_gpu_take(g, (size_t)a.rows * a.n_q * a.d * sizeof(float));
    a.rows_at = sl_bench_gpu_put(g, a.cut.rows, a.cut.n_rows * sizeof *a.cut.rows);
    a.n_rows = sl_bench_gpu_put(g, &a.cut.n_rows, sizeof a.cut.n_rows);
    struct sl_gpu_attend8 p = {
        .over = {
            .kv = sl_bench_gpu_put_often(g, a.pages, a.head_bytes, PAGES, copies * kv_bytes / a.head_bytes),
            .slots = sl_bench_gpu_put(g, a.cut.slots, a.cut.n_slots * sizeof *a.cut.slots),
            .states = pointer(c->out),
            .items = sl_bench_gpu_put(g, a.cut.items, a.cut.n_items * sizeof *a.cut.items),
            .n_items = sl_bench_gpu_put(g, &a.cut.n_items, sizeof a.cut.n_items),
            .slot_bytes = slot_bytes,
            .head_bytes = a.head_bytes,
            .v_at = a.k_bytes,
            .n_q = a.n_q,
            .n_kv = a.n_kv,
            .d_head = a.d}};
    put_queries(g, &p);
    memcpy(c->launch.params, &p, sizeof p);
    c->launch.blocks = ((size_t)a.cut.n_items * a.n_kv + SL_GPU_ATTEND8_WARPS - 1) / SL_GPU_ATTEND8_WARPS;
    c->launch.pointer = offsetof(struct sl_gpu_attend8, over.kv);
    c->launch.step = kv_bytes;
    c->launch.copies = copies;
    double keys = a.rows * (double)(a.context - a.rows) + a.rows * (a.rows + 1.0) / 2;
    c->ops = 4.0 * a.d * a.n_q * keys;
    c->bytes = (double)(a.n_slots * slot_bytes);
    c->is_equal = attention_is_equal;
    sl_bench_gpu_each(to, c);
}

static void add_attention(const struct sl_bench_gpu_list *to, uint32_t rows, uint32_t context)
{
    struct sl_bench_gpu_case c = {.format = "i8", .rows = rows, .integers = true};
    a.n_q = to->gpu->twin ? 4 : 32;
    a.n_kv = to->gpu->twin ? 2 : 4;
    a.d = to->gpu->twin ? 64 : 128;
    c.launch.kernel = a.d == 64 ? &sl_gpu_attend8_64 : &sl_gpu_attend8_128;
    c.launch.shared = SL_GPU_ATTEND8_SHARED;
    snprintf(c.shape, sizeof c.shape, "%u of %u heads of %u, context %u", a.n_kv, a.n_q, a.d, context);
    if (rows > context || !to->wants(to->arg, &c))
        return;
    make_attention(rows, context);
    make_attention_case(to, &c);
    free_attention();
}

/* ---- rows ---- */

static struct {
    uint32_t rows, n;
    float *x, *gain;                /* [PERIOD][n], [n] */
    struct sl_gpu_row8 to;          /* on the GPU */
    uint32_t pairs[PERIOD * TOP_K]; /* of the rows in turn */
    float gates[PERIOD * TOP_K];
} r;

static void *put_rows(struct sl_bench_gpu *g, const void *from, size_t bytes)
{
    return sl_bench_gpu_put_often(g, from, bytes, PERIOD, r.rows);
}

static void take_rows8(struct sl_bench_gpu *g, struct sl_bench_gpu_case *c)
{
    const size_t stride = sl_rows8_stride(r.n);
    c->out_bytes = r.rows * stride;
    c->out = sl_bench_gpu_take(g, c->out_bytes);
    r.to = (struct sl_gpu_row8){.q = pointer(c->out),
                                .scale = pointer(sl_bench_gpu_take(g, r.rows * 4ul)),
                                .sum = pointer(sl_bench_gpu_take(g, r.rows * 4ul)),
                                .stride = stride,
                                .digits = 1};
}

/* Rows in s8 are those of ref, normalised before where there is a gain. */
static bool rows8_are_equal(struct sl_bench_gpu *g, const struct sl_bench_gpu_case *c)
{
    const size_t stride = r.to.stride;
    int8_t *want = malloc(2 * stride), *got = want + stride;
    float *x = malloc(r.n * sizeof *x);
    bool equal = true;
    (void)c;
    for (uint32_t i = 0; i < 2; i++) {
        uint32_t row = i ? r.rows - 1 : 0;
        float scale, scale_got = 0;
        int32_t sum, sum_got = 0;
        memcpy(x, r.x + (size_t)(row % PERIOD) * r.n, r.n * sizeof *x);
        if (r.gain)
            sl_ops_ref.rmsnorm(x, x, r.gain, r.n, eps);
        memset(want, 0, stride);
        sl_ops_ref.quantise(x, r.n, want, stride, &scale, &sum);
        sl_bench_gpu_get(g, got, (uintptr_t)r.to.q + row * stride, stride);
        sl_bench_gpu_get(g, &scale_got, (uintptr_t)(r.to.scale + row), sizeof scale);
        sl_bench_gpu_get(g, &sum_got, (uintptr_t)(r.to.sum + row), sizeof sum);
        equal =
            equal && memcmp(got, want, stride) == 0 && memcmp(&scale, &scale_got, 4) == 0 && sum == sum_got;
    }
    free(want), free(x);
    return equal;
}

/* Rows of n floats, if anybody wants the case, which has its kernel. */
static bool make_rows(const struct sl_bench_gpu_list *to, struct sl_bench_gpu_case *c, uint32_t n)
{
    if (!to->wants(to->arg, c))
        return false;
    r.rows = c->rows, r.n = n;
    r.x = random_rows(PERIOD, n);
    c->launch.blocks = c->rows;
    c->launch.copies = 1;
    return true;
}

/* To s8, normalised before or not. */
static void add_rows8(const struct sl_bench_gpu_list *to, bool norm, uint32_t rows, uint32_t n)
{
    struct sl_bench_gpu_case c = {.format = "i8", .rows = rows, .is_equal = rows8_are_equal};
    struct sl_bench_gpu *g = to->gpu;
    c.launch.kernel = norm ? &sl_gpu_norm : &sl_gpu_quantise;
    c.launch.shared = sl_gpu_row_shared(n);
    c.bytes = (double)rows * n * 5;
    snprintf(c.shape, sizeof c.shape, "%sto s8, %u", norm ? "norm " : "", n);
    if (!make_rows(to, &c, n))
        return;
    r.gain = norm ? random_rows(1, n) : NULL;
    take_rows8(g, &c);
    const float *x = put_rows(g, r.x, n * sizeof *x);
    const uint32_t *n_rows = sl_bench_gpu_put(g, &rows, sizeof rows);
    if (norm)
        memcpy(c.launch.params,
               &(struct sl_gpu_norm){.x = x,
                                     .gain = sl_bench_gpu_put(g, r.gain, n * sizeof *r.gain),
                                     .to = r.to,
                                     .n_rows = n_rows,
                                     .n = n,
                                     .eps = eps},
               sizeof(struct sl_gpu_norm));
    else
        memcpy(c.launch.params,
               &(struct sl_gpu_quantise){.x = x, .n_rows = n_rows, .to = r.to, .each = 1, .k = n},
               sizeof(struct sl_gpu_quantise));
    sl_bench_gpu_each(to, &c);
    free(r.x), free(r.gain);
}

static bool sums_are_equal(struct sl_bench_gpu *g, const struct sl_bench_gpu_case *c)
{
    float *want = calloc(2 * r.n, sizeof *want), *got = want + r.n;
    bool equal = true;
    for (uint32_t i = 0; i < 2; i++) {
        uint32_t row = i ? r.rows - 1 : 0, from = row % PERIOD;
        const float *rows[TOP_K];
        for (uint32_t k = 0; k < TOP_K; k++)
            rows[k] = r.x + (size_t)(r.pairs[from * TOP_K + k] % PERIOD) * r.n;
        memset(want, 0, r.n * sizeof *want);
        sl_ops_ref.combine(want, rows, r.gates + from * TOP_K, TOP_K, r.n);
        sl_bench_gpu_get(g, got, c->out + (size_t)row * r.n * sizeof *got, r.n * sizeof *got);
        equal = equal && memcmp(got, want, r.n * sizeof *got) == 0;
    }
    free(want);
    return equal;
}

static void add_combine(const struct sl_bench_gpu_list *to, uint32_t rows, uint32_t n)
{
    struct sl_bench_gpu_case c = {.format = "f32", .rows = rows, .adds = true, .is_equal = sums_are_equal};
    struct sl_bench_gpu *g = to->gpu;
    c.launch.kernel = &sl_gpu_combine;
    c.launch.all = true;
    c.bytes = (double)rows * n * 4 * (TOP_K + 2);
    snprintf(c.shape, sizeof c.shape, "sums of %d, %u", TOP_K, n);
    if (!make_rows(to, &c, n))
        return;
    for (uint32_t i = 0; i < PERIOD * TOP_K; i++) {
        r.pairs[i] = (i * 13 + 5) % (rows * TOP_K);
        r.gates[i] = (float)(i % 7) / 8;
    }
    c.out_bytes = (size_t)rows * n * sizeof(float);
    c.out = sl_bench_gpu_take(g, c.out_bytes);
    struct sl_gpu_combine p = {
        .y = pointer(c.out),
        .outputs = sl_bench_gpu_put_often(g, r.x, n * sizeof(float), PERIOD, (size_t)rows * TOP_K),
        .pairs = put_rows(g, r.pairs, TOP_K * sizeof *r.pairs),
        .gates = put_rows(g, r.gates, TOP_K * sizeof *r.gates),
        .n_rows = sl_bench_gpu_put(g, &rows, sizeof rows),
        .n = n,
        .k = TOP_K};
    memcpy(c.launch.params, &p, sizeof p);
    sl_bench_gpu_each(to, &c);
    free(r.x);
}

void sl_bench_gpu_rows(const struct sl_bench_gpu_list *to)
{
    const bool twin = to->gpu->twin;
    static const uint32_t contexts[2][2] = {{4096, 16384}, {70, 200}};
    for (int i = 0; i < 2; i++) {
        add_attention(to, 1, contexts[twin][i]);
        add_attention(to, twin ? 9 : 512, contexts[twin][i]);
    }
    for (int i = 0; i < 2; i++) {
        uint32_t rows = twin ? (i ? 7 : 1) : i ? 4096 : 16, n = twin ? 96 : 2048;
        add_rows8(to, true, rows, n);
        add_rows8(to, false, rows * TOP_K, twin ? 48 : 768);
        add_combine(to, rows, n);
    }
}

void sl_bench_gpu_cases(const struct sl_bench_gpu_list *list)
{
    sl_bench_gpu_products(list);
    sl_bench_gpu_rows(list);
}
