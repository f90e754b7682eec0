/* What attention.c and attend.c share: one pass of a chunk through one layer's block, and the tiles that it
 * is cut into. */
#ifndef SL_ATTENTION_ATTENTION_IMPL_H
#define SL_ATTENTION_ATTENTION_IMPL_H

#include "attention/attention.h"
#include "kernels/team_ops.h"
#include <stdatomic.h>

struct attention_pass {
    const struct sl_attention *a;
    const struct sl_attention_weights *w;
    uint32_t layer;
    float *x;
    uint32_t n_rows;
    const uint32_t *kept; /* [n_out]: of the n_rows; NULL: all of them, and n_out is n_rows */
    uint32_t n_out;       /* rows of q, of mixed and of the output product */
    const struct sl_attention_slice *slices;
    uint32_t n_slices;
    const float *cosine, *sine;
    uint32_t n_tiles; /* of a->buffers.tiles, longest first */
    uint32_t n_tasks; /* of all tiles */
};

/* Tokens that go through the pages together, all KV heads of them: (kv head, range of segments) are its
 * tasks. */
struct sl_attention_tile {
    const struct sl_attention_slice *slice;
    uint32_t token, n_tokens; /* of the slice; on one page */
    uint32_t row;             /* of the first token, in q and in mixed */
    uint32_t n_segments, n_ranges;
    uint32_t first_task;
    float *states;         /* when n_ranges > 1: [kv head][segment][row], see sl_attend */
    _Atomic uint32_t left; /* tasks */
};

/* Fills tiles and counts tasks, before attend_rows. */
void sl_attention_cut(struct attention_pass *p);
/* Every task; whoever ends a tile's last one merges its segments and quantises its rows for the output
 * product. */
void sl_attention_attend(void *pass, uint32_t member, uint32_t n_members, void *scratch);

static inline uint32_t sl_attention_qkv_width(const struct sl_attention_dims *d)
{
    return (d->n_q + 2 * d->n_kv) * d->d_head;
}
/* x8 as rows of k inputs: the same memory serves the inputs of both products, one after the other. */
static inline struct sl_rows8 sl_attention_rows8(const struct sl_attention *a, uint32_t k)
{
    struct sl_rows8 rows = a->buffers.x8;
    rows.stride = sl_rows8_stride(k);
    return rows;
}
static inline struct sl_rows8 sl_attention_second(const struct sl_attention *a, uint32_t k)
{
    struct sl_rows8 first = sl_attention_rows8(a, k);
    return sl_rows8_from(&first, a->buffers.max_tiles); /* as many as rows */
}

#endif
