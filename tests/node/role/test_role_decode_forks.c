/* node/role/role_decode.c: several answers to one prompt. Sequence 1 has the prompt, 2 and 3 are made of it: they have the bits of
 * the seeds that follow, whenever their FORKs come; and whoever ends early takes only what is its own. */
#include "tests/node/role/world.h"

enum { OUT = 12, ANSWERS = 3 };

static const struct sl_sampling how = {.temperature = 0.9f,
                                       .top_p = 0.95f,
                                       .seed = 21,
                                       .n_logprobs = -1,
                                       .presence_penalty = 0.4f,
                                       .repetition_penalty = 1.2f};

static void write_prompt(struct w_world *w, uint32_t prompt)
{
    struct w_chunk *c = calloc(1, sizeof *c);
    c->order.kind = SL_ORDER_RUN;
    w_add(w, c, 1, 0, prompt, prompt, &how);
    c->order.slices[0].n_more = ANSWERS - 1;
    CHECK_INT(w_write(w, c), SL_OK);
    free(c);
    w_settle(w);
    CHECK(w->heard[1].first && w->heard[2].first && w->heard[3].first);
}

/* TAKE of sequence 1, or the FORK of another; `twist`: a page of its prompt is somebody else's. */
static sl_status name(struct w_world *w, uint64_t seq, uint32_t prompt, uint32_t n_forks, bool silent,
                      bool twist)
{
    uint32_t pages[W_CONTEXT / SL_PAGE];
    uint8_t steering[W_STEERING];
    struct sl_adopt adopt = {.kind = seq == 1 ? SL_ADOPT_TAKE : SL_ADOPT_FORK,
                             .seq = seq,
                             .from = seq == 1 ? 0 : 1,
                             .n_forks = n_forks,
                             .silent = silent,
                             .prompt_tokens = prompt,
                             .first_id = w->heard[seq].ids[0],
                             .n_out = 1,
                             .max_tokens = OUT,
                             .digest = true,
                             .sampling = how,
                             .n_pages = sl_pages_of(prompt + OUT - 1),
                             .pages = (const uint8_t *)pages,
                             .steering_bytes = w_steer(w, 1, prompt, &how, steering),
                             .steering = steering};
    adopt.sampling.seed += seq - 1;
    for (uint32_t i = 0; i < adopt.n_pages; i++)
        pages[i] = w_page(w, i < prompt / SL_PAGE && !(twist && i == 0) ? 1 : seq, i).decode;
    return w_send_adopt(w, &adopt, SL_OK);
}

static struct w_heard alone[ANSWERS];

/* What each is as the only answer to the prompt, whose ids are those of sequence 1. */
static void make_alone(uint32_t prompt)
{
    for (uint32_t k = 0; k < ANSWERS; k++) {
        struct w_world *w = w_open(2, 4, 32);
        struct sl_sampling s = how;
        s.seed += k;
        w_generate(w, 1, prompt, OUT, &s);
        alone[k] = w->heard[1];
        w_close(w);
    }
}

static void check_is_alone(const struct w_world *w, uint32_t k)
{
    const struct w_heard *h = &w->heard[1 + k];
    if (h->ended != 1 || h->failed != SL_OK || h->n != OUT ||
        memcmp(h->ids, alone[k].ids, sizeof h->ids) != 0 || h->kv_digest != alone[k].kv_digest ||
        h->logits_digest != alone[k].logits_digest)
        sl_test_fail(__FILE__, __LINE__,
                     "answer %u is another than alone: %u tokens, ended %u times, status %d", k, h->n,
                     h->ended, h->failed);
}

static void end_world(struct w_world *w)
{
    CHECK_INT(w_write_control(w, SL_ORDER_FREE, 1), SL_OK);
    w_settle(w);
    for (uint32_t node = 1; node <= sl_plan_n_members(&w->plan); node++)
        CHECK_INT(w_pages_used(&w->nodes[node]), 0);
    w_close(w);
}

SL_TEST(answers_have_the_bits_of_their_seeds_whenever_they_are_named)
{
    static const uint32_t prompts[] = {1, 50, 64, 100, 128};
    for (size_t i = 0; i < sizeof prompts / sizeof *prompts; i++) {
        uint32_t prompt = prompts[i];
        make_alone(prompt);
        for (int late = 0; late < 3; late++) { /* the pages before the names, between them, after them */
            struct w_world *w = w_open(2, 4, 32);
            w->hold_kv = late > 0;
            write_prompt(w, prompt);
            CHECK_INT(name(w, 1, prompt, 2, false, false), SL_OK);
            w_settle(w);
            CHECK_INT(w->heard[1].adopted, 0); /* it waits for its forks */
            CHECK_INT(name(w, 2, prompt, 0, false, false), SL_OK);
            if (late == 1) {
                w->hold_kv = false;
                w_settle(w);
            }
            CHECK_INT(name(w, 3, prompt, 0, false, false), SL_OK);
            w->hold_kv = false;
            w_settle(w);
            for (uint32_t k = 0; k < ANSWERS; k++)
                check_is_alone(w, k);
            end_world(w);
        }
    }
}

SL_TEST(a_silent_one_says_nothing_and_ends_when_the_others_are_made)
{
    make_alone(100);
    struct w_world *w = w_open(2, 4, 32);
    write_prompt(w, 100);
    CHECK_INT(name(w, 1, 100, 2, true, false), SL_OK);
    w_settle(w);
    CHECK_INT(w->heard[1].ended, 0);
    CHECK_INT(name(w, 2, 100, 0, false, false), SL_OK);
    CHECK_INT(name(w, 3, 100, 0, false, false), SL_OK);
    w_settle(w);
    CHECK(w->heard[1].ended == 1 && w->heard[1].n == 1 && w->heard[1].adopted == 1);
    check_is_alone(w, 1);
    check_is_alone(w, 2);
    end_world(w);
}

SL_TEST(one_that_is_cancelled_before_it_was_made_keeps_nobody_waiting)
{
    make_alone(100);
    for (int silent = 0; silent < 2; silent++) {
        struct w_world *w = w_open(2, 4, 32);
        w->hold_kv = true;
        write_prompt(w, 100);
        CHECK_INT(name(w, 1, 100, 2, silent, false), SL_OK);
        CHECK_INT(name(w, 2, 100, 0, false, false), SL_OK);
        CHECK_INT(name(w, 3, 100, 0, false, false), SL_OK);
        w_settle(w);
        CHECK_INT(w_cancel(w, 2), SL_OK);
        w->hold_kv = false;
        w_settle(w);
        CHECK(w->heard[2].ended == 1 && w->heard[2].n == 1);
        check_is_alone(w, 2);
        if (!silent)
            check_is_alone(w, 0);
        end_world(w);
    }
}

SL_TEST(damage_to_the_prompt_fails_all_of_its_answers_once)
{
    for (int late = 0; late < 2; late++) { /* a FORK that comes when it has failed already */
        struct w_world *w = w_open(2, 4, 32);
        w->hold_kv = true;
        write_prompt(w, 100);
        CHECK_INT(name(w, 1, 100, 2, false, false), SL_OK);
        CHECK_INT(name(w, 2, 100, 0, false, false), SL_OK);
        if (!late)
            CHECK_INT(name(w, 3, 100, 0, false, false), SL_OK);
        w_settle(w);
        struct w_node *stage = w_stage(w, 0);
        const struct sl_role_action *page = &stage->sent[w_find(stage, SL_WIRE_KV)];
        CHECK_INT(w_give(w_decode(w), page->link, &page->wire, page->payload, SL_E_CORRUPT), SL_OK);
        w->hold_kv = false;
        w_settle(w);
        if (late)
            CHECK_INT(name(w, 3, 100, 0, false, false), SL_OK);
        w_settle(w);
        for (uint32_t seq = 1; seq <= 3; seq++)
            CHECK(w->heard[seq].failed == SL_E_CORRUPT && w->heard[seq].ended == 1 &&
                  w->heard[seq].adopted == 0);
        end_world(w);
    }
}

SL_TEST(a_fork_whose_pages_are_not_its_prompts_fails_alone)
{
    make_alone(100);
    for (int late = 0; late < 2; late++) {
        struct w_world *w = w_open(2, 4, 32);
        w->hold_kv = late;
        write_prompt(w, 100);
        CHECK_INT(name(w, 1, 100, 2, false, false), SL_OK);
        CHECK_INT(name(w, 2, 100, 0, false, true), SL_OK);
        CHECK_INT(name(w, 3, 100, 0, false, false), SL_OK);
        w_settle(w);
        w->hold_kv = false;
        w_settle(w);
        CHECK(w->heard[2].failed == SL_E_CORRUPT && w->heard[2].ended == 1);
        check_is_alone(w, 0);
        check_is_alone(w, 2);
        end_world(w);
    }
}

/* A stage that sends pages of sequences which nobody named has filled the worker's table. */
SL_TEST(a_fork_for_which_there_is_no_room_keeps_nobody_waiting)
{
    make_alone(100);
    struct w_world *w = w_open(2, 3, 32);
    w->hold_kv = true;
    write_prompt(w, 100);
    CHECK_INT(name(w, 1, 100, 2, false, false), SL_OK);
    CHECK_INT(name(w, 2, 100, 0, false, false), SL_OK);
    w_settle(w);
    struct w_node *stage = w_stage(w, 1); /* which has the last layers, as the chief */
    uint32_t at = w_find(stage, SL_WIRE_KV);
    struct sl_role_action page = stage->sent[at];
    while (sl_plan_link_peer(page.link, stage->number) != w_decode(w)->number)
        page = stage->sent[++at];
    page.wire.seq = 7;
    page.wire.page = 0;
    CHECK_INT(w_give(w_decode(w), page.link, &page.wire, page.payload, SL_OK), SL_OK);
    w_work(w_decode(w));
    CHECK_INT(name(w, 3, 100, 0, false, false), SL_OK);
    w->hold_kv = false;
    w_settle(w);
    CHECK(w->heard[3].failed == SL_E_EXHAUSTED && w->heard[3].ended == 1);
    check_is_alone(w, 0);
    check_is_alone(w, 1);
    w_close(w);
}

SL_TEST(forks_that_were_not_announced_end_the_worker_with_a_sentence)
{
    for (int wrong = 0; wrong < 3; wrong++) {
        struct w_world *w = w_open(2, 4, 32);
        w->hold_kv = true;
        write_prompt(w, 100);
        if (wrong > 0)
            CHECK_INT(name(w, 1, 100, 1, false, false), SL_OK);
        w_settle(w);
        if (wrong == 1) {
            CHECK_INT(name(w, 2, 100, 0, false, false), SL_OK);
            w_settle(w);
        }
        CHECK_INT(name(w, wrong == 2 ? 1 : 3, 100, wrong == 2, false, false), SL_OK);
        CHECK_INT(w_step(w_decode(w), NULL), SL_E_PROTOCOL);
        CHECK_CONTAINS(w_decode(w)->err.text, wrong == 0   ? "of one that is not here"
                                              : wrong == 1 ? "more of a sequence than it said"
                                                           : "names a sequence twice");
        w_close(w);
    }
}
