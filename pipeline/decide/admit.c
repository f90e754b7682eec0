/* The tests of admit.h, each one pass over the queue in the order of its keys, which is that in which requests are cut. */
#include "pipeline/decide/admit.h"
#include <math.h>

static const double headroom = 0.2, for_late = 0.1, alone_share = 15.0 / 16, least_retry_ms = 50;

struct question { /* what the tests share */
    struct sl_policy *policy;
    const struct sl_schedule *schedule;
    const struct sl_outlook *outlook;
    struct sl_schedule_entry *entry;
    double now_us, key_us, work_us, chunk_us; /* key_us, work_us: of the entry */
    double back_us, others_us;                /* all that is queued; what of it other tenants' is */
    bool any_late;
};

/* When work w of the queue, the last of it of one with that key, in chunks of q->chunk_us, has left the last stage; microseconds
 * from now. */
static double finish(const struct question *q, double key_us, double work_us, double rate)
{
    const struct sl_budget *b = &q->policy->budget;
    double body = fmax(q->chunk_us,
                       sl_newcomers_end_us(&q->outlook->newcomers, key_us - q->now_us, work_us, rate)),
           by_first = q->outlook->first_us + body + b->others * q->chunk_us + (b->n_stages + 1) * b->hop_us,
           by_last = q->outlook->last_us + body + b->hop_us;
    return fmax(by_first, by_last) + q->outlook->room_us;
}

static double time_left(const struct question *q, const struct sl_schedule_entry *e)
{
    return (1 - headroom) * ((double)e->due_us - q->now_us);
}

static double share_of(const struct sl_policy *policy, const struct sl_schedule_entry *entry)
{
    const struct sl_tenants *t = &policy->tenants;
    return t->of[entry->tenant].weight / sl_tenants_active_weight(t, entry->tenant);
}

/* What is cut before it is done, itself apart: those that come before it by their keys; or, if that is more, those of its own tenant
 * among them and what other tenants take beside it, whatever their keys are, until they have nothing left. With them all that is
 * queued, and whether any is late. */
static double ahead_of(struct question *q, uint64_t now_us)
{
    double ahead = 0, own = 0;
    for (struct sl_schedule_entry *e = q->schedule->head; e; e = e->next) {
        bool late = sl_rank_is_late(q->policy, e, now_us), others = e->tenant != q->entry->tenant,
             before = !(late && e->promised) && sl_rank_place_us(q->policy, e, late, now_us) <= q->key_us;
        double work = sl_rank_work_us(q->policy, e);
        q->any_late = q->any_late || late;
        q->back_us += work;
        q->others_us += others ? work : 0;
        ahead += before ? work : 0;
        own += before && !others ? work : 0;
    }
    double beside = (own + q->work_us) * (1 / share_of(q->policy, q->entry) - 1);
    return fmax(ahead, own + fmin(q->others_us, beside));
}

/* Others who were promised something and come after it: would one be late because of it? Returns by how much. Whose headroom it would
 * take is protected, and when that is gone, its time itself. */
static double breaks_promises(const struct question *q, uint64_t now_us)
{
    double sum = 0, worst = 0, rate = 1 - (q->any_late ? for_late : 0);
    for (struct sl_schedule_entry *e = q->schedule->first_key; e; e = e->next_key) {
        if (sl_rank_is_late(q->policy, e, now_us))
            continue;
        sum += sl_rank_work_us(q->policy, e);
        double left = time_left(q, e),
               with = q->outlook->corrected * finish(q, e->key_us, sum + q->work_us, rate);
        if (!e->promised || e->key_us < q->key_us || with <= left)
            continue;
        double without = q->outlook->corrected * finish(q, e->key_us, sum, rate),
               may = without <= left ? left : (double)e->due_us - q->now_us;
        worst = without <= may ? fmax(worst, with - may) : worst;
    }
    return worst;
}

/* With the share that it has whatever others do, its tenant has done so much of its own, e's the last of it, when e is due. */
static bool is_in_time(const struct question *q, const struct sl_schedule_entry *e, double key_us,
                       double work_us, double share)
{
    const struct sl_budget *b = &q->policy->budget;
    double late_by = q->outlook->first_us + (1 + b->others) * b->chunk_us + (b->n_stages + 1) * b->hop_us;
    return late_by + sl_newcomers_end_us(&q->outlook->own, key_us - q->now_us, work_us, share) <=
           (double)e->due_us - q->now_us;
}

/* Its tenant alone is in time with it, and with all that it was promised and comes after it. */
static bool fits_own_share(const struct question *q, double share)
{
    double before = q->work_us, after = 0;
    bool fits = true;
    for (struct sl_schedule_entry *e = q->schedule->first_key; e && fits; e = e->next_key) {
        if (e->tenant != q->entry->tenant)
            continue;
        bool comes_after = e->key_us > q->key_us;
        *(comes_after ? &after : &before) += sl_rank_work_us(q->policy, e);
        if (comes_after && e->promised)
            fits = is_in_time(q, e, e->key_us, before + after, share);
    }
    return fits && is_in_time(q, q->entry, q->key_us, before, share);
}

static bool others_wait(const struct sl_policy *policy, const struct sl_schedule_entry *entry)
{
    const struct sl_tenants *t = &policy->tenants;
    return t->n_backlogged > (t->of[entry->tenant].n_uncut > 0 ? 1u : 0u);
}

void sl_admit(struct sl_admission *a, struct sl_policy *policy, struct sl_schedule *schedule,
              const struct sl_outlook *outlook, struct sl_schedule_entry *entry, uint64_t now_us)
{
    const struct sl_budget *b = &policy->budget;
    struct question q = {.policy = policy,
                         .schedule = schedule,
                         .outlook = outlook,
                         .entry = entry,
                         .now_us = (double)now_us,
                         .key_us = sl_rank_key_us(policy, entry),
                         .work_us = sl_rank_work_us(policy, entry)};
    sl_rank_sort(policy, schedule);
    double ahead = ahead_of(&q, now_us), single = sl_budget_single_us(b, entry->pos, entry->prompt_tokens);
    q.chunk_us = fmin(q.back_us + single, sl_budget_chunk_us(b, entry->pos));
    *a = (struct sl_admission){.predicted_us = finish(&q, q.key_us, ahead + q.work_us, 1)};
    if (q.back_us == 0) { /* nothing is in its way but what is under way */
        double idle = sl_budget_idle_us(b, entry->pos, entry->prompt_tokens, sl_policy_alone_times(policy)),
               drain = outlook->last_us + fmin(single, q.chunk_us) + b->hop_us;
        a->predicted_us = fmax(outlook->first_us + idle, drain) + outlook->room_us;
    }
    a->told_us = outlook->corrected * a->predicted_us;
    if (!entry->promised)
        return;
    double late_by = a->told_us - time_left(&q, entry);
    if (late_by > 0 && outlook->stale && q.back_us == 0 && outlook->at_best_us <= time_left(&q, entry)) {
        a->trial = true;
        return;
    }
    enum sl_refusal refusal = late_by > 0 ? SL_REFUSAL_TIME : SL_REFUSAL_BY_STATUS;
    if (refusal == SL_REFUSAL_BY_STATUS && (late_by = breaks_promises(&q, now_us)) > 0)
        refusal = SL_REFUSAL_PROMISE;
    if (refusal == SL_REFUSAL_BY_STATUS ||
        (others_wait(policy, entry) && fits_own_share(&q, share_of(policy, entry))))
        return;
    static const char *const sentences[] = {
        [SL_REFUSAL_TIME] =
            "its first token can't be there in time with what is queued before it; try again when it "
            "is told, or allow more time",
        [SL_REFUSAL_PROMISE] =
            "it would make others late that were promised their first token in time; try again "
            "when it is told"};
    a->refusal = refusal;
    a->refused = sentences[refusal];
    a->excess_us = late_by;
}

static void refuse_for_room(struct sl_admission *a, enum sl_refusal refusal, const char *sentence)
{
    a->refusal = refusal;
    a->refused = sentence;
    a->excess_us = fmax(a->excess_us, a->told_us);
}

void sl_admit_queue(struct sl_admission *a, const struct sl_policy *policy,
                    const struct sl_schedule *schedule, const struct sl_queue_bounds *bounds,
                    const struct sl_schedule_entry *entry, double work_us)
{
    const struct sl_tenants *t = &policy->tenants;
    const struct sl_tenant *own = &t->of[entry->tenant];
    double all = 0, share = others_wait(policy, entry) ? share_of(policy, entry) : alone_share;
    for (uint32_t i = 0; i < t->n; i++)
        all += t->of[i].n_uncut > 0 ? t->of[i].uncut_us : 0;
    if (own->n_uncut == 0)
        return; /* each tenant may always wait with one */
    if (schedule->n_waiting + 1 > bounds->count)
        refuse_for_room(a, SL_REFUSAL_BY_STATUS,
                        "as many requests are queued as this node takes; try again later");
    else if (all + work_us > bounds->work_us)
        refuse_for_room(a, SL_REFUSAL_BY_STATUS,
                        "the requests that are queued are as much work as this node takes; try again later");
    else if (schedule->waiting_tokens + entry->prompt_tokens > bounds->tokens)
        refuse_for_room(
            a, SL_REFUSAL_BY_STATUS,
            "the requests that are queued have as many tokens as this node takes; try again later");
    else if (own->n_uncut + 1 > share * bounds->count || own->uncut_us + work_us > share * bounds->work_us)
        refuse_for_room(a, SL_REFUSAL_SHARE,
                        "this tenant has as much in the queue as its share of it allows; try again later");
}

uint32_t sl_admit_retry_ms(const struct sl_admission *a, const struct sl_outlook *outlook, uint64_t draw)
{
    double ms = fmax(a->excess_us / 1000 / fmax(1 - sl_newcomers_share(&outlook->newcomers, UINT32_MAX), 0.2),
                     least_retry_ms),
           jitter = 0.75 + 0.5 * (double)(draw % 1024) / 1024;
    return (uint32_t)fmin(ms * jitter, 600000);
}
