/* The checksum by lanes (base/lanes.h) of rows in the device's memory: what a link's frame is sealed with there, and asked about.
 *
 * Its pieces may be added in any order, so each block adds up those that it comes by and leaves 64 sums; the host adds these up, and
 * what the record in front of the rows counts for. */
#ifndef SL_KERNELS_GPU_LANES_H
#define SL_KERNELS_GPU_LANES_H

#include <stdint.h>

enum {
    SL_GPU_LANES_WARPS = 8,
    SL_GPU_LANES_STEP = 64 * SL_GPU_LANES_WARPS, /* pieces that a block takes at once */
    SL_GPU_LANES_BLOCKS = 128,                   /* at most: more would only leave more sums */
    SL_GPU_LANES_SHARED = SL_GPU_LANES_WARPS * 2 * 2 * 128
};
struct sl_gpu_lanes {
    const void *rows; /* [n] pieces of 16 bytes, at a multiple of 16 */
    uint64_t *sums;   /* [blocks][64]: of the pieces whose number in rows is that, modulo 64 */
    uint32_t n;
    uint32_t first; /* number of the first one in the whole */
};

#ifndef __CUDACC__
#include "base/lanes.h"
#include "kernels/gpu/host.h"
extern const struct gpu_kernel sl_gpu_lanes; /* any number of blocks */

static inline uint32_t sl_gpu_lanes_blocks(uint32_t n)
{
    uint32_t blocks = n / SL_GPU_LANES_STEP + (n % SL_GPU_LANES_STEP != 0);
    return blocks < SL_GPU_LANES_BLOCKS ? blocks : SL_GPU_LANES_BLOCKS;
}
/* What the blocks left, to the sums of the whole. */
static inline void sl_gpu_lanes_add(struct sl_lane_sums *whole, const uint64_t *sums, uint32_t n_blocks,
                                    uint32_t first)
{
    for (uint32_t i = 0; i < n_blocks * SL_SUM_LANES; i++)
        whole->sums[(first + i) % SL_SUM_LANES] += sums[i];
}
#endif

#endif
