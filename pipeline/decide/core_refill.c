/* Answers in the prefix cache, so that the next turn of a conversation begins behind all that was said. Their pages are on the decode
 * worker, and the stages have none of them: when nobody wants anything of the stages, prompt and answer are prefilled there again,
 * behind what is cached already, and left to the cache. A refill is a request of the core's own: no holder is told of it, one is in
 * the pipeline at a time, with one chunk under way, and whoever comes ends it: that chunk is run to its end, and what was filled stays.
 * Were it given up, at half of the load hardly any would ever be done; and who comes waits for it on the first stage anyway. */
#include "pipeline/decide/core_impl.h"

size_t sl_core_refill_bytes(const struct sl_core_config *config)
{
    size_t ids = sl_arena_round(config->plan->context_tokens * sizeof(uint32_t));
    return config->prefix_cache ? SL_REFILLS * ids : 0;
}

sl_status sl_core_refill_init(struct sl_core *core, struct sl_arena *arena)
{
    for (uint32_t i = 0; core->config.prefix_cache && i < SL_REFILLS; i++) {
        core->refills.of[i].ids = sl_arena_take(arena, core->plan.context_tokens * sizeof(uint32_t));
        if (!core->refills.of[i].ids)
            return SL_E_NOMEM;
    }
    return SL_OK;
}

void sl_core_refill_note(struct sl_core *core, const struct sl_request *r, uint32_t i)
{
    struct sl_refills *all = &core->refills;
    const struct sl_ask *ask = r->ask;
    uint32_t n = (ask->n_ids + r->answers[i].n_out) / SL_PAGE * SL_PAGE;
    if (!core->config.prefix_cache || core->config.no_refill || core->config.schedule == SL_SCHEDULE_FIFO ||
        n <= ask->n_ids / SL_PAGE * SL_PAGE || n > core->plan.context_tokens || core->life != SL_LIFE_READY)
        return;
    if (all->n == SL_REFILLS) { /* the oldest is the least likely to be gone on with */
        if (all->active)
            return;
        all->first = (all->first + 1) % SL_REFILLS;
        all->n--;
    }
    struct sl_refill *refill = &all->of[(all->first + all->n++) % SL_REFILLS];
    refill->n_prompt = ask->n_ids / SL_PAGE;
    memcpy(refill->ids, ask->ids, ask->n_ids * sizeof *refill->ids);
    memcpy(refill->ids + ask->n_ids, ask->said[i].ids, (n - ask->n_ids) * sizeof *refill->ids);
    refill->ask = (struct sl_ask){.ids = refill->ids,
                                  .n_ids = n,
                                  .prompt_logprobs = -1,
                                  .sampling = {.top_p = 1, .repetition_penalty = 1, .n_logprobs = -1}};
    memcpy(refill->ask.tenant, ask->tenant, sizeof ask->tenant);
    memcpy(refill->ask.cache_salt, ask->cache_salt, sizeof ask->cache_salt);
}

static void drop_first(struct sl_refills *all)
{
    all->first = (all->first + 1) % SL_REFILLS;
    all->n--;
    all->active = NULL;
}

void sl_core_refill_done(struct sl_core *core)
{
    drop_first(&core->refills);
}

/* Nothing is to be cut, and nothing is under way. */
static bool is_idle(const struct sl_core *core)
{
    return core->life == SL_LIFE_READY && core->schedule.n_uncut == 0 && core->runs_in_flight == 0 &&
           core->free_requests.n_free > 0;
}

/* Who has gone on since has filled the answer, in a prompt; and where the prompt was evicted the answer would be, too. */
static bool is_of_use(struct sl_core *core, const struct sl_refill *refill)
{
    uint32_t n = sl_core_n_cached(core, &refill->ask);
    return n >= refill->n_prompt && n < refill->ask.n_ids / SL_PAGE;
}

void sl_core_refill(struct sl_core *core)
{
    struct sl_refills *all = &core->refills;
    uint32_t place;
    if (all->active || !is_idle(core))
        return;
    while (all->n > 0 && !is_of_use(core, &all->of[all->first]))
        drop_first(all);
    if (all->n == 0 || sl_pool_take(&core->free_requests, &place) != SL_OK)
        return;
    struct sl_ask *ask = &all->of[all->first].ask;
    struct sl_request *r = &core->requests[place];
    *r = (struct sl_request){.ask = ask,
                             .refill = true,
                             .n = 1,
                             .n_alive = 1,
                             .tenant = sl_tenants_enter(&core->policy.tenants, ask->tenant),
                             .submitted_us = core->now_us};
    r->answers[0] = (struct sl_branch){.alive = true, .stop_id = -1};
    struct sl_stay *s = sl_core_make_stay(core, r, place, 0, 1);
    r->seq = s->seq;
    sl_schedule_entry_init(&s->entry, &core->plan, ask->n_ids, 0, 1, 1);
    s->entry.arrival = ++core->arrivals;
    s->entry.arrived_us = core->now_us;
    s->entry.due_us = UINT64_MAX / 2; /* nobody waits for it */
    s->entry.tenant = r->tenant;
    sl_core_look_up_new(core, ask, &s->entry, &s->prefix);
    sl_schedule_push(&core->schedule, &s->entry);
    all->active = r;
}

void sl_core_refill_stop(struct sl_core *core, bool forget, struct sl_actions *actions)
{
    struct sl_refills *all = &core->refills;
    struct sl_request *r = all->active;
    if (!r)
        return;
    if (forget)
        drop_first(all);
    all->active = NULL;
    sl_policy_leave(&core->policy, &core->schedule, &r->stays->entry);
    sl_core_release(core, r->stays, SL_ORDER_FREE, actions);
    sl_core_end_answers(core, r, SL_OK, SL_FINISH_ABORT, NULL, actions);
}

void sl_core_refill_look(struct sl_core *core, struct sl_actions *actions)
{
    const struct sl_request *r = core->refills.active;
    if (r && r->stays && !r->stays->entry.admitted)
        sl_core_refill_stop(core, true, actions); /* there are no pages for it */
}
