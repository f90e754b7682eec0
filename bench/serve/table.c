/* The result on the terminal: what was asked of whom, then each point's figures with their intervals. With repeats a figure is
 * the mean over runs, and its interval is of their variation. */
#include "bench/serve/report.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CELL = 26, REPEATS_MAX = 128 };
static const double shown[] = {0.5, 0.9, 0.99};
enum { N_SHOWN = sizeof shown / sizeof *shown };

static void write_ms(char *text, size_t room, double ms)
{
    if (isnan(ms))
        snprintf(text, room, "n/a");
    else
        snprintf(text, room, isinf(ms) ? "failed" : ms >= 1000 ? "%.0f" : ms >= 100 ? "%.1f" : "%.2f", ms);
}

/* "123.1 [120.0, 127.2]", "123.1 [n/a]", "n/a" */
static void write_cell(char *text, size_t room, const struct sl_interval *interval)
{
    char value[32], low[32], high[32];
    write_ms(value, sizeof value, interval->value);
    write_ms(low, sizeof low, interval->low);
    write_ms(high, sizeof high, interval->high);
    if (!interval->known)
        snprintf(text, room, "n/a");
    else if (!interval->bounded)
        snprintf(text, room, "%s [n/a]", value);
    else
        snprintf(text, room, "%s [%s, %s]", value, low, high);
}

static int quantile_index(double q)
{
    int i = 0;
    while (i + 1 < SL_QUANTILES && sl_quantiles[i] != q)
        i++;
    return i;
}

/* A figure of a point: of its one run, or over its repeats. load_class < 0: all. */
struct point {
    const struct sl_load_run *runs[REPEATS_MAX];
    uint32_t n;
};

static const struct sl_summary *summary_of(const struct sl_load_run *run, int load_class)
{
    return load_class < 0 ? &run->all : &run->classes[load_class];
}

static struct sl_interval of_point(const struct point *p, int load_class, enum sl_measure measure, double q,
                                   double *variation)
{
    double values[REPEATS_MAX];
    *variation = NAN;
    for (uint32_t i = 0; i < p->n; i++) {
        const struct sl_figure *f = &summary_of(p->runs[i], load_class)->figures[measure];
        const struct sl_interval *one = q > 0 ? &f->quantiles[quantile_index(q)] : &f->mean_interval;
        if (p->n == 1 || !one->known || isinf(one->value))
            return *one;
        values[i] = one->value;
    }
    return sl_interval_repeats(values, p->n, variation);
}

static void figure_rows(const struct point *p, int load_class, FILE *to)
{
    for (int m = 0; m < SL_MEASURES; m++) {
        char cell[96];
        double variation = NAN, one;
        if (summary_of(p->runs[0], load_class)->figures[m].n == 0)
            continue;
        fprintf(to, "  %-10s", sl_measure_names[m]);
        for (int i = 0; i < N_SHOWN; i++) {
            struct sl_interval interval = of_point(p, load_class, (enum sl_measure)m, shown[i], &one);
            write_cell(cell, sizeof cell, &interval);
            fprintf(to, " %-*s", CELL, cell);
            if (i == 0)
                variation = one;
        }
        struct sl_interval mean = of_point(p, load_class, (enum sl_measure)m, 0, &one);
        write_cell(cell, sizeof cell, &mean);
        fprintf(to, " %s", cell);
        if (p->n > 1 && isfinite(variation))
            fprintf(to, "  (p50 varies by %.1f %% between %u runs)", 100 * variation, p->n);
        fputc('\n', to);
    }
}

static void counts(const struct sl_summary *s, FILE *to)
{
    fprintf(to, "  %u requests in %.1f s: %u done", s->n_requests, s->seconds, s->n_done);
    const struct {
        uint32_t n;
        const char *what;
    } others[] = {{s->n_failed, "failed"},
                  {s->n_timeout, "timed out"},
                  {s->n_unsent, "not sent"},
                  {s->n_cancelled, "cancelled by us"},
                  {s->n_unfinished, "not finished"}};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (others[i].n)
            fprintf(to, ", %u %s", others[i].n, others[i].what);
    fprintf(to, "\n  %.2f requests/s, %.0f tokens/s out, %.0f in and out; %.1f in flight, at most %u\n",
            s->requests_per_s, s->output_per_s, s->tokens_per_s, s->mean_in_flight, s->max_in_flight);
    if (s->has_limits)
        fprintf(to, "  goodput %.2f requests/s: %u of %u within their limits (%.1f %%)\n", s->good_per_s,
                s->n_good, s->n_requests, 100 * s->good_share);
}

static void parts(const struct sl_summary *s, FILE *to)
{
    static const char *const names[SL_PARTS] = {"wire", "queue", "fill", "busy", "stall", "drain", "KV tail"};
    double sum = 0;
    if (!s->n_parts)
        return;
    fprintf(to, "  TTFT sent, of %u:", s->n_parts);
    for (int i = 0; i < SL_PART_KV; i++) {
        fprintf(to, "%s %s %.1f", i ? " +" : "", names[i], s->parts_ms[i]);
        sum += s->parts_ms[i];
    }
    fprintf(to, " = %.1f ms; %s after it %.1f ms\n", sum, names[SL_PART_KV], s->parts_ms[SL_PART_KV]);
}

static void errors(const struct sl_load_run *run, FILE *to)
{
    const struct sl_outcomes *o = &run->outcomes;
    uint32_t *count = calloc(o->n_errors + 1, sizeof *count);
    for (uint32_t i = 0; count && i < o->n; i++)
        if (o->all[i].due_ns >= o->warm_ns && o->all[i].error < o->n_errors)
            count[o->all[i].error]++;
    for (uint32_t i = 1; count && i < o->n_errors; i++)
        if (count[i])
            fprintf(to, "  %u x %s\n", count[i], o->errors[i]);
    free(count);
    if (o->n_gaps_left_out)
        fprintf(to, "  %llu gaps were not kept: ITL is of the others\n",
                (unsigned long long)o->n_gaps_left_out);
}

static void credibility(const struct sl_load_run *run, FILE *to, bool colour)
{
    double lag = sl_figure_near(&run->all.figures[SL_LAG], 0.99);
    fprintf(to, "  sent %.3f ms late at p99; harness %.0f %% of a processor", lag, 100 * run->cpu_share);
    if (run->stolen_share >= 0)
        fprintf(to, "; %.1f %% of the machine's time stolen", 100 * run->stolen_share);
    fputc('\n', to);
    if (run->invalid)
        fprintf(to, "%s  INVALID: the harness was late itself; do not believe these figures%s\n",
                colour ? "\033[31m" : "", colour ? "\033[0m" : "");
}

static void table_of_point(const struct sl_report *report, const struct point *p, FILE *to, bool colour)
{
    for (uint32_t i = 0; i < p->n; i++) {
        const struct sl_load_run *run = p->runs[i];
        if (p->n > 1)
            fprintf(to, " run %u\n", i + 1);
        counts(&run->all, to);
        parts(&run->all, to);
        errors(run, to);
        credibility(run, to, colour);
    }
    fprintf(to, "  %-10s %-*s %-*s %-*s %s\n", "ms", CELL, "p50", CELL, "p90", CELL, "p99", "mean");
    figure_rows(p, -1, to);
    for (uint32_t k = 0; report->n_classes > 1 && k < report->n_classes; k++) {
        fprintf(to, " class %s\n", report->class_names[k]);
        counts(summary_of(p->runs[0], (int)k), to);
        figure_rows(p, (int)k, to);
    }
}

void sl_report_table(const struct sl_report *report, FILE *to, bool colour)
{
    fprintf(to, "%s%s%s\n%s\n", report->target, report->model[0] ? ", model " : "", report->model,
            report->load);
    for (uint32_t point = 0; point < report->n_points; point++) {
        struct point p = {.n = 0};
        for (uint32_t i = 0; i < report->n_runs && p.n < REPEATS_MAX; i++)
            if (report->runs[i].point == point)
                p.runs[p.n++] = &report->runs[i];
        if (p.n == 0)
            continue;
        if (report->n_points > 1)
            fprintf(to, "\npoint %u: %.4g requests/s\n", point + 1, p.runs[0]->rate);
        table_of_point(report, &p, to, colour);
    }
}
