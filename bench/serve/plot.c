/* Drawing a figure as inline SVG (plot.h). Coordinates are written with one decimal: finer than a screen
 * shows, and a path of thousands of points stays small. */
#include "bench/serve/plot.h"
#include "bench/serve/written.h"

#include <math.h>
#include <string.h>

/* ---- axes ---- */

/* 1, 2 or 5 times a power of ten, the least that is at least `least`. */
static double round_step(double least)
{
    double power = pow(10, floor(log10(least))), factor = least / power;
    return power * (factor <= 1.0000001 ? 1 : factor <= 2.0000001 ? 2 : factor <= 5.0000001 ? 5 : 10);
}

/* The largest 1, 2 or 5 times a power of ten that is at most value. */
static double round_down(double value)
{
    double power = pow(10, floor(log10(value) + 1e-9)), factor = value / power;
    return power * (factor >= 4.9999999 ? 5 : factor >= 1.9999999 ? 2 : 1);
}

static void fit_log(struct sl_axis *axis, double low, double high)
{
    if (!(low > 0) || !isfinite(low))
        low = high > 0 && isfinite(high) ? high / 10 : 1;
    if (!(high >= low) || !isfinite(high))
        high = low;
    if (high < low * 2.5) {
        double middle = sqrt(low) * sqrt(high);
        low = middle / 1.6;
        high = middle * 1.6;
    }
    axis->low = round_down(low);
    axis->high = round_step(high);
}

void sl_axis_fit(struct sl_axis *axis, double low, double high)
{
    if (axis->log) {
        fit_log(axis, low, high);
        return;
    }
    low = isfinite(low) ? low : 0;
    high = isfinite(high) && high > low ? high : low;
    if (!(high - low > fabs(high) * 1e-9)) {
        double about = fabs(high) > 0 ? fabs(high) : 1;
        low = low >= 0 && low <= about ? 0 : low - about;
        high += about * 0.2;
    }
    double step = round_step((high - low) / 5);
    axis->low = floor(low / step + 1e-6) * step;
    axis->high = ceil(high / step - 1e-6) * step;
}

double sl_axis_at(const struct sl_axis *axis, double value)
{
    double part;
    if (axis->log)
        part = value > 0 ? log(value / axis->low) / log(axis->high / axis->low) : 0;
    else
        part = (value - axis->low) / (axis->high - axis->low);
    part = isnan(part) || part < 0 ? 0 : part > 1 ? 1 : part;
    return axis->from + part * (axis->to - axis->from);
}

static uint32_t log_ticks(const struct sl_axis *axis, uint32_t most, double *ticks)
{
    /* The finest that fits of: 1, 2 and 5 times powers of ten; powers of ten; every second, third, ... of
     * them. */
    int first = (int)floor(log10(axis->low) + 1e-9), last = (int)floor(log10(axis->high) + 1e-9);
    for (int every = 0;; every++) {
        static const double factors[] = {1, 2, 5};
        uint32_t n = 0, steps = every == 0 ? 3 : 1;
        bool fits = true;
        for (int power = first; power <= last && fits; power++)
            for (uint32_t i = 0; i < steps && fits; i++) {
                double value = factors[i] * pow(10, power);
                if (value < axis->low * 0.999999 || value > axis->high * 1.000001 ||
                    (every > 0 && (power % every + every) % every != 0))
                    continue;
                if (n == most)
                    fits = false;
                else
                    ticks[n++] = value;
            }
        if (fits)
            return n;
    }
}

static uint32_t percentile_ticks(const struct sl_axis *axis, uint32_t most, double *ticks)
{
    static const double at[] = {1, 2, 10, 100, 1e3, 1e4, 1e5, 1e6, 1e7}; /* 0, 50, 90, 99, ... % */
    uint32_t n = 0;
    for (uint32_t i = 0; i < sizeof at / sizeof *at && n < most; i++)
        if (at[i] >= axis->low && at[i] <= axis->high)
            ticks[n++] = at[i];
    return n;
}

uint32_t sl_axis_ticks(const struct sl_axis *axis, uint32_t most, double ticks[SL_PLOT_TICKS])
{
    most = most > SL_PLOT_TICKS ? SL_PLOT_TICKS : most < 2 ? 2 : most;
    if (axis->unit == SL_UNIT_PERCENTILE)
        return percentile_ticks(axis, most, ticks);
    if (axis->log)
        return log_ticks(axis, most, ticks);
    double step = round_step((axis->high - axis->low) / (most - 1));
    uint32_t n = 0;
    double first = ceil(axis->low / step - 1e-6);
    for (; n < most && (first + n) * step <= axis->high + step * 1e-6; n++)
        ticks[n] = (first + n) * step;
    return n;
}

void sl_axis_name(enum sl_unit unit, double value, char text[32])
{
    if (unit == SL_UNIT_PERCENTILE) {
        snprintf(text, 32, "%.6g%%", 100 - 100 / value);
        return;
    }
    if (unit == SL_UNIT_S)
        value *= 1000;
    if (unit == SL_UNIT_NONE) {
        bool thousands = fabs(value) >= 10000;
        snprintf(text, 32, "%.6g%s", thousands ? value / 1000 : value, thousands ? "k" : "");
    } else if (value == 0) {
        snprintf(text, 32, "0");
    } else if (fabs(value) < 0.9999) {
        snprintf(text, 32, "%.4g µs", value * 1000);
    } else if (fabs(value) < 999.9) {
        snprintf(text, 32, "%.4g ms", value);
    } else {
        snprintf(text, 32, "%.5g s", value / 1000);
    }
}

/* ---- elements ---- */

void sl_plot_begin(const struct sl_plot *plot, const char *style, const char *title)
{
    fprintf(plot->to, "<svg class=\"%s\" viewBox=\"0 0 %.0f %.0f\" role=\"img\" aria-label=\"", style,
            plot->width, plot->height);
    sl_write_html(plot->to, title);
    fputs("\">\n", plot->to);
}

void sl_plot_end(const struct sl_plot *plot)
{
    fputs("</svg>\n", plot->to);
}

void sl_plot_text(const struct sl_plot *plot, double x, double y, const char *style, const char *anchor,
                  const char *text)
{
    fprintf(plot->to, "<text x=\"%.1f\" y=\"%.1f\" class=\"%s\" text-anchor=\"%s\">", x, y, style, anchor);
    sl_write_html(plot->to, text);
    fputs("</text>\n", plot->to);
}

/* A label at the left end of an axis must not stand out of the figure. */
void sl_plot_x_axis(const struct sl_plot *plot, bool with_grid)
{
    const struct sl_axis *x = &plot->x, *y = &plot->y;
    double ticks[SL_PLOT_TICKS], last = -1e9;
    uint32_t n = sl_axis_ticks(x, (uint32_t)((x->to - x->from) / 54) + 1, ticks);
    for (uint32_t i = 0; i < n; i++) {
        char text[32];
        double at = sl_axis_at(x, ticks[i]);
        sl_axis_name(x->unit, ticks[i], text);
        double half = 3.4 * (double)strlen(text);
        if (with_grid)
            fprintf(plot->to, "<path class=\"grid\" d=\"M%.1f %.1fV%.1f\"/>\n", at, y->from, y->to);
        fprintf(plot->to, "<path class=\"axis\" d=\"M%.1f %.1fv4\"/>\n", at, y->from);
        if (at - half < last + 6)
            continue; /* no room for its name */
        bool edge = at + half > plot->width - 2;
        sl_plot_text(plot, edge ? plot->width - 2 : at, y->from + 17, "tick", edge ? "end" : "middle", text);
        last = at + half;
    }
    fprintf(plot->to, "<path class=\"axis\" d=\"M%.1f %.1fH%.1f\"/>\n", x->from, y->from, x->to);
    if (x->label)
        sl_plot_text(plot, (x->from + x->to) / 2, y->from + 34, "label", "middle", x->label);
}

void sl_plot_y_axis(const struct sl_plot *plot)
{
    const struct sl_axis *x = &plot->x, *y = &plot->y;
    double ticks[SL_PLOT_TICKS];
    uint32_t n = sl_axis_ticks(y, (uint32_t)((y->from - y->to) / 26) + 1, ticks);
    for (uint32_t i = 0; i < n; i++) {
        char text[32];
        double at = sl_axis_at(y, ticks[i]);
        sl_axis_name(y->unit, ticks[i], text);
        fprintf(plot->to, "<path class=\"grid\" d=\"M%.1f %.1fH%.1f\"/>\n", x->from, at, x->to);
        sl_plot_text(plot, x->from - 6, at + 4, "tick", "end", text);
    }
    if (y->label)
        sl_plot_text(plot, 2, 12, "label", "start", y->label);
}

void sl_plot_axes(const struct sl_plot *plot)
{
    sl_plot_y_axis(plot);
    sl_plot_x_axis(plot, true);
}

void sl_plot_line(const struct sl_plot *plot, const char *style, const double *x, const double *y, uint32_t n)
{
    bool begun = false, any = false;
    for (uint32_t i = 0; i < n; i++) {
        if (isnan(x[i]) || isnan(y[i])) {
            begun = false;
            continue;
        }
        if (!any)
            fprintf(plot->to, "<path class=\"%s\" d=\"", style);
        any = true;
        if (begun && i > 0 && fabs(y[i] - y[i - 1]) < 0.05)
            fprintf(plot->to, "H%.1f", x[i]);
        else if (begun && fabs(x[i] - x[i - 1]) < 0.05)
            fprintf(plot->to, "V%.1f", y[i]);
        else
            fprintf(plot->to, "%c%.1f %.1f", begun ? 'L' : 'M', x[i], y[i]);
        begun = true;
    }
    if (any)
        fputs("\"/>\n", plot->to);
}

void sl_plot_whisker(const struct sl_plot *plot, const char *style, double x, double low, double high)
{
    double bottom = sl_axis_at(&plot->y, low), top = sl_axis_at(&plot->y, high);
    fprintf(plot->to, "<path class=\"whisker %s\" d=\"M%.1f %.1fV%.1f", style, x, bottom, top);
    if (low >= plot->y.low)
        fprintf(plot->to, "M%.1f %.1fh7", x - 3.5, bottom);
    if (high <= plot->y.high)
        fprintf(plot->to, "M%.1f %.1fh7", x - 3.5, top);
    fputs("\"/>\n", plot->to);
}

static void end_with_tip(const struct sl_plot *plot, const char *element, const char *tip)
{
    if (!tip) {
        fputs("/>\n", plot->to);
        return;
    }
    fputs("><title>", plot->to);
    sl_write_html(plot->to, tip);
    fprintf(plot->to, "</title></%s>\n", element);
}

void sl_plot_mark(const struct sl_plot *plot, uint32_t colour, double x, double y, const char *tip)
{
    static const char *const shapes[SL_PLOT_COLOURS] = {"m-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z", /* disc */
                                                        "m-3.6 -3.6h7.2v7.2h-7.2z",            /* square */
                                                        "m0 -4.8l4.6 8h-9.2z",                 /* triangle */
                                                        "m0 -5l5 5l-5 5l-5 -5z",               /* diamond */
                                                        "m0 4.8l4.6 -8h-9.2z", /* the other way up */
                                                        "m-1.5 -4.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z",
                                                        "m-5 -2h10v4h-10z",
                                                        "m-2 -5h4v10h-4z"};
    fprintf(plot->to, "<path class=\"f k%u\" d=\"M%.1f %.1f%s\"", colour % SL_PLOT_COLOURS, x, y,
            shapes[colour % SL_PLOT_COLOURS]);
    end_with_tip(plot, "path", tip);
}

void sl_plot_failed(const struct sl_plot *plot, double x, const char *tip)
{
    fprintf(plot->to, "<path class=\"cross\" d=\"M%.1f %.1fl8 8m-8 0l8 -8\"", x - 4, plot->y.to - 4);
    end_with_tip(plot, "path", tip);
}

void sl_plot_box(const struct sl_plot *plot, const char *style, double x, double y, double width,
                 double height, const char *tip)
{
    fprintf(plot->to, "<rect class=\"%s\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"", style, x, y,
            width > 0 ? width : 0, height);
    end_with_tip(plot, "rect", tip);
}
