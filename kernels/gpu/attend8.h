/* Attention of a chunk over i8 pages (kernels/page.h) on the device: what attend8.inc is launched with, and how the host cuts
 * a chunk into items for it. The bits are those of sl_ref_attend8 and sl_ref_attend_merge.
 *
 * An item is a few rows, (token, head) pairs of one group of query heads which share a page of keys, and the segments of
 * pages that they are to go through; a warp does one item of one KV head at a time. What comes of a row is its *state*
 * (kernels/isa.h, sl_attend): o, m, l. Where there are rows enough, a warp takes all segments of its rows in turn and
 * merges each into the row's only state; where there are too few to fill the device (decode), segments are shared out,
 * each leaves a state of its own, and merging is left to the kernel that reads states anyway (mix.h). Either way segments
 * are merged in ascending order, and whose they were shows in no bit.
 *
 * All pointers are the device's; whoever launches owns what they point to. */
#ifndef SL_KERNELS_GPU_ATTEND8_H
#define SL_KERNELS_GPU_ATTEND8_H

#include <stddef.h>
#include <stdint.h>

enum {
    SL_GPU_ATTEND8_WARPS = 4,                           /* of a block; each has items of its own */
    SL_GPU_ATTEND8_MOST = 512,                          /* d_head */
    SL_GPU_ATTEND8_SHARED = SL_GPU_ATTEND8_WARPS * 1024 /* bytes of a block */
};

/* Rows go on head by head within the group, then token by token; all of an item's tokens stand on one page. */
struct sl_gpu_attend_item {
    uint32_t token;                /* of the chunk: whose rows these are in q and in the states */
    uint32_t head;                 /* of the first row, within the group */
    uint32_t n_rows;               /* at most sl_gpu_attend8_rows() */
    uint32_t pos;                  /* of the first token */
    uint32_t pages;                /* where in `slots` the page list of its sequence begins */
    uint32_t segment, segment_end; /* to go through; beyond the rows' own page there is nothing */
    uint32_t state;                /* of `token` in `segment`: the number of its first head's state */
    uint32_t state_step;           /* to the next segment's; 0: all of them are merged into this one */
};

struct
    sl_gpu_attend_over { /* what attention goes through, whatever the pages hold, and where it leaves what comes of it */
    const uint8_t *kv;     /* this layer's K of KV head 0 in slot 0 */
    const uint32_t *slots; /* page lists */
    float *states;         /* [..][sl_attend_state_floats(d_head)] */
    const struct sl_gpu_attend_item *items;
    const uint32_t *n_items;             /* read by the kernel, so that no launch depends on it */
    size_t slot_bytes, head_bytes, v_at; /* from slot to slot, KV head to KV head, K to V */
    uint32_t n_q, n_kv, d_head;
};

struct sl_gpu_attend8 {
    struct sl_gpu_attend_over over;
    const int8_t
        *q; /* [tokens][n_q][q_stride]: scaled by softmax_scale * log2 e and quantised, zero beyond d_head */
    const float *q_scale;
    const int32_t *q_sum; /* of the row's q */
    uint32_t q_stride;
};

/* Rows of an item at most: more heads of little width fit a warp's registers than wide ones. */
static inline uint32_t sl_gpu_attend8_rows(uint32_t d_head)
{
    return d_head == 64 || d_head == 128 ? 16 : 8;
}

#ifndef __CUDACC__
struct gpu_kernel;
extern const struct gpu_kernel sl_gpu_attend8_64, sl_gpu_attend8_128, sl_gpu_attend8_256, sl_gpu_attend8_any;

static inline const struct gpu_kernel *sl_gpu_attend8_kernel(uint32_t d_head)
{
    return d_head == 64    ? &sl_gpu_attend8_64
           : d_head == 128 ? &sl_gpu_attend8_128
           : d_head == 256 ? &sl_gpu_attend8_256
                           : &sl_gpu_attend8_any;
}
#endif

#endif
