/* Reading the options of a load (options_load.h). */
#include "bench/serve/options_load.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REQUESTS_DEFAULT = 100 };

/* A finite number at *text, which moves behind it. */
static bool take_number(const char **text, double *value)
{
    char *end;
    if (!(**text >= '0' && **text <= '9') && **text != '.')
        return false;
    *value = strtod(*text, &end);
    *text = end;
    return isfinite(*value);
}

/* ---- sweeps ---- */

static bool take_list(struct sl_sweep *sweep, const char *text)
{
    for (;;) {
        if (sweep->n == SL_SWEEP_POINTS || !take_number(&text, &sweep->values[sweep->n]) ||
            sweep->values[sweep->n] <= 0)
            return false;
        sweep->n++;
        if (*text == '\0')
            return true;
        if (*text++ != ',')
            return false;
    }
}

/* FROM:TO:POINTS, each as many times the one before. */
static bool take_range(struct sl_sweep *sweep, const char *text)
{
    double from, to, n;
    if (!take_number(&text, &from) || *text++ != ':' || !take_number(&text, &to) || *text++ != ':' ||
        !take_number(&text, &n) || *text || from <= 0 || to < from || n < 2 || n > SL_SWEEP_POINTS ||
        n != floor(n))
        return false;
    sweep->n = (uint32_t)n;
    for (uint32_t i = 0; i < sweep->n; i++)
        sweep->values[i] = from * pow(to / from, (double)i / (n - 1));
    return true;
}

sl_status sl_sweep_parse(struct sl_sweep *sweep, const char *text, struct sl_err *err)
{
    static const char *const names[] = {NULL, "rate=", "concurrency=", "scale="};
    *sweep = (struct sl_sweep){.n = 1};
    if (!text)
        return SL_OK;
    sweep->n = 0;
    for (int kind = SL_SWEEP_RATE; kind <= SL_SWEEP_SCALE; kind++) {
        size_t n = strlen(names[kind]);
        if (strncmp(text, names[kind], n) != 0)
            continue;
        sweep->kind = (enum sl_sweep_kind)kind;
        if (strchr(text, ':') ? take_range(sweep, text + n) : take_list(sweep, text + n))
            return SL_OK;
    }
    return sl_fail(
        err, SL_E_USAGE,
        "--sweep %.80s is not rate=LIST, concurrency=LIST or scale=LIST; a list is 1,2,4 or FROM:TO:POINTS, of at "
        "most %d",
        text, SL_SWEEP_POINTS);
}

void sl_workload_at(struct sl_workload *to, const struct sl_workload *from, const struct sl_sweep *sweep,
                    uint32_t point)
{
    *to = *from;
    for (uint32_t k = 0; k < to->n_classes; k++) {
        struct sl_load_class *c = &to->classes[k];
        if (sweep->kind == SL_SWEEP_RATE && c->rate > 0)
            c->rate = sweep->values[point];
        else if (sweep->kind == SL_SWEEP_CONCURRENCY && c->concurrency)
            c->concurrency = (uint32_t)ceil(sweep->values[point]);
        else if (sweep->kind == SL_SWEEP_SCALE && c->rate > 0)
            c->rate *= sweep->values[point];
        else if (sweep->kind == SL_SWEEP_SCALE && c->trace)
            c->trace_speed *= sweep->values[point];
    }
}

/* ---- what is good, what is cancelled ---- */

sl_status sl_limits_parse(struct sl_limits *limits, const char *text, struct sl_err *err)
{
    static const char *const names[] = {"ttft=", "tpot=", "e2e="};
    double *const fields[] = {&limits->ttft_ms, &limits->tpot_ms, &limits->e2e_ms};
    const char *at = text;
    bool fine = text != NULL;
    *limits = (struct sl_limits){0};
    while (fine) {
        int i = 0;
        while (i < 3 && strncmp(at, names[i], strlen(names[i])) != 0)
            i++;
        fine = i < 3;
        if (fine) {
            at += strlen(names[i]);
            if (*fields[i] > 0)
                return sl_fail(err, SL_E_USAGE, "--slo %.80s names %.4s twice; leave one out", text,
                               names[i]);
            fine = take_number(&at, fields[i]) && *fields[i] > 0;
        }
        if (fine && *at == '\0')
            return SL_OK;
        fine = fine && *at++ == ',';
    }
    return text
               ? sl_fail(err, SL_E_USAGE, "--slo %.80s is not ttft=MS,tpot=MS,e2e=MS (or some of them)", text)
               : SL_OK;
}

sl_status sl_cancel_parse(struct sl_load_class *c, const char *text, struct sl_err *err)
{
    const char *at = text;
    double when = 0;
    if (!text)
        return SL_OK;
    bool fine = take_number(&at, &c->cancel_share) && c->cancel_share <= 1 && *at++ == ':' &&
                take_number(&at, &when) && when >= 1 && when <= SL_LOAD_MAX_TOKENS && when == floor(when);
    if (fine && *at == '\0')
        c->cancel_tokens = (uint32_t)when;
    else if (fine && strcmp(at, "ms") == 0)
        c->cancel_ms = (uint32_t)when;
    else
        return sl_fail(err, SL_E_USAGE,
                       "--cancel %.60s is not SHARE:TOKENS or SHARE:MSms, as 0.1:20 or 0.1:500ms", text);
    return SL_OK;
}

/* The list that several --header have become: cut where a comma is followed by another NAME:. */
static sl_status take_headers(struct sl_load_class *c, const char *list, struct sl_err *err)
{
    while (list && *list) {
        size_t n = strcspn(list, ",");
        while (list[n]) {
            size_t name =
                strspn(list + n + 1, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.");
            if (name > 0 && list[n + 1 + name] == ':')
                break;
            n += 1 + strcspn(list + n + 1, ",");
        }
        char one[1024];
        if (n >= sizeof one)
            return sl_fail(err, SL_E_USAGE, "--header %.40s... has more than a kilobyte", list);
        memcpy(one, list, n);
        one[n] = 0;
        SL_TRY(sl_load_class_header(c, one, err));
        list += n + (list[n] == ',');
    }
    return SL_OK;
}

/* ---- the load ---- */

static sl_status one_class(struct sl_load_class *c, const struct sl_bench_serve *o, struct sl_err *err)
{
    sl_load_class_init(c, "all");
    c->rate = o->rate;
    c->concurrency = o->concurrency;
    c->trace_speed = o->trace_speed;
    c->n_requests = o->requests ? o->requests : o->duration_s > 0 || o->trace ? 0 : REQUESTS_DEFAULT;
    c->prefix_groups = o->prefix_groups;
    c->prefix_tokens = o->prefix_tokens;
    c->turns = o->turns;
    c->think_ms = o->think_ms;
    c->deadline_ms = o->deadline_ms;
    SL_TRY(sl_arrivals_parse(&c->arrivals, o->arrivals, err));
    SL_TRY(sl_length_parse(&c->input, o->input, err));
    SL_TRY(sl_length_parse(&c->output, o->output, err));
    SL_TRY(sl_limits_parse(&c->limits, o->slo, err));
    SL_TRY(sl_cancel_parse(c, o->cancel, err));
    SL_TRY(take_headers(c, o->headers, err));
    if (o->prompts)
        SL_TRY(sl_corpus_read(&c->corpus, o->prompts, err));
    return o->trace ? sl_arrival_trace_read(&c->trace, o->trace, o->requests, err) : SL_OK;
}

static sl_status check_sweep(const struct sl_workload *w, const struct sl_bench_serve *o, struct sl_err *err)
{
    bool open = false, closed = false;
    for (uint32_t k = 0; k < w->n_classes; k++) {
        open |= w->classes[k].rate > 0;
        closed |= w->classes[k].concurrency > 0;
    }
    bool by_rate = o->sweep && strncmp(o->sweep, "rate=", 5) == 0;
    bool by_concurrency = o->sweep && strncmp(o->sweep, "concurrency=", 12) == 0;
    if ((by_rate || by_concurrency) && w->n_classes > 1)
        return sl_fail(err, SL_E_USAGE, "--sweep with a mix is scale=LIST: it has several rates");
    if ((by_rate && !open) || (by_concurrency && !closed))
        return sl_fail(err, SL_E_USAGE, "--sweep %.40s needs a load with %s", o->sweep,
                       by_rate ? "--rate" : "--concurrency");
    return SL_OK;
}

sl_status sl_workload_of(struct sl_workload *w, const struct sl_bench_serve *given, struct sl_err *err)
{
    struct sl_bench_serve o = *given;
    bool by_rate = o.sweep && strncmp(o.sweep, "rate=", 5) == 0;
    bool by_concurrency = o.sweep && strncmp(o.sweep, "concurrency=", 12) == 0;
    if (by_rate && o.rate <= 0)
        o.rate = 1; /* the points say it */
    if (by_concurrency && !o.concurrency)
        o.concurrency = 1;
    w->seed = o.seed;
    w->seconds = o.duration_s;
    w->n_classes = 0;
    if (o.mix) {
        if (o.rate > 0 || o.concurrency || o.trace)
            return sl_fail(err, SL_E_USAGE,
                           "--mix says when requests are due; leave out --rate, --concurrency and --trace");
        SL_TRY(sl_mix_read(w, o.mix, err));
    } else {
        w->n_classes = 1;
        SL_TRY(one_class(&w->classes[0], &o, err));
        if (o.rate <= 0 && !o.concurrency && !o.trace)
            return sl_fail(
                err, SL_E_USAGE,
                "say how requests arrive: --rate, --trace, --mix, or --concurrency for a closed loop");
    }
    SL_TRY(check_sweep(w, &o, err));
    return sl_workload_check(w, err);
}
