/* The measures that the small simulated world shows, each with its target: ratios of runs with the same seed, and the median of
 * several seeds. A group is measures that come of the same runs. */
#include "bench/bench_schedule.h"
#include "bench/samples.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { N_SEEDS = 3, MOST_MEASURES = 4, N_RATES = 4 };
static const double rates[N_RATES] = {0.6, 0.8, 1.0, 1.2}; /* among which the best goodput is looked for */

struct measure {
    const char *what;
    char sign;     /* '<': at most, '>': at least, ' ': shown beside, without a target */
    double target; /* inclusive */
};

struct setting { /* what a group's runs have in common */
    const struct sl_bench_shape *shape;
    double sigma;
    uint64_t seed;
    uint32_t tokens; /* of LONG and PREFIX */
    double pause_us; /* of CHAT */
};

typedef sl_status (*take_values)(const struct setting *s, double *values, struct sl_err *err);

static struct sl_bench_run run_of(const struct setting *s, enum sl_bench_traffic_kind kind, double rate,
                                  uint32_t n, enum sl_schedule_kind schedule)
{
    return (struct sl_bench_run){.load = {kind, s->shape, rate, n, s->tokens, s->seed, s->pause_us},
                                 .world = {.shape = s->shape,
                                           .schedule = schedule,
                                           .kv_tokens = kind == SL_BENCH_GROWTH ? s->shape->context : 0,
                                           .sigma = s->sigma,
                                           .seed = s->seed}};
}

static sl_status figures_of(const struct sl_bench_run *run, struct sl_bench_figures *figures,
                            struct sl_err *err)
{
    struct sl_bench_report report;
    return sl_bench_schedule_run(run, figures, &report, err);
}

/* p99 of 64-token prompts beside long ones: ÷ alone, ÷ fifo; prompt tokens a second ÷ fifo. */
static sl_status take_mix(const struct setting *s, double *values, struct sl_err *err)
{
    enum { N = 4000 };
    struct sl_bench_run alone = run_of(s, SL_BENCH_ALONE, 0, N, SL_SCHEDULE_SLO),
                        mix = run_of(s, SL_BENCH_MIX, 0, N, SL_SCHEDULE_SLO),
                        fifo = run_of(s, SL_BENCH_MIX, 0, N, SL_SCHEDULE_FIFO);
    struct sl_bench_figures a, m, f;
    SL_TRY(figures_of(&alone, &a, err));
    SL_TRY(figures_of(&mix, &m, err));
    SL_TRY(figures_of(&fifo, &f, err));
    double p99 = m.of_class[SL_BENCH_CLASS_SHORT].p99_us;
    values[0] = p99 / a.of_class[SL_BENCH_CLASS_SHORT].p99_us;
    values[1] = p99 / f.of_class[SL_BENCH_CLASS_SHORT].p99_us;
    values[2] = m.rows_per_s / f.rows_per_s;
    return SL_OK;
}

static sl_status take_short(const struct setting *s, double *values, struct sl_err *err)
{
    struct sl_bench_run slo = run_of(s, SL_BENCH_SHORT, 0, 4000, SL_SCHEDULE_SLO),
                        fifo = run_of(s, SL_BENCH_SHORT, 0, 4000, SL_SCHEDULE_FIFO);
    struct sl_bench_figures a, b;
    SL_TRY(figures_of(&slo, &a, err));
    SL_TRY(figures_of(&fifo, &b, err));
    values[0] = a.rows_per_s / b.rows_per_s;
    return SL_OK;
}

enum {
    LONE =
        25 /* prompts, one after the other: the median counts, the first ones are what the cost model learns of */
};

/* Prompt tokens a second with as many chunks under way as the formula has it, ÷ three more; and how many that is. */
static sl_status take_more(const struct setting *s, enum sl_bench_traffic_kind kind, double *values,
                           struct sl_err *err)
{
    struct sl_bench_run run = run_of(s, kind, 0, 4000, SL_SCHEDULE_SLO);
    struct sl_bench_figures formula, more;
    struct sl_bench_report report;
    SL_TRY(sl_bench_schedule_run(&run, &formula, &report, err));
    run.world.runs = (uint32_t)(report.in_flight + 3.5);
    SL_TRY(figures_of(&run, &more, err));
    values[0] = formula.rows_per_s / more.rows_per_s;
    values[1] = report.in_flight;
    return SL_OK;
}

/* Of the mix; and of long conversations alone, whose prefixes make chunks of very different lengths. */
static sl_status take_runs(const struct setting *s, double *values, struct sl_err *err)
{
    SL_TRY(take_more(s, SL_BENCH_MIX, &values[0], err));
    return take_more(s, SL_BENCH_FULL, &values[2], err);
}

/* Time to the first token of a lone prompt: ÷ today's cut, ÷ the best of all fixed chunks. */
static sl_status take_long(const struct setting *s, double *values, struct sl_err *err)
{
    struct sl_bench_run slo = run_of(s, SL_BENCH_LONG, 0, LONE, SL_SCHEDULE_SLO),
                        fifo = run_of(s, SL_BENCH_LONG, 0, LONE, SL_SCHEDULE_FIFO);
    struct sl_bench_figures f;
    SL_TRY(figures_of(&slo, &f, err));
    double mine = f.all.p50_us, best = 0;
    SL_TRY(figures_of(&fifo, &f, err));
    values[0] = mine / f.all.p50_us;
    struct sl_bench_run fixed = fifo, quiet = fifo;
    quiet.load.n_requests =
        1; /* which is the best is asked without noise: the least of many noisy ones is too good */
    quiet.world.sigma = 0;
    for (uint32_t chunk = 2 * SL_PAGE; chunk <= SL_MAX_CHUNK_ASKED; chunk += 2 * SL_PAGE) {
        quiet.world.chunk_tokens = chunk;
        SL_TRY(figures_of(&quiet, &f, err));
        if (best > 0 && f.all.p50_us >= best)
            continue;
        best = f.all.p50_us;
        fixed.world.chunk_tokens = chunk;
    }
    SL_TRY(figures_of(&fixed, &f, err));
    best = f.all.p50_us;
    values[1] = mine / best;
    return SL_OK;
}

static double part(uint32_t some, uint32_t all)
{
    return all ? (double)some / all : 0;
}

/* At `rate`: goodput by work and by requests, ÷ that of the best rate; late ones among the accepted; refused ones. */
static sl_status take_rate(const struct setting *s, double rate, double *values, struct sl_err *err)
{
    enum { N = 8000 };
    struct sl_bench_figures f;
    double work = 0, requests = 0;
    for (uint32_t i = 0; i < N_RATES; i++) {
        struct sl_bench_run run = run_of(s, SL_BENCH_OVERLOAD, rates[i], N, SL_SCHEDULE_SLO);
        SL_TRY(figures_of(&run, &f, err));
        work = f.goodput_work > work ? f.goodput_work : work;
        requests = f.goodput_requests > requests ? f.goodput_requests : requests;
    }
    struct sl_bench_run run = run_of(s, SL_BENCH_OVERLOAD, rate, N, SL_SCHEDULE_SLO);
    SL_TRY(figures_of(&run, &f, err));
    values[0] = f.goodput_work / work;
    values[1] = f.goodput_requests / requests;
    values[2] = part(f.n_late, f.all.n - f.all.n_refused);
    values[3] = part(f.all.n_refused, f.all.n);
    return SL_OK;
}

static sl_status take_twice(const struct setting *s, double *values, struct sl_err *err)
{
    return take_rate(s, 2, values, err);
}

static sl_status take_four(const struct setting *s, double *values, struct sl_err *err)
{
    return take_rate(s, 4, values, err);
}

/* p99 of the time to the first token of those that are taken, at twice the capacity ÷ at 0.9 of it: of all, of short and of long ones. */
static sl_status take_waits(const struct setting *s, double *values, struct sl_err *err)
{
    struct sl_bench_run run = run_of(s, SL_BENCH_OVERLOAD, 0.9, 8000, SL_SCHEDULE_SLO);
    struct sl_bench_figures below, beyond;
    SL_TRY(figures_of(&run, &below, err));
    run.load.rate = 2;
    SL_TRY(figures_of(&run, &beyond, err));
    values[0] = beyond.all.p99_us / below.all.p99_us;
    values[1] = beyond.of_class[SL_BENCH_CLASS_SHORT].p99_us / below.of_class[SL_BENCH_CLASS_SHORT].p99_us;
    values[2] = beyond.of_class[SL_BENCH_CLASS_LONG].p99_us / below.of_class[SL_BENCH_CLASS_LONG].p99_us;
    return SL_OK;
}

/* At 0.6 of the capacity: refused; at all of it: accepted and late, and how far predictions were off. */
static sl_status take_calm(const struct setting *s, double *values, struct sl_err *err)
{
    struct sl_bench_run calm = run_of(s, SL_BENCH_OVERLOAD, 0.6, 8000, SL_SCHEDULE_SLO),
                        full = run_of(s, SL_BENCH_OVERLOAD, 1, 8000, SL_SCHEDULE_SLO);
    struct sl_bench_figures f;
    SL_TRY(figures_of(&calm, &f, err));
    values[0] = part(f.all.n_refused, f.all.n);
    SL_TRY(figures_of(&full, &f, err));
    values[1] = part(f.n_late, f.all.n - f.all.n_refused);
    values[2] = f.n_predicted > 0 ? f.error_p50 : HUGE_VAL;
    values[3] = f.n_predicted > 0 ? f.error_p90 : HUGE_VAL;
    return SL_OK;
}

/* The one at 0.3 of the capacity: its share of answers in time, and of its work; beside it what it would have of a pipeline of its own
 * that is half as fast, which is what its share is. */
static sl_status take_tenants(const struct setting *s, double *values, struct sl_err *err)
{
    struct sl_bench_run run = run_of(s, SL_BENCH_TENANTS, 0, 2000, SL_SCHEDULE_SLO);
    struct sl_bench_figures f;
    SL_TRY(figures_of(&run, &f, err));
    values[0] = part(f.of_group[0].n_met, f.of_group[0].n);
    values[1] = f.of_group[0].done_work_us / f.of_group[0].work_us;
    values[2] = f.of_group[0].met_work_us / f.of_group[0].work_us;
    struct sl_bench_run half = run_of(s, SL_BENCH_OVERLOAD, 0.3, 2000, SL_SCHEDULE_SLO);
    half.world.slower = 2;
    SL_TRY(figures_of(&half, &f, err));
    values[3] = f.all.met_work_us / f.all.work_us;
    return SL_OK;
}

/* Without max_tokens: output ÷ reserving what the context leaves, which is one request at a time when the pool is one context;
 * the longest pause of all streams but a hundredth, in steps; answers set back, of all. */
static sl_status take_growth(const struct setting *s, double *values, struct sl_err *err)
{
    struct sl_bench_run run = run_of(s, SL_BENCH_GROWTH, 0, 1400, SL_SCHEDULE_SLO), one = run;
    struct sl_bench_figures grown, reserved;
    struct sl_bench_report report;
    one.load.n_requests = 600;
    one.world.max_running = 1;
    SL_TRY(sl_bench_schedule_run(&run, &grown, &report, err));
    SL_TRY(figures_of(&one, &reserved, err));
    values[0] = grown.tokens_per_s / reserved.tokens_per_s;
    values[1] = grown.pause_p99_us / grown.step_us;
    values[2] = (double)report.set_back / grown.all.n;
    return SL_OK;
}

/* What a prompt of `tokens` and a message takes when those tokens are cached: ÷ one of that length that is not, and ÷ what the message
 * alone takes behind so many, from stage to stage; at a rate at which they hardly meet. */
static sl_status take_prefix(const struct setting *s, double *values, struct sl_err *err)
{
    struct sl_bench_run run = run_of(s, SL_BENCH_PREFIX, 0.05, 1000, SL_SCHEDULE_SLO);
    struct sl_bench_figures f;
    struct sl_cost_chunk message = {0};
    SL_TRY(figures_of(&run, &f, err));
    sl_cost_add(&message, s->tokens, 181); /* the middle of 64 and 512, by octaves */
    double floor_us = s->shape->n_stages * (sl_bench_shape_us(s->shape, &message) + s->shape->hop_us);
    values[0] = f.of_group[1].p50_us / f.of_group[0].p50_us;
    values[1] = f.of_group[1].p50_us / floor_us;
    return SL_OK;
}

/* Second turns when hardly anybody else is there, and at 0.6 of the capacity: tokens of what was said before that are computed again;
 * and how many begin behind all of it. */
static sl_status take_chat(const struct setting *s, double *values, struct sl_err *err)
{
    struct sl_bench_run quiet = run_of(s, SL_BENCH_CHAT, 0.01, 300, SL_SCHEDULE_SLO),
                        busy = run_of(s, SL_BENCH_CHAT, 0.6, 4000, SL_SCHEDULE_SLO);
    const struct sl_bench_group *second;
    struct sl_bench_figures f;
    SL_TRY(figures_of(&quiet, &f, err));
    second = &f.of_group[2];
    values[0] = second->again_p90;
    values[1] = part(second->n_reusing, second->n_knowing);
    SL_TRY(figures_of(&busy, &f, err));
    values[2] = second->again_p50;
    values[3] = part(second->n_reusing, second->n_knowing);
    return SL_OK;
}

/* What is taken of several shapes alike; what: NULL ends it. */
static const struct measure mix[MOST_MEASURES] = {{"mix: p99 of 64 tokens / alone", '<', 3},
                                                  {"mix: p99 / fifo", ' ', 0},
                                                  {"mix: throughput / fifo", '>', 1}},
                            short_only[MOST_MEASURES] = {{"short only: throughput / fifo", '>', 2.5}},
                            calm[MOST_MEASURES] = {{"0.6x: refused", '<', 0.01},
                                                   {"1x: accepted and late", '<', 0.01},
                                                   {"1x: TTFT predicted, median error", '<', 0.06},
                                                   {"1x: TTFT predicted, p90 error", '<', 0.2}},
                            twice[MOST_MEASURES] = {{"2x: goodput by work / best rate", '>', 0.9},
                                                    {"2x: by requests / best rate", '>', 1},
                                                    {"2x: accepted and late", ' ', 0},
                                                    {"2x: refused", ' ', 0}},
                            waits[MOST_MEASURES] = {{"2x: p99 TTFT of who is taken / 0.9x", '<', 1.2},
                                                    {"2x: p99 of short ones / 0.9x", '<', 1.2},
                                                    {"2x: p99 of long ones / 0.9x", ' ', 0}},
                            four[MOST_MEASURES] = {{"4x: goodput by work / best rate", '>', 0.75},
                                                   {"4x: by requests / best rate", ' ', 0},
                                                   {"4x: accepted and late", ' ', 0},
                                                   {"4x: refused", ' ', 0}},
                            runs[MOST_MEASURES] = {{"mix: throughput / 3 more under way", '>', 0.98},
                                                   {"mix: chunks under way", ' ', 0},
                                                   {"full: throughput / 3 more under way", ' ', 0},
                                                   {"full: chunks under way", ' ', 0}},
                            tenants[MOST_MEASURES] = {{"victim: in time", '>', 0.95},
                                                      {"victim: of its work, answered", '>', 0.85},
                                                      {"victim: of its work, in time", ' ', 0},
                                                      {"the same alone on half of the pipeline", ' ', 0}},
                            chat[MOST_MEASURES] = {{"chat alone: computed again, p90", '<', 64},
                                                   {"chat alone: begin behind all", ' ', 0},
                                                   {"chat at 0.6x: computed again, p50", ' ', 0},
                                                   {"chat at 0.6x: begin behind all", ' ', 0}};

static const struct group {
    const char *world;
    take_values take;
    uint32_t tokens;
    const struct measure *measures; /* [MOST_MEASURES], likewise */
} groups[] = {
    {"A", take_mix, 0,
     (const struct measure[MOST_MEASURES]){{"mix: p99 of 64 tokens / alone", '<', 3},
                                           {"mix: p99 / fifo", '<', 0.05},
                                           {"mix: throughput / fifo", '>', 1}}},
    {"B4", take_mix, 0, mix},
    {"B8", take_mix, 0, mix},
    {"A", take_short, 0, short_only},
    {"B4", take_short, 0, short_only},
    {"A8", take_long, 8192,
     (const struct measure[MOST_MEASURES]){{"8k alone: TTFT / today's cut", '<', 0.75},
                                           {"8k alone: TTFT / best fixed", ' ', 0}}},
    {"A8", take_long, 32768,
     (const struct measure[MOST_MEASURES]){{"32k alone: TTFT / today's cut", '<', 0.75},
                                           {"32k alone: TTFT / best fixed", ' ', 0}}},
    {"B8", take_long, 32768,
     (const struct measure[MOST_MEASURES]){{"32k alone: TTFT / today's cut", ' ', 0},
                                           {"32k alone: TTFT / best fixed", '<', 0.93}}},
    {"A", take_calm, 0, calm},
    {"A", take_twice, 0, twice},
    {"A", take_waits, 0, waits},
    {"A", take_four, 0, four},
    {"B4", take_calm, 0, calm},
    {"B4", take_twice, 0, twice},
    {"B4", take_waits, 0, waits},
    {"B4", take_four, 0, four},
    {"A", take_runs, 0, runs},
    {"B4", take_runs, 0, runs},
    {"B8", take_runs, 0, runs},
    {"A", take_tenants, 0, tenants},
    {"B4", take_tenants, 0, tenants},
    {"A", take_prefix, 8192,
     (const struct measure[MOST_MEASURES]){{"8k prefix: TTFT, hit / miss", '<', 0.1},
                                           {"8k prefix: hit / the least it takes", '<', 1.3}}},
    {"B4", take_prefix, 8192,
     (const struct measure[MOST_MEASURES]){{"8k prefix: TTFT, hit / miss", ' ', 0},
                                           {"8k prefix: hit / the least it takes", '<', 1.3}}},
    {"A", take_chat, 0, chat},
    {"B4", take_chat, 0, chat},
    {"B4", take_growth, 0,
     (const struct measure[MOST_MEASURES]){{"no max_tokens: output / reserving", '>', 20},
                                           {"no max_tokens: p99 pause in steps", '<', 10},
                                           {"no max_tokens: set back, of all", '<', 1.0 / 64}}},
};

static void say(const struct group *g, const struct measure *m, double value, bool json, bool first)
{
    bool held = m->sign == '<' ? value <= m->target : value >= m->target;
    const char *verdict = m->sign == ' ' ? "" : held ? "yes" : "NO";
    char target[32] = "";
    if (m->sign != ' ')
        snprintf(target, sizeof target, "%s %.4g", m->sign == '<' ? "<=" : ">=", m->target);
    if (json)
        printf(
            "%s{\"world\": \"%s\", \"measure\": \"%s\", \"target\": \"%s\", \"value\": %.5g, \"verdict\": \"%s\"}",
            first ? "" : ",\n ", g->world, m->what, target, value, verdict);
    else
        printf("%-3s %-36s %9s %10.4g  %s\n", g->world, m->what, target, value, verdict);
    fflush(stdout);
}

sl_status sl_bench_schedule_table(const struct sl_bench_schedule *b, struct sl_err *err)
{
    bool first = true;
    if (b->json)
        printf("[");
    for (uint32_t i = 0; i < sizeof groups / sizeof *groups; i++) {
        const struct group *g = &groups[i];
        double values[N_SEEDS][MOST_MEASURES] = {{0}};
        for (uint32_t k = 0; k < N_SEEDS; k++) {
            struct setting s = {sl_bench_shape_find(g->world), b->sigma, b->seed + k, g->tokens, 5e6};
            SL_TRY(g->take(&s, values[k], err));
        }
        for (uint32_t m = 0; m < MOST_MEASURES && g->measures[m].what; m++) {
            double of_seeds[N_SEEDS];
            for (uint32_t k = 0; k < N_SEEDS; k++)
                of_seeds[k] = values[k][m];
            say(g, &g->measures[m], sl_median(of_seeds, N_SEEDS), b->json, first);
            first = false;
        }
    }
    if (b->json)
        printf("]\n");
    return SL_OK;
}
