/* The holder of one request: it knows who asked, makes text of tokens to find stop strings, and collects the spans of its
 * timeline. What any of it means is decided by the core. */
#include "base/clock.h"
#include "base/log.h"
#include "node/coordinator/coordinator_impl.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- made on the thread of who asks ---- */

/* What it keeps while it is queued: itself, its prompt, here and where the answer is written when that repeats it, and stop
 * strings. What the answer needs is taken when it is admitted, and as it grows. */
static size_t held_bytes(const struct sl_call *call)
{
    size_t bytes = sizeof *call + call->n * (SL_CALL_HOLDER_BYTES + call->longest_stop);
    for (uint32_t i = 0; i < call->n_stop; i++)
        bytes += strlen(call->stop[i]) + 1;
    return bytes + call->ask.steering_bytes +
           call->ask.n_ids * sizeof *call->ask.ids * (call->ask.prompt_logprobs >= 0 ? 2 : 1);
}

static sl_status copy_stops(struct sl_call *call, const struct sl_generate *g, struct sl_tokenizer *tokenizer)
{
    for (uint32_t i = 0; i < g->n_stop; i++) {
        call->stop[i] = strdup(g->stop[i]);
        if (!call->stop[i])
            return SL_E_NOMEM;
        call->n_stop++;
        if (strlen(g->stop[i]) > call->longest_stop)
            call->longest_stop = strlen(g->stop[i]);
    }
    if (g->n_stop == 0)
        return SL_OK;
    size_t room = call->longest_stop + sl_detok_room(tokenizer) + 1;
    call->tails = malloc(call->n * room);
    for (uint32_t i = 0; call->tails && i < call->n; i++) {
        sl_detok_init(&call->texts[i].detok, tokenizer, g->skip_special);
        call->texts[i].tail = call->tails + i * room;
    }
    return call->tails ? SL_OK : SL_E_NOMEM;
}

static void fill_ask(struct sl_ask *ask, const struct sl_generate *g, struct sl_call *call)
{
    *ask = (struct sl_ask){.n_ids = g->n_ids,
                           .sampling = g->sampling,
                           .n = g->n,
                           .max_tokens = g->max_tokens,
                           .min_tokens = g->min_tokens,
                           .ignore_eos = g->ignore_eos,
                           .want_digest = g->want_digest,
                           .n_stop_ids = g->n_stop_ids,
                           .prompt_logprobs = g->prompt_logprobs,
                           .priority = g->priority,
                           .user = call};
    memcpy(ask->id, g->request_id, sizeof ask->id);
    memcpy(ask->cache_salt, g->cache_salt, sizeof ask->cache_salt);
    memcpy(ask->stop_ids, g->stop_ids, g->n_stop_ids * sizeof *g->stop_ids);
    call->submit_us = sl_coordinator_now_us();
    if (g->deadline_ms >= 0)
        ask->deadline_us = call->submit_us + (uint64_t)g->deadline_ms * 1000u;
    if (g->slo_ms > 0)
        ask->target_us = call->submit_us + g->slo_ms * UINT64_C(1000);
    memcpy(ask->tenant, g->tenant, sizeof ask->tenant);
}

/* The ids of the prompt are counted as seen when there is a penalty for it. */
static sl_status make_steering(struct sl_ask *ask, const struct sl_generate *g, uint32_t vocab)
{
    bool repeats = sl_sampling_repeats(&g->sampling);
    uint64_t *seen = repeats ? calloc(sl_id_words(vocab), sizeof *seen) : NULL;
    if (repeats && !seen)
        return SL_E_NOMEM;
    uint32_t n_ids = repeats ? sl_ids_mark(seen, g->ids, g->n_ids) : 0;
    ask->steering_bytes = sl_steering_bytes(g->n_bias, n_ids, vocab);
    uint8_t *steering = ask->steering_bytes ? malloc(ask->steering_bytes) : NULL;
    if (steering)
        sl_steering_pack(steering, g->bias, g->n_bias, seen, n_ids, vocab);
    free(seen);
    ask->steering = steering;
    return steering || !ask->steering_bytes ? SL_OK : SL_E_NOMEM;
}

sl_status sl_call_make(struct sl_call **out, const struct sl_generate *g, struct sl_tokenizer *tokenizer,
                       uint32_t vocab)
{
    struct sl_call *call = calloc(1, sizeof *call);
    uint32_t *ids = malloc(g->n_ids * sizeof *ids);
    if (!call || !ids) {
        free(call);
        free(ids);
        return SL_E_NOMEM;
    }
    fill_ask(&call->ask, g, call);
    memcpy(ids, g->ids, g->n_ids * sizeof *ids);
    call->ask.ids = ids;
    call->n = g->n ? g->n : 1;
    call->skip_special = g->skip_special;
    call->include_stop = g->include_stop;
    memcpy(call->owner, g->owner, sizeof call->owner);
    call->want_timeline = g->want_timeline;
    memcpy(call->trace_id, g->trace_id, sizeof call->trace_id);
    sl_status status = copy_stops(call, g, tokenizer);
    if (status == SL_OK)
        status = make_steering(&call->ask, g, vocab);
    call->ask.held_bytes = held_bytes(call);
    if (status == SL_OK)
        *out = call;
    else
        sl_call_free(call);
    return status;
}

void sl_call_free(struct sl_call *call)
{
    for (uint32_t i = 0; i < call->n_stop; i++)
        free(call->stop[i]);
    for (uint32_t i = 0; i < call->n; i++) {
        free(call->texts[i].ids);
        free((uint8_t *)(uintptr_t)call->ask.said[i].counts);
    }
    free((uint32_t *)(uintptr_t)call->ask.ids);
    free((uint8_t *)(uintptr_t)call->ask.steering);
    free(call->ask.prompt);
    free(call->spans);
    free(call->foreign);
    free(call->tails);
    free(call);
}

bool sl_call_admitted(struct sl_coordinator *c, struct sl_call *call, const struct sl_action *admit)
{
    call->predicted_us = admit->admit.predicted_us;
    sl_meter_admitted(c, call, sl_coordinator_now_us());
    if (call->ask.prompt_logprobs < 0)
        return true;
    call->ask.prompt = calloc(call->ask.n_ids, sizeof *call->ask.prompt);
    return call->ask.prompt != NULL;
}

/* ---- the table of calls ---- */

void sl_call_insert(struct sl_coordinator *c, struct sl_call *call)
{
    struct sl_call **bucket = &c->calls[call->handle % SL_CALL_BUCKETS];
    call->next = *bucket;
    *bucket = call;
}

struct sl_call *sl_call_find(const struct sl_coordinator *c, uint64_t handle)
{
    struct sl_call *call = c->calls[handle % SL_CALL_BUCKETS];
    while (call && call->handle != handle)
        call = call->next;
    return call;
}

static void remove_call(struct sl_coordinator *c, struct sl_call *call)
{
    struct sl_call **at = &c->calls[call->handle % SL_CALL_BUCKETS];
    while (*at != call)
        at = &(*at)->next;
    *at = call->next;
}

/* ---- what was told ---- */

bool sl_call_keep(struct sl_call *call, const struct sl_action *a)
{
    struct sl_call_text *text = &call->texts[a->index];
    if (!a->token.out || call->ask.max_tokens < 2)
        return true;
    if (a->token.n_out > text->room) {
        uint32_t room = text->room ? 2 * text->room : 64;
        uint32_t *ids = realloc(text->ids, room * sizeof *ids);
        if (!ids)
            return false;
        text->ids = ids;
        text->room = room;
        call->ask.said[a->index].ids = ids;
    }
    text->ids[a->token.n_out - 1] = a->token.out->id;
    return true;
}

static int by_id(const void *a, const void *b)
{
    const uint32_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

bool sl_call_set_back(struct sl_coordinator *c, struct sl_call *call, const struct sl_action *a)
{
    struct sl_call_text *text = &call->texts[a->index];
    struct sl_said *said = &call->ask.said[a->index];
    if (!sl_sampling_counts(&call->ask.sampling))
        return true;
    uint32_t *sorted = malloc(text->n_out * sizeof *sorted);
    uint8_t *counts = malloc(sl_counts_max_bytes(text->n_out, c->plan.vocab));
    free((uint8_t *)(uintptr_t)said->counts);
    said->counts = counts;
    if (sorted && counts) {
        memcpy(sorted, text->ids, text->n_out * sizeof *sorted);
        qsort(sorted, text->n_out, sizeof *sorted, by_id);
        said->counts_bytes = (uint32_t)sl_counts_pack(counts, sorted, text->n_out, c->plan.vocab);
    }
    free(sorted);
    return sorted && counts;
}

/* ---- tokens and text ---- */

/* Text grows at the end of tail; what is too old to be part of a stop string is dropped. */
static const char *find_stop(const struct sl_call *call, struct sl_call_text *text, uint32_t id)
{
    if (call->n_stop == 0)
        return NULL;
    text->tail_bytes += sl_detok_push(&text->detok, id, text->tail + text->tail_bytes);
    const char *first = NULL, *which = NULL;
    for (uint32_t i = 0; i < call->n_stop; i++) { /* text may hold NUL */
        const char *at = memmem(text->tail, text->tail_bytes, call->stop[i], strlen(call->stop[i]));
        if (at && (!first || at < first)) {
            first = at;
            which = call->stop[i];
        }
    }
    if (text->tail_bytes >= call->longest_stop) {
        size_t keep = call->longest_stop - 1, drop = text->tail_bytes - keep;
        memmove(text->tail, text->tail + drop, keep);
        text->tail_bytes = keep;
    }
    return which;
}

static struct sl_timeline timeline_of(const struct sl_coordinator *c, const struct sl_call *call,
                                      uint64_t now_us)
{
    return (struct sl_timeline){.submit_us = call->submit_us,
                                .admit_us = call->admit_us,
                                .first_token_us = call->first_us,
                                .done_us = now_us,
                                .n_stages = c->plan.n_stages,
                                .n_spans = call->n_spans,
                                .spans = call->spans,
                                .n_foreign = call->n_foreign,
                                .foreign = call->foreign};
}

/* Once, with its first token, or with its end if it has none: what the stages did for others may be forgotten later. */
static void note_foreign(struct sl_coordinator *c, struct sl_call *call, uint64_t now_us)
{
    if (!call->want_timeline || call->foreign)
        return;
    struct sl_timeline timeline = timeline_of(c, call, now_us);
    uint32_t n = sl_busy_foreign(&c->busy, &timeline, c->foreign);
    call->foreign = malloc((n + 1u) * sizeof *call->foreign);
    if (!call->foreign)
        return; /* a timeline with a gap */
    memcpy(call->foreign, c->foreign, n * sizeof *call->foreign);
    call->n_foreign = n;
}

bool sl_call_token(struct sl_coordinator *c, struct sl_call *call, const struct sl_action *a)
{
    struct sl_call_text *text = &call->texts[a->index];
    const struct sl_token_out *out = a->token.out;
    struct sl_generated piece = {.index = a->index,
                                 .tokens = out,
                                 .n_tokens = out ? 1 : 0,
                                 .prompt_tokens = call->ask.n_ids,
                                 .completion_tokens = a->token.n_out,
                                 .cached_tokens = a->token.cached_tokens,
                                 .matched_stop_id = -1};
    if (call->first_us == 0) {
        piece.prompt = call->ask.prompt;
        piece.n_prompt = call->ask.prompt ? call->ask.n_ids : 0;
    }
    text->n_out = a->token.n_out;
    sl_meter_token(c, call, text, sl_coordinator_now_us());
    note_foreign(c, call, call->first_us);
    call->fn(call->user, &piece);
    const char *stop = out ? find_stop(call, text, out->id) : NULL;
    if (stop && text->n_out > call->ask.min_tokens)
        text->matched = stop;
    return stop != NULL;
}

/* An id is whoever's asked: it stays within its quotes. */
static const char *quotable(char out[SL_MAX_REQUEST_ID], const char *id)
{
    snprintf(out, SL_MAX_REQUEST_ID, "%s", id);
    for (char *at = out; *at; at++)
        if ((unsigned char)*at < ' ' || *at == '"' || *at == '\\' || *at == 0x7f)
            *at = '?';
    return out;
}

static const char *ms_text(char out[24], uint64_t from_us, uint64_t to_us)
{
    snprintf(out, 24, "%.1f", (double)(to_us - from_us) * 1e-3);
    return to_us >= from_us && to_us > 0 ? out : "-";
}

/* One line about each request. Those that are refused can come as fast as a stranger likes: a line a second tells of them. */
static void log_end(const struct sl_call *call, const struct sl_action *a, uint64_t now_us)
{
    static const char *const finishes[] = {"stop", "length", "abort"};
    static struct sl_log_seldom seldom;
    char id[SL_MAX_REQUEST_ID], queue[24], ttft[24], predicted[24], total[24];
    uint32_t output = 0, left_out = 0;
    if (!sl_log_is_taken() || (call->seq == 0 && !sl_log_may(&seldom, sl_clock_ns(), &left_out)))
        return;
    for (uint32_t i = 0; i < call->n; i++)
        output += call->texts[i].n_out;
    char unsaid[48] = "";
    if (left_out)
        snprintf(unsaid, sizeof unsaid, " refused_unsaid=%u", left_out);
    sl_log_info("request \"%s\": tenant=\"%s\" priority=%d prompt_tokens=%u output_tokens=%u queue_ms=%s "
                "ttft_ms=%s predicted_ttft_ms=%s total_ms=%s status=%s finish=%s%s%s%s%s%s",
                quotable(id, call->ask.id), call->ask.tenant, call->ask.priority, call->ask.n_ids, output,
                ms_text(queue, call->submit_us, call->admit_us),
                ms_text(ttft, call->submit_us, call->first_us), ms_text(predicted, 0, call->predicted_us),
                ms_text(total, call->submit_us, now_us),
                call->failed ? sl_status_name(call->failed_with) : "ok", finishes[a->end.finish],
                call->trace_id[0] ? " trace_id=" : "", call->trace_id, unsaid, a->end.error ? ": " : "",
                a->end.error ? a->end.error : "");
}

void sl_call_end(struct sl_coordinator *c, struct sl_call *call, const struct sl_action *a)
{
    uint64_t now_us = sl_coordinator_now_us();
    note_foreign(c, call, now_us);
    struct sl_timeline timeline = timeline_of(c, call, now_us);
    bool by_string = a->end.finish == SL_FINISH_STOP && a->end.status == SL_OK && a->end.stop_id < 0;
    struct sl_generated piece = {.index = a->index,
                                 .done = true,
                                 .last = a->end.last,
                                 .request_id = call->ask.id,
                                 .prompt_tokens = call->ask.n_ids,
                                 .completion_tokens = a->end.n_out,
                                 .cached_tokens = a->end.cached_tokens,
                                 .status = a->end.status,
                                 .error = a->end.error,
                                 .retry_after_ms = a->end.retry_after_ms,
                                 .finish = a->end.finish,
                                 .matched_stop_id = a->end.stop_id,
                                 .matched_stop = by_string ? call->texts[a->index].matched : NULL,
                                 .timeline = call->want_timeline ? &timeline : NULL,
                                 .logits_digest = a->end.logits_digest,
                                 .kv_digest = a->end.kv_digest};
    if (a->end.status != SL_OK && !call->failed) {
        call->failed = true;
        call->failed_with = a->end.status;
    }
    if (a->end.last) {
        sl_meter_ended(c, call, a, now_us);
        sl_coordinator_show(c); /* whoever reads its line in the log, or its end, may look at once */
        log_end(call, a, now_us);
    }
    if (a->end.last && call->first_us > 0) /* an abort, too: what was told was told */
        sl_finished_add(&c->finished, call->ask.id, now_us);
    call->fn(call->user, &piece);
    if (!a->end.last)
        return;
    remove_call(c, call);
    sl_call_free(call);
}

/* ---- spans: of every node's clock, turned to ours ---- */

static int64_t offset_of_node(const struct sl_coordinator *c, uint32_t node)
{
    return sl_io_clock(c->io, sl_plan_link_id(&c->plan, 0, node)).offset_us;
}

void sl_call_ran(struct sl_coordinator *c, struct sl_call *call, const struct sl_action *a)
{
    if (!call->want_timeline)
        return;
    if (call->n_spans + c->plan.n_stages > call->room_spans) {
        uint32_t room = 2 * call->room_spans + 16 * c->plan.n_stages;
        struct sl_span *spans = realloc(call->spans, room * sizeof *spans);
        if (!spans)
            return; /* a timeline with a gap is better than a request that fails */
        call->spans = spans;
        call->room_spans = room;
    }
    int64_t ahead_us[SL_MAX_STAGES];
    sl_span_offsets(ahead_us, a->ran.head->traces, c->plan.n_stages,
                    offset_of_node(c, sl_plan_stage_node(0)));
    for (uint32_t k = 0; k < c->plan.n_stages; k++) {
        const struct sl_trace *t = &a->ran.head->traces[k];
        call->spans[call->n_spans++] =
            (struct sl_span){.stage = (uint16_t)k,
                             .chunk = a->ran.index,
                             .pos = a->ran.pos,
                             .tokens = a->ran.n,
                             .recv_us = sl_span_time(t->recv_us, ahead_us[k]),
                             .begin_us = sl_busy_last(&c->busy, k)->begin_us,
                             .end_us = sl_busy_last(&c->busy, k)->end_us,
                             .at_peak_us = t->at_peak_us,
                             .predicted_us = (uint64_t)(a->ran.predicted_us[k] + 0.5)};
    }
}

void sl_call_arrived(const struct sl_coordinator *c, struct sl_call *call, const struct sl_action *a)
{
    if (!call->want_timeline)
        return;
    uint64_t at_us =
        sl_span_time(a->arrived.at_us, offset_of_node(c, sl_plan_decode_node(&c->plan, a->decoder)));
    for (uint32_t i = 0; i < call->n_spans; i++)
        if (call->spans[i].stage == a->arrived.stage && call->spans[i].chunk == a->arrived.chunk)
            call->spans[i].kv_acked_us = at_us;
}
