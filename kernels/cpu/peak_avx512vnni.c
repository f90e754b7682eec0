/* The int8 peak of AVX-512 with VNNI (peak.h): 16 chains of vpdpbusd that never leave the
 * registers.
 *
 * As many chains as peak_avx512.c has. The instruction is written out for the reason that
 * int_tile_avx512vnni.h gives. Sums grow by a few a round and may wrap: integers do not care. Every
 * loop over the sums is unrolled, or gcc keeps them all in memory. */
#include "kernels/cpu/peak.h"
#include "kernels/cpu/tile.h"
#include <immintrin.h>

enum { CHAINS = 16, BYTES = 64 };

uint64_t sl_peak_int8_avx512vnni(uint64_t loops, float *sink)
{
    __m512i sums[CHAINS], weights = _mm512_set1_epi8(1), inputs = _mm512_set1_epi8(-1);
    TILE_EACH (i, CHAINS)
        sums[i] = _mm512_set1_epi32(i);
    for (uint64_t n = 0; n < loops; n++)
        TILE_EACH (i, CHAINS)
            __asm__("vpdpbusd %2, %1, %0" : "+v"(sums[i]) : "v"(weights), "v"(inputs));
    TILE_UNROLL for (int i = 1; i < CHAINS; i++) sums[0] = _mm512_add_epi32(sums[0], sums[i]);
    *sink = (float)_mm512_cvtsi512_si32(sums[0]);
    return loops * CHAINS * BYTES * 2;
}
