/* Kernel by kernel: time, operations a second and their share of the peak, bytes a second and their
 * share of what memory gives, and whether the bits are those of ref.
 *
 * Both yardsticks are measured again in every round of every case, because clocks drift and
 * neighbours come and go: what is reported is the median over rounds of kernel / yardstick of the
 * same round. The peak is that of the instruction which the kernel is made of, on registers alone
 * (kernels/roofline.h); the bandwidth is one pass over a block of memory larger than the caches.
 * With --threads N, N threads run the kernel, and the yardsticks, at once. Times are by the
 * threads' own clocks: a neighbour that takes the processor does not count, one that takes the
 * cache does.
 *
 * The reference runs once per case, on the first rows and on the last expert alone; its output is
 * compared with the same rows, its time scaled up gives the factor. */
#include "bench/bench_kernels.h"
#include "base/clock.h"
#include "base/cpu.h"
#include "bench/kernel_cases.h"
#include "bench/samples.h"
#include <stdio.h>
#include <stdlib.h>

enum {
    ROUND_NS = 8000000, /* of a kernel: long beside a timer, short beside a change of the clock */
    PEAK_NS = 1000000,
    REF_NS = 1000000,
    COMPARED_FLOATS = 4 * 5120 /* a few rows of the widest output */
};

struct result {
    double ns, gops, peak_percent, read_percent, ref_factor;
    bool same;
};

struct run { /* of the whole command */
    struct sl_bench_kernels bench;
    struct sl_team *team;
    const void *memory;
    size_t memory_bytes;
    float want[COMPARED_FLOATS];
    uint32_t n_printed, n_different;
};

struct operation_job {
    const struct sl_bench_case *c;
    const struct sl_ops *ops;
    uint32_t times;
    uint64_t *ns; /* [members] */
};

static void run_times(void *arg, uint32_t member, uint32_t n_members, void *scratch)
{
    const struct operation_job *job = arg;
    struct sl_bench_lane lane = sl_bench_lane(member, scratch);
    uint64_t begin = sl_clock_thread_ns();
    (void)n_members;
    for (uint32_t i = 0; i < job->times; i++)
        job->c->run(job->c, job->ops, &lane);
    job->ns[member] = sl_clock_thread_ns() - begin;
}

/* One run, all threads doing one each: the slowest's. */
static double time_ns(struct run *r, const struct sl_bench_case *c, const struct sl_ops *ops, uint32_t times)
{
    uint64_t ns[SL_TEAM_MAX], most = 0;
    sl_team_run(r->team, run_times, &(struct operation_job){c, ops, times, ns});
    for (uint32_t i = 0; i < r->bench.n_threads; i++)
        most = ns[i] > most ? ns[i] : most;
    return (double)most / times;
}

static void run_ref_part(void *arg, uint32_t member, uint32_t n_members, void *scratch)
{
    if (member == 0)
        run_times(arg, member, n_members, scratch);
}

/* The reference on a part of the case, by one thread; returns the time that all of it would take.
 */
static double run_ref(struct run *r, const struct sl_bench_case *c, const struct sl_ops *ref)
{
    struct sl_bench_case part = *c;
    part.rows = c->ref_rows;
    part.first = c->n_rounds - 1;
    uint64_t ns = 0;
    struct operation_job job = {&part, ref, 1, &ns};
    sl_team_run(r->team, run_ref_part, &job);
    if (ns < REF_NS) { /* it touched its operands for the first time, and a call is too short for a
                          clock */
        job.times = (uint32_t)(REF_NS / (ns + 1)) + 1;
        sl_team_run(r->team, run_ref_part, &job);
    }
    memcpy(r->want, sl_bench_lane(0, NULL).out, c->ref_rows * c->row_floats * sizeof *r->want);
    return (double)ns / job.times * c->rows / c->ref_rows * c->n_rounds;
}

static struct result measure(struct run *r, const struct sl_bench_case *c, const struct sl_ops *ops,
                             enum sl_peak peak, double ref_ns)
{
    double ns[SL_SAMPLES_MAX], of_peak[SL_SAMPLES_MAX], of_read[SL_SAMPLES_MAX];
    size_t bytes = c->ref_rows * c->row_floats * sizeof *r->want;
    uint32_t n = r->bench.n_threads;
    float *out = sl_bench_lane(0, NULL).out;
    memset(out, 0, bytes);
    time_ns(r, c, ops, 1);
    struct result result = {.same = memcmp(out, r->want, bytes) == 0};
    double once = time_ns(r, c, ops, 1); /* warm by now */
    uint32_t times = once >= ROUND_NS ? 1 : (uint32_t)(ROUND_NS / (once + 1.0)) + 1;
    for (uint32_t i = 0; i < r->bench.rounds; i++) {
        double read_rate = sl_read_measure(r->team, r->memory, r->memory_bytes);
        double peak_rate = sl_peak_measure(r->team, ops, peak, PEAK_NS);
        time_ns(r, c, ops, 1); /* the pass over memory has emptied the caches */
        ns[i] = time_ns(r, c, ops, times);
        of_peak[i] = peak_rate > 0 ? 100 * n * c->ops / ns[i] / peak_rate : 0;
        of_read[i] = 100 * n * c->bytes / ns[i] / read_rate;
    }
    result.ns = sl_median(ns, r->bench.rounds);
    result.peak_percent = sl_median(of_peak, r->bench.rounds);
    result.read_percent = sl_median(of_read, r->bench.rounds);
    result.gops = n * c->ops / result.ns;
    result.ref_factor = n * ref_ns / result.ns;
    return result;
}

static void print_result(struct run *r, const struct sl_bench_case *c, const char *isa, const char *profile,
                         const struct result *result)
{
    double gigabytes = r->bench.n_threads * c->bytes / result->ns;
    if (r->bench.json) {
        printf("%s\n    {\"isa\": \"%s\", \"profile\": \"%s\", \"kernel\": \"%s\", \"shape\": "
               "\"%s\", \"format\": \"%s\", "
               "\"rows\": %u, \"ns\": %.1f, \"gops\": %.3f, \"percent_of_peak\": %.2f, "
               "\"gb_per_s\": %.3f, "
               "\"percent_of_read\": %.2f, \"times_ref\": %.2f, \"same_bits\": %s}",
               r->n_printed ? "," : "", isa, profile, c->kernel, c->shape, c->format, c->rows, result->ns,
               result->gops, result->peak_percent, gigabytes, result->read_percent, result->ref_factor,
               result->same ? "true" : "false");
    } else {
        printf("%-12s%-9s%-9s%-25s%-6s%5u %12.0f %8.1f %6.1f ", isa, profile, c->kernel, c->shape, c->format,
               c->rows, result->ns, result->gops, result->peak_percent);
        if (c->bytes > 0)
            printf("%7.1f %6.1f", gigabytes, result->read_percent);
        else
            printf("%7s %6s", "-", "-");
        printf(" %8.1f  %s\n", result->ref_factor, result->same ? "yes" : "NO");
    }
    fflush(stdout);
    r->n_printed++;
    r->n_different += !result->same;
}

static bool is_wanted(const struct run *r, const struct sl_bench_case *c, const char *isa,
                      const char *profile)
{
    char text[160];
    snprintf(text, sizeof text, "%s %s %s %s %s rows %u", isa, profile, c->kernel, c->shape, c->format,
             c->rows);
    return !r->bench.filter || strstr(text, r->bench.filter) != NULL;
}

/* A table's function that the case is about; tables share functions, and each is measured once. */
static const void *function_of(const struct sl_ops *ops, size_t op)
{
    const void *function;
    memcpy(&function, (const char *)ops + op, sizeof function);
    return function;
}

static bool is_new(const struct sl_ops *const *tables, uint32_t n, uint32_t i, size_t op)
{
    for (uint32_t k = 0; k < n; k++)
        if (k != i && (k < i || k == n - 1) && function_of(tables[k], op) == function_of(tables[i], op))
            return false;
    return true;
}

static void run_profile(struct run *r, const struct sl_bench_case *c, enum sl_profile profile)
{
    uint32_t n;
    const struct sl_ops *const *tables = sl_ops_available_profile(profile, &n);
    enum sl_peak peak = profile == SL_PROFILE_BF16DOT ? SL_PEAK_BF16 : c->peak;
    double ref_ns = 0;
    for (uint32_t i = 0; i + 1 < n; i++) { /* the last is ref itself */
        if (!is_new(tables, n, i, c->op) || !is_wanted(r, c, tables[i]->name, sl_profile_name(profile)))
            continue;
        c->prepare(c);
        if (ref_ns == 0)
            ref_ns = run_ref(r, c, tables[n - 1]);
        struct result result = measure(r, c, tables[i], peak, ref_ns);
        print_result(r, c, tables[i]->name, sl_profile_name(profile), &result);
    }
}

static void run_case(void *arg, const struct sl_bench_case *c)
{
    run_profile(arg, c, SL_PROFILE_F32);
    if (c->dtype == SL_BF16) /* the only one that the other profile treats in another way */
        run_profile(arg, c, SL_PROFILE_BF16DOT);
}

/* ---- the frame of the report ---- */

static void print_peaks(struct run *r)
{
    static const char *const names[SL_PEAKS] = {"f32", "bf16", "int8"};
    uint32_t n;
    const struct sl_ops *const *tables = sl_ops_available(&n);
    for (uint32_t i = 0, printed = 0; i + 1 < n; i++)
        for (int p = 0; p < SL_PEAKS; p++) {
            const char *instruction = sl_peak_instruction(tables[i], (enum sl_peak)p);
            if (!instruction)
                continue;
            double rate = sl_peak_measure(r->team, tables[i], (enum sl_peak)p, PEAK_NS);
            if (r->bench.json)
                printf("%s\n    {\"isa\": \"%s\", \"numbers\": \"%s\", \"instruction\": \"%s\", "
                       "\"gops\": %.1f}",
                       printed++ ? "," : "", tables[i]->name, names[p], instruction, rate);
            else
                printf("  peak of %-12s %-5s %8.1f GOP/s   %s\n", tables[i]->name, names[p], rate,
                       instruction);
        }
}

static void print_head(struct run *r)
{
    char cpu[64];
    uint32_t n = r->bench.n_threads;
    sl_cpu_model_name(cpu, sizeof cpu);
    double rate = sl_read_measure(r->team, r->memory, r->memory_bytes);
    if (r->bench.json) {
        printf("{\"cpu\": \"%s\", \"threads\": %u, \"rounds\": %u, \"read_gb_per_s\": %.2f, "
               "\"peaks\": [",
               cpu, n, r->bench.rounds, rate);
        print_peaks(r);
        fputs("], \"results\": [", stdout);
        return;
    }
    printf("%s, %u thread%s, medians of %u rounds; memory is read at %.1f GB/s\n", cpu, n, n == 1 ? "" : "s",
           r->bench.rounds, rate);
    print_peaks(r);
    printf("\n%-12s%-9s%-9s%-25s%-6s%5s %12s %8s %6s %7s %6s %8s  %s\n", "isa", "profile", "kernel", "shape",
           "format", "rows", "ns", "GOP/s", "% peak", "GB/s", "% read", "x ref", "same bits");
}

sl_status sl_bench_kernels_end(const struct sl_bench_kernels *bench, const char *note, uint32_t n_printed,
                               uint32_t n_different, struct sl_err *err)
{
    puts(bench->json ? "\n]}" : note);
    if (n_printed == 0)
        return sl_fail(err, SL_E_USAGE,
                       "no kernel of this device matches '%s'; run without --filter for the list",
                       bench->filter ? bench->filter : "");
    if (n_different > 0)
        return sl_fail(err, SL_E_INTERNAL,
                       "%u results have other bits than the reference; report this with the table",
                       n_different);
    return SL_OK;
}

sl_status sl_bench_kernels(const struct sl_bench_kernels *bench, struct sl_err *err)
{
    if (bench->rounds == 0 || bench->rounds > SL_SAMPLES_MAX)
        return sl_fail(err, SL_E_USAGE, "1 to %d rounds", SL_SAMPLES_MAX);
    struct run *r = calloc(1, sizeof *r);
    if (!r)
        return sl_fail(err, SL_E_NOMEM, "out of memory for the bench");
    r->bench = *bench;
    r->bench.n_threads = sl_cpu_threads(bench->n_threads, 1);
    sl_status status = sl_bench_operands_init(r->bench.n_threads, err);
    if (status == SL_OK)
        status = sl_team_create(&r->team, r->bench.n_threads, sl_bench_scratch_bytes(), err);
    if (status == SL_OK) {
        r->memory = sl_bench_memory(&r->memory_bytes);
        print_head(r);
        sl_bench_cases(run_case, r);
        status = sl_bench_kernels_end(
            &r->bench,
            "\nshare of the peak and of the reading rate: measured in the same rounds. GB/s counts weights and pages once a run;\n"
            "\"memory\": more of them than caches hold. ref was run on at most two rows, its time scaled up.",
            r->n_printed, r->n_different, err);
    }
    sl_team_destroy(r->team);
    sl_bench_operands_fini();
    free(r);
    return status;
}
