/* Tests of what options of a load mean, and of what is refused because it means nothing. */
#include "bench/serve/options_load.h"
#include "tests/check.h"

#include <math.h>

static struct sl_bench_serve usual(void)
{
    return (struct sl_bench_serve){.arrivals = "poisson",
                                   .input = "512",
                                   .output = "64",
                                   .turns = 1,
                                   .trace_speed = 1,
                                   .seed = 1,
                                   .repeat = 1};
}

SL_TEST(a_sweep_is_a_list_or_a_range)
{
    struct sl_sweep sweep;
    struct sl_err err;
    REQUIRE(sl_sweep_parse(&sweep, NULL, &err) == SL_OK);
    CHECK(sweep.kind == SL_SWEEP_NONE && sweep.n == 1);
    REQUIRE(sl_sweep_parse(&sweep, "rate=1,2.5,4", &err) == SL_OK);
    CHECK(sweep.kind == SL_SWEEP_RATE && sweep.n == 3 && sweep.values[1] == 2.5);
    REQUIRE(sl_sweep_parse(&sweep, "scale=1:16:5", &err) == SL_OK);
    CHECK(sweep.kind == SL_SWEEP_SCALE && sweep.n == 5);
    for (int i = 0; i < 5; i++)
        CHECK(fabs(sweep.values[i] - pow(2, i)) < 1e-9);
    static const char *const bad[] = {
        "",        "rate",       "rate=",      "rate=0",       "rate=1,,2", "rate=1,", "rate=x",
        "speed=1", "rate=4:1:3", "rate=1:2:1", "rate=1:2:999", "rate=1:2",  "rate=-1"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (sl_sweep_parse(&sweep, bad[i], &err) != SL_E_USAGE)
            sl_test_fail(__FILE__, __LINE__, "\"%s\" was taken", bad[i]);
}

SL_TEST(limits_and_cancellations_are_read)
{
    struct sl_limits limits;
    struct sl_load_class c = {0};
    struct sl_err err;
    REQUIRE(sl_limits_parse(&limits, "ttft=500,e2e=5000.5", &err) == SL_OK);
    CHECK(limits.ttft_ms == 500 && limits.tpot_ms == 0 && limits.e2e_ms == 5000.5);
    static const char *const bad[] = {"", "ttft", "ttft=", "ttft=0", "itl=3", "ttft=5,", "ttft=5;tpot=3"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK(sl_limits_parse(&limits, bad[i], &err) == SL_E_USAGE);
    REQUIRE(sl_cancel_parse(&c, "0.25:20", &err) == SL_OK);
    CHECK(c.cancel_share == 0.25 && c.cancel_tokens == 20 && c.cancel_ms == 0);
    REQUIRE(sl_cancel_parse(&c, "1:500ms", &err) == SL_OK);
    CHECK_INT(c.cancel_ms, 500);
    CHECK(sl_cancel_parse(&c, "2:5", &err) == SL_E_USAGE);
    CHECK(sl_cancel_parse(&c, "0.5", &err) == SL_E_USAGE);
    CHECK(sl_cancel_parse(&c, "0.5:5s", &err) == SL_E_USAGE);
}

SL_TEST(a_load_has_arrivals_of_one_kind_and_an_end)
{
    struct sl_workload w = {0};
    struct sl_err err;
    struct sl_bench_serve o = usual();
    CHECK(sl_workload_of(&w, &o, &err) == SL_E_USAGE);
    CHECK_CONTAINS(err.text, "say how requests arrive");
    o.rate = 5;
    REQUIRE(sl_workload_of(&w, &o, &err) == SL_OK);
    CHECK_INT(w.classes[0].n_requests, 100); /* the default */
    o.duration_s = 10;
    REQUIRE(sl_workload_of(&w, &o, &err) == SL_OK);
    CHECK_INT(w.classes[0].n_requests, 0);
    o.concurrency = 5;
    CHECK(sl_workload_of(&w, &o, &err) == SL_E_USAGE);
    o = usual();
    o.sweep = "rate=1,2";
    REQUIRE(sl_workload_of(&w, &o, &err) == SL_OK); /* its points are the rates */
    struct sl_sweep sweep;
    struct sl_workload at;
    REQUIRE(sl_sweep_parse(&sweep, o.sweep, &err) == SL_OK);
    sl_workload_at(&at, &w, &sweep, 1);
    CHECK(at.classes[0].rate == 2);
    o.sweep = "concurrency=1,2";
    o.rate = 3;
    CHECK(sl_workload_of(&w, &o, &err) == SL_E_USAGE);
    sl_workload_free(&w);
}

SL_TEST(headers_given_several_times_are_cut_where_a_name_begins)
{
    struct sl_workload w = {0};
    struct sl_err err;
    struct sl_bench_serve o = usual();
    o.rate = 1;
    o.headers = "x-tenant-id:a,accept:b, c,x-priority:2";
    REQUIRE(sl_workload_of(&w, &o, &err) == SL_OK);
    CHECK_INT(w.classes[0].n_headers, 3);
    CHECK_STR(w.classes[0].header_values[1], "b, c");
    CHECK_STR(w.classes[0].header_names[2], "x-priority");
    sl_workload_free(&w);
}
