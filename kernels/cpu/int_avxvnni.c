/* The integer half of a table on AVX2 with AVX-VNNI: the tiles of this instruction set, the shapes that fit
 * its registers, and the kernels written once for all (*_body.inc). CMakeLists.txt compiles this file for the
 * instruction set; it is entered only through kernels/isa.c, after a check at run time.
 *
 * 16 ymm, and a vector is half a block. A plain panel takes 6 rows of one block: 12 sums, 2 weights, a
 * broadcast. Decoding in registers wants height, since a decoded vector is used once per row, but i3's
 * decoder, which works one step ahead, leaves room for no more than 4 sums. Three rows or fewer are
 * multiplied without decoding (int_flat_dots), which needs a second sum for each. */
#include "kernels/cpu/int_tile_avxvnni.h"
#include "kernels/cpu/tables.h"
#include "kernels/cpu/tile_avx2.h"
#include "kernels/exp.h"
#include "kernels/tune.h"
#include <assert.h>

enum {
    INT_MR = 6,
    INT_CODED_MR = 4,
    INT_FLAT_MR = 3,
    INT_PANEL_MR = 6,
    INT_NV = 2,
    INT_CHAINS = 4, /* the latency of a dot step, in dot steps */
    INT_FEW_ROWS = 5
};
/* rows, vectors */
#define INT_FLAT_SHAPES(X) X(1, 2) X(2, 1) X(3, 1)
#define INT_STREAM_SHAPES(X) /* its panel shapes are of one block, which is one stream */
#define INT_DIRECT_SHAPES(X) X(4, 1)
#define INT_HEAD_SHAPES(X) X(4, 1)
#define INT_PANEL_SHAPES(X) X(1, 2) X(2, 2) X(3, 2) X(4, 2) X(5, 2) X(6, 2)

#include "kernels/cpu/exp_body.inc"

#include "kernels/cpu/quantise_body.inc"

#include "kernels/cpu/int_body.inc"

const struct sl_ops sl_int_avxvnni = {
    .name = "avx2-vnni",
    .scratch_bytes = int_scratch_bytes,
    .quantise = cpu_quantise,
    .rotate = cpu_rotate,
    .gemm8 = int_gemm8,
    .gemm8_swiglu = int_gemm8_swiglu,
};
