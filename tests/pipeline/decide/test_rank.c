/* pipeline/decide/rank.c: the order and the fill by hand, and what the policy promises of them held against plain statements of
 * it over random loads. */
#include "tests/pipeline/decide/queue_world.h"

enum { HOUR = 1000000000 }; /* microseconds, more or less: later than anything here takes */

/* ---- the order, by hand ---- */

static void check_order(const struct queue *q, uint64_t now_us, bool late_first,
                        struct sl_schedule_entry *const *wanted, uint32_t n)
{
    struct sl_ranked order[SL_RANK_LOOK + 1] = {0};
    bool any_late;
    CHECK_INT(sl_rank_order(&q->policy, &q->schedule, now_us, late_first, order, SL_RANK_LOOK, &any_late), n);
    CHECK(order[SL_RANK_LOOK].entry == NULL); /* what lies behind the room is as it was */
    for (uint32_t i = 0; i < n; i++)
        if (order[i].entry != wanted[i])
            sl_test_fail(__FILE__, __LINE__, "another one is number %u of the order", i);
}

SL_TEST(those_in_time_come_by_due_and_work_then_late_ones_by_arrival)
{
    struct queue q;
    struct sl_schedule_entry e[6];
    open_queue(&q);
    queue_add(&q, &e[0], "", 64, 10, 50);            /* late */
    queue_add(&q, &e[1], "", 64, 20, 40);            /* late, due earlier */
    queue_add(&q, &e[2], "", 6400, 30, HOUR);        /* 3 · 80,000 us of work */
    queue_add(&q, &e[3], "", 64, 40, HOUR + 100000); /* due later, but short */
    queue_add(&q, &e[4], "", 64, 50, HOUR + 500000); /* due too late to pass the long one */
    queue_add(&q, &e[5], "", 64, 60, HOUR + 100000); /* as one before, and came after it */
    struct sl_schedule_entry *wanted[] = {&e[3], &e[5], &e[2], &e[4], &e[0], &e[1]};
    check_order(&q, 1000, false, wanted, 6);
    struct sl_schedule_entry *late_first[] = {&e[0], &e[3], &e[5], &e[2], &e[4], &e[1]};
    check_order(&q, 1000, true, late_first, 6);
    close_queue(&q);
}

SL_TEST(who_was_promised_nothing_and_is_late_stands_as_if_it_came_now)
{
    struct queue q;
    struct sl_schedule_entry e[4];
    open_queue(&q);
    queue_add(&q, &e[0], "", 64, 10, 50);             /* late for its promise: behind all */
    queue_add(&q, &e[1], "", 64, 20, 70);             /* late, and nothing was promised */
    queue_add(&q, &e[2], "", 6400, 30, 2 * HOUR - 9); /* in time, and long */
    queue_add(&q, &e[3], "", 6400, 5, HOUR);          /* likewise long, late, and nothing was promised */
    e[1].promised = e[3].promised = false;
    struct sl_schedule_entry *wanted[] = {&e[1], &e[2], &e[3], &e[0]};
    check_order(&q, HOUR, false, wanted, 4);
    struct sl_schedule_entry *late_first[] = {&e[0], &e[1], &e[2], &e[3]};
    check_order(&q, HOUR, true, late_first, 4);
    close_queue(&q);
}

SL_TEST(who_can_be_in_time_only_without_the_other_stages_is_late)
{
    struct queue q;
    struct sl_schedule_entry e;
    open_queue(&q);
    queue_add(&q, &e, "", 64, 0, 100000);
    double work = sl_rank_work_us(&q.policy, &e), lag = q.policy.budget.lag_us;
    CHECK(fabs(work - 800) < 1e-6 && lag == 2500); /* 640 us of rows, of which a chunk of 5,000 has 4,000 */
    CHECK(!sl_rank_is_late(&q.policy, &e, 100000 - 3301) && sl_rank_is_late(&q.policy, &e, 100000 - 3299));
    close_queue(&q);
}

SL_TEST(tenants_that_are_ahead_stand_behind_all_others_late_or_not)
{
    struct queue q;
    struct sl_schedule_entry e[4];
    open_queue(&q);
    queue_add(&q, &e[0], "flood", 64, 0, HOUR);
    queue_add(&q, &e[1], "flood", 64, 0, 1); /* late */
    queue_add(&q, &e[2], "calm", 64, 0, 1);  /* late */
    queue_add(&q, &e[3], "calm", 64, 0, 2 * HOUR);
    struct sl_schedule_entry *even[] = {&e[0], &e[3], &e[1], &e[2]}, *ahead[] = {&e[3], &e[2], &e[0], &e[1]};
    sl_tenants_charge(&q.policy.tenants, e[0].tenant, 5000);
    check_order(&q, 10000, false, even, 4); /* by a chunk: not yet */
    sl_tenants_charge(&q.policy.tenants, e[0].tenant, 1);
    check_order(&q, 10000, false, ahead, 4);
    close_queue(&q);
}

/* ---- the chunk, by hand ---- */

SL_TEST(what_the_head_leaves_is_filled_by_as_much_of_others_as_fits)
{
    struct queue q;
    struct sl_schedule_entry e[4];
    struct sl_cut cuts[SL_MAX_SLICES];
    open_queue(&q);
    queue_add(&q, &e[0], "", 100, 0, HOUR);
    queue_add(&q, &e[1], "", 1000, 0, HOUR + 100000);
    queue_add(&q, &e[2], "", 2000, 0, HOUR + 200000);
    queue_add(&q, &e[3], "", 30, 0, HOUR + 300000);
    CHECK_INT(queue_cut(&q, 0, cuts),
              3); /* 400 rows: all, whole pages, none of who has no page's worth, all */
    CHECK(cuts[0].entry == &e[0] && cuts[0].n == 100);
    CHECK(cuts[1].entry == &e[1] && cuts[1].pos == 0 && cuts[1].n == 256);
    CHECK(cuts[2].entry == &e[3] && cuts[2].n == 30);
    CHECK_INT(q.schedule.n_uncut, 2); /* two are wholly cut */
    CHECK(!e[2].admitted && e[0].admitted && e[3].admitted);
    CHECK_INT(queue_cut(&q, 0, cuts), 1);
    CHECK(cuts[0].entry == &e[1] && cuts[0].pos == 256 && cuts[0].n == 384);
    close_queue(&q);
}

SL_TEST(no_more_slices_than_a_record_holds_and_no_more_rows_than_a_chunk)
{
    struct queue q;
    static struct sl_schedule_entry e[SL_MAX_SLICES + 8];
    struct sl_cut cuts[SL_MAX_SLICES];
    open_queue(&q);
    for (uint32_t i = 0; i < SL_MAX_SLICES + 8; i++)
        queue_add(&q, &e[i], "", 1, 0, HOUR + i);
    CHECK_INT(queue_cut(&q, 0, cuts), SL_MAX_SLICES);
    CHECK_INT(queue_cut(&q, 0, cuts), 8);
    close_queue(&q);
    open_queue(&q);
    queue_budget(&q, &plain_cost, 2, 100, (struct sl_budget_wish){.chunk_us = 50000});
    queue_add(&q, &e[0], "", 90, 0, HOUR);
    queue_add(&q, &e[1], "", 90, 0, HOUR + 1);
    CHECK_INT(queue_cut(&q, 0, cuts), 1); /* ten rows are no page */
    close_queue(&q);
}

SL_TEST(no_sliver_is_left_when_it_costs_a_seventh_at_most)
{
    static const struct {
        uint32_t n, cut;
        double chunk_us;
    } cases[] = {{40, 40, 500}, {447, 447, 4100}, {448, 384, 4100}, {100, 64, 500}, {70, 70, 700}};
    static const struct sl_cost cost = {.us = {[SL_COST_C] = 100, [SL_COST_B] = 10}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct queue q;
        struct sl_schedule_entry e[2];
        struct sl_cut cuts[SL_MAX_SLICES];
        open_queue(&q);
        queue_budget(&q, &cost, 2, 2048, (struct sl_budget_wish){.chunk_us = cases[i].chunk_us});
        queue_add(&q, &e[0], "", cases[i].n, 0, HOUR);
        queue_add(&q, &e[1], "", 2048, 0, 2 * HOUR);
        CHECK_INT(queue_cut(&q, 0, cuts), 1);
        CHECK_INT(cuts[0].n, cases[i].cut);
        close_queue(&q);
    }
}

SL_TEST(the_head_gets_a_page_however_little_a_chunk_may_take)
{
    static const struct sl_cost rows = {.us = {[SL_COST_C] = 1, [SL_COST_B] = 100}};
    struct queue q;
    struct sl_schedule_entry e[2];
    struct sl_cut cuts[SL_MAX_SLICES];
    open_queue(&q);
    queue_budget(&q, &rows, 2, 2048, (struct sl_budget_wish){.chunk_us = 1});
    queue_add(&q, &e[0], "", 500, 0, HOUR);
    queue_add(&q, &e[1], "", 1, 0, 2 * HOUR);
    CHECK_INT(queue_cut(&q, 0, cuts), 1);
    CHECK(cuts[0].entry == &e[0] && cuts[0].n == SL_PAGE);
    queue_budget(&q, &rows, 2, 40, (struct sl_budget_wish){.chunk_us = 1});
    CHECK_INT(queue_cut(&q, 0, cuts), 1);
    CHECK(cuts[0].entry == &e[0]);
    close_queue(&q);
}

SL_TEST(the_prefix_of_the_head_decides_what_the_chunk_may_take)
{
    static const struct sl_cost reads = {.us = {[SL_COST_C] = 1000, [SL_COST_GAMMA] = 1, [SL_COST_B] = 10}};
    struct queue q;
    struct sl_schedule_entry e[2];
    struct sl_cut cuts[SL_MAX_SLICES];
    open_queue(&q);
    queue_budget(&q, &reads, 2, 4096, (struct sl_budget_wish){.chunk_us = 5000});
    e[0] = queue_entry(&q, "", 9000, 0, HOUR);
    sl_schedule_begin_behind(&q.schedule, &e[0], 8192 / SL_PAGE);
    queue_enter(&q, &e[0]);
    queue_add(&q, &e[1], "", 9000, 0, 2 * HOUR);
    CHECK(queue_cut(&q, 0, cuts) == 2 && cuts[0].entry == &e[0] && cuts[0].pos == 8192);
    CHECK_INT(cuts[0].n, 808);  /* all that is left, which takes 17,272 of 30,640 us, */
    CHECK_INT(cuts[1].n, 1280); /* and of the other what fits into the rest */
    close_queue(&q);
    open_queue(&q); /* the other way round it is little */
    queue_budget(&q, &reads, 2, 2048, (struct sl_budget_wish){.chunk_us = 5000});
    e[0] = queue_entry(&q, "", 9000, 0, 2 * HOUR);
    sl_schedule_begin_behind(&q.schedule, &e[0], 8192 / SL_PAGE);
    queue_enter(&q, &e[0]);
    queue_add(&q, &e[1], "", 200, 0, HOUR);
    CHECK(queue_cut(&q, 0, cuts) == 1 && cuts[0].entry == &e[1] && cuts[0].n == 200);
    close_queue(&q);
}

SL_TEST(prompts_end_in_a_chunk_as_far_as_its_record_has_room_for_their_steering)
{
    struct queue q;
    struct sl_schedule_entry e[4];
    struct sl_cut cuts[SL_MAX_SLICES];
    open_queue(&q);
    for (uint32_t i = 0; i < 4; i++) {
        e[i] = queue_entry(&q, "", 20, 0, HOUR + i);
        e[i].steering_bytes = i == 2 ? 0 : q.plan.steering_bytes / 2 + (i == 0);
        queue_enter(&q, &e[i]);
    }
    CHECK_INT(queue_cut(&q, 0, cuts), 2);
    CHECK(cuts[0].entry == &e[0] && cuts[1].entry == &e[2] && !e[1].admitted);
    CHECK_INT(queue_cut(&q, 0, cuts), 2);
    CHECK(cuts[0].entry == &e[1] && cuts[1].entry == &e[3]);
    close_queue(&q);
}

SL_TEST(a_record_names_no_more_pages_of_others_than_a_context_has)
{
    struct queue q;
    struct sl_schedule_entry e[3];
    struct sl_cut cuts[SL_MAX_SLICES];
    open_queue(&q);
    for (uint32_t i = 0; i < 3; i++) {
        e[i] = queue_entry(&q, "", i == 2 ? 20 : 20000, 0, HOUR + i);
        if (i < 2)
            sl_schedule_begin_behind(&q.schedule, &e[i], 19968 / SL_PAGE);
        queue_enter(&q, &e[i]);
    }
    CHECK_INT(queue_cut(&q, 0, cuts), 2);
    CHECK(cuts[0].entry->shared_pages + cuts[1].entry->shared_pages == 19968 / SL_PAGE);
    CHECK_INT(queue_cut(&q, 0, cuts), 1);
    close_queue(&q);
}

/* A pool for one context that the first has nearly all of; then comes one that needs much, and one that needs little. */
static uint32_t cut_beside_one_that_waits(uint64_t now_us, uint64_t due_us, bool promised, bool again,
                                          struct sl_cut cuts[SL_MAX_SLICES], struct sl_schedule_entry e[3])
{
    struct queue q;
    open_queue_with(&q, QUEUE_CONTEXT, NULL, 0);
    queue_budget(&q, &plain_cost, 2, 2048, (struct sl_budget_wish){.chunk_us = 5000});
    queue_add(&q, &e[0], "", QUEUE_CONTEXT - 256, 0, 10 * (uint64_t)HOUR);
    CHECK_INT(queue_cut(&q, 0, cuts), 1);
    queue_add(&q, &e[1], "", 1000, 0, due_us);
    e[1].promised = promised;
    queue_add(&q, &e[2], "", 64, 0, HOUR + 1000000);
    e[2].again = again;
    uint32_t n = queue_cut(&q, now_us, cuts);
    CHECK(!e[1].admitted && q.schedule.prefill_pages_used <= q.plan.n_pages);
    close_queue(&q);
    return n;
}

SL_TEST(nobody_behind_begins_once_someone_has_waited_for_pages_for_half_of_its_time)
{
    struct sl_cut cuts[SL_MAX_SLICES];
    struct sl_schedule_entry e[3];
    CHECK_INT(cut_beside_one_that_waits(HOUR / 2, HOUR, true, false, cuts, e), 2); /* others pass it */
    CHECK(cuts[0].entry == &e[2] && cuts[1].entry == &e[0]);
    CHECK_INT(cut_beside_one_that_waits(HOUR / 2 + 1, HOUR, true, false, cuts, e), 1);
    CHECK(cuts[0].entry == &e[0] && !e[2].admitted); /* who has begun goes on, so that pages come back */
}

/* It holds what the other may be waiting for: seen in one of 700 simulated pipelines that lost decode workers all the time, which then
 * did nothing any more. */
SL_TEST(who_comes_again_begins_whoever_has_waited_for_long)
{
    struct sl_cut cuts[SL_MAX_SLICES];
    struct sl_schedule_entry e[3];
    CHECK_INT(cut_beside_one_that_waits(HOUR / 2 + 1, HOUR, true, true, cuts, e), 2);
    CHECK(cuts[0].entry == &e[2] && cuts[1].entry == &e[0]);
}

SL_TEST(who_is_due_when_it_comes_has_no_half_of_its_time_and_others_pass_it)
{
    struct sl_cut cuts[SL_MAX_SLICES];
    struct sl_schedule_entry e[3];
    CHECK_INT(cut_beside_one_that_waits(1000, 0, false, false, cuts, e), 2);
    CHECK(cuts[0].entry == &e[2] && cuts[1].entry == &e[0]);
    CHECK_INT(cut_beside_one_that_waits(1000, 2, false, false, cuts, e), 1);
    CHECK(cuts[0].entry == &e[0] && !e[2].admitted);
}

SL_TEST(the_oldest_late_one_is_at_the_head_of_every_tenth_chunk)
{
    struct queue q;
    struct sl_schedule_entry e[3];
    struct sl_cut cuts[SL_MAX_SLICES];
    open_queue(&q);
    queue_add(&q, &e[0], "", 20000, 0, 2); /* late */
    queue_add(&q, &e[1], "", 20000, 0, 1); /* late, and younger */
    queue_add(&q, &e[2], "", 30000, 0, HOUR);
    for (uint32_t run = 1; run <= 40; run++) {
        REQUIRE(queue_cut(&q, 10, cuts) == 1);
        CHECK(cuts[0].entry == (run % 10 == 0 ? &e[0] : &e[2]));
    }
    queue_forget(&q, &e[2]);
    for (uint32_t run = 1; run <= 20; run++)
        REQUIRE(queue_cut(&q, 10, cuts) == 1 && cuts[0].entry == &e[0]); /* nobody else is there */
    close_queue(&q);
}

SL_TEST(a_late_one_comes_to_the_head_however_many_stand_before_it)
{
    static struct sl_schedule_entry e[2 * SL_RANK_LOOK];
    for (uint32_t n = 1; n <= 2 * SL_RANK_LOOK; n++) {
        struct queue q;
        struct sl_schedule_entry *wanted[SL_RANK_LOOK] = {&e[0]};
        uint32_t looked_at = n < SL_RANK_LOOK ? n : SL_RANK_LOOK;
        open_queue(&q);
        queue_add(&q, &e[0], "", 64, 0, 1); /* late: behind all */
        for (uint32_t i = 1; i < n; i++)
            queue_add(&q, &e[i], "", 64, 0, HOUR + i);
        for (uint32_t i = 1; i < looked_at; i++)
            wanted[i] = &e[i];
        check_order(&q, 1000, true, wanted, looked_at);
        close_queue(&q);
    }
}

SL_TEST(every_tenth_chunk_is_not_a_flooders_while_others_are_late_too)
{
    struct queue q;
    struct sl_schedule_entry e[3];
    struct sl_cut cuts[SL_MAX_SLICES];
    open_queue(&q);
    queue_add(&q, &e[0], "flood", 20000, 0, 2); /* late, and the oldest */
    queue_add(&q, &e[1], "calm", 20000, 0, 1);  /* late */
    queue_add(&q, &e[2], "calm", 30000, 0, HOUR);
    q.policy.tenants.of[e[0].tenant].used_us += HOUR;
    for (uint32_t run = 1; run <= 40; run++) {
        REQUIRE(queue_cut(&q, 10, cuts) == 1);
        CHECK(cuts[0].entry == (run % 10 == 0 ? &e[1] : &e[2]));
    }
    queue_forget(&q, &e[1]);
    for (uint32_t run = 1; run <= 20; run++) /* nobody else is late */
        REQUIRE(queue_cut(&q, 10, cuts) == 1 && cuts[0].entry == (run % 10 == 0 ? &e[0] : &e[2]));
    close_queue(&q);
}

SL_TEST(who_has_pages_is_cut_when_all_before_it_wait_for_them)
{
    struct queue q;
    static struct sl_schedule_entry e[SL_RANK_LOOK + 9];
    struct sl_cut cuts[SL_MAX_SLICES];
    open_queue_with(&q, QUEUE_CONTEXT, NULL, 0);
    queue_budget(&q, &plain_cost, 2, 2048, (struct sl_budget_wish){.chunk_us = 5000});
    queue_add(&q, &e[0], "", QUEUE_CONTEXT, 0, 2 * (uint64_t)HOUR);
    REQUIRE(queue_cut(&q, 0, cuts) == 1);
    for (uint32_t i = 1; i < SL_RANK_LOOK + 9; i++)
        queue_add(&q, &e[i], "", 64, 0, HOUR + i); /* no page is left for any, and more than are looked at */
    CHECK(queue_cut(&q, 1, cuts) == 1 && cuts[0].entry == &e[0]);
    CHECK(cuts[0].pos > 0);
    close_queue(&q);
}

SL_TEST(a_prompt_that_is_alone_is_cut_into_even_chunks_that_pass_all_stages_soonest)
{
    for (uint32_t short_share = 0; short_share < 2; short_share++) {
        struct queue q;
        struct sl_schedule_entry e;
        struct sl_cut cuts[SL_MAX_SLICES];
        uint32_t n_chunks = 0;
        open_queue(&q);
        queue_budget(&q, &plain_cost, 8, 2048, (struct sl_budget_wish){.chunk_us = 5000});
        q.policy.short_share = 0.1 * short_share;
        queue_add(&q, &e, "", 30000, 0, HOUR);
        /* sqrt(300,000 · 1,000 / 7) = 6,547 us of rows and the overhead, which is more than a chunk may take else */
        double least = INFINITY, most = 0;
        for (uint32_t n; (n = queue_cut(&q, 0, cuts)) > 0; n_chunks++) {
            double us = queue_chunk_us(&q, cuts, n);
            CHECK_INT(n, 1);
            least = fmin(least, us);
            most = fmax(most, us);
        }
        if (short_share > 0) /* who may come would wait longer */
            CHECK(most <= 5000 * 1.15 && n_chunks == 78);
        else
            CHECK(n_chunks >= 46 && n_chunks <= 48 && least > 0.85 * most && most < 1.05 * 7597);
        close_queue(&q);
    }
}

SL_TEST(chunks_of_so_many_rows_have_them_wherever_they_begin)
{
    static const struct sl_cost reads = {.us = {[SL_COST_C] = 1000, [SL_COST_GAMMA] = 1, [SL_COST_B] = 10}};
    struct queue q;
    struct sl_schedule_entry e;
    struct sl_cut cuts[SL_MAX_SLICES];
    open_queue(&q);
    queue_budget(&q, &reads, 2, 256, (struct sl_budget_wish){.by_rows = true});
    queue_add(&q, &e, "", 100 * 256, 0, HOUR);
    for (uint32_t i = 0; i < 100; i++)
        CHECK(queue_cut(&q, 0, cuts) == 1 && cuts[0].n == 256 && cuts[0].pos == 256 * i);
    CHECK_INT(queue_cut(&q, 0, cuts), 0);
    close_queue(&q);
}

/* Whose last chunk is full is not cut a page short of it for what its end takes, nor for how a sum was rounded. */
SL_TEST(chunks_of_so_many_rows_have_them_to_the_last_row_whatever_they_cost)
{
    struct sl_rng rng = {5, 5};
    for (int turn = 0; turn < 300; turn++) {
        struct sl_cost cost = {0};
        struct queue q;
        struct sl_schedule_entry e, other; /* who is alone may have more */
        struct sl_cut cuts[SL_MAX_SLICES];
        for (int t = SL_COST_C; t < SL_COST_TERMS; t++)
            cost.us[t] = t == SL_COST_W ? 0 : 1000 * sl_rng_unit(sl_rng_next(&rng));
        open_queue(&q);
        queue_budget(&q, &cost, 1, 256, (struct sl_budget_wish){.by_rows = true});
        queue_add(&q, &e, "", 8 * 256, 0, HOUR);
        queue_add(&q, &other, "", 8 * 256, 0, UINT64_C(2) * HOUR);
        for (uint32_t i = 0; i < 16; i++)
            CHECK(queue_cut(&q, 0, cuts) == 1 && cuts[0].n == 256);
        close_queue(&q);
    }
}

SL_TEST(each_tenant_is_charged_its_slices_and_of_what_a_chunk_costs_beside_its_part_of_the_rows)
{
    struct queue q;
    struct sl_schedule_entry e[2];
    struct sl_cut cuts[SL_MAX_SLICES];
    open_queue(&q);
    queue_add(&q, &e[0], "one", 100, 0, HOUR);
    queue_add(&q, &e[1], "another", 300, 0, 2 * HOUR);
    CHECK_INT(queue_cut(&q, 0, cuts), 2);
    const struct sl_tenant *of = q.policy.tenants.of; /* 100 and 300 of 400 rows */
    CHECK(fabs(of[e[0].tenant].used_us - 1250) < 1e-6 && fabs(of[e[1].tenant].used_us - 3750) < 1e-6);
    close_queue(&q);
}

/* ---- over random loads ---- */

enum { TENANTS = 4, STEPS = 4000, SEEDS = 80 };

struct rank_place { /* of a request: queued, or wholly cut and not yet forgotten */
    struct sl_schedule_entry entry;
    bool live, whole;
    uint32_t covered, chunk; /* chunk: the last that has a slice of it */
};

struct rank_load {
    struct queue q;
    struct sl_rng rng;
    uint64_t now_us;
    struct rank_place places[QUEUE_LIVE];
    uint32_t n_chunks,
        late_streak; /* late_streak: chunks since there are late ones without the oldest at its head */
    uint64_t n_late_heads, n_refused, n_outside, n_extreme;
};

static uint32_t draw(struct rank_load *l, uint32_t below)
{
    return queue_draw(&l->rng, below);
}

static struct rank_place *place_of(struct sl_schedule_entry *e)
{
    return (struct rank_place *)(void *)((char *)e - offsetof(struct rank_place, entry));
}

/* The order as it is meant, of all: worked out anew from the budget. */
static bool is_late(const struct rank_load *l, const struct sl_schedule_entry *e)
{
    const struct sl_budget *b = &l->q.policy.budget;
    return (double)l->now_us + sl_budget_work_us(b, e->pos, e->prompt_tokens) + b->lag_us > (double)e->due_us;
}

static bool is_outside(const struct rank_load *l, const struct sl_schedule_entry *e)
{
    const struct sl_tenants *t = &l->q.policy.tenants;
    double least = INFINITY;
    for (uint32_t i = 0; i < t->n; i++)
        if (t->of[i].n_uncut > 0)
            least = fmin(least, t->of[i].used_us);
    return t->of[e->tenant].used_us > least + l->q.policy.budget.chunk_us;
}

static int by_order(const void *a, const void *b)
{
    const struct sl_ranked *x = a, *y = b;
    if (x->behind != y->behind)
        return x->behind < y->behind ? -1 : 1;
    if (x->key_us != y->key_us)
        return x->key_us < y->key_us ? -1 : 1;
    return x->entry->arrival < y->entry->arrival ? -1 : 1;
}

static uint32_t plain_order(struct rank_load *l, struct sl_ranked order[QUEUE_LIVE])
{
    const struct sl_budget *b = &l->q.policy.budget;
    uint32_t n = 0;
    for (uint32_t i = 0; i < QUEUE_LIVE; i++) {
        struct sl_schedule_entry *e = &l->places[i].entry;
        if (!l->places[i].live || l->places[i].whole)
            continue;
        bool late = is_late(l, e), outside = is_outside(l, e);
        bool lost = late && e->promised;
        double since = late && l->now_us > e->arrived_us ? (double)(l->now_us - e->arrived_us) : 0,
               key = lost ? (double)e->arrived_us
                          : (double)e->due_us + 3 * sl_budget_work_us(b, e->pos, e->prompt_tokens) + since;
        CHECK(isfinite(key) && key >= 0); /* (10) whatever is accepted has a place in a total order */
        order[n++] = (struct sl_ranked){e, 2u * outside + lost, key};
        l->n_outside += outside;
    }
    qsort(order, n, sizeof *order, by_order);
    return n;
}

/* (10), (4) What is sorted is what was meant, and nothing stands where two could. */
static void check_ranks(struct rank_load *l, const struct sl_ranked *plain, uint32_t n_plain)
{
    struct sl_ranked order[SL_RANK_LOOK];
    bool any_late;
    uint32_t n =
        sl_rank_order(&l->q.policy, &l->q.schedule, l->now_us, false, order, SL_RANK_LOOK, &any_late);
    CHECK_INT(n, n_plain < SL_RANK_LOOK ? n_plain : SL_RANK_LOOK);
    for (uint32_t i = 0; i < n; i++)
        CHECK(order[i].entry == plain[i].entry && order[i].behind == plain[i].behind &&
              order[i].key_us == plain[i].key_us);
    for (uint32_t i = 1; i < n_plain; i++)
        CHECK(by_order(&plain[i - 1], &plain[i]) < 0);
}

/* Sorted, the list of keys has all that are not wholly cut. */
static void check_keys(struct rank_load *l, uint32_t n_plain)
{
    uint32_t n = 0;
    sl_rank_sort(&l->q.policy, &l->q.schedule);
    for (struct sl_schedule_entry *e = l->q.schedule.first_key; e; e = e->next_key, n++) {
        CHECK(e->key_us == sl_rank_key_us(&l->q.policy, e));
        CHECK(!e->next_key || (e->key_us <= e->next_key->key_us && e->next_key->before_key == e));
    }
    CHECK_INT(n, n_plain);
}

static struct sl_schedule_entry *oldest_late(const struct rank_load *l, struct sl_ranked *order, uint32_t n)
{
    struct sl_schedule_entry *oldest = NULL;
    for (uint32_t i = 0; i < n; i++)
        if (is_late(l, order[i].entry) && (!oldest || is_outside(l, order[i].entry) < is_outside(l, oldest) ||
                                           (is_outside(l, order[i].entry) == is_outside(l, oldest) &&
                                            order[i].entry->arrival < oldest->arrival)))
            oldest = order[i].entry;
    return oldest;
}

static void to_the_head(struct sl_ranked *order, uint32_t n, const struct sl_schedule_entry *e)
{
    uint32_t i = 0;
    while (i < n && order[i].entry != e)
        i++;
    struct sl_ranked it = order[i];
    memmove(&order[1], &order[0], i * sizeof *order);
    order[0] = it;
}

static bool may_begin(const struct rank_load *l, const struct sl_schedule_entry *e)
{
    return e->admitted || (!l->q.refuses && sl_schedule_fits(&l->q.schedule, e));
}

static bool blocks(const struct rank_load *l, const struct sl_schedule_entry *e)
{
    uint64_t time = e->due_us > e->arrived_us ? e->due_us - e->arrived_us : 0;
    return time > 0 && l->now_us > e->arrived_us && l->now_us - e->arrived_us > time / 2;
}

/* (1), (4) Who is at the head: the first that has pages, or gets them and waits behind nobody who needs them more. NULL: nobody. */
static struct sl_schedule_entry *head_of(const struct rank_load *l, const struct sl_ranked *order, uint32_t n)
{
    bool blocked = false;
    for (uint32_t i = 0; i < n && i < SL_RANK_LOOK; i++) {
        struct sl_schedule_entry *e = order[i].entry;
        if (e->admitted || (!blocked && may_begin(l, e)))
            return e;
        blocked = blocked || blocks(l, e);
    }
    for (uint32_t i = SL_RANK_LOOK; i < n; i++) /* nobody idles who has pages */
        if (order[i].entry->admitted)
            return order[i].entry;
    return NULL;
}

static double allowed_us(const struct rank_load *l, const struct sl_cut *head, bool alone)
{
    const struct sl_budget *b = &l->q.policy.budget;
    double us = sl_budget_chunk_us(b, head->pos);
    if (!alone)
        return us;
    double even = sl_budget_alone_us(b, head->entry->start, head->pos, head->entry->prompt_tokens);
    return fmin(even, l->q.policy.short_share > 0.01 ? us : 2 * us);
}

/* A page of the deepest one that had begun before these cuts. */
static double deepest_us(const struct rank_load *l, const struct sl_cut *cuts, uint32_t n)
{
    uint32_t deepest = 0;
    for (uint32_t i = 0; i < n; i++)
        deepest = cuts[i].pos > deepest ? cuts[i].pos : deepest;
    for (const struct sl_schedule_entry *e = l->q.schedule.head; e; e = e->next) {
        bool cut = false;
        for (uint32_t i = 0; i < n; i++)
            cut = cut || cuts[i].entry == e;
        deepest = e->admitted && !cut && e->pos > deepest ? e->pos : deepest;
    }
    return deepest ? sl_budget_single_us(&l->q.policy.budget, deepest, deepest + SL_PAGE) : 0;
}

/* (2) A chunk takes what it may, or a page of the deepest prompt, and a seventh more at most. (3) Slices are the next of their sequence, whole pages or its end,
 * and one a chunk. */
static void check_chunk(struct rank_load *l, const struct sl_cut *cuts, uint32_t n, double may_us)
{
    const struct sl_budget *b = &l->q.policy.budget;
    const struct sl_cut *head = &cuts[0];
    uint32_t rows = 0, left = head->entry->prompt_tokens - head->pos;
    double page_us = sl_budget_single_us(b, head->pos, head->pos + (left < SL_PAGE ? left : SL_PAGE));
    double most_us = fmax(may_us, fmax(page_us, deepest_us(l, cuts, n)));
    CHECK(queue_chunk_us(&l->q, cuts, n) <= 1.15 * most_us * (1 + 1e-9));
    l->n_chunks++;
    for (uint32_t i = 0; i < n; i++) {
        struct rank_place *p = place_of(cuts[i].entry);
        CHECK(p->live && !p->whole && p->entry.admitted && p->chunk != l->n_chunks);
        p->chunk = l->n_chunks;
        CHECK_INT(cuts[i].pos, p->covered);
        p->covered += cuts[i].n;
        CHECK(cuts[i].n > 0 && p->covered <= p->entry.prompt_tokens && p->covered == p->entry.pos);
        p->whole = p->covered == p->entry.prompt_tokens;
        CHECK(p->whole || b->max_rows < SL_PAGE || cuts[i].n % SL_PAGE == 0);
        rows += cuts[i].n;
    }
    CHECK(rows <= b->max_rows);
}

/* (1) Who was looked at, has begun and got nothing, found no room. */
static void check_full(struct rank_load *l, const struct sl_ranked *order, uint32_t n_order,
                       const struct sl_cut *cuts, uint32_t n, double may_us)
{
    const struct sl_budget *b = &l->q.policy.budget;
    struct sl_cost_chunk sum = {0};
    for (uint32_t i = 0; i < n; i++)
        sl_cost_add(&sum, cuts[i].pos, cuts[i].n);
    for (uint32_t i = 0; i < n_order && i + 1 < SL_RANK_LOOK && n < SL_MAX_SLICES; i++) {
        const struct sl_schedule_entry *e = order[i].entry;
        if (place_of(order[i].entry)->chunk == l->n_chunks || !e->admitted || e->steering_bytes > 0 ||
            e->shared_pages > 0)
            continue;
        uint32_t left = e->prompt_tokens - e->pos, least = left < SL_PAGE ? left : SL_PAGE;
        struct sl_cost_chunk more = sum;
        sl_cost_add(&more, e->pos, least);
        CHECK(more.rows > b->max_rows || sl_cost_of(&b->cost, &more) > may_us * (1 - 1e-9));
    }
}

static void check_cut(struct rank_load *l)
{
    struct sl_ranked order[QUEUE_LIVE];
    struct sl_cut cuts[SL_MAX_SLICES];
    uint32_t n_order = plain_order(l, order);
    check_ranks(l, order, n_order);
    if (draw(l, 3) == 0)
        check_keys(l, n_order);
    struct sl_schedule_entry *late = oldest_late(l, order, n_order);
    if (late && l->q.policy.late_tenths + 1 >= 10)
        to_the_head(order, n_order, late);
    struct sl_schedule_entry *head = head_of(l, order, n_order);
    bool late_may = late && may_begin(l, late), alone = n_order == 1;
    uint32_t n = queue_cut(&l->q, l->now_us, cuts);
    CHECK_INT(n > 0, head != NULL);
    if (n == 0)
        return;
    double may_us = allowed_us(l, &cuts[0], alone);
    check_chunk(l, cuts, n, may_us);
    check_full(l, order, n_order, cuts, n, may_us);
    bool late_head = late && cuts[0].entry == late;
    CHECK(cuts[0].entry == head);
    /* (5) while there are late ones, of ten chunks one has the oldest at its head, if that has pages or gets them */
    l->late_streak = !late ? l->late_streak : late_head ? 0 : l->late_streak + 1;
    CHECK(l->late_streak < 10 || !late_may);
    l->n_late_heads += late_head && n_order > 1;
}

/* Another does: no two came at once. */
static bool has_arrival(const struct rank_load *l, const struct sl_schedule_entry *e)
{
    bool has = false;
    for (uint32_t i = 0; i < QUEUE_LIVE; i++) {
        const struct sl_schedule_entry *other = &l->places[i].entry;
        has = has || (l->places[i].live && other != e && other->arrival == e->arrival);
    }
    return has;
}

/* (7) Who comes back has at least what the least of those that have work used; and what it used before. */
static void enter(struct rank_load *l, struct sl_schedule_entry *e)
{
    struct sl_tenants *t = &l->q.policy.tenants;
    double was = t->of[e->tenant].used_us, least = INFINITY;
    bool had = t->of[e->tenant].n_uncut > 0;
    for (uint32_t i = 0; i < t->n; i++)
        if (t->of[i].n_uncut > 0)
            least = fmin(least, t->of[i].used_us);
    if (draw(l, 20) == 0) { /* it was there before */
        e->arrival = 1 + draw(l, (uint32_t)l->q.arrivals + 1);
        while (has_arrival(l, e))
            e->arrival++;
        l->q.arrivals = e->arrival > l->q.arrivals ? e->arrival : l->q.arrivals;
        sl_policy_enter(&l->q.policy, &l->q.schedule, e, true);
    } else {
        queue_enter(&l->q, e);
    }
    double used = t->of[e->tenant].used_us;
    CHECK(had ? used == was : used >= was && (isinf(least) || used >= least));
}

static uint64_t draw_due(struct rank_load *l, uint32_t n_tokens)
{
    double work = sl_budget_work_us(&l->q.policy.budget, 0, n_tokens);
    if (draw(l, 40) > 0)
        return l->now_us + (uint64_t)(work * draw(l, 60)) + draw(l, 20000);
    static const uint64_t extremes[] = {0, 1, UINT64_MAX, UINT64_MAX / 2, 1ull << 53};
    l->n_extreme++;
    return extremes[draw(l, 5)];
}

static void arrive(struct rank_load *l)
{
    static const char *const tenants[TENANTS] = {"", "one", "gold", "poor"};
    struct rank_place *p = &l->places[draw(l, QUEUE_LIVE)];
    if (p->live)
        return;
    uint32_t most = draw(l, 3) ? 300 : draw(l, 10) ? 4000 : QUEUE_CONTEXT, n = 1 + draw(l, most);
    *p = (struct rank_place){.live = true};
    p->entry = queue_entry(&l->q, tenants[draw(l, TENANTS)], n, l->now_us - draw(l, 2) * (l->now_us / 2),
                           draw_due(l, n));
    p->entry.promised = draw(l, 2);
    p->entry.steering_bytes = draw(l, 8) ? 0 : draw(l, l->q.plan.steering_bytes + 1);
    if (n > 2 * SL_PAGE && draw(l, 4) == 0)
        sl_schedule_begin_behind(&l->q.schedule, &p->entry, draw(l, n / SL_PAGE));
    p->covered = p->entry.pos;
    enter(l, &p->entry);
}

static void draw_budget(struct rank_load *l)
{
    queue_draw_budget(&l->q, &l->rng);
    l->q.policy.short_share = draw(l, 2) ? 0 : 0.1;
}

static void some_end(struct rank_load *l, bool all)
{
    for (uint32_t i = 0; i < QUEUE_LIVE; i++)
        if (l->places[i].live && l->places[i].whole && (all || draw(l, 3) == 0)) {
            queue_forget(&l->q, &l->places[i].entry);
            l->places[i].live = false;
        }
}

static void step(struct rank_load *l)
{
    uint32_t dice = draw(l, 16), i = draw(l, QUEUE_LIVE);
    if (dice < 6)
        arrive(l);
    else if (dice < 11)
        check_cut(l);
    else if (dice < 13)
        l->now_us += draw(l, 30000);
    else if (dice < 15)
        some_end(l, false);
    else if (l->places[i].live && draw(l, 4) == 0) { /* cancelled */
        queue_forget(&l->q, &l->places[i].entry);
        l->places[i].live = false;
    } else if (draw(l, 20) == 0) {
        draw_budget(l);
    }
    l->q.refuses = dice == 15 && draw(l, 10) == 0;
    l->n_refused += l->q.refuses;
    CHECK(l->q.schedule.prefill_pages_used <= l->q.plan.n_pages);
}

static void run_load(struct rank_load *l, uint64_t seed)
{
    static const struct sl_tenant_weight weights[] = {{"gold", 4}, {"poor", 0.25}};
    l->rng = (struct sl_rng){seed, 0};
    l->now_us = 1000;
    l->late_streak = 0;
    memset(l->places, 0, sizeof l->places);
    open_queue_with(&l->q, QUEUE_CONTEXT * (uint64_t)(1 + draw(l, 4)), weights, 2);
    draw_budget(l);
    for (int i = 0; i < STEPS; i++)
        step(l);
    l->q.refuses = false;
    /* (1) once what was cut is gone there is always somebody to be cut, until nobody is left */
    while (l->q.schedule.n_uncut > 0) {
        uint32_t before = l->n_chunks;
        some_end(l, true);
        check_cut(l);
        REQUIRE(l->n_chunks == before + 1);
    }
    some_end(l, true);
    CHECK(l->q.schedule.prefill_pages_used == 0 && l->q.schedule.n_prefilling == 0 &&
          l->q.policy.tenants.n_backlogged == 0);
    close_queue(&l->q);
}

SL_TEST(chunks_are_what_the_order_the_budget_and_the_pages_say_over_random_loads)
{
    struct rank_load *l = calloc(1, sizeof *l);
    for (uint64_t seed = 1, last = queue_seeds(SEEDS); seed <= last; seed++)
        run_load(l, seed);
    CHECK(l->n_chunks > 100 * queue_seeds(SEEDS) && l->n_late_heads > queue_seeds(SEEDS) &&
          l->n_refused > 0 && l->n_outside > 0 && l->n_extreme > 0); /* it was about something */
    free(l);
}

/* (6) Tenants that always have enough to fill a chunk get the same by weight, but for what one may be ahead and a chunk. */
SL_TEST(tenants_that_always_have_work_get_the_same_by_weight)
{
    static const struct sl_tenant_weight weights[] = {{"one", 1}, {"gold", 3}, {"poor", 0.5}};
    static struct sl_schedule_entry e[3][24];
    for (uint64_t seed = 1, last = queue_seeds(20); seed <= last; seed++) {
        struct queue q;
        struct sl_rng rng = {seed, 9};
        struct sl_cut cuts[SL_MAX_SLICES];
        double most_chunk = 0;
        open_queue_with(&q, 1 << 20, weights, 3);
        queue_budget(&q, &plain_cost, 2, 2048, (struct sl_budget_wish){.chunk_us = 5000});
        for (uint32_t run = 0; run < 600; run++) {
            for (uint32_t t = 0; t < 3; t++)
                for (uint32_t i = 0; i < 24; i++)
                    if (run == 0 || !e[t][i].counted) {
                        if (run > 0)
                            queue_forget(&q, &e[t][i]);
                        uint32_t n = 64 + (uint32_t)(sl_rng_next(&rng) % (t == 1 ? 2000 : 400));
                        queue_add(&q, &e[t][i], weights[t].tenant, n, run,
                                  (uint64_t)HOUR * 100 + sl_rng_next(&rng) % HOUR);
                    }
            uint32_t n = queue_cut(&q, run, cuts);
            most_chunk = fmax(most_chunk, queue_chunk_us(&q, cuts, n));
            const struct sl_tenant *of = q.policy.tenants.of;
            for (uint32_t a = 0; a < 3; a++)
                for (uint32_t b = 0; b < 3; b++)
                    CHECK(of[e[a][0].tenant].used_us - of[e[b][0].tenant].used_us <=
                          5000 + most_chunk / weights[a].weight + 1e-6);
        }
        close_queue(&q);
    }
}
