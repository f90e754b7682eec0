/* Counting: from the outcomes of single requests to the figures of schedule_figures.h, groups first, then the window. */
#include "bench/schedule_figures.h"
#include <math.h>
#include <stdlib.h>

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double sl_bench_quantile(double *values, uint32_t n, double q)
{
    if (n == 0)
        return 0;
    qsort(values, n, sizeof *values, compare);
    return values[(uint32_t)(q * (n - 1) + 0.5)];
}

struct counting {
    const struct sl_bench_traffic *load;
    const struct sl_bench_outcome *outcomes;
    uint32_t n;
    double *values; /* [n] */
};

static bool was_met(const struct sl_bench_request *r, const struct sl_bench_outcome *o)
{
    return o->first_us > 0 && (r->target_us <= 0 || o->first_us - o->submit_us <= r->target_us);
}

static bool counts(const struct counting *c, uint32_t i, uint32_t class, uint32_t group)
{
    const struct sl_bench_request *r = &c->load->requests[i];
    return c->outcomes[i].end_us > 0 && (class == SL_BENCH_CLASSES || sl_bench_class_of(r->n) == class) &&
           (group == SL_BENCH_GROUPS || r->group == group);
}

static void count_known(struct sl_bench_group *g, const struct counting *c, uint32_t class, uint32_t group)
{
    for (uint32_t i = 0; i < c->n; i++) {
        const struct sl_bench_outcome *o = &c->outcomes[i];
        uint32_t known = c->load->requests[i].n_known;
        if (known == 0 || o->first_us <= 0 || !counts(c, i, class, group))
            continue;
        c->values[g->n_knowing++] = o->n_cached < known ? known - o->n_cached : 0;
        g->n_reusing += o->n_cached >= known / SL_PAGE * SL_PAGE;
        g->known += known;
        g->cached += o->n_cached;
    }
    g->again_p50 = sl_bench_quantile(c->values, g->n_knowing, 0.5);
    g->again_p90 = sl_bench_quantile(c->values, g->n_knowing, 0.9);
}

/* Those of a class (SL_BENCH_CLASSES: any) and a group (SL_BENCH_GROUPS: any) that came at all. */
static void count(struct sl_bench_group *g, const struct counting *c, uint32_t class, uint32_t group)
{
    *g = (struct sl_bench_group){0};
    for (uint32_t i = 0; i < c->n; i++) {
        const struct sl_bench_request *r = &c->load->requests[i];
        const struct sl_bench_outcome *o = &c->outcomes[i];
        if (!counts(c, i, class, group))
            continue;
        bool met = was_met(r, o);
        if (o->first_us > 0)
            c->values[g->n_answered++] = o->first_us - o->submit_us;
        g->n++;
        g->n_refused += o->was_refused;
        g->n_met += met;
        g->work_us += r->work_us;
        g->done_work_us += o->first_us > 0 ? r->work_us : 0;
        g->met_work_us += met ? r->work_us : 0;
    }
    g->p50_us = sl_bench_quantile(c->values, g->n_answered, 0.5);
    g->p99_us = sl_bench_quantile(c->values, g->n_answered, 0.99);
    count_known(g, c, class, group);
}

static void count_errors(struct sl_bench_figures *f, const struct counting *c)
{
    for (uint32_t i = 0; i < c->n; i++)
        if (c->outcomes[i].first_us > 0 && c->outcomes[i].predicted_us > 0)
            c->values[f->n_predicted++] =
                c->outcomes[i].predicted_us / (c->outcomes[i].first_us - c->outcomes[i].submit_us) - 1;
    f->bias = sl_bench_quantile(c->values, f->n_predicted, 0.5);
    for (uint32_t i = 0; i < f->n_predicted; i++)
        c->values[i] = fabs(c->values[i]);
    f->error_p50 = sl_bench_quantile(c->values, f->n_predicted, 0.5);
    f->error_p90 = sl_bench_quantile(c->values, f->n_predicted, 0.9);
}

static void count_window(struct sl_bench_figures *f, const struct counting *c,
                         const struct sl_bench_report *report)
{
    double from = report->last_submit_us / 10, to = report->last_submit_us, rows = 0, tokens = 0;
    for (uint32_t i = 0; i < c->n; i++) {
        const struct sl_bench_request *r = &c->load->requests[i];
        const struct sl_bench_outcome *o = &c->outcomes[i];
        bool within = o->first_us > from && o->first_us <= to;
        f->goodput_work += within && was_met(r, o) ? r->work_us : 0;
        f->goodput_requests += within && was_met(r, o);
        if (o->end_us > from && o->end_us <= to)
            tokens += o->n_out;
    }
    for (uint32_t i = 0; i < report->n_ran; i++)
        rows += report->ran[i].at_us > from && report->ran[i].at_us <= to ? report->ran[i].rows : 0;
    if (to <= from)
        return;
    f->goodput_work /= to - from;
    f->goodput_requests *= 1e6 / (to - from);
    f->rows_per_s = rows * 1e6 / (to - from);
    f->tokens_per_s = tokens * 1e6 / (to - from);
}

sl_status sl_bench_figures_make(struct sl_bench_figures *f, const struct sl_bench_traffic *load,
                                const struct sl_bench_outcome *outcomes, const struct sl_bench_report *report,
                                struct sl_err *err)
{
    struct counting c = {load, outcomes, load->n, NULL};
    uint32_t n_pauses = 0;
    *f = (struct sl_bench_figures){0};
    c.values = calloc(c.n + 1, sizeof *c.values);
    if (!c.values)
        return sl_fail(err, SL_E_NOMEM, "out of memory for %u requests; ask for fewer", c.n);
    count(&f->all, &c, SL_BENCH_CLASSES, SL_BENCH_GROUPS);
    for (uint32_t k = 0; k < SL_BENCH_CLASSES; k++)
        count(&f->of_class[k], &c, k, SL_BENCH_GROUPS);
    for (uint32_t k = 0; k < SL_BENCH_GROUPS; k++)
        count(&f->of_group[k], &c, SL_BENCH_CLASSES, k);
    f->n_late = f->all.n - f->all.n_refused - f->all.n_met;
    count_errors(f, &c);
    count_window(f, &c, report);
    for (uint32_t i = 0; i < c.n; i++)
        if (outcomes[i].n_out > 2)
            c.values[n_pauses++] = outcomes[i].pause_us;
    f->pause_p99_us = sl_bench_quantile(c.values, n_pauses, 0.99);
    f->step_us = report->steps ? report->step_us / (double)report->steps : 0;
    f->busy = report->end_us > 0 ? report->busy_us / report->end_us : 0;
    free(c.values);
    return SL_OK;
}
