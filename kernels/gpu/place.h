/* What becomes of the rows of the q|k|v product: bias, q/k norm and rope, then K and V go into the pages and q is made ready for
 * attention, as place_rows of attention.c and sl_kv_append do it.
 *
 * All pointers are the device's; whoever launches owns what they point to. */
#ifndef SL_KERNELS_GPU_PLACE_H
#define SL_KERNELS_GPU_PLACE_H

#include <stddef.h>
#include <stdint.h>

enum {
    SL_GPU_PLACE_WARPS = 4, /* of a block; each has heads of its own */
    SL_GPU_PLACE_MOST = 512 /* d_head */
};

struct sl_gpu_place_row { /* a row of the chunk: its position, and the slot of the page that has it */
    uint32_t slot, pos;
};

struct sl_gpu_place {
    float *qkv;                          /* [n_rows][(n_q + 2 n_kv) * d_head] */
    const float *bias, *q_norm, *k_norm; /* as in kernels/blocks.h, or NULL */
    const float *cosine, *sine;          /* [positions][d_head / 2], made by sl_rope_row */
    const struct sl_gpu_place_row *rows;
    const uint32_t *kept;                /* which row of the chunk a row of qkv is; NULL: the same */
    uint8_t *kv;                         /* this layer's K of KV head 0 in slot 0 */
    size_t slot_bytes, head_bytes, v_at; /* from slot to slot, KV head to KV head, K to V */
    /* i8: q times q_factor, quantised, [n_rows][n_q][q_stride], zero beyond d_head; q_stride is a multiple of 64. NULL: q stays
     * where it is in qkv, as floats */
    int8_t *q;
    float *q_scale;
    int32_t *q_sum;
    const uint32_t *n_rows; /* read by the kernel, so that no launch depends on it */
    uint32_t n_q, n_kv, d_head, q_stride;
    uint32_t head_begin, head_end; /* of q|k|v: what is there of the rows, or is wanted */
    uint32_t kv_dtype;             /* enum sl_dtype */
    float q_factor;                /* softmax_scale * SL_EXP_LOG2E_HI */
    float eps;
};

enum { SL_GPU_PLACE_SHARED = SL_GPU_PLACE_WARPS * SL_GPU_PLACE_MOST * 4 }; /* of a block */

#ifndef __CUDACC__
struct gpu_kernel;
extern const struct gpu_kernel sl_gpu_place;
#endif

#endif
