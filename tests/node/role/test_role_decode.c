/* node/role/role_decode.c, stepped by hand: the life of a sequence in every state, pages that are damaged, wrong or late, a
 * coordinator that does not listen, and any order in which the network may bring things. */
#include "pipeline/stage/sample.h"
#include "tests/node/role/world.h"
#include <sched.h>
#include <stdatomic.h>
#include <unistd.h>

static const struct sl_sampling warm = {.temperature = 0.9f, .top_p = 0.95f, .seed = 11, .n_logprobs = -1};

SL_TEST(every_state_of_a_sequence_knows_what_may_come_next)
{
    enum {
        FREE = SL_ADOPTEE_FREE,
        ARRIVING = SL_ADOPTEE_ARRIVING,
        NAMED = SL_ADOPTEE_NAMED,
        WHOLE = SL_ADOPTEE_WHOLE,
        ADOPTED = SL_ADOPTEE_ADOPTED,
        ENDING = SL_ADOPTEE_ENDING,
        NEVER = SL_ADOPTEE_STATES
    };
    static const struct {
        int state, page, name, filled, told, over, end;
    } rows[] = {
        {FREE, ARRIVING, NAMED, NEVER, NEVER, NEVER, NEVER},
        {ARRIVING, ARRIVING, NAMED, NEVER, NEVER, ENDING, FREE},
        {NAMED, NAMED, NEVER, WHOLE, NEVER, ENDING, FREE},
        {WHOLE, NEVER, NEVER, NEVER, ADOPTED, ENDING, FREE},
        {ADOPTED, NEVER, NEVER, NEVER, NEVER, ENDING, FREE},
        {ENDING, NEVER, NEVER, NEVER, NEVER, NEVER, FREE},
    };
    CHECK_INT(sizeof rows / sizeof *rows, SL_ADOPTEE_STATES);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        enum sl_adoptee_state state = (enum sl_adoptee_state)rows[i].state;
        CHECK_INT(sl_adoptee_after(state, SL_ADOPTEE_PAGE), rows[i].page);
        CHECK_INT(sl_adoptee_after(state, SL_ADOPTEE_NAME), rows[i].name);
        CHECK_INT(sl_adoptee_after(state, SL_ADOPTEE_FILLED), rows[i].filled);
        CHECK_INT(sl_adoptee_after(state, SL_ADOPTEE_TOLD), rows[i].told);
        CHECK_INT(sl_adoptee_after(state, SL_ADOPTEE_OVER), rows[i].over);
        CHECK_INT(sl_adoptee_after(state, SL_ADOPTEE_END), rows[i].end);
    }
}

/* ---- pages that are not what they must be ---- */

/* Two sequences have run on the stages; their pages are under way. */
static struct w_world *two_under_way(uint32_t n_stages, uint32_t prompt)
{
    struct w_world *w = w_open(n_stages, 4, 32);
    w->hold_kv = true;
    CHECK_INT(w_write_run(w, 1, prompt, &warm), SL_OK);
    CHECK_INT(w_write_run(w, 2, 70, &warm), SL_OK);
    w_settle(w);
    CHECK(w->heard[1].first && w->heard[2].first);
    return w;
}

static uint64_t kv_link(const struct w_world *w, uint32_t stage)
{
    return sl_plan_link_id(&w->plan, 1 + stage, 1 + w->plan.n_stages);
}

/* Sequence 1 has failed, said so once, and left nothing; sequence 2 is what it is alone. */
static void check_one_failed(struct w_world *w, const char *what)
{
    static struct w_heard reference;
    if (reference.n == 0) {
        struct w_world *alone = w_open(2, 4, 32);
        w_generate(alone, 2, 70, 5, &warm);
        reference = alone->heard[2];
        w_close(alone);
    }
    w->hold_kv = false;
    w_settle(w);
    if (w->heard[1].ended != 1 || w->heard[1].failed != SL_E_CORRUPT || w->heard[1].adopted != 0)
        sl_test_fail(__FILE__, __LINE__, "%s: ended %u times, status %d", what, w->heard[1].ended,
                     w->heard[1].failed);
    CHECK_INT(w->heard[1].n, 1); /* the first token, of the stages */
    CHECK_INT(w_take(w, 2, 70, 5, &warm), SL_OK);
    w_settle(w);
    CHECK(memcmp(w->heard[2].ids, reference.ids, sizeof reference.ids) == 0);
    CHECK(w->heard[2].kv_digest == reference.kv_digest && w->heard[2].ended == 1);
    CHECK_INT(w_pages_used(w_decode(w)), 0);
    w_close(w);
}

struct wrong {
    const char *what;
    void (*twist)(struct w_world *w, struct sl_wire *wire, uint64_t *link);
};

static void wrong_link(struct w_world *w, struct sl_wire *wire, uint64_t *link)
{
    (void)wire;
    *link = kv_link(w, 1);
}
static void wrong_source(struct w_world *w, struct sl_wire *wire, uint64_t *link)
{
    (void)link;
    wire->source = (uint16_t)w->plan.n_stages;
}
static void wrong_layers(struct w_world *w, struct sl_wire *wire, uint64_t *link)
{
    (void)w, (void)link;
    wire->layer_first = 1;
}
static void wrong_place(struct w_world *w, struct sl_wire *wire, uint64_t *link)
{
    (void)w, (void)link;
    wire->token_first = 1;
}
static void wrong_far(struct w_world *w, struct sl_wire *wire, uint64_t *link)
{
    (void)w, (void)link;
    wire->token_first = 1 << 20;
}
static void wrong_profile(struct w_world *w, struct sl_wire *wire, uint64_t *link)
{
    (void)w, (void)link;
    wire->profile = 1;
}
static void wrong_dtype(struct w_world *w, struct sl_wire *wire, uint64_t *link)
{
    (void)w, (void)link;
    wire->dtype = SL_F32;
}
static void wrong_page(struct w_world *w, struct sl_wire *wire, uint64_t *link)
{
    (void)link;
    wire->page = w->plan.n_pages;
}

SL_TEST(a_page_that_is_not_what_it_must_be_ends_its_sequence_and_no_other)
{
    if (w_parts > 1)
        return; /* of a part: test_role_part.c */
    static const struct wrong all[] = {
        {"another stage's link", wrong_link}, {"a stage that is not there", wrong_source},
        {"layers of another", wrong_layers},  {"not at a page", wrong_place},
        {"beyond the context", wrong_far},    {"another numerics profile", wrong_profile},
        {"another format", wrong_dtype},      {"a page outside the pool", wrong_page},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        struct w_world *w = two_under_way(2, 100);
        struct w_node *stage = w_stage(w, 0);
        uint32_t at = w_find(stage, SL_WIRE_KV);
        struct sl_wire wire = stage->sent[at].wire;
        uint64_t link = stage->sent[at].link;
        CHECK_INT(wire.seq, 1);
        all[i].twist(w, &wire, &link);
        CHECK_INT(w_give(w_decode(w), link, &wire, stage->sent[at].payload, SL_OK), SL_OK);
        w_work(w_decode(w));
        if (w_count(w_decode(w), SL_WIRE_TOKENS) !=
            1) /* at once, and not when the next page does not fit to it */
            sl_test_fail(__FILE__, __LINE__, "%s: it is taken", all[i].what);
        check_one_failed(w, all[i].what);
    }
}

SL_TEST(a_damaged_page_ends_its_sequence_and_no_other)
{
    for (uint32_t page = 0; page < 2; page++) { /* the first that comes, and one that follows */
        struct w_world *w = two_under_way(2, 100);
        struct w_node *stage = w_stage(w, 1);
        if (page == 1) {
            w->hold_kv = false;
            CHECK_INT(w_deliver(w, stage, w_find(stage, SL_WIRE_KV)), SL_OK);
        }
        struct sl_role_action a = stage->sent[w_find(stage, SL_WIRE_KV)];
        CHECK_INT(w_give(w_decode(w), a.link, &a.wire, a.payload, SL_E_CORRUPT), SL_OK);
        CHECK(w_work(w_decode(w)) > 0);
        CHECK_INT(atomic_load(&w_decode(w)->meter.checksum_failures), 1);
        check_one_failed(w, "damage");
    }
}

SL_TEST(a_page_that_comes_twice_or_where_anothers_lies_ends_its_sequence)
{
    if (w_parts > 1)
        return; /* of a part: test_role_part.c */
    struct w_world *w = two_under_way(2, 100);
    struct sl_role_action a = w_stage(w, 0)->sent[w_find(w_stage(w, 0), SL_WIRE_KV)];
    CHECK_INT(w_give(w_decode(w), a.link, &a.wire, a.payload, SL_OK), SL_OK);
    check_one_failed(w, "twice");
    w = two_under_way(2, 100); /* a short one, and then where that left off, which is within the page */
    a = w_stage(w, 0)->sent[w_find(w_stage(w, 0), SL_WIRE_KV)];
    a.wire.token_count = 10;
    CHECK_INT(w_give(w_decode(w), a.link, &a.wire, a.payload, SL_OK), SL_OK);
    a.wire.token_first = 10;
    CHECK_INT(w_give(w_decode(w), a.link, &a.wire, a.payload, SL_OK), SL_OK);
    w_work(w_decode(w));
    CHECK_INT(w_count(w_decode(w), SL_WIRE_TOKENS), 1);
    check_one_failed(w, "within a page");
    w = two_under_way(2, 100);
    struct w_node *stage = w_stage(w, 0);
    uint32_t of_2 = 0;
    while (stage->sent[of_2].wire.seq != 2)
        of_2++;
    w->hold_kv = false;
    CHECK_INT(w_deliver(w, stage, of_2), SL_OK);
    a = stage->sent[w_find(stage, SL_WIRE_KV)];
    CHECK_INT(a.wire.seq, 1);
    a.wire.page = w_page(w, 2, 0).decode;
    CHECK_INT(w_give(w_decode(w), a.link, &a.wire, a.payload, SL_OK), SL_OK);
    check_one_failed(w, "another's page");
}

/* Of a prompt that ends with a page: before it is named, after, and when it is in the batch. */
SL_TEST(a_page_more_than_the_prompt_has_ends_the_sequence_in_every_state)
{
    for (uint32_t when = 0; when < 3; when++) {
        struct w_world *w = w_open(2, 4, 32);
        CHECK_INT(w_write_run(w, 1, 64, &warm), SL_OK);
        if (when == 1) {
            w->hold_kv = true; /* named first: then stage 1's page is missing still */
            w_settle(w);
            CHECK_INT(w_take(w, 1, 64, 20, &warm), SL_OK);
            w->hold_kv = false;
            CHECK_INT(w_deliver(w, w_stage(w, 0), w_find(w_stage(w, 0), SL_WIRE_KV)), SL_OK);
        } else {
            w_settle(w);
        }
        if (when == 2) {
            CHECK_INT(w_take(w, 1, 64, 20, &warm), SL_OK);
            w_step(w_decode(w), NULL);
        }
        struct sl_wire wire = {.kind = SL_WIRE_KV,
                               .seq = 1,
                               .page = w_page(w, 1, 1).decode,
                               .layer_count = (uint16_t)(w->plan.begin[1]),
                               .token_first = 64,
                               .token_count = 1,
                               .dtype = SL_BF16,
                               .rank = 1,
                               .profile = (uint8_t)w->plan.profile,
                               .payload_bytes = w->plan.begin[1] * w->plan.kv_layer_bytes};
        wire.shape[0] = (uint32_t)(wire.payload_bytes / 2);
        uint8_t *payload = calloc(1, wire.payload_bytes);
        CHECK_INT(w_give(w_decode(w), kv_link(w, 0), &wire, payload, SL_OK), SL_OK);
        free(payload);
        w_settle(w);
        if (when == 0)
            CHECK_INT(w_take(w, 1, 64, 20, &warm), SL_OK);
        w_settle(w);
        CHECK_INT(w->heard[1].failed, SL_E_CORRUPT);
        CHECK_INT(w->heard[1].ended, 1);
        CHECK_INT(w->heard[1].n, 1); /* not one token more */
        CHECK_INT(w_pages_used(w_decode(w)), 0);
        w_close(w);
    }
}

/* ---- the coordinator's side ---- */

SL_TEST(an_adopt_that_cannot_be_ends_the_worker_with_a_sentence)
{
    struct w_world *w = w_open(2, 4, 32);
    w_write_run(w, 1, 64, &warm);
    w_settle(w);
    struct w_node *n = w_decode(w);
    CHECK_INT(w_cancel(w, 5), SL_OK);
    CHECK_INT(w_send_adopt(w, &(struct sl_adopt){.kind = SL_ADOPT_CANCEL, .seq = 6, .sampling = w_greedy},
                           SL_E_CORRUPT),
              SL_OK);
    CHECK_INT(w_work(n), -1);
    CHECK_CONTAINS(n->err.text, "an ADOPT from the coordinator failed its checksum; restart the pipeline");
    w_close(w);

    w = w_open(2, 4, 32);
    n = w_decode(w);
    uint8_t bytes[64] = {9};
    struct sl_wire wire = {.kind = SL_WIRE_ADOPT, .payload_bytes = 64, .meta_bytes = 64};
    CHECK_INT(w_give(n, sl_plan_link_id(&w->plan, 0, 3), &wire, bytes, SL_OK), SL_OK);
    CHECK_INT(w_work(n), -1);
    CHECK_INT(n->err.status, SL_E_PROTOCOL);
    CHECK_CONTAINS(n->err.text, "not acceptable: adopt kind");
    w_close(w);
}

SL_TEST(a_sequence_is_named_once)
{
    for (uint32_t whole = 0; whole < 2; whole++) {
        struct w_world *w = w_open(2, 4, 32);
        w->hold_kv = !whole;
        w_write_run(w, 1, 64, &warm);
        w_settle(w);
        CHECK_INT(w_take(w, 1, 64, 20, &warm), SL_OK);
        w_step(w_decode(w), NULL);
        CHECK_INT(w_take(w, 1, 64, 20, &warm), SL_OK);
        CHECK_INT(w_work(w_decode(w)), -1);
        CHECK_CONTAINS(w_decode(w)->err.text, "it names a sequence twice");
        w_close(w);
    }
}

SL_TEST(a_frame_that_belongs_elsewhere_ends_the_worker_with_a_sentence)
{
    static const enum sl_wire_kind kinds[2] = {SL_WIRE_ADOPT, SL_WIRE_KV};
    for (uint32_t i = 0; i < 2; i++) {
        struct w_world *w = w_open(2, 4, 32);
        struct sl_wire wire = {.kind = (uint16_t)kinds[i]};
        uint64_t link = i == 0 ? kv_link(w, 1) : sl_plan_link_id(&w->plan, 0, 3);
        CHECK_INT(w_give(w_decode(w), link, &wire, "", SL_OK), SL_E_PROTOCOL);
        CHECK_CONTAINS(w_decode(w)->err.text, i == 0 ? "from stage 1 does not belong to the decode worker"
                                                     : "from coordinator does not belong");
        w_close(w);
    }
}

SL_TEST(more_sequences_than_were_planned_fail_alone)
{
    struct w_world *w = w_open(1, 2, 32);
    for (uint64_t seq = 1; seq <= 3; seq++) {
        CHECK_INT(w_write_run(w, seq, 10, &warm), SL_OK);
        CHECK_INT(w_write_control(w, SL_ORDER_FREE, seq), SL_OK);
        w_settle(w);
    }
    CHECK_INT(w->heard[3].failed, SL_E_EXHAUSTED);
    w->heard[4].ids[0] = 3;
    CHECK_INT(w_take(w, 4, 10, 5, &warm), SL_OK);
    w_settle(w);
    CHECK_INT(w->heard[4].failed, SL_E_EXHAUSTED);
    CHECK_INT(w_take(w, 1, 10, 5, &warm), SL_OK);
    w_settle(w);
    CHECK_INT(w->heard[1].n, 5);
    w_close(w);
}

SL_TEST(a_coordinator_that_does_not_listen_stops_everybody_and_loses_nothing)
{
    if (w_parts > 1)
        return; /* with parts some more is under way: test_role_part.c */
    enum { OUT = 30 };
    struct w_world *alone = w_open(2, 4, 64), *w = w_open(2, 4, 64);
    struct w_node *n = w_decode(w);
    w_generate(alone, 1, 100, OUT, &warm);
    w_generate(alone, 2, 128, 4, &w_greedy);
    CHECK_INT(w_write_run(w, 1, 100, &warm), SL_OK);
    w_settle(w);
    CHECK_INT(w_take(w, 1, 100, OUT, &warm), SL_OK);
    w->deaf = true;
    w_settle(w);
    CHECK_INT(w_count(n, SL_WIRE_TOKENS), SL_TOKENS_BUFFERS); /* and not one more step */
    CHECK_INT(atomic_load(&n->meter.steps), SL_TOKENS_BUFFERS - 1);
    CHECK(!n->actions.go_on);
    uint64_t taken = atomic_load(&n->meter.kv_frames);
    for (uint64_t seq = 2; seq < 12;
         seq++) { /* others run: their pages stay where they are, and stop the stages */
        CHECK_INT(w_write_run(w, seq, 128, &w_greedy), SL_OK);
        CHECK_INT(w_write_control(w, SL_ORDER_FREE, seq), SL_OK);
        w_settle(w);
    }
    CHECK_INT(atomic_load(&n->meter.kv_frames), taken);
    CHECK_INT(w_count(w_stage(w, 0), SL_WIRE_KV), 20 - SL_KV_SLOTS);
    CHECK_INT(w_cancel(w, 3), SL_OK); /* not even a cancel is taken, but it is kept */
    CHECK_INT(w_work(n), 0);
    for (uint64_t seq = 4; seq < 12; seq++)
        CHECK_INT(w_cancel(w, seq), SL_OK);
    w->deaf = false;
    w_settle(w);
    CHECK_INT(w->heard[1].n, OUT);
    CHECK(memcmp(w->heard[1].ids, alone->heard[1].ids, sizeof alone->heard[1].ids) == 0);
    CHECK(w->heard[1].kv_digest == alone->heard[1].kv_digest);
    CHECK(w->heard[3].ended == 1);
    CHECK_INT(w_count(w_stage(w, 0), SL_WIRE_KV), 0);
    CHECK_INT(w_take(w, 2, 128, 4, &w_greedy), SL_OK);
    w_settle(w);
    CHECK(memcmp(w->heard[2].ids, alone->heard[2].ids, sizeof alone->heard[2].ids) == 0);
    w_close(alone);
    w_close(w);
}

SL_TEST(a_flood_of_pages_does_not_starve_the_tokens)
{
    if (w_parts > 1)
        return; /* a step is begun, and comes back when others have worked */
    struct w_world *w = w_open(3, 16, 64);
    struct w_node *n = w_decode(w);
    CHECK_INT(w_write_run(w, 1, 10, &warm), SL_OK);
    w_settle(w);
    CHECK_INT(w_take(w, 1, 10, 20, &warm), SL_OK);
    while (atomic_load(&n->meter.steps) == 0)
        w_step(n, NULL);
    w->hold_kv = true;
    for (uint64_t seq = 2; seq < 10; seq++) {
        CHECK_INT(w_write_run(w, seq, 128, &warm), SL_OK);
        for (uint32_t k = 0; k < 3; k++) {
            w_work(w_stage(w, k));
            w_deliver(w, w_stage(w, k), w_find(w_stage(w, k), k == 2 ? SL_WIRE_RESULT : SL_WIRE_ORDER));
        }
    }
    w->hold_kv = false;
    for (uint32_t k = 0; k < 3; k++)
        while (w_find(w_stage(w, k), SL_WIRE_KV) < w_stage(w, k)->n_sent)
            CHECK_INT(w_deliver(w, w_stage(w, k), w_find(w_stage(w, k), SL_WIRE_KV)), SL_OK);
    uint64_t steps = atomic_load(&n->meter.steps);
    uint32_t frames = 0;
    for (; atomic_load(&n->meter.steps) == steps && frames < 48; frames++)
        CHECK_INT(w_step(n, NULL), SL_OK);
    CHECK_INT(frames, SL_FRAMES_IN_A_ROW + 1);
    CHECK(n->actions.go_on);
    w_close(w);
}

/* ---- ends ---- */

/* Arrivals of 3 stages times 4 chunks in frames that hold 8: the sequence is whole, and half of it is told. */
SL_TEST(a_sequence_that_ends_while_it_is_being_adopted_is_not_adopted)
{
    if (w_parts > 1)
        return; /* nothing is told before all parts are whole */
    struct w_world *w = w_open_with(3, 1, 8, 2 * sl_tokens_entry_max_bytes());
    struct w_node *n = w_decode(w);
    for (int cancelled = 0; cancelled < 2; cancelled++) {
        uint64_t seq = 1 + (uint64_t)cancelled;
        for (uint32_t pos = 0; pos < 4 * SL_PAGE; pos += SL_PAGE) {
            struct w_chunk *c = calloc(1, sizeof *c);
            c->order.kind = SL_ORDER_RUN;
            w_add(w, c, seq, pos, pos < 192 ? SL_PAGE : 60, 252, &warm);
            CHECK_INT(w_write(w, c), SL_OK);
            w_settle(w);
            free(c);
        }
        CHECK_INT(w_take(w, seq, 252, 4, &warm), SL_OK);
        CHECK_INT(w_step(n, NULL), SL_OK);
        w_deliver(w, n, 0);
        CHECK_INT(w->heard[seq].arrived, 8);
        CHECK_INT(w->heard[seq].adopted, 0);
        if (cancelled)
            CHECK_INT(w_cancel(w, seq), SL_OK);
        w_settle(w);
        CHECK_INT(w->heard[seq].ended, 1);
        CHECK_INT(w->heard[seq].arrived, cancelled ? 8 : 12);
        CHECK_INT(w->heard[seq].adopted, !cancelled);
        CHECK_INT(w->heard[seq].n, cancelled ? 1 : 4);
        CHECK_INT(w_pages_used(n), 0);
        CHECK_INT(w_write_control(w, SL_ORDER_FREE, seq), SL_OK);
        w_settle(w);
    }
    w_close(w);
}

SL_TEST(a_cancel_that_crosses_the_end_is_not_answered_twice)
{
    struct w_world *w = w_open(1, 4, 32);
    w_generate(w, 1, 10, 3, &warm);
    CHECK_INT(w->heard[1].ended, 1);
    CHECK_INT(w_cancel(w, 1), SL_OK);
    CHECK_INT(w_cancel(w, 2),
              SL_OK); /* which never came: it is told, because its pages may have been expected */
    CHECK_INT(w_cancel(w, 2), SL_OK);
    w_settle(w); /* w_hear_entry checks that an end is the last word */
    CHECK_INT(w->heard[1].ended, 1);
    CHECK_INT(w->heard[2].ended, 1);
    w_close(w);
}

/* ---- tokens ---- */

/* The row after a bias and penalties for what was said and asked: a formula over the whole text, without counts. */
static void move_row(const struct w_world *w, float *logits, const uint32_t *ids, uint32_t n_prompt,
                     uint32_t n_ids, const struct sl_sampling *s)
{
    for (uint32_t id = 0; id < w->plan.vocab; id++) {
        uint32_t asked = 0, said = 0;
        for (uint32_t i = 0; i < n_ids; i++) {
            asked += i < n_prompt && ids[i] == id;
            said += i >= n_prompt && ids[i] == id;
        }
        if (id == w_bias.id)
            logits[id] += w_bias.value;
        if (asked || said)
            logits[id] =
                logits[id] > 0 ? logits[id] / s->repetition_penalty : logits[id] * s->repetition_penalty;
        logits[id] -= s->frequency_penalty * (float)said;
        logits[id] -= said ? s->presence_penalty : 0;
    }
}

/* Said without a role: the layers over the prompt and then over each token, and sl_sample with the number of the token. */
static void check_tokens(const struct sl_sampling *sampling)
{
    enum { N = 50, OUT = 24 };
    struct w_world *w = w_open(2, 4, 32);
    w_generate(w, 1, N, OUT, sampling);
    uint32_t ids[N + OUT];
    struct sl_sampling unmoved = *sampling;
    unmoved.presence_penalty = unmoved.frequency_penalty = unmoved.repetition_penalty = 0;
    for (uint32_t i = 0; i < N; i++)
        ids[i] = (i * 7 + 13) % w->plan.vocab; /* as w_id has it */
    struct sl_share share = sl_plan_share(&w->plan, 2, 1);
    struct sl_stage *stage;
    share.begin = 0; /* whatever the parts of the worker have */
    share.end = w->plan.n_layers;
    share.with_embed = share.with_head = true;
    share.max_tokens = N;
    REQUIRE(sl_stage_create(&stage, w->pack, &share, NULL, NULL) == SL_OK);
    struct sl_sequence *s = sl_sequences_open(sl_stage_sequences(stage), 1);
    REQUIRE(sl_stage_reserve(stage, s, N + OUT) == SL_OK);
    float *rows = aligned_alloc(64, N * w->plan.d_model * sizeof *rows);
    void *scratch = malloc(sl_sample_scratch_bytes(w->plan.vocab));
    for (uint32_t i = 0; i < OUT; i++) {
        uint32_t pos = i == 0 ? 0 : N + i - 1, n = i == 0 ? N : 1;
        struct sl_chunk chunk = {.n_tokens = n, .n_slices = 1, .slices = {{s, pos, n, 0}}, .x = rows};
        sl_stage_embed(stage, &chunk, (const uint8_t *)(ids + pos));
        sl_stage_run(stage, &chunk);
        struct sl_token_out token;
        float *logits = sl_stage_logits(stage, rows + (size_t)(n - 1) * w->plan.d_model, 1);
        if (sl_sampling_repeats(sampling))
            move_row(w, logits, ids, N, N + i, sampling);
        sl_sample(&token, logits, w->plan.vocab, &unmoved, NULL, i, scratch);
        ids[N + i] = token.id;
    }
    CHECK(memcmp(w->heard[1].ids, ids + N, OUT * sizeof *ids) == 0);
    free(scratch);
    free(rows);
    sl_stage_destroy(stage);
    w_close(w);
}

SL_TEST(the_tokens_are_those_of_the_layers_and_the_seed)
{
    check_tokens(&warm);
}

SL_TEST(penalties_count_the_prompt_the_first_token_and_every_one_after_it)
{
    for (int t = 0; t < 3; t++) {
        struct sl_sampling s = t == 0 ? w_greedy : warm;
        s.repetition_penalty = t == 1 ? 0.7f : 1.4f;
        s.frequency_penalty = t == 2 ? -0.5f : 0.3f;
        s.presence_penalty = 0.6f;
        check_tokens(&s);
    }
}

/* The place that a sequence with penalties had is given to one that has others: nothing of the first counts for it. */
SL_TEST(what_was_counted_ends_with_its_sequence)
{
    struct w_world *w = w_open(2, 1, 8), *fresh = w_open(2, 1, 8);
    struct sl_sampling s = warm;
    s.repetition_penalty = 1.5f;
    s.presence_penalty = 2;
    w_generate(w, 1, 60, 30, &s);
    w_generate(w, 3, 9, 20, &s);
    w_generate(fresh, 3, 9, 20, &s);
    CHECK(memcmp(w->heard[3].ids, fresh->heard[3].ids, sizeof fresh->heard[3].ids) == 0);
    w_close(fresh);
    w_close(w);
}

/* Of 8 pages sequences 1 and 3 have the same ones; the longer output of the first is in none of the second's bits. */
SL_TEST(a_page_is_clean_when_another_had_it_before)
{
    struct w_world *w = w_open(2, 2, 8), *fresh = w_open(2, 2, 8);
    w_generate(w, 1, 60, 30, &warm);
    w_generate(w, 3, 60, 10, &warm);
    w_generate(fresh, 3, 60, 10, &warm);
    CHECK(memcmp(w->heard[3].ids, fresh->heard[3].ids, sizeof fresh->heard[3].ids) == 0);
    CHECK(w->heard[3].kv_digest == fresh->heard[3].kv_digest && fresh->heard[3].kv_digest != 0);
    w_close(fresh);
    w_close(w);
}

/* ---- any order ---- */

enum { SEQS = 3 };
static const struct sequence {
    uint32_t prompt, max_tokens;
    struct sl_sampling sampling;
} sequences[SEQS] = {{100, 9, {.temperature = 0.9f, .top_p = 0.95f, .seed = 3, .n_logprobs = -1}},
                     {64, 5, {.top_p = 1, .n_logprobs = -1}},
                     {1,
                      12,
                      {.temperature = 1.1f,
                       .top_p = 1,
                       .seed = 4,
                       .n_logprobs = 2,
                       .presence_penalty = 0.5f,
                       .frequency_penalty = 0.2f,
                       .repetition_penalty = 1.2f}}};

struct script { /* what the coordinator has done with a sequence, seq = index + 1 */
    bool written, taken, freed, cancelled;
};

static bool coordinate(struct w_world *w, struct script scripts[SEQS])
{
    for (uint32_t i = 0; i < SEQS; i++) {
        const struct sequence *s = &sequences[i];
        struct script *did = &scripts[i];
        struct w_heard *h = &w->heard[i + 1];
        if (!did->written)
            return did->written = w_write_run(w, i + 1, s->prompt, &s->sampling) == SL_OK;
        if (h->first && !did->taken && !did->cancelled)
            return did->taken = w_take(w, i + 1, s->prompt, s->max_tokens, &s->sampling) == SL_OK;
        if ((h->adopted || h->ended || did->cancelled) && !did->freed)
            return did->freed = w_write_control(w, SL_ORDER_FREE, i + 1) == SL_OK;
    }
    return false;
}

static uint32_t dice(uint64_t *state, uint32_t sides)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33) % sides;
}

/* One thing happens, any one: a node works, the first frame of one of its links arrives, or the coordinator acts. */
static void something(struct w_world *w, struct script scripts[SEQS], uint64_t *state)
{
    uint32_t which = dice(state, 1 + sl_plan_n_members(&w->plan));
    if (which == 0) {
        coordinate(w, scripts);
        return;
    }
    struct w_node *n = &w->nodes[which];
    if (n->n_sent == 0 || dice(state, 2)) {
        if (w_step(n, NULL) != SL_OK)
            sl_test_fail(__FILE__, __LINE__, "node %u: %s", which, n->err.text);
        return;
    }
    uint32_t i = dice(state, n->n_sent), first = 0;
    while (n->sent[first].link != n->sent[i].link)
        first++;
    w_deliver(w, n, first);
}

static void play(uint64_t seed, bool with_cancel, const struct w_world *reference)
{
    struct w_world *w = w_open(2, SEQS, 16);
    struct script scripts[SEQS] = {0};
    uint64_t state = seed;
    uint32_t when = with_cancel ? dice(&state, 300) : UINT32_MAX, who = dice(&state, SEQS);
    for (uint32_t t = 0; t < 2000; t++) {
        if (t == when && scripts[who].written) {
            scripts[who].cancelled = w_cancel(w, who + 1) == SL_OK;
        }
        something(w, scripts, &state);
    }
    do
        w_settle(w);
    while (coordinate(w, scripts));
    for (uint32_t i = 0; i < SEQS; i++) {
        const struct w_heard *h = &w->heard[i + 1], *r = &reference->heard[i + 1];
        bool whole = h->n == sequences[i].max_tokens;
        if (!(whole || scripts[i].cancelled) || memcmp(h->ids, r->ids, h->n * sizeof *h->ids) != 0 ||
            h->ended != 1 || (whole && h->kv_digest != 0 && h->kv_digest != r->kv_digest))
            sl_test_fail(__FILE__, __LINE__, "seed %llu: sequence %u has %u tokens, ended %u times",
                         (unsigned long long)seed, i + 1, h->n, h->ended);
    }
    for (uint32_t node = 1; node <= sl_plan_n_members(&w->plan); node++)
        CHECK_INT(w_pages_used(&w->nodes[node]), 0);
    w_close(w);
}

SL_TEST(any_order_in_which_things_happen_gives_the_same_tokens)
{
    struct w_world *reference = w_open(1, 4, 16);
    for (uint32_t i = 0; i < SEQS; i++)
        w_generate(reference, i + 1, sequences[i].prompt, sequences[i].max_tokens, &sequences[i].sampling);
    for (uint64_t seed = 1; seed <= 12; seed++)
        play(seed, false, reference);
    w_close(reference);
}

SL_TEST(a_cancel_at_any_moment_leaves_no_page_and_changes_no_neighbour)
{
    struct w_world *reference = w_open(1, 4, 16);
    for (uint32_t i = 0; i < SEQS; i++)
        w_generate(reference, i + 1, sequences[i].prompt, sequences[i].max_tokens, &sequences[i].sampling);
    for (uint64_t seed = 1; seed <= 24; seed++)
        play(seed, true, reference);
    w_close(reference);
}

/* ---- weights that are not what was loaded ---- */

static _Atomic bool found;

static void on_found(void *user, const struct sl_spoiled *spoiled)
{
    (void)user, (void)spoiled;
    atomic_store(&found, true);
}

SL_TEST(no_token_of_spoiled_weights_leaves_but_the_word_of_it)
{
    struct w_world *w = w_open(1, 4, 32);
    struct w_node *n = w_decode(w);
    char path[400];
    REQUIRE(sl_stage_watch(n->stage, &(struct sl_scrub_config){on_found, NULL}, NULL) == SL_OK);
    snprintf(path, sizeof path, "%s/head.safetensors", sl_pack_path(w->pack));
    REQUIRE(truncate(path, 100) == 0);
    while (!atomic_load(&found))
        sched_yield();
    CHECK_INT(w_work(n), 1);
    CHECK(!n->actions.go_on);
    REQUIRE(n->n_sent == 1 && n->sent[0].wire.kind == SL_WIRE_SPOILED);
    CHECK_INT(n->sent[0].link, sl_plan_link_id(&w->plan, 0, sl_plan_decode_node(&w->plan, 0)));
    struct sl_spoiled_word word;
    CHECK(sl_spoiled_unpack(&word, n->sent[0].payload, n->sent[0].wire.payload_bytes) == NULL);
    CHECK_CONTAINS(word.sentence, "the decode worker: ");
    CHECK_CONTAINS(word.sentence, "head.safetensors changed its size");
    CHECK_INT(w_work(n), 0);
    CHECK_INT(w_report_sent(n, 0, SL_OK), SL_OK);
    CHECK_INT(w_work(n), 0);
    w_close(w);
}
