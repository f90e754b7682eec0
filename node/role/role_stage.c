/* The stage's loop: records of the order log come in, are checked, applied in order and exactly once, and passed on in
 * the very frame they came in. Hidden rows are worked on in place, so a chunk is copied only by the network.
 *
 *   FRAME (ORDER)  -> queued; applied when pages and buffers allow
 *   RUN            -> embed (first) -> layers -> next stage, or logits and RESULT (last) -> KV pages to the decode worker
 *   SENT           -> the slot goes back upstream (its credit), or the pages' reader is done
 */
#include "base/clock.h"
#include "base/digest.h"
#include "node/role/role.h"
#include "pipeline/record/messages.h"
#include "pipeline/stage/sample.h"
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { QUEUE = 64, RESULT_BUFFERS = 16, SENDS = 1024 /* that sl_io_send takes before it says SL_AGAIN */ };
enum tag_kind { TAG_FORWARD = 1, TAG_KV, TAG_RESULT };

static uint64_t tag_of(enum tag_kind kind, uint64_t value)
{
    return (uint64_t)kind << 56 | value;
}

struct
    half_page { /* of a sequence: where on the decode worker its last page goes, which may not be full yet */
    uint32_t decode_page;
};

struct stage_role {
    struct sl_stage *stage;
    struct sl_io *io;
    const struct sl_plan *plan;
    struct sl_role_state *control;
    uint32_t k;
    bool first, last;
    uint64_t in_link, out_link, kv_link;
    struct sl_order_limits limits;
    uint64_t applied; /* number of the last record applied */
    uint32_t n_out;   /* frames with the io: sent, and not yet reported SENT */
    struct sl_io_event queue[QUEUE];
    uint32_t queue_head, queue_tail;
    uint8_t *results; /* RESULT_BUFFERS of plan->result_bytes */
    uint32_t free_results[RESULT_BUFFERS], n_free_results;
    struct sl_chunk chunk;
    struct sl_order order;
    struct half_page half_pages[SL_MAX_BATCH];
    struct sl_utilisation utilisation;
};

/* By the sequence's place in the table. */
static struct half_page *half_page_of(struct stage_role *r, const struct sl_sequence *s)
{
    return &r->half_pages[s - sl_stage_sequences(r->stage)->sequences];
}

static void *result_buffer(const struct stage_role *r, uint32_t i)
{
    return r->results + i * r->plan->result_bytes;
}

/* Room was made sure of before the record was begun (room_for_frames): waiting here would wait for events that only this
 * thread takes. */
static void send_frame(struct stage_role *r, uint64_t link, struct sl_wire *wire, const void *payload,
                       uint64_t token)
{
    sl_frame_seal(wire, payload);
    sl_status status = sl_io_send(r->io, link, wire, payload, token);
    assert(status == SL_OK);
    r->n_out++;
}

/* A record sends its frame on and, at most, the pages that its slices touch. */
static bool room_for_frames(const struct stage_role *r)
{
    return r->n_out + 2 + r->order.n_tokens / SL_PAGE_TOKENS + 2 * r->order.n_slices <= SENDS;
}

/* ---- KV push ---- */

/* Pages that are full, or that end the prompt, leave for the decode worker from where they lie. The record numbers them from
 * page_first on; the one before, which an earlier slice opened and this one filled, has its number in push_page. */
static void push_pages(struct stage_role *r, const struct sl_sequence *s, const struct sl_order_slice *slice,
                       const uint8_t *meta)
{
    size_t page_bytes = sl_stage_page_bytes(r->stage);
    const struct sl_share *c = sl_stage_share(r->stage);
    uint32_t end = slice->pos + slice->n,
             ready = slice->flags & SL_SLICE_LAST ? sl_pages_of(end) : end / SL_PAGE;
    struct half_page *half = half_page_of(r, s);
    for (uint32_t i = slice->pos / SL_PAGE; i < ready; i++) {
        uint32_t first = i * SL_PAGE, left = slice->prompt_tokens - first;
        struct sl_wire wire = {
            .kind = SL_WIRE_KV,
            .seq = s->id,
            .chunk_index = slice->index,
            .page = i < slice->page_first
                        ? half->decode_page
                        : sl_order_page(meta, &r->limits, slice->pages_at + i - slice->page_first).decode,
            .source = (uint16_t)r->k,
            .layer_first = (uint16_t)c->begin,
            .layer_count = (uint16_t)(c->end - c->begin),
            .token_first = first,
            .token_count = left < SL_PAGE ? left : SL_PAGE,
            .dtype = (uint8_t)c->kv_dtype,
            .rank = 1,
            .profile = (uint8_t)c->profile,
            .payload_bytes = page_bytes};
        wire.shape[0] = (uint32_t)(page_bytes / sl_dtype_bytes(c->kv_dtype));
        sl_sequences_read_begin(sl_stage_sequences(r->stage), s->pages[i]);
        send_frame(r, r->kv_link, &wire, sl_stage_page_out(r->stage, s->pages[i]),
                   tag_of(TAG_KV, s->pages[i]));
        atomic_fetch_add(&r->control->meter.kv_frames, 1);
        atomic_fetch_add(&r->control->meter.kv_bytes, page_bytes);
    }
    if (slice->n_pages > 0)
        half->decode_page = sl_order_page(meta, &r->limits, slice->pages_at + slice->n_pages - 1).decode;
}

/* ---- results of the last stage ---- */

static void put_prompt_logprobs(struct stage_role *r, struct sl_cursor *out,
                                const struct sl_order_slice *slice, const float *x, const uint8_t *ids,
                                void *scratch)
{
    uint32_t vocab = sl_stage_shape(r->stage)->vocab,
             n = slice->flags & SL_SLICE_LAST ? slice->n - 1 : slice->n;
    uint32_t block = sl_stage_head_rows(r->stage);
    for (uint32_t row = 0; row < n; row += block) {
        uint32_t rows = n - row < block ? n - row : block;
        const float *logits = sl_stage_logits(r->stage, x + (size_t)row * r->plan->d_model, rows);
        for (uint32_t i = row; i < row + rows; i++) {
            struct sl_token_out token;
            uint32_t id = i + 1 < slice->n ? sl_get32(ids + 4 * (size_t)(i + 1)) : slice->next_id;
            sl_logprob_of(&token, logits + (size_t)(i - row) * vocab, vocab, id,
                          (uint32_t)slice->prompt_logprobs, scratch);
            sl_token_put(out, &token);
        }
    }
}

static void put_slice_result(struct stage_role *r, struct sl_cursor *out, const struct sl_order_slice *slice,
                             const float *x, const uint8_t *ids, void *scratch)
{
    uint32_t vocab = sl_stage_shape(r->stage)->vocab;
    bool last = slice->flags & SL_SLICE_LAST;
    struct sl_result_slice result = {
        .seq = slice->seq, .index = slice->index, .pos = slice->pos, .n = slice->n, .has_token = last};
    if (slice->prompt_logprobs >= 0)
        result.n_prompt = last ? slice->n - 1 : slice->n;
    if (last) {
        float *logits = sl_stage_logits(r->stage, x + (size_t)(slice->n - 1) * r->plan->d_model, 1);
        if (slice->flags & SL_SLICE_DIGEST)
            result.logits_digest = sl_xxh3(logits, vocab * sizeof *logits);
        const struct sl_shape *shape = sl_stage_shape(r->stage);
        for (uint32_t i = 0; slice->flags & SL_SLICE_NO_EOS && i < shape->n_eos; i++)
            logits[shape->eos[i]] = -INFINITY;
        sl_sample(&result.first, logits, vocab, &slice->sampling, 0, scratch);
    }
    sl_result_put_slice(out, &result);
    if (result.n_prompt)
        put_prompt_logprobs(r, out, slice, x, ids, scratch);
}

static void send_result(struct stage_role *r, const uint8_t *meta, void *scratch)
{
    uint32_t buffer = r->free_results[--r->n_free_results];
    struct sl_cursor out = sl_cursor_over(result_buffer(r, buffer), r->plan->result_bytes);
    struct sl_result_head head = {
        .number = r->order.number, .kind = r->order.kind, .n_slices = r->order.n_slices};
    for (uint32_t k = 0; k < r->plan->n_stages; k++)
        head.traces[k] = sl_order_trace(meta, k);
    uint8_t *head_at = out.at;
    sl_result_put_head(&out, &head, r->plan->n_stages);
    const float *x = r->chunk.x;
    const uint8_t *ids = sl_order_ids(meta, r->plan->n_stages);
    for (uint32_t i = 0; i < r->order.n_slices; i++) {
        put_slice_result(r, &out, &r->order.slices[i], x, ids, scratch);
        x += (size_t)r->order.slices[i].n * r->plan->d_model;
        ids += 4 * (size_t)r->order.slices[i].n;
    }
    if (r->order.kind == SL_ORDER_RUN) { /* the head is part of the last stage's work */
        head.traces[r->k].end_us = sl_clock_wall_us();
        head.traces[r->k].at_peak_us += sl_role_meter_publish(&r->control->meter, &r->utilisation, r->stage);
        struct sl_cursor again = sl_cursor_over(head_at, r->plan->result_bytes);
        sl_result_put_head(&again, &head, r->plan->n_stages);
    }
    assert(!out.bad);
    struct sl_wire wire = {.kind = SL_WIRE_RESULT, .source = (uint16_t)r->k};
    wire.payload_bytes = (uint64_t)(out.at - head_at);
    wire.meta_bytes = (uint32_t)wire.payload_bytes;
    send_frame(r, r->out_link, &wire, head_at, tag_of(TAG_RESULT, buffer));
}

/* ---- applying records ---- */

/* Sequences and pages for a chunk. SL_AGAIN: some are still being read by KV sends; wait for those. */
static sl_status prepare_chunk(struct stage_role *r, const uint8_t *meta, const char **bad)
{
    struct sl_sequence *found[SL_MAX_SLICES];
    SL_TRY(sl_sequences_apply(sl_stage_sequences(r->stage), &r->order, meta, &r->limits, found,
                              sl_stage_clear, r->stage, bad));
    r->chunk.n_slices = r->order.n_slices;
    r->chunk.n_tokens = r->order.n_tokens;
    for (uint32_t i = 0; i < r->order.n_slices; i++)
        r->chunk.slices[i] = (struct sl_chunk_slice){found[i], r->order.slices[i].pos, r->order.slices[i].n};
    return SL_OK;
}

static void forward(struct stage_role *r, const struct sl_io_event *frame)
{
    struct sl_wire wire = frame->wire;
    wire.source = (uint16_t)r->k;
    wire.payload_bytes = wire.meta_bytes;
    wire.rank = 0;
    if (r->order.kind == SL_ORDER_RUN) {
        wire.rank = 2;
        wire.dtype = SL_F32;
        wire.shape[0] = r->order.n_tokens;
        wire.shape[1] = r->plan->d_model;
        wire.payload_bytes += (uint64_t)r->order.n_tokens * r->plan->d_model * sizeof(float);
    }
    send_frame(r, r->out_link, &wire, frame->payload, tag_of(TAG_FORWARD, frame->slot));
}

static void run_chunk(struct stage_role *r, const struct sl_io_event *frame)
{
    struct sl_trace trace = {.recv_us = frame->at_us, .begin_us = sl_clock_wall_us()};
    r->chunk.x = (float *)(void *)(frame->payload + r->plan->meta_bytes);
    if (r->first)
        sl_stage_embed(r->stage, &r->chunk, sl_order_ids(frame->payload, r->plan->n_stages));
    sl_stage_run(r->stage, &r->chunk);
    trace.end_us = sl_clock_wall_us();
    trace.at_peak_us = sl_role_meter_publish(&r->control->meter, &r->utilisation, r->stage);
    trace.next_offset_us = sl_io_clock(r->io, r->out_link).offset_us;
    sl_order_set_trace(frame->payload, r->k, &trace);
    struct sl_role_meter *m = &r->control->meter;
    atomic_fetch_add(&m->chunks, 1);
    atomic_fetch_add(&m->tokens, r->chunk.n_tokens);
    atomic_fetch_add(&m->busy_us, trace.end_us - trace.begin_us);
    atomic_fetch_add(&m->waited_us, trace.begin_us - trace.recv_us);
}

/* Pages that are still being read stay used until they are sent. */
static void apply_control(struct stage_role *r)
{
    struct sl_sequences *t = sl_stage_sequences(r->stage);
    struct sl_sequence *s = sl_sequences_find(t, r->order.seq);
    if (s)
        sl_sequences_close(t, s);
}

static sl_status refuse_record(const struct stage_role *r, const char *bad, struct sl_err *err)
{
    return sl_fail(err, SL_E_PROTOCOL,
                   "record %llu from the node before is not acceptable: %s; restart the pipeline",
                   (unsigned long long)r->order.number, bad);
}

/* The record at the head of the queue. SL_AGAIN: not yet; SL_OK: applied and passed on; else the link is not to be trusted. */
static sl_status apply_next(struct stage_role *r, void *scratch, struct sl_err *err)
{
    struct sl_io_event *frame = &r->queue[r->queue_tail % QUEUE];
    const char *bad = frame->wire.meta_bytes != r->plan->meta_bytes
                          ? "meta size"
                          : sl_order_unpack(&r->order, frame->payload, r->plan->meta_bytes, &r->limits);
    if (!bad && r->order.number != r->applied + 1)
        bad = "record out of order";
    if (!bad && !r->first && r->order.kind == SL_ORDER_RUN &&
        (frame->wire.rank != 2 || frame->wire.shape[0] != r->order.n_tokens ||
         frame->wire.shape[1] != r->plan->d_model))
        bad = "rows do not fit the record";
    if (bad)
        return sl_fail(err, SL_E_PROTOCOL,
                       "record %llu from the node before is not acceptable: %s; restart the pipeline",
                       (unsigned long long)r->order.number, bad);
    if (!room_for_frames(r) || (r->last && r->n_free_results == 0))
        return SL_AGAIN;
    if (r->order.kind == SL_ORDER_RUN) {
        sl_status status = prepare_chunk(r, frame->payload, &bad);
        if (status == SL_E_PROTOCOL)
            return refuse_record(r, bad, err);
        SL_TRY(status);
        run_chunk(r, frame);
    } else {
        apply_control(r);
    }
    r->applied = r->order.number;
    r->queue_tail++;
    atomic_fetch_add(&r->control->meter.records, 1);
    for (uint32_t i = 0; i < r->order.n_slices; i++)
        if (r->order.slices[i].flags & SL_SLICE_HANDOFF)
            push_pages(r, r->chunk.slices[i].sequence, &r->order.slices[i], frame->payload);
    if (r->last) {
        send_result(r, frame->payload, scratch);
        sl_io_release(r->io, r->in_link, frame->slot);
    } else {
        forward(r, frame);
    }
    atomic_store(&r->control->meter.pages_used, sl_stage_sequences(r->stage)->n_used);
    atomic_store(&r->control->meter.sequences, sl_stage_sequences(r->stage)->n_live);
    return SL_OK;
}

static void on_sent(struct stage_role *r, const struct sl_io_event *event)
{
    uint64_t value = event->tag & ((1ull << 56) - 1);
    r->n_out--;
    switch ((enum tag_kind)(event->tag >> 56)) {
    case TAG_FORWARD:
        sl_io_release(r->io, r->in_link, (uint32_t)value);
        break;
    case TAG_RESULT:
        r->free_results[r->n_free_results++] = (uint32_t)value;
        break;
    case TAG_KV:
        sl_sequences_read_end(sl_stage_sequences(r->stage), (uint32_t)value);
        break;
    }
}

static sl_status on_event(struct stage_role *r, const struct sl_io_event *event, uint32_t n_links,
                          uint32_t *n_up, struct sl_err *err)
{
    switch (event->kind) {
    case SL_IO_LINK_UP:
        if (++*n_up == n_links) {
            atomic_store(&r->control->ready, true);
            if (r->control->on_ready)
                r->control->on_ready(r->control->user);
        }
        break;
    case SL_IO_LINK_DOWN: {
        if (atomic_load(&r->control->stop))
            break;
        char name[24];
        uint32_t peer = sl_plan_link_peer(event->link, sl_plan_stage_node(r->k));
        return sl_fail(
            err, SL_E_PEER_LOST, "the link to %s is down (%s); this node stops, restart it with the others",
            sl_plan_node_name(r->plan, peer, name), event->reason ? event->reason : "no reason given");
    }
    case SL_IO_SENT:
        on_sent(r, event);
        break;
    case SL_IO_FRAME:
        if (!sl_frame_whole(&event->wire, event->payload)) {
            atomic_fetch_add(&r->control->meter.checksum_failures, 1);
            return sl_fail(err, SL_E_CORRUPT,
                           "a frame from the node before failed its checksum; restart the pipeline");
        }
        if (event->wire.kind != SL_WIRE_ORDER)
            return sl_fail(
                err, SL_E_PROTOCOL,
                "a frame of kind %u does not belong on the order link; run the same version on all nodes",
                event->wire.kind);
        assert(r->queue_head - r->queue_tail < QUEUE);
        r->queue[r->queue_head++ % QUEUE] = *event;
        break;
    case SL_IO_NUDGE:
        break;
    }
    return SL_OK;
}

static sl_status stage_loop(struct stage_role *r, uint32_t n_links, void *scratch, struct sl_err *err)
{
    uint32_t n_up = 0;
    while (!atomic_load(&r->control->stop)) {
        struct sl_io_event event;
        if (sl_io_poll(r->io, &event, -1) == SL_OK)
            SL_TRY(on_event(r, &event, n_links, &n_up, err));
        while (r->queue_head != r->queue_tail) {
            sl_status status = apply_next(r, scratch, err);
            if (status == SL_AGAIN)
                break;
            SL_TRY(status);
            if (sl_io_poll(r->io, &event, 0) == SL_OK) /* credits and sends between chunks */
                SL_TRY(on_event(r, &event, n_links, &n_up, err));
        }
    }
    return SL_OK;
}

sl_status sl_role_stage_run(struct sl_stage *stage, struct sl_io *io, const struct sl_plan *plan, uint32_t k,
                            uint32_t n_links, struct sl_role_state *control, struct sl_err *err)
{
    struct stage_role *r = calloc(1, sizeof *r);
    uint32_t node = sl_plan_stage_node(k);
    bool last = k + 1 == plan->n_stages;
    uint8_t *results = last ? calloc(RESULT_BUFFERS, plan->result_bytes) : NULL;
    control->sending = results;
    void *scratch = last ? malloc(sl_sample_scratch_bytes(plan->vocab)) : NULL;
    sl_status status = SL_OK;
    if (!r || (last && (!results || !scratch))) {
        status = sl_fail(err, SL_E_NOMEM, "out of memory for the buffers of stage %u", k);
        goto out;
    }
    *r = (struct stage_role){.stage = stage,
                             .io = io,
                             .plan = plan,
                             .control = control,
                             .k = k,
                             .first = k == 0,
                             .last = last,
                             .results = results};
    r->in_link = sl_plan_link_id(plan, node - 1, node);
    r->out_link = sl_plan_link_id(plan, node, last ? 0 : node + 1);
    r->kv_link = plan->has_decode ? sl_plan_link_id(plan, node, sl_plan_decode_node(plan)) : 0;
    r->limits = sl_plan_order_limits(plan);
    for (uint32_t i = 0; i < RESULT_BUFFERS; i++)
        r->free_results[r->n_free_results++] = i;
    atomic_store(&control->meter.pages_total, plan->n_pages);
    status = sl_utilisation_init(&r->utilisation, stage, err);
    if (status == SL_OK)
        status = stage_loop(r, n_links, scratch, err);
out:
    free(scratch);
    free(r);
    return status;
}
