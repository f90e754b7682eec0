/* Tests of OpenAI's JSON: what a request says, and what pieces of answers of several servers say. */
#include "bench/serve/openai.h"
#include "tests/check.h"

#include <stdlib.h>

static const struct sl_headers no_headers;

SL_TEST(a_body_says_what_is_asked_and_what_is_extra)
{
    uint32_t ids[] = {1, 2, 3};
    struct sl_call_ask ask = {
        .ids = ids, .n_ids = 3, .max_tokens = 9, .force_length = true, .headers = &no_headers};
    char *body = sl_openai_body(&ask, "m", false, "{\"cache_prompt\": false, \"seed\": 5}");
    REQUIRE(body != NULL);
    CHECK_CONTAINS(body, "\"prompt\":[1,2,3]");
    CHECK_CONTAINS(body, "\"max_tokens\":9");
    CHECK_CONTAINS(body, "\"min_tokens\":9");
    CHECK_CONTAINS(body, "\"ignore_eos\":true");
    CHECK_CONTAINS(body, "\"include_usage\":true");
    CHECK_CONTAINS(body, "\"cache_prompt\":false");
    CHECK_CONTAINS(body, "\"seed\":5");
    free(body);
    ask = (struct sl_call_ask){.text = "a \"b\"", .max_tokens = 1, .headers = &no_headers};
    body = sl_openai_body(&ask, "m", true, NULL);
    REQUIRE(body != NULL);
    CHECK_CONTAINS(body, "\"messages\":[{\"role\":\"user\",\"content\":\"a \\\"b\\\"\"}]");
    CHECK(!strstr(body, "ignore_eos"));
    free(body);
}

static struct sl_openai_piece read_piece(const char *text)
{
    struct sl_openai_piece piece;
    CHECK(sl_openai_read(&piece, text, strlen(text)) == SL_OK);
    return piece;
}

SL_TEST(text_is_found_wherever_a_server_puts_it)
{
    static const char *const texts[] = {
        "{\"choices\":[{\"text\":\"hi\"}]}",
        "{\"choices\":[{\"delta\":{\"content\":\"hi\"}}]}",
        "{\"choices\":[{\"delta\":{\"content\":null,\"reasoning_content\":\"hi\"}}]}",
        "{\"choices\":[{\"delta\":{\"content\":\"\",\"reasoning\":\"hi\"}}]}",
        "{\"choices\":[{\"message\":{\"content\":\"hi\"}}]}",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct sl_openai_piece piece = read_piece(texts[i]);
        CHECK(piece.text && strcmp(piece.text, "hi") == 0);
        sl_openai_free(&piece);
    }
}

SL_TEST(an_empty_piece_is_no_arrival)
{
    static const char *const texts[] = {
        "{\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}",
        "{\"choices\":[]}",
        "{\"choices\":[{\"text\":\"\",\"finish_reason\":null}]}",
        "{}",
        "{\"choices\":3}",
        "{\"choices\":[7]}",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct sl_openai_piece piece = read_piece(texts[i]);
        CHECK(piece.text == NULL && !piece.finished && !piece.failed);
        sl_openai_free(&piece);
    }
}

SL_TEST(usage_and_the_end_are_read_and_nonsense_counts_as_not_said)
{
    struct sl_openai_piece piece = read_piece(
        "{\"choices\":[{\"text\":\"\",\"finish_reason\":\"length\"}],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":9}}");
    CHECK(piece.finished && piece.has_usage);
    CHECK_INT(piece.input_tokens, 7);
    CHECK_INT(piece.output_tokens, 9);
    sl_openai_free(&piece);
    piece = read_piece("{\"usage\":{\"prompt_tokens\":-7,\"completion_tokens\":99999999999999}}");
    CHECK_INT(piece.input_tokens, 0);
    CHECK_INT(piece.output_tokens, 0);
    sl_openai_free(&piece);
    piece = read_piece("{\"usage\":null}");
    CHECK(!piece.has_usage);
    sl_openai_free(&piece);
}

SL_TEST(an_error_is_its_sentence)
{
    static const struct {
        const char *text, *sentence;
    } errors[] = {
        {"{\"error\":{\"message\":\"too long\"}}", "too long"},
        {"{\"error\":\"too long\"}", "too long"},
        {"{\"object\":\"error\",\"message\":\"too long\"}", "too long"},
        {"{\"error\":{\"code\":3}}", "without a message"},
    };
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) {
        struct sl_openai_piece piece = read_piece(errors[i].text);
        CHECK(piece.failed);
        CHECK_CONTAINS(piece.text, errors[i].sentence);
        sl_openai_free(&piece);
    }
    struct sl_openai_piece piece;
    CHECK(sl_openai_read(&piece, "[1]", 3) == SL_E_PROTOCOL);
    CHECK(sl_openai_read(&piece, "{", 1) == SL_E_PROTOCOL);
}

SL_TEST(the_first_model_that_is_listed_is_taken)
{
    static const char two[] = "{\"data\":[{\"id\":\"a\"},{\"id\":\"b\"}]}";
    char name[16];
    CHECK(sl_openai_model(two, sizeof two - 1, name, sizeof name));
    CHECK_STR(name, "a");
    CHECK(!sl_openai_model("{\"data\":[]}", 11, name, sizeof name));
    CHECK(!sl_openai_model("rubbish", 7, name, sizeof name));
}
