/* The decode worker of role_decode.h: what comes and goes is with adoptees.c; here tokens are made. A step takes a TOKENS buffer
 * first and sends it last, if anything was said. */
#include "node/role/role_decode.h"
#include "base/digest.h"
#include "node/role/adoptees.h"
#include "node/role/decode_ring.h"
#include "pipeline/stage/sample.h"
#include <stdlib.h>
#include <string.h>

struct text { /* what the worker keeps of a sequence to make its tokens, by its place among the adoptees */
    uint32_t n_out, last_id;
    /* the steering of its ADOPT, copied to its memory; the ids of its prompt; what it has said so far. From the first token on,
     * which the ADOPT names, counts grow by its own tokens alone */
    uint8_t *steering_room; /* [plan->steering_bytes] */
    struct sl_steering steering;
    uint64_t *prompt_ids; /* bitmap of the vocabulary */
    struct sl_counts counts;
    uint64_t logits_digest;
};

struct sl_decode_role {
    struct sl_role_config config;
    struct sl_stage *stage;
    const struct sl_plan *plan;
    struct sl_role_meter *meter;
    uint64_t adopt_link;
    struct sl_adoptees adoptees;
    struct text *texts;            /* [max_running] */
    struct sl_decode_ring ring;    /* of its other parts, if there are any */
    uint32_t next_first;           /* who is asked first for the next micro-batch */
    struct sl_step_row *step_rows; /* [step_rows], of one that came back */
    struct sl_io_event queue[SL_DECODE_QUEUE];
    uint32_t queue_head, queue_tail, n_in_a_row;
    struct sl_last_word last_word;
    struct sl_chunk chunk;
    float *rows; /* [max_running][d_model] */
    void *scratch;
    struct sl_utilisation utilisation;
    struct sl_role_actions *actions; /* of this step */
};

/* ---- what is kept of a text ---- */

static struct text *text_of(const struct sl_decode_role *r, const struct sl_adoptee *a)
{
    return &r->texts[a - r->adoptees.list];
}

/* Where the token that was told last goes. */
static uint32_t next_pos(const struct sl_decode_role *r, const struct sl_adoptee *a)
{
    return a->spec.prompt_tokens + text_of(r, a)->n_out - a->spec.n_out;
}

/* It has the page that it needs now: else it sits out until it is granted one, or told to go. */
static bool can_step(const struct sl_decode_role *r, const struct sl_adoptee *a)
{
    return a->state == SL_ADOPTEE_ADOPTED && !a->is_under_way &&
           next_pos(r, a) / SL_PAGE < a->sequence->n_pages;
}

static bool has_other_parts(const struct sl_decode_role *r)
{
    return r->plan->n_parts > 1;
}

static uint32_t n_to_step(const struct sl_decode_role *r)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < r->plan->max_running; i++)
        n += can_step(r, &r->adoptees.list[i]);
    return n;
}

static bool any_to_step(const struct sl_decode_role *r)
{
    if (has_other_parts(r) && !sl_decode_ring_may_begin(&r->ring))
        return false;
    return n_to_step(r) > 0;
}

/* What was told: of an answer that comes again it was counted by who sent it, else it is the first token. */
static void keep_told(const struct sl_decode_role *r, struct text *t, const struct sl_adopt *adopt)
{
    uint32_t n_ids;
    t->n_out = adopt->n_out;
    t->last_id = adopt->first_id;
    t->logits_digest = adopt->logits_digest;
    t->counts.n = 0;
    if (!sl_sampling_counts(&adopt->sampling))
        return;
    if (t->n_out == 1) {
        sl_counts_add(&t->counts, t->last_id);
        return;
    }
    const char *bad = sl_counts_read(&t->counts, adopt->counts, adopt->counts_bytes, r->plan->vocab, &n_ids);
    assert(!bad); /* it was read with the ADOPT, and there is room for a whole context */
}

static void keep_steering(const struct sl_decode_role *r, struct text *t, const struct sl_adopt *adopt)
{
    if (adopt->steering_bytes)
        memcpy(t->steering_room, adopt->steering, adopt->steering_bytes);
    const char *bad = sl_steering_read(&t->steering, t->steering_room, adopt->steering_bytes, r->plan->vocab);
    assert(!bad); /* it was read with the ADOPT */
    if (!t->steering.n_ids)
        return;
    memset(t->prompt_ids, 0, sl_id_words(r->plan->vocab) * sizeof *t->prompt_ids);
    sl_steering_mark(&t->steering, t->prompt_ids);
}

static void on_named(void *owner, struct sl_adoptee *a, const struct sl_adopt *adopt)
{
    const struct sl_decode_role *r = owner;
    keep_steering(r, text_of(r, a), adopt);
    keep_told(r, text_of(r, a), adopt);
}

static void tell_end(struct sl_decode_role *r, const struct sl_parts_end *end)
{
    sl_adoptees_say(&r->adoptees, &(struct sl_tokens_entry){.kind = end->status == SL_OK ? SL_TOKENS_ENDED
                                                                                         : SL_TOKENS_FAILED,
                                                            .seq = end->seq,
                                                            .status = end->status,
                                                            .kv_digest = end->kv_digest,
                                                            .logits_digest = end->logits_digest});
}

/* It is told when no part has anything of it any more. */
static void on_end(void *owner, struct sl_adoptee *a, uint64_t seq, sl_status status)
{
    struct sl_decode_role *r = owner;
    struct sl_parts_end end = {.seq = seq, .status = status};
    if (a && a->state >= SL_ADOPTEE_NAMED)
        end.logits_digest = text_of(r, a)->logits_digest;
    if (a && a->state == SL_ADOPTEE_ADOPTED && a->spec.digest && status == SL_OK)
        end.n_tokens = next_pos(r, a); /* the last token never went through the layers */
    if (has_other_parts(r)) {
        if (a)
            sl_adoptees_keep_ending(a);
        sl_decode_ring_end(&r->ring, &end, !a);
        return;
    }
    if (end.n_tokens)
        end.kv_digest = sl_stage_kv_digest(r->stage, a->sequence, end.n_tokens, 0);
    if (a)
        sl_adoptees_close(&r->adoptees, a);
    tell_end(r, &end);
}

static bool is_cancel(const struct sl_io_event *frame)
{
    return sl_get32(frame->payload) == SL_ADOPT_CANCEL;
}

static sl_status take_frame(struct sl_decode_role *r, struct sl_err *err)
{
    const struct sl_io_event *frame = &r->queue[r->queue_tail++ % SL_DECODE_QUEUE];
    if (frame->wire.kind == SL_WIRE_KV) {
        sl_adoptees_on_kv(&r->adoptees, frame);
    } else {
        SL_TRY(sl_adoptees_on_adopt(&r->adoptees, frame, "coordinator", err));
        if (has_other_parts(r) && !is_cancel(frame)) { /* what that ends goes round as such */
            sl_decode_ring_pass(&r->ring, frame, r->actions);
            return SL_OK;
        }
    }
    sl_role_release(r->actions, frame->link, frame->slot);
    return SL_OK;
}

/* ---- tokens ---- */

static void sample_row(struct sl_decode_role *r, struct sl_adoptee *a, float *logits)
{
    struct text *t = text_of(r, a);
    struct sl_tokens_entry entry = {.kind = SL_TOKENS_TOKEN, .seq = a->sequence->id};
    if (a->spec.digest) {
        uint64_t chain[2] = {t->logits_digest, sl_xxh3(logits, r->plan->vocab * sizeof *logits)};
        t->logits_digest = sl_xxh3(chain, sizeof chain);
    }
    struct sl_seen seen = {.steering = &t->steering,
                           .prompt = t->steering.n_ids ? t->prompt_ids : NULL,
                           .n_ids = t->counts.n,
                           .ids = t->counts.ids,
                           .counts = t->counts.counts,
                           .n_banned = t->n_out < a->spec.min_tokens ? a->spec.n_stops : 0,
                           .banned = a->spec.stops};
    entry.logits_digest = t->logits_digest;
    sl_sample(&entry.token, logits, r->plan->vocab, &a->spec.sampling, &seen, t->n_out, r->scratch);
    t->n_out++;
    t->last_id = entry.token.id;
    if (sl_sampling_counts(&a->spec.sampling))
        sl_counts_add(&t->counts, entry.token.id);
    entry.finish = sl_adopt_finish(&a->spec, entry.token.id, t->n_out);
    sl_adoptees_say(&r->adoptees, &entry);
    if (entry.finish)
        sl_adoptees_end(&r->adoptees, a, entry.seq, SL_OK);
}

/* The rows of the chunk have been through the layers before these: one more token of each. n_sharing: sequences whose next token comes
 * as often as these are stepped; begun_us: when these were, on their way through all layers; here_us: and here. */
static void finish_step(struct sl_decode_role *r, struct sl_adoptee *const *batch, uint32_t n_sharing,
                        uint64_t begun_us, uint64_t here_us)
{
    uint32_t n = r->chunk.n_tokens;
    sl_stage_run(r->stage, &r->chunk);
    float *logits = sl_stage_logits(r->stage, r->chunk.x, n);
    for (uint32_t i = 0; i < n; i++)
        sample_row(r, batch[i], logits + (size_t)i * r->plan->vocab);
    atomic_fetch_add(&r->meter->steps, 1);
    atomic_fetch_add(&r->meter->tokens, n);
    uint64_t now_us = r->config.now_us(r->config.clock), took_us = now_us - begun_us;
    atomic_fetch_add(&r->meter->busy_us, now_us - here_us);
    sl_adoptees_say(&r->adoptees, &(struct sl_tokens_entry){
                                      .kind = SL_TOKENS_STEP,
                                      .rows = n_sharing,
                                      .step_us = took_us < UINT32_MAX ? (uint32_t)took_us : UINT32_MAX});
    sl_role_meter_publish(r->meter, &r->utilisation, r->stage);
}

/* One token of every adopted sequence that has a page for it. */
static void token_step(struct sl_decode_role *r)
{
    struct sl_adoptee *batch[SL_MAX_BATCH];
    uint32_t ids[SL_MAX_BATCH], n = 0;
    for (uint32_t i = 0; i < r->plan->max_running; i++) {
        struct sl_adoptee *a = &r->adoptees.list[i];
        if (!can_step(r, a))
            continue;
        r->chunk.slices[n] = (struct sl_chunk_slice){a->sequence, next_pos(r, a), 1, 0};
        ids[n] = text_of(r, a)->last_id;
        batch[n++] = a;
    }
    if (n == 0)
        return;
    uint64_t begin = r->config.now_us(r->config.clock);
    r->chunk.n_slices = r->chunk.n_tokens = n;
    r->chunk.x = r->rows;
    sl_stage_embed(r->stage, &r->chunk, (const uint8_t *)ids);
    finish_step(r, batch, n, begin, begin);
}

/* ---- with other parts ---- */

static void count_under_way(struct sl_decode_role *r)
{
    uint64_t n = r->ring.begun - r->ring.back;
    atomic_store(&r->meter->steps_under_way, n);
    if (n > atomic_load(&r->meter->most_steps_under_way))
        atomic_store(&r->meter->most_steps_under_way, n);
}

/* Micro-batches of those that wait for none: as many as there are parts, so that each has one to work at, and of one size. Nobody
 * waits for others to join him. */
static void begin_steps(struct sl_decode_role *r)
{
    uint32_t n_free = n_to_step(r), n_sharing = n_free, max = r->plan->max_running;
    for (uint32_t i = 0; i < max; i++)
        n_sharing += r->adoptees.list[i].state == SL_ADOPTEE_ADOPTED && r->adoptees.list[i].is_under_way;
    uint32_t size = (n_sharing + r->plan->n_parts - 1) / r->plan->n_parts;
    while (n_free > 0 && sl_decode_ring_may_begin(&r->ring)) {
        struct sl_step_row rows[SL_MAX_BATCH];
        uint32_t n = 0, i = r->next_first;
        for (uint32_t seen = 0; seen < max && n < size; seen++, i = (i + 1) % max) {
            struct sl_adoptee *a = &r->adoptees.list[i];
            if (!can_step(r, a))
                continue;
            rows[n++] = (struct sl_step_row){a->sequence->id, next_pos(r, a), text_of(r, a)->last_id};
            a->is_under_way = true;
        }
        r->next_first = i;
        n_free -= n;
        sl_decode_ring_begin(&r->ring, rows, n, n_sharing, r->config.now_us(r->config.clock), r->actions);
    }
    count_under_way(r);
}

/* A micro-batch has been through all parts before this one. */
static const char *take_step(struct sl_decode_role *r, const struct sl_io_event *frame)
{
    struct sl_step step = {.rows = r->step_rows};
    struct sl_adoptee *batch[SL_MAX_BATCH];
    const char *bad;
    const struct sl_begun_step *begun = sl_decode_ring_returned(&r->ring, frame, &step, &bad);
    if (!begun)
        return bad;
    for (uint32_t i = 0; i < begun->n; i++) {
        struct sl_adoptee *a = sl_adoptees_find(&r->adoptees, begun->rows[i].seq);
        if (a)
            a->is_under_way = false;
    }
    r->chunk.x = (float *)(void *)(frame->payload + frame->wire.meta_bytes);
    bad = sl_adoptees_chunk(&r->adoptees, &step, r->chunk.x, &r->chunk);
    if (bad || step.n == 0)
        return bad;
    for (uint32_t i = 0; i < step.n; i++)
        batch[i] = sl_adoptees_find(&r->adoptees, step.rows[i].seq);
    finish_step(r, batch, begun->n_sharing, begun->begun_us, r->config.now_us(r->config.clock));
    return NULL;
}

/* They have been through all parts before this one. */
static const char *take_ends(struct sl_decode_role *r, const struct sl_io_event *frame)
{
    struct sl_cursor in = sl_cursor_over(frame->payload, frame->wire.payload_bytes);
    struct sl_parts_end end;
    while (sl_parts_end_get(&in, &end, r->plan->context_tokens)) {
        struct sl_adoptee *a = sl_adoptees_find_ending(&r->adoptees, end.seq);
        if (!sl_adoptees_has_ended(&r->adoptees, end.seq))
            return "something ends that goes on";
        if (end.n_tokens && a)
            end.kv_digest = sl_stage_kv_digest(r->stage, a->sequence, end.n_tokens, end.kv_digest);
        else
            end.kv_digest = 0;
        if (a)
            sl_adoptees_close(&r->adoptees, a);
        tell_end(r, &end);
    }
    return in.bad ? "an end that can't be" : NULL;
}

/* NULL, or what can't be. Of what ended here meanwhile nothing more is heard. */
static const char *hear_part(struct sl_decode_role *r, const struct sl_tokens_entry *entry, uint64_t at_us)
{
    struct sl_adoptee *a = sl_adoptees_find(&r->adoptees, entry->seq);
    if (!a && sl_adoptees_has_ended(&r->adoptees, entry->seq))
        return NULL;
    if (!a || a->state < SL_ADOPTEE_NAMED)
        return "it is of a sequence that is not here";
    if (entry->kind == SL_TOKENS_FAILED) {
        sl_adoptees_end(&r->adoptees, a, entry->seq, (sl_status)entry->status);
        return NULL;
    }
    if (a->state == SL_ADOPTEE_ADOPTED || a->n_whole == r->adoptees.n_others)
        return "it has been adopted";
    if (entry->kind == SL_TOKENS_ARRIVED)
        sl_adoptees_note_arrival(&r->adoptees, a, entry->stage, entry->chunk, at_us);
    else if (entry->kind == SL_TOKENS_ADOPTED)
        a->n_whole++;
    else
        return "a part does not say that";
    return NULL;
}

static const char *take_tokens(struct sl_decode_role *r, const struct sl_io_event *frame)
{
    struct sl_cursor in = sl_cursor_over(frame->payload, frame->wire.payload_bytes);
    struct sl_tokens_entry entry;
    const char *bad = NULL;
    while (!bad && sl_tokens_get(&in, &entry))
        bad = hear_part(r, &entry, frame->at_us);
    return !bad && in.bad ? "it is not what a part says" : bad;
}

static sl_status take_ring_frame(struct sl_decode_role *r, struct sl_err *err)
{
    const struct sl_io_event *frame = &r->ring.queue[r->ring.queue_tail++ % SL_RING_SLOTS];
    const char *bad;
    if (!sl_frame_whole(&frame->wire, frame->payload)) {
        atomic_fetch_add(&r->meter->checksum_failures, 1);
        return sl_fail(
            err, SL_E_CORRUPT,
            "a frame of kind %u from the part before failed its checksum; restart the decode worker",
            frame->wire.kind);
    }
    bad = frame->wire.kind == SL_WIRE_STEP   ? take_step(r, frame)
          : frame->wire.kind == SL_WIRE_ENDS ? take_ends(r, frame)
                                             : take_tokens(r, frame);
    if (bad)
        return sl_fail(
            err, SL_E_PROTOCOL,
            "a frame of kind %u from the part before is not acceptable: %s; restart the decode worker",
            frame->wire.kind, bad);
    sl_role_release(r->actions, frame->link, frame->slot);
    return SL_OK;
}

/* ---- steps ---- */

static bool any_ring_frame(const struct sl_decode_role *r)
{
    return r->ring.queue_head != r->ring.queue_tail;
}

static bool any_frame(const struct sl_decode_role *r)
{
    return r->queue_head != r->queue_tail && sl_decode_ring_takes_more(&r->ring);
}

/* Frames go first, because a sequence that joins makes every step to come worth more; but a batch does not wait for a flood of
 * them. */
static sl_status work(struct sl_decode_role *r, struct sl_err *err)
{
    bool steps = any_ring_frame(r) || any_to_step(r);
    if (any_frame(r) && (r->n_in_a_row < SL_FRAMES_IN_A_ROW || !steps)) {
        r->n_in_a_row++;
        SL_TRY(take_frame(r, err));
    } else {
        r->n_in_a_row = 0;
        if (any_ring_frame(r))
            SL_TRY(take_ring_frame(r, err));
        else if (!has_other_parts(r))
            token_step(r);
    }
    sl_adoptees_tell(&r->adoptees);
    if (has_other_parts(r) && !sl_stage_spoiled(r->stage)) {
        begin_steps(r);
        sl_decode_ring_send_ends(&r->ring, r->actions);
    }
    return SL_OK;
}

/* Of a part: it goes on to the coordinator at once. */
static sl_status on_spoiled(struct sl_decode_role *r, const struct sl_io_event *frame, struct sl_err *err)
{
    bool sent;
    const char *bad =
        sl_role_pass_word(&r->last_word, frame, r->adopt_link, SL_TOKENS_BUFFERS, r->actions, &sent);
    if (bad)
        return sl_fail(err, SL_E_CORRUPT,
                       "the last word of a part can't be used: %s; restart the decode worker", bad);
    sl_role_release(r->actions, frame->link, frame->slot);
    return SL_OK;
}

static bool is_of_ring(const struct sl_decode_role *r, const struct sl_io_event *frame)
{
    return has_other_parts(r) && frame->link == r->ring.in_link;
}

static bool belongs_here(const struct sl_decode_role *r, const struct sl_io_event *frame)
{
    enum sl_wire_kind kind = frame->wire.kind;
    if (frame->link == r->adopt_link)
        return kind == SL_WIRE_ADOPT;
    if (is_of_ring(r, frame))
        return kind == SL_WIRE_STEP || kind == SL_WIRE_ENDS || kind == SL_WIRE_TOKENS ||
               kind == SL_WIRE_SPOILED;
    return kind == SL_WIRE_KV;
}

static sl_status on_frame(struct sl_decode_role *r, const struct sl_io_event *frame, struct sl_err *err)
{
    if (!belongs_here(r, frame)) {
        char name[24];
        uint32_t from = sl_plan_link_peer(frame->link, r->adoptees.node);
        return sl_fail(
            err, SL_E_PROTOCOL,
            "a frame of kind %u from %s does not belong to the decode worker; run the same version on all nodes",
            frame->wire.kind, sl_plan_node_name(r->plan, from, name));
    }
    if (frame->wire.kind == SL_WIRE_SPOILED)
        return on_spoiled(r, frame, err);
    /* each is in a slot that we lent */
    if (is_of_ring(r, frame)) {
        assert(r->ring.queue_head - r->ring.queue_tail < SL_RING_SLOTS);
        r->ring.queue[r->ring.queue_head++ % SL_RING_SLOTS] = *frame;
    } else {
        assert(r->queue_head - r->queue_tail < SL_DECODE_QUEUE);
        r->queue[r->queue_head++ % SL_DECODE_QUEUE] = *frame;
    }
    return SL_OK;
}

static sl_status on_sent(struct sl_decode_role *r, const struct sl_io_event *event, struct sl_err *err)
{
    uint32_t slot;
    if (sl_decode_ring_sent(&r->ring, event->tag, &slot)) {
        if (slot != SL_NO_SLOT)
            sl_role_release(r->actions, r->adopt_link, slot);
    } else if (event->tag != SL_TOKENS_BUFFERS) { /* that is the last word, which lies elsewhere */
        sl_adoptees_sent(&r->adoptees, event->tag);
    }
    return sl_role_check_sent(event, err);
}

sl_status sl_decode_role_step(struct sl_decode_role *r, const struct sl_io_event *event,
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
        sl_role_last_word(&r->last_word, r->stage, "the decode worker", r->adopt_link, SL_TOKENS_BUFFERS,
                          actions);
        actions->go_on = false;
        return SL_OK; /* and nothing else any more */
    } else if (sl_adoptees_begin(&r->adoptees)) {
        status = work(r, err);
        if (sl_stage_spoiled(r->stage)) /* found while it worked: none of it leaves */
            sl_adoptees_unsay(&r->adoptees);
        sl_adoptees_flush(&r->adoptees, r->adopt_link, actions);
        sl_role_meter_pages(r->meter, sl_stage_sequences(r->stage));
    }
    actions->go_on = r->adoptees.n_free_out > 0 &&
                     (any_frame(r) || any_ring_frame(r) || sl_adoptees_any_to_tell(&r->adoptees) ||
                      any_to_step(r) || sl_decode_ring_any_to_send(&r->ring));
    return status;
}

/* ---- life ---- */

static sl_status take_memory(struct sl_decode_role *r)
{
    const struct sl_plan *plan = r->plan;
    size_t row_bytes = (size_t)plan->max_running * plan->d_model * sizeof(float);
    SL_TRY(sl_adoptees_init(&r->adoptees, &r->config));
    r->texts = calloc(plan->max_running, sizeof *r->texts);
    SL_TRY(sl_decode_ring_init(&r->ring, plan, 1 + r->config.k));
    r->step_rows = calloc(plan->step_rows, sizeof *r->step_rows);
    r->scratch = malloc(sl_sample_scratch_bytes(plan->vocab));
    r->rows = aligned_alloc(64, (row_bytes + 63) / 64 * 64);
    if (!r->texts || !r->step_rows || !r->scratch || !r->rows)
        return SL_E_NOMEM;
    for (uint32_t i = 0; i < plan->max_running; i++) {
        struct text *t = &r->texts[i];
        t->steering_room = calloc(1, plan->steering_bytes);
        t->prompt_ids = calloc(sl_id_words(plan->vocab), sizeof *t->prompt_ids);
        t->counts.room = sl_plan_max_distinct(plan);
        t->counts.ids = calloc(t->counts.room, sizeof *t->counts.ids);
        t->counts.counts = calloc(t->counts.room, sizeof *t->counts.counts);
        if (!t->steering_room || !t->prompt_ids || !t->counts.ids || !t->counts.counts)
            return SL_E_NOMEM;
    }
    return SL_OK;
}

sl_status sl_decode_role_create(struct sl_decode_role **out, const struct sl_role_config *config,
                                struct sl_err *err)
{
    const struct sl_plan *plan = config->plan;
    struct sl_decode_role *r = calloc(1, sizeof *r);
    if (r) {
        r->config = *config;
        r->stage = config->stage;
        r->plan = plan;
        r->meter = config->meter;
        r->adopt_link = sl_plan_link_id(plan, 0, 1 + config->k);
        r->adoptees.on_named = on_named;
        r->adoptees.on_end = on_end;
        r->adoptees.owner = r;
    }
    if (!r || take_memory(r) != SL_OK) {
        sl_decode_role_destroy(r);
        return sl_fail(err, SL_E_NOMEM, "out of memory for the buffers of the decode worker");
    }
    atomic_store(&r->meter->pages_total, plan->n_pages);
    sl_status status = sl_utilisation_init(&r->utilisation, r->stage, err);
    if (status != SL_OK) {
        sl_decode_role_destroy(r);
        return status;
    }
    *out = r;
    return SL_OK;
}

static void text_free(struct text *t)
{
    free(t->steering_room);
    free(t->prompt_ids);
    free(t->counts.ids);
    free(t->counts.counts);
}

void sl_decode_role_destroy(struct sl_decode_role *r)
{
    if (!r)
        return;
    for (uint32_t i = 0; r->texts && i < r->plan->max_running; i++)
        text_free(&r->texts[i]);
    free(r->texts);
    sl_adoptees_free(&r->adoptees);
    sl_decode_ring_free(&r->ring);
    free(r->step_rows);
    free(r->scratch);
    free(r->rows);
    free(r);
}
