/* A part of a decode worker (role_part.h). */
#include "node/role/role_part.h"
#include "node/role/adoptees.h"
#include <stdlib.h>

enum part_tag { TAG_FORWARD = 1, TAG_SPOILED }; /* 0: of a TOKENS frame */

struct sl_part_role {
    struct sl_role_config config;
    struct sl_stage *stage;
    const struct sl_plan *plan;
    struct sl_role_meter *meter;
    char name[24], before[24];
    bool first, to_chief;
    uint64_t in_link, out_link;
    struct sl_adoptees adoptees;
    uint64_t ending; /* it ends because the chief says so */
    bool adopting;   /* what ends now has been named */
    struct untold {  /* failed here before the chief knew of it, which is told when it is named */
        uint64_t seq;
        sl_status status;
    } untold[SL_TOMBSTONES];
    uint32_t n_untold;
    struct sl_io_event pages[SL_DECODE_QUEUE], ring[SL_RING_SLOTS]; /* queues */
    uint32_t pages_head, pages_tail, ring_head, ring_tail, n_in_a_row;
    struct sl_last_word last_word;
    struct sl_chunk chunk;
    struct sl_step_row *rows; /* [step_rows] */
    struct sl_utilisation utilisation;
    struct sl_role_actions *actions; /* of this step */
};

/* It goes on from where it lies. */
static void forward(struct sl_part_role *r, const struct sl_io_event *frame, const struct sl_wire *as)
{
    struct sl_wire wire = *as;
    sl_frame_seal(&wire, frame->payload);
    sl_role_act(r->actions, &(struct sl_role_action){.kind = SL_ROLE_SEND,
                                                     .link = r->out_link,
                                                     .wire = wire,
                                                     .payload = frame->payload,
                                                     .tag = sl_role_tag(TAG_FORWARD, frame->slot)});
}

/* ---- what becomes of sequences ---- */

static void tell_failed(struct sl_part_role *r, uint64_t seq, sl_status status)
{
    sl_adoptees_say(&r->adoptees,
                    &(struct sl_tokens_entry){.kind = SL_TOKENS_FAILED, .seq = seq, .status = status});
}

static void on_end(void *owner, struct sl_adoptee *a, uint64_t seq, sl_status status)
{
    struct sl_part_role *r = owner;
    bool is_known = a ? a->state >= SL_ADOPTEE_NAMED : r->adopting;
    if (a)
        sl_adoptees_close(&r->adoptees, a);
    if (seq == r->ending)
        return;
    if (is_known)
        tell_failed(r, seq, status);
    else
        r->untold[r->n_untold++ % SL_TOMBSTONES] = (struct untold){seq, status};
}

static void on_late_name(void *owner, uint64_t seq)
{
    struct sl_part_role *r = owner;
    uint32_t n = r->n_untold < SL_TOMBSTONES ? r->n_untold : SL_TOMBSTONES;
    for (uint32_t i = 0; i < n; i++)
        if (r->untold[i].seq == seq) {
            tell_failed(r, seq, r->untold[i].status);
            r->untold[i] = (struct untold){0};
            return;
        }
}

/* Its share of the digest, and then it is gone. */
static void end_here(struct sl_part_role *r, struct sl_parts_end *end)
{
    struct sl_adoptee *a = sl_adoptees_find(&r->adoptees, end->seq);
    bool whole = a && a->state == SL_ADOPTEE_ADOPTED && a->sequence->n_pages >= sl_pages_of(end->n_tokens);
    if (end->n_tokens && whole)
        end->kv_digest = sl_stage_kv_digest(r->stage, a->sequence, end->n_tokens, end->kv_digest);
    else
        end->n_tokens = 0;
    if (sl_adoptees_has_ended(&r->adoptees, end->seq))
        return;
    r->ending = end->seq;
    sl_adoptees_end(&r->adoptees, a, end->seq, (sl_status)end->status);
    r->ending = 0;
}

static const char *take_ends(struct sl_part_role *r, const struct sl_io_event *frame)
{
    struct sl_cursor in = sl_cursor_over(frame->payload, frame->wire.payload_bytes), out = in;
    struct sl_parts_end end;
    while (sl_parts_end_get(&in, &end, r->plan->context_tokens)) {
        end_here(r, &end);
        sl_parts_end_put(&out, &end);
    }
    if (in.bad)
        return "an end that can't be";
    forward(r, frame, &frame->wire);
    return NULL;
}

/* ---- steps ---- */

static void run_step(struct sl_part_role *r, struct sl_step *step, float *x)
{
    uint8_t ids[SL_MAX_BATCH * 4];
    for (uint32_t i = 0; i < step->n; i++)
        sl_put32(ids + 4 * (size_t)i, step->rows[i].id);
    uint64_t begin = r->config.now_us(r->config.clock);
    r->chunk.x = x;
    if (r->first)
        sl_stage_embed(r->stage, &r->chunk, ids);
    sl_stage_run(r->stage, &r->chunk);
    atomic_fetch_add(&r->meter->steps, 1);
    atomic_fetch_add(&r->meter->tokens, step->n);
    atomic_fetch_add(&r->meter->busy_us, r->config.now_us(r->config.clock) - begin);
    sl_role_meter_publish(r->meter, &r->utilisation, r->stage);
}

static const char *take_step(struct sl_part_role *r, const struct sl_io_event *frame)
{
    struct sl_step step = {.rows = r->rows};
    struct sl_step_limits limits = {r->plan->step_rows, r->plan->context_tokens, r->plan->vocab};
    struct sl_wire wire = frame->wire;
    const char *bad = sl_step_unpack(&step, frame->payload, wire.meta_bytes, &limits);
    if (!bad && !(r->first ? wire.rank == 0 : sl_step_has_rows(&step, &wire, r->plan->d_model)))
        bad = "rows do not fit the step";
    float *x = (float *)(void *)(frame->payload + wire.meta_bytes);
    if (!bad)
        bad = sl_adoptees_chunk(&r->adoptees, &step, r->first ? NULL : x, &r->chunk);
    if (bad)
        return bad;
    if (step.n > 0)
        run_step(r, &step, x);
    if (sl_stage_spoiled(r->stage)) { /* found while it ran: none of it leaves */
        sl_role_release(r->actions, frame->link, frame->slot);
        return NULL;
    }
    sl_step_pack(frame->payload, &step, r->plan->step_rows);
    sl_step_set_rows(&step, &wire, r->plan->d_model);
    forward(r, frame, &wire);
    return NULL;
}

/* ---- frames ---- */

static sl_status take_adopt(struct sl_part_role *r, const struct sl_io_event *frame, struct sl_err *err)
{
    r->adopting = true;
    SL_TRY(sl_adoptees_on_adopt(&r->adoptees, frame, "chief of the decode worker", err));
    r->adopting = false;
    if (r->to_chief) /* it knows */
        sl_role_release(r->actions, frame->link, frame->slot);
    else
        forward(r, frame, &frame->wire);
    return SL_OK;
}

static sl_status take_ring_frame(struct sl_part_role *r, struct sl_err *err)
{
    const struct sl_io_event *frame = &r->ring[r->ring_tail++ % SL_RING_SLOTS];
    if (frame->wire.kind == SL_WIRE_ADOPT)
        return take_adopt(r, frame, err);
    if (!sl_frame_whole(&frame->wire, frame->payload)) {
        atomic_fetch_add(&r->meter->checksum_failures, 1);
        return sl_fail(err, SL_E_CORRUPT,
                       "a frame of kind %u from %s failed its checksum; restart the decode worker",
                       frame->wire.kind, r->before);
    }
    const char *bad = NULL;
    if (frame->wire.kind == SL_WIRE_STEP)
        bad = take_step(r, frame);
    else if (frame->wire.kind == SL_WIRE_ENDS)
        bad = take_ends(r, frame);
    else /* TOKENS, to the chief */
        forward(r, frame, &frame->wire);
    if (!bad)
        return SL_OK;
    return sl_fail(err, SL_E_PROTOCOL,
                   "a frame of kind %u from %s is not acceptable: %s; restart the decode worker",
                   frame->wire.kind, r->before, bad);
}

static void take_page(struct sl_part_role *r)
{
    const struct sl_io_event *frame = &r->pages[r->pages_tail++ % SL_DECODE_QUEUE];
    sl_adoptees_on_kv(&r->adoptees, frame);
    sl_role_release(r->actions, frame->link, frame->slot);
}

/* As at the chief: pages go first, but a step does not wait for a flood of them. */
static sl_status work(struct sl_part_role *r, struct sl_err *err)
{
    bool pages = r->pages_head != r->pages_tail, ring = r->ring_head != r->ring_tail;
    if (pages && (r->n_in_a_row < SL_FRAMES_IN_A_ROW || !ring)) {
        r->n_in_a_row++;
        take_page(r);
    } else if (ring) {
        r->n_in_a_row = 0;
        SL_TRY(take_ring_frame(r, err));
    }
    sl_adoptees_tell(&r->adoptees);
    return SL_OK;
}

/* Of a part before: it goes on to the chief at once. */
static sl_status on_spoiled(struct sl_part_role *r, const struct sl_io_event *frame, struct sl_err *err)
{
    bool sent;
    const char *bad =
        sl_role_pass_word(&r->last_word, frame, r->out_link, sl_role_tag(TAG_SPOILED, 0), r->actions, &sent);
    if (bad)
        return sl_fail(err, SL_E_CORRUPT, "the last word of %s can't be used: %s; restart the decode worker",
                       r->before, bad);
    sl_role_release(r->actions, frame->link, frame->slot);
    return SL_OK;
}

static bool is_of_ring(const struct sl_part_role *r, enum sl_wire_kind kind)
{
    return kind == SL_WIRE_ADOPT || kind == SL_WIRE_STEP || kind == SL_WIRE_ENDS ||
           (kind == SL_WIRE_TOKENS && !r->first);
}

static sl_status on_frame(struct sl_part_role *r, const struct sl_io_event *frame, struct sl_err *err)
{
    bool of_ring = frame->link == r->in_link;
    if (of_ring && frame->wire.kind == SL_WIRE_SPOILED && !r->first)
        return on_spoiled(r, frame, err);
    if (of_ring ? !is_of_ring(r, frame->wire.kind) : frame->wire.kind != SL_WIRE_KV) {
        char name[24];
        uint32_t from = sl_plan_link_peer(frame->link, r->adoptees.node);
        return sl_fail(err, SL_E_PROTOCOL,
                       "a frame of kind %u from %s does not belong to %s; run the same version on all nodes",
                       frame->wire.kind, sl_plan_node_name(r->plan, from, name), r->name);
    }
    /* each is in a slot that we lent */
    if (of_ring) {
        assert(r->ring_head - r->ring_tail < SL_RING_SLOTS);
        r->ring[r->ring_head++ % SL_RING_SLOTS] = *frame;
    } else {
        assert(r->pages_head - r->pages_tail < SL_DECODE_QUEUE);
        r->pages[r->pages_head++ % SL_DECODE_QUEUE] = *frame;
    }
    return SL_OK;
}

static sl_status on_sent(struct sl_part_role *r, const struct sl_io_event *event, struct sl_err *err)
{
    switch (event->tag >> 56) {
    case TAG_FORWARD:
        sl_role_release(r->actions, r->in_link, (uint32_t)event->tag);
        break;
    case TAG_SPOILED:
        break;
    default:
        sl_adoptees_sent(&r->adoptees, event->tag);
    }
    return sl_role_check_sent(event, err);
}

sl_status sl_part_role_step(struct sl_part_role *r, const struct sl_io_event *event,
                            struct sl_role_actions *actions, struct sl_err *err)
{
    sl_status status = SL_OK;
    actions->n = 0;
    r->actions = actions;
    if (event && event->kind == SL_IO_FRAME) {
        status = on_frame(r, event, err);
    } else if (event && event->kind == SL_IO_SENT) {
        status = on_sent(r, event, err);
    } else if (sl_stage_spoiled(r->stage)) {
        sl_role_last_word(&r->last_word, r->stage, r->name, r->out_link, sl_role_tag(TAG_SPOILED, 0),
                          actions);
        actions->go_on = false;
        return SL_OK; /* and nothing else any more */
    } else if (sl_adoptees_begin(&r->adoptees)) {
        status = work(r, err);
        if (sl_stage_spoiled(r->stage))
            sl_adoptees_unsay(&r->adoptees);
        sl_adoptees_flush(&r->adoptees, r->out_link, actions);
        sl_role_meter_pages(r->meter, sl_stage_sequences(r->stage));
    }
    actions->go_on =
        r->adoptees.n_free_out > 0 && (r->pages_head != r->pages_tail || r->ring_head != r->ring_tail ||
                                       sl_adoptees_any_to_tell(&r->adoptees));
    return status;
}

/* ---- life ---- */

static void set_links(struct sl_part_role *r)
{
    const struct sl_plan *plan = r->plan;
    uint32_t node = r->adoptees.node, d = sl_plan_decoder_of(plan, node), part = sl_plan_part_of(plan, node),
             before = sl_plan_part_node(plan, d, sl_plan_part_before(plan, part));
    r->first = part == 0;
    r->to_chief = part + 2 == plan->n_parts;
    r->in_link = sl_plan_link_id(plan, before, node);
    r->out_link = sl_plan_link_id(plan, node, sl_plan_part_node(plan, d, sl_plan_part_after(plan, part)));
    sl_plan_node_name(plan, node, r->name);
    sl_plan_node_name(plan, before, r->before);
}

sl_status sl_part_role_create(struct sl_part_role **out, const struct sl_role_config *config,
                              struct sl_err *err)
{
    struct sl_part_role *r = calloc(1, sizeof *r);
    sl_status status = r ? SL_OK : SL_E_NOMEM;
    if (r) {
        r->config = *config;
        r->stage = config->stage;
        r->plan = config->plan;
        r->meter = config->meter;
        r->adoptees.on_end = on_end;
        r->adoptees.on_late_name = on_late_name;
        r->adoptees.owner = r;
        status = sl_adoptees_init(&r->adoptees, config);
        r->rows = calloc(r->plan->step_rows, sizeof *r->rows);
    }
    if (status != SL_OK || !r->rows) {
        sl_part_role_destroy(r);
        return sl_fail(err, SL_E_NOMEM, "out of memory for the buffers of a part of the decode worker");
    }
    set_links(r);
    atomic_store(&r->meter->pages_total, r->plan->n_pages);
    status = sl_utilisation_init(&r->utilisation, r->stage, err);
    if (status != SL_OK) {
        sl_part_role_destroy(r);
        return status;
    }
    *out = r;
    return SL_OK;
}

void sl_part_role_destroy(struct sl_part_role *r)
{
    if (!r)
        return;
    sl_adoptees_free(&r->adoptees);
    free(r->rows);
    free(r);
}
