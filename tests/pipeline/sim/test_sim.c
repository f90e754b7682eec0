/* pipeline/sim: many requests at once on random pipelines with random delays get the tokens that each gets alone, everyone
 * hears one end, and every page comes back; worlds that cheat are found out. 200 seeds, or as many as SLUICE_SEEDS says. */
#include "base/rng.h"
#include "pipeline/sim/sim.h"
#include "tests/check.h"
#include <stdlib.h>

enum { CONTEXT = 700, MOST = 24, SEEDS = 200, VOCAB = 50000, ROOM = 20000 };

struct history { /* requests, and their memory */
    uint32_t n, ids[MOST][CONTEXT], tokens[MOST][SL_MAX_N][CONTEXT];
    uint8_t steering[MOST][ROOM];
    struct sl_sim_request requests[MOST];
};

static uint64_t n_seeds(void)
{
    const char *more = getenv("SLUICE_SEEDS");
    return more ? strtoull(more, NULL, 10) : SEEDS;
}

static uint32_t draw(struct sl_rng *rng, uint32_t below)
{
    return (uint32_t)(sl_rng_next(rng) % below);
}

/* Of many requests those with much to say about their tokens do not fit one record together. */
static void draw_steering(struct history *h, uint32_t i, uint32_t n_bias)
{
    static uint64_t seen[(VOCAB + 63) / 64];
    static struct sl_bias bias[SL_MAX_LOGIT_BIAS];
    struct sl_sim_request *r = &h->requests[i];
    memset(seen, 0, sizeof seen);
    for (uint32_t k = 0; k < n_bias; k++)
        bias[k] = (struct sl_bias){40 * k + i, 1};
    uint32_t n_ids = sl_ids_mark(seen, r->ids, r->n_ids);
    r->steering_bytes = sl_steering_bytes(n_bias, n_ids, VOCAB);
    r->steering = h->steering[i];
    if (r->steering_bytes > ROOM)
        sl_test_fail(__FILE__, __LINE__, "no room");
    sl_steering_pack(h->steering[i], bias, n_bias, seen, n_ids, VOCAB);
}

/* Some want their first token by a time that may be too early, and are told. */
static void draw_times(struct sl_sim_request *r, struct sl_rng *rng)
{
    static const char *const tenants[] = {NULL, "one", "another"};
    r->tenant = tenants[draw(rng, 3)];
    r->priority = (int32_t)draw(rng, 5) - 2;
    if (draw(rng, 5) == 0)
        r->target_us = r->arrive_us + 1 + draw(rng, 60000);
}

/* It was refused in time, or its deadline has passed before it was prefilled, and nothing of it is anywhere. */
static bool was_refused(const struct sl_sim_request *r)
{
    const struct sl_sim_answer *a = r->answers;
    if (r->deadline_us && a->ended && a->status == SL_E_DEADLINE)
        return a->end_us > r->deadline_us && a->n_tokens == 0;
    return (r->target_us || r->deadline_us) && r->answers[0].ended &&
           r->answers[0].status == SL_E_EXHAUSTED && r->answers[0].end_us == r->arrive_us &&
           r->answers[0].n_tokens == 0;
}

static void draw_requests(struct history *h, struct sl_rng *rng, uint32_t most_n)
{
    h->n = 4 + draw(rng, MOST - 3);
    for (uint32_t i = 0; i < h->n; i++) {
        struct sl_sim_request *r = &h->requests[i];
        uint32_t prompt = draw(rng, 4) ? 1 + draw(rng, 120) : 1 + draw(rng, 600);
        *r = (struct sl_sim_request){.ids = h->ids[i],
                                     .n_ids = prompt,
                                     .max_tokens = draw(rng, 5) ? 1 + draw(rng, 60) : draw(rng, 2),
                                     .arrive_us = draw(rng, 20000),
                                     .seed = sl_rng_next(rng)};
        for (uint32_t k = 0; k < SL_MAX_N; k++)
            r->answers[k].tokens = h->tokens[i][k];
        if (r->max_tokens > CONTEXT - prompt)
            r->max_tokens = CONTEXT - prompt;
        if (draw(rng, 3) == 0 && r->max_tokens > 0)
            r->n = 1 + draw(rng, most_n < 5 ? most_n : 5);
        while (r->n > 1 && prompt / SL_PAGE + 2 * r->n > CONTEXT / SL_PAGE)
            r->n--; /* all of them can begin at once, in any of the pools */
        if (draw(rng, 5) == 0)
            r->cancel_us = r->arrive_us + 1 + draw(rng, 40000);
        if (draw(rng, 4) == 0)
            r->text_ends_at = 1 + draw(rng, 20);
        if (draw(rng, 4) == 0)
            r->min_tokens = draw(rng, r->max_tokens + 1);
        draw_times(r, rng);
        for (uint32_t k = 0; k < prompt; k++)
            h->ids[i][k] = draw(rng, VOCAB);
        if (draw(rng, 3) == 0)
            draw_steering(h, i, draw(rng, 2) ? draw(rng, 4) : SL_MAX_LOGIT_BIAS - draw(rng, 300));
    }
}

static struct sl_sim_config draw_config(struct sl_rng *rng, uint64_t seed)
{
    struct sl_sim_config c = {.seed = seed,
                              .n_stages = 1 + draw(rng, 5),
                              .max_prefill = 1 + draw(rng, 6),
                              .max_running = 1 + draw(rng, 6),
                              .max_requests = 4 * MOST, /* a tenant of three has room for all of them */
                              .chunk_tokens = draw(rng, 3) ? 1 + draw(rng, 200) : 0,
                              .context_tokens = CONTEXT,
                              .kv_tokens = CONTEXT + draw(rng, 3 * CONTEXT),
                              .max_delay_us = 1 + draw(rng, 3000),
                              .max_push_us = draw(rng, 2) ? draw(rng, 20000) : 0,
                              .chunk_us = draw(rng, 500),
                              .token_us = draw(rng, 5),
                              .step_us = 1 + draw(rng, 300),
                              .schedule = draw(rng, 4) ? SL_SCHEDULE_SLO : SL_SCHEDULE_FIFO,
                              /* bits depend on none of that */
                              .budget_us = draw(rng, 3) ? 0 : 1 + draw(rng, 20000),
                              .slo_us = draw(rng, 3) ? 0 : 1 + draw(rng, 100000),
                              .runs = draw(rng, 3) ? 0 : 1 + draw(rng, 10)};
    c.foretold_us = seed % 3 ? 1 + seed * 97 % 5000 : 0;
    if (seed % 7 == 0) { /* pages are wanted again soon, and leave slowly */
        c.kv_tokens = CONTEXT;
        c.max_push_us = 100000;
    }
    return c;
}

/* What an answer gets when it is the only one, alone and without delay is what it must get among others. */
static void check_against_oracle(const struct history *h, uint32_t i, uint32_t k, uint64_t seed,
                                 uint32_t n_stages)
{
    static uint32_t tokens[CONTEXT];
    struct sl_sim_request request = h->requests[i];
    struct sl_sim_config config = {.seed = 1,
                                   .n_stages = n_stages,
                                   .max_running = 1,
                                   .max_requests = 1,
                                   .context_tokens = CONTEXT,
                                   .kv_tokens = CONTEXT,
                                   .chunk_us = 1,
                                   .step_us = 1};
    struct sl_sim_report report;
    struct sl_err err;
    const struct sl_sim_request *r = &h->requests[i];
    if (was_refused(r))
        return;
    const struct sl_sim_answer *got = &r->answers[k], *alone = &request.answers[0];
    request.arrive_us = request.cancel_us = request.deadline_us = request.target_us = 0;
    request.n = 1;
    request.seed += k;
    request.text_ends_at += request.text_ends_at ? k : 0;
    request.answers[0] = (struct sl_sim_answer){.tokens = tokens};
    request.ended = false;
    if (sl_sim_run(&config, &request, 1, &report, &err) != SL_OK)
        sl_test_fail(__FILE__, __LINE__, "%s", err.text);
    bool whole = got->finish != SL_FINISH_ABORT;
    if (got->status != SL_OK ||
        (whole && (got->n_tokens != alone->n_tokens || got->finish != alone->finish)) ||
        got->n_tokens > alone->n_tokens || memcmp(got->tokens, tokens, got->n_tokens * sizeof *tokens) != 0)
        sl_test_fail(
            __FILE__, __LINE__,
            "seed %llu: answer %u to request %u is another than alone (%u of %u, finish %d of %d, status %d)",
            (unsigned long long)seed, k, i, got->n_tokens, alone->n_tokens, got->finish, alone->finish,
            (int)got->status);
    if (got->finish == SL_FINISH_ABORT && !r->cancel_us)
        sl_test_fail(__FILE__, __LINE__, "seed %llu: request %u was aborted by nobody",
                     (unsigned long long)seed, i);
}

/* Everything happens, and every answer is what it is alone. */
static struct sl_sim_report run_against_oracle(struct history *h, const struct sl_sim_config *config)
{
    struct sl_sim_report report = {0};
    struct sl_err err;
    if (sl_sim_run(config, h->requests, h->n, &report, &err) != SL_OK)
        sl_test_fail(__FILE__, __LINE__, "%s", err.text);
    for (uint32_t i = 0; i < h->n; i++)
        for (uint32_t k = 0; k < (h->requests[i].n ? h->requests[i].n : 1); k++)
            check_against_oracle(h, i, k, config->seed, config->n_stages);
    return report;
}

SL_TEST(requests_among_others_get_the_tokens_that_they_get_alone)
{
    struct history *h = calloc(1, sizeof *h);
    uint32_t most_running = 0;
    for (uint64_t seed = 1, last = n_seeds(); seed <= last; seed++) {
        struct sl_rng rng = {seed, 0};
        struct sl_sim_config config = draw_config(&rng, seed);
        draw_requests(h, &rng, config.max_running);
        struct sl_sim_report report = run_against_oracle(h, &config);
        if (report.most_running > most_running)
            most_running = report.most_running;
    }
    CHECK(most_running >= 6); /* there were others */
    free(h);
}

/* Long answers of which nobody knows how long, in pools that hold few of them, by a decider that expects too little: again and
 * again there is no page for who grows. */
static void draw_growing(struct history *h, struct sl_sim_config *c, struct sl_rng *rng)
{
    c->max_running = 2 + draw(rng, 5);
    c->kv_tokens = CONTEXT + draw(rng, 2 * CONTEXT);
    c->expect_tokens = 1 + draw(rng, 60);
    draw_requests(h, rng, c->max_running);
    for (uint32_t i = 0; i < h->n; i++) {
        struct sl_sim_request *r = &h->requests[i];
        r->n_ids = 1 + draw(rng, 200);
        r->max_tokens = 1 + draw(rng, CONTEXT - r->n_ids);
        r->n = draw(rng, 4) ? 1 : 1 + draw(rng, 2);
        r->text_ends_at = draw(rng, 3) ? 0 : 1 + draw(rng, r->max_tokens);
        r->min_tokens = draw(rng, 4) ? 0 : draw(rng, r->max_tokens + 1);
        if (r->steering_bytes)
            draw_steering(h, i, 3);
        r->cancel_us = draw(rng, 6) ? 0 : r->arrive_us + 1 + draw(rng, 400000);
    }
}

/* Times are tight, since everybody comes at once. */
SL_TEST(who_is_run_in_time_gets_the_tokens_that_they_get_alone)
{
    struct history *h = calloc(1, sizeof *h);
    uint64_t n_late = 0, n_in_time = 0;
    for (uint64_t seed = 1, last = n_seeds() / 4; seed <= last; seed++) {
        struct sl_rng rng = {seed, 9};
        struct sl_sim_config config = draw_config(&rng, seed);
        draw_requests(h, &rng, config.max_running);
        for (uint32_t i = 0; i < h->n; i++)
            h->requests[i].deadline_us = draw(&rng, 3) ? h->requests[i].arrive_us + 1 + draw(&rng, 40000) : 0;
        run_against_oracle(h, &config);
        for (uint32_t i = 0; i < h->n; i++) {
            n_late += h->requests[i].answers[0].status == SL_E_DEADLINE;
            n_in_time += h->requests[i].deadline_us && h->requests[i].answers[0].status == SL_OK;
        }
    }
    CHECK(n_late > n_seeds() / 4 && n_in_time > n_seeds() / 4);
    free(h);
}

/* Some long ones name a time that nobody can keep, which is not known yet when they come, since stages are slower than is thought at
 * first; others have begun before them, and come all the while. */
static void draw_crowd(struct history *h, struct sl_sim_config *c, struct sl_rng *rng)
{
    static const uint32_t short_tokens = 150, long_tokens = 400;
    c->schedule = SL_SCHEDULE_SLO;
    c->one_tenant = true;
    c->max_prefill = 8 + draw(rng, 16);
    c->kv_tokens = MOST * CONTEXT;
    c->max_running = 8;
    c->chunk_tokens = 64;
    c->budget_us = c->slo_us = 0;
    c->chunk_us = 2000 + draw(rng, 4000);
    c->token_us = 20 + draw(rng, 100);
    h->n = MOST;
    for (uint32_t i = 0; i < h->n; i++) {
        struct sl_sim_request *r = &h->requests[i];
        bool early = i < 2, named = !early && draw(rng, 4) == 0;
        *r = (struct sl_sim_request){.ids = h->ids[i],
                                     .n_ids = early || named || draw(rng, 3) == 0
                                                  ? long_tokens + draw(rng, 200)
                                                  : 1 + draw(rng, short_tokens),
                                     .max_tokens = draw(rng, 2),
                                     .arrive_us = early   ? 0
                                                  : named ? 1 + draw(rng, 3000)
                                                          : draw(rng, 300000),
                                     .seed = sl_rng_next(rng)};
        r->target_us = named ? r->arrive_us + 40000 + draw(rng, 60000) : 0;
        r->answers[0].tokens = h->tokens[i][0];
        for (uint32_t k = 0; k < r->n_ids; k++)
            h->ids[i][k] = draw(rng, VOCAB);
    }
}

SL_TEST(who_is_late_goes_behind_others_and_is_not_forgotten)
{
    struct history *h = calloc(1, sizeof *h);
    uint64_t late_turns = 0, others_waited = 0;
    for (uint64_t seed = 1, last = n_seeds() / 2; seed <= last; seed++) {
        struct sl_rng rng = {seed, 11};
        struct sl_sim_config config = draw_config(&rng, seed);
        draw_crowd(h, &config, &rng);
        struct sl_sim_report report = run_against_oracle(h, &config);
        late_turns += report.late_turns;
        others_waited += report.others_waited;
    }
    CHECK(late_turns > n_seeds() && others_waited > 10 * n_seeds()); /* it was about something */
    free(h);
}

SL_TEST(answers_that_are_set_back_get_the_tokens_that_they_get_alone)
{
    struct history *h = calloc(1, sizeof *h);
    uint64_t set_back = 0, tokens = 0, most_times = 0;
    for (uint64_t seed = 1, last = n_seeds() / 2; seed <= last; seed++) {
        struct sl_rng rng = {seed, 1};
        struct sl_sim_config config = draw_config(&rng, seed);
        draw_growing(h, &config, &rng);
        struct sl_sim_report report = run_against_oracle(h, &config);
        for (uint32_t i = 0; i < h->n; i++)
            for (uint32_t k = 0; k < SL_MAX_N; k++)
                if (h->requests[i].answers[k].n_set_back > most_times)
                    most_times = h->requests[i].answers[k].n_set_back;
        set_back += report.set_back;
        tokens += report.tokens;
    }
    CHECK(set_back > 100 && most_times > 1); /* it was about something */
    CHECK(set_back <= tokens / SL_PAGE);     /* what is repaired is rarer than what is made */
    free(h);
}

/* Decode workers die, silently at first, or are told to go, and come back as others, all the time. */
static void draw_leavings(struct sl_sim_config *c, struct sl_rng *rng)
{
    c->n_decoders = 1 + draw(rng, 4);
    c->n_leavings = 1 + draw(rng, SL_SIM_MAX_LEAVINGS);
    for (uint32_t i = 0; i < c->n_leavings; i++)
        c->leavings[i] = (struct sl_sim_leaving){.at_us = draw(rng, 60000),
                                                 .decoder = draw(rng, c->n_decoders),
                                                 .told_to = draw(rng, 3) == 0,
                                                 .leave_us = draw(rng, 20000),
                                                 .told_us = draw(rng, 10000),
                                                 .back_us = 1 + draw(rng, 30000)};
}

SL_TEST(answers_whose_decode_worker_dies_or_leaves_get_the_tokens_that_they_get_alone)
{
    struct history *h = calloc(1, sizeof *h);
    uint64_t moved = 0, n_lost = 0, n_left = 0;
    for (uint64_t seed = 1, last = n_seeds(); seed <= last; seed++) {
        struct sl_rng rng = {seed, 2};
        struct sl_sim_config config = draw_config(&rng, seed);
        if (seed % 2)
            draw_growing(h, &config, &rng);
        else
            draw_requests(h, &rng, config.max_running);
        draw_leavings(&config, &rng);
        struct sl_sim_report report = run_against_oracle(h, &config);
        moved += report.set_back;
        n_lost += report.n_lost;
        n_left += report.n_left;
    }
    CHECK(moved > n_seeds() && n_lost > n_seeds() && n_left > n_seeds() / 4); /* it was about something */
    free(h);
}

/* Everybody is given up, at any moment of its life: the simulator looks at the end whether a page, a request or a record is left, and
 * all along what the tables promise. */
SL_TEST(ten_thousand_cancels_leave_nothing)
{
    struct history *h = calloc(1, sizeof *h);
    uint32_t n_cancelled = 0, from_queue = 0, begun = 0;
    uint64_t given_up = 0;
    for (uint64_t seed = 1; n_cancelled < 10000; seed++) {
        struct sl_rng rng = {seed, 7};
        struct sl_sim_report report;
        struct sl_err err;
        struct sl_sim_config config = draw_config(&rng, seed);
        config.prefix_cache = draw(&rng, 2);
        draw_requests(h, &rng, config.max_running);
        for (uint32_t i = 0; i < h->n; i++) {
            struct sl_sim_request *r = &h->requests[i];
            r->max_tokens = r->n_ids < CONTEXT - 60 ? 60 : r->max_tokens;
            r->min_tokens = 0;
            r->text_ends_at = 0;
            r->deadline_us = r->target_us = 0;
            r->cancel_us = r->arrive_us + 1 + draw(&rng, draw(&rng, 2) ? 2000 : 40000);
        }
        if (sl_sim_run(&config, h->requests, h->n, &report, &err) != SL_OK)
            sl_test_fail(__FILE__, __LINE__, "%s", err.text);
        given_up += report.given_up;
        for (uint32_t i = 0; i < h->n; i++) {
            const struct sl_sim_answer *a = &h->requests[i].answers[0];
            CHECK(h->requests[i].ended);
            n_cancelled += a->finish == SL_FINISH_ABORT && a->status == SL_OK;
            from_queue += a->finish == SL_FINISH_ABORT && a->n_tokens == 0;
            begun += a->finish == SL_FINISH_ABORT && a->n_tokens > 0;
        }
    }
    CHECK(from_queue > 1000 && begun > 1000 && given_up > 500);
    free(h);
}

/* Prompts of several chunks, of which half are given up while chunks of the others stand between theirs. */
static void draw_half_given_up(struct history *h, struct sl_sim_config *c, struct sl_rng *rng)
{
    c->max_prefill = 6;
    c->kv_tokens = 6 * CONTEXT;
    c->chunk_tokens = c->schedule == SL_SCHEDULE_FIFO ? SL_PAGE : 0;
    c->chunk_us = 100 + draw(rng, 400);
    c->budget_us = c->chunk_us + 1;
    c->runs = 4 + draw(rng, 8);
    c->prefix_cache = draw(rng, 2);
    draw_requests(h, rng, c->max_running);
    for (uint32_t i = 0; i < h->n; i++) {
        struct sl_sim_request *r = &h->requests[i];
        r->deadline_us = r->target_us = 0;
        r->n_ids = 1 + draw(rng, CONTEXT - r->max_tokens);
        while (r->n > 1 && r->n_ids / SL_PAGE + 2 * r->n > CONTEXT / SL_PAGE)
            r->n--;
        for (uint32_t k = 0; k < r->n_ids; k++)
            h->ids[i][k] = draw(rng, VOCAB);
        r->cancel_us = draw(rng, 2) ? r->arrive_us + 1 + draw(rng, 30000) : 0;
    }
}

/* The simulator looks all along whether a stage begins what it was told that nobody wants, and whether all of them have the same pages. */
SL_TEST(what_stages_are_told_to_be_cancelled_is_not_begun_and_nobody_else_gets_other_tokens)
{
    struct history *h = calloc(1, sizeof *h);
    uint64_t given_up = 0, foretold = 0;
    for (uint64_t seed = 1, last = n_seeds(); seed <= last; seed++) {
        struct sl_rng rng = {seed, 8};
        struct sl_sim_config config = draw_config(&rng, seed);
        draw_half_given_up(h, &config, &rng);
        config.foretold_us = 1 + draw(&rng, draw(&rng, 2) ? 100 : 10000);
        struct sl_sim_report report = run_against_oracle(h, &config);
        given_up += report.given_up;
        foretold += report.foretold;
    }
    CHECK(given_up > 2 * n_seeds() && foretold > n_seeds() / 2); /* it was about something */
    free(h);
}

/* Prompts begin as others do, up to anywhere, some under a salt; and the pool holds few of them. */
static void draw_alike(struct history *h, struct sl_sim_config *c, struct sl_rng *rng)
{
    c->prefix_cache = true;
    c->flush_us = draw(rng, 3) ? 0 : 1 + draw(rng, 100000);
    for (uint32_t i = 0; i < h->n; i++) {
        struct sl_sim_request *r = &h->requests[i];
        uint32_t like = draw(rng, i + 1), n = draw(rng, 3) ? CONTEXT : draw(rng, 200);
        if (draw(rng, 2))
            r->n_ids = 1 + draw(rng, CONTEXT - r->max_tokens);
        while (r->n > 1 && r->n_ids / SL_PAGE + 2 * r->n > CONTEXT / SL_PAGE)
            r->n--;
        r->arrive_us = draw(rng, 200000);
        r->cancel_us = r->cancel_us ? r->arrive_us + 1 + draw(rng, 40000) : 0;
        r->salt = draw(rng, 4) ? 0 : (uint8_t)draw(rng, 3);
        for (uint32_t k = 0; k < CONTEXT; k++)
            h->ids[i][k] = k < n ? h->ids[like][k] : draw(rng, VOCAB);
    }
}

SL_TEST(prompts_behind_what_others_left_get_the_tokens_that_they_get_alone)
{
    struct history *h = calloc(1, sizeof *h);
    uint64_t cached = 0, evicted = 0, set_back = 0, kept = 0;
    for (uint64_t seed = 1, last = n_seeds(); seed <= last; seed++) {
        struct sl_rng rng = {seed, 2};
        struct sl_sim_config config = draw_config(&rng, seed);
        if (draw(&rng, 2))
            draw_growing(h, &config, &rng);
        else
            draw_requests(h, &rng, config.max_running);
        draw_alike(h, &config, &rng);
        if (draw(&rng, 3) == 0)
            draw_leavings(&config, &rng);
        struct sl_sim_report report = run_against_oracle(h, &config);
        cached += report.cached_tokens;
        evicted += report.evicted;
        kept += report.kept;
        set_back += report.set_back;
    }
    CHECK(cached > 100 * n_seeds() && evicted > 5 * n_seeds() && set_back > n_seeds() / 10 &&
          kept > 2 * n_seeds());
    free(h);
}

SL_TEST(the_same_seed_gives_the_same_history)
{
    struct history *h = calloc(1, sizeof *h);
    uint64_t ends[2][MOST];
    struct sl_sim_report report[2];
    for (int turn = 0; turn < 2; turn++) {
        struct sl_rng rng = {77, 0};
        struct sl_sim_config config = draw_config(&rng, 77);
        draw_requests(h, &rng, config.max_running);
        REQUIRE(sl_sim_run(&config, h->requests, h->n, &report[turn], NULL) == SL_OK);
        for (uint32_t i = 0; i < h->n; i++)
            ends[turn][i] = h->requests[i].answers[0].end_us;
    }
    CHECK_INT(report[0].end_us, report[1].end_us);
    CHECK_INT(report[0].records, report[1].records);
    CHECK(memcmp(ends[0], ends[1], h->n * sizeof ends[0][0]) == 0);
    free(h);
}

/* A world that cheats gives other tokens, or breaks a promise, in at least one of so many seeds. */
static bool is_found_out(enum sl_sim_plant plant)
{
    struct history *h = calloc(1, sizeof *h), *honest = calloc(1, sizeof *h);
    bool found = false;
    for (uint64_t seed = 1; seed <= 60 && !found; seed++) {
        struct sl_sim_report report;
        struct sl_rng rng = {seed, 0};
        struct sl_sim_config config = draw_config(&rng, seed);
        config.max_running = 3;
        config.kv_tokens = CONTEXT; /* pages are wanted again soon, and leave slowly */
        config.max_push_us = 100000;
        struct sl_rng same = rng;
        draw_requests(h, &rng, config.max_running);
        draw_requests(honest, &same, config.max_running);
        if (plant == SL_SIM_LOST_PAGE) { /* it is about prompts that begin alike */
            struct sl_sim_config ignored = config;
            draw_alike(h, &config, &rng);
            draw_alike(honest, &ignored, &same);
        }
        config.foretold_us = 1 + draw(&rng, 1000);
        if (sl_sim_run(&config, honest->requests, honest->n, &report, NULL) != SL_OK)
            sl_test_fail(__FILE__, __LINE__, "an honest world broke a promise");
        config.plant = plant;
        found = sl_sim_run(&config, h->requests, h->n, &report, NULL) != SL_OK;
        for (uint32_t i = 0; i < h->n && !found; i++) {
            const struct sl_sim_answer *a = h->requests[i].answers, *b = honest->requests[i].answers;
            uint32_t n = a->n_tokens < b->n_tokens ? a->n_tokens : b->n_tokens;
            bool ended = !h->requests[i].cancel_us && a->status == SL_OK && b->status == SL_OK;
            found = memcmp(h->tokens[i][0], honest->tokens[i][0], n * sizeof(uint32_t)) != 0 ||
                    (ended && a->n_tokens != b->n_tokens);
        }
    }
    free(h);
    free(honest);
    return found;
}

SL_TEST(a_stage_that_puts_a_page_elsewhere_is_found_out)
{
    CHECK(is_found_out(SL_SIM_SWAP_PAGES));
}

SL_TEST(a_page_that_is_used_again_while_it_is_read_is_found_out)
{
    CHECK(is_found_out(SL_SIM_LATE_PUSH));
}

SL_TEST(a_stage_that_begins_what_it_knows_to_be_cancelled_is_found_out)
{
    CHECK(is_found_out(SL_SIM_DEAF));
}

SL_TEST(a_word_that_something_is_cancelled_which_is_not_is_found_out)
{
    CHECK(is_found_out(SL_SIM_FALSE_WORD));
}

SL_TEST(a_page_that_a_decode_worker_is_believed_to_have_and_has_not_is_found_out)
{
    CHECK(is_found_out(SL_SIM_LOST_PAGE));
}

SL_TEST(a_deadline_that_cannot_be_kept_is_told_and_holds_nothing)
{
    static uint32_t ids[CONTEXT], tokens[2][8];
    struct sl_sim_request r[2] = {
        {.ids = ids, .n_ids = 600, .max_tokens = 4, .answers = {{.tokens = tokens[0]}}},
        {.ids = ids, .n_ids = 600, .max_tokens = 4, .answers = {{.tokens = tokens[1]}}, .deadline_us = 5000}};
    struct sl_sim_config config = {.seed = 3,
                                   .schedule = SL_SCHEDULE_FIFO, /* which predicts nothing */
                                   .n_stages = 2,
                                   .max_running = 1,
                                   .max_requests = 4,
                                   .context_tokens = CONTEXT,
                                   .chunk_us = 1000,
                                   .token_us = 10,
                                   .step_us = 10,
                                   .max_delay_us = 100};
    struct sl_sim_report report;
    REQUIRE(sl_sim_run(&config, r, 2, &report, NULL) == SL_OK);
    CHECK_INT(r[0].answers[0].status, SL_OK);
    CHECK_INT(r[1].answers[0].status, SL_E_DEADLINE);
    CHECK(r[1].answers[0].end_us > 5000 && r[1].answers[0].end_us < 6000);
}
