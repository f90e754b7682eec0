/* Intervals and differences between repeats, against numbers worked out by hand. */
#include "bench/serve/interval.h"
#include "tests/check.h"
#include <math.h>

#define CHECK_NEAR(a, b, within)                                                                             \
    do {                                                                                                     \
        double near_a_ = (a), near_b_ = (b);                                                                 \
        if (!(fabs(near_a_ - near_b_) <= (within)))                                                          \
            sl_test_fail(__FILE__, __LINE__, "%s is %.10g, expected %.10g", #a, near_a_, near_b_);           \
    } while (0)

SL_TEST(the_interval_of_repeats_is_students)
{
    const double figures[] = {10, 12, 14};
    double variation;
    struct sl_interval interval = sl_interval_repeats(figures, 3, &variation);
    CHECK(interval.known && interval.bounded);
    CHECK_INT(interval.n_blocks, 3);
    CHECK_NEAR(interval.value, 12, 1e-12);
    CHECK_NEAR(variation, 2.0 / 12, 1e-12);
    double half = 4.302653 * 2 / sqrt(3); /* t of 2 degrees, deviation 2 */
    CHECK_NEAR(interval.low, 12 - half, 1e-5);
    CHECK_NEAR(interval.high, 12 + half, 1e-5);
}

SL_TEST(one_repeat_has_no_interval_and_none_has_no_value)
{
    const double figure = 3;
    double variation;
    struct sl_interval interval = sl_interval_repeats(&figure, 1, &variation);
    CHECK(interval.known && !interval.bounded && isnan(variation));
    CHECK_NEAR(interval.value, 3, 0);
    interval = sl_interval_repeats(&figure, 0, NULL);
    CHECK(!interval.known && !interval.bounded && isnan(interval.value));
}

SL_TEST(a_repeat_that_is_infinite_leaves_no_interval)
{
    const double figures[] = {10, INFINITY, 12};
    struct sl_interval interval = sl_interval_repeats(figures, 3, NULL);
    CHECK(!interval.bounded && isinf(interval.value));
    double p;
    CHECK(!sl_interval_differ(figures, 3, (const double[]){1, 2, 3}, 3, &p));
    CHECK_NEAR(p, 1, 0);
}

SL_TEST(welch_finds_what_differs_and_nothing_else)
{
    /* means 20.82 and 23.647, t = -2.85563 with 27.8611 degrees; the density integrated numerically */
    const double a[] = {27.5, 21.0, 19.0, 23.6, 17.0, 17.9, 16.9, 20.1,
                        21.9, 22.6, 23.1, 19.6, 19.0, 21.7, 21.4};
    const double b[] = {27.1, 22.0, 20.8, 23.4, 23.4, 23.5, 25.8, 22.0,
                        24.8, 20.2, 21.9, 22.1, 22.9, 30.4, 24.4};
    double p;
    CHECK(sl_interval_differ(a, 15, b, 15, &p));
    CHECK_NEAR(p, 0.0080236792, 1e-8);
    CHECK(!sl_interval_differ(a, 15, a, 15, &p));
    CHECK_NEAR(p, 1, 1e-12);
    /* two against two: means 1.5 and 3.5, variances 0.5 each: t = -2 / sqrt(0.5) = -2.8284 with 2 degrees */
    const double c[] = {1, 2}, d[] = {3, 4};
    CHECK(!sl_interval_differ(c, 2, d, 2, &p));
    double t = 2 * sqrt(2);
    CHECK_NEAR(p, 1 - t / sqrt(2 + t * t), 1e-9); /* of 2 degrees in closed form */
}

SL_TEST(without_variation_what_is_not_equal_differs)
{
    const double a[] = {5, 5, 5}, b[] = {6, 6, 6};
    CHECK(sl_interval_differ(a, 3, b, 3, NULL));
    CHECK(!sl_interval_differ(a, 3, a, 3, NULL));
    CHECK(!sl_interval_differ(a, 1, b, 3, NULL));
}
