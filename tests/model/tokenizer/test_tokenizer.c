/* The tokenizer by hand-checked cases: what is refused and in which words, streaming decode, long
 * runs.
 *
 * That ids agree with the `tokenizers` package is shown by tests/e2e/test_tokenizer.py over tens of
 * thousands of strings; here stand the properties a reader should see at a glance, on the bundled
 * tokenizer and on small made ones. The tests run in the root of the tree. */
#include "model/tokenizer/tokenizer.h"
#include "model/tokenizer/unicode_impl.h"
#include "tests/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct sl_tokenizer *demo(void)
{
    struct sl_tokenizer *tokenizer;
    struct sl_err err;
    if (sl_tokenizer_load(&tokenizer, "demo/tokenizer.json", &err) != SL_OK) {
        sl_test_fail(__FILE__, __LINE__, "%s", err.text);
        exit(1);
    }
    return tokenizer;
}

/* The pieces of text, each followed by '|'. */
static const char *split(const struct sl_tokenizer *tokenizer, const char *text)
{
    static char out[4096];
    uint32_t *ids, n_ids;
    struct sl_err err;
    size_t n = 0;
    if (sl_tokenizer_encode(tokenizer, text, strlen(text), &ids, &n_ids, &err) != SL_OK)
        return err.text[0] ? strcpy(out, err.text) : "no sentence";
    for (uint32_t i = 0; i < n_ids && n < sizeof out - 300; i++) {
        size_t bytes;
        bool special;
        const char *piece = sl_tokenizer_piece(tokenizer, ids[i], &bytes, &special);
        n += (size_t)snprintf(out + n, sizeof out - n, "%.*s|", (int)bytes, piece);
    }
    out[n] = '\0';
    free(ids);
    return out;
}

SL_TEST(words_become_pieces)
{
    struct sl_tokenizer *t = demo();
    CHECK_INT(sl_tokenizer_vocab(t), 4096);
    CHECK_STR(split(t, ""), "");
    CHECK_STR(split(t, "It was the best of times"), "It| was| the| best| of| times|");
    CHECK_STR(split(t, "don't 12"), "don|'t| |1|2|");
    CHECK_STR(split(t, "the<|im_end|>the"), "the|<|im_end|>|the|");
    CHECK_STR(split(t, "  the\n\n the"), " | the|\n\n| the|");
    sl_tokenizer_destroy(t);
    sl_tokenizer_destroy(NULL);
}

SL_TEST(text_is_normalised)
{
    struct sl_tokenizer *t = demo();
    char composed[256];
    snprintf(composed, sizeof composed, "%s", split(t, "caf\xC3\xA9"));
    CHECK_STR(split(t, "cafe\xCC\x81"), composed);
    sl_tokenizer_destroy(t);
}

SL_TEST(bad_utf8_is_refused_with_its_offset)
{
    struct sl_tokenizer *t = demo();
    CHECK_CONTAINS(split(t, "abc\xFF"), "byte offset 3 (0xff)");
    CHECK_CONTAINS(split(t, "ab\xC3"), "byte offset 2");
    CHECK_CONTAINS(split(t, "\xED\xA0\x80"), "byte offset 0"); /* a surrogate */
    CHECK_CONTAINS(split(t, "x\xC0\xAF"), "byte offset 1");    /* an overlong slash */
    CHECK_CONTAINS(split(t, "\xF4\x90\x80\x80"), "byte offset 0");
    sl_tokenizer_destroy(t);
}

SL_TEST(special_tokens_are_marked_and_unknown_ids_are_empty)
{
    struct sl_tokenizer *t = demo();
    size_t bytes;
    bool special;
    CHECK(memcmp(sl_tokenizer_piece(t, 4093, &bytes, &special), "<|endoftext|>", 13) == 0);
    CHECK_INT(bytes, 13);
    CHECK(special);
    sl_tokenizer_piece(t, 64, &bytes, &special);
    CHECK_INT(bytes, 1);
    CHECK(!special);
    sl_tokenizer_piece(t, 4096, &bytes, &special);
    CHECK_INT(bytes, 0);
    sl_tokenizer_piece(t, UINT32_MAX, &bytes, &special);
    CHECK_INT(bytes, 0);
    sl_tokenizer_destroy(t);
}

/* The emoji comes in four ids of one byte each: nothing may come out before the last. */
SL_TEST(decoding_never_cuts_a_character)
{
    struct sl_tokenizer *t = demo();
    static const char text[] = "a\xF0\x9F\x98\x80z";
    uint32_t *ids, n_ids;
    struct sl_err err;
    REQUIRE(sl_tokenizer_encode(t, text, sizeof text - 1, &ids, &n_ids, &err) == SL_OK);
    REQUIRE(n_ids > 3);
    char *out = malloc(sl_detok_room(t)), whole[64] = "";
    REQUIRE(out);
    struct sl_detok d;
    sl_detok_init(&d, t, true);
    for (uint32_t i = 0; i < n_ids; i++) {
        size_t bad, n = sl_detok_push(&d, ids[i], out);
        CHECK(sl_utf8_check(out, n, &bad));
        strncat(whole, out, n);
    }
    CHECK_INT(sl_detok_flush(&d, out), 0);
    CHECK_STR(whole, text);

    /* Cut after the second id and go on with an ASCII letter: one U+FFFD for what there was. */
    sl_detok_init(&d, t, true);
    CHECK_INT(sl_detok_push(&d, ids[0], out), 1);
    CHECK_INT(sl_detok_push(&d, ids[1], out), 0);
    CHECK_INT(sl_detok_push(&d, 4095, out), 0); /* a special token in between is skipped */
    CHECK(d.n_held > 0);
    CHECK_INT(sl_detok_push(&d, ids[0], out), 4);
    CHECK(memcmp(out,
                 "\xEF\xBF\xBD"
                 "a",
                 4) == 0);
    CHECK_INT(sl_detok_push(&d, ids[1], out), 0);
    CHECK_INT(sl_detok_flush(&d, out), 3);
    CHECK_INT(sl_detok_flush(&d, out), 0);
    free(out);
    free(ids);
    sl_tokenizer_destroy(t);
}

/* With quadratic merging or ordering these would take hours, and the runner's time limit would say
 * so. */
SL_TEST(long_runs_are_not_quadratic)
{
    enum { N = 1 << 20 };
    struct sl_tokenizer *t = demo();
    char *text = malloc(N);
    REQUIRE(text);
    static const char *const runs[] = {"a", " ", "\n", "1", "\xCC\x81\xCC\xA3", "\xE6\x97\xA5", "<"};
    for (size_t r = 0; r < sizeof runs / sizeof runs[0]; r++) {
        size_t unit = strlen(runs[r]), bytes = N / unit * unit;
        for (size_t i = 0; i < bytes; i++)
            text[i] = runs[r][i % unit];
        uint32_t *ids, n_ids;
        struct sl_err err;
        REQUIRE(sl_tokenizer_encode(t, text, bytes, &ids, &n_ids, &err) == SL_OK);
        size_t total = 0, piece;
        bool special;
        for (uint32_t i = 0; i < n_ids; i++) {
            sl_tokenizer_piece(t, ids[i], &piece, &special);
            total += piece;
        }
        CHECK_INT(total, bytes);
        free(ids);
    }
    free(text);
    sl_tokenizer_destroy(t);
}

/* demo/tokenizer.json with the first `from` replaced by `to`; the sentence of the refusal, or ""
 * when it was taken. */
static const char *edited(const char *from, const char *to)
{
    static struct sl_err err;
    FILE *file = fopen("demo/tokenizer.json", "rb");
    char *json = calloc(1, 1 << 20);
    if (!file || !json || fread(json, 1, (1 << 20) - 1, file) == 0)
        exit(1);
    fclose(file);
    char *at = strstr(json, from), *changed = calloc(1, 1 << 20);
    if (!at || !changed) {
        sl_test_fail(__FILE__, __LINE__, "demo/tokenizer.json does not contain %s", from);
        exit(1);
    }
    int n = snprintf(changed, 1 << 20, "%.*s%s%s", (int)(at - json), json, to, at + strlen(from));
    struct sl_tokenizer *tokenizer;
    err.text[0] = '\0';
    if (sl_tokenizer_parse(&tokenizer, changed, (size_t)n, &err) == SL_OK)
        err.text[0] = '\0';
    else
        CHECK(!tokenizer && err.status == SL_E_DATA);
    sl_tokenizer_destroy(tokenizer);
    free(json);
    free(changed);
    return err.text;
}

SL_TEST(what_is_not_known_is_refused_by_name)
{
    CHECK_STR(edited("\"NFC\"", "\"NFC\""), "");
    CHECK_CONTAINS(edited("\"NFC\"", "\"NFKC\""), "the normalizer is \"NFKC\"");
    CHECK_CONTAINS(edited("\\\\p{L}\\\\p{N}]?", "\\\\p{M}]?"),
                   "the splitter \"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{M}]?");
    CHECK_CONTAINS(edited("\"Isolated\"", "\"Removed\""), "behavior \"Removed\"");
    CHECK_CONTAINS(edited("\"use_regex\": false", "\"use_regex\": true"), "\"use_regex\"");
    CHECK_CONTAINS(edited("\"invert\": false", "\"invert\": true"), "\"invert\"");
    CHECK_CONTAINS(edited("\"BPE\"", "\"Unigram\""), "the model is \"Unigram\"");
    CHECK_CONTAINS(edited("\"dropout\": null", "\"dropout\": 0.1"), "\"dropout\"");
    CHECK_CONTAINS(edited("\"byte_fallback\": false", "\"byte_fallback\": true"), "\"byte_fallback\"");
    CHECK_CONTAINS(edited("\"ignore_merges\": false", "\"ignore_merges\": true"), "\"ignore_merges\"");
    CHECK_CONTAINS(edited("\"fuse_unk\"", "\"fuse_all\""), "the unknown option \"fuse_all\"");
    CHECK_CONTAINS(
        edited("\"post_processor\": null", "\"post_processor\": {\"type\": \"TemplateProcessing\"}"),
        "TemplateProcessing");
    CHECK_STR(edited("\"post_processor\": null",
                     "\"post_processor\": {\"type\": \"ByteLevel\", \"use_regex\": false}"),
              "");
    CHECK_CONTAINS(edited("\"decoder\": {", "\"decoder\": {\"x\": 1,"), "the unknown option \"x\"");
}

SL_TEST(a_vocabulary_that_contradicts_itself_is_refused)
{
    CHECK_CONTAINS(edited("\"A\": 32", "\"A\": 33"), "id 33 twice");
    CHECK_CONTAINS(edited("\"A\": 32", "\"A\": 1048576"), "from 0 to 1048575");
    CHECK_CONTAINS(edited("\"A\": 32", "\"A\": -1"), "from 0 to 1048575");
    CHECK_CONTAINS(edited("\"A\": 32", "\"A\": \"32\""), "from 0 to 1048575");
    CHECK_CONTAINS(edited("\"A\": 32", "\"A\": 32, \"A\": 4096"), "twice");
    CHECK_CONTAINS(edited("\"A\": 32", "\"Aqz\": 32"), "byte 0x41");
    CHECK_CONTAINS(edited("\"merges\": [", "\"merges\": [[\"q\", \"q\"],"), "merge number 0");
    CHECK_CONTAINS(edited("\"merges\": [", "\"merges\": [[\"q\"],"), "not a pair");
    CHECK_CONTAINS(edited("\"merges\": [", "\"merges\": [\"q q q\","), "not a pair");
    CHECK_CONTAINS(edited("\"merges\": [", "\"merges\": [[\"c\", \"er\"],"), "twice");
    CHECK_CONTAINS(edited("\"id\": 4095", "\"id\": 4097"), "has id 4097 where 4095 is its place");
    CHECK_CONTAINS(edited("\"id\": 4094", "\"id\": 12"), "has id 12 where 4094");
    CHECK_CONTAINS(edited("<|im_start|>", ""), "no content");
    CHECK_CONTAINS(edited("<|im_end|>", "<|im_start|>"), "the same text");
    CHECK_CONTAINS(edited("\"lstrip\": false", "\"lstrip\": 0"), "\"lstrip\"");
    CHECK_CONTAINS(edited("\"lstrip\": false", "\"rstrip\": false"), "twice");
}

SL_TEST(a_file_that_is_none_is_named)
{
    struct sl_tokenizer *t;
    struct sl_err err;
    CHECK_INT(sl_tokenizer_load(&t, "/nonexistent/tokenizer.json", &err), SL_E_NOT_FOUND);
    CHECK_CONTAINS(err.text, "/nonexistent/tokenizer.json");
    CHECK(!t);
    CHECK_INT(sl_tokenizer_load(&t, "demo/model.safetensors", &err), SL_E_DATA);
    CHECK_CONTAINS(err.text, "demo/model.safetensors: it is not JSON");
    CHECK_INT(sl_tokenizer_load(&t, "demo", &err) < 0, 1);
    CHECK_INT(sl_tokenizer_parse(&t, "", 0, &err), SL_E_DATA);
    CHECK_INT(sl_tokenizer_parse(&t, "[]", 2, &err), SL_E_DATA);
    CHECK_CONTAINS(err.text, "not a JSON object");
}
