/* What requests are promised in the small simulated world (bench/schedule_world.h), where no chunk takes longer than was predicted:
 * who is accepted is in time, hardly anybody is refused who could be served, and who is refused is told when to come again. */
#include "bench/schedule_world.h"
#include "tests/check.h"
#include <stdlib.h>

enum { N = 3000 };

struct outcome { /* of one load */
    uint32_t n, n_refused, n_late;
};

static struct outcome run(const char *world, double rate, uint64_t seed)
{
    struct sl_bench_traffic load;
    struct sl_bench_report report;
    struct outcome sum = {0};
    struct sl_err err;
    const struct sl_bench_shape *shape = sl_bench_shape_find(world);
    const struct sl_bench_traffic_config traffic = {SL_BENCH_OVERLOAD, shape, rate, N, 0, seed, 0};
    const struct sl_bench_world_config config = {
        .shape = shape, .schedule = SL_SCHEDULE_SLO, .seed = seed, .check = true};
    if (sl_bench_traffic_init(&load, &traffic, &err) != SL_OK)
        sl_test_fail(__FILE__, __LINE__, "%s", err.text);
    struct sl_bench_outcome *of = calloc(load.n_open, sizeof *of);
    if (sl_bench_world_run(&config, &load, of, &report, &err) != SL_OK)
        sl_test_fail(__FILE__, __LINE__, "%s at %.1f: %s", world, rate, err.text);
    for (uint32_t i = 0; i < load.n_open; i++) {
        bool late = of[i].first_us > of[i].submit_us + load.requests[i].target_us;
        CHECK(of[i].was_refused == (of[i].first_us <= 0));
        CHECK(!of[i].was_refused || (of[i].retry_after_ms > 0 && of[i].retry_after_ms <= 600000));
        sum.n += !of[i].was_refused;
        sum.n_refused += of[i].was_refused;
        sum.n_late += !of[i].was_refused && late;
    }
    free(of);
    sl_bench_traffic_fini(&load);
    sl_bench_report_fini(&report);
    return sum;
}

/* (12) Eight stages with conversations of up to 126,000 tokens are the exception: what will pass a long prompt while it waits is
 * known by the mean of a minute, and there it may wait for several. */
SL_TEST(without_noise_and_as_long_as_there_is_capacity_who_is_accepted_is_in_time)
{
    static const char *const worlds[] = {"A", "A8", "B4", "B8"};
    static const double rates[] = {0.6, 1};
    uint32_t n = 0, n_late = 0;
    for (uint32_t w = 0; w < 4; w++)
        for (uint32_t r = 0; r < 2; r++) {
            struct outcome sum = run(worlds[w], rates[r], 1 + w);
            double most_late = w < 3 ? 0.002 : 0.006, most_refused = r == 0 ? 0.01 : 0.06;
            if (sum.n_late > most_late * sum.n || sum.n_refused > most_refused * N)
                sl_test_fail(__FILE__, __LINE__, "%s at %.1f: %u late and %u refused of %u", worlds[w],
                             rates[r], sum.n_late, sum.n_refused, N);
            n += sum.n;
            n_late += sum.n_late;
        }
    CHECK(n_late <= 0.002 * n);
}

SL_TEST(in_overload_some_are_refused_and_few_of_the_others_are_late)
{
    static const char *const worlds[] = {"A", "B4"};
    for (uint32_t w = 0; w < 2; w++) {
        struct outcome sum = run(worlds[w], 3, 7);
        CHECK(sum.n_refused > N / 50 && sum.n > N / 4 && sum.n_late <= 0.05 * sum.n);
    }
}
