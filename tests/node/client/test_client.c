/* Tests of the client's parts that need no server: the zip that GetTokenizer sends is found by our
 * reader and hostile ones are not followed out of bounds, a timeline comes back from its JSON, an
 * answer grows. */
#include "node/client/client_impl.h"
#include "node/client/output.h"
#include "node/edge/zip.h"
#include "tests/check.h"

#include <stdlib.h>

static uint8_t *make_zip(size_t *bytes)
{
    struct sl_zip zip = {0};
    sl_zip_add(&zip, "config.json", "{}", 2);
    sl_zip_add(&zip, "tokenizer.json", "the tokenizer", 13);
    sl_zip_end(&zip);
    uint8_t *copy = malloc(zip.bytes); /* exact: a sanitizer sees a byte too far */
    if (copy)
        memcpy(copy, zip.data, zip.bytes);
    *bytes = zip.bytes;
    sl_zip_fini(&zip);
    return copy;
}

SL_TEST(zip_files_are_found_by_name)
{
    size_t bytes, n = 0;
    uint8_t *zip = make_zip(&bytes);
    REQUIRE(zip != NULL);
    const uint8_t *data = sl_zip_find(zip, bytes, "tokenizer.json", &n);
    CHECK(data && n == 13 && memcmp(data, "the tokenizer", 13) == 0);
    CHECK(sl_zip_find(zip, bytes, "tokenizer", &n) == NULL);
    CHECK(sl_zip_find(zip, bytes, "", &n) == NULL);
    free(zip);
}

SL_TEST(broken_zips_are_not_followed)
{
    size_t bytes, n;
    uint8_t *zip = make_zip(&bytes);
    REQUIRE(zip != NULL);
    for (size_t cut = 0; cut < 90; cut++) { /* shorter than both files: never found, never read beyond */
        uint8_t *part = malloc(cut + 1);
        REQUIRE(part != NULL);
        memcpy(part, zip, cut);
        uint8_t *exact = realloc(part, cut ? cut : 1);
        CHECK(sl_zip_find(exact, cut, "tokenizer.json", &n) == NULL || cut >= 43 + 44 + 13);
        free(exact);
    }
    for (size_t at = 0; at < 43; at++) /* every byte of the first header as large as can be */
        for (int value = 0; value < 256; value += 85) {
            uint8_t before = zip[at];
            zip[at] = (uint8_t)value;
            const uint8_t *data = sl_zip_find(zip, bytes, "tokenizer.json", &n);
            CHECK(!data || (data >= zip && n <= bytes && data + n <= zip + bytes));
            zip[at] = before;
        }
    zip[8] = 8; /* deflated */
    CHECK(sl_zip_find(zip, bytes, "tokenizer.json", &n) == NULL);
    free(zip);
}

SL_TEST(timelines_come_back_from_json)
{
    struct sl_answer answer = {0};
    struct sl_err err = {0};
    static const char good[] = "{\"timeline\":{\"submit_us\":10,\"first_token_us\":90,\"done_us\":"
                               "100,\"n_stages\":2,\"spans\":["
                               "{\"stage\":1,\"chunk\":0,\"pos\":0,\"tokens\":64,\"recv_us\":30,"
                               "\"begin_us\":31,\"end_us\":50,"
                               "\"kv_acked_us\":60}]}}";
    REQUIRE(sl_answer_parse_timeline(&answer, good, &err) == SL_OK);
    CHECK(answer.has_timeline);
    CHECK_INT(answer.timeline.first_token_us, 90);
    CHECK_INT(answer.timeline.n_spans, 1);
    CHECK_INT(answer.timeline.spans[0].stage, 1);
    CHECK_INT(answer.timeline.spans[0].kv_acked_us, 60);
    CHECK_INT(answer.timeline.n_foreign, 0);
    sl_answer_free(&answer);
    static const char waited[] = "{\"timeline\":{\"submit_us\":10,\"first_token_us\":90,\"done_us\":100,"
                                 "\"n_stages\":2,\"spans\":[],\"foreign\":["
                                 "{\"stage\":1,\"begin_us\":20,\"end_us\":30}]}}";
    REQUIRE(sl_answer_parse_timeline(&answer, waited, &err) == SL_OK);
    REQUIRE(answer.timeline.n_foreign == 1);
    CHECK(answer.timeline.foreign[0].stage == 1 && answer.timeline.foreign[0].begin_us == 20 &&
          answer.timeline.foreign[0].end_us == 30);
    sl_answer_free(&answer);
    static const char *const bad[] = {
        "",
        "[]",
        "{}",
        "{\"timeline\":{}}",
        "{\"timeline\":{\"submit_us\":-1,\"first_token_us\":0,\"done_us\":0,\"n_stages\":1,"
        "\"spans\":[]}}",
        "{\"timeline\":{\"submit_us\":1,\"first_token_us\":0,\"done_us\":0,\"n_stages\":0,"
        "\"spans\":[]}}",
        "{\"timeline\":{\"submit_us\":1,\"first_token_us\":0,\"done_us\":0,\"n_stages\":1,"
        "\"spans\":[{}]}}",
        "{\"timeline\":{\"submit_us\":1,\"first_token_us\":0,\"done_us\":0,\"n_stages\":1,\"spans\":[],"
        "\"foreign\":[{\"stage\":1,\"begin_us\":1,\"end_us\":2}]}}",
        "{\"timeline\":{\"submit_us\":1,\"first_token_us\":0,\"done_us\":0,\"n_stages\":1,\"spans\":[],"
        "\"foreign\":[{}]}}",
        "{\"timeline\":{\"submit_us\":10,\"first_token_us\":90,\"done_us\":100,\"n_stages\":1,"
        "\"spans\":["
        "{\"stage\":1,\"chunk\":0,\"pos\":0,\"tokens\":64,\"recv_us\":30,\"begin_us\":31,\"end_"
        "us\":50,"
        "\"kv_acked_us\":60}]}}",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        CHECK_INT(sl_answer_parse_timeline(&answer, bad[i], &err), SL_E_PROTOCOL);
        CHECK(!answer.has_timeline);
        sl_answer_free(&answer);
    }
}

SL_TEST(answers_grow)
{
    struct sl_answer answer = {0};
    for (uint32_t i = 0; i < 1000; i++) {
        struct sl_token_out *token = sl_answer_add(&answer, 1);
        REQUIRE(token != NULL);
        CHECK_INT(token->n_top, 0);
        token->id = i;
    }
    CHECK_INT(answer.n_tokens, 1000);
    CHECK_INT(answer.tokens[999].id, 999);
    CHECK(sl_answer_add(&answer, UINT32_MAX) == NULL);
    sl_answer_free(&answer);
}

SL_TEST(json_strings_are_escaped)
{
    char *text = NULL;
    size_t bytes = 0;
    FILE *to = open_memstream(&text, &bytes);
    REQUIRE(to != NULL);
    static const char given[] = "a\"b\\c\n\t\x01\x7fz\0\xc3\xa9";
    sl_json_string(to, given, sizeof given - 1);
    fclose(to);
    CHECK_STR(text, "\"a\\\"b\\\\c\\n\\u0009\\u0001\\u007fz\\u0000\xc3\xa9\"");
    free(text);
}
