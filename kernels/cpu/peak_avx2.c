/* The peaks of AVX2 (peak.h).
 *
 * The FMA peak: 12 chains of whole tiles, which is more than latency times width asks for
 * on any processor so far, and fits the registers. x = x * 0.5 + 1 tends to 2: no denormal or
 * infinity slows it down.
 *
 * The peak of bytes is that of the best exact mix of instructions: eight vpmaddubsw, each added in sixteen
 * bits, to one widening to 32 (a product by the scale and its addition). Four chains, two at a time, and each
 * product is added four products later: of the orders that were tried on Zen 3 the fastest, 4 % before one that
 * adds every product at once. Two products for two sums is a mix that its pipes do not share out evenly: it
 * comes to 3.3 instructions a cycle of 4. One instruction a line of assembly, so that nothing is hoisted out
 * of the loop. */
#include "kernels/cpu/peak.h"
#include "kernels/cpu/tile_avx2.h"

enum { CHAINS = 12, LANES = 8, BYTE_CHAINS = 4, BYTE_STEPS = 8, BYTE_PRODUCTS = 32 };

uint64_t sl_peak_avx2(uint64_t loops, float *sink)
{
    __m256 x[CHAINS], half = _mm256_set1_ps(0.5f), one = _mm256_set1_ps(1.0f);
    TILE_EACH (i, CHAINS)
        x[i] = _mm256_set1_ps((float)i);
    for (uint64_t n = 0; n < loops; n++)
        TILE_EACH (i, CHAINS)
            x[i] = _mm256_fmadd_ps(x[i], half, one);
    for (int i = 1; i < CHAINS; i++)
        x[0] = _mm256_add_ps(x[0], x[i]);
    *sink = _mm256_cvtss_f32(x[0]);
    return loops * CHAINS * LANES * 2;
}

/* Sums take the products before these; then there are new ones. */
TILE_INLINE void byte_step(__m256i sum[BYTE_CHAINS], __m256i product[BYTE_CHAINS], __m256i ones)
{
    TILE_EACH (pair, BYTE_CHAINS / 2) {
        TILE_EACH (i, 2)
            __asm__ volatile("vpaddw %1, %0, %0" : "+x"(sum[2 * pair + i]) : "x"(product[2 * pair + i]));
        TILE_EACH (i, 2)
            __asm__ volatile("vpmaddubsw %1, %1, %0" : "=x"(product[2 * pair + i]) : "x"(ones));
    }
}

uint64_t sl_peak_int8_avx2(uint64_t loops, float *sink)
{
    __m256i total[BYTE_CHAINS], product[BYTE_CHAINS], ones = _mm256_set1_epi8(1),
                                                      scales = _mm256_set1_epi16(1);
    TILE_EACH (i, BYTE_CHAINS)
        total[i] = product[i] = _mm256_setzero_si256();
    for (uint64_t n = 0; n < loops; n++) {
        __m256i sum[BYTE_CHAINS];
        TILE_EACH (i, BYTE_CHAINS)
            sum[i] = scales;
        TILE_EACH (t, BYTE_STEPS)
            byte_step(sum, product, ones);
        TILE_EACH (i, BYTE_CHAINS) {
            __asm__ volatile("vpmaddwd %1, %0, %0" : "+x"(sum[i]) : "x"(scales));
            __asm__ volatile("vpaddd %1, %0, %0" : "+x"(total[i]) : "x"(sum[i]));
        }
    }
    for (int i = 1; i < BYTE_CHAINS; i++)
        total[0] = _mm256_add_epi32(total[0], total[i]);
    *sink = (float)_mm256_cvtsi256_si32(total[0]);
    return loops * BYTE_CHAINS * BYTE_STEPS * BYTE_PRODUCTS * 2;
}
