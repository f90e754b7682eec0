/* A frame of `sluice top`. What a person should see at once is who is the bottleneck: so the stages are bars of one length, busy
 * time against wall time, under one another. All figures are of the time between the last two scrapes, but quantiles, which
 * are of the last SL_TOP_HISTORY, because a second holds few requests. A figure that nobody tells is a dash and not a zero.
 * Pure: scrapes in, text out; node/command/cmd_top.c fetches and waits. */
#include "node/client/top.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_ROLES = 512, ROLE_BYTES = 40, LINE_BYTES = 1600, BAR = 24 };

struct screen {
    const struct sl_top *top;
    const struct sl_top_source *first;
    uint32_t columns, rows, used;
    bool colour;
    struct sl_text *text;
};

/* ---- taking ---- */

/* The oldest goes when there is no room. */
static void keep(struct sl_top *top, struct sl_scrape *scrape)
{
    if (top->n_past == SL_TOP_HISTORY) {
        sl_scrape_free(&top->past[0]);
        memmove(top->past, top->past + 1, --top->n_past * sizeof *top->past);
    }
    top->past[top->n_past++] = *scrape;
    *scrape = (struct sl_scrape){0};
}

void sl_top_take(struct sl_top *top, uint32_t source, struct sl_scrape *scrape, double at_s,
                 const char *problem)
{
    struct sl_top_source *s = &top->sources[source];
    snprintf(s->problem, sizeof s->problem, "%s", scrape ? "" : problem);
    if (source == 0 && s->before.text)
        keep(top, &s->before);
    sl_scrape_free(&s->before);
    s->before = s->now;
    s->before_s = s->now_s;
    s->now = scrape ? *scrape : (struct sl_scrape){0};
    s->now_s = at_s;
}

void sl_top_free(struct sl_top *top)
{
    for (uint32_t i = 0; i < top->n; i++) {
        sl_scrape_free(&top->sources[i].now);
        sl_scrape_free(&top->sources[i].before);
    }
    while (top->n_past > 0)
        sl_scrape_free(&top->past[--top->n_past]);
}

/* What a counter gained a second; NaN without two scrapes, or when the process was started anew. */
static double rate(const struct sl_top_source *s, double now, double before)
{
    double seconds = s->now_s - s->before_s;
    return s->now.text && s->before.text && seconds > 0 && now >= before ? (now - before) / seconds : NAN;
}

static double rate_of(const struct sl_top_source *s, const char *name, const char *label)
{
    return rate(s, sl_scrape_value(&s->now, name, label), sl_scrape_value(&s->before, name, label));
}

static double rate_of_sum(const struct sl_top_source *s, const char *name)
{
    return rate(s, sl_scrape_sum(&s->now, name), sl_scrape_sum(&s->before, name));
}

void sl_top_note(struct sl_top *top)
{
    struct sl_top_source *s = &top->sources[0];
    double tokens = rate_of(s, "sluice_prompt_tokens_total", "source=\"computed\"");
    if (isnan(tokens))
        return;
    if (top->n_history == SL_TOP_HISTORY)
        memmove(top->history, top->history + 1, (SL_TOP_HISTORY - 1) * sizeof *top->history);
    else
        top->n_history++;
    top->history[top->n_history - 1] = tokens;
}

/* Of a histogram in seconds, in milliseconds, of what came since the oldest scrape. */
static double quantile_ms(const struct sl_top *top, const char *name, double share)
{
    const struct sl_top_source *s = &top->sources[0];
    const struct sl_scrape *before = top->n_past > 0 ? &top->past[0] : s->before.text ? &s->before : NULL;
    return 1000 * sl_scrape_quantile(&s->now, before, name, share);
}

/* ---- drawing ---- */

/* A line, cut to the columns there are; nothing when all rows are used. */
__attribute__((format(printf, 2, 3))) static void line(struct screen *f, const char *format, ...)
{
    char all[LINE_BYTES];
    va_list arguments;
    if (f->rows > 0 && f->used == f->rows)
        return;
    va_start(arguments, format);
    vsnprintf(all, sizeof all, format, arguments);
    va_end(arguments);
    uint32_t n = 0;
    char *at = all;
    while (*at) {
        if (*at == '\x1b') {
            at += strcspn(at, "m");
            at += *at == 'm';
            continue;
        }
        if (n == f->columns)
            break;
        n++;
        do
            at++;
        while (((unsigned char)*at & 0xc0) == 0x80);
    }
    bool cut = *at != 0;
    *at = 0;
    sl_text_add(f->text, "%s%s\n", all, cut && f->colour ? "\x1b[0m" : "");
    f->used++;
}

/* A figure with its unit, right-aligned in `room`; a dash for none. */
static const char *figure(char out[32], double value, int digits, int room)
{
    if (!isfinite(value))
        snprintf(out, 32, "%*s", room + 2, "–"); /* three bytes, one column */
    else
        snprintf(out, 32, "%*.*f", room, fabs(value) < 1e15 ? digits : 0, value);
    return out;
}

static const char *bold(const struct screen *f)
{
    return f->colour ? "\x1b[1m" : "";
}
static const char *plain(const struct screen *f)
{
    return f->colour ? "\x1b[0m" : "";
}

/* A bar of BAR columns, by eighths; dots for what is not known. */
static const char *bar(const struct screen *f, char out[160], double share, const char *ansi)
{
    static const char *const eighths[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
    int full = isfinite(share) ? (int)(fmin(fmax(share, 0), 1) * BAR * 8 + 0.5) : 0, used = 0;
    size_t n = (size_t)snprintf(out, 160, "%s", f->colour ? ansi : "");
    for (; used < full / 8; used++)
        n += (size_t)snprintf(out + n, 160 - n, "█");
    if (full % 8) {
        n += (size_t)snprintf(out + n, 160 - n, "%s", eighths[full % 8]);
        used++;
    }
    n += (size_t)snprintf(out + n, 160 - n, "%s", plain(f));
    for (; used < BAR; used++)
        n += (size_t)snprintf(out + n, 160 - n, "·");
    return out;
}

static const char *sparks(const struct sl_top *top, char out[SL_TOP_HISTORY * 3 + 1])
{
    static const char *const heights[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
    double most = 0;
    size_t n = 0;
    for (uint32_t i = 0; i < top->n_history; i++)
        most = fmax(most, top->history[i]);
    for (uint32_t i = 0; i < top->n_history; i++) {
        int height = most > 0 ? (int)(top->history[i] / most * 7 + 0.5) : 0;
        n += (size_t)snprintf(out + n, SL_TOP_HISTORY * 3 + 1 - n, "%s", heights[height]);
    }
    out[n] = 0;
    return out;
}

static void draw_head(struct screen *f)
{
    const struct sl_scrape *now = &f->first->now;
    char said[40] = "", version[40];
    for (uint32_t i = 0; i < now->n; i++)
        if (strcmp(now->samples[i].name, "sluice_build_info") == 0)
            sl_sample_label(&now->samples[i], "version", said, sizeof said);
    sl_printable(version, sizeof version, said);
    if (!now->text) {
        line(f, "%ssluice top%s  %s", bold(f), plain(f), f->first->address);
        line(f, "%s", f->first->problem);
        return;
    }
    double ready = sl_scrape_value(now, "sluice_ready", NULL);
    line(f, "%ssluice %s%s  %s  %s", bold(f), version, plain(f), f->first->address,
         isnan(ready) ? "a node that takes no requests"
         : ready > 0  ? "ready"
                      : "not ready: its /readyz says why");
}

static void draw_rates(struct screen *f)
{
    const struct sl_top_source *s = f->first;
    char a[32], b[32], c[32], d[32], spark[SL_TOP_HISTORY * 3 + 1];
    if (isnan(sl_scrape_value(&s->now, "sluice_requests_running", NULL)))
        return; /* no coordinator */
    line(f, "prefill %s tokens/s  %s",
         figure(a, rate_of(s, "sluice_prompt_tokens_total", "source=\"computed\""), 0, 8),
         sparks(f->top, spark));
    line(f, "decode  %s tokens/s   running %s   waiting %s, %s tokens",
         figure(a, rate_of(s, "sluice_generation_tokens_total", NULL), 0, 8),
         figure(b, sl_scrape_value(&s->now, "sluice_requests_running", NULL), 0, 0),
         figure(c, sl_scrape_value(&s->now, "sluice_requests_waiting", NULL), 0, 0),
         figure(d, sl_scrape_value(&s->now, "sluice_prefill_tokens_waiting_uncached", NULL), 0, 0));
    line(f, "TTFT    %s ms median  %s ms p99   between tokens %s ms median",
         figure(a, quantile_ms(f->top, "sluice_time_to_first_token_seconds", 0.5), 1, 8),
         figure(b, quantile_ms(f->top, "sluice_time_to_first_token_seconds", 0.99), 1, 8),
         figure(c, quantile_ms(f->top, "sluice_inter_token_latency_seconds", 0.5), 1, 6));
    char chunks[80] = "", budget[32];
    if (f->top->has_queue)
        snprintf(chunks, sizeof chunks, "   chunks %u of %u in flight, budget %s ms",
                 f->top->queue.runs_in_flight, f->top->queue.max_runs,
                 figure(budget, f->top->queue.budget_ms, 1, 0));
    line(f, "done    %s /s   refused %s /s%s", figure(a, rate_of_sum(s, "sluice_requests_total"), 1, 8),
         figure(b, rate_of_sum(s, "sluice_requests_refused_total"), 1, 0), chunks);
}

/* ---- stages and decode workers ---- */

/* Every role that the first tells of or whose own port was given, in the order in which they are met. */
static uint32_t roles_of(const struct sl_top *top, char roles[MAX_ROLES][ROLE_BYTES])
{
    uint32_t n = 0;
    for (uint32_t s = 0; s < top->n; s++)
        for (uint32_t i = 0; i < top->sources[s].now.n && n < MAX_ROLES; i++) {
            const struct sl_sample *sample = &top->sources[s].now.samples[i];
            char role[ROLE_BYTES], clean[ROLE_BYTES];
            if ((strcmp(sample->name, "sluice_stage_chunk_measured_seconds_total") != 0 &&
                 strcmp(sample->name, "sluice_stage_tokens_total") != 0) ||
                !sl_sample_label(sample, "role", role, sizeof role))
                continue;
            sl_printable(clean, sizeof clean, role);
            bool known = false;
            for (uint32_t k = 0; k < n && !known; k++)
                known = strcmp(roles[k], clean) == 0;
            if (!known)
                memcpy(roles[n++], clean, ROLE_BYTES);
        }
    return n;
}

/* Of the first source that tells it of that role; rate: what it gained a second. */
static double of_role(const struct sl_top *top, const char *role, const char *name, bool is_rate)
{
    char label[ROLE_BYTES + 10];
    snprintf(label, sizeof label, "role=\"%s\"", role);
    for (uint32_t s = 0; s < top->n; s++) {
        const struct sl_top_source *source = &top->sources[s];
        double value = is_rate ? rate_of(source, name, label) : sl_scrape_value(&source->now, name, label);
        if (!isnan(value))
            return value;
    }
    return NAN;
}

static void draw_stages(struct screen *f)
{
    static char roles[MAX_ROLES][ROLE_BYTES];
    uint32_t n = roles_of(f->top, roles);
    if (n == 0)
        return;
    line(f, "%s", "");
    line(f, "%s%-10s %-*s  busy   tokens/s     MFU   chunk off%s", bold(f), "stage", BAR, "", plain(f));
    for (uint32_t i = 0; i < n; i++) {
        char drawn[160], a[32], b[32], c[32], d[32];
        double busy = of_role(f->top, roles[i], "sluice_stage_busy_seconds_total", true);
        if (isnan(busy))
            busy = of_role(f->top, roles[i], "sluice_stage_chunk_measured_seconds_total", true);
        char label[ROLE_BYTES + 30];
        snprintf(label, sizeof label, "role=\"%s\",quantile=\"0.5\"", roles[i]);
        double off = f->first->now.text
                         ? sl_scrape_value(&f->first->now, "sluice_stage_chunk_error_ratio", label)
                         : NAN;
        line(f, "%-10s %s %s %%  %s  %s %%  %s %%", roles[i], bar(f, drawn, busy, "\x1b[38;5;75m"),
             figure(a, 100 * busy, 0, 3),
             figure(b, of_role(f->top, roles[i], "sluice_stage_tokens_total", true), 0, 8),
             figure(c, 100 * of_role(f->top, roles[i], "sluice_stage_mfu_ratio", false), 1, 5),
             figure(d, 100 * off, 0, 6));
    }
}

static void draw_pool(struct screen *f, const char *name, const char *metric, const char *note)
{
    char drawn[160], a[32];
    double share = sl_scrape_value(&f->first->now, metric, NULL);
    line(f, "%-10s %s %s %%%s", name, bar(f, drawn, share, "\x1b[38;5;114m"), figure(a, 100 * share, 0, 3),
         note);
}

static void draw_pools(struct screen *f)
{
    const struct sl_top_source *s = f->first;
    char note[80] = "", a[32];
    if (isnan(sl_scrape_value(&s->now, "sluice_kv_cache_usage_ratio", NULL)))
        return;
    double cached = rate_of(s, "sluice_prompt_tokens_total", "source=\"cached\"");
    double computed = rate_of(s, "sluice_prompt_tokens_total", "source=\"computed\"");
    if (cached + computed > 0)
        snprintf(note, sizeof note, "   of prompts %s %% were cached",
                 figure(a, 100 * cached / (cached + computed), 0, 0));
    line(f, "%s", "");
    line(f, "%sKV pages%s", bold(f), plain(f));
    draw_pool(f, "stages", "sluice_kv_cache_usage_ratio", "");
    draw_pool(f, "decode", "sluice_decode_kv_cache_usage_ratio", "");
    draw_pool(f, "cached", "sluice_prefix_cache_usage_ratio", note);
}

static void draw_decoders(struct screen *f)
{
    const struct sl_scrape *now = &f->first->now;
    bool any = false;
    for (uint32_t i = 0; i < now->n; i++) {
        char decoder[16], clean[16], label[40], a[32], b[32];
        if (strcmp(now->samples[i].name, "sluice_decoder_answers") != 0 ||
            !sl_sample_label(&now->samples[i], "decoder", decoder, sizeof decoder))
            continue;
        if (!any) {
            line(f, "%s", "");
            line(f, "%s%-10s answers   step ms%s", bold(f), "decode", plain(f));
        }
        any = true;
        sl_printable(clean, sizeof clean, decoder);
        snprintf(label, sizeof label, "decoder=\"%s\"", decoder);
        line(f, "%-10s %s  %s", clean, figure(a, now->samples[i].value, 0, 7),
             figure(b, 1000 * sl_scrape_value(now, "sluice_decoder_step_seconds", label), 2, 8));
    }
}

static void draw_queue(struct screen *f)
{
    const struct sl_queue_view *q = &f->top->queue;
    if (!f->top->has_queue || q->n == 0)
        return;
    line(f, "%s", "");
    line(f, "%s%-24s %-10s %8s %8s %9s  %s%s", bold(f), "next", "tenant", "prompt", "cut", "due ms", "state",
         plain(f));
    for (uint32_t i = 0; i < q->n; i++) {
        const struct sl_queue_row *row = &q->rows[i];
        char request[25 * 4], tenant[11 * 4], a[32];
        snprintf(request, sizeof request, "%s", row->request);
        snprintf(tenant, sizeof tenant, "%s", row->tenant[0] ? row->tenant : "-");
        line(f, "%-24.24s %-10.10s %8u %8u %s  %s%s", request, tenant, row->prompt_tokens, row->tokens_cut,
             figure(a, row->due_ms, 0, 9), row->admitted ? "prefill" : "waits", row->late ? ", late" : "");
    }
    if (q->requests > q->n)
        line(f, "and %u more", q->requests - q->n);
}

void sl_top_draw(const struct sl_top *top, uint32_t columns, uint32_t rows, bool colour, struct sl_text *text)
{
    columns = columns < SL_TOP_MIN_COLUMNS ? SL_TOP_MIN_COLUMNS : columns;
    columns = columns > SL_TOP_MAX_COLUMNS ? SL_TOP_MAX_COLUMNS : columns;
    struct screen f = {top, &top->sources[0], columns, rows, 0, colour, text};
    draw_head(&f);
    if (f.first->now.text) {
        draw_rates(&f);
        draw_stages(&f);
        draw_pools(&f);
        draw_decoders(&f);
        draw_queue(&f);
    }
    for (uint32_t i = 1; i < top->n; i++)
        if (top->sources[i].problem[0])
            line(&f, "%s", top->sources[i].problem);
}
