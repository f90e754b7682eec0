/* bench/simulate: what its options mean, and 200 seeds, or as many as SLUICE_SEEDS says. */
#include "base/digest.h"
#include "bench/simulate/seed.h"
#include "bench/simulate/simulate.h"
#include "tests/check.h"
#include <stdlib.h>
#include <string.h>

SL_TEST(faults_are_none_all_or_some_by_name)
{
    uint32_t faults;
    struct sl_err err;
    CHECK_INT(sl_sim_faults_parse(&faults, "none", &err), SL_OK);
    CHECK_INT(faults, 0);
    CHECK_INT(sl_sim_faults_parse(&faults, "all", &err), SL_OK);
    CHECK_INT(faults, (1u << SL_SIM_FAULTS) - 1);
    CHECK_INT(sl_sim_faults_parse(&faults, "crash,delay", &err), SL_OK);
    CHECK_INT(faults, 1u << SL_SIM_CRASH | 1u << SL_SIM_DELAY);
    static const char *const bad[] = {"",      "x",           "delay,", ",delay", "delay,,crash",
                                      "Delay", "delay crash", "delays"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK_INT(sl_sim_faults_parse(&faults, bad[i], &err), SL_E_USAGE);
        CHECK_CONTAINS(err.text, "is no fault; say none, all, or some of delay");
    }
    CHECK_INT(sl_sim_faults_parse(&faults, "none,delay", &err), SL_E_USAGE);
    CHECK_CONTAINS(err.text, "none and all stand alone");
    CHECK_INT(sl_sim_faults_parse(&faults, "delay,all", &err), SL_E_USAGE);
}

SL_TEST(seeds_are_a_number_or_two_in_order)
{
    uint64_t first, last;
    struct sl_err err;
    CHECK_INT(sl_seeds_parse(&first, &last, "7", &err), SL_OK);
    CHECK(first == 7 && last == 7);
    CHECK_INT(sl_seeds_parse(&first, &last, "0:18446744073709551614", &err), SL_OK);
    CHECK(first == 0 && last == UINT64_MAX - 1);
    static const char *const bad[] = {
        "", ":", "1:", ":1", "2:1", "-1", "1:2:3", "1.5", "18446744073709551616", " 1"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK_INT(sl_seeds_parse(&first, &last, bad[i], &err), SL_E_USAGE);
        CHECK_CONTAINS(err.text, "is not A:B");
    }
}

SL_TEST(a_load_is_a_process_with_lengths_or_a_trace)
{
    struct sl_sim_load load;
    struct sl_err err;
    CHECK_INT(sl_sim_load_read(&load, "poisson:2.5,out=7,in=lognormal:300:1", 9, 512, &err), SL_OK);
    CHECK(load.rate == 2.5 && load.output.kind == SL_LENGTH_FIXED && load.output.a == 7 &&
          load.input.kind == SL_LENGTH_LOGNORMAL && load.input.a == 300 && load.n_requests == 9);
    static const char *const bad[] = {
        "poisson:",       "poisson:0",      "poisson:-1",       "poisson:nan",
        "poisson:inf",    "poisson:1e7",    "poisson:1 ",       "poisson:1,",
        "poisson:1,in",   "poisson:1,in=",  "poisson:1,out=0",  "poisson:1,in=x",
        "poisson:1,on=3", "poisson:1;in=3", "poisson:1,in=5-3", "poisson:1,in=nan"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (sl_sim_load_read(&load, bad[i], 9, 512, &err) != SL_E_USAGE)
            sl_test_fail(__FILE__, __LINE__, "%s is taken", bad[i]);
    CHECK_INT(sl_sim_load_read(&load, "/nowhere", 9, 512, &err), SL_E_IO);
}

static void write_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    REQUIRE(f && fputs(text, f) >= 0 && fclose(f) == 0);
}

SL_TEST(of_a_trace_the_first_rows_count_and_what_is_longer_than_the_context_is_cut)
{
    struct sl_sim_load load;
    struct sl_sim_history history;
    struct sl_err err;
    char path[200];
    snprintf(path, sizeof path, "%s/trace.csv", sl_test_dir());
    write_file(path, "Timestamp,Request tokens,Response tokens\n5,10,3\n6,600,9\n6.5,500,90\n7,1,1\n");
    REQUIRE(sl_sim_load_read(&load, path, 3, 512, &err) == SL_OK);
    REQUIRE(sl_sim_history_init(&history, &load, &err) == SL_OK);
    sl_sim_history_draw(&history, &load, 0, 4, 1);
    CHECK_INT(history.n, 3);
    CHECK_INT(history.n_cut, 1);
    CHECK(history.requests[0].arrive_us == 0 && history.requests[1].arrive_us == 1000000);
    CHECK(history.requests[0].n_ids == 10 && history.requests[0].max_tokens == 3);
    CHECK(history.requests[1].n_ids == 511 && history.requests[1].max_tokens == 1);
    CHECK(history.requests[2].n_ids == 500 && history.requests[2].max_tokens == 12);
    sl_sim_history_fini(&history);
    sl_sim_load_fini(&load);
    write_file(path, "Timestamp,Request tokens,Response tokens\n5,10,3\n4,6,9\n");
    CHECK_INT(sl_sim_load_read(&load, path, 9, 512, &err), SL_E_DATA);
    CHECK_CONTAINS(err.text, "line 3: its time is before that of the row above");
    write_file(path, "Timestamp,Request tokens,Response tokens\nnan,10,3\n");
    CHECK_INT(sl_sim_load_read(&load, path, 9, 512, &err), SL_E_DATA);
    CHECK_CONTAINS(err.text, "line 2: its time is no number");
}

/* ---- seeds ---- */

struct seeds {
    struct sl_sim_load load;
    struct sl_sim_history history;
    struct sl_seed_config config;
    struct sl_seed_sums sums;
    struct sl_err err;
    uint64_t sum, n_told; /* of what was told */
};

static void hear(void *user, uint64_t at_us, const char *what)
{
    struct seeds *s = user;
    s->n_told++;
    s->sum = sl_rng_at(s->sum ^ at_us, sl_xxh3(what, strlen(what)));
}

static void begin(struct seeds *s, const char *load, uint32_t n_requests, const char *faults)
{
    *s = (struct seeds){.config = {.n_stages = 4, .n_decoders = 2, .most_events = 5000000, .load = &s->load}};
    REQUIRE(sl_sim_load_read(&s->load, load, n_requests, 700, &s->err) == SL_OK);
    REQUIRE(sl_sim_faults_parse(&s->config.faults, faults, &s->err) == SL_OK);
    REQUIRE(sl_sim_history_init(&s->history, &s->load, &s->err) == SL_OK);
}

static void end(struct seeds *s)
{
    sl_sim_history_fini(&s->history);
    sl_sim_load_fini(&s->load);
}

static void run(struct seeds *s, uint64_t seed)
{
    if (sl_seed_run(&s->config, &s->history, seed, &s->sums, &s->err) != SL_OK)
        sl_test_fail(__FILE__, __LINE__, "seed %llu of %u stages and %u decode workers: %s",
                     (unsigned long long)seed, s->config.n_stages, s->config.n_decoders, s->err.text);
}

SL_TEST(whatever_goes_wrong_every_answer_is_what_it_is_alone)
{
    const char *more = getenv("SLUICE_SEEDS");
    uint64_t last = more ? strtoull(more, NULL, 10) : 200;
    struct seeds s;
    begin(&s, "poisson:100", 30, "all");
    for (uint64_t seed = 1; seed <= last; seed++) {
        s.config.n_stages = 1 + (uint32_t)seed % 5;
        s.config.n_decoders = 1 + (uint32_t)seed % 3;
        run(&s, seed);
    }
    CHECK(s.sums.answers > 20 * last && s.sums.set_back > last && s.sums.lost > last &&
          s.sums.left > last / 2);
    CHECK(s.sums.given_up > last && s.sums.cached_tokens > 100 * last && s.sums.faults > 8 * last);
    end(&s);
}

SL_TEST(each_fault_alone_is_survived)
{
    for (enum sl_sim_fault fault = 0; fault < SL_SIM_FAULTS; fault++) {
        struct seeds s;
        begin(&s, "poisson:200", 20, sl_sim_fault_name(fault));
        for (uint64_t seed = 1; seed <= 4; seed++)
            run(&s, seed);
        bool is_event = fault != SL_SIM_DELAY && fault != SL_SIM_REORDER && fault != SL_SIM_LOST_CLIENT;
        CHECK(!is_event || s.sums.faults >= 4);
        end(&s);
    }
}

/* What was told before is true, what was not told ends once, and whoever comes later is served by the next one. */
SL_TEST(a_pipeline_that_loses_a_stage_ends_what_it_has_and_another_serves)
{
    static const char *const faults[] = {"lost-stage", "lost-stage,crash,delay,reorder,lost-client"};
    for (int kind = 0; kind < 2; kind++) {
        struct seeds s;
        begin(&s, "poisson:40", 30, faults[kind]);
        for (uint64_t seed = 1; seed <= 24; seed++)
            run(&s, seed);
        CHECK(s.sums.pipelines_lost >= (kind ? 1 : 20));
        CHECK(s.sums.refused > 0 && s.sums.answers > 24 * 10);
        end(&s);
    }
}

SL_TEST(the_same_seed_is_the_same_history_event_by_event)
{
    struct seeds s;
    uint64_t sums[3], n[3];
    for (int turn = 0; turn < 3; turn++) {
        begin(&s, "poisson:100", 20, "all");
        s.config.tell = hear;
        s.config.tell_user = &s;
        run(&s, turn == 2 ? 12 : 11);
        sums[turn] = s.sum;
        n[turn] = s.n_told;
        end(&s);
    }
    CHECK(n[0] > 1000 && n[0] == n[1] && sums[0] == sums[1] && sums[0] != sums[2]);
}

SL_TEST(a_world_that_goes_on_for_ever_is_said_to_do_so)
{
    struct seeds s;
    begin(&s, "poisson:100", 30, "none");
    s.config.most_events = 1000;
    CHECK_INT(sl_seed_run(&s.config, &s.history, 1, &s.sums, &s.err), SL_E_INTERNAL);
    CHECK_CONTAINS(s.err.text, "it goes on after 1000 events");
    end(&s);
}

/* ---- scripts ---- */

struct script_log {
    uint32_t n;
    uint64_t sum, at_us; /* of what was written, without when; of the last one */
};

static void write_down(void *user, uint64_t at_us, const struct sl_order *order,
                       const struct sl_page_numbers *pages)
{
    struct script_log *log = user;
    uint64_t words[4] = {order->number, order->kind, order->n_tokens, order->n_pages ? pages[0].stage : 0};
    log->n++;
    CHECK_INT(order->number, log->n);
    log->sum = sl_rng_at(log->sum, sl_xxh3(words, sizeof words));
    CHECK(at_us >= log->at_us);
    log->at_us = at_us;
}

/* Three requests of 100 tokens, of which the last comes 5 ms after the second and two records. */
static struct script_log play_script(uint64_t seed, uint32_t late_us, struct sl_sim_request *requests)
{
    static const uint32_t after[] = {0, 1, 2};
    static uint32_t ids[100], tokens[3][4];
    struct script_log log = {0};
    const struct sl_cost costs[] = {
        {.us = {[SL_COST_C] = 50000}}, {.us = {[SL_COST_C] = 50000}}, {.us = {1000}}};
    struct sl_world_config config = {.seed = seed,
                                     .n_layers = 2,
                                     .n_stages = 2,
                                     .n_decoders = 1,
                                     .max_prefill = 4,
                                     .max_running = 4,
                                     .max_requests = 16,
                                     .context_tokens = 512,
                                     .kv_tokens = 2048,
                                     .chunk_tokens = 64,
                                     .schedule = SL_SCHEDULE_FIFO,
                                     .after = after,
                                     .late_us = late_us,
                                     .cost = costs[0],
                                     .costs = costs,
                                     .record = write_down,
                                     .record_user = &log};
    struct sl_world_report report;
    struct sl_err err;
    for (uint32_t i = 0; i < 3; i++)
        requests[i] = (struct sl_sim_request){.arrive_us = 5000,
                                              .ids = ids,
                                              .n_ids = 100,
                                              .n = 1,
                                              .max_tokens = 4,
                                              .ignore_eos = true,
                                              .answers[0].tokens = tokens[i]};
    if (sl_world_run(&config, requests, 3, &report, &err) != SL_OK)
        sl_test_fail(__FILE__, __LINE__, "%s", err.text);
    return log;
}

SL_TEST(requests_come_after_records_and_being_late_changes_no_order_where_there_is_time)
{
    struct sl_sim_request requests[3];
    struct script_log log = play_script(1, 0, requests), late;
    CHECK_INT(log.n, 3 + 3 + 3); /* two chunks each and their pages back */
    for (uint32_t i = 0; i < 3; i++)
        CHECK(requests[i].ended && requests[i].answers[0].n_tokens == 4);
    for (uint64_t seed = 2; seed < 6; seed++) {
        uint64_t end_us = requests[2].answers[0].end_us;
        late = play_script(seed, 2000, requests);
        CHECK(late.sum == log.sum && late.n == log.n);
        CHECK(requests[2].answers[0].end_us != end_us);
    }
}
