/* The JSON of a measurement: what `vllm bench serve --save-result --save-detailed` writes, so that its
 * readers read ours, and all that it has no word for under one key, "sluice".
 *
 * One load is one object. A sweep is a list of them, one a point, as `vllm bench sweep` collects in its
 * summary.json. Repeats of a point are pooled. Per request, and with its conventions: seconds (ttfts,
 * itls, latencies, start_times), a request without a first token has 0.0, one that failed its sentence in
 * errors and the others "". Differences from vLLM, where its definition loses what we measure:
 *
 *   - start_times are when a request was due, not when it was sent, and ttfts, latencies and e2el count
 *     from there: what waited at the client counts. start_times[i] + ttfts[i] is when the first token
 *     came, as with vLLM. "send_lags" has sent - due.
 *   - percentiles are of all requests, where vLLM's are of those that succeeded: a failed request is
 *     slower than all. One that lies among the failed has no number, so it is null (JSON has no infinity,
 *     and a reader that computes with a made-up number would not notice). One for which there are too few
 *     samples is given as the nearest rank, as vLLM does, since its readers plot nothing without it; under
 *     "sluice" it is null. Means, deviations and the lists are of what is finite.
 *   - requests of the warm-up are in none of it. */
#include "bench/serve/point.h"
#include "bench/serve/written.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const part_keys[SL_PARTS] = {"wire", "queue", "fill", "busy", "stall", "drain", "kv"};

/* ---- small pieces ---- */

static void put(FILE *to, const char *key, double value)
{
    sl_write_key(to, key, false);
    sl_write_number(to, value);
}

static void put_count(FILE *to, const char *key, uint64_t value)
{
    sl_write_key(to, key, false);
    fprintf(to, "%" PRIu64, value);
}

static void put_text(FILE *to, const char *key, const char *value)
{
    sl_write_key(to, key, false);
    sl_write_json(to, value);
}

static void put_bool(FILE *to, const char *key, bool value)
{
    sl_write_key(to, key, false);
    fputs(value ? "true" : "false", to);
}

/* ---- ours ---- */

static void put_interval(FILE *to, const struct sl_interval *interval)
{
    fputs("{\"value\": ", to);
    sl_write_number(to, interval->known ? interval->value : NAN);
    put(to, "low", interval->bounded ? interval->low : NAN);
    put(to, "high", interval->bounded ? interval->high : NAN);
    put_bool(to, "known", interval->known);
    put_bool(to, "bounded", interval->bounded);
    put_bool(to, "among_failed", interval->known && isinf(interval->value));
    put_bool(to, "high_among_failed", interval->bounded && isinf(interval->high));
    put_count(to, "blocks", interval->n_blocks);
    fputs("}", to);
}

static void put_figure(FILE *to, const struct sl_figure *figure)
{
    bool any = figure->n > figure->n_failed;
    fprintf(to, "{\"samples\": %" PRIu32 ", \"failed\": %" PRIu32, figure->n, figure->n_failed);
    put(to, "mean", any ? figure->mean : NAN);
    put(to, "mean_low", figure->mean_interval.bounded ? figure->mean_interval.low : NAN);
    put(to, "mean_high", figure->mean_interval.bounded ? figure->mean_interval.high : NAN);
    put(to, "deviation", any ? figure->deviation : NAN);
    put(to, "minimum", any ? figure->minimum : NAN);
    put(to, "maximum", any ? figure->maximum : NAN);
    for (uint32_t q = 0; q < SL_QUANTILES; q++) {
        char key[16];
        snprintf(key, sizeof key, "p%.4g", 100 * sl_quantiles[q]);
        sl_write_key(to, key, false);
        put_interval(to, &figure->quantiles[q]);
    }
    fputs("}", to);
}

static void put_summary(FILE *to, const struct sl_summary *s)
{
    const struct {
        const char *key;
        uint64_t value;
    } counts[] = {{"requests", s->n_requests},         {"done", s->n_done},
                  {"cancelled", s->n_cancelled},       {"failed", s->n_failed},
                  {"timed_out", s->n_timeout},         {"unsent", s->n_unsent},
                  {"unfinished", s->n_unfinished},     {"input_tokens", s->input_tokens},
                  {"output_tokens", s->output_tokens}, {"max_in_flight", s->max_in_flight}};
    fputs("{\"unit\": \"ms\"", to);
    for (uint32_t i = 0; i < sizeof counts / sizeof *counts; i++)
        put_count(to, counts[i].key, counts[i].value);
    put(to, "seconds", s->seconds);
    put(to, "requests_per_s", s->requests_per_s);
    put(to, "output_tokens_per_s", s->output_per_s);
    put(to, "tokens_per_s", s->tokens_per_s);
    put(to, "mean_in_flight", s->mean_in_flight);
    put(to, "max_output_tokens_in_a_second", s->max_output_per_s);
    if (s->has_limits) {
        put_count(to, "good", s->n_good);
        put(to, "good_per_s", s->good_per_s);
        put(to, "good_share", s->good_share);
    }
    for (enum sl_measure measure = 0; measure < SL_MEASURES; measure++) {
        sl_write_key(to, sl_measure_keys[measure], false);
        put_figure(to, &s->figures[measure]);
    }
    if (s->n_parts) {
        put_count(to, "requests_with_parts", s->n_parts);
        fputs(", \"parts\": {", to);
        for (uint32_t part = 0; part < SL_PARTS; part++) {
            sl_write_key(to, part_keys[part], part == 0);
            fputs("{\"mean\": ", to);
            sl_write_number(to, s->parts_ms[part]);
            put(to, "p99", s->parts_p99_ms[part]);
            fputs("}", to);
        }
        fputs("}", to);
    }
    fputs("}", to);
}

static void put_classes(FILE *to, const struct sl_report *report, const struct sl_summary *classes)
{
    fputs(", \"classes\": {", to);
    for (uint32_t c = 0; c < report->n_classes; c++) {
        sl_write_key(to, report->class_names[c], c == 0);
        put_summary(to, &classes[c]);
    }
    fputs("}", to);
}

static sl_status put_errors(FILE *to, const struct sl_outcomes *outcomes, struct sl_err *err)
{
    uint32_t *counts = calloc((size_t)outcomes->n_errors + 1, sizeof *counts);
    bool first = true;
    if (!counts)
        return sl_fail(err, SL_E_NOMEM, "no memory to count %u sentences of failed requests",
                       outcomes->n_errors);
    for (uint32_t i = 0; i < outcomes->n; i++)
        if (outcomes->all[i].error < outcomes->n_errors)
            counts[outcomes->all[i].error]++;
    fputs(", \"errors\": {", to);
    for (uint32_t e = 1; e < outcomes->n_errors; e++) {
        if (counts[e] == 0)
            continue;
        sl_write_key(to, outcomes->errors[e], first);
        fprintf(to, "%" PRIu32, counts[e]);
        first = false;
    }
    fputs("}", to);
    free(counts);
    return SL_OK;
}

static sl_status put_run(FILE *to, const struct sl_report *report, const struct sl_load_run *run,
                         struct sl_err *err)
{
    fputs("{\"rate\": ", to);
    sl_write_number(to, run->rate);
    put_count(to, "point", run->point);
    put_bool(to, "valid", !run->invalid);
    put(to, "stolen_share", run->stolen_share < 0 ? NAN : run->stolen_share);
    put(to, "harness_cpu_share", run->cpu_share);
    put_count(to, "began_ns", run->outcomes.began_ns);
    put_count(to, "warm_ns", run->outcomes.warm_ns);
    if (run->outcomes.over_ns == SL_NEVER)
        put_text(to, "over_ns", NULL);
    else
        put_count(to, "over_ns", run->outcomes.over_ns);
    SL_TRY(put_errors(to, &run->outcomes, err));
    sl_write_key(to, "all", false);
    put_summary(to, &run->all);
    put_classes(to, report, run->classes);
    fputs("}", to);
    return SL_OK;
}

static void put_limits(FILE *to, const struct sl_report *report)
{
    fputs(", \"limits_ms\": {", to);
    for (uint32_t c = 0; c < report->n_classes; c++) {
        const struct sl_limits *limits = &report->limits[c];
        sl_write_key(to, report->class_names[c], c == 0);
        fputs("{\"ttft\": ", to);
        sl_write_number(to, limits->ttft_ms > 0 ? limits->ttft_ms : NAN);
        put(to, "tpot", limits->tpot_ms > 0 ? limits->tpot_ms : NAN);
        put(to, "e2el", limits->e2e_ms > 0 ? limits->e2e_ms : NAN);
        fputs("}", to);
    }
    fputs("}", to);
}

static void put_settings(FILE *to, const struct sl_report *report)
{
    fputs(", \"settings\": {", to);
    const char *const *at = report->settings;
    for (bool first = true; at && at[0] && at[1]; at += 2, first = false) {
        sl_write_key(to, at[0], first);
        sl_write_json(to, at[1]);
    }
    fputs("}", to);
}

/* A figure of each repeat, its mean with Student's t, and how much it varies. */
static void put_repeated(FILE *to, const struct sl_point *point, const char *key, bool first, double *figures)
{
    double variation = 0;
    bool whole = true;
    for (uint32_t r = 0; r < point->n_runs; r++)
        whole = whole && isfinite(figures[r]);
    sl_write_key(to, key, first);
    fputs("{\"of_runs\": [", to);
    for (uint32_t r = 0; r < point->n_runs; r++) {
        fputs(r ? ", " : "", to);
        sl_write_number(to, figures[r]);
    }
    fputs("]", to);
    struct sl_interval interval = {0};
    if (whole)
        interval = sl_interval_repeats(figures, point->n_runs, &variation);
    put(to, "mean", whole ? interval.value : NAN);
    put(to, "low", whole && interval.bounded ? interval.low : NAN);
    put(to, "high", whole && interval.bounded ? interval.high : NAN);
    put(to, "variation", whole ? variation : NAN);
    fputs("}", to);
}

static sl_status put_repeats(FILE *to, const struct sl_point *point, struct sl_err *err)
{
    static const enum sl_measure measures[] = {SL_TTFT, SL_ITL, SL_TPOT, SL_E2E};
    double *figures = malloc(point->n_runs * sizeof *figures);
    if (!figures)
        return sl_fail(err, SL_E_NOMEM, "no memory for the figures of %u repeats", point->n_runs);
    fputs(", \"repeats\": {", to);
    for (uint32_t i = 0; i < 4; i++)
        for (uint32_t q = 0; q < SL_QUANTILES; q++) {
            char key[32];
            for (uint32_t r = 0; r < point->n_runs; r++) {
                const struct sl_interval *at = &point->runs[r]->all.figures[measures[i]].quantiles[q];
                figures[r] = at->known ? at->value : NAN;
            }
            snprintf(key, sizeof key, "p%.4g_%s_ms", 100 * sl_quantiles[q], sl_measure_keys[measures[i]]);
            put_repeated(to, point, key, i == 0 && q == 0, figures);
        }
    for (uint32_t r = 0; r < point->n_runs; r++)
        figures[r] = point->runs[r]->all.requests_per_s;
    put_repeated(to, point, "request_throughput", false, figures);
    for (uint32_t r = 0; r < point->n_runs; r++)
        figures[r] = point->runs[r]->all.output_per_s;
    put_repeated(to, point, "output_throughput", false, figures);
    for (uint32_t r = 0; point->all.has_limits && r < point->n_runs; r++)
        figures[r] = point->runs[r]->all.good_per_s;
    if (point->all.has_limits)
        put_repeated(to, point, "request_goodput", false, figures);
    fputs("}", to);
    free(figures);
    return SL_OK;
}

/* ---- histograms ---- */

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* The lowest us of the bucket that a value lies in: the buckets of histogram.h, one a us below 2048, then
 * 1024 in each power of two. So counts of equal buckets can be added, whoever wrote them. */
static uint64_t bucket_us(double ms)
{
    double us = ms * 1000;
    uint64_t value = us >= 3.6e9 ? 3600000000u : us > 1 ? (uint64_t)us : 1;
    uint32_t shift = value < 2048 ? 0 : 64 - 11 - (uint32_t)__builtin_clzll(value);
    return value >> shift << shift;
}

/* {"us": [lowest us of each bucket that is not empty, the first whole, then the distance to the one
 * before], "n": [counts]}. */
static void put_histogram(FILE *to, double *values, uint32_t n)
{
    qsort(values, n, sizeof *values, by_size);
    uint32_t finite = n;
    while (finite > 0 && !isfinite(values[finite - 1]))
        finite--;
    fprintf(to, "{\"failed\": %" PRIu32 ", \"us\": [", n - finite);
    uint64_t last = 0;
    for (uint32_t i = 0; i < finite; i++) {
        uint64_t bucket = bucket_us(values[i]);
        if (bucket != last)
            fprintf(to, "%s%" PRIu64, last ? "," : "", bucket - last);
        last = bucket;
    }
    fputs("], \"n\": [", to);
    for (uint32_t i = 0, begin = 0; i < finite; i++)
        if (i + 1 == finite || bucket_us(values[i + 1]) != bucket_us(values[i])) {
            fprintf(to, "%s%" PRIu32, begin ? "," : "", i + 1 - begin);
            begin = i + 1;
        }
    fputs("]}", to);
}

static sl_status put_histograms_of(FILE *to, const struct sl_point *point, int load_class, struct sl_err *err)
{
    fputs("{", to);
    for (enum sl_measure measure = 0; measure < SL_MEASURES; measure++) {
        double *values;
        uint32_t n;
        SL_TRY(sl_point_values(point, load_class, measure, &values, &n, err));
        sl_write_key(to, sl_measure_keys[measure], measure == 0);
        put_histogram(to, values, n);
        free(values);
    }
    fputs("}", to);
    return SL_OK;
}

static sl_status put_histograms(FILE *to, const struct sl_report *report, const struct sl_point *point,
                                struct sl_err *err)
{
    fputs(", \"histograms\": {\"all\": ", to);
    SL_TRY(put_histograms_of(to, point, -1, err));
    fputs(", \"classes\": {", to);
    for (uint32_t c = 0; c < report->n_classes; c++) {
        sl_write_key(to, report->class_names[c], c == 0);
        SL_TRY(put_histograms_of(to, point, (int)c, err));
    }
    fputs("}}", to);
    return SL_OK;
}

static sl_status put_ours(FILE *to, const struct sl_report *report, const struct sl_point *point,
                          struct sl_err *err)
{
    fputs(",\n \"sluice\": {\"format\": 1", to);
    put_text(to, "version", report->version);
    put_text(to, "date", report->date);
    put_text(to, "machine", report->machine);
    put_text(to, "command", report->command);
    put_text(to, "target", report->target);
    put_text(to, "load", report->load);
    put_bool(to, "valid", !point->invalid);
    put_count(to, "point", point->number);
    put_count(to, "points", report->n_points);
    put_count(to, "stages", report->n_stages);
    put_settings(to, report);
    put_limits(to, report);
    fputs(",\n  \"all\": ", to);
    put_summary(to, &point->all);
    put_classes(to, report, point->classes);
    fputs(",\n  \"runs\": [", to);
    for (uint32_t r = 0; r < point->n_runs; r++) {
        fputs(r ? ",\n   " : "", to);
        SL_TRY(put_run(to, report, point->runs[r], err));
    }
    fputs("]", to);
    if (point->n_runs > 1)
        SL_TRY(put_repeats(to, point, err));
    SL_TRY(put_histograms(to, report, point, err));
    fputs("}", to);
    return SL_OK;
}

/* ---- vLLM's ---- */

static const char *setting(const struct sl_report *report, const char *key)
{
    const char *const *at = report->settings;
    for (; at && at[0] && at[1]; at += 2)
        if (strcmp(at[0], key) == 0)
            return at[1];
    return NULL;
}

/* "2026-11-29T21:43:35Z" as vLLM writes it: "20261129-214335". */
static void put_date(FILE *to, const char *date)
{
    char digits[15] = "";
    uint32_t n = 0;
    for (; date && *date && n < 14; date++)
        if (*date >= '0' && *date <= '9')
            digits[n++] = *date;
    sl_write_key(to, "date", true);
    if (n == 14)
        fprintf(to, "\"%.8s-%.6s\"", digits, digits + 8);
    else
        sl_write_json(to, "");
}

static void put_load(FILE *to, const struct sl_report *report, const struct sl_point *point)
{
    const char *arrivals = setting(report, "arrivals"), *concurrency = setting(report, "concurrency");
    char kind[16];
    snprintf(kind, sizeof kind, "%.*s", (int)strcspn(report->target ? report->target : "", " "),
             report->target ? report->target : "");
    put_date(to, report->date);
    put_text(to, "endpoint_type", kind);
    put_text(to, "backend", kind);
    put_text(to, "label", report->target);
    put_text(to, "model_id", report->model);
    put_text(to, "tokenizer_id", report->model);
    put_count(to, "num_prompts", point->all.n_requests);
    sl_write_key(to, "request_rate", false);
    if (point->rate > 0)
        sl_write_number(to, point->rate);
    else
        fputs("\"inf\"", to);
    sl_write_key(to, "burstiness", false);
    if (!arrivals || strcmp(arrivals, "poisson") == 0)
        fputs("1.0", to);
    else if (strncmp(arrivals, "gamma:", 6) == 0)
        sl_write_number(to, strtod(arrivals + 6, NULL));
    else
        sl_write_json(to, strcmp(arrivals, "constant") == 0 ? "inf" : arrivals);
    unsigned long most = concurrency ? strtoul(concurrency, NULL, 10) : 0;
    if (most > 0)
        put_count(to, "max_concurrency", most);
    else
        put_text(to, "max_concurrency", NULL);
}

static void put_percentiles(FILE *to, const struct sl_summary *all)
{
    static const enum sl_measure measures[] = {SL_TTFT, SL_TPOT, SL_ITL, SL_E2E};
    for (uint32_t i = 0; i < sizeof measures / sizeof *measures; i++) {
        const struct sl_figure *figure = &all->figures[measures[i]];
        const char *name = sl_measure_keys[measures[i]];
        bool any = figure->n > figure->n_failed;
        char key[48];
        snprintf(key, sizeof key, "mean_%s_ms", name);
        put(to, key, any ? figure->mean : NAN);
        snprintf(key, sizeof key, "median_%s_ms", name);
        put(to, key, figure->quantiles[0].value);
        snprintf(key, sizeof key, "std_%s_ms", name);
        put(to, key, any ? figure->deviation : NAN);
        for (uint32_t q = 0; q < SL_QUANTILES; q++) {
            snprintf(key, sizeof key, "p%.4g_%s_ms", 100 * sl_quantiles[q], name);
            put(to, key, figure->quantiles[q].value);
        }
    }
}

static void put_seconds(FILE *to, uint64_t ns)
{
    fprintf(to, "%" PRIu64 ".%09" PRIu64, ns / 1000000000u, ns % 1000000000u);
}

static uint64_t since_due(const struct sl_outcome *o, uint64_t ns)
{
    return ns != SL_NEVER && ns > o->due_ns ? ns - o->due_ns : 0;
}

enum json_list { INPUT_LENS, OUTPUT_LENS, START_TIMES, TTFTS, ITLS, LATENCIES, SEND_LAGS, ERRORS, LISTS };

static void put_item(FILE *to, enum json_list list, const struct sl_load_run *run, const struct sl_outcome *o)
{
    switch (list) {
    case INPUT_LENS:
        fprintf(to, "%" PRIu32, o->input_tokens);
        break;
    case OUTPUT_LENS:
        fprintf(to, "%" PRIu32, o->output_tokens);
        break;
    case START_TIMES: /* of the monotonic clock, as Python's perf_counter is on Linux */
        put_seconds(to, run->outcomes.began_ns + o->due_ns);
        break;
    case TTFTS:
        put_seconds(to, since_due(o, o->first_ns));
        break;
    case ITLS:
        fputc('[', to);
        for (uint32_t k = 0; k < o->n_gaps; k++)
            fprintf(to, "%s%.6f", k ? "," : "", (double)o->gaps_ms[k] / 1000);
        fputc(']', to);
        break;
    case LATENCIES:
        put_seconds(to, since_due(o, o->last_ns));
        break;
    case SEND_LAGS:
        put_seconds(to, since_due(o, o->sent_ns));
        break;
    default:
        sl_write_json(to, o->error > 0 && o->error < run->outcomes.n_errors ? run->outcomes.errors[o->error]
                          : o->ending == SL_ENDING_NONE ? "the run ended before this request"
                                                        : "");
    }
}

static void put_lists(FILE *to, const struct sl_point *point)
{
    static const char *const names[LISTS] = {"input_lens", "output_lens", "start_times", "ttfts",
                                             "itls",       "latencies",   "send_lags",   "errors"};
    for (enum json_list list = 0; list < LISTS; list++) {
        fprintf(to, ",\n \"%s\": [", names[list]);
        bool first = true;
        for (uint32_t r = 0; r < point->n_runs; r++)
            for (uint32_t i = 0; i < point->runs[r]->outcomes.n; i++) {
                const struct sl_outcome *outcome = &point->runs[r]->outcomes.all[i];
                if (!sl_point_counts(point->runs[r], outcome, -1))
                    continue;
                fputs(first ? "" : ", ", to);
                put_item(to, list, point->runs[r], outcome);
                first = false;
            }
        fputs("]", to);
    }
}

static sl_status put_point(FILE *to, const struct sl_report *report, const struct sl_point *point,
                           struct sl_err *err)
{
    const struct sl_summary *all = &point->all;
    fputs("{", to);
    put_load(to, report, point);
    put(to, "duration", all->seconds);
    put_count(to, "completed", all->n_done);
    put_count(to, "failed", (uint64_t)all->n_failed + all->n_timeout + all->n_unsent);
    put_count(to, "total_input_tokens", all->input_tokens);
    put_count(to, "total_output_tokens", all->output_tokens);
    put(to, "request_throughput", all->requests_per_s);
    put(to, "request_goodput", all->has_limits ? all->good_per_s : NAN);
    put(to, "output_throughput", all->output_per_s);
    put(to, "total_token_throughput", all->tokens_per_s);
    put(to, "max_output_tokens_per_s", all->max_output_per_s);
    put_count(to, "max_concurrent_requests", all->max_in_flight);
    put(to, "rtfx", 0);
    put_percentiles(to, all);
    put_lists(to, point);
    SL_TRY(put_ours(to, report, point, err));
    fputs("}", to);
    return SL_OK;
}

sl_status sl_report_json(const struct sl_report *report, const char *path, struct sl_err *err)
{
    struct sl_points points;
    struct sl_written written;
    SL_TRY(sl_points_init(&points, report, err));
    sl_status status = sl_written_open(&written, "results", path, err);
    if (status == SL_OK) {
        bool list = points.n != 1;
        fputs(list ? "[" : "", written.to);
        for (uint32_t p = 0; p < points.n && status == SL_OK; p++) {
            fputs(p ? ",\n" : "", written.to);
            status = put_point(written.to, report, &points.at[p], err);
        }
        fputs(list ? "]\n" : "\n", written.to);
        if (status == SL_OK)
            status = sl_written_close(&written, err);
        else
            sl_written_drop(&written);
    }
    sl_points_fini(&points);
    return status;
}
