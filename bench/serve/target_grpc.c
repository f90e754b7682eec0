/* VllmEngine over gRPC: sluice, vLLM's and SMG's workers. Prompts are ids, answers too, so counts are exact.
 *
 * What comes is checked as it comes: a stream that goes on after its end, tells other counts than it sent, or ends without a
 * GenerateComplete is a failed request with a sentence, whatever its status says. */
#include "base/clock.h"
#include "bench/serve/target_impl.h"
#include "node/client/client.h"
#include "node/rpc/rpc.h"

#include "vllm_engine.pb-c.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ASK_TIMEOUT_MS = 5000, RETRY_NS = 20000000, HEADERS_MAX = 30 };
#define ENGINE "/vllm.grpc.engine.VllmEngine/"

typedef Vllm__Grpc__Engine__GenerateRequest request_pb;
typedef Vllm__Grpc__Engine__SamplingParams sampling_pb;
typedef Vllm__Grpc__Engine__GenerateResponse response_pb;
typedef Vllm__Grpc__Engine__GenerateComplete complete_pb;

struct grpc_stream {
    uint32_t n_tokens, wanted;
    bool complete, has_timeline;
    char sentence[128]; /* what is wrong with it; "": nothing yet */
    uint32_t input_tokens, told_tokens;
    struct sl_answer answer; /* for its timeline */
};

struct grpc_target {
    struct sl_target base;
    struct sl_rpc_pool *pool;
    struct sl_rpc_tls tls;
    char *token;                 /* "Bearer ..." */
    struct grpc_stream *streams; /* [max_calls] */
    uint8_t *packed;             /* the request being packed */
    size_t packed_room;
    bool want_timeline;
    struct { /* the one question at a time, call number max_calls */
        bool over;
        sl_status status;
        struct sl_err err;
        uint8_t *reply;
        size_t bytes;
    } question;
};

/* ---- questions before the load ---- */

static void take_reply(struct grpc_target *t, const uint8_t *message, size_t bytes)
{
    if (t->question.reply)
        return;
    t->question.reply = malloc(bytes + 1);
    if (t->question.reply) {
        memcpy(t->question.reply, message, bytes);
        t->question.bytes = bytes;
    }
}

static sl_status question(struct grpc_target *t, const char *path, uint64_t until_ns, struct sl_err *err)
{
    static const uint8_t nothing[1];
    uint32_t number = t->base.config.max_calls;
    struct sl_rpc_header authorization = {"authorization", t->token};
    uint64_t now = sl_clock_ns();
    int64_t left_ms = until_ns > now ? (int64_t)((until_ns - now) / 1000000) + 1 : 1;
    free(t->question.reply);
    t->question.reply = NULL;
    t->question.over = false;
    t->question.err.text[0] = 0;
    sl_rpc_pool_send(t->pool, number, path, nothing, 0, left_ms < ASK_TIMEOUT_MS ? left_ms : ASK_TIMEOUT_MS,
                     &authorization, t->token != NULL);
    while (!t->question.over)
        sl_rpc_pool_poll(t->pool, sl_clock_ns() + 1000000000);
    if (t->question.status != SL_OK)
        return sl_fail(err, t->question.status, "%s", t->question.err.text);
    return t->question.reply ? SL_OK : sl_fail(err, SL_E_PROTOCOL, "it answered %s without a message", path);
}

static sl_status healthy(struct grpc_target *t, uint64_t until_ns, struct sl_err *err)
{
    SL_TRY(question(t, ENGINE "HealthCheck", until_ns, err));
    Vllm__Grpc__Engine__HealthCheckResponse *reply =
        vllm__grpc__engine__health_check_response__unpack(NULL, t->question.bytes, t->question.reply);
    if (!reply)
        return sl_fail(err, SL_E_PROTOCOL, "it answered HealthCheck with something else");
    sl_status status = SL_OK;
    if (!reply->healthy)
        status = sl_fail(err, SL_E_UNAVAILABLE, "it is not healthy: %.160s", reply->message);
    vllm__grpc__engine__health_check_response__free_unpacked(reply, NULL);
    return status;
}

static sl_status model_info(struct grpc_target *t, uint64_t until_ns, struct sl_err *err)
{
    SL_TRY(question(t, ENGINE "GetModelInfo", until_ns, err));
    Vllm__Grpc__Engine__GetModelInfoResponse *reply =
        vllm__grpc__engine__get_model_info_response__unpack(NULL, t->question.bytes, t->question.reply);
    if (!reply)
        return sl_fail(err, SL_E_PROTOCOL, "it answered GetModelInfo with something else");
    const char *name = reply->served_model_name[0] ? reply->served_model_name : reply->model_path;
    snprintf(t->base.model, sizeof t->base.model, "%s", name);
    t->base.vocabulary = reply->vocab_size;
    t->base.context = reply->max_context_length;
    vllm__grpc__engine__get_model_info_response__free_unpacked(reply, NULL);
    return SL_OK;
}

/* Whether it is one of ours, which is not necessary to know. */
static void server_info(struct grpc_target *t, uint64_t until_ns)
{
    if (question(t, ENGINE "GetServerInfo", until_ns, NULL) != SL_OK)
        return;
    Vllm__Grpc__Engine__GetServerInfoResponse *reply =
        vllm__grpc__engine__get_server_info_response__unpack(NULL, t->question.bytes, t->question.reply);
    if (!reply)
        return;
    t->base.is_ours = strcmp(reply->server_type, "sluice") == 0;
    vllm__grpc__engine__get_server_info_response__free_unpacked(reply, NULL);
}

static sl_status grpc_ready(struct sl_target *target, uint64_t until_ns, struct sl_err *err)
{
    struct grpc_target *t = (struct grpc_target *)target;
    sl_status status;
    while ((status = healthy(t, until_ns, err)) == SL_E_UNAVAILABLE || status == SL_E_DEADLINE) {
        if (sl_clock_ns() + RETRY_NS > until_ns) {
            struct sl_err why = *err;
            return sl_fail(err, SL_E_UNAVAILABLE, "%.100s was not ready in time (%.180s)",
                           target->config.endpoint, why.text);
        }
        sl_target_nap(sl_clock_ns() + RETRY_NS);
    }
    if (status == SL_OK ||
        status == SL_E_UNIMPLEMENTED) /* one that serves Generate and no more is measured, too */
        status = model_info(t, until_ns, err);
    if (status != SL_OK && status != SL_E_UNIMPLEMENTED)
        return sl_err_prefix(err, "%.100s is no VllmEngine", target->config.endpoint);
    server_info(t, until_ns);
    t->want_timeline = target->is_ours && target->config.want_timeline;
    return SL_OK;
}

/* ---- a request ---- */

static void fill_sampling(sampling_pb *s, const struct sl_call_ask *ask)
{
    s->_temperature_case = VLLM__GRPC__ENGINE__SAMPLING_PARAMS___TEMPERATURE_TEMPERATURE;
    s->temperature = (float)ask->temperature;
    s->top_p = 1;
    s->repetition_penalty = 1;
    s->n = 1;
    s->skip_special_tokens = true;
    s->_seed_case = VLLM__GRPC__ENGINE__SAMPLING_PARAMS___SEED_SEED;
    s->seed = (int32_t)(ask->seed & INT32_MAX);
    s->_max_tokens_case = VLLM__GRPC__ENGINE__SAMPLING_PARAMS___MAX_TOKENS_MAX_TOKENS;
    s->max_tokens = ask->max_tokens;
    s->ignore_eos = ask->force_length;
    s->min_tokens = ask->force_length ? ask->max_tokens : 0;
}

/* Into t->packed, which grows; 0: no memory. */
static size_t pack(struct grpc_target *t, const struct sl_call_ask *ask)
{
    static char timeline_wanted[] = "{\"sluice_timeline\":true}";
    request_pb request = VLLM__GRPC__ENGINE__GENERATE_REQUEST__INIT;
    sampling_pb sampling = VLLM__GRPC__ENGINE__SAMPLING_PARAMS__INIT;
    Vllm__Grpc__Engine__TokenizedInput input = VLLM__GRPC__ENGINE__TOKENIZED_INPUT__INIT;
    fill_sampling(&sampling, ask);
    request.request_id = (char *)(uintptr_t)ask->request_id; /* packing only reads */
    request.sampling_params = &sampling;
    request.stream = true;
    if (ask->ids) {
        input.n_input_ids = ask->n_ids;
        input.input_ids = (uint32_t *)(uintptr_t)ask->ids;
        request.input_case = VLLM__GRPC__ENGINE__GENERATE_REQUEST__INPUT_TOKENIZED;
        request.tokenized = &input;
    } else {
        request.input_case = VLLM__GRPC__ENGINE__GENERATE_REQUEST__INPUT_TEXT;
        request.text = (char *)(uintptr_t)ask->text;
    }
    if (t->want_timeline) {
        request._kv_transfer_params_json_case =
            VLLM__GRPC__ENGINE__GENERATE_REQUEST___KV_TRANSFER_PARAMS_JSON_KV_TRANSFER_PARAMS_JSON;
        request.kv_transfer_params_json = timeline_wanted;
    }
    size_t bytes = vllm__grpc__engine__generate_request__get_packed_size(&request);
    if (bytes > t->packed_room) {
        free(t->packed);
        t->packed_room = 0;
        t->packed = malloc(2 * bytes);
        if (!t->packed)
            return 0;
        t->packed_room = 2 * bytes;
    }
    return vllm__grpc__engine__generate_request__pack(&request, t->packed);
}

static void grpc_send(struct sl_target *target, uint32_t call, const struct sl_call_ask *ask)
{
    struct grpc_target *t = (struct grpc_target *)target;
    struct sl_rpc_header headers[HEADERS_MAX + 1];
    uint32_t n = 0;
    if (t->token)
        headers[n++] = (struct sl_rpc_header){"authorization", t->token};
    for (uint32_t i = 0; i < ask->headers->n && n < HEADERS_MAX; i++)
        headers[n++] = (struct sl_rpc_header){ask->headers->names[i], ask->headers->values[i]};
    t->streams[call] = (struct grpc_stream){.wanted = ask->max_tokens};
    size_t bytes = pack(t, ask);
    if (bytes == 0) {
        sl_target_fail(target, call, sl_clock_ns(), "no memory for the request");
        return;
    }
    sl_rpc_pool_send(t->pool, call, ENGINE "Generate", t->packed, bytes,
                     ask->deadline_ms ? (int64_t)ask->deadline_ms : -1, headers, n);
}

static void grpc_cancel(struct sl_target *target, uint32_t call)
{
    struct grpc_target *t = (struct grpc_target *)target;
    sl_rpc_pool_drop(t->pool, call);
    sl_answer_free(&t->streams[call].answer);
    t->streams[call] = (struct grpc_stream){0};
}

/* ---- what comes of it ---- */

static void take_ids(struct grpc_target *t, uint32_t call, uint64_t at_ns, const uint32_t *ids, size_t n)
{
    struct grpc_stream *s = &t->streams[call];
    if (n == 0)
        return;
    if (n > s->wanted - s->n_tokens) { /* never more than asked for, so what is kept of it is bounded */
        snprintf(s->sentence, sizeof s->sentence, "more tokens came than the %u asked for", s->wanted);
        n = s->wanted - s->n_tokens;
    }
    s->n_tokens += (uint32_t)n;
    if (n > 0)
        t->base.config.on_tokens(t->base.config.user, call, at_ns, (uint32_t)n,
                                 t->base.config.keep_answers ? ids : NULL, NULL);
}

static void take_complete(struct grpc_target *t, uint32_t call, uint64_t at_ns, const complete_pb *complete)
{
    struct grpc_stream *s = &t->streams[call];
    if (complete->n_output_ids > s->n_tokens) /* it has all ids; as a rule they came before */
        take_ids(t, call, at_ns, complete->output_ids + s->n_tokens, complete->n_output_ids - s->n_tokens);
    if (s->wanted == 0)
        return; /* cancelled by what came with it */
    s->complete = true;
    s->input_tokens = complete->prompt_tokens;
    s->told_tokens = complete->completion_tokens;
    if (strcmp(complete->finish_reason, "abort") == 0)
        snprintf(s->sentence, sizeof s->sentence, "the server aborted it");
    if (t->want_timeline &&
        complete->_kv_transfer_params_json_case ==
            VLLM__GRPC__ENGINE__GENERATE_COMPLETE___KV_TRANSFER_PARAMS_JSON_KV_TRANSFER_PARAMS_JSON)
        sl_answer_parse_timeline(&s->answer, complete->kv_transfer_params_json, NULL);
}

static void on_message(void *user, uint32_t call, uint64_t at_ns, const uint8_t *message, size_t bytes)
{
    struct grpc_target *t = user;
    if (call == t->base.config.max_calls) {
        take_reply(t, message, bytes);
        return;
    }
    struct grpc_stream *s = &t->streams[call];
    response_pb *response = vllm__grpc__engine__generate_response__unpack(NULL, bytes, message);
    if (!response)
        snprintf(s->sentence, sizeof s->sentence, "what came is no GenerateResponse");
    else if (s->complete)
        snprintf(s->sentence, sizeof s->sentence, "the stream went on after its GenerateComplete");
    else if (response->response_case == VLLM__GRPC__ENGINE__GENERATE_RESPONSE__RESPONSE_CHUNK)
        take_ids(t, call, at_ns, response->chunk->token_ids, response->chunk->n_token_ids);
    else if (response->response_case == VLLM__GRPC__ENGINE__GENERATE_RESPONSE__RESPONSE_COMPLETE)
        take_complete(t, call, at_ns, response->complete);
    else
        snprintf(s->sentence, sizeof s->sentence, "a GenerateResponse came with nothing in it");
    if (response)
        vllm__grpc__engine__generate_response__free_unpacked(response, NULL);
}

static void on_end(void *user, uint32_t call, uint64_t at_ns, sl_status status, const char *sentence)
{
    struct grpc_target *t = user;
    if (call == t->base.config.max_calls) {
        t->question.over = true;
        t->question.status = status;
        snprintf(t->question.err.text, sizeof t->question.err.text, "%s", sentence);
        return;
    }
    struct grpc_stream s = t->streams[call];
    t->streams[call] = (struct grpc_stream){0};
    if (status == SL_OK && !s.complete && !s.sentence[0])
        snprintf(s.sentence, sizeof s.sentence, "the stream ended without a GenerateComplete");
    bool well = status == SL_OK && !s.sentence[0];
    if (well && s.told_tokens && s.told_tokens != s.n_tokens) /* a count is no failure; ids are counted */
        snprintf(s.sentence, sizeof s.sentence, "the server counts %u tokens, but %u came", s.told_tokens,
                 s.n_tokens);
    struct sl_call_end end = {.ending = well                      ? SL_ENDING_DONE
                                        : status == SL_E_DEADLINE ? SL_ENDING_TIMEOUT
                                                                  : SL_ENDING_FAILED,
                              .sentence = status != SL_OK ? sentence
                                          : s.sentence[0] ? s.sentence
                                                          : NULL,
                              .input_tokens = s.input_tokens,
                              .output_tokens = s.n_tokens,
                              .timeline = s.answer.has_timeline ? &s.answer.timeline : NULL};
    t->base.config.on_end(t->base.config.user, call, at_ns, &end);
    sl_answer_free(&s.answer);
}

static void grpc_poll(struct sl_target *target, uint64_t until_ns)
{
    sl_rpc_pool_poll(((struct grpc_target *)target)->pool, until_ns);
}

static void grpc_close(struct sl_target *target)
{
    struct grpc_target *t = (struct grpc_target *)target;
    sl_rpc_pool_close(t->pool);
    sl_rpc_fini();
    for (uint32_t i = 0; t->streams && i < target->config.max_calls; i++)
        sl_answer_free(&t->streams[i].answer);
    free(t->question.reply);
    free(t->streams);
    free(t->packed);
    free(t->token);
    free(t);
}

sl_status sl_target_open_grpc(struct sl_target **target, const struct sl_target_config *config,
                              struct sl_err *err)
{
    static const struct sl_target_ways ways = {grpc_ready, grpc_send, grpc_cancel, grpc_poll, grpc_close};
    struct grpc_target *t = calloc(1, sizeof *t);
    *target = NULL;
    if (!t)
        return sl_fail(err, SL_E_NOMEM, "no memory for a client");
    t->base.ways = &ways;
    t->base.config = *config;
    t->tls = (struct sl_rpc_tls){config->tls_ca, config->tls_cert, config->tls_key, config->tls_name};
    t->streams = calloc(config->max_calls, sizeof *t->streams);
    sl_rpc_init();
    struct sl_rpc_pool_config pool = {.endpoint = config->endpoint,
                                      .tls = config->tls ? &t->tls : NULL,
                                      .max_calls = config->max_calls + 1,
                                      .user = t,
                                      .on_message = on_message,
                                      .on_end = on_end};
    sl_status status = SL_OK;
    if (!t->streams || (config->token && asprintf(&t->token, "Bearer %s", config->token) < 0))
        status = sl_fail(err, SL_E_NOMEM, "no memory for %u calls", config->max_calls);
    if (status == SL_OK)
        status = sl_rpc_pool_open(&t->pool, &pool, err);
    if (status != SL_OK) {
        grpc_close(&t->base);
        return status;
    }
    *target = &t->base;
    return SL_OK;
}
