/* The drawings of a request: stage by time, one colour a chunk, in the terminal and as SVG.
 *
 * What a person should see at once is the diagonal: while stage 1 works on chunk i, stage 0 works
 * on chunk i+1. So both drawings have one row a stage, one time axis for all, and the same colours;
 * neighbouring chunks never share one. What a stage did for others while the request waited is grey. The axis runs from admission to the last thing of prefill
 * (first token, last span, last KV page); decoding after it is much longer and would squeeze the
 * picture, so it is only told in words.
 *
 * A terminal cell is sampled at the middle of its left and of its right half, and the half block
 * gives both their colour: twice the resolution. Spans may come from another machine: a time before
 * admission counts as admission, a span of no stage that we have is left out, and an end before its
 * begin is no time at all. */
#include "node/client/timeline.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MIN_COLUMNS = 40, MAX_COLUMNS = 512, LABEL = 10, N_COLOURS = 8 };
enum {
    OUTSIDE = -1,
    IDLE = -2,
    FOREIGN = -3
}; /* instead of a chunk: before and after a stage's work, a gap within it, and work for others */
enum { GREY = 244 };

static const struct colour {
    int ansi;
    const char *hex; /* the same colour */
} colours[N_COLOURS] = {{75, "#5fafff"},  {215, "#ffaf5f"}, {114, "#87d787"}, {176, "#d787d7"},
                        {222, "#ffd787"}, {80, "#5fd7d7"},  {210, "#ff8787"}, {146, "#afafd7"}};

static const struct colour *colour_of(int64_t chunk)
{
    return &colours[chunk % N_COLOURS];
}

/* ---- what both drawings need to know ---- */

struct frame {
    const struct sl_timeline *t;
    uint64_t length_us; /* of the axis, at least 1 */
    uint64_t tokens;
    uint32_t n_chunks, n_drawn;
    bool kv; /* some pages went to a decode worker */
};

struct stage_sum {
    uint64_t begin_us, end_us, busy_us, bubble_us;
    uint64_t others_us; /* for other requests, before the first token */
    double busy_percent;
    double mfu_percent; /* of the busy time; 0: not known */
    /* of the chunks whose time was predicted: what they should take and took, and the largest error of one, relative */
    double predicted_us, took_us, largest_error;
};

/* Microseconds since the request was admitted. */
static uint64_t since(const struct frame *f, uint64_t time_us)
{
    return time_us > f->t->submit_us ? time_us - f->t->submit_us : 0;
}

static bool is_drawn(const struct frame *f, const struct sl_span *span)
{
    return span->stage < f->t->n_stages && span->end_us >= span->begin_us;
}

static void widen(struct frame *f, uint64_t time_us)
{
    uint64_t at = since(f, time_us);
    f->length_us = at > f->length_us ? at : f->length_us;
}

static bool is_foreign(const struct frame *f, const struct sl_foreign *other, uint32_t stage)
{
    return other->stage == stage && other->end_us > other->begin_us &&
           since(f, other->begin_us) < f->length_us;
}

/* Of [begin, end) since admission, what a stage did for others. */
static uint64_t foreign_us(const struct frame *f, uint32_t stage, uint64_t begin, uint64_t end)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < f->t->n_foreign; i++) {
        const struct sl_foreign *other = &f->t->foreign[i];
        uint64_t from = since(f, other->begin_us), to = since(f, other->end_us);
        from = from > begin ? from : begin;
        to = to < end ? to : end;
        if (is_foreign(f, other, stage) && to > from)
            sum += to - from;
    }
    return sum;
}

static struct frame frame_of(const struct sl_timeline *t)
{
    struct frame f = {.t = t, .length_us = 1};
    widen(&f, t->first_token_us);
    for (uint32_t i = 0; i < t->n_spans; i++) {
        const struct sl_span *span = &t->spans[i];
        if (!is_drawn(&f, span))
            continue;
        f.n_drawn++;
        widen(&f, span->end_us);
        widen(&f, span->kv_acked_us);
        f.kv = f.kv || span->kv_acked_us > 0;
        if (span->stage == 0) {
            f.tokens += span->tokens;
            f.n_chunks++;
        }
    }
    return f;
}

static struct stage_sum sum_of(const struct frame *f, uint32_t stage)
{
    struct stage_sum sum = {.begin_us = UINT64_MAX};
    double at_peak = 0, busy = 0;
    for (uint32_t i = 0; i < f->t->n_spans; i++) {
        const struct sl_span *span = &f->t->spans[i];
        if (span->stage != stage || !is_drawn(f, span))
            continue;
        uint64_t begin = since(f, span->begin_us), end = since(f, span->end_us);
        sum.begin_us = begin < sum.begin_us ? begin : sum.begin_us;
        sum.end_us = end > sum.end_us ? end : sum.end_us;
        sum.busy_us += end - begin;
        at_peak += (double)span->at_peak_us;
        busy += (double)(end - begin);
        if (span->predicted_us == 0 || end == begin)
            continue;
        double took = (double)(end - begin), error = (double)span->predicted_us / took - 1;
        sum.predicted_us += (double)span->predicted_us;
        sum.took_us += took;
        sum.largest_error = fabs(error) > fabs(sum.largest_error) ? error : sum.largest_error;
    }
    if (sum.begin_us > sum.end_us)
        sum.begin_us = sum.end_us; /* no spans */
    uint64_t window = sum.end_us - sum.begin_us;
    sum.busy_us = sum.busy_us < window ? sum.busy_us : window;
    uint64_t within = foreign_us(f, stage, sum.begin_us, sum.end_us), gap = window - sum.busy_us;
    sum.bubble_us = gap > within ? gap - within : 0;
    sum.others_us = foreign_us(f, stage, 0, f->length_us);
    sum.busy_percent = window ? 100.0 * (double)sum.busy_us / (double)window : 0;
    sum.mfu_percent = busy > 0 ? 100.0 * at_peak / busy : 0;
    return sum;
}

/* Of one chunk on one stage; a record that several requests share counts whole, as its time does.
 * 0: not known. */
static double mfu_percent(const struct sl_span *span)
{
    uint64_t busy = span->end_us - span->begin_us;
    return busy > 0 ? 100.0 * (double)span->at_peak_us / (double)busy : 0;
}

/* When the decode worker had this chunk from every stage that sent it; 0: it never had. */
static uint64_t kv_complete(const struct frame *f, uint32_t chunk)
{
    uint64_t last = 0;
    for (uint32_t i = 0; i < f->t->n_spans; i++) {
        const struct sl_span *span = &f->t->spans[i];
        if (span->chunk == chunk && is_drawn(f, span) && span->kv_acked_us > last)
            last = span->kv_acked_us;
    }
    return last;
}

static double ms(uint64_t us)
{
    return (double)us / 1000;
}

/* 1, 2 or 5 times a power of ten (in ms), so that at most `most` steps fit the axis. */
static double tick_ms(const struct frame *f, double most)
{
    static const double factors[] = {2, 2.5, 2}; /* 1 -> 2 -> 5 -> 10 */
    double step = 0.001;
    for (int i = 0; ms(f->length_us) / step > most; i++)
        step *= factors[i % 3];
    return step;
}

static void headline(const struct frame *f, char *text, size_t room)
{
    int n =
        snprintf(text, room, "%llu tokens, %u chunk%s, %u stage%s", (unsigned long long)f->tokens,
                 f->n_chunks, f->n_chunks == 1 ? "" : "s", f->t->n_stages, f->t->n_stages == 1 ? "" : "s");
    uint64_t ttft = since(f, f->t->first_token_us);
    if (f->t->first_token_us)
        snprintf(text + n, room - (size_t)n, ": first token after %.1f ms (%.0f tokens/s)", ms(ttft),
                 ttft ? 1e6 * (double)f->tokens / (double)ttft : 0);
    else
        snprintf(text + n, room - (size_t)n, ": no first token yet");
}

/* ---- terminal ---- */

struct canvas {
    const struct frame *f;
    FILE *to;
    uint32_t width; /* cells of the axis */
    bool colour;
};

static void pad(FILE *to, const char *what, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        fputs(what, to);
}

/* The cell in which a time since admission falls. */
static uint32_t cell_of(const struct canvas *c, uint64_t us)
{
    double at = (double)us / (double)c->f->length_us * c->width;
    return at >= c->width ? c->width - 1 : (uint32_t)at;
}

/* Who worked on a stage in the middle of half cell `half` (of 2 * width). */
static int64_t chunk_at(const struct canvas *c, uint32_t stage, const struct stage_sum *sum, uint32_t half)
{
    double at = (half + 0.5) / (2.0 * c->width) * (double)c->f->length_us;
    for (uint32_t i = 0; i < c->f->t->n_spans; i++) {
        const struct sl_span *span = &c->f->t->spans[i];
        if (span->stage == stage && is_drawn(c->f, span) && (double)since(c->f, span->begin_us) <= at &&
            at < (double)since(c->f, span->end_us))
            return span->chunk;
    }
    for (uint32_t i = 0; i < c->f->t->n_foreign; i++) {
        const struct sl_foreign *other = &c->f->t->foreign[i];
        if (is_foreign(c->f, other, stage) && (double)since(c->f, other->begin_us) <= at &&
            at < (double)since(c->f, other->end_us))
            return FOREIGN;
    }
    return at >= (double)sum->begin_us && at < (double)sum->end_us ? IDLE : OUTSIDE;
}

static const char *without_colour(int64_t chunk)
{
    return chunk == FOREIGN ? "\u2591" : chunk == IDLE ? "\u00b7" : " ";
}

/* One of the halves, or both, is others' work. */
static void put_grey_half(const struct canvas *c, int64_t left, int64_t right)
{
    if (left == right)
        fprintf(c->to, "\x1b[38;5;%dm\u2591\x1b[0m", GREY);
    else if (left >= 0)
        fprintf(c->to, "\x1b[38;5;%dm\u258c\x1b[0m", colour_of(left)->ansi);
    else if (right >= 0)
        fprintf(c->to, "\x1b[38;5;%dm\u2590\x1b[0m", colour_of(right)->ansi);
    else
        fprintf(c->to, "\x1b[38;5;%dm%s\x1b[0m", GREY, left == FOREIGN ? "\u258c" : "\u2590");
}

static void put_half_block(const struct canvas *c, int64_t left, int64_t right)
{
    if (left == FOREIGN || right == FOREIGN)
        put_grey_half(c, left, right);
    else if (left < 0 && right < 0)
        fputs(left == IDLE ? "\x1b[2m\u00b7\x1b[0m" : " ", c->to);
    else if (left < 0)
        fprintf(c->to, "\x1b[38;5;%dm\u2590\x1b[0m", colour_of(right)->ansi);
    else if (right < 0)
        fprintf(c->to, "\x1b[38;5;%dm\u258c\x1b[0m", colour_of(left)->ansi);
    else
        fprintf(c->to, "\x1b[38;5;%d;48;5;%dm\u258c\x1b[0m", colour_of(left)->ansi, colour_of(right)->ansi);
}

/* n cells of one chunk, with its number in the middle when it fits. */
static void put_block(const struct canvas *c, int64_t chunk, uint32_t n)
{
    char number[24];
    uint32_t digits = (uint32_t)snprintf(number, sizeof number, "%lld", (long long)chunk);
    uint32_t ends = c->colour ? 0 : 2;
    if (n < digits + ends)
        digits = 0;
    uint32_t before = (n - digits) / 2, after = n - digits - before;
    if (c->colour) {
        fprintf(c->to, "\x1b[38;5;16;48;5;%dm", colour_of(chunk)->ansi);
        fprintf(c->to, "%*s%.*s%*s\x1b[0m", (int)before, "", (int)digits, number, (int)after, "");
    } else if (n == 1) {
        fputs("\u2502", c->to);
    } else {
        fputs("\u251c", c->to);
        pad(c->to, "\u2500", before - 1);
        fprintf(c->to, "%.*s", (int)digits, number);
        pad(c->to, "\u2500", after - 1);
        fputs("\u2524", c->to);
    }
}

static void draw_stage(const struct canvas *c, uint32_t stage)
{
    struct stage_sum sum = sum_of(c->f, stage);
    fprintf(c->to, "stage %-*u", LABEL - 6, stage);
    for (uint32_t cell = 0; cell < c->width;) {
        int64_t left = chunk_at(c, stage, &sum, 2 * cell), right = chunk_at(c, stage, &sum, 2 * cell + 1);
        if (!c->colour)
            right = left;
        if (left < 0 || left != right) {
            if (c->colour)
                put_half_block(c, left, right);
            else
                fputs(without_colour(left), c->to);
            cell++;
            continue;
        }
        uint32_t end = cell + 1;
        while (end < c->width && chunk_at(c, stage, &sum, 2 * end) == left &&
               (!c->colour || chunk_at(c, stage, &sum, 2 * end + 1) == left))
            end++;
        put_block(c, left, end - cell);
        cell = end;
    }
    fputc('\n', c->to);
}

/* Under a stage's row: each chunk's MFU, where it fits. Left out when no span has one. */
static void draw_mfu(const struct canvas *c, uint32_t stage)
{
    char row[MAX_COLUMNS + 1];
    bool any = false;
    memset(row, ' ', c->width);
    row[c->width] = 0;
    for (uint32_t i = 0; i < c->f->t->n_spans; i++) {
        const struct sl_span *span = &c->f->t->spans[i];
        char text[16];
        if (span->stage != stage || !is_drawn(c->f, span) || span->at_peak_us == 0)
            continue;
        any = true;
        uint32_t begin = cell_of(c, since(c->f, span->begin_us)), end = cell_of(c, since(c->f, span->end_us));
        uint32_t n = (uint32_t)snprintf(text, sizeof text, "%.0f%%", mfu_percent(span));
        if (n < sizeof text && end - begin > n)
            memcpy(row + begin + (end - begin - n + 1) / 2, text, n);
    }
    if (any)
        fprintf(c->to, "%s%-*s%s%s\n", c->colour ? "\x1b[2m" : "", LABEL, "    MFU", row,
                c->colour ? "\x1b[0m" : "");
}

/* A mark where the last pages of each chunk arrived, its number after it when the next mark leaves
 * room. */
static void draw_kv(const struct canvas *c)
{
    int64_t marks[MAX_COLUMNS];
    for (uint32_t i = 0; i < c->width; i++)
        marks[i] = OUTSIDE;
    for (uint32_t i = 0; i < c->f->t->n_spans; i++) {
        uint64_t at = kv_complete(c->f, c->f->t->spans[i].chunk);
        if (at)
            marks[cell_of(c, since(c->f, at))] = c->f->t->spans[i].chunk;
    }
    fprintf(c->to, "%-*s", LABEL, "decode KV");
    for (uint32_t cell = 0; cell < c->width; cell++) {
        if (marks[cell] < 0) {
            fputc(' ', c->to);
            continue;
        }
        char number[24];
        uint32_t digits = (uint32_t)snprintf(number, sizeof number, "%lld", (long long)marks[cell]), room = 0;
        while (room < digits && cell + 1 + room < c->width && marks[cell + 1 + room] < 0)
            room++;
        if (c->colour)
            fprintf(c->to, "\x1b[38;5;%dm", colour_of(marks[cell])->ansi);
        fprintf(c->to, "\u25c6%s%s", room == digits ? number : "", c->colour ? "\x1b[0m" : "");
        cell += room == digits ? digits : 0;
    }
    fputc('\n', c->to);
}

static void draw_axis(const struct canvas *c)
{
    bool ticks[MAX_COLUMNS] = {false};
    double step = tick_ms(c->f, c->width / 10.0), length = ms(c->f->length_us);
    uint32_t labels = 0;
    for (double at = 0; at <= length; at += step)
        ticks[cell_of(c, (uint64_t)(at * 1000))] = true;
    fprintf(c->to, "%*s", LABEL, "");
    for (uint32_t cell = 0; cell < c->width; cell++)
        fputs(ticks[cell] ? "\u2534" : "\u2500", c->to);
    fprintf(c->to, "\n%*s", LABEL, "");
    for (uint32_t cell = 0, used = 0; cell < c->width; cell++) {
        if (!ticks[cell])
            continue;
        char text[32];
        uint32_t n = (uint32_t)snprintf(text, sizeof text, "%.6g%s", step * labels, labels ? "" : " ms");
        labels++;
        if (cell + n > c->width)
            break;
        fprintf(c->to, "%*s%s", (int)(cell - used), "", text);
        used = cell + n;
    }
    fputc('\n', c->to);
}

static void draw_first_token(const struct canvas *c)
{
    static const char text[] = "first token ";
    uint32_t n = sizeof text - 1, cell = cell_of(c, since(c->f, c->f->t->first_token_us));
    if (cell >= n)
        fprintf(c->to, "%*s%*s%s\u25be\n", LABEL, "", (int)(cell - n), "", text);
    else
        fprintf(c->to, "%*s%*s\u25be first token\n", LABEL, "", (int)cell, "");
}

void sl_timeline_draw(const struct sl_timeline *timeline, FILE *to, uint32_t columns, bool colour)
{
    struct frame f = frame_of(timeline);
    columns = columns < MIN_COLUMNS ? MIN_COLUMNS : columns > MAX_COLUMNS ? MAX_COLUMNS : columns;
    struct canvas c = {&f, to, columns - LABEL, colour};
    char text[160];
    headline(&f, text, sizeof text);
    if (f.n_drawn == 0) {
        fprintf(to, "%s\nno stage reported any work on this request\n", text);
        return;
    }
    fprintf(to, "%s%s%s\n\n", colour ? "\x1b[1m" : "", text, colour ? "\x1b[0m" : "");
    if (timeline->first_token_us)
        draw_first_token(&c);
    for (uint32_t stage = 0; stage < timeline->n_stages; stage++) {
        draw_stage(&c, stage);
        draw_mfu(&c, stage);
    }
    if (f.kv)
        draw_kv(&c);
    draw_axis(&c);
    fputc('\n', to);
    if (timeline->first_token_us)
        fprintf(to, "%-*s%10.1f ms\n", LABEL, "TTFT", ms(since(&f, timeline->first_token_us)));
    for (uint32_t stage = 0; stage < timeline->n_stages; stage++) {
        struct stage_sum sum = sum_of(&f, stage);
        fprintf(to, "stage %-*u%10.1f ms busy %5.1f %%  %10.1f ms bubble", LABEL - 6, stage, ms(sum.busy_us),
                sum.busy_percent, ms(sum.bubble_us));
        if (sum.others_us > 0)
            fprintf(to, "  others %.1f ms", ms(sum.others_us));
        if (sum.mfu_percent > 0)
            fprintf(to, "  MFU %.1f %%", sum.mfu_percent);
        if (sum.predicted_us > 0)
            fprintf(to, "  predicted %.1f ms (%+.0f %%, a chunk up to %+.0f %%)", sum.predicted_us / 1000,
                    100 * (sum.predicted_us / sum.took_us - 1), 100 * sum.largest_error);
        fputc('\n', to);
    }
    if (timeline->done_us > timeline->first_token_us && timeline->first_token_us)
        fprintf(to, "%-*s%10.1f ms\n", LABEL, "done", ms(since(&f, timeline->done_us)));
}

/* ---- SVG ---- */

enum {
    SVG_WIDTH = SL_TIMELINE_SVG_WIDTH,
    SVG_LEFT = 108,
    SVG_RIGHT = 188,
    SVG_TOP = 84,
    SVG_ROW = 56,
    SVG_BAR = 36,
    SVG_OTHERS = 24
};

static double x_of(const struct frame *f, uint64_t us)
{
    double at = (double)us / (double)f->length_us;
    return SVG_LEFT + (at < 1 ? at : 1) * (SVG_WIDTH - SVG_LEFT - SVG_RIGHT);
}

static double y_of(uint32_t row)
{
    return SVG_TOP + (double)row * SVG_ROW;
}

static double svg_height(uint32_t rows)
{
    return y_of(rows) + 52;
}

static void svg_head(const struct frame *f, FILE *to, uint32_t rows)
{
    char text[160];
    double height = svg_height(rows), bottom = y_of(rows);
    headline(f, text, sizeof text);
    fprintf(to,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %.0f\" width=\"%d\" "
            "height=\"%.0f\" "
            "font-family=\"system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif\" "
            "font-size=\"13\" fill=\"#333\">\n"
            "<title>%s</title>\n<rect width=\"100%%\" height=\"100%%\" rx=\"8\" fill=\"#fff\"/>\n"
            "<text x=\"24\" y=\"34\" font-size=\"17\" font-weight=\"600\" fill=\"#111\">%s</text>\n",
            SVG_WIDTH, height, SVG_WIDTH, height, text, text);
    double step = tick_ms(f, 10);
    for (uint32_t i = 0; step * i <= ms(f->length_us); i++) {
        double x = x_of(f, (uint64_t)(step * i * 1000));
        fprintf(to,
                "<path d=\"M%.1f %d V%.1f\" stroke=\"#e4e4e4\"/><text x=\"%.1f\" y=\"%.1f\" "
                "fill=\"#777\" "
                "text-anchor=\"middle\">%.6g%s</text>\n",
                x, SVG_TOP - 6, bottom, x, bottom + 20, step * i, i ? "" : " ms");
    }
    if (!f->t->first_token_us)
        return;
    double x = x_of(f, since(f, f->t->first_token_us));
    fprintf(to,
            "<path d=\"M%.1f %d V%.1f\" stroke=\"#c0392b\" stroke-width=\"1.5\" "
            "stroke-dasharray=\"4 3\"/>"
            "<text x=\"%.1f\" y=\"%d\" fill=\"#c0392b\" text-anchor=\"%s\">first token</text>\n",
            x, SVG_TOP - 12, bottom, x, SVG_TOP - 18, x > SVG_WIDTH / 2.0 ? "end" : "start");
}

static void svg_foreign(const struct frame *f, FILE *to, const struct sl_foreign *other)
{
    if (other->stage >= f->t->n_stages || !is_foreign(f, other, other->stage))
        return;
    double x = x_of(f, since(f, other->begin_us)), width = x_of(f, since(f, other->end_us)) - x;
    fprintf(to,
            "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%d\" fill=\"#d6d6d6\">"
            "<title>stage %u for other requests: %.2f to %.2f ms</title></rect>\n",
            x, y_of(other->stage) + (SVG_BAR - SVG_OTHERS) / 2.0, width > 0.5 ? width : 0.5, SVG_OTHERS,
            other->stage, ms(since(f, other->begin_us)), ms(since(f, other->end_us)));
}

/* The bar of one span, its number and its MFU when they fit. */
static void svg_span(const struct frame *f, FILE *to, const struct sl_span *span)
{
    double y = y_of(span->stage), x = x_of(f, since(f, span->begin_us)),
           end = x_of(f, since(f, span->end_us));
    double width = end - x > 1 ? end - x : 1;
    const char *fill = colour_of(span->chunk)->hex;
    char number[16], mfu[32] = "", predicted[48] = "";
    if (span->at_peak_us > 0)
        snprintf(mfu, sizeof mfu, ", MFU %.0f %%", mfu_percent(span));
    if (span->predicted_us > 0)
        snprintf(predicted, sizeof predicted, ", predicted %.2f ms", ms(span->predicted_us));
    fprintf(to,
            "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%d\" rx=\"3\" fill=\"%s\" "
            "stroke=\"#fff\">"
            "<title>chunk %u on stage %u: tokens %u to %llu, %.2f to %.2f ms (%.2f "
            "ms%s%s)</title></rect>\n",
            x, y, width, SVG_BAR, fill, span->chunk, span->stage, span->pos,
            (unsigned long long)span->pos + span->tokens, ms(since(f, span->begin_us)),
            ms(since(f, span->end_us)), ms(span->end_us - span->begin_us), predicted, mfu);
    int digits = snprintf(number, sizeof number, "%u", span->chunk);
    if (width <= 9 * digits + 2)
        return;
    bool second = span->at_peak_us > 0 && width > 34; /* "100%" in the small font */
    fprintf(to,
            "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\" font-weight=\"600\" "
            "fill=\"#222\">%s</text>\n",
            x + width / 2, y + SVG_BAR / 2.0 + (second ? -1.5 : 4.5), number);
    if (second)
        fprintf(to,
                "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\" font-size=\"10\" "
                "fill=\"#222\">%.0f%%</text>\n",
                x + width / 2, y + SVG_BAR / 2.0 + 11.5, mfu_percent(span));
}

/* A curve from the end of a chunk on one stage to its begin on the next: the diagonal made visible.
 */
static void svg_hand_offs(const struct frame *f, FILE *to, const struct sl_span *from)
{
    for (uint32_t i = 0; i < f->t->n_spans; i++) {
        const struct sl_span *next = &f->t->spans[i];
        if (next->stage != from->stage + 1 || next->chunk != from->chunk || !is_drawn(f, next))
            continue;
        double x0 = x_of(f, since(f, from->end_us)), y0 = y_of(from->stage) + SVG_BAR;
        double x1 = x_of(f, since(f, next->begin_us)), y1 = y_of(next->stage);
        fprintf(to,
                "<path d=\"M%.1f %.1f C%.1f %.1f %.1f %.1f %.1f %.1f\" fill=\"none\" "
                "stroke=\"#888\"/>\n",
                x0, y0, x0, y1, x1, y0, x1, y1);
    }
}

static void svg_kv(const struct frame *f, FILE *to, const struct sl_span *span)
{
    uint64_t at = kv_complete(f, span->chunk);
    double y = y_of(f->t->n_stages) + SVG_BAR / 2.0;
    if (!at || span->stage != 0)
        return;
    double x = x_of(f, since(f, at));
    fprintf(to,
            "<path d=\"M%.1f %.1f l7 7 l-7 7 l-7 -7 z\" fill=\"%s\" stroke=\"#555\"><title>the "
            "decode worker has chunk %u "
            "after %.2f ms</title></path><text x=\"%.1f\" y=\"%.1f\" font-size=\"11\" "
            "text-anchor=\"middle\">%u</text>\n",
            x, y - 7, colour_of(span->chunk)->hex, span->chunk, ms(since(f, at)), x, y + 19, span->chunk);
}

static void svg_row_texts(const struct frame *f, FILE *to)
{
    for (uint32_t stage = 0; stage < f->t->n_stages; stage++) {
        struct stage_sum sum = sum_of(f, stage);
        double y = y_of(stage) + SVG_BAR / 2.0, x = SVG_WIDTH - SVG_RIGHT + 16;
        char mfu[32] = "", predicted[32] = "", others[48] = "";
        if (sum.others_us > 0)
            snprintf(others, sizeof others, "others %.1f ms", ms(sum.others_us));
        if (sum.mfu_percent > 0)
            snprintf(mfu, sizeof mfu, ", MFU %.0f %%", sum.mfu_percent);
        if (sum.predicted_us > 0)
            snprintf(predicted, sizeof predicted, ", predicted %+.0f %%",
                     100 * (sum.predicted_us / sum.took_us - 1));
        fprintf(to,
                "<text x=\"24\" y=\"%.1f\" font-weight=\"600\">stage %u</text><text x=\"%.1f\" "
                "y=\"%.1f\" font-size=\"12\">busy %.1f %%%s</text>"
                "<text x=\"%.1f\" y=\"%.1f\" font-size=\"11\" fill=\"#777\">bubble %.1f ms%s</text>"
                "<text x=\"%.1f\" y=\"%.1f\" font-size=\"11\" fill=\"#777\">%s</text>\n",
                y + 4.5, stage, x, y - 1, sum.busy_percent, mfu, x, y + 14, ms(sum.bubble_us), predicted, x,
                y + 28, others);
    }
    if (f->kv)
        fprintf(to, "<text x=\"24\" y=\"%.1f\" font-weight=\"600\">decode KV</text>\n",
                y_of(f->t->n_stages) + SVG_BAR / 2.0 + 4.5);
}

void sl_timeline_svg_to(const struct sl_timeline *timeline, FILE *to)
{
    struct frame f = frame_of(timeline);
    svg_head(&f, to, timeline->n_stages + (f.kv ? 1 : 0));
    for (uint32_t i = 0; i < timeline->n_foreign; i++)
        svg_foreign(&f, to, &timeline->foreign[i]);
    for (int layer = 0; layer < 3; layer++) /* curves lie under bars, marks over them */
        for (uint32_t i = 0; i < timeline->n_spans; i++) {
            if (!is_drawn(&f, &timeline->spans[i]))
                continue;
            if (layer == 0)
                svg_hand_offs(&f, to, &timeline->spans[i]);
            else if (layer == 1)
                svg_span(&f, to, &timeline->spans[i]);
            else
                svg_kv(&f, to, &timeline->spans[i]);
        }
    svg_row_texts(&f, to);
    fputs("</svg>\n", to);
}

double sl_timeline_svg_height(const struct sl_timeline *timeline)
{
    struct frame f = frame_of(timeline);
    return svg_height(timeline->n_stages + (f.kv ? 1 : 0));
}

sl_status sl_timeline_svg(const struct sl_timeline *timeline, const char *path, struct sl_err *err)
{
    FILE *to = fopen(path, "w");
    if (!to)
        return sl_fail(err, SL_E_IO, "cannot write the timeline %s: %s", path, strerror(errno));
    sl_timeline_svg_to(timeline, to);
    bool bad = ferror(to) != 0;
    if (fclose(to) != 0 || bad)
        return sl_fail(err, SL_E_IO, "cannot write the timeline %s: is the disk full?", path);
    return SL_OK;
}
