/* A layer as its two blocks, the attention and the feed-forward: their sizes and their weights, as views. This is what a
 * device (device.h) is given of a model, so it lies below the rooms that compute the blocks on a CPU (attention/, experts/)
 * and below the one that reads weights from a pack (model/pack/): none of them needs to see another one.
 *
 * A switch that a family has and another lacks is a field here: NULL, 0 or false where it is off. */
#ifndef SL_KERNELS_BLOCKS_H
#define SL_KERNELS_BLOCKS_H

#include "kernels/panel.h"

/* ---- attention: norm, q|k|v, q/k norm, rope, append to the pages, attend, output product, residual ---- */

struct sl_attention_dims {
    uint32_t d_model, n_q, n_kv, d_head;
    float norm_eps, softmax_scale;
};

struct sl_attention_weights {
    const float *norm;
    const float *q_norm, *k_norm; /* [d_head], or NULL */
    const float *qkv_bias;        /* [(n_q + 2 n_kv) * d_head], or NULL */
    struct sl_panel qkv, o;
};

/* Rows [row, row + n) of the chunk are positions [pos, pos + n) of one sequence, whose page p lies in slot
 * pages[p]. Pages up to (pos + n - 1) / 64 have been taken. */
struct sl_attention_slice {
    uint32_t row, n, pos;
    const uint32_t *pages;
    uint32_t kv_only; /* its first rows that may leave nothing but K and V: device.h, "The last layer" */
};

/* ---- feed-forward: norm, then a dense one, or routed experts with an optional shared one, residual ---- */

struct sl_experts_dims {
    uint32_t d_model, n_experts, top_k, d_expert;
    uint32_t d_single; /* widest dense or shared feed-forward */
    bool renorm;
    float norm_eps;
};

struct sl_expert_set { /* the residents of one layer; expert e lies e strides behind expert 0 */
    struct sl_panel gate_up, down;
    size_t gate_up_stride, down_stride;
};

struct sl_experts_weights {
    const float *norm;
    bool is_moe;
    struct sl_panel router;        /* floats */
    struct sl_expert_set routed;   /* when is_moe */
    struct sl_panel gate_up, down; /* the dense feed-forward, or the shared expert */
    bool has_single;               /* gate_up and down above are there */
    /* [d_model]: single's output is scaled by sigmoid(shared_gate . x); or NULL */
    const float *shared_gate;
};

struct sl_layer_blocks {
    struct sl_attention_weights attention;
    struct sl_experts_weights experts;
};

#endif
