/* tokenizer.json to a tokenizer. Whatever could change an id and is not known here is refused by
 * name.
 *
 * Accepted is the family of Qwen2 and Qwen3: normalizer NFC or none, one certain splitter,
 * byte-level BPE, a byte-level decoder. Settings that can't change ids or text are let through:
 * truncation and padding (a server does neither), offsets, an unk_token (every byte is required to
 * be in the vocabulary, so nothing is unknown). Added tokens get the id that the `tokenizers`
 * package gives them: their entry in the vocabulary, else the next free number in the order of the
 * file; a file which says otherwise is refused rather than read in two ways. The JSON tree is
 * dropped at the end; only tables with integer keys stay. */
#include "model/tokenizer/tokenizer_impl.h"
#include "model/tokenizer/unicode_impl.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char qwen2_splitter[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"
                                     "\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
                                     "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

enum { SHOWN = 60, MAX_MERGES = 1 << 21, MAX_ADDED_BYTES = 1024 };

struct tokenizer_reader {
    struct sl_tokenizer *t;
    const json_t *vocab;
    size_t text_room;
    struct sl_err *err;
};

/* ---- small helpers ---- */

/* The first characters of a string from the file, for a sentence: never half a character. */
static const char *shown(char out[SHOWN + 4], const char *text)
{
    size_t n = strlen(text);
    if (n <= SHOWN)
        return memcpy(out, text, n + 1);
    n = SHOWN;
    while (n > 0 && ((uint8_t)text[n] & 0xC0) == 0x80)
        n--;
    memcpy(out, text, n);
    memcpy(out + n, "...", 4);
    return out;
}

static sl_status no_memory(const struct tokenizer_reader *r)
{
    return sl_fail(r->err, SL_E_NOMEM, "no memory for the tokenizer: free some and start again");
}

static bool map_init(struct sl_tok_map *map, size_t entries)
{
    size_t slots = 16;
    while (slots < 2 * entries)
        slots *= 2;
    map->slots = calloc(slots, sizeof *map->slots);
    map->mask = slots - 1;
    map->used = 0;
    return map->slots != NULL;
}

/* False when the key was there already; the caller sized the map for all that comes. */
static bool map_put(struct sl_tok_map *map, uint64_t key, uint64_t value)
{
    uint64_t old;
    if (sl_tok_map_get(map, key, &old))
        return false;
    size_t i = sl_tok_map_home(map, key);
    while (map->slots[i].key != 0)
        i = (i + 1) & map->mask;
    map->slots[i] = (struct sl_tok_slot){key + 1, value};
    map->used++;
    return true;
}

/* Bytes that print are written as themselves; the others, in order, as the characters from U+0100
 * on. */
static bool prints_itself(uint32_t c)
{
    return (c >= 33 && c <= 126) || (c >= 161 && c <= 172) || (c >= 174 && c <= 255);
}

uint32_t sl_tok_char_of(uint8_t byte)
{
    if (prints_itself(byte))
        return byte;
    return byte <= 32 ? 256u + byte : byte <= 160 ? 256u + 33 + (byte - 127u) : 256u + 67;
}

int sl_tok_byte_of(uint32_t c)
{
    if (c < 256)
        return prints_itself(c) ? (int)c : -1;
    if (c > 256 + 67)
        return -1;
    c -= 256;
    return (int)(c <= 32 ? c : c <= 66 ? 127 + (c - 33) : 173);
}

/* ---- objects whose keys are all known ---- */

enum rule { ANY, IS_FALSE, NULL_OR_EMPTY, NULL_OR_FALSE, NULL_OR_ZERO };
static const char *const rule_text[] = {"anything", "false", "null or \"\"", "null or false", "null or 0"};

struct known {
    const char *key;
    enum rule rule;
};

static bool follows(const json_t *value, enum rule rule)
{
    switch (rule) {
    case ANY:
        return true;
    case IS_FALSE:
        return json_is_false(value);
    case NULL_OR_EMPTY:
        return json_is_null(value) || (json_is_string(value) && json_string_length(value) == 0);
    case NULL_OR_FALSE:
        return json_is_null(value) || json_is_false(value);
    case NULL_OR_ZERO:
        break;
    }
    return json_is_null(value) || (json_is_number(value) && json_number_value(value) == 0.0);
}

static sl_status check_keys(const struct tokenizer_reader *r, const json_t *object, const char *where,
                            const struct known *known, size_t n_known)
{
    const char *key;
    json_t *value;
    char name[SHOWN + 4];
    json_object_foreach((json_t *)object, key, value)
    {
        size_t i = 0;
        while (i < n_known && strcmp(key, known[i].key) != 0)
            i++;
        if (i == n_known)
            return sl_fail(r->err, SL_E_DATA, "%s has the unknown option \"%s\": use a tokenizer without it",
                           where, shown(name, key));
        if (!follows(value, known[i].rule))
            return sl_fail(r->err, SL_E_DATA,
                           "%s has a value of \"%s\" that sluice does not serve: it must be %s", where, key,
                           rule_text[known[i].rule]);
    }
    return SL_OK;
}

static const char *type_of(const json_t *object)
{
    const char *type = json_string_value(json_object_get(object, "type"));
    return type ? type : "(none)";
}

static bool is_type(const json_t *object, const char *type)
{
    return json_is_object(object) && strcmp(type_of(object), type) == 0;
}

static sl_status refuse_type(const struct tokenizer_reader *r, const json_t *object, const char *where,
                             const char *accepted)
{
    char type[SHOWN + 4];
    return sl_fail(r->err, SL_E_DATA,
                   "the %s is \"%s\" and sluice serves only %s: use a checkpoint with one of these", where,
                   shown(type, type_of(object)), accepted);
}

/* ---- normalizer, pre-tokenizer, post-processor, decoder ---- */

static sl_status read_normalizer(struct tokenizer_reader *r, const json_t *normalizer)
{
    if (!normalizer || json_is_null(normalizer))
        return SL_OK;
    if (is_type(normalizer, "NFC")) {
        static const struct known known[] = {{"type", ANY}};
        r->t->nfc = true; /* twice is once */
        return check_keys(r, normalizer, "the NFC normalizer", known, 1);
    }
    if (!is_type(normalizer, "Sequence"))
        return refuse_type(r, normalizer, "normalizer", "NFC or none");
    static const struct known known[] = {{"type", ANY}, {"normalizers", ANY}};
    SL_TRY(check_keys(r, normalizer, "the normalizer Sequence", known, 2));
    size_t i;
    json_t *part;
    json_array_foreach(json_object_get(normalizer, "normalizers"), i, part)
    {
        if (!is_type(part, "NFC"))
            return refuse_type(r, part, "normalizer", "NFC or none");
        r->t->nfc = true;
    }
    return SL_OK;
}

static sl_status read_byte_level(const struct tokenizer_reader *r, const json_t *part, const char *where,
                                 bool splits)
{
    /* Prefix space and regex change ids only in a pre-tokenizer; in a decoder or post-processor
     * they do nothing. */
    const struct known known[] = {{"type", ANY},
                                  {"add_prefix_space", splits ? IS_FALSE : ANY},
                                  {"use_regex", splits ? IS_FALSE : ANY},
                                  {"trim_offsets", ANY}};
    SL_TRY(check_keys(r, part, where, known, 4));
    if (splits && (!json_object_get(part, "add_prefix_space") || !json_object_get(part, "use_regex")))
        return sl_fail(r->err, SL_E_DATA,
                       "%s lacks \"add_prefix_space\" or \"use_regex\": both must be there and false", where);
    return SL_OK;
}

static sl_status read_split(const struct tokenizer_reader *r, const json_t *split)
{
    static const struct known known[] = {
        {"type", ANY}, {"pattern", ANY}, {"behavior", ANY}, {"invert", IS_FALSE}};
    SL_TRY(check_keys(r, split, "the Split pre-tokenizer", known, 4));
    const char *regex = json_string_value(json_object_get(json_object_get(split, "pattern"), "Regex"));
    char text[SHOWN + 4];
    if (!regex || strcmp(regex, qwen2_splitter) != 0)
        return sl_fail(r->err, SL_E_DATA,
                       "the splitter \"%s\" is not the one of Qwen2, the only one that sluice knows: "
                       "use a Qwen2 or Qwen3 tokenizer",
                       shown(text, regex ? regex : "(not a Regex)"));
    const char *behavior = json_string_value(json_object_get(split, "behavior"));
    if (!behavior || strcmp(behavior, "Isolated") != 0)
        return sl_fail(r->err, SL_E_DATA,
                       "the Split pre-tokenizer has behavior \"%s\": it must be \"Isolated\"",
                       shown(text, behavior ? behavior : "(none)"));
    return SL_OK;
}

static sl_status read_pre_tokenizer(const struct tokenizer_reader *r, const json_t *pre)
{
    static const char accepted[] = "the Sequence of Split and ByteLevel that Qwen2 has";
    static const struct known known[] = {{"type", ANY}, {"pretokenizers", ANY}};
    if (!is_type(pre, "Sequence"))
        return refuse_type(r, pre, "pre-tokenizer", accepted);
    SL_TRY(check_keys(r, pre, "the pre-tokenizer Sequence", known, 2));
    const json_t *parts = json_object_get(pre, "pretokenizers");
    size_t n = json_array_size(parts);
    if (n < 1 || !is_type(json_array_get(parts, 0), "Split"))
        return refuse_type(r, json_array_get(parts, 0), "first pre-tokenizer", "Split");
    SL_TRY(read_split(r, json_array_get(parts, 0)));
    if (n != 2 || !is_type(json_array_get(parts, 1), "ByteLevel"))
        return refuse_type(r, json_array_get(parts, n == 2 ? 1 : 2), "last pre-tokenizer",
                           "one ByteLevel after the Split");
    return read_byte_level(r, json_array_get(parts, 1), "the ByteLevel pre-tokenizer", true);
}

static sl_status read_ends(const struct tokenizer_reader *r, const json_t *root)
{
    const json_t *post = json_object_get(root, "post_processor"), *decoder = json_object_get(root, "decoder");
    if (post && !json_is_null(post)) {
        if (!is_type(post, "ByteLevel"))
            return refuse_type(r, post, "post-processor", "ByteLevel or none");
        SL_TRY(read_byte_level(r, post, "the ByteLevel post-processor", false));
    }
    if (!is_type(decoder, "ByteLevel"))
        return refuse_type(r, decoder, "decoder", "ByteLevel");
    return read_byte_level(r, decoder, "the ByteLevel decoder", false);
}

/* ---- vocabulary ---- */

/* The bytes that a token stands for: each character is a byte, or else the token is taken as it is
 * written. */
static sl_status add_piece(struct tokenizer_reader *r, uint32_t id, const char *content, size_t bytes)
{
    struct sl_tokenizer *t = r->t;
    if (t->text_bytes + bytes > r->text_room) {
        size_t room = 2 * r->text_room + bytes + 4096;
        char *text = realloc(t->text, room);
        if (!text)
            return no_memory(r);
        t->text = text;
        r->text_room = room;
    }
    char *to = t->text + t->text_bytes;
    size_t n = 0;
    for (size_t at = 0; at < bytes; at += sl_utf8_length(content + at)) {
        int byte = sl_tok_byte_of(sl_utf8_get(content + at));
        if (byte < 0) {
            memcpy(to, content, bytes);
            n = bytes;
            break;
        }
        to[n++] = (char)byte;
    }
    t->pieces[id] = (struct sl_tok_piece){(uint32_t)t->text_bytes, (uint32_t)n, true, false, false};
    t->text_bytes += n;
    if (n > t->longest)
        t->longest = n;
    return SL_OK;
}

/* json_object_get for bytes that a NUL need not end; false when the vocabulary lacks them. */
static bool vocab_id(const struct tokenizer_reader *r, const char *content, size_t bytes, uint32_t *id)
{
    const json_t *value = json_object_getn(r->vocab, content, bytes);
    *id = value ? (uint32_t)json_integer_value(value) : 0;
    return value != NULL;
}

static sl_status count_ids(struct tokenizer_reader *r, const json_t *added)
{
    const char *key;
    json_t *value;
    char name[SHOWN + 4];
    uint32_t n = 0;
    json_object_foreach((json_t *)r->vocab, key, value)
    {
        json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;
        if (id < 0 || id >= SL_TOK_MAX_IDS)
            return sl_fail(r->err, SL_E_DATA,
                           "the vocabulary gives \"%s\" something else than an id from 0 to %d",
                           shown(name, key), SL_TOK_MAX_IDS - 1);
        if ((uint32_t)id >= n)
            n = (uint32_t)id + 1;
    }
    size_t i;
    json_array_foreach((json_t *)added, i, value)
    {
        json_int_t id = json_integer_value(json_object_get(value, "id"));
        if (!json_is_integer(json_object_get(value, "id")) || id < 0 || id >= SL_TOK_MAX_IDS)
            return sl_fail(r->err, SL_E_DATA, "added token number %zu has no id from 0 to %d", i,
                           SL_TOK_MAX_IDS - 1);
        if ((uint32_t)id >= n)
            n = (uint32_t)id + 1;
    }
    r->t->n_ids = n;
    r->t->pieces = calloc(n ? n : 1, sizeof *r->t->pieces);
    return r->t->pieces ? SL_OK : no_memory(r);
}

static sl_status read_vocab(struct tokenizer_reader *r)
{
    const char *key;
    json_t *value;
    char name[SHOWN + 4];
    json_object_foreach((json_t *)r->vocab, key, value)
    {
        uint32_t id = (uint32_t)json_integer_value(value);
        if (r->t->pieces[id].known)
            return sl_fail(r->err, SL_E_DATA,
                           "the vocabulary gives id %u twice, the second time to \"%s\": make them differ",
                           id, shown(name, key));
        SL_TRY(add_piece(r, id, key, strlen(key)));
    }
    for (uint32_t b = 0; b < 256; b++) {
        char text[4];
        size_t n = sl_utf8_put(text, sl_tok_char_of((uint8_t)b));
        bool in_utf8 = b != 0xC0 && b != 0xC1 && b < 0xF5; /* the others never occur, and may be absent */
        if (!vocab_id(r, text, n, &r->t->byte_id[b]) && in_utf8)
            return sl_fail(r->err, SL_E_DATA,
                           "the vocabulary lacks a token for byte 0x%02x (\"%.*s\"): byte-level BPE "
                           "needs one for every byte",
                           b, (int)n, text);
    }
    return SL_OK;
}

/* ---- merges ---- */

struct parts {
    const char *left, *right;
    size_t left_bytes, right_bytes;
};

static bool merge_parts(const json_t *merge, struct parts *p)
{
    if (json_is_array(merge) && json_array_size(merge) == 2) {
        const json_t *left = json_array_get(merge, 0), *right = json_array_get(merge, 1);
        *p = (struct parts){json_string_value(left), json_string_value(right), json_string_length(left),
                            json_string_length(right)};
        return p->left && p->right;
    }
    const char *text = json_string_value(merge);
    const char *space = text ? strchr(text, ' ') : NULL;
    if (!space || strchr(space + 1, ' '))
        return false;
    *p = (struct parts){text, space + 1, (size_t)(space - text), strlen(space + 1)};
    return true;
}

static sl_status read_merge(struct tokenizer_reader *r, uint32_t rank, const json_t *merge)
{
    struct parts p;
    char name[SHOWN + 4];
    if (!merge_parts(merge, &p))
        return sl_fail(r->err, SL_E_DATA,
                       "merge number %u is not a pair of tokens: write [\"a\", \"b\"] or \"a b\"", rank);
    uint32_t left, right, whole = 0;
    bool known = vocab_id(r, p.left, p.left_bytes, &left) && vocab_id(r, p.right, p.right_bytes, &right);
    if (known) {
        char *joined = malloc(p.left_bytes + p.right_bytes + 1);
        if (!joined)
            return no_memory(r);
        memcpy(joined, p.left, p.left_bytes);
        memcpy(joined + p.left_bytes, p.right, p.right_bytes);
        known = vocab_id(r, joined, p.left_bytes + p.right_bytes, &whole);
        free(joined);
    }
    if (!known)
        return sl_fail(r->err, SL_E_DATA,
                       "merge number %u (\"%s\" and what follows) has a part or a result that is not in "
                       "the vocabulary: fetch the file again",
                       rank, shown(name, p.left));
    if (!map_put(&r->t->merges, (uint64_t)left << 32 | right, (uint64_t)rank << 32 | whole))
        return sl_fail(r->err, SL_E_DATA,
                       "merge number %u (\"%s\" and what follows) is there twice: remove one", rank,
                       shown(name, p.left));
    return SL_OK;
}

static sl_status read_merges(struct tokenizer_reader *r, const json_t *merges)
{
    size_t i, n = json_array_size(merges);
    json_t *merge;
    if (!json_is_array(merges) || n > MAX_MERGES)
        return sl_fail(r->err, SL_E_DATA, "the model has no list of at most %d merges: fetch the file again",
                       MAX_MERGES);
    if (!map_init(&r->t->merges, n))
        return no_memory(r);
    json_array_foreach((json_t *)merges, i, merge) SL_TRY(read_merge(r, (uint32_t)i, merge));
    return SL_OK;
}

static sl_status read_model(struct tokenizer_reader *r, const json_t *model, const json_t *added)
{
    static const struct known known[] = {
        {"type", ANY},
        {"vocab", ANY},
        {"merges", ANY},
        {"unk_token", ANY},
        {"fuse_unk", ANY},
        {"dropout", NULL_OR_ZERO},
        {"continuing_subword_prefix", NULL_OR_EMPTY},
        {"end_of_word_suffix", NULL_OR_EMPTY},
        {"byte_fallback", NULL_OR_FALSE},
        {"ignore_merges", NULL_OR_FALSE},
    };
    if (!is_type(model, "BPE"))
        return refuse_type(r, model, "model", "BPE");
    SL_TRY(check_keys(r, model, "the BPE model", known, sizeof known / sizeof known[0]));
    r->vocab = json_object_get(model, "vocab");
    if (!json_is_object(r->vocab))
        return sl_fail(r->err, SL_E_DATA,
                       "the model's \"vocab\" is not an object of tokens and ids: fetch the file again");
    SL_TRY(count_ids(r, added));
    SL_TRY(read_vocab(r));
    return read_merges(r, json_object_get(model, "merges"));
}

/* ---- added tokens ---- */

static sl_status trie_init(const struct tokenizer_reader *r, struct sl_tok_trie *trie, size_t bytes)
{
    trie->n_nodes = 1;
    trie->ends = malloc((bytes + 1) * sizeof *trie->ends);
    if (!trie->ends || !map_init(&trie->edges, bytes))
        return no_memory(r);
    trie->ends[0] = -1;
    return SL_OK;
}

static bool trie_add(struct sl_tok_trie *trie, const char *text, size_t bytes, int32_t which)
{
    uint64_t node = 0;
    for (size_t i = 0; i < bytes; i++) {
        uint64_t edge = node << 8 | (uint8_t)text[i];
        if (!sl_tok_map_get(&trie->edges, edge, &node)) {
            node = trie->n_nodes++;
            trie->ends[node] = -1;
            map_put(&trie->edges, edge, node);
        }
    }
    trie->begins[(uint8_t)text[0]] = true;
    if (trie->ends[node] >= 0)
        return false;
    trie->ends[node] = which;
    return true;
}

/* Tokens that are matched after normalisation are normalised themselves, in what they match and in
 * what they print. */
static sl_status add_pattern(struct tokenizer_reader *r, const char *content, bool normalized, int32_t which)
{
    char *normal = NULL;
    size_t bytes = strlen(content), normal_bytes = 0;
    uint32_t id = r->t->added[which].id;
    if (normalized && r->t->nfc && sl_unicode_nfc(content, bytes, &normal, &normal_bytes) != SL_OK)
        return no_memory(r);
    const char *text = normal ? normal : content;
    bytes = normal ? normal_bytes : bytes;
    sl_status status = add_piece(r, id, text, bytes);
    if (status == SL_OK && !trie_add(normalized ? &r->t->normal : &r->t->raw, text, bytes, which))
        status = sl_fail(r->err, SL_E_DATA,
                         "added token %u matches the same text as one before it: remove one", id);
    free(normal);
    return status;
}

/* The id that the `tokenizers` package gives the token, which must be the one in the file. */
static sl_status check_added_id(struct tokenizer_reader *r, const char *content, uint32_t id, uint32_t *next)
{
    char name[SHOWN + 4];
    uint32_t expected;
    bool in_vocab = vocab_id(r, content, strlen(content), &expected);
    if (!in_vocab)
        expected = (*next)++;
    if (id != expected || (!in_vocab && r->t->pieces[id].known))
        return sl_fail(r->err, SL_E_DATA,
                       "added token \"%s\" has id %u where %u is its place: number the added tokens on "
                       "from the vocabulary",
                       shown(name, content), id, expected);
    return SL_OK;
}

static sl_status read_added_token(struct tokenizer_reader *r, const json_t *token, uint32_t *next)
{
    static const struct known known[] = {{"id", ANY},         {"content", ANY}, {"special", ANY},
                                         {"normalized", ANY}, {"lstrip", ANY},  {"rstrip", ANY},
                                         {"single_word", ANY}};
    SL_TRY(check_keys(r, token, "an added token", known, sizeof known / sizeof known[0]));
    const char *content = json_string_value(json_object_get(token, "content"));
    uint32_t id = (uint32_t)json_integer_value(json_object_get(token, "id"));
    size_t bytes = content ? strlen(content) : 0;
    if (bytes == 0 || bytes > MAX_ADDED_BYTES)
        return sl_fail(r->err, SL_E_DATA, "added token %u has no content of 1 to %d bytes: remove it", id,
                       MAX_ADDED_BYTES);
    bool flags[5];
    for (size_t i = 0; i < 5; i++) {
        const json_t *flag = json_object_get(token, known[i + 2].key);
        if (!json_is_boolean(flag))
            return sl_fail(r->err, SL_E_DATA, "added token %u has no \"%s\" of true or false: add it", id,
                           known[i + 2].key);
        flags[i] = json_is_true(flag);
    }
    SL_TRY(check_added_id(r, content, id, next));
    struct sl_tokenizer *t = r->t;
    if (t->pieces[id].added)
        return sl_fail(r->err, SL_E_DATA, "added token %u is there twice: remove one", id);
    t->added[t->n_added] = (struct sl_tok_added){id, flags[2], flags[3], flags[4]};
    SL_TRY(add_pattern(r, content, flags[1], (int32_t)t->n_added++));
    t->pieces[id].added = true;
    t->pieces[id].special = flags[0];
    return SL_OK;
}

static sl_status read_added(struct tokenizer_reader *r, const json_t *added)
{
    size_t i, bytes = 0, n = json_array_size(added);
    json_t *token;
    json_array_foreach((json_t *)added, i, token) bytes +=
        3 * json_string_length(json_object_get(token, "content")); /* NFC makes it three times at most */
    r->t->added = calloc(n ? n : 1, sizeof *r->t->added);
    if (!r->t->added)
        return no_memory(r);
    SL_TRY(trie_init(r, &r->t->raw, bytes));
    SL_TRY(trie_init(r, &r->t->normal, bytes));
    uint32_t next = (uint32_t)json_object_size(r->vocab);
    json_array_foreach((json_t *)added, i, token) SL_TRY(read_added_token(r, token, &next));
    return SL_OK;
}

/* ---- the file ---- */

static sl_status read_root(struct tokenizer_reader *r, const json_t *root)
{
    static const struct known known[] = {{"version", ANY},        {"truncation", ANY}, {"padding", ANY},
                                         {"added_tokens", ANY},   {"normalizer", ANY}, {"pre_tokenizer", ANY},
                                         {"post_processor", ANY}, {"decoder", ANY},    {"model", ANY}};
    if (!json_is_object(root))
        return sl_fail(r->err, SL_E_DATA, "it is not a JSON object: give the tokenizer.json of a checkpoint");
    SL_TRY(check_keys(r, root, "tokenizer.json", known, sizeof known / sizeof known[0]));
    const json_t *added = json_object_get(root, "added_tokens");
    if (added && !json_is_null(added) && !json_is_array(added))
        return sl_fail(r->err, SL_E_DATA, "\"added_tokens\" is not a list: fetch the file again");
    SL_TRY(read_normalizer(r, json_object_get(root, "normalizer")));
    SL_TRY(read_pre_tokenizer(r, json_object_get(root, "pre_tokenizer")));
    SL_TRY(read_ends(r, root));
    SL_TRY(read_model(r, json_object_get(root, "model"), added));
    return read_added(r, added);
}

sl_status sl_tokenizer_parse(struct sl_tokenizer **tokenizer, const char *json, size_t bytes,
                             struct sl_err *err)
{
    *tokenizer = NULL;
    json_error_t where;
    json_t *root = json_loadb(json, bytes, JSON_REJECT_DUPLICATES, &where);
    if (!root && json_error_code(&where) == json_error_duplicate_key)
        return sl_fail(err, SL_E_DATA,
                       "a key is there twice in one JSON object, at line %d, column %d: remove one",
                       where.line, where.column);
    if (!root)
        return sl_fail(err, SL_E_DATA, "it is not JSON at line %d, column %d: fetch the file again",
                       where.line, where.column);
    struct tokenizer_reader reader = {.t = calloc(1, sizeof *reader.t), .err = err};
    sl_status status = reader.t ? read_root(&reader, root) : no_memory(&reader);
    json_decref(root);
    if (status != SL_OK) {
        sl_tokenizer_destroy(reader.t);
        return status;
    }
    *tokenizer = reader.t;
    return SL_OK;
}

static sl_status read_file(const char *path, char **data, size_t *bytes, struct sl_err *err)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        return sl_fail(err, errno == ENOENT ? SL_E_NOT_FOUND : SL_E_IO, "cannot open %s: %s", path,
                       strerror(errno));
    sl_status status = SL_OK;
    long end = fseek(file, 0, SEEK_END) == 0 ? ftell(file) : -1;
    if (end < 0 || fseek(file, 0, SEEK_SET) != 0)
        status = sl_fail(err, SL_E_IO, "cannot read %s: %s", path, strerror(errno));
    else if (end > SL_TOK_MAX_FILE_BYTES)
        status = sl_fail(err, SL_E_DATA, "%s has %ld bytes and %d are the limit: is it a tokenizer.json?",
                         path, end, SL_TOK_MAX_FILE_BYTES);
    else if (!(*data = malloc((size_t)end + 1)))
        status = sl_fail(err, SL_E_NOMEM, "no memory for the %ld bytes of %s: free some and start again", end,
                         path);
    else if (fread(*data, 1, (size_t)end, file) != (size_t)end)
        status = sl_fail(err, SL_E_IO, "cannot read %s: it ended early or the disk failed", path);
    *bytes = (size_t)end;
    fclose(file);
    return status;
}

sl_status sl_tokenizer_load(struct sl_tokenizer **tokenizer, const char *path, struct sl_err *err)
{
    char *data = NULL;
    size_t bytes = 0;
    *tokenizer = NULL;
    sl_status status = read_file(path, &data, &bytes, err);
    if (status == SL_OK) {
        status = sl_tokenizer_parse(tokenizer, data, bytes, err);
        if (status != SL_OK)
            sl_err_prefix(err, "%s", path);
    }
    free(data);
    return status;
}
