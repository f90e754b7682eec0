/* pipeline/decide/core.c and core_log.c: a request's life from submission to the last page, told by hand; then many of them at
 * random. */
#include "base/rng.h"
#include "tests/pipeline/decide/core_world.h"

SL_TEST(a_request_for_one_token_ends_with_it)
{
    struct core_world *w = new_world();
    struct heard *h = ask(w, 130, 1);
    submit(w, h);
    CHECK(h->seq != 0);
    decide(w);
    CHECK_INT(w->n_runs, 3);
    answer_all(w, 42);
    CHECK(h->ended && h->status == SL_OK && h->finish == SL_FINISH_LENGTH);
    CHECK_INT(h->n, 1);
    CHECK_INT(h->tokens[0], 42);
    CHECK_INT(w->n_adopts, 0);
    check_all_back(w);
    free(h);
    end_world(w);
}

SL_TEST(a_request_is_handed_off_and_ends_when_the_decode_worker_is_done)
{
    struct core_world *w = new_world();
    struct heard *h = ask(w, 100, 3);
    submit(w, h);
    answer_all(w, 1);
    REQUIRE(w->n_adopts == 1);
    CHECK_INT(w->adopts[0].kind, SL_ADOPT_TAKE);
    CHECK_INT(w->adopts[0].first_id, 1);
    CHECK_INT(w->adopts[0].n_pages, 2);
    CHECK_INT(w->stage.n_live, 1); /* until it is adopted, the stages keep the pages */
    CHECK(say(w, h->seq, SL_TOKENS_ADOPTED, 0, 0) == NULL);
    CHECK_INT(w->stage.n_live, 0);
    CHECK(say(w, h->seq, SL_TOKENS_TOKEN, 2, 0) == NULL);
    CHECK(say(w, h->seq, SL_TOKENS_TOKEN, 3, 2) == NULL);
    CHECK(!h->ended); /* the digests come with ENDED */
    CHECK(say(w, h->seq, SL_TOKENS_ENDED, 0, 0) == NULL);
    CHECK(h->ended && h->finish == SL_FINISH_LENGTH && h->kv_digest == 99);
    CHECK_INT(h->n, 3);
    answer_all(w, 0);
    check_all_back(w);
    free(h);
    end_world(w);
}

SL_TEST(what_steers_a_request_goes_to_whoever_samples_its_tokens)
{
    struct core_world *w = new_world();
    struct heard *h = ask(w, 130, 3);
    uint64_t seen[16] = {0};
    uint8_t steering[200];
    uint32_t n = sl_ids_mark(seen, w->ids, 130);
    h->ask.sampling.repetition_penalty = 1.1f;
    h->ask.sampling.presence_penalty = 0.5f;
    h->ask.steering = steering;
    h->ask.steering_bytes = sl_steering_bytes(0, n, 1000);
    REQUIRE(h->ask.steering_bytes <= sizeof steering);
    sl_steering_pack(steering, NULL, 0, seen, n, 1000);
    submit(w, h);
    decide(w);
    CHECK_INT(w->n_runs, 3);
    CHECK_INT(w->n_steered, 1); /* the record that ends the prompt, and a stage would take it */
    answer_all(w, 1);
    REQUIRE(w->n_adopts == 1);
    CHECK_INT(w->adopts[0].steering_bytes, h->ask.steering_bytes);
    CHECK(w->adopts[0].steering == steering && w->adopts[0].sampling.presence_penalty == 0.5f);
    free(h);
    end_world(w);
}

SL_TEST(an_end_id_ends_a_text_at_its_first_token_unless_it_is_ignored)
{
    struct core_world *w = new_world();
    struct heard *a = ask(w, 10, 5), *b = ask(w, 10, 5), *c = ask(w, 10, 5);
    b->ask.ignore_eos = true;
    c->ask.n_stop_ids = 1;
    c->ask.stop_ids[0] = EOS;
    c->ask.ignore_eos = true;
    submit(w, a), submit(w, b), submit(w, c);
    answer_all(w, EOS);
    CHECK(a->ended && a->finish == SL_FINISH_STOP && a->stop_id == -1);
    CHECK(!b->ended);
    CHECK(c->ended && c->finish == SL_FINISH_STOP && c->stop_id == EOS);
    CHECK_INT(a->n, 1); /* it is told, and nothing after it */
    free(a), free(b), free(c);
    end_world(w);
}

SL_TEST(a_text_that_ends_at_the_first_token_is_never_taken_by_the_decode_worker)
{
    struct core_world *w = new_world();
    struct heard *h = ask(w, 100, 30);
    w->end_at_first = true;
    submit(w, h);
    answer_all(w, 1);
    CHECK(h->ended && h->finish == SL_FINISH_STOP && h->n_out == 1);
    CHECK_INT(w->n_adopts, 1);
    CHECK_INT(w->adopts[0].kind, SL_ADOPT_CANCEL); /* its pages may be there */
    say(w, h->seq, SL_TOKENS_ENDED, 0, 0);
    check_all_back(w);
    free(h);
    end_world(w);
}

SL_TEST(a_text_of_one_token_that_ends_there_anyway_has_stopped)
{
    struct core_world *w = new_world();
    struct heard *h = ask(w, 10, 1);
    w->end_at_first = true;
    submit(w, h);
    answer_all(w, 1);
    CHECK(h->ended && h->finish == SL_FINISH_STOP);
    check_all_back(w);
    free(h);
    end_world(w);
}

SL_TEST(after_the_end_of_a_text_no_token_is_told)
{
    struct core_world *w = new_world();
    struct heard *h = ask(w, 10, 30);
    submit(w, h);
    answer_all(w, 1);
    say(w, h->seq, SL_TOKENS_ADOPTED, 0, 0);
    say(w, h->seq, SL_TOKENS_TOKEN, 2, 0);
    sl_core_text_ends(w->core, h->seq, 1, &w->actions); /* not the token that was told last */
    carry_out(w);
    CHECK(!h->ended);
    sl_core_text_ends(w->core, h->seq, 2, &w->actions);
    carry_out(w);
    CHECK(h->ended && h->finish == SL_FINISH_STOP && h->n_out == 2);
    CHECK(say(w, h->seq, SL_TOKENS_TOKEN, 3, 0) == NULL); /* was on its way */
    CHECK(say(w, h->seq, SL_TOKENS_TOKEN, 4, 2) == NULL);
    CHECK_INT(h->n, 2);
    say(w, h->seq, SL_TOKENS_ENDED, 0, 0);
    CHECK(say(w, h->seq, SL_TOKENS_ENDED, 0, 0) == NULL); /* the answer to a CANCEL that crossed it */
    answer_all(w, 0);
    check_all_back(w);
    free(h);
    end_world(w);
}

/* It would be prefilled, counted and written as text. */
SL_TEST(what_is_no_token_is_not_believed_whoever_says_it)
{
    for (int who = 0; who < 3; who++) {
        struct core_world *w = new_world();
        struct heard *h = ask(w, 10, 30);
        struct sl_tokens_entry entry = {.kind = SL_TOKENS_TOKEN,
                                        .token = {.id = 3, .n_top = 1, .top_ids = {4}}};
        submit(w, h);
        decide(w);
        w->refused = who == 0 ? "outside the vocabulary" : NULL;
        answer(w, who == 0 ? 1000 : 999);
        if (who > 0) {
            decide(w);
            say(w, h->seq, SL_TOKENS_ADOPTED, 0, 0);
            entry.seq = h->seq;
            CHECK(sl_core_entry(w->core, 0, &entry, &w->actions) == NULL);
            carry_out(w);
            *(who == 1 ? &entry.token.id : &entry.token.top_ids[0]) = 1000;
            CHECK_CONTAINS(sl_core_entry(w->core, 0, &entry, &w->actions), "outside the vocabulary");
        }
        CHECK_INT(h->n, who == 0 ? 0 : 2);
        sl_core_lose(w->core, SL_E_CORRUPT, "lost", &w->actions);
        carry_out(w);
        free(h);
        end_world(w);
    }
}

SL_TEST(a_text_does_not_end_before_its_least_length)
{
    struct core_world *w = new_world();
    struct heard *h = ask(w, 10, 30);
    h->ask.min_tokens = 2;
    h->ask.n_stop_ids = 2;
    h->ask.stop_ids[0] = 50;
    h->ask.stop_ids[1] = 60;
    w->end_at_first = true;
    submit(w, h);
    answer_all(w, EOS);
    CHECK(!h->ended);
    CHECK_INT(w->n_bans, 3); /* the stage was told that none of these may come first */
    say(w, h->seq, SL_TOKENS_ADOPTED, 0, 0);
    say(w, h->seq, SL_TOKENS_TOKEN, 2, 0);
    say(w, h->seq, SL_TOKENS_TOKEN, 3, 0);
    sl_core_text_ends(w->core, h->seq, 3, &w->actions);
    carry_out(w);
    CHECK(h->ended && h->finish == SL_FINISH_STOP);
    free(h);
    end_world(w);
}

SL_TEST(a_stop_string_in_the_decode_workers_last_token_is_why_it_ends)
{
    struct core_world *w = new_world();
    struct heard *h = ask(w, 10, 2);
    submit(w, h);
    answer_all(w, 1);
    say(w, h->seq, SL_TOKENS_ADOPTED, 0, 0);
    say(w, h->seq, SL_TOKENS_TOKEN, 2, 2);
    sl_core_text_ends(w->core, h->seq, 2, &w->actions);
    carry_out(w);
    CHECK(!h->ended); /* it ends by itself, and says the digests */
    say(w, h->seq, SL_TOKENS_ENDED, 0, 0);
    CHECK(h->ended && h->finish == SL_FINISH_STOP && h->kv_digest == 99);
    CHECK_INT(w->n_adopts, 1); /* nothing to cancel */
    free(h);
    end_world(w);
}

SL_TEST(what_cannot_be_taken_is_refused_with_a_reason)
{
    struct core_world *w = new_world();
    struct heard *h[REQUESTS + 1];
    for (uint32_t i = 0; i <= REQUESTS; i++) {
        h[i] = ask(w, 10, 1);
        snprintf(h[i]->ask.id, sizeof h[i]->ask.id, "r%u", i == 1 ? 0 : i);
        submit(w, h[i]);
    }
    CHECK_INT(h[1]->status, SL_E_EXISTS);
    CHECK(!h[REQUESTS]->ended); /* REQUESTS are live: that one took the place of the twin */
    struct heard *more = ask(w, 10, 1);
    submit(w, more);
    CHECK_INT(more->status, SL_E_EXHAUSTED);
    *more = (struct heard){.ask = more->ask};
    sl_core_drain(w->core, &w->actions);
    submit(w, more);
    CHECK_INT(more->status, SL_E_UNAVAILABLE);
    CHECK_INT(w->life, SL_LIFE_DRAINING);
    answer_all(w, 1); /* those that are there go on */
    for (uint32_t i = 0; i <= REQUESTS; i++)
        CHECK(h[i]->ended && (i == 1 || h[i]->status == SL_OK));
    check_all_back(w);
    sl_core_lose(w->core, SL_E_UNAVAILABLE, "stage 1 was lost", &w->actions);
    carry_out(w);
    CHECK_INT(w->life, SL_LIFE_STOPPED); /* neighbours go as we do: nothing to mourn */
    for (uint32_t i = 0; i <= REQUESTS; i++)
        free(h[i]);
    free(more);
    end_world(w);
}

SL_TEST(the_queue_is_bounded_in_bytes_of_what_waits)
{
    struct core_world *w = new_world();
    struct heard *h[RUNNING + 3];
    struct sl_core_load load;
    for (uint32_t i = 0; i < RUNNING + 3; i++) {
        h[i] = ask(w, 10, 1);
        h[i]->ask.held_bytes = SL_WAITING_BYTES / 2 + 1;
    }
    submit(w, h[0]);
    submit(w, h[1]); /* two are too many, though few */
    CHECK_INT(h[1]->status, SL_E_EXHAUSTED);
    decide(w); /* the first runs and no longer waits */
    sl_core_load(w->core, &load);
    CHECK_INT(load.waiting_bytes, 0);
    h[2]->ask.held_bytes = 10 * (size_t)SL_WAITING_BYTES; /* one may always wait */
    submit(w, h[2]);
    CHECK(h[2]->seq != 0);
    submit(w, h[3]);
    CHECK_INT(h[3]->status, SL_E_EXHAUSTED);
    sl_core_cancel(w->core, h[2]->seq, &w->actions); /* what is given up in the queue gives its bytes back */
    carry_out(w);
    submit(w, h[4]);
    CHECK(h[4]->seq != 0);
    sl_core_load(w->core, &load);
    CHECK_INT(load.waiting_bytes, SL_WAITING_BYTES / 2 + 1);
    answer_all(w, 1);
    check_all_back(w);
    sl_core_load(w->core, &load);
    CHECK_INT(load.waiting_bytes, 0);
    for (uint32_t i = 0; i < RUNNING + 3; i++)
        free(h[i]);
    end_world(w);
}

SL_TEST(a_request_whose_holder_cannot_go_on_ends_with_its_word)
{
    struct core_world *w = new_world();
    struct heard *h = ask(w, 100, 5);
    submit(w, h);
    decide(w);
    sl_core_fail(w->core, h->seq, SL_E_EXHAUSTED, "no memory", &w->actions);
    carry_out(w);
    CHECK(h->ended && h->status == SL_E_EXHAUSTED);
    sl_core_fail(w->core, h->seq, SL_E_EXHAUSTED, "no memory", &w->actions); /* once */
    carry_out(w);
    answer_all(w, 1);
    for (uint32_t i = 0; i < w->n_adopts; i++)
        say(w, w->adopts[i].seq, SL_TOKENS_ENDED, 0, 0);
    check_all_back(w);
    free(h);
    end_world(w);
}

SL_TEST(a_loss_ends_everything_and_nothing_is_written_after_it)
{
    struct core_world *w = new_world();
    struct heard *h[4];
    for (int i = 0; i < 4; i++) {
        h[i] = ask(w, 200, 5);
        submit(w, h[i]);
    }
    decide(w);
    uint32_t records = w->head;
    sl_core_lose(w->core, SL_E_CORRUPT, "a frame from the last stage can't be used", &w->actions);
    carry_out(w);
    decide(w);
    CHECK_INT(w->head, records);
    CHECK_INT(w->life, SL_LIFE_LOST);
    for (int i = 0; i < 4; i++) /* what no stage has begun was not touched by it */
        CHECK(h[i]->ended && h[i]->status == (i < 3 ? SL_E_CORRUPT : SL_E_UNAVAILABLE));
    struct heard *late = ask(w, 1, 1);
    submit(w, late);
    CHECK_INT(late->status, SL_E_UNAVAILABLE);
    struct sl_core_load load;
    sl_core_load(w->core, &load);
    CHECK_INT(load.live, 0);
    for (int i = 0; i < 4; i++)
        free(h[i]);
    free(late);
    end_world(w);
}

SL_TEST(while_a_node_is_silent_nothing_is_begun_and_then_all_goes_on)
{
    struct core_world *w = new_world();
    struct heard *a = ask(w, 500, 1), *b = ask(w, 100, 1), *late = ask(w, 100, 1);
    struct sl_core_load load;
    submit(w, a), submit(w, b);
    late->ask.deadline_us = 1000;
    decide(w);
    uint32_t records = w->head;
    sl_core_silence(w->core, true, &w->actions);
    sl_core_load(w->core, &load);
    CHECK(load.silent && load.life == SL_LIFE_READY);
    submit(w, late);
    while (w->tail < w->head) /* what is under way comes back, or not */
        answer(w, 1);
    decide(w);
    CHECK_INT(w->head, records);
    CHECK(!a->ended && !b->ended);
    sl_core_decide(w->core, 1001, &w->actions); /* time goes on */
    carry_out(w);
    CHECK(late->ended && late->status == SL_E_DEADLINE);
    sl_core_silence(w->core, false, &w->actions);
    answer_all(w, 1);
    CHECK(a->ended && a->status == SL_OK && b->ended && b->status == SL_OK);
    check_all_back(w);
    free(a), free(b), free(late);
    end_world(w);
}

SL_TEST(a_deadline_ends_what_is_not_prefilled_and_wakes_the_core)
{
    struct core_world *w = new_world();
    struct heard *a = ask(w, 500, 1), *b = ask(w, 500, 1);
    a->ask.deadline_us = 1000;
    submit(w, a), submit(w, b);
    CHECK_INT(sl_core_wake_us(w->core), 1001);
    sl_core_decide(w->core, 1000, &w->actions);
    carry_out(w);
    CHECK(!a->ended);
    sl_core_decide(w->core, 1001, &w->actions);
    carry_out(w);
    CHECK(a->ended && a->status == SL_E_DEADLINE);
    CHECK_INT(sl_core_wake_us(w->core), 0);
    answer_all(w, 1);
    CHECK(b->ended && b->status == SL_OK);
    check_all_back(w);
    free(a), free(b);
    end_world(w);
}

SL_TEST(pages_are_there_for_the_next_as_soon_as_their_release_is_in_the_log)
{
    struct core_world *w = new_world();
    struct heard *a = ask(w, 500, 1), *b = ask(w, 500, 1), *c = ask(w, 500, 1); /* 8 of 16 pages each */
    submit(w, a), submit(w, b), submit(w, c);
    decide(w);
    struct sl_core_load load;
    while (!a->ended) {
        answer(w, 1);
        decide(w);
    }
    sl_core_load(w->core, &load);
    CHECK(load.records > load.records_answered + 1); /* nobody has confirmed the release yet */
    CHECK_INT(load.waiting, 0);                      /* and yet the third has its pages */
    CHECK_INT(load.pages_used, 16);
    answer_all(w, 1);
    CHECK(b->ended && c->ended);
    check_all_back(w);
    free(a), free(b), free(c);
    end_world(w);
}

SL_TEST(answers_that_contradict_the_log_are_noticed)
{
    struct core_world *w = new_world();
    struct heard *h = ask(w, 100, 5);
    uint8_t bytes[4096];
    submit(w, h);
    decide(w);
    for (uint32_t number = 0; number < 4; number += 2) { /* not the next record, or of another kind */
        struct sl_result_head head = {.number = number ? 1 : 2,
                                      .kind = number ? SL_ORDER_FREE : SL_ORDER_RUN};
        struct sl_cursor out = sl_cursor_over(bytes, sizeof bytes);
        sl_result_put_head(&out, &head, STAGES);
        CHECK(sl_core_result(w->core, bytes, (size_t)(out.at - bytes), &w->actions) != NULL);
    }
    CHECK(sl_core_result(w->core, bytes, 3, &w->actions) != NULL);
    CHECK(say(w, h->seq, SL_TOKENS_ADOPTED, 0, 0) != NULL); /* it was not given it */
    answer_all(w, 1);
    CHECK(say(w, h->seq, SL_TOKENS_TOKEN, 2, 0) != NULL); /* it is not adopted */
    CHECK(say(w, h->seq, SL_TOKENS_ADOPTED, 0, 0) == NULL);
    CHECK(say(w, h->seq, SL_TOKENS_ADOPTED, 0, 0) != NULL);
    CHECK(say(w, h->seq, SL_TOKENS_TOKEN, 2, 3) != NULL); /* no such end */
    CHECK(say(w, h->seq, SL_TOKENS_TOKEN, 2, 2) == NULL);
    CHECK(say(w, h->seq, SL_TOKENS_TOKEN, 2, 0) != NULL);     /* after its last */
    CHECK(say(w, h->seq + 1, SL_TOKENS_TOKEN, 2, 0) == NULL); /* nobody's */
    free(h);
    end_world(w);
}

/* The answer to record 1 with these slices. */
static const char *answer_with(struct core_world *w, const struct sl_result_slice *slices, uint32_t n)
{
    uint8_t bytes[4096];
    struct sl_result_head head = {.number = 1, .kind = SL_ORDER_RUN, .n_slices = n};
    struct sl_cursor out = sl_cursor_over(bytes, sizeof bytes);
    sl_result_put_head(&out, &head, STAGES);
    for (uint32_t i = 0; i < n; i++) {
        sl_result_put_slice(&out, &slices[i]);
        for (uint32_t k = 0; k < slices[i].n_prompt; k++)
            sl_token_put(&out, &(struct sl_token_out){0});
    }
    CHECK(!out.bad);
    return sl_core_result(w->core, bytes, (size_t)(out.at - bytes), &w->actions);
}

SL_TEST(an_answer_is_held_to_its_record_slice_for_slice)
{
    for (int wrong = 0; wrong <= 9; wrong++) {
        struct core_world *w = new_world();
        struct heard *a = ask(w, 24, 1), *b = ask(w, 500, 1); /* record 1: all of a, 40 of b */
        submit(w, a), submit(w, b);
        decide(w);
        struct sl_result_slice slices[2] = {{.seq = a->seq, .n = 24, .has_token = true},
                                            {.seq = b->seq, .n = 40}};
        slices[1].seq += wrong == 1;
        slices[1].index += wrong == 2;
        slices[1].pos += wrong == 3;
        slices[1].n -= wrong == 4;
        slices[1].has_token = wrong == 5; /* a first token before the end of the prompt */
        slices[0].has_token = wrong != 6; /* none at its end */
        slices[1].n_prompt = wrong == 7;  /* log-probabilities that nobody asked for */
        slices[0].n_more = wrong == 9;    /* a first token of an answer that nobody asked for */
        const char *bad = answer_with(w, slices, wrong == 8 ? 1 : 2);
        CHECK_INT(bad != NULL, wrong != 0);
        free(a), free(b);
        end_world(w);
    }
}

SL_TEST(damaged_pages_fail_one_request)
{
    struct core_world *w = new_world();
    struct heard *a = ask(w, 100, 5), *b = ask(w, 100, 5);
    submit(w, a), submit(w, b);
    answer_all(w, 1);
    CHECK(say(w, a->seq, SL_TOKENS_FAILED, 0, 0) == NULL);
    CHECK(a->ended && a->status == SL_E_CORRUPT);
    CHECK(!b->ended);
    CHECK_INT(w->life, SL_LIFE_READY);
    free(a), free(b);
    end_world(w);
}

SL_TEST(a_sequence_that_failed_never_ends_well)
{
    struct core_world *w = new_world();
    struct heard *h = ask(w, 100, 5);
    submit(w, h);
    answer_all(w, 1);
    struct sl_tokens_entry entry = {
        .kind = SL_TOKENS_FAILED, .seq = h->seq, .status = SL_OK}; /* what no worker says */
    CHECK(sl_core_entry(w->core, 0, &entry, &w->actions) == NULL);
    carry_out(w);
    CHECK(h->ended && h->status == SL_E_INTERNAL);
    free(h);
    end_world(w);
}

SL_TEST(the_answer_of_a_release_has_no_slices)
{
    struct core_world *w = new_world();
    struct heard *h = ask(w, 10, 1);
    uint8_t bytes[4096];
    submit(w, h);
    decide(w);
    answer(w, 1); /* FREE is record 2 */
    struct sl_result_head head = {.number = 2, .kind = SL_ORDER_FREE, .n_slices = 1};
    struct sl_cursor out = sl_cursor_over(bytes, sizeof bytes);
    sl_result_put_head(&out, &head, STAGES);
    sl_result_put_slice(&out, &(struct sl_result_slice){.seq = h->seq, .n = 10});
    const char *bad = sl_core_result(w->core, bytes, (size_t)(out.at - bytes), &w->actions);
    REQUIRE(bad != NULL);
    CHECK_CONTAINS(bad, "as many slices as its record");
    free(h);
    end_world(w);
}

/* The decode worker does the next thing for entry k: what was let go ends, what was taken is adopted, makes tokens, ends.
 * min_tokens of our copy counts what it has done. */
static void decode_one(struct core_world *w, uint32_t k)
{
    struct sl_adopt *adopt = &w->adopts[k];
    bool ends = adopt->kind == SL_ADOPT_CANCEL;
    for (uint32_t i = 0; !ends && i < w->n_adopts; i++)
        if (w->adopts[i].kind == SL_ADOPT_CANCEL && w->adopts[i].seq == adopt->seq)
            ends = true;
    if (!ends && adopt->min_tokens++ == 0) {
        CHECK(say(w, adopt->seq, SL_TOKENS_ADOPTED, 0, 0) == NULL);
        return;
    }
    if (!ends && adopt->silent) {
        ends = true; /* the others were made of it */
    } else if (!ends) {
        ends = adopt->min_tokens >= adopt->max_tokens;
        CHECK(say(w, adopt->seq, SL_TOKENS_TOKEN, 3, ends ? 2 : 0) == NULL);
    }
    if (ends) {
        CHECK(say(w, adopt->seq, SL_TOKENS_ENDED, 0, 0) == NULL);
        w->adopts[k] = w->adopts[--w->n_adopts];
    }
}

SL_TEST(a_stage_gives_up_nothing_but_what_was_cancelled)
{
    struct core_world *w = new_world();
    struct heard *h[2] = {ask(w, 60, 1), ask(w, 60, 1)};
    for (uint32_t i = 0; i < 2; i++) {
        submit(w, h[i]);
        decide(w);
    }
    sl_core_cancel(w->core, h[0]->seq, &w->actions);
    carry_out(w);
    w->gives_up = true;
    CHECK(answer(w, 20)); /* that of the first */
    CHECK(h[0]->ended && h[0]->n == 0 && !h[1]->ended);
    w->refused = "gives up what was not cancelled";
    CHECK(answer(w, 20));
    CHECK_INT(h[1]->n, 0);
    free(h[0]);
    free(h[1]);
    end_world(w);
}

SL_TEST(how_far_a_request_has_come_is_known)
{
    struct core_world *w = new_world();
    struct heard *h = ask(w, 100, 10), *other = ask(w, 10, 10);
    snprintf(h->ask.id, sizeof h->ask.id, "that one");
    submit(w, h);
    CHECK_INT(sl_core_seq_of(w->core, "that one"), h->seq);
    CHECK_INT(sl_core_seq_of(w->core, "another"), 0);
    CHECK_INT(sl_core_where(w->core, h->seq), SL_WHERE_QUEUED);
    decide(w);
    CHECK_INT(sl_core_where(w->core, h->seq), SL_WHERE_PREFILL);
    while (answer(w, 20))
        decide(w);
    CHECK_INT(sl_core_where(w->core, h->seq), SL_WHERE_HANDOFF);
    say(w, h->seq, SL_TOKENS_ADOPTED, 0, 0);
    CHECK_INT(sl_core_where(w->core, h->seq), SL_WHERE_DECODE);
    sl_core_cancel(w->core, h->seq, &w->actions);
    carry_out(w);
    answer_all(w, 0); /* the stages have let it go, the decode worker has not */
    CHECK_INT(sl_core_where(w->core, h->seq), SL_WHERE_DECODE);
    say(w, h->seq, SL_TOKENS_ENDED, 0, 0);
    CHECK_INT(sl_core_where(w->core, h->seq), SL_WHERE_GONE);
    submit(w, other);
    sl_core_cancel(w->core, other->seq, &w->actions); /* in the queue: it is gone at once */
    carry_out(w);
    CHECK_INT(sl_core_where(w->core, other->seq), SL_WHERE_GONE);
    check_all_back(w);
    free(h);
    free(other);
    end_world(w);
}

/* Random requests, cancels and answers in random order: whatever happens, every holder hears one end, pages have one owner
 * (apply_record looks) and all come back. */
static void run_seed(uint64_t seed)
{
    struct core_world *w = malloc(sizeof *w);
    struct sl_rng rng = {seed, 0};
    make_world(w, 1 + (uint32_t)(seed % RUNNING));
    enum { MANY = 30 };
    struct heard *h[MANY];
    uint32_t n = 0;
    for (int turn = 0; turn < 4000; turn++) {
        uint64_t dice = sl_rng_next(&rng);
        uint32_t i = n ? (uint32_t)(dice >> 32) % n : 0;
        switch (dice % 8) {
        case 0:
            if (n < MANY) {
                uint32_t prompt = 1 + (uint32_t)(dice >> 40) % 300;
                h[n] = ask(w, prompt, (uint32_t)(dice >> 20) % 6);
                if (h[n]->ask.max_tokens > 0)
                    h[n]->ask.n = (uint32_t)(dice >> 50) % (2 + w->plan.max_running);
                submit(w, h[n++]);
            }
            break;
        case 1:
            if (n && dice % 5 == 0)
                sl_core_cancel(w->core, h[i]->seq, &w->actions), carry_out(w);
            break;
        case 2:
            if (n && h[i]->n && dice % 3 == 0)
                sl_core_text_ends(w->core, h[i]->seq, h[i]->n, &w->actions), carry_out(w);
            else if (n && h[i]->others[1].n)
                sl_core_text_ends(w->core, h[i]->seq + 1, h[i]->others[1].n, &w->actions), carry_out(w);
            break;
        case 3:
        case 4:
            answer(w, (uint32_t)(dice >> 16) % 30);
            break;
        case 5:
        case 6:
            if (w->n_adopts)
                decode_one(w, (uint32_t)(dice >> 32) % w->n_adopts);
            break;
        default:
            decide(w);
        }
    }
    for (uint32_t i = 0; i < n; i++) {
        sl_core_cancel(w->core, h[i]->seq, &w->actions);
        carry_out(w);
    }
    answer_all(w, 1);
    while (w->n_adopts)
        decode_one(w, 0);
    answer_all(w, 1);
    check_all_back(w);
    for (uint32_t i = 0; i < n; i++) {
        CHECK(h[i]->ended && h[i]->all_ended);
        CHECK_INT(h[i]->n_ended, h[i]->seq && h[i]->ask.n ? h[i]->ask.n : 1);
        free(h[i]);
    }
    end_world(w);
}

SL_TEST(whatever_happens_everyone_hears_one_end_and_all_pages_come_back)
{
    const char *more = getenv("SLUICE_SEEDS");
    for (uint64_t seed = 1, last = more ? strtoull(more, NULL, 10) : 100; seed <= last; seed++)
        run_seed(seed);
}
