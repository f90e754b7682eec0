/* Figures from recorded event times, compared with what is worked out by hand: there is no clock in here. */
#include "bench/serve/measure.h"
#include "tests/check.h"
#include <math.h>
#include <stdlib.h>

static const uint64_t MS = 1000000, S = 1000000000;

#define CHECK_EXACT(a, b)                                                                                    \
    do {                                                                                                     \
        double exact_a_ = (a), exact_b_ = (b);                                                               \
        if (exact_a_ < exact_b_ || exact_a_ > exact_b_ || isnan(exact_a_))                                   \
            sl_test_fail(__FILE__, __LINE__, "%s is %.17g, expected %.17g", #a, exact_a_, exact_b_);         \
    } while (0)
#define CHECK_NEAR(a, b)                                                                                     \
    do {                                                                                                     \
        double near_a_ = (a), near_b_ = (b);                                                                 \
        if (!(fabs(near_a_ - near_b_) <= 1e-12 * fabs(near_b_)))                                             \
            sl_test_fail(__FILE__, __LINE__, "%s is %.17g, expected %.17g", #a, near_a_, near_b_);           \
    } while (0)

static const struct sl_limits no_limits[4];

/* Due and sent at once, the first token ttft_ms later, then one each tpot_ms. */
static struct sl_outcome answered(uint32_t number, uint64_t due_ns, uint64_t ttft_ms, uint32_t tokens,
                                  uint64_t tpot_ms)
{
    uint64_t first = due_ns + ttft_ms * MS, last = first + (tokens - 1) * tpot_ms * MS;
    return (struct sl_outcome){.number = number,
                               .due_ns = due_ns,
                               .sent_ns = due_ns,
                               .first_ns = first,
                               .last_ns = last,
                               .end_ns = last,
                               .input_tokens = 10,
                               .output_tokens = tokens,
                               .wanted_tokens = tokens,
                               .n_arrivals = tokens,
                               .ending = SL_ENDING_DONE};
}

static struct sl_outcome never_answered(uint32_t number, uint64_t due_ns, enum sl_ending ending)
{
    return (struct sl_outcome){.number = number,
                               .due_ns = due_ns,
                               .sent_ns = ending == SL_ENDING_UNSENT ? SL_NEVER : due_ns,
                               .first_ns = SL_NEVER,
                               .last_ns = SL_NEVER,
                               .end_ns = ending == SL_ENDING_UNSENT ? due_ns : due_ns + S,
                               .input_tokens = 10,
                               .ending = ending};
}

static struct sl_summary measure(struct sl_outcome *all, uint32_t n, uint64_t warm_ns, uint64_t over_ns,
                                 int load_class, const struct sl_limits *limits)
{
    struct sl_outcomes outcomes = {.all = all, .n = n, .warm_ns = warm_ns, .over_ns = over_ns};
    struct sl_summary summary;
    struct sl_err err;
    if (sl_measure(&summary, &outcomes, load_class, limits, 4, &err) != SL_OK)
        sl_test_fail(__FILE__, __LINE__, "%s", err.text);
    return summary;
}

SL_TEST(every_measure_is_the_difference_that_its_definition_says)
{
    struct sl_outcome outcome = answered(0, 5 * S, 30, 11, 20);
    outcome.sent_ns += 4 * MS;
    CHECK_EXACT(sl_measure_of(&outcome, SL_TTFT), 30);
    CHECK_EXACT(sl_measure_of(&outcome, SL_TTFT_SENT), 26);
    CHECK_EXACT(sl_measure_of(&outcome, SL_TPOT), 20);
    CHECK_EXACT(sl_measure_of(&outcome, SL_E2E), 230);
    CHECK_EXACT(sl_measure_of(&outcome, SL_LAG), 4);
    CHECK(isnan(sl_measure_of(&outcome, SL_ITL)));
    outcome.end_ns += 7 * MS; /* the status came later than the last token: no part of E2E */
    CHECK_EXACT(sl_measure_of(&outcome, SL_E2E), 230);
    outcome.sent_ns = outcome.due_ns - MS;
    CHECK_EXACT(sl_measure_of(&outcome, SL_LAG), -1);
}

SL_TEST(one_token_has_no_tpot_and_none_has_nothing)
{
    struct sl_outcome one = answered(0, 0, 30, 1, 0);
    CHECK(isnan(sl_measure_of(&one, SL_TPOT)));
    CHECK_EXACT(sl_measure_of(&one, SL_E2E), 30);
    struct sl_outcome none = never_answered(0, 0, SL_ENDING_DONE);
    CHECK(isnan(sl_measure_of(&none, SL_TTFT)) && isnan(sl_measure_of(&none, SL_E2E)));
    CHECK(isnan(sl_measure_of(&none, SL_TPOT)));
}

SL_TEST(a_failed_request_is_infinite_but_for_what_came)
{
    static const enum sl_ending endings[] = {SL_ENDING_FAILED, SL_ENDING_TIMEOUT, SL_ENDING_UNSENT};
    for (int i = 0; i < 3; i++) {
        struct sl_outcome outcome = never_answered(0, S, endings[i]);
        CHECK(isinf(sl_measure_of(&outcome, SL_TTFT)) && isinf(sl_measure_of(&outcome, SL_TTFT_SENT)));
        CHECK(isinf(sl_measure_of(&outcome, SL_TPOT)) && isinf(sl_measure_of(&outcome, SL_E2E)));
    }
    struct sl_outcome broken = answered(0, S, 25, 5, 10);
    broken.ending = SL_ENDING_FAILED;
    CHECK_EXACT(sl_measure_of(&broken, SL_TTFT), 25);
    CHECK(isinf(sl_measure_of(&broken, SL_TPOT)) && isinf(sl_measure_of(&broken, SL_E2E)));
    struct sl_outcome unsent = never_answered(0, S, SL_ENDING_UNSENT);
    CHECK(isnan(sl_measure_of(&unsent, SL_LAG)));
}

SL_TEST(a_cancelled_or_unfinished_request_has_its_ttft_alone)
{
    static const enum sl_ending endings[] = {SL_ENDING_CANCELLED, SL_ENDING_NONE};
    for (int i = 0; i < 2; i++) {
        struct sl_outcome outcome = answered(0, S, 25, 5, 10);
        outcome.ending = endings[i];
        CHECK_EXACT(sl_measure_of(&outcome, SL_TTFT), 25);
        CHECK(isnan(sl_measure_of(&outcome, SL_TPOT)) && isnan(sl_measure_of(&outcome, SL_E2E)));
        outcome = never_answered(0, S, endings[i]);
        CHECK(isnan(sl_measure_of(&outcome, SL_TTFT)) && isnan(sl_measure_of(&outcome, SL_TTFT_SENT)));
    }
}

/* 100 requests/s for 10 s; the server answers in 5 ms, but does nothing from 4 s to 5 s. */
SL_TEST(a_stall_of_a_second_makes_a_hundred_requests_late)
{
    enum { N = 1000 };
    struct sl_outcome *all = calloc(N, sizeof *all);
    uint32_t late = 0, late_by_a_tenth = 0;
    for (uint32_t i = 0; i < N; i++) {
        uint64_t due = (i + 1) * 10 * MS;
        uint64_t ttft = due >= 4 * S && due < 5 * S ? (5 * S - due) / MS + 5 : 5;
        all[i] = answered(i, due, ttft, 1, 0);
        late += sl_measure_of(&all[i], SL_TTFT) > 5;
        late_by_a_tenth += sl_measure_of(&all[i], SL_TTFT) > 105;
    }
    CHECK_INT(late, 100);
    CHECK_INT(late_by_a_tenth, 90);
    struct sl_summary summary = measure(all, N, 0, SL_NEVER, -1, no_limits);
    const struct sl_figure *ttft = &summary.figures[SL_TTFT];
    CHECK_INT(ttft->n, N);
    CHECK_EXACT(ttft->maximum, 1005);
    CHECK_EXACT(ttft->minimum, 5);
    CHECK_EXACT(ttft->quantiles[2].value, 5);   /* p90: the 900th of 1,000 is the last that is not late */
    CHECK_EXACT(ttft->quantiles[3].value, 505); /* p95: 50 of 100 late ones: 10, 20, ... 500 ms late */
    CHECK_EXACT(ttft->quantiles[4].value, 905); /* p99 */
    CHECK_NEAR(ttft->mean, 5 + 50500.0 / N);
    CHECK_INT(summary.max_in_flight, 101); /* those hundred, all answered at 5.005 s, and that of 5 s */
    free(all);
}

SL_TEST(failed_requests_lie_in_the_tail_and_are_counted)
{
    enum { N = 100 };
    struct sl_outcome all[N];
    for (uint32_t i = 0; i < N; i++)
        all[i] = i % 20 == 7    ? never_answered(i, i * S, SL_ENDING_FAILED)
                 : i % 20 == 9  ? never_answered(i, i * S, SL_ENDING_TIMEOUT)
                 : i % 50 == 11 ? never_answered(i, i * S, SL_ENDING_UNSENT)
                                : answered(i, i * S, i + 1, 2, 4);
    struct sl_summary summary = measure(all, N, 0, SL_NEVER, -1, no_limits);
    CHECK_INT(summary.n_requests, 100);
    CHECK_INT(summary.n_failed, 5);
    CHECK_INT(summary.n_timeout, 5);
    CHECK_INT(summary.n_unsent, 2);
    CHECK_INT(summary.n_done, 88);
    const struct sl_figure *ttft = &summary.figures[SL_TTFT];
    CHECK_INT(ttft->n, 100);
    CHECK_INT(ttft->n_failed, 12);
    CHECK(isfinite(ttft->quantiles[1].value) && isinf(ttft->quantiles[2].value)); /* p75, p90 */
    CHECK(isfinite(ttft->mean) && isfinite(ttft->maximum));
    CHECK_EXACT(ttft->maximum, 100);
    CHECK_INT(summary.figures[SL_E2E].n_failed, 12);
    CHECK_INT(summary.figures[SL_TPOT].n_failed, 12);
    CHECK_INT(summary.figures[SL_LAG].n, 98); /* what was never sent has none */
    CHECK_INT(summary.input_tokens, 980);
    CHECK_INT(summary.output_tokens, 176);
}

SL_TEST(means_and_deviations_are_of_what_is_finite)
{
    struct sl_outcome all[] = {answered(0, 0, 10, 1, 0), answered(1, MS, 20, 1, 0),
                               answered(2, 2 * MS, 60, 1, 0), never_answered(3, 3 * MS, SL_ENDING_FAILED)};
    struct sl_summary summary = measure(all, 4, 0, SL_NEVER, -1, no_limits);
    const struct sl_figure *ttft = &summary.figures[SL_TTFT];
    CHECK_NEAR(ttft->mean, 30);
    CHECK_NEAR(ttft->deviation, sqrt((400.0 + 100 + 900) / 3));
    CHECK_NEAR(ttft->mean_interval.value, 30);
    CHECK(!ttft->quantiles[0].known); /* of four */
    CHECK_EXACT(ttft->quantiles[0].value, 20);
    summary = measure(all + 3, 1, 0, SL_NEVER, -1, no_limits);
    CHECK(isnan(summary.figures[SL_TTFT].mean) && isnan(summary.figures[SL_TTFT].maximum));
    CHECK_INT(summary.figures[SL_ITL].n, 0);
    CHECK(isnan(summary.figures[SL_ITL].mean));
}

SL_TEST(what_is_due_in_the_warm_up_or_after_the_end_is_not_measured)
{
    struct sl_outcome all[] = {answered(0, S - 1, 500, 1, 0), answered(1, S, 10, 1, 0),
                               answered(2, 2 * S - 1, 20, 1, 0), answered(3, 2 * S, 700, 1, 0)};
    struct sl_summary summary = measure(all, 4, S, 2 * S, -1, no_limits);
    CHECK_INT(summary.n_requests, 2);
    CHECK_EXACT(summary.figures[SL_TTFT].maximum, 20);
    CHECK_EXACT(summary.figures[SL_TTFT].minimum, 10);
    CHECK_NEAR(summary.seconds, 1.02 - 1e-9); /* from warm to the end of the last that is measured */
    CHECK_NEAR(summary.requests_per_s, 2 / (1.02 - 1e-9));
    CHECK_NEAR(summary.tokens_per_s, 22 / (1.02 - 1e-9));
    CHECK_INT(summary.max_in_flight, 2); /* the one of the warm-up is still there when the first is sent */
    summary = measure(all, 4, 5 * S, SL_NEVER, -1, no_limits);
    CHECK_INT(summary.n_requests, 0);
    CHECK_EXACT(summary.seconds, 0);
    CHECK_EXACT(summary.requests_per_s, 0);
    CHECK(isnan(summary.figures[SL_TTFT].quantiles[0].value));
    summary = measure(all, 0, 0, SL_NEVER, -1, no_limits);
    CHECK_INT(summary.n_requests, 0);
}

SL_TEST(a_constant_concurrency_is_seen_as_what_it_is)
{
    enum { N = 64, AT_ONCE = 4 };
    struct sl_outcome all[N];
    uint64_t free_at[AT_ONCE] = {0};
    for (uint32_t i = 0; i < N; i++) {
        all[i] = answered(i, free_at[i % AT_ONCE], 10, 1, 0);
        free_at[i % AT_ONCE] = all[i].end_ns; /* the next is sent at the very ns */
    }
    struct sl_summary summary = measure(all, N, 0, SL_NEVER, -1, no_limits);
    CHECK_INT(summary.max_in_flight, AT_ONCE);
    CHECK_NEAR(summary.mean_in_flight, AT_ONCE);
    all[5].end_ns = SL_NEVER; /* hangs: in flight until the end */
    all[5].ending = SL_ENDING_NONE;
    summary = measure(all, N, 0, SL_NEVER, -1, no_limits);
    CHECK_INT(summary.n_unfinished, 1);
    CHECK_INT(summary.max_in_flight, AT_ONCE + 1);
}

SL_TEST(gaps_are_those_of_all_requests)
{
    float a[] = {10, 20}, b[] = {30}, warm[] = {500};
    struct sl_outcome all[] = {answered(0, 0, 5, 2, 1), answered(1, S, 5, 3, 15),
                               answered(2, 2 * S, 5, 2, 30), answered(3, 3 * S, 5, 1, 0),
                               never_answered(4, 4 * S, SL_ENDING_FAILED)};
    all[0].gaps_ms = warm, all[0].n_gaps = 1;
    all[1].gaps_ms = a, all[1].n_gaps = 2;
    all[2].gaps_ms = b, all[2].n_gaps = 1;
    struct sl_summary summary = measure(all, 5, S, SL_NEVER, -1, no_limits);
    const struct sl_figure *itl = &summary.figures[SL_ITL];
    CHECK_INT(itl->n, 3);
    CHECK_INT(itl->n_failed, 0);
    CHECK_NEAR(itl->mean, 20);
    CHECK_EXACT(itl->quantiles[0].value, 20);
    CHECK_EXACT(itl->quantiles[4].value, 30);
}

SL_TEST(the_best_second_counts_tokens_where_they_arrived)
{
    /* first token at 0.9 s, then messages of two tokens each at 0.95, 1.0, 1.05 s: 2 + 2 | 2 + 2 */
    float gaps[] = {50, 50, 50};
    struct sl_outcome all[] = {answered(0, 890 * MS, 10, 8, 0), answered(1, 1400 * MS, 10, 1, 0),
                               answered(2, 2990 * MS, 20, 3, 0)};
    all[0].n_arrivals = 4, all[0].n_gaps = 3, all[0].gaps_ms = gaps;
    all[0].last_ns = all[0].end_ns = 1050 * MS;
    CHECK_EXACT(measure(all, 1, 0, SL_NEVER, -1, no_limits).max_output_per_s, 4);
    CHECK_EXACT(measure(all, 2, 0, SL_NEVER, -1, no_limits).max_output_per_s, 5);
    CHECK_EXACT(measure(all, 3, 0, SL_NEVER, -1, no_limits).max_output_per_s, 5);
    all[0].n_gaps = 1; /* memory was bounded: 0.9 and 0.95 are known, then to 1.05 in two equal steps */
    CHECK_EXACT(measure(all, 1, 0, SL_NEVER, -1, no_limits).max_output_per_s, 4);
    /* counted from the end of the warm-up: of the first request, 0.95 s and later lie in one second */
    CHECK_EXACT(measure(all, 2, 920 * MS, SL_NEVER, -1, no_limits).max_output_per_s, 7);
    all[1].end_ns = SL_NEVER - 1; /* a lie about time costs no memory */
    CHECK_EXACT(measure(all, 2, 0, SL_NEVER, -1, no_limits).max_output_per_s, 5);
}

SL_TEST(good_is_what_ended_well_within_all_limits_of_its_class)
{
    const struct sl_limits limits[4] = {{20, 5, 0}, {0, 0, 100}, {0, 0, 0}, {0, 0, 0}};
    struct sl_outcome all[] = {
        answered(0, 0, 20, 3, 5),                   /* at both limits: good */
        answered(1, S, 21, 3, 5),                   /* late */
        answered(2, 2 * S, 20, 3, 6),               /* slow */
        answered(3, 3 * S, 20, 1, 0),               /* a single token breaks no limit of TPOT */
        answered(4, 4 * S, 60, 5, 10),              /* 100 ms in all */
        answered(5, 5 * S, 61, 5, 10),              /* 101 */
        answered(6, 6 * S, 900, 5, 10),             /* of a class without limits */
        answered(7, 7 * S, 10, 3, 5),               /* cancelled */
        never_answered(8, 8 * S, SL_ENDING_FAILED), /* class 2: without limits, but failed */
        never_answered(9, 9 * S, SL_ENDING_DONE),   /* no token at all */
        answered(10, 10 * S, 10, 3, 5),             /* failed after all its tokens */
    };
    static const uint32_t classes[] = {0, 0, 0, 0, 1, 1, 2, 0, 2, 0, 0};
    for (int i = 0; i < 11; i++)
        all[i].load_class = classes[i];
    all[7].ending = SL_ENDING_CANCELLED;
    all[10].ending = SL_ENDING_FAILED;
    static const bool good[] = {1, 0, 0, 1, 1, 0, 1, 0, 0, 0, 0};
    for (int i = 0; i < 11; i++)
        CHECK(sl_measure_is_good(&all[i], &limits[classes[i]]) == good[i]);
    struct sl_summary summary = measure(all, 11, 0, SL_NEVER, -1, limits);
    CHECK(summary.has_limits);
    CHECK_INT(summary.n_good, 4);
    CHECK_NEAR(summary.good_share, 4.0 / 10);
    CHECK_NEAR(summary.good_per_s, 4 / summary.seconds);
    CHECK_NEAR(summary.seconds, 10.02);
    summary = measure(all, 11, 0, SL_NEVER, 0, limits);
    CHECK_INT(summary.n_requests, 7);
    CHECK_INT(summary.n_good, 2);
    CHECK_INT(summary.n_cancelled, 1);
    summary = measure(all, 11, 0, SL_NEVER, 1, limits);
    CHECK_INT(summary.n_requests, 2);
    CHECK_INT(summary.n_good, 1);
    CHECK_NEAR(summary.seconds, 5.101);
    summary = measure(all, 11, 0, SL_NEVER, 2, limits);
    CHECK(!summary.has_limits);
    CHECK_INT(summary.n_good, 1);
    CHECK_INT(measure(all, 11, 0, SL_NEVER, 3, limits).n_requests, 0);
}

SL_TEST(parts_are_means_and_percentiles_of_those_that_have_them)
{
    enum { N = 300 };
    struct sl_outcome all[N];
    for (uint32_t i = 0; i < N; i++) {
        all[i] = answered(i, i * S, 10, 1, 0);
        all[i].has_parts = i % 3 != 0; /* 200 of them */
        for (int part = 0; part < SL_PARTS; part++)
            all[i].parts_us[part] = 1000 * (i - i / 3) + (uint32_t)part; /* 1..200 ms */
    }
    struct sl_summary summary = measure(all, N, 0, SL_NEVER, -1, no_limits);
    CHECK_INT(summary.n_parts, 200);
    for (int part = 0; part < SL_PARTS; part++) {
        CHECK_NEAR(summary.parts_ms[part], 100.5 + part / 1e3);
        CHECK_NEAR(summary.parts_p99_ms[part], 198 + part / 1e3);
    }
}

SL_TEST(the_percentiles_of_recorded_times_are_exact)
{
    enum { N = 10000 };
    struct sl_outcome *all = calloc(N, sizeof *all);
    for (uint32_t i = 0; i < N; i++)
        all[i] = answered(i, i * 10 * MS, (i * 7919u) % N + 1, 1, 0); /* 1..N ms, each once */
    struct sl_summary summary = measure(all, N, 0, SL_NEVER, -1, no_limits);
    for (int i = 0; i < SL_QUANTILES; i++) {
        CHECK(summary.figures[SL_TTFT].quantiles[i].known);
        CHECK_EXACT(summary.figures[SL_TTFT].quantiles[i].value, round(sl_quantiles[i] * N));
    }
    CHECK_STR(sl_measure_keys[SL_E2E], "e2el");
    CHECK_STR(sl_measure_names[SL_LAG], "send lag");
    free(all);
}

SL_TEST(a_million_outcomes_are_measured)
{
    enum { N = 1000000 };
    struct sl_outcome *all = calloc(N, sizeof *all);
    uint64_t state = 1;
    for (uint32_t i = 0; i < N; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        all[i] = answered(i, i * MS, (state >> 40) % 5000 + 1, 1 + (uint32_t)(state >> 33) % 200, 3);
    }
    struct sl_summary summary = measure(all, N, 0, SL_NEVER, -1, no_limits);
    CHECK_INT(summary.n_done, N);
    CHECK(summary.figures[SL_TTFT].quantiles[5].bounded);
    CHECK(fabs(summary.figures[SL_TTFT].quantiles[0].value - 2500) < 25);
    free(all);
}
