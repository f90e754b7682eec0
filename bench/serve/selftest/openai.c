/* OpenAI's HTTP interface as bytes (openai.h). Texts that we write are words of small letters; names come from the command line. */
#include "bench/serve/selftest/openai.h"
#include "bench/serve/selftest/script.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static sl_status append(struct sl_openai_ask *ask, const json_t *string, struct sl_err *err)
{
    size_t bytes = json_string_length(string);
    char *grown = realloc(ask->text, ask->text_bytes + bytes + 2);
    if (!grown)
        return sl_fail(err, SL_E_EXHAUSTED, "out of memory for the prompt; try again later");
    ask->text = grown;
    if (ask->text_bytes)
        ask->text[ask->text_bytes++] = '\n';
    memcpy(ask->text + ask->text_bytes, json_string_value(string), bytes);
    ask->text_bytes += bytes;
    ask->text[ask->text_bytes] = 0;
    return SL_OK;
}

static sl_status read_prompt(struct sl_openai_ask *ask, const json_t *prompt, struct sl_err *err)
{
    if (json_is_string(prompt))
        return append(ask, prompt, err);
    size_t n = json_array_size(prompt); /* 0 of what is no list */
    if (n == 1 && json_is_string(json_array_get(prompt, 0)))
        return append(ask, json_array_get(prompt, 0), err);
    for (size_t i = 0; i < n; i++) {
        json_t *id = json_array_get(prompt, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) > INT32_MAX)
            return sl_fail(err, SL_E_INVALID,
                           "prompt[%zu] is no token id; one prompt is served, a text or a list of ids", i);
    }
    if (n == 0)
        return sl_fail(err, SL_E_INVALID, "prompt is missing or empty; send a text or a list of token ids");
    ask->n_ids = (uint32_t)n;
    return SL_OK;
}

static sl_status read_content(struct sl_openai_ask *ask, const json_t *content, struct sl_err *err)
{
    size_t i;
    json_t *part;
    if (json_is_string(content))
        return append(ask, content, err);
    if (!json_is_array(content) && !json_is_null(content))
        return sl_fail(err, SL_E_INVALID, "the content of a message is neither a text nor a list of parts");
    json_array_foreach(content, i, part)
    {
        const json_t *text = json_object_get(part, "text");
        if (!json_is_string(text))
            return sl_fail(err, SL_E_INVALID, "part %zu of a message's content has no text", i);
        SL_TRY(append(ask, text, err));
    }
    return SL_OK;
}

static sl_status read_messages(struct sl_openai_ask *ask, const json_t *messages, struct sl_err *err)
{
    size_t i;
    json_t *message;
    if (json_array_size(messages) == 0)
        return sl_fail(err, SL_E_INVALID, "messages is missing or empty; send a list with at least one");
    json_array_foreach(messages, i, message)
    {
        const json_t *content = json_object_get(message, "content");
        if (!content)
            return sl_fail(err, SL_E_INVALID, "messages[%zu] has no content", i);
        SL_TRY(read_content(ask, content, err));
    }
    return SL_OK;
}

/* Absent and null are the same. */
static json_t *field(const json_t *root, const char *name)
{
    json_t *value = json_object_get(root, name);
    return json_is_null(value) ? NULL : value;
}

static sl_status read_count(const json_t *root, const char *name, uint32_t most, uint32_t *count,
                            struct sl_err *err)
{
    const json_t *value = field(root, name);
    if (!value)
        return SL_OK;
    if (!json_is_integer(value) || json_integer_value(value) < 1 || json_integer_value(value) > most)
        return sl_fail(err, SL_E_INVALID, "%s is no whole number from 1 to %u", name, most);
    *count = (uint32_t)json_integer_value(value);
    return SL_OK;
}

static sl_status read_flag(const json_t *root, const char *name, bool *flag, struct sl_err *err)
{
    const json_t *value = field(root, name);
    if (value && !json_is_boolean(value))
        return sl_fail(err, SL_E_INVALID, "%s is neither true nor false", name);
    *flag = json_is_true(value);
    return SL_OK;
}

static sl_status read_fields(struct sl_openai_ask *ask, const json_t *root, struct sl_err *err)
{
    uint32_t n = 1;
    const json_t *options = field(root, "stream_options");
    SL_TRY(ask->chat ? read_messages(ask, json_object_get(root, "messages"), err)
                     : read_prompt(ask, json_object_get(root, "prompt"), err));
    SL_TRY(read_count(root, "max_tokens", SL_MAX_SCRIPTED_TOKENS, &ask->max_tokens, err));
    SL_TRY(read_count(root, "max_completion_tokens", SL_MAX_SCRIPTED_TOKENS, &ask->max_tokens, err));
    SL_TRY(read_count(root, "n", 1, &n, err));
    SL_TRY(read_flag(root, "stream", &ask->stream, err));
    if (options && !json_is_object(options))
        return sl_fail(err, SL_E_INVALID, "stream_options is no object");
    return options ? read_flag(options, "include_usage", &ask->include_usage, err) : SL_OK;
}

sl_status sl_openai_ask_read(struct sl_openai_ask *ask, bool chat, const char *body, size_t bytes,
                             struct sl_err *err)
{
    json_error_t error;
    json_t *root = json_loadb(body, bytes, JSON_REJECT_DUPLICATES, &error);
    ask->chat = chat;
    if (!json_is_object(root)) {
        int at = root ? 0 : error.position;
        json_decref(root);
        return sl_fail(err, SL_E_INVALID, "the body is no JSON object (byte %d)", at);
    }
    sl_status status = read_fields(ask, root, err);
    json_decref(root);
    return status;
}

void sl_openai_fini(struct sl_openai_ask *ask)
{
    free(ask->text);
    *ask = (struct sl_openai_ask){0};
}

/* ---- answers ---- */

/* A string of JSON, quotes included; NULL: null. */
static void add_string(struct sl_text *to, const char *text)
{
    if (!text) {
        sl_text_add(to, "null");
        return;
    }
    char special[34] = {'"', '\\'}; /* and every control character */
    for (char c = 1; c < ' '; c++)
        special[1 + c] = c;
    sl_text_add(to, "\"");
    for (; *text; text++) {
        size_t plain = strcspn(text, special);
        sl_text_add(to, "%.*s", (int)plain, text);
        text += plain;
        if (!*text)
            break;
        sl_text_add(to, *text < ' ' ? "?" : "\\%c", *text);
    }
    sl_text_add(to, "\"");
}

/* Up to the choices. When it was created is for people, and a script has no date. */
static void add_head(struct sl_text *to, const struct sl_openai_frame *frame)
{
    const char *object = !frame->chat    ? "text_completion"
                         : frame->stream ? "chat.completion.chunk"
                                         : "chat.completion";
    sl_text_add(to, "{\"id\":\"%s-", frame->chat ? "chatcmpl" : "cmpl");
    sl_text_add(to, "%s\",\"object\":\"%s\",\"created\":0,\"model\":", frame->id, object);
    add_string(to, frame->model);
    sl_text_add(to, ",\"choices\":[");
}

static void add_choice(struct sl_text *to, const struct sl_openai_frame *frame, const char *text,
                       const char *finish)
{
    sl_text_add(to, "{\"index\":0,");
    if (!frame->chat) {
        sl_text_add(to, "\"text\":");
        add_string(to, text);
    } else {
        sl_text_add(to, "\"%s\":{", frame->stream ? "delta" : "message");
        if (!finish || !frame->stream) {
            sl_text_add(to, "\"role\":\"assistant\",\"content\":");
            add_string(to, text);
        }
        sl_text_add(to, "}");
    }
    sl_text_add(to, ",\"logprobs\":null,\"finish_reason\":");
    add_string(to, finish);
    sl_text_add(to, "}");
}

static void add_usage(struct sl_text *to, uint32_t prompt_tokens, uint32_t output_tokens)
{
    sl_text_add(to, ",\"usage\":{\"prompt_tokens\":%u,\"completion_tokens\":%u,\"total_tokens\":%u}",
                prompt_tokens, output_tokens, prompt_tokens + output_tokens);
}

void sl_openai_chunk(struct sl_text *to, const struct sl_openai_frame *frame, const char *text,
                     const char *finish)
{
    sl_text_add(to, "data: ");
    add_head(to, frame);
    add_choice(to, frame, text, finish);
    sl_text_add(to, "]}\n\n");
}

void sl_openai_usage(struct sl_text *to, const struct sl_openai_frame *frame, uint32_t prompt_tokens,
                     uint32_t output_tokens)
{
    sl_text_add(to, "data: ");
    add_head(to, frame);
    sl_text_add(to, "]");
    add_usage(to, prompt_tokens, output_tokens);
    sl_text_add(to, "}\n\n");
}

void sl_openai_whole(struct sl_text *to, const struct sl_openai_frame *frame, const char *text,
                     const char *finish, uint32_t prompt_tokens, uint32_t output_tokens)
{
    add_head(to, frame);
    add_choice(to, frame, text, finish);
    sl_text_add(to, "]");
    add_usage(to, prompt_tokens, output_tokens);
    sl_text_add(to, "}\n");
}

void sl_openai_error(struct sl_text *to, unsigned status, const char *sentence)
{
    sl_text_add(to, "{\"error\":{\"message\":");
    add_string(to, sentence);
    sl_text_add(to, ",\"type\":\"%s\",\"param\":null,\"code\":%u}}\n",
                status < 500 ? "invalid_request_error" : "server_error", status);
}

void sl_openai_models(struct sl_text *to, const char *model)
{
    sl_text_add(to, "{\"object\":\"list\",\"data\":[{\"id\":");
    add_string(to, model);
    sl_text_add(to, ",\"object\":\"model\",\"created\":0,\"owned_by\":\"sluice\",\"max_model_len\":%d}]}\n",
                SL_MAX_SCRIPTED_TOKENS);
}
