/* The integer half of a table on AVX-512 with VNNI: the tiles of this instruction set, the shapes that fit
 * its registers, and the kernels written once for all (*_body.inc). CMakeLists.txt compiles this file for the
 * instruction set; it is entered only through kernels/isa.c, after a check at run time.
 *
 * 32 zmm. A plain panel takes 6 rows of 4 blocks: 24 sums and 4 weights. Decoding in registers wants height,
 * since a decoded vector is used once per row: 20 rows of 1 block are 20 sums beside the decoder's constants.
 * Fewer rows take 2 blocks: enough sums in flight to cover the latency of a dot step. Four rows or fewer are
 * not decoded at all (int_flat_dots), and go through memory in one stream: a core reads a quarter more from
 * one than from four. */
#include "kernels/cpu/int_tile_avx512vnni.h"
#include "kernels/cpu/tables.h"
#include "kernels/cpu/tile_avx512.h"
#include "kernels/exp.h"
#include "kernels/tune.h"
#include <assert.h>

enum {
    INT_MR = 20,
    INT_CODED_MR = 20,
    INT_FLAT_MR = 4,
    INT_PANEL_MR = 6,
    INT_NV = 4,
    INT_CHAINS = 4, /* the latency of a dot step, in dot steps */
    INT_FEW_ROWS = 20
};
/* rows, vectors */
#define INT_FLAT_SHAPES(X) X(1, 1) X(2, 1) X(3, 1) X(4, 1)
#define INT_STREAM_SHAPES(X) X(1, 1) X(2, 1) X(3, 1) X(4, 1)
/* clang-format off */
#define INT_DIRECT_SHAPES(X)                                                                                 \
    X(5, 2) X(6, 2) X(7, 2)                                                                                  \
    X(8, 1) X(9, 1) X(10, 1) X(11, 1) X(12, 1) X(13, 1) X(14, 1)                                             \
    X(15, 1) X(16, 1) X(17, 1) X(18, 1) X(19, 1) X(20, 1)
/* clang-format on */
#define INT_HEAD_SHAPES(X) X(15, 1) X(16, 1) X(17, 1) X(18, 1) X(19, 1) X(20, 1)
#define INT_PANEL_SHAPES(X) X(1, 4) X(2, 4) X(3, 4) X(4, 4) X(5, 4) X(6, 4)

#include "kernels/cpu/exp_body.inc"

#include "kernels/cpu/quantise_body.inc"

#include "kernels/cpu/int_body.inc"

TILE_INLINE void decode_units(const uint8_t *units, const uint8_t *scales, uint32_t n_units, uint8_t *to,
                              const enum sl_dtype d)
{
    iv factor = iv_zero(), offset = iv_zero();
    for (uint32_t u = 0; u < n_units; u++, units += int_unit_bytes(d), to += INT_UNIT_PANEL)
        TILE_EACH (t, INT_STEPS) {
            if (t % int_group_steps(d) == 0)
                int_group_at(d, scales, u, t, &factor, &offset);
            iv_store(to + t * 64, int_weights(d, units, t, factor, offset));
        }
}

void sl_int_decode_avx512vnni(enum sl_dtype dtype, uint32_t k, const void *block, uint8_t *to)
{
    const uint8_t *units = sl_quant_units(dtype, k, block), *scales = sl_quant_scales(block);
    uint32_t n_units = sl_quant_padded(k) / SL_QUANT_UNIT;
    assert(int_is_coded(dtype));
    if (dtype == SL_I4)
        decode_units(units, scales, n_units, to, SL_I4);
    else if (dtype == SL_I4G16)
        decode_units(units, scales, n_units, to, SL_I4G16);
    else if (dtype == SL_I3)
        decode_units(units, scales, n_units, to, SL_I3);
    else
        decode_units(units, scales, n_units, to, SL_I2);
}

const struct sl_ops sl_int_avx512vnni = {
    .name = "avx512-vnni",
    .scratch_bytes = int_scratch_bytes,
    .quantise = cpu_quantise,
    .rotate = cpu_rotate,
    .gemm8 = int_gemm8,
    .gemm8_swiglu = int_gemm8_swiglu,
};
