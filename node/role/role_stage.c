/* The stage of role_stage.h. Every place that can't go on yet says SL_AGAIN before anything is changed, so the record stays at
 * the head of the queue and is tried again when an event has come. */
#include "node/role/role_stage.h"
#include "base/digest.h"
#include "pipeline/record/messages.h"
#include "pipeline/stage/sample.h"
#include <stdlib.h>

enum tag_kind { TAG_FORWARD = 1, TAG_KV, TAG_RESULT, TAG_SPOILED };

struct sl_stage_role {
    struct sl_role_config config;
    struct sl_stage *stage;
    const struct sl_plan *plan;
    struct sl_role_meter *meter;
    uint32_t k;
    bool first, last;
    uint64_t in_link, out_link;
    struct {                          /* of a place, who has it: */
        uint64_t links[SL_MAX_PARTS]; /* to its parts; 0: nobody has it, and what is for it goes nowhere */
        uint32_t life;
    } decoders[SL_MAX_DECODERS];
    struct share { /* of our layers, that a part of a decode worker has as well */
        uint32_t part, begin, end;
    } shares[SL_MAX_PARTS];
    uint32_t n_shares;
    struct sl_order_limits limits;
    uint64_t applied;            /* number of the last record applied */
    struct sl_foretold foretold; /* CANCELs that are still to come */
    uint32_t n_out;              /* frames on their way: sent, and not yet reported SENT */
    /* of the record at the head of the queue: it was applied; nobody wants what it runs */
    bool is_applied, given_up;
    /* it has a successor or a result on the way, which has left, and of
     * its slice `pushing` so many pages are on the way, too */
    bool passed_on, has_left;
    uint32_t pushing, n_pushed; /* n_pushed: pages, each as often as there are shares */
    struct sl_io_event queue[SL_STAGE_QUEUE];
    uint32_t queue_head, queue_tail;
    uint8_t *results; /* SL_RESULT_BUFFERS of plan->result_bytes */
    uint32_t free_results[SL_RESULT_BUFFERS], n_free_results;
    void *scratch;                 /* for sampling */
    uint64_t *prompt_ids;          /* bitmap of the vocabulary, likewise */
    struct sl_last_word last_word; /* ours, or that of a node before */
    struct sl_chunk chunk;
    struct sl_order order;
    /* [max_sequences], by place in the table: where on the decode worker the last page of a sequence goes, which an
     * earlier record opened and this one may fill */
    uint32_t *open_page;
    struct sl_utilisation utilisation;
    struct sl_role_actions *actions; /* of this step */
};

static uint32_t *open_page_of(struct sl_stage_role *r, const struct sl_sequence *s)
{
    return &r->open_page[s - sl_stage_sequences(r->stage)->sequences];
}

static void *result_buffer(const struct sl_stage_role *r, uint32_t i)
{
    return r->results + i * r->plan->result_bytes;
}

static uint64_t now_us(const struct sl_stage_role *r)
{
    return r->config.now_us(r->config.clock);
}

/* ---- rows that go from device to device ---- */

static bool goes_beside(const struct sl_stage_role *r, uint32_t n_rows)
{
    return sl_plan_rows_beside(r->plan, (uint64_t)n_rows * r->plan->d_model * sizeof(float));
}

/* Those of a frame lie with the device; the host has the record that stands before them. */
static bool has_rows_beside(const struct sl_stage_role *r, const struct sl_wire *wire)
{
    return !r->first && wire->meta_bytes == r->plan->meta_bytes && wire->rank == 2 &&
           wire->shape[1] == r->plan->d_model && goes_beside(r, wire->shape[0]);
}

static struct sl_lane_sums sums_of(struct sl_stage_role *r, const void *payload, uint32_t n_rows)
{
    struct sl_lane_sums sums = {{0}};
    sl_stage_sum_rows(r->stage, (const float *)(const void *)((const uint8_t *)payload + r->plan->meta_bytes),
                      n_rows, r->plan->meta_bytes, &sums);
    return sums;
}

static bool is_whole_frame(struct sl_stage_role *r, const struct sl_wire *wire, const void *payload)
{
    if (!has_rows_beside(r, wire))
        return sl_frame_whole(wire, payload);
    struct sl_lane_sums sums = sums_of(r, payload, wire->shape[0]);
    return sl_frame_whole_by_sums(wire, payload, &sums);
}

/* ---- frames ---- */

/* Sealed. Room was made sure of before the record was begun (room_for_frames). */
static void send_sealed(struct sl_stage_role *r, uint64_t link, const struct sl_wire *wire,
                        const void *payload, uint64_t tag)
{
    sl_role_act(r->actions,
                &(struct sl_role_action){
                    .kind = SL_ROLE_SEND, .link = link, .wire = *wire, .payload = payload, .tag = tag});
    r->n_out++;
}

static void send_frame(struct sl_stage_role *r, uint64_t link, struct sl_wire *wire, const void *payload,
                       uint64_t tag)
{
    sl_frame_seal(wire, payload);
    send_sealed(r, link, wire, payload, tag);
}

/* A record sends its frame on and, at most, the pages that its slices touch; those that they share are pushed as there is room.
 * One place is kept for the last word. */
static bool room_for_frames(const struct sl_stage_role *r)
{
    return r->n_out + 1 + r->order.n_tokens / SL_PAGE + 2 * r->order.n_slices < SL_IO_SENDS;
}

/* ---- KV push ---- */

/* Where page i goes. The record numbers them from page_first on; of the one before, which an earlier slice opened and this one
 * filled, the number was kept. */
static uint32_t page_there(struct sl_stage_role *r, const struct sl_sequence *s,
                           const struct sl_order_slice *slice, const uint8_t *meta, uint32_t i)
{
    return i < slice->page_first
               ? *open_page_of(r, s)
               : sl_order_page(meta, &r->limits, slice->pages_at + i - slice->page_first).decode;
}

/* It leaves for its decode worker from where it lies. */
static void push_page(struct sl_stage_role *r, const struct sl_sequence *s,
                      const struct sl_order_slice *slice, uint32_t i, uint32_t there, uint32_t k)
{
    const struct share *share = &r->shares[k];
    size_t page_bytes = (share->end - share->begin) * r->plan->kv_layer_bytes;
    const struct sl_share *c = sl_stage_share(r->stage);
    uint32_t first = i * SL_PAGE, left = slice->prompt_tokens - first;
    struct sl_wire wire = {.kind = SL_WIRE_KV,
                           .seq = s->id,
                           .chunk_index = slice->index,
                           .page = there,
                           .source = (uint16_t)r->k,
                           .layer_first = (uint16_t)share->begin,
                           .layer_count = (uint16_t)(share->end - share->begin),
                           .token_first = first,
                           .token_count = left < SL_PAGE ? left : SL_PAGE,
                           .dtype = (uint8_t)c->kv_dtype,
                           .rank = 1,
                           .profile = (uint8_t)c->profile,
                           .payload_bytes = page_bytes};
    wire.shape[0] = (uint32_t)(page_bytes / sl_dtype_bytes(c->kv_dtype));
    sl_sequences_read_begin(sl_stage_sequences(r->stage), s->pages[i]);
    const uint8_t *bytes = sl_stage_page_out(r->stage, s->pages[i]);
    send_frame(r, r->decoders[slice->decoder].links[share->part], &wire,
               bytes + (share->begin - c->begin) * r->plan->kv_layer_bytes,
               sl_role_tag(TAG_KV, (uint64_t)k << 32 | s->pages[i]));
    atomic_fetch_add(&r->meter->kv_frames, 1);
    atomic_fetch_add(&r->meter->kv_bytes, page_bytes);
}

/* There is a link to every part of it that has layers of ours. */
static bool is_whole(const struct sl_stage_role *r, uint32_t decoder)
{
    for (uint32_t k = 0; k < r->n_shares; k++)
        if (!r->decoders[decoder].links[r->shares[k].part])
            return false;
    return true;
}

/* Pages that are full, or that end the prompt, and with a first slice those that it shares; from page `pushed` of the slice on,
 * but for those that the decode worker has. false: the window of sends or this step has no room for the next. A decode worker that is no longer the one that the record
 * means gets none. */
static bool push_slice(struct sl_stage_role *r, const struct sl_sequence *s,
                       const struct sl_order_slice *slice, const uint8_t *meta)
{
    uint32_t end = slice->pos + slice->n, first = slice->flags & SL_SLICE_FIRST ? 0 : slice->pos / SL_PAGE,
             ready = slice->flags & SL_SLICE_LAST ? sl_pages_of(end) : end / SL_PAGE;
    bool is_here = is_whole(r, slice->decoder) && r->decoders[slice->decoder].life == slice->decoder_life;
    for (; first + r->n_pushed / r->n_shares < ready && is_here; r->n_pushed++) {
        uint32_t i = first + r->n_pushed / r->n_shares, there = page_there(r, s, slice, meta, i);
        if (there == SL_NO_PAGE)
            continue; /* it lies there */
        if (r->n_out + 1 >= SL_IO_SENDS || r->actions->n + 1 >= SL_STAGE_ACTIONS)
            return false;
        push_page(r, s, slice, i, there, r->n_pushed % r->n_shares);
    }
    if (slice->n_pages > 0)
        *open_page_of(r, s) = sl_order_page(meta, &r->limits, slice->pages_at + slice->n_pages - 1).decode;
    return true;
}

/* Of the record that was applied last. false: not all of them yet. */
static bool push_pages(struct sl_stage_role *r, const uint8_t *meta)
{
    for (; r->pushing < r->order.n_slices; r->pushing++, r->n_pushed = 0) {
        const struct sl_order_slice *slice = &r->order.slices[r->pushing];
        if (slice->flags & SL_SLICE_HANDOFF &&
            !push_slice(r, r->chunk.slices[r->pushing].sequence, slice, meta))
            return false;
    }
    return true;
}

/* ---- results of the last stage ---- */

static void put_prompt_logprobs(struct sl_stage_role *r, struct sl_cursor *out,
                                const struct sl_order_slice *slice, const float *x, const uint8_t *ids)
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
                          (uint32_t)slice->prompt_logprobs, r->scratch);
            sl_token_put(out, &token);
        }
    }
}

/* The first tokens, of one row. What the prompt holds is what the record says: this stage may have seen less of it. */
static void sample_first(struct sl_stage_role *r, struct sl_result_slice *result,
                         const struct sl_order_slice *slice, float *logits)
{
    const struct sl_shape *shape = sl_stage_shape(r->stage);
    struct sl_steering steering;
    struct sl_seen seen = {.steering = &steering};
    const char *bad =
        sl_steering_read(&steering, slice->steering, slice->steering_bytes, shape->vocab); /* again */
    assert(!bad);
    if (steering.n_ids) {
        memset(r->prompt_ids, 0, sl_id_words(shape->vocab) * sizeof *r->prompt_ids);
        sl_steering_mark(&steering, r->prompt_ids);
        seen.prompt = r->prompt_ids;
    }
    uint32_t bans[SL_MAX_DECODE_STOPS];
    for (uint32_t i = 0; i < slice->n_bans; i++)
        bans[i] = sl_get32(slice->bans + 4 * (size_t)i);
    seen.banned = bans;
    seen.n_banned = slice->n_bans;
    struct sl_sampling sampling = slice->sampling;
    sl_sample(&result->first, logits, shape->vocab, &sampling, &seen, 0, r->scratch);
    for (; result->n_more < slice->n_more; result->n_more++) {
        sampling.seed++;
        sl_sample(&result->more[result->n_more], logits, shape->vocab, &sampling, &seen, 0, r->scratch);
    }
}

/* Of a slice that nobody wants: as many tokens as its record has. */
static void put_given_up(struct sl_cursor *out, struct sl_result_slice *result,
                         const struct sl_order_slice *slice)
{
    struct sl_token_out none = {0};
    result->n_more = result->has_token ? slice->n_more : 0;
    sl_result_put_slice(out, result);
    for (uint32_t i = 0; i < result->n_prompt; i++)
        sl_token_put(out, &none);
}

static void put_slice_result(struct sl_stage_role *r, struct sl_cursor *out,
                             const struct sl_order_slice *slice, const float *x, const uint8_t *ids)
{
    uint32_t vocab = sl_stage_shape(r->stage)->vocab;
    bool last = slice->flags & SL_SLICE_LAST;
    struct sl_result_slice result = {.seq = slice->seq,
                                     .index = slice->index,
                                     .pos = slice->pos,
                                     .n = slice->n,
                                     .has_token = last && !(slice->flags & SL_SLICE_RESTORE)};
    if (slice->prompt_logprobs >= 0)
        result.n_prompt = last ? slice->n - 1 : slice->n;
    if (r->given_up) {
        put_given_up(out, &result, slice);
        return;
    }
    if (result.has_token) {
        float *logits =
            sl_stage_logits(r->stage, x + (size_t)(sl_order_rows_wanted(slice) - 1) * r->plan->d_model, 1);
        if (slice->flags & SL_SLICE_DIGEST)
            result.logits_digest = sl_xxh3(logits, vocab * sizeof *logits);
        sample_first(r, &result, slice, logits);
    }
    sl_result_put_slice(out, &result);
    if (result.n_prompt)
        put_prompt_logprobs(r, out, slice, x, ids);
}

static void send_result(struct sl_stage_role *r, const uint8_t *meta)
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
        put_slice_result(r, &out, &r->order.slices[i], x, ids);
        x += (size_t)sl_order_rows_wanted(&r->order.slices[i]) * r->plan->d_model;
        ids += 4 * (size_t)r->order.slices[i].n;
    }
    if (r->order.kind == SL_ORDER_RUN && !r->given_up) { /* the head is part of the last stage's work */
        head.traces[r->k].end_us = now_us(r);
        head.traces[r->k].at_peak_us += sl_role_meter_publish(r->meter, &r->utilisation, r->stage);
        struct sl_cursor again = sl_cursor_over(head_at, r->plan->result_bytes);
        sl_result_put_head(&again, &head, r->plan->n_stages);
    }
    assert(!out.bad);
    if (sl_stage_spoiled(r->stage))
        return; /* found while the head ran: it does not leave, and nothing else will */
    struct sl_wire wire = {.kind = SL_WIRE_RESULT, .source = (uint16_t)r->k};
    wire.payload_bytes = (uint64_t)(out.at - head_at);
    wire.meta_bytes = (uint32_t)wire.payload_bytes;
    send_frame(r, r->out_link, &wire, head_at, sl_role_tag(TAG_RESULT, buffer));
}

/* ---- applying records ---- */

/* Sequences and pages for a chunk. SL_AGAIN: some are still being read by KV sends; wait for those. */
static sl_status prepare_chunk(struct sl_stage_role *r, const uint8_t *meta, const char **bad)
{
    struct sl_sequence *found[SL_MAX_SLICES];
    SL_TRY(sl_sequences_apply(sl_stage_sequences(r->stage), &r->order, meta, &r->limits, found,
                              sl_stage_clear, r->stage, bad));
    r->chunk.n_slices = r->order.n_slices;
    r->chunk.n_tokens = r->order.n_tokens;
    for (uint32_t i = 0; i < r->order.n_slices; i++) {
        const struct sl_order_slice *slice = &r->order.slices[i];
        r->chunk.slices[i] = (struct sl_chunk_slice){found[i], slice->pos, slice->n,
                                                     r->last ? slice->n - sl_order_rows_wanted(slice) : 0};
    }
    return SL_OK;
}

static void forward(struct sl_stage_role *r, const struct sl_io_event *frame)
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
    uint64_t tag = sl_role_tag(TAG_FORWARD, frame->slot);
    if (wire.rank == 0 || !goes_beside(r, r->order.n_tokens)) {
        send_frame(r, r->out_link, &wire, frame->payload, tag);
        return;
    }
    struct sl_lane_sums sums = sums_of(r, frame->payload, r->order.n_tokens);
    sl_frame_seal_by_sums(&wire, frame->payload, &sums);
    send_sealed(r, r->out_link, &wire, frame->payload, tag);
}

static void run_chunk(struct sl_stage_role *r, const struct sl_io_event *frame)
{
    struct sl_trace trace = {.recv_us = frame->at_us, .begin_us = now_us(r)};
    r->chunk.x = (float *)(void *)(frame->payload + r->plan->meta_bytes);
    r->chunk.came = !r->first && goes_beside(r, r->chunk.n_tokens);
    r->chunk.stay = !r->last && goes_beside(r, r->chunk.n_tokens);
    if (r->first)
        sl_stage_embed(r->stage, &r->chunk, sl_order_ids(frame->payload, r->plan->n_stages));
    sl_stage_run(r->stage, &r->chunk);
    trace.end_us = now_us(r);
    trace.at_peak_us = sl_role_meter_publish(r->meter, &r->utilisation, r->stage);
    trace.next_offset_us = r->config.next_offset_us ? r->config.next_offset_us(r->config.clock) : 0;
    sl_order_set_trace(frame->payload, r->k, &trace);
    struct sl_role_meter *m = r->meter;
    atomic_fetch_add(&m->chunks, 1);
    atomic_fetch_add(&m->tokens, r->chunk.n_tokens);
    atomic_fetch_add(&m->busy_us, trace.end_us - trace.begin_us);
    atomic_fetch_add(&m->waited_us, trace.begin_us - trace.recv_us);
}

/* Its CANCEL is here already, behind what is to be run, or is known to come. */
static bool is_cancelled(const struct sl_stage_role *r, uint64_t seq)
{
    if (sl_foretold_has(&r->foretold, seq))
        return true;
    for (uint32_t i = r->queue_tail + 1; i != r->queue_head; i++) {
        const struct sl_io_event *frame = &r->queue[i % SL_STAGE_QUEUE];
        if (frame->wire.meta_bytes == r->plan->meta_bytes && sl_order_cancels(frame->payload) == seq)
            return true;
    }
    return false;
}

/* All that the record runs was cancelled, as far as is known here, or the stage before has found so: its rows are not computed
 * any more. Its pages are taken, and go back, as with any other record, so that all stages have the same tables. */
static bool is_given_up(const struct sl_stage_role *r, const uint8_t *meta)
{
    bool given_up = true;
    if (!r->first && sl_order_trace(meta, r->k - 1).begin_us == SL_GIVEN_UP)
        return true;
    for (uint32_t i = 0; i < r->order.n_slices && given_up; i++)
        given_up = is_cancelled(r, r->order.slices[i].seq);
    return given_up;
}

static void give_up(struct sl_stage_role *r, const struct sl_io_event *frame)
{
    struct sl_trace trace =
        sl_order_trace(frame->payload, r->k); /* of what was run before it was known; else zeros */
    trace.recv_us = frame->at_us;
    trace.begin_us = SL_GIVEN_UP;
    sl_order_set_trace(frame->payload, r->k, &trace);
    r->given_up = true;
}

/* Pages that are still being read stay used until they are sent. */
static void apply_control(struct sl_stage_role *r)
{
    struct sl_sequences *t = sl_stage_sequences(r->stage);
    struct sl_sequence *s = sl_sequences_find(t, r->order.seq);
    if (s)
        sl_sequences_close(t, s);
}

/* ---- what the node before sends ---- */

static const char *node_before(const struct sl_stage_role *r, char name[24])
{
    return sl_plan_node_name(r->plan, sl_plan_stage_node(r->k) - 1, name);
}

static sl_status refuse_record(const struct sl_stage_role *r, const char *bad, struct sl_err *err)
{
    char name[24];
    return sl_fail(err, SL_E_PROTOCOL, "record %llu from %s is not acceptable: %s; restart the pipeline",
                   (unsigned long long)r->order.number, node_before(r, name), bad);
}

/* Of a node before: it goes on to the coordinator as it came, before the records that wait here. */
static sl_status on_spoiled(struct sl_stage_role *r, const struct sl_io_event *frame, struct sl_err *err)
{
    char name[24];
    bool sent;
    const char *bad =
        sl_role_pass_word(&r->last_word, frame, r->out_link, sl_role_tag(TAG_SPOILED, 0), r->actions, &sent);
    if (bad)
        return sl_fail(err, SL_E_CORRUPT, "the last word of %s can't be used: %s; restart the pipeline",
                       node_before(r, name), bad);
    r->n_out += sent;
    sl_role_release(r->actions, r->in_link, frame->slot);
    return SL_OK;
}

static sl_status on_frame(struct sl_stage_role *r, const struct sl_io_event *frame, struct sl_err *err)
{
    char name[24];
    if (frame->link == r->in_link && frame->wire.kind == SL_WIRE_SPOILED && !r->first)
        return on_spoiled(r, frame, err);
    if (frame->link != r->in_link || frame->wire.kind != SL_WIRE_ORDER) {
        uint32_t from = sl_plan_link_peer(frame->link, sl_plan_stage_node(r->k));
        return sl_fail(
            err, SL_E_PROTOCOL,
            "a frame of kind %u from %s does not belong to stage %u; run the same version on all nodes",
            frame->wire.kind, sl_plan_node_name(r->plan, from, name), r->k);
    }
    if (!is_whole_frame(r, &frame->wire, frame->payload)) {
        atomic_fetch_add(&r->meter->checksum_failures, 1);
        return sl_fail(err, SL_E_CORRUPT,
                       "a record from %s failed its checksum after record %llu; restart the pipeline",
                       node_before(r, name), (unsigned long long)r->applied);
    }
    assert(r->queue_head - r->queue_tail < SL_STAGE_QUEUE); /* each is in a slot that we lent */
    r->queue[r->queue_head++ % SL_STAGE_QUEUE] = *frame;
    return SL_OK;
}

static const char *read_record(struct sl_stage_role *r, const struct sl_io_event *frame)
{
    if (frame->wire.meta_bytes != r->plan->meta_bytes)
        return "meta size";
    const char *bad = sl_order_unpack(&r->order, frame->payload, r->plan->meta_bytes, &r->limits);
    if (bad)
        return bad;
    if (r->order.number != r->applied + 1)
        return "record out of order";
    if (!r->first && r->order.kind == SL_ORDER_RUN &&
        (frame->wire.rank != 2 || frame->wire.dtype != SL_F32 || frame->wire.shape[0] != r->order.n_tokens ||
         frame->wire.shape[1] != r->plan->d_model))
        return "rows do not fit the record";
    for (uint32_t i = 0; i < r->order.n_slices; i++)
        if (r->order.slices[i].flags & SL_SLICE_HANDOFF && r->plan->max_decoders == 0)
            return "hand-off without a decode worker";
    return NULL;
}

/* ---- work ---- */

static void pass_on(struct sl_stage_role *r, const struct sl_io_event *frame)
{
    if (r->last)
        send_result(r, frame->payload);
    else
        forward(r, frame);
    r->passed_on = true;
    r->has_left = r->last;
    r->pushing = r->n_pushed = 0;
}

/* A record is applied once, as a whole. SL_AGAIN: not yet. */
static sl_status apply_record(struct sl_stage_role *r, const struct sl_io_event *frame, struct sl_err *err)
{
    const char *bad = read_record(r, frame);
    if (bad)
        return refuse_record(r, bad, err);
    if (!room_for_frames(r) || (r->last && r->n_free_results == 0))
        return SL_AGAIN;
    if (r->order.kind == SL_ORDER_RUN) {
        sl_status status = prepare_chunk(r, frame->payload, &bad);
        if (status == SL_E_PROTOCOL)
            return refuse_record(r, bad, err);
        SL_TRY(status);
        if (is_given_up(r, frame->payload)) {
            give_up(r, frame);
            atomic_fetch_add(&r->meter->given_up, 1);
        } else {
            run_chunk(r, frame);
        }
        if (sl_stage_spoiled(r->stage)) /* found while it ran: none of it leaves */
            return SL_AGAIN;
    } else {
        apply_control(r);
    }
    r->applied = r->order.number;
    sl_foretold_applied(&r->foretold, r->applied);
    r->is_applied = true;
    atomic_fetch_add(&r->meter->records, 1);
    return SL_OK;
}

/* The record at the head of the queue, which stays there until its pages are pushed: a long prefix takes several steps. SL_AGAIN:
 * not yet; SL_OK: it went on a piece; else the link is not to be trusted. */
static sl_status apply_next(struct sl_stage_role *r, struct sl_err *err)
{
    struct sl_io_event *frame = &r->queue[r->queue_tail % SL_STAGE_QUEUE];
    if (!r->passed_on && !r->is_applied) {
        r->given_up = false;
        SL_TRY(apply_record(r, frame, err));
        if (r->order.kind == SL_ORDER_RUN)
            return SL_OK; /* what came while it ran is looked at before it goes on */
    }
    if (!r->passed_on) {
        if (r->order.kind == SL_ORDER_RUN && !r->given_up && is_given_up(r, frame->payload))
            give_up(r, frame);
        pass_on(r, frame);
    }
    if (!push_pages(r, frame->payload))
        return r->n_out + 1 >= SL_IO_SENDS ? SL_AGAIN : SL_OK;
    r->passed_on = r->is_applied = false;
    r->queue_tail++;
    if (r->has_left)
        sl_role_release(r->actions, r->in_link, frame->slot);
    sl_role_meter_pages(r->meter, sl_stage_sequences(r->stage));
    return SL_OK;
}

/* The page numbers of the record that is being pushed lie in its slot. */
static void on_forwarded(struct sl_stage_role *r, uint32_t slot)
{
    if (r->passed_on && r->queue[r->queue_tail % SL_STAGE_QUEUE].slot == slot)
        r->has_left = true;
    else
        sl_role_release(r->actions, r->in_link, slot);
}

static sl_status on_sent(struct sl_stage_role *r, const struct sl_io_event *event, struct sl_err *err)
{
    uint64_t value = event->tag & ((1ull << 56) - 1);
    assert(r->n_out > 0);
    r->n_out--;
    switch ((enum tag_kind)(event->tag >> 56)) {
    case TAG_FORWARD:
        on_forwarded(r, (uint32_t)value);
        break;
    case TAG_RESULT:
        r->free_results[r->n_free_results++] = (uint32_t)value;
        break;
    case TAG_SPOILED:
        break;
    case TAG_KV:
        sl_sequences_read_end(sl_stage_sequences(r->stage), (uint32_t)value);
        break;
    }
    return sl_role_check_sent(event, err);
}

static void say_last_word(struct sl_stage_role *r)
{
    char name[24];
    if (sl_role_last_word(&r->last_word, r->stage, sl_plan_node_name(r->plan, sl_plan_stage_node(r->k), name),
                          r->out_link, sl_role_tag(TAG_SPOILED, 0), r->actions))
        r->n_out++;
}

sl_status sl_stage_role_step(struct sl_stage_role *r, const struct sl_io_event *event,
                             struct sl_role_actions *actions, struct sl_err *err)
{
    sl_status status = SL_OK;
    actions->n = 0;
    actions->go_on = false;
    r->actions = actions;
    if (event && event->kind == SL_IO_FRAME)
        status = on_frame(r, event, err);
    else if (event && event->kind == SL_IO_SENT)
        status = on_sent(r, event, err);
    else if (sl_stage_spoiled(r->stage)) {
        say_last_word(r);
        return SL_OK; /* and nothing else any more */
    } else if (r->queue_head != r->queue_tail)
        status = apply_next(r, err);
    if (status == SL_AGAIN)
        return SL_OK; /* an event will change it */
    actions->go_on = r->queue_head != r->queue_tail;
    return status;
}

/* ---- life ---- */

void sl_stage_role_set_decoder(struct sl_stage_role *r, uint32_t decoder, uint32_t part, uint32_t life,
                               uint64_t link)
{
    r->decoders[decoder].links[part] = link;
    r->decoders[decoder].life = life;
}

void sl_stage_role_foretell(struct sl_stage_role *r, struct sl_foretold_cancel cancel)
{
    sl_foretold_add(&r->foretold, cancel, r->applied);
    atomic_fetch_add(&r->meter->foretold, 1);
}

static void find_shares(struct sl_stage_role *r)
{
    for (uint32_t part = 0; part < r->plan->n_parts; part++) {
        struct share *share = &r->shares[r->n_shares];
        share->part = part;
        r->n_shares += sl_plan_overlap(r->plan, r->k, part, &share->begin, &share->end);
    }
}

static sl_status take_memory(struct sl_stage_role *r)
{
    r->open_page = calloc(sl_stage_sequences(r->stage)->max_sequences, sizeof *r->open_page);
    if (!r->open_page)
        return SL_E_NOMEM;
    if (!r->last)
        return SL_OK;
    r->results = calloc(SL_RESULT_BUFFERS, r->plan->result_bytes);
    r->scratch = malloc(sl_sample_scratch_bytes(r->plan->vocab));
    r->prompt_ids = calloc(sl_id_words(r->plan->vocab), sizeof *r->prompt_ids);
    for (uint32_t i = 0; i < SL_RESULT_BUFFERS; i++)
        r->free_results[r->n_free_results++] = i;
    return r->results && r->scratch && r->prompt_ids ? SL_OK : SL_E_NOMEM;
}

sl_status sl_stage_role_create(struct sl_stage_role **out, const struct sl_role_config *config,
                               struct sl_err *err)
{
    const struct sl_plan *plan = config->plan;
    uint32_t node = sl_plan_stage_node(config->k);
    bool last = config->k + 1 == plan->n_stages;
    struct sl_stage_role *r = calloc(1, sizeof *r);
    if (r) {
        *r = (struct sl_stage_role){.config = *config,
                                    .stage = config->stage,
                                    .plan = plan,
                                    .meter = config->meter,
                                    .k = config->k,
                                    .first = config->k == 0,
                                    .last = last,
                                    .in_link = sl_plan_link_id(plan, node - 1, node),
                                    .out_link = sl_plan_link_id(plan, node, last ? 0 : node + 1),
                                    .limits = sl_plan_order_limits(plan)};
    }
    if (!r || take_memory(r) != SL_OK) {
        sl_stage_role_destroy(r);
        return sl_fail(err, SL_E_NOMEM, "out of memory for the buffers of stage %u", config->k);
    }
    find_shares(r);
    for (uint32_t i = 0; i < plan->n_decoders * r->n_shares; i++) {
        uint32_t d = i / r->n_shares, part = r->shares[i % r->n_shares].part;
        sl_stage_role_set_decoder(r, d, part, plan->decoder_life[d],
                                  sl_plan_link_id(plan, node, sl_plan_part_node(plan, d, part)));
    }
    atomic_store(&r->meter->pages_total, plan->n_pages);
    sl_status status = sl_utilisation_init(&r->utilisation, r->stage, err);
    if (status != SL_OK) {
        sl_stage_role_destroy(r);
        return status;
    }
    *out = r;
    return SL_OK;
}

void sl_stage_role_destroy(struct sl_stage_role *r)
{
    if (!r)
        return;
    free(r->open_page);
    free(r->results);
    free(r->scratch);
    free(r->prompt_ids);
    free(r);
}
