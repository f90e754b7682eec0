/* pipeline/decide/core.c: several answers to one prompt, told by hand; at random they are in test_core.c and in the simulator. */
#include "tests/pipeline/decide/core_world.h"

static uint32_t page_of(const struct sl_adopt *adopt, uint32_t i)
{
    return sl_get32(adopt->pages + 4 * (size_t)i);
}

SL_TEST(answers_to_one_prompt_are_prefilled_once_and_share_its_pages)
{
    struct core_world *w = new_world();
    struct heard *h = ask(w, 100, 3);
    struct sl_core_load load;
    h->ask.n = 3;
    h->ask.sampling.seed = 70;
    submit(w, h);
    answer_all(w, 20);
    CHECK_INT(w->n_runs, 2);
    CHECK(h->n == 1 && h->tokens[0] == 20 && h->others[1].first == 21 && h->others[2].first == 22);
    REQUIRE(w->n_adopts == 3);
    const struct sl_adopt *take = &w->adopts[0], *one = &w->adopts[1], *two = &w->adopts[2];
    CHECK(take->kind == SL_ADOPT_TAKE && take->n_forks == 2 && !take->silent && take->sampling.seed == 70);
    CHECK(one->kind == SL_ADOPT_FORK && one->from == h->seq && one->seq == h->seq + 1 && one->first_id == 21);
    CHECK(two->kind == SL_ADOPT_FORK && two->sampling.seed == 72 && two->seq == h->seq + 2);
    CHECK(page_of(take, 0) == page_of(one, 0) && page_of(one, 0) == page_of(two, 0)); /* is full */
    CHECK(page_of(take, 1) != page_of(one, 1) && page_of(one, 1) != page_of(two, 1)); /* is not */
    sl_core_load(w->core, &load);
    CHECK_INT(load.running, 3);
    CHECK_INT(load.decode_pages_used, 4);
    for (uint32_t i = 0; i < 3; i++)
        CHECK(say(w, h->seq + i, SL_TOKENS_ADOPTED, 0, 0) == NULL);
    CHECK_INT(w->stage.n_live, 0);
    say(w, h->seq + 1, SL_TOKENS_TOKEN, 2, 1); /* index 1 stops */
    say(w, h->seq + 1, SL_TOKENS_ENDED, 0, 0);
    CHECK(h->others[1].ended && h->others[1].finish == SL_FINISH_STOP && !h->ended && !h->all_ended);
    sl_core_load(w->core, &load);
    CHECK(load.running == 2 && load.decode_pages_used == 3); /* its place and its page are free */
    say(w, h->seq + 2, SL_TOKENS_FAILED, 0, 0);              /* index 2 fails */
    CHECK(h->others[2].status == SL_E_CORRUPT && !h->ended);
    say(w, h->seq, SL_TOKENS_TOKEN, 2, 0);
    say(w, h->seq, SL_TOKENS_TOKEN, 3, 2);
    say(w, h->seq, SL_TOKENS_ENDED, 0, 0);
    CHECK(h->ended && h->all_ended && h->status == SL_OK && h->n == 3);
    CHECK(say(w, h->seq + 3, SL_TOKENS_TOKEN, 2, 0) == NULL); /* nobody's */
    answer_all(w, 0);
    check_all_back(w);
    free(h);
    end_world(w);
}

SL_TEST(the_pages_of_an_index_that_ended_first_are_there_for_the_others)
{
    for (int by_string = 0; by_string < 2; by_string++) {
        struct core_world *w = new_world();
        struct heard *h = ask(w, 100, 3);
        h->ask.n = 2;
        w->end_at_first = false;
        submit(w, h);
        decide(w);
        answer(w, 0);
        answer(w, by_string ? 20 : EOS); /* EOS and EOS + 1, or 20 and 21 */
        if (by_string)
            sl_core_text_ends(w->core, h->seq, 1, &w->actions), carry_out(w);
        answer_all(w, 0);
        CHECK(h->ended && h->finish == SL_FINISH_STOP && !h->all_ended);
        REQUIRE(w->n_adopts == 2);
        CHECK(w->adopts[0].kind == SL_ADOPT_TAKE && w->adopts[0].silent && w->adopts[0].n_forks == 1);
        CHECK(w->adopts[1].kind == SL_ADOPT_FORK);
        CHECK(say(w, h->seq, SL_TOKENS_ADOPTED, 0, 0) == NULL);
        CHECK(say(w, h->seq, SL_TOKENS_ENDED, 0, 0) == NULL);
        CHECK(say(w, h->seq + 1, SL_TOKENS_ADOPTED, 0, 0) == NULL);
        say(w, h->seq + 1, SL_TOKENS_TOKEN, 2, 0);
        say(w, h->seq + 1, SL_TOKENS_TOKEN, 3, 2);
        say(w, h->seq + 1, SL_TOKENS_ENDED, 0, 0);
        CHECK(h->all_ended && h->others[1].n == 3 && h->others[1].status == SL_OK);
        CHECK_INT(w->n_adopts, 2); /* nothing to cancel */
        answer_all(w, 0);
        check_all_back(w);
        free(h);
        end_world(w);
    }
}

SL_TEST(a_cancel_ends_all_answers_and_index_0_last)
{
    struct core_world *w = new_world();
    struct heard *h = ask(w, 100, 3), *waits = ask(w, 10, 3);
    h->ask.n = 3;
    waits->ask.n = 2;
    submit(w, h), submit(w, waits);
    answer_all(w, 20);
    CHECK_INT(waits->n, 0); /* there are three places */
    REQUIRE(w->n_adopts == 3);
    sl_core_cancel(w->core, h->seq + 2, &w->actions);
    carry_out(w);
    CHECK_INT(h->n_ended, 3);
    REQUIRE(w->n_adopts == 6);
    for (uint32_t i = 0; i < 3; i++) {
        CHECK(w->adopts[3 + i].kind == SL_ADOPT_CANCEL && w->adopts[3 + i].seq == h->seq + (i + 1) % 3);
        say(w, w->adopts[3 + i].seq, SL_TOKENS_ENDED, 0, 0);
    }
    answer_all(w, EOS); /* both of the other's: one ends with it, one goes on */
    CHECK(waits->ended && !waits->all_ended);
    sl_core_cancel(w->core, waits->seq, &w->actions);
    carry_out(w);
    CHECK(waits->all_ended && waits->others[1].finish == SL_FINISH_ABORT);
    say(w, waits->seq + 1, SL_TOKENS_ENDED, 0, 0);
    say(w, waits->seq, SL_TOKENS_ADOPTED, 0, 0);
    say(w, waits->seq, SL_TOKENS_ENDED, 0, 0);
    answer_all(w, 0);
    check_all_back(w);
    free(h), free(waits);
    end_world(w);
}

SL_TEST(more_answers_than_can_ever_run_are_refused)
{
    struct core_world *w = new_world();
    struct heard *places = ask(w, 10, 2);
    places->ask.n = RUNNING + 1;
    submit(w, places);
    CHECK(places->status == SL_E_INVALID && places->all_ended && places->n_ended == 1);
    check_all_back(w);
    end_world(w);
    w = malloc(sizeof *w);
    make_world(w, 16);
    struct heard *many = ask(w, 400, 100), *pages = ask(w, 400, 100);
    many->ask.n =
        10; /* 6 pages are shared, and each begins with one of its own: just the 16 that there are */
    pages->ask.n = 11;
    submit(w, many), submit(w, pages);
    CHECK(!many->ended);
    CHECK_INT(pages->status, SL_E_INVALID);
    sl_core_cancel(w->core, many->seq, &w->actions);
    carry_out(w);
    check_all_back(w);
    free(places), free(pages), free(many);
    end_world(w);
}

/* Whatever was told before, all answers end, once, and everything comes back. */
SL_TEST(pages_of_the_prompt_that_are_lost_before_they_are_taken_end_all_answers)
{
    for (int when = 0; when < 3; when++) {
        struct core_world *w = new_world();
        struct heard *h = ask(w, 100, 3);
        h->ask.n = 3;
        submit(w, h);
        decide(w); /* both chunks are in the log */
        answer(w, 0);
        if (when > 0)
            answer(w, 20); /* first tokens are told, and nothing is handed off yet */
        if (when == 2)
            sl_core_text_ends(w->core, h->seq, 1, &w->actions), carry_out(w);
        CHECK(say(w, h->seq, SL_TOKENS_FAILED, 0, 0) == NULL);
        CHECK(h->all_ended && h->n_ended == 3);
        CHECK_INT(h->others[1].status, SL_E_CORRUPT);
        CHECK_INT(h->others[2].status, SL_E_CORRUPT);
        CHECK_INT(h->n, when > 0); /* and no token follows an end */
        answer_all(w, 20);
        CHECK_INT(w->n_adopts, 0);
        CHECK(h->n_ended == 3 && h->n == (uint32_t)(when > 0));
        check_all_back(w);
        free(h);
        end_world(w);
    }
}
