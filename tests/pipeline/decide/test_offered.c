/* pipeline/decide/offered.c: what comes is counted by size for a minute or so, and then forgotten; and when work is done that what is
 * still to come passes for a while. */
#include "pipeline/decide/offered.h"
#include "tests/check.h"
#include "tests/pipeline/decide/queue_world.h"
#include <math.h>

SL_TEST(sizes_are_powers_of_two_from_a_page_on)
{
    CHECK_INT(sl_offered_size(1), 0);
    CHECK_INT(sl_offered_size(64), 0);
    CHECK_INT(sl_offered_size(65), 1);
    CHECK_INT(sl_offered_size(1024), 4);
    CHECK_INT(sl_offered_size(1025), 5);
    CHECK_INT(sl_offered_size(UINT32_MAX), SL_SIZES - 1);
}

SL_TEST(what_came_is_expected_again_and_forgotten_after_a_minute)
{
    struct sl_offered o = {0};
    struct sl_newcomers n;
    for (uint64_t s = 1; s <= 600;
         s++) { /* 64 tokens and 0.3 s of work each second, 8k and 20 s each hundredth */
        sl_offered_add(&o, s * 1000000, 64, 0.3e6, s % 2 ? 1e6 : 3e6);
        if (s % 100 == 0)
            sl_offered_add(&o, s * 1000000, 8192, 20e6, 7e6);
    }
    sl_offered_expect(&o, 600000000, &n);
    CHECK(fabs(n.share[0] - 0.3) < 0.01 && fabs(n.behind_us[0] - 2e6) < 0.1e6);
    CHECK(n.share[7] > 0.3 && n.share[7] <= 0.5 && fabs(n.behind_us[7] - 7e6) < 1); /* it has just come */
    CHECK(n.share[6] == 0 && sl_newcomers_share(&n, 4096) == n.share[0]);
    CHECK(sl_newcomers_share(&n, 4097) == n.share[0] + n.share[7]);
    sl_offered_expect(&o, 660000000, &n);
    CHECK(fabs(n.share[0] - 0.3 * exp(-1)) < 0.01 && fabs(n.behind_us[7] - 7e6) < 1);
    sl_offered_add(&o, 1, 64, 1e6, 0); /* a time before the last one is that of the last one */
    CHECK(o.at_us == 600000000);
    for (uint32_t i = 0; i < 1000; i++)
        sl_offered_add(&o, 600000000, 64, 1e6, 0);
    sl_offered_expect(&o, 600000000, &n);
    CHECK(n.share[0] == 0.8 && sl_newcomers_share(&n, UINT32_MAX) == 0.8);
}

SL_TEST(who_is_passed_by_newcomers_until_their_keys_are_behind_its_own_is_done_so_much_later)
{
    struct sl_newcomers n = {.share = {0.5, 0.25}, .behind_us = {1000, 1000}};
    CHECK(sl_newcomers_end_us(&n, 500, 300, 1) == 300);  /* whoever comes is behind it */
    CHECK(sl_newcomers_end_us(&n, 1e9, 300, 1) == 1200); /* all pass it */
    CHECK(sl_newcomers_end_us(&n, 1400, 300, 1) == 600); /* those of the first 400 us do */
    n.behind_us[0] = 1300; /* of the larger size all do, of the other those of 100 us */
    CHECK(fabs(sl_newcomers_end_us(&n, 1400, 300, 1) - 450) < 1e-9); /* 300 + 0.5 * 100 + 0.25 * 400 */
    CHECK(fabs(sl_newcomers_end_us(&n, 1e9, 300, 0.6) - 300 / 0.03) < 1e-6);
}

/* By bisection: more is done than there was to do. */
static double plain_end_us(const struct sl_newcomers *n, double key_us, double work_us, double rate)
{
    double sum = 0, low = 0, high = work_us / rate * 20 + 1;
    for (uint32_t i = 0; i < SL_SIZES; i++)
        sum += n->share[i];
    double scale = fmin(1, 0.95 * rate / fmax(sum, 1e-9));
    for (uint32_t step = 0; step < 200; step++) {
        double end = (low + high) / 2, todo = work_us;
        for (uint32_t i = 0; i < SL_SIZES; i++)
            todo += scale * n->share[i] * fmax(fmin(key_us - n->behind_us[i], end), 0);
        *(todo > rate * end ? &low : &high) = end;
    }
    return high;
}

SL_TEST(the_end_is_that_of_a_search_for_it)
{
    struct sl_rng rng = {7, 0};
    for (uint32_t k = 0; k < 20000; k++) {
        struct sl_newcomers n = {0};
        double left = 0.8, rate = 0.02 + queue_draw(&rng, 99) / 100.0, work = 1 + queue_draw(&rng, 100000),
               key = (double)queue_draw(&rng, 300000) - 50000;
        for (uint32_t i = 0; i < SL_SIZES; i++) {
            n.share[i] = queue_draw(&rng, 2) ? left * queue_draw(&rng, 50) / 100 : 0;
            n.behind_us[i] = queue_draw(&rng, 200000);
            left -= n.share[i];
        }
        double end = sl_newcomers_end_us(&n, key, work, rate), plain = plain_end_us(&n, key, work, rate);
        CHECK(fabs(end / plain - 1) < 1e-9);
    }
}
