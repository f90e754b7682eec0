/* What the scripted server says, and how it counts what it was asked: words of the model's own vocabulary, each one token and plain
 * ASCII with a blank before it, so that a gateway shows every token at once; without a model, ids and words of no vocabulary. */
#ifndef SL_BENCH_SERVE_SELFTEST_WORDS_H
#define SL_BENCH_SERVE_SELFTEST_WORDS_H

#include "base/status.h"
#include "model/tokenizer/tokenizer.h"

enum { SL_WORDS = 256, SL_WORD_BYTES = 24 };

struct sl_words {
    const struct sl_tokenizer *tokenizer; /* NULL: none */
    uint32_t n, vocab;
    uint32_t ids[SL_WORDS];
    char text[SL_WORDS][SL_WORD_BYTES];
};

/* The tokenizer outlives them; NULL: none. SL_E_DATA: it has no such words. */
sl_status sl_words_init(struct sl_words *words, const struct sl_tokenizer *tokenizer, struct sl_err *err);
/* Which of them is token k of the n-th request. */
uint32_t sl_words_at(const struct sl_words *words, uint32_t number, uint32_t k);
/* Tokens of a text; without a tokenizer, words between blanks. SL_E_INVALID: it is not UTF-8. */
sl_status sl_words_count(const struct sl_words *words, const char *text, size_t bytes, uint32_t *n,
                         struct sl_err *err);

#endif
