/* What the tokenizer needs to know of Unicode: UTF-8, four classes of characters, word characters,
 * NFC.
 *
 * The yardstick is not the newest standard but what the `tokenizers` package computes, because that
 * is what a model saw in training: its splitter knows Unicode 16, its NFC is frozen at Unicode 9.
 * utf8proc gives the bulk of the tables; unicode.c holds the differences. Private to the room. All
 * functions: any thread. */
#ifndef SL_MODEL_TOKENIZER_UNICODE_IMPL_H
#define SL_MODEL_TOKENIZER_UNICODE_IMPL_H

#include "base/status.h"
#include <stdint.h>

enum sl_unicode_class { SL_CHAR_OTHER, SL_CHAR_LETTER, SL_CHAR_NUMBER, SL_CHAR_SPACE };

/* True when text is UTF-8 throughout; else *bad is the offset of the first byte that cannot be part
 * of a character. */
bool sl_utf8_check(const char *text, size_t bytes, size_t *bad);

/* How many bytes (1..4) the character at text takes, by its first byte. Only for text that was
 * checked. */
static inline size_t sl_utf8_length(const char *text)
{
    uint8_t first = (uint8_t)*text;
    return first < 0x80 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
}

uint32_t sl_utf8_get(const char *text);                /* the character at text, which was checked */
size_t sl_utf8_put(char *to, uint32_t c);              /* writes 1..4 bytes */
size_t sl_utf8_before(const char *text, size_t bytes); /* length of the last character of text[0..bytes) */

/* The range of second bytes after a first byte, or false when it can begin no character. *more:
 * bytes that follow it. */
bool sl_utf8_lead(uint8_t first, uint32_t *more, uint8_t *low, uint8_t *high);

enum sl_unicode_class sl_unicode_class(uint32_t c); /* \p{L}, \p{N}, \s and the rest */
bool sl_unicode_is_word(uint32_t c);                /* \w: letters, marks, numbers, connectors */

/* NFC of checked text. *out stays NULL when text is normal as it is; else it is malloc'ed and the
 * caller frees it. */
sl_status sl_unicode_nfc(const char *text, size_t bytes, char **out, size_t *out_bytes);

#endif
