/* Generate: pieces from the coordinator become messages of a stream.
 *
 * Two threads meet in a `generation`: the coordinator's, which brings pieces and must never block, and the call's worker, which
 * packs messages and knows when the client can take more or is gone. Pieces go from the one to the other through an inbox
 * without a lock, and the worker is woken when it has seen all that was there before. Tokens that the client has not taken yet
 * are collected, bounded by max_tokens; one message may then carry many. Each of the two lets go once: the coordinator with
 * its last piece, the worker with the call's end; whoever is last frees. Nothing is sent before the first token (or the end)
 * is certain, so a failure until then is Trailers-Only and may be retried by the client. */
#include "base/clock.h"
#include "base/text.h"
#include "node/edge/engine_impl.h"
#include "node/edge/headers.h"
#include "node/edge/traces.h"
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef Vllm__Grpc__Engine__TopLogProbs top_logprobs;
typedef Vllm__Grpc__Engine__OutputLogProbs output_logprobs;
typedef Vllm__Grpc__Engine__InputLogProbs input_logprobs;
typedef Vllm__Grpc__Engine__InputTokenLogProb input_logprob;

enum {
    CHUNK_TOKENS = 256 /* a message with 20 log-probabilities a token stays far below 4 MiB */,
    BLOCK_TOKENS = 32
};

struct tokens {
    struct sl_token_out *data;
    uint32_t n, room;
};

struct
    inbox_block { /* tokens in the order of their making; the next block is there before the first token in it */
    _Atomic(struct inbox_block *) next;
    _Atomic uint32_t n;
    struct sl_token_out tokens[BLOCK_TOKENS];
};

struct ending { /* the last piece */
    sl_status status;
    char error[320];
    uint32_t retry_after_ms;
    enum sl_finish finish;
    int64_t matched_id;
    char *matched;
    struct sl_text timeline;
};

struct strand { /* of one index */
    /* the coordinator writes, then says so; the worker looks, then reads */
    struct inbox_block *tail;
    struct ending end;
    atomic_bool ended;

    /* the worker's */
    struct inbox_block *head;
    uint32_t n_read;     /* of head */
    struct tokens fresh; /* not sent: [n_sent, n) */
    uint32_t n_sent;
    uint32_t *ids; /* of the whole answer, for its last message */
    uint32_t n_ids, ids_room, completion_tokens;
    bool seen_ended, complete_sent; /* seen_ended: and all that came before it was taken */
};

struct generation {
    atomic_uint holders;
    struct sl_rpc_call *call; /* ours until the last lets go */
    struct sl_coordinator *coordinator;

    /* the coordinator writes, then says so; the worker looks, then reads */
    struct tokens prompt_in;
    atomic_uint cached_tokens;
    atomic_bool prompt_there, ended, no_memory; /* ended: all answers */
    atomic_bool woken;                          /* the worker has been called and has not looked yet */
    atomic_bool deaf;                           /* the worker's word: nothing more is wanted */

    /* for its trace: the coordinator's, once it was submitted */
    struct sl_traces *traces; /* NULL: none is made */
    struct sl_traceparent context;
    uint32_t output_tokens;
    bool wants_timeline; /* the client does */

    /* the worker's */
    uint64_t handle;
    bool open;            /* the client is there and has not everything */
    bool stream, blocked; /* blocked: the call's queue is full, on_writable will come */
    int32_t n_logprobs;
    uint32_t *prompt_ids;
    struct tokens prompt;
    bool prompt_sent, finished;
    uint32_t prompt_tokens;
    uint32_t n;
    struct strand answers[]; /* [n] */
};

static void answer_fini(struct strand *a)
{
    while (a->head) {
        struct inbox_block *next = atomic_load(&a->head->next);
        free(a->head);
        a->head = next;
    }
    free(a->fresh.data);
    free(a->ids);
    free(a->end.matched);
    free(a->end.timeline.data);
}

static void let_go(struct generation *g)
{
    if (atomic_fetch_sub(&g->holders, 1) != 1)
        return;
    for (uint32_t i = 0; i < g->n; i++)
        answer_fini(&g->answers[i]);
    sl_rpc_unref(g->call);
    free(g->prompt_in.data);
    free(g->prompt_ids);
    free(g);
}

static bool grow(void **data, uint32_t *room, uint32_t wanted, size_t item)
{
    if (wanted <= *room)
        return true;
    uint32_t bigger = *room * 2 > wanted ? *room * 2 : wanted < 16 ? 16 : wanted;
    void *grown = realloc(*data, bigger * item);
    if (!grown)
        return false;
    *data = grown;
    *room = bigger;
    return true;
}

static bool append(struct tokens *to, const struct sl_token_out *tokens, uint32_t n)
{
    void *data = to->data;
    if (!grow(&data, &to->room, to->n + n, sizeof *to->data))
        return false;
    to->data = data;
    if (n)
        memcpy(to->data + to->n, tokens, n * sizeof *tokens);
    to->n += n;
    return true;
}

/* ---- building messages, all of it in an arena that dies with the message ---- */

static size_t logprob_bytes(uint32_t n)
{
    return n *
           (sizeof(top_logprobs) + sizeof(input_logprob) + 2 * sizeof(void *) + 2 * sizeof(uint32_t) + 32);
}

/* The k best of each token, which the message only points to; NULL when none are wanted. */
static top_logprobs **build_top(struct sl_pb *pb, struct sl_token_out *tokens, uint32_t n)
{
    top_logprobs **list = sl_pb_take(pb, n * sizeof *list);
    top_logprobs *items = sl_pb_take(pb, n * sizeof *items);
    for (uint32_t i = 0; list && items && i < n; i++) {
        vllm__grpc__engine__top_log_probs__init(&items[i]);
        items[i].n_values = items[i].n_token_ids = tokens[i].n_top;
        items[i].values = tokens[i].top_logprobs;
        items[i].token_ids = tokens[i].top_ids;
        list[i] = &items[i];
    }
    return items ? list : NULL;
}

static output_logprobs *build_output(struct sl_pb *pb, struct sl_token_out *tokens, uint32_t n, bool with_top)
{
    output_logprobs *out = sl_pb_take(pb, sizeof *out);
    float *values = sl_pb_take(pb, n * sizeof *values);
    uint32_t *ids = sl_pb_take(pb, n * sizeof *ids);
    if (!out || !values || !ids)
        return NULL;
    vllm__grpc__engine__output_log_probs__init(out);
    for (uint32_t i = 0; i < n; i++) {
        values[i] = tokens[i].logprob;
        ids[i] = tokens[i].id;
    }
    out->n_token_logprobs = out->n_token_ids = n;
    out->token_logprobs = values;
    out->token_ids = ids;
    if (with_top) {
        out->top_logprobs = build_top(pb, tokens, n);
        out->n_top_logprobs = out->top_logprobs ? n : 0;
    }
    return out;
}

/* The first prompt token has no log-probability: nothing stands before it. */
static input_logprobs *build_input(struct sl_pb *pb, struct generation *g)
{
    uint32_t n = g->prompt.n;
    input_logprobs *in = sl_pb_take(pb, sizeof *in);
    input_logprob **list = sl_pb_take(pb, n * sizeof *list);
    input_logprob *items = sl_pb_take(pb, n * sizeof *items);
    bool with_top = false;
    if (!in || !list || !items)
        return NULL;
    vllm__grpc__engine__input_log_probs__init(in);
    for (uint32_t i = 0; i < n; i++) {
        vllm__grpc__engine__input_token_log_prob__init(&items[i]);
        list[i] = &items[i];
        if (i == 0)
            continue;
        items[i]._value_case = VLLM__GRPC__ENGINE__INPUT_TOKEN_LOG_PROB___VALUE_VALUE;
        items[i].value = g->prompt.data[i].logprob;
        with_top = with_top || g->prompt.data[i].n_top;
    }
    in->n_token_logprobs = in->n_token_ids = n;
    in->token_logprobs = list;
    in->token_ids = g->prompt_ids;
    if (with_top) {
        in->top_logprobs = build_top(pb, g->prompt.data, n);
        in->n_top_logprobs = in->top_logprobs ? n : 0;
    }
    return in;
}

static sl_status write_chunk(struct generation *g, struct strand *a, uint32_t n)
{
    Vllm__Grpc__Engine__GenerateResponse response = VLLM__GRPC__ENGINE__GENERATE_RESPONSE__INIT;
    Vllm__Grpc__Engine__GenerateStreamChunk chunk = VLLM__GRPC__ENGINE__GENERATE_STREAM_CHUNK__INIT;
    struct sl_token_out *tokens = a->fresh.data + a->n_sent;
    bool with_prompt = g->prompt.n && !g->prompt_sent;
    uint32_t left = a->fresh.n - a->n_sent - n;
    struct sl_pb pb = {0};
    uint32_t ids[CHUNK_TOKENS];
    if (!sl_pb_reserve(&pb, logprob_bytes(n + (with_prompt ? g->prompt.n : 0)) + 1024))
        return SL_E_NOMEM;
    for (uint32_t i = 0; i < n; i++)
        ids[i] = tokens[i].id;
    chunk.n_token_ids = n;
    chunk.token_ids = ids;
    chunk.prompt_tokens = g->prompt_tokens;
    chunk.completion_tokens = a->completion_tokens - left;
    chunk.cached_tokens = atomic_load(&g->cached_tokens);
    chunk.index = (uint32_t)(a - g->answers);
    if (g->n_logprobs >= 0)
        chunk.output_logprobs = build_output(&pb, tokens, n, g->n_logprobs > 0);
    if (with_prompt)
        chunk.input_logprobs = build_input(&pb, g);
    response.response_case = VLLM__GRPC__ENGINE__GENERATE_RESPONSE__RESPONSE_CHUNK;
    response.chunk = &chunk;
    sl_status status = sl_pb_write(g->call, &response.base);
    sl_pb_free(&pb);
    if (status != SL_OK)
        return status;
    g->prompt_sent = true;
    a->n_sent += n;
    if (a->n_sent == a->fresh.n)
        a->n_sent = a->fresh.n = 0;
    return SL_OK;
}

static char *finish_name(enum sl_finish finish)
{
    static char stop[] = "stop", length[] = "length", abort_[] = "abort";
    return finish == SL_FINISH_STOP ? stop : finish == SL_FINISH_LENGTH ? length : abort_;
}

/* The last message of an answer. Of a stream it repeats ids and prompt, but not the log-probabilities of the
 * output. */
static sl_status write_complete(struct generation *g, struct strand *a)
{
    Vllm__Grpc__Engine__GenerateResponse response = VLLM__GRPC__ENGINE__GENERATE_RESPONSE__INIT;
    Vllm__Grpc__Engine__GenerateComplete complete = VLLM__GRPC__ENGINE__GENERATE_COMPLETE__INIT;
    struct sl_pb pb = {0};
    if (!sl_pb_reserve(&pb, logprob_bytes(a->fresh.n + g->prompt.n) + 1024))
        return SL_E_NOMEM;
    complete.index = (uint32_t)(a - g->answers);
    complete.n_output_ids = a->n_ids;
    complete.output_ids = a->ids;
    complete.finish_reason = finish_name(a->end.finish);
    complete.prompt_tokens = g->prompt_tokens;
    complete.completion_tokens = a->completion_tokens;
    complete.cached_tokens = atomic_load(&g->cached_tokens);
    if (!g->stream && g->n_logprobs >= 0)
        complete.output_logprobs = build_output(&pb, a->fresh.data, a->fresh.n, g->n_logprobs > 0);
    if (g->prompt.n)
        complete.input_logprobs = build_input(&pb, g);
    if (a->end.matched) {
        complete.matched_stop_case = VLLM__GRPC__ENGINE__GENERATE_COMPLETE__MATCHED_STOP_MATCHED_STOP_STR;
        complete.matched_stop_str = a->end.matched;
    } else if (a->end.matched_id >= 0) {
        complete.matched_stop_case = VLLM__GRPC__ENGINE__GENERATE_COMPLETE__MATCHED_STOP_MATCHED_TOKEN_ID;
        complete.matched_token_id = (uint32_t)a->end.matched_id;
    }
    if (a->end.timeline.data) {
        complete._kv_transfer_params_json_case =
            VLLM__GRPC__ENGINE__GENERATE_COMPLETE___KV_TRANSFER_PARAMS_JSON_KV_TRANSFER_PARAMS_JSON;
        complete.kv_transfer_params_json = a->end.timeline.data;
    }
    response.response_case = VLLM__GRPC__ENGINE__GENERATE_RESPONSE__RESPONSE_COMPLETE;
    response.complete = &complete;
    sl_status status = sl_pb_write(g->call, &response.base);
    sl_pb_free(&pb);
    a->complete_sent = status == SL_OK;
    return status;
}

/* What can be sent of an answer; when it has failed, nothing any more. */
static sl_status flush_answer(struct generation *g, struct strand *a)
{
    sl_status status = SL_OK;
    if (a->complete_sent)
        return SL_OK;
    if (a->seen_ended && a->end.status != SL_OK) {
        a->complete_sent = true;
        return SL_OK;
    }
    while (status == SL_OK && g->stream && a->n_sent < a->fresh.n) {
        uint32_t left = a->fresh.n - a->n_sent;
        status = write_chunk(g, a, left < CHUNK_TOKENS ? left : CHUNK_TOKENS);
    }
    return status == SL_OK && a->seen_ended ? write_complete(g, a) : status;
}

/* When every answer has had its last word the call ends: well, or with what the first of those that failed has to say. */
static void finish(struct generation *g)
{
    const struct strand *failed = NULL;
    for (uint32_t i = 0; i < g->n; i++) {
        if (!g->answers[i].complete_sent)
            return;
        if (!failed && g->answers[i].end.status != SL_OK)
            failed = &g->answers[i];
    }
    g->finished = true;
    if (failed)
        sl_engine_refuse(g->call, failed->end.status, failed->end.error, failed->end.retry_after_ms);
    else
        sl_rpc_finish(g->call, SL_OK, NULL);
}

/* Sends what can be sent. */
static void flush(struct generation *g)
{
    sl_status status = SL_OK;
    if (!g->open || g->blocked || g->finished)
        return;
    for (uint32_t i = 0; i < g->n && status == SL_OK; i++)
        status = flush_answer(g, &g->answers[i]);
    if (status == SL_AGAIN)
        g->blocked = true;
    else if (status == SL_E_NOMEM)
        sl_engine_refuse(g->call, SL_E_EXHAUSTED, "out of memory for the reply; try again later", 0);
    else if (status == SL_OK)
        finish(g);
}

/* ---- pieces: on the coordinator's thread ---- */

static void write_timeline(struct sl_text *text, const struct sl_timeline *timeline)
{
    sl_text_add(text,
                "{\"timeline\":{\"submit_us\":%llu,\"first_token_us\":%llu,\"done_us\":%llu,\"n_"
                "stages\":%u,"
                "\"spans\":[",
                (unsigned long long)timeline->submit_us, (unsigned long long)timeline->first_token_us,
                (unsigned long long)timeline->done_us, timeline->n_stages);
    for (uint32_t i = 0; i < timeline->n_spans; i++) {
        const struct sl_span *span = &timeline->spans[i];
        sl_text_add(text,
                    "%s{\"stage\":%u,\"chunk\":%u,\"pos\":%u,\"tokens\":%u,\"recv_us\":%llu,"
                    "\"begin_us\":%llu,"
                    "\"end_us\":%llu,\"kv_acked_us\":%llu,\"at_peak_us\":%llu,\"predicted_us\":%llu}",
                    i ? "," : "", span->stage, span->chunk, span->pos, span->tokens,
                    (unsigned long long)span->recv_us, (unsigned long long)span->begin_us,
                    (unsigned long long)span->end_us, (unsigned long long)span->kv_acked_us,
                    (unsigned long long)span->at_peak_us, (unsigned long long)span->predicted_us);
    }
    sl_text_add(text, "],\"foreign\":[");
    for (uint32_t i = 0; i < timeline->n_foreign; i++)
        sl_text_add(text, "%s{\"stage\":%u,\"begin_us\":%llu,\"end_us\":%llu}", i ? "," : "",
                    timeline->foreign[i].stage, (unsigned long long)timeline->foreign[i].begin_us,
                    (unsigned long long)timeline->foreign[i].end_us);
    sl_text_add(text, "]}}");
}

static bool bring_token(struct strand *a, const struct sl_token_out *token)
{
    uint32_t n = atomic_load_explicit(&a->tail->n, memory_order_relaxed);
    if (n == BLOCK_TOKENS) {
        struct inbox_block *block = calloc(1, sizeof *block);
        if (!block)
            return false;
        atomic_store_explicit(&a->tail->next, block, memory_order_release);
        a->tail = block;
        n = 0;
    }
    a->tail->tokens[n] = *token;
    atomic_store_explicit(&a->tail->n, n + 1, memory_order_release);
    return true;
}

static bool bring(struct generation *g, const struct sl_generated *piece)
{
    struct strand *a = &g->answers[piece->index];
    atomic_store(&g->cached_tokens, piece->cached_tokens);
    if (piece->n_prompt && g->prompt_in.n == 0) {
        if (!append(&g->prompt_in, piece->prompt, piece->n_prompt))
            return false;
        atomic_store(&g->prompt_there, true);
    }
    for (uint32_t i = 0; i < piece->n_tokens; i++)
        if (!bring_token(a, &piece->tokens[i]))
            return false;
    if (!piece->done)
        return true;
    a->end.finish = piece->finish;
    a->end.matched_id = piece->matched_stop_id;
    if (piece->matched_stop && !(a->end.matched = strdup(piece->matched_stop)))
        return false;
    if (piece->timeline && g->wants_timeline)
        write_timeline(&a->end.timeline, piece->timeline);
    return true;
}

static void trace(struct generation *g, const struct sl_generated *piece)
{
    static const char *const finishes[] = {"stop", "length", "abort"};
    const struct sl_timeline *timeline = piece->timeline;
    uint32_t n = timeline->n_spans < SL_OTLP_MAX_SPANS ? timeline->n_spans : SL_OTLP_MAX_SPANS;
    struct sl_otlp_request *r = malloc(sizeof *r + n * sizeof *r->spans);
    if (!r) {
        sl_traces_lost(g->traces, n + 2);
        return;
    }
    *r = (struct sl_otlp_request){.context = g->context,
                                  .unix_us = sl_clock_wall_us() - sl_clock_ns() / 1000u,
                                  .submit_us = timeline->submit_us,
                                  .admit_us = timeline->admit_us,
                                  .first_us = timeline->first_token_us,
                                  .done_us = timeline->done_us,
                                  .prompt_tokens = piece->prompt_tokens,
                                  .cached_tokens = piece->cached_tokens,
                                  .output_tokens = g->output_tokens,
                                  .n_stages = timeline->n_stages,
                                  .status = piece->status == SL_OK ? NULL : sl_status_name(piece->status),
                                  .finish = finishes[piece->finish],
                                  .n_spans = n,
                                  .n_left_out = timeline->n_spans - n};
    snprintf(r->id, sizeof r->id, "%s", piece->request_id);
    memcpy(r->spans, timeline->spans, n * sizeof *r->spans);
    sl_traces_ids(g->traces, (uint8_t *)&r->seed, sizeof r->seed);
    sl_traces_add(g->traces, r);
}

static void on_piece(void *user, const struct sl_generated *piece)
{
    struct generation *g = user;
    g->output_tokens += piece->done ? piece->completion_tokens : 0;
    if (g->traces && piece->last && piece->timeline)
        trace(g, piece);
    if (!atomic_load(&g->deaf) && !bring(g, piece))
        atomic_store(&g->no_memory, true);
    if (piece->done) {
        struct strand *a = &g->answers[piece->index];
        a->end.status = piece->status;
        a->end.retry_after_ms = piece->retry_after_ms;
        snprintf(a->end.error, sizeof a->end.error, "%s", piece->error ? piece->error : "the request failed");
        for (uint32_t i = 0; piece->last && i < g->n;
             i++) /* of a request that is refused index 0 speaks for all */
            if (!atomic_load(&g->answers[i].ended) && i != piece->index)
                g->answers[i].end.status = piece->status;
        atomic_store(&a->ended, true);
        for (uint32_t i = 0; piece->last && i < g->n; i++)
            atomic_store(&g->answers[i].ended, true);
        if (piece->last)
            atomic_store(&g->ended, true);
    }
    if (!atomic_exchange(&g->woken, true))
        sl_rpc_wake(g->call);
    if (piece->last)
        let_go(g);
}

/* ---- the call: on its worker ---- */

static bool take_tokens(const struct generation *g, struct strand *a, const struct sl_token_out *tokens,
                        uint32_t n)
{
    void *ids = a->ids;
    if (!grow(&ids, &a->ids_room, a->n_ids + n, sizeof *a->ids))
        return false;
    a->ids = ids;
    for (uint32_t i = 0; i < n; i++)
        a->ids[a->n_ids++] = tokens[i].id;
    a->completion_tokens += n;
    return (!g->stream && g->n_logprobs < 0) || append(&a->fresh, tokens, n);
}

/* What lies in the inbox becomes ours. */
static bool take_inbox(const struct generation *g, struct strand *a)
{
    bool ended = atomic_load(&a->ended); /* before we look at what came before it */
    for (;;) {
        uint32_t n = atomic_load_explicit(&a->head->n, memory_order_acquire);
        if (n > a->n_read && !take_tokens(g, a, a->head->tokens + a->n_read, n - a->n_read))
            return false;
        a->n_read = n;
        struct inbox_block *next = atomic_load_explicit(&a->head->next, memory_order_acquire);
        if (n < BLOCK_TOKENS || !next)
            break;
        free(a->head);
        a->head = next;
        a->n_read = 0;
    }
    a->seen_ended = ended;
    return true;
}

static bool take_pieces(struct generation *g)
{
    bool whole = true;
    for (uint32_t i = 0; i < g->n && whole; i++)
        whole = take_inbox(g, &g->answers[i]);
    if (g->prompt.n == 0 && atomic_load(&g->prompt_there))
        g->prompt = g->prompt_in; /* it does not change any more */
    return whole;
}

static void go_on(struct generation *g)
{
    if (!g->open)
        return;
    /* what came before it is seen below, what comes after it wakes us again */
    atomic_exchange(&g->woken, false);
    bool whole = take_pieces(g) && !atomic_load(&g->no_memory);
    if (whole)
        flush(g);
    else /* the call's end will cancel the rest */
        sl_engine_refuse(g->call, SL_E_EXHAUSTED, "out of memory for the reply; try again later", 0);
}

static void on_writable(struct sl_rpc_call *call, void *user)
{
    struct generation *g = user;
    (void)call;
    g->blocked = false;
    go_on(g);
}

static void on_call_done(struct sl_rpc_call *call, void *user, bool cancelled)
{
    struct generation *g = user;
    (void)call, (void)cancelled; /* work that is not done has lost its reader, whatever ended the call */
    g->open = false;
    atomic_store(&g->deaf, true);
    if (!atomic_load(&g->ended))
        sl_coordinator_cancel(g->coordinator, g->handle);
    let_go(g);
}

static struct generation *make_generation(struct sl_rpc_call *call, struct sl_coordinator *coordinator,
                                          const struct sl_engine_request *request)
{
    uint32_t n = request->generate.n ? request->generate.n : 1;
    struct generation *g = calloc(1, sizeof *g + n * sizeof g->answers[0]);
    if (!g)
        return NULL;
    if (request->generate.prompt_logprobs >= 0) {
        size_t bytes = request->generate.n_ids * sizeof *g->prompt_ids;
        g->prompt_ids = malloc(bytes);
        if (!g->prompt_ids) {
            free(g);
            return NULL;
        }
        memcpy(g->prompt_ids, request->generate.ids, bytes);
    }
    for (; g->n < n; g->n++) {
        struct strand *a = &g->answers[g->n];
        a->end.matched_id = -1;
        a->head = a->tail = calloc(1, sizeof *a->head);
        if (!a->head) {
            for (uint32_t i = 0; i < g->n; i++)
                answer_fini(&g->answers[i]);
            free(g->prompt_ids);
            free(g);
            return NULL;
        }
    }
    atomic_init(&g->holders, 2);
    sl_rpc_ref(call);
    g->call = call;
    g->coordinator = coordinator;
    g->open = true;
    g->stream = request->stream;
    g->wants_timeline = request->generate.want_timeline;
    g->n_logprobs = request->generate.sampling.n_logprobs;
    g->prompt_tokens = request->generate.n_ids;
    return g;
}

/* Of the client's trace, which it may have decided not to record; or of a new one. */
static void join_trace(struct generation *g, struct sl_traces *traces, struct sl_generate *generate)
{
    const char *bytes;
    size_t n_bytes;
    bool given = sl_rpc_field(g->call, "traceparent", &bytes, &n_bytes) == 1 &&
                 sl_traceparent_read(&g->context, bytes, n_bytes);
    g->traces = traces && (!given || g->context.sampled) ? traces : NULL;
    if (g->traces && !given)
        sl_traces_ids(traces, g->context.trace_id, sizeof g->context.trace_id);
    if (g->traces || given)
        sl_hex_write(generate->trace_id, g->context.trace_id, sizeof g->context.trace_id);
    generate->want_timeline = generate->want_timeline || g->traces;
}

/* Queues the request. The reference for the generation is taken first: a piece may come before
 * submit returns. The hooks need no haste: they fire on this very thread, after the handler. */
static void submit(struct sl_rpc_call *call, const struct sl_engine *engine,
                   struct sl_engine_request *request)
{
    struct sl_err err = {0};
    struct sl_coordinator *coordinator = engine->coordinator;
    struct generation *g = make_generation(call, coordinator, request);
    if (!g) {
        sl_engine_refuse(call, SL_E_EXHAUSTED, "out of memory for this request; try again later", 0);
        return;
    }
    join_trace(g, engine->view->traces, &request->generate);
    request->generate.deadline_ms = sl_rpc_time_left_ms(call);
    sl_status status = sl_coordinator_submit(coordinator, &request->generate, on_piece, g, &g->handle, &err);
    if (status == SL_OK) {
        sl_rpc_hooks(call, g, on_call_done, on_writable);
        return;
    }
    sl_engine_refuse(call, status, err.text, 0);
    atomic_store(&g->holders, 1);
    let_go(g);
}

static sl_status read_headers(struct sl_generate *generate, const struct sl_rpc_call *call, bool trusting,
                              struct sl_err *err)
{
    struct sl_header_value values[SL_HEADERS] = {{0}};
    for (int k = 0; k < SL_HEADERS; k++)
        values[k].n =
            sl_rpc_field(call, sl_header_name((enum sl_header)k), &values[k].bytes, &values[k].n_bytes);
    return sl_headers_of(generate, values, sl_rpc_caller(call), trusting, err);
}

void sl_engine_on_generate(struct sl_rpc_call *call, const uint8_t *message, size_t bytes, void *context)
{
    struct sl_engine *engine = context;
    struct sl_engine_request request = {0};
    struct sl_pb pb = {0};
    struct sl_err err = {0};
    const Vllm__Grpc__Engine__GenerateRequest *unpacked = (const void *)sl_pb_unpack(
        &pb, call, &vllm__grpc__engine__generate_request__descriptor, message, bytes);
    if (!unpacked)
        return;
    sl_status status = sl_engine_request_read(&request, engine->coordinator, unpacked,
                                              (struct sl_pb_span){message, bytes}, &err);
    if (status == SL_OK)
        status = read_headers(&request.generate, call, engine->view->trust_headers, &err);
    if (status == SL_OK)
        submit(call, engine, &request);
    else
        sl_engine_refuse(call, status, err.text, 0);
    sl_engine_request_fini(&request);
    sl_pb_free(&pb);
}
