/* The int8 peak of AVX-VNNI (peak.h): 12 chains of vpdpbusd on ymm that never leave the registers.
 *
 * As many chains as peak_avx2.c has: there are 16 registers. The {vex} prefix and the instruction
 * written out: see int_tile_avxvnni.h. Sums grow by a few a round and may wrap: integers do not
 * care. Every loop over the sums is unrolled, or gcc keeps them all in memory. */
#include "kernels/cpu/peak.h"
#include "kernels/cpu/tile.h"
#include <immintrin.h>

enum { CHAINS = 12, BYTES = 32 };

uint64_t sl_peak_int8_avxvnni(uint64_t loops, float *sink)
{
    __m256i sums[CHAINS], weights = _mm256_set1_epi8(1), inputs = _mm256_set1_epi8(-1);
    TILE_EACH (i, CHAINS)
        sums[i] = _mm256_set1_epi32(i);
    for (uint64_t n = 0; n < loops; n++)
        TILE_EACH (i, CHAINS)
            __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sums[i]) : "x"(weights), "x"(inputs));
    TILE_UNROLL for (int i = 1; i < CHAINS; i++) sums[0] = _mm256_add_epi32(sums[0], sums[i]);
    *sink = (float)_mm256_cvtsi256_si32(sums[0]);
    return loops * CHAINS * BYTES * 2;
}
