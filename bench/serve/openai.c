/* OpenAI's JSON (openai.h). Servers differ in what they leave out and what they add, so only what is needed is looked at; numbers
 * that are none, negative or huge count as not said. */
#include "bench/serve/openai.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static json_t *messages_of(const struct sl_call_ask *ask)
{
    if (ask->messages)
        return json_loads(ask->messages, 0, NULL);
    return json_pack("[{s:s, s:s}]", "role", "user", "content", ask->text);
}

static json_t *prompt_of(const struct sl_call_ask *ask)
{
    if (!ask->ids)
        return json_string(ask->text);
    json_t *list = json_array();
    for (uint32_t i = 0; list && i < ask->n_ids; i++)
        json_array_append_new(list, json_integer(ask->ids[i]));
    return list;
}

char *sl_openai_body(const struct sl_call_ask *ask, const char *model, bool chat, const char *extra)
{
    json_t *body = json_pack("{s:s, s:b, s:{s:b}, s:I, s:f, s:I}", "model", model, "stream", 1,
                             "stream_options", "include_usage", 1, "max_tokens", (json_int_t)ask->max_tokens,
                             "temperature", ask->temperature, "seed", (json_int_t)ask->seed);
    json_t *added = extra ? json_loads(extra, 0, NULL) : NULL;
    char *text = NULL;
    if (body) {
        json_object_set_new(body, chat ? "messages" : "prompt", chat ? messages_of(ask) : prompt_of(ask));
        if (ask->force_length) {
            json_object_set_new(body, "ignore_eos", json_true());
            json_object_set_new(body, "min_tokens", json_integer(ask->max_tokens));
        }
        if (added)
            json_object_update(body, added);
        text = json_dumps(body, JSON_COMPACT);
    }
    json_decref(added);
    json_decref(body);
    return text;
}

static const char *text_in(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text && text[0] ? text : NULL;
}

/* The text of a choice, wherever its kind of answer keeps it. */
static const char *text_of(const json_t *choice)
{
    static const char *const places[] = {"delta", "message"};
    static const char *const keys[] = {"content", "reasoning_content", "reasoning"};
    const char *text = text_in(choice, "text");
    for (size_t i = 0; !text && i < sizeof places / sizeof *places; i++)
        for (size_t k = 0; !text && k < sizeof keys / sizeof *keys; k++)
            text = text_in(json_object_get(choice, places[i]), keys[k]);
    return text;
}

static uint32_t count_in(const json_t *object, const char *key)
{
    json_t *value = json_object_get(object, key);
    json_int_t count = json_is_integer(value) ? json_integer_value(value) : 0;
    return count > 0 && count <= INT32_MAX ? (uint32_t)count : 0;
}

static const char *sentence_of(const json_t *root)
{
    json_t *error = json_object_get(root, "error");
    const char *text = text_in(error, "message");
    if (!text)
        text = json_is_string(error) ? json_string_value(error) : text_in(root, "message");
    if (!text)
        text = text_in(root, "detail");
    return text ? text : "the server sent an error without a message";
}

sl_status sl_openai_read(struct sl_openai_piece *piece, const char *data, size_t bytes)
{
    json_t *root = json_loadb(data, bytes, 0, NULL);
    *piece = (struct sl_openai_piece){.root = root};
    if (!json_is_object(root)) {
        sl_openai_free(piece);
        return SL_E_PROTOCOL;
    }
    json_t *choice = json_array_get(json_object_get(root, "choices"), 0);
    json_t *error = json_object_get(root, "error"), *usage = json_object_get(root, "usage");
    const char *object = text_in(root, "object");
    if ((error && !json_is_null(error)) || (object && strcmp(object, "error") == 0)) {
        piece->failed = true;
        piece->text = sentence_of(root);
        return SL_OK;
    }
    piece->text = text_of(choice);
    piece->finished = json_is_string(json_object_get(choice, "finish_reason"));
    piece->has_usage = json_is_object(usage);
    piece->input_tokens = count_in(usage, "prompt_tokens");
    piece->output_tokens = count_in(usage, "completion_tokens");
    return SL_OK;
}

void sl_openai_free(struct sl_openai_piece *piece)
{
    json_decref(piece->root);
    piece->root = NULL;
}

bool sl_openai_model(const char *data, size_t bytes, char *name, size_t room)
{
    json_t *root = json_loadb(data, bytes, 0, NULL);
    const char *id = text_in(json_array_get(json_object_get(root, "data"), 0), "id");
    if (id)
        snprintf(name, room, "%s", id);
    json_decref(root);
    return id != NULL;
}
