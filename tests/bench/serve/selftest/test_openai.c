/* Tests of OpenAI's HTTP interface as bytes: what a body means, what is refused, and that what is written can be read. */
#include "bench/serve/selftest/openai.h"
#include "bench/serve/selftest/script.h"
#include "tests/check.h"

#include <jansson.h>
#include <stdlib.h>

static sl_status read_body(struct sl_openai_ask *ask, bool chat, const char *body, struct sl_err *err)
{
    *ask = (struct sl_openai_ask){0};
    *err = (struct sl_err){0};
    return sl_openai_ask_read(ask, chat, body, strlen(body), err);
}

SL_TEST(a_completion_is_read)
{
    struct sl_openai_ask ask;
    struct sl_err err;
    CHECK_INT(
        read_body(&ask, false,
                  "{\"model\":\"m\",\"prompt\":\"a b\",\"max_tokens\":7,\"stream\":true,\"temperature\":0,"
                  "\"stream_options\":{\"include_usage\":true}}",
                  &err),
        SL_OK);
    CHECK(ask.stream && ask.include_usage);
    CHECK_INT(ask.max_tokens, 7);
    CHECK_STR(ask.text, "a b");
    sl_openai_fini(&ask);
    CHECK_INT(read_body(&ask, false, "{\"prompt\":[5,6,7],\"max_tokens\":null,\"stream\":null}", &err),
              SL_OK);
    CHECK(ask.n_ids == 3 && ask.max_tokens == 0 && !ask.stream && !ask.text);
    sl_openai_fini(&ask);
    CHECK_INT(read_body(&ask, false, "{\"prompt\":[\"one\"]}", &err), SL_OK);
    CHECK_STR(ask.text, "one");
    sl_openai_fini(&ask);
}

SL_TEST(the_contents_of_a_chat_are_its_prompt)
{
    struct sl_openai_ask ask;
    struct sl_err err;
    CHECK_INT(
        read_body(&ask, true,
                  "{\"messages\":[{\"role\":\"system\",\"content\":\"be\"},{\"role\":\"user\",\"content\":"
                  "[{\"type\":\"text\",\"text\":\"kind\"},{\"type\":\"text\",\"text\":\"now\"}]}],"
                  "\"max_completion_tokens\":3}",
                  &err),
        SL_OK);
    CHECK_STR(ask.text, "be\nkind\nnow");
    CHECK_INT(ask.text_bytes, 11);
    CHECK_INT(ask.max_tokens, 3);
    sl_openai_fini(&ask);
}

SL_TEST(what_cannot_be_served_is_refused_by_name)
{
    static const struct {
        bool chat;
        const char *body, *part;
    } wrong[] = {
        {false, "", "no JSON object"},
        {false, "[]", "no JSON object"},
        {false, "{\"prompt\":\"a\",\"prompt\":\"b\"}", "no JSON object"},
        {false, "{}", "prompt is missing"},
        {false, "{\"prompt\":[]}", "prompt is missing"},
        {false, "{\"prompt\":7}", "prompt is missing"},
        {false, "{\"prompt\":[1,\"a\"]}", "prompt[1]"},
        {false, "{\"prompt\":[\"a\",\"b\"]}", "prompt[0]"},
        {false, "{\"prompt\":[-1]}", "prompt[0]"},
        {false, "{\"prompt\":\"a\",\"max_tokens\":0}", "max_tokens is no whole number from 1 to 32768"},
        {false, "{\"prompt\":\"a\",\"max_tokens\":1.5}", "max_tokens"},
        {false, "{\"prompt\":\"a\",\"max_tokens\":100000}", "max_tokens"},
        {false, "{\"prompt\":\"a\",\"n\":2}", "n is no whole number from 1 to 1"},
        {false, "{\"prompt\":\"a\",\"stream\":\"yes\"}", "stream is neither"},
        {false, "{\"prompt\":\"a\",\"stream_options\":[]}", "stream_options"},
        {false, "{\"prompt\":\"a\",\"stream_options\":{\"include_usage\":1}}", "include_usage"},
        {true, "{\"messages\":[]}", "messages is missing"},
        {true, "{\"messages\":[{\"role\":\"user\"}]}", "messages[0] has no content"},
        {true, "{\"messages\":[{\"content\":7}]}", "neither a text nor"},
        {true, "{\"messages\":[{\"content\":[{\"type\":\"image_url\"}]}]}", "has no text"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct sl_openai_ask ask;
        struct sl_err err;
        CHECK_INT(read_body(&ask, wrong[i].chat, wrong[i].body, &err), SL_E_INVALID);
        CHECK_CONTAINS(err.text, wrong[i].part);
        sl_openai_fini(&ask);
    }
}

/* The JSON of an event, or of a whole text. */
static json_t *parsed(struct sl_text *text)
{
    const char *data = text->data;
    size_t bytes = text->bytes;
    if (strncmp(data, "data: ", 6) == 0) {
        if (bytes < 8 || strcmp(data + bytes - 2, "\n\n") != 0 || strchr(data, '\n') != data + bytes - 2)
            sl_test_fail(__FILE__, __LINE__, "no event: %s", data);
        data += 6;
        bytes -= 6;
    }
    json_t *root = json_loadb(data, bytes, JSON_REJECT_DUPLICATES, NULL);
    if (!root)
        sl_test_fail(__FILE__, __LINE__, "no JSON: %s", data);
    free(text->data);
    *text = (struct sl_text){0};
    return root;
}

SL_TEST(what_is_written_is_json_whatever_the_names_are)
{
    static const char *const models[] = {"m", "a\"b\\c\n\x01", "\xc3\xa4"};
    for (int i = 0; i < 12; i++) {
        const struct sl_openai_frame frame = {models[i % 3], "id-1", i & 1, i >= 6};
        struct sl_text text = {0};
        const char *object, *content, *finish;
        sl_openai_chunk(&text, &frame, " a b", NULL);
        json_t *root = parsed(&text);
        REQUIRE(json_unpack(root, "{s:s, s:[{s:n}]}", "object", &object, "choices", "finish_reason") == 0);
        CHECK_STR(object, !frame.chat    ? "text_completion"
                          : frame.stream ? "chat.completion.chunk"
                                         : "chat.completion");
        json_decref(root);
        sl_openai_whole(&text, &frame, " a b", "length", 3, 4);
        root = parsed(&text);
        json_t *choice = json_array_get(json_object_get(root, "choices"), 0);
        json_t *message = json_object_get(choice, frame.stream ? "delta" : "message");
        if (!frame.chat || !frame.stream) {
            content = json_string_value(frame.chat ? json_object_get(message, "content")
                                                   : json_object_get(choice, "text"));
            finish = json_string_value(json_object_get(choice, "finish_reason"));
            REQUIRE(content && finish);
            CHECK_STR(content, " a b");
            CHECK_STR(finish, "length");
        }
        CHECK_INT(json_integer_value(json_object_get(json_object_get(root, "usage"), "total_tokens")), 7);
        json_decref(root);
        sl_openai_usage(&text, &frame, 3, 4);
        root = parsed(&text);
        CHECK_INT(json_array_size(json_object_get(root, "choices")), 0);
        json_decref(root);
        sl_openai_error(&text, 400, models[i % 3]);
        json_decref(parsed(&text));
        sl_openai_models(&text, models[i % 3]);
        json_decref(parsed(&text));
    }
}
