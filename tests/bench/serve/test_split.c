/* Tests of the split of the time to the first token: by hand, and that it adds up whatever the clocks say. */
#include "base/rng.h"
#include "bench/serve/drive.h"
#include "tests/check.h"

static uint64_t sum_of(const uint32_t parts[SL_PARTS])
{
    uint64_t sum = 0;
    for (int i = 0; i < SL_PART_KV; i++)
        sum += parts[i];
    return sum;
}

SL_TEST(a_request_of_two_chunks_over_two_stages_is_split_as_by_hand)
{
    /* stage 0: 10-30, 30-50; stage 1: 32-52, 55-75; first token at 80; the last page at 90 */
    struct sl_span spans[] = {
        {.stage = 0, .chunk = 0, .begin_us = 1010, .end_us = 1030, .kv_acked_us = 1040},
        {.stage = 0, .chunk = 1, .begin_us = 1030, .end_us = 1050, .kv_acked_us = 1060},
        {.stage = 1, .chunk = 0, .begin_us = 1032, .end_us = 1052, .kv_acked_us = 1062},
        {.stage = 1, .chunk = 1, .begin_us = 1055, .end_us = 1075, .kv_acked_us = 1090},
    };
    struct sl_timeline timeline = {1000, 0, 1080, 1200, 2, 4, spans, 0, NULL};
    uint32_t parts[SL_PARTS];
    REQUIRE(sl_split(&timeline, 5000000, 5100000, parts));
    CHECK_INT(parts[SL_PART_WIRE], 20);
    CHECK_INT(parts[SL_PART_QUEUE], 10);
    CHECK_INT(parts[SL_PART_FILL], 22);
    CHECK_INT(parts[SL_PART_BUSY], 40);
    CHECK_INT(parts[SL_PART_STALL], 3);
    CHECK_INT(parts[SL_PART_DRAIN], 5);
    CHECK_INT(parts[SL_PART_KV], 10);
    CHECK_INT(sum_of(parts), 100);
}

SL_TEST(the_parts_add_up_whatever_the_clocks_say)
{
    struct sl_rng rng = {11, 0};
    for (int round = 0; round < 20000; round++) {
        struct sl_span spans[6];
        for (int i = 0; i < 6; i++) {
            uint64_t begin = sl_rng_next(&rng) % 3000;
            spans[i] = (struct sl_span){
                .stage = (uint16_t)(i % 3), .begin_us = begin, .end_us = begin + sl_rng_next(&rng) % 500};
        }
        uint64_t submit = sl_rng_next(&rng) % 2000, whole_us = sl_rng_next(&rng) % 4000;
        struct sl_timeline timeline = {submit, 0,   submit + sl_rng_next(&rng) % 2000, 5000, 3, 6, spans,
                                       0,      NULL};
        uint32_t parts[SL_PARTS];
        REQUIRE(sl_split(&timeline, 77, 77 + whole_us * 1000, parts));
        REQUIRE(sum_of(parts) == whole_us);
    }
}

SL_TEST(without_spans_of_the_ends_there_is_no_split)
{
    struct sl_span span = {.stage = 0, .begin_us = 5, .end_us = 6};
    struct sl_timeline timeline = {1, 0, 10, 12, 2, 1, &span, 0, NULL};
    uint32_t parts[SL_PARTS];
    CHECK(!sl_split(&timeline, 0, 100000, parts));
    timeline.n_stages = 0;
    CHECK(!sl_split(&timeline, 0, 100000, parts));
}
