/* The frame of `bench kernels --device`: each case is launched once on memory full of a pattern and compared, and then so often, back to
 * back, that a round takes some milliseconds; reported is the median of the rounds. On the twin nothing is timed that could be taken for
 * a figure: a case says whether its bits are right, and no more. */
#include "bench/gpu_kernels.h"
#include "bench/gpu_cases.h"
#include "bench/samples.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROUND_US = 4000, TIMES_MOST = 2000, WARM = 3 };

struct gpu_kernels_run {
    struct sl_bench_kernels bench;
    struct sl_bench_gpu gpu;
    double copy_rate; /* bytes a nanosecond */
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
    const struct sl_gpu_kind *kind = g->kind;
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
    f.of_imma = c->integers && kind ? over(f.tops, kind->imma_tops) : 0;
    f.of_igmma = c->integers && kind ? over(f.tops, kind->igmma_tops) : 0;
    return f;
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

static void print_head(const struct gpu_kernels_run *r)
{
    const struct sl_bench_gpu *g = &r->gpu;
    const struct sl_gpu_kind *kind = g->kind;
    if (r->bench.json) {
        printf("{\"device\": \"%s\", \"capability\": %u, \"simulated\": %s, \"rounds\": %u, ", g->gpu.name,
               g->gpu.capability, g->twin ? "true" : "false", r->bench.rounds);
        json_number("imma_tops", kind ? kind->imma_tops : 0, 1);
        json_number("igmma_tops", kind ? kind->igmma_tops : 0, 1);
        json_number("copy_gbs", r->copy_rate, 1);
        printf("\"peaks\": \"%s\", \"rows\": [", kind ? kind->from : "not known");
        return;
    }
    if (g->twin)
        puts(
            "SIMULATED: the GPU is a twin. Small shapes, no times; what is said is whether the bits are those of kernels/ref.");
    else if (kind)
        printf(
            "%s (%s), medians of %u rounds; copies within its memory: %.0f GB/s; INT8 at most %.0f TOPS (%s)\n",
            g->gpu.name, kind->name, r->bench.rounds, r->copy_rate, kind->int8_tops, kind->from);
    else
        printf("%s, medians of %u rounds; copies within its memory: %.0f GB/s; its peaks are not known\n",
               g->gpu.name, r->bench.rounds, r->copy_rate);
    printf("\n%-28s%-34s%-6s%5s %10s %8s %7s %8s %8s %7s  %s\n", "kernel", "shape", "format", "rows", "us",
           "TOPS", "% IMMA", "% IGMMA", "GB/s", "% copy", "same bits");
}

static sl_status finish(const struct gpu_kernels_run *r, struct sl_err *err)
{
    if (r->bench.json)
        puts("\n]}");
    else
        puts(
            "\nIMMA: of what mma.sync reaches; IGMMA: of wgmma. GB/s counts weights and pages once a launch, or the rows of a kernel "
            "on rows;\nlaunches go round through more memory than the L2 holds. Rows of a grouped product are those of each expert.");
    if (r->gpu.status != SL_OK) {
        *err = r->gpu.err;
        return r->gpu.status;
    }
    if (r->n_printed == 0)
        return sl_fail(err, SL_E_USAGE,
                       "no kernel of this device matches '%s'; run without --filter for the list",
                       r->bench.filter ? r->bench.filter : "");
    if (r->n_different > 0)
        return sl_fail(err, SL_E_INTERNAL,
                       "%u results have other bits than the reference; report this with the table",
                       r->n_different);
    return SL_OK;
}

sl_status sl_bench_gpu_kernels(const struct sl_bench_kernels *bench, struct sl_err *err)
{
    struct gpu_kernels_run *r = calloc(1, sizeof *r);
    if (!r)
        return sl_fail(err, SL_E_NOMEM, "out of memory for the bench");
    r->bench = *bench;
    sl_status status = sl_bench_gpu_open(&r->gpu, bench->device, err);
    if (status == SL_OK) {
        double copy_rate = sl_bench_gpu_copy_rate(&r->gpu);
        r->copy_rate = r->gpu.twin ? 0 : copy_rate;
        print_head(r);
        sl_bench_gpu_cases(
            &(struct sl_bench_gpu_list){.gpu = &r->gpu, .wants = is_wanted, .each = run_case, .arg = r});
        status = finish(r, err);
    }
    sl_bench_gpu_close(&r->gpu);
    free(r);
    return status;
}
