/* A page of KV as the kernels want it: 64 keys of one KV head, and their values.
 *
 * f32, bf16: K is a panel of n = 64 keys, k = d_head; V of n = d_head, k = 64 keys (kernels/panel.h).
 *
 * i8: every key and every value row is quantised alone (sl_ops.quantise), so a page does not depend on how
 * its tokens arrived.
 *   K: an SL_I8 panel of n = 64 keys, k = d_head (kernels/quant.h); S of an output is the key's scale
 *   V: int8_t v[ceil(d_head/16)][16 steps][16 channels][4 keys], then float scale[64], one per key
 * The bytes of V are signed: they meet the probabilities, which are unsigned. A slot that holds no token yet
 * has scale 0. */
#ifndef SL_KERNELS_PAGE_H
#define SL_KERNELS_PAGE_H

#include "kernels/quant.h"

enum {
    SL_PAGE_TOKENS = 64,
    SL_SEGMENT_PAGES = 32, /* pages whose softmax is one chain: kernels/isa.h, sl_attend */
    SL_PAGE8_STEPS = SL_PAGE_TOKENS / 4,
    SL_PAGE8_BLOCK = SL_PAGE8_STEPS * SL_LANES * 4 /* bytes of sixteen channels of V */
};

/* 1/255, rounded: the largest weight of a page times this is one step of its 255. */
#define SL_PAGE8_WEIGHT 0x1.010102p-8f

static inline size_t sl_page_k_bytes(enum sl_dtype dtype, uint32_t d_head)
{
    return sl_panel_bytes(dtype, SL_PAGE_TOKENS, d_head);
}
static inline size_t sl_page8_scales_at(uint32_t d_head)
{
    return (size_t)(sl_round_lanes(d_head) / SL_LANES) * SL_PAGE8_BLOCK;
}
static inline size_t sl_page_v_bytes(enum sl_dtype dtype, uint32_t d_head)
{
    if (dtype == SL_I8)
        return sl_page8_scales_at(d_head) + SL_PAGE_TOKENS * sizeof(float);
    return sl_panel_bytes(dtype, d_head, SL_PAGE_TOKENS);
}

/* i8: where input i of a key lies in K (its byte is the value + 128), and the key's scale. */
static inline size_t sl_page8_k_at(uint32_t d_head, uint32_t key, uint32_t i)
{
    return key / SL_LANES * sl_quant_block_bytes(SL_I8, d_head) + 64 + (size_t)(i / 4) * 64 +
           key % SL_LANES * 4 + i % 4;
}
static inline size_t sl_page8_k_scale_at(uint32_t d_head, uint32_t key)
{
    return key / SL_LANES * sl_quant_block_bytes(SL_I8, d_head) + key % SL_LANES * sizeof(float);
}
/* i8: where channel c of a key's value lies in V. */
static inline size_t sl_page8_v_at(uint32_t key, uint32_t c)
{
    return (size_t)(c / SL_LANES) * SL_PAGE8_BLOCK + key / 4 * 64 + c % SL_LANES * 4 + key % 4;
}

#endif
