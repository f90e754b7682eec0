/* Fuzzing of the tokenizer, both ways that bytes from outside come in: as tokenizer.json, and as
 * text.
 *
 * An input is read as a file first; when it is a tokenizer, a text that has a bit of everything
 * goes through it and back. Then the input is taken as text for a tokenizer that was made here,
 * without normalisation: what is UTF-8 must come back byte for byte, in pieces that are whole UTF-8
 * each; what is not must be refused with an offset inside it. The NFC of whatever is text must be
 * stable: normalising twice changes nothing. */
#include "model/tokenizer/tokenizer.h"
#include "model/tokenizer/tokenizer_impl.h"
#include "model/tokenizer/unicode_impl.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static const char sample[] =
    "It's  12\r\n\t na\xC3\xAFve e\xCC\x81 \xE6\x97\xA5\xE6\x9C\xAC \xF0\x9F\x98\x80<|end|> x";

static const char head[] =
    "{\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":"
    "\"Split\",\"pattern\":{"
    "\"Regex\":\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}| "
    "?[^\\\\s\\\\p{L}\\\\p{N}]+"
    "[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"},\"behavior\":\"Isolated\","
    "\"invert\":false},"
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}]},\"decoder\":{"
    "\"type\":\"ByteLevel\"},"
    "\"added_tokens\":[{\"id\":260,\"content\":\"<|end|>\",\"special\":true,\"normalized\":false,"
    "\"lstrip\":false,"
    "\"rstrip\":false,\"single_word\":false}],\"model\":{\"type\":\"BPE\",\"vocab\":{";
static const char tail[] = "\"aa\":256,\"aaaa\":257,\"ab\":258,\"aab\":259},"
                           "\"merges\":[\"a a\",\"aa aa\",\"a b\",\"aa b\"]}}";

static struct sl_tokenizer *make_tokenizer(void)
{
    char json[sizeof head + sizeof tail + 256 * 16];
    size_t n = sizeof head - 1;
    memcpy(json, head, n);
    for (uint32_t b = 0; b < 256; b++) {
        uint32_t c = sl_tok_char_of((uint8_t)b);
        json[n++] = '"';
        if (c == '"' || c == '\\')
            json[n++] = '\\';
        n += sl_utf8_put(json + n, c);
        n += (size_t)sprintf(json + n, "\":%u,", b);
    }
    memcpy(json + n, tail, sizeof tail);
    struct sl_tokenizer *tokenizer;
    struct sl_err err;
    if (sl_tokenizer_parse(&tokenizer, json, strlen(json), &err) != SL_OK) {
        fprintf(stderr, "%s\n", err.text);
        abort();
    }
    return tokenizer;
}

static void there_and_back(const struct sl_tokenizer *tokenizer, const char *text, size_t bytes, bool same)
{
    uint32_t *ids, n_ids;
    struct sl_err err;
    size_t bad, at = 0;
    bool sound = sl_utf8_check(text, bytes, &bad);
    sl_status status = sl_tokenizer_encode(tokenizer, text, bytes, &ids, &n_ids, &err);
    assert(status == (sound ? SL_OK : SL_E_INVALID));
    if (!sound) {
        assert(bad < bytes && strlen(err.text) > 0);
        return;
    }
    struct sl_detok d;
    size_t room = sl_detok_room(tokenizer);
    char *out = malloc(room);
    if (!out)
        abort();
    sl_detok_init(&d, tokenizer, false);
    for (uint32_t i = 0; i <= n_ids; i++) {
        size_t n = i < n_ids ? sl_detok_push(&d, ids[i], out) : sl_detok_flush(&d, out);
        assert(n <= room && sl_utf8_check(out, n, &bad));
        assert(!same || (at + n <= bytes && memcmp(text + at, out, n) == 0));
        at += n;
    }
    assert(!same || at == bytes);
    free(out);
    free(ids);
}

static void normalise_twice(const char *text, size_t bytes)
{
    char *once, *twice;
    size_t bad, n_once, n_twice;
    if (!sl_utf8_check(text, bytes, &bad) || sl_unicode_nfc(text, bytes, &once, &n_once) != SL_OK || !once)
        return;
    assert(sl_utf8_check(once, n_once, &bad));
    if (sl_unicode_nfc(once, n_once, &twice, &n_twice) == SL_OK && twice)
        assert(n_once == n_twice && memcmp(once, twice, n_once) == 0);
    free(once);
    free(twice);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static struct sl_tokenizer *own;
    if (!own)
        own = make_tokenizer();
    struct sl_tokenizer *read;
    struct sl_err err = {SL_OK, ""};
    if (sl_tokenizer_parse(&read, (const char *)data, bytes, &err) == SL_OK) {
        there_and_back(read, sample, sizeof sample - 1, false);
        there_and_back(read, (const char *)data, bytes, false);
        sl_tokenizer_destroy(read);
    } else {
        assert(!read && strlen(err.text) > 0 && !strchr(err.text, '\n'));
    }
    there_and_back(own, (const char *)data, bytes, true);
    normalise_twice((const char *)data, bytes);
    return 0;
}
