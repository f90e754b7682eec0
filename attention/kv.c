/* The page pool of kv.h. Appending scatters a token into the two panels: keys lie side by side in K (sixteen dot
 * products advance together), values lie row by row in V. */
#include "attention/kv.h"

static size_t k_bytes_of(const struct sl_kv_layout *l)
{
    return sl_arena_round(sl_panel_bytes(l->dtype, SL_PAGE_TOKENS, l->d_head));
}
static size_t v_bytes_of(const struct sl_kv_layout *l)
{
    return sl_arena_round(sl_panel_bytes(l->dtype, l->d_head, SL_PAGE_TOKENS));
}

size_t sl_kv_layer_bytes(const struct sl_kv_layout *layout)
{
    return layout->n_kv * (k_bytes_of(layout) + v_bytes_of(layout));
}

size_t sl_kv_bytes(const struct sl_kv_layout *layout, uint32_t n_slots)
{
    size_t slot, all;
    if (!sl_mul_size(sl_kv_layer_bytes(layout), layout->n_layers, &slot) || !sl_mul_size(slot, n_slots, &all) ||
        !sl_add_size(all, sl_pool_bytes(n_slots) + SL_CACHE_LINE, &all))
        return SIZE_MAX;
    return all;
}

sl_status sl_kv_init(struct sl_kv *kv, struct sl_arena *arena, const struct sl_kv_layout *layout, uint32_t n_slots)
{
    *kv = (struct sl_kv){.layout = *layout};
    kv->k_bytes = k_bytes_of(layout);
    kv->v_bytes = v_bytes_of(layout);
    kv->layer_bytes = sl_kv_layer_bytes(layout);
    kv->slot_bytes = kv->layer_bytes * layout->n_layers;
    kv->base = sl_arena_take(arena, kv->slot_bytes * n_slots);
    if (!kv->base)
        return SL_E_NOMEM;
    return sl_pool_init(&kv->slots, arena, n_slots);
}

sl_status sl_kv_take(struct sl_kv *kv, uint32_t *slot)
{
    SL_TRY(sl_pool_take(&kv->slots, slot));
    memset(sl_kv_slot(kv, *slot), 0, kv->slot_bytes);
    return SL_OK;
}

void sl_kv_give(struct sl_kv *kv, uint32_t slot)
{
    sl_pool_give(&kv->slots, slot);
}

static void append_head(const struct sl_kv *kv, uint8_t *k_page, uint8_t *v_page, uint32_t row, const float *k,
                        const float *v)
{
    uint32_t d = kv->layout.d_head;
    if (kv->layout.dtype == SL_BF16) {
        uint16_t *to_k = (uint16_t *)(void *)k_page, *to_v = (uint16_t *)(void *)v_page;
        for (uint32_t i = 0; i < d; i++) {
            to_k[sl_panel_at(d, row, i)] = sl_f32_to_bf16(k[i]);
            to_v[sl_panel_at(SL_PAGE_TOKENS, i, row)] = sl_f32_to_bf16(v[i]);
        }
    } else {
        float *to_k = (float *)(void *)k_page, *to_v = (float *)(void *)v_page;
        for (uint32_t i = 0; i < d; i++) {
            to_k[sl_panel_at(d, row, i)] = k[i];
            to_v[sl_panel_at(SL_PAGE_TOKENS, i, row)] = v[i];
        }
    }
}

void sl_kv_append(const struct sl_kv *kv, uint32_t slot, uint32_t layer, uint32_t row, const float *k, const float *v)
{
    assert(row < SL_PAGE_TOKENS && layer < kv->layout.n_layers);
    for (uint32_t h = 0; h < kv->layout.n_kv; h++)
        append_head(kv, sl_kv_k(kv, slot, layer, h), sl_kv_v(kv, slot, layer, h), row, k + h * kv->layout.d_head,
                    v + h * kv->layout.d_head);
}
