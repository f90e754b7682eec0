/* Tests of the heap of moments: the earliest comes first, always. */
#include "base/rng.h"
#include "bench/serve/moments.h"
#include "tests/check.h"

SL_TEST(moments_come_in_the_order_of_time)
{
    struct sl_moment_heap moments = {0};
    struct sl_rng rng = {5, 0};
    uint32_t in = 0, out = 0;
    uint64_t last = 0;
    CHECK(sl_moments_next(&moments) == UINT64_MAX);
    for (int round = 0; round < 1000; round++) {
        for (uint64_t i = sl_rng_next(&rng) % 20; i > 0; i--, in++)
            REQUIRE(sl_moments_add(&moments, (struct sl_moment){last + sl_rng_next(&rng) % 1000, in, 0}));
        for (uint64_t i = sl_rng_next(&rng) % 20; i > 0 && moments.n > 0; i--, out++) {
            uint64_t next = sl_moments_next(&moments);
            CHECK(next >= last && sl_moments_take(&moments).at_ns == next);
            last = next;
        }
    }
    CHECK_INT(moments.n, in - out);
    sl_moments_free(&moments);
}
