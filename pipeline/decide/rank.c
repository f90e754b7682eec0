/* The order and the fill of rank.h. The order is looked for among all that wait, but only its first forty are sorted: a chunk has
 * room for fewer. */
#include "pipeline/decide/rank.h"
#include "base/mutate.h"
#include <assert.h>
#include <math.h>
#include <string.h>

enum { LATE_EVERY = 10 /* chunks */, MOST_CREDIT = 2 * LATE_EVERY };
static const double work_counts = 3, sliver_over = 1.15, noticeable = 0.02, few_short = 0.01, alone_may = 2;

static bool differs(double a, double b)
{
    return fabs(a - b) > noticeable * (fabs(a) + fabs(b));
}

void sl_policy_set(struct sl_policy *policy, const struct sl_budget *budget)
{
    bool other = differs(policy->budget.chunk_us, budget->chunk_us);
    for (int t = 0; t < SL_COST_TERMS; t++)
        other = other || differs(policy->budget.cost.us[t], budget->cost.us[t]);
    policy->version += other;
    if (other)
        policy->budget = *budget;
    policy->budget.runs = budget->runs;
    policy->budget.dear = budget->dear;
    policy->budget.others = budget->others;
    policy->budget.hop_us = budget->hop_us;
    policy->budget.end_us = budget->end_us;
    policy->budget.lag_us = budget->lag_us;
}

double sl_policy_alone_times(const struct sl_policy *policy)
{
    return policy->short_share > few_short ? 1 : alone_may;
}

double sl_rank_work_us(const struct sl_policy *policy, struct sl_schedule_entry *e)
{
    if (e->work_version != policy->version || e->work_pos != e->pos) {
        e->work_us = sl_budget_work_us(&policy->budget, e->pos, e->prompt_tokens);
        e->work_version = policy->version;
        e->work_pos = e->pos;
    }
    return e->work_us;
}

double sl_rank_key_us(const struct sl_policy *policy, struct sl_schedule_entry *e)
{
    return (double)e->due_us + work_counts * sl_rank_work_us(policy, e);
}

/* Since the last time one came, and few were cut: hardly any moves, and those not far. */
void sl_rank_sort(const struct sl_policy *policy, struct sl_schedule *schedule)
{
    for (struct sl_schedule_entry *e = schedule->first_key, *next; e; e = next) {
        next = e->next_key;
        e->key_us = sl_rank_key_us(policy, e);
        sl_schedule_sink(schedule, e);
    }
}

double sl_rank_place_us(const struct sl_policy *policy, struct sl_schedule_entry *e, bool late,
                        uint64_t now_us)
{
    if (late && e->promised)
        return (double)e->arrived_us;
    double since = late && now_us > e->arrived_us ? (double)(now_us - e->arrived_us) : 0;
    return sl_rank_key_us(policy, e) + since;
}

bool sl_rank_is_late(const struct sl_policy *policy, struct sl_schedule_entry *e, uint64_t now_us)
{
    return (double)now_us + sl_rank_work_us(policy, e) + policy->budget.lag_us > (double)e->due_us &&
           !SL_MUTATED(LATE_NEVER);
}

void sl_policy_enter(struct sl_policy *policy, struct sl_schedule *schedule, struct sl_schedule_entry *e,
                     bool again)
{
    e->backlog_us = sl_rank_work_us(policy, e);
    e->counted = true;
    sl_tenants_backlog(&policy->tenants, e->tenant, e->backlog_us);
    if (again)
        sl_schedule_push_back(schedule, e);
    else
        sl_schedule_push(schedule, e);
}

void sl_policy_leave(struct sl_policy *policy, struct sl_schedule *schedule, struct sl_schedule_entry *e)
{
    if (e->counted)
        sl_tenants_done(&policy->tenants, e->tenant, e->backlog_us);
    e->counted = false;
    sl_schedule_remove(schedule, e);
}

/* ---- the order ---- */

static bool before(const struct sl_ranked *a, const struct sl_ranked *b)
{
    if (a->behind != b->behind)
        return a->behind < b->behind;
    if (a->key_us != b->key_us)
        return a->key_us < b->key_us;
    return a->entry->arrival < b->entry->arrival;
}

/* Into the first `room`, which are sorted. */
static uint32_t insert(struct sl_ranked *order, uint32_t n, uint32_t room, const struct sl_ranked *it)
{
    if (n == room && !before(it, &order[n - 1]))
        return n;
    uint32_t at = 0, to = n;
    while (at < to) {
        uint32_t middle = (at + to) / 2;
        if (before(&order[middle], it))
            at = middle + 1;
        else
            to = middle;
    }
    n += n < room;
    memmove(&order[at + 1], &order[at], (n - 1 - at) * sizeof *order);
    order[at] = *it;
    return n;
}

/* Who is not among the n stands behind them, and takes the place of the last: they are as many as there is room for. */
static void to_the_head(struct sl_ranked *order, uint32_t n, const struct sl_ranked *it)
{
    uint32_t at = 0;
    while (at < n - 1 && order[at].entry != it->entry)
        at++;
    memmove(&order[1], &order[0], at * sizeof *order);
    order[0] = *it;
}

/* Of late ones: the oldest, unless its tenant has had more than others and theirs has not. */
static bool stands_up_before(const struct sl_ranked *a, const struct sl_ranked *b)
{
    bool a_outside = a->behind >= 2, b_outside = b->behind >= 2;
    return a_outside != b_outside ? b_outside : a->entry->arrival < b->entry->arrival;
}

/* begun: only of those that are admitted, who stand before all others in the list. */
static uint32_t sort(const struct sl_policy *policy, const struct sl_schedule *schedule, uint64_t now_us,
                     bool begun, bool late_first, struct sl_ranked *order, uint32_t room, bool *any_late)
{
    double most_used = sl_tenants_least_us(&policy->tenants) + policy->budget.chunk_us;
    struct sl_ranked oldest = {0};
    uint32_t n = 0;
    for (struct sl_schedule_entry *e = schedule->head; e && (e->admitted || !begun); e = e->next) {
        bool late = sl_rank_is_late(policy, e, now_us),
             outside = policy->tenants.of[e->tenant].used_us > most_used;
        struct sl_ranked it = {.entry = e,
                               .behind = 2u * outside + (late && e->promised),
                               .key_us = sl_rank_place_us(policy, e, late, now_us)};
        if (late && (!oldest.entry || stands_up_before(&it, &oldest)))
            oldest = it;
        n = insert(order, n, room, &it);
    }
    *any_late = oldest.entry != NULL;
    if (late_first && oldest.entry)
        to_the_head(order, n, &oldest);
    return n;
}

uint32_t sl_rank_order(const struct sl_policy *policy, const struct sl_schedule *schedule, uint64_t now_us,
                       bool late_first, struct sl_ranked *order, uint32_t room, bool *any_late)
{
    return sort(policy, schedule, now_us, false, late_first, order, room, any_late);
}

/* ---- the chunk ---- */

struct chunk { /* that is being filled */
    const struct sl_budget *budget;
    struct sl_cost_chunk sum;
    double us; /* that it may take; 0: it has no head yet */
    uint32_t rows, steering,
        shared; /* shared: of others' pages, of which a record names no more than a context has */
};

/* What the chunk takes with one more slice. */
static double with(const struct chunk *c, uint32_t pos, uint32_t n, bool ends)
{
    struct sl_cost_chunk sum = c->sum;
    sl_cost_add(&sum, pos, n);
    sl_cost_want(&sum, ends);
    return sl_cost_of(&c->budget->cost, &sum);
}

/* Most tokens of it that fit: all that are left, else whole pages. */
static uint32_t most_that_fits(const struct chunk *c, uint32_t pos, uint32_t left, double us)
{
    uint32_t room = c->budget->max_rows - c->rows, from = 0, to = (left < room ? left : room) / SL_PAGE;
    if (left <= room && with(c, pos, left, true) <= us)
        return left;
    while (from < to) {
        uint32_t middle = (from + to + 1) / 2;
        if (with(c, pos, middle * SL_PAGE, false) <= us)
            from = middle;
        else
            to = middle - 1;
    }
    return from * SL_PAGE;
}

static uint32_t take(const struct chunk *c, const struct sl_schedule_entry *e, double us)
{
    uint32_t left = e->prompt_tokens - e->pos, room = c->budget->max_rows - c->rows,
             n = most_that_fits(c, e->pos, left, us), least = left < SL_PAGE ? left : SL_PAGE;
    if (c->rows == 0 && n < least)
        n = least < room ? least : room;
    bool sliver = n > 0 && n < left && left - n < SL_PAGE && left <= room;
    return sliver && with(c, e->pos, left, true) <= sliver_over * us ? left : n;
}

static void charge(struct sl_policy *policy, const struct chunk *c, const struct sl_cut *cuts, uint32_t n)
{
    const struct sl_cost *cost = &policy->budget.cost;
    double shared = cost->us[SL_COST_C] + cost->us[SL_COST_W] * sl_cost_hit(cost->hit, c->rows);
    for (uint32_t i = 0; i < n; i++)
        if (cuts[i].entry->counted) /* else nobody asked for it */
            sl_tenants_charge(&policy->tenants, cuts[i].entry->tenant,
                              sl_cost_work(cost, cuts[i].pos, cuts[i].n) +
                                  cost->us[SL_COST_GAMMA] * cuts[i].pos + shared * cuts[i].n / c->rows);
}

static bool waits_too_long(const struct sl_schedule_entry *e, uint64_t now_us)
{
    return now_us > e->arrived_us && e->due_us > e->arrived_us &&
           now_us - e->arrived_us > (e->due_us - e->arrived_us) / 2;
}

/* The least that a chunk of those which were begun takes, a page of the deepest: who comes waits for chunks of so long anyway, so none
 * needs to be smaller, and short prompts that gathered behind one go into one chunk. */
static double least_us(const struct sl_policy *policy, const struct sl_schedule *schedule)
{
    uint32_t deepest = 0;
    for (const struct sl_schedule_entry *e = schedule->head; e && e->admitted; e = e->next)
        deepest = e->pos > deepest ? e->pos : deepest;
    return deepest > 0 ? sl_budget_single_us(&policy->budget, deepest, deepest + SL_PAGE) : 0;
}

/* How much a chunk that has e at its head may take. A prompt that is alone may have larger ones, up to twice as large: who comes while
 * they run waits twice as long, so only while hardly any short ones come. */
static double budget_us(const struct sl_policy *policy, const struct sl_schedule *schedule,
                        const struct sl_schedule_entry *e)
{
    double us = sl_budget_chunk_us(&policy->budget, e->pos);
    if (schedule->head != e || e->next)
        return us;
    return fmin(sl_budget_alone_us(&policy->budget, e->start, e->pos, e->prompt_tokens),
                us * sl_policy_alone_times(policy));
}

/* One more slice, of e, if it fits. */
static bool add_slice(struct chunk *c, struct sl_schedule_entry *e, double us, struct sl_cut *cut)
{
    uint32_t n = take(c, e, us);
    bool ends = e->pos + n == e->prompt_tokens;
    if (n == 0 || (ends && e->steering_bytes > c->steering) || e->shared_pages > c->shared)
        return false;
    *cut = (struct sl_cut){e, e->pos, n};
    c->shared -= e->shared_pages;
    c->steering -= ends ? e->steering_bytes : 0;
    return true;
}

static uint32_t fill(struct sl_policy *policy, struct sl_schedule *schedule, uint64_t now_us,
                     const struct sl_ranked *order, uint32_t n_order, sl_begin_fn *begin, void *user,
                     struct chunk *c, struct sl_cut *cuts)
{
    double least = least_us(policy, schedule);
    uint32_t n = 0;
    bool barrier = false;
    for (uint32_t i = 0; i < n_order && n < SL_MAX_SLICES && c->rows < c->budget->max_rows; i++) {
        struct sl_schedule_entry *e = order[i].entry;
        if (policy->look && !e->admitted && !barrier)
            policy->look(policy->look_user, e);
        double us = n == 0 ? fmax(budget_us(policy, schedule, e), least) : c->us;
        uint32_t steering = c->steering, shared = c->shared;
        if ((barrier && !e->admitted && !e->again) || !add_slice(c, e, us, &cuts[n]))
            continue;
        if (!e->admitted && !begin(user, e)) {
            barrier = barrier || waits_too_long(e, now_us);
            c->steering = steering;
            c->shared = shared;
            continue;
        }
        c->us = us;
        c->rows += cuts[n].n;
        sl_cost_add(&c->sum, cuts[n].pos, cuts[n].n);
        sl_cost_want(&c->sum, e->pos + cuts[n].n == e->prompt_tokens);
        n++;
    }
    return n;
}

/* All that were looked at wait for pages: who has some goes on, however many stand before it, and gives them back. */
static uint32_t fill_with_begun(struct sl_policy *policy, struct sl_schedule *schedule, uint64_t now_us,
                                sl_begin_fn *begin, void *user, struct chunk *c, struct sl_cut *cuts)
{
    struct sl_ranked order[SL_RANK_LOOK];
    bool any_late;
    uint32_t n = sort(policy, schedule, now_us, true, false, order, SL_RANK_LOOK, &any_late);
    return fill(policy, schedule, now_us, order, n, begin, user, c, cuts);
}

uint32_t sl_rank_cut(struct sl_policy *policy, struct sl_schedule *schedule, uint64_t now_us,
                     sl_begin_fn *begin, void *user, struct sl_cut cuts[SL_MAX_SLICES])
{
    struct sl_ranked order[SL_RANK_LOOK];
    /* with what this chunk earns */
    bool late_first = policy->late_tenths + 1 >= LATE_EVERY && !SL_MUTATED(SKIP_AGING), any_late;
    uint32_t n_order = sl_rank_order(policy, schedule, now_us, late_first, order, SL_RANK_LOOK, &any_late);
    struct chunk c = {.budget = &policy->budget,
                      .steering = schedule->plan->steering_bytes,
                      .shared = sl_pages_of(schedule->plan->context_tokens)};
    if (n_order == 0)
        return 0;
    struct sl_ranked first = order[0];
    uint32_t n = fill(policy, schedule, now_us, order, n_order, begin, user, &c, cuts);
    if (n == 0)
        n = fill_with_begun(policy, schedule, now_us, begin, user, &c, cuts);
    if (n == 0)
        return 0;
    if (any_late && policy->late_tenths < MOST_CREDIT)
        policy->late_tenths++;
    if (late_first && any_late && cuts[0].entry == first.entry)
        policy->late_tenths -= LATE_EVERY;
    charge(policy, &c, cuts, n);
    for (uint32_t i = 0; i < n; i++) {
        cuts[i].entry->pos += cuts[i].n;
        if (cuts[i].entry->pos == cuts[i].entry->prompt_tokens)
            sl_policy_leave(policy, schedule, cuts[i].entry);
    }
    return n;
}
