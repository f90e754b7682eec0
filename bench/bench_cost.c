/* How well a stage's chunks are predicted: a mixed load runs through one stage, each chunk predicted before it runs and told to the
 * model afterwards, as the decider does it, from a prior that was measured, and from priors that are wrong by three. Every fourth
 * chunk is the same one, so that what no model can know, the noise of the machine, stands beside it, of the same minutes.
 *
 * Both times are taken of each chunk: of the clock on the wall, which is what counts, and of the thread's processor, which tells how
 * much of the noise is that of neighbours. What a device computes elsewhere has the first alone. */
#include "bench/bench_cost.h"
#include "base/clock.h"
#include "base/rng.h"
#include "bench/stage_bench.h"
#include "pipeline/stage/calibrate.h"
#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    SLICES = 4,
    CONTEXT = 8192,
    ROWS = 2048,
    LEARNING = 50,
    SAME_EACH = 4,
    SAME_POS = 2048,
    SAME_ROWS = 256,
    PRIORS = 3
};
enum { WALL, PROCESSOR, CLOCKS };
static const struct {
    const char *name, *key;
    double factor;
} priors[PRIORS] = {
    {"as measured", "measured", 1}, {"three times that", "thrice", 3}, {"a third of it", "third", 1.0 / 3}};
static const char *const clocks[CLOCKS] = {"wall", "processor"};

struct clocked {
    struct sl_cost_fit fits[PRIORS];
    double *errors[PRIORS], *same; /* of chunks after LEARNING; logarithms of the times of the same one */
};

struct cost_bench {
    struct sl_bench_cost bench;
    struct sl_stage_bench stage;
    struct sl_sequence *sequences[SLICES];
    struct sl_rng rng;
    struct clocked runs[CLOCKS];
    int n_clocks;
    uint32_t n_errors, n_same;
};

struct figures {
    double sigma, median[PRIORS], p90[PRIORS];
};

/* ---- chunks ---- */

static void add_slice(struct cost_bench *b, struct sl_cost_chunk *cost, uint32_t pos, uint32_t rows)
{
    struct sl_chunk *chunk = &b->stage.chunk;
    struct sl_sequence *sequence = b->sequences[chunk->n_slices];
    chunk->slices[chunk->n_slices++] = (struct sl_chunk_slice){sequence, pos, rows, 0};
    chunk->n_tokens += rows;
    sl_cost_add(cost, pos, rows);
}

/* Short prompts, whole, and pieces of long ones. */
static struct sl_cost_chunk draw(struct cost_bench *b, bool same)
{
    struct sl_cost_chunk cost = {0};
    b->stage.chunk.n_tokens = b->stage.chunk.n_slices = 0;
    if (same)
        add_slice(b, &cost, SAME_POS, SAME_ROWS);
    for (uint64_t n = same ? 0 : 1 + sl_rng_next(&b->rng) % SLICES; n; n--)
        if (sl_rng_next(&b->rng) % 2)
            add_slice(b, &cost, 0, (uint32_t)(16 + sl_rng_next(&b->rng) % 240));
        else
            add_slice(b, &cost, (uint32_t)(sl_rng_next(&b->rng) % 120 * SL_PAGE_TOKENS),
                      (uint32_t)(SL_PAGE_TOKENS * (1 + sl_rng_next(&b->rng) % 7)));
    for (uint32_t i = 0; i < b->stage.chunk.n_tokens; i++)
        b->stage.ids[i] = (uint32_t)(sl_rng_next(&b->rng) % sl_pack_shape(b->stage.pack)->vocab);
    b->stage.chunk.x = b->stage.rows;
    return cost;
}

static void run_chunk(struct cost_bench *b, uint32_t number)
{
    bool same = number % SAME_EACH == 0;
    struct sl_cost_chunk cost = draw(b, same);
    assert(b->stage.chunk.n_tokens <= ROWS);
    uint64_t began[CLOCKS] = {sl_clock_ns(), sl_clock_thread_ns()};
    sl_stage_embed(b->stage.stage, &b->stage.chunk, (const uint8_t *)b->stage.ids);
    sl_stage_run(b->stage.stage, &b->stage.chunk);
    uint64_t ended[CLOCKS] = {sl_clock_ns(), sl_clock_thread_ns()};
    for (int clock = 0; clock < CLOCKS; clock++) {
        struct clocked *run = &b->runs[clock];
        double us = (double)(ended[clock] - began[clock]) / 1000;
        for (int p = 0; p < PRIORS; p++) {
            if (number >= LEARNING && !same)
                run->errors[p][b->n_errors] = fabs(sl_cost_of(&run->fits[p].now, &cost) / us - 1);
            sl_cost_fit_add(&run->fits[p], &cost, us);
        }
        if (same && number >= LEARNING)
            run->same[b->n_same] = log(us);
    }
    b->n_errors += number >= LEARNING && !same;
    b->n_same += number >= LEARNING && same;
}

/* ---- figures ---- */

static int ascending(const void *a, const void *b)
{
    return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b);
}

static struct figures figures_of(const struct cost_bench *b, struct clocked *run)
{
    struct figures f = {0};
    double mean = 0, square = 0;
    for (uint32_t i = 0; i < b->n_same; i++)
        mean += run->same[i] / b->n_same;
    for (uint32_t i = 0; i < b->n_same; i++)
        square += (run->same[i] - mean) * (run->same[i] - mean);
    f.sigma = sqrt(square / (b->n_same - 1));
    for (int p = 0; p < PRIORS; p++) {
        qsort(run->errors[p], b->n_errors, sizeof(double), ascending);
        f.median[p] = run->errors[p][b->n_errors / 2];
        f.p90[p] = run->errors[p][b->n_errors * 9 / 10];
    }
    return f;
}

static void print(struct cost_bench *b)
{
    bool json = b->bench.json;
    if (json)
        printf("{\"chunks\": %u, \"learning\": %d, \"clocks\": {", b->bench.chunks, LEARNING);
    else
        printf(
            "%u chunks of a mixed load after %d, %u threads, %s kernels; error of a prediction (median, 90th percentile)\n",
            b->bench.chunks, LEARNING, b->stage.options.n_threads, sl_stage_isa(b->stage.stage));
    for (int clock = 0; clock < b->n_clocks; clock++) {
        struct figures f = figures_of(b, &b->runs[clock]);
        if (json)
            printf("%s\n  \"%s\": {\"sigma\": %.4f", clock ? "," : "", clocks[clock], f.sigma);
        else
            printf("%s time: the same chunk varies by %.1f %% (sigma)\n", clocks[clock], 100 * f.sigma);
        for (int p = 0; p < PRIORS; p++)
            if (json)
                printf(", \"%s\": {\"median\": %.4f, \"p90\": %.4f}", priors[p].key, f.median[p], f.p90[p]);
            else
                printf("  prior %-17s %5.1f %% %6.1f %%   %.2f and %.2f sigma\n", priors[p].name,
                       100 * f.median[p], 100 * f.p90[p], f.median[p] / f.sigma, f.p90[p] / f.sigma);
        if (json)
            putchar('}');
    }
    if (json)
        puts("\n}}");
}

/* ---- the bench ---- */

static sl_status take_memory(struct cost_bench *b, struct sl_err *err)
{
    size_t n = b->bench.chunks + LEARNING;
    bool good = true;
    for (int clock = 0; clock < CLOCKS; clock++) {
        good = (b->runs[clock].same = calloc(n, sizeof(double))) && good;
        for (int p = 0; p < PRIORS; p++)
            good = (b->runs[clock].errors[p] = calloc(n, sizeof(double))) && good;
    }
    return good ? SL_OK
                : sl_fail(err, SL_E_NOMEM, "out of memory for %u chunks; measure fewer", b->bench.chunks);
}

static sl_status make_fits(struct cost_bench *b, struct sl_err *err)
{
    struct sl_stage_calibration c;
    SL_TRY(sl_stage_calibrate(&c, b->stage.stage, b->stage.pack,
                              &(struct sl_stage_trial){.budget_us = 1000000}, err));
    for (int clock = 0; clock < CLOCKS; clock++)
        for (int p = 0; p < PRIORS; p++) {
            struct sl_cost prior = c.measured.cost;
            for (int i = 0; i < SL_COST_TERMS; i++)
                prior.us[i] *= priors[p].factor;
            sl_cost_fit_init(&b->runs[clock].fits[p], &prior);
        }
    return SL_OK;
}

static sl_status run(struct cost_bench *b, struct sl_err *err)
{
    struct sl_stage_bench_options options = {.model = b->bench.model,
                                             .device = b->bench.device,
                                             .kv = b->bench.kv,
                                             .numerics = b->bench.numerics,
                                             .load = sl_loading_of(&b->bench.load, SL_PROGRESS_BAR),
                                             .n_threads = b->bench.n_threads,
                                             .max_tokens = ROWS,
                                             .n_sequences = SLICES,
                                             .context_tokens = CONTEXT};
    SL_TRY(take_memory(b, err));
    SL_TRY(sl_stage_bench_open(&b->stage, &options, err));
    b->n_clocks = b->stage.device == SL_DEVICE_CPU ? CLOCKS : WALL + 1;
    SL_TRY(make_fits(b, err));
    for (uint32_t i = 0; i < SLICES; i++)
        SL_TRY(sl_stage_bench_sequence(&b->stage, i + 1, 0, CONTEXT, &b->sequences[i], err));
    for (uint32_t i = 0; i < b->bench.chunks + LEARNING; i++)
        run_chunk(b, i);
    print(b);
    return SL_OK;
}

sl_status sl_bench_cost(const struct sl_bench_cost *bench, struct sl_err *err)
{
    struct cost_bench *b = calloc(1, sizeof *b);
    if (!b)
        return sl_fail(err, SL_E_NOMEM, "out of memory for the bench");
    b->bench = *bench;
    b->rng = (struct sl_rng){1, 0};
    sl_status status = run(b, err);
    sl_stage_bench_close(&b->stage);
    for (int clock = 0; clock < CLOCKS; clock++) {
        free(b->runs[clock].same);
        for (int p = 0; p < PRIORS; p++)
            free(b->runs[clock].errors[p]);
    }
    free(b);
    return status;
}
