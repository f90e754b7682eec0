/* The page of a measurement (report.h): one HTML file, readable without a network, a script, or colour
 * vision.
 *
 * It is written as XML that is HTML at the same time (every tag is closed), so it can be checked by any
 * parser. Figures are inline SVG whose colours are variables of CSS: light, dark and paper differ in those
 * alone. Small figures have 480 units, about the pixels of a phone and of a third of a desktop; wide ones
 * are drawn twice, and the page shows which fits. Each class has a colour, a dash and a mark of its own,
 * and no information is in a colour only. What a figure shows is in a table, too. */
#include "bench/serve/page_impl.h"
#include "bench/serve/written.h"

#include <math.h>
#include <string.h>

/* ---- what the parts share ---- */

void sl_page_number(FILE *to, double value)
{
    double size = fabs(value);
    if (!isfinite(value))
        fputs("n/a", to);
    else if (size == 0)
        fputc('0', to);
    else
        fprintf(to, "%.*f", size < 0.9995 ? 3 : size < 9.995 ? 2 : size < 99.95 ? 1 : 0, value);
}

void sl_page_interval(FILE *to, const struct sl_interval *interval)
{
    if (!interval->known) {
        fputs("<td class=\"na\">n/a</td>", to);
        return;
    }
    fputs(isfinite(interval->value) ? "<td>" : "<td class=\"bad\">", to);
    if (isfinite(interval->value))
        sl_page_number(to, interval->value);
    else
        fputs("failed", to);
    fputs("<small>", to);
    if (!interval->bounded) {
        fputs("n/a", to);
    } else if (isfinite(interval->low)) {
        sl_page_number(to, interval->low);
        fputs(" – ", to);
        if (isfinite(interval->high))
            sl_page_number(to, interval->high);
        else
            fputs("failed", to);
    }
    fputs("</small></td>", to);
}

void sl_page_figure_begin(struct sl_page *page, const char *style, const char *caption, const char *note)
{
    fprintf(page->to, "<figure class=\"%s\"><figcaption><h3>", style);
    sl_write_html(page->to, caption);
    fputs("</h3>", page->to);
    if (*note) {
        fputs("<p>", page->to);
        sl_write_html(page->to, note);
        fputs("</p>", page->to);
    }
    fputs("</figcaption>\n", page->to);
}

void sl_page_figure_end(struct sl_page *page)
{
    fputs("</figure>\n", page->to);
}

void sl_page_legend_begin(struct sl_page *page)
{
    fputs("<ul class=\"legend\">", page->to);
}

void sl_page_legend_line(struct sl_page *page, uint32_t colour, const char *name, bool dashed, bool with_mark)
{
    struct sl_plot key = {.to = page->to};
    fprintf(page->to, "<li><svg class=\"key\" viewBox=\"0 0 24 10\"><path class=\"l k%u%s\" d=\"M0 5H24\"/>",
            colour % SL_PLOT_COLOURS, dashed ? " d" : "");
    if (with_mark)
        sl_plot_mark(&key, colour, 12, 5, NULL);
    fputs("</svg>", page->to);
    sl_write_html(page->to, name);
    fputs("</li>", page->to);
}

void sl_page_legend_box(struct sl_page *page, const char *style, const char *name)
{
    fprintf(page->to, "<li><svg class=\"key\" viewBox=\"0 0 24 10\">");
    if (strncmp(style, "ring", 4) == 0)
        fprintf(page->to, "<rect class=\"%s\" x=\"1\" y=\"1\" width=\"22\" height=\"8\"/></svg>", style);
    else if (strcmp(style, "cross") == 0)
        fprintf(page->to, "<path class=\"cross\" d=\"M8 1l8 8m-8 0l8 -8\"/></svg>");
    else
        fprintf(page->to, "<path class=\"%s\" stroke-width=\"9\" d=\"M1 5H23\"/></svg>", style);
    sl_write_html(page->to, name);
    fputs("</li>", page->to);
}

void sl_page_legend_end(struct sl_page *page)
{
    fputs("</ul>\n", page->to);
}

bool sl_page_has_classes(const struct sl_report *report)
{
    return report->n_classes > 1;
}

void sl_page_short_name(const char *name, char text[64])
{
    size_t bytes = strlen(name), most = 24;
    if (bytes <= most + 2) {
        snprintf(text, 64, "%s", name);
        return;
    }
    while (most > 20 && ((unsigned char)name[most] & 0xc0) == 0x80)
        most--; /* not within a character */
    snprintf(text, 64, "%.*s\xe2\x80\xa6", (int)most, name);
}

void sl_page_point_name(const struct sl_point *point, char text[64])
{
    if (point->rate > 0)
        snprintf(text, 64, "%.4g requests/s", point->rate);
    else
        snprintf(text, 64, "%.3g in flight", point->all.mean_in_flight);
}

/* ---- the head of the page ---- */

static const char *or_else(const char *text, const char *otherwise)
{
    return text && *text ? text : otherwise;
}

static void put_head(struct sl_page *page)
{
    const struct sl_report *report = page->report;
    FILE *to = page->to;
    fputs("<!DOCTYPE html>\n<html xmlns=\"http://www.w3.org/1999/xhtml\" lang=\"en\"><head><meta "
          "charset=\"utf-8\"/>"
          "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/><title>",
          to);
    sl_write_html(to, or_else(report->model, "sluice bench serve"));
    fputs(" at ", to);
    sl_write_html(to, or_else(report->target, "?"));
    fprintf(to, "</title>\n<style>\n%s</style></head>\n<body>\n<header><h1>", sl_page_style);
    sl_write_html(to, or_else(report->model, "a model without a name"));
    fputs(" <span class=\"soft\">at</span> ", to);
    sl_write_html(to, or_else(report->target, "?"));
    fputs("</h1>\n<p>", to);
    sl_write_html(to, or_else(report->load, ""));
    if (page->points.n > 1)
        fprintf(to, "; a sweep of %u points", page->points.n);
    fputs("</p>\n<p class=\"soft\">", to);
    sl_write_html(to, or_else(report->date, "no date"));
    fputs(" · ", to);
    sl_write_html(to, or_else(report->machine, "machine not known"));
    fputs(" · sluice ", to);
    sl_write_html(to, or_else(report->version, "?"));
    fputs("</p>\n", to);
    if (report->command && *report->command) {
        fputs("<p class=\"command\"><code>", to);
        sl_write_html(to, report->command);
        fputs("</code></p>\n", to);
    }
}

static void put_settings(struct sl_page *page)
{
    const char *const *settings = page->report->settings;
    if (settings && settings[0]) {
        fputs("<details><summary>Settings</summary><div class=\"scroll\"><table><thead><tr><th>option</th>"
              "<th>value</th></tr></thead><tbody>\n",
              page->to);
        for (; settings[0]; settings += 2) {
            fputs("<tr><td>", page->to);
            sl_write_html(page->to, settings[0]);
            fputs("</td><td class=\"text\">", page->to);
            sl_write_html(page->to, settings[1] ? settings[1] : "");
            fputs("</td></tr>\n", page->to);
            if (!settings[1])
                break;
        }
        fputs("</tbody></table></div></details>\n", page->to);
    }
    fputs("</header>\n", page->to);
}

static void put_banner(struct sl_page *page)
{
    const struct sl_report *report = page->report;
    uint32_t n = 0;
    for (uint32_t r = 0; r < report->n_runs; r++)
        n += report->runs[r].invalid;
    if (report->n_runs == 0)
        fputs(
            "<p class=\"banner\"><b>Nothing was measured.</b> The run ended before its first request.</p>\n",
            page->to);
    if (n == 0)
        return;
    fprintf(page->to,
            "<div class=\"banner\"><p><b>INVALID</b> %u of %u runs: the harness was late itself (send "
            "lag p99 above 1 ms and "
            "above 1 %% of the median TTFT), so latencies are partly its own. Give it a processor of its "
            "own (--cpus), or "
            "fewer neighbours.</p>\n",
            n, report->n_runs);
    for (uint32_t r = 0, said = 0; r < report->n_runs && said < 20; r++) {
        const struct sl_load_run *run = &report->runs[r];
        if (!run->invalid)
            continue;
        said++;
        fprintf(page->to, "<p>run %u", r + 1);
        if (run->rate > 0)
            fprintf(page->to, " (%.4g requests/s)", run->rate);
        const struct sl_interval *lag = &run->all.figures[SL_LAG].quantiles[4],
                                 *ttft = &run->all.figures[SL_TTFT].quantiles[0];
        if (lag->known && isfinite(lag->value)) {
            fputs(": send lag p99 ", page->to);
            sl_page_number(page->to, lag->value);
            fputs(" ms", page->to);
        }
        if (ttft->known && isfinite(ttft->value)) {
            fputs(", median TTFT ", page->to);
            sl_page_number(page->to, ttft->value);
            fputs(" ms", page->to);
        }
        if (run->stolen_share > 0.005)
            fprintf(page->to, ", %.1f %% of the processors' time was taken by neighbours",
                    100 * run->stolen_share);
        fputs("</p>\n", page->to);
    }
    fputs("</div>\n", page->to);
}

static void put_foot(struct sl_page *page)
{
    fputs(
        "<h2>What the words mean</h2>\n<details open=\"open\"><summary>Definitions</summary>\n"
        "<p><b>TTFT</b> first token − due: from the time at which the load wanted the request sent, "
        "so waiting at the client "
        "counts. <b>TTFT sent</b> first token − sent. <b>ITL</b> each gap between messages with "
        "tokens. <b>TPOT</b> (last token − "
        "first token) / (tokens − 1). <b>E2E</b> last token − due. <b>Send lag</b> sent − due: the "
        "harness's own.</p>\n"
        "<p>A request that failed, timed out or was never sent has an infinite latency: it lies in "
        "the tail of every percentile and "
        "is never dropped. <b>failed</b>: the percentile lies among those. Means are of what is finite.</p>\n"
        "<p>Small numbers below a figure are its 95 % interval, of blocks of samples longer than "
        "what ties them together. "
        "<b>n/a</b>: too few samples for the percentile, or fewer than 20 independent blocks for its "
        "interval. "
        "<b>Goodput</b>: requests that ended well within all limits of their class, per second.</p>"
        "</details>\n"
        "</body></html>\n",
        page->to);
}

sl_status sl_report_html(const struct sl_report *report, const char *path, struct sl_err *err)
{
    struct sl_page page = {.report = report};
    struct sl_written written;
    SL_TRY(sl_points_init(&page.points, report, err));
    sl_status status = sl_written_open(&written, "page", path, err);
    if (status == SL_OK) {
        page.to = written.to;
        put_head(&page);
        put_settings(&page);
        put_banner(&page);
        if (page.points.n > 0) {
            sl_page_tables(&page);
            sl_page_figures(&page);
            sl_page_times(&page);
        }
        put_foot(&page);
        if (page.out_of_memory) {
            sl_written_drop(&written);
            status = sl_fail(err, SL_E_NOMEM, "no memory to draw the page %s", path);
        } else {
            status = sl_written_close(&written, err);
        }
    }
    sl_points_fini(&page.points);
    return status;
}
