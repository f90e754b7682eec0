/* Attention of a chunk over pages of floats (kernels/page.h) on the device: what attend.inc is launched with. The bits are those of
 * profile f32, sl_attend in kernels/isa.h.
 *
 * Items, page lists and states are those of attend8.h: a warp does one item of one KV head at a time, leaves its rows' states,
 * and mix.h makes rows of them. All pointers are the device's; whoever launches owns what they point to. */
#ifndef SL_KERNELS_GPU_ATTEND_H
#define SL_KERNELS_GPU_ATTEND_H

#include "kernels/gpu/attend8.h"
#include <stdbool.h>

enum {
    SL_GPU_ATTEND_WARPS = 4, /* of a block; each has items of its own */
    SL_GPU_ATTEND_Q_BYTES =
        4096, /* of a warp's queries in shared memory: rows times head, whatever the kernel */
    SL_GPU_ATTEND_P_BYTES = 2048, /* and of their weights of a page */
    SL_GPU_ATTEND_SHARED = SL_GPU_ATTEND_WARPS * (SL_GPU_ATTEND_Q_BYTES + SL_GPU_ATTEND_P_BYTES)
};

struct sl_gpu_attend {
    struct sl_gpu_attend_over over;
    const float *q;    /* [tokens][q_stride]: a token's query heads, n_q * d_head floats */
    uint64_t q_stride; /* floats */
    float q_factor;    /* softmax_scale * SL_EXP_LOG2E_HI */
};

/* Rows of an item at most: what the registers of a warp hold. The kernel is that of the next larger head. */
static inline uint32_t sl_gpu_attend_rows(uint32_t d_head)
{
    return d_head <= 128 ? 8 : d_head <= 256 ? 4 : 2;
}

#ifndef __CUDACC__
struct gpu_kernel;
extern const struct gpu_kernel sl_gpu_attend_f32_128, sl_gpu_attend_f32_256, sl_gpu_attend_f32_512;
extern const struct gpu_kernel sl_gpu_attend_bf16_128, sl_gpu_attend_bf16_256, sl_gpu_attend_bf16_512;

/* Pages of bf16, or else of f32. */
static inline const struct gpu_kernel *sl_gpu_attend_kernel(bool bf16, uint32_t d_head)
{
    if (d_head <= 128)
        return bf16 ? &sl_gpu_attend_bf16_128 : &sl_gpu_attend_f32_128;
    if (d_head <= 256)
        return bf16 ? &sl_gpu_attend_bf16_256 : &sl_gpu_attend_f32_256;
    return bf16 ? &sl_gpu_attend_bf16_512 : &sl_gpu_attend_f32_512;
}
#endif

#endif
