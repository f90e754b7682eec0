/* Kernel by kernel: time, GFLOP/s, share of the peak, weights per second, and whether the bits are
 * those of ref.
 *
 * The peak is one thread's register-resident FMA loop of the same instruction set. It is measured
 * again before every round of every kernel, because clocks drift and neighbours come and go: what
 * is reported is the median over rounds of kernel / peak of the same round. The reference runs once
 * per case; its output is kept and compared, its time gives the factor. Shapes are those of the
 * bundled model and of a Qwen3-30B-A3B expert. */
#include "bench/bench_kernels.h"
#include "base/arena.h"
#include "base/clock.h"
#include "base/cpu.h"
#include "base/rng.h"
#include "kernels/cpu/peak.h"
#include "kernels/ops.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    ROUNDS = 5,
    ROUND_NS = 8000000,
    PEAK_NS = 2000000,
    CONTEXT = 4096,
    MEMORY_EXPERTS = 12, /* of Qwen3-30B-A3B: 113 MB, more than a cache holds */
    ARENA_BYTES = 512 << 20
};

/* One thing to measure; `run` reads what it needs of it and writes n_out floats to out. */
struct item {
    const char *kernel;
    char shape[48];
    uint32_t rows;
    double flops, weight_bytes;
    void (*run)(const struct item *item, const struct sl_ops *ops, void *scratch, float *out);
    size_t n_out;
    uint32_t k, inner, n_experts; /* experts: inputs, intermediate, how many in turn */
    struct sl_attend attend;
};

struct result {
    double ns, gflops, percent, ref_factor;
    bool same;
};

struct bench {
    struct sl_arena arena;
    const uint16_t *weights; /* random bf16: every panel and page is a piece of it */
    float *x, *hidden, *want, *got;
    void *scratch;
    const void *k_pages[CONTEXT / SL_PAGE_TOKENS], *v_pages[CONTEXT / SL_PAGE_TOKENS];
    bool json;
    uint32_t n_printed, n_different;
};
enum {
    QWEN_K = 2048,
    QWEN_INNER = 768,
    ROWS_MAX = 128,
    N_WEIGHTS = MEMORY_EXPERTS * 3 * QWEN_K * QWEN_INNER,
    N_FLOATS = 1 << 20
};

static struct bench bench; /* one at a time: a command of a process */

static void run_expert(const struct item *item, const struct sl_ops *ops, void *scratch, float *out)
{
    size_t gate_up = 2 * (size_t)item->inner * item->k, down = (size_t)item->inner * item->k;
    for (uint32_t e = 0; e < item->n_experts; e++) {
        const uint16_t *w = bench.weights + e * (gate_up + down);
        struct sl_panel w1 = {w, 2 * item->inner, item->k, SL_BF16, 0};
        struct sl_panel w2 = {w + gate_up, item->k, item->inner, SL_BF16, 0};
        ops->gemm_swiglu(&(struct sl_gemm){.x = bench.x,
                                           .x_stride = item->k,
                                           .m = item->rows,
                                           .w = w1,
                                           .col_end = item->inner,
                                           .y = bench.hidden,
                                           .y_stride = item->inner},
                         scratch);
        ops->gemm(&(struct sl_gemm){.x = bench.hidden,
                                    .x_stride = item->inner,
                                    .m = item->rows,
                                    .w = w2,
                                    .col_end = item->k,
                                    .y = out,
                                    .y_stride = item->k,
                                    .accumulate = e > 0},
                  scratch);
    }
}

static void run_router(const struct item *item, const struct sl_ops *ops, void *scratch, float *out)
{
    struct sl_panel w = {bench.x, item->inner, item->k, SL_F32, 0};
    ops->gemm(&(struct sl_gemm){.x = bench.x + 1,
                                .x_stride = item->k,
                                .m = item->rows,
                                .w = w,
                                .col_end = item->inner,
                                .y = out,
                                .y_stride = item->inner},
              scratch);
}

static void run_attend(const struct item *item, const struct sl_ops *ops, void *scratch, float *out)
{
    struct sl_attend a = item->attend;
    a.q = bench.x;
    a.out = out;
    ops->attend(&a, scratch);
}

static void run_rmsnorm(const struct item *item, const struct sl_ops *ops, void *scratch,
                        float *out)
{
    (void)scratch;
    ops->rmsnorm(out, bench.x, bench.x + item->k, item->k, 1e-6f);
}

static void run_softmax(const struct item *item, const struct sl_ops *ops, void *scratch,
                        float *out)
{
    (void)scratch;
    memcpy(out, bench.x, item->k * sizeof *out);
    ops->softmax(out, item->k);
}

static void run_rope(const struct item *item, const struct sl_ops *ops, void *scratch, float *out)
{
    (void)scratch;
    memcpy(out, bench.x, 2 * item->k * sizeof *out);
    ops->rope(out, bench.x + 2 * item->k, bench.x + 3 * item->k, item->k);
}

static void run_combine(const struct item *item, const struct sl_ops *ops, void *scratch,
                        float *out)
{
    const float *rows[8];
    (void)scratch;
    for (uint32_t i = 0; i < 8; i++)
        rows[i] = bench.x + (i + 1) * item->k;
    memset(out, 0, item->k * sizeof *out);
    ops->combine(out, rows, bench.x, 8, item->k);
}

static void run_convert(const struct item *item, const struct sl_ops *ops, void *scratch,
                        float *out)
{
    (void)scratch;
    ops->convert(out, SL_BF16, bench.x, item->k);
}

static uint64_t peak_of(const struct sl_ops *ops, uint64_t loops, float *sink)
{
    if (strcmp(ops->name, "avx512") == 0)
        return sl_peak_avx512(loops, sink);
    return sl_peak_avx2(loops, sink);
}

/* GFLOP/s of the FMA loop, over about PEAK_NS. */
static double measure_peak(const struct sl_ops *ops)
{
    float sink;
    uint64_t loops = 4096, ns = 0, flops = 0;
    while (ns < PEAK_NS) {
        loops *= 2;
        uint64_t begin = sl_clock_ns();
        flops = peak_of(ops, loops, &sink);
        ns = sl_clock_ns() - begin;
    }
    return (double)flops / (double)ns;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v)
{
    qsort(v, ROUNDS, sizeof *v, compare_doubles);
    return v[ROUNDS / 2];
}

static double time_ns(const struct item *item, const struct sl_ops *ops, uint32_t times)
{
    uint64_t begin = sl_clock_ns();
    for (uint32_t i = 0; i < times; i++)
        item->run(item, ops, bench.scratch, bench.got);
    return (double)(sl_clock_ns() - begin) / times;
}

static struct result measure(const struct item *item, const struct sl_ops *ops, double ref_ns)
{
    double ns[ROUNDS], percent[ROUNDS];
    memset(bench.got, 0, item->n_out * sizeof *bench.got);
    time_ns(item, ops, 1);
    struct result r = {.same = memcmp(bench.got, bench.want, item->n_out * sizeof(float)) == 0};
    double once = time_ns(item, ops, 1); /* warm by now */
    uint32_t times = once >= ROUND_NS ? 1 : (uint32_t)(ROUND_NS / (once + 1.0)) + 1;
    for (uint32_t i = 0; i < ROUNDS; i++) {
        double peak = measure_peak(ops);
        ns[i] = time_ns(item, ops, times);
        percent[i] = 100.0 * item->flops / ns[i] / peak;
    }
    r.ns = median(ns);
    r.percent = median(percent);
    r.gflops = item->flops / r.ns;
    r.ref_factor = ref_ns / r.ns;
    return r;
}

static void print_result(const struct item *item, const struct sl_ops *ops, const struct result *r)
{
    double gigabytes = item->weight_bytes / r->ns;
    if (bench.json) {
        printf("%s\n    {\"isa\": \"%s\", \"kernel\": \"%s\", \"shape\": \"%s\", \"rows\": %u, "
               "\"ns\": %.1f, "
               "\"gflops\": %.3f, \"percent_of_peak\": %.2f, \"weight_gb_per_s\": %.3f, "
               "\"times_ref\": %.2f, \"same_bits\": %s}",
               bench.n_printed ? "," : "", ops->name, item->kernel, item->shape, item->rows, r->ns,
               r->gflops, r->percent, gigabytes, r->ref_factor, r->same ? "true" : "false");
    } else {
        printf("%-7s %-9s %-28s %5u %13.0f %8.1f %6.1f ", ops->name, item->kernel, item->shape,
               item->rows, r->ns, r->gflops, r->percent);
        if (item->weight_bytes > 0)
            printf("%7.1f", gigabytes);
        else
            printf("%7s", "-");
        printf(" %7.1f  %s\n", r->ref_factor, r->same ? "yes" : "NO");
    }
    fflush(stdout);
    bench.n_printed++;
    bench.n_different += !r->same;
}

static void run_item(const struct item *item)
{
    memset(bench.got, 0, item->n_out * sizeof *bench.got);
    double ref_ns = time_ns(item, &sl_ops_ref, 1);
    memcpy(bench.want, bench.got, item->n_out * sizeof *bench.want);
    uint32_t n;
    const struct sl_ops *const *tables = sl_ops_available(&n);
    for (uint32_t i = 0; i + 1 < n; i++) { /* the last is ref itself */
        struct result r = measure(item, tables[i], ref_ns);
        print_result(item, tables[i], &r);
    }
}

static void bench_experts(const char *model, uint32_t k, uint32_t inner, uint32_t rows,
                          uint32_t n_experts)
{
    double weights = 3.0 * k * inner * n_experts;
    struct item item = {.kernel = "expert",
                        .rows = rows,
                        .flops = 2 * weights * rows,
                        .weight_bytes = 2 * weights,
                        .run = run_expert,
                        .n_out = (size_t)rows * k,
                        .k = k,
                        .inner = inner,
                        .n_experts = n_experts};
    snprintf(item.shape, sizeof item.shape, "%s %ux%u%s", model, k, inner,
             n_experts > 1 ? " from memory" : "");
    run_item(&item);
}

static void bench_attend(const char *model, uint32_t n_rep, uint32_t d_head, uint32_t n_tok)
{
    uint32_t width = n_rep * d_head, pos = CONTEXT - n_tok;
    double pairs = 0;
    for (uint32_t t = 0; t < n_tok; t++)
        pairs += (double)n_rep * (pos + t + 1);
    struct item item = {.kernel = "attend",
                        .rows = n_tok,
                        .flops = 4 * pairs * d_head,
                        .weight_bytes = 4.0 * CONTEXT * d_head,
                        .run = run_attend,
                        .n_out = (size_t)n_tok * width};
    item.attend = (struct sl_attend){.q_stride = width,
                                     .n_rep = n_rep,
                                     .d_head = d_head,
                                     .n_tok = n_tok,
                                     .pos = pos,
                                     .k_pages = bench.k_pages,
                                     .v_pages = bench.v_pages,
                                     .kv_dtype = SL_BF16,
                                     .scale = 0.1f,
                                     .out_stride = width};
    for (uint32_t p = 0; p < CONTEXT / SL_PAGE_TOKENS; p++) {
        bench.k_pages[p] = bench.weights + (size_t)(2 * p) * SL_PAGE_TOKENS * d_head;
        bench.v_pages[p] = bench.weights + (size_t)(2 * p + 1) * SL_PAGE_TOKENS * d_head;
    }
    snprintf(item.shape, sizeof item.shape, "%s %ux%u, %u keys", model, n_rep, d_head, CONTEXT);
    run_item(&item);
}

static void bench_rows(void)
{
    static const struct {
        const char *kernel, *shape;
        uint32_t k, out_divisor;
        double flops; /* per element */
        void (*run)(const struct item *, const struct sl_ops *, void *, float *);
    } kinds[] = {
        {"rmsnorm", "row of 2048", 2048, 1, 4, run_rmsnorm},
        {"softmax", "row of 128", 128, 1, 20, run_softmax},
        {"rope", "64 pairs", 64, 1, 6, run_rope},
        {"combine", "8 rows of 2048", 2048, 1, 16, run_combine},
        {"convert", "2048 to bf16", 2048, 2, 1, run_convert},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        struct item item = {.kernel = kinds[i].kernel,
                            .rows = 1,
                            .k = kinds[i].k,
                            .n_out = kinds[i].k / kinds[i].out_divisor,
                            .flops = kinds[i].flops * kinds[i].k,
                            .run = kinds[i].run};
        snprintf(item.shape, sizeof item.shape, "%s", kinds[i].shape);
        run_item(&item);
    }
    struct item router = {.kernel = "gemm",
                          .rows = 32,
                          .run = run_router,
                          .k = QWEN_K,
                          .inner = 128,
                          .n_out = 32 * 128,
                          .flops = 2.0 * 32 * 128 * QWEN_K,
                          .weight_bytes = 4.0 * 128 * QWEN_K};
    snprintf(router.shape, sizeof router.shape, "router %ux128 f32", QWEN_K);
    run_item(&router);
}

static sl_status prepare(struct sl_err *err)
{
    size_t scratch_bytes = 0;
    uint32_t n;
    const struct sl_ops *const *tables = sl_ops_available(&n);
    for (uint32_t i = 0; i < n; i++) {
        size_t bytes = tables[i]->scratch_bytes(QWEN_K);
        scratch_bytes = bytes > scratch_bytes ? bytes : scratch_bytes;
    }
    SL_TRY(sl_arena_init(&bench.arena, ARENA_BYTES, err));
    uint16_t *weights = sl_arena_take(&bench.arena, (size_t)N_WEIGHTS * sizeof *weights);
    bench.x = sl_arena_take(&bench.arena, N_FLOATS * sizeof(float));
    bench.hidden = sl_arena_take(&bench.arena, N_FLOATS * sizeof(float));
    bench.want = sl_arena_take(&bench.arena, N_FLOATS * sizeof(float));
    bench.got = sl_arena_take(&bench.arena, N_FLOATS * sizeof(float));
    bench.scratch = sl_arena_take(&bench.arena, scratch_bytes);
    if (!weights || !bench.x || !bench.hidden || !bench.want || !bench.got || !bench.scratch)
        return sl_fail(err, SL_E_INTERNAL,
                       "the buffers of the bench exceed their plan; report this");
    /* Small values of both signs: sums stay far from overflow, products far from denormals. */
    for (size_t i = 0; i < N_WEIGHTS; i++) {
        uint64_t bits = sl_rng_at(1, i);
        weights[i] = (uint16_t)((bits & 0x80FF) | 0x3C80);
    }
    for (size_t i = 0; i < N_FLOATS; i++)
        bench.x[i] = (float)(2.0 * sl_rng_unit(sl_rng_at(2, i)) - 1.0);
    bench.weights = weights;
    return SL_OK;
}

/* The best of a few: for the head line, before anything has run. */
static double best_peak(const struct sl_ops *ops)
{
    double best = 0;
    for (int i = 0; i < ROUNDS; i++) {
        double peak = measure_peak(ops);
        best = peak > best ? peak : best;
    }
    return best;
}

static void print_head(void)
{
    char cpu[64];
    sl_cpu_model_name(cpu, sizeof cpu);
    uint32_t n;
    const struct sl_ops *const *tables = sl_ops_available(&n);
    if (bench.json) {
        printf("{\"cpu\": \"%s\", \"peak_gflops\": {", cpu);
        for (uint32_t i = 0; i + 1 < n; i++)
            printf("%s\"%s\": %.1f", i ? ", " : "", tables[i]->name, best_peak(tables[i]));
        printf("}, \"rounds\": %d, \"results\": [", ROUNDS);
        return;
    }
    printf("%s, one thread; peak of fused multiply-adds:", cpu);
    for (uint32_t i = 0; i + 1 < n; i++)
        printf(" %s %.1f GFLOP/s", tables[i]->name, best_peak(tables[i]));
    if (n == 1)
        printf(" this processor has only the reference");
    printf("\n%-7s %-9s %-28s %5s %13s %8s %6s %7s %7s  %s\n", "isa", "kernel", "shape", "rows",
           "ns", "GFLOP/s", "% peak", "GB/s", "x ref", "same bits");
}

int sl_bench_kernels(bool json)
{
    static const uint32_t rows[] = {1, 4, 16, 32, 64, 128};
    struct sl_err err;
    bench = (struct bench){.json = json};
    if (prepare(&err) != SL_OK) {
        fprintf(stderr, "sluice: %s\n", err.text);
        sl_arena_fini(&bench.arena);
        return sl_status_exit_code(err.status);
    }
    print_head();
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        bench_experts("demo", 256, 128, rows[i], 1);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        bench_experts("qwen3-30b", QWEN_K, QWEN_INNER, rows[i], 1);
    bench_experts("qwen3-30b", QWEN_K, QWEN_INNER, 1, MEMORY_EXPERTS);
    bench_experts("qwen3-30b", QWEN_K, QWEN_INNER, 4, MEMORY_EXPERTS);
    bench_attend("demo", 3, 64, 1);
    bench_attend("demo", 3, 64, 64);
    bench_attend("qwen3-30b", 8, 128, 1);
    bench_attend("qwen3-30b", 8, 128, 64);
    bench_rows();
    if (json)
        printf("\n], \"different\": %u}\n", bench.n_different);
    else if (bench.n_different > 0)
        printf("%u results are not those of the reference, bit for bit\n", bench.n_different);
    sl_arena_fini(&bench.arena);
    return bench.n_different ? sl_status_exit_code(SL_E_INTERNAL) : 0;
}
