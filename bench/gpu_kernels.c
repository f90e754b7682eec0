/* The frame of `bench kernels --device`: each case is launched once on memory full of a pattern and compared, and then so often, back to
 * back, that a round takes some milliseconds; reported is the median of the rounds. On the twin nothing is timed that could be taken for
 * a figure: a case says whether its bits are right, and no more. */
#include "bench/gpu_kernels.h"
#include "base/rng.h"
#include "bench/gpu_cases.h"
#include "bench/samples.h"
#include "kernels/gpu/peak.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROUND_US = 4000, TIMES_MOST = 2000, WARM = 3, PEAK_TIMES = 512, PEAK_BLOCKS = 32 };

struct gpu_kernels_run {
    struct sl_bench_kernels bench;
    struct sl_bench_gpu gpu;
    double copy_rate;             /* bytes a nanosecond */
    double imma_tops, igmma_tops; /* on registers, measured; 0: there is no such instruction */
    uint32_t n_printed, n_different;
};

struct gpu_kernel_figures { /* 0: none */
    double us, tops, of_imma, of_igmma, gbs, of_copy;
};

/* ---- one case ---- */

static bool is_right(struct gpu_kernels_run *r, const struct sl_bench_gpu_case *c)
{
    struct sl_bench_gpu *g = &r->gpu;
    sl_bench_gpu_fill(g, c->out, c->adds ? 0 : 0xA5, c->out_bytes);
    sl_bench_gpu_launch(g, &c->launch);
    return c->is_equal(g, c) && g->status == SL_OK;
}

static double over(double a, double b)
{
    return b > 0 ? a / b : 0;
}

static struct gpu_kernel_figures measure(struct gpu_kernels_run *r, const struct sl_bench_gpu_case *c)
{
    struct sl_bench_gpu *g = &r->gpu;
    double us[SL_SAMPLES_MAX], once = sl_bench_gpu_us(g, &c->launch, WARM);
    uint32_t times = once > 0 && once < ROUND_US ? (uint32_t)(ROUND_US / once) + 1 : 1;
    times = times < TIMES_MOST ? times : TIMES_MOST;
    if (g->twin) /* all of it is gone through, and nothing said */
        return (struct gpu_kernel_figures){0};
    for (uint32_t i = 0; i < r->bench.rounds; i++)
        us[i] = sl_bench_gpu_us(g, &c->launch, times);
    struct gpu_kernel_figures f = {.us = sl_median(us, r->bench.rounds)};
    f.tops = over(c->ops, f.us * 1e6);
    f.gbs = over(c->bytes, f.us * 1e3);
    f.of_copy = over(f.gbs, r->copy_rate);
    f.of_imma = c->integers ? over(f.tops, r->imma_tops) : 0;
    f.of_igmma = c->integers ? over(f.tops, r->igmma_tops) : 0;
    return f;
}

/* ---- the ceilings ---- */

/* The best of some launches of a millisecond or so. */
static double peak_tops(struct gpu_kernels_run *r, const struct gpu_kernel *kernel, uint32_t shared,
                        double (*ops_of)(uint32_t times))
{
    struct sl_bench_gpu *g = &r->gpu;
    static uint32_t in[PEAK_WORDS];
    const uint32_t blocks = g->twin ? 2 : PEAK_BLOCKS * g->gpu.multiprocessors,
                   times = g->twin ? 2 : PEAK_TIMES;
    struct sl_bench_launch l = {
        .kernel = kernel, .shared = shared, .blocks = blocks, .all = true, .copies = 1};
    double least = 0;
    if (!sl_bench_gpu_has(g, kernel))
        return 0;
    for (uint32_t i = 0; i < PEAK_WORDS; i++)
        in[i] = (uint32_t)sl_rng_at(11, i);
    sl_cu_at to = sl_bench_gpu_take(g, (size_t)blocks * kernel->warps * 32 * sizeof *in);
    struct peak_params p = {sl_bench_gpu_put(g, in, sizeof in), (uint32_t *)(uintptr_t)to, times};
    memcpy(l.params, &p, sizeof p);
    sl_bench_gpu_us(g, &l, WARM);
    for (uint32_t i = 0; i < r->bench.rounds; i++) {
        double us = sl_bench_gpu_us(g, &l, 1);
        least = i == 0 || us < least ? us : least;
    }
    sl_bench_gpu_reset(g);
    return g->twin ? 0 : over(ops_of(times) * blocks, least * 1e6);
}

static void measure_ceilings(struct gpu_kernels_run *r)
{
    double rate = sl_bench_gpu_copy_rate(&r->gpu);
    r->copy_rate = r->gpu.twin ? 0 : rate;
    r->imma_tops = peak_tops(r, &peak_mma, 0, peak_mma_ops);
    r->igmma_tops = peak_tops(r, &peak_wgmma, PEAK_WG_SHARED, peak_wgmma_ops);
}

/* ---- the report ---- */

static void json_number(const char *key, double value, int digits)
{
    if (value > 0)
        printf("\"%s\": %.*f, ", key, digits, value);
    else
        printf("\"%s\": null, ", key);
}

static void text_number(double value, int width, int digits)
{
    if (value > 0)
        printf(" %*.*f", width, digits, value);
    else
        printf(" %*s", width, "-");
}

static void print_case(struct gpu_kernels_run *r, const struct sl_bench_gpu_case *c,
                       const struct gpu_kernel_figures *f, bool equal)
{
    if (r->bench.json) {
        printf("%s\n    {\"kernel\": \"%s\", \"shape\": \"%s\", \"format\": \"%s\", \"rows\": %u, ",
               r->n_printed ? "," : "", c->launch.kernel->name, c->shape, c->format, c->rows);
        json_number("us", f->us, 2);
        json_number("tops", f->tops, 2);
        json_number("of_imma", f->of_imma, 4);
        json_number("of_igmma", f->of_igmma, 4);
        json_number("gbs", f->gbs, 1);
        json_number("of_copy", f->of_copy, 4);
        printf("\"equal\": %s}", equal ? "true" : "false");
    } else {
        printf("%-28s%-34s%-6s%5u", c->launch.kernel->name, c->shape, c->format, c->rows);
        text_number(f->us, 10, 2);
        text_number(f->tops, 8, 2);
        text_number(100 * f->of_imma, 7, 1);
        text_number(100 * f->of_igmma, 8, 1);
        text_number(f->gbs, 8, 1);
        text_number(100 * f->of_copy, 7, 1);
        printf("  %s\n", equal ? "yes" : "NO");
    }
    fflush(stdout);
    r->n_printed++;
    r->n_different += !equal;
}

static void run_case(void *arg, const struct sl_bench_gpu_case *c)
{
    struct gpu_kernels_run *r = arg;
    bool equal = is_right(r, c);
    struct gpu_kernel_figures f = measure(r, c);
    if (r->gpu.status == SL_OK)
        print_case(r, c, &f, equal);
}

static bool is_wanted(void *arg, const struct sl_bench_gpu_case *c)
{
    const struct gpu_kernels_run *r = arg;
    char text[200];
    snprintf(text, sizeof text, "%s %s %s rows %u", c->launch.kernel->name, c->shape, c->format, c->rows);
    return r->gpu.status == SL_OK && (!r->bench.filter || strstr(text, r->bench.filter) != NULL);
}

static void print_ceilings(const struct gpu_kernels_run *r)
{
    const struct sl_gpu_kind *kind = r->gpu.kind;
    printf(
        "%s, medians of %u rounds; at most, as measured now: %.0f GB/s of copies within its memory, %.0f TOPS by mma.sync (IMMA)",
        r->gpu.gpu.name, r->bench.rounds, r->copy_rate, r->imma_tops);
    if (r->igmma_tops > 0)
        printf(", %.0f by wgmma (IGMMA)", r->igmma_tops);
    if (kind)
        printf("; of its kind: %.0f GB/s, %.0f TOPS (%s)", kind->memory_gbs, kind->int8_tops, kind->from);
    putchar('\n');
}

static void print_head(const struct gpu_kernels_run *r)
{
    const struct sl_bench_gpu *g = &r->gpu;
    const struct sl_gpu_kind *kind = g->kind;
    if (r->bench.json) {
        printf("{\"device\": \"%s\", \"capability\": %u, \"simulated\": %s, \"rounds\": %u, ", g->gpu.name,
               g->gpu.capability, g->twin ? "true" : "false", r->bench.rounds);
        json_number("imma_tops", r->imma_tops, 1);
        json_number("igmma_tops", r->igmma_tops, 1);
        json_number("copy_gbs", r->copy_rate, 1);
        json_number("int8_tops_of_kind", kind ? kind->int8_tops : 0, 1);
        fputs("\"rows\": [", stdout);
        return;
    }
    if (g->twin)
        puts(
            "SIMULATED: the GPU is a twin. Small shapes, no times; what is said is whether the bits are those of kernels/ref.");
    else
        print_ceilings(r);
    printf("\n%-28s%-34s%-6s%5s %10s %8s %7s %8s %8s %7s  %s\n", "kernel", "shape", "format", "rows", "us",
           "TOPS", "% IMMA", "% IGMMA", "GB/s", "% copy", "same bits");
}

sl_status sl_bench_gpu_kernels(const struct sl_bench_kernels *bench, struct sl_err *err)
{
    struct gpu_kernels_run *r = calloc(1, sizeof *r);
    if (!r)
        return sl_fail(err, SL_E_NOMEM, "out of memory for the bench");
    r->bench = *bench;
    sl_status status = sl_bench_gpu_open(&r->gpu, bench->device, err);
    if (status == SL_OK) {
        measure_ceilings(r);
        print_head(r);
        sl_bench_gpu_cases(
            &(struct sl_bench_gpu_list){.gpu = &r->gpu, .wants = is_wanted, .each = run_case, .arg = r});
        status = sl_bench_kernels_end(
            &r->bench,
            "\nIMMA, IGMMA: of what mma.sync and wgmma reach on registers alone, measured in this run. GB/s counts weights and pages once a "
            "launch,\nor the rows of a kernel on rows; launches go round through more memory than the L2 holds. Rows of a grouped product "
            "are those of each expert.",
            r->n_printed, r->n_different, err);
    }
    if (r->gpu.status != SL_OK) {
        status = r->gpu.status;
        *err = r->gpu.err;
    }
    sl_bench_gpu_close(&r->gpu);
    free(r);
    return status;
}
