/* The coordinator's thread: events in, decisions out.
 *
 *   other threads' calls -> ops -> the schedule
 *   schedule -> RUN, HANDOFF, CANCEL, FREE records -> the order log -> stage 0
 *   RESULT (last stage)  -> first tokens, prompt log-probabilities, spans
 *   TOKENS (decode)      -> tokens, adoption, the end
 * It alone decides; nothing below it chooses an order. */
#include "base/clock.h"
#include "base/log.h"
#include "node/coordinator/coordinator_impl.h"
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TAG_ORDER = 1, TAG_ADOPT = 2 };

static uint64_t tag_of(uint64_t kind, uint32_t buffer)
{
    return kind << 56 | buffer;
}

/* ---- the order log ---- */

/* Buffers are planned for every record that can be under way at once, so taking one never fails. */
static uint8_t *take_order_buffer(struct sl_coordinator *c, uint32_t *buffer)
{
    assert(c->n_free_orders > 0);
    *buffer = c->free_orders[--c->n_free_orders];
    return c->order_buffers + *buffer * c->plan.meta_bytes;
}

static void append_record(struct sl_coordinator *c, struct sl_order *order, const uint32_t *ids)
{
    uint32_t buffer;
    uint8_t *meta = take_order_buffer(c, &buffer);
    order->number = ++c->log_number;
    assert(c->log_number - c->log_answered < SL_LOG_RING);
    c->log[order->number % SL_LOG_RING] = (struct sl_record){order->kind, order->seq};
    struct sl_order_limits limits = sl_plan_order_limits(&c->plan);
    sl_order_pack(meta, order, ids, c->numbers, &limits);
    struct sl_wire wire = {.kind = SL_WIRE_ORDER,
                           .seq = order->seq,
                           .payload_bytes = c->plan.meta_bytes,
                           .meta_bytes = (uint32_t)c->plan.meta_bytes};
    sl_status status =
        sl_io_send(c->io, sl_plan_link_id(&c->plan, 0, 1), &wire, meta, tag_of(TAG_ORDER, buffer));
    assert(status == SL_OK); /* the command ring is larger than all buffers together */
}

void sl_coordinator_log_control(struct sl_coordinator *c, enum sl_order_kind kind, struct sl_request *r)
{
    struct sl_order order = {.kind = kind, .seq = r->seq};
    struct sl_sequence *s = sl_sequences_find(&c->pages, r->seq);
    if (s) /* records that follow may use its pages: every stage applies this one first */
        sl_sequences_close(&c->pages, s);
    append_record(c, &order, NULL);
}

void sl_coordinator_send_adopt(struct sl_coordinator *c, const struct sl_adopt *adopt)
{
    assert(c->n_free_adopts > 0);
    uint32_t buffer = c->free_adopts[--c->n_free_adopts];
    uint8_t *out = c->adopt_buffers + buffer * c->plan.adopt_bytes;
    struct sl_wire wire = {.kind = SL_WIRE_ADOPT, .seq = adopt->seq};
    wire.payload_bytes = sl_adopt_pack(out, adopt);
    wire.meta_bytes = (uint32_t)wire.payload_bytes;
    sl_status status = sl_io_send(c->io, sl_plan_link_id(&c->plan, 0, sl_plan_decode_node(&c->plan)), &wire,
                                  out, tag_of(TAG_ADOPT, buffer));
    assert(status == SL_OK);
}

static void fill_slice(struct sl_order_slice *slice, const struct sl_request *r, const struct sl_cut *cut)
{
    uint32_t end = cut->pos + cut->n;
    *slice = (struct sl_order_slice){.seq = r->seq,
                                     .pos = cut->pos,
                                     .n = cut->n,
                                     .index = cut->index,
                                     .prompt_tokens = r->ask.n_ids,
                                     .prompt_logprobs = r->ask.prompt_logprobs,
                                     .next_id = end < r->ask.n_ids ? r->ask.ids[end] : 0,
                                     .sampling = r->ask.sampling};
    slice->flags = (cut->pos == 0 ? SL_SLICE_FIRST : 0u) | (end == r->ask.n_ids ? SL_SLICE_LAST : 0u) |
                   (r->ask.want_digest ? SL_SLICE_DIGEST : 0u) | (r->handoff ? SL_SLICE_HANDOFF : 0u) |
                   (r->ask.min_tokens > 0 && !r->ask.ignore_eos ? SL_SLICE_NO_EOS : 0u);
}

/* The budgets of the schedule have room for it. */
static struct sl_sequence *open_pages(struct sl_sequences *t, uint64_t seq)
{
    struct sl_sequence *s = sl_sequences_find(t, seq);
    if (!s)
        s = sl_sequences_open(t, seq);
    assert(s);
    return s;
}

uint32_t sl_coordinator_next_page(struct sl_sequences *t, struct sl_sequence *s)
{
    uint32_t page;
    bool fresh;
    sl_status status = sl_sequences_take(t, &page);
    assert(status == SL_OK);
    status = sl_sequences_put(t, s, s->n_pages, page, true, &fresh);
    assert(status == SL_OK);
    return page;
}

/* The pages that a slice opens get their numbers. */
static void give_pages(struct sl_coordinator *c, struct sl_order *order, struct sl_order_slice *slice)
{
    struct sl_sequence *s = open_pages(&c->pages, slice->seq);
    struct sl_sequence *d = slice->flags & SL_SLICE_HANDOFF ? open_pages(&c->decode_pages, slice->seq) : NULL;
    slice->page_first = s->n_pages;
    slice->n_pages = sl_pages_of(slice->pos + slice->n) - s->n_pages;
    slice->pages_at = order->n_pages;
    for (uint32_t i = 0; i < slice->n_pages; i++) {
        uint32_t page = sl_coordinator_next_page(&c->pages, s);
        c->numbers[order->n_pages++] =
            (struct sl_page_numbers){page, d ? sl_coordinator_next_page(&c->decode_pages, d) : SL_NO_PAGE};
    }
}

static struct sl_request *request_of(struct sl_schedule_entry *entry)
{
    return (struct sl_request *)(void *)((char *)entry - offsetof(struct sl_request, entry));
}

/* Keep every stage busy and no more: what is in the log can't be overtaken by a later decision. */
static void write_runs(struct sl_coordinator *c)
{
    struct sl_schedule_entry *entry;
    while ((entry = sl_schedule_admit(&c->schedule)))
        sl_request_admitted(c, request_of(entry));
    while (c->runs_in_flight < c->max_runs) {
        struct sl_cut cuts[SL_MAX_SLICES];
        struct sl_order order = {.kind = SL_ORDER_RUN};
        uint32_t ids[SL_MAX_CHUNK_ASKED];
        order.n_slices = sl_schedule_cut(&c->schedule, cuts);
        if (order.n_slices == 0)
            return;
        for (uint32_t i = 0; i < order.n_slices; i++) {
            struct sl_request *r = request_of(cuts[i].entry);
            fill_slice(&order.slices[i], r, &cuts[i]);
            give_pages(c, &order, &order.slices[i]);
            memcpy(ids + order.n_tokens, r->ask.ids + cuts[i].pos, cuts[i].n * sizeof *ids);
            order.n_tokens += cuts[i].n;
            r->stages_live = true;
        }
        append_record(c, &order, ids);
        c->runs_in_flight++;
    }
}

/* ---- what comes back ---- */

static const char *on_result(struct sl_coordinator *c, const struct sl_io_event *frame)
{
    struct sl_result_head head;
    struct sl_cursor in = sl_cursor_over(frame->payload, frame->wire.meta_bytes);
    if (frame->status != SL_OK)
        return "its checksum does not match";
    if (!sl_result_get_head(&in, &head, c->plan.n_stages) || head.number != c->log_answered + 1 ||
        head.number > c->log_number || head.kind != c->log[head.number % SL_LOG_RING].kind)
        return "it answers a record that was not next";
    struct sl_record record = c->log[head.number % SL_LOG_RING];
    c->log_answered = head.number;
    for (uint32_t i = 0; i < head.n_slices; i++) {
        struct sl_result_slice slice;
        if (!sl_result_get_slice(&in, &slice))
            return "a slice of it is malformed";
        sl_request_on_slice(c, &head, &slice, &in);
        if (in.bad)
            return "its log-probabilities are malformed";
    }
    if (record.kind == SL_ORDER_RUN)
        c->runs_in_flight--;
    struct sl_request *r = record.kind == SL_ORDER_RUN ? NULL : sl_request_find(c, record.seq);
    if (r && (record.kind == SL_ORDER_FREE || record.kind == SL_ORDER_CANCEL))
        sl_request_stages_freed(c, r);
    return NULL;
}

static const char *on_tokens(struct sl_coordinator *c, const struct sl_io_event *frame)
{
    struct sl_cursor in = sl_cursor_over(frame->payload, frame->wire.meta_bytes);
    struct sl_tokens_entry entry;
    if (frame->status != SL_OK)
        return "its checksum does not match";
    while (sl_tokens_get(&in, &entry))
        sl_request_on_entry(c, &entry);
    return in.bad ? "it is malformed" : NULL;
}

static void set_lost(struct sl_coordinator *c, const char *sentence)
{
    if (c->lost)
        return;
    pthread_mutex_lock(&c->lock);
    bool leaving = c->draining && c->n_requests == 0; /* neighbours go as we do: nothing to mourn */
    c->lost = true;
    c->ready = false;
    snprintf(c->lost_sentence, sizeof c->lost_sentence, "%s", sentence);
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
    if (leaving)
        return;
    sl_log_error("%s", sentence);
    for (struct sl_request *r = sl_request_first(c), *next; r; r = next) {
        next = r->next;
        if (r->queued)
            sl_request_end(c, r, SL_E_UNAVAILABLE, SL_FINISH_ABORT, sentence);
    }
    if (c->config.on_lost)
        c->config.on_lost(c->config.user, sentence);
}

static void on_link_down(struct sl_coordinator *c, const struct sl_io_event *event)
{
    char name[24], sentence[320];
    snprintf(sentence, sizeof sentence, "%s was lost (%s); the request was not finished, send it again",
             sl_plan_node_name(&c->plan, sl_plan_link_peer(event->link, 0), name),
             event->reason ? event->reason : "link down");
    set_lost(c, sentence);
}

static void on_frame(struct sl_coordinator *c, const struct sl_io_event *event)
{
    char sentence[320];
    const char *bad = event->wire.kind == SL_WIRE_RESULT   ? on_result(c, event)
                      : event->wire.kind == SL_WIRE_TOKENS ? on_tokens(c, event)
                                                           : "its kind does not belong there";
    sl_io_release(c->io, event->link, event->slot);
    if (!bad)
        return;
    snprintf(sentence, sizeof sentence,
             "a frame from %s can't be used: %s; the request was not finished, send it again",
             event->wire.kind == SL_WIRE_TOKENS ? "the decode worker" : "the last stage", bad);
    set_lost(c, sentence);
}

static void on_event(struct sl_coordinator *c, const struct sl_io_event *event)
{
    switch (event->kind) {
    case SL_IO_LINK_UP:
        if (++c->n_up == c->config.n_links) {
            pthread_mutex_lock(&c->lock);
            c->ready = !c->lost;
            pthread_cond_broadcast(&c->changed);
            pthread_mutex_unlock(&c->lock);
            if (c->config.on_ready && !c->lost)
                c->config.on_ready(c->config.user);
        }
        break;
    case SL_IO_LINK_DOWN:
        on_link_down(c, event);
        break;
    case SL_IO_SENT:
        if (event->tag >> 56 == TAG_ORDER)
            c->free_orders[c->n_free_orders++] = (uint32_t)event->tag;
        else
            c->free_adopts[c->n_free_adopts++] = (uint32_t)event->tag;
        break;
    case SL_IO_FRAME:
        on_frame(c, event);
        break;
    case SL_IO_NUDGE:
        break;
    }
}

/* ---- calls of other threads ---- */

static void run_op(struct sl_coordinator *c, struct sl_op_item *op)
{
    struct sl_request *r = op->request;
    if (op->kind == SL_OP_SUBMIT) {
        sl_request_start(c, r);
        if (c->lost)
            sl_request_end(c, r, SL_E_UNAVAILABLE, SL_FINISH_ABORT, c->lost_sentence);
        return;
    }
    if (op->kind == SL_OP_CALL) {
        op->fn(op->user);
        return;
    }
    if (op->kind == SL_OP_MOURN) {
        set_lost(c, op->id);
        return;
    }
    for (r = sl_request_first(c); r; r = r->next)
        if (op->kind == SL_OP_CANCEL ? r->seq == op->seq : strcmp(r->ask.request_id, op->id) == 0)
            break;
    if (r && r->queued && !r->done)
        sl_request_end(c, r, SL_OK, SL_FINISH_ABORT, NULL);
}

static bool run_ops(struct sl_coordinator *c)
{
    pthread_mutex_lock(&c->lock);
    struct sl_op_item *op = c->ops;
    c->ops = NULL;
    c->ops_tail = &c->ops;
    bool stop = c->stop;
    pthread_mutex_unlock(&c->lock);
    while (op) {
        struct sl_op_item *next = op->next;
        run_op(c, op);
        free(op);
        op = next;
    }
    return stop;
}

static void end_overdue(struct sl_coordinator *c)
{
    uint64_t now = sl_clock_wall_us();
    for (struct sl_schedule_entry *e = c->schedule.head, *next; e; e = next) {
        struct sl_request *r = request_of(e);
        next = e->next;
        if (r->deadline_us && now > r->deadline_us)
            sl_request_end(
                c, r, SL_E_DEADLINE, SL_FINISH_ABORT,
                "the deadline passed before prefill was done; ask for more time or send it when load is lower");
    }
}

void sl_coordinator_publish(struct sl_coordinator *c)
{
    uint32_t waiting = 0, waiting_tokens = 0;
    for (const struct sl_schedule_entry *e = c->schedule.head; e; e = e->next) {
        waiting += !e->admitted;
        waiting_tokens += e->prompt_tokens - e->pos;
    }
    c->n_waiting = waiting;
    c->load.running = c->schedule.n_admitted;
    c->load.waiting = waiting;
    c->load.waiting_tokens = waiting_tokens;
    c->load.kv_pages_used = c->schedule.prefill_pages_used;
    c->load.decode_pages_used = c->schedule.decode_pages_used;
}

static void *core_thread(void *arg)
{
    struct sl_coordinator *c = arg;
    for (;;) {
        struct sl_io_event event;
        /* deadlines of queued requests are looked at once a second; everything else wakes us */
        for (int wait = c->schedule.head ? 1000 : -1; sl_io_poll(c->io, &event, wait) == SL_OK; wait = 0) {
            on_event(c, &event);
            if (event.kind == SL_IO_NUDGE)
                break;
        }
        bool stop = run_ops(c);
        end_overdue(c);
        if (!c->lost)
            write_runs(c);
        pthread_mutex_lock(&c->lock);
        sl_coordinator_publish(c);
        pthread_mutex_unlock(&c->lock);
        if (stop)
            break;
    }
    for (struct sl_request *r = sl_request_first(c), *next; r; r = next) {
        next = r->next;
        sl_request_end(c, r, SL_OK, SL_FINISH_ABORT, NULL);
    }
    return NULL;
}

/* ---- life ---- */

static sl_status take_memory(struct sl_coordinator *c)
{
    /* HANDOFF and FREE or CANCEL (TAKE and CANCEL) for each running request, twice over for buffers whose SENT event is late */
    c->max_runs = c->plan.n_stages + 2;
    c->n_order_buffers = c->max_runs + 4 * c->plan.max_running + 8;
    c->n_adopt_buffers = 4 * c->plan.max_running + 8;
    c->order_buffers = calloc(c->n_order_buffers, c->plan.meta_bytes);
    c->adopt_buffers = calloc(c->n_adopt_buffers, c->plan.adopt_bytes);
    c->free_orders = calloc(c->n_order_buffers, sizeof *c->free_orders);
    c->free_adopts = calloc(c->n_adopt_buffers, sizeof *c->free_adopts);
    size_t tables = 2 * sl_sequences_bytes(c->plan.max_running, c->plan.context_tokens, c->plan.n_pages);
    struct sl_order_limits limits = sl_plan_order_limits(&c->plan);
    c->numbers = calloc(sl_order_max_pages(&limits), sizeof *c->numbers);
    if (!c->numbers || sl_arena_init(&c->arena, tables, NULL) != SL_OK ||
        sl_sequences_init(&c->pages, &c->arena, c->plan.max_running, c->plan.context_tokens,
                          c->plan.n_pages) != SL_OK ||
        sl_sequences_init(&c->decode_pages, &c->arena, c->plan.max_running, c->plan.context_tokens,
                          c->plan.n_pages) != SL_OK)
        return SL_E_NOMEM;
    if (!c->order_buffers || !c->adopt_buffers || !c->free_orders || !c->free_adopts || !c->model_path ||
        !c->model_name)
        return SL_E_NOMEM;
    for (uint32_t i = 0; i < c->n_order_buffers; i++)
        c->free_orders[c->n_free_orders++] = i;
    for (uint32_t i = 0; i < c->n_adopt_buffers; i++)
        c->free_adopts[c->n_free_adopts++] = i;
    return SL_OK;
}

sl_status sl_coordinator_create(struct sl_coordinator **out, const struct sl_coordinator_config *config,
                                struct sl_err *err)
{
    struct sl_coordinator *c = calloc(1, sizeof *c);
    if (!c)
        return sl_fail(err, SL_E_NOMEM, "out of memory for the coordinator");
    c->plan = *config->plan;
    c->shape = *config->shape;
    c->config = *config;
    c->tokenizer = config->tokenizer;
    c->io = config->io;
    c->model_path = strdup(config->model_path);
    c->model_name = strdup(config->model_name);
    if (c->config.max_waiting == 0)
        c->config.max_waiting = 1024;
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->changed, NULL);
    c->ops_tail = &c->ops;
    c->next_seq = 1;
    c->load.started_wall_us = sl_clock_wall_us();
    sl_schedule_init(&c->schedule, &c->plan);
    if (take_memory(c) != SL_OK || pthread_create(&c->thread, NULL, core_thread, c) != 0) {
        c->io = NULL; /* stays the caller's */
        c->tokenizer = NULL;
        sl_coordinator_destroy(c);
        return sl_fail(err, SL_E_NOMEM, "out of memory for the coordinator's buffers");
    }
    c->started = true;
    *out = c;
    return SL_OK;
}

void sl_coordinator_destroy(struct sl_coordinator *c)
{
    if (!c)
        return;
    if (c->started) {
        pthread_mutex_lock(&c->lock);
        c->stop = c->draining = true;
        pthread_mutex_unlock(&c->lock);
        sl_io_nudge(c->io);
        pthread_join(c->thread, NULL);
    }
    if (c->io)
        sl_io_destroy(c->io);
    while (c->requests) {
        struct sl_request *r = c->requests;
        c->requests = r->next;
        sl_request_free(r);
    }
    while (c->ops) { /* asked after the thread had looked for the last time */
        struct sl_op_item *op = c->ops;
        c->ops = op->next;
        free(op);
    }
    sl_tokenizer_destroy(c->tokenizer);
    free(c->model_path);
    free(c->model_name);
    free(c->order_buffers);
    free(c->numbers);
    sl_arena_fini(&c->arena);
    free(c->adopt_buffers);
    free(c->free_orders);
    free(c->free_adopts);
    pthread_mutex_destroy(&c->lock);
    pthread_cond_destroy(&c->changed);
    free(c);
}
