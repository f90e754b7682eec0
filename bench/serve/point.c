/* Pooling the repeats of a load (point.h). Quantiles are those of all samples, laid one run after the
 * other, so a block of samples (interval.h) never reaches across more than one seam a run; rates are
 * totals over the sum of the seconds. */
#include "bench/serve/point.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

bool sl_point_counts(const struct sl_load_run *run, const struct sl_outcome *outcome, int load_class)
{
    return outcome->due_ns >= run->outcomes.warm_ns && outcome->due_ns < run->outcomes.over_ns &&
           (load_class < 0 || outcome->load_class == (uint32_t)load_class);
}

static uint64_t most_values(const struct sl_point *point, int load_class, enum sl_measure measure)
{
    uint64_t n = 0;
    for (uint32_t r = 0; r < point->n_runs; r++)
        for (uint32_t i = 0; i < point->runs[r]->outcomes.n; i++) {
            const struct sl_outcome *outcome = &point->runs[r]->outcomes.all[i];
            if (sl_point_counts(point->runs[r], outcome, load_class))
                n += measure == SL_ITL ? outcome->n_gaps : 1;
        }
    return n;
}

sl_status sl_point_values(const struct sl_point *point, int load_class, enum sl_measure measure,
                          double **values, uint32_t *n, struct sl_err *err)
{
    uint64_t most = most_values(point, load_class, measure);
    *n = 0;
    *values = most <= UINT32_MAX ? malloc((size_t)(most ? most : 1) * sizeof **values) : NULL;
    if (!*values)
        return sl_fail(err, SL_E_NOMEM, "no memory for the %s of %llu samples", sl_measure_names[measure],
                       (unsigned long long)most);
    for (uint32_t r = 0; r < point->n_runs; r++)
        for (uint32_t i = 0; i < point->runs[r]->outcomes.n; i++) {
            const struct sl_outcome *outcome = &point->runs[r]->outcomes.all[i];
            if (!sl_point_counts(point->runs[r], outcome, load_class))
                continue;
            if (measure == SL_ITL) {
                for (uint32_t k = 0; k < outcome->n_gaps; k++)
                    (*values)[(*n)++] = (double)outcome->gaps_ms[k];
                continue;
            }
            double value = sl_measure_of(outcome, measure);
            if (!isnan(value))
                (*values)[(*n)++] = value;
        }
    return SL_OK;
}

static sl_status pool_figure(struct sl_figure *figure, const struct sl_point *point, int load_class,
                             enum sl_measure measure, struct sl_err *err)
{
    double *values, *scratch, sum = 0, squares = 0;
    uint32_t n;
    SL_TRY(sl_point_values(point, load_class, measure, &values, &n, err));
    scratch = malloc(((size_t)n + 1) * 2 * sizeof *scratch);
    if (!scratch) {
        free(values);
        return sl_fail(err, SL_E_NOMEM, "no memory for the %s of %u samples", sl_measure_names[measure], n);
    }
    *figure = (struct sl_figure){.n = n};
    uint32_t finite = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (!isfinite(values[i])) {
            figure->n_failed++;
            continue;
        }
        figure->minimum = finite == 0 || values[i] < figure->minimum ? values[i] : figure->minimum;
        figure->maximum = finite == 0 || values[i] > figure->maximum ? values[i] : figure->maximum;
        sum += values[i];
        finite++;
    }
    figure->mean = finite ? sum / finite : 0;
    for (uint32_t i = 0; i < n; i++)
        squares += isfinite(values[i]) ? (values[i] - figure->mean) * (values[i] - figure->mean) : 0;
    figure->deviation = finite ? sqrt(squares / finite) : 0;
    figure->mean_interval = sl_interval_mean(values, n, scratch);
    for (uint32_t q = 0; q < SL_QUANTILES; q++)
        figure->quantiles[q] = sl_interval_quantile(values, n, sl_quantiles[q], scratch);
    free(scratch);
    free(values);
    return SL_OK;
}

static int by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

/* Means and p99 (nearest rank) of the parts of TTFT. */
static sl_status pool_parts(struct sl_summary *summary, const struct sl_point *point, int load_class,
                            struct sl_err *err)
{
    uint32_t *values = malloc((size_t)(summary->n_parts ? summary->n_parts : 1) * sizeof *values);
    if (!values)
        return sl_fail(err, SL_E_NOMEM, "no memory for the parts of %u requests", summary->n_parts);
    for (uint32_t part = 0; part < SL_PARTS; part++) {
        uint32_t n = 0;
        double sum = 0;
        for (uint32_t r = 0; r < point->n_runs; r++)
            for (uint32_t i = 0; i < point->runs[r]->outcomes.n && n < summary->n_parts; i++) {
                const struct sl_outcome *outcome = &point->runs[r]->outcomes.all[i];
                if (outcome->has_parts && sl_point_counts(point->runs[r], outcome, load_class)) {
                    values[n++] = outcome->parts_us[part];
                    sum += outcome->parts_us[part];
                }
            }
        qsort(values, n, sizeof *values, by_value);
        summary->parts_ms[part] = n ? sum / n / 1000 : 0;
        summary->parts_p99_ms[part] = n ? values[(uint32_t)ceil(0.99 * n) - 1] / 1000.0 : 0;
    }
    free(values);
    return SL_OK;
}

static void add_counts(struct sl_summary *pool, const struct sl_summary *run)
{
    pool->n_requests += run->n_requests;
    pool->n_done += run->n_done;
    pool->n_cancelled += run->n_cancelled;
    pool->n_failed += run->n_failed;
    pool->n_timeout += run->n_timeout;
    pool->n_unsent += run->n_unsent;
    pool->n_unfinished += run->n_unfinished;
    pool->input_tokens += run->input_tokens;
    pool->output_tokens += run->output_tokens;
    pool->has_limits = pool->has_limits || run->has_limits;
    pool->n_good += run->n_good;
    pool->n_parts += run->n_parts;
    double seconds = pool->seconds + run->seconds, old = 0, new = 0;
    if (seconds > 0) {
        old = pool->seconds / seconds;
        new = run->seconds / seconds;
    }
    pool->requests_per_s = old * pool->requests_per_s + new * run->requests_per_s;
    pool->output_per_s = old * pool->output_per_s + new * run->output_per_s;
    pool->tokens_per_s = old * pool->tokens_per_s + new * run->tokens_per_s;
    pool->good_per_s = old * pool->good_per_s + new * run->good_per_s;
    pool->mean_in_flight = old * pool->mean_in_flight + new * run->mean_in_flight;
    pool->good_share = pool->n_requests ? (double)pool->n_good / pool->n_requests : 0;
    pool->seconds = seconds;
    if (run->max_in_flight > pool->max_in_flight)
        pool->max_in_flight = run->max_in_flight;
    if (run->max_output_per_s > pool->max_output_per_s)
        pool->max_output_per_s = run->max_output_per_s;
}

static sl_status pool(struct sl_summary *summary, const struct sl_point *point, int load_class,
                      struct sl_err *err)
{
    *summary = (struct sl_summary){0};
    for (uint32_t r = 0; r < point->n_runs; r++)
        add_counts(summary, load_class < 0 ? &point->runs[r]->all : &point->runs[r]->classes[load_class]);
    for (enum sl_measure measure = 0; measure < SL_MEASURES; measure++)
        SL_TRY(pool_figure(&summary->figures[measure], point, load_class, measure, err));
    return pool_parts(summary, point, load_class, err);
}

static sl_status fill_point(struct sl_point *point, const struct sl_report *report, struct sl_err *err)
{
    point->runs = calloc(report->n_runs, sizeof *point->runs);
    point->classes = calloc(report->n_classes ? report->n_classes : 1, sizeof *point->classes);
    if (!point->runs || !point->classes)
        return sl_fail(err, SL_E_NOMEM, "no memory for the figures of %u runs", report->n_runs);
    for (uint32_t r = 0; r < report->n_runs; r++)
        if (report->runs[r].point == point->number) {
            point->runs[point->n_runs++] = &report->runs[r];
            point->invalid = point->invalid || report->runs[r].invalid;
        }
    point->rate = point->runs[0]->rate;
    if (point->n_runs == 1) {
        point->all = point->runs[0]->all;
        if (report->n_classes)
            memcpy(point->classes, point->runs[0]->classes, report->n_classes * sizeof *point->classes);
        return SL_OK;
    }
    SL_TRY(pool(&point->all, point, -1, err));
    for (uint32_t c = 0; c < report->n_classes; c++)
        SL_TRY(pool(&point->classes[c], point, (int)c, err));
    return SL_OK;
}

sl_status sl_points_init(struct sl_points *points, const struct sl_report *report, struct sl_err *err)
{
    *points = (struct sl_points){.at = calloc(report->n_runs ? report->n_runs : 1, sizeof *points->at)};
    if (!points->at)
        return sl_fail(err, SL_E_NOMEM, "no memory for the points of %u runs", report->n_runs);
    for (uint32_t r = 0; r < report->n_runs; r++) {
        bool seen = false;
        for (uint32_t p = 0; p < points->n; p++)
            seen = seen || points->at[p].number == report->runs[r].point;
        if (seen)
            continue;
        struct sl_point *point = &points->at[points->n++];
        point->number = report->runs[r].point;
        sl_status status = fill_point(point, report, err);
        if (status != SL_OK) {
            sl_points_fini(points);
            return status;
        }
    }
    return SL_OK;
}

void sl_points_fini(struct sl_points *points)
{
    for (uint32_t p = 0; p < points->n; p++) {
        free(points->at[p].runs);
        free(points->at[p].classes);
    }
    free(points->at);
    *points = (struct sl_points){0};
}
