/* How the door shares out descriptors; what it does with connections and messages is in tests/e2e/test_door.py. */
#include "tests/check.h"

#include "node/rpc/door.h"

SL_TEST(descriptors_are_kept_for_everything_else)
{
    static const uint64_t limits[] = {300, 1024, 4096, 20000, 65536, 1048576};
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++)
        for (uint64_t used = 20; used < 100; used += 20) {
            uint32_t total = 0, most = sl_door_plan(limits[i], used, &total);
            CHECK(most >= 8 && most <= SL_DOOR_CONNECTIONS);
            CHECK(used + SL_DOOR_RESERVE + total <= limits[i]);
            CHECK(total >= most + 2 * (most / 8)); /* full of idle ones, some can still call */
        }
}

SL_TEST(ten_thousand_connections_fit_twenty_thousand_descriptors)
{
    uint32_t total;
    CHECK(sl_door_plan(20000, 100, &total) >= 10000);
}

SL_TEST(too_few_descriptors_are_no_plan)
{
    uint32_t total;
    CHECK_INT(sl_door_plan(100, 30, &total), 0);
    CHECK_INT(sl_door_plan(0, 30, &total), 0);
    CHECK_INT(sl_door_plan(130, 30, &total), 0);
}

SL_TEST(a_message_of_any_size_fits_its_pool)
{
    static const uint32_t node[SL_DOOR_POOLS] = SL_DOOR_POOL_BYTES,
                          connection[SL_DOOR_POOLS] = SL_DOOR_CONNECTION_BYTES;
    CHECK(connection[0] >= SL_DOOR_SMALL_MESSAGE && connection[0] <= node[0]);
    CHECK(connection[1] >= 32u << 20 && connection[1] <= node[1]); /* the largest message that is served */
}
