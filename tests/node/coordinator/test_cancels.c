/* node/coordinator/cancels.c, with a core that has a pipeline of one stage and nobody who answers: from a cancel to its last trace. */
#include "node/coordinator/cancels.h"
#include "tests/check.h"
#include <stdlib.h>

enum { REQUESTS = 4 };

struct bench {
    struct sl_arena arena;
    struct sl_plan plan;
    struct sl_core *core;
    struct sl_action *list;
    struct sl_actions actions;
    struct sl_ask asks[REQUESTS];
    uint32_t ids[64];
    struct sl_cancels cancels;
    struct sl_hist hists[SL_WHERES], in_vain;
    struct sl_trace trace; /* of what is answered */
    int64_t ahead_us;      /* the stage's clock */
};

static void make_bench(struct bench *b)
{
    static const struct sl_plan_model model = {
        .n_layers = 2, .max_pos = 512, .d_model = 8, .vocab = 1000, .kv_layer_bytes = 64};
    struct sl_plan_options options = {
        .n_stages = 1, .chunk_tokens = 64, .max_prefill = 2, .max_running = 2, .kv_tokens = 1024, .epoch = 1};
    REQUIRE(sl_plan_make(&b->plan, &model, &options, NULL) == SL_OK);
    struct sl_core_config config = {.plan = &b->plan, .max_requests = REQUESTS};
    REQUIRE(sl_arena_init(&b->arena, sl_core_bytes(&config), NULL) == SL_OK);
    REQUIRE(sl_core_init(&b->core, &b->arena, &config) == SL_OK);
    b->actions.room = sl_core_max_actions(b->core);
    b->actions.list = b->list = calloc(b->actions.room, sizeof *b->list);
    sl_core_complete(b->core, &b->actions);
    b->actions.n = 0;
}

static uint64_t submit(struct bench *b, uint32_t i)
{
    b->asks[i] = (struct sl_ask){.ids = b->ids,
                                 .n_ids = 20,
                                 .max_tokens = 1,
                                 .sampling = {.top_p = 1, .n_logprobs = -1},
                                 .prompt_logprobs = -1};
    uint64_t seq = sl_core_submit(b->core, 0, &b->asks[i], &b->actions);
    b->actions.n = 0;
    CHECK(seq != 0);
    return seq;
}

static void cancel(struct bench *b, uint64_t seq, uint64_t now_us)
{
    enum sl_where from = sl_core_where(b->core, seq);
    sl_core_cancel(b->core, seq, &b->actions);
    b->actions.n = 0;
    sl_cancels_add(&b->cancels, b->core, seq, from, now_us, b->hists);
}

/* The next record is answered, of n slices of sequences from `seq` on, which end their prompts. */
static void answer(struct bench *b, enum sl_order_kind kind, uint64_t number, const uint64_t *seqs,
                   uint32_t n)
{
    uint8_t bytes[1024];
    struct sl_cursor out = sl_cursor_over(bytes, sizeof bytes);
    struct sl_result_head head = {.number = number, .kind = kind, .n_slices = n, .traces = {b->trace}};
    sl_result_put_head(&out, &head, 1);
    struct sl_cursor in = sl_cursor_over(out.at, (size_t)(bytes + sizeof bytes - out.at));
    for (uint32_t i = 0; i < n; i++)
        sl_result_put_slice(
            &out, &(struct sl_result_slice){.seq = seqs[i], .n = 20, .has_token = true, .first = {.id = 3}});
    if (kind == SL_ORDER_RUN)
        sl_cancels_ran(&b->cancels, b->core, in, &head, &b->ahead_us, 1);
    const char *bad = sl_core_result(b->core, bytes, (size_t)(out.at - bytes), &b->actions);
    CHECK_STR(bad ? bad : "", "");
    b->actions.n = 0;
}

SL_TEST(a_cancel_lasts_until_nothing_is_left)
{
    struct bench *b = calloc(1, sizeof *b);
    make_bench(b);
    uint64_t queued = submit(b, 0);
    cancel(b, queued, 100);
    CHECK_INT(b->hists[SL_WHERE_QUEUED].count, 1);
    CHECK_INT(b->hists[SL_WHERE_QUEUED].sum_us, 0);
    uint64_t seq = submit(b, 1);
    sl_core_decide(b->core, 200, &b->actions);
    b->actions.n = 0;
    cancel(b, seq, 1000);
    cancel(b, seq, 1500); /* again: it counts from the first */
    sl_cancels_look(&b->cancels, b->core, 2000, b->hists, &b->in_vain);
    CHECK_INT(b->cancels.n, 1);
    answer(b, SL_ORDER_RUN, 1, &seq, 1);
    sl_cancels_look(&b->cancels, b->core, 3000, b->hists, &b->in_vain);
    CHECK_INT(b->hists[SL_WHERE_PREFILL].count, 0);
    answer(b, SL_ORDER_CANCEL, 2, NULL, 0);
    sl_cancels_look(&b->cancels, b->core, 5000, b->hists, &b->in_vain);
    CHECK_INT(b->hists[SL_WHERE_PREFILL].count, 1);
    CHECK_INT(b->hists[SL_WHERE_PREFILL].sum_us, 4000);
    CHECK_INT(b->cancels.n, 0);
    cancel(b, seq, 6000); /* nobody by that name any more */
    CHECK_INT(b->cancels.n, 0);
    sl_arena_fini(&b->arena);
    free(b->list);
    free(b);
}

/* Cancelled at 1000, while a chunk of it is under way, of which the stage says `trace`. */
static uint64_t in_vain_us(struct sl_trace trace, int64_t ahead_us)
{
    struct bench *b = calloc(1, sizeof *b);
    make_bench(b);
    uint64_t seq = submit(b, 0);
    sl_core_decide(b->core, 200, &b->actions);
    b->actions.n = 0;
    cancel(b, seq, 1000);
    b->trace = trace;
    b->ahead_us = ahead_us;
    answer(b, SL_ORDER_RUN, 1, &seq, 1);
    answer(b, SL_ORDER_CANCEL, 2, NULL, 0);
    sl_cancels_look(&b->cancels, b->core, 9000, b->hists, &b->in_vain);
    CHECK_INT(b->in_vain.count, 1);
    uint64_t sum_us = b->in_vain.sum_us;
    sl_arena_fini(&b->arena);
    free(b->list);
    free(b);
    return sum_us;
}

SL_TEST(stages_work_in_vain_until_the_last_of_them_is_done_with_what_it_runs_for_nobody_else)
{
    CHECK_INT(in_vain_us((struct sl_trace){.begin_us = 800, .end_us = 1300}, 0), 300);
    CHECK_INT(in_vain_us((struct sl_trace){.begin_us = 5800, .end_us = 6300}, 5000), 300); /* another clock */
    CHECK_INT(in_vain_us((struct sl_trace){.begin_us = SL_GIVEN_UP, .end_us = 1300}, 0), 300); /* too late */
    CHECK_INT(in_vain_us((struct sl_trace){.begin_us = SL_GIVEN_UP}, 0), 0);
    CHECK_INT(in_vain_us((struct sl_trace){.begin_us = 300, .end_us = 900}, 0), 0); /* it was wanted then */
}

SL_TEST(what_is_run_for_others_too_is_not_in_vain)
{
    struct bench *b = calloc(1, sizeof *b);
    make_bench(b);
    uint64_t seqs[2] = {submit(b, 0), submit(b, 1)};
    sl_core_decide(b->core, 200, &b->actions); /* one chunk of both */
    b->actions.n = 0;
    cancel(b, seqs[0], 1000);
    b->trace = (struct sl_trace){.begin_us = 800, .end_us = 1300};
    answer(b, SL_ORDER_RUN, 1, seqs, 2);
    answer(b, SL_ORDER_CANCEL, 2, NULL, 0);
    sl_cancels_look(&b->cancels, b->core, 9000, b->hists, &b->in_vain);
    CHECK_INT(b->in_vain.count, 1);
    CHECK_INT(b->in_vain.sum_us, 0);
    sl_arena_fini(&b->arena);
    free(b->list);
    free(b);
}

SL_TEST(more_than_can_be_watched_are_not)
{
    struct bench *b = calloc(1, sizeof *b);
    make_bench(b);
    uint64_t seq = submit(b, 0);
    sl_core_decide(b->core, 0, &b->actions);
    for (b->cancels.n = 0; b->cancels.n < SL_CANCELS_WATCHED; b->cancels.n++)
        b->cancels.watched[b->cancels.n] = (struct sl_cancel){1, 1, SL_WHERE_PREFILL, 0};
    cancel(b, seq, 10);
    CHECK_INT(b->cancels.n, SL_CANCELS_WATCHED);
    sl_cancels_look(&b->cancels, b->core, 20, b->hists, &b->in_vain); /* those are long gone */
    CHECK_INT(b->cancels.n, 0);
    sl_arena_fini(&b->arena);
    free(b->list);
    free(b);
}
