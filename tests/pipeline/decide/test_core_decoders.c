/* pipeline/decide/core_decoders.c: decode workers that come, go, and are lost, by hand. */
#include "tests/pipeline/decide/core_world.h"

static struct core_world *world_of(uint32_t n_decoders)
{
    struct core_world *w = malloc(sizeof *w);
    make_world_of(w, n_decoders, RUNNING, 0);
    return w;
}

/* The last ADOPT of a kind. */
static uint32_t last_of(const struct core_world *w, enum sl_adopt_kind kind)
{
    uint32_t i = w->n_adopts;
    while (i > 0 && w->adopts[i - 1].kind != kind)
        i--;
    CHECK(i > 0);
    return i > 0 ? i - 1 : 0;
}

static void lose(struct core_world *w, uint32_t decoder, const char *spoiled)
{
    sl_core_decoder_lost(w->core, decoder, spoiled, &w->actions);
    carry_out(w);
}

static void decide_at(struct core_world *w, uint64_t now_us)
{
    sl_core_decide(w->core, now_us, &w->actions);
    carry_out(w);
}

/* Prefilled, taken and adopted; returns the place of its decode worker. */
static uint32_t adopt(struct core_world *w, struct heard *h, uint32_t first)
{
    submit(w, h);
    answer_all(w, first);
    uint32_t take = last_of(w, SL_ADOPT_TAKE);
    w->speaker = w->adopted_by[take];
    CHECK(say(w, w->adopts[take].seq, SL_TOKENS_ADOPTED, 0, 0) == NULL);
    answer_all(w, first);
    return w->speaker;
}

/* It is taken for the second time: with what was told, and nothing is told again. */
static void take_again(struct core_world *w, struct heard *h, uint32_t n_told, uint32_t last_id)
{
    answer_all(w, 999); /* no token comes of it */
    const struct sl_adopt *take = &w->adopts[last_of(w, SL_ADOPT_TAKE)];
    CHECK_INT(h->n, n_told);
    CHECK_INT(take->n_out, n_told);
    CHECK_INT(take->first_id, last_id);
    CHECK_INT(take->prompt_tokens, h->ask.n_ids + n_told - 1);
}

SL_TEST(answers_are_spread_over_the_decode_workers)
{
    struct core_world *w = world_of(3);
    struct heard *h[3];
    uint32_t seen = 0;
    for (uint32_t i = 0; i < 3; i++) {
        h[i] = ask(w, 70, 8);
        seen |= 1u << adopt(w, h[i], 20);
    }
    CHECK_INT(seen, 7);
    for (uint32_t i = 0; i < 3; i++)
        sl_core_cancel(w->core, h[i]->seq, &w->actions), carry_out(w);
    for (uint32_t i = 0, n = w->n_adopts; i < n; i++)
        if (w->adopts[i].kind == SL_ADOPT_CANCEL) {
            w->speaker = w->adopted_by[i];
            say(w, w->adopts[i].seq, SL_TOKENS_ENDED, 0, 0);
        }
    answer_all(w, 0);
    check_all_back(w);
    for (uint32_t i = 0; i < 3; i++)
        free(h[i]);
    end_world(w);
}

SL_TEST(an_answer_whose_decode_worker_is_lost_goes_on_with_another_and_nothing_is_told_twice)
{
    struct core_world *w = world_of(2);
    struct heard *h = ask(w, 70, 8);
    uint32_t was = adopt(w, h, 20);
    uint64_t seq = w->adopts[last_of(w, SL_ADOPT_TAKE)].seq;
    CHECK(say(w, seq, SL_TOKENS_TOKEN, 21, 0) == NULL && say(w, seq, SL_TOKENS_TOKEN, 22, 0) == NULL);
    lose(w, was, NULL);
    CHECK(!h->ended && h->n_set_back == 1 && h->n == 3);
    CHECK(say(w, seq, SL_TOKENS_TOKEN, 666, 0) == NULL); /* late */
    CHECK_INT(h->n, 3);
    take_again(w, h, 3, 22);
    uint32_t take = last_of(w, SL_ADOPT_TAKE);
    CHECK_INT(w->adopted_by[take], 1 - was);
    w->speaker = w->adopted_by[take];
    seq = w->adopts[take].seq;
    say(w, seq, SL_TOKENS_ADOPTED, 0, 0);
    say(w, seq, SL_TOKENS_TOKEN, 23, 2);
    say(w, seq, SL_TOKENS_ENDED, 0, 0);
    CHECK(h->ended && h->status == SL_OK && h->n == 4 && h->tokens[3] == 23);
    answer_all(w, 0);
    check_all_back(w);
    free(h);
    end_world(w);
}

SL_TEST(a_prompt_on_its_way_to_a_decode_worker_that_is_lost_begins_anew)
{
    struct core_world *w = world_of(2);
    struct heard *h = ask(w, 300, 8);
    h->ask.n = 2;
    submit(w, h);
    decide(w);
    REQUIRE(answer(w, 20)); /* a chunk of five */
    decide(w);
    uint32_t runs = w->n_runs;
    for (uint32_t d = 0; d < 2; d++) { /* whichever has it */
        struct sl_core_load load;
        sl_core_load(w->core, &load);
        if (load.decoders[d].decoding > 0)
            lose(w, d, NULL);
    }
    CHECK(!h->ended && h->n == 0 && h->n_set_back == 0);
    answer_all(w, 20);
    CHECK(w->n_runs >= runs + 5);            /* all of it once more */
    CHECK(h->n == 1 && h->others[1].n == 1); /* its first tokens came once */
    uint32_t take = last_of(w, SL_ADOPT_TAKE), fork = last_of(w, SL_ADOPT_FORK);
    CHECK(w->adopts[take].n_out == 1 && w->adopts[take].prompt_tokens == 300 && w->adopts[take].n_forks == 1);
    CHECK_INT(w->adopted_by[take], w->adopted_by[fork]);
    sl_core_cancel(w->core, h->seq, &w->actions), carry_out(w);
    w->speaker = w->adopted_by[take];
    say(w, w->adopts[fork].seq, SL_TOKENS_ENDED, 0, 0);
    say(w, w->adopts[take].seq, SL_TOKENS_ENDED, 0, 0);
    answer_all(w, 0);
    check_all_back(w);
    free(h);
    end_world(w);
}

SL_TEST(what_a_spoiled_decode_worker_has_told_ends_and_the_rest_goes_on)
{
    struct core_world *w = world_of(1);
    struct heard *told = ask(w, 70, 8), *prefilled = ask(w, 300, 8);
    adopt(w, told, 20);
    submit(w, prefilled);
    decide(w);
    lose(w, 0, "its weights are bad");
    CHECK(told->ended && told->status == SL_E_CORRUPT);
    CHECK(!prefilled->ended);
    sl_core_decoder_joins(w->core, 0, 1, &w->actions);
    answer_all(w, 20);
    CHECK_INT(prefilled->n, 1);
    CHECK_INT(w->adopts[last_of(w, SL_ADOPT_TAKE)].n_out, 1);
    sl_core_cancel(w->core, prefilled->seq, &w->actions), carry_out(w);
    say(w, w->adopts[last_of(w, SL_ADOPT_TAKE)].seq, SL_TOKENS_ENDED, 0, 0);
    answer_all(w, 0);
    check_all_back(w);
    free(told), free(prefilled);
    end_world(w);
}

SL_TEST(one_that_leaves_gets_nothing_new_and_goes_when_it_has_nothing)
{
    struct core_world *w = world_of(2);
    struct heard *h = ask(w, 70, 8), *later = ask(w, 70, 8);
    uint32_t was = adopt(w, h, 20);
    uint64_t seq = w->adopts[last_of(w, SL_ADOPT_TAKE)].seq;
    sl_core_decoder_leaves(w->core, was, 1000000, &w->actions), carry_out(w);
    CHECK_INT(adopt(w, later, 30), 1 - was); /* though by rows alone both are alike */
    CHECK_INT(w->n_left, 0);
    w->speaker = was;
    say(w, seq, SL_TOKENS_TOKEN, 21, 2);
    say(w, seq, SL_TOKENS_ENDED, 0, 0);
    decide(w);
    CHECK(h->ended && h->status == SL_OK && h->n == 2 && h->n_set_back == 0);
    CHECK(w->n_left == 1 && w->left == was);
    sl_core_cancel(w->core, later->seq, &w->actions), carry_out(w);
    w->speaker = 1 - was;
    say(w, w->adopts[last_of(w, SL_ADOPT_CANCEL)].seq, SL_TOKENS_ENDED, 0, 0);
    answer_all(w, 0);
    check_all_back(w);
    free(h), free(later);
    end_world(w);
}

SL_TEST(one_that_leaves_too_slowly_is_left_and_what_it_had_goes_on_elsewhere)
{
    struct core_world *w = world_of(2);
    struct heard *h = ask(w, 70, 8);
    uint32_t was = adopt(w, h, 20);
    sl_core_decoder_leaves(w->core, was, 1000, &w->actions), carry_out(w);
    decide_at(w, 5000);
    CHECK_INT(w->n_left, 0);
    CHECK_INT(sl_core_wake_us(w->core), 6001);
    decide_at(w, 6000);
    CHECK(w->n_left == 1 && w->left == was && h->n_set_back == 1 && !h->ended);
    take_again(w, h, 1, 20);
    CHECK_INT(w->adopted_by[last_of(w, SL_ADOPT_TAKE)], 1 - was);
    sl_core_cancel(w->core, h->seq, &w->actions), carry_out(w);
    w->speaker = 1 - was;
    say(w, w->adopts[last_of(w, SL_ADOPT_TAKE)].seq, SL_TOKENS_ENDED, 0, 0);
    answer_all(w, 0);
    check_all_back(w);
    free(h);
    end_world(w);
}

SL_TEST(without_a_decode_worker_answers_wait_for_one_but_not_for_ever)
{
    struct core_world *w = world_of(1);
    struct sl_core_load load;
    struct heard *h = ask(w, 70, 8), *waits = ask(w, 70, 8), *no_answer = ask(w, 70, 0),
                 *late = ask(w, 70, 8);
    adopt(w, h, 20);
    lose(w, 0, NULL);
    submit(w, waits);
    decide_at(w, 10000);
    sl_core_load(w->core, &load);
    CHECK(load.alone && !load.silent && load.waiting == 2);
    CHECK_INT(sl_core_wake_us(w->core), 15001); /* core_world.h: 5 ms */
    decide_at(w, 14999);
    CHECK(!h->ended && !waits->ended);
    sl_core_decoder_joins(w->core, 0, 1, &w->actions); /* in time */
    answer_all(w, 30);
    CHECK(h->n == 1 &&
          waits->n == 1); /* one was prefilled with what was told, the other for the first time */
    sl_core_load(w->core, &load);
    CHECK(!load.alone && load.n_decoders == 1);
    lose(w, 0, NULL);
    decide_at(w, 20000);
    decide_at(w, 25000);
    CHECK(h->ended && h->status == SL_E_UNAVAILABLE && waits->ended && waits->status == SL_E_UNAVAILABLE);
    submit(w, late);
    CHECK(late->ended && late->status == SL_E_UNAVAILABLE);
    submit(w, no_answer); /* it needs none */
    answer_all(w, 0);
    CHECK(no_answer->ended && no_answer->status == SL_OK);
    check_all_back(w);
    free(h), free(waits), free(no_answer), free(late);
    end_world(w);
}

SL_TEST(a_decode_worker_that_is_not_heard_gets_nothing_new_and_keeps_what_it_has)
{
    struct core_world *w = world_of(2);
    struct sl_core_load load;
    struct heard *h[4];
    for (uint32_t i = 0; i < 4; i++)
        h[i] = ask(w, 20, 8);
    sl_core_decoder_silence(w->core, 0, true, &w->actions), carry_out(w);
    for (uint32_t i = 0; i < 3; i++)
        CHECK_INT(adopt(w, h[i], 20), 1);
    submit(w, h[3]);
    answer_all(w, 20);
    CHECK_INT(h[3]->n, 0); /* the other has three places */
    sl_core_decoder_silence(w->core, 1, true, &w->actions), carry_out(w);
    sl_core_load(w->core, &load);
    CHECK(load.silent && !load.alone && h[0]->n_set_back == 0);
    sl_core_decoder_silence(w->core, 0, false, &w->actions), carry_out(w);
    answer_all(w, 20);
    CHECK_INT(h[3]->n, 1);
    CHECK_INT(w->adopted_by[last_of(w, SL_ADOPT_TAKE)], 0);
    sl_core_lose(w->core, SL_E_UNAVAILABLE, "the test ends", &w->actions), carry_out(w);
    for (uint32_t i = 0; i < 4; i++)
        free(h[i]);
    end_world(w);
}

SL_TEST(a_decode_worker_that_speaks_of_what_another_has_is_found_out)
{
    struct core_world *w = world_of(2);
    struct heard *h = ask(w, 20, 8);
    w->speaker = 1 - adopt(w, h, 20);
    CHECK_CONTAINS(say(w, w->adopts[last_of(w, SL_ADOPT_TAKE)].seq, SL_TOKENS_TOKEN, 21, 0),
                   "another decode worker");
    CHECK_INT(h->n, 1);
    struct sl_tokens_entry step = {.kind = SL_TOKENS_STEP, .rows = RUNNING + 1, .step_us = 10};
    CHECK_CONTAINS(sl_core_entry(w->core, 0, &step, &w->actions), "as many sequences as it can't have");
    sl_core_lose(w->core, SL_E_UNAVAILABLE, "the test ends", &w->actions), carry_out(w);
    free(h);
    end_world(w);
}
