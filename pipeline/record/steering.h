/* What moves the logits of one request besides the numbers of its sampling, as bytes: logit_bias, and which ids its prompt
 * has, which repetition_penalty counts as seen. It is made once, by who submits, and travels with the decision that needs it:
 * in the record that ends the prompt (the last stage samples the first token) and in ADOPT (the decode worker samples all
 * others, and counts its own on top, from the first token on). Nobody penalises what he happens to have seen: a stage that
 * never ran the prompt's beginning, because it was shared or computed in an earlier life, gives the same bits.
 *
 *   n_bias, n_ids, is_bitmap | n_bias x (id, value) | the distinct ids of the prompt, ascending, or a bitmap of the vocabulary
 *
 * All little-endian u32 and f32. Ids are a list while that is shorter than the bitmap, which bounds them by vocab / 8 bytes
 * (19 KB of 151,936) however long the prompt is; at most SL_MAX_LOGIT_BIAS entries are 8 KiB. So the largest is planned for
 * with the vocabulary alone, and room for one such is in every record and ADOPT: the schedule cuts a chunk before the prompt
 * whose steering does not fit any more (a chat's 500 ids are 2 KB, so some ten of them still share a chunk). Empty, no bytes at
 * all, is what most requests have. Pure. */
#ifndef SL_PIPELINE_RECORD_STEERING_H
#define SL_PIPELINE_RECORD_STEERING_H

#include "base/bytes.h"
#include "base/status.h"

enum { SL_MAX_LOGIT_BIAS = 1024 };
#define SL_LOGIT_BIAS_LIMIT 100.0f /* either way, as OpenAI has it */

struct sl_bias {
    uint32_t id;
    float value; /* is added to its logit */
};

struct sl_steering { /* a view; the bytes stay where they are */
    uint32_t n_bias, n_ids;
    bool is_bitmap;
    const uint8_t *bias, *ids; /* unaligned */
};

/* The most that one request may have; a multiple of 4, as all sizes here. */
uint32_t sl_steering_max_bytes(uint32_t vocab);
uint32_t sl_steering_bytes(uint32_t n_bias, uint32_t n_ids, uint32_t vocab); /* 0 of nothing */
/* out: sl_steering_bytes. bias: ids ascending; seen: a bitmap of the vocabulary with n_ids bits set. */
void sl_steering_pack(uint8_t *out, const struct sl_bias *bias, uint32_t n_bias, const uint64_t *seen,
                      uint32_t n_ids, uint32_t vocab);
/* NULL, or what is wrong (static): size, counts, order, ids outside the vocabulary, values out of range. Zero bytes are right
 * and mean nothing. */
const char *sl_steering_read(struct sl_steering *s, const uint8_t *bytes, uint32_t n_bytes, uint32_t vocab);

struct sl_bias sl_steering_bias(const struct sl_steering *s, uint32_t i);

/* Bitmaps of a vocabulary: 64 ids a word. */
static inline uint32_t sl_id_words(uint32_t vocab)
{
    return (vocab + 63) / 64;
}
static inline bool sl_id_is_in(const uint64_t *seen, uint32_t id)
{
    return seen[id / 64] >> (id % 64) & 1;
}
uint32_t sl_ids_mark(uint64_t *seen, const uint32_t *ids, uint32_t n); /* returns how many were new */
void sl_steering_mark(const struct sl_steering *s, uint64_t *seen);    /* the ids of the prompt */

#endif
