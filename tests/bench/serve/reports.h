/* Reports of a server that does not exist: a pipeline of stages that takes prompts in chunks, first come,
 * first served, so there is a queue with a tail, and parts and spans that add up. Everything is drawn from
 * a seed. */
#ifndef SL_TESTS_BENCH_SERVE_REPORTS_H
#define SL_TESTS_BENCH_SERVE_REPORTS_H

#include "base/rng.h"
#include "bench/serve/report.h"

#include <math.h>
#include <stdlib.h>

enum { MADE_RUNS = 8, MADE_STAGES = 4, MADE_CLASSES = 3, MADE_KEPT = 200, MADE_CHUNK = 256 };

struct made_config {
    uint32_t n_runs, n_requests, n_classes, n_stages; /* n_stages 0: not ours */
    bool sweep;                                       /* each run is a point; else they are repeats */
    double rate, fail_share;
    double warm_s;
    uint32_t most_tokens; /* output */
};

struct made {
    struct sl_report report;
    struct sl_load_run runs[MADE_RUNS];
    struct sl_kept_timeline kept[MADE_RUNS][MADE_KEPT];
};

static const char *const made_names[MADE_CLASSES] = {"chat", "batch <script>alert(1)</script> & \"co\"",
                                                     "agent"};
static const struct sl_limits made_limits[MADE_CLASSES] = {{250, 60, 0}, {3000, 0, 0}, {600, 60, 5000}};
static const char *const made_errors[] = {
    "", "the server refused it: too many requests wait, try again later", "no token for 3000 ms: gave up",
    "the stream broke: <b>connection reset</b> \xff\xc3\x28 \"by\" peer\x01",
    "more than 4096 were in flight"};
static const char *const made_settings[] = {
    "rate",        "4,8,16", "arrivals", "poisson",
    "seed",        "1",      "slo",      "ttft=250,tpot=60",
    "concurrency", "0",      "header",   "x-tenant-id: </td><script>alert(2)</script>",
    NULL};

static inline double made_unit(struct sl_rng *rng)
{
    return 1 - sl_rng_unit(sl_rng_next(rng));
}

/* A prompt goes through the pipeline; free_at[s]: when stage s is free, s. */
static inline void made_prefill(struct sl_outcome *o, double free_at[MADE_STAGES], uint32_t n_stages,
                                struct sl_kept_timeline *kept, struct sl_rng *rng)
{
    const double sent = (double)o->sent_ns / 1e9, ahead = 1000; /* the server's clock */
    uint32_t n_chunks = (o->input_tokens + MADE_CHUNK - 1) / MADE_CHUNK, n_spans = 0;
    struct sl_span *spans = kept ? calloc((size_t)n_chunks * n_stages, sizeof *spans) : NULL;
    double begin0 = 0, begin_last = 0, end_last = 0, busy = 0, wire = 0.0004 + 0.0003 * made_unit(rng);
    for (uint32_t c = 0; c < n_chunks; c++) {
        uint32_t tokens = c + 1 < n_chunks ? MADE_CHUNK : o->input_tokens - c * MADE_CHUNK;
        double ready = sent + wire / 2;
        for (uint32_t s = 0; s < n_stages; s++) {
            double begin = fmax(ready, free_at[s]);
            double end = begin + 0.002 +
                         0.010 * tokens / MADE_CHUNK * (s == 2 ? 1.2 : 1) * (0.9 + 0.2 * made_unit(rng));
            free_at[s] = end;
            begin0 = c == 0 && s == 0 ? begin : begin0;
            if (s + 1 == n_stages) {
                begin_last = c == 0 ? begin : begin_last;
                busy += end - begin;
                end_last = end;
            }
            if (spans)
                spans[n_spans++] = (struct sl_span){.stage = (uint16_t)s,
                                                    .chunk = c,
                                                    .pos = c * MADE_CHUNK,
                                                    .tokens = tokens,
                                                    .begin_us = (uint64_t)((begin + ahead) * 1e6),
                                                    .end_us = (uint64_t)((end + ahead) * 1e6)};
            ready = end + 0.0002;
        }
    }
    double drain = 0.0008, first = end_last + drain + wire / 2;
    o->first_ns = (uint64_t)(first * 1e9);
    o->has_parts = true;
    const double parts[SL_PARTS] = {
        wire,  begin0 - sent - wire / 2,      begin_last - begin0, busy, end_last - begin_last - busy,
        drain, 0.002 + 0.002 * made_unit(rng)};
    for (uint32_t p = 0; p < SL_PARTS; p++)
        o->parts_us[p] = parts[p] > 0 ? (uint32_t)(parts[p] * 1e6) : 0;
    if (kept)
        *kept = (struct sl_kept_timeline){o->number,
                                          {.submit_us = (uint64_t)((sent + ahead + wire / 2) * 1e6),
                                           .first_token_us = (uint64_t)((first + ahead) * 1e6),
                                           .n_stages = n_stages,
                                           .n_spans = n_spans,
                                           .spans = spans}};
}

static inline void made_decode(struct sl_outcome *o, struct sl_rng *rng)
{
    uint64_t at = o->first_ns;
    o->output_tokens = o->n_arrivals = o->wanted_tokens;
    o->n_gaps = o->n_arrivals - 1;
    o->gaps_ms = malloc((o->n_gaps + 1) * sizeof *o->gaps_ms);
    for (uint32_t k = 0; k < o->n_gaps; k++) {
        o->gaps_ms[k] = (float)(24 + 10 * made_unit(rng) + (made_unit(rng) < 0.01 ? 80 * made_unit(rng) : 0));
        at += (uint64_t)(o->gaps_ms[k] * 1e6f);
    }
    o->last_ns = at;
    o->end_ns = at + 300000;
    o->ending = SL_ENDING_DONE;
}

static inline void made_fail(struct sl_outcome *o, struct sl_rng *rng)
{
    double kind = made_unit(rng);
    o->first_ns = o->last_ns = SL_NEVER;
    o->has_parts = false;
    o->ending = kind < 0.6 ? SL_ENDING_FAILED : kind < 0.9 ? SL_ENDING_TIMEOUT : SL_ENDING_UNSENT;
    o->error = kind < 0.3 ? 1 : kind < 0.6 ? 3 : kind < 0.9 ? 2 : 4;
    o->end_ns = o->sent_ns + (kind < 0.6 ? 2000000 : 3000000000);
    if (o->ending == SL_ENDING_UNSENT) {
        o->end_ns = o->due_ns;
        o->sent_ns = SL_NEVER;
    }
}

static inline void made_run(struct made *made, uint32_t r, const struct made_config *config, double rate,
                            double fail_share)
{
    struct sl_load_run *run = &made->runs[r];
    struct sl_rng rng = {.seed = 7 + r};
    double free_at[MADE_STAGES] = {0}, at = 0;
    uint32_t n_stages = config->n_stages ? config->n_stages : 2, n_kept = 0;
    *run = (struct sl_load_run){
        .rate = rate, .point = config->sweep ? r : 0, .stolen_share = 0.013, .cpu_share = 0.08};
    run->outcomes = (struct sl_outcomes){.n = config->n_requests,
                                         .errors = made_errors,
                                         .n_errors = 5,
                                         .began_ns = 5000000000000u + r * 100000000000u,
                                         .warm_ns = (uint64_t)(config->warm_s * 1e9),
                                         .over_ns = SL_NEVER};
    run->outcomes.all = calloc(config->n_requests ? config->n_requests : 1, sizeof *run->outcomes.all);
    for (uint32_t i = 0; i < config->n_requests; i++) {
        struct sl_outcome *o = &run->outcomes.all[i];
        at += -log(made_unit(&rng)) / rate;
        o->number = i;
        o->load_class = (uint32_t)(sl_rng_next(&rng) % config->n_classes);
        o->due_ns = (uint64_t)(at * 1e9);
        o->sent_ns = o->due_ns + 20000 + (uint64_t)(60000 * made_unit(&rng));
        o->input_tokens = o->load_class == 1 ? 600 + (uint32_t)(1200 * made_unit(&rng))
                                             : 100 + (uint32_t)(500 * made_unit(&rng));
        o->wanted_tokens = 2 + (uint32_t)(config->most_tokens * made_unit(&rng));
        if (made_unit(&rng) < fail_share) {
            made_fail(o, &rng);
            continue;
        }
        bool keep = config->n_stages && n_kept < MADE_KEPT;
        made_prefill(o, free_at, n_stages, keep ? &made->kept[r][n_kept] : NULL, &rng);
        n_kept += keep;
        o->has_parts = o->has_parts && config->n_stages;
        made_decode(o, &rng);
    }
    run->timelines = made->kept[r];
    run->n_timelines = n_kept;
}

/* False: it could not be measured. */
static inline bool made_init(struct made *made, const struct made_config *config)
{
    *made = (struct made){
        .report = {.target = "grpc 127.0.0.1:50051",
                   .model = "Qwen3-30B-A3B <cut>",
                   .load = "poisson 4.00 requests/s, 512 in, 64 out, seed 1",
                   .command =
                       "sluice bench serve --grpc 127.0.0.1:50051 --rate 4 --slo 'ttft=250,tpot=60' --html "
                       "page.html",
                   .date = "2026-11-29T21:43:35Z",
                   .machine = "AMD EPYC 7B13, 2 processors, Linux 6.1",
                   .version = "0.1.0 (ed45ce9)",
                   .settings = made_settings,
                   .class_names = made_names,
                   .limits = made_limits,
                   .n_classes = config->n_classes,
                   .n_stages = config->n_stages}};
    made->report.runs = made->runs;
    made->report.n_runs = config->n_runs;
    made->report.n_points = config->sweep ? config->n_runs : config->n_runs > 0;
    for (uint32_t r = 0; r < config->n_runs; r++) {
        double grow = config->sweep ? r + 1 : 1;
        made_run(made, r, config, config->rate * grow,
                 config->fail_share * (config->sweep ? grow * grow / 36 : 1));
        struct sl_load_run *run = &made->runs[r];
        run->classes = calloc(config->n_classes, sizeof *run->classes);
        if (sl_measure(&run->all, &run->outcomes, -1, made_limits, config->n_classes, NULL) != SL_OK)
            return false;
        for (uint32_t c = 0; c < config->n_classes; c++)
            if (sl_measure(&run->classes[c], &run->outcomes, (int)c, made_limits, config->n_classes, NULL) !=
                SL_OK)
                return false;
    }
    return true;
}

static inline void made_fini(struct made *made)
{
    for (uint32_t r = 0; r < made->report.n_runs; r++) {
        for (uint32_t i = 0; i < made->runs[r].outcomes.n; i++)
            free(made->runs[r].outcomes.all[i].gaps_ms);
        for (uint32_t k = 0; k < made->runs[r].n_timelines; k++)
            free((void *)made->kept[r][k].timeline.spans);
        free(made->runs[r].outcomes.all);
        free(made->runs[r].classes);
    }
}

static inline char *made_read(const char *path, size_t *bytes)
{
    FILE *from = fopen(path, "r");
    char *text = NULL;
    long n = from && fseek(from, 0, SEEK_END) == 0 ? ftell(from) : -1;
    if (n >= 0 && (text = malloc((size_t)n + 1)) != NULL) {
        rewind(from);
        *bytes = fread(text, 1, (size_t)n, from);
        text[*bytes] = 0;
    }
    if (from)
        fclose(from);
    return text;
}

#endif
