/* The two measurements of roofline.h: the loops of cpu/peak.h on every member at once, and passes
 * over memory.
 *
 * A member's rate is taken by its own clock: where more threads are runnable than there are
 * processors, what the machine can do does not become less. */
#include "kernels/roofline.h"
#include "base/arena.h"
#include "base/cpu.h"
#include "kernels/cpu/peak.h"
#include <assert.h>

enum {
    FIRST_LOOPS = 4096,    /* some microseconds */
    PEAK_NS = 300000,      /* of a round of sl_roofline_measure */
    READ_BYTES = 160 << 20 /* five times the last-level cache that a few cores share: a pass in four
                            * streams must not find what the pass before it left there */
};

typedef uint64_t peak_fn(uint64_t loops, float *sink);

static const struct yardstick {
    const char *table; /* sl_ops.name */
    enum sl_peak peak;
    uint32_t needs; /* beyond what the table itself needs */
    peak_fn *run;
    const char *instruction;
} yardsticks[] = {
    {"amx", SL_PEAK_F32, 0, sl_peak_avx512, "vfmadd, 16 floats"},
    {"amx", SL_PEAK_BF16, SL_CPU_BF16, sl_peak_bf16, "vdpbf16ps, 32 bf16"},
    {"amx", SL_PEAK_INT8, 0, sl_peak_int8_amx, "tdpbsud, 16 x 16 x 64 bytes"},
    {"avx512-vnni", SL_PEAK_F32, 0, sl_peak_avx512, "vfmadd, 16 floats"},
    {"avx512-vnni", SL_PEAK_BF16, SL_CPU_BF16, sl_peak_bf16, "vdpbf16ps, 32 bf16"},
    {"avx512-vnni", SL_PEAK_INT8, 0, sl_peak_int8_avx512vnni, "vpdpbusd, 64 bytes"},
    {"avx512", SL_PEAK_F32, 0, sl_peak_avx512, "vfmadd, 16 floats"},
    {"avx512", SL_PEAK_BF16, SL_CPU_BF16, sl_peak_bf16, "vdpbf16ps, 32 bf16"},
    {"avx512", SL_PEAK_INT8, 0, sl_peak_int8_avx2, "vpmaddubsw + vpaddw, 32 bytes, 8 to a widening"},
    {"avx2-vnni", SL_PEAK_F32, 0, sl_peak_avx2, "vfmadd, 8 floats"},
    {"avx2-vnni", SL_PEAK_INT8, 0, sl_peak_int8_avxvnni, "vpdpbusd, 32 bytes"},
    {"avx2", SL_PEAK_F32, 0, sl_peak_avx2, "vfmadd, 8 floats"},
    {"avx2", SL_PEAK_INT8, 0, sl_peak_int8_avx2, "vpmaddubsw + vpaddw, 32 bytes, 8 to a widening"},
};

static const struct yardstick *find(const struct sl_ops *ops, enum sl_peak peak)
{
    uint32_t features = sl_cpu_detect();
    for (size_t i = 0; i < sizeof yardsticks / sizeof *yardsticks; i++) {
        const struct yardstick *y = &yardsticks[i];
        if (y->peak == peak && strcmp(y->table, ops->name) == 0 && (features & y->needs) == y->needs)
            return y;
    }
    return NULL;
}

const char *sl_peak_instruction(const struct sl_ops *ops, enum sl_peak peak)
{
    const struct yardstick *y = find(ops, peak);
    return y ? y->instruction : NULL;
}

/* A member writes its own rate; the caller adds them up. */
struct peak_job {
    peak_fn *run;
    uint64_t ns;
    double *rates;
};

static void run_peak(void *arg, uint32_t member, uint32_t n_members, void *scratch)
{
    const struct peak_job *job = arg;
    float sink;
    uint64_t ns = 0, ops = 0;
    (void)n_members;
    (void)scratch;
    for (uint64_t loops = FIRST_LOOPS; ns < job->ns; loops *= 2) {
        uint64_t begin = sl_clock_thread_ns();
        ops = job->run(loops, &sink);
        ns = sl_clock_thread_ns() - begin;
    }
    job->rates[member] = (double)ops / (double)ns;
}

static double sum_of(const double *rates, uint32_t n)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += rates[i];
    return sum;
}

double sl_peak_measure(struct sl_team *team, const struct sl_ops *ops, enum sl_peak peak, uint64_t ns)
{
    const struct yardstick *y = find(ops, peak);
    double rates[SL_TEAM_MAX];
    if (!y)
        return 0;
    sl_team_run(team, run_peak, &(struct peak_job){y->run, ns, rates});
    return sum_of(rates, sl_team_size(team));
}

static double larger(double a, double b)
{
    return a > b ? a : b;
}

struct read_job {
    const uint8_t *memory;
    size_t lines;
    uint32_t streams;
    double *rates;
};

/* A member's share in so many streams, a line of each in turn. One word of every cache line: the
 * line comes whole, and the loads are few. */
static void read_lines(void *arg, uint32_t member, uint32_t n_members, void *scratch)
{
    const struct read_job *job = arg;
    size_t first = job->lines * member / n_members, end = job->lines * (member + 1) / n_members;
    size_t each = (end - first) / job->streams;
    uint64_t sum = 0, word, begin = sl_clock_thread_ns();
    (void)scratch;
    for (size_t i = first; i < first + each; i++)
        for (size_t line = i; line < i + job->streams * each; line += each) {
            memcpy(&word, job->memory + line * SL_CACHE_LINE, sizeof word);
            sum += word;
        }
    __asm__ volatile("" ::"r"(sum)); /* so that no load can be left out */
    job->rates[member] =
        (double)(job->streams * each * SL_CACHE_LINE) / (double)(sl_clock_thread_ns() - begin + 1);
}

double sl_read_measure(struct sl_team *team, const void *memory, size_t bytes)
{
    /* Zen 4 likes one stream better, Zen 3 four: 26 GB/s a core, and 20 in one. */
    static const uint32_t streams[] = {1, 4};
    double rates[SL_TEAM_MAX], best = 0;
    for (size_t i = 0; i < sizeof streams / sizeof *streams; i++) {
        sl_team_run(team, read_lines, &(struct read_job){memory, bytes / SL_CACHE_LINE, streams[i], rates});
        best = larger(best, sum_of(rates, sl_team_size(team)));
    }
    return best;
}

sl_status sl_roofline_measure(struct sl_roofline *roofline, const struct sl_ops *ops, uint32_t n_threads,
                              uint32_t best_of, struct sl_err *err)
{
    struct sl_team *team;
    struct sl_arena arena = {0};
    *roofline = (struct sl_roofline){0};
    SL_TRY(sl_team_create(&team, n_threads, 0, err));
    sl_status status = sl_arena_init(&arena, READ_BYTES, err);
    if (status == SL_OK) {
        for (size_t at = 0; at < READ_BYTES; at += 4096)
            arena.base[at] = 1; /* a page that was never written is one page of zeros, in the cache */
        for (uint32_t round = 0; round < best_of; round++) {
            for (int p = 0; p < SL_PEAKS; p++)
                roofline->ops_per_ns[p] =
                    larger(roofline->ops_per_ns[p], sl_peak_measure(team, ops, (enum sl_peak)p, PEAK_NS));
            roofline->bytes_per_ns =
                larger(roofline->bytes_per_ns, sl_read_measure(team, arena.base, READ_BYTES));
        }
    }
    sl_arena_fini(&arena);
    sl_team_destroy(team);
    return status;
}
