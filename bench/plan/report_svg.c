/* Two drawings in one file: the pipeline of one prompt as `generate --timeline` would draw it, and the time to a first token over
 * numbers of stages, with experts over as many nodes beside it. */
#include "bench/plan/report.h"
#include "bench/serve/plot.h"
#include "node/client/timeline.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_SPANS = 1 << 13, GAP = 28, PLOT_HEIGHT = 360, ORIGIN_US = 1 };

static const char style[] =
    "<style>text{font-family:system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif}"
    ".plot text{font-size:12px;fill:#333}.plot text.tick{font-size:11px;fill:#777}.plot text.head{font-size:17px;"
    "font-weight:600;fill:#111}.grid{stroke:#e4e4e4;stroke-width:1;fill:none}.axis{stroke:#777;fill:none}"
    ".line{stroke:var(--c);stroke-width:2;fill:none}.dashed{stroke:var(--c);stroke-width:2;stroke-dasharray:6 4;"
    "fill:none}.f{fill:var(--c)}.k0{--c:#0068b5}.k1{--c:#d97706}.k2{--c:#0f8a66}</style>\n";

struct spans {
    struct sl_span *of;
    uint32_t n;
};

static void add_span(void *user, uint32_t chunk, uint32_t stage, double begin_us, double end_us, uint32_t pos,
                     uint32_t rows)
{
    struct spans *spans = user;
    if (spans->n < MOST_SPANS)
        spans->of[spans->n++] = (struct sl_span){.stage = (uint16_t)stage,
                                                 .chunk = chunk,
                                                 .pos = pos,
                                                 .tokens = rows,
                                                 .begin_us = ORIGIN_US + (uint64_t)begin_us,
                                                 .end_us = ORIGIN_US + (uint64_t)end_us};
}

/* ---- first tokens over stages ---- */

enum drawn_curve { LAYERS, EXPERTS, OVERLAPPED, CURVES };

static double value_of(const struct sl_plan_row *row, enum drawn_curve curve)
{
    double us = curve == LAYERS    ? (row->fits ? row->ttft_us : NAN)
                : curve == EXPERTS ? row->experts.ttft_us
                                   : row->experts.overlapped_us;
    return us / 1000;
}

static void draw_curve(const struct sl_plot *plot, const struct sl_plan_report *r, enum drawn_curve curve)
{
    static const char *const styles[CURVES] = {"line k0", "line k1", "dashed k1"};
    static const char *const names[CURVES] = {"layers over nodes",
                                              "experts over nodes, attention split evenly",
                                              "the same, exchange hidden where it can be"};
    double x[SL_PLAN_ROWS], y[SL_PLAN_ROWS], top = plot->y.to - 46 + 16.0 * (int)curve;
    for (uint32_t i = 0; i < r->n_rows; i++) {
        double value = value_of(&r->rows[i], curve);
        x[i] = sl_axis_at(&plot->x, r->rows[i].n);
        y[i] = isnan(value) ? NAN : sl_axis_at(&plot->y, value);
    }
    sl_plot_line(plot, styles[curve], x, y, r->n_rows);
    for (uint32_t i = 0; i < r->n_rows && curve != OVERLAPPED; i++) {
        char tip[80], name[32];
        sl_axis_name(SL_UNIT_MS, value_of(&r->rows[i], curve), name);
        snprintf(tip, sizeof tip, "%u nodes: %s", r->rows[i].n, name);
        if (!isnan(y[i]))
            sl_plot_mark(plot, curve, x[i], y[i], tip);
        else
            sl_plot_text(plot, x[i], plot->y.from - 6, "tick", "middle", "no room");
    }
    double lx[2] = {plot->x.to - 320, plot->x.to - 290}, ly[2] = {top - 4, top - 4};
    sl_plot_line(plot, styles[curve], lx, ly, 2);
    sl_plot_text(plot, plot->x.to - 282, top, "label", "start", names[curve]);
}

static void draw_over_stages(const struct sl_plan_report *r, FILE *to)
{
    struct sl_plot plot = {.to = to,
                           .width = SL_TIMELINE_SVG_WIDTH,
                           .height = PLOT_HEIGHT,
                           .x = {.from = 108, .to = SL_TIMELINE_SVG_WIDTH - 188, .label = "stages, or nodes"},
                           .y = {.from = PLOT_HEIGHT - 48, .to = 88, .unit = SL_UNIT_MS}};
    uint32_t curves = r->model.n_experts > 0 ? CURVES : EXPERTS;
    double most = 0;
    char head[160];
    for (uint32_t i = 0; i < r->n_rows; i++)
        for (uint32_t c = 0; c < curves; c++) {
            double value = value_of(&r->rows[i], (enum drawn_curve)c);
            most = value > most ? value : most;
        }
    sl_axis_fit(&plot.x, 0, r->n_rows ? r->rows[r->n_rows - 1].n : 1);
    sl_axis_fit(&plot.y, 0, most);
    snprintf(head, sizeof head, "first token of %.0f tokens over numbers of stages", r->load.prompt);
    sl_plot_text(&plot, 24, 34, "head", "start", head);
    sl_plot_axes(&plot);
    for (uint32_t c = 0; c < curves; c++)
        draw_curve(&plot, r, (enum drawn_curve)c);
}

/* ---- both ---- */

static void draw(const struct sl_plan_report *r, const struct sl_timeline *timeline, FILE *to)
{
    double height = sl_timeline_svg_height(timeline);
    fprintf(
        to,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %.0f\" width=\"%d\" height=\"%.0f\">\n%s"
        "<rect width=\"100%%\" height=\"100%%\" rx=\"8\" fill=\"#fff\"/>\n",
        SL_TIMELINE_SVG_WIDTH, height + GAP + PLOT_HEIGHT, SL_TIMELINE_SVG_WIDTH, height + GAP + PLOT_HEIGHT,
        style);
    sl_timeline_svg_to(timeline, to);
    fprintf(to, "<g class=\"plot\" transform=\"translate(0 %.0f)\">\n", height + GAP);
    draw_over_stages(r, to);
    fputs("</g>\n</svg>\n", to);
}

sl_status sl_plan_report_svg(const struct sl_plan_report *r, const char *path, struct sl_err *err)
{
    struct spans spans = {.of = calloc(MOST_SPANS, sizeof *spans.of)};
    if (!spans.of)
        return sl_fail(err, SL_E_NOMEM, "no memory to draw");
    FILE *to = fopen(path, "w");
    if (!to) {
        free(spans.of);
        return sl_fail(err, SL_E_IO, "cannot write the drawing %s: %s", path, strerror(errno));
    }
    double us =
        sl_planner_ttft(&r->forecast, &r->model, r->nodes, (uint32_t)ceil(r->load.prompt), add_span, &spans);
    struct sl_timeline timeline = {.submit_us = ORIGIN_US,
                                   .admit_us = ORIGIN_US,
                                   .first_token_us = ORIGIN_US + (uint64_t)us,
                                   .done_us = ORIGIN_US + (uint64_t)us,
                                   .n_stages = r->forecast.n_stages,
                                   .n_spans = spans.n,
                                   .spans = spans.of};
    draw(r, &timeline, to);
    free(spans.of);
    bool bad = ferror(to) != 0;
    if (fclose(to) != 0 || bad)
        return sl_fail(err, SL_E_IO, "cannot write the drawing %s: is the disk full?", path);
    return SL_OK;
}
