/* What the parts of the page share: page.c (the page itself and its head), page_style.c (CSS),
 * page_tables.c (every number), page_figures.c (figures over a sweep, distributions, parts of TTFT),
 * page_times.c (what happened when). */
#ifndef SL_BENCH_SERVE_PAGE_IMPL_H
#define SL_BENCH_SERVE_PAGE_IMPL_H

#include "bench/serve/plot.h"
#include "bench/serve/point.h"

extern const char sl_page_style[];

struct sl_page {
    FILE *to;
    const struct sl_report *report;
    struct sl_points points;
    bool out_of_memory;
};

/* Without memory for a figure it is left out, out_of_memory is set, and the page is given up: half of a
 * page would be believed. */
void sl_page_tables(struct sl_page *page);  /* key figures, requests, repeats, errors */
void sl_page_figures(struct sl_page *page); /* into a grid */
void sl_page_times(struct sl_page *page);   /* full width */

/* "3.14", "31.4", "314": three figures, or all before the point. */
void sl_page_number(FILE *to, double value);
/* A cell with its interval below it: n/a when there are too few samples, "failed" when it lies among
 * failed requests. */
void sl_page_interval(FILE *to, const struct sl_interval *interval);

/* A figure of the grid: caption and a note (may be ""), then its legend and SVG, then the end. */
void sl_page_figure_begin(struct sl_page *page, const char *style, const char *caption, const char *note);
void sl_page_figure_end(struct sl_page *page);
void sl_page_legend_begin(struct sl_page *page);
void sl_page_legend_line(struct sl_page *page, uint32_t colour, const char *name, bool dashed,
                         bool with_mark);
void sl_page_legend_box(struct sl_page *page, const char *style,
                        const char *name); /* "ring", "cross", or a colour */
void sl_page_legend_end(struct sl_page *page);

/* A name of a class for a drawing: cut, with an ellipsis, after 24 bytes or a little less. */
void sl_page_short_name(const char *name, char text[64]);
/* With one class nobody needs its name. */
bool sl_page_has_classes(const struct sl_report *report);
/* "4 requests/s", or "7.9 in flight" when no class is open. */
void sl_page_point_name(const struct sl_point *point, char text[64]);

#endif
