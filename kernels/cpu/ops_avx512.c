/* The AVX-512 table: the tile of this instruction set, the shapes that fit its registers, and the
 * kernels written once for all (*_body.inc). CMakeLists.txt compiles this file for the instruction
 * set; it is entered only through kernels/ops.c, after a check at run time. 32 zmm: the largest
 * shape is 12 rows x 2 blocks = 24 sums, 2 weights and a broadcast. Six rows or fewer take 4 or 8
 * blocks: enough sums in flight to cover the latency of an FMA, and more streams of weights to be
 * read at once. */
#include "kernels/cpu/tables.h"
#include "kernels/cpu/tile_avx512.h"
#include "kernels/exp.h"
#include <assert.h>

enum { TILE_MR = 12 };
/* rows, blocks, log2 blocks */
#define TILE_SHAPES(X)                                                                             \
    X(1, 1, 0)                                                                                     \
    X(1, 2, 1) X(1, 4, 2) X(1, 8, 3) X(2, 1, 0) X(2, 2, 1) X(2, 4, 2) X(2, 8, 3) X(3, 1, 0)        \
        X(3, 2, 1) X(3, 4, 2) X(4, 1, 0) X(4, 2, 1) X(4, 4, 2) X(5, 1, 0) X(5, 2, 1) X(5, 4, 2)    \
            X(6, 1, 0) X(6, 2, 1) X(6, 4, 2) X(7, 1, 0) X(7, 2, 1) X(8, 1, 0) X(8, 2, 1)           \
                X(9, 1, 0) X(9, 2, 1) X(10, 1, 0) X(10, 2, 1) X(11, 1, 0) X(11, 2, 1) X(12, 1, 0)  \
                    X(12, 2, 1)

#include "kernels/cpu/rows_body.inc"

#include "kernels/cpu/gemm_body.inc"

#include "kernels/cpu/attend_body.inc"

static size_t scratch_bytes(uint32_t k_max)
{
    size_t gemm = gemm_scratch_floats(k_max), attend = attend_scratch_floats(k_max);
    return (gemm > attend ? gemm : attend) * sizeof(float);
}

const struct sl_ops sl_ops_avx512 = {
    .name = "avx512",
    .scratch_bytes = scratch_bytes,
    .gemm = cpu_gemm,
    .gemm_swiglu = cpu_gemm_swiglu,
    .attend = cpu_attend,
    .rmsnorm = cpu_rmsnorm,
    .rope = cpu_rope,
    .softmax = cpu_softmax,
    .combine = cpu_combine,
    .convert = cpu_convert,
};
