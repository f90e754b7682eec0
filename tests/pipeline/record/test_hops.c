/* Hops: what counts as one, on whose clock, and what strangers' clocks can't do to the sums. */
#include "pipeline/record/hops.h"
#include "tests/check.h"

enum { STAGES = 3 };

/* Runs for 100 us each, 7 us apart; the coordinator hears 20 us after the last. */
static const struct sl_trace honest[STAGES] = {{.recv_us = 990, .begin_us = 1000, .end_us = 1100},
                                               {.recv_us = 1107, .begin_us = 1110, .end_us = 1210},
                                               {.recv_us = 1217, .begin_us = 1217, .end_us = 1317}};
static const int64_t in_step[STAGES];

SL_TEST(a_hop_is_from_the_end_of_a_chunk_until_the_next_node_has_it)
{
    struct sl_hops hops = {0};
    for (int i = 0; i < 3; i++)
        sl_hops_add(&hops, honest, in_step, STAGES, 1337);
    CHECK_INT(hops.to[0].n, 0);
    CHECK_INT(hops.to[1].us, 3 * 7);
    CHECK_INT(hops.to[2].us, 3 * 7);
    CHECK_INT(hops.to[3].us, 3 * 20);
    CHECK_INT(hops.to[1].n + hops.to[2].n + hops.to[3].n, 9);
}

SL_TEST(clocks_that_are_ahead_change_nothing)
{
    const int64_t ahead_us[STAGES] = {500000, -300, 12};
    struct sl_trace traces[STAGES];
    for (int k = 0; k < STAGES; k++) {
        traces[k] = honest[k];
        traces[k].recv_us += (uint64_t)ahead_us[k];
        traces[k].begin_us += (uint64_t)ahead_us[k];
        traces[k].end_us += (uint64_t)ahead_us[k];
    }
    struct sl_hops hops = {0};
    sl_hops_add(&hops, traces, ahead_us, STAGES, 1337);
    CHECK_INT(hops.to[1].us, 7);
    CHECK_INT(hops.to[2].us, 7);
    CHECK_INT(hops.to[3].us, 20);
}

SL_TEST(an_error_of_the_clocks_makes_no_time_that_is_less_than_none)
{
    const int64_t wrong[STAGES] = {-30, 0, 0}; /* stage 0 seems to end when stage 1 has had it for long */
    struct sl_hops hops = {0};
    sl_hops_add(&hops, honest, wrong, STAGES, 1300);
    CHECK_INT(hops.to[1].us, 0);
    CHECK_INT(hops.to[1].n, 1);
    CHECK_INT(hops.to[3].us, 0);
}

SL_TEST(what_was_given_up_or_never_was_and_clocks_of_which_nothing_is_known_are_no_hops)
{
    struct sl_trace traces[STAGES] = {honest[0], honest[1], honest[2]};
    const int64_t unknown[STAGES] = {0, -(INT64_C(1) << 40), INT64_MIN};
    struct sl_hops hops = {0};
    sl_hops_add(&hops, honest, unknown, STAGES, 1337);
    CHECK_INT(hops.to[1].n + hops.to[2].n, 0);
    traces[0].begin_us = SL_GIVEN_UP;
    traces[2].recv_us = 0;
    traces[2].end_us = 0;
    sl_hops_add(&hops, traces, in_step, STAGES, 1337);
    CHECK_INT(hops.to[1].n + hops.to[2].n + hops.to[3].n, 0);
    sl_hops_add(&hops, honest, in_step, 1, 1200); /* one stage: its result is all there is */
    CHECK_INT(hops.to[1].us, 100);
}
