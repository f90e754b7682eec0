/* A stage that holds up its neighbours is named once, with a cut that is better by what is said. */
#include "pipeline/decide/balance.h"
#include "tests/check.h"
#include <math.h>

static struct sl_cost_fit fits[4];
static const uint32_t begin[] = {0, 10, 20, 30, 40};

static const uint64_t second = 1000000;

static void set(double s0, double s1, double s2, double s3)
{
    double speeds[] = {s0, s1, s2, s3};
    for (int k = 0; k < 4; k++) {
        struct sl_cost cost = {.us = {[SL_COST_C] = 100 * speeds[k], [SL_COST_B] = 10 * speeds[k]}};
        if (k == 3) /* whose last layer is a tenth of one */
            cost.us[SL_COST_C] *= 0.91, cost.us[SL_COST_B] *= 0.91;
        sl_cost_fit_init(&fits[k], &cost);
        fits[k].chunks = SL_BALANCE_CHUNKS;
    }
}

SL_TEST(equal_stages_are_nobodys_news_though_the_last_has_less_to_do)
{
    struct sl_balance b = {0};
    set(1, 1, 1, 1);
    for (uint64_t t = 1; t < 100; t++)
        CHECK(sl_balance_look(&b, begin, fits, 4, t * 10 * second) == SL_BALANCE_SAME);
    CHECK(b.told == 0);
}

SL_TEST(a_stage_that_is_slower_by_a_tenth_is_named_once_and_once_when_it_is_no_more)
{
    struct sl_balance b = {0};
    set(1, 1, 1.2, 1);
    CHECK(sl_balance_look(&b, begin, fits, 4, 10 * second) == SL_BALANCE_SAME); /* one look may be wrong */
    CHECK(sl_balance_look(&b, begin, fits, 4, 11 * second) == SL_BALANCE_SAME); /* too soon */
    CHECK(sl_balance_look(&b, begin, fits, 4, 20 * second) == SL_BALANCE_SLOW);
    CHECK(b.told == 3 && fabs(b.slower - 0.2) < 1e-9);
    for (uint64_t t = 3; t < 50; t++)
        CHECK(sl_balance_look(&b, begin, fits, 4, t * 10 * second) == SL_BALANCE_SAME);
    set(1, 1, 1.07, 1); /* between the two bounds nothing changes */
    CHECK(sl_balance_look(&b, begin, fits, 4, 600 * second) == SL_BALANCE_SAME && b.told == 3);
    set(1, 1, 1.02, 1);
    CHECK(sl_balance_look(&b, begin, fits, 4, 700 * second) == SL_BALANCE_EVEN && b.told == 0);
    CHECK(sl_balance_look(&b, begin, fits, 4, 800 * second) == SL_BALANCE_SAME);
    set(1.3, 1, 1, 1);
    sl_balance_look(&b, begin, fits, 4, 900 * second);
    CHECK(sl_balance_look(&b, begin, fits, 4, 910 * second) == SL_BALANCE_SLOW && b.told == 1);
}

SL_TEST(nine_percent_are_none_and_neither_are_few_chunks)
{
    struct sl_balance b = {0};
    set(1, 1.09, 1, 1);
    sl_balance_look(&b, begin, fits, 4, 10 * second);
    CHECK(sl_balance_look(&b, begin, fits, 4, 20 * second) == SL_BALANCE_SAME);
    set(1, 2, 1, 1);
    fits[0].chunks = SL_BALANCE_CHUNKS - 1;
    sl_balance_look(&b, begin, fits, 4, 30 * second);
    CHECK(sl_balance_look(&b, begin, fits, 4, 40 * second) == SL_BALANCE_SAME);
    CHECK(sl_balance_look(&b, begin, fits, 1, 50 * second) == SL_BALANCE_SAME);
}

SL_TEST(the_cut_that_is_proposed_mends_what_it_says)
{
    struct sl_cost costs[4];
    uint32_t cut[SL_MAX_STAGES + 1];
    set(1, 1, 1.5, 1);
    for (int k = 0; k < 4; k++)
        costs[k] = fits[k].now;
    double gain = sl_balance_cut(cut, &(struct sl_balance_stages){4, begin, costs}), most = 0,
           layer[] = {1, 1, 1.5, 1};
    CHECK(cut[0] == 0 && cut[4] == 40 && cut[3] - cut[2] < 10);
    for (int k = 0; k < 4; k++)
        most = fmax(most, layer[k] * (cut[k + 1] - cut[k] - (k == 3 ? 0.9 : 0)));
    CHECK(fabs(most - 15 * (1 - gain)) < 1e-9 && gain > 0.25);
    set(1, 1, 1, 1);
    for (int k = 0; k < 4; k++)
        costs[k] = fits[k].now;
    CHECK(sl_balance_cut(cut, &(struct sl_balance_stages){4, begin, costs}) == 0);
    CHECK(memcmp(cut, begin, sizeof begin) == 0);
}
