/* Tests of the script: what is read, what is refused, and which times follow from it. */
#include "bench/serve/selftest/script.h"
#include "tests/check.h"

#include <math.h>

static const uint64_t MS = 1000000, S = 1000000000;

SL_TEST(stalls_are_read_in_any_order)
{
    struct sl_script script = {0};
    struct sl_err err = {0};
    CHECK_INT(sl_script_parse_stalls(&script, "5.5:0.25,2:1", &err), SL_OK);
    REQUIRE(script.n_stalls == 2);
    CHECK_INT(script.stalls[0].at_ns, 2 * S);
    CHECK_INT(script.stalls[0].for_ns, S);
    CHECK_INT(script.stalls[1].at_ns, 5500 * MS);
    CHECK_INT(script.stalls[1].for_ns, 250 * MS);
    CHECK_INT(sl_script_parse_stalls(&script, NULL, &err), SL_OK);
    CHECK_INT(script.n_stalls, 0);
}

SL_TEST(nonsense_is_refused_with_what_is_accepted)
{
    static const char *const stalls[] = {"1",   "1:",      ":1",    "-1:2",  "1:-2", "1:2:3",
                                         "x:1", "1:2;3:4", "nan:1", "1e9:1", "1:inf"};
    static const char *const faults[] = {
        "10",      "10:",     ":drop",          "0:drop",           "-1:drop",
        "10:fall", "10:none", "10:drop;5:half", "99999999999:drop", "x:drop",
        "10:dropp"};
    static const char *const laws[] = {"",
                                       "gauss",
                                       "lognormal",
                                       "lognormal:",
                                       "lognormal:-1",
                                       "lognormal:6",
                                       "lognormal:x",
                                       "lognormal:nan",
                                       "exponential:2"};
    for (size_t i = 0; i < sizeof stalls / sizeof *stalls; i++) {
        struct sl_script script = {0};
        struct sl_err err = {0};
        if (sl_script_parse_stalls(&script, stalls[i], &err) != SL_E_USAGE)
            sl_test_fail(__FILE__, __LINE__, "--stall %s was taken", stalls[i]);
        CHECK_CONTAINS(err.text, "--stall takes AT:FOR in seconds");
    }
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        struct sl_script script = {0};
        struct sl_err err = {0};
        if (sl_script_parse_faults(&script, faults[i], &err) != SL_E_USAGE)
            sl_test_fail(__FILE__, __LINE__, "--fail %s was taken", faults[i]);
        CHECK_CONTAINS(err.text, "--fail takes EVERY:KIND");
    }
    for (size_t i = 0; i < sizeof laws / sizeof *laws; i++) {
        struct sl_law law;
        struct sl_err err = {0};
        if (sl_law_parse(&law, "ttft-law", laws[i], &err) != SL_E_USAGE)
            sl_test_fail(__FILE__, __LINE__, "--ttft-law %s was taken", laws[i]);
        CHECK_CONTAINS(err.text, "--ttft-law takes constant");
    }
}

SL_TEST(stalls_that_overlap_and_too_many_are_refused)
{
    struct sl_script script = {0};
    struct sl_err err = {0};
    char many[1024] = "";
    CHECK_INT(sl_script_parse_stalls(&script, "1:2,2.5:1", &err), SL_E_USAGE);
    CHECK_CONTAINS(err.text, "overlap");
    CHECK_INT(sl_script_parse_stalls(&script, "1:2,3:1", &err), SL_OK); /* one ends where the next begins */
    for (int i = 0; i <= SL_MAX_STALLS; i++)
        snprintf(many + strlen(many), sizeof many - strlen(many), "%s%d:0.5", i ? "," : "", i);
    CHECK_INT(sl_script_parse_stalls(&script, many, &err), SL_E_USAGE);
    CHECK_CONTAINS(err.text, "at most 64");
}

SL_TEST(every_nth_request_meets_its_fault_and_the_first_that_fits_counts)
{
    struct sl_script script = {0};
    struct sl_err err = {0};
    REQUIRE(sl_script_parse_faults(&script, "4:drop,6:usage-lie", &err) == SL_OK);
    for (uint32_t number = 0; number < 48; number++) {
        enum sl_scripted_fault wanted = (number + 1) % 4 == 0   ? SL_FAULT_DROP
                                        : (number + 1) % 6 == 0 ? SL_FAULT_USAGE_LIE
                                                                : SL_FAULT_NONE;
        CHECK_INT(sl_script_fault(&script, number), wanted);
    }
}

SL_TEST(every_kind_of_fault_can_be_named)
{
    for (int kind = SL_FAULT_NONE + 1; kind < SL_FAULTS; kind++) {
        struct sl_script script = {0};
        struct sl_err err = {0};
        char text[32];
        snprintf(text, sizeof text, "3:%s", sl_fault_names[kind]);
        CHECK_INT(sl_script_parse_faults(&script, text, &err), SL_OK);
        CHECK_INT(script.failings[0].fault, kind);
    }
}

SL_TEST(work_stands_still_in_a_stall)
{
    struct sl_script script = {0};
    struct sl_err err = {0};
    REQUIRE(sl_script_parse_stalls(&script, "2:1,4:0.5", &err) == SL_OK);
    CHECK_INT(sl_script_after(&script, 0, 1 * S), 1 * S);
    CHECK_INT(sl_script_after(&script, 0, 2 * S - 1), 2 * S - 1);
    CHECK_INT(sl_script_after(&script, 0, 2 * S), 3 * S);                /* due as it begins: it waits */
    CHECK_INT(sl_script_after(&script, 1900 * MS, 300 * MS), 3200 * MS); /* 100 ms before, 200 after */
    CHECK_INT(sl_script_after(&script, 2500 * MS, 0), 3 * S);            /* who comes within it */
    CHECK_INT(sl_script_after(&script, 2500 * MS, 100 * MS), 3100 * MS);
    CHECK_INT(sl_script_after(&script, 1 * S, 3 * S), 5500 * MS); /* through both */
    CHECK_INT(sl_script_after(&script, 6 * S, 1 * S), 7 * S);
}

SL_TEST(tokens_of_a_message_leave_with_its_first)
{
    struct sl_script script = {.ttft_ms = 100, .tpot_ms = 10, .tokens_per_message = 3};
    uint64_t work[8];
    const uint64_t wanted[8] = {100, 100, 100, 130, 130, 130, 160, 160};
    sl_script_draw(&script, 0, 8, work);
    for (int k = 0; k < 8; k++)
        CHECK_INT(work[k], wanted[k] * MS);
}

SL_TEST(draws_depend_on_seed_and_number_alone)
{
    struct sl_script script = {.ttft_ms = 100, .tpot_ms = 10, .tokens_per_message = 1, .seed = 3};
    uint64_t a[32], b[32], c[32], d[32];
    script.ttft_law.kind = script.tpot_law.kind = SL_LAW_EXPONENTIAL;
    sl_script_draw(&script, 5, 32, a);
    sl_script_draw(&script, 6, 32, b);
    sl_script_draw(&script, 5, 16, c); /* how many are drawn does not matter */
    script.seed = 4;
    sl_script_draw(&script, 5, 32, d);
    CHECK(memcmp(a, c, sizeof c / 2) == 0);
    CHECK(memcmp(a, b, sizeof a) != 0);
    CHECK(memcmp(a, d, sizeof a) != 0);
    for (int k = 1; k < 32; k++)
        CHECK(a[k] >= a[k - 1]);
}

/* Of 20,000 first tokens, ms. */
static void moments_of(struct sl_law law, double *mean, double *deviation)
{
    struct sl_script script = {.ttft_ms = 100, .ttft_law = law, .tokens_per_message = 1, .seed = 1};
    enum { N = 20000 };
    double sum = 0, squares = 0;
    for (uint32_t i = 0; i < N; i++) {
        uint64_t work;
        sl_script_draw(&script, i, 1, &work);
        sum += (double)work * 1e-6;
        squares += (double)work * 1e-6 * (double)work * 1e-6;
    }
    *mean = sum / N;
    *deviation = sqrt(squares / N - *mean * *mean);
}

SL_TEST(laws_have_the_mean_that_was_asked_for_and_their_own_spread)
{
    double mean, deviation;
    moments_of((struct sl_law){SL_LAW_CONSTANT, 0}, &mean, &deviation);
    CHECK(mean == 100 && deviation < 1e-3);
    moments_of((struct sl_law){SL_LAW_EXPONENTIAL, 0}, &mean, &deviation); /* its error: 0.7 % */
    CHECK(fabs(mean - 100) < 3 && fabs(deviation - 100) < 5);
    moments_of((struct sl_law){SL_LAW_LOGNORMAL, 0.5}, &mean,
               &deviation); /* exp(0.25) - 1: 0.533 of the mean */
    CHECK(fabs(mean - 100) < 2 && fabs(deviation - 53.3) < 3);
}
