/* The products of profile `bf16dot` on AVX-512: the drivers of the f32 profile over another tile.
 *
 * gemm_body.inc and attend_body.inc are the same source as in ops_avx512.c; bf16_tile.inc, included before them, makes
 * bf16 panels meet rows of bf16 by vdpbf16ps. f32 panels keep the multiply-adds of profile f32. A table of products
 * only: kernels/isa.c joins it with the other halves. Compiled for AVX512_BF16 (CMakeLists.txt), entered after a check
 * at run time. */
#include "kernels/cpu/shapes_avx512.h"
#include "kernels/cpu/tables.h"
#include "kernels/cpu/tile_avx512.h"
#include "kernels/exp.h"
#include <assert.h>

#include "kernels/cpu/exp_body.inc"

#include "kernels/cpu/bf16_tile.inc"

#include "kernels/cpu/gemm_body.inc"

#include "kernels/cpu/attend_body.inc"

static size_t scratch_bytes(uint32_t k_max)
{
    size_t gemm = gemm_scratch_floats(k_max), attend = attend_scratch_floats(k_max);
    return (gemm > attend ? gemm : attend) * sizeof(float);
}

const struct sl_ops sl_bf16dot_avx512 = {
    .name = "avx512-bf16",
    .scratch_bytes = scratch_bytes,
    .gemm = cpu_gemm,
    .gemm_swiglu = cpu_gemm_swiglu,
    .attend = cpu_attend,
};
