/* A GenerateRequest becomes an sl_generate, or one sentence that names the field.
 *
 * proto3 cannot tell "absent" from "zero" for most fields, so a zero means the field's own default
 * (top_p and repetition_penalty 1, n 1), as gateways expect of vLLM. What we do not serve is
 * refused by name, never ignored: a client that asked for a grammar must not get text without one.
 * Unknown fields are ignored; gateways are often newer than we are. Values that need the model
 * (ids, lengths) are checked by submit. */
#include "base/digest.h"
#include "node/edge/engine_impl.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef Vllm__Grpc__Engine__GenerateRequest generate_request;
typedef Vllm__Grpc__Engine__SamplingParams sampling_params;

/* Field numbers, for the walk over raw bytes. */
enum { REQUEST_ID = 1, REQUEST_TEXT = 3, REQUEST_SAMPLING = 4, REQUEST_KV_JSON = 8, SAMPLING_STOP = 10 };

enum { MAX_JSON_BYTES = 1024 };

static bool is_utf8(const char *text)
{
    const unsigned char *p = (const unsigned char *)text;
    while (*p) {
        uint32_t extra = *p < 0x80 ? 0 : *p < 0xc2 ? 9 : *p < 0xe0 ? 1 : *p < 0xf0 ? 2 : *p < 0xf5 ? 3 : 9;
        if (extra == 9)
            return false;
        if ((*p == 0xe0 && p[1] < 0xa0) || (*p == 0xed && p[1] > 0x9f) || (*p == 0xf0 && p[1] < 0x90) ||
            (*p == 0xf4 && p[1] > 0x8f))
            return false; /* overlong, a surrogate, or beyond U+10FFFF */
        for (p++; extra; extra--, p++)
            if ((*p & 0xc0) != 0x80)
                return false;
    }
    return true;
}

static bool has_nul(struct sl_pb_span span)
{
    return span.bytes && memchr(span.data, 0, span.bytes) != NULL;
}

/* protobuf-c hands out C strings, which end at the first NUL whatever the client meant. */
static sl_status check_raw(struct sl_pb_span raw, struct sl_err *err)
{
    struct sl_pb_span value, inner;
    uint32_t number, inner_number;
    while (sl_pb_next(&raw, &number, &value)) {
        if (number == REQUEST_ID && has_nul(value))
            return sl_fail(err, SL_E_INVALID, "request_id contains a NUL byte: remove it");
        if (number == REQUEST_KV_JSON && has_nul(value))
            return sl_fail(err, SL_E_INVALID, "kv_transfer_params_json contains a NUL byte: remove it");
        if (number != REQUEST_SAMPLING || !value.data)
            continue;
        while (sl_pb_next(&value, &inner_number, &inner))
            if (inner_number == SAMPLING_STOP && has_nul(inner))
                return sl_fail(err, SL_E_INVALID,
                               "a string of sampling_params.stop contains a NUL byte: remove it");
    }
    return SL_OK;
}

/* Exactly {"sluice_timeline": true}, spaced as one likes: the only parameter of ours that rides
 * there. */
static bool asks_timeline(const char *json)
{
    static const char *const tokens[] = {"{", "\"sluice_timeline\"", ":", "true", "}"};
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++) {
        json += strspn(json, " \t\r\n");
        if (strncmp(json, tokens[i], strlen(tokens[i])) != 0)
            return false;
        json += strlen(tokens[i]);
    }
    return json[strspn(json, " \t\r\n")] == 0;
}

/* INVALID_ARGUMENT: a gateway makes 400 of it and tells its client. UNIMPLEMENTED would become 501, which is sent again, here
 * and elsewhere, until somebody gives up. */
static sl_status refuse_field(struct sl_err *err, const char *field, const char *remedy)
{
    return sl_fail(err, SL_E_INVALID, "%s is not served here: %s", field, remedy);
}

static sl_status check_request_fields(struct sl_generate *generate, const generate_request *message,
                                      struct sl_err *err)
{
    if (message->kv_transfer_params)
        return refuse_field(err, "kv_transfer_params",
                            "prefill and decode are joined inside this node, leave it out");
    if (message->mm_inputs)
        return refuse_field(err, "mm_inputs", "the model reads text only");
    if (message->n_extra_mm_inputs)
        return refuse_field(err, "extra_mm_inputs", "the model reads text only");
    if (message->media_refs && message->media_refs->n_items)
        return refuse_field(err, "media_refs", "the model reads text only");
    if (message->_data_parallel_rank_case && message->data_parallel_rank > 0)
        return sl_fail(err, SL_E_INVALID, "data_parallel_rank is %d, but there is only rank 0 here",
                       message->data_parallel_rank);
    if (message->_kv_transfer_params_json_case && message->kv_transfer_params_json[0]) {
        if (strlen(message->kv_transfer_params_json) > MAX_JSON_BYTES)
            return sl_fail(err, SL_E_INVALID,
                           "kv_transfer_params_json has %zu bytes; at most %d are accepted",
                           strlen(message->kv_transfer_params_json), MAX_JSON_BYTES);
        generate->want_timeline = asks_timeline(message->kv_transfer_params_json);
        if (!generate->want_timeline)
            return refuse_field(err, "kv_transfer_params_json",
                                "leave it out, or send {\"sluice_timeline\": true}");
    }
    if (strlen(message->request_id) >= sizeof generate->request_id)
        return sl_fail(err, SL_E_INVALID, "request_id has %zu bytes; at most %zu are accepted",
                       strlen(message->request_id), sizeof generate->request_id - 1);
    if (!is_utf8(message->request_id))
        return sl_fail(err, SL_E_INVALID, "request_id is not UTF-8");
    strcpy(generate->request_id, message->request_id);
    return SL_OK;
}

static sl_status check_unserved(const sampling_params *params, struct sl_err *err)
{
    static const char *const constraints[] = {"json_schema",    "regex",       "grammar",
                                              "structural_tag", "json_object", "choice"};
    if (params->constraint_case) {
        char field[64];
        uint32_t i =
            (uint32_t)params->constraint_case - VLLM__GRPC__ENGINE__SAMPLING_PARAMS__CONSTRAINT_JSON_SCHEMA;
        snprintf(field, sizeof field, "sampling_params.%s", i < 6 ? constraints[i] : "constraint");
        return refuse_field(err, field, "constrained decoding does not exist yet, leave it out");
    }
    if (params->_truncate_prompt_tokens_case)
        return refuse_field(err, "sampling_params.truncate_prompt_tokens",
                            "cut the prompt before it is sent");
    return SL_OK;
}

static int by_id(const void *a, const void *b)
{
    const struct sl_bias *x = a, *y = b;
    return x->id < y->id ? -1 : x->id > y->id;
}

/* A map on the wire is a list; of a key that is there twice the last counts. */
static sl_status read_bias(struct sl_engine_request *request, const sampling_params *params,
                           struct sl_err *err)
{
    struct sl_generate *generate = &request->generate;
    if (params->n_logit_bias > SL_MAX_LOGIT_BIAS)
        return sl_fail(err, SL_E_INVALID,
                       "sampling_params.logit_bias has %zu entries; at most %d are accepted",
                       params->n_logit_bias, SL_MAX_LOGIT_BIAS);
    for (size_t i = params->n_logit_bias; i-- > 0;) {
        int32_t id = params->logit_bias[i]->key;
        bool known = false;
        if (id < 0)
            return sl_fail(err, SL_E_INVALID, "token id %d of sampling_params.logit_bias is below 0", id);
        for (uint32_t k = 0; k < generate->n_bias && !known; k++)
            known = request->bias[k].id == (uint32_t)id;
        if (!known)
            request->bias[generate->n_bias++] = (struct sl_bias){(uint32_t)id, params->logit_bias[i]->value};
    }
    qsort(request->bias, generate->n_bias, sizeof *request->bias, by_id);
    generate->bias = request->bias;
    return SL_OK;
}

static sl_status read_stops(struct sl_generate *generate, const sampling_params *params, struct sl_err *err)
{
    if (params->n_stop > SL_MAX_STOP_STRINGS)
        return sl_fail(err, SL_E_INVALID, "sampling_params.stop has %zu strings; at most %d are accepted",
                       params->n_stop, SL_MAX_STOP_STRINGS);
    if (params->n_stop_token_ids > SL_MAX_STOP_IDS)
        return sl_fail(err, SL_E_INVALID,
                       "sampling_params.stop_token_ids has %zu ids; at most %d are accepted",
                       params->n_stop_token_ids, SL_MAX_STOP_IDS);
    size_t all = 0;
    for (size_t i = 0; i < params->n_stop; i++) {
        size_t bytes = strlen(params->stop[i]);
        if (bytes > SL_MAX_STOP_BYTES)
            return sl_fail(err, SL_E_INVALID,
                           "sampling_params.stop[%zu] has %zu bytes; at most %d are accepted", i, bytes,
                           SL_MAX_STOP_BYTES);
        all += bytes;
        if (all > SL_MAX_STOPS_BYTES)
            return sl_fail(err, SL_E_INVALID,
                           "the strings of sampling_params.stop have more than %d bytes together; send fewer",
                           SL_MAX_STOPS_BYTES);
        if (!params->stop[i][0])
            return sl_fail(err, SL_E_INVALID, "sampling_params.stop[%zu] is empty: leave it out", i);
        if (!is_utf8(params->stop[i]))
            return sl_fail(err, SL_E_INVALID, "sampling_params.stop[%zu] is not UTF-8", i);
        generate->stop[i] = params->stop[i];
    }
    generate->n_stop = (uint32_t)params->n_stop;
    generate->n_stop_ids = (uint32_t)params->n_stop_token_ids;
    if (params->n_stop_token_ids)
        memcpy(generate->stop_ids, params->stop_token_ids, params->n_stop_token_ids * sizeof(uint32_t));
    return SL_OK;
}

static sl_status check_logprobs(const char *field, int32_t value, struct sl_err *err)
{
    if (value < 0 || value > SL_MAX_LOGPROBS)
        return sl_fail(err, SL_E_INVALID, "sampling_params.%s is %d; 0 to %d are served", field, value,
                       SL_MAX_LOGPROBS);
    return SL_OK;
}

static sl_status read_sampling(struct sl_engine_request *request, const sampling_params *params,
                               struct sl_err *err)
{
    struct sl_generate *generate = &request->generate;
    struct sl_sampling *sampling = &generate->sampling;
    SL_TRY(check_unserved(params, err));
    SL_TRY(read_bias(request, params, err));
    SL_TRY(read_stops(generate, params, err));
    sampling->temperature = params->_temperature_case ? params->temperature : 1.0f;
    sampling->top_k = params->top_k;
    sampling->top_p = params->top_p == 0 ? 1.0f : params->top_p;
    sampling->min_p = params->min_p;
    sampling->presence_penalty = params->presence_penalty;
    sampling->frequency_penalty = params->frequency_penalty;
    sampling->repetition_penalty = params->repetition_penalty;
    sampling->n_logprobs = -1;
    generate->prompt_logprobs = -1;
    if (params->_logprobs_case) {
        SL_TRY(check_logprobs("logprobs", params->logprobs, err));
        sampling->n_logprobs = params->logprobs;
    }
    if (params->_prompt_logprobs_case) {
        SL_TRY(check_logprobs("prompt_logprobs", params->prompt_logprobs, err));
        generate->prompt_logprobs = params->prompt_logprobs;
    }
    if (params->_seed_case)
        sampling->seed = (uint32_t)params->seed;
    else
        SL_TRY(sl_random_bytes(&sampling->seed, sizeof sampling->seed));
    if (params->n > SL_MAX_N)
        return sl_fail(err, SL_E_INVALID, "sampling_params.n is %u; 1 to %d are served", params->n, SL_MAX_N);
    generate->n = params->n;
    generate->min_tokens = params->min_tokens;
    generate->ignore_eos = params->ignore_eos;
    generate->skip_special = params->skip_special_tokens;
    generate->include_stop = params->include_stop_str_in_output;
    return sl_sampling_check(sampling, err);
}

/* Text that no context could hold, whatever tokens it makes, is not tokenized at all. */
static sl_status check_text_bytes(const struct sl_coordinator *coordinator, size_t bytes, struct sl_err *err)
{
    size_t most = sl_coordinator_context(coordinator) * sl_detok_room(sl_coordinator_tokenizer(coordinator));
    if (bytes <= most)
        return SL_OK;
    return sl_fail(
        err, SL_E_INVALID,
        "text has %zu bytes, more than the context of %u tokens can hold (%zu); send a shorter one", bytes,
        sl_coordinator_context(coordinator), most);
}

static sl_status read_input(struct sl_engine_request *request, struct sl_coordinator *coordinator,
                            const generate_request *message, struct sl_pb_span raw, struct sl_err *err)
{
    struct sl_generate *generate = &request->generate;
    switch (message->input_case) {
    case VLLM__GRPC__ENGINE__GENERATE_REQUEST__INPUT_TOKENIZED:
        if (message->tokenized->n_input_ids == 0)
            return sl_fail(err, SL_E_INVALID, "tokenized.input_ids is empty: send at least one id");
        if (message->tokenized->n_input_ids > sl_coordinator_context(coordinator))
            return sl_fail(err, SL_E_INVALID,
                           "tokenized.input_ids has %zu ids, the context is %u; send a shorter prompt",
                           message->tokenized->n_input_ids, sl_coordinator_context(coordinator));
        generate->ids = message->tokenized->input_ids;
        generate->n_ids = (uint32_t)message->tokenized->n_input_ids;
        return SL_OK;
    case VLLM__GRPC__ENGINE__GENERATE_REQUEST__INPUT_TEXT: {
        struct sl_pb_span value, text = {NULL, 0};
        uint32_t number;
        while (sl_pb_next(&raw, &number, &value)) /* the last one counts, with its NULs */
            if (number == REQUEST_TEXT)
                text = value;
        SL_TRY(check_text_bytes(coordinator, text.bytes, err));
        if (sl_tokenizer_encode(sl_coordinator_tokenizer(coordinator), (const char *)text.data, text.bytes,
                                &request->owned_ids, &generate->n_ids, err) != SL_OK)
            return sl_err_prefix(err, "text");
        if (generate->n_ids == 0)
            return sl_fail(err, SL_E_INVALID, "text is empty: send at least one character");
        generate->ids = request->owned_ids;
        return SL_OK;
    }
    default:
        return sl_fail(err, SL_E_INVALID, "there is no prompt: send tokenized.input_ids or text");
    }
}

/* Absent: as much as the context leaves. A prompt that fills the context asks for one token, so
 * that submit refuses it by its length. */
static sl_status read_max_tokens(struct sl_generate *generate, const sampling_params *params,
                                 uint32_t context, struct sl_err *err)
{
    if (params->_max_tokens_case)
        generate->max_tokens = params->max_tokens;
    else
        generate->max_tokens = generate->n_ids < context ? context - generate->n_ids : 1;
    if (generate->min_tokens > generate->max_tokens)
        return sl_fail(err, SL_E_INVALID, "sampling_params.min_tokens is %u, above max_tokens, which is %u",
                       generate->min_tokens, generate->max_tokens);
    return SL_OK;
}

sl_status sl_engine_request_read(struct sl_engine_request *request, struct sl_coordinator *coordinator,
                                 const generate_request *message, struct sl_pb_span raw, struct sl_err *err)
{
    const sampling_params defaults = VLLM__GRPC__ENGINE__SAMPLING_PARAMS__INIT;
    const sampling_params *params = message->sampling_params ? message->sampling_params : &defaults;
    SL_TRY(check_raw(raw, err));
    SL_TRY(check_request_fields(&request->generate, message, err));
    SL_TRY(read_sampling(request, params, err));
    SL_TRY(read_input(request, coordinator, message, raw, err));
    request->stream = message->stream;
    return read_max_tokens(&request->generate, params, sl_coordinator_context(coordinator), err);
}

void sl_engine_request_fini(struct sl_engine_request *request)
{
    free(request->owned_ids);
    request->owned_ids = NULL;
}

void sl_engine_refuse(struct sl_rpc_call *call, sl_status status, const char *sentence,
                      uint32_t retry_after_ms)
{
    if (status == SL_E_UNAVAILABLE || status == SL_E_EXHAUSTED || status == SL_E_PEER_LOST)
        sl_rpc_pushback(call, retry_after_ms ? retry_after_ms : SL_PUSHBACK_MS);
    sl_rpc_finish(call, status, sentence);
}
