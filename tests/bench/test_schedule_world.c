/* The small simulated world against hands and against itself: what stages take, that a seed is a history, that every request
 * of every load ends and the decider's tables hold. */
#include "bench/bench_schedule.h"
#include "tests/check.h"
#include <stdlib.h>

SL_TEST(three_chunks_over_two_stages_end_when_they_must)
{
    static const double spent[3][2] = {{10, 4}, {2, 3}, {5, 9}}, ends[3][2] = {{10, 15}, {12, 18}, {17, 27}};
    double free_us[2] = {0}, end_us[2];
    for (uint32_t k = 0; k < 3; k++) {
        sl_bench_flow(2, 0, 1, spent[k], free_us, end_us);
        CHECK(end_us[0] == ends[k][0] && end_us[1] == ends[k][1]);
    }
    sl_bench_flow(2, 100, 1, spent[0], free_us, end_us); /* both had been free for long */
    CHECK(end_us[0] == 110 && end_us[1] == 115);
}

SL_TEST(a_chunk_takes_what_its_shape_says)
{
    struct sl_cost_chunk one = {0}, wide = {0};
    sl_cost_add(&one, 0, 1);
    sl_cost_add(&wide, 4096, 512);
    const struct sl_bench_shape *cpu = sl_bench_shape_find("A"), *gpu = sl_bench_shape_find("B8");
    double row = 24 * (200 + 70 + 0.01 + 17000 * 8.0 / 128), /* one row hits 8 of 128 experts */
        pairs = 2 * 4096.0 * 512 + 512 * 512,
           full =
               61.0 / 8 * (131 + 3.8e-3 * 4096 + 0.149 * 512 + 8.1e-6 * pairs + 367); /* 512 rows hit all */
    CHECK(sl_bench_shape_us(cpu, &one) > 0.999 * row && sl_bench_shape_us(cpu, &one) < 1.001 * row);
    CHECK(sl_bench_shape_us(gpu, &wide) > 0.999 * full && sl_bench_shape_us(gpu, &wide) < 1.001 * full);
    CHECK(sl_bench_shape_us(gpu, &one) == 61.0 / 8 * 300); /* what the host takes to launch it */
    CHECK(sl_bench_shape_find("C") == NULL);
}

struct world_run {
    struct sl_bench_traffic load;
    struct sl_bench_outcome *outcomes;
    struct sl_bench_report report;
    sl_status status;
};

static bool load_repeats(enum sl_bench_traffic_kind kind)
{
    return kind == SL_BENCH_PREFIX || kind == SL_BENCH_CHAT;
}

static struct world_run run(enum sl_bench_traffic_kind kind, const char *world, uint32_t n, uint64_t seed,
                            enum sl_schedule_kind schedule, double sigma)
{
    struct world_run r = {0};
    struct sl_err err;
    const struct sl_bench_shape *shape = sl_bench_shape_find(world);
    struct sl_bench_traffic_config load = {kind, shape, 1.5, n, 8192, seed, 1e6};
    struct sl_bench_world_config config = {
        .shape = shape,
        .schedule = schedule,
        /* a look at the tables of a pool without end would take all the time */
        .kv_tokens = kind == SL_BENCH_GROWTH         ? shape->context
                     : load_repeats(kind) && n <= 40 ? 2 * shape->context
                                                     : 0,
        .sigma = sigma,
        .seed = seed,
        .check = !load_repeats(kind) || n <= 40};
    r.status = sl_bench_traffic_init(&r.load, &load, &err);
    r.outcomes = calloc(r.load.n, sizeof *r.outcomes);
    if (r.status == SL_OK && r.outcomes)
        r.status = sl_bench_world_run(&config, &r.load, r.outcomes, &r.report, &err);
    if (r.status != SL_OK)
        sl_test_fail(__FILE__, __LINE__, "%s of %s: %s", sl_bench_traffic_name(kind), world, err.text);
    return r;
}

static void forget(struct world_run *r)
{
    free(r->outcomes);
    sl_bench_traffic_fini(&r->load);
    sl_bench_report_fini(&r->report);
}

SL_TEST(a_lone_prompt_takes_the_time_of_its_chunks)
{
    const struct sl_bench_shape *shape = sl_bench_shape_find("A8");
    struct world_run r = run(SL_BENCH_LONG, "A8", 1, 1, SL_SCHEDULE_FIFO, 0);
    double free_us[8] = {0}, ends[8], spent[8], between = shape->hop_us + 1024 * shape->hop_row_us;
    for (uint32_t k = 0; k < 8;
         k++) { /* an eighth of 8192; nothing waits for the window, which is wider than that */
        struct sl_cost_chunk chunk = {0};
        sl_cost_add(&chunk, 1024 * k, 1024);
        for (uint32_t s = 0; s < 8; s++)
            spent[s] = sl_bench_shape_us(shape, &chunk);
        sl_bench_flow(8, shape->hop_us, between, spent, free_us, ends);
    }
    double expected = ends[7] + shape->hop_us, got = r.outcomes[0].first_us;
    CHECK(got > expected - 1 && got < expected + 1);
    CHECK_INT(r.report.runs, 8);
    forget(&r);
}

/* The longest that a short prompt of a mix waits, but for one of a hundred. */
static double p99_of(double slower, uint64_t slo_us, bool *dear)
{
    struct sl_bench_run run = {
        .load = {SL_BENCH_MIX, sl_bench_shape_find("B4"), 0, 2000, 0, 1, 0},
        .world = {.shape = sl_bench_shape_find("B4"), .slower = slower, .slo_us = slo_us, .seed = 1}};
    struct sl_bench_figures f;
    struct sl_bench_report report;
    struct sl_err err;
    if (sl_bench_schedule_run(&run, &f, &report, &err) != SL_OK)
        sl_test_fail(__FILE__, __LINE__, "%s", err.text);
    *dear = report.slo_dear;
    return f.of_class[SL_BENCH_CLASS_SHORT].p99_us;
}

SL_TEST(a_slower_world_takes_longer_and_a_target_is_the_cores)
{
    bool dear[4];
    double plain = p99_of(0, 0, &dear[0]), slower = p99_of(2, 0, &dear[1]),
           loose = p99_of(0, 3000000, &dear[2]), tight = p99_of(0, 50000, &dear[3]);
    CHECK(slower > 1.8 * plain && slower < 4 * plain); /* who comes in the same time finds more */
    CHECK(loose > 1.1 * plain);                        /* long ones that are near their own may pass them */
    CHECK(tight <= plain && !dear[0] && !dear[1] && !dear[2] && dear[3]);
}

SL_TEST(the_same_seed_gives_the_same_history)
{
    for (uint32_t schedule = SL_SCHEDULE_SLO; schedule <= SL_SCHEDULE_FIFO; schedule++) {
        struct world_run a = run(SL_BENCH_TENANTS, "B4", 60, 5, schedule, 0.05),
                         b = run(SL_BENCH_TENANTS, "B4", 60, 5, schedule, 0.05),
                         c = run(SL_BENCH_TENANTS, "B4", 60, 5, schedule, 0.06);
        size_t bytes = a.load.n_open * sizeof *a.outcomes;
        CHECK(memcmp(a.outcomes, b.outcomes, bytes) == 0);
        CHECK(memcmp(a.outcomes, c.outcomes, bytes) != 0); /* the noise is felt */
        forget(&a);
        forget(&b);
        forget(&c);
    }
}

/* A page behind 12k takes as long as a dozen short prompts: those that gathered meanwhile go together, none is late for good. */
SL_TEST(short_prompts_wait_for_pages_of_long_ones_and_not_for_each_other)
{
    const struct sl_bench_shape *shape = sl_bench_shape_find("D");
    struct sl_cost_chunk page = {0};
    sl_cost_add(&page, shape->context - 64, 64);
    for (uint64_t seed = 1; seed <= 4; seed++) {
        struct world_run r = run(SL_BENCH_MIX, "D", 1500, seed, SL_SCHEDULE_SLO, 0.05);
        double most = 6 * sl_bench_shape_us(shape, &page);
        uint32_t over = 0;
        for (uint32_t i = 0; i < r.load.n_open; i++)
            over += r.outcomes[i].first_us - r.outcomes[i].submit_us > most;
        CHECK(over <= r.load.n_open / 100);
        forget(&r);
    }
}

SL_TEST(every_request_of_every_load_ends_and_the_tables_hold)
{
    static const char *const worlds[] = {"A", "B4", "B8"};
    for (uint32_t w = 0; w < 3; w++)
        for (uint32_t kind = 0; kind < SL_BENCH_TRAFFICS; kind++)
            for (uint32_t schedule = SL_SCHEDULE_SLO; schedule <= SL_SCHEDULE_FIFO; schedule++) {
                struct world_run r = run(kind, worlds[w], 40, 1 + w, schedule, 0.05);
                for (uint32_t i = 0; i < r.load.n_open; i++) {
                    const struct sl_bench_outcome *o = &r.outcomes[i];
                    CHECK(o->end_us >= o->submit_us && o->end_us > 0);
                    CHECK(o->was_refused == (o->first_us <= 0) || o->status != SL_OK);
                }
                forget(&r);
            }
}

SL_TEST(outputs_have_the_length_that_was_drawn)
{
    struct world_run r = run(SL_BENCH_GROWTH, "B4", 400, 2, SL_SCHEDULE_FIFO, 0.05);
    for (uint32_t i = 0; i < r.load.n_closed; i++) {
        CHECK_INT(r.outcomes[i].n_out, r.load.requests[i].n_out);
        CHECK_INT(r.outcomes[i].status, SL_OK);
        CHECK(r.outcomes[i].n_out < 3 || r.outcomes[i].pause_us >= 20100);
    }
    CHECK(r.report.steps > 0);
    forget(&r);
}

SL_TEST(a_pipeline_that_is_always_busy_has_no_more_under_way_than_keeps_it_so)
{
    static const char *const worlds[] = {"A", "B4", "B8"};
    for (uint32_t w = 0; w < 3; w++) {
        struct world_run r = run(SL_BENCH_FULL, worlds[w], 1000, 1, SL_SCHEDULE_SLO, 0.05);
        CHECK(r.report.in_flight > sl_bench_shape_find(worlds[w])->n_stages);
        CHECK(r.report.in_flight < sl_bench_shape_find(worlds[w])->n_stages + 3); /* what waits is no hop */
        forget(&r);
    }
}

SL_TEST(a_prompt_begins_behind_what_one_before_it_had)
{
    struct world_run r = run(SL_BENCH_PREFIX, "B4", 200, 1, SL_SCHEDULE_SLO, 0.05);
    uint32_t n_first[4] = {0}, n_behind = 0;
    for (uint32_t i = 0; i < r.load.n; i++) {
        const struct sl_bench_request *q = &r.load.requests[i];
        const struct sl_bench_outcome *o = &r.outcomes[i];
        CHECK(o->n_cached == 0 || (q->group == 1 && o->n_cached <= q->n_known && o->first_us > 0));
        n_first[q->text] += q->group == 1 && o->first_us > 0 && o->n_cached < q->n_known;
        n_behind += q->group == 1 && o->n_cached == q->n_known;
    }
    for (uint32_t k = 0; k < 4; k++)
        CHECK(n_first[k] >= 1 && n_first[k] < 20); /* who comes before the first one is done, too */
    CHECK(n_behind > 100);
    forget(&r);
}

SL_TEST(a_turn_comes_after_its_users_pause_and_in_the_end_all_have_come)
{
    struct world_run r = run(SL_BENCH_CHAT, "B4", 300, 1, SL_SCHEDULE_SLO, 0.05);
    CHECK(r.load.n_turns > 0);
    for (uint32_t i = r.load.n_open; i < r.load.n; i++) {
        const struct sl_bench_outcome *o = &r.outcomes[i],
                                      *before = &r.outcomes[r.load.requests[i].before - 1];
        CHECK(o->submit_us == before->end_us + 1e6 && o->end_us > o->submit_us);
        CHECK_INT(before->n_out, 1024);
        CHECK(o->n_cached >= 2048 - SL_PAGE); /* of the prompt before it, whatever became of the answer */
    }
    forget(&r);
}

/* The same conversations with what was answered forgotten, sent back, and prefilled again. */
SL_TEST(answers_come_to_the_cache_in_one_of_three_ways)
{
    struct sl_bench_figures f[SL_BENCH_ANSWERS_WAYS];
    struct sl_bench_report reports[SL_BENCH_ANSWERS_WAYS];
    struct sl_err err;
    for (uint32_t way = 0; way < SL_BENCH_ANSWERS_WAYS; way++) {
        const struct sl_bench_shape *shape = sl_bench_shape_find("B4");
        struct sl_bench_run run = {
            .load = {SL_BENCH_CHAT, shape, 0.3, 200, 0, 1, 5e6},
            .world = {.shape = shape, .answers = way, .link_gbits = 10, .sigma = 0.05, .seed = 1}};
        if (sl_bench_schedule_run(&run, &f[way], &reports[way], &err) != SL_OK)
            sl_test_fail(__FILE__, __LINE__, "%u: %s", way, err.text);
    }
    const struct sl_bench_group *forgotten = &f[SL_BENCH_FORGOTTEN].of_group[2],
                                *sent = &f[SL_BENCH_SENT].of_group[2],
                                *refilled = &f[SL_BENCH_REFILLED].of_group[2];
    CHECK(sent->n_knowing > 25 && sent->n_reusing == sent->n_knowing && sent->again_p90 == 0);
    CHECK(forgotten->n_reusing == 0 && forgotten->again_p50 == 1024);
    CHECK(refilled->n_reusing > 0.8 * refilled->n_knowing);
    CHECK(reports[SL_BENCH_REFILLED].fill_us > 0 && reports[SL_BENCH_REFILLED].sent_us == 0);
    CHECK(reports[SL_BENCH_SENT].sent_us > 0 && reports[SL_BENCH_SENT].fill_us == 0);
    CHECK(forgotten->p50_us > 1.1 * sent->p50_us);
}

SL_TEST(an_answer_is_sent_back_in_the_time_that_its_pages_take)
{
    struct sl_bench_world_config config = {.shape = sl_bench_shape_find("A"), .link_gbits = 10};
    double us = sl_bench_link_us(&config, 1024); /* 98,304 bytes a token */
    CHECK(us > 80500 && us < 80550);
    struct sl_bench_run run = {.load = {SL_BENCH_CHAT, config.shape, 0.02, 4, 0, 1, 50e3},
                               .world = {.shape = config.shape, .answers = SL_BENCH_SENT, .link_gbits = 10}};
    struct sl_bench_figures f;
    struct sl_bench_report report;
    struct sl_err err;
    CHECK_INT(sl_bench_schedule_run(&run, &f, &report, &err), SL_OK);
    CHECK(f.of_group[2].n_knowing == 4 && f.of_group[2].n_reusing == 0 && report.sent_us == 0);
    run.world.link_gbits = 100;
    CHECK_INT(sl_bench_schedule_run(&run, &f, &report, &err), SL_OK);
    CHECK(f.of_group[2].n_reusing == 4 && report.sent_us > 4 * 8000);
}
