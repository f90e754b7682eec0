/* The decode worker's loop: KV pages arrive from every stage while prefill still runs; when the coordinator has named the
 * sequence and its last page is here, it is adopted and joins the batch between two steps.
 *
 *   FRAME (KV)     -> copied into the sequence's page; counted as layers x tokens
 *   FRAME (ADOPT)  -> what to generate; or cancel
 *   step           -> one token of every adopted sequence: embed, all layers, logits, sample
 *   TOKENS         <- what happened, one frame an iteration
 *
 * The batch never changes a sequence's bits: its row depends on its own pages and its random numbers on (seed, index). */
#include "base/clock.h"
#include "base/digest.h"
#include "node/role/role.h"
#include "pipeline/record/messages.h"
#include "pipeline/stage/sample.h"
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { OUT_BUFFERS = 16, BACKLOG = 8192, TOMBSTONES = 1024 };

struct arrival {
    uint32_t stage, chunk;
    uint64_t at_us;
};

struct adoptee {                  /* a sequence here, from its first page or its ADOPT on */
    struct sl_sequence *sequence; /* NULL: free entry */
    struct sl_adopt spec;
    bool named, active;
    uint64_t got; /* layers x tokens that have arrived */
    /* first token of the page that each stage sends next: a stage pushes its pages in order */
    uint32_t next[SL_MAX_STAGES];
    uint32_t n_out, last_id;
    uint64_t logits_digest, last_arrival_us;
    uint32_t n_arrivals;
    struct arrival *arrivals; /* [n_stages * pages of a context] */
};

struct decode_role {
    struct sl_stage *stage;
    struct sl_io *io;
    const struct sl_plan *plan;
    struct sl_role_state *control;
    struct adoptee *adoptees; /* [max_running] */
    uint32_t max_arrivals;
    uint64_t ended[TOMBSTONES]; /* late pages of these are dropped */
    uint32_t n_ended;
    uint8_t *out; /* OUT_BUFFERS of tokens_bytes; token of a frame = its buffer */
    uint32_t free_out[OUT_BUFFERS], n_free_out;
    uint32_t current;
    struct sl_cursor cursor; /* over the current buffer; at == NULL: none taken */
    struct sl_io_event backlog[BACKLOG];
    uint32_t backlog_head, backlog_tail;
    struct sl_chunk chunk;
    struct sl_utilisation utilisation;
    void *scratch;
    uint32_t n_links, n_up;
};

/* ---- events and the way out ---- */

static sl_status take_event(struct decode_role *r, struct sl_io_event *event, int timeout_ms)
{
    if (r->backlog_head != r->backlog_tail) {
        *event = r->backlog[r->backlog_tail++ % BACKLOG];
        return SL_OK;
    }
    return sl_io_poll(r->io, event, timeout_ms);
}

static uint8_t *out_buffer(const struct decode_role *r, uint32_t i)
{
    return r->out + i * r->plan->tokens_bytes;
}

static void flush(struct decode_role *r)
{
    if (!r->cursor.at || r->cursor.at == out_buffer(r, r->current))
        return;
    struct sl_wire wire = {.kind = SL_WIRE_TOKENS};
    wire.payload_bytes = (uint64_t)(r->cursor.at - out_buffer(r, r->current));
    wire.meta_bytes = (uint32_t)wire.payload_bytes;
    sl_frame_seal(&wire, out_buffer(r, r->current));
    sl_status status = sl_io_send(r->io, sl_plan_link_id(r->plan, 0, sl_plan_decode_node(r->plan)), &wire,
                                  out_buffer(r, r->current), r->current);
    assert(status == SL_OK); /* 16 buffers against a ring of 1024 */
    r->cursor = (struct sl_cursor){0};
}

/* A full buffer goes out and the next is taken; when the coordinator is slow, this waits for one to come home. Other events
 * that come meanwhile are kept in order. */
static void put(struct decode_role *r, const struct sl_tokens_entry *entry)
{
    if (r->cursor.at && (size_t)(r->cursor.end - r->cursor.at) < sl_tokens_entry_max_bytes())
        flush(r);
    while (!r->cursor.at) {
        if (r->n_free_out > 0) {
            r->current = r->free_out[--r->n_free_out];
            r->cursor = sl_cursor_over(out_buffer(r, r->current), r->plan->tokens_bytes);
            break;
        }
        if (atomic_load(&r->control->stop))
            return;
        struct sl_io_event event;
        if (sl_io_poll(r->io, &event, 100) != SL_OK)
            continue;
        if (event.kind == SL_IO_SENT)
            r->free_out[r->n_free_out++] = (uint32_t)event.tag;
        else if (r->backlog_head - r->backlog_tail < BACKLOG)
            r->backlog[r->backlog_head++ % BACKLOG] = event;
    }
    sl_tokens_put(&r->cursor, entry);
    assert(!r->cursor.bad);
}

/* ---- sequences ---- */

static struct adoptee *find(struct decode_role *r, uint64_t seq)
{
    for (uint32_t i = 0; i < r->plan->max_running; i++)
        if (r->adoptees[i].sequence && r->adoptees[i].sequence->id == seq)
            return &r->adoptees[i];
    return NULL;
}

static bool has_ended(const struct decode_role *r, uint64_t seq)
{
    uint32_t n = r->n_ended < TOMBSTONES ? r->n_ended : TOMBSTONES;
    for (uint32_t i = 0; i < n; i++)
        if (r->ended[i] == seq)
            return true;
    return false;
}

static struct adoptee *open_adoptee(struct decode_role *r, uint64_t seq)
{
    for (uint32_t i = 0; i < r->plan->max_running; i++) {
        struct adoptee *a = &r->adoptees[i];
        if (a->sequence)
            continue;
        struct sl_sequence *s = sl_sequences_open(sl_stage_sequences(r->stage), seq);
        if (!s)
            return NULL;
        *a = (struct adoptee){.sequence = s, .arrivals = a->arrivals};
        return a;
    }
    return NULL;
}

static void end_sequence(struct decode_role *r, struct adoptee *a, uint64_t seq, sl_status status)
{
    struct sl_tokens_entry entry = {
        .kind = status == SL_OK ? SL_TOKENS_ENDED : SL_TOKENS_FAILED, .seq = seq, .status = status};
    if (a) {
        entry.logits_digest = a->logits_digest;
        if (a->active && a->spec.digest) /* the last token was sampled but never went through the layers */
            entry.kv_digest = sl_stage_kv_digest(r->stage, a->sequence, a->spec.prompt_tokens + a->n_out - 1);
        sl_sequences_close(sl_stage_sequences(r->stage), a->sequence);
        a->sequence = NULL;
    }
    r->ended[r->n_ended++ % TOMBSTONES] = seq;
    put(r, &entry);
}

static void activate_when_whole(struct decode_role *r, struct adoptee *a)
{
    uint64_t whole = (uint64_t)r->plan->n_layers * a->spec.prompt_tokens;
    if (!a->named || a->active || a->got < whole)
        return;
    if (a->got > whole) {
        end_sequence(r, a, a->sequence->id, SL_E_CORRUPT);
        return;
    }
    for (uint32_t i = 0; i < a->n_arrivals; i++)
        put(r, &(struct sl_tokens_entry){.kind = SL_TOKENS_ARRIVED,
                                         .seq = a->sequence->id,
                                         .stage = a->arrivals[i].stage,
                                         .chunk = a->arrivals[i].chunk,
                                         .at_us = a->arrivals[i].at_us});
    put(r, &(struct sl_tokens_entry){
               .kind = SL_TOKENS_ADOPTED, .seq = a->sequence->id, .at_us = a->last_arrival_us});
    a->active = true;
    a->n_out = 1;
    a->last_id = a->spec.first_id;
}

static void note_arrival(struct decode_role *r, struct adoptee *a, const struct sl_io_event *frame)
{
    a->last_arrival_us = frame->at_us;
    for (uint32_t i = a->n_arrivals; i-- > 0;)
        if (a->arrivals[i].stage == frame->wire.source && a->arrivals[i].chunk == frame->wire.chunk_index) {
            a->arrivals[i].at_us = frame->at_us;
            return;
        }
    if (a->n_arrivals < r->max_arrivals)
        a->arrivals[a->n_arrivals++] =
            (struct arrival){frame->wire.source, frame->wire.chunk_index, frame->at_us};
}

static const char *check_kv(const struct decode_role *r, const struct sl_wire *w)
{
    if (w->source >= r->plan->n_stages)
        return "stage";
    uint32_t begin = r->plan->begin[w->source];
    if (w->layer_first != begin || begin + w->layer_count != r->plan->begin[w->source + 1])
        return "layers";
    if (w->token_first % SL_PAGE_TOKENS || w->token_count == 0 || w->token_count > SL_PAGE_TOKENS ||
        w->token_first + w->token_count > r->plan->context_tokens)
        return "tokens";
    if (w->meta_bytes || w->dtype != r->plan->kv_dtype ||
        w->payload_bytes != w->layer_count * r->plan->kv_layer_bytes)
        return "size";
    if (w->profile != r->plan->profile)
        return "numerics profile";
    return NULL;
}

/* Page `index` of the sequence lies where the record said. false: not if the log is to be believed. */
static bool place_page(struct decode_role *r, struct adoptee *a, uint32_t index, uint32_t page)
{
    bool fresh;
    if (sl_sequences_put(sl_stage_sequences(r->stage), a->sequence, index, page, true, &fresh) != SL_OK)
        return false;
    if (fresh)
        sl_stage_clear(r->stage, page);
    return true;
}

/* Pages may come before the ADOPT that names their sequence; the coordinator has counted them already. */
static void on_kv(struct decode_role *r, const struct sl_io_event *frame)
{
    const struct sl_wire *w = &frame->wire;
    struct adoptee *a = find(r, w->seq);
    atomic_fetch_add(&r->control->meter.kv_frames, 1);
    atomic_fetch_add(&r->control->meter.kv_bytes, w->payload_bytes);
    if (has_ended(r, w->seq))
        return;
    if (check_kv(r, w) || !sl_frame_whole(w, frame->payload)) {
        atomic_fetch_add(&r->control->meter.checksum_failures, 1);
        end_sequence(r, a, w->seq, SL_E_CORRUPT);
        return;
    }
    if (!a)
        a = open_adoptee(r, w->seq);
    if (a && w->token_first != a->next[w->source]) { /* twice, or one is missing */
        end_sequence(r, a, w->seq, SL_E_CORRUPT);
        return;
    }
    if (!a) {
        end_sequence(r, NULL, w->seq, SL_E_EXHAUSTED);
        return;
    }
    if (!place_page(r, a, (uint32_t)w->token_first / SL_PAGE, w->page)) {
        end_sequence(r, a, w->seq, SL_E_CORRUPT);
        return;
    }
    sl_stage_page_in(r->stage, a->sequence->pages[w->token_first / SL_PAGE_TOKENS], w->layer_first,
                     w->layer_count, frame->payload);
    a->got += (uint64_t)w->layer_count * w->token_count;
    a->next[w->source] += w->token_count;
    note_arrival(r, a, frame);
    activate_when_whole(r, a);
}

static sl_status on_adopt(struct decode_role *r, const struct sl_io_event *frame, struct sl_err *err)
{
    struct sl_adopt adopt;
    struct sl_order_limits limits = sl_plan_order_limits(r->plan);
    bool whole = sl_frame_whole(&frame->wire, frame->payload);
    atomic_fetch_add(&r->control->meter.checksum_failures, whole ? 0 : 1);
    const char *bad =
        !whole ? "checksum" : sl_adopt_unpack(&adopt, frame->payload, frame->wire.meta_bytes, &limits);
    if (bad)
        return sl_fail(err, whole ? SL_E_PROTOCOL : SL_E_CORRUPT,
                       "a record from the coordinator is not acceptable: %s; restart the pipeline", bad);
    struct adoptee *a = find(r, adopt.seq);
    if (adopt.kind == SL_ADOPT_CANCEL) {
        end_sequence(r, a, adopt.seq, SL_OK);
        return SL_OK;
    }
    if (has_ended(r, adopt.seq))
        return SL_OK; /* it failed meanwhile, and the coordinator is being told */
    if (!a)
        a = open_adoptee(r, adopt.seq);
    if (!a) {
        end_sequence(r, NULL, adopt.seq, SL_E_EXHAUSTED);
        return SL_OK;
    }
    for (uint32_t i = 0; i < adopt.n_pages; i++)
        if (!place_page(r, a, i, sl_get32(adopt.pages + 4 * (size_t)i))) {
            end_sequence(r, a, adopt.seq, SL_E_CORRUPT);
            return SL_OK;
        }
    a->spec = adopt;
    a->spec.pages = NULL; /* they were in the frame */
    a->named = true;
    activate_when_whole(r, a);
    return SL_OK;
}

/* ---- the step ---- */

static bool is_stop(const struct adoptee *a, uint32_t id)
{
    for (uint32_t i = 0; i < a->spec.n_stops; i++)
        if (a->spec.stops[i] == id)
            return true;
    return false;
}

static void sample_row(struct decode_role *r, struct adoptee *a, float *logits)
{
    struct sl_tokens_entry entry = {.kind = SL_TOKENS_TOKEN, .seq = a->sequence->id};
    if (a->spec.digest) {
        uint64_t chain[2] = {a->logits_digest, sl_xxh3(logits, r->plan->vocab * sizeof *logits)};
        a->logits_digest = sl_xxh3(chain, sizeof chain);
    }
    bool may_stop = a->n_out >= a->spec.min_tokens;
    for (uint32_t i = 0; !may_stop && i < a->spec.n_stops; i++)
        if (a->spec.stops[i] < r->plan->vocab)
            logits[a->spec.stops[i]] = -INFINITY;
    sl_sample(&entry.token, logits, r->plan->vocab, &a->spec.sampling, a->n_out, r->scratch);
    a->n_out++;
    a->last_id = entry.token.id;
    if (may_stop && is_stop(a, entry.token.id))
        entry.finish = 1;
    else if (a->n_out >= a->spec.max_tokens)
        entry.finish = 2;
    put(r, &entry);
    if (entry.finish)
        end_sequence(r, a, entry.seq, SL_OK);
}

/* One token of every active sequence. Returns how many there were. */
static uint32_t step(struct decode_role *r, float *rows)
{
    struct adoptee *batch[SL_MAX_BATCH];
    uint32_t ids[SL_MAX_BATCH], n = 0;
    for (uint32_t i = 0; i < r->plan->max_running; i++) {
        struct adoptee *a = &r->adoptees[i];
        if (!a->sequence || !a->active)
            continue;
        uint32_t pos = a->spec.prompt_tokens + a->n_out - 1;
        r->chunk.slices[n] = (struct sl_chunk_slice){a->sequence, pos, 1};
        ids[n] = a->last_id;
        batch[n++] = a;
    }
    if (n == 0)
        return 0;
    uint64_t begin = sl_clock_wall_us();
    r->chunk.n_slices = r->chunk.n_tokens = n;
    r->chunk.x = rows;
    sl_stage_embed(r->stage, &r->chunk, (const uint8_t *)ids);
    sl_stage_run(r->stage, &r->chunk);
    float *logits = sl_stage_logits(r->stage, rows, n);
    for (uint32_t i = 0; i < n; i++)
        sample_row(r, batch[i], logits + (size_t)i * r->plan->vocab);
    struct sl_role_meter *m = &r->control->meter;
    atomic_fetch_add(&m->steps, 1);
    atomic_fetch_add(&m->tokens, n);
    atomic_fetch_add(&m->busy_us, sl_clock_wall_us() - begin);
    sl_role_meter_publish(m, &r->utilisation, r->stage);
    return n;
}

/* ---- the loop ---- */

static sl_status on_event(struct decode_role *r, const struct sl_io_event *event, struct sl_err *err)
{
    sl_status status = SL_OK;
    switch (event->kind) {
    case SL_IO_LINK_UP:
        if (++r->n_up == r->n_links) {
            atomic_store(&r->control->ready, true);
            if (r->control->on_ready)
                r->control->on_ready(r->control->user);
        }
        break;
    case SL_IO_LINK_DOWN: {
        char name[24];
        if (!atomic_load(&r->control->stop))
            status = sl_fail(err, SL_E_PEER_LOST,
                             "the link to %s is down (%s); this node stops, restart it with the others",
                             sl_plan_node_name(
                                 r->plan, sl_plan_link_peer(event->link, sl_plan_decode_node(r->plan)), name),
                             event->reason ? event->reason : "no reason given");
        break;
    }
    case SL_IO_SENT:
        r->free_out[r->n_free_out++] = (uint32_t)event->tag;
        break;
    case SL_IO_FRAME:
        if (event->wire.kind == SL_WIRE_KV)
            on_kv(r, event);
        else if (event->wire.kind == SL_WIRE_ADOPT)
            status = on_adopt(r, event, err);
        sl_io_release(r->io, event->link, event->slot);
        break;
    case SL_IO_NUDGE:
        break;
    }
    return status;
}

static sl_status decode_loop(struct decode_role *r, float *rows, struct sl_err *err)
{
    bool busy = false;
    while (!atomic_load(&r->control->stop)) {
        struct sl_io_event event;
        for (int wait = busy ? 0 : -1; take_event(r, &event, wait) == SL_OK; wait = 0)
            SL_TRY(on_event(r, &event, err));
        busy = step(r, rows) > 0;
        flush(r);
        atomic_store(&r->control->meter.pages_used, sl_stage_sequences(r->stage)->n_used);
        atomic_store(&r->control->meter.sequences, sl_stage_sequences(r->stage)->n_live);
    }
    return SL_OK;
}

static sl_status take_memory(struct decode_role *r)
{
    uint32_t pages = (r->plan->context_tokens + SL_PAGE_TOKENS - 1) / SL_PAGE_TOKENS;
    r->max_arrivals = pages * r->plan->n_stages;
    r->adoptees = calloc(r->plan->max_running, sizeof *r->adoptees);
    r->control->sending = r->out = calloc(OUT_BUFFERS, r->plan->tokens_bytes);
    r->scratch = malloc(sl_sample_scratch_bytes(r->plan->vocab));
    if (!r->adoptees || !r->out || !r->scratch)
        return SL_E_NOMEM;
    for (uint32_t i = 0; i < r->plan->max_running; i++) {
        r->adoptees[i].arrivals = calloc(r->max_arrivals, sizeof(struct arrival));
        if (!r->adoptees[i].arrivals)
            return SL_E_NOMEM;
    }
    for (uint32_t i = 0; i < OUT_BUFFERS; i++)
        r->free_out[r->n_free_out++] = i;
    return SL_OK;
}

sl_status sl_role_decode_run(struct sl_stage *stage, struct sl_io *io, const struct sl_plan *plan,
                             uint32_t n_links, struct sl_role_state *control, struct sl_err *err)
{
    struct decode_role *r = calloc(1, sizeof *r);
    float *rows =
        aligned_alloc(64, ((size_t)plan->max_running * plan->d_model * sizeof(float) + 63) / 64 * 64);
    sl_status status = SL_E_NOMEM;
    if (r && rows) {
        *r = (struct decode_role){
            .stage = stage, .io = io, .plan = plan, .control = control, .n_links = n_links};
        status = take_memory(r);
    }
    atomic_store(&control->meter.pages_total, plan->n_pages);
    if (status != SL_OK)
        sl_fail(err, status, "out of memory for the buffers of the decode worker");
    else
        status = sl_utilisation_init(&r->utilisation, stage, err);
    if (status == SL_OK)
        status = decode_loop(r, rows, err);
    for (uint32_t i = 0; r && r->adoptees && i < plan->max_running; i++)
        free(r->adoptees[i].arrivals);
    if (r) {
        free(r->adoptees);
        free(r->scratch);
    }
    free(r);
    free(rows);
    return status;
}
