/* What view.h shows, read from the tables of the core. It costs a walk of the queue, and for each entry one of the tenants that
 * are shown, once whenever somebody looks. */
#include "pipeline/decide/view.h"
#include "pipeline/decide/core_impl.h"
#include <math.h>
#include <string.h>

static double weight_of(const struct sl_core *core, const char *tenant)
{
    for (uint32_t i = 0; i < core->config.n_weights; i++)
        if (strcmp(core->config.weights[i].tenant, tenant) == 0)
            return core->config.weights[i].weight;
    return 1;
}

static void fill_entry(const struct sl_stay *s, struct sl_view_entry *out)
{
    const struct sl_ask *ask = s->request->ask;
    const struct sl_schedule_entry *e = &s->entry;
    *out = (struct sl_view_entry){.seq = s->request->seq + s->first,
                                  .priority = ask->priority,
                                  .prompt_tokens = e->prompt_tokens,
                                  .pos = e->pos,
                                  .pages = e->prefill_pages,
                                  .admitted = e->admitted,
                                  .again = s->again,
                                  .deadline_us = e->deadline_us,
                                  .key = NAN};
    memcpy(out->id, ask->id, sizeof out->id);
    memcpy(out->tenant, ask->tenant, sizeof out->tenant);
}

static void add_to_tenant(const struct sl_core *core, const struct sl_stay *s, struct sl_core_view *view)
{
    const char *name = s->request->ask->tenant;
    struct sl_view_tenant *t = view->tenants;
    while (t < view->tenants + view->n_tenants && strcmp(t->tenant, name) != 0)
        t++;
    if (t == view->tenants + view->n_tenants) {
        if (view->n_tenants == SL_VIEW_TENANTS) {
            view->n_tenants_all = SL_VIEW_TENANTS + 1;
            return;
        }
        *t = (struct sl_view_tenant){.weight = weight_of(core, name), .served_us = NAN};
        memcpy(t->tenant, name, sizeof t->tenant);
        view->n_tenants_all = ++view->n_tenants;
    }
    t->n_entries++;
    t->uncut_tokens += s->entry.prompt_tokens - s->entry.pos;
}

void sl_core_view(const struct sl_core *core, uint64_t now_us, struct sl_core_view *view)
{
    const struct sl_schedule *schedule = &core->schedule;
    view->now_us = now_us;
    view->schedule = core->config.schedule;
    view->budget_us = 0;
    view->runs = core->runs_in_flight;
    view->max_runs = core->max_runs;
    view->pages_used = schedule->prefill_pages_used;
    view->decode_pages_used = schedule->decode_pages_used;
    view->n_pages = core->plan.n_pages;
    view->n_entries = view->n_entries_all = view->n_tenants = view->n_tenants_all = 0;
    for (struct sl_schedule_entry *e = schedule->head; e; e = e->next) {
        const struct sl_stay *s = sl_core_stay_of(e);
        view->n_entries_all++;
        add_to_tenant(core, s, view);
        if (view->n_entries < SL_VIEW_ENTRIES)
            fill_entry(s, &view->entries[view->n_entries++]);
    }
}
