/* The integer half of a table on AMX-INT8: the kernel of int_amx_body.inc over the processor's tiles.
 *
 * CMakeLists.txt compiles this file for the instruction set; it is entered only through kernels/isa.c, after
 * base/cpu.h has asked the operating system for the tiles' state. What has no tiles in it (few rows,
 * quantise, rotate, decoders) is that of AVX-512 VNNI, which every processor with AMX has. No machine that we
 * build on has AMX: the kernel is tested over emulated tiles (tests/kernels/test_amx.c), its instructions
 * only by the assembler. */
#include "kernels/cpu/amx_tile.h"
#include "kernels/cpu/tables.h"
#include "kernels/cpu/tile_avx512.h"
#include "kernels/exp.h"
#include <assert.h>

#include "kernels/cpu/exp_body.inc"

#include "kernels/cpu/int_finish.inc"

#include "kernels/cpu/int_amx_body.inc"

#include "kernels/cpu/quantise_body.inc"

const struct sl_ops sl_int_amx = {
    .name = "amx",
    .scratch_bytes = amx_scratch_bytes,
    .quantise = cpu_quantise,
    .rotate = cpu_rotate,
    .gemm8 = amx_gemm8,
    .gemm8_swiglu = amx_gemm8_swiglu,
};
