/* What view.h shows, read from the tables of the core: the order is that of the next chunk, made by the same function, and the times
 * are those of the prompts one after another in it, behind what is in the log. It costs an order of the whole queue, once whenever
 * somebody looks, and changes nothing that decisions are made of. */
#include "pipeline/decide/view.h"
#include "pipeline/decide/core_impl.h"
#include <math.h>
#include <string.h>

struct viewing {
    const struct sl_core *core;
    struct sl_core_view *view;
    double first_us; /* when the first stage has done what is in the log and what is shown so far */
};

static uint64_t whole(double us)
{
    return us > 0 ? (uint64_t)us : 0;
}

static void add_entry(struct viewing *v, struct sl_schedule_entry *e, uint32_t behind, double key_us)
{
    const struct sl_stay *s = sl_core_stay_of(e);
    const struct sl_ask *ask = s->request->ask;
    const struct sl_policy *policy = &v->core->policy;
    struct sl_view_entry *out = &v->view->entries[v->view->n_entries++];
    double begin_us = v->first_us;
    v->first_us += sl_rank_work_us(policy, e);
    *out = (struct sl_view_entry){.seq = s->request->seq + s->first,
                                  .priority = ask->priority,
                                  .prompt_tokens = e->prompt_tokens,
                                  .start = e->start,
                                  .pos = e->pos,
                                  .pages = e->prefill_pages,
                                  .shared_pages = e->shared_pages,
                                  .admitted = e->admitted,
                                  .again = s->again,
                                  .late = behind % 2,
                                  .outside = behind >= 2,
                                  .deadline_us = e->deadline_us,
                                  .due_us = e->due_us,
                                  .key_us = key_us,
                                  .work_us = sl_rank_work_us(policy, e),
                                  .predicted_begin_us = whole(begin_us),
                                  .predicted_end_us = whole(v->first_us + policy->budget.lag_us)};
    memcpy(out->id, ask->id, sizeof out->id);
    memcpy(out->tenant, ask->tenant, sizeof out->tenant);
}

static void add_to_tenant(const struct sl_core *core, const struct sl_schedule_entry *e,
                          struct sl_core_view *view)
{
    const struct sl_tenant *of = &core->policy.tenants.of[e->tenant];
    struct sl_view_tenant *t = view->tenants;
    while (t < view->tenants + view->n_tenants && strcmp(t->tenant, of->name) != 0)
        t++;
    if (t == view->tenants + view->n_tenants) {
        if (view->n_tenants == SL_VIEW_TENANTS) {
            view->more_tenants = true;
            return;
        }
        *t = (struct sl_view_tenant){.weight = of->weight, .used_us = of->used_us};
        memcpy(t->tenant, of->name, sizeof t->tenant);
        view->n_tenants++;
    }
    t->n_entries++;
    t->uncut_tokens += e->prompt_tokens - e->pos;
}

/* In the order of the next chunk. */
static void add_ranked(struct viewing *v)
{
    struct sl_ranked order[SL_VIEW_ENTRIES];
    bool any_late;
    uint32_t n = sl_rank_order(&v->core->policy, &v->core->schedule, v->view->now_us, false, order,
                               SL_VIEW_ENTRIES, &any_late);
    for (uint32_t i = 0; i < n; i++)
        add_entry(v, order[i].entry, order[i].behind, order[i].behind % 2 ? NAN : order[i].key_us);
}

void sl_core_view(const struct sl_core *core, uint64_t now_us, struct sl_core_view *view)
{
    const struct sl_schedule *schedule = &core->schedule;
    const struct sl_budget *budget = &core->policy.budget;
    bool fifo = core->config.schedule == SL_SCHEDULE_FIFO;
    double in_log_us = core->time.ends_us[0];
    struct viewing v = {core, view, in_log_us > (double)now_us ? in_log_us : (double)now_us};
    view->now_us = now_us;
    view->schedule = core->config.schedule;
    view->budget_us = fifo ? 0 : whole(budget->chunk_us);
    view->runs = core->runs_in_flight;
    view->max_runs = fifo || budget->runs > core->max_runs ? core->max_runs : budget->runs;
    view->pages_used = schedule->prefill_pages_used + schedule->pages_held;
    view->pages_cached = core->prefix.n_cached;
    view->decode_pages_used = 0;
    view->n_decoders = core->plan.max_decoders;
    for (uint32_t d = 0; d < core->plan.max_decoders; d++) {
        sl_core_decoder_load(core, d, &view->decoders[d]);
        view->decode_pages_used += view->decoders[d].pages_used;
    }
    view->n_pages = core->plan.n_pages;
    view->n_entries = view->n_entries_all = view->n_tenants = 0;
    view->more_tenants = false;
    for (struct sl_schedule_entry *e = schedule->head; e; e = e->next) {
        view->n_entries_all++;
        add_to_tenant(core, e, view);
        if (fifo && view->n_entries < SL_VIEW_ENTRIES)
            add_entry(&v, e, 0, NAN);
    }
    if (!fifo)
        add_ranked(&v);
}
