/* The cases of kernel_cases.h: products of experts, plain products, attention, and work on rows.
 *
 * All panels and pages lie in one block of memory which is made anew when the next case wants
 * another format. */
#include "bench/kernel_cases.h"
#include "base/arena.h"
#include "base/rng.h"
#include "kernels/team_ops.h"
#include "pipeline/record/order.h"
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    MODEL = 2048,
    INNER = 768, /* of Qwen3-30B-A3B: an expert */
    QKV = 5120,  /* its projection q|k|v */
    HEADS = 8,
    D_HEAD = 128,             /* heads that share keys, and their width */
    MEMORY_BYTES = 160 << 20, /* five times the last-level cache of the machine at hand */
    ROWS_MAX = 512,
    CHUNK = 64,   /* tokens of an attention case that is not decode */
    REF_ROWS = 2, /* the reference is a hundred times slower */
    X_FLOATS = ROWS_MAX * MODEL
};

static struct {
    struct sl_arena arena;
    uint8_t *memory;
    float *x, *hidden, *out; /* hidden, out: of every thread */
    struct sl_rows8 x8, hidden8;
    uint32_t n_threads;
    enum sl_dtype made; /* what memory holds: panels or pages of this format */
    uint32_t made_n, made_k;
    bool made_pages;
    const void **k_pages, **v_pages;
} operands;

/* ---- operands ---- */

static void random_bytes(uint8_t *to, size_t bytes, uint64_t seed)
{
    for (size_t i = 0; i < bytes; i += 8) {
        uint64_t word = sl_rng_at(seed, i);
        memcpy(to + i, &word, bytes - i < 8 ? bytes - i : 8);
    }
}

/* Small values of both signs: sums stay far from overflow, products far from denormals. */
static void random_floats(void *to, enum sl_dtype dtype, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float value = (float)(2.0 * sl_rng_unit(sl_rng_at(2, i)) - 1.0) / 16;
        if (dtype == SL_F32)
            ((float *)to)[i] = value;
        else
            ((uint16_t *)to)[i] = sl_f32_to_bf16(value);
    }
}

/* Every q is allowed in every format but the zero of i8, which would be -128; every scale but zero.
 */
void sl_bench_random_panel(uint8_t *to, enum sl_dtype dtype, uint32_t n, uint32_t k, uint64_t seed)
{
    if (!sl_dtype_is_integer(dtype)) {
        random_floats(to, dtype, (size_t)n * k);
        return;
    }
    size_t block_bytes = sl_quant_block_bytes(dtype, k), scale_bytes = sl_quant_scale_bytes(dtype, k);
    random_bytes(to, n / SL_LANES * block_bytes, seed);
    for (uint8_t *block = to; block < to + n / SL_LANES * block_bytes; block += block_bytes) {
        for (uint32_t c = 0; c < SL_LANES; c++)
            memcpy(block + 4 * c, &(float){0x1p-12f}, 4);
        for (size_t i = 64; i < 64 + scale_bytes; i++)
            block[i] |= 0x11;
        for (size_t i = 64; dtype == SL_I8 && i < block_bytes; i++)
            block[i] |= 1;
    }
}

static size_t expert_bytes(const struct sl_bench_case *c)
{
    return sl_panel_bytes(c->dtype, 2 * c->n, c->k) + sl_panel_bytes(c->dtype, c->k, c->n);
}

static bool holds(const struct sl_bench_case *c, bool pages)
{
    bool same = operands.made_k == c->k && operands.made_n == c->n && operands.made == c->dtype &&
                operands.made_pages == pages;
    operands.made_k = c->k;
    operands.made_n = c->n;
    operands.made = c->dtype;
    operands.made_pages = pages;
    return same;
}

/* One expert, and copies of it: what is in them does not matter, that they are many does. */
static void make_experts(const struct sl_bench_case *c)
{
    size_t bytes = expert_bytes(c);
    if (holds(c, false))
        return;
    sl_bench_random_panel(operands.memory, c->dtype, 2 * c->n, c->k, 1);
    sl_bench_random_panel(operands.memory + sl_panel_bytes(c->dtype, 2 * c->n, c->k), c->dtype, c->k, c->n,
                          1);
    for (size_t at = bytes; at + bytes <= MEMORY_BYTES; at += bytes)
        memcpy(operands.memory + at, operands.memory, bytes);
}

static void make_panel(const struct sl_bench_case *c)
{
    if (!holds(c, false))
        sl_bench_random_panel(operands.memory, c->dtype, c->n, c->k, 1);
}

static size_t page_bytes(enum sl_dtype dtype)
{
    return sl_page_k_bytes(dtype, D_HEAD) + sl_page_v_bytes(dtype, D_HEAD);
}

void sl_bench_random_page(uint8_t *k, uint8_t *v, enum sl_dtype dtype, uint32_t d_head, uint64_t seed)
{
    sl_bench_random_panel(k, dtype, SL_PAGE_TOKENS, d_head, seed);
    if (dtype != SL_I8) {
        random_floats(v, dtype, (size_t)SL_PAGE_TOKENS * d_head);
        return;
    }
    random_bytes(v, sl_page8_scales_at(d_head), seed + 2);
    float *scales = (float *)(void *)(v + sl_page8_scales_at(d_head));
    for (uint32_t i = 0; i < SL_PAGE_TOKENS; i++)
        scales[i] = 0x1p-8f;
}

static void make_pages(const struct sl_bench_case *c)
{
    size_t k_bytes = sl_page_k_bytes(c->dtype, D_HEAD), bytes = page_bytes(c->dtype);
    if (holds(c, true))
        return;
    uint8_t *page = operands.memory;
    sl_bench_random_page(page, page + k_bytes, c->dtype, D_HEAD, 1);
    for (size_t p = 0; (p + 1) * bytes <= MEMORY_BYTES; p++) {
        if (p > 0)
            memcpy(operands.memory + p * bytes, page, bytes);
        operands.k_pages[p] = operands.memory + p * bytes;
        operands.v_pages[p] = operands.memory + p * bytes + k_bytes;
    }
}

static void make_nothing(const struct sl_bench_case *c)
{
    (void)c;
}

size_t sl_bench_scratch_bytes(void)
{
    uint32_t n;
    return sl_ops_available(&n)[0]->scratch_bytes(MODEL); /* every table answers with the largest of all */
}

sl_status sl_bench_operands_init(uint32_t n_threads, struct sl_err *err)
{
    size_t stride = sl_rows8_stride(MODEL), page_pointers = MEMORY_BYTES / page_bytes(SL_I8) * sizeof(void *);
    size_t row_bytes = ROWS_MAX * (stride + sizeof(float) + sizeof(int32_t)),
           floats = X_FLOATS * sizeof(float);
    memset(&operands, 0, sizeof operands);
    operands.made = SL_DTYPES;
    operands.n_threads = n_threads;
    SL_TRY(sl_arena_init(&operands.arena,
                         MEMORY_BYTES + floats + 2 * page_pointers + 4096 +
                             (n_threads + 1) * (row_bytes + 4096) + 2 * n_threads * floats,
                         err));
    struct sl_arena *a = &operands.arena;
    operands.memory = sl_arena_take(a, MEMORY_BYTES);
    operands.k_pages = sl_arena_take(a, page_pointers);
    operands.v_pages = sl_arena_take(a, page_pointers);
    operands.x = sl_arena_take(a, floats);
    operands.hidden = sl_arena_take(a, n_threads * floats);
    operands.out = sl_arena_take(a, n_threads * floats);
    struct sl_rows8 *rows[] = {&operands.x8, &operands.hidden8};
    for (uint32_t i = 0; i < 2; i++) {
        size_t n = i == 0 ? ROWS_MAX : (size_t)ROWS_MAX * n_threads;
        *rows[i] =
            (struct sl_rows8){sl_arena_take(a, n * stride), stride, sl_arena_take(a, n * sizeof(float)),
                              sl_arena_take(a, n * sizeof(int32_t))};
        assert(rows[i]->sum);
    }
    assert(operands.out);
    memset(operands.memory, 1, MEMORY_BYTES); /* pages that were never written are all one page */
    for (size_t i = 0; i < X_FLOATS; i++)
        operands.x[i] = (float)(2.0 * sl_rng_unit(sl_rng_at(4, i)) - 1.0);
    for (size_t r = 0; r < ROWS_MAX; r++)
        sl_ops_ref.quantise(operands.x + r * MODEL, MODEL, operands.x8.q + r * stride, stride,
                            &operands.x8.scale[r], &operands.x8.sum[r]);
    return SL_OK;
}

void sl_bench_operands_fini(void)
{
    sl_arena_fini(&operands.arena);
}

const void *sl_bench_memory(size_t *bytes)
{
    *bytes = MEMORY_BYTES;
    return operands.memory;
}

struct sl_bench_lane sl_bench_lane(uint32_t member, void *scratch)
{
    size_t row = (size_t)member * ROWS_MAX, at = (size_t)member * X_FLOATS;
    const struct sl_rows8 *h = &operands.hidden8;
    return (struct sl_bench_lane){member,
                                  scratch,
                                  operands.hidden + at,
                                  operands.out + at,
                                  {h->q + row * h->stride, h->stride, h->scale + row, h->sum + row}};
}

/* ---- runs ---- */

/* Threads begin at different experts, as the members of a team do, and each ends at the last; one
 * thread: in order. */
static uint32_t turn(const struct sl_bench_case *c, uint32_t i, uint32_t member)
{
    return c->first + (i + member * (c->n_rounds / 2 + 1)) % (c->n_rounds - c->first);
}

static void expert_floats(const struct sl_bench_case *c, const uint8_t *w, const struct sl_ops *ops,
                          const struct sl_bench_lane *lane)
{
    struct sl_panel gate_up = {w, 2 * c->n, c->k, c->dtype, 0, 0};
    struct sl_panel down = {w + sl_panel_bytes(c->dtype, 2 * c->n, c->k), c->k, c->n, c->dtype, 0, 0};
    ops->gemm_swiglu(&(struct sl_gemm){.x = operands.x,
                                       .x_stride = c->k,
                                       .m = c->rows,
                                       .w = gate_up,
                                       .col_end = c->n,
                                       .y = lane->hidden,
                                       .y_stride = c->n},
                     lane->scratch);
    ops->gemm(&(struct sl_gemm){.x = lane->hidden,
                                .x_stride = c->n,
                                .m = c->rows,
                                .w = down,
                                .col_end = c->k,
                                .y = lane->out,
                                .y_stride = c->k},
              lane->scratch);
}

static void expert_integers(const struct sl_bench_case *c, const uint8_t *w, const struct sl_ops *ops,
                            const struct sl_bench_lane *lane)
{
    struct sl_panel gate_up = {w, 2 * c->n, c->k, c->dtype, 0, 0};
    struct sl_panel down = {w + sl_panel_bytes(c->dtype, 2 * c->n, c->k), c->k, c->n, c->dtype, 0, 0};
    struct sl_rows8 hidden8 = lane->hidden8;
    hidden8.stride = sl_rows8_stride(c->n);
    ops->gemm8_swiglu(&(struct sl_gemm8){.x = operands.x8,
                                         .m = c->rows,
                                         .w = gate_up,
                                         .col_end = c->n,
                                         .y = lane->hidden,
                                         .y_stride = c->n},
                      lane->scratch);
    sl_quantise_rows(ops, &down, lane->hidden, c->n, &hidden8, NULL, 0, c->rows, lane->scratch);
    ops->gemm8(
        &(struct sl_gemm8){
            .x = hidden8, .m = c->rows, .w = down, .col_end = c->k, .y = lane->out, .y_stride = c->k},
        lane->scratch);
}

static void run_expert(const struct sl_bench_case *c, const struct sl_ops *ops,
                       const struct sl_bench_lane *lane)
{
    for (uint32_t i = c->first; i < c->n_rounds; i++) {
        const uint8_t *w = operands.memory + turn(c, i - c->first, lane->member) * expert_bytes(c);
        (sl_dtype_is_integer(c->dtype) ? expert_integers : expert_floats)(c, w, ops, lane);
    }
}

static void run_gemm(const struct sl_bench_case *c, const struct sl_ops *ops,
                     const struct sl_bench_lane *lane)
{
    struct sl_panel w = {operands.memory, c->n, c->k, c->dtype, 0, 0};
    if (sl_dtype_is_integer(c->dtype))
        ops->gemm8(
            &(struct sl_gemm8){
                .x = operands.x8, .m = c->rows, .w = w, .col_end = c->n, .y = lane->out, .y_stride = c->n},
            lane->scratch);
    else
        ops->gemm(&(struct sl_gemm){.x = operands.x,
                                    .x_stride = c->k,
                                    .m = c->rows,
                                    .w = w,
                                    .col_end = c->n,
                                    .y = lane->out,
                                    .y_stride = c->n},
                  lane->scratch);
}

static void run_attend(const struct sl_bench_case *c, const struct sl_ops *ops,
                       const struct sl_bench_lane *lane)
{
    uint32_t pages = sl_pages_of(c->context), width = HEADS * D_HEAD;
    for (uint32_t i = c->first; i < c->n_rounds; i++) {
        uint32_t head = turn(c, i - c->first, lane->member);
        struct sl_attend a = {.q = operands.x,
                              .q_stride = width,
                              .n_rep = HEADS,
                              .d_head = D_HEAD,
                              .n_tok = c->rows,
                              .pos = c->context - c->k, /* k: tokens of the whole case */
                              .k_pages = operands.k_pages + (size_t)head * pages,
                              .v_pages = operands.v_pages + (size_t)head * pages,
                              .kv_dtype = c->dtype,
                              .scale = 0.0883883476f /* 1 / sqrt(128) */,
                              .out = lane->out,
                              .out_stride = width};
        (c->dtype == SL_I8 ? ops->attend8 : ops->attend)(&a, lane->scratch);
    }
}

static void run_quantise(const struct sl_bench_case *c, const struct sl_ops *ops,
                         const struct sl_bench_lane *lane)
{
    const struct sl_rows8 *to = &lane->hidden8;
    for (size_t r = 0; r < c->rows; r++)
        ops->quantise(operands.x + r * c->k, c->k, to->q + r * to->stride, to->stride, &to->scale[r],
                      &to->sum[r]);
    memcpy(lane->out, to->q, c->k);
}

static void run_rotate(const struct sl_bench_case *c, const struct sl_ops *ops,
                       const struct sl_bench_lane *lane)
{
    memcpy(lane->out, operands.x, c->k * sizeof(float));
    ops->rotate(lane->out, c->k, c->n);
}

static void run_rmsnorm(const struct sl_bench_case *c, const struct sl_ops *ops,
                        const struct sl_bench_lane *lane)
{
    ops->rmsnorm(lane->out, operands.x, operands.x + c->k, c->k, 1e-6f);
}

static void run_softmax(const struct sl_bench_case *c, const struct sl_ops *ops,
                        const struct sl_bench_lane *lane)
{
    memcpy(lane->out, operands.x, c->k * sizeof(float));
    ops->softmax(lane->out, c->k);
}

static void run_rope(const struct sl_bench_case *c, const struct sl_ops *ops,
                     const struct sl_bench_lane *lane)
{
    memcpy(lane->out, operands.x, c->k * sizeof(float));
    ops->rope(lane->out, operands.x + c->k, operands.x + 2 * c->k, c->k / 2);
}

static void run_combine(const struct sl_bench_case *c, const struct sl_ops *ops,
                        const struct sl_bench_lane *lane)
{
    const float *rows[8];
    for (uint32_t i = 0; i < 8; i++)
        rows[i] = operands.x + (i + 1) * c->k;
    memset(lane->out, 0, c->k * sizeof(float));
    ops->combine(lane->out, rows, operands.x, 8, c->k);
}

/* ---- the list ---- */

struct list {
    void (*each)(void *arg, const struct sl_bench_case *c);
    void *arg;
};

static enum sl_peak peak_of(enum sl_dtype dtype)
{
    return sl_dtype_is_integer(dtype) ? SL_PEAK_INT8 : SL_PEAK_F32;
}

static uint32_t at_most(uint32_t n, uint32_t most)
{
    return n < most ? n : most;
}

static void add_expert(const struct list *to, enum sl_dtype dtype, uint32_t rows, bool memory)
{
    bool integer = sl_dtype_is_integer(dtype);
    struct sl_bench_case c = {.kernel = "expert",
                              .format = sl_dtype_name(dtype),
                              .rows = rows,
                              .dtype = dtype,
                              .peak = peak_of(dtype),
                              .prepare = make_experts,
                              .run = run_expert,
                              .op = integer ? offsetof(struct sl_ops, gemm8) : offsetof(struct sl_ops, gemm),
                              .row_floats = MODEL,
                              .ref_rows = at_most(rows, REF_ROWS),
                              .k = MODEL,
                              .n = INNER};
    c.n_rounds = memory ? (uint32_t)(MEMORY_BYTES / expert_bytes(&c)) : 1;
    c.ops = 6.0 * MODEL * INNER * rows * c.n_rounds;
    c.bytes = (double)expert_bytes(&c) * c.n_rounds;
    snprintf(c.shape, sizeof c.shape, "%ux%u%s", MODEL, INNER, memory ? " memory" : "");
    to->each(to->arg, &c);
}

static void add_gemm(const struct list *to, enum sl_dtype dtype, uint32_t n, uint32_t rows)
{
    struct sl_bench_case c = {.kernel = "gemm",
                              .format = sl_dtype_name(dtype),
                              .rows = rows,
                              .dtype = dtype,
                              .peak = peak_of(dtype),
                              .prepare = make_panel,
                              .run = run_gemm,
                              .op = sl_dtype_is_integer(dtype) ? offsetof(struct sl_ops, gemm8)
                                                               : offsetof(struct sl_ops, gemm),
                              .row_floats = n,
                              .ref_rows = at_most(rows, REF_ROWS),
                              .k = MODEL,
                              .n = n,
                              .n_rounds = 1,
                              .ops = 2.0 * MODEL * n * rows,
                              .bytes = (double)sl_panel_bytes(dtype, n, MODEL)};
    snprintf(c.shape, sizeof c.shape, "%ux%u", MODEL, n);
    to->each(to->arg, &c);
}

static void add_attend(const struct list *to, enum sl_dtype dtype, uint32_t context, uint32_t rows)
{
    double pages = sl_pages_of(context), keys = 0;
    struct sl_bench_case c = {.kernel = dtype == SL_I8 ? "attend8" : "attend",
                              .format = sl_dtype_name(dtype),
                              .rows = rows,
                              .dtype = dtype,
                              .peak = peak_of(dtype),
                              .prepare = make_pages,
                              .run = run_attend,
                              .op = dtype == SL_I8 ? offsetof(struct sl_ops, attend8)
                                                   : offsetof(struct sl_ops, attend),
                              .row_floats = HEADS * D_HEAD,
                              .ref_rows = 1,
                              .k = rows,
                              .context = context};
    double head_bytes = pages * (double)page_bytes(dtype);
    c.n_rounds = rows == 1 ? (uint32_t)(MEMORY_BYTES / head_bytes) : 1;
    for (uint32_t t = 0; t < rows; t++)
        keys += context - rows + t + 1;
    c.ops = 4.0 * HEADS * D_HEAD * keys * c.n_rounds;
    c.bytes = head_bytes * c.n_rounds;
    snprintf(c.shape, sizeof c.shape, "%ux%u, %u keys%s", HEADS, D_HEAD, context, rows == 1 ? " memory" : "");
    to->each(to->arg, &c);
}

static void add_rows(const struct list *to)
{
    static const struct {
        const char *kernel, *shape;
        size_t op;
        uint32_t k, n, out_divisor;
        double ops; /* an element */
        void (*run)(const struct sl_bench_case *, const struct sl_ops *, const struct sl_bench_lane *);
    } kinds[] = {
        {"quantise", "row of 2048", offsetof(struct sl_ops, quantise), MODEL, 0, 4, 4, run_quantise},
        {"rotate", "2048 by 128", offsetof(struct sl_ops, rotate), MODEL, 128, 1, 7, run_rotate},
        {"rmsnorm", "row of 2048", offsetof(struct sl_ops, rmsnorm), MODEL, 0, 1, 4, run_rmsnorm},
        {"softmax", "row of 128", offsetof(struct sl_ops, softmax), 128, 0, 1, 20, run_softmax},
        {"rope", "64 pairs", offsetof(struct sl_ops, rope), 128, 0, 1, 3, run_rope},
        {"combine", "8 rows of 2048", offsetof(struct sl_ops, combine), MODEL, 0, 1, 16, run_combine},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        struct sl_bench_case c = {.kernel = kinds[i].kernel,
                                  .format = "f32",
                                  .rows = 1,
                                  .dtype = SL_F32,
                                  .ops = kinds[i].ops * kinds[i].k,
                                  .op = kinds[i].op,
                                  .k = kinds[i].k,
                                  .n = kinds[i].n,
                                  .row_floats = kinds[i].k / kinds[i].out_divisor,
                                  .ref_rows = 1,
                                  .n_rounds = 1,
                                  .prepare = make_nothing,
                                  .run = kinds[i].run};
        snprintf(c.shape, sizeof c.shape, "%s", kinds[i].shape);
        to->each(to->arg, &c);
    }
}

void sl_bench_cases(void (*each)(void *arg, const struct sl_bench_case *c), void *arg)
{
    static const enum sl_dtype formats[] = {SL_I8, SL_I4, SL_I4G16, SL_I3, SL_I2, SL_BF16};
    static const enum sl_dtype gemm_formats[] = {SL_I8, SL_I4, SL_BF16, SL_F32};
    static const enum sl_dtype pages[] = {SL_I8, SL_BF16, SL_F32};
    static const uint32_t rows[] = {1, 4, 16, 24, 36, 64, 128}, contexts[] = {512, 4096, 16384};
    struct list to = {each, arg};
    for (size_t f = 0; f < sizeof formats / sizeof *formats; f++) {
        for (size_t r = 0; r < sizeof rows / sizeof *rows; r++)
            add_expert(&to, formats[f], rows[r], false);
        for (size_t r = 0; rows[r] <= 36; r++)
            add_expert(&to, formats[f], rows[r], true);
    }
    for (size_t f = 0; f < sizeof gemm_formats / sizeof *gemm_formats; f++) {
        add_gemm(&to, gemm_formats[f], QKV, 16);
        add_gemm(&to, gemm_formats[f], QKV, ROWS_MAX / 4);
    }
    add_gemm(&to, SL_F32, 128, 32); /* a router */
    for (size_t f = 0; f < sizeof pages / sizeof *pages; f++)
        for (size_t i = 0; i < sizeof contexts / sizeof *contexts; i++) {
            add_attend(&to, pages[f], contexts[i], 1);
            add_attend(&to, pages[f], contexts[i], CHUNK);
        }
    add_rows(&to);
}
