/* What the host knows of a chunk before any of its kernels run, as the lists that they read: where each row's page is (place.h), the
 * items of attention (attend8.h), and where each token's states come to lie (mix.h). Pure: no allocation, any thread. */
#ifndef SL_KERNELS_GPU_ATTEND_CUT_H
#define SL_KERNELS_GPU_ATTEND_CUT_H

#include "kernels/blocks.h"
#include "kernels/gpu/attend8.h"
#include "kernels/gpu/mix.h"
#include "kernels/gpu/place.h"

struct sl_gpu_cut_config {
    uint32_t n_q, n_kv, d_head;
    uint32_t item_rows; /* of an item at most */
    uint32_t wanted; /* items times KV heads that keep the device busy: with fewer, segments are shared out */
    uint32_t max_states; /* that there is room for: at least n_q for each row of a chunk */
};

struct sl_gpu_cut {                   /* the caller's memory, in and out */
    struct sl_gpu_place_row *places;  /* [rows of the chunk] */
    uint32_t *slots;                  /* [pages of all slices] */
    struct sl_gpu_attend_item *items; /* [sl_gpu_cut_items()], the longest first, to within their slice */
    struct sl_gpu_mix_row *rows;      /* [tokens that attend] */
    uint32_t *kept;                   /* [tokens that attend]: their rows in the chunk */
    uint32_t n_places, n_slots, n_items, n_rows, n_states;
};

/* How many items a chunk of so many rows can have at most. */
size_t sl_gpu_cut_items(const struct sl_gpu_cut_config *config, uint32_t max_tokens, uint32_t max_slices);

/* last: of the first kv_only rows of each slice nobody attends (kernels/device.h, "The last layer"), and the others are counted from
 * 0 on, in q, in states, and in rows. */
void sl_gpu_cut_chunk(struct sl_gpu_cut *cut, const struct sl_gpu_cut_config *config,
                      const struct sl_attention_slice *slices, uint32_t n_slices, bool last);

#endif
