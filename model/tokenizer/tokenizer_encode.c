/* Text to ids: added tokens, NFC, the Qwen2 splitter, byte-level BPE; each step gives what the
 * `tokenizers` package gives.
 *
 * The splitter is the regular expression of tokenizer_read.c written out by hand. Its alternatives
 * are tried in order at one position, each is greedy, and together they match any character, so a
 * word always has at least one. Merging keeps the candidates in a heap ordered by (rank, position).
 * An entry may have gone stale by the time it comes up; it is good as long as the pair that stands
 * there makes the same token, because boundaries only vanish. A megabyte of one letter costs n log
 * n. Scratch belongs to the call, so any number of threads may encode. */
#include "model/tokenizer/tokenizer_impl.h"
#include "model/tokenizer/unicode_impl.h"

#include <stdlib.h>
#include <string.h>

struct symbol {
    uint32_t id;
    int32_t before, after; /* neighbours, or -1 */
    bool gone;             /* merged into the one before it */
};

struct candidate {
    uint64_t order; /* rank << 32 | position */
    uint32_t whole; /* the id it makes */
};

struct encoder {
    const struct sl_tokenizer *tokenizer;
    uint32_t *ids;
    size_t n_ids, ids_room;
    struct symbol *symbols;
    size_t symbols_room;
    struct candidate *heap;
    size_t n_heap, heap_room;
};

/* The array with room for n entries, moved if need be; NULL when memory is out, and then it is as
 * it was. */
static void *with_room(void *array, size_t *room, size_t n, size_t entry_bytes)
{
    if (n <= *room)
        return array;
    size_t more = n + n / 2 + 64;
    void *moved = realloc(array, more * entry_bytes);
    if (moved)
        *room = more;
    return moved;
}

static bool emit(struct encoder *e, uint32_t id)
{
    uint32_t *ids = with_room(e->ids, &e->ids_room, e->n_ids + 1, sizeof *ids);
    if (!ids)
        return false;
    e->ids = ids;
    e->ids[e->n_ids++] = id;
    return true;
}

/* ---- merging ---- */

static void heap_push(struct encoder *e, struct candidate c)
{
    size_t at = e->n_heap++;
    for (; at > 0 && e->heap[(at - 1) / 2].order > c.order; at = (at - 1) / 2)
        e->heap[at] = e->heap[(at - 1) / 2];
    e->heap[at] = c;
}

static struct candidate heap_pop(struct encoder *e)
{
    struct candidate top = e->heap[0], last = e->heap[--e->n_heap];
    size_t at = 0;
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= e->n_heap)
            break;
        if (child + 1 < e->n_heap && e->heap[child + 1].order < e->heap[child].order)
            child++;
        if (e->heap[child].order >= last.order)
            break;
        e->heap[at] = e->heap[child];
        at = child;
    }
    e->heap[at] = last;
    return top;
}

static bool merge_of(const struct encoder *e, int32_t left, uint64_t *rank_and_whole)
{
    int32_t right = e->symbols[left].after;
    if (right < 0)
        return false;
    uint64_t pair = (uint64_t)e->symbols[left].id << 32 | e->symbols[right].id;
    return sl_tok_map_get(&e->tokenizer->merges, pair, rank_and_whole);
}

static void offer(struct encoder *e, int32_t left)
{
    uint64_t merge;
    if (left >= 0 && merge_of(e, left, &merge))
        heap_push(e, (struct candidate){(merge & ~(uint64_t)UINT32_MAX) | (uint32_t)left, (uint32_t)merge});
}

static void merge_all(struct encoder *e)
{
    while (e->n_heap > 0) {
        struct candidate c = heap_pop(e);
        int32_t left = (int32_t)(uint32_t)c.order;
        uint64_t merge;
        struct symbol *s = &e->symbols[left];
        if (s->gone || !merge_of(e, left, &merge) || (uint32_t)merge != c.whole)
            continue;
        struct symbol *right = &e->symbols[s->after];
        right->gone = true;
        s->id = c.whole;
        s->after = right->after;
        if (s->after >= 0)
            e->symbols[s->after].before = left;
        offer(e, s->before);
        offer(e, left);
    }
}

static bool encode_word(struct encoder *e, const char *word, size_t bytes)
{
    if (bytes == 1)
        return emit(e, e->tokenizer->byte_id[(uint8_t)*word]);
    struct symbol *symbols = with_room(e->symbols, &e->symbols_room, bytes, sizeof *symbols);
    if (!symbols)
        return false;
    e->symbols = symbols;
    /* Each merge takes away one symbol and offers two candidates more. */
    struct candidate *heap = with_room(e->heap, &e->heap_room, 3 * bytes, sizeof *heap);
    if (!heap)
        return false;
    e->heap = heap;
    for (size_t i = 0; i < bytes; i++)
        e->symbols[i] = (struct symbol){e->tokenizer->byte_id[(uint8_t)word[i]], (int32_t)i - 1,
                                        i + 1 < bytes ? (int32_t)i + 1 : -1, false};
    e->n_heap = 0;
    for (size_t i = 0; i + 1 < bytes; i++)
        offer(e, (int32_t)i);
    merge_all(e);
    for (int32_t at = 0; at >= 0; at = e->symbols[at].after)
        if (!emit(e, e->symbols[at].id))
            return false;
    return true;
}

/* ---- splitting ---- */

static enum sl_unicode_class class_at(const char *text, size_t at, size_t *next)
{
    *next = at + sl_utf8_length(text + at);
    return sl_unicode_class(sl_utf8_get(text + at));
}

/* The end of the run of characters of one class which begins at `at`. */
static size_t run_end(const char *text, size_t at, size_t bytes, enum sl_unicode_class wanted)
{
    size_t next;
    while (at < bytes && class_at(text, at, &next) == wanted)
        at = next;
    return at;
}

/* (?i:'s|'t|'re|'ve|'m|'ll|'d): 0 when there is none. U+017F, the long s, is an s when case is
 * ignored. */
static size_t contraction(const char *text, size_t bytes)
{
    if (bytes < 2 || text[0] != '\'')
        return 0;
    char a = (char)(text[1] | 0x20);
    if (a == 's' || a == 't' || a == 'm' || a == 'd')
        return 2;
    if (bytes >= 3 && text[1] == '\xC5' && text[2] == '\xBF')
        return 3;
    char b = bytes >= 3 ? (char)(text[2] | 0x20) : 0;
    return ((a == 'r' || a == 'v') && b == 'e') || (a == 'l' && b == 'l') ? 3 : 0;
}

/* \s*[\r\n]+ | \s+(?!\S) | \s+ : up to the last line end of the run, else all but its last
 * character, which may go with the word that follows. */
static size_t space_word(const char *text, size_t bytes)
{
    size_t end = run_end(text, 0, bytes, SL_CHAR_SPACE);
    for (size_t i = end; i > 0; i--)
        if (text[i - 1] == '\r' || text[i - 1] == '\n')
            return i;
    size_t last = sl_utf8_before(text, end);
    return end == bytes || last == end ? end : end - last;
}

/* Bytes of the first word of text, which is not empty. */
static size_t first_word(const char *text, size_t bytes)
{
    size_t next, after = contraction(text, bytes);
    if (after)
        return after;
    enum sl_unicode_class first = class_at(text, 0, &next);
    if (first == SL_CHAR_LETTER)
        return run_end(text, next, bytes, SL_CHAR_LETTER);
    if (first == SL_CHAR_NUMBER)
        return next;
    enum sl_unicode_class second = SL_CHAR_SPACE;
    if (next < bytes)
        second = class_at(text, next, &after);
    if (second == SL_CHAR_LETTER && *text != '\r' && *text != '\n')
        return run_end(text, after, bytes, SL_CHAR_LETTER);
    if (first == SL_CHAR_OTHER || (*text == ' ' && next < bytes && second == SL_CHAR_OTHER)) {
        size_t end = run_end(text, next, bytes, SL_CHAR_OTHER);
        while (end < bytes && (text[end] == '\r' || text[end] == '\n'))
            end++;
        return end;
    }
    return space_word(text, bytes);
}

static bool encode_words(struct encoder *e, const char *text, size_t bytes)
{
    while (bytes > 0) {
        size_t word = first_word(text, bytes);
        if (!encode_word(e, text, word))
            return false;
        text += word;
        bytes -= word;
    }
    return true;
}

/* ---- added tokens ---- */

/* The longest added token that begins at text: its number and length, or -1. */
static int32_t added_at(const struct sl_tok_trie *trie, const char *text, size_t bytes, size_t *length)
{
    int32_t best = -1;
    uint64_t node = 0;
    if (!trie->begins[(uint8_t)*text])
        return -1;
    for (size_t i = 0; i < bytes && sl_tok_map_get(&trie->edges, node << 8 | (uint8_t)text[i], &node); i++)
        if (trie->ends[node] >= 0) {
            best = trie->ends[node];
            *length = i + 1;
        }
    return best;
}

static bool stands_alone(const char *text, size_t bytes, size_t begin, size_t end)
{
    if (begin > 0 && sl_unicode_is_word(sl_utf8_get(text + begin - sl_utf8_before(text, begin))))
        return false;
    return end == bytes || !sl_unicode_is_word(sl_utf8_get(text + end));
}

static size_t spaces_before(const char *text, size_t from, size_t at)
{
    while (at > from) {
        size_t last = sl_utf8_before(text, at);
        if (sl_unicode_class(sl_utf8_get(text + at - last)) != SL_CHAR_SPACE)
            break;
        at -= last;
    }
    return at;
}

/* Emits the added tokens of text and hands what lies between them to `rest`. Matches are found left
 * to right, the longest first, without overlap; only then does a token take the spaces beside it.
 * So a token made of spaces that lies inside what its forerunner took still counts: odd, but it is
 * what the `tokenizers` package does. */
static bool split_added(struct encoder *e, const struct sl_tok_trie *trie, const char *text, size_t bytes,
                        bool (*rest)(struct encoder *e, const char *text, size_t bytes))
{
    size_t done = 0, at = 0;
    while (at < bytes) {
        size_t length = 0;
        int32_t which = added_at(trie, text + at, bytes - at, &length);
        if (which < 0) {
            at++;
            continue;
        }
        const struct sl_tok_added *added = &e->tokenizer->added[which];
        size_t begin = at, end = at + length;
        at = end;
        if (added->single_word && !stands_alone(text, bytes, begin, end))
            continue;
        if (added->lstrip)
            begin = done < begin ? spaces_before(text, done, begin) : done;
        if (added->rstrip)
            end = run_end(text, end, bytes, SL_CHAR_SPACE);
        if (done < begin && !rest(e, text + done, begin - done))
            return false;
        if (!emit(e, added->id))
            return false;
        done = end;
    }
    return done >= bytes || rest(e, text + done, bytes - done);
}

static bool encode_normal(struct encoder *e, const char *text, size_t bytes)
{
    char *normal = NULL;
    size_t normal_bytes = 0;
    if (e->tokenizer->nfc && sl_unicode_nfc(text, bytes, &normal, &normal_bytes) != SL_OK)
        return false;
    bool whole = normal ? split_added(e, &e->tokenizer->normal, normal, normal_bytes, encode_words)
                        : split_added(e, &e->tokenizer->normal, text, bytes, encode_words);
    free(normal);
    return whole;
}

sl_status sl_tokenizer_encode(const struct sl_tokenizer *tokenizer, const char *text, size_t bytes,
                              uint32_t **ids, uint32_t *n_ids, struct sl_err *err)
{
    size_t bad;
    *ids = NULL;
    *n_ids = 0;
    if (tokenizer->n_ids == 0)
        return sl_fail(err, SL_E_INVALID, "this model has no tokenizer.json: send token ids instead of text");
    if (bytes > SL_TOK_MAX_TEXT_BYTES)
        return sl_fail(err, SL_E_INVALID, "the text has %zu bytes and %d are the limit: send it in parts",
                       bytes, SL_TOK_MAX_TEXT_BYTES);
    if (!sl_utf8_check(text, bytes, &bad))
        return sl_fail(err, SL_E_INVALID, "the text is not UTF-8 at byte offset %zu (0x%02x): send UTF-8",
                       bad, (unsigned)(uint8_t)text[bad]);
    struct encoder e = {.tokenizer = tokenizer};
    /* Even no ids are an array that the caller may free. */
    e.ids = with_room(NULL, &e.ids_room, 1, sizeof *e.ids);
    bool whole = e.ids && split_added(&e, &tokenizer->raw, text, bytes, encode_normal);
    free(e.symbols);
    free(e.heap);
    if (!whole) {
        free(e.ids);
        return sl_fail(err, SL_E_NOMEM, "no memory to tokenize %zu bytes: send a shorter text", bytes);
    }
    *ids = e.ids;
    *n_ids = (uint32_t)e.n_ids;
    return SL_OK;
}
