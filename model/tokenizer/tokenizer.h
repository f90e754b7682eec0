/* tokenizer.json -> ids and back: NFC, the Qwen2 splitter, byte-level BPE, added tokens.
 * A normalizer, splitter, model or decoder we do not know is refused by name. Immutable after load: any thread. */
#ifndef SL_MODEL_TOKENIZER_TOKENIZER_H
#define SL_MODEL_TOKENIZER_TOKENIZER_H

#include "base/status.h"
#include <stdint.h>

struct sl_tokenizer;

sl_status sl_tokenizer_load(struct sl_tokenizer **tokenizer, const char *path, struct sl_err *err);
sl_status sl_tokenizer_parse(struct sl_tokenizer **tokenizer, const char *json, size_t bytes,
                             struct sl_err *err);
/* The tokenizer of a checkpoint that has none: knows no piece (vocab 0), refuses to encode. Ids go in and come out. */
sl_status sl_tokenizer_none(struct sl_tokenizer **tokenizer, struct sl_err *err);
void sl_tokenizer_destroy(struct sl_tokenizer *tokenizer);         /* NULL is fine */
uint32_t sl_tokenizer_vocab(const struct sl_tokenizer *tokenizer); /* highest id + 1 */

/* Text (UTF-8; SL_E_INVALID names the offset of a bad byte) -> ids. *ids is malloc'ed, the caller frees it. Special tokens
 * in the text are recognised, as the `tokenizers` package does with add_special_tokens=False. */
sl_status sl_tokenizer_encode(const struct sl_tokenizer *tokenizer, const char *text, size_t bytes,
                              uint32_t **ids, uint32_t *n_ids, struct sl_err *err);

/* The bytes of one id: *bytes of them, valid as long as the tokenizer. Special tokens: *special is set. Unknown id: 0 bytes. */
const char *sl_tokenizer_piece(const struct sl_tokenizer *tokenizer, uint32_t id, size_t *bytes,
                               bool *special);

/* Streaming decode: holds back an unfinished UTF-8 character (at most 3 bytes) and never emits half of one;
 * bytes that can't become UTF-8 come out as U+FFFD, as the `tokenizers` package does for the whole text. */
struct sl_detok {
    const struct sl_tokenizer *tokenizer;
    bool skip_special;
    uint8_t held[4];
    uint32_t n_held;
};
void sl_detok_init(struct sl_detok *d, const struct sl_tokenizer *tokenizer, bool skip_special);
/* Appends what id completes to out (room for sl_detok_room(tokenizer) bytes is enough); returns the bytes written. */
size_t sl_detok_push(struct sl_detok *d, uint32_t id, char *out);
size_t sl_detok_flush(struct sl_detok *d, char *out); /* what is held, as U+FFFD */
size_t sl_detok_room(const struct sl_tokenizer *tokenizer);

#endif
