/* The attention block of one layer over one chunk: norm, q|k|v projection, q/k norm, rope, append to the KV
 * pages, attend, output projection, residual. Weights arrive as views; sequences as page lists at absolute
 * positions. */
#ifndef SL_ATTENTION_ATTENTION_H
#define SL_ATTENTION_ATTENTION_H

#include "attention/kv.h"
#include "kernels/blocks.h"
#include "kernels/observe.h"
#include "kernels/team_ops.h"

struct sl_attention_tile;

struct sl_attention_buffers { /* for max_tokens rows; from the device's arena */
    float *normed;            /* [max_tokens][d_model] */
    float *qkv;               /* [max_tokens][(n_q + 2 n_kv) * d_head] */
    float *mixed;             /* [max_tokens][n_q * d_head] */
    /* of normed, then of mixed, when qkv or o are integer matrices; second digits follow the first ones of
     * max_tokens rows */
    struct sl_rows8 x8;
    uint32_t *kept;          /* [max_tokens]: rows of the chunk that go on behind the last layer's K and V */
    const void **page_table; /* [2][max_pages]: one K and one V list, per member */
    uint32_t max_pages;
    struct sl_attention_tile *tiles; /* [max_tiles] */
    uint32_t max_tiles;
    float *states; /* of segments that are shared out; without room for them they are not */
    size_t state_floats;
};

struct sl_attention {
    const struct sl_ops *ops;
    struct sl_team *team;
    struct sl_attention_dims dims;
    struct sl_attention_buffers buffers;
    struct sl_kv *kv;
    const struct sl_observer *observer; /* or NULL */
    struct sl_row_finish *finish;       /* of x, run before it is read; or NULL */
};

/* Arena bytes of the buffers for chunks of max_tokens rows of sequences of up to max_pages pages. */
size_t sl_attention_bytes(const struct sl_attention_dims *dims, uint32_t max_tokens, uint32_t max_pages,
                          uint32_t n_threads);
/* Takes the buffers; the observer is NULL. SL_E_NOMEM: the arena was planned too small. */
sl_status sl_attention_init(struct sl_attention *a, struct sl_arena *arena, const struct sl_ops *ops,
                            struct sl_team *team, struct sl_kv *kv, const struct sl_attention_dims *dims,
                            uint32_t max_tokens, uint32_t max_pages);

/* x: [n_rows][d_model], in place. cosine, sine: [n_rows][d_head/2], of each row's position. layer: within kv.
 */
void sl_attention_run(const struct sl_attention *a, const struct sl_attention_weights *w, uint32_t layer,
                      float *x, uint32_t n_rows, const struct sl_attention_slice *slices, uint32_t n_slices,
                      const float *cosine, const float *sine);
/* The same in two halves, for who has to do something in between: rows of one sequence may be on several nodes, and then the
 * pages that the others filled have to come before anybody attends (bench/layout_experts.c). Nothing else may use `a` in
 * between. */
void sl_attention_append(const struct sl_attention *a, const struct sl_attention_weights *w, uint32_t layer,
                         float *x, uint32_t n_rows, const struct sl_attention_slice *slices,
                         uint32_t n_slices, const float *cosine, const float *sine);
void sl_attention_attend_appended(const struct sl_attention *a, const struct sl_attention_weights *w,
                                  uint32_t layer, float *x, uint32_t n_rows,
                                  const struct sl_attention_slice *slices, uint32_t n_slices);
/* The same as sl_attention_run, but of the first kv_only rows of each slice K and V are appended and that is all. The other rows move to the
 * front of x, one behind the other; returns how many they are. */
uint32_t sl_attention_run_last(const struct sl_attention *a, const struct sl_attention_weights *w,
                               uint32_t layer, float *x, uint32_t n_rows,
                               const struct sl_attention_slice *slices, uint32_t n_slices,
                               const float *cosine, const float *sine);

#endif
