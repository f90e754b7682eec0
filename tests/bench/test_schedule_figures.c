/* Figures of the small simulated world, of outcomes that were written by hand. */
#include "bench/schedule_figures.h"
#include "tests/check.h"

SL_TEST(a_quantile_is_the_nearest_rank)
{
    double values[] = {5, 1, 4, 2, 3};
    CHECK(sl_bench_quantile(values, 5, 0.5) == 3);
    CHECK(sl_bench_quantile(values, 5, 0.99) == 5);
    CHECK(sl_bench_quantile(values, 5, 0) == 1);
    CHECK(sl_bench_quantile(values, 0, 0.5) == 0);
}

/* In time, late, refused; of another tenant in time, with a stream; one that never came. Requests come for 100 s. */
static struct sl_bench_request requests[] = {
    {.n = 64, .target_us = 5e6, .work_us = 10e6},
    {.n = 9000, .target_us = 5e6, .work_us = 30e6},
    {.n = 5000, .target_us = 5e6, .work_us = 20e6},
    {.n = 500, .work_us = 8e6, .group = 1},
    {.n = 500, .work_us = 8e6},
};
static const struct sl_bench_outcome outcomes[] = {
    {.submit_us = 20e6, .first_us = 24e6, .end_us = 24e6, .predicted_us = 4.4e6, .n_out = 1},
    {.submit_us = 30e6, .first_us = 36e6, .end_us = 36e6, .predicted_us = 3e6, .n_out = 1},
    {.submit_us = 40e6, .end_us = 40e6, .was_refused = true, .status = SL_E_EXHAUSTED},
    {.submit_us = 50e6, .first_us = 60e6, .end_us = 90e6, .n_out = 45, .pause_us = 3e6},
    {.n_out = 0},
};
static struct sl_bench_ran ran[] = {{5e6, 1000}, {24e6, 64}, {36e6, 9000}, {60e6, 500}, {101e6, 77}};

static struct sl_bench_figures figures(void)
{
    struct sl_bench_traffic load = {.requests = requests, .n_open = 5, .n = 5};
    struct sl_bench_report report = {.end_us = 120e6,
                                     .last_submit_us = 100e6,
                                     .busy_us = 30e6,
                                     .steps = 4,
                                     .step_us = 100,
                                     .n_ran = 5,
                                     .ran = ran};
    struct sl_bench_figures f;
    struct sl_err err;
    if (sl_bench_figures_make(&f, &load, outcomes, &report, &err) != SL_OK)
        sl_test_fail(__FILE__, __LINE__, "%s", err.text);
    return f;
}

SL_TEST(requests_are_counted_by_what_became_of_them)
{
    struct sl_bench_figures f = figures();
    CHECK_INT(f.all.n, 4);
    CHECK_INT(f.all.n_answered, 3);
    CHECK_INT(f.all.n_refused, 1);
    CHECK_INT(f.all.n_met, 2);
    CHECK_INT(f.n_late, 1);
    CHECK_INT(f.of_class[SL_BENCH_CLASS_SHORT].n, 2);
    CHECK_INT(f.of_class[SL_BENCH_CLASS_MIDDLE].n_refused, 1);
    CHECK_INT(f.of_class[SL_BENCH_CLASS_LONG].n_met, 0);
    CHECK_INT(f.of_group[0].n, 3);
    CHECK_INT(f.of_group[1].n_met, 1);
    CHECK(f.of_group[0].work_us == 60e6 && f.of_group[0].met_work_us == 10e6);
    CHECK(f.all.p99_us == 10e6 && f.all.p50_us == 6e6);
    CHECK_INT(f.n_predicted, 2); /* 10 % too late, and half */
    CHECK(f.error_p50 == 0.5 && f.error_p90 == 0.5 && f.bias > 0.0999 && f.bias < 0.1001);
}

SL_TEST(what_was_known_and_computed_again_is_counted)
{
    static struct sl_bench_request turns[] = {
        {.n = 300, .n_known = 200, .group = 2}, /* three pages and some tokens of a fourth */
        {.n = 300, .n_known = 200, .group = 2}, {.n = 300, .n_known = 200, .group = 2},
        {.n = 300, .n_known = 200, .group = 2}, {.n = 300, .group = 1},
    };
    static const struct sl_bench_outcome met[] = {
        {.submit_us = 1, .first_us = 2, .end_us = 3, .n_cached = 192},
        {.submit_us = 1,
         .first_us = 2,
         .end_us = 3,
         .n_cached = 256}, /* its message, too, was someone else's */
        {.submit_us = 1, .first_us = 2, .end_us = 3, .n_cached = 64},
        {.submit_us = 1, .end_us = 1, .was_refused = true},
        {.submit_us = 1, .first_us = 2, .end_us = 3, .n_cached = 64},
    };
    struct sl_bench_traffic load = {.requests = turns, .n_open = 5, .n = 5};
    struct sl_bench_report report = {.end_us = 3};
    struct sl_bench_figures f;
    struct sl_err err;
    CHECK_INT(sl_bench_figures_make(&f, &load, met, &report, &err), SL_OK);
    CHECK_INT(f.of_group[1].n_knowing, 0);
    CHECK_INT(f.of_group[2].n_knowing, 3);
    CHECK_INT(f.of_group[2].n_reusing, 2);
    CHECK(f.of_group[2].known == 600 && f.of_group[2].cached == 512);
    CHECK(f.of_group[2].again_p50 == 8 && f.of_group[2].again_p90 == 136);
    CHECK_INT(f.all.n_knowing, 3);
}

SL_TEST(goodput_is_answers_in_time_within_the_window)
{
    struct sl_bench_figures f = figures();                       /* a window of 90 s: from 10 s to 100 s */
    CHECK(f.goodput_work > 0.19999 && f.goodput_work < 0.20001); /* 18 s of work */
    CHECK(f.goodput_requests > 2 / 90.001 && f.goodput_requests < 2 / 89.999);
    CHECK(f.rows_per_s > 9564 / 90.001 && f.rows_per_s < 9564 / 89.999);
    CHECK(f.tokens_per_s > 47 / 90.001 && f.tokens_per_s < 47 / 89.999);
    CHECK(f.pause_p99_us == 3e6 && f.step_us == 25 && f.busy == 0.25);
}
