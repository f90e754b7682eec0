/* What happened when (page.c): each request as a bar, how many were in flight, and, when the server is
 * ours, which stage worked at whose chunk.
 *
 * Both are drawn twice, for wide and for narrow pages. A drawing holds MAX_BARS requests: of more, every
 * k-th in the order of being due, which is no choice by what came of them; the curve of what is in flight
 * counts all. The clock of a kept timeline is the coordinator's, that of the run is ours; the least
 * difference between a request's admission there and its sending here is taken for the difference of the
 * clocks, too small by no more than the fastest way of a message. */
#include "bench/serve/page_impl.h"
#include "bench/serve/written.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_BARS = 400, MAX_DRAWN_RUNS = 8, COLUMNS = 600 };
enum { WIDE = 1200, NARROW = 480, LEFT = 58, RIGHT = 14, TOP = 22, FLIGHT = 84, BETWEEN = 26, BOTTOM = 44 };
enum { MAX_STAGE_SPANS = 1500, STAGE_ROW = 34, STAGE_BAR = 24, MAX_STAGE_ROWS = 64 };

struct timespan { /* of a run, as drawn: seconds */
    const struct sl_load_run *run;
    double length_s;
    uint32_t n_bars;
};

static double seconds(uint64_t ns)
{
    return (double)ns / 1e9;
}

static uint64_t last_of(const struct sl_outcome *o)
{
    const uint64_t times[] = {o->due_ns, o->sent_ns, o->first_ns, o->last_ns, o->end_ns};
    uint64_t last = 0;
    for (uint32_t i = 0; i < sizeof times / sizeof *times; i++)
        if (times[i] != SL_NEVER && times[i] > last)
            last = times[i];
    return last;
}

static struct timespan timespan_of(const struct sl_load_run *run, uint32_t most)
{
    struct timespan t = {.run = run, .n_bars = run->outcomes.n < most ? run->outcomes.n : most};
    uint64_t last = 0;
    for (uint32_t i = 0; i < run->outcomes.n; i++)
        if (last_of(&run->outcomes.all[i]) > last)
            last = last_of(&run->outcomes.all[i]);
    t.length_s = last > 0 ? seconds(last) : 1;
    return t;
}

static const struct sl_outcome *bar_of(const struct timespan *t, uint32_t row)
{
    return &t->run->outcomes.all[(uint64_t)row * t->run->outcomes.n / t->n_bars];
}

static bool is_bad(const struct sl_outcome *o)
{
    return o->ending == SL_ENDING_FAILED || o->ending == SL_ENDING_TIMEOUT || o->ending == SL_ENDING_UNSENT;
}

static const char *ending_name(const struct sl_outcome *o)
{
    static const char *const names[] = {
        [SL_ENDING_NONE] = "unfinished",     [SL_ENDING_DONE] = "done",
        [SL_ENDING_CANCELLED] = "cancelled", [SL_ENDING_FAILED] = "failed",
        [SL_ENDING_TIMEOUT] = "timed out",   [SL_ENDING_UNSENT] = "never sent"};
    return o->ending <= SL_ENDING_UNSENT ? names[o->ending] : "?";
}

/* ---- requests ---- */

static void bar_path(const struct sl_plot *plot, const char *style, double y, uint64_t from_ns,
                     uint64_t to_ns)
{
    double from = sl_axis_at(&plot->x, seconds(from_ns)), to = sl_axis_at(&plot->x, seconds(to_ns));
    double least = *style == 'b' ? 3 : 0.6; /* what failed at once is seen, too */
    fprintf(plot->to, "<path class=\"%s\" d=\"M%.1f %.1fH%.1f\"/>", style, from, y,
            to - from < least ? from + least : to);
}

static void bar_tip(const struct sl_plot *plot, const struct sl_page *page, const struct sl_outcome *o)
{
    FILE *to = plot->to;
    fprintf(to, "<title>request %u", o->number);
    if (sl_page_has_classes(page->report) && o->load_class < page->report->n_classes) {
        fputs(" (", to);
        sl_write_html(to, page->report->class_names[o->load_class]);
        fputc(')', to);
    }
    fprintf(to, ": due %.3f s", seconds(o->due_ns));
    if (o->first_ns != SL_NEVER)
        fprintf(to, ", first token after %.4g ms", ((double)o->first_ns - (double)o->due_ns) / 1e6);
    if (o->last_ns != SL_NEVER && o->n_arrivals > 1)
        fprintf(to, ", last after %.4g ms", ((double)o->last_ns - (double)o->due_ns) / 1e6);
    fprintf(to, ", %s</title>", ending_name(o));
}

static void draw_bar(const struct sl_plot *plot, const struct sl_page *page, const struct sl_outcome *o,
                     double y, bool tips)
{
    uint32_t colour = o->load_class % SL_PLOT_COLOURS;
    uint64_t end = o->end_ns != SL_NEVER ? o->end_ns : (uint64_t)(plot->x.high * 1e9);
    char waits[16], streams[16];
    snprintf(waits, sizeof waits, "w k%u", colour);
    snprintf(streams, sizeof streams, "s k%u", colour);
    fputs("<g>", plot->to);
    if (tips)
        bar_tip(plot, page, o);
    if (o->sent_ns == SL_NEVER) {
        bar_path(plot, is_bad(o) ? "b" : "w k7", y, o->due_ns, o->due_ns);
    } else {
        if (o->sent_ns > o->due_ns && seconds(o->sent_ns - o->due_ns) * 2000 > plot->x.high)
            bar_path(plot, "lag", y, o->due_ns, o->sent_ns);
        uint64_t first = o->first_ns != SL_NEVER ? o->first_ns : end;
        bar_path(plot, o->first_ns == SL_NEVER && is_bad(o) ? "b" : waits, y, o->sent_ns, first);
        if (o->first_ns != SL_NEVER) {
            uint64_t last = o->last_ns != SL_NEVER && o->last_ns >= first ? o->last_ns : first;
            bar_path(plot, streams, y, first, last);
            if (is_bad(o) && end > last)
                bar_path(plot, "b", y, last, end);
            else if (is_bad(o))
                bar_path(plot, "b", y, last, last);
        }
    }
    fputs("</g>\n", plot->to);
}

static void shade(const struct sl_plot *plot, double from_s, double to_s, double top, double bottom,
                  const char *tip)
{
    double from = sl_axis_at(&plot->x, from_s), to = sl_axis_at(&plot->x, to_s);
    if (to - from > 0.2)
        sl_plot_box(plot, "shade", from, top, to - from, bottom - top, tip);
}

static void draw_not_measured(const struct sl_plot *plot, const struct timespan *t, double top, double bottom)
{
    const struct sl_outcomes *outcomes = &t->run->outcomes;
    shade(plot, 0, seconds(outcomes->warm_ns), top, bottom, "warm-up: not measured");
    if (outcomes->over_ns != SL_NEVER && seconds(outcomes->over_ns) < t->length_s)
        shade(plot, seconds(outcomes->over_ns), t->length_s, top, bottom,
              "nothing that is due here is measured");
}

static void draw_bars(const struct sl_plot *plot, const struct sl_page *page, const struct timespan *t,
                      double top, double pitch, bool tips)
{
    double thick = pitch > 8 ? pitch * 0.62 : pitch * 0.86;
    fprintf(plot->to, "<g stroke-width=\"%.2f\">\n", thick);
    for (uint32_t row = 0; row < t->n_bars; row++)
        draw_bar(plot, page, bar_of(t, row), top + (row + 0.5) * pitch, tips);
    fputs("</g>\n", plot->to);
    /* Round numbers, at the rows where they are or would be. */
    struct sl_axis numbers = {.low = 0, .high = t->run->outcomes.n - 1, .from = top + 0.5 * pitch};
    numbers.to = numbers.from + numbers.high * pitch * t->n_bars / t->run->outcomes.n;
    double ticks[SL_PLOT_TICKS];
    uint32_t n =
        numbers.high > 0 ? sl_axis_ticks(&numbers, (uint32_t)(pitch * t->n_bars / 30) + 2, ticks) : 0;
    for (uint32_t i = 0; i < n; i++) {
        char text[32];
        sl_axis_name(SL_UNIT_NONE, ticks[i], text);
        if (ticks[i] == floor(ticks[i]))
            sl_plot_text(plot, plot->x.from - 6, sl_axis_at(&numbers, ticks[i]) + 4, "tick", "end", text);
    }
}

static int by_time(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* The most requests in flight in each of COLUMNS columns of time. */
static bool count_in_flight(const struct timespan *t, uint32_t most[COLUMNS])
{
    uint32_t n = t->run->outcomes.n, n_sent = 0, n_ended = 0, now = 0;
    uint64_t *sent = malloc(2 * (size_t)(n ? n : 1) * sizeof *sent), *ended = sent + n;
    if (!sent)
        return false;
    for (uint32_t i = 0; i < n; i++) {
        const struct sl_outcome *o = &t->run->outcomes.all[i];
        if (o->sent_ns == SL_NEVER)
            continue;
        sent[n_sent++] = o->sent_ns;
        if (o->end_ns != SL_NEVER)
            ended[n_ended++] = o->end_ns;
    }
    qsort(sent, n_sent, sizeof *sent, by_time);
    qsort(ended, n_ended, sizeof *ended, by_time);
    for (uint32_t c = 0, s = 0, e = 0; c < COLUMNS; c++) {
        double until = (c + 1) * t->length_s / COLUMNS;
        most[c] = now;
        while (s < n_sent || e < n_ended) {
            bool begins = s < n_sent && (e >= n_ended || sent[s] < ended[e]);
            if (seconds(begins ? sent[s] : ended[e]) >= until && c + 1 < COLUMNS)
                break;
            if (begins) {
                now++;
                s++;
            } else {
                now -= now > 0;
                e++;
            }
            most[c] = now > most[c] ? now : most[c];
        }
    }
    free(sent);
    return true;
}

static void draw_in_flight(struct sl_plot *plot, const struct timespan *t, struct sl_page *page)
{
    uint32_t most[COLUMNS], high = 1;
    if (!count_in_flight(t, most)) {
        page->out_of_memory = true;
        return;
    }
    for (uint32_t c = 0; c < COLUMNS; c++)
        high = most[c] > high ? most[c] : high;
    plot->y.label = NULL;
    sl_axis_fit(&plot->y, 0, high);
    double ticks[SL_PLOT_TICKS];
    uint32_t n = sl_axis_ticks(&plot->y, 4, ticks);
    for (uint32_t i = 0; i < n; i++) {
        char text[32];
        double y = sl_axis_at(&plot->y, ticks[i]);
        sl_axis_name(SL_UNIT_NONE, ticks[i], text);
        fprintf(plot->to, "<path class=\"grid\" d=\"M%.1f %.1fH%.1f\"/>\n", plot->x.from, y, plot->x.to);
        if (ticks[i] == floor(ticks[i]))
            sl_plot_text(plot, plot->x.from - 6, y + 4, "tick", "end", text);
    }
    sl_plot_text(plot, plot->x.from + 4, plot->y.to - 6, "label", "start", "requests in flight");
    draw_not_measured(plot, t, plot->y.to, plot->y.from);
    fprintf(plot->to, "<path class=\"area k6\" d=\"M%.1f %.1f", plot->x.from, plot->y.from);
    double width = (plot->x.to - plot->x.from) / COLUMNS, last = -1;
    for (uint32_t c = 0; c < COLUMNS; c++) {
        double y = sl_axis_at(&plot->y, most[c]);
        if (fabs(y - last) > 0.04)
            fprintf(plot->to, "H%.1fV%.1f", plot->x.from + c * width, y);
        last = y;
    }
    fprintf(plot->to, "H%.1fV%.1fZ\"/>\n", plot->x.to, plot->y.from);
}

static void draw_timeline(struct sl_page *page, const struct timespan *t, bool wide)
{
    double pitch = t->n_bars <= 12 ? 18 : t->n_bars <= 40 ? 480.0 / t->n_bars + 1 : 560.0 / t->n_bars;
    struct sl_plot plot = {.to = page->to, .width = wide ? WIDE : NARROW};
    double bars_end = TOP + pitch * t->n_bars;
    plot.height = bars_end + BETWEEN + FLIGHT + BOTTOM;
    plot.x = (struct sl_axis){
        .low = 0, .high = t->length_s, .from = LEFT, .to = plot.width - RIGHT, .unit = SL_UNIT_S};
    sl_plot_begin(&plot, wide ? "wide" : "narrow", "timeline of requests");
    plot.y.from = bars_end;
    plot.y.to = TOP;
    double ticks[SL_PLOT_TICKS];
    uint32_t n = sl_axis_ticks(&plot.x, (uint32_t)((plot.x.to - plot.x.from) / 54) + 1, ticks);
    for (uint32_t i = 0; i < n; i++)
        fprintf(plot.to, "<path class=\"grid\" d=\"M%.1f %dV%.1f\"/>\n", sl_axis_at(&plot.x, ticks[i]), TOP,
                bars_end);
    sl_plot_text(&plot, 2, 12, "label", "start", "request, in the order of being due");
    draw_not_measured(&plot, t, TOP, bars_end);
    draw_bars(&plot, page, t, TOP, pitch, wide);
    plot.y.to = bars_end + BETWEEN;
    plot.y.from = plot.y.to + FLIGHT;
    draw_in_flight(&plot, t, page);
    plot.x.label = "since the begin of the run";
    sl_plot_x_axis(&plot, true);
    sl_plot_end(&plot);
}

static void ms_cell(FILE *to, uint64_t from_ns, uint64_t to_ns)
{
    if (from_ns == SL_NEVER || to_ns == SL_NEVER) {
        fputs("<td class=\"na\">–</td>", to);
        return;
    }
    fputs("<td>", to);
    sl_page_number(to, ((double)to_ns - (double)from_ns) / 1e6);
    fputs("</td>", to);
}

static void timeline_table(struct sl_page *page, const struct timespan *t)
{
    FILE *to = page->to;
    bool classes = sl_page_has_classes(page->report);
    fprintf(to,
            "<details><summary>The same as a table</summary><div class=\"scroll\"><table><thead><tr>"
            "<th>request</th>%s<th>due, s</th>"
            "<th>sent after, ms</th><th>first token after, ms</th><th>last after, ms</th><th>input</th>"
            "<th>output</th><th>end</th>"
            "</tr></thead><tbody>\n",
            classes ? "<th>class</th>" : "");
    for (uint32_t row = 0; row < t->n_bars; row++) {
        const struct sl_outcome *o = bar_of(t, row);
        fprintf(to, "<tr><td>%u</td>", o->number);
        if (classes) {
            fputs("<td>", to);
            sl_write_html(
                to, o->load_class < page->report->n_classes ? page->report->class_names[o->load_class] : "?");
            fputs("</td>", to);
        }
        fprintf(to, "<td>%.3f</td>", seconds(o->due_ns));
        ms_cell(to, o->due_ns, o->sent_ns);
        ms_cell(to, o->due_ns, o->first_ns);
        ms_cell(to, o->due_ns, o->last_ns);
        fprintf(to,
                is_bad(o) ? "<td>%u</td><td>%u</td><td class=\"bad\">%s</td></tr>\n"
                          : "<td>%u</td><td>%u</td><td>%s</td></tr>\n",
                o->input_tokens, o->output_tokens, ending_name(o));
    }
    fputs("</tbody></table></div></details>\n", to);
}

static void timeline_legend(struct sl_page *page)
{
    const struct sl_report *report = page->report;
    sl_page_legend_begin(page);
    if (sl_page_has_classes(report)) {
        for (uint32_t c = 0; c < report->n_classes && c < SL_PLOT_COLOURS; c++) {
            char style[16];
            snprintf(style, sizeof style, "s k%u", c);
            sl_page_legend_box(page, style, report->class_names[c]);
        }
        if (report->n_classes > SL_PLOT_COLOURS)
            sl_page_legend_box(page, "s k0", "and so on, with these colours again");
        sl_page_legend_box(page, "w k7", "pale: waiting for the first token");
    } else {
        sl_page_legend_box(page, "w k0", "waiting for the first token");
        sl_page_legend_box(page, "s k0", "tokens come");
    }
    sl_page_legend_box(page, "lag", "sent late");
    sl_page_legend_box(page, "b", "failed");
    sl_page_legend_end(page);
}

static void timeline(struct sl_page *page, const struct sl_point *point, uint32_t most)
{
    struct timespan t = timespan_of(point->runs[0], most);
    uint32_t n = t.run->outcomes.n;
    char caption[128], note[256] = "", name[64];
    if (n == 0)
        return;
    sl_page_point_name(point, name);
    if (page->points.n > 1)
        snprintf(caption, sizeof caption, "Requests at %s", name);
    else
        snprintf(caption, sizeof caption, "Requests");
    size_t used = 0;
    if (t.n_bars < n)
        used = (size_t)snprintf(note, sizeof note,
                                "%u of %u requests, evenly by their number; in flight: all. ", t.n_bars, n);
    if (point->n_runs > 1)
        used += (size_t)snprintf(note + used, sizeof note - used, "The first of %u repeats. ", point->n_runs);
    if (t.run->outcomes.warm_ns > 0)
        snprintf(note + used, sizeof note - used, "Shaded: warm-up, not measured.");
    sl_page_figure_begin(page, "full", caption, note);
    timeline_legend(page);
    draw_timeline(page, &t, true);
    draw_timeline(page, &t, false);
    timeline_table(page, &t);
    sl_page_figure_end(page);
}

/* ---- stages ---- */

struct stage_work { /* a chunk on a stage, in s of the run */
    double begin_s, end_s;
    uint32_t request, chunk, tokens;
    uint16_t stage;
    uint32_t colour;
};

struct stage_works {
    struct stage_work *at;
    uint32_t n;
    double from_s, to_s; /* what is drawn */
    uint32_t n_drawn;
};

static int by_begin(const void *a, const void *b)
{
    const struct stage_work *x = a, *y = b;
    return x->begin_s < y->begin_s ? -1 : x->begin_s > y->begin_s;
}

static int by_seconds(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double clock_ahead_s(const struct sl_load_run *run)
{
    double ahead = INFINITY;
    for (uint32_t i = 0; i < run->n_timelines; i++) {
        const struct sl_kept_timeline *kept = &run->timelines[i];
        if (kept->number < run->outcomes.n && run->outcomes.all[kept->number].sent_ns != SL_NEVER)
            ahead = fmin(ahead, (double)kept->timeline.submit_us / 1e6 -
                                    seconds(run->outcomes.all[kept->number].sent_ns));
    }
    return isfinite(ahead) ? ahead : 0;
}

static bool take_works(struct stage_works *works, const struct sl_load_run *run, uint32_t n_stages)
{
    size_t room = 1;
    double ahead = clock_ahead_s(run);
    *works = (struct stage_works){0};
    for (uint32_t i = 0; i < run->n_timelines; i++)
        room += run->timelines[i].timeline.n_spans;
    works->at = malloc(room * sizeof *works->at);
    if (!works->at)
        return false;
    for (uint32_t i = 0; i < run->n_timelines; i++) {
        const struct sl_timeline *t = &run->timelines[i].timeline;
        for (uint32_t k = 0; k < t->n_spans; k++) {
            const struct sl_span *span = &t->spans[k];
            if (span->stage >= n_stages || span->end_us < span->begin_us || span->begin_us == 0)
                continue;
            works->at[works->n++] = (struct stage_work){(double)span->begin_us / 1e6 - ahead,
                                                        (double)span->end_us / 1e6 - ahead,
                                                        run->timelines[i].number,
                                                        span->chunk,
                                                        span->tokens,
                                                        span->stage,
                                                        i % SL_PLOT_COLOURS};
        }
    }
    qsort(works->at, works->n, sizeof *works->at, by_begin);
    return works->n > 0;
}

/* All of it, if a usual chunk is wide enough to be seen then; else the window of 50 usual chunks in which
 * most begin. */
static bool choose_window(struct stage_works *works)
{
    double *lengths = malloc(works->n * sizeof *lengths), first = works->at[0].begin_s, last = first;
    if (!lengths)
        return false;
    for (uint32_t i = 0; i < works->n; i++) {
        lengths[i] = works->at[i].end_s - works->at[i].begin_s;
        last = fmax(last, works->at[i].end_s);
    }
    qsort(lengths, works->n, sizeof *lengths, by_seconds);
    double window = fmax(50 * lengths[works->n / 2], 1e-6);
    free(lengths);
    works->from_s = first;
    works->to_s = last;
    if (last - first > window) {
        uint32_t best = 0, most = 0;
        for (uint32_t i = 0, end = 0; i < works->n; i++) {
            while (end < works->n && works->at[end].begin_s < works->at[i].begin_s + window)
                end++;
            if (end - i > most) {
                most = end - i;
                best = i;
            }
        }
        works->from_s = works->at[best].begin_s;
        works->to_s = fmin(last, works->from_s + window);
    }
    for (uint32_t i = 0; i < works->n; i++)
        works->n_drawn += works->at[i].end_s > works->from_s && works->at[i].begin_s < works->to_s;
    if (works->to_s <= works->from_s)
        works->to_s = works->from_s + 1e-3;
    return true;
}

static bool is_in_window(const struct stage_works *works, const struct stage_work *work)
{
    return work->end_s > works->from_s && work->begin_s < works->to_s;
}

static void draw_stages(struct sl_page *page, const struct stage_works *works, uint32_t n_stages, bool wide)
{
    struct sl_plot plot = {.to = page->to, .width = wide ? WIDE : NARROW};
    plot.height = TOP + (double)n_stages * STAGE_ROW + BOTTOM;
    /* The axis counts from the begin of the window: round ticks of a late window would have many digits. */
    plot.x = (struct sl_axis){.low = 0,
                              .high = (works->to_s - works->from_s) * 1000,
                              .from = LEFT,
                              .to = plot.width - RIGHT,
                              .unit = SL_UNIT_MS};
    char label[96];
    snprintf(label, sizeof label, "since %.3f s of the run", works->from_s);
    plot.x.label = label;
    plot.y.from = plot.height - BOTTOM;
    plot.y.to = TOP;
    sl_plot_begin(&plot, wide ? "wide" : "narrow", "stages over time");
    sl_plot_x_axis(&plot, true);
    for (uint32_t s = 0; s < n_stages; s++) {
        char name[24];
        snprintf(name, sizeof name, "stage %u", s);
        sl_plot_text(&plot, plot.x.from - 6, TOP + s * STAGE_ROW + STAGE_BAR / 2.0 + 4, "tick", "end", name);
    }
    for (uint32_t i = 0, drawn = 0; i < works->n && drawn < MAX_STAGE_SPANS; i++) {
        const struct stage_work *w = &works->at[i];
        if (!is_in_window(works, w))
            continue;
        double x = sl_axis_at(&plot.x, (w->begin_s - works->from_s) * 1000);
        double end = sl_axis_at(&plot.x, (w->end_s - works->from_s) * 1000),
               y = TOP + (double)w->stage * STAGE_ROW;
        char style[16], tip[160];
        snprintf(style, sizeof style, "f k%u", w->colour);
        snprintf(tip, sizeof tip, "stage %u: request %u, chunk %u of %u tokens, %.4g ms", w->stage,
                 w->request, w->chunk, w->tokens, (w->end_s - w->begin_s) * 1000);
        sl_plot_box(&plot, style, x, y, fmax(end - x - 0.5, 0.5), STAGE_BAR, wide ? tip : NULL);
        snprintf(tip, sizeof tip, "%u", w->request);
        if (end - x > 5.6 * (double)strlen(tip) + 3)
            sl_plot_text(&plot, (x + end) / 2, y + STAGE_BAR / 2.0 + 3.5, "number", "middle", tip);
        drawn++;
    }
    sl_plot_end(&plot);
}

static void stages_table(struct sl_page *page, const struct stage_works *works)
{
    fputs("<details><summary>The same as a table</summary><div class=\"scroll\"><table><thead><tr>"
          "<th>stage</th><th>request</th>"
          "<th>chunk</th><th>tokens</th><th>begin, s</th><th>took, ms</th></tr></thead><tbody>\n",
          page->to);
    for (uint32_t i = 0, drawn = 0; i < works->n && drawn < MAX_STAGE_SPANS; i++) {
        const struct stage_work *w = &works->at[i];
        if (!is_in_window(works, w))
            continue;
        fprintf(page->to, "<tr><td>%u</td><td>%u</td><td>%u</td><td>%u</td><td>%.6f</td><td>", w->stage,
                w->request, w->chunk, w->tokens, w->begin_s);
        sl_page_number(page->to, (w->end_s - w->begin_s) * 1000);
        fputs("</td></tr>\n", page->to);
        drawn++;
    }
    fputs("</tbody></table></div></details>\n", page->to);
}

static void stages(struct sl_page *page, const struct sl_point *point)
{
    struct stage_works works;
    const struct sl_load_run *run = point->runs[0];
    uint32_t n_stages = page->report->n_stages < MAX_STAGE_ROWS ? page->report->n_stages : MAX_STAGE_ROWS;
    if (n_stages == 0 || run->n_timelines == 0)
        return;
    if (!take_works(&works, run, n_stages)) {
        page->out_of_memory = page->out_of_memory || !works.at;
        free(works.at);
        return;
    }
    if (!choose_window(&works)) {
        page->out_of_memory = true;
        free(works.at);
        return;
    }
    char note[256], caption[96], name[64];
    sl_page_point_name(point, name);
    snprintf(caption, sizeof caption, page->points.n > 1 ? "Stages over time at %s" : "Stages over time",
             name);
    snprintf(note, sizeof note,
             "Prefill of %u kept requests of %u: each box is a chunk, with the number of its request. %u "
             "of %u chunks.%s",
             run->n_timelines, run->outcomes.n,
             works.n_drawn < MAX_STAGE_SPANS ? works.n_drawn : MAX_STAGE_SPANS, works.n,
             works.n_drawn < works.n ? " The busiest time." : "");
    sl_page_figure_begin(page, "full", caption, note);
    draw_stages(page, &works, n_stages, true);
    draw_stages(page, &works, n_stages, false);
    stages_table(page, &works);
    sl_page_figure_end(page);
    free(works.at);
}

void sl_page_times(struct sl_page *page)
{
    uint32_t n = page->points.n < MAX_DRAWN_RUNS ? page->points.n : MAX_DRAWN_RUNS,
             most = n > 2 ? MAX_BARS / 2 : MAX_BARS;
    bool any = false;
    for (uint32_t r = 0; r < page->report->n_runs; r++)
        any = any || page->report->runs[r].outcomes.n > 0;
    if (!any)
        return;
    fputs("<h2>What happened when</h2>\n", page->to);
    if (n < page->points.n)
        fprintf(page->to, "<p class=\"soft\">%u of %u points.</p>\n", n, page->points.n);
    for (uint32_t i = 0; i < n; i++) {
        const struct sl_point *point =
            &page->points.at[n > 1 ? (uint64_t)i * (page->points.n - 1) / (n - 1) : 0];
        char name[64];
        sl_page_point_name(point, name);
        if (n > 1)
            fprintf(page->to, "<details%s><summary>At %s</summary>\n", i + 1 == n ? " open=\"open\"" : "",
                    name);
        timeline(page, point, most);
        stages(page, point);
        if (n > 1)
            fputs("</details>\n", page->to);
    }
}
