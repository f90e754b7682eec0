/* pipeline/decide/core_refill.c: what was said is in the prefix cache when there was time, nobody waits for it, and nobody is told. */
#include "pipeline/decide/core_impl.h"
#include "tests/pipeline/decide/core_world.h"

enum { PROMPT = 70, OUT = 80 };

static struct core_world *world(void)
{
    struct core_world *w = calloc(1, sizeof *w);
    make_world_with(w, RUNNING, 0, true);
    w->core->config.schedule = SL_SCHEDULE_SLO;
    return w;
}

static bool is_refill(const struct waiting *at)
{
    return at->kind == SL_ORDER_RUN && at->order.slices[0].flags & SL_SLICE_RESTORE;
}

/* A prompt of PROMPT and an answer of OUT tokens; the answer's ids are 100, 101, ... */
static struct heard *converse(struct core_world *w)
{
    struct heard *h = ask(w, PROMPT, OUT);
    submit(w, h);
    decide(w);
    while (h->n == 0 && answer(w, 100))
        decide(w);
    CHECK(say(w, h->seq, SL_TOKENS_ADOPTED, 0, 0) == NULL);
    decide(w);
    while (answer(w, 0))
        decide(w);
    for (uint32_t n = 1; n < OUT; n++) {
        CHECK(say(w, h->seq, SL_TOKENS_TOKEN, 100 + n, n + 1 == OUT ? SL_TEXT_IS_FULL : SL_TEXT_GOES_ON) ==
              NULL);
        decide(w);
    }
    CHECK(say(w, h->seq, SL_TOKENS_ENDED, 0, 0) == NULL);
    CHECK(h->ended && h->n == OUT);
    return h;
}

/* The next turn: prompt, answer, and more. */
static struct heard *next_turn(struct core_world *w, const struct heard *before, uint32_t *ids)
{
    memcpy(ids, w->ids, PROMPT * sizeof *ids);
    memcpy(ids + PROMPT, before->tokens, OUT * sizeof *ids);
    for (uint32_t i = PROMPT + OUT; i < PROMPT + OUT + 30; i++)
        ids[i] = i;
    struct heard *h = ask(w, PROMPT + OUT + 30, 1);
    h->ask.ids = ids;
    return h;
}

SL_TEST(what_was_said_is_filled_when_nobody_wants_anything_and_the_next_turn_begins_behind_it)
{
    struct core_world *w = world();
    struct heard *h = converse(w);
    struct sl_core_load load;
    uint32_t ids[CONTEXT], ran = 0;
    decide(w);
    REQUIRE(w->head != w->tail && is_refill(&w->log[w->tail % LOG]));
    sl_core_load(w->core, &load);
    CHECK(load.live == 0 && load.running == 0 && load.waiting == 0 && load.prefilling == 0);
    while (w->head != w->tail) {
        const struct waiting *at = &w->log[w->tail % LOG];
        ran += is_refill(at) ? at->order.n_tokens : 0;
        CHECK(!is_refill(at) || w->core->runs_in_flight <= 1);
        REQUIRE(answer(w, 0));
        decide(w);
    }
    CHECK_INT(ran, (PROMPT + OUT) / SL_PAGE * SL_PAGE - PROMPT / SL_PAGE * SL_PAGE);
    CHECK_INT(w->core->refills.n, 0);
    struct heard *more = next_turn(w, h, ids);
    submit(w, more);
    decide(w);
    CHECK_INT(w->log[w->tail % LOG].order.slices[0].pos, 128);
    while (answer(w, 42))
        decide(w);
    CHECK(more->ended && more->status == SL_OK && h->n_ended == 1);
    free(h);
    free(more);
    end_world(w);
}

/* Nothing that the stages are at is lost by it. */
SL_TEST(who_comes_ends_a_refill_and_the_chunk_that_is_under_way_is_not_filled_again)
{
    struct core_world *w = world();
    struct heard *h = converse(w);
    decide(w);
    REQUIRE(is_refill(&w->log[w->tail % LOG]));
    struct heard *other = ask(w, 200, 1);
    submit(w, other);
    CHECK_INT(w->log[(w->head - 1) % LOG].kind, SL_ORDER_FREE);
    decide(w);
    uint32_t refills = 0;
    while (w->head != w->tail) {
        const struct waiting *at = &w->log[w->tail % LOG];
        refills += is_refill(at);
        REQUIRE(answer(w, 42));
        decide(w);
    }
    CHECK(other->ended && other->status == SL_OK);
    CHECK(refills == 1 && w->core->refills.n == 0 && !w->core->refills.active);
    struct sl_core_load load;
    sl_core_load(w->core, &load);
    CHECK(load.live == 0 && load.prefilling == 0);
    free(h);
    free(other);
    end_world(w);
}

/* Until nothing is under way. */
static void count_refills(struct core_world *w, uint32_t *refills)
{
    *refills = 0;
    decide(w);
    while (w->head != w->tail) {
        *refills += is_refill(&w->log[w->tail % LOG]);
        REQUIRE(answer(w, 42));
        decide(w);
    }
}

SL_TEST(an_answer_is_not_filled_when_the_next_turn_has_come_first)
{
    struct core_world *w = world();
    struct heard *h = converse(w);
    uint32_t ids[CONTEXT], refills;
    struct heard *more = next_turn(w, h, ids);
    submit(w, more); /* it has filled what was said itself */
    count_refills(w, &refills);
    CHECK_INT(refills, 0);
    CHECK(more->ended && w->core->refills.n == 0);
    free(h);
    free(more);
    end_world(w);
}

SL_TEST(an_answer_is_not_filled_when_its_prompt_was_evicted)
{
    enum { OTHERS = 3 };
    static uint32_t ids[OTHERS][CONTEXT];
    struct core_world *w = world();
    struct heard *h = converse(w), *others[OTHERS];
    uint32_t refills;
    for (uint32_t k = 0; k < OTHERS; k++) {
        for (uint32_t i = 0; i < CONTEXT; i++)
            ids[k][i] = 200 + k + i % 500;
        others[k] = ask(w, 449, 1); /* eight pages: there are sixteen */
        others[k]->ask.ids = ids[k];
        submit(w, others[k]);
    }
    count_refills(w, &refills);
    CHECK_INT(refills, 0);
    CHECK_INT(w->core->refills.n, 0);
    for (uint32_t k = 0; k < OTHERS; k++) {
        CHECK(others[k]->ended && others[k]->status == SL_OK);
        free(others[k]);
    }
    free(h);
    end_world(w);
}

SL_TEST(a_pipeline_that_is_lost_or_drains_leaves_no_refill_behind)
{
    for (int lost = 0; lost < 2; lost++) {
        struct core_world *w = world();
        struct heard *h = converse(w);
        decide(w);
        REQUIRE(w->core->refills.active);
        if (lost)
            sl_core_lose(w->core, SL_E_UNAVAILABLE, "gone", &w->actions);
        else
            sl_core_drain(w->core, &w->actions);
        carry_out(w);
        while (!lost && answer(w, 0))
            decide(w);
        CHECK(!w->core->refills.active && w->core->free_requests.n_free == w->core->config.max_requests);
        free(h);
        end_world(w);
    }
}
