/* A stage that holds up its neighbours is named once, with a cut that is better by what is said. */
#include "pipeline/decide/balance.h"
#include "tests/check.h"
#include <math.h>

static struct sl_cost_fit fits[4];
static const uint32_t begin[] = {0, 10, 20, 30, 40};

static const uint64_t second = 1000000;

/* So many more chunks, of which each takes 1000 us a layer, or more by these factors. */
static void run(double s0, double s1, double s2, double s3, uint64_t chunks)
{
    double speeds[] = {s0, s1, s2, s3};
    for (int k = 0; k < 4; k++) { /* the last stage's last layer is a tenth of one */
        fits[k].measured_us += (double)chunks * 1000 * speeds[k] * (k == 3 ? 9.1 : 10);
        fits[k].chunks += chunks;
    }
}

static void set(double s0, double s1, double s2, double s3)
{
    run(s0, s1, s2, s3, SL_BALANCE_CHUNKS);
}

SL_TEST(equal_stages_are_nobodys_news_though_the_last_has_less_to_do)
{
    struct sl_balance b = {0};
    for (uint64_t t = 1; t < 100; t++) {
        set(1, 1, 1, 1);
        CHECK(sl_balance_look(&b, begin, fits, 4, t * 10 * second) == SL_BALANCE_SAME);
    }
    CHECK(b.told == 0);
}

static enum sl_balance_news look(struct sl_balance *b, double slow, uint64_t at_s)
{
    set(1, 1, slow, 1);
    return sl_balance_look(b, begin, fits, 4, at_s * second);
}

SL_TEST(a_stage_that_is_slower_by_a_tenth_is_named_once_and_once_when_it_is_no_more)
{
    struct sl_balance b = {0};
    memset(fits, 0, sizeof fits);
    CHECK(look(&b, 1.2, 10) == SL_BALANCE_SAME); /* one look may be wrong */
    CHECK(look(&b, 1.2, 11) == SL_BALANCE_SAME); /* too soon */
    CHECK(look(&b, 1.2, 20) == SL_BALANCE_SLOW);
    CHECK(b.told == 3 && fabs(b.slower - 0.2) < 1e-9);
    for (uint64_t t = 3; t < 50; t++)
        CHECK(look(&b, 1.2, 10 * t) == SL_BALANCE_SAME);
    CHECK(look(&b, 1.07, 600) == SL_BALANCE_SAME && b.told == 3); /* between the two bounds nothing changes */
    CHECK(look(&b, 1.02, 700) == SL_BALANCE_EVEN && b.told == 0);
    CHECK(look(&b, 1.02, 800) == SL_BALANCE_SAME);
}

SL_TEST(nine_percent_are_none_and_neither_are_few_chunks)
{
    struct sl_balance b = {0};
    memset(fits, 0, sizeof fits);
    for (uint64_t t = 1; t < 10; t++)
        CHECK(look(&b, 1.09, 10 * t) == SL_BALANCE_SAME);
    for (uint64_t t = 10; t < 20; t++) {
        run(1, 3, 1, 1, SL_BALANCE_CHUNKS / 16);
        CHECK(sl_balance_look(&b, begin, fits, 4, t * 10 * second) == SL_BALANCE_SAME);
    }
    CHECK(sl_balance_look(&b, begin, fits, 1, 5000 * second) == SL_BALANCE_SAME);
}

SL_TEST(the_cut_that_is_proposed_mends_what_it_says)
{
    double slow[] = {10, 10, 15, 9.1}, even[] = {10, 10, 10, 9.1}, layer[] = {1, 1, 1.5, 1}, most = 0;
    uint32_t cut[SL_MAX_STAGES + 1];
    double gain = sl_balance_cut(cut, &(struct sl_balance_stages){4, begin, slow});
    CHECK(cut[0] == 0 && cut[4] == 40 && cut[3] - cut[2] < 10);
    for (int k = 0; k < 4; k++)
        most = fmax(most, layer[k] * (cut[k + 1] - cut[k] - (k == 3 ? 0.9 : 0)));
    CHECK(fabs(most - 15 * (1 - gain)) < 1e-9 && gain > 0.25);
    CHECK(sl_balance_cut(cut, &(struct sl_balance_stages){4, begin, even}) == 0);
    CHECK(memcmp(cut, begin, sizeof begin) == 0);
    double little[] = {11, 10, 10, 9.86}; /* another cut would take 10.95 in place of 11 */
    CHECK(sl_balance_cut(cut, &(struct sl_balance_stages){4, begin, little}) == 0);
    CHECK(memcmp(cut, begin, sizeof begin) == 0);
}
