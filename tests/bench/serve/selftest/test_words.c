/* Tests of the words: each is one token of the model, and texts are counted as the model does. */
#include "bench/serve/selftest/words.h"
#include "tests/check.h"

#include <stdlib.h>

SL_TEST(words_of_a_model_are_single_tokens_of_it)
{
    static struct sl_words words;
    struct sl_tokenizer *tokenizer;
    struct sl_err err = {0};
    REQUIRE(sl_tokenizer_load(&tokenizer, "demo/tokenizer.json", &err) == SL_OK);
    CHECK_INT(sl_words_init(&words, tokenizer, &err), SL_OK);
    CHECK(words.n > 50);
    for (uint32_t i = 0; i < words.n; i++) {
        uint32_t *ids = NULL, n = 0;
        CHECK(words.text[i][0] == ' ');
        CHECK_INT(sl_tokenizer_encode(tokenizer, words.text[i], strlen(words.text[i]), &ids, &n, &err),
                  SL_OK);
        CHECK(n == 1 && ids && ids[0] == words.ids[i]);
        free(ids);
    }
    uint32_t counted = 0;
    CHECK_INT(sl_words_count(&words, "It was the best of times, it was the", 36, &counted, &err), SL_OK);
    CHECK_INT(counted, 10);
    CHECK_INT(sl_words_count(&words, "\xff", 1, &counted, &err), SL_E_INVALID);
    sl_tokenizer_destroy(tokenizer);
}

SL_TEST(without_a_model_words_are_counted_between_blanks)
{
    static struct sl_words words;
    struct sl_err err = {0};
    uint32_t n;
    CHECK_INT(sl_words_init(&words, NULL, &err), SL_OK);
    CHECK_INT(words.n, SL_WORDS);
    CHECK_STR(words.text[0], " w1000");
    CHECK(sl_words_at(&words, 0, 5) != sl_words_at(&words, 1, 5));
    CHECK(sl_words_at(&words, UINT32_MAX, UINT32_MAX) < words.n);
    static const struct {
        const char *text;
        uint32_t n;
    } cases[] = {{"", 0}, {"a", 1}, {" a  b\nc\t", 3}, {"   ", 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        CHECK_INT(sl_words_count(&words, cases[i].text, strlen(cases[i].text), &n, &err), SL_OK);
        CHECK_INT(n, cases[i].n);
    }
}

SL_TEST(a_tokenizer_without_such_words_is_refused)
{
    static struct sl_words words;
    struct sl_tokenizer *tokenizer;
    struct sl_err err = {0};
    REQUIRE(sl_tokenizer_none(&tokenizer, &err) == SL_OK);
    CHECK_INT(sl_words_init(&words, tokenizer, &err), SL_E_DATA);
    CHECK_CONTAINS(err.text, "--model");
    sl_tokenizer_destroy(tokenizer);
}
