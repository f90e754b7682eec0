/* The page pool of kv.h. Appending scatters a token into the page: keys lie side by side in K (sixteen dot
 * products advance together), values lie row by row in V, in blocks of sixteen channels (floats) or steps of
 * four keys (i8). A token's row is converted or quantised once, by the table's own vector code, and then
 * moved in the largest pieces that lie together: an element of K, sixteen channels of V; for i8 four inputs
 * of K, and bytes of V. */
#include "attention/kv.h"
#include <assert.h>

static size_t k_bytes_of(const struct sl_kv_layout *l)
{
    return sl_arena_round(sl_page_k_bytes(l->dtype, l->d_head));
}
static size_t v_bytes_of(const struct sl_kv_layout *l)
{
    return sl_arena_round(sl_page_v_bytes(l->dtype, l->d_head));
}

size_t sl_kv_layer_bytes(const struct sl_kv_layout *layout)
{
    return layout->n_kv * (k_bytes_of(layout) + v_bytes_of(layout));
}

size_t sl_kv_bytes(const struct sl_kv_layout *layout, uint32_t n_slots)
{
    size_t slot, all;
    if (!sl_mul_size(sl_kv_layer_bytes(layout), layout->n_layers, &slot) ||
        !sl_mul_size(slot, n_slots, &all) || !sl_add_size(all, SL_CACHE_LINE, &all))
        return SIZE_MAX;
    return all;
}

sl_status sl_kv_init(struct sl_kv *kv, struct sl_arena *arena, const struct sl_kv_layout *layout,
                     uint32_t n_slots)
{
    assert(layout->d_head <= SL_KV_MAX_HEAD);
    *kv = (struct sl_kv){.layout = *layout, .n_slots = n_slots};
    kv->k_bytes = k_bytes_of(layout);
    kv->v_bytes = v_bytes_of(layout);
    kv->layer_bytes = sl_kv_layer_bytes(layout);
    kv->slot_bytes = kv->layer_bytes * layout->n_layers;
    kv->base = sl_arena_take(arena, kv->slot_bytes * n_slots);
    return kv->base ? SL_OK : SL_E_NOMEM;
}

void sl_kv_clear(const struct sl_kv *kv, uint32_t slot)
{
    memset(sl_kv_slot(kv, slot), 0, kv->slot_bytes);
}

static void append_bf16(const struct sl_ops *ops, uint32_t d, uint16_t *k_page, uint16_t *v_page,
                        uint32_t row, const float *k, const float *v)
{
    uint16_t key[SL_KV_MAX_HEAD];
    ops->convert(key, SL_BF16, k, d);
    for (uint32_t i = 0; i < d; i++)
        k_page[sl_panel_at(d, row, i)] = key[i];
    for (uint32_t c = 0; c < d; c += SL_LANES)
        ops->convert(v_page + sl_panel_at(SL_PAGE_TOKENS, c, row), SL_BF16, v + c,
                     d - c < SL_LANES ? d - c : SL_LANES);
}

static void append_f32(uint32_t d, float *k_page, float *v_page, uint32_t row, const float *k, const float *v)
{
    for (uint32_t i = 0; i < d; i++)
        k_page[sl_panel_at(d, row, i)] = k[i];
    for (uint32_t c = 0; c < d; c += SL_LANES)
        memcpy(v_page + sl_panel_at(SL_PAGE_TOKENS, c, row), v + c,
               (d - c < SL_LANES ? d - c : SL_LANES) * sizeof *v);
}

static void append_i8(const struct sl_ops *ops, uint32_t d, uint8_t *k_page, uint8_t *v_page, uint32_t row,
                      const float *k, const float *v)
{
    _Alignas(64) int8_t q[SL_KV_MAX_HEAD];
    float scale;
    int32_t sum;
    ops->quantise(k, d, q, sl_rows8_stride(d), &scale, &sum);
    memcpy(k_page + sl_page8_k_scale_at(d, row), &scale, sizeof scale);
    for (uint32_t i = 0; i < sl_quant_padded(d); i += 4) {
        uint32_t four;
        memcpy(&four, q + i, sizeof four);
        four ^= 0x80808080u; /* value + 128 */
        memcpy(k_page + sl_page8_k_at(d, row, i), &four, sizeof four);
    }
    ops->quantise(v, d, q, sl_rows8_stride(d), &scale, &sum);
    memcpy(v_page + sl_page8_scales_at(d) + row * sizeof scale, &scale, sizeof scale);
    for (uint32_t c = 0; c < d; c += SL_LANES) {
        uint8_t *to = v_page + sl_page8_v_at(row, c);
        for (uint32_t lane = 0; lane < SL_LANES; lane++) /* q is zero beyond d */
            to[4 * lane] = (uint8_t)q[c + lane];
    }
}

void sl_kv_append(const struct sl_kv *kv, const struct sl_ops *ops, uint32_t slot, uint32_t layer,
                  uint32_t row, const float *k, const float *v)
{
    uint32_t d = kv->layout.d_head;
    assert(row < SL_PAGE_TOKENS && layer < kv->layout.n_layers);
    for (uint32_t h = 0; h < kv->layout.n_kv; h++, k += d, v += d) {
        void *k_page = sl_kv_k(kv, slot, layer, h), *v_page = sl_kv_v(kv, slot, layer, h);
        if (kv->layout.dtype == SL_I8)
            append_i8(ops, d, k_page, v_page, row, k, v);
        else if (kv->layout.dtype == SL_BF16)
            append_bf16(ops, d, k_page, v_page, row, k, v);
        else
            append_f32(d, k_page, v_page, row, k, v);
    }
}
