/* What the core says of a CANCEL: whether stages may be told of it before it comes to them, and what they may make of that. */
#include "tests/pipeline/decide/core_world.h"

static struct core_world *cancel_world(bool prefix_cache)
{
    struct core_world *w = calloc(1, sizeof *w);
    make_world_with(w, RUNNING, 0, prefix_cache);
    return w;
}

/* It is cancelled; returns the record that says so to the stages, as the decider wrote it. kind 0: there was none. */
static struct sl_action cancel(struct core_world *w, const struct heard *h)
{
    struct sl_action record = {0};
    sl_core_cancel(w->core, h->seq, &w->actions);
    for (uint32_t i = 0; i < w->actions.n; i++)
        if (w->list[i].kind == SL_ACTION_RECORD)
            record = w->list[i];
    carry_out(w);
    return record;
}

SL_TEST(stages_are_told_of_a_cancel_with_its_number_while_chunks_of_it_are_under_way)
{
    struct core_world *w = cancel_world(false);
    struct heard *h = ask(w, 60, 1);
    submit(w, h);
    decide(w);
    struct sl_action record = cancel(w, h);
    CHECK_INT(record.record.kind, SL_ORDER_CANCEL);
    CHECK(record.record.in_vain);
    CHECK_INT(record.record.number, 2);
    CHECK_INT(record.seq, h->seq);
    answer_all(w, 20);
    check_all_back(w);
    free(h);
    end_world(w);
}

SL_TEST(stages_are_not_told_of_a_cancel_when_all_its_chunks_are_done)
{
    struct core_world *w = cancel_world(false);
    struct heard *h = ask(w, 60, 10);
    submit(w, h);
    answer_all(w, 20); /* the decode worker has not adopted it */
    struct sl_action record = cancel(w, h);
    CHECK_INT(record.record.kind, SL_ORDER_CANCEL);
    CHECK(!record.record.in_vain);
    free(h);
    end_world(w);
}

/* Two prompts that begin alike; the second begins behind the pages of the first while they are under way. */
static void begin_behind(struct core_world *w, struct heard *h[2])
{
    for (uint32_t i = 0; i < 2; i++) {
        h[i] = ask(w, 200 + 10 * i, 10);
        submit(w, h[i]);
        decide(w);
    }
}

SL_TEST(stages_are_not_told_of_a_cancel_whose_pages_others_begin_behind)
{
    struct core_world *w = cancel_world(true);
    struct heard *h[2];
    begin_behind(w, h);
    struct sl_action record = cancel(w, h[0]);
    CHECK_INT(record.record.kind, SL_ORDER_FREE);
    CHECK(!record.record.in_vain);
    answer_all(w, 20);
    CHECK(!h[1]->ended && h[1]->n == 1);
    free(h[0]);
    free(h[1]);
    end_world(w);
}

SL_TEST(a_stage_that_gives_up_what_others_begin_behind_is_refused)
{
    struct core_world *w = cancel_world(true);
    struct heard *h[2];
    begin_behind(w, h);
    cancel(w, h[0]);
    w->gives_up = true;
    w->refused = "gives up what was not cancelled";
    CHECK(answer(w, 20));
    CHECK_INT(h[1]->n, 0);
    free(h[0]);
    free(h[1]);
    end_world(w);
}
