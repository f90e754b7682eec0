/* The small figures of the page (page.c): over the points of a sweep, distributions, and where TTFT went.
 *
 * A distribution is drawn as its quantiles: latency upwards, percentile to the right on a scale that gives
 * each nine the same room, so the tail is as wide as the rest. Failed requests are slower than everything,
 * so a curve that meets them leaves the figure at its top, at the share where they begin. A figure without
 * data is left out. */
#include "bench/serve/page_impl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    WIDTH = 480,
    HEIGHT = 300,
    LEFT = 58,
    RIGHT = 14,
    TOP = 28,
    BOTTOM = 44,
    MAX_CURVES = SL_PLOT_COLOURS
};

static struct sl_plot small_plot(FILE *to)
{
    struct sl_plot plot = {.to = to, .width = WIDTH, .height = HEIGHT};
    plot.x.from = LEFT;
    plot.x.to = WIDTH - RIGHT;
    plot.y.from = HEIGHT - BOTTOM;
    plot.y.to = TOP;
    return plot;
}

/* ---- over the points of a sweep ---- */

struct curve {
    const char *name;
    struct sl_interval *at; /* [points] */
};

static bool is_open(const struct sl_page *page)
{
    for (uint32_t p = 0; p < page->points.n; p++)
        if (!(page->points.at[p].rate > 0))
            return false;
    return true;
}

/* Where a point lies: at its rate, or, in a closed loop, where its load came to. */
static double x_of_point(const struct sl_page *page, uint32_t p)
{
    const struct sl_point *point = &page->points.at[p];
    return is_open(page) ? point->rate : point->all.mean_in_flight;
}

static void fit_x(const struct sl_page *page, struct sl_plot *plot)
{
    double high = 0;
    for (uint32_t p = 0; p < page->points.n; p++)
        high = fmax(high, x_of_point(page, p));
    sl_axis_fit(&plot->x, 0, high);
    plot->x.label = is_open(page) ? "load, requests/s" : "requests in flight, mean";
}

static void fit_y(struct sl_plot *plot, const struct curve *curves, uint32_t n_curves, uint32_t n_points,
                  bool may_log)
{
    double low = INFINITY, high = 0;
    for (uint32_t c = 0; c < n_curves; c++)
        for (uint32_t p = 0; p < n_points; p++) {
            const struct sl_interval *at = &curves[c].at[p];
            if (!at->known)
                continue;
            if (isfinite(at->value)) {
                high = fmax(high, at->value);
                low = fmin(low, at->value);
            }
            if (at->bounded && isfinite(at->high))
                high = fmax(high, at->high);
            if (at->bounded && isfinite(at->low) && at->low > 0)
                low = fmin(low, at->low);
        }
    plot->y.log = may_log && low > 0 && high > 12 * low && isfinite(low);
    sl_axis_fit(&plot->y, plot->y.log ? low : 0, high);
}

static void draw_curve(struct sl_page *page, const struct sl_plot *plot, const struct curve *curve,
                       uint32_t colour, const char *unit)
{
    uint32_t n = page->points.n;
    double *x = malloc(2 * n * sizeof *x), *y = x + n;
    char style[16], tip[192];
    if (!x) {
        page->out_of_memory = true;
        return;
    }
    for (uint32_t p = 0; p < n; p++) {
        const struct sl_interval *at = &curve->at[p];
        x[p] = sl_axis_at(&plot->x, x_of_point(page, p));
        y[p] = at->known && isfinite(at->value) ? sl_axis_at(&plot->y, at->value) : NAN;
    }
    snprintf(style, sizeof style, "l k%u", colour % SL_PLOT_COLOURS);
    sl_plot_line(plot, style, x, y, n);
    snprintf(style, sizeof style, "k%u", colour % SL_PLOT_COLOURS);
    for (uint32_t p = 0; p < n; p++) {
        const struct sl_interval *at = &curve->at[p];
        if (!at->known)
            continue;
        if (!isfinite(at->value)) {
            snprintf(tip, sizeof tip, "%s at %.4g: lies among failed requests", curve->name,
                     x_of_point(page, p));
            sl_plot_failed(plot, x[p], tip);
            continue;
        }
        if (at->bounded)
            sl_plot_whisker(plot, style, x[p], at->low, at->high);
        int used = snprintf(tip, sizeof tip, "%s at %.4g: %.4g %s", curve->name, x_of_point(page, p),
                            at->value, unit);
        if (at->bounded && isfinite(at->high))
            snprintf(tip + used, sizeof tip - (size_t)used, " (%.4g to %.4g)", at->low, at->high);
        sl_plot_mark(plot, colour, x[p], y[p], tip);
    }
    free(x);
}

static bool is_known(const struct sl_page *page, const struct curve *curve)
{
    for (uint32_t p = 0; p < page->points.n; p++)
        if (curve->at[p].known)
            return true;
    return false;
}

/* The legend names curves that are drawn; those without a known point are told in words. False: nothing is
 * known. */
static bool sweep_words(const struct sl_page *page, const struct curve *curves, uint32_t n_curves, char *text,
                        size_t room)
{
    size_t used = strlen(text);
    uint32_t unknown = 0;
    for (uint32_t p = 0; p < page->points.n; p++)
        if (page->points.at[p].invalid) {
            used += (size_t)snprintf(text + used, room - used,
                                     "There are INVALID points: the table says which. ");
            break;
        }
    for (uint32_t c = 0; c < n_curves && used + 80 < room; c++)
        if (!is_known(page, &curves[c]))
            used += (size_t)snprintf(text + used, room - used, "%s%.64s",
                                     unknown++ ? ", " : "Too few samples for ", curves[c].name);
    if (unknown && used + 2 < room)
        snprintf(text + used, room - used, ".");
    return unknown < n_curves;
}

static void sweep_legend(struct sl_page *page, const struct curve *curves, uint32_t n_curves,
                         bool with_offered)
{
    bool failed = false;
    sl_page_legend_begin(page);
    for (uint32_t c = 0; c < n_curves; c++) {
        if (is_known(page, &curves[c]))
            sl_page_legend_line(page, c, curves[c].name, false, true);
        for (uint32_t p = 0; p < page->points.n; p++)
            failed = failed || (curves[c].at[p].known && !isfinite(curves[c].at[p].value));
    }
    if (with_offered)
        sl_page_legend_box(page, "offered", "offered");
    if (failed)
        sl_page_legend_box(page, "cross", "lies among failed requests");
    sl_page_legend_end(page);
}

static void draw_sweep(struct sl_page *page, const char *caption, const char *note, enum sl_unit unit,
                       const char *label, const struct curve *curves, uint32_t n_curves, bool with_offered)
{
    struct sl_plot plot = small_plot(page->to);
    char text[512];
    snprintf(text, sizeof text, "%s", note);
    if (!sweep_words(page, curves, n_curves, text, sizeof text))
        return;
    fit_x(page, &plot);
    fit_y(&plot, curves, n_curves, page->points.n, unit == SL_UNIT_MS);
    plot.y.unit = unit;
    plot.y.label = label;
    sl_page_figure_begin(page, "small", caption, text);
    sweep_legend(page, curves, n_curves, with_offered);
    sl_plot_begin(&plot, "plot", caption);
    sl_plot_axes(&plot);
    if (with_offered) {
        double most = fmin(plot.x.high, plot.y.high);
        double x[] = {plot.x.from, sl_axis_at(&plot.x, most)}, y[] = {plot.y.from, sl_axis_at(&plot.y, most)};
        sl_plot_line(&plot, "offered", x, y, 2);
    }
    for (uint32_t c = 0; c < n_curves; c++) /* dashed over solid: both are seen where they are one */
        draw_curve(page, &plot, &curves[c], c, unit == SL_UNIT_MS ? "ms" : "");
    sl_plot_end(&plot);
    sl_page_figure_end(page);
}

static void latency_over_load(struct sl_page *page, enum sl_measure measure, const char *caption,
                              struct sl_interval *room)
{
    static const char *const names[] = {"p50", "p90", "p99"};
    struct curve curves[3];
    for (uint32_t c = 0; c < 3; c++) {
        curves[c] = (struct curve){names[c], room + c * page->points.n};
        for (uint32_t p = 0; p < page->points.n; p++) {
            curves[c].at[p] = page->points.at[p].all.figures[measure].quantiles[2 * c];
        }
    }
    draw_sweep(page, caption, "Bars: 95 % intervals, where they are known. ", SL_UNIT_MS,
               sl_measure_names[measure], curves, 3, false);
}

static void classes_over_load(struct sl_page *page, struct sl_interval *room)
{
    struct curve curves[MAX_CURVES];
    uint32_t n = page->report->n_classes < MAX_CURVES ? page->report->n_classes : MAX_CURVES;
    for (uint32_t c = 0; c < n; c++) {
        curves[c] = (struct curve){page->report->class_names[c], room + c * page->points.n};
        for (uint32_t p = 0; p < page->points.n; p++)
            curves[c].at[p] = page->points.at[p].classes[c].figures[SL_TTFT].quantiles[4];
    }
    draw_sweep(page, "TTFT p99 by class", n < page->report->n_classes ? "The first 8 classes. " : "",
               SL_UNIT_MS, "TTFT p99", curves, n, false);
}

static void rates_over_load(struct sl_page *page, struct sl_interval *room)
{
    uint32_t n = page->points.n;
    struct curve curves[] = {{"done", room}, {"good: within all limits", room + n}},
                 tokens = {"output tokens", room + 2 * n};
    bool limits = false;
    for (uint32_t p = 0; p < n; p++) {
        const struct sl_summary *all = &page->points.at[p].all;
        room[p] = (struct sl_interval){.value = all->requests_per_s, .known = true};
        room[n + p] = (struct sl_interval){.value = all->good_per_s, .known = all->has_limits};
        room[2 * n + p] = (struct sl_interval){.value = all->output_per_s, .known = true};
        limits = limits || all->has_limits;
    }
    draw_sweep(page, limits ? "Goodput and throughput" : "Throughput", "", SL_UNIT_NONE, "requests/s", curves,
               limits ? 2 : 1, is_open(page));
    draw_sweep(page, "Output", "", SL_UNIT_NONE, "tokens/s", &tokens, 1, false);
}

static void over_load(struct sl_page *page)
{
    struct sl_interval *room = calloc((size_t)page->points.n * MAX_CURVES, sizeof *room);
    if (!room) {
        page->out_of_memory = true;
        return;
    }
    latency_over_load(page, SL_TTFT, is_open(page) ? "TTFT over rate" : "TTFT over load", room);
    rates_over_load(page, room);
    latency_over_load(page, SL_TPOT, is_open(page) ? "TPOT over rate" : "TPOT over load", room);
    if (sl_page_has_classes(page->report))
        classes_over_load(page, room);
    free(room);
}

/* ---- distributions ---- */

struct samples {
    char name[64];
    double *values; /* sorted; failed ones at the end */
    uint32_t n, n_failed;
    double limit; /* ms; 0: none */
    uint32_t colour;
};

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static bool take_samples(struct sl_page *page, struct samples *samples, const struct sl_point *point,
                         int load_class, enum sl_measure measure)
{
    if (sl_point_values(point, load_class, measure, &samples->values, &samples->n, NULL) != SL_OK) {
        page->out_of_memory = true;
        return false;
    }
    qsort(samples->values, samples->n, sizeof *samples->values, by_size);
    while (samples->n_failed < samples->n && !isfinite(samples->values[samples->n - 1 - samples->n_failed]))
        samples->n_failed++;
    if (samples->n > 0)
        return true;
    free(samples->values);
    return false;
}

static double limit_of(const struct sl_limits *limits, enum sl_measure measure)
{
    return measure == SL_TTFT ? limits->ttft_ms : measure == SL_TPOT ? limits->tpot_ms : 0;
}

/* Curves: of the points of a sweep, or of the classes, or one of all. */
static uint32_t take_curves(struct sl_page *page, enum sl_measure measure, struct samples curves[MAX_CURVES])
{
    const struct sl_report *report = page->report;
    uint32_t n = 0, points = page->points.n;
    if (points > 1) {
        uint32_t most = points < MAX_CURVES ? points : MAX_CURVES;
        for (uint32_t i = 0; i < most; i++) {
            const struct sl_point *point = &page->points.at[(uint64_t)i * (points - 1) / (most - 1)];
            curves[n] = (struct samples){.colour = i};
            sl_page_point_name(point, curves[n].name);
            n += take_samples(page, &curves[n], point, -1, measure);
        }
        return n;
    }
    bool several = sl_page_has_classes(report);
    for (uint32_t c = 0; several && c < report->n_classes && n < MAX_CURVES; c++) {
        curves[n] =
            (struct samples){.limit = limit_of(&report->limits[c], measure), .colour = c % MAX_CURVES};
        sl_page_short_name(report->class_names[c], curves[n].name);
        n += take_samples(page, &curves[n], &page->points.at[0], (int)c, measure);
    }
    if (!several) {
        curves[0] = (struct samples){.limit = report->n_classes ? limit_of(&report->limits[0], measure) : 0};
        snprintf(curves[0].name, sizeof curves[0].name, "all requests");
        n += take_samples(page, &curves[0], &page->points.at[0], -1, measure);
    }
    return n;
}

/* Stairs: sample k (from 0) is the quantile of all q in (k / n, (k + 1) / n]. Steps that nobody could see
 * are left out. */
static void draw_stairs(const struct sl_plot *plot, const struct samples *s)
{
    enum { MOST = 2048 };
    double x[MOST], y[MOST];
    uint32_t n = 0, finite = s->n - s->n_failed;
    for (uint32_t k = 0; k < finite && n + 2 < MOST; k++) {
        double begin = sl_axis_at(&plot->x, (double)s->n / (s->n - k));
        double end = k + 1 < s->n ? sl_axis_at(&plot->x, (double)s->n / (s->n - k - 1)) : plot->x.to;
        double at = sl_axis_at(&plot->y, s->values[k]);
        if (n > 0 && k + 1 < finite && end - x[n - 1] < 0.5 && fabs(at - y[n - 1]) < 0.5)
            continue;
        x[n] = n == 0 ? plot->x.from : begin;
        y[n++] = at;
        x[n] = end;
        y[n++] = at;
    }
    if (s->n_failed && n + 1 < MOST) { /* up and out */
        x[n] = sl_axis_at(&plot->x, (double)s->n / s->n_failed);
        y[n++] = plot->y.to;
    }
    char style[16];
    snprintf(style, sizeof style, "l k%u", s->colour);
    sl_plot_line(plot, style, x, y, n);
}

static void draw_failed_shares(const struct sl_plot *plot, const struct samples *curves, uint32_t n)
{
    for (uint32_t c = 0; c < n; c++) {
        const struct samples *s = &curves[c];
        char tip[160];
        if (s->n_failed == 0)
            continue;
        snprintf(tip, sizeof tip, "%s: %u of %u failed, %.3g %%", s->name, s->n_failed, s->n,
                 100.0 * s->n_failed / s->n);
        sl_plot_failed(plot, sl_axis_at(&plot->x, (double)s->n / s->n_failed), tip);
    }
}

static void fit_distribution(struct sl_plot *plot, const struct samples *curves, uint32_t n,
                             enum sl_measure measure)
{
    double low = INFINITY, high = 0;
    uint32_t most = 10;
    for (uint32_t c = 0; c < n; c++) {
        uint32_t finite = curves[c].n - curves[c].n_failed;
        most = curves[c].n > most ? curves[c].n : most;
        for (uint32_t i = 0; i < finite; i++)
            if (curves[c].values[i] > 0) {
                low = fmin(low, curves[c].values[i]);
                break;
            }
        if (finite)
            high = fmax(high, curves[c].values[finite - 1]);
        if (curves[c].limit > 0 && curves[c].limit < 4 * high)
            high = fmax(high, curves[c].limit);
    }
    plot->y.log = isfinite(low) && high > 12 * low;
    plot->y.unit = SL_UNIT_MS;
    plot->y.label = sl_measure_names[measure];
    sl_axis_fit(&plot->y, plot->y.log ? fmax(low, high / 1e5) : 0, high);
    plot->x.log = true;
    plot->x.unit = SL_UNIT_PERCENTILE;
    plot->x.low = 1;
    plot->x.high = 2.0 * most;
    plot->x.label = measure == SL_ITL ? "percentile of gaps" : "percentile of requests";
}

/* "Dashed: the limits. Cross: where failed requests begin (chat 2.1 %, batch 0.4 %)." */
static void distribution_note(const struct samples *curves, uint32_t n, const struct sl_plot *plot,
                              char *note, size_t room)
{
    size_t used = 0;
    bool failed = false, limits = false;
    note[0] = 0;
    for (uint32_t c = 0; c < n; c++) {
        failed = failed || curves[c].n_failed;
        limits = limits || (curves[c].limit > 0 && curves[c].limit <= plot->y.high);
    }
    if (limits)
        used += (size_t)snprintf(note, room, "Dotted: the limits. ");
    if (!failed)
        return;
    if (n > 3) {
        snprintf(note + used, room - used, "Cross at the top: failed requests begin.");
        return;
    }
    used += (size_t)snprintf(note + used, room - used, "Cross at the top: failed requests begin (");
    for (uint32_t c = 0, said = 0; c < n && used + 128 < room; c++)
        if (curves[c].n_failed)
            used += (size_t)snprintf(note + used, room - used, "%s%s %.2g %%", said++ ? ", " : "",
                                     curves[c].name, 100.0 * curves[c].n_failed / curves[c].n);
    snprintf(note + used, room - used, ").");
}

static void distribution(struct sl_page *page, enum sl_measure measure)
{
    struct samples curves[MAX_CURVES + 1];
    struct sl_plot plot = small_plot(page->to);
    char caption[64], note[1024];
    uint32_t n = take_curves(page, measure, curves), finite = 0;
    for (uint32_t c = 0; c < n; c++)
        finite += curves[c].n - curves[c].n_failed;
    if (finite > 0) {
        snprintf(caption, sizeof caption, "%s, distribution", sl_measure_names[measure]);
        fit_distribution(&plot, curves, n, measure);
        distribution_note(curves, n, &plot, note, sizeof note);
        sl_page_figure_begin(page, "small", caption, note);
        sl_page_legend_begin(page);
        for (uint32_t c = 0; c < n; c++)
            sl_page_legend_line(page, curves[c].colour, curves[c].name, false, false);
        sl_page_legend_end(page);
        sl_plot_begin(&plot, "plot", caption);
        sl_plot_axes(&plot);
        for (uint32_t c = 0; c < n; c++) {
            double y = sl_axis_at(&plot.y, curves[c].limit), x[] = {plot.x.from, plot.x.to}, at[] = {y, y};
            char style[16];
            snprintf(style, sizeof style, "l d k%u", curves[c].colour);
            if (curves[c].limit > 0 && curves[c].limit <= plot.y.high)
                sl_plot_line(&plot, style, x, at, 2);
        }
        for (uint32_t c = 0; c < n; c++)
            draw_stairs(&plot, &curves[c]);
        draw_failed_shares(&plot, curves, n);
        sl_plot_end(&plot);
        sl_page_figure_end(page);
    }
    for (uint32_t c = 0; c < n; c++)
        free(curves[c].values);
}

/* ---- where TTFT went ---- */

static const char *const part_names[SL_PARTS] = {"wire",  "queue", "fill",   "busy",
                                                 "stall", "drain", "KV tail"};

static void parts_bar(const struct sl_plot *plot, double y, const char *name, const struct sl_summary *s)
{
    double at = 0, sum = 0;
    char text[192];
    for (uint32_t part = 0; part < SL_PART_KV; part++)
        sum += s->parts_ms[part];
    snprintf(text, sizeof text, "%s: %.4g ms, then %.3g ms", name, sum, s->parts_ms[SL_PART_KV]);
    sl_plot_text(plot, plot->x.from, y - 5, "tick", "start", text);
    for (uint32_t part = 0; part < SL_PARTS; part++) {
        double from = sl_axis_at(&plot->x, at), to = sl_axis_at(&plot->x, at + s->parts_ms[part]);
        char style[16];
        snprintf(style, sizeof style, part == SL_PART_KV ? "ring k%u" : "f k%u", part);
        snprintf(text, sizeof text, "%s, %s: %.4g ms on average, p99 %.4g ms", name, part_names[part],
                 s->parts_ms[part], s->parts_p99_ms[part]);
        if (to - from > 0.05)
            sl_plot_box(plot, style, from, y, to - from, 18, text);
        at += s->parts_ms[part];
    }
}

static void parts(struct sl_page *page)
{
    struct {
        char name[64];
        const struct sl_summary *summary;
    } rows[1 + MAX_CURVES];
    uint32_t n = 0;
    double high = 0;
    for (uint32_t p = 0; page->points.n > 1 && p < page->points.n && n < MAX_CURVES; p++) {
        rows[n].summary = &page->points.at[p].all;
        sl_page_point_name(&page->points.at[p], rows[n].name);
        n += rows[n].summary->n_parts > 0;
    }
    if (page->points.n == 1) {
        rows[n].summary = &page->points.at[0].all;
        snprintf(rows[n].name, sizeof rows[n].name, "all");
        n += rows[n].summary->n_parts > 0;
        for (uint32_t c = 0;
             sl_page_has_classes(page->report) && c < page->report->n_classes && n <= MAX_CURVES; c++) {
            rows[n].summary = &page->points.at[0].classes[c];
            sl_page_short_name(page->report->class_names[c], rows[n].name);
            n += rows[n].summary->n_parts > 0;
        }
    }
    for (uint32_t i = 0; i < n; i++) {
        double sum = 0;
        for (uint32_t part = 0; part < SL_PARTS; part++)
            sum += rows[i].summary->parts_ms[part];
        high = fmax(high, sum);
    }
    if (!(high > 0))
        return;
    struct sl_plot plot = small_plot(page->to);
    plot.x.from = 6;
    plot.height = 40 * n + 12 + BOTTOM;
    plot.y.from = plot.height - BOTTOM;
    plot.y.to = 4;
    plot.x.unit = SL_UNIT_MS;
    plot.x.label = "mean time from send to first token, then KV tail";
    sl_axis_fit(&plot.x, 0, high);
    sl_page_figure_begin(page, "small", "Where TTFT went",
                         "Solid parts add up to TTFT from the send; the dashed one comes after it.");
    sl_page_legend_begin(page);
    for (uint32_t part = 0; part < SL_PARTS; part++) {
        char style[16];
        snprintf(style, sizeof style, part == SL_PART_KV ? "ring k%u" : "s k%u", part);
        sl_page_legend_box(page, style, part_names[part]);
    }
    sl_page_legend_end(page);
    sl_plot_begin(&plot, "plot", "where the time to the first token went");
    sl_plot_x_axis(&plot, true);
    for (uint32_t i = 0; i < n; i++)
        parts_bar(&plot, 20 + 40 * i, rows[i].name, rows[i].summary);
    sl_plot_end(&plot);
    sl_page_figure_end(page);
}

void sl_page_figures(struct sl_page *page)
{
    static const enum sl_measure drawn[] = {SL_TTFT, SL_TPOT, SL_ITL};
    bool any = page->points.n > 1;
    for (uint32_t p = 0; p < page->points.n; p++)
        for (uint32_t i = 0; i < 3; i++) {
            const struct sl_figure *figure = &page->points.at[p].all.figures[drawn[i]];
            any = any || figure->n > figure->n_failed;
        }
    if (!any)
        return;
    fputs("<h2>Figures</h2>\n<div class=\"figs\">\n", page->to);
    if (page->points.n > 1)
        over_load(page);
    distribution(page, SL_TTFT);
    distribution(page, SL_TPOT);
    distribution(page, SL_ITL);
    parts(page);
    fputs("</div>\n", page->to);
}
