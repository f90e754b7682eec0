/* What an id means: pieces, and the streaming decoder. Reading the file is in tokenizer_read.c,
 * encoding in tokenizer_encode.c.
 *
 * Byte-level BPE may cut a character anywhere, so one id can end in half a character. The decoder
 * keeps the bytes that are a sound beginning of a character and emits them when the rest has come.
 * What can't become UTF-8 is replaced as Rust's from_utf8_lossy does it for a whole text: one
 * U+FFFD for each longest sound beginning, or for a single byte that begins nothing. Doing it byte
 * by byte gives the same, because that rule looks only forward. */
#include "model/tokenizer/tokenizer_impl.h"
#include "model/tokenizer/unicode_impl.h"

#include <stdlib.h>
#include <string.h>

static const char replacement[3] = "\xEF\xBF\xBD";

void sl_tokenizer_destroy(struct sl_tokenizer *tokenizer)
{
    if (!tokenizer)
        return;
    free(tokenizer->pieces);
    free(tokenizer->text);
    free(tokenizer->merges.slots);
    free(tokenizer->added);
    free(tokenizer->raw.edges.slots);
    free(tokenizer->raw.ends);
    free(tokenizer->normal.edges.slots);
    free(tokenizer->normal.ends);
    free(tokenizer);
}

sl_status sl_tokenizer_none(struct sl_tokenizer **tokenizer, struct sl_err *err)
{
    *tokenizer = calloc(1, sizeof **tokenizer);
    return *tokenizer ? SL_OK : sl_fail(err, SL_E_NOMEM, "no memory for a tokenizer");
}

uint32_t sl_tokenizer_vocab(const struct sl_tokenizer *tokenizer)
{
    return tokenizer->n_ids;
}

const char *sl_tokenizer_piece(const struct sl_tokenizer *tokenizer, uint32_t id, size_t *bytes,
                               bool *special)
{
    *bytes = 0;
    *special = false;
    if (id >= tokenizer->n_ids)
        return "";
    const struct sl_tok_piece *piece = &tokenizer->pieces[id];
    *bytes = piece->bytes;
    *special = piece->special;
    return tokenizer->text + piece->begin;
}

void sl_detok_init(struct sl_detok *d, const struct sl_tokenizer *tokenizer, bool skip_special)
{
    memset(d, 0, sizeof *d);
    d->tokenizer = tokenizer;
    d->skip_special = skip_special;
}

/* One more byte; returns the bytes written to out, at most 6. */
static size_t detok_byte(struct sl_detok *d, uint8_t byte, char *out)
{
    uint32_t more;
    uint8_t low, high;
    size_t n = 0;
    if (d->n_held > 0) {
        bool sound = sl_utf8_lead(d->held[0], &more, &low, &high);
        if (d->n_held > 1) {
            low = 0x80;
            high = 0xBF;
        }
        if (sound && byte >= low && byte <= high) {
            d->held[d->n_held++] = byte;
            if (d->n_held <= more)
                return 0;
            memcpy(out, d->held, d->n_held);
            n = d->n_held;
            d->n_held = 0;
            return n;
        }
        n = sl_detok_flush(d, out);
    }
    if (!sl_utf8_lead(byte, &more, &low, &high)) {
        memcpy(out + n, replacement, sizeof replacement);
        return n + sizeof replacement;
    }
    if (more > 0) {
        d->held[d->n_held++] = byte;
        return n;
    }
    out[n] = (char)byte;
    return n + 1;
}

size_t sl_detok_push(struct sl_detok *d, uint32_t id, char *out)
{
    size_t bytes, n = 0;
    bool special;
    const char *piece = sl_tokenizer_piece(d->tokenizer, id, &bytes, &special);
    if (special && d->skip_special)
        return 0;
    for (size_t i = 0; i < bytes; i++)
        n += detok_byte(d, (uint8_t)piece[i], out + n);
    return n;
}

size_t sl_detok_flush(struct sl_detok *d, char *out)
{
    if (d->n_held == 0)
        return 0;
    d->n_held = 0;
    memcpy(out, replacement, sizeof replacement);
    return sizeof replacement;
}

size_t sl_detok_room(const struct sl_tokenizer *tokenizer)
{
    return 3 * (tokenizer->longest + 4); /* a byte becomes three at most, and up to three were held */
}
