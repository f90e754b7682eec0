/* A request to an endpoint: VllmEngine over gRPC. The tokenizer comes from the endpoint too
 * (GetTokenizer, a zip of stored files), so that text is cut into the same tokens on both sides and
 * the client needs no files of the model. What arrives is checked like any other input: counts that
 * must agree are compared before they are used. */
#include "base/bytes.h"
#include "base/digest.h"
#include "node/client/client_impl.h"
#include "node/edge/headers.h"
#include "node/rpc/rpc.h"

#include "vllm_engine.pb-c.h"
#include <jansson.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TOKENIZER_TIMEOUT_MS = 60000, MAX_TOKENIZER_BYTES = 256 << 20, MAX_SPANS = 1 << 20 };

struct sl_remote {
    struct sl_rpc_channel *channel;
    const char *endpoint;
    pthread_mutex_t lock; /* between the caller and whoever cancels: stream */
    struct sl_rpc_stream *stream;
};

typedef Vllm__Grpc__Engine__GenerateRequest request_pb;
typedef Vllm__Grpc__Engine__SamplingParams sampling_pb;
typedef Vllm__Grpc__Engine__GenerateResponse response_pb;
typedef Vllm__Grpc__Engine__GenerateComplete complete_pb;
typedef Vllm__Grpc__Engine__OutputLogProbs output_logprobs_pb;
typedef Vllm__Grpc__Engine__InputLogProbs input_logprobs_pb;
typedef Vllm__Grpc__Engine__TopLogProbs top_pb;

/* ---- The tokenizer. ---- */

/* Walks the local headers, which is enough for stored files; sizes are checked against what is
 * left. */
const uint8_t *sl_zip_find(const uint8_t *zip, size_t zip_bytes, const char *name, size_t *bytes)
{
    enum { HEADER = 30, SIGNATURE = 0x04034b50, STREAMED = 8 };
    size_t at = 0, name_bytes = strlen(name);
    while (zip_bytes - at >= HEADER && sl_get32(zip + at) == SIGNATURE) {
        const uint8_t *head = zip + at;
        size_t stored = sl_get32(head + 18), n_name = sl_get16(head + 26), n_extra = sl_get16(head + 28);
        bool readable =
            sl_get16(head + 8) == 0 && !(sl_get16(head + 6) & STREAMED) && sl_get32(head + 22) == stored;
        if (zip_bytes - at - HEADER < n_name + n_extra || zip_bytes - at - HEADER - n_name - n_extra < stored)
            return NULL;
        const uint8_t *data = head + HEADER + n_name + n_extra;
        if (n_name == name_bytes && memcmp(head + HEADER, name, n_name) == 0) {
            *bytes = stored;
            return readable ? data : NULL;
        }
        if (!readable)
            return NULL;
        at = (size_t)(data - zip) + stored;
    }
    return NULL;
}

struct archive {
    uint8_t *data;
    size_t bytes;
    char sha256[65];
};

static sl_status add_chunk(struct archive *archive, const uint8_t *message, size_t bytes, struct sl_err *err)
{
    Smg__Grpc__Common__GetTokenizerChunk *chunk =
        smg__grpc__common__get_tokenizer_chunk__unpack(NULL, bytes, message);
    if (!chunk)
        return sl_fail(err, SL_E_PROTOCOL,
                       "the endpoint's GetTokenizer sent something that is not a GetTokenizerChunk");
    sl_status status = SL_OK;
    if (chunk->sha256[0] != '\0')
        snprintf(archive->sha256, sizeof archive->sha256, "%s", chunk->sha256);
    if (chunk->data.len > MAX_TOKENIZER_BYTES - archive->bytes)
        status = sl_fail(err, SL_E_PROTOCOL, "the endpoint's tokenizer is larger than 256 MiB");
    if (status == SL_OK && chunk->data.len > 0) {
        uint8_t *more = realloc(archive->data, archive->bytes + chunk->data.len);
        if (more) {
            memcpy(more + archive->bytes, chunk->data.data, chunk->data.len);
            archive->data = more;
            archive->bytes += chunk->data.len;
        } else {
            status = sl_fail(err, SL_E_NOMEM, "no memory for the endpoint's tokenizer");
        }
    }
    smg__grpc__common__get_tokenizer_chunk__free_unpacked(chunk, NULL);
    return status;
}

static sl_status fetch_archive(struct sl_remote *remote, struct archive *archive, struct sl_err *err)
{
    static const uint8_t nothing[1];
    struct sl_rpc_stream *stream;
    SL_TRY(sl_rpc_stream_open(&stream, remote->channel, "/vllm.grpc.engine.VllmEngine/GetTokenizer", nothing,
                              0, TOKENIZER_TIMEOUT_MS, err));
    sl_status status;
    uint8_t *message;
    size_t bytes;
    while ((status = sl_rpc_stream_next(stream, &message, &bytes, err)) == SL_OK) {
        status = add_chunk(archive, message, bytes, err);
        free(message);
        if (status != SL_OK)
            break;
    }
    sl_rpc_stream_close(stream);
    return status == SL_AGAIN ? SL_OK : status;
}

static sl_status fetch_tokenizer(struct sl_remote *remote, struct sl_tokenizer **tokenizer,
                                 struct sl_err *err)
{
    struct archive archive = {0};
    sl_status status = fetch_archive(remote, &archive, err);
    char hex[65] = "";
    struct sl_sha256 *sha = status == SL_OK ? sl_sha256_begin() : NULL;
    if (sha) {
        sl_sha256_add(sha, archive.data, archive.bytes);
        sl_sha256_end(sha, hex);
    }
    if (status == SL_OK && strcmp(hex, archive.sha256) != 0)
        status = sl_fail(err, SL_E_CORRUPT, "the tokenizer of %s does not match its SHA-256; try again",
                         remote->endpoint);
    size_t bytes = 0;
    const uint8_t *json =
        status == SL_OK ? sl_zip_find(archive.data, archive.bytes, "tokenizer.json", &bytes) : NULL;
    if (status == SL_OK)
        status = json ? sl_tokenizer_parse(tokenizer, (const char *)json, bytes, err)
                      : sl_tokenizer_none(tokenizer, err); /* its model has none */
    free(archive.data);
    return status;
}

sl_status sl_remote_open(struct sl_remote **out, const char *endpoint, struct sl_tokenizer **tokenizer,
                         struct sl_err *err)
{
    struct sl_remote *remote = calloc(1, sizeof *remote);
    if (!remote)
        return sl_fail(err, SL_E_NOMEM, "no memory for a client");
    pthread_mutex_init(&remote->lock, NULL);
    remote->endpoint = endpoint;
    sl_rpc_init();
    sl_status status = sl_rpc_channel_open(&remote->channel, endpoint, err);
    if (status == SL_OK)
        status = fetch_tokenizer(remote, tokenizer, err);
    if (status == SL_E_UNAVAILABLE && !sl_rpc_is_tls_trouble(err)) {
        struct sl_err why = *err;
        sl_fail(err, status, "no answer from %s; is a server there? `sluice serve PATH` starts one (%.160s)",
                endpoint, why.text);
    }
    if (status != SL_OK) {
        sl_remote_close(remote);
        return status;
    }
    *out = remote;
    return SL_OK;
}

void sl_remote_close(struct sl_remote *remote)
{
    if (!remote)
        return;
    if (remote->channel)
        sl_rpc_channel_close(remote->channel);
    sl_rpc_fini();
    pthread_mutex_destroy(&remote->lock);
    free(remote);
}

/* ---- The request. ---- */

static void fill_sampling(sampling_pb *s, const struct sl_generate *g)
{
    s->_temperature_case = VLLM__GRPC__ENGINE__SAMPLING_PARAMS___TEMPERATURE_TEMPERATURE;
    s->temperature = g->sampling.temperature;
    s->top_p = g->sampling.top_p;
    s->top_k = g->sampling.top_k;
    s->min_p = g->sampling.min_p;
    s->presence_penalty = g->sampling.presence_penalty;
    s->frequency_penalty = g->sampling.frequency_penalty;
    s->repetition_penalty = g->sampling.repetition_penalty;
    s->_seed_case = VLLM__GRPC__ENGINE__SAMPLING_PARAMS___SEED_SEED;
    s->seed = (int32_t)(g->sampling.seed & INT32_MAX);
    s->_max_tokens_case = VLLM__GRPC__ENGINE__SAMPLING_PARAMS___MAX_TOKENS_MAX_TOKENS;
    s->max_tokens = g->max_tokens;
    s->min_tokens = g->min_tokens;
    s->repetition_penalty = 1;
    s->n = 1;
    s->skip_special_tokens = g->skip_special;
    s->ignore_eos = g->ignore_eos;
    if (g->sampling.n_logprobs >= 0) {
        s->_logprobs_case = VLLM__GRPC__ENGINE__SAMPLING_PARAMS___LOGPROBS_LOGPROBS;
        s->logprobs = g->sampling.n_logprobs;
    }
    if (g->prompt_logprobs >= 0) {
        s->_prompt_logprobs_case = VLLM__GRPC__ENGINE__SAMPLING_PARAMS___PROMPT_LOGPROBS_PROMPT_LOGPROBS;
        s->prompt_logprobs = g->prompt_logprobs;
    }
}

static uint8_t *pack_request(const struct sl_generate *g, size_t *bytes)
{
    static char timeline_wanted[] = "{\"sluice_timeline\":true}";
    request_pb request = VLLM__GRPC__ENGINE__GENERATE_REQUEST__INIT;
    sampling_pb sampling = VLLM__GRPC__ENGINE__SAMPLING_PARAMS__INIT;
    Vllm__Grpc__Engine__TokenizedInput input = VLLM__GRPC__ENGINE__TOKENIZED_INPUT__INIT;
    fill_sampling(&sampling, g);
    input.n_input_ids = g->n_ids;
    input.input_ids = (uint32_t *)(uintptr_t)g->ids; /* only read */
    request.request_id = (char *)(uintptr_t)g->request_id;
    request.sampling_params = &sampling;
    request.stream = true;
    request.input_case = VLLM__GRPC__ENGINE__GENERATE_REQUEST__INPUT_TOKENIZED;
    request.tokenized = &input;
    if (g->want_timeline) {
        request._kv_transfer_params_json_case =
            VLLM__GRPC__ENGINE__GENERATE_REQUEST___KV_TRANSFER_PARAMS_JSON_KV_TRANSFER_PARAMS_JSON;
        request.kv_transfer_params_json = timeline_wanted;
    }
    uint8_t *packed = malloc(vllm__grpc__engine__generate_request__get_packed_size(&request) + 1);
    if (packed)
        *bytes = vllm__grpc__engine__generate_request__pack(&request, packed);
    return packed;
}

/* ---- The answer. ---- */

static void take_top(struct sl_token_out *token, const top_pb *top)
{
    size_t n = top->n_values < top->n_token_ids ? top->n_values : top->n_token_ids;
    token->n_top = (uint32_t)(n < SL_MAX_LOGPROBS ? n : SL_MAX_LOGPROBS);
    for (uint32_t i = 0; i < token->n_top; i++) {
        token->top_ids[i] = top->token_ids[i];
        token->top_logprobs[i] = top->values[i];
    }
}

/* The tokens [from, n) of a list and their log-probabilities, when as many came. */
static sl_status take_tokens(struct sl_answer *answer, const uint32_t *ids, size_t from, size_t n,
                             const output_logprobs_pb *logprobs)
{
    if (n <= from)
        return SL_OK;
    struct sl_token_out *added = n - from < UINT32_MAX ? sl_answer_add(answer, (uint32_t)(n - from)) : NULL;
    if (!added)
        return SL_E_NOMEM;
    for (size_t i = from; i < n; i++) {
        struct sl_token_out *token = &added[i - from];
        token->id = ids[i];
        token->logprob = logprobs && logprobs->n_token_logprobs == n ? logprobs->token_logprobs[i] : NAN;
        if (logprobs && logprobs->n_top_logprobs == n)
            take_top(token, logprobs->top_logprobs[i]);
    }
    return SL_OK;
}

static sl_status take_prompt(struct sl_answer *answer, const input_logprobs_pb *logprobs)
{
    size_t n = logprobs ? logprobs->n_token_logprobs : 0;
    if (n == 0 || answer->prompt)
        return SL_OK;
    if (n > UINT32_MAX || logprobs->n_token_ids != n)
        return SL_E_PROTOCOL;
    answer->prompt = calloc(n, sizeof *answer->prompt);
    if (!answer->prompt)
        return SL_E_NOMEM;
    answer->n_prompt = (uint32_t)n;
    for (size_t i = 0; i < n; i++) {
        const Vllm__Grpc__Engine__InputTokenLogProb *one = logprobs->token_logprobs[i];
        bool there = one->_value_case == VLLM__GRPC__ENGINE__INPUT_TOKEN_LOG_PROB___VALUE_VALUE;
        answer->prompt[i].id = logprobs->token_ids[i];
        answer->prompt[i].logprob = there ? one->value : NAN;
        if (logprobs->n_top_logprobs == n)
            take_top(&answer->prompt[i], logprobs->top_logprobs[i]);
    }
    return SL_OK;
}

static sl_status take_complete(struct sl_answer *answer, const complete_pb *complete, bool want_timeline,
                               struct sl_err *err)
{
    answer->prompt_tokens = complete->prompt_tokens;
    answer->cached_tokens = complete->cached_tokens;
    answer->finish = strcmp(complete->finish_reason, "length") == 0  ? SL_FINISH_LENGTH
                     : strcmp(complete->finish_reason, "abort") == 0 ? SL_FINISH_ABORT
                                                                     : SL_FINISH_STOP;
    SL_TRY(take_tokens(answer, complete->output_ids, answer->n_tokens, complete->n_output_ids,
                       complete->output_logprobs));
    SL_TRY(take_prompt(answer, complete->input_logprobs));
    if (want_timeline &&
        complete->_kv_transfer_params_json_case ==
            VLLM__GRPC__ENGINE__GENERATE_COMPLETE___KV_TRANSFER_PARAMS_JSON_KV_TRANSFER_PARAMS_JSON)
        return sl_answer_parse_timeline(answer, complete->kv_transfer_params_json, err);
    return SL_OK;
}

static sl_status take_response(struct sl_answer *answer, const response_pb *response, bool want_timeline,
                               bool *complete, struct sl_err *err)
{
    switch (response->response_case) {
    case VLLM__GRPC__ENGINE__GENERATE_RESPONSE__RESPONSE_CHUNK:
        SL_TRY(take_tokens(answer, response->chunk->token_ids, 0, response->chunk->n_token_ids,
                           response->chunk->output_logprobs));
        return take_prompt(answer, response->chunk->input_logprobs);
    case VLLM__GRPC__ENGINE__GENERATE_RESPONSE__RESPONSE_COMPLETE:
        *complete = true;
        return take_complete(answer, response->complete, want_timeline, err);
    default:
        return SL_E_PROTOCOL;
    }
}

static sl_status take_message(struct sl_answer *answer, const uint8_t *message, size_t bytes,
                              bool want_timeline, bool *complete, struct sl_err *err)
{
    response_pb *response = vllm__grpc__engine__generate_response__unpack(NULL, bytes, message);
    struct sl_err detail = {0};
    sl_status status =
        response ? take_response(answer, response, want_timeline, complete, &detail) : SL_E_PROTOCOL;
    if (response)
        vllm__grpc__engine__generate_response__free_unpacked(response, NULL);
    if (status == SL_E_NOMEM)
        return sl_fail(err, status, "no memory for the answer; ask for fewer tokens");
    if (status != SL_OK)
        return sl_fail(err, status, "%s",
                       detail.text[0] ? detail.text
                                      : "the endpoint sent something that is not a GenerateResponse");
    return SL_OK;
}

static sl_status follow(struct sl_rpc_stream *stream, const struct sl_generate *generate, sl_answer_fn *fn,
                        void *user, struct sl_answer *answer, struct sl_err *err)
{
    bool complete = false;
    for (;;) {
        uint8_t *message;
        size_t bytes;
        uint32_t before = answer->n_tokens;
        sl_status status = sl_rpc_stream_next(stream, &message, &bytes, err);
        if (status == SL_AGAIN)
            return complete ? SL_OK
                            : sl_fail(err, SL_E_PROTOCOL,
                                      "the endpoint ended the stream without a GenerateComplete");
        SL_TRY(status);
        status = take_message(answer, message, bytes, generate->want_timeline, &complete, err);
        free(message);
        SL_TRY(status);
        if (fn && answer->n_tokens > before)
            fn(user, answer->tokens + before, answer->n_tokens - before);
    }
}

static void set_stream(struct sl_remote *remote, struct sl_rpc_stream *stream)
{
    pthread_mutex_lock(&remote->lock);
    remote->stream = stream;
    pthread_mutex_unlock(&remote->lock);
}

/* What is asked for beside the message; a default is not said. Texts of numbers are written into room. */
enum { MAX_HEADERS = 4 };

static uint32_t make_headers(struct sl_rpc_header headers[MAX_HEADERS], char room[2][16],
                             const struct sl_generate *generate)
{
    uint32_t n = 0;
    snprintf(room[0], sizeof room[0], "%d", generate->priority);
    snprintf(room[1], sizeof room[1], "%u", generate->slo_ms);
    if (generate->tenant[0])
        headers[n++] = (struct sl_rpc_header){sl_header_name(SL_HEADER_TENANT), generate->tenant};
    if (generate->priority)
        headers[n++] = (struct sl_rpc_header){sl_header_name(SL_HEADER_PRIORITY), room[0]};
    if (generate->slo_ms)
        headers[n++] = (struct sl_rpc_header){sl_header_name(SL_HEADER_SLO_TTFT), room[1]};
    if (generate->traceparent)
        headers[n++] = (struct sl_rpc_header){"traceparent", generate->traceparent};
    return n;
}

sl_status sl_remote_generate(struct sl_remote *remote, const struct sl_generate *generate, sl_answer_fn *fn,
                             void *user, struct sl_answer *answer, struct sl_err *err)
{
    size_t bytes = 0;
    uint8_t *packed = pack_request(generate, &bytes);
    if (!packed)
        return sl_fail(err, SL_E_NOMEM, "no memory for the request");
    struct sl_rpc_stream *stream;
    struct sl_rpc_header headers[MAX_HEADERS];
    char room[2][16];
    uint32_t n_headers = make_headers(headers, room, generate);
    sl_status status =
        sl_rpc_stream_open_with(&stream, remote->channel, "/vllm.grpc.engine.VllmEngine/Generate", packed,
                                bytes, -1, headers, n_headers, err);
    free(packed);
    SL_TRY(status);
    set_stream(remote, stream);
    status = follow(stream, generate, fn, user, answer, err);
    set_stream(remote, NULL);
    sl_rpc_stream_close(stream);
    return status;
}

bool sl_remote_cancel(struct sl_remote *remote)
{
    pthread_mutex_lock(&remote->lock);
    bool running = remote->stream != NULL;
    if (running)
        sl_rpc_stream_cancel(remote->stream);
    pthread_mutex_unlock(&remote->lock);
    return running;
}

/* ---- The timeline, as JSON in the last message. ---- */

static sl_status parse_spans(struct sl_timeline *timeline, struct sl_span *spans, json_t *list)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        json_int_t stage, chunk, pos, tokens, recv, begin, end, acked, peak = 0, predicted = 0;
        if (json_unpack(json_array_get(list, i), "{sI sI sI sI sI sI sI sI s?I s?I}", "stage", &stage,
                        "chunk", &chunk, "pos", &pos, "tokens", &tokens, "recv_us", &recv, "begin_us", &begin,
                        "end_us", &end, "kv_acked_us", &acked, "at_peak_us", &peak, "predicted_us",
                        &predicted) != 0)
            return SL_E_PROTOCOL;
        if (stage < 0 || stage >= timeline->n_stages || chunk < 0 || chunk > UINT32_MAX || pos < 0 ||
            pos > UINT32_MAX || tokens < 0 || tokens > UINT32_MAX || recv < 0 || begin < 0 || end < 0 ||
            acked < 0 || peak < 0 || predicted < 0)
            return SL_E_PROTOCOL;
        spans[i] = (struct sl_span){(uint16_t)stage, (uint32_t)chunk,    (uint32_t)pos, (uint32_t)tokens,
                                    (uint64_t)recv,  (uint64_t)begin,    (uint64_t)end, (uint64_t)acked,
                                    (uint64_t)peak,  (uint64_t)predicted};
    }
    return SL_OK;
}

static sl_status parse_foreign(const struct sl_timeline *timeline, struct sl_foreign *foreign, json_t *list)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        json_int_t stage, begin, end;
        if (json_unpack(json_array_get(list, i), "{sI sI sI}", "stage", &stage, "begin_us", &begin, "end_us",
                        &end) != 0 ||
            stage < 0 || stage >= timeline->n_stages || begin < 0 || end < 0)
            return SL_E_PROTOCOL;
        foreign[i] = (struct sl_foreign){(uint16_t)stage, (uint64_t)begin, (uint64_t)end};
    }
    return SL_OK;
}

static sl_status parse_timeline(struct sl_answer *answer, json_t *root)
{
    json_int_t submit, first, done, n_stages;
    json_t *list, *others = NULL;
    if (json_unpack(root, "{s{sI sI sI sI so s?o}}", "timeline", "submit_us", &submit, "first_token_us",
                    &first, "done_us", &done, "n_stages", &n_stages, "spans", &list, "foreign", &others) != 0)
        return SL_E_PROTOCOL;
    size_t n = json_array_size(list), n_others = json_array_size(others);
    if (submit < 0 || first < 0 || done < 0 || n_stages < 1 || n_stages > UINT16_MAX || n > MAX_SPANS ||
        n_others > MAX_SPANS)
        return SL_E_PROTOCOL;
    struct sl_span *spans = calloc(n + 1, sizeof *spans);
    struct sl_foreign *foreign = calloc(n_others + 1, sizeof *foreign);
    struct sl_timeline timeline = {.submit_us = (uint64_t)submit,
                                   .first_token_us = (uint64_t)first,
                                   .done_us = (uint64_t)done,
                                   .n_stages = (uint32_t)n_stages,
                                   .n_spans = (uint32_t)n,
                                   .spans = spans,
                                   .n_foreign = (uint32_t)n_others,
                                   .foreign = foreign};
    sl_status status = spans && foreign ? parse_spans(&timeline, spans, list) : SL_E_NOMEM;
    if (status == SL_OK)
        status = parse_foreign(&timeline, foreign, others);
    if (status == SL_OK)
        status = sl_answer_set_timeline(answer, &timeline);
    free(spans);
    free(foreign);
    return status;
}

sl_status sl_answer_parse_timeline(struct sl_answer *answer, const char *json, struct sl_err *err)
{
    json_t *root = json_loads(json, JSON_REJECT_DUPLICATES, NULL);
    sl_status status = root ? parse_timeline(answer, root) : SL_E_PROTOCOL;
    json_decref(root);
    if (status == SL_E_PROTOCOL)
        return sl_fail(err, status, "the endpoint's timeline cannot be read; is it sluice of this version?");
    return status == SL_OK ? SL_OK : sl_fail(err, status, "no memory for the timeline");
}
