/* The drawing of layout_report.h: for each delay, side by side and to one scale, latency over nodes of either layout, and below it the
 * same by what a perfect split of one node's work would take, where a tenth can be seen; dashed what experts would take if all of
 * their exchange were hidden. An SVG that stands alone, on white paper. */
#include "bench/layout_report.h"
#include "bench/serve/plot.h"
#include "bench/serve/written.h"
#include <math.h>
#include <stdlib.h>

enum {
    PANEL = 300,
    LEFT = 64,
    TOP = 104,
    HEIGHT = 200,
    FOOT = 66,
    GAP = 64,
    MARGIN = 24,
    DELAYS_MAX = 16,
    NODES_MAX = 16
};
enum { LATENCY, OF_SPLIT, MEASURES }; /* rows of panels */

struct layout_drawing {
    const struct sl_layout_report *report;
    FILE *to;
    uint32_t tokens; /* of the prompt that is drawn: the longest */
    uint32_t delays[DELAYS_MAX], n_delays, nodes[NODES_MAX], n_nodes;
    struct sl_axis y[MEASURES];
    double width, height;
};

static void note(uint32_t *values, uint32_t *n, uint32_t most, uint32_t value)
{
    for (uint32_t i = 0; i < *n; i++)
        if (values[i] == value)
            return;
    if (*n < most)
        values[(*n)++] = value;
}

static double value_of(const struct sl_layout_row *row, int measure, bool ideal)
{
    double ms = ideal ? row->ideal_ms : row->latency_ms;
    return measure == LATENCY ? ms : ms * row->n_nodes / row->one_ms;
}

static void plan(struct layout_drawing *d)
{
    double most[MEASURES] = {0, 1};
    for (uint32_t i = 0; i < d->report->n_rows; i++)
        if (d->report->rows[i].prompt_tokens > d->tokens)
            d->tokens = d->report->rows[i].prompt_tokens;
    for (uint32_t i = 0; i < d->report->n_rows; i++) {
        const struct sl_layout_row *row = &d->report->rows[i];
        if (row->prompt_tokens != d->tokens || row->kind == SL_ROW_EXPERTS_EXACT)
            continue;
        if (row->n_nodes > 1)
            note(d->delays, &d->n_delays, DELAYS_MAX, row->delay_us);
        note(d->nodes, &d->n_nodes, NODES_MAX, row->n_nodes);
        for (int m = 0; m < MEASURES; m++)
            most[m] = value_of(row, m, false) > most[m] ? value_of(row, m, false) : most[m];
    }
    if (d->n_delays == 0)
        d->n_delays = 1;
    for (int m = 0; m < MEASURES; m++) {
        double top = TOP + m * (double)(HEIGHT + FOOT);
        d->y[m] = (struct sl_axis){
            .from = top + HEIGHT, .to = top, .unit = m == LATENCY ? SL_UNIT_MS : SL_UNIT_NONE};
        sl_axis_fit(&d->y[m], m == LATENCY ? 0 : 0.8, most[m]);
    }
    d->width = 2 * MARGIN + LEFT + d->n_delays * PANEL + (d->n_delays - 1) * GAP;
    d->height = TOP + MEASURES * (HEIGHT + FOOT);
}

static double place(const struct layout_drawing *d, double left, uint32_t i)
{
    return left + (d->n_nodes > 1 ? 20 + (PANEL - 40.0) * i / (d->n_nodes - 1) : PANEL / 2.0);
}

/* Of one node all layouts are the same: it is the layers'. */
static const struct sl_layout_row *row_at(const struct layout_drawing *d, enum sl_layout_row_kind kind,
                                          uint32_t i, uint32_t delay_us)
{
    struct sl_layout_row like = {
        .n_nodes = d->nodes[i], .delay_us = d->nodes[i] == 1 ? 0 : delay_us, .prompt_tokens = d->tokens};
    return sl_layout_row_of(d->report, &like, d->nodes[i] == 1 ? SL_ROW_LAYERS : kind);
}

static void draw_line(const struct layout_drawing *d, const struct sl_plot *plot, double left,
                      uint32_t delay_us, enum sl_layout_row_kind kind, int measure, bool ideal)
{
    double x[NODES_MAX], y[NODES_MAX];
    uint32_t colour = kind == SL_ROW_LAYERS ? 0 : 1;
    for (uint32_t i = 0; i < d->n_nodes; i++) {
        const struct sl_layout_row *row = row_at(d, kind, i, delay_us);
        x[i] = place(d, left, i);
        y[i] = row ? sl_axis_at(&d->y[measure], value_of(row, measure, ideal)) : NAN;
    }
    sl_plot_line(plot, ideal ? "l k1 d" : colour == 0 ? "l k0" : "l k1", x, y, d->n_nodes);
    for (uint32_t i = 0; i < d->n_nodes && !ideal; i++) {
        const struct sl_layout_row *row = row_at(d, kind, i, delay_us);
        char tip[96];
        if (!row)
            continue;
        snprintf(tip, sizeof tip, "%s, %u node%s: %.1f ms, by the algebra %.1f",
                 kind == SL_ROW_LAYERS ? "layers" : "experts", d->nodes[i], d->nodes[i] == 1 ? "" : "s",
                 row->latency_ms, row->foretold_ms);
        sl_plot_mark(plot, colour, x[i], y[i], tip);
    }
}

static void draw_panel(const struct layout_drawing *d, uint32_t panel, int measure)
{
    double left = MARGIN + LEFT + panel * (double)(PANEL + GAP);
    char text[64];
    double top = d->y[measure].to, foot = d->y[measure].from;
    struct sl_plot plot = {.to = d->to, .width = d->width, .height = d->height, .y = d->y[measure]};
    plot.x = (struct sl_axis){.low = 0, .high = 1, .from = left, .to = left + PANEL};
    sl_plot_y_axis(&plot);
    snprintf(text, sizeof text, "%u µs on each link", d->delays[panel]);
    if (measure == OF_SPLIT)
        snprintf(text, sizeof text, "times a perfect split of one node's");
    sl_plot_text(&plot, left + PANEL / 2.0, top - 12, measure == LATENCY ? "head" : "label", "middle", text);
    for (uint32_t i = 0; i < d->n_nodes; i++) {
        snprintf(text, sizeof text, "%u", d->nodes[i]);
        sl_plot_text(&plot, place(d, left, i), foot + 18, "tick", "middle", text);
    }
    sl_plot_text(&plot, left + PANEL / 2.0, foot + 34, "label", "middle", "nodes");
    draw_line(d, &plot, left, d->delays[panel], SL_ROW_EXPERTS_NODE, measure, true);
    draw_line(d, &plot, left, d->delays[panel], SL_ROW_EXPERTS_NODE, measure, false);
    draw_line(d, &plot, left, d->delays[panel], SL_ROW_LAYERS, measure, false);
}

static void draw_legend(const struct layout_drawing *d)
{
    static const struct {
        const char *style, *text;
        double width;
    } entries[] = {{"l k0", "layers sharded: a pipeline", 210},
                   {"l k1", "experts sharded", 150},
                   {"l k1 d", "the same, its exchange all hidden", 0}};
    struct sl_plot plot = {.to = d->to, .width = d->width, .height = d->height};
    double at = MARGIN + LEFT;
    for (uint32_t i = 0; i < sizeof entries / sizeof *entries; i++) {
        sl_plot_line(&plot, entries[i].style, (double[]){at, at + 26}, (double[]){52, 52}, 2);
        if (i < 2)
            sl_plot_mark(&plot, i, at + 13, 52, NULL);
        sl_plot_text(&plot, at + 32, 56, "label", "start", entries[i].text);
        at += entries[i].width;
    }
}

static const char style[] =
    "<style>text{font:12px system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif;fill:#1c2127}"
    ".title{font-size:15px;font-weight:600}.head{font-weight:600}.tick,.label{fill:#59636e}"
    ".grid{stroke:#d5dae0;stroke-width:.7;fill:none}.axis{stroke:#59636e;fill:none}"
    ".l{fill:none;stroke-width:2;stroke-linejoin:round}"
    ".d{stroke-dasharray:5 4;stroke-width:1.5}.l.k0{stroke:#0068b5}.f.k0{fill:#0068b5}.l.k1{stroke:#d97706}.f.k1{fill:#d97706}</style>\n";

static void draw(struct layout_drawing *d)
{
    char title[160];
    plan(d);
    snprintf(title, sizeof title, "Latency of one prompt of %u tokens, %u of %u experts, chunks of %u rows",
             d->tokens, d->report->top_k, d->report->n_experts, d->report->chunk);
    fprintf(
        d->to,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" width=\"%.0f\" height=\"%.0f\">\n<title>",
        d->width, d->height, d->width, d->height);
    sl_write_html(d->to, title);
    fprintf(d->to, "</title>\n%s<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n", style);
    struct sl_plot plot = {.to = d->to, .width = d->width, .height = d->height};
    sl_plot_text(&plot, MARGIN, 30, "title", "start", title);
    draw_legend(d);
    for (uint32_t i = 0; i < d->n_delays * MEASURES; i++)
        draw_panel(d, i / MEASURES, (int)(i % MEASURES));
    fputs("</svg>\n", d->to);
}

sl_status sl_layout_draw(const struct sl_layout_report *report, const char *path, struct sl_err *err)
{
    struct sl_written written;
    SL_TRY(sl_written_open(&written, "drawing", path, err));
    draw(&(struct layout_drawing){.report = report, .to = written.to});
    return sl_written_close(&written, err);
}
