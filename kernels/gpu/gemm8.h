/* The grouped product of s8 rows and integer panels on a GPU: its parameters, the same struct on both sides, and its kernels.
 *
 * Rows are the pairs (token, expert) of a chunk, those of an expert side by side, or with one expert the rows of a dense matrix.
 * A tile is at most GEMM8_TOKENS pairs of one expert; the list of them lies on the device, with its length, so that a launch asks
 * the host for nothing: blocks take tasks (a tile and GEMM8_BLOCKS panel blocks) by their number until there are none.
 * y of a pair is what kernels/isa.h says of gemm8, or of gemm8_swiglu, to the bit, with the second digits of panel.h added in the
 * order of team_ops.h. Pointers are the device's. */
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
    GEMM8_STAGES = 4,    /* of 128 inputs, in shared memory */
    GEMM8_X_PITCH = 160, /* from row to row of activations there: eight lanes' rows lie in different banks */
};

/* The second body, for sm_90a: products of four warps. A block has two such groups, each with tasks, stages and two copying warps of
 * its own, so that one decodes or finishes while the other multiplies. Kernels of one digit, over tiles of GEMM8_WG_TOKENS. */
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
    struct gemm8_rows x[2]; /* [1]: the second digits; kernels of two */
    uint64_t q_stride;      /* bytes, a multiple of 64, zeros beyond the inputs */
    const uint32_t *rows;   /* [pairs] the token of a pair; NULL: the pair itself */
    const uint8_t *weights; /* experts, as the pack has them */
    uint64_t expert_stride; /* bytes */
    uint32_t block_bytes;   /* of 16 outputs */
    uint32_t units_at;      /* in a block */
    uint32_t n_blocks;      /* of an expert */
    uint32_t n_units;       /* of 32 inputs */
    const struct gemm8_tile *tiles;
    const uint32_t *n_tiles; /* 1 */
    float *y;                /* [pairs][y_stride] */
    uint64_t y_stride;       /* bytes */
    uint32_t n_out;          /* columns of y; of SwiGLU half the panel's outputs at most */
    uint32_t accumulate;     /* onto y; not with SwiGLU */
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
GEMM8_CONSTANT uint32_t gemm8_stage_bytes(int d)
{
    return GEMM8_TOKENS * GEMM8_X_PITCH + GEMM8_BLOCKS * (4 * gemm8_unit_bytes(d) + gemm8_scale_bytes(d));
}
GEMM8_CONSTANT uint32_t gemm8_shared_bytes(int d)
{
    return GEMM8_STAGES * gemm8_stage_bytes(d);
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

/* Of an integer dtype; digits 1 or 2. */
const struct gpu_kernel *gemm8_kernel(enum sl_dtype dtype, bool swiglu, uint32_t digits);
const struct gpu_kernel *gemm8_wg_kernel(enum sl_dtype dtype, bool swiglu);
/* What the panel of an expert says of the parameters: block_bytes, units_at, n_blocks, n_units, q_stride. */
void gemm8_describe(struct gemm8_params *params, const struct sl_panel *w);
#endif

#endif
