/* bench/layout_tape.c and layout_algebra.c against times that can be added up by hand, and layout_share.h against its promises. */
#include "bench/layout_algebra.h"
#include "bench/layout_share.h"
#include "tests/check.h"
#include <math.h>

static bool near(double a, double b)
{
    return fabs(a - b) < 1e-6 * (1 + fabs(b));
}

static struct sl_tape_event work(double ns)
{
    return (struct sl_tape_event){.kind = SL_TAPE_WORK, .part = SL_TAPE_STAGE, .ns = ns};
}
static struct sl_tape_event to(uint16_t peer, uint32_t bytes)
{
    return (struct sl_tape_event){.kind = SL_TAPE_SEND, .peer = peer, .amount = bytes};
}
static struct sl_tape_event from(uint16_t peer)
{
    return (struct sl_tape_event){.kind = SL_TAPE_TAKE, .peer = peer};
}

#define TAPE(...)                                                                                            \
    {                                                                                                        \
        .events = (struct sl_tape_event[]){__VA_ARGS__},                                                     \
        .n = sizeof(struct sl_tape_event[]){__VA_ARGS__} / sizeof(struct sl_tape_event)                      \
    }

SL_TEST(a_frame_is_there_after_those_before_it_at_the_rate_and_the_delay)
{
    struct sl_tape tapes[2] = {TAPE(work(100), to(1, 10), to(1, 20), work(5)),
                               TAPE(from(0), work(7), from(0))};
    struct sl_layout_played p;
    CHECK(sl_layout_play(tapes, 2, &(struct sl_layout_net){50, 2}, &p));
    CHECK(
        near(p.latency_ns, 100 + 30 * 2 + 50)); /* the second one; the first came at 170, worked until 177 */
    CHECK(near(p.waited_ns, (170 + (210 - 177)) / 2.0) && near(p.bytes, 30));
    CHECK(sl_layout_play(tapes, 2, &(struct sl_layout_net){0, 0}, &p));
    CHECK(near(p.latency_ns, 107));
}

SL_TEST(who_is_late_anyway_does_not_wait)
{
    struct sl_tape tapes[2] = {TAPE(to(1, 1)), TAPE(work(500), from(0), work(1))};
    struct sl_layout_played p;
    CHECK(sl_layout_play(tapes, 2, &(struct sl_layout_net){400, 0}, &p));
    CHECK(near(p.latency_ns, 501) && near(p.waited_ns, 0));
}

SL_TEST(a_frame_that_nobody_sends_is_found_and_not_waited_for)
{
    struct sl_tape tapes[2] = {TAPE(from(1), to(1, 1)), TAPE(from(0), to(0, 1))};
    struct sl_layout_played p;
    CHECK(!sl_layout_play(tapes, 2, &(struct sl_layout_net){0, 0}, &p));
}

SL_TEST(times_are_medians_of_rounds_that_did_the_same)
{
    struct sl_tape a = TAPE(work(3), to(1, 1)), b = TAPE(work(9), to(1, 1)), c = TAPE(work(4), to(1, 1)),
                   other = TAPE(work(3), to(1, 2)), median = {0};
    CHECK(sl_tape_medians(&median, (const struct sl_tape *const[]){&a, &b, &c}, 3));
    CHECK(median.n == 2 && near(median.events[0].ns, 4));
    CHECK(!sl_tape_medians(&median, (const struct sl_tape *const[]){&a, &other}, 2));
    sl_tape_free(&median);
}

static struct sl_tape_event pairs(uint32_t n)
{
    return (struct sl_tape_event){.kind = SL_TAPE_WORK, .part = SL_TAPE_EXPERTS, .amount = n};
}

SL_TEST(the_skew_is_the_busiest_nodes_layer_by_layer)
{
    struct sl_tape tapes[2] = {TAPE(pairs(6), pairs(2)), TAPE(pairs(2), pairs(6))};
    CHECK(near(sl_tape_skew(tapes, 2), 12 / 8.0));
}

SL_TEST(a_rows_experts_are_as_often_on_a_node_as_counting_says)
{
    uint32_t n = 0, hits = 0;
    for (uint32_t a = 0; a < 6; a++) /* 2 of 6 experts, 3 nodes: node 0 has 0 and 1 */
        for (uint32_t b = a + 1; b < 6; b++, n++)
            hits += a < 2;
    CHECK(near(sl_layout_hit(6, 2, 3), (double)hits / n));
    CHECK(near(sl_layout_hit(8, 8, 4), 1) && near(sl_layout_hit(8, 3, 1), 1));
}

SL_TEST(a_pipeline_takes_what_the_textbook_says)
{
    double chunks[4] = {80, 80, 80, 80};
    struct sl_layout_model model = {.n_layers = 8};
    struct sl_layout_one one = {.chunk_ns = chunks, .n_chunks = 4, .chunk_rows = 10, .n_rows = 40};
    struct sl_layout_foretold f = sl_layout_foretell_layers(&model, &one, 4, &(struct sl_layout_net){0, 0});
    CHECK(near(f.latency_ns, 20 * (4 + 3)) && near(f.ideal_ns, 140));
    f = sl_layout_foretell_layers(&model, &one, 4, &(struct sl_layout_net){5, 0});
    CHECK(near(f.latency_ns, 140 + 3 * 5) && near(f.ideal_ns, 140)); /* hidden but in the fill */
    model.n_layers = 6;                                              /* 1 2 1 2 */
    f = sl_layout_foretell_layers(&model, &one, 4, &(struct sl_layout_net){0, 0});
    CHECK(near(f.latency_ns, 80 / 6.0 * (1 + 2 * 4 + 1 + 2)));
}

SL_TEST(experts_wait_three_times_a_layer)
{
    struct sl_layout_model model = {
        .n_layers = 5, .n_routed = 4, .n_experts = 8, .top_k = 2, .out_bytes = 10, .back_bytes = 20};
    struct sl_layout_one one = {
        .n_rows = 128, .attention_ns = 1000, .route_ns = 100, .experts_ns = 600, .sum_ns = 60};
    struct sl_layout_net net = {7, 0};
    struct sl_layout_foretold f = sl_layout_foretell_experts(&model, &one, 2, 64, 1.5, &net);
    double hit = sl_layout_hit(8, 2, 2), frames = 2.0 * (5 + 2 * 4);
    CHECK(near(f.ideal_ns, (1100 + 1.5 * 600) / 2 + hit * 60));  /* a row's sum has more parts */
    CHECK(near(f.latency_ns, f.ideal_ns + 2 * (5 + 2 * 4) * 7)); /* two steps */
    CHECK(near(f.bytes, 2 * (64 * hit * 30 * 4 + frames * 192)));
    CHECK(near(sl_layout_foretell_experts(&model, &one, 1, 128, 1, &net).latency_ns, 1760));
    model.exact = true; /* each pair comes back by itself */
    CHECK(near(sl_layout_foretell_experts(&model, &one, 2, 64, 1.5, &net).bytes,
               2 * (64 * (hit * 10 + 20) * 4 + frames * 192)));
}

SL_TEST(everybody_has_as_many_pages_and_every_expert_one_owner)
{
    for (uint32_t n = 1; n <= 8; n++) {
        uint32_t count[8] = {0};
        uint64_t places[8] = {0};
        for (uint32_t page = 0; page < 4 * n; page++) {
            count[sl_layout_page_owner(page, n)]++;
            places[sl_layout_page_owner(page, n)] += page;
        }
        for (uint32_t k = 0; k < n; k++)
            CHECK(count[k] == 4 && places[k] == places[0]);
        for (uint32_t n_experts = n; n_experts < 20; n_experts++)
            for (uint32_t e = 0; e < n_experts; e++) {
                uint32_t owner = sl_layout_expert_owner(e, n, n_experts);
                CHECK(owner < n && sl_layout_expert_begin(owner, n, n_experts) <= e &&
                      e < sl_layout_expert_begin(owner + 1, n, n_experts));
            }
    }
}
