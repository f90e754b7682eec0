/* The words of the scripted server (words.h). */
#include "bench/serve/selftest/words.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NO_MODEL_VOCAB = 32000, NO_MODEL_FIRST = 1000 };

static bool is_word(const char *piece, size_t bytes)
{
    if (bytes < 3 || bytes >= SL_WORD_BYTES || piece[0] != ' ')
        return false;
    for (size_t i = 1; i < bytes; i++)
        if (piece[i] < 'a' || piece[i] > 'z')
            return false;
    return true;
}

sl_status sl_words_init(struct sl_words *words, const struct sl_tokenizer *tokenizer, struct sl_err *err)
{
    *words = (struct sl_words){.tokenizer = tokenizer};
    words->vocab = tokenizer ? sl_tokenizer_vocab(tokenizer) : NO_MODEL_VOCAB;
    for (uint32_t id = tokenizer ? 0 : NO_MODEL_FIRST; id < words->vocab && words->n < SL_WORDS; id++) {
        char *text = words->text[words->n];
        size_t bytes = 0;
        bool special = false;
        const char *piece = tokenizer ? sl_tokenizer_piece(tokenizer, id, &bytes, &special) : NULL;
        if (tokenizer && (special || !is_word(piece, bytes)))
            continue;
        if (tokenizer)
            memcpy(text, piece, bytes);
        else
            snprintf(text, SL_WORD_BYTES, " w%u", id);
        words->ids[words->n++] = id;
    }
    if (words->n == 0)
        return sl_fail(err, SL_E_DATA,
                       "the tokenizer of --model has no word of small letters with a blank before it; "
                       "leave --model out, or take another");
    return SL_OK;
}

uint32_t sl_words_at(const struct sl_words *words, uint32_t number, uint32_t k)
{
    return (uint32_t)(((uint64_t)number * 31 + k) % words->n);
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

sl_status sl_words_count(const struct sl_words *words, const char *text, size_t bytes, uint32_t *n,
                         struct sl_err *err)
{
    uint32_t *ids;
    *n = 0;
    if (words->tokenizer) {
        SL_TRY(sl_tokenizer_encode(words->tokenizer, text, bytes, &ids, n, err));
        free(ids);
        return SL_OK;
    }
    for (size_t i = 0; i < bytes; i++)
        *n += !is_blank(text[i]) && (i == 0 || is_blank(text[i - 1]));
    return SL_OK;
}
