/* node/role/role_part.c and the chief of role_decode.c, stepped by hand: a decode worker that is cut into parts says what one that is
 * not says, and nothing of a sequence is left in any part when its end is told. */
#include "tests/node/role/world.h"
#include <sched.h>
#include <stdatomic.h>
#include <unistd.h>

static const struct sl_sampling warm = {
    .temperature = 0.9f, .top_p = 0.95f, .seed = 11, .frequency_penalty = 0.5f, .n_logprobs = -1};

enum { SEQS = 5 };
static const uint32_t prompts[SEQS] = {70, 64, 1, 128, 30}, lengths[SEQS] = {9, 20, 30, 6, 1 + 12};

static const struct sl_sampling *sampling_of(uint32_t i)
{
    return i % 2 ? &w_greedy : &warm;
}

static struct w_world *open_parts(uint32_t n_stages, uint32_t n_parts)
{
    w_parts = n_parts;
    struct w_world *w = w_open(n_stages, SEQS, 40);
    w_parts = 1;
    return w;
}

static void check_empty(struct w_world *w)
{
    for (uint32_t part = 0; part < w->plan.n_parts; part++) {
        CHECK_INT(w_pages_used(w_part(w, part)), 0);
        CHECK_INT(sl_stage_sequences(w_part(w, part)->stage)->n_live, 0);
        CHECK_INT(w_part(w, part)->n_sent, 0);
    }
}

static void prefill(struct w_world *w)
{
    for (uint32_t i = 0; i < SEQS; i++) {
        CHECK_INT(w_write_run(w, 1 + i, prompts[i], sampling_of(i)), SL_OK);
        w_settle(w);
    }
}

static void generate(struct w_world *w)
{
    prefill(w);
    for (uint32_t i = 0; i < SEQS; i++)
        CHECK_INT(w_take(w, 1 + i, prompts[i], lengths[i], sampling_of(i)), SL_OK);
    w_settle(w);
}

SL_TEST(the_parts_of_a_decode_worker_say_what_one_alone_says)
{
    struct w_world *alone = open_parts(2, 1);
    generate(alone);
    for (uint32_t n_stages = 1; n_stages <= 3; n_stages++)
        for (uint32_t n_parts = 2; n_parts <= 3; n_parts++) {
            struct w_world *w = open_parts(n_stages, n_parts);
            generate(w);
            for (uint32_t i = 1; i <= SEQS; i++) {
                CHECK_INT(w->heard[i].ended, 1);
                CHECK_INT(w->heard[i].failed, SL_OK);
                CHECK_INT(w->heard[i].n, lengths[i - 1]);
                CHECK(memcmp(w->heard[i].ids, alone->heard[i].ids, sizeof w->heard[i].ids) == 0);
                CHECK(w->heard[i].logits_digest == alone->heard[i].logits_digest);
                CHECK(w->heard[i].kv_digest == alone->heard[i].kv_digest && w->heard[i].kv_digest != 0);
            }
            CHECK_INT(atomic_load(&w_decode(w)->meter.most_steps_under_way), n_parts);
            CHECK_INT(atomic_load(&w_decode(w)->meter.steps_under_way), 0);
            check_empty(w);
            w_close(w);
        }
    w_close(alone);
}

/* ---- what is not what it must be ---- */

/* Sequences 1 and 2 have run on the stages; their pages are under way. */
static struct w_world *two_under_way(uint32_t n_parts)
{
    struct w_world *w = open_parts(2, n_parts);
    w->hold_kv = true;
    CHECK_INT(w_write_run(w, 1, 100, &warm), SL_OK);
    CHECK_INT(w_write_run(w, 2, 70, &warm), SL_OK);
    w_settle(w);
    return w;
}

/* The first page of sequence 1 for that part which is under way. */
static struct w_node *find_page(struct w_world *w, uint32_t part, uint32_t *at)
{
    for (uint32_t k = 0; k < w->plan.n_stages; k++) {
        struct w_node *stage = w_stage(w, k);
        for (*at = 0; *at < stage->n_sent; ++*at) {
            const struct sl_role_action *a = &stage->sent[*at];
            if (a->wire.kind == SL_WIRE_KV && a->wire.seq == 1 &&
                sl_plan_link_peer(a->link, stage->number) == w_part(w, part)->number)
                return stage;
        }
    }
    sl_test_fail(__FILE__, __LINE__, "no page for part %u", part);
    exit(1);
}

/* A page for that part is damaged, or its first token is not the next. */
static void break_page(struct w_world *w, uint32_t part, bool is_damaged)
{
    uint32_t at;
    struct w_node *stage = find_page(w, part, &at);
    struct sl_role_action a = stage->sent[at];
    if (!is_damaged)
        a.wire.token_first += SL_PAGE;
    CHECK_INT(w_give(w_part(w, part), a.link, &a.wire, a.payload, is_damaged ? SL_E_CORRUPT : SL_OK), SL_OK);
    CHECK(w_work(w_part(w, part)) > 0);
}

SL_TEST(a_page_that_cannot_be_ends_its_one_sequence_whichever_part_it_came_to)
{
    struct w_world *alone = open_parts(2, 1);
    w_generate(alone, 2, 70, 6, &warm);
    for (uint32_t n_parts = 2; n_parts <= 3; n_parts++)
        for (uint32_t i = 0; i < n_parts * 4; i++) {
            struct w_world *w = two_under_way(n_parts);
            bool is_named = i / n_parts % 2;
            if (is_named) { /* before, and not after */
                CHECK_INT(w_take(w, 1, 100, 5, &warm), SL_OK);
                w_settle(w);
            }
            break_page(w, i % n_parts, i / n_parts / 2);
            w->hold_kv = false;
            w_settle(w);
            if (!is_named)
                CHECK_INT(w_take(w, 1, 100, 5, &warm), SL_OK);
            CHECK_INT(w_take(w, 2, 70, 6, &warm), SL_OK);
            w_settle(w);
            CHECK_INT(w->heard[1].failed, SL_E_CORRUPT);
            CHECK(w->heard[1].ended == 1 && w->heard[1].adopted == 0 && w->heard[1].n == 1);
            CHECK(w->heard[2].ended == 1 &&
                  memcmp(w->heard[2].ids, alone->heard[2].ids, sizeof w->heard[2].ids) == 0);
            CHECK(w->heard[2].kv_digest == alone->heard[2].kv_digest);
            check_empty(w);
            w_close(w);
        }
    w_close(alone);
}

SL_TEST(a_coordinator_that_does_not_listen_stops_the_ring_and_loses_nothing)
{
    struct w_world *alone = open_parts(2, 1), *w = open_parts(2, 3);
    generate(alone);
    prefill(w);
    w->deaf = true;
    for (uint32_t i = 0; i < SEQS; i++)
        CHECK_INT(w_take(w, 1 + i, prompts[i], lengths[i], sampling_of(i)), SL_OK);
    w_settle(w);
    CHECK_INT(w_count(w_decode(w), SL_WIRE_TOKENS), SL_TOKENS_BUFFERS);
    for (uint32_t part = 0; part < 3; part++)
        CHECK(!w_part(w, part)->actions.go_on);
    CHECK_INT(w_cancel(w, 3), SL_OK); /* it is kept */
    w_settle(w);
    w->deaf = false;
    w_settle(w);
    for (uint32_t i = 1; i <= SEQS; i++) {
        CHECK_INT(w->heard[i].ended, 1);
        CHECK(i == 3 ? w->heard[i].n <= lengths[2] : w->heard[i].n == lengths[i - 1]);
        CHECK(memcmp(w->heard[i].ids, alone->heard[i].ids, w->heard[i].n * sizeof w->heard[i].ids[0]) == 0);
    }
    check_empty(w);
    w_close(w);
    w_close(alone);
}

/* A frame on the way into a part, of which one thing is not as it must be. */
struct wrong_frame {
    const char *what, *says;
    enum sl_wire_kind kind;
    uint32_t part;
    void (*twist)(struct sl_wire *wire, uint8_t *payload);
};

static void damage(struct sl_wire *wire, uint8_t *payload)
{
    (void)wire;
    payload[0] ^= 1; /* w_give seals what it is given: the number of the step, or the sequence */
}
static void of_other(struct sl_wire *wire, uint8_t *payload)
{
    (void)wire;
    payload[4] ^= 0x40; /* behind the kind */
}
static void lose_rows(struct sl_wire *wire, uint8_t *payload)
{
    (void)payload;
    wire->rank = 0;
    wire->shape[0] = wire->shape[1] = 0;
    wire->dtype = 0;
    wire->payload_bytes = wire->meta_bytes;
}
static void other_sequence(struct sl_wire *wire, uint8_t *payload)
{
    (void)wire;
    sl_put64(payload + 8, 1999);
}
static void far_position(struct sl_wire *wire, uint8_t *payload)
{
    (void)wire;
    sl_put32(payload + 16, W_CONTEXT - 1);
}
static void cut_end(struct sl_wire *wire, uint8_t *payload)
{
    (void)payload;
    wire->payload_bytes = wire->meta_bytes -= 1;
}
static void is_cancel(struct sl_wire *wire, uint8_t *payload)
{
    (void)wire;
    sl_put32(payload, SL_ADOPT_CANCEL);
}
static void is_kv(struct sl_wire *wire, uint8_t *payload)
{
    (void)payload;
    wire->kind = SL_WIRE_KV;
}

/* Steps until a frame of the kind is under way to the part; twists it, and gives it. */
static sl_status give_wrong(struct w_world *w, const struct wrong_frame *wrong)
{
    struct w_node *to = w_part(w, wrong->part), *from = w_part(w, sl_plan_part_before(&w->plan, wrong->part));
    for (uint32_t turn = 0; turn < 10000; turn++) {
        for (uint32_t i = 1; i <= sl_plan_n_members(&w->plan); i++) {
            struct w_node *n = &w->nodes[i];
            CHECK_INT(w_step(n, NULL), SL_OK);
            uint32_t at = w_find(n, wrong->kind);
            if (n == from && at < n->n_sent && sl_plan_link_peer(n->sent[at].link, n->number) == to->number) {
                struct sl_role_action a = n->sent[at];
                uint8_t *copy = malloc(a.wire.payload_bytes);
                memcpy(copy, a.payload, a.wire.payload_bytes);
                wrong->twist(&a.wire, copy);
                sl_status status = w_give(to, a.link, &a.wire, copy, SL_OK);
                for (int steps = 0; status == SL_OK && steps < 100; steps++)
                    status = w_step(to, NULL);
                free(copy);
                return status;
            }
            for (uint32_t s = 0; s < n->n_sent;)
                s += w_deliver(w, n, s) == SL_AGAIN;
        }
    }
    return SL_OK;
}

SL_TEST(a_frame_of_the_ring_that_cannot_be_ends_its_part_with_a_sentence)
{
    static const struct wrong_frame all[] = {
        {"a step of another number, at the chief", "it is not the step that is to come back next",
         SL_WIRE_STEP, 2, damage},
        {"a step without its rows", "rows do not fit the step", SL_WIRE_STEP, 1, lose_rows},
        {"a step without its rows, at the chief", "rows do not fit the step", SL_WIRE_STEP, 2, lose_rows},
        {"a step of nobody", "it is of a sequence that is not here", SL_WIRE_STEP, 0, other_sequence},
        {"a step beyond its pages", "it goes beyond the pages that were granted", SL_WIRE_STEP, 0,
         far_position},
        {"half an end", "an end that can't be", SL_WIRE_ENDS, 1, cut_end},
        {"an end of one that goes on", "something ends that goes on", SL_WIRE_ENDS, 2, damage},
        {"a cancel", "it cancels, which is the chief's", SL_WIRE_ADOPT, 1, is_cancel},
        {"a page of a part", "does not belong to decode part 1", SL_WIRE_STEP, 1, is_kv},
        {"words of nobody", "it is of a sequence that is not here", SL_WIRE_TOKENS, 2, of_other},
        {"half a word", "it is not what a part says", SL_WIRE_TOKENS, 2, cut_end},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        struct w_world *w = open_parts(1, 3);
        CHECK_INT(w_write_run(w, 1, 70, &warm), SL_OK);
        w_settle(w);
        CHECK_INT(w_take(w, 1, 70, 9, &warm), SL_OK);
        sl_status status = give_wrong(w, &all[i]);
        const char *text = w_part(w, all[i].part)->err.text;
        if (status != SL_E_PROTOCOL || !strstr(text, all[i].says))
            sl_test_fail(__FILE__, __LINE__, "%s: %d, %s", all[i].what, status, text);
        w_close(w);
    }
}

/* ---- weights that are not what was loaded ---- */

static _Atomic bool found;

static void on_found(void *user, const struct sl_spoiled *spoiled)
{
    (void)user, (void)spoiled;
    atomic_store(&found, true);
}

SL_TEST(the_last_word_of_a_part_comes_to_the_coordinator_and_no_row_of_it)
{
    struct w_world *w = open_parts(1, 3);
    char path[400];
    CHECK_INT(w_write_run(w, 1, 70, &warm), SL_OK);
    w_settle(w);
    CHECK_INT(w_take(w, 1, 70, 9, &warm), SL_OK);
    REQUIRE(sl_stage_watch(w_part(w, 0)->stage, &(struct sl_scrub_config){on_found, NULL}, NULL) == SL_OK);
    snprintf(path, sizeof path, "%s/layer-0000.safetensors", sl_pack_path(w->pack));
    REQUIRE(truncate(path, 100) == 0);
    while (!atomic_load(&found))
        sched_yield();
    struct w_node *chief = w_decode(w);
    for (uint32_t turn = 0; turn < 1000 && w_find(chief, SL_WIRE_SPOILED) == chief->n_sent; turn++)
        for (uint32_t i = 1; i <= sl_plan_n_members(&w->plan); i++) {
            struct w_node *n = &w->nodes[i];
            CHECK_INT(w_step(n, NULL), SL_OK);
            for (uint32_t s = 0; s < n->n_sent && n != chief;)
                s += w_deliver(w, n, s) == SL_AGAIN;
            for (uint32_t s = 0; s < chief->n_sent;) /* but for the word itself, which is looked at */
                s += chief->sent[s].wire.kind == SL_WIRE_SPOILED || w_deliver(w, chief, s) == SL_AGAIN;
        }
    uint32_t at = w_find(chief, SL_WIRE_SPOILED);
    REQUIRE(at < chief->n_sent);
    CHECK_INT(chief->sent[at].link, sl_plan_link_id(&w->plan, 0, chief->number));
    struct sl_spoiled_word word;
    CHECK(sl_spoiled_unpack(&word, chief->sent[at].payload, chief->sent[at].wire.payload_bytes) == NULL);
    CHECK_CONTAINS(word.sentence, "decode part 0: ");
    CHECK_CONTAINS(word.sentence, "layer-0000.safetensors changed its size");
    CHECK_INT(w->heard[1].n, 1); /* nothing that was computed with them */
    w_close(w);
}
