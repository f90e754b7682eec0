/* node/role/role_stage.c, stepped by hand: what a stage does with records and with the frames of neighbours that are hostile,
 * slow or damaged, and that every place which can't go on waits without having changed anything. */
#include "base/rng.h"
#include "tests/node/role/world.h"
#include <sched.h>
#include <stdatomic.h>

static const struct sl_sampling warm = {.temperature = 0.9f, .top_p = 0.95f, .seed = 11, .n_logprobs = -1};

/* What a step must not have changed when it could not go on. */
static void check_waits(struct w_node *n)
{
    uint32_t used = w_pages_used(n), sent = n->n_sent;
    uint64_t records = atomic_load(&n->meter.records);
    CHECK_INT(w_step(n, NULL), SL_OK);
    CHECK(!n->actions.go_on);
    CHECK_INT(n->actions.n, 0);
    CHECK_INT(w_pages_used(n), used);
    CHECK_INT(n->n_sent, sent);
    CHECK_INT(atomic_load(&n->meter.records), records);
}

SL_TEST(a_prompt_gives_the_same_tokens_through_one_stage_and_through_three)
{
    struct w_heard heard[2];
    for (uint32_t i = 0; i < 2; i++) {
        struct w_world *w = w_open(1 + 2 * i, 4, 32);
        w_generate(w, 1, 100, 8, &warm);
        heard[i] = w->heard[1];
        CHECK_INT(heard[i].n, 8);
        CHECK(heard[i].first && heard[i].adopted == 1 && heard[i].ended == 1 && heard[i].failed == SL_OK);
        for (uint32_t node = 1; node <= 1 + w->plan.n_stages; node++)
            CHECK_INT(w_pages_used(&w->nodes[node]), 0);
        w_close(w);
    }
    CHECK(memcmp(heard[0].ids, heard[1].ids, sizeof heard[0].ids) == 0);
    CHECK(heard[0].logits_digest == heard[1].logits_digest && heard[0].kv_digest == heard[1].kv_digest);
    CHECK(heard[0].kv_digest != 0);
}

SL_TEST(a_slot_goes_back_upstream_when_its_frame_has_left_and_not_before)
{
    struct w_world *w = w_open(2, 4, 32);
    struct w_node *n = w_stage(w, 0);
    CHECK_INT(w_write_run(w, 1, 100, &w_greedy), SL_OK);
    CHECK(n->actions.go_on);
    CHECK_INT(n->n_sent, 0); /* an event alone does no work */
    CHECK_INT(w_work(n), 1);
    CHECK_INT(w_count(n, SL_WIRE_KV), 2);
    CHECK_INT(w_count(n, SL_WIRE_ORDER), 1);
    CHECK(n->slots[0].held);
    w_report_sent(n, w_find(n, SL_WIRE_ORDER), SL_OK);
    CHECK(!n->slots[0].held);
    CHECK_INT(n->n_sent, 2);
    w_close(w);
}

SL_TEST(what_a_stage_reports_is_in_its_own_time)
{
    struct w_world *w = w_open(1, 4, 32);
    struct w_node *n = w_stage(w, 0);
    w->clock_us = 1000;
    CHECK_INT(w_write_run(w, 1, 10, &w_greedy), SL_OK);
    w_work(n);
    struct sl_role_action *a = &n->sent[w_find(n, SL_WIRE_RESULT)];
    struct sl_cursor in = sl_cursor_over((void *)(uintptr_t)a->payload, a->wire.payload_bytes);
    struct sl_result_head head;
    REQUIRE(sl_result_get_head(&in, &head, 1));
    CHECK_INT(head.traces[0].recv_us, 1001);
    CHECK_INT(head.traces[0].begin_us, 1002);
    CHECK_INT(head.traces[0].end_us, 1004); /* of the layers 1003, and of the head that came after */
    w_close(w);
}

/* ---- what was cancelled ---- */

static void check_nothing_left(struct w_world *w)
{
    for (uint32_t k = 0; k < w->plan.n_stages; k++)
        CHECK_INT(w_pages_used(w_stage(w, k)), 0);
}

SL_TEST(a_chunk_whose_cancel_waits_behind_it_is_not_run_by_any_stage)
{
    struct w_world *w = w_open(3, 4, 32);
    CHECK_INT(w_write_run(w, 1, 100, &w_greedy), SL_OK);
    CHECK_INT(w_write_control(w, SL_ORDER_CANCEL, 1), SL_OK);
    w_settle(w);
    CHECK_INT(w->answered, 2);
    for (uint32_t k = 0; k < 3; k++) {
        CHECK_INT(atomic_load(&w_stage(w, k)->meter.chunks), 0);
        CHECK_INT(atomic_load(&w_stage(w, k)->meter.given_up), 1);
        CHECK_INT(atomic_load(&w_stage(w, k)->meter.records), 2);
    }
    check_nothing_left(w);
    w_cancel(w, 1);
    w_settle(w);
    CHECK_INT(w->heard[1].ended, 1);
    CHECK_INT(w_pages_used(w_decode(w)), 0);
    memset(&w->heard[1], 0, sizeof w->heard[1]);
    w_generate(w, 2, 100, 4, &w_greedy); /* who comes next is served */
    CHECK_INT(w->heard[2].n, 4);
    w_close(w);
}

SL_TEST(a_cancel_that_comes_while_its_chunk_runs_spares_the_stages_behind)
{
    struct w_world *w = w_open(2, 4, 32);
    struct w_node *n = w_stage(w, 0);
    CHECK_INT(w_write_run(w, 1, 100, &w_greedy), SL_OK);
    CHECK_INT(w_step(n, NULL), SL_OK); /* it runs */
    CHECK_INT(atomic_load(&n->meter.chunks), 1);
    CHECK_INT(n->n_sent, 0);
    CHECK_INT(w_write_control(w, SL_ORDER_CANCEL, 1), SL_OK);
    w_settle(w);
    CHECK_INT(w->answered, 2);
    CHECK_INT(atomic_load(&w_stage(w, 1)->meter.chunks), 0);
    CHECK_INT(atomic_load(&w_stage(w, 1)->meter.given_up), 1);
    check_nothing_left(w);
    w_close(w);
}

SL_TEST(a_chunk_of_which_anything_is_wanted_is_run)
{
    struct w_world *w = w_open(1, 4, 32);
    struct w_chunk *c = calloc(1, sizeof *c);
    c->order.kind = SL_ORDER_RUN;
    w_add(w, c, 1, 0, 30, 30, &w_greedy);
    w_add(w, c, 2, 0, 30, 30, &w_greedy);
    CHECK_INT(w_write(w, c), SL_OK);
    CHECK_INT(w_write_control(w, SL_ORDER_CANCEL, 1), SL_OK);
    CHECK_INT(w_write_control(w, SL_ORDER_FREE, 2), SL_OK); /* is no cancel */
    w_settle(w);
    CHECK_INT(atomic_load(&w_stage(w, 0)->meter.chunks), 1);
    CHECK_INT(atomic_load(&w_stage(w, 0)->meter.given_up), 0);
    CHECK(w->heard[2].first);
    check_nothing_left(w);
    free(c);
    w_close(w);
}

SL_TEST(a_chunk_whose_cancel_is_foretold_is_not_run_though_chunks_of_others_stand_between)
{
    struct w_world *w = w_open(3, 4, 32);
    for (uint32_t k = 0; k < 3; k++)
        sl_stage_role_foretell(w_stage(w, k)->role, (struct sl_foretold_cancel){1, 3});
    CHECK_INT(w_write_run(w, 1, 100, &w_greedy), SL_OK);
    CHECK_INT(w_write_run(w, 2, 100, &w_greedy), SL_OK);
    w_settle(w); /* the CANCEL is still on its way */
    CHECK_INT(w->answered, 2);
    for (uint32_t k = 0; k < 3; k++) {
        CHECK_INT(atomic_load(&w_stage(w, k)->meter.chunks), 1);
        CHECK_INT(atomic_load(&w_stage(w, k)->meter.given_up), 1);
    }
    CHECK_INT(w_write_control(w, SL_ORDER_CANCEL, 1), SL_OK);
    CHECK_INT(w_write_control(w, SL_ORDER_FREE, 2), SL_OK);
    w_settle(w);
    check_nothing_left(w);
    w_close(w);
}

SL_TEST(a_stage_that_is_told_while_it_runs_the_chunk_spares_those_behind)
{
    struct w_world *w = w_open(2, 4, 32);
    struct w_node *n = w_stage(w, 0);
    CHECK_INT(w_write_run(w, 1, 100, &w_greedy), SL_OK);
    CHECK_INT(w_step(n, NULL), SL_OK); /* it runs */
    sl_stage_role_foretell(n->role, (struct sl_foretold_cancel){1, 2});
    w_settle(w);
    CHECK_INT(w->answered, 1);
    CHECK_INT(atomic_load(&w_stage(w, 1)->meter.chunks), 0);
    CHECK_INT(atomic_load(&w_stage(w, 1)->meter.given_up), 1);
    w_close(w);
}

/* Prompts of two chunks, of which some are cancelled behind those of all others. Stages are told of it by chance: not at all, early, late,
 * twice. Returns a digest of who had which pages behind each record, and of the tokens of those that were not cancelled. */
enum { TOLD_PROMPTS = 7, TOLD_STAGES = 3 };

static bool told_is_cancelled(uint64_t seq)
{
    return seq % 2 == 1;
}

static uint64_t tables_of(const struct w_node *n, uint64_t digest)
{
    const struct sl_sequences *t = sl_stage_sequences(n->stage);
    for (uint64_t seq = 1; seq <= TOLD_PROMPTS; seq++) {
        const struct sl_sequence *s = sl_sequences_find(t, seq);
        uint32_t n_pages = s ? s->n_pages : 0;
        digest = digest * 31 + n_pages;
        for (uint32_t i = 0; i < n_pages; i++)
            digest = digest * 31 + s->pages[i];
    }
    return digest;
}

static void tell_by_chance(struct w_world *w, struct sl_rng *rng)
{
    for (uint32_t k = 0; k < TOLD_STAGES; k++)
        for (uint64_t n = rng ? sl_rng_next(rng) % 4 : 0; n > 0; n--) {
            uint64_t seq = 1 + 2 * (sl_rng_next(rng) % ((TOLD_PROMPTS + 1) / 2));
            sl_stage_role_foretell(w_stage(w, k)->role,
                                   (struct sl_foretold_cancel){seq, 2 * TOLD_PROMPTS + (seq + 1) / 2});
        }
}

/* rng NULL: nobody is told anything. */
static void run_told(struct sl_rng *rng, uint64_t digests[TOLD_STAGES], uint64_t kv[TOLD_PROMPTS + 1],
                     uint32_t *n_given_up)
{
    struct w_world *w = w_open(TOLD_STAGES, TOLD_PROMPTS, 4 * (TOLD_PROMPTS + 1));
    struct w_chunk *c = calloc(1, sizeof *c);
    memset(digests, 0, TOLD_STAGES * sizeof *digests);
    for (uint32_t i = 0; i < 2 * TOLD_PROMPTS + (TOLD_PROMPTS + 1) / 2; i++) {
        tell_by_chance(w, rng);
        *c = (struct w_chunk){.order.kind = SL_ORDER_RUN};
        uint64_t seq = 1 + i % TOLD_PROMPTS;
        if (i < 2 * TOLD_PROMPTS)
            w_add(w, c, seq, i < TOLD_PROMPTS ? 0 : SL_PAGE, i < TOLD_PROMPTS ? SL_PAGE : 20, SL_PAGE + 20,
                  &warm);
        else
            c->order = (struct sl_order){.kind = SL_ORDER_CANCEL, .seq = 1 + 2 * (i - 2 * TOLD_PROMPTS)};
        CHECK_INT(w_write(w, c), SL_OK);
        w_settle(w);
        for (uint32_t k = 0; k < TOLD_STAGES; k++)
            digests[k] = tables_of(w_stage(w, k), digests[k]);
    }
    for (uint64_t seq = 1; seq <= TOLD_PROMPTS; seq++) {
        if (told_is_cancelled(seq)) {
            w_cancel(w, seq);
        } else {
            CHECK_INT(w_take(w, seq, SL_PAGE + 20, 5, &warm), SL_OK);
            CHECK_INT(w_write_control(w, SL_ORDER_FREE, seq), SL_OK);
        }
        w_settle(w);
        kv[seq] = told_is_cancelled(seq) ? 0 : w->heard[seq].kv_digest ^ w->heard[seq].logits_digest;
        CHECK_INT(w->heard[seq].n > 1, !told_is_cancelled(seq));
    }
    check_nothing_left(w);
    CHECK_INT(w_pages_used(w_decode(w)), 0);
    *n_given_up = 0;
    for (uint32_t k = 0; k < TOLD_STAGES; k++)
        *n_given_up += (uint32_t)atomic_load(&w_stage(w, k)->meter.given_up);
    free(c);
    w_close(w);
}

SL_TEST(whatever_stages_are_told_of_cancels_they_have_the_same_tables_and_the_others_the_same_digests)
{
    uint64_t tables[TOLD_STAGES], digests[TOLD_PROMPTS + 1] = {0};
    uint32_t n, n_given_up = 0, n_least = UINT32_MAX, n_most = 0;
    run_told(NULL, tables, digests, &n);
    CHECK_INT(n, 0);
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct sl_rng rng = {seed, 0};
        uint64_t told_tables[TOLD_STAGES], told_digests[TOLD_PROMPTS + 1] = {0};
        run_told(&rng, told_tables, told_digests, &n);
        for (uint32_t k = 0; k < TOLD_STAGES; k++)
            CHECK(told_tables[k] == tables[0]);
        CHECK(memcmp(told_digests, digests, sizeof digests) == 0);
        n_given_up += n;
        n_least = n < n_least ? n : n_least;
        n_most = n > n_most ? n : n_most;
    }
    CHECK(n_given_up > 100 && n_least < n_most);
}

/* ---- SL_AGAIN, at each place that says it ---- */

SL_TEST(a_record_waits_while_the_pages_it_is_given_are_still_being_sent)
{
    struct w_world *w = w_open(1, 2, 8);
    struct w_node *n = w_stage(w, 0);
    CHECK_INT(w_write_run(w, 1, 100, &w_greedy), SL_OK);
    CHECK_INT(w_write_control(w, SL_ORDER_FREE, 1), SL_OK);
    CHECK_INT(w_write_run(w, 3, 100, &w_greedy), SL_OK); /* of 8 pages, its four are those of sequence 1 */
    w_work(n);
    CHECK_INT(w_count(n, SL_WIRE_RESULT), 2);
    check_waits(n);
    CHECK_INT(w_pages_used(n), 2); /* nobody's, but read from */
    w_report_sent(n, w_find(n, SL_WIRE_KV), SL_OK);
    check_waits(n);
    w_report_sent(n, w_find(n, SL_WIRE_KV), SL_OK);
    CHECK(n->actions.go_on);
    w_work(n);
    CHECK_INT(w_count(n, SL_WIRE_RESULT), 3);
    w_close(w);
}

SL_TEST(a_record_waits_while_the_coordinator_takes_no_results)
{
    struct w_world *w = w_open(1, 4, 32);
    struct w_node *n = w_stage(w, 0);
    for (uint32_t i = 0; i < SL_RESULT_BUFFERS; i++) {
        CHECK_INT(w_write_control(w, SL_ORDER_FREE, 99), SL_OK);
        w_work(n);
    }
    CHECK_INT(w_count(n, SL_WIRE_RESULT), SL_RESULT_BUFFERS);
    CHECK_INT(w_write_run(w, 1, 10, &w_greedy), SL_OK);
    check_waits(n);
    w_deliver(w, n, 0);
    w_work(n);
    CHECK_INT(w_count(n, SL_WIRE_RESULT), SL_RESULT_BUFFERS);
    CHECK_INT(w_count(n, SL_WIRE_KV), 1);
    w_settle(w);
    CHECK_INT(w->answered, SL_RESULT_BUFFERS + 1);
    CHECK(w->heard[1].first);
    w_close(w);
}

/* The decode worker takes nothing: pages of sequence after sequence stay under way until the io would take no more. */
SL_TEST(a_record_waits_while_the_window_of_sends_is_full)
{
    struct w_world *w = w_open(2, 2, 4 * W_SEQS);
    struct w_node *n = w_stage(w, 0);
    for (uint64_t seq = 0; seq < W_SEQS && !n->slots[0].held; seq++) {
        CHECK_INT(w_write_run(w, seq, 1, &w_greedy), SL_OK);
        CHECK_INT(w_write_control(w, SL_ORDER_FREE, seq), SL_OK);
        w_work(n);
        while (w_find(n, SL_WIRE_ORDER) < n->n_sent)
            w_report_sent(n, w_find(n, SL_WIRE_ORDER), SL_OK);
    }
    CHECK_INT(n->n_sent,
              SL_IO_SENDS - 3); /* its frame, two pages at most, and the last word would be one too many */
    check_waits(n);
    w_report_sent(n, 0, SL_OK);
    CHECK(n->actions.go_on);
    CHECK_INT(w_work(n), 2); /* with the FREE behind it */
    CHECK_INT(n->n_sent, SL_IO_SENDS - 1);
    CHECK_INT(w_write_run(w, W_SEQS - 1, 1, &w_greedy), SL_OK);
    check_waits(n);
    w_report_sent(n, 0, SL_OK);
    w_report_sent(n, 0, SL_OK);
    check_waits(n);
    w_report_sent(n, 0, SL_OK);
    CHECK_INT(w_work(n), 1);
    w_close(w);
}

SL_TEST(every_record_that_has_credit_is_kept_and_applied_in_order)
{
    struct w_world *w = w_open(2, 4, 32);
    for (uint32_t i = 0; i < SL_ORDER_SLOTS; i++)
        CHECK_INT(w_write_run(w, 1 + i, 20 + i, &warm), SL_OK);
    CHECK_INT(w_write_run(w, 9, 20, &warm), SL_AGAIN); /* no credit: the coordinator's io keeps it */
    w_work(w_stage(w, 0));
    CHECK_INT(w_count(w_stage(w, 0), SL_WIRE_ORDER), SL_ORDER_SLOTS);
    CHECK_INT(w_write_run(w, 9, 20, &warm), SL_AGAIN); /* the next stage is slow: still none */
    w_settle(w);
    CHECK_INT(w->answered, SL_ORDER_SLOTS);
    for (uint32_t i = 0; i < SL_ORDER_SLOTS; i++)
        CHECK(w->heard[1 + i].first);
    w_close(w);
}

/* ---- decode workers that are gone ---- */

SL_TEST(pages_for_a_decode_worker_that_is_gone_go_nowhere_and_the_record_goes_on)
{
    struct w_world *w = w_open(2, 4, 32);
    struct w_node *n = w_stage(w, 0);
    uint64_t link = sl_plan_link_id(&w->plan, 1, sl_plan_decode_node(&w->plan, 0));
    CHECK_INT(w_write_run(w, 1, 100, &w_greedy), SL_OK); /* to the one that is here */
    w_work(n);
    CHECK_INT(w_count(n, SL_WIRE_KV), 2);
    w_report_sent(n, w_find(n, SL_WIRE_ORDER), SL_OK);
    for (uint32_t i = 0; i < 2; i++) { /* nobody; and one that came after */
        sl_stage_role_set_decoder(n->role, 0, 0, i, i ? link + 1 : 0);
        CHECK_INT(w_write_run(w, 2 + i, 100, &w_greedy), SL_OK);
        w_work(n);
        CHECK_INT(w_count(n, SL_WIRE_KV), 2);
        CHECK_INT(w_count(n, SL_WIRE_ORDER), 1); /* it goes to the next stage all the same */
        w_report_sent(n, w_find(n, SL_WIRE_ORDER), SL_OK);
    }
    for (uint32_t seq = 1; seq <= 3; seq++)
        CHECK_INT(w_write_control(w, SL_ORDER_CANCEL, seq), SL_OK);
    w_work(n);
    CHECK_INT(w_pages_used(n), 2);            /* those that are still being sent */
    while (w_find(n, SL_WIRE_KV) < n->n_sent) /* and come back, because the link is down */
        w_report_sent(n, w_find(n, SL_WIRE_KV), SL_E_PEER_LOST);
    CHECK_INT(w_pages_used(n), 0);
    w_close(w);
}

/* ---- cancel, company ---- */

SL_TEST(a_cancel_right_behind_the_last_chunk_lets_its_pages_go_when_they_are_sent)
{
    struct w_world *w = w_open(2, 4, 32);
    CHECK_INT(w_write_run(w, 1, 100, &w_greedy), SL_OK);
    CHECK_INT(w_write_control(w, SL_ORDER_CANCEL, 1), SL_OK);
    CHECK_INT(w_write_control(w, SL_ORDER_CANCEL, 77), SL_OK); /* which never was here */
    w_work(w_stage(w, 0));
    CHECK_INT(w_count(w_stage(w, 0), SL_WIRE_KV), 2);
    CHECK_INT(sl_stage_sequences(w_stage(w, 0)->stage)->n_live, 0);
    CHECK_INT(w_pages_used(w_stage(w, 0)), 2);
    CHECK_INT(w_cancel(w, 1), SL_OK); /* to the decode worker, before any page */
    w_settle(w);
    CHECK_INT(w->answered, 3);
    CHECK(w->heard[1].first && w->heard[1].ended == 1 && w->heard[1].adopted == 0);
    for (uint32_t node = 1; node <= 3; node++)
        CHECK_INT(w_pages_used(&w->nodes[node]), 0);
    w_close(w);
}

SL_TEST(two_sequences_of_one_chunk_have_their_own_samplings_and_one_may_go)
{
    struct w_world *alone = w_open(2, 4, 32), *w = w_open(2, 4, 32);
    w_generate(alone, 1, 40, 6, &w_greedy);
    w_generate(alone, 2, 80, 6, &warm);
    struct w_chunk *c = calloc(1, sizeof *c);
    c->order.kind = SL_ORDER_RUN;
    w_add(w, c, 1, 0, 40, 40, &w_greedy);
    w_add(w, c, 2, 0, 80, 80, &warm);
    CHECK_INT(w_write(w, c), SL_OK);
    CHECK_INT(w_write_control(w, SL_ORDER_CANCEL, 1), SL_OK); /* before its first token is told */
    CHECK_INT(w_cancel(w, 1), SL_OK);
    w_settle(w);
    CHECK_INT(w->heard[1].ids[0], alone->heard[1].ids[0]);
    CHECK_INT(w_take(w, 2, 80, 6, &warm), SL_OK);
    w_settle(w);
    CHECK_INT(w->heard[2].n, 6);
    CHECK(memcmp(w->heard[2].ids, alone->heard[2].ids, sizeof w->heard[2].ids) == 0);
    CHECK(w->heard[2].logits_digest == alone->heard[2].logits_digest);
    CHECK(w->heard[1].n == 1 && w->heard[1].ended == 1);
    CHECK(alone->heard[1].ids[0] != alone->heard[2].ids[0]);
    free(c);
    w_close(alone);
    w_close(w);
}

/* ---- what the last layer leaves out ---- */

enum { TOLD = 40 };

struct told_slice { /* of one slice */
    struct sl_result_slice slice;
    struct sl_token_out prompt[TOLD];
};

/* Runs the record on a pipeline of one stage and reads what is told of its slices; nothing is under way afterwards. */
static void tell(struct w_world *w, struct w_chunk *c, struct told_slice *told)
{
    struct w_node *n = w_stage(w, 0);
    struct sl_result_head head;
    CHECK_INT(w_write(w, c), SL_OK);
    CHECK_INT(w_work(n), 1);
    const struct sl_role_action *a = &n->sent[w_find(n, SL_WIRE_RESULT)];
    struct sl_cursor in = sl_cursor_over((void *)(uintptr_t)a->payload, a->wire.payload_bytes);
    CHECK(sl_result_get_head(&in, &head, 1));
    CHECK_INT(head.n_slices, c->order.n_slices);
    memset(told, 0, head.n_slices * sizeof *told);
    for (uint32_t i = 0; i < head.n_slices; i++) {
        CHECK(sl_result_get_slice(&in, &told[i].slice) && told[i].slice.n_prompt <= TOLD);
        for (uint32_t k = 0; k < told[i].slice.n_prompt; k++)
            CHECK(sl_token_get(&in, &told[i].prompt[k]));
    }
    while (n->n_sent > 0)
        CHECK_INT(w_report_sent(n, 0, SL_OK), SL_OK);
}

/* One more slice of a prompt whose sequence's pages have not been seen by this world. */
static struct sl_order_slice *add(struct w_world *w, struct w_chunk *c, uint64_t seq, uint32_t pos,
                                  uint32_t n, uint32_t prompt, bool prompt_logprobs)
{
    w_add(w, c, seq, pos, n, prompt, &w_greedy);
    struct sl_order_slice *s = &c->order.slices[c->order.n_slices - 1];
    s->flags |= SL_SLICE_DIGEST;
    s->prompt_logprobs = prompt_logprobs ? 0 : -1;
    return s;
}

SL_TEST(a_slice_is_told_the_same_alone_and_beside_those_that_want_fewer_rows_or_more)
{
    struct w_world *w = w_open(1, 4, 32), *alone = w_open(1, 4, 32);
    struct w_chunk *c = calloc(1, sizeof *c);
    struct told_slice together[5], one;
    c->order.kind = SL_ORDER_RUN;
    add(w, c, 1, 0, 32, 58, false); /* wants no row, */
    add(w, c, 2, 0, 30, 30, true);  /* all, */
    add(w, c, 3, 0, 26, 26, false); /* the last one, */
    add(w, c, 4, 0, 40, 80, true);  /* and all of a prompt that goes on */
    tell(w, c, together);
    CHECK(!together[0].slice.has_token && together[0].slice.n_prompt == 0);
    CHECK(together[1].slice.logits_digest && together[2].slice.logits_digest);
    CHECK_INT(together[1].slice.n_prompt, 29);
    CHECK_INT(together[3].slice.n_prompt, 40);
    *c = (struct w_chunk){.order.kind = SL_ORDER_RUN};
    add(w, c, 1, 32, 26, 58, false);
    tell(w, c, &together[4]);
    for (uint32_t i = 1; i < 5; i++) {
        static const uint32_t prompts[] = {0, 30, 26, 80, 58};
        *c = (struct w_chunk){.order.kind = SL_ORDER_RUN};
        if (i == 3)
            add(alone, c, 4, 0, 40, 80, true);
        else
            add(alone, c, i == 4 ? 1 : 1 + i, 0, prompts[i], prompts[i], i == 1);
        tell(alone, c, &one);
        CHECK(together[i].slice.has_token == (i != 3) && one.slice.has_token == (i != 3));
        CHECK_INT(together[i].slice.first.id, one.slice.first.id);
        CHECK(together[i].slice.logits_digest == one.slice.logits_digest);
        CHECK(memcmp(together[i].prompt, one.prompt, sizeof one.prompt) == 0);
    }
    free(c);
    w_close(alone);
    w_close(w);
}

SL_TEST(a_prompt_that_is_restored_is_told_nothing_and_has_the_pages_of_one_that_is_not)
{
    struct w_world *w = w_open(1, 4, 32);
    struct w_chunk *c = calloc(1, sizeof *c);
    struct told_slice told;
    struct sl_stage *stage = w_stage(w, 0)->stage;
    uint8_t *first = malloc(2 * sl_stage_page_bytes(stage));
    for (int restored = 0; restored < 2; restored++) {
        *c = (struct w_chunk){.order.kind = SL_ORDER_RUN};
        if (restored)
            add(w, c, 1, 0, 100, 100, false)->flags |= SL_SLICE_RESTORE;
        else
            add(w, c, 1, 0, 100, 100, false);
        tell(w, c, &told);
        CHECK_INT(w_write_control(w, SL_ORDER_CANCEL, 1), SL_OK);
        CHECK_INT(w_work(w_stage(w, 0)), 1);
        CHECK_INT(w_report_sent(w_stage(w, 0), 0, SL_OK), SL_OK);
        CHECK(told.slice.has_token == !restored && (told.slice.logits_digest != 0) == !restored);
        for (uint32_t p = 0; p < 2; p++) {
            const uint8_t *page = sl_stage_page_out(stage, w_page(w, 1, p).stage);
            uint8_t *kept = first + p * sl_stage_page_bytes(stage);
            if (!restored)
                memcpy(kept, page, sl_stage_page_bytes(stage));
            CHECK(memcmp(kept, page, sl_stage_page_bytes(stage)) == 0);
        }
    }
    free(first);
    free(c);
    w_close(w);
}

/* ---- behind a prefix ---- */

/* Sequence 1 + vocab has the ids of sequence 1, and begins behind n pages of it. */
static sl_status write_behind(struct w_world *w, uint32_t n_shared, uint32_t prompt)
{
    uint64_t seq = 1 + w->plan.vocab;
    struct w_chunk *c = calloc(1, sizeof *c);
    c->order.kind = SL_ORDER_RUN;
    c->order.n_pages = n_shared;
    w_add(w, c, seq, n_shared * SL_PAGE, prompt - n_shared * SL_PAGE, prompt, &warm);
    struct sl_order_slice *s = &c->order.slices[0];
    s->flags |= SL_SLICE_FIRST;
    s->page_first = s->pages_at = 0;
    s->n_pages += n_shared;
    for (uint32_t i = 0; i < n_shared; i++)
        c->pages[i] = (struct sl_page_numbers){w_page(w, 1, i).stage, w_page(w, seq, i).decode};
    sl_status status = w_write(w, c);
    free(c);
    return status;
}

/* Sequence 1, cut elsewhere, and inside a page. */
static void write_in_two(struct w_world *w, uint32_t prompt)
{
    for (uint32_t pos = 0; pos < prompt; pos += prompt / 2) {
        struct w_chunk *c = calloc(1, sizeof *c);
        c->order.kind = SL_ORDER_RUN;
        w_add(w, c, 1, pos, prompt / 2, prompt, &warm);
        CHECK_INT(w_write(w, c), SL_OK);
        free(c);
    }
}

SL_TEST(a_prompt_behind_pages_of_one_that_is_gone_gives_the_same_bits)
{
    for (uint32_t n_shared = 1; n_shared <= 2; n_shared++) {
        struct w_world *w = w_open(3, 4, 32);
        uint64_t seq = 1 + w->plan.vocab;
        write_in_two(w, 190);
        w_settle(w);
        CHECK_INT(w_take(w, 1, 190, 8, &warm), SL_OK);
        CHECK_INT(w_write_control(w, SL_ORDER_FREE, 1), SL_OK);
        w_settle(w);
        CHECK_INT(write_behind(w, n_shared, 190), SL_OK);
        w_settle(w);
        CHECK_INT(w_take(w, seq, 190, 8, &warm), SL_OK);
        w_settle(w);
        CHECK_INT(w->heard[seq].n, 8);
        CHECK(memcmp(w->heard[1].ids, w->heard[seq].ids, sizeof w->heard[1].ids) == 0);
        CHECK(w->heard[1].logits_digest == w->heard[seq].logits_digest);
        CHECK(w->heard[1].kv_digest == w->heard[seq].kv_digest && w->heard[seq].kv_digest != 0);
        w_close(w);
    }
}

SL_TEST(a_prefix_is_pushed_piece_by_piece_and_what_comes_next_waits_for_it)
{
    struct w_world *w = w_open(2, 4, 4 * W_SEQS);
    struct w_node *n = w_stage(w, 0);
    write_in_two(w, 200);
    CHECK_INT(w_write_control(w, SL_ORDER_FREE, 1), SL_OK);
    w_settle(w);
    for (uint64_t seq = 100; seq < W_SEQS && n->n_sent + 4 < SL_IO_SENDS; seq++) { /* nobody takes these */
        CHECK_INT(w_write_run(w, seq, 1, &w_greedy), SL_OK);
        CHECK_INT(w_write_control(w, SL_ORDER_FREE, seq), SL_OK);
        w_work(n);
        while (w_find(n, SL_WIRE_ORDER) < n->n_sent)
            w_report_sent(n, w_find(n, SL_WIRE_ORDER), SL_OK);
    }
    CHECK_INT(n->n_sent, SL_IO_SENDS - 4);
    CHECK_INT(write_behind(w, 3, 200), SL_OK);
    CHECK_INT(w_write_control(w, SL_ORDER_FREE, 1 + w->plan.vocab), SL_OK);
    CHECK_INT(w_work(n), 1); /* the frame and two of its pages */
    CHECK_INT(n->n_sent, SL_IO_SENDS - 1);
    CHECK_INT(w_count(n, SL_WIRE_ORDER), 1);
    w_report_sent(n, w_find(n, SL_WIRE_ORDER), SL_OK);
    CHECK_INT(n->actions.n, 0); /* its slot is read until the last page has its number from there */
    CHECK_INT(w_work(n), 1);
    check_waits(n);
    CHECK(n->slots[0].held);
    w_report_sent(n, 0, SL_OK);
    CHECK_INT(w_work(n), 1); /* the last page; the FREE has no room yet */
    CHECK(!n->slots[0].held && n->slots[1].held);
    CHECK_INT(w_count(n, SL_WIRE_ORDER), 0);
    for (uint32_t i = 0; i < 4; i++) { /* in order, from the first on */
        const struct sl_role_action *a = &n->sent[n->n_sent - 4 + i];
        CHECK_INT(a->wire.seq, 1 + w->plan.vocab);
        CHECK_INT(a->wire.token_first, i * SL_PAGE);
        CHECK_INT(a->wire.page, w_page(w, a->wire.seq, i).decode);
    }
    w_report_sent(n, 0, SL_OK);
    CHECK_INT(w_work(n), 1);
    CHECK_INT(w_count(n, SL_WIRE_ORDER), 1);
    w_close(w);
}

/* ---- hostile and damaged frames ---- */

struct hostile {
    const char *what, *says;
    sl_status status;
    void (*twist)(struct w_world *w, struct w_chunk *c, struct sl_wire *wire, uint64_t *link);
};

static void twist_number(struct w_world *w, struct w_chunk *c, struct sl_wire *wire, uint64_t *link)
{
    (void)w, (void)wire, (void)link;
    c->order.number += 1;
}
static void twist_repeat(struct w_world *w, struct w_chunk *c, struct sl_wire *wire, uint64_t *link)
{
    (void)w, (void)wire, (void)link;
    c->order.number -= 1;
}
static void twist_kind(struct w_world *w, struct w_chunk *c, struct sl_wire *wire, uint64_t *link)
{
    (void)w, (void)c, (void)link;
    wire->kind = SL_WIRE_TOKENS;
}
static void twist_link(struct w_world *w, struct w_chunk *c, struct sl_wire *wire, uint64_t *link)
{
    (void)c, (void)wire;
    *link = sl_plan_link_id(&w->plan, 2, 3); /* back from the next stage */
}
static void twist_meta(struct w_world *w, struct w_chunk *c, struct sl_wire *wire, uint64_t *link)
{
    (void)w, (void)c, (void)link;
    wire->meta_bytes -= 64;
}
static void twist_rows(struct w_world *w, struct w_chunk *c, struct sl_wire *wire, uint64_t *link)
{
    (void)w, (void)c, (void)link;
    wire->shape[0]--;
}
static void twist_dtype(struct w_world *w, struct w_chunk *c, struct sl_wire *wire, uint64_t *link)
{
    (void)w, (void)c, (void)link;
    wire->dtype = SL_I8;
}
static void twist_page(struct w_world *w, struct w_chunk *c, struct sl_wire *wire, uint64_t *link)
{
    (void)wire, (void)link;
    c->pages[0].stage = w->plan.n_pages;
}
static void twist_used(struct w_world *w, struct w_chunk *c, struct sl_wire *wire, uint64_t *link)
{
    (void)wire, (void)link;
    c->pages[0] = w_page(w, 1, 0); /* of the sequence that is there already */
}
static void twist_shared(struct w_world *w, struct w_chunk *c, struct sl_wire *wire, uint64_t *link)
{
    (void)w, (void)wire, (void)link;
    c->order.slices[0].pos = 64;
    c->order.slices[0].prompt_tokens = 74;
    c->order.slices[0].n_pages = c->order.n_pages = 2;
    c->pages[1] = c->pages[0];
    c->pages[0].stage--; /* nobody's */
}
static void twist_twice(struct w_world *w, struct w_chunk *c, struct sl_wire *wire, uint64_t *link)
{
    (void)w, (void)wire, (void)link;
    c->order.slices[0].seq = 1;
}
static void twist_absent(struct w_world *w, struct w_chunk *c, struct sl_wire *wire, uint64_t *link)
{
    (void)w, (void)wire, (void)link;
    c->order.slices[0].pos = 64;
    c->order.slices[0].page_first = 1;
    c->order.slices[0].prompt_tokens = 74;
    c->order.slices[0].flags &= ~(uint32_t)SL_SLICE_FIRST;
}
static void twist_id(struct w_world *w, struct w_chunk *c, struct sl_wire *wire, uint64_t *link)
{
    (void)wire, (void)link;
    c->ids[3] = w->plan.vocab;
}
static void twist_decode(struct w_world *w, struct w_chunk *c, struct sl_wire *wire, uint64_t *link)
{
    (void)c, (void)wire, (void)link;
    w->plan.max_decoders = 0;
}

/* Stage 1 of three has sequence 1 and gets a second record, twisted. */
static void meet(const struct hostile *h, sl_status damage)
{
    struct w_world *w = w_open(3, 4, 32);
    struct w_node *n = w_stage(w, 1);
    CHECK_INT(w_write_run(w, 1, 10, &w_greedy), SL_OK);
    w_settle(w);
    struct w_chunk *c = calloc(1, sizeof *c);
    c->order = (struct sl_order){.kind = SL_ORDER_RUN, .number = 2};
    w_add(w, c, 2, 0, 10, 10, &w_greedy);
    uint64_t link = sl_plan_link_id(&w->plan, 1, 2);
    struct sl_wire wire = {.kind = SL_WIRE_ORDER,
                           .rank = 2,
                           .dtype = SL_F32,
                           .shape = {10, w->plan.d_model},
                           .meta_bytes = (uint32_t)w->plan.meta_bytes};
    wire.payload_bytes = w->plan.meta_bytes + 10 * w->plan.d_model * sizeof(float);
    h->twist(w, c, &wire, &link);
    uint8_t *payload = calloc(1, w->plan.order_bytes);
    struct sl_order_limits limits = {
        3, w->plan.max_chunk, w->plan.context_tokens, w->plan.vocab, w->plan.n_pages, w->plan.n_pages, 1};
    sl_order_pack(payload, &c->order, c->ids, c->pages, &limits);
    uint32_t used = w_pages_used(n);
    sl_status status = w_give(n, link, &wire, payload, damage);
    if (status == SL_OK)
        status = w_step(n, NULL);
    if (status != h->status)
        sl_test_fail(__FILE__, __LINE__, "%s: status %d", h->what, status);
    if (h->status != SL_OK)
        CHECK_CONTAINS(n->err.text, h->says);
    CHECK(h->status == SL_OK || (n->n_sent == 0 && n->actions.n == 0 && w_pages_used(n) == used));
    free(payload);
    free(c);
    w_close(w);
}

static void no_twist(struct w_world *w, struct w_chunk *c, struct sl_wire *wire, uint64_t *link)
{
    (void)w, (void)c, (void)wire, (void)link;
}

SL_TEST(a_hostile_neighbour_is_refused_in_a_sentence_and_changes_nothing)
{
    static const struct hostile all[] = {
        {"nothing", "", SL_OK, no_twist},
        {"a number too far", "record 3 from stage 0 is not acceptable: record out of order", SL_E_PROTOCOL,
         twist_number},
        {"a record twice", "record out of order", SL_E_PROTOCOL, twist_repeat},
        {"another kind", "a frame of kind 11 from stage 0 does not belong to stage 1", SL_E_PROTOCOL,
         twist_kind},
        {"the wrong link", "from stage 2 does not belong", SL_E_PROTOCOL, twist_link},
        {"a meta part too small", "meta size", SL_E_PROTOCOL, twist_meta},
        {"rows too few", "rows do not fit", SL_E_PROTOCOL, twist_rows},
        {"rows of another type", "rows do not fit", SL_E_PROTOCOL, twist_dtype},
        {"a page outside the pool", "page number outside the pool", SL_E_PROTOCOL, twist_page},
        {"a page in use", "a page that is in use", SL_E_PROTOCOL, twist_used},
        {"a prefix of nothing", "shares one that nothing was written to", SL_E_PROTOCOL, twist_shared},
        {"a sequence opened twice", "it opens a sequence that is open", SL_E_PROTOCOL, twist_twice},
        {"a sequence that is not here", "a sequence that is not here", SL_E_PROTOCOL, twist_absent},
        {"an id outside the vocabulary", "token id", SL_E_PROTOCOL, twist_id},
        {"a hand-off to nobody", "hand-off without a decode worker", SL_E_PROTOCOL, twist_decode},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        meet(&all[i], SL_OK);
}

SL_TEST(a_damaged_record_ends_the_stage_with_a_sentence)
{
    static const struct hostile damaged = {
        "damage", "a record from stage 0 failed its checksum after record 1; restart the pipeline",
        SL_E_CORRUPT, no_twist};
    meet(&damaged, SL_E_CORRUPT);
}

SL_TEST(a_frame_that_no_slot_can_hold_ends_the_stage)
{
    struct w_world *w = w_open(2, 4, 32);
    struct w_node *n = w_stage(w, 0);
    CHECK_INT(w_write_run(w, 1, 10, &w_greedy), SL_OK);
    w_work(n);
    CHECK_INT(w_report_sent(n, w_find(n, SL_WIRE_KV), SL_E_PEER_LOST), SL_OK); /* LINK_DOWN says it */
    CHECK_INT(w_report_sent(n, w_find(n, SL_WIRE_ORDER), SL_E_INVALID), SL_E_PROTOCOL);
    CHECK_CONTAINS(n->err.text, "larger than the neighbour's slots");
    w_close(w);
}

/* ---- weights that are not what was loaded ---- */

static _Atomic bool found;

static void on_found(void *user, const struct sl_spoiled *spoiled)
{
    (void)user, (void)spoiled;
    atomic_store(&found, true);
}

static void spoil_embedding(struct w_world *w)
{
    char path[400];
    snprintf(path, sizeof path, "%s/embed.safetensors", sl_pack_path(w->pack));
    FILE *f = fopen(path, "r+b");
    if (!f || fseek(f, -3, SEEK_END) != 0 || fputs("xyz", f) < 0 || fclose(f) != 0)
        exit(1);
    while (!atomic_load(&found))
        sched_yield();
}

SL_TEST(nothing_that_spoiled_weights_have_made_leaves_but_the_word_of_it)
{
    struct w_world *w = w_open(2, 4, 32);
    struct w_node *n = w_stage(w, 0), *last = w_stage(w, 1);
    struct sl_spoiled_word word;
    REQUIRE(sl_stage_watch(n->stage, &(struct sl_scrub_config){on_found, NULL}, NULL) == SL_OK);
    CHECK_INT(w_write_run(w, 1, 100, &w_greedy), SL_OK);
    spoil_embedding(w);
    CHECK_INT(w_work(n), 1);
    CHECK_INT(n->n_sent, 1);
    CHECK_INT(atomic_load(&n->meter.records), 0);
    const struct sl_role_action *said = &n->sent[0];
    CHECK_INT(said->wire.kind, SL_WIRE_SPOILED);
    REQUIRE(sl_spoiled_unpack(&word, said->payload, said->wire.payload_bytes) == NULL);
    CHECK_CONTAINS(word.sentence, "stage 0: ");
    CHECK_CONTAINS(word.sentence, "embed.safetensors has other bytes");
    CHECK_INT(w_work(n), 0); /* said once */
    /* the next stage hands it on, whatever else it has to do */
    CHECK_INT(w_give(last, said->link, &said->wire, said->payload, SL_OK), SL_OK);
    CHECK_INT(w_count(last, SL_WIRE_SPOILED), 1);
    CHECK_INT(last->sent[0].link, sl_plan_link_id(&w->plan, 2, 0));
    CHECK(!last->slots[0].held);
    CHECK_INT(w_give(last, said->link, &said->wire, said->payload, SL_OK), SL_OK);
    CHECK_INT(w_count(last, SL_WIRE_SPOILED), 1);
    CHECK_INT(w_report_sent(last, 0, SL_OK), SL_OK);
    CHECK_INT(w_report_sent(n, 0, SL_OK), SL_OK);
    CHECK_INT(w_give(last, said->link, &said->wire, said->payload, SL_E_CORRUPT), SL_E_CORRUPT);
    w_close(w);
}
