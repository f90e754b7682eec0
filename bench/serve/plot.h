/* Drawing a figure as inline SVG: axes with round ticks, lines, bars, marks. Nothing here knows what is
 * drawn.
 *
 * Colours are classes ("k0" to "k7": a CSS variable each), so the page decides them, for light, dark and
 * paper. Coordinates are units of the viewBox, with a tenth as the smallest; a figure is scaled to the
 * room it gets. All text that a caller gives is escaped. */
#ifndef SL_BENCH_SERVE_PLOT_H
#define SL_BENCH_SERVE_PLOT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum { SL_PLOT_COLOURS = 8, SL_PLOT_TICKS = 16 };

enum sl_unit { SL_UNIT_NONE, SL_UNIT_MS, SL_UNIT_S, SL_UNIT_PERCENTILE };

struct sl_axis {
    double low, high;  /* values */
    double from, to;   /* where low and high lie */
    bool log;          /* low > 0 */
    enum sl_unit unit; /* MS: values are ms, labels "20 ms", "2 s"; PERCENTILE: values are 1 / (1 - q), log */
    const char *label;
};

struct sl_plot {
    FILE *to;
    double width, height;
    struct sl_axis x, y; /* y.from is below y.to: SVG counts downwards */
};

/* Spans [low, high] outwards to round values; what cannot be an axis (nothing, one value, not finite)
 * becomes one. A log axis spans at least a factor of 2.5. */
void sl_axis_fit(struct sl_axis *axis, double low, double high);
double sl_axis_at(const struct sl_axis *axis, double value); /* clamped to the axis */
/* At most `most` (<= SL_PLOT_TICKS) round values within the axis, rising. */
uint32_t sl_axis_ticks(const struct sl_axis *axis, uint32_t most, double ticks[SL_PLOT_TICKS]);
/* "2.5", "20k"; "250 µs", "20 ms", "2 s"; "99.9 %": short, for a tick. */
void sl_axis_name(enum sl_unit unit, double value, char text[32]);

/* From <svg> to </svg>. style: its class; title: what a reader who does not see it is told. */
void sl_plot_begin(const struct sl_plot *plot, const char *style, const char *title);
void sl_plot_end(const struct sl_plot *plot);
/* Grid, ticks, labels. */
void sl_plot_axes(const struct sl_plot *plot);
void sl_plot_x_axis(const struct sl_plot *plot, bool with_grid);
void sl_plot_y_axis(const struct sl_plot *plot);

/* anchor: "start", "middle", "end". */
void sl_plot_text(const struct sl_plot *plot, double x, double y, const char *style, const char *anchor,
                  const char *text);
/* Through n points, in units; a gap where one is NAN. */
void sl_plot_line(const struct sl_plot *plot, const char *style, const double *x, const double *y,
                  uint32_t n);
/* Of 95 %, as a thin I at x; what is outside of the axis is cut off there, with no end. */
void sl_plot_whisker(const struct sl_plot *plot, const char *style, double x, double low, double high);
/* A mark of a shape of its own for each colour, with a tooltip (or NULL). */
void sl_plot_mark(const struct sl_plot *plot, uint32_t colour, double x, double y, const char *tip);
/* What has no place on the y axis because it failed: an x at the top edge. */
void sl_plot_failed(const struct sl_plot *plot, double x, const char *tip);
void sl_plot_box(const struct sl_plot *plot, const char *style, double x, double y, double width,
                 double height, const char *tip);

#endif
