/* The grouped product of s8 rows and integer panels on a GPU: its parameters, the same struct on both sides, and its kernels.
 *
 * Rows are the pairs (token, expert) of a chunk, those of an expert side by side, or with one expert the rows of a dense matrix.
 * A tile is some pairs of one expert; the list of them lies on the device, with its length, so that a launch asks the host for
 * nothing: blocks take tasks (a tile and some panel blocks) by their number until there are none. With one expert there need not be
 * a list: rows are cut by the kernel, which reads how many they are.
 * y of a pair is what kernels/isa.h says of gemm8, or of gemm8_swiglu, to the bit, with the second digits of panel.h added in the
 * order of team_ops.h. Pointers are the device's.
 *
 * Three bodies do the same to the bit, over tiles of different heights, and gemm8_choose says whose turn it is. Weights of 4 bits are
 * 0.52 bytes, two operations a row; an H200 copies 4.3 TB/s, and is expected to do 500 TOPS by mma.sync and 1000 by wgmma, of all
 * columns of a tile, whether there is a row for them or not:
 *
 *   rows an expert, on average    body          tile   why
 *   up to 8, or 16 in all         GEMM8_FEW     16     memory bounds it. A tile of 64 would do 128 operations a weight, and 500 TOPS
 *                                                      are 2.0 TB/s of weights then; one of 16 does 32, so that memory is what is
 *                                                      waited for. With 8 on average 99 experts of 100 have 16 at most, and read
 *                                                      their weights once
 *   up to 64                      GEMM8_MMA     64     an expert's rows are one tile, mostly. One of 128 would be half empty and
 *                                                      take as long, and there would be fewer tasks to share out
 *   more, on a GPU of 9.0         GEMM8_WGMMA   128    twice the rate, half as many reads of weights: the ridge is at 119 rows.
 *                                                      Two digits are two launches, the second onto the first. SwiGLU would have
 *                                                      to keep the first one's floats, for which there are no registers: GEMM8_MMA
 *   more, elsewhere               GEMM8_MMA     64 */
#ifndef SL_KERNELS_GPU_GEMM8_H
#define SL_KERNELS_GPU_GEMM8_H

#include "base/dtype.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    GEMM8_TOKENS = 64, /* of a tile */
    GEMM8_BLOCKS = 8,  /* of 16 outputs, of a task */
    GEMM8_WARPS = 4,
    GEMM8_X_PITCH = 160, /* from row to row of activations there: eight lanes' rows lie in different banks */
};

/* The body for few rows. */
enum { GEMM8_FEW_TOKENS = 16, GEMM8_FEW_BLOCKS = 2, GEMM8_FEW_WARPS = 8 };

/* The body for sm_90a: products of four warps. A block has two such groups, each with tasks, stages and two copying warps of
 * its own, so that one decodes or finishes while the other multiplies. Kernels of one digit. */
enum {
    GEMM8_WG_TOKENS = 128,
    GEMM8_WG_GROUPS = 2,
    GEMM8_WG_WARPS = 12,          /* eight that multiply, four that copy */
    GEMM8_WG_X_BYTES = 128 * 128, /* rows of a stage, in the 128-byte swizzle */
};

struct gemm8_tile {
    uint32_t expert, first, m, unused; /* pairs [first, first + m) */
};
struct gemm8_rows { /* by token; kernels/quant.h */
    const int8_t *q;
    const float *scale;
    const int32_t *sum;
};
struct gemm8_params {
    struct gemm8_rows x[2];         /* [1]: the second digits; kernels of two */
    uint64_t q_stride;              /* bytes, a multiple of 64, zeros beyond the inputs */
    const uint32_t *rows;           /* [pairs] the token of a pair; NULL: the pair itself */
    const uint8_t *weights;         /* experts, as the pack has them */
    uint64_t expert_stride;         /* bytes */
    uint32_t block_bytes;           /* of 16 outputs */
    uint32_t units_at;              /* in a block */
    uint32_t n_blocks;              /* of an expert */
    uint32_t n_units;               /* of 32 inputs */
    const struct gemm8_tile *tiles; /* of at most the body's rows each; NULL: one expert, cut by the kernel */
    const uint32_t *count;          /* 1: of tiles, or, if there is no list, of rows */
    float *y;                       /* [pairs][y_stride] */
    uint64_t y_stride;              /* bytes */
    uint32_t n_out;                 /* columns of y; of SwiGLU half the panel's outputs at most */
    uint32_t accumulate;            /* onto y; not with SwiGLU */
};

/* Bytes of a unit, and of the group scales of four of them, of a block of 16 outputs: kernels/quant.h, as constants. */
#ifdef __CUDACC__
#define GEMM8_CONSTANT __host__ __device__ static constexpr
#else
#define GEMM8_CONSTANT static inline
#endif
GEMM8_CONSTANT uint32_t gemm8_unit_bytes(int d)
{
    return d == SL_I8 ? 512 : d == SL_I3 ? 192 : d == SL_I2 ? 128 : 256;
}
GEMM8_CONSTANT uint32_t gemm8_scale_bytes(int d)
{
    return d == SL_I8 ? 0 : d == SL_I4 ? 32 : 64;
}
GEMM8_CONSTANT uint32_t
gemm8_stages(int d) /* of 128 inputs, in shared memory: the least that a GPU has is 99 KB */
{
    return d == SL_I8 ? 3 : 4;
}
GEMM8_CONSTANT uint32_t gemm8_stage_bytes(int d)
{
    return GEMM8_TOKENS * GEMM8_X_PITCH + GEMM8_BLOCKS * (4 * gemm8_unit_bytes(d) + gemm8_scale_bytes(d));
}
GEMM8_CONSTANT uint32_t gemm8_shared_bytes(int d)
{
    return gemm8_stages(d) * gemm8_stage_bytes(d);
}
GEMM8_CONSTANT uint32_t gemm8_few_shared_bytes(int digits) /* sums of two blocks of every warp, twice */
{
    return 2 * GEMM8_FEW_WARPS * (uint32_t)digits * GEMM8_FEW_BLOCKS * GEMM8_FEW_TOKENS * 16 * 4;
}
GEMM8_CONSTANT uint32_t gemm8_wg_stages(int d)
{
    return d == SL_I8 ? 3 : 4;
}
GEMM8_CONSTANT uint32_t gemm8_wg_stage_bytes(int d) /* a multiple of 1024, that of the swizzle */
{
    return (GEMM8_WG_X_BYTES + GEMM8_BLOCKS * (4 * gemm8_unit_bytes(d) + gemm8_scale_bytes(d)) + 1023) /
           1024 * 1024;
}
GEMM8_CONSTANT uint32_t gemm8_wg_shared_bytes(int d) /* behind the stages two barriers each */
{
    return GEMM8_WG_GROUPS * gemm8_wg_stages(d) * (gemm8_wg_stage_bytes(d) + 16);
}

#ifndef __CUDACC__
#include "kernels/gpu/host.h"
#include "kernels/quant.h"

enum gemm8_body { GEMM8_FEW, GEMM8_MMA, GEMM8_WGMMA, GEMM8_BODIES };

/* See the table above. rows: in all, of `experts` of which each may have any of them; kept: the floats of first digits are, for SwiGLU
 * of two; capability: of the GPU, 90 for 9.0. Pure. */
enum gemm8_body gemm8_choose(uint32_t rows, uint32_t experts, bool kept, uint32_t capability);
uint32_t gemm8_tokens(enum gemm8_body body); /* rows of a tile, at most */
uint32_t gemm8_blocks(enum gemm8_body body); /* panel blocks of a task */

/* Of an integer dtype; digits 1 or 2. NULL: there is none (GEMM8_WGMMA of two). */
const struct gpu_kernel *gemm8_kernel(enum gemm8_body body, enum sl_dtype dtype, bool swiglu,
                                      uint32_t digits);
/* Shared memory of a block of such a kernel; 0: it is none of these. */
uint32_t gemm8_shared(const struct gpu_kernel *kernel);
/* What the panel of an expert says of the parameters: block_bytes, units_at, n_blocks, n_units, q_stride. */
void gemm8_describe(struct gemm8_params *params, const struct sl_panel *w);
#endif

#endif
