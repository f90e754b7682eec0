/* The AVX-512 table: the tile of this instruction set, the shapes that fit its registers, and the
 * kernels written once for all (*_body.inc). CMakeLists.txt compiles this file for the instruction
 * set; it is entered only through kernels/isa.c, after a check at run time. */
#include "kernels/cpu/shapes_avx512.h"
#include "kernels/cpu/tables.h"
#include "kernels/cpu/tile_avx512.h"
#include "kernels/exp.h"
#include <assert.h>

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
    .swiglu = cpu_swiglu,
    .combine = cpu_combine,
    .convert = cpu_convert,
};
