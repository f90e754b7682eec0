/* One step of the bf16 dot product: sixteen sums, sixteen pairs on either side.
 *
 * A header of its own because the yardstick (bf16_peak.c) must run the very instruction of the kernels. Empty unless
 * the file is compiled for AVX512_BF16: only kernels/cpu/bf16_*.c are. */
#ifndef SL_KERNELS_CPU_BF16_PAIR_H
#define SL_KERNELS_CPU_BF16_PAIR_H

#ifdef __AVX512BF16__
#include "kernels/cpu/tile.h"
#include <immintrin.h>

/* sum + odd inputs' products + even inputs' products. One line of assembly, because gcc 12 spills the sums of a tile
 * around the intrinsic. */
TILE_INLINE __m512 pair_fma(__m512 sum, __m512i w, __m512i x)
{
    __asm__("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(w), "v"(x));
    return sum;
}

#endif
#endif
