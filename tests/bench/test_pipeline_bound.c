/* bench/pipeline_bound.c against times that can be added up by hand. */
#include "bench/pipeline_bound.h"
#include "tests/check.h"
#include <math.h>

static struct sl_chunk_times times_of(uint32_t n_stages, uint32_t n_chunks, const uint32_t *us)
{
    struct sl_chunk_times t = {n_stages, n_chunks, {{0}}};
    for (uint32_t k = 0; k < n_stages; k++)
        for (uint32_t i = 0; i < n_chunks; i++)
            t.us[k][i] = us[k * n_chunks + i];
    return t;
}

static bool near(double a, double b)
{
    return fabs(a - b) < 1e-9;
}

SL_TEST(equal_chunks_on_equal_stages_fill_and_drain_as_the_textbook_says)
{
    struct sl_chunk_times one = times_of(1, 4, (const uint32_t[]){30, 30, 30, 30}),
                          three = times_of(
                              3, 4, (const uint32_t[]){10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10});
    struct sl_pipeline_bound b = sl_pipeline_bound_of(&one, &three);
    CHECK(near(b.fill_drain, 4.0 / 6) && near(b.split, 1));
    CHECK(near(sl_pipeline_bound_of(&one, &one).fill_drain, 1) &&
          near(sl_pipeline_bound_of(&one, &one).split, 1));
}

SL_TEST(the_longest_chunk_is_what_fills_and_drains)
{
    struct sl_chunk_times one = times_of(1, 3, (const uint32_t[]){20, 40, 60}),
                          two = times_of(2, 3, (const uint32_t[]){10, 20, 30, 10, 20, 30});
    struct sl_pipeline_bound b = sl_pipeline_bound_of(&one, &two); /* 60 of work on each, 90 in all */
    CHECK(near(b.fill_drain, 60.0 / 90) && near(b.split, 1));
    two = times_of(2, 3, (const uint32_t[]){30, 20, 10, 30, 20, 10});
    CHECK(near(sl_pipeline_bound_of(&one, &two).split, 1)); /* they drain fast, but they filled slowly */
}

SL_TEST(stages_of_unequal_work_cost_what_the_slower_one_has_more)
{
    struct sl_chunk_times one = times_of(1, 4, (const uint32_t[]){50, 50, 50, 50}),
                          two = times_of(2, 4, (const uint32_t[]){30, 30, 30, 30, 20, 20, 20, 20});
    struct sl_pipeline_bound b = sl_pipeline_bound_of(&one, &two);
    CHECK(near(b.fill_drain, 4.0 / 5));
    CHECK(near(b.split, (200.0 / 2 * 5 / 4) / (4 * 30 + 20)));
    two = times_of(2, 4, (const uint32_t[]){20, 20, 20, 20, 30, 30, 30, 30});
    CHECK(near(sl_pipeline_bound_of(&one, &two).split, b.split));
}

SL_TEST(of_each_chunk_the_least_counts)
{
    struct sl_chunk_times least = {0}, a = times_of(1, 3, (const uint32_t[]){5, 9, 7}),
                          b = times_of(1, 3, (const uint32_t[]){6, 4, 7}),
                          c = times_of(1, 2, (const uint32_t[]){9, 9});
    sl_chunk_times_least(&least, &a);
    sl_chunk_times_least(&least, &b);
    CHECK(least.us[0][0] == 5 && least.us[0][1] == 4 && least.us[0][2] == 7);
    sl_chunk_times_least(&least, &c);
    CHECK(least.n_chunks == 2 && least.us[0][1] == 9);
    CHECK(near(sl_pipeline_bound_of(&(struct sl_chunk_times){0}, &(struct sl_chunk_times){0}).fill_drain, 1));
}
