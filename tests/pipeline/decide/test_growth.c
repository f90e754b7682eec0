/* pipeline/decide/growth.c: what is expected of an answer is what the last ones became. */
#include "base/rng.h"
#include "pipeline/decide/growth.h"
#include "tests/check.h"
#include <stdlib.h>

SL_TEST(before_enough_were_seen_the_guess_is_expected)
{
    struct sl_growth g = {0}, told = {.guess = 40};
    for (uint32_t i = 0; i + 1 < SL_GROWTH_LEAST; i++)
        sl_growth_add(&g, 10);
    CHECK_INT(sl_growth_expect(&g, 0, 100000), 512);
    CHECK_INT(sl_growth_expect(&told, 0, 100000), 40);
    sl_growth_add(&g, 10);
    CHECK_INT(sl_growth_expect(&g, 0, 100000), 10);
}

SL_TEST(an_answer_that_is_longer_is_expected_to_grow_by_a_quarter_and_never_beyond_its_most)
{
    struct sl_growth g = {.guess = 100};
    CHECK_INT(sl_growth_expect(&g, 80, 100000), 100);
    CHECK_INT(sl_growth_expect(&g, 200, 100000), 250);
    CHECK_INT(sl_growth_expect(&g, 200, 210), 210);
    CHECK_INT(sl_growth_expect(&g, 3, 50), 50);
    CHECK_INT(sl_growth_expect(&g, 50, 50), 50);
    CHECK_INT(sl_growth_expect(&g, UINT32_MAX - 1, UINT32_MAX), UINT32_MAX); /* and does not wrap around */
}

static int by_length(const void *a, const void *b)
{
    const uint32_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

/* Against the last 512 sorted anew each time, as the definition has it. */
SL_TEST(the_expected_length_is_the_75th_percentile_of_the_last_512)
{
    enum { N = 2000 };
    static uint32_t all[N], window[SL_GROWTH_WINDOW];
    struct sl_growth g = {0};
    struct sl_rng rng = {4, 0};
    for (uint32_t n = 1; n <= N; n++) {
        all[n - 1] = (uint32_t)(sl_rng_next(&rng) % (n % 700 < 350 ? 20 : 3000)); /* many equal ones, too */
        sl_growth_add(&g, all[n - 1]);
        uint32_t m = n < SL_GROWTH_WINDOW ? n : SL_GROWTH_WINDOW;
        memcpy(window, all + n - m, m * sizeof *window);
        qsort(window, m, sizeof *window, by_length);
        if (n >= SL_GROWTH_LEAST && sl_growth_expect(&g, 0, UINT32_MAX) != window[m * 3 / 4])
            sl_test_fail(__FILE__, __LINE__, "after %u it expects %u and not %u", n,
                         sl_growth_expect(&g, 0, UINT32_MAX), window[m * 3 / 4]);
    }
}
