/* pipeline/decide/offered.c: what comes is counted by size for a minute or so, and then forgotten. */
#include "pipeline/decide/offered.h"
#include "tests/check.h"
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

SL_TEST(a_size_counts_for_those_above_it_and_is_forgotten)
{
    struct sl_offered o = {0};
    double share[SL_SIZES];
    for (uint64_t s = 1; s <= 600;
         s++) { /* 64 tokens and 0.3 s of work each second, 8k and 20 s each hundredth */
        sl_offered_add(&o, s * 1000000, 64, 0.3e6);
        if (s % 100 == 0)
            sl_offered_add(&o, s * 1000000, 8192, 20e6);
    }
    sl_offered_below(&o, 600000000, share);
    CHECK(share[0] == 0);
    CHECK(fabs(share[1] - 0.3) < 0.01 && share[7] == share[1]);
    CHECK(share[8] > 0.6 && share[8] <= 0.8); /* it has just come */
    sl_offered_below(&o, 660000000, share);
    CHECK(fabs(share[1] - 0.3 * exp(-1)) < 0.01);
    sl_offered_add(&o, 1, 64, 1e6); /* a time before the last one is that of the last one */
    CHECK(o.at_us == 600000000);
    for (uint32_t i = 0; i < 1000; i++)
        sl_offered_add(&o, 600000000, 64, 1e6);
    sl_offered_below(&o, 600000000, share);
    CHECK(share[1] == 0.8 && share[11] == 0.8);
}
