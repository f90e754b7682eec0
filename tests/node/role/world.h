/* A pipeline without threads and without a network, for tests of the roles: real stages over a tiny random pack, and the test in
 * the place of the io, of the network and of the coordinator. A node is stepped by hand; what it sends lies in `sent` until
 * somebody delivers it, what it was given lies in slots of which no link has more than the plan lends.
 *
 * The io's promises and demands are checked at each action: a slot is released once and by who has it, no two sends under
 * way have one tag, no more are under way than an io takes, and every header is one that a peer would accept. */
#ifndef SL_TESTS_NODE_ROLE_WORLD_H
#define SL_TESTS_NODE_ROLE_WORLD_H

#include "node/role/adoptees.h"
#include "node/role/role_decode.h"
#include "node/role/role_part.h"
#include "node/role/role_stage.h"
#include "pipeline/record/messages.h"
#include "tests/model/random_pack.h"
#include <stdlib.h>

enum {
    W_STAGES = 3,
    W_PARTS = 3, /* of the decode worker, at most */
    W_NODES = 1 + W_STAGES + W_PARTS,
    W_SLOTS = 256,
    W_SEQS = 2048,
    W_TOKENS = 72,
    W_CONTEXT = 256,
    W_STEERING = 64
};

struct w_lent { /* a slot of a node that a neighbour has filled */
    uint64_t link;
    uint8_t *bytes;
    bool held;
};

struct w_node {
    struct w_world *world;
    uint32_t number; /* as in plan.h */
    struct sl_stage *stage;
    struct sl_stage_role *role;    /* one of the three */
    struct sl_decode_role *decode; /* ... */
    struct sl_part_role *part;     /* ... */
    struct sl_role_meter meter;
    struct sl_role_actions actions;
    struct sl_role_action sent[SL_IO_SENDS]; /* in order; not yet reported SENT */
    uint32_t n_sent;
    struct w_lent slots[W_SLOTS];
    struct sl_err err;
};

struct w_heard { /* what the coordinator has heard of a sequence */
    uint32_t n, ids[W_TOKENS];
    bool first; /* ids[0] came with a RESULT */
    uint32_t arrived, adopted, ended;
    sl_status failed;
    uint64_t logits_digest, kv_digest;
};

struct w_world {
    struct sl_pack *pack;
    struct sl_plan plan;
    uint64_t clock_us;
    struct w_node nodes[W_NODES];
    /* the coordinator */
    uint64_t number, answered;
    uint32_t n_steps, step_rows; /* token steps, and their rows, as they were told */
    bool deaf;                   /* it takes no TOKENS */
    bool hold_kv;                /* the network brings no pages */
    struct w_heard heard[W_SEQS];
};

struct w_chunk { /* a record being written */
    struct sl_order order;
    uint32_t ids[SL_MAX_CHUNK];
    struct sl_page_numbers pages[SL_MAX_CHUNK];
    uint8_t steering[SL_MAX_SLICES][W_STEERING];
};

static const struct sl_sampling w_greedy = {.top_p = 1, .n_logprobs = -1};

/* ---- life ---- */

/* What the nodes of the worlds to come run on, by member, and what their weights and pages are of. */
static enum sl_device_kind w_devices[W_STAGES + W_PARTS];
static struct sl_formats w_formats;
static enum sl_dtype w_kv_dtype = SL_BF16;

static const char w_config[] =
    "{\"model_type\":\"qwen3_moe\",\"architectures\":[\"Qwen3MoeForCausalLM\"],\"hidden_size\":64,"
    "\"num_hidden_layers\":3,\"num_attention_heads\":2,\"num_key_value_heads\":1,\"head_dim\":16,"
    "\"vocab_size\":70,\"num_experts\":4,\"num_experts_per_tok\":2,\"moe_intermediate_size\":32,"
    "\"intermediate_size\":64,\"max_position_embeddings\":256,\"norm_topk_prob\":true}";

static inline uint64_t w_now(void *clock)
{
    return ++*(uint64_t *)clock;
}

static inline bool w_open_node(struct w_world *w, uint32_t k)
{
    struct w_node *n = &w->nodes[1 + k];
    struct sl_share share = sl_plan_share(&w->plan, k, 1);
    share.device = w_devices[k];
    n->world = w;
    n->number = 1 + k;
    if (sl_stage_create(&n->stage, w->pack, &share, NULL, &n->err) != SL_OK)
        return false;
    struct sl_role_config config = {.stage = n->stage,
                                    .plan = &w->plan,
                                    .k = k,
                                    .meter = &n->meter,
                                    .now_us = w_now,
                                    .clock = &w->clock_us};
    return (k == w->plan.n_stages  ? sl_decode_role_create(&n->decode, &config, &n->err)
            : k > w->plan.n_stages ? sl_part_role_create(&n->part, &config, &n->err)
                                   : sl_stage_role_create(&n->role, &config, &n->err)) == SL_OK;
}

/* How many parts the decode worker of the worlds to come has. */
#ifndef W_DEFAULT_PARTS
#define W_DEFAULT_PARTS 1
#endif
static uint32_t w_parts = W_DEFAULT_PARTS;

/* tokens_bytes: of a TOKENS frame, less than planned; 0: as planned. */
static inline struct w_world *w_open_with(uint32_t n_stages, uint32_t max_running, uint32_t n_pages,
                                          size_t tokens_bytes)
{
    struct w_world *w = calloc(1, sizeof *w);
    struct sl_err err;
    struct sl_plan_options options = {.n_stages = n_stages,
                                      .n_decoders = 1,
                                      .n_parts = w_parts,
                                      .kv_dtype = w_kv_dtype,
                                      .profile = SL_PROFILE_F32,
                                      .chunk_tokens = 128,
                                      .max_running = max_running,
                                      .kv_tokens = (uint64_t)n_pages * SL_PAGE,
                                      .epoch = 5};
    w->pack = random_pack(w_config, &w_formats, SL_ROTATE_AUTO);
    SET_UP(sl_plan_for_shape(&w->plan, sl_pack_shape(w->pack), &options, &err) == SL_OK, err.text);
    if (tokens_bytes)
        w->plan.tokens_bytes = tokens_bytes;
    for (uint32_t k = 0; k < sl_plan_n_members(&w->plan); k++)
        SET_UP(w_open_node(w, k), w->nodes[1 + k].err.text);
    return w;
}

static inline struct w_world *w_open(uint32_t n_stages, uint32_t max_running, uint32_t n_pages)
{
    return w_open_with(n_stages, max_running, n_pages, 0);
}

static inline void w_close(struct w_world *w)
{
    for (uint32_t i = 1; i < W_NODES; i++) {
        struct w_node *n = &w->nodes[i];
        sl_stage_role_destroy(n->role);
        sl_decode_role_destroy(n->decode);
        sl_part_role_destroy(n->part);
        sl_stage_destroy(n->stage);
        for (uint32_t s = 0; s < W_SLOTS; s++)
            free(n->slots[s].bytes);
    }
    sl_pack_close(w->pack);
    free(w);
}

static inline struct w_node *w_stage(struct w_world *w, uint32_t k)
{
    return &w->nodes[1 + k];
}

static inline struct w_node *w_decode(struct w_world *w)
{
    return &w->nodes[1 + w->plan.n_stages];
}

/* ---- the io of a node ---- */

static inline void w_release(struct w_node *n, const struct sl_role_action *a)
{
    struct w_lent *slot = &n->slots[a->slot];
    CHECK(a->slot < W_SLOTS && slot->held && slot->link == a->link);
    slot->held = false;
    free(slot->bytes); /* a reader that comes late is caught by a sanitizer */
    slot->bytes = NULL;
}

static inline void w_send(struct w_node *n, const struct sl_role_action *a)
{
    static const struct sl_wire_limits limits = {1 << 30, 100, 1 << 20};
    uint8_t header[SL_WIRE_BYTES];
    struct sl_wire back;
    sl_wire_pack(header, &a->wire);
    CHECK(sl_wire_unpack(&back, header, sizeof header, &limits) == NULL);
    for (uint32_t s = 0; s < n->n_sent; s++)
        CHECK(n->sent[s].tag != a->tag);
    CHECK(n->n_sent < SL_IO_SENDS);
    n->sent[n->n_sent++] = *a;
}

static inline void w_carry_out(struct w_node *n)
{
    for (uint32_t i = 0; i < n->actions.n; i++) {
        const struct sl_role_action *a = &n->actions.list[i];
        switch (a->kind) {
        case SL_ROLE_RELEASE:
            w_release(n, a);
            break;
        case SL_ROLE_SEND:
            w_send(n, a);
            break;
        }
    }
}

static inline sl_status w_step(struct w_node *n, const struct sl_io_event *event)
{
    sl_status status = n->role     ? sl_stage_role_step(n->role, event, &n->actions, &n->err)
                       : n->decode ? sl_decode_role_step(n->decode, event, &n->actions, &n->err)
                                   : sl_part_role_step(n->part, event, &n->actions, &n->err);
    w_carry_out(n);
    return status;
}

/* Work until only an event helps. Returns the steps that did something, or less than 0. */
static inline int w_work(struct w_node *n)
{
    int steps = 0;
    do {
        if (w_step(n, NULL) != SL_OK)
            return -1;
        steps += n->actions.n > 0;
    } while (n->actions.go_on);
    /* it said that only an event helps */
    if (w_step(n, NULL) != SL_OK)
        return -1;
    if (n->actions.n > 0)
        sl_test_fail(__FILE__, __LINE__, "a step that was not asked for did something");
    return steps;
}

static inline uint32_t w_lent_to(const struct w_world *w, uint64_t link, uint32_t node)
{
    struct sl_plan_link links[SL_MAX_LINKS];
    for (uint32_t i = 0, n = sl_plan_links(&w->plan, links); i < n; i++)
        if (links[i].id == link)
            return links[i].to == node ? links[i].to_slots : links[i].from_slots;
    return 1;
}

/* A slot of the node for a frame on that link; NULL: the neighbour has no credit. */
static inline struct w_lent *w_lend(struct w_node *n, uint64_t link)
{
    uint32_t held = 0;
    struct w_lent *free_slot = NULL;
    for (uint32_t i = 0; i < W_SLOTS; i++) {
        held += n->slots[i].held && n->slots[i].link == link;
        if (!n->slots[i].held && !free_slot)
            free_slot = &n->slots[i];
    }
    return held < w_lent_to(n->world, link, n->number) ? free_slot : NULL;
}

/* The frame arrives; status: SL_OK, or SL_E_CORRUPT when it was damaged on the way. SL_AGAIN: there was no credit. */
static inline sl_status w_give(struct w_node *n, uint64_t link, const struct sl_wire *wire,
                               const void *payload, sl_status status)
{
    struct w_lent *slot = w_lend(n, link);
    if (!slot)
        return SL_AGAIN;
    size_t bytes = wire->payload_bytes;
    if (wire->kind ==
        SL_WIRE_ORDER) /* a slot is as large as the plan says: stage 0 puts rows behind, as part 0 does */
        bytes = n->world->plan.order_bytes;
    if (wire->kind == SL_WIRE_STEP)
        bytes = n->world->plan.ring_bytes;
    *slot = (struct w_lent){link, aligned_alloc(64, (bytes + 127) / 64 * 64), true};
    memcpy(slot->bytes, payload, wire->payload_bytes);
    struct sl_wire sealed = *wire;
    sl_frame_seal(&sealed, payload);
    sealed.checksum ^= status != SL_OK;
    struct sl_io_event event = {.kind = SL_IO_FRAME,
                                .link = link,
                                .wire = sealed,
                                .payload = slot->bytes,
                                .slot = (uint32_t)(slot - n->slots),
                                .at_us = w_now(&n->world->clock_us)};
    return w_step(n, &event);
}

/* The io is through with send i of the node. */
static inline sl_status w_report_sent(struct w_node *n, uint32_t i, sl_status status)
{
    struct sl_io_event event = {.kind = SL_IO_SENT,
                                .status = status,
                                .link = n->sent[i].link,
                                .tag = n->sent[i].tag,
                                .wire = n->sent[i].wire};
    memmove(&n->sent[i], &n->sent[i + 1], (--n->n_sent - i) * sizeof n->sent[0]);
    return w_step(n, &event);
}

/* The first send under way of a kind; n_sent: none. */
static inline uint32_t w_find(const struct w_node *n, enum sl_wire_kind kind)
{
    uint32_t i = 0;
    while (i < n->n_sent && n->sent[i].wire.kind != kind)
        i++;
    return i;
}

static inline uint32_t w_count(const struct w_node *n, enum sl_wire_kind kind)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < n->n_sent; i++)
        count += n->sent[i].wire.kind == kind;
    return count;
}

/* ---- the coordinator ---- */

static inline void w_hear_result(struct w_world *w, const void *bytes, size_t n)
{
    struct sl_cursor in = sl_cursor_over((void *)(uintptr_t)bytes, n);
    struct sl_result_head head;
    CHECK(sl_result_get_head(&in, &head, w->plan.n_stages));
    CHECK_INT(head.number, ++w->answered);
    for (uint32_t i = 0; i < head.n_slices; i++) {
        struct sl_result_slice slice;
        CHECK(sl_result_get_slice(&in, &slice));
        if (!slice.has_token)
            continue;
        struct w_heard *h = &w->heard[slice.seq];
        h->first = true;
        h->ids[h->n++] = slice.first.id;
        for (uint32_t k = 0; k < slice.n_more; k++) { /* of the sequences that follow */
            h[1 + k].first = true;
            h[1 + k].ids[h[1 + k].n++] = slice.more[k].id;
        }
    }
}

static inline void w_hear_entry(struct w_world *w, const struct sl_tokens_entry *entry)
{
    struct w_heard *h = &w->heard[entry->seq];
    CHECK(h->ended == 0); /* the end is the last word */
    switch (entry->kind) {
    case SL_TOKENS_STEP:
        w->n_steps++;
        w->step_rows += entry->rows;
        break;
    case SL_TOKENS_TOKEN:
        CHECK(h->adopted == 1 && h->n < W_TOKENS);
        h->ids[h->n++ % W_TOKENS] = entry->token.id;
        break;
    case SL_TOKENS_ARRIVED:
        CHECK(h->adopted == 0);
        h->arrived++;
        break;
    case SL_TOKENS_ADOPTED:
        h->adopted++;
        break;
    case SL_TOKENS_FAILED:
        h->failed = (sl_status)entry->status;
        h->ended++;
        break;
    case SL_TOKENS_ENDED:
        h->logits_digest = entry->logits_digest;
        h->kv_digest = entry->kv_digest;
        h->ended++;
        break;
    }
}

static inline void w_hear(struct w_world *w, const struct sl_role_action *a)
{
    if (a->wire.kind == SL_WIRE_RESULT) {
        w_hear_result(w, a->payload, a->wire.payload_bytes);
        return;
    }
    CHECK_INT(a->wire.kind, SL_WIRE_TOKENS);
    struct sl_cursor in = sl_cursor_over((void *)(uintptr_t)a->payload, a->wire.payload_bytes);
    struct sl_tokens_entry entry;
    while (sl_tokens_get(&in, &entry))
        w_hear_entry(w, &entry);
    CHECK(!in.bad);
}

/* Page `index` of a sequence: every sequence has its own four on the stages and on the decode worker, other ones there. */
static inline struct sl_page_numbers w_page(const struct w_world *w, uint64_t seq, uint32_t index)
{
    uint32_t stage = (uint32_t)((seq * (W_CONTEXT / SL_PAGE) + index) % w->plan.n_pages);
    return (struct sl_page_numbers){stage, w->plan.n_pages - 1 - stage};
}

/* One more slice of the record; the pages that it opens get their numbers. */
static inline uint32_t w_id(const struct w_world *w, uint64_t seq, uint32_t pos)
{
    return (uint32_t)(pos * 7 + seq * 13) % w->plan.vocab;
}

/* Who asks for a repetition penalty has a bias, too; both travel as the coordinator would send them. */
static const struct sl_bias w_bias = {5, 1.25f};

static inline uint32_t w_steer(const struct w_world *w, uint64_t seq, uint32_t prompt,
                               const struct sl_sampling *sampling, uint8_t bytes[W_STEERING])
{
    uint64_t seen[2] = {0};
    uint32_t n = 0;
    if (!sl_sampling_repeats(sampling))
        return 0;
    for (uint32_t pos = 0; pos < prompt; pos++) {
        uint32_t id = w_id(w, seq, pos);
        n += sl_ids_mark(seen, &id, 1);
    }
    CHECK(sl_steering_bytes(1, n, w->plan.vocab) <= W_STEERING);
    sl_steering_pack(bytes, &w_bias, 1, seen, n, w->plan.vocab);
    return sl_steering_bytes(1, n, w->plan.vocab);
}

static inline void w_add(struct w_world *w, struct w_chunk *c, uint64_t seq, uint32_t pos, uint32_t n,
                         uint32_t prompt, const struct sl_sampling *sampling)
{
    struct sl_order *o = &c->order;
    struct sl_order_slice *s = &o->slices[o->n_slices++];
    *s = (struct sl_order_slice){.seq = seq,
                                 .pos = pos,
                                 .n = n,
                                 .index = pos / SL_PAGE,
                                 .prompt_tokens = prompt,
                                 .prompt_logprobs = -1,
                                 .page_first = sl_pages_of(pos),
                                 .n_pages = sl_pages_of(pos + n) - sl_pages_of(pos),
                                 .pages_at = o->n_pages,
                                 .sampling = *sampling};
    s->flags = SL_SLICE_HANDOFF | (pos == 0 ? SL_SLICE_FIRST : 0u) | (pos + n == prompt ? SL_SLICE_LAST : 0u);
    for (uint32_t i = 0; i < s->n_pages; i++)
        c->pages[o->n_pages++] = w_page(w, seq, s->page_first + i);
    for (uint32_t i = 0; i < n; i++)
        c->ids[o->n_tokens++] = w_id(w, seq, pos + i);
    s->steering = c->steering[o->n_slices - 1];
    if (s->flags & SL_SLICE_LAST)
        s->steering_bytes = w_steer(w, seq, prompt, sampling, c->steering[o->n_slices - 1]);
}

/* The record goes to stage 0 with the next number; SL_AGAIN: there is no credit. */
static inline sl_status w_write(struct w_world *w, struct w_chunk *c)
{
    struct sl_order_limits limits = sl_plan_order_limits(&w->plan);
    uint8_t *meta = malloc(w->plan.meta_bytes);
    c->order.number = w->number + 1;
    sl_order_pack(meta, &c->order, c->ids, c->pages, &limits);
    struct sl_wire wire = {.kind = SL_WIRE_ORDER,
                           .payload_bytes = w->plan.meta_bytes,
                           .meta_bytes = (uint32_t)w->plan.meta_bytes};
    sl_status status = w_give(w_stage(w, 0), sl_plan_link_id(&w->plan, 0, 1), &wire, meta, SL_OK);
    free(meta);
    w->number += status == SL_OK;
    return status;
}

static inline sl_status w_write_run(struct w_world *w, uint64_t seq, uint32_t prompt,
                                    const struct sl_sampling *sampling)
{
    struct w_chunk *c = calloc(1, sizeof *c);
    c->order.kind = SL_ORDER_RUN;
    w_add(w, c, seq, 0, prompt, prompt, sampling);
    sl_status status = w_write(w, c);
    free(c);
    return status;
}

static inline sl_status w_write_control(struct w_world *w, enum sl_order_kind kind, uint64_t seq)
{
    struct w_chunk *c = calloc(1, sizeof *c);
    c->order = (struct sl_order){.kind = kind, .seq = seq};
    sl_status status = w_write(w, c);
    free(c);
    return status;
}

static inline sl_status w_send_adopt(struct w_world *w, const struct sl_adopt *adopt, sl_status damage)
{
    uint8_t *bytes = malloc(w->plan.adopt_bytes + 64);
    struct sl_wire wire = {.kind = SL_WIRE_ADOPT, .seq = adopt->seq};
    wire.payload_bytes = sl_adopt_pack(bytes, adopt);
    wire.meta_bytes = (uint32_t)wire.payload_bytes;
    sl_status status =
        w_give(w_decode(w), sl_plan_link_id(&w->plan, 0, w_decode(w)->number), &wire, bytes, damage);
    free(bytes);
    return status;
}

/* Take the sequence with the first token that was heard. */
static inline sl_status w_take(struct w_world *w, uint64_t seq, uint32_t prompt, uint32_t max_tokens,
                               const struct sl_sampling *sampling)
{
    uint32_t pages[W_CONTEXT / SL_PAGE];
    uint8_t steering[W_STEERING];
    struct sl_adopt adopt = {.kind = SL_ADOPT_TAKE,
                             .seq = seq,
                             .prompt_tokens = prompt,
                             .first_id = w->heard[seq].ids[0],
                             .n_out = 1,
                             .max_tokens = max_tokens,
                             .digest = true,
                             .sampling = *sampling,
                             .n_pages = sl_pages_of(prompt + max_tokens - 1),
                             .pages = (const uint8_t *)pages,
                             .steering_bytes = w_steer(w, seq, prompt, sampling, steering),
                             .steering = steering};
    for (uint32_t i = 0; i < adopt.n_pages; i++)
        pages[i] = w_page(w, seq, i).decode;
    return w_send_adopt(w, &adopt, SL_OK);
}

static inline sl_status w_cancel(struct w_world *w, uint64_t seq)
{
    return w_send_adopt(w, &(struct sl_adopt){.kind = SL_ADOPT_CANCEL, .seq = seq, .sampling = w_greedy},
                        SL_OK);
}

/* ---- the network ---- */

/* Send i of the node arrives, and is reported sent. SL_AGAIN: the receiver has no slot for it. */
static inline sl_status w_deliver(struct w_world *w, struct w_node *n, uint32_t i)
{
    struct sl_role_action a = n->sent[i];
    uint32_t to = sl_plan_link_peer(a.link, n->number);
    if ((w->deaf && to == 0 && a.wire.kind == SL_WIRE_TOKENS) || (w->hold_kv && a.wire.kind == SL_WIRE_KV))
        return SL_AGAIN;
    if (to == 0)
        w_hear(w, &a);
    else
        SL_TRY(w_give(&w->nodes[to], a.link, &a.wire, a.payload, SL_OK));
    return w_report_sent(n, i, SL_OK);
}

/* Everything that can move and work does, until nothing does. */
static inline void w_settle(struct w_world *w)
{
    for (bool moved = true; moved;) {
        moved = false;
        for (uint32_t i = 1; i <= sl_plan_n_members(&w->plan); i++) {
            struct w_node *n = &w->nodes[i];
            int steps = w_work(n);
            if (steps < 0) {
                sl_test_fail(__FILE__, __LINE__, "node %u: %s", i, n->err.text);
                return;
            }
            moved = moved || steps > 0;
            for (uint32_t s = 0; s < n->n_sent;) {
                sl_status status = w_deliver(w, n, s);
                s += status == SL_AGAIN;
                moved = moved || status == SL_OK;
            }
        }
    }
}

static inline struct w_node *w_part(struct w_world *w, uint32_t part)
{
    return &w->nodes[sl_plan_part_node(&w->plan, 0, part)];
}

static inline uint32_t w_pages_used(const struct w_node *n)
{
    return sl_stage_sequences(n->stage)->n_used;
}

/* From prompt to the last token, alone. */
static inline void w_generate(struct w_world *w, uint64_t seq, uint32_t prompt, uint32_t max_tokens,
                              const struct sl_sampling *sampling)
{
    CHECK_INT(w_write_run(w, seq, prompt, sampling), SL_OK);
    w_settle(w);
    CHECK_INT(w_take(w, seq, prompt, max_tokens, sampling), SL_OK);
    w_settle(w);
    CHECK_INT(w_write_control(w, SL_ORDER_FREE, seq), SL_OK);
    w_settle(w);
}

#endif
