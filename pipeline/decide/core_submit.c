/* How a request comes in: what it asks for becomes an entry of the queue, with what of its prompt is cached, when it is wanted and
 * whose it is, or it is refused in a sentence. */
#include "pipeline/decide/core_impl.h"

const struct sl_request *sl_core_find_id(const struct sl_core *core, const char *id)
{
    for (uint32_t i = 0; id[0] && i < core->config.max_requests; i++)
        if (core->requests[i].seq && core->requests[i].ask && strcmp(core->requests[i].ask->id, id) == 0)
            return &core->requests[i];
    return NULL;
}

static uint32_t n_answers(const struct sl_ask *ask)
{
    return ask->n ? ask->n : 1;
}

/* Of a first stay. */
void sl_core_make_entry(const struct sl_core *core, const struct sl_ask *ask, struct sl_schedule_entry *entry)
{
    sl_schedule_entry_init(entry, &core->plan, ask->n_ids, ask->max_tokens > 1 ? ask->max_tokens : 0, 1,
                           n_answers(ask));
    uint32_t stops[SL_MAX_DECODE_STOPS];
    entry->steering_bytes =
        ask->steering_bytes + (ask->min_tokens > 0 ? 4 * sl_core_stops(core, ask, stops) : 0);
    entry->held_bytes = ask->held_bytes;
    entry->deadline_us = ask->deadline_us;
}

static sl_status may_submit(const struct sl_core *core, const struct sl_ask *ask, const char **why)
{
    static const char *const by_life[SL_LIVES] = {
        [SL_LIFE_FORMING] = "the pipeline is not complete yet; try again when it is ready",
        [SL_LIFE_DRAINING] = "this node is draining; send the request to another",
        [SL_LIFE_STOPPED] = "this node is stopping; send the request to another",
    };
    *why = core->life == SL_LIFE_LOST ? core->sentence : by_life[core->life];
    if (*why)
        return SL_E_UNAVAILABLE;
    struct sl_schedule_entry entry;
    sl_core_make_entry(core, ask, &entry);
    *why = "its deadline had passed when it came; allow more time";
    if (ask->deadline_us && core->now_us >= ask->deadline_us)
        return SL_E_DEADLINE;
    *why = "n is more than the answers that are decoded at once here; ask for fewer";
    if (n_answers(ask) > core->plan.max_running)
        return SL_E_INVALID;
    *why =
        "n answers to this prompt need more KV pages than this node has; ask for fewer, or with a shorter prompt";
    if (entry.decode_pages > core->plan.n_pages)
        return SL_E_INVALID;
    *why = "no decode worker is here; start one with sluice decode, and send the request again";
    if (core->abandoned && ask->max_tokens > 1)
        return SL_E_UNAVAILABLE;
    *why = "as many requests are queued as this node takes; try again later";
    if (core->free_requests.n_free == 0)
        return SL_E_EXHAUSTED;
    *why = "the requests that are queued hold as many bytes as this node keeps for them; try again later";
    size_t waiting = core->schedule.waiting_bytes, most = core->config.max_waiting_bytes;
    if (waiting > 0 && (waiting >= most || ask->held_bytes > most - waiting))
        return SL_E_EXHAUSTED;
    *why = "a request with this id is live; choose another id";
    return sl_core_find_id(core, ask->id) ? SL_E_EXISTS : SL_OK;
}

/* When its first token is wanted: as its holder says, else by the schedule's own target. */
static void make_times(const struct sl_core *core, const struct sl_ask *ask, struct sl_schedule_entry *entry)
{
    uint64_t wanted = ask->target_us;
    if (ask->deadline_us && (wanted == 0 || ask->deadline_us < wanted))
        wanted = ask->deadline_us;
    entry->arrived_us = core->now_us;
    entry->promised = wanted != 0;
    entry->due_us = wanted;
    if (wanted)
        return;
    /* nobody passes what is under way, which is more than some chunks of the usual size when a long prompt's can't be smaller; who
     * were wanted sooner would be late at once, and behind all others */
    double under_way = sl_core_under_way_us(core), slo = (double)core->config.slo_us,
           target = sl_budget_target_us(&core->policy.budget, slo > under_way ? slo : under_way, entry->start,
                                        entry->prompt_tokens);
    for (int32_t p = ask->priority; p != 0; p += p > 0 ? -1 : 1)
        target = p > 0 ? target / 2 : target * 2;
    entry->due_us = core->now_us + (uint64_t)target;
}

/* Whether it may wait; its first token is predicted. */
static void admit(struct sl_core *core, struct sl_schedule_entry *entry, struct sl_admission *admission,
                  uint32_t *retry_ms)
{
    const struct sl_queue_bounds bounds = {(double)core->config.max_waiting_us,
                                           core->config.max_waiting_tokens, core->config.max_requests};
    struct sl_outlook outlook;
    double work = sl_rank_work_us(&core->policy, entry);
    sl_core_outlook(core, entry, &outlook);
    sl_admit(admission, &core->policy, &core->schedule, &outlook, entry, core->now_us);
    if (!admission->refused)
        sl_admit_queue(admission, &core->policy, &core->schedule, &bounds, entry, work);
    if (admission->refused)
        *retry_ms = sl_admit_retry_ms(admission, &outlook, core->now_us * 0x9e3779b97f4a7c15u >> 32);
    else
        sl_core_time_admitted(core, entry, work, admission->trial);
}

static struct sl_action *refuse(const struct sl_ask *ask, sl_status status, const char *why,
                                struct sl_actions *actions)
{
    struct sl_action *a = sl_core_act(actions, SL_ACTION_END, NULL);
    a->user = ask->user;
    a->end.status = status;
    a->end.error = why;
    a->end.finish = SL_FINISH_ABORT;
    a->end.last = true;
    a->end.stop_id = -1;
    return a;
}

uint64_t sl_core_submit(struct sl_core *core, uint64_t now_us, struct sl_ask *ask, struct sl_actions *actions)
{
    const char *why;
    uint32_t place, retry_ms = 0, n = n_answers(ask);
    core->now_us = now_us > core->now_us ? now_us : core->now_us;
    sl_status status = may_submit(core, ask, &why);
    if (status != SL_OK) {
        refuse(ask, status, why, actions);
        return 0;
    }
    assert(n <= SL_MAX_N && (n == 1 || ask->max_tokens > 0) && ask->priority >= SL_PRIORITY_LEAST &&
           ask->priority <= SL_PRIORITY_MOST &&
           strnlen(ask->tenant, sizeof ask->tenant) < sizeof ask->tenant &&
           ask->steering_bytes <= sl_steering_max_bytes(core->plan.vocab));
    struct sl_schedule_entry entry;
    struct sl_admission admission = {0};
    struct sl_prefix_at at;
    sl_core_refill_stop(core, false, actions);
    sl_core_make_entry(core, ask, &entry);
    sl_core_look_up_new(core, ask, &entry, &at);
    entry.tenant = sl_tenants_enter(&core->policy.tenants, ask->tenant);
    make_times(core, ask, &entry);
    if (core->config.schedule != SL_SCHEDULE_FIFO)
        admit(core, &entry, &admission, &retry_ms);
    if (admission.refused) {
        struct sl_action *a = refuse(ask, SL_E_EXHAUSTED, admission.refused, actions);
        a->end.refusal = admission.refusal;
        a->end.retry_after_ms = retry_ms;
        sl_tenants_leave(&core->policy.tenants, entry.tenant);
        sl_core_let_go_prefix(core, &at);
        return 0;
    }
    status = sl_pool_take(&core->free_requests, &place);
    assert(status == SL_OK); /* may_submit has looked */
    struct sl_request *r = &core->requests[place];
    *r = (struct sl_request){.ask = ask,
                             .handoff = ask->max_tokens > 1,
                             .n = n,
                             .n_alive = n,
                             .tenant = entry.tenant,
                             .submitted_us = core->now_us,
                             .predicted_us = admission.predicted_us,
                             .told_us = admission.told_us};
    for (uint32_t i = 0; i < n; i++)
        r->answers[i] = (struct sl_branch){.alive = true, .stop_id = -1};
    struct sl_stay *s = sl_core_make_stay(core, r, place, 0, n);
    r->seq = s->seq;
    core->n_live++;
    s->entry = entry;
    s->entry.arrival = ++core->arrivals;
    s->prefix = at;
    sl_policy_enter(&core->policy, &core->schedule, &s->entry, false);
    return r->seq;
}
