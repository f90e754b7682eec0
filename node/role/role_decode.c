/* The decode worker of role_decode.h: what comes and goes is with adoptees.c; here tokens are made. A step takes a TOKENS buffer
 * first and sends it last, if anything was said. */
#include "node/role/role_decode.h"
#include "base/digest.h"
#include "node/role/adoptees.h"
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
    struct text *texts; /* [max_running] */
    uint8_t *out;       /* SL_TOKENS_BUFFERS of tokens_bytes; the tag of a frame is its buffer */
    uint32_t free_out[SL_TOKENS_BUFFERS], n_free_out;
    struct sl_io_event queue[SL_DECODE_QUEUE];
    uint32_t queue_head, queue_tail, n_in_a_row;
    struct sl_last_word last_word;
    struct sl_chunk chunk;
    float *rows; /* [max_running][d_model] */
    void *scratch;
    struct sl_utilisation utilisation;
    struct sl_role_actions *actions; /* of this step */
};

/* ---- what is said ---- */

static uint8_t *out_buffer(const struct sl_decode_role *r, uint32_t i)
{
    return r->out + i * r->plan->tokens_bytes;
}

/* The buffer on top of the free ones is written to; it leaves them when there was something to say. */
static void flush(struct sl_decode_role *r)
{
    uint32_t buffer = r->free_out[r->n_free_out - 1];
    uint8_t *bytes = out_buffer(r, buffer);
    if (r->adoptees.said.at == bytes)
        return;
    r->n_free_out--;
    struct sl_role_action send = {.kind = SL_ROLE_SEND,
                                  .link = r->adopt_link,
                                  .wire = {.kind = SL_WIRE_TOKENS},
                                  .payload = bytes,
                                  .tag = buffer};
    send.wire.payload_bytes = (uint64_t)(r->adoptees.said.at - bytes);
    send.wire.meta_bytes = (uint32_t)send.wire.payload_bytes;
    sl_frame_seal(&send.wire, bytes);
    sl_role_act(r->actions, &send);
}

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
    return a->state == SL_ADOPTEE_ADOPTED && next_pos(r, a) / SL_PAGE < a->sequence->n_pages;
}

static bool any_to_step(const struct sl_decode_role *r)
{
    for (uint32_t i = 0; i < r->plan->max_running; i++)
        if (can_step(r, &r->adoptees.list[i]))
            return true;
    return false;
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

static void on_end(void *owner, struct sl_adoptee *a, uint64_t seq, sl_status status)
{
    struct sl_decode_role *r = owner;
    struct sl_tokens_entry entry = {
        .kind = status == SL_OK ? SL_TOKENS_ENDED : SL_TOKENS_FAILED, .seq = seq, .status = status};
    if (a && a->state >= SL_ADOPTEE_NAMED)
        entry.logits_digest = text_of(r, a)->logits_digest;
    if (a && a->state == SL_ADOPTEE_ADOPTED &&
        a->spec.digest) /* the last token never went through the layers */
        entry.kv_digest = sl_stage_kv_digest(r->stage, a->sequence, next_pos(r, a), 0);
    if (a)
        sl_adoptees_close(&r->adoptees, a);
    sl_adoptees_say(&r->adoptees, &entry);
}

static sl_status take_frame(struct sl_decode_role *r, struct sl_err *err)
{
    const struct sl_io_event *frame = &r->queue[r->queue_tail++ % SL_DECODE_QUEUE];
    if (frame->wire.kind == SL_WIRE_KV)
        sl_adoptees_on_kv(&r->adoptees, frame);
    else
        SL_TRY(sl_adoptees_on_adopt(&r->adoptees, frame, "coordinator", err));
    sl_role_act(r->actions,
                &(struct sl_role_action){.kind = SL_ROLE_RELEASE, .link = frame->link, .slot = frame->slot});
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
    sl_stage_run(r->stage, &r->chunk);
    float *logits = sl_stage_logits(r->stage, r->rows, n);
    for (uint32_t i = 0; i < n; i++)
        sample_row(r, batch[i], logits + (size_t)i * r->plan->vocab);
    atomic_fetch_add(&r->meter->steps, 1);
    atomic_fetch_add(&r->meter->tokens, n);
    uint64_t took_us = r->config.now_us(r->config.clock) - begin;
    atomic_fetch_add(&r->meter->busy_us, took_us);
    sl_adoptees_say(&r->adoptees, &(struct sl_tokens_entry){
                                      .kind = SL_TOKENS_STEP,
                                      .rows = n,
                                      .step_us = took_us < UINT32_MAX ? (uint32_t)took_us : UINT32_MAX});
    sl_role_meter_publish(r->meter, &r->utilisation, r->stage);
}

/* ---- steps ---- */

/* Frames go first, because a sequence that joins makes every step to come worth more; but a batch does not wait for a flood of
 * them. */
static sl_status work(struct sl_decode_role *r, struct sl_err *err)
{
    bool frames = r->queue_head != r->queue_tail;
    if (frames && (r->n_in_a_row < SL_FRAMES_IN_A_ROW || !any_to_step(r))) {
        r->n_in_a_row++;
        SL_TRY(take_frame(r, err));
    } else {
        r->n_in_a_row = 0;
        token_step(r);
    }
    sl_adoptees_tell(&r->adoptees);
    return SL_OK;
}

static sl_status on_frame(struct sl_decode_role *r, const struct sl_io_event *frame, struct sl_err *err)
{
    bool of_coordinator = frame->link == r->adopt_link;
    if (frame->wire.kind != (of_coordinator ? SL_WIRE_ADOPT : SL_WIRE_KV)) {
        char name[24];
        uint32_t from = sl_plan_link_peer(frame->link, r->adoptees.node);
        return sl_fail(
            err, SL_E_PROTOCOL,
            "a frame of kind %u from %s does not belong to the decode worker; run the same version on all nodes",
            frame->wire.kind, sl_plan_node_name(r->plan, from, name));
    }
    assert(r->queue_head - r->queue_tail < SL_DECODE_QUEUE); /* each is in a slot that we lent */
    r->queue[r->queue_head++ % SL_DECODE_QUEUE] = *frame;
    return SL_OK;
}

static sl_status on_sent(struct sl_decode_role *r, const struct sl_io_event *event, struct sl_err *err)
{
    if (event->tag == SL_TOKENS_BUFFERS) /* the last word, which lies elsewhere */
        return sl_role_check_sent(event, err);
    assert(r->n_free_out < SL_TOKENS_BUFFERS);
    r->free_out[r->n_free_out++] = (uint32_t)event->tag;
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
    } else if (r->n_free_out > 0) {
        r->adoptees.said =
            sl_cursor_over(out_buffer(r, r->free_out[r->n_free_out - 1]), r->plan->tokens_bytes);
        status = work(r, err);
        if (sl_stage_spoiled(r->stage)) /* found while it worked: none of it leaves */
            r->adoptees.said.at = out_buffer(r, r->free_out[r->n_free_out - 1]);
        flush(r);
        sl_role_meter_pages(r->meter, sl_stage_sequences(r->stage));
    }
    actions->go_on = r->n_free_out > 0 && (r->queue_head != r->queue_tail ||
                                           sl_adoptees_any_to_tell(&r->adoptees) || any_to_step(r));
    return status;
}

/* ---- life ---- */

static sl_status take_memory(struct sl_decode_role *r)
{
    const struct sl_plan *plan = r->plan;
    size_t row_bytes = (size_t)plan->max_running * plan->d_model * sizeof(float);
    SL_TRY(sl_adoptees_init(&r->adoptees, &r->config));
    r->texts = calloc(plan->max_running, sizeof *r->texts);
    r->out = calloc(SL_TOKENS_BUFFERS, plan->tokens_bytes);
    r->scratch = malloc(sl_sample_scratch_bytes(plan->vocab));
    r->rows = aligned_alloc(64, (row_bytes + 63) / 64 * 64);
    if (!r->texts || !r->out || !r->scratch || !r->rows)
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
    for (uint32_t i = 0; i < SL_TOKENS_BUFFERS; i++)
        r->free_out[r->n_free_out++] = i;
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
    free(r->out);
    free(r->scratch);
    free(r->rows);
    free(r);
}
