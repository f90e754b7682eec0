/* The tokenizer as its three files share it: tokenizer_read.c fills it from JSON,
 * tokenizer_encode.c and tokenizer.c read it.
 *
 * Two lookups carry everything: pairs of ids to the merge that joins them, and edges of the tries
 * of added tokens. Both have integer keys, so one open-addressing table serves them; strings are
 * looked up only while loading. */
#ifndef SL_MODEL_TOKENIZER_TOKENIZER_IMPL_H
#define SL_MODEL_TOKENIZER_TOKENIZER_IMPL_H

#include "model/tokenizer/tokenizer.h"

enum { SL_TOK_MAX_IDS = 1 << 20, SL_TOK_MAX_FILE_BYTES = 128 << 20, SL_TOK_MAX_TEXT_BYTES = 256 << 20 };

struct sl_tok_map {
    struct sl_tok_slot {
        uint64_t key; /* plus one: 0 is an empty slot */
        uint64_t value;
    } * slots;
    size_t mask; /* slots - 1, a power of two less one */
    size_t used;
};

static inline size_t sl_tok_map_home(const struct sl_tok_map *map, uint64_t key)
{
    return (size_t)((key * 0x9E3779B97F4A7C15u) >> 24) & map->mask;
}

static inline bool sl_tok_map_get(const struct sl_tok_map *map, uint64_t key, uint64_t *value)
{
    for (size_t i = sl_tok_map_home(map, key); map->slots[i].key != 0; i = (i + 1) & map->mask)
        if (map->slots[i].key == key + 1) {
            *value = map->slots[i].value;
            return true;
        }
    return false;
}

/* The added tokens of one round of splitting. Node 0 is the root; ends[node] is the added token
 * there, or -1. */
struct sl_tok_trie {
    struct sl_tok_map edges; /* node << 8 | byte -> node */
    int32_t *ends;
    uint32_t n_nodes;
    bool begins[256]; /* whether a token begins with this byte: most positions need no more */
};

struct sl_tok_added {
    uint32_t id;
    bool lstrip, rstrip, single_word;
};

struct sl_tok_piece {
    uint32_t begin, bytes; /* in sl_tokenizer.text */
    bool known, added, special;
};

struct sl_tokenizer {
    bool nfc;
    uint32_t n_ids; /* highest id + 1 */
    struct sl_tok_piece *pieces;
    char *text;
    size_t text_bytes;
    size_t longest; /* bytes of the longest piece */
    uint32_t byte_id[256];
    struct sl_tok_map merges; /* left << 32 | right -> rank << 32 | id of the whole */
    struct sl_tok_added *added;
    uint32_t n_added;
    struct sl_tok_trie raw, normal; /* looked for before and after normalisation */
};

/* Byte b is written as character sl_tok_char_of(b) in vocab and merges; the inverse is -1 for all
 * other characters. */
uint32_t sl_tok_char_of(uint8_t byte);
int sl_tok_byte_of(uint32_t c);

#endif
