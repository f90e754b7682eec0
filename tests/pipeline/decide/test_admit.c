/* pipeline/decide/admit.c: who is refused and why, by hand, and what admission promises held against plain statements of it over
 * random queues. That whoever is accepted is in time is shown where there are stages: tests/bench/test_schedule_promises.c. */
#include "pipeline/decide/admit.h"
#include "tests/pipeline/decide/queue_world.h"

/* ---- by hand: 1,000 us a chunk and 10 a row, chunks of 5,000 us, two stages, nothing under way ---- */

static struct sl_admission admit(struct queue *q, struct sl_schedule_entry *e, uint64_t now_us)
{
    struct sl_admission a;
    sl_admit(&a, &q->policy, &q->schedule, &(struct sl_outlook){.corrected = 1}, e, now_us);
    return a;
}

static struct sl_schedule_entry promised(struct queue *q, const char *tenant, uint32_t n_tokens,
                                         uint64_t due_us)
{
    struct sl_schedule_entry e = queue_entry(q, tenant, n_tokens, 0, due_us);
    e.promised = true;
    return e;
}

SL_TEST(who_would_come_too_late_itself_is_refused_with_some_headroom)
{
    struct queue q;
    open_queue(&q);
    struct sl_schedule_entry e = promised(&q, "", 64, 4101);
    struct sl_admission a = admit(&q, &e, 0);
    CHECK(!a.refused &&
          fabs(a.predicted_us - 3280) < 1e-6); /* 1,640 us on each of two stages: 0.8 of 4,100 */
    e.due_us = 4099;
    a = admit(&q, &e, 0);
    CHECK(a.refused && a.refusal == SL_REFUSAL_TIME && fabs(a.excess_us - 0.8) < 1e-6);
    CHECK_CONTAINS(a.refused ? a.refused : "", "allow more time");
    e.due_us = 3; /* and when it is past */
    CHECK(admit(&q, &e, 1000).refusal == SL_REFUSAL_TIME);
    e.promised = false; /* whoever wants nothing by a time is only ordered */
    CHECK(!admit(&q, &e, 1000).refused);
    close_queue(&q);
}

SL_TEST(what_was_wrong_lately_and_what_is_under_way_count_in_what_is_told)
{
    struct queue q;
    struct sl_admission a;
    open_queue(&q);
    struct sl_schedule_entry e = promised(&q, "", 64, 4101);
    sl_admit(&a, &q.policy, &q.schedule, &(struct sl_outlook){.corrected = 1.1}, &e, 0);
    CHECK(a.refused && fabs(a.told_us - 1.1 * 3280) < 1e-6 && fabs(a.predicted_us - 3280) < 1e-6);
    sl_admit(&a, &q.policy, &q.schedule, &(struct sl_outlook){.corrected = 1, .first_us = 500}, &e, 0);
    CHECK(a.refused && fabs(a.predicted_us - 3780) < 1e-6);
    sl_admit(&a, &q.policy, &q.schedule, &(struct sl_outlook){.corrected = 1, .room_us = 100}, &e, 0);
    CHECK(a.refused && fabs(a.predicted_us - 3380) < 1e-6);
    close_queue(&q);
}

SL_TEST(others_take_their_share_beside_a_tenant_even_of_those_that_they_come_after)
{
    struct queue q;
    struct sl_schedule_entry e[2];
    open_queue(&q);
    queue_add(&q, &e[0], "flood", 8000, 0, 1000000);
    e[1] = promised(&q, "calm", 1000, 100000);
    CHECK(fabs(admit(&q, &e[1], 0).predicted_us - (2 * 12500 + 5000)) < 1e-6); /* half of the pipeline */
    sl_tenants_leave(&q.policy.tenants, e[1].tenant);
    e[1] = promised(&q, "flood", 1000, 100000); /* it passes its own */
    CHECK(fabs(admit(&q, &e[1], 0).predicted_us - (12500 + 5000)) < 1e-6);
    close_queue(&q);
}

/* One of 4,000 tokens waits, 50,000 us of work and 55,000 until it has left the second stage; then comes one of 1,000, 12,500 us of
 * work, that passes it. */
static struct sl_admission beside_a_promise(uint64_t due_us, bool was_promised)
{
    struct queue q;
    open_queue(&q);
    struct sl_schedule_entry other = promised(&q, "", 4000, due_us), e = promised(&q, "", 1000, due_us - 1);
    other.promised = was_promised;
    queue_enter(&q, &other);
    struct sl_admission a = admit(&q, &e, 0);
    close_queue(&q);
    return a;
}

SL_TEST(who_would_break_the_promise_of_another_is_refused_and_who_merely_passes_it_is_not)
{
    struct sl_admission a = beside_a_promise(75000, true); /* 67,500 of 60,000 us */
    CHECK(a.refusal == SL_REFUSAL_PROMISE && fabs(a.excess_us - 7500) < 1e-6 &&
          fabs(a.predicted_us - 17500) < 1e-6);
    CHECK_CONTAINS(a.refused ? a.refused : "", "others late");
    CHECK(!beside_a_promise(75000, false).refused);
    CHECK(!beside_a_promise(85000, true).refused); /* there is time for both */
}

SL_TEST(who_is_due_later_and_comes_first_all_the_same_is_refused_for_a_promise_it_would_break)
{
    struct queue q;
    open_queue(&q);
    struct sl_schedule_entry other = promised(&q, "", 4000, 75000), e = promised(&q, "", 1000, 80000);
    queue_enter(&q, &other); /* its key is 225,000, that of the other one 117,500 */
    struct sl_admission a = admit(&q, &e, 0);
    CHECK(a.refusal == SL_REFUSAL_PROMISE && fabs(a.excess_us - 7500) < 1e-6);
    close_queue(&q);
}

SL_TEST(a_promise_without_headroom_is_protected_until_its_time_is_gone)
{
    CHECK(beside_a_promise(66000, true).refusal ==
          SL_REFUSAL_PROMISE);                     /* 55,000 of 52,800 us, and 67,500 of 66,000 */
    CHECK(!beside_a_promise(68000, true).refused); /* 67,500 of 68,000 */
}

SL_TEST(a_promise_that_is_lost_already_refuses_nobody)
{
    CHECK(!beside_a_promise(68000, true).refused); /* it has time for both, if none to spare */
    CHECK(!beside_a_promise(52000, true).refused); /* it can't be in time even alone */
}

SL_TEST(an_idle_pipeline_takes_one_that_it_thinks_late_if_what_it_thinks_is_old)
{
    struct queue q;
    open_queue(&q);
    struct sl_schedule_entry e = promised(&q, "", 1000, 20000), before = promised(&q, "", 64, 1000000);
    struct sl_outlook outlook = {.corrected = 2}; /* 35,000 us of 16,000 */
    struct sl_admission a;
    sl_admit(&a, &q.policy, &q.schedule, &outlook, &e, 0);
    CHECK(a.refusal == SL_REFUSAL_TIME && !a.trial);
    outlook.stale = true;
    outlook.at_best_us = 16001; /* it would be late all the same */
    sl_admit(&a, &q.policy, &q.schedule, &outlook, &e, 0);
    CHECK(a.refusal == SL_REFUSAL_TIME && !a.trial);
    outlook.at_best_us = 16000;
    sl_admit(&a, &q.policy, &q.schedule, &outlook, &e, 0);
    CHECK(!a.refused && a.trial);
    queue_enter(&q, &before); /* which will show how it is */
    sl_admit(&a, &q.policy, &q.schedule, &outlook, &e, 0);
    CHECK(a.refusal == SL_REFUSAL_TIME && !a.trial);
    close_queue(&q);
}

/* A hundred requests are queued that come before one that is due after them. */
static struct sl_admission behind_a_flood(const char *tenant, uint32_t n_tokens, double own_to_come)
{
    struct queue q;
    static struct sl_schedule_entry flood[80];
    struct sl_admission a;
    open_queue(&q);
    for (uint32_t i = 0; i < 80; i++) {
        flood[i] = promised(&q, "flood", 1000, 1000000 + i);
        queue_enter(&q, &flood[i]);
    }
    struct sl_outlook outlook = {.corrected = 1};
    outlook.own.share[0] = own_to_come; /* and pass it, whenever they come */
    struct sl_schedule_entry e = promised(&q, tenant, n_tokens, 1200000);
    sl_admit(&a, &q.policy, &q.schedule, &outlook, &e, 0);
    close_queue(&q);
    return a;
}

SL_TEST(what_a_tenant_can_finish_within_its_share_is_accepted_whatever_others_have_queued)
{
    CHECK(behind_a_flood("flood", 64, 0).refusal == SL_REFUSAL_TIME);
    CHECK(!behind_a_flood("calm", 64, 0).refused);
    CHECK(!behind_a_flood("calm", 20000, 0).refused); /* 250,000 us, and as much beside it */
    CHECK(behind_a_flood("calm", 31000, 0.3).refusal ==
          SL_REFUSAL_TIME); /* its own will take 3 of its 5 tenths */
    CHECK(behind_a_flood("calm", 60000 / 2 + 2000, 0.2).refusal == SL_REFUSAL_TIME);
}

SL_TEST(what_a_tenant_already_has_counts_in_its_share)
{
    struct queue q;
    static struct sl_schedule_entry of[81];
    open_queue(&q);
    for (uint32_t i = 0; i < 80; i++) {
        of[i] = promised(&q, i % 2 ? "flood" : "calm", 1000, 1000000 + i);
        queue_enter(&q, &of[i]);
    }
    struct sl_schedule_entry e = promised(&q, "calm", 1000, 1020000); /* 41 · 12,500 us and as much beside */
    CHECK(admit(&q, &e, 0).refused);
    e.due_us = 1040000; /* then its share would do, and all the same it need not: it is the last */
    CHECK(!admit(&q, &e, 0).refused);
    close_queue(&q);
}

/* ---- the queue's bounds ---- */

enum { MANY = 90 };

static struct sl_admission queue_bound(uint32_t n_own, uint32_t n_others, struct sl_queue_bounds bounds)
{
    struct queue q;
    static struct sl_schedule_entry of[MANY];
    struct sl_admission a = {.told_us = 1234};
    open_queue(&q);
    for (uint32_t i = 0; i < n_own + n_others; i++)
        queue_add(&q, &of[i], i < n_own ? "own" : "another", 100, 0, 1000000);
    struct sl_schedule_entry e = queue_entry(&q, "own", 100, 0, 1000000);
    sl_admit_queue(&a, &q.policy, &q.schedule, &bounds, &e, sl_rank_work_us(&q.policy, &e));
    close_queue(&q);
    return a;
}

SL_TEST(the_queue_is_bounded_in_requests_work_and_tokens_and_by_tenant)
{
    const struct sl_queue_bounds wide = {1e9, 1 << 30, 1000};
    struct sl_queue_bounds b = wide;
    CHECK(!queue_bound(80, 0, wide).refused);
    b.count = 80;
    struct sl_admission a = queue_bound(80, 0, b);
    CHECK_CONTAINS(a.refused ? a.refused : "", "as many requests are queued");
    CHECK(a.excess_us == 1234); /* when to come again: when it would have been served */
    b.count = 160;              /* a sixteenth is for those who come */
    CHECK(!queue_bound(80, 0, b).refused);
    b.count = 86;
    CHECK(queue_bound(80, 0, b).refusal == SL_REFUSAL_SHARE);
    b = wide;
    b.work_us = 11.5 * 1250; /* each is 1,250 us */
    CHECK(queue_bound(5, 5, b).refusal == SL_REFUSAL_SHARE);
    CHECK(!queue_bound(4, 6, b).refused);
    CHECK_CONTAINS(queue_bound(4, 7, b).refused ? queue_bound(4, 7, b).refused : "", "as much work");
    b = wide;
    b.tokens = 1099;
    CHECK_CONTAINS(queue_bound(5, 5, b).refused ? queue_bound(5, 5, b).refused : "", "as many tokens");
    b.tokens = 1100;
    CHECK(!queue_bound(5, 5, b).refused);
}

SL_TEST(each_tenant_has_its_share_of_the_queue_and_may_always_wait_with_one)
{
    struct sl_queue_bounds b = {1e9, 1 << 30, 40};
    CHECK(!queue_bound(19, 1, b).refused && queue_bound(20, 1, b).refusal == SL_REFUSAL_SHARE);
    b = (struct sl_queue_bounds){1, 1, 1};
    CHECK(!queue_bound(0, 80, b).refused && queue_bound(1, 80, b).refused);
}

SL_TEST(it_is_told_to_come_again_after_what_it_was_too_late_by_and_some)
{
    struct sl_admission a = {.excess_us = 100000};
    struct sl_outlook calm = {0}, busy = {0};
    busy.newcomers.share[3] = 0.8;
    uint32_t least = UINT32_MAX, most = 0;
    for (uint64_t draw = 0; draw < 5000; draw++) {
        uint32_t ms = sl_admit_retry_ms(&a, &calm, draw * 0x9e3779b97f4a7c15u >> 32);
        least = ms < least ? ms : least;
        most = ms > most ? ms : most;
    }
    CHECK(least == 75 && most == 124);
    CHECK_INT(sl_admit_retry_ms(&a, &busy, 512), 500);
    a.excess_us = 0.1;
    CHECK_INT(sl_admit_retry_ms(&a, &calm, 0), 37);
    a.excess_us = 1e15;
    CHECK_INT(sl_admit_retry_ms(&a, &calm, 0), 600000);
}

/* ---- over random queues ---- */

enum { SEEDS = 120, QUEUES = 12, ASKS = 60, WAITING = 40, TENANTS = 4 };

struct admit_load {
    struct queue q;
    struct sl_rng rng;
    struct sl_outlook outlook;
    uint64_t now_us;
    struct sl_schedule_entry waiting[WAITING];
    uint32_t n_waiting;
    uint64_t n_time, n_promise, n_by_share, n_accepted,
        n_lost; /* n_lost: with promises that are lost already */
};

static uint32_t draw(struct admit_load *l, uint32_t below)
{
    return queue_draw(&l->rng, below);
}

static double work_of(const struct admit_load *l, const struct sl_schedule_entry *e)
{
    return sl_budget_work_us(&l->q.policy.budget, e->pos, e->prompt_tokens);
}

static bool is_late(const struct admit_load *l, const struct sl_schedule_entry *e)
{
    return (double)l->now_us + work_of(l, e) + l->q.policy.budget.lag_us > (double)e->due_us;
}

/* No two are due at once: which of them counts first would be nobody's promise. */
static struct sl_schedule_entry draw_entry(struct admit_load *l, uint32_t number)
{
    static const char *const tenants[TENANTS] = {"", "one", "gold", "poor"};
    uint32_t n = 1 + draw(l, draw(l, 3) ? 300 : 8000);
    double work = sl_budget_work_us(&l->q.policy.budget, 0, n);
    uint64_t arrived = l->now_us - draw(l, 1000), wanted = (uint64_t)(work * draw(l, 80)) + draw(l, 100000);
    struct sl_schedule_entry e =
        queue_entry(&l->q, tenants[draw(l, TENANTS)], n, arrived, (arrived + wanted) / 64 * 64 + number);
    e.promised = draw(l, 3) > 0;
    return e;
}

static void draw_queue(struct admit_load *l)
{
    static const struct sl_tenant_weight weights[] = {{"gold", 4}, {"poor", 0.25}};
    open_queue_with(&l->q, 1 << 20, weights, 2);
    queue_draw_budget(&l->q, &l->rng);
    l->now_us = 1000000;
    l->n_waiting = draw(l, WAITING + 1);
    for (uint32_t i = 0; i < l->n_waiting; i++) {
        l->waiting[i] = draw_entry(l, i);
        queue_enter(&l->q, &l->waiting[i]);
    }
    l->now_us += draw(l, 100000);
    l->outlook = (struct sl_outlook){.first_us = draw(l, 20000),
                                     .room_us = draw(l, 2) * draw(l, 10000),
                                     .corrected = 0.6 + draw(l, 140) / 100.0};
    l->outlook.last_us = l->outlook.first_us + draw(l, 20000);
    double left = 0.8;
    for (uint32_t i = 0; i < SL_SIZES; i++) {
        struct sl_newcomers *of = &l->outlook.newcomers, *own = &l->outlook.own;
        of->share[i] = fmin(left, draw(l, 200) / 1000.0);
        own->share[i] = of->share[i] * draw(l, 100) / 100;
        of->behind_us[i] = own->behind_us[i] = draw(l, 300000);
        left -= of->share[i];
    }
}

static double key_of(const struct admit_load *l, const struct sl_schedule_entry *e)
{
    return (double)e->due_us + 3 * work_of(l, e);
}

/* When work that ends with `of` has left the last stage, as it is told, in chunks of e. */
static double finish(const struct admit_load *l, const struct sl_schedule_entry *e,
                     const struct sl_schedule_entry *of, double work, double rate)
{
    const struct sl_budget *b = &l->q.policy.budget;
    double back = sl_budget_single_us(b, e->pos, e->prompt_tokens);
    for (uint32_t i = 0; i < l->n_waiting; i++)
        back += work_of(l, &l->waiting[i]);
    double chunk = fmin(back, sl_budget_chunk_us(b, e->pos)),
           body = fmax(chunk, sl_newcomers_end_us(&l->outlook.newcomers, key_of(l, of) - (double)l->now_us,
                                                  work, rate)),
           first = l->outlook.first_us + body + b->others * chunk + (b->n_stages + 1) * b->hop_us;
    return l->outlook.corrected * (fmax(first, l->outlook.last_us + body + b->hop_us) + l->outlook.room_us);
}

/* (13), (14) By how much the worst of those promises would be broken that hold without e: 0, or less, if none. */
static double broken_by(struct admit_load *l, const struct sl_schedule_entry *e)
{
    double worst = 0, slow = 0;
    for (uint32_t i = 0; i < l->n_waiting; i++)
        slow = is_late(l, &l->waiting[i]) ? 0.1 : slow;
    for (uint32_t i = 0; i < l->n_waiting; i++) {
        const struct sl_schedule_entry *of = &l->waiting[i];
        if (!of->promised || is_late(l, of) || key_of(l, of) < key_of(l, e))
            continue;
        double sum = 0, all = (double)of->due_us - (double)l->now_us, left = 0.8 * all;
        for (uint32_t k = 0; k < l->n_waiting; k++)
            if (!is_late(l, &l->waiting[k]) && key_of(l, &l->waiting[k]) <= key_of(l, of))
                sum += work_of(l, &l->waiting[k]);
        double with = finish(l, e, of, sum + work_of(l, e), 1 - slow),
               without = finish(l, e, of, sum, 1 - slow);
        if (without > all)
            l->n_lost++;
        else
            worst = fmax(worst, with - (without > left ? all : left));
    }
    return worst;
}

/* (15) Its tenant alone, at its share, keeps this and all that it was promised and comes after it. */
static bool is_within_share(const struct admit_load *l, const struct sl_schedule_entry *e)
{
    const struct sl_budget *b = &l->q.policy.budget;
    const struct sl_tenant *of = l->q.policy.tenants.of;
    double weights = of[e->tenant].weight,
           lag = l->outlook.first_us + (1 + b->others) * b->chunk_us + (b->n_stages + 1) * b->hop_us;
    for (uint32_t t = 0; t < l->q.policy.tenants.n; t++)
        weights += of[t].n_uncut > 0 && t != e->tenant ? of[t].weight : 0;
    double share = of[e->tenant].weight / weights;
    bool others = false, fits = true;
    for (uint32_t i = 0; i <= l->n_waiting; i++) {
        const struct sl_schedule_entry *own = i < l->n_waiting ? &l->waiting[i] : e;
        double sum = work_of(l, e);
        others = others || own->tenant != e->tenant;
        if (own->tenant != e->tenant || key_of(l, own) < key_of(l, e) || (own != e && !own->promised))
            continue;
        for (uint32_t k = 0; k < l->n_waiting; k++)
            if (l->waiting[k].tenant == e->tenant && key_of(l, &l->waiting[k]) <= key_of(l, own))
                sum += work_of(l, &l->waiting[k]);
        double end = sl_newcomers_end_us(&l->outlook.own, key_of(l, own) - (double)l->now_us, sum, share);
        fits = fits && lag + end <= (double)own->due_us - (double)l->now_us;
    }
    return others && fits;
}

static void check_ask(struct admit_load *l, struct sl_schedule_entry *e)
{
    struct sl_admission a;
    sl_admit(&a, &l->q.policy, &l->q.schedule, &l->outlook, e, l->now_us);
    CHECK(isfinite(a.predicted_us) && a.predicted_us > 0 &&
          fabs(a.told_us - l->outlook.corrected * a.predicted_us) < 1e-6 * a.told_us);
    double late_by = a.told_us - 0.8 * ((double)e->due_us - (double)l->now_us), broken = broken_by(l, e);
    bool share = is_within_share(l, e);
    if (!e->promised || share || (late_by <= 0 && broken <= 0)) {
        CHECK(a.refused == NULL); /* (15), (14), (13) */
        l->n_by_share += share && e->promised && (late_by > 0 || broken > 0);
        l->n_accepted++;
        return;
    }
    enum sl_refusal why = late_by > 0 ? SL_REFUSAL_TIME : SL_REFUSAL_PROMISE;
    double excess = late_by > 0 ? late_by : broken;
    CHECK(a.refused && a.refusal == why && fabs(a.excess_us - excess) < 1e-6 * fmax(1, excess));
    uint32_t ms = sl_admit_retry_ms(&a, &l->outlook, sl_rng_next(&l->rng)); /* (16) */
    CHECK(ms > 0 && ms <= 600000);
    l->n_time += why == SL_REFUSAL_TIME;
    l->n_promise += why == SL_REFUSAL_PROMISE;
}

/* (11) Asking changes nothing in the queue, nor of those that are in it, nor of their tenants. */
static void check_asks(struct admit_load *l)
{
    static struct sl_schedule_entry before[WAITING];
    static struct sl_tenant tenants[QUEUE_LIVE];
    for (uint32_t i = 0; i < ASKS; i++) {
        struct sl_schedule_entry e = draw_entry(l, 50);
        uint32_t n = l->q.policy.tenants.n;
        sl_rank_sort(&l->q.policy, &l->q.schedule); /* what it looks up and sorts may stay so */
        memcpy(before, l->waiting, sizeof before);
        memcpy(tenants, l->q.policy.tenants.of, n * sizeof *tenants);
        struct sl_schedule schedule = l->q.schedule;
        check_ask(l, &e);
        CHECK(memcmp(before, l->waiting, l->n_waiting * sizeof *before) == 0);
        CHECK(memcmp(tenants, l->q.policy.tenants.of, n * sizeof *tenants) == 0);
        CHECK(memcmp(&schedule, &l->q.schedule, sizeof schedule) == 0);
        sl_tenants_leave(&l->q.policy.tenants, e.tenant);
    }
}

SL_TEST(who_is_refused_would_be_late_or_make_others_late_and_nobody_else_is_over_random_queues)
{
    struct admit_load *l = calloc(1, sizeof *l);
    uint64_t seeds = queue_seeds(SEEDS);
    for (uint64_t seed = 1; seed <= seeds; seed++)
        for (uint32_t i = 0; i < QUEUES; i++) {
            l->rng = (struct sl_rng){seed, i * 1000000};
            draw_queue(l);
            check_asks(l);
            close_queue(&l->q);
        }
    CHECK(l->n_time > seeds && l->n_promise > seeds && l->n_by_share > seeds && l->n_accepted > seeds &&
          l->n_lost > seeds); /* it was about something */
    free(l);
}
