/* pipeline/record/span.c: times of clocks that have nothing in common, on one. */
#include "pipeline/record/span.h"
#include "tests/check.h"

enum { STAGES = 4 };

/* Clocks of the stages minus the coordinator's: machines that were started in different weeks. */
static const int64_t planted[STAGES] = {700000000000, -3000000, 42, -600000000000};

/* What the links would measure, each wrong by wrong[k]; wrong[0] is the coordinator's, to stage 0. */
static int64_t measure(struct sl_trace traces[STAGES], const int64_t wrong[STAGES + 1])
{
    for (int k = 0; k < STAGES; k++)
        traces[k] = (struct sl_trace){.next_offset_us =
                                          (k + 1 < STAGES ? planted[k + 1] : 0) - planted[k] + wrong[k + 1]};
    return planted[0] + wrong[0];
}

SL_TEST(offsets_add_up_along_the_stages)
{
    struct sl_trace traces[STAGES];
    int64_t offsets[SL_MAX_STAGES] = {0};
    sl_span_offsets(offsets, traces, STAGES, measure(traces, (const int64_t[STAGES + 1]){0}));
    for (int k = 0; k < STAGES; k++)
        CHECK_INT(offsets[k], planted[k]);
    CHECK_INT(offsets[STAGES], 0);
    sl_span_offsets(offsets, traces, 1, -5000000); /* one stage; what is behind it does not matter */
    CHECK_INT(offsets[0], -5000000);
}

SL_TEST(what_the_loop_does_not_close_by_is_shared_out)
{
    struct sl_trace traces[STAGES];
    int64_t offsets[SL_MAX_STAGES];
    sl_span_offsets(offsets, traces, STAGES,
                    measure(traces, (const int64_t[STAGES + 1]){50, 50, 50, 50, 50}));
    for (int k = 0; k < STAGES; k++)
        CHECK_INT(offsets[k], planted[k]);
    sl_span_offsets(offsets, traces, STAGES, measure(traces, (const int64_t[STAGES + 1]){0, 0, -500, 0, 0}));
    for (int k = 0; k < STAGES; k++) { /* the last stage would be wrong by all of it */
        int64_t wrong = offsets[k] - planted[k];
        CHECK(wrong >= -300 && wrong <= 300);
    }
}

SL_TEST(an_offset_that_is_not_known_spoils_no_other)
{
    struct sl_trace traces[STAGES];
    int64_t offsets[SL_MAX_STAGES], first = measure(traces, (const int64_t[STAGES + 1]){0});
    traces[STAGES - 1].next_offset_us = 0;
    sl_span_offsets(offsets, traces, STAGES, first);
    for (int k = 0; k < STAGES; k++)
        CHECK_INT(offsets[k], planted[k]);
    measure(traces, (const int64_t[STAGES + 1]){0});
    traces[1].next_offset_us = 0;
    sl_span_offsets(offsets, traces, STAGES, first);
    CHECK_INT(offsets[0], planted[0]);
    CHECK_INT(offsets[1], planted[1]);
}

SL_TEST(any_value_is_taken) /* UBSan looks on */
{
    static const int64_t wild[] = {INT64_MIN, INT64_MAX, INT64_MIN + 1, INT64_MIN, -1, 0};
    struct sl_trace traces[SL_MAX_STAGES];
    int64_t offsets[SL_MAX_STAGES];
    for (uint32_t k = 0; k < SL_MAX_STAGES; k++)
        traces[k] = (struct sl_trace){.next_offset_us = wild[k % (sizeof wild / sizeof *wild)]};
    sl_span_offsets(offsets, traces, SL_MAX_STAGES, INT64_MIN);
    CHECK_INT(offsets[0], INT64_MIN);
    for (uint32_t k = 0; k < SL_MAX_STAGES; k++)
        CHECK(sl_span_time(UINT64_MAX, offsets[k]) <= INT64_MAX);
}

SL_TEST(times_are_moved_to_the_coordinators_clock)
{
    CHECK_INT(sl_span_time(1000, 0), 1000);
    CHECK_INT(sl_span_time(1000, 300), 700);
    CHECK_INT(sl_span_time(1000, -300), 1300);
    CHECK_INT(sl_span_time(0, -300), 0); /* never */
    CHECK_INT(sl_span_time(1000, 1001), 0);
    CHECK_INT(sl_span_time(UINT64_MAX, 0), 0);
    CHECK_INT(sl_span_time(5, INT64_MIN), 0);
    CHECK_INT(sl_span_time(UINT64_C(1) << 63, 1), INT64_MAX);
}
