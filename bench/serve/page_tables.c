/* The tables of the page (page.c): the few numbers that most readers came for, then all of them, then what
 * went wrong. A figure of the page shows nothing that is not in one of these, except single requests,
 * which have a table beside their drawing. */
#include "bench/serve/page_impl.h"
#include "bench/serve/written.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { P50 = 0, P90 = 2, P99 = 4, MAX_SENTENCES = 50 };

/* ---- tiles ---- */

static void tile_begin(FILE *to, const char *name)
{
    fputs("<div class=\"tile\">", to);
    sl_write_html(to, name);
    fputs("<b>", to);
}

static void latency_tile(struct sl_page *page, const char *name, const struct sl_interval *interval)
{
    FILE *to = page->to;
    tile_begin(to, name);
    if (!interval->known)
        fputs("n/a</b><small>too few samples</small></div>\n", to);
    else if (!isfinite(interval->value))
        fputs("<em class=\"bad\">failed</em></b><small>lies among failed requests</small></div>\n", to);
    else {
        sl_page_number(to, interval->value);
        fputs(" <span>ms</span></b><small>", to);
        if (interval->bounded) {
            sl_page_number(to, interval->low);
            fputs(" – ", to);
            if (isfinite(interval->high))
                sl_page_number(to, interval->high);
            else
                fputs("failed", to);
        } else {
            fputs("interval n/a", to);
        }
        fputs("</small></div>\n", to);
    }
}

static void number_tile(struct sl_page *page, const char *name, double value, const char *unit,
                        const char *below)
{
    tile_begin(page->to, name);
    sl_page_number(page->to, value);
    fprintf(page->to, " <span>%s</span></b><small>", unit);
    sl_write_html(page->to, below);
    fputs("</small></div>\n", page->to);
}

static void count_tiles(struct sl_page *page, const struct sl_summary *all)
{
    char text[96];
    uint32_t bad = all->n_failed + all->n_timeout + all->n_unsent;
    tile_begin(page->to, "requests");
    snprintf(text, sizeof text, "%u done in %.4g s", all->n_done, all->seconds);
    fprintf(page->to, "%u</b><small>%s</small></div>\n", all->n_requests, text);
    tile_begin(page->to, "failed");
    fprintf(page->to, bad ? "<em class=\"bad\">%u</em></b><small>" : "%u</b><small>", bad);
    if (bad)
        fprintf(page->to, "%.3g %%: %u failed, %u timed out, %u never sent", 100.0 * bad / all->n_requests,
                all->n_failed, all->n_timeout, all->n_unsent);
    else
        fputs("none", page->to);
    fputs("</small></div>\n", page->to);
}

static void put_tiles(struct sl_page *page)
{
    const struct sl_summary *all = &page->points.at[0].all;
    char text[96];
    fputs("<div class=\"tiles\">\n", page->to);
    latency_tile(page, "TTFT p50", &all->figures[SL_TTFT].quantiles[P50]);
    latency_tile(page, "TTFT p99", &all->figures[SL_TTFT].quantiles[P99]);
    latency_tile(page, "TPOT p50", &all->figures[SL_TPOT].quantiles[P50]);
    latency_tile(page, "ITL p99", &all->figures[SL_ITL].quantiles[P99]);
    snprintf(text, sizeof text, "most in a second: %.4g", all->max_output_per_s);
    number_tile(page, "output", all->output_per_s, "tokens/s", text);
    if (all->has_limits) {
        snprintf(text, sizeof text, "%.3g %% within the limits", 100 * all->good_share);
        number_tile(page, "goodput", all->good_per_s, "requests/s", text);
    } else {
        snprintf(text, sizeof text, "in flight: %.3g, at most %u", all->mean_in_flight, all->max_in_flight);
        number_tile(page, "throughput", all->requests_per_s, "requests/s", text);
    }
    count_tiles(page, all);
    fputs("</div>\n", page->to);
}

/* ---- a sweep, a line a point ---- */

static void cell(FILE *to, double value)
{
    fputs("<td>", to);
    sl_page_number(to, value);
    fputs("</td>", to);
}

static void put_sweep(struct sl_page *page)
{
    FILE *to = page->to;
    bool limits = false;
    for (uint32_t p = 0; p < page->points.n; p++)
        limits = limits || page->points.at[p].all.has_limits;
    fprintf(to,
            "<h2>The sweep</h2>\n<div class=\"scroll\"><table><thead><tr><th>point</th><th>done/s</th>%s"
            "<th>output "
            "tokens/s</th><th>in flight</th><th>failed</th><th>TTFT p50, ms</th><th>p90</th><th>p99</th>"
            "<th>TPOT p50, ms</th>"
            "<th>p90</th><th>p99</th><th>ITL p99, ms</th><th>send lag p99, ms</th></tr></thead><tbody>\n",
            limits ? "<th>good/s</th><th>good</th>" : "");
    for (uint32_t p = 0; p < page->points.n; p++) {
        const struct sl_point *point = &page->points.at[p];
        const struct sl_summary *all = &point->all;
        uint32_t bad = all->n_failed + all->n_timeout + all->n_unsent;
        char name[64];
        sl_page_point_name(point, name);
        fprintf(to, "<tr><td>%s%s</td>", name, point->invalid ? " <small class=\"bad\">INVALID</small>" : "");
        cell(to, all->requests_per_s);
        if (limits) {
            cell(to, all->good_per_s);
            fprintf(to, "<td>%.3g %%</td>", 100 * all->good_share);
        }
        cell(to, all->output_per_s);
        cell(to, all->mean_in_flight);
        fprintf(to, bad ? "<td class=\"bad\">%u</td>" : "<td>%u</td>", bad);
        for (enum sl_measure measure = SL_TTFT; measure <= SL_TPOT;
             measure = measure == SL_TTFT ? SL_TPOT : SL_MEASURES)
            for (int q = P50; q <= P99; q += 2)
                sl_page_interval(to, &all->figures[measure].quantiles[q]);
        sl_page_interval(to, &all->figures[SL_ITL].quantiles[P99]);
        sl_page_interval(to, &all->figures[SL_LAG].quantiles[P99]);
        fputs("</tr>\n", to);
    }
    fputs("</tbody></table></div>\n", to);
}

/* ---- all figures of a point ---- */

static void figure_row(FILE *to, enum sl_measure measure, const struct sl_figure *figure)
{
    fprintf(to, "<tr><td>%s</td>", sl_measure_names[measure]);
    for (uint32_t q = 0; q < SL_QUANTILES; q++)
        sl_page_interval(to, &figure->quantiles[q]);
    struct sl_interval mean = figure->mean_interval;
    mean.known = figure->n > figure->n_failed;
    mean.value = figure->mean;
    sl_page_interval(to, &mean);
    if (figure->n_failed)
        fputs("<td class=\"bad\">failed</td>", to);
    else if (figure->n)
        cell(to, figure->maximum);
    else
        fputs("<td class=\"na\">n/a</td>", to);
    fprintf(to,
            figure->n_failed ? "<td>%u</td><td class=\"bad\">%u</td></tr>\n"
                             : "<td>%u</td><td>%u</td></tr>\n",
            figure->n, figure->n_failed);
}

static void figure_rows(struct sl_page *page, const char *name, const struct sl_summary *summary)
{
    if (name) {
        fprintf(page->to, "<tr><th colspan=\"%d\">", 5 + SL_QUANTILES);
        sl_write_html(page->to, name);
        fputs("</th></tr>\n", page->to);
    }
    for (enum sl_measure measure = 0; measure < SL_MEASURES; measure++)
        if (summary->figures[measure].n > 0)
            figure_row(page->to, measure, &summary->figures[measure]);
}

static void put_latencies(struct sl_page *page, const struct sl_point *point)
{
    FILE *to = page->to;
    if (point->all.n_requests == 0) {
        fputs("<p>No request was due in the time that is measured.</p>\n", to);
        return;
    }
    fputs("<div class=\"scroll\"><table><thead><tr><th>ms</th>", to);
    for (uint32_t q = 0; q < SL_QUANTILES; q++)
        fprintf(to, "<th>p%.4g</th>", 100 * sl_quantiles[q]);
    fputs("<th>mean</th><th>max</th><th>samples</th><th>failed</th></tr></thead><tbody>\n", to);
    bool several = sl_page_has_classes(page->report);
    figure_rows(page, several ? "all requests" : NULL, &point->all);
    for (uint32_t c = 0; several && c < page->report->n_classes; c++)
        figure_rows(page, page->report->class_names[c], &point->classes[c]);
    fputs("</tbody></table></div>\n", to);
}

static void count_row(struct sl_page *page, const char *name, const struct sl_summary *s)
{
    FILE *to = page->to;
    uint32_t bad = s->n_failed + s->n_timeout + s->n_unsent;
    fputs("<tr><td>", to);
    sl_write_html(to, name);
    fprintf(to, "</td><td>%u</td><td>%u</td><td>%u</td>", s->n_requests, s->n_done, s->n_cancelled);
    fprintf(to, bad ? "<td class=\"bad\">%u<small>" : "<td>%u<small>", bad);
    if (s->n_timeout)
        fprintf(to, "%u timed out", s->n_timeout);
    if (s->n_unsent)
        fprintf(to, "%s%u never sent", s->n_timeout ? ", " : "", s->n_unsent);
    fprintf(to, s->n_unfinished ? "</small></td><td class=\"bad\">%u</td>" : "</small></td><td>%u</td>",
            s->n_unfinished);
    fprintf(to, "<td>%llu</td><td>%llu</td>", (unsigned long long)s->input_tokens,
            (unsigned long long)s->output_tokens);
    cell(to, s->requests_per_s);
    cell(to, s->output_per_s);
    cell(to, s->tokens_per_s);
    if (s->has_limits) {
        fputs("<td>", to);
        sl_page_number(to, s->good_per_s);
        fprintf(to, "<small>%.3g %%, %u</small></td>", 100 * s->good_share, s->n_good);
    } else {
        fputs("<td class=\"na\">no limits</td>", to);
    }
    fputs("<td>", to);
    sl_page_number(to, s->mean_in_flight);
    fprintf(to, "<small>at most %u</small></td></tr>\n", s->max_in_flight);
}

static void put_counts(struct sl_page *page, const struct sl_point *point)
{
    fputs(
        "<div class=\"scroll\"><table><thead><tr><th>requests</th><th>all</th><th>done</th><th>cancelled</th>"
        "<th>failed</th><th>unfinished</th><th>input tokens</th><th>output tokens</th><th>done/s</th>"
        "<th>output tokens/s</th><th>tokens/s</th><th>good/s</th><th>in flight</th></tr></thead><tbody>\n",
        page->to);
    count_row(page, "all", &point->all);
    for (uint32_t c = 0; sl_page_has_classes(page->report) && c < page->report->n_classes; c++)
        count_row(page, page->report->class_names[c], &point->classes[c]);
    fputs("</tbody></table></div>\n", page->to);
}

static void parts_row(struct sl_page *page, const char *name, const struct sl_summary *s)
{
    if (s->n_parts == 0)
        return;
    fputs("<tr><td>", page->to);
    sl_write_html(page->to, name);
    fprintf(page->to, "</td><td>%u</td>", s->n_parts);
    for (uint32_t part = 0; part < SL_PARTS; part++) {
        fputs("<td>", page->to);
        sl_page_number(page->to, s->parts_ms[part]);
        fputs("<small>", page->to);
        sl_page_number(page->to, s->parts_p99_ms[part]);
        fputs("</small></td>", page->to);
    }
    fputs("</tr>\n", page->to);
}

static void put_parts(struct sl_page *page, const struct sl_point *point)
{
    if (point->all.n_parts == 0)
        return;
    fputs("<div class=\"scroll\"><table><thead><tr><th>parts of TTFT sent, ms: mean, below it p99</th>"
          "<th>requests</th>"
          "<th>wire</th><th>queue</th><th>fill</th><th>busy</th><th>stall</th><th>drain</th><th>KV tail"
          "</th></tr></thead><tbody>\n",
          page->to);
    parts_row(page, "all", &point->all);
    for (uint32_t c = 0; sl_page_has_classes(page->report) && c < page->report->n_classes; c++)
        parts_row(page, page->report->class_names[c], &point->classes[c]);
    fputs("</tbody></table></div>\n", page->to);
}

/* Figures over the repeats of a point: their mean, its interval by Student's t, and how much they vary. */
static void put_repeats(struct sl_page *page, const struct sl_point *point)
{
    static const struct {
        const char *name;
        enum sl_measure measure;
        int q;
    } rows[] = {{"TTFT p50, ms", SL_TTFT, P50}, {"TTFT p99, ms", SL_TTFT, P99},
                {"TPOT p50, ms", SL_TPOT, P50}, {"ITL p99, ms", SL_ITL, P99},
                {"E2E p50, ms", SL_E2E, P50},   {"output tokens/s", SL_MEASURES, 0},
                {"done/s", SL_MEASURES, 1},     {"good/s", SL_MEASURES, 2}};
    if (point->n_runs < 2)
        return;
    double *figures = malloc(point->n_runs * sizeof *figures);
    if (!figures) {
        page->out_of_memory = true;
        return;
    }
    fprintf(page->to,
            "<div class=\"scroll\"><table><thead><tr><th>over %u repeats</th><th>mean</th>"
            "<th>coefficient of variation</th>"
            "</tr></thead><tbody>\n",
            point->n_runs);
    for (uint32_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint32_t n = 0;
        for (uint32_t r = 0; r < point->n_runs; r++) {
            const struct sl_summary *all = &point->runs[r]->all;
            const double rates[] = {all->output_per_s, all->requests_per_s, all->good_per_s};
            if (rows[i].measure == SL_MEASURES && (rows[i].q != 2 || all->has_limits))
                figures[n++] = rates[rows[i].q];
            else if (rows[i].measure != SL_MEASURES &&
                     all->figures[rows[i].measure].quantiles[rows[i].q].known &&
                     isfinite(all->figures[rows[i].measure].quantiles[rows[i].q].value))
                figures[n++] = all->figures[rows[i].measure].quantiles[rows[i].q].value;
        }
        if (n == 0 && rows[i].measure == SL_MEASURES)
            continue; /* no limits */
        if (n < point->n_runs) {
            fprintf(page->to, "<tr><td>%s</td><td class=\"na\">n/a</td><td>not known in each</td></tr>\n",
                    rows[i].name);
            continue;
        }
        double variation = 0;
        struct sl_interval interval = sl_interval_repeats(figures, n, &variation);
        fprintf(page->to, "<tr><td>%s</td>", rows[i].name);
        sl_page_interval(page->to, &interval);
        fprintf(page->to, "<td>%.2g %%</td></tr>\n", 100 * variation);
    }
    fputs("</tbody></table></div>\n", page->to);
    free(figures);
}

static void put_runs(struct sl_page *page)
{
    FILE *to = page->to;
    fputs("<details><summary>Runs and the harness itself</summary><div class=\"scroll\"><table><thead>"
          "<tr><th>run</th><th>rate</th>"
          "<th>requests</th><th>seconds</th><th>TTFT p50, ms</th><th>send lag p99, ms</th><th>harness, "
          "of a processor</th>"
          "<th>taken by neighbours</th><th></th></tr></thead><tbody>\n",
          to);
    for (uint32_t r = 0; r < page->report->n_runs; r++) {
        const struct sl_load_run *run = &page->report->runs[r];
        fprintf(to, "<tr><td>%u</td>", r + 1);
        if (run->rate > 0)
            fprintf(to, "<td>%.4g/s</td>", run->rate);
        else
            fputs("<td class=\"na\">closed</td>", to);
        fprintf(to, "<td>%u</td>", run->all.n_requests);
        cell(to, run->all.seconds);
        sl_page_interval(to, &run->all.figures[SL_TTFT].quantiles[P50]);
        sl_page_interval(to, &run->all.figures[SL_LAG].quantiles[P99]);
        fprintf(to, "<td>%.1f %%</td>", 100 * run->cpu_share);
        if (run->stolen_share >= 0)
            fprintf(to, "<td>%.1f %%</td>", 100 * run->stolen_share);
        else
            fputs("<td class=\"na\">n/a</td>", to);
        fputs(run->invalid ? "<td class=\"bad\">INVALID</td></tr>\n" : "<td>valid</td></tr>\n", to);
    }
    fputs("</tbody></table></div></details>\n", to);
}

/* ---- errors ---- */

struct told_sentence { /* a sentence, and how many requests were told it */
    const char *sentence;
    uint32_t n;
};

static int by_sentence(const void *a, const void *b)
{
    return strcmp(((const struct told_sentence *)a)->sentence, ((const struct told_sentence *)b)->sentence);
}

static int by_count(const void *a, const void *b)
{
    const struct told_sentence *x = a, *y = b;
    return x->n != y->n ? (x->n < y->n ? 1 : -1) : strcmp(x->sentence, y->sentence);
}

/* Sentences of all runs, each once, those that most requests were told first. *n_told is given the room. */
static struct told_sentence *collect_told(const struct sl_report *report, uint32_t *n_told)
{
    size_t room = 1;
    for (uint32_t r = 0; r < report->n_runs; r++)
        room += report->runs[r].outcomes.n_errors;
    struct told_sentence *told = calloc(room, sizeof *told);
    uint32_t n = 0, kept = 0;
    for (uint32_t r = 0; told && r < report->n_runs; r++) {
        const struct sl_outcomes *outcomes = &report->runs[r].outcomes;
        struct told_sentence *of_run = &told[n];
        for (uint32_t e = 0; e < outcomes->n_errors; e++)
            told[n++].sentence = outcomes->errors[e];
        for (uint32_t i = 0; i < outcomes->n; i++) {
            uint32_t error = outcomes->all[i].error;
            if (error > 0 && error < outcomes->n_errors &&
                sl_point_counts(&report->runs[r], &outcomes->all[i], -1))
                of_run[error].n++;
        }
    }
    if (!told)
        return NULL;
    qsort(told, n, sizeof *told, by_sentence);
    for (uint32_t i = 0; i < n; i++) {
        if (kept > 0 && strcmp(told[kept - 1].sentence, told[i].sentence) == 0)
            told[kept - 1].n += told[i].n;
        else if (told[i].n > 0)
            told[kept++] = told[i];
    }
    qsort(told, kept, sizeof *told, by_count);
    *n_told = kept;
    return told;
}

static void put_errors(struct sl_page *page)
{
    uint32_t n = 0, all = 0;
    struct told_sentence *told = collect_told(page->report, &n);
    if (!told) {
        page->out_of_memory = true;
        return;
    }
    for (uint32_t p = 0; p < page->points.n; p++)
        all += page->points.at[p].all.n_requests;
    if (n > 0)
        fputs("<h2>What failed requests were told</h2>\n<div class=\"scroll\"><table><thead><tr>"
              "<th>requests</th><th>share</th>"
              "<th class=\"text\">sentence</th></tr></thead><tbody>\n",
              page->to);
    for (uint32_t i = 0; i < n && i < MAX_SENTENCES; i++) {
        fprintf(page->to, "<tr><td>%u</td><td>%.2g %%</td><td class=\"text\">", told[i].n,
                all ? 100.0 * told[i].n / all : 0);
        sl_write_html(page->to, told[i].sentence);
        fputs("</td></tr>\n", page->to);
    }
    if (n > 0)
        fputs("</tbody></table></div>\n", page->to);
    if (n > MAX_SENTENCES)
        fprintf(page->to, "<p class=\"soft\">and %u other sentences: the per-request file has them</p>\n",
                n - MAX_SENTENCES);
    free(told);
}

void sl_page_tables(struct sl_page *page)
{
    bool sweep = page->points.n > 1;
    if (sweep)
        put_sweep(page);
    else
        put_tiles(page);
    if (!sweep)
        fputs("<h2>Key figures</h2>\n", page->to);
    for (uint32_t p = 0; p < page->points.n; p++) {
        const struct sl_point *point = &page->points.at[p];
        char name[64];
        sl_page_point_name(point, name);
        if (sweep)
            fprintf(page->to, "<details><summary>All figures at %s</summary>\n", name);
        put_latencies(page, point);
        put_counts(page, point);
        put_parts(page, point);
        put_repeats(page, point);
        if (sweep)
            fputs("</details>\n", page->to);
    }
    put_runs(page);
    put_errors(page);
}
