/* KV pages: 64 tokens each, at absolute multiples of 64, in kernel layout (kernels/page.h), packed once on
 * append.
 *
 * The pool of a stage is an array of slots. One slot holds one page of *all* the stage's layers:
 *   [layer][kv head] { K of 64 keys | V of the same 64 }, f32, bf16 or i8
 * so a page is pushed to the decode worker as one contiguous piece, and the piece of layers [a, b) of a
 * larger worker's slot is contiguous too. Who takes a slot into use clears it, so what lies beyond the last token
 * is zero; who owns which slot is not known here. */
#ifndef SL_ATTENTION_KV_H
#define SL_ATTENTION_KV_H

#include "base/arena.h"
#include "kernels/isa.h"

enum { SL_KV_MAX_HEAD = 1024 }; /* d_head */

struct sl_kv_layout {
    uint32_t n_layers, n_kv, d_head;
    enum sl_dtype dtype;
};

struct sl_kv {
    struct sl_kv_layout layout;
    size_t k_bytes, v_bytes; /* one head's page */
    size_t layer_bytes;      /* all heads of one layer */
    size_t slot_bytes;       /* all layers */
    uint8_t *base;
    uint32_t n_slots;
};

size_t sl_kv_layer_bytes(const struct sl_kv_layout *layout);
/* Arena bytes of a pool of n_slots. SIZE_MAX when it does not fit a size_t. */
size_t sl_kv_bytes(const struct sl_kv_layout *layout, uint32_t n_slots);
sl_status sl_kv_init(struct sl_kv *kv, struct sl_arena *arena, const struct sl_kv_layout *layout,
                     uint32_t n_slots);

void sl_kv_clear(const struct sl_kv *kv, uint32_t slot); /* before its first token */

static inline uint8_t *sl_kv_slot(const struct sl_kv *kv, uint32_t slot)
{
    return kv->base + slot * kv->slot_bytes;
}
static inline uint8_t *sl_kv_k(const struct sl_kv *kv, uint32_t slot, uint32_t layer, uint32_t head)
{
    return sl_kv_slot(kv, slot) + layer * kv->layer_bytes + head * (kv->k_bytes + kv->v_bytes);
}
static inline uint8_t *sl_kv_v(const struct sl_kv *kv, uint32_t slot, uint32_t layer, uint32_t head)
{
    return sl_kv_k(kv, slot, layer, head) + kv->k_bytes;
}

/* Write token `row` (0..63) of a page: k and v are [n_kv][d_head] f32. What is written depends on this token
 * alone. Any thread, as long as each token of a page is written by one at a time. */
void sl_kv_append(const struct sl_kv *kv, const struct sl_ops *ops, uint32_t slot, uint32_t layer,
                  uint32_t row, const float *k, const float *v);

#endif
