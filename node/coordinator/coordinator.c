/* The coordinator's thread: events of the io and posts of other threads go into the core, its actions come out and are carried
 * out. Nothing here decides.
 *
 *   posts (mailbox.c), frames, links -> core -> RECORD, ADOPT -> the order log to stage 0, the decode worker
 *                                           -> TOKEN, END ... -> the holder of the request (call.c), who tells its caller */
#include "base/clock.h"
#include "base/log.h"
#include "base/notify.h"
#include "node/coordinator/coordinator_impl.h"
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Tags: the kind, and below it the place of the decode worker and the buffer. */
enum { TAG_ORDER = 1, TAG_ADOPT = 2 };

static uint64_t tag_of(uint64_t kind, uint32_t decoder, uint32_t buffer)
{
    return kind << 56 | (uint64_t)decoder << 32 | buffer;
}

static void give_buffer(struct sl_buffers *b, uint32_t buffer)
{
    b->free[b->n_free++] = buffer;
}

/* ---- actions: frames ---- */

/* Buffers are planned for everything that an honest neighbour can have under way. One that answers without taking what it is
 * sent uses them up; then it is lost with the actions for it that are still to be carried out. */
static uint8_t *take_buffer(struct sl_buffers *b, uint32_t *buffer)
{
    b->stuck = b->stuck || b->n_free == 0;
    if (b->stuck)
        return NULL;
    *buffer = b->free[--b->n_free];
    return b->bytes + *buffer * b->size;
}

static void send_sealed(struct sl_coordinator *c, struct sl_buffers *b, struct sl_wire *wire, uint8_t *bytes,
                        uint64_t tag)
{
    wire->meta_bytes = (uint32_t)wire->payload_bytes;
    sl_frame_seal(wire, bytes);
    if (sl_io_send(c->io, b->link, wire, bytes, tag) == SL_OK)
        return;
    give_buffer(b, (uint32_t)tag);
    b->stuck = true;
}

static void send_record(struct sl_coordinator *c, const struct sl_action *a)
{
    struct sl_order control = {.number = a->record.number, .kind = a->record.kind, .seq = a->seq};
    const struct sl_run *run = a->record.run;
    const struct sl_order *order = run ? &run->order : &control;
    struct sl_order_limits limits = sl_plan_order_limits(&c->plan);
    uint32_t buffer;
    uint8_t *meta = take_buffer(&c->orders, &buffer);
    if (!meta)
        return;
    sl_order_pack(meta, order, run ? run->ids : NULL, run ? run->pages : NULL, &limits);
    sl_tail_add(&c->tail, sl_coordinator_now_us(), order, run ? run->pages : NULL);
    struct sl_wire wire = {.kind = SL_WIRE_ORDER, .seq = order->seq, .payload_bytes = c->plan.meta_bytes};
    send_sealed(c, &c->orders, &wire, meta, tag_of(TAG_ORDER, 0, buffer));
    if (a->record.in_vain && c->config.on_cancelled)
        c->config.on_cancelled(c->config.user, a->seq, a->record.number);
}

static void send_adopt(struct sl_coordinator *c, const struct sl_action *a)
{
    uint32_t buffer;
    struct sl_buffers *b = &c->decoders[a->decoder].adopts;
    uint8_t *out = c->decoders[a->decoder].link ? take_buffer(b, &buffer) : NULL;
    if (!out)
        return;
    struct sl_wire wire = {.kind = SL_WIRE_ADOPT, .seq = a->adopt->seq};
    wire.payload_bytes = sl_adopt_pack(out, a->adopt);
    send_sealed(c, b, &wire, out, tag_of(TAG_ADOPT, a->decoder, buffer));
}

/* ---- what others see ---- */

/* Whoever waits for a change of life or for idleness is woken when there is one; the rest is there to be read. */
static void publish_fits(struct sl_coordinator *c)
{
    sl_latest_write(&c->published_fits, sl_core_fits(c->core));
}

void sl_coordinator_show(struct sl_coordinator *c)
{
    sl_core_load(c->core, &c->now.core);
    sl_latest_write(&c->published, &c->now);
}

static void publish(struct sl_coordinator *c)
{
    sl_coordinator_show(c);
    if (c->now.core.slo_dear && !c->said_dear)
        sl_log_warn(
            "--slo %llu ms is so short that chunks must be smaller than pays: more than half of the time goes for "
            "reading weights; allow more, or leave it to the cost (0)",
            (unsigned long long)c->config.slo_us / 1000);
    c->said_dear = c->said_dear || c->now.core.slo_dear;
    if (c->life == c->now.core.life && c->n_live == c->now.core.live && c->n_taken == c->taken)
        return; /* nobody else writes these three */
    pthread_mutex_lock(&c->lock);
    c->life = c->now.core.life;
    c->n_live = c->now.core.live;
    c->n_taken = c->taken;
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
}

static void on_life(struct sl_coordinator *c, const struct sl_action *a)
{
    if (a->life.life == SL_LIFE_LOST) {
        sl_log_error("%s", a->life.sentence);
        pthread_mutex_lock(&c->lock);
        snprintf(c->lost_sentence, sizeof c->lost_sentence, "%s", a->life.sentence);
        pthread_mutex_unlock(&c->lock);
    }
    publish(c);
    if (a->life.life == SL_LIFE_LOST && c->config.on_lost)
        c->config.on_lost(c->config.user, a->life.sentence);
    if (a->life.life == SL_LIFE_READY && c->config.on_ready)
        c->config.on_ready(c->config.user);
}

/* ---- actions ---- */

static void note_word(struct sl_coordinator *c, uint64_t seq, uint32_t n)
{
    assert(c->n_words < sizeof c->words / sizeof *c->words);
    c->words[c->n_words++] = (struct sl_word){seq, n};
}

static void on_token(struct sl_coordinator *c, struct sl_call *call, const struct sl_action *a)
{
    if (!sl_call_keep(call, a))
        note_word(c, a->seq, 0);
    else if (sl_call_token(c, call, a))
        note_word(c, a->seq, a->token.n_out);
}

static void act(struct sl_coordinator *c, const struct sl_action *a)
{
    struct sl_call *call = a->user;
    switch (a->kind) {
    case SL_ACTION_RECORD:
        send_record(c, a);
        break;
    case SL_ACTION_ADOPT:
        send_adopt(c, a);
        break;
    case SL_ACTION_ADMIT:
        if (!sl_call_admitted(c, call, a))
            note_word(c, a->seq, 0);
        break;
    case SL_ACTION_SET_BACK:
        if (!sl_call_set_back(c, call, a))
            note_word(c, a->seq, 0);
        break;
    case SL_ACTION_RAN:
        sl_call_ran(c, call, a);
        break;
    case SL_ACTION_ARRIVED:
        sl_call_arrived(c, call, a);
        break;
    case SL_ACTION_TOKEN:
        on_token(c, call, a);
        break;
    case SL_ACTION_END:
        sl_call_end(c, call, a);
        break;
    case SL_ACTION_LIFE:
        on_life(c, a);
        break;
    case SL_ACTION_LEFT:
        sl_decoder_left(c, a->decoder);
        break;
    }
}

/* Somebody does not take what it is sent, which is an input, too. False: all do. */
static bool lose_unsent(struct sl_coordinator *c)
{
    char sentence[320];
    struct sl_buffers *stuck = c->orders.stuck ? &c->orders : NULL;
    uint32_t d = 0;
    while (!stuck && d < c->plan.max_decoders)
        if (c->decoders[d].adopts.stuck)
            stuck = &c->decoders[d].adopts;
        else
            d++;
    if (!stuck)
        return false;
    stuck->stuck = false;
    const char *remedy = stuck == &c->orders ? "; the request was not finished, send it again" : "";
    snprintf(sentence, sizeof sentence, "%s answers but takes nothing of what it is sent%s", stuck->peer,
             remedy);
    if (stuck == &c->orders)
        sl_core_lose(c->core, SL_E_UNAVAILABLE, sentence, &c->actions);
    else
        sl_decoder_lose(c, d, SL_E_UNAVAILABLE, sentence, false);
    return true;
}

static void say_word(struct sl_coordinator *c, const struct sl_word *word)
{
    if (word->n > 0)
        sl_core_text_ends(c->core, word->seq, word->n, &c->actions);
    else
        sl_core_fail(c->core, word->seq, SL_E_EXHAUSTED,
                     "out of memory for the answer to this request; try again later", &c->actions);
}

/* Carries out what one input has brought; what the holders say of it are the next inputs. */
void sl_coordinator_carry_out(struct sl_coordinator *c)
{
    for (;;) {
        for (uint32_t i = 0; i < c->actions.n; i++)
            act(c, &c->actions.list[i]);
        c->actions.n = 0;
        if (lose_unsent(c))
            continue;
        if (c->n_words == 0)
            return;
        say_word(c, &c->words[--c->n_words]);
    }
}

/* ---- inputs: frames and links ---- */

void sl_coordinator_lose(struct sl_coordinator *c, sl_status status, const char *sentence)
{
    sl_core_lose(c->core, status, sentence, &c->actions);
    sl_coordinator_carry_out(c);
}

/* A node's weights are not what it loaded. Whatever is live may have met them; what has been answered since they were good is named. */
static const char *on_spoiled(struct sl_coordinator *c, const struct sl_io_event *frame)
{
    struct sl_spoiled_word word;
    struct sl_coordinator_decoder *decoder = sl_decoder_by_link(c, frame->link);
    char sentence[320];
    uint64_t now_us = sl_coordinator_now_us();
    const char *bad = sl_spoiled_unpack(&word, frame->payload, frame->wire.payload_bytes);
    if (bad)
        return bad;
    sl_log_error("%s; known to be good until %.1f s ago", word.sentence, (double)word.age_us * 1e-6);
    sl_finished_name(&c->finished, word.age_us < now_us ? now_us - word.age_us : 0);
    if (decoder && c->config.alone_ms > 0) { /* the others have their own */
        sl_decoder_lose(c, (uint32_t)(decoder - c->decoders), SL_E_CORRUPT, word.sentence, true);
        return NULL;
    }
    snprintf(sentence, sizeof sentence, "%.240s; what was answered can't be trusted, send the request again",
             word.sentence);
    pthread_mutex_lock(&c->lock);
    c->lost_status = SL_E_DATA;
    pthread_mutex_unlock(&c->lock);
    sl_coordinator_lose(c, SL_E_CORRUPT, sentence);
    return NULL;
}

static const char *on_tokens(struct sl_coordinator *c, const struct sl_io_event *frame)
{
    struct sl_coordinator_decoder *decoder = sl_decoder_by_link(c, frame->link);
    if (!decoder)
        return "its kind does not belong there";
    struct sl_cursor in = sl_cursor_over(frame->payload, frame->wire.meta_bytes);
    struct sl_tokens_entry entry;
    while (sl_tokens_get(&in, &entry)) {
        const char *bad = sl_core_entry(c->core, (uint32_t)(decoder - c->decoders), &entry, &c->actions);
        sl_coordinator_carry_out(c);
        if (bad)
            return bad;
    }
    return in.bad ? "it is malformed" : NULL;
}

/* For drawings and metrics: when the stages ran a chunk, whosever it was, and its way; and for whom nobody wants. */
static void note_busy(struct sl_coordinator *c, const struct sl_io_event *frame)
{
    struct sl_cursor in = sl_cursor_over(frame->payload, frame->wire.meta_bytes);
    struct sl_result_head head;
    int64_t ahead_us[SL_MAX_STAGES];
    if (!sl_result_get_head(&in, &head, c->plan.n_stages) || head.kind != SL_ORDER_RUN)
        return;
    uint64_t first = sl_plan_link_id(&c->plan, 0, sl_plan_stage_node(0));
    sl_span_offsets(ahead_us, head.traces, c->plan.n_stages, sl_io_clock(c->io, first).offset_us);
    sl_busy_add(&c->busy, head.traces, ahead_us);
    sl_hops_add(&c->now.meter.hops, head.traces, ahead_us, c->plan.n_stages, frame->at_us);
    sl_cancels_ran(&c->cancels, c->core, in, &head, ahead_us, c->plan.n_stages);
}

static const char *on_result(struct sl_coordinator *c, const struct sl_io_event *frame)
{
    note_busy(c, frame);
    const char *bad = sl_core_result(c->core, frame->payload, frame->wire.meta_bytes, &c->actions);
    publish_fits(c);
    sl_balance_watch(c);
    sl_coordinator_carry_out(c);
    return bad;
}

static void on_frame(struct sl_coordinator *c, const struct sl_io_event *event)
{
    char sentence[320];
    struct sl_coordinator_decoder *decoder = sl_decoder_by_link(c, event->link);
    if (!decoder && sl_is_decoder_link(c, event->link)) { /* late, of one that is gone */
        sl_io_release(c->io, event->link, event->slot);
        return;
    }
    bool whole = sl_frame_whole(&event->wire, event->payload);
    c->now.meter.checksum_failures += !whole;
    const char *bad = !whole                                ? "its checksum does not match"
                      : event->wire.kind == SL_WIRE_RESULT  ? on_result(c, event)
                      : event->wire.kind == SL_WIRE_TOKENS  ? on_tokens(c, event)
                      : event->wire.kind == SL_WIRE_SPOILED ? on_spoiled(c, event)
                                                            : "its kind does not belong there";
    sl_io_release(c->io, event->link, event->slot);
    if (!bad)
        return;
    snprintf(sentence, sizeof sentence, "a frame from %s can't be used: %s%s",
             decoder ? decoder->adopts.peer : "the last stage", bad,
             decoder ? "" : "; the request was not finished, send it again");
    if (decoder)
        sl_decoder_lose(c, (uint32_t)(decoder - c->decoders), SL_E_CORRUPT, sentence, false);
    else
        sl_coordinator_lose(c, SL_E_CORRUPT, sentence);
}

static void on_link(struct sl_coordinator *c, const struct sl_io_event *event)
{
    struct sl_err err;
    if (c->links.state == SL_LINKS_UP && sl_is_decoder_link(c, event->link)) {
        sl_decoder_on_link(c, event);
        return;
    }
    if (!sl_links_on_event(&c->links, event, "the request was not finished, send it again", &err))
        return;
    if (c->links.state == SL_LINKS_LOST) {
        sl_coordinator_lose(c, SL_E_UNAVAILABLE, err.text);
        return;
    }
    for (uint32_t d = 0; d < c->plan.n_decoders; d++)
        c->decoders[d].up = c->decoders[d].ready = c->decoders[d].here = true;
    sl_core_complete(c->core, &c->actions);
    sl_coordinator_carry_out(c);
}

static void set_silent(struct sl_coordinator *c, uint32_t node, bool silent)
{
    uint32_t decoder = sl_plan_decoder_of(&c->plan, node);
    if (decoder != SL_NO_DECODER) {
        sl_decoder_set_silent(c, decoder, (uint32_t)SL_SILENT_TO_OTHERS << sl_plan_part_of(&c->plan, node),
                              silent);
        return;
    }
    uint64_t before = c->silent_to, bit = UINT64_C(1) << node;
    c->silent_to = silent ? before | bit : before & ~bit;
    if ((c->silent_to != 0) == (before != 0))
        return;
    sl_core_silence(c->core, c->silent_to != 0, &c->actions);
    sl_coordinator_carry_out(c);
}

/* Whether requests should come at all: told when it changes. */
static void tell_whether_it_serves(struct sl_coordinator *c)
{
    const struct sl_core_load *load = &c->now.core;
    bool not_serving = load->silent || (load->alone && load->life == SL_LIFE_READY);
    if (not_serving == c->told_not_serving)
        return;
    c->told_not_serving = not_serving;
    sl_log_warn("%s", load->silent  ? "a node is silent: nothing new is begun until it is heard again"
                      : not_serving ? "no decode worker is here: what needs one waits until one joins"
                                    : "all nodes are heard again: going on");
    if (c->config.on_silence)
        c->config.on_silence(c->config.user);
}

static void on_own_silence(struct sl_coordinator *c)
{
    char name[24];
    uint64_t link = sl_io_silent(c->io), first = sl_plan_link_id(&c->plan, 0, sl_plan_stage_node(0)),
             last = sl_plan_link_id(&c->plan, sl_plan_stage_node(c->plan.n_stages - 1), 0);
    if (link)
        sl_log_warn("the coordinator hears nothing from %s",
                    sl_plan_node_name(&c->plan, sl_plan_link_peer(link, 0), name));
    set_silent(c, 0, sl_io_is_silent(c->io, first) || sl_io_is_silent(c->io, last));
    for (uint32_t d = 0; d < c->plan.max_decoders; d++)
        if (c->decoders[d].link)
            sl_decoder_set_silent(c, d, SL_SILENT_TO_US, sl_io_is_silent(c->io, c->decoders[d].link));
}

static void on_event(struct sl_coordinator *c, const struct sl_io_event *event)
{
    switch (event->kind) {
    case SL_IO_LINK_UP:
    case SL_IO_LINK_DOWN:
        on_link(c, event);
        break;
    case SL_IO_SENT:
        give_buffer(event->tag >> 56 == TAG_ORDER ? &c->orders
                                                  : &c->decoders[event->tag >> 32 & 0xFFFFFF].adopts,
                    (uint32_t)event->tag);
        break;
    case SL_IO_FRAME:
        on_frame(c, event);
        break;
    case SL_IO_SILENCE:
        on_own_silence(c);
        break;
    case SL_IO_NUDGE:
        break;
    }
}

/* ---- inputs: posts ---- */

static void on_submit(struct sl_coordinator *c, struct sl_call *call)
{
    c->now.last_receive_wall_us = sl_clock_wall_us();
    sl_call_insert(c, call);
    uint64_t seq = sl_core_submit(c->core, sl_coordinator_now_us(), &call->ask, &c->actions);
    if (seq)
        call->seq = seq;
    else
        c->now.meter.rejected++;
}

static void on_cancel(struct sl_coordinator *c, uint64_t seq)
{
    enum sl_where from = sl_core_where(c->core, seq);
    sl_core_cancel(c->core, seq, &c->actions);
    sl_cancels_add(&c->cancels, c->core, seq, from, sl_coordinator_now_us(), c->now.meter.cancel);
}

static bool is_theirs(const struct sl_coordinator *c, uint64_t seq, const char *owner)
{
    for (uint32_t b = 0; b < SL_CALL_BUCKETS; b++)
        for (const struct sl_call *call = c->calls[b]; call; call = call->next)
            if (call->seq == seq)
                return strcmp(call->owner, owner) == 0;
    return false;
}

static void on_cancel_id(struct sl_coordinator *c, const struct sl_post *post)
{
    uint64_t seq = sl_core_seq_of(c->core, post->text);
    if (!post->owned || is_theirs(c, seq, post->owner))
        on_cancel(c, seq);
}

static void on_post(struct sl_coordinator *c, const struct sl_post *post)
{
    struct sl_call *call;
    switch (post->kind) {
    case SL_POST_SUBMIT:
        on_submit(c, post->call);
        break;
    case SL_POST_CANCEL:
        call = sl_call_find(c, post->handle);
        if (call)
            on_cancel(c, call->seq);
        break;
    case SL_POST_CANCEL_ID:
        on_cancel_id(c, post);
        break;
    case SL_POST_CALL:
        post->fn(post->user);
        break;
    case SL_POST_SILENT:
    case SL_POST_HEARD:
        set_silent(c, (uint32_t)post->handle, post->kind == SL_POST_SILENT);
        break;
    case SL_POST_COST:
        sl_core_cost(c->core, (uint32_t)post->handle, &post->cost);
        publish_fits(c);
        break;
    case SL_POST_DECODER_READY:
    case SL_POST_DECODER_LEAVES:
    case SL_POST_DECODER_LOST:
        sl_decoder_on_post(c, post);
        break;
    case SL_POST_MOURN:
        sl_core_lose(c->core, SL_E_UNAVAILABLE, post->text, &c->actions);
        break;
    case SL_POST_DRAIN:
        sl_core_drain(c->core, &c->actions);
        break;
    case SL_POST_FOLLOW:
    case SL_POST_MORE:
    case SL_POST_UNFOLLOW:
        break; /* take_posts */
    case SL_POST_FLUSH:
        sl_core_flush_prefixes(c->core);
        break;
    case SL_POST_STOP:
        sl_core_stop(c->core, &c->actions);
        c->stop = true;
        break;
    }
    sl_coordinator_carry_out(c);
}

static void take_posts(struct sl_coordinator *c)
{
    for (struct sl_post *post = sl_mailbox_take(c), *next; post; post = next) {
        next = post->next;
        c->taken++;
        if (post->stays) { /* until its follower goes with it */
            sl_followers_on_post(c, post);
            continue;
        }
        on_post(c, post);
        sl_post_free(c, post);
    }
}

/* ---- the loop ---- */

static int wait_ms(const struct sl_coordinator *c)
{
    uint64_t wake_us = sl_core_wake_us(c->core), now_us = sl_coordinator_now_us();
    if (wake_us == 0)
        return -1;
    return wake_us <= now_us
               ? 0
               : (int)((wake_us - now_us) / 1000u < 60000 ? (wake_us - now_us) / 1000u + 1 : 60000);
}

static void *coordinator_thread(void *arg)
{
    struct sl_coordinator *c = arg;
    pthread_setname_np(pthread_self(), "sl-decide");
    while (!c->stop) {
        struct sl_io_event event;
        sl_notify_turn();
        for (int wait = wait_ms(c); sl_io_poll(c->io, &event, wait) == SL_OK; wait = 0) {
            on_event(c, &event);
            if (event.kind == SL_IO_NUDGE)
                break;
        }
        take_posts(c);
        sl_cancels_look(&c->cancels, c->core, sl_coordinator_now_us(), c->now.meter.cancel,
                        &c->now.meter.cancel_in_vain);
        sl_core_decide(c->core, sl_coordinator_now_us(), &c->actions);
        sl_coordinator_carry_out(c);
        sl_followers_look(c);
        publish(c);
        tell_whether_it_serves(c);
    }
    return NULL;
}

/* ---- life ---- */

static sl_status take_buffers(struct sl_coordinator *c, struct sl_buffers *b, uint32_t node, uint32_t n,
                              size_t size)
{
    b->link = sl_plan_link_id(&c->plan, 0, node);
    sl_plan_node_name(&c->plan, node, b->peer);
    b->size = size;
    b->bytes = calloc(n, size);
    b->free = calloc(n, sizeof *b->free);
    if (!b->bytes || !b->free)
        return SL_E_NOMEM;
    while (b->n_free < n)
        give_buffer(b, b->n_free);
    return SL_OK;
}

static sl_status take_memory(struct sl_coordinator *c)
{
    struct sl_core_config config = {.plan = &c->plan,
                                    .n_end_ids = c->shape.n_eos,
                                    .n_decoders = c->plan.n_decoders,
                                    .alone_us = c->config.alone_ms * UINT64_C(1000),
                                    .max_requests = c->config.max_waiting + c->plan.max_prefill +
                                                    c->plan.max_running * c->plan.max_decoders,
                                    .schedule = c->config.schedule,
                                    .chunk_us = c->config.chunk_us,
                                    .slo_us = c->config.slo_us,
                                    .n_weights = c->weights.n,
                                    .weights = c->weights.list,
                                    .prefix_cache = c->config.prefix_cache};
    memcpy(config.end_ids, c->shape.eos, c->shape.n_eos * sizeof *c->shape.eos);
    /* a release for each sequence on the stages; of each answer on the decode worker its TAKE, two GROW and its CANCEL. Twice
     * over for buffers whose SENT event is late */
    uint32_t records = sl_plan_max_runs(&c->plan) + 4 * c->plan.max_prefill + 8,
             adopts = 8 * c->plan.max_running + 8;
    SL_TRY(take_buffers(c, &c->orders, sl_plan_stage_node(0), records, c->plan.meta_bytes));
    for (uint32_t d = 0; d < c->plan.max_decoders; d++) {
        struct sl_coordinator_decoder *decoder = &c->decoders[d];
        SL_TRY(
            take_buffers(c, &decoder->adopts, sl_plan_decode_node(&c->plan, d), adopts, c->plan.adopt_bytes));
        decoder->link = d < c->plan.n_decoders ? decoder->adopts.link : 0;
    }
    SL_TRY(sl_arena_init(
        &c->arena,
        sl_core_bytes(&config) + sl_busy_bytes(c->plan.n_stages, SL_BUSY_RECORDS) + sl_tail_bytes(), NULL));
    SL_TRY(sl_busy_init(&c->busy, &c->arena, c->plan.n_stages, SL_BUSY_RECORDS));
    SL_TRY(sl_tail_init(&c->tail, &c->arena));
    SL_TRY(sl_core_init(&c->core, &c->arena, &config));
    SL_TRY(sl_latest_init(&c->published, sizeof c->now));
    SL_TRY(sl_latest_init(&c->published_fits, c->plan.n_stages * sizeof(struct sl_cost_fit)));
    c->actions.room = sl_core_max_actions(c->core);
    c->actions.list = calloc(c->actions.room, sizeof *c->actions.list);
    c->foreign = calloc((size_t)c->plan.n_stages * SL_FOREIGN_MAX, sizeof *c->foreign);
    return c->actions.list && c->foreign && c->model_path && c->model_name ? SL_OK : SL_E_NOMEM;
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
    assert(config->n_weights <= SL_MAX_WEIGHTS);
    c->weights.n = config->n_weights;
    for (uint32_t i = 0; i < config->n_weights; i++)
        c->weights.list[i] = config->weights[i];
    c->config.weights = c->weights.list;
    c->tokenizer = config->tokenizer;
    c->io = config->io;
    c->model_path = strdup(config->model_path);
    c->model_name = strdup(config->model_name);
    if (c->config.max_waiting == 0)
        c->config.max_waiting = SL_DEFAULT_WAITING;
    pthread_mutex_init(&c->lock, NULL);
    sl_clock_cond_init(&c->changed);
    pthread_mutex_init(&c->view_lock, NULL);
    sl_clock_cond_init(&c->view_taken);
    c->links = (struct sl_links){.plan = &c->plan, .n_links = config->n_links};
    c->started_wall_us = sl_clock_wall_us();
    c->started_us = sl_coordinator_now_us();
    atomic_init(&c->next_handle, 1);
    bool ready = take_memory(c) == SL_OK;
    if (ready) {
        publish_fits(c);
        publish(c);
    }
    if (!ready || pthread_create(&c->thread, NULL, coordinator_thread, c) != 0) {
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
        sl_mailbox_stop(c);
        pthread_join(c->thread, NULL);
    }
    if (c->io)
        sl_io_destroy(c->io);
    for (struct sl_post *post = sl_mailbox_take(c), *next; post;
         post = next) { /* after the thread's last look */
        next = post->next;
        if (post->stays) {
            sl_followers_on_post(c, post);
            continue;
        }
        if (post->call)
            sl_call_free(post->call);
        sl_post_free(c, post);
    }
    sl_tokenizer_destroy(c->tokenizer);
    free(c->model_path);
    free(c->model_name);
    free(c->orders.bytes);
    free(c->orders.free);
    for (uint32_t d = 0; d < SL_MAX_DECODERS; d++) {
        free(c->decoders[d].adopts.bytes);
        free(c->decoders[d].adopts.free);
    }
    free(c->actions.list);
    free(c->foreign);
    sl_arena_fini(&c->arena);
    sl_latest_fini(&c->published);
    sl_latest_fini(&c->published_fits);
    pthread_mutex_destroy(&c->lock);
    pthread_cond_destroy(&c->changed);
    pthread_mutex_destroy(&c->view_lock);
    pthread_cond_destroy(&c->view_taken);
    free(c->view);
    free(c->seen_tail.words);
    free(c);
}
