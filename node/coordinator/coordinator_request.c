/* One request's life on the coordinator's thread: queued -> admitted -> its slices come back -> first token -> adopted by the
 * decode worker -> tokens -> the end. The end is told once; the request is forgotten when nothing of it is left anywhere:
 * its pages on the stages (FREE or CANCEL answered) and on the decode worker (ENDED). */
#include "base/clock.h"
#include "base/digest.h"
#include "node/coordinator/coordinator_impl.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>

void sl_request_free(struct sl_request *r)
{
    for (uint32_t i = 0; i < r->ask.n_stop; i++)
        free((char *)(uintptr_t)r->ask.stop[i]);
    free((uint32_t *)(uintptr_t)r->ask.ids);
    free(r->prompt);
    free(r->spans);
    free(r->tail);
    free(r);
}

struct sl_request *sl_request_first(struct sl_coordinator *c)
{
    pthread_mutex_lock(&c->lock);
    struct sl_request *r = c->requests;
    pthread_mutex_unlock(&c->lock);
    return r;
}

struct sl_request *sl_request_find(struct sl_coordinator *c, uint64_t seq)
{
    for (struct sl_request *r = sl_request_first(c); r; r = r->next)
        if (r->seq == seq)
            return r;
    return NULL;
}

/* ---- telling the caller ---- */

static void tell(struct sl_request *r, struct sl_generated *piece)
{
    piece->prompt_tokens = r->ask.n_ids;
    piece->completion_tokens = r->n_out;
    piece->matched_stop_id = -1;
    if (r->done)
        return;
    if (piece->done) {
        r->done = true;
        piece->matched_stop_id = r->matched_stop_id;
        piece->matched_stop = r->matched_stop;
    }
    r->fn(r->user, piece);
}

static void count_end(struct sl_coordinator *c, struct sl_request *r, sl_status status, enum sl_finish finish)
{
    pthread_mutex_lock(&c->lock);
    if (status != SL_OK)
        c->meter.failed++;
    else
        c->meter.ok[finish]++;
    if (status == SL_OK && finish != SL_FINISH_ABORT)
        sl_hist_add(&c->meter.e2e, sl_clock_wall_us() - r->submit_us);
    pthread_mutex_unlock(&c->lock);
}

/* stages may drop it: FREE when its work there is done, CANCEL when it is not */
static void let_stages_go(struct sl_coordinator *c, struct sl_request *r, enum sl_order_kind kind)
{
    if (!r->stages_live || r->free_sent || c->lost)
        return;
    r->free_sent = true;
    sl_coordinator_log_control(c, kind, r);
}

void sl_request_end(struct sl_coordinator *c, struct sl_request *r, sl_status status, enum sl_finish finish,
                    const char *error)
{
    if (!r->done) {
        struct sl_timeline timeline = {r->submit_us,     r->first_us, sl_clock_wall_us(),
                                       c->plan.n_stages, r->n_spans,  r->spans};
        struct sl_generated piece = {.done = true,
                                     .status = status,
                                     .error = error,
                                     .finish = finish,
                                     .logits_digest = r->logits_digest};
        if (r->ask.want_timeline)
            piece.timeline = &timeline;
        count_end(c, r, status, finish);
        tell(r, &piece);
    }
    sl_schedule_remove(&c->schedule, &r->entry);
    let_stages_go(c, r, SL_ORDER_CANCEL);
    if (r->decode_live && !r->ended_by_decode && !c->lost) {
        struct sl_adopt cancel = {.kind = SL_ADOPT_CANCEL, .seq = r->seq};
        r->ended_by_decode = true;
        sl_coordinator_send_adopt(c, &cancel);
    }
    sl_request_retire(c, r);
}

void sl_request_retire(struct sl_coordinator *c, struct sl_request *r)
{
    bool held = (r->stages_live || r->decode_live) && !c->lost;
    if (!r->done || held)
        return;
    sl_schedule_end(&c->schedule, &r->entry);
    pthread_mutex_lock(&c->lock);
    for (struct sl_request **p = &c->requests; *p; p = &(*p)->next)
        if (*p == r) {
            *p = r->next;
            c->n_requests--;
            break;
        }
    sl_coordinator_publish(c); /* who waits for idle sees the pages back */
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
    sl_request_free(r);
}

/* ---- start ---- */

void sl_request_start(struct sl_coordinator *c, struct sl_request *r)
{
    r->queued = true;
    r->matched_stop_id = -1;
    r->handoff = r->ask.max_tokens > 1;
    sl_schedule_entry_init(&r->entry, &c->plan, r->seq, r->ask.n_ids, r->handoff ? r->ask.max_tokens : 0);
    sl_schedule_push(&c->schedule, &r->entry);
}

void sl_request_admitted(struct sl_coordinator *c, struct sl_request *r)
{
    r->admit_us = sl_clock_wall_us();
    pthread_mutex_lock(&c->lock);
    sl_hist_add(&c->meter.queue, r->admit_us - r->submit_us);
    pthread_mutex_unlock(&c->lock);
    if (!r->handoff)
        return;
    r->decode_live = true;
}

/* ---- stops ---- */

static bool is_eos(const struct sl_coordinator *c, uint32_t id)
{
    for (uint32_t i = 0; i < c->shape.n_eos; i++)
        if (c->shape.eos[i] == id)
            return true;
    return false;
}

static bool is_stop_id(const struct sl_request *r, uint32_t id)
{
    for (uint32_t i = 0; i < r->ask.n_stop_ids; i++)
        if (r->ask.stop_ids[i] == id)
            return true;
    return false;
}

/* Text grows at the end of tail; what is too old to be part of a stop string is dropped. */
static bool matches_stop_string(struct sl_request *r, uint32_t id)
{
    if (r->ask.n_stop == 0)
        return false;
    r->tail_bytes += sl_detok_push(&r->detok, id, r->tail + r->tail_bytes);
    const char *first = NULL;
    for (uint32_t i = 0; i < r->ask.n_stop; i++) {
        /* text may hold NUL */
        const char *at = memmem(r->tail, r->tail_bytes, r->ask.stop[i], strlen(r->ask.stop[i]));
        if (at && (!first || at < first)) {
            first = at;
            r->matched_stop = r->ask.stop[i];
        }
    }
    if (r->tail_bytes >= r->longest_stop) {
        size_t keep = r->longest_stop - 1, drop = r->tail_bytes - keep;
        memmove(r->tail, r->tail + drop, keep);
        r->tail_bytes = keep;
    }
    return first != NULL;
}

static void count_output(struct sl_coordinator *c, struct sl_request *r)
{
    uint64_t now = sl_clock_wall_us(), second = now / 1000000u;
    struct sl_coordinator_meter *m = &c->meter;
    pthread_mutex_lock(&c->lock);
    m->output_tokens++;
    if (m->second[second % 10] != second) {
        m->second[second % 10] = second;
        m->second_tokens[second % 10] = 0;
    }
    m->second_tokens[second % 10]++;
    if (r->n_out == 1)
        sl_hist_add(&m->ttft, now - r->submit_us);
    else
        sl_hist_add(&m->inter_token, now - r->last_us);
    pthread_mutex_unlock(&c->lock);
    r->last_us = now;
}

/* A token came: pass it on. Returns true when it ends the request for a reason that only we know (a stop string), or
 * when it is the first one and nothing may follow it. */
static bool deliver_token(struct sl_coordinator *c, struct sl_request *r, const struct sl_token_out *token,
                          uint32_t finish)
{
    r->n_out++;
    count_output(c, r);
    struct sl_generated piece = {.tokens = token, .n_tokens = 1};
    if (r->n_out == 1 && r->prompt) {
        piece.prompt = r->prompt;
        piece.n_prompt = r->ask.n_ids;
    }
    tell(r, &piece);
    bool may_stop = r->n_out > r->ask.min_tokens, eos = !r->ask.ignore_eos && is_eos(c, token->id);
    if (may_stop && !eos && is_stop_id(r, token->id))
        r->matched_stop_id = token->id;
    if (may_stop && (eos || r->matched_stop_id >= 0)) {
        r->finish = SL_FINISH_STOP;
        return finish == 0;
    }
    if (matches_stop_string(r, token->id) && may_stop) {
        r->finish = SL_FINISH_STOP;
        return true;
    }
    r->matched_stop = NULL;
    r->finish = SL_FINISH_LENGTH;
    return r->n_out >= r->ask.max_tokens && finish == 0;
}

/* ---- results of prefill ---- */

static void add_spans(struct sl_coordinator *c, struct sl_request *r, const struct sl_result_head *head,
                      const struct sl_result_slice *slice)
{
    if (!r->ask.want_timeline)
        return;
    if (r->n_spans + c->plan.n_stages > r->room_spans) {
        uint32_t room = 2 * r->room_spans + 16 * c->plan.n_stages;
        struct sl_span *spans = realloc(r->spans, room * sizeof *spans);
        if (!spans)
            return; /* a timeline with a gap is better than a request that fails */
        r->spans = spans;
        r->room_spans = room;
    }
    for (uint32_t k = 0; k < c->plan.n_stages; k++)
        r->spans[r->n_spans++] = (struct sl_span){.stage = (uint16_t)k,
                                                  .chunk = slice->index,
                                                  .pos = slice->pos,
                                                  .tokens = slice->n,
                                                  .recv_us = head->traces[k].recv_us,
                                                  .begin_us = head->traces[k].begin_us,
                                                  .end_us = head->traces[k].end_us,
                                                  .at_peak_us = head->traces[k].at_peak_us};
}

static void send_take(struct sl_coordinator *c, struct sl_request *r, uint32_t first_id)
{
    struct sl_adopt adopt = {.kind = SL_ADOPT_TAKE,
                             .seq = r->seq,
                             .prompt_tokens = r->ask.n_ids,
                             .first_id = first_id,
                             .max_tokens = r->ask.max_tokens,
                             .min_tokens = r->ask.min_tokens,
                             .digest = r->ask.want_digest,
                             .sampling = r->ask.sampling};
    for (uint32_t i = 0; !r->ask.ignore_eos && i < c->shape.n_eos; i++)
        adopt.stops[adopt.n_stops++] = c->shape.eos[i];
    for (uint32_t i = 0; i < r->ask.n_stop_ids; i++)
        adopt.stops[adopt.n_stops++] = r->ask.stop_ids[i];
    struct sl_sequence *s = sl_sequences_find(&c->decode_pages, r->seq);
    assert(s);
    while (s->n_pages < sl_pages_of(r->ask.n_ids + r->ask.max_tokens))
        sl_coordinator_next_page(&c->decode_pages, s);
    adopt.n_pages = s->n_pages;
    adopt.pages = (const uint8_t *)s->pages;
    sl_coordinator_send_adopt(c, &adopt);
}

static void on_first_token(struct sl_coordinator *c, struct sl_request *r,
                           const struct sl_result_slice *slice)
{
    r->first_us = sl_clock_wall_us();
    r->logits_digest = slice->logits_digest;
    pthread_mutex_lock(&c->lock);
    sl_hist_add(&c->meter.prefill, r->first_us - r->admit_us);
    c->meter.prompt_tokens += r->ask.n_ids;
    pthread_mutex_unlock(&c->lock);
    if (!r->handoff)
        let_stages_go(c, r, SL_ORDER_FREE);
    if (r->ask.max_tokens == 0) { /* score: the prompt's log-probabilities are all that was asked for */
        tell(r, &(struct sl_generated){.prompt = r->prompt, .n_prompt = r->prompt ? r->ask.n_ids : 0});
        sl_request_end(c, r, SL_OK, SL_FINISH_LENGTH, NULL);
        return;
    }
    if (deliver_token(c, r, &slice->first, 0))
        sl_request_end(c, r, SL_OK, r->finish, NULL);
    else
        send_take(c, r, slice->first.id);
}

void sl_request_on_slice(struct sl_coordinator *c, const struct sl_result_head *head,
                         const struct sl_result_slice *slice, struct sl_cursor *prompt)
{
    struct sl_request *r = sl_request_find(c, slice->seq);
    for (uint32_t i = 0; i < slice->n_prompt; i++) { /* of positions pos + 1 + i */
        struct sl_token_out token;
        if (!sl_token_get(prompt, &token))
            return;
        if (r && r->prompt && slice->pos + 1 + i < r->ask.n_ids)
            r->prompt[slice->pos + 1 + i] = token;
    }
    if (!r || r->done)
        return;
    add_spans(c, r, head, slice);
    if (slice->has_token)
        on_first_token(c, r, slice);
}

void sl_request_stages_freed(struct sl_coordinator *c, struct sl_request *r)
{
    r->stages_live = false;
    sl_schedule_give_prefill(&c->schedule, &r->entry);
    sl_request_retire(c, r);
}

/* ---- what the decode worker says ---- */

static void on_arrived(struct sl_request *r, const struct sl_tokens_entry *entry)
{
    for (uint32_t i = 0; i < r->n_spans; i++)
        if (r->spans[i].stage == entry->stage && r->spans[i].chunk == entry->chunk)
            r->spans[i].kv_acked_us = entry->at_us;
}

static void on_decode_token(struct sl_coordinator *c, struct sl_request *r,
                            const struct sl_tokens_entry *entry)
{
    if (r->done)
        return;
    if (deliver_token(c, r, &entry->token, entry->finish))
        sl_request_end(c, r, SL_OK, r->finish, NULL);
    else if (entry->finish)
        r->ended_by_decode = true; /* told at ENDED, which is next, with the digests */
}

static void on_decode_gone(struct sl_coordinator *c, struct sl_request *r,
                           const struct sl_tokens_entry *entry)
{
    r->decode_live = false;
    struct sl_sequence *s = sl_sequences_find(&c->decode_pages, r->seq);
    if (s)
        sl_sequences_close(&c->decode_pages, s);
    sl_schedule_give_decode(&c->schedule, &r->entry);
    if (entry->kind == SL_TOKENS_FAILED && !r->done) {
        const char *error =
            entry->status == SL_E_CORRUPT
                ? "KV pages were damaged on the way to the decode worker; send the request again"
                : "the decode worker has no room for the sequence; send the request again later";
        sl_request_end(c, r, (sl_status)entry->status, SL_FINISH_ABORT, error);
        return;
    }
    if (r->done) {
        sl_request_retire(c, r);
        return;
    }
    uint64_t chain[2] = {r->logits_digest, entry->logits_digest};
    struct sl_timeline timeline = {r->submit_us,     r->first_us, sl_clock_wall_us(),
                                   c->plan.n_stages, r->n_spans,  r->spans};
    struct sl_generated piece = {.done = true,
                                 .finish = r->finish,
                                 .logits_digest = sl_xxh3(chain, sizeof chain),
                                 .kv_digest = entry->kv_digest,
                                 .timeline = r->ask.want_timeline ? &timeline : NULL};
    count_end(c, r, SL_OK, r->finish);
    tell(r, &piece);
    sl_request_retire(c, r);
}

void sl_request_on_entry(struct sl_coordinator *c, const struct sl_tokens_entry *entry)
{
    struct sl_request *r = sl_request_find(c, entry->seq);
    if (!r || !r->decode_live)
        return;
    switch (entry->kind) {
    case SL_TOKENS_TOKEN:
        on_decode_token(c, r, entry);
        break;
    case SL_TOKENS_ARRIVED:
        on_arrived(r, entry);
        break;
    case SL_TOKENS_ADOPTED:
        r->adopted = true;
        let_stages_go(c, r, SL_ORDER_FREE);
        break;
    case SL_TOKENS_ENDED:
    case SL_TOKENS_FAILED:
        on_decode_gone(c, r, entry);
        break;
    }
}
