/* The AVX2 table: the tile of this instruction set, the shapes that fit its registers, and the
 * kernels written once for all (*_body.inc). CMakeLists.txt compiles this file for the instruction
 * set; it is entered only through kernels/isa.c, after a check at run time. 16 ymm: the largest
 * shape is 6 rows x 1 block = 12 sums, 2 halves of the weights and a broadcast. Two rows or fewer
 * take 2 or 4 blocks: enough sums in flight to cover the latency of an FMA. */
#include "kernels/cpu/tables.h"
#include "kernels/cpu/tile_avx2.h"
#include "kernels/exp.h"
#include <assert.h>

enum { TILE_MR = 6 };
/* rows, blocks, log2 blocks */
#define TILE_SHAPES(X)                                                                                       \
    X(1, 1, 0)                                                                                               \
    X(1, 2, 1) X(1, 4, 2) X(2, 1, 0) X(2, 2, 1) X(3, 1, 0) X(4, 1, 0) X(5, 1, 0) X(6, 1, 0)

#include "kernels/cpu/rows_body.inc"

#include "kernels/cpu/gemm_body.inc"

#include "kernels/cpu/attend_body.inc"

static size_t scratch_bytes(uint32_t k_max)
{
    size_t gemm = gemm_scratch_floats(k_max), attend = attend_scratch_floats(k_max);
    return (gemm > attend ? gemm : attend) * sizeof(float);
}

const struct sl_ops sl_ops_avx2 = {
    .name = "avx2",
    .scratch_bytes = scratch_bytes,
    .gemm = cpu_gemm,
    .gemm_swiglu = cpu_gemm_swiglu,
    .attend = cpu_attend,
    .rmsnorm = cpu_rmsnorm,
    .rope = cpu_rope,
    .softmax = cpu_softmax,
    .swiglu = cpu_swiglu,
    .combine = cpu_combine,
    .convert = cpu_convert,
};
