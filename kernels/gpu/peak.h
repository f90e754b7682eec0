/* What the tensor cores of a GPU do at most: products of random integers on registers, again and again, by mma.sync and on sm_90a by
 * wgmma (whose second operand lies in shared memory). It is measured beside kernels that are made of the same instruction
 * (bench/gpu_kernels.h), so that their shares do not hang on a data sheet.
 *
 * What is left of it is the sum of each lane's accumulators, which are linear in `times`: n times what one time leaves. */
#ifndef SL_KERNELS_GPU_PEAK_H
#define SL_KERNELS_GPU_PEAK_H

#include <stdint.h>

enum {
    PEAK_WARPS = 8,    /* of a block of peak_mma */
    PEAK_CHAINS = 8,   /* accumulators of a warp, so that no product waits for the one before */
    PEAK_WG_WARPS = 4, /* of a block of peak_wgmma, which are one product's */
    PEAK_WG_EACH = 8,  /* products between two waits; the waiting of a block is filled by the others */
    PEAK_WG_SHARED = 128 * 128,
    PEAK_WORDS = 128 * 32 /* of `in` */
};

struct peak_params {
    const uint32_t *in; /* [PEAK_WORDS], any */
    uint32_t *out;      /* [blocks][warps][32] */
    uint32_t times;
};

/* Of a block. */
static inline double peak_mma_ops(uint32_t times)
{
    return 2.0 * 16 * 8 * 32 * PEAK_WARPS * PEAK_CHAINS * times;
}
static inline double peak_wgmma_ops(uint32_t times)
{
    return 2.0 * 64 * 128 * 32 * PEAK_WG_EACH * times;
}

#ifndef __CUDACC__
#include "kernels/gpu/host.h"
extern const struct gpu_kernel peak_mma, peak_wgmma; /* any number of blocks */
#endif

#endif
