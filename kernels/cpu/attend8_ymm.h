/* What the two integer tiles of attention on ymm registers share, with and without AVX-VNNI: sixteen sums as
 * two halves, their conversions, and maxima by bits. attend8_body.inc says what each is for. Included after
 * tile_avx2.h; without AVX2 switched on this header is empty. */
#ifndef SL_KERNELS_CPU_ATTEND8_YMM_H
#define SL_KERNELS_CPU_ATTEND8_YMM_H

#if defined(__AVX2__) && defined(__FMA__)
#include "kernels/cpu/tile_avx2.h"

typedef struct {
    __m256i lo, hi; /* sums 0-7, 8-15 */
} a8_sums;

TILE_INLINE a8_sums a8_set(int32_t n)
{
    __m256i v = _mm256_set1_epi32(n);
    return (a8_sums){v, v};
}
TILE_INLINE v16 a8_to_floats(a8_sums s)
{
    return V16_EACH(_mm256_cvtepi32_ps(s.lo), _mm256_cvtepi32_ps(s.hi));
}
/* Integers of 0..255 held as floats, to sixteen words in order. */
TILE_INLINE __m256i a8_words(v16 v)
{
    __m256i words = _mm256_packus_epi32(_mm256_cvtps_epi32(v.lo), _mm256_cvtps_epi32(v.hi));
    return _mm256_permute4x64_epi64(words, 0xD8); /* packus works within 128-bit halves */
}
/* Compared as bits: NaN and negative numbers are above all others. */
TILE_INLINE v16 a8_max_bits(v16 a, v16 b)
{
    return V16_EACH(
        _mm256_castsi256_ps(_mm256_max_epu32(_mm256_castps_si256(a.lo), _mm256_castps_si256(b.lo))),
        _mm256_castsi256_ps(_mm256_max_epu32(_mm256_castps_si256(a.hi), _mm256_castps_si256(b.hi))));
}
TILE_INLINE float a8_top(v16 v)
{
    __m256i top = _mm256_max_epu32(_mm256_castps_si256(v.lo), _mm256_castps_si256(v.hi));
    __m128i four = _mm_max_epu32(_mm256_castsi256_si128(top), _mm256_extracti128_si256(top, 1));
    four = _mm_max_epu32(four, _mm_shuffle_epi32(four, 0x4E));
    four = _mm_max_epu32(four, _mm_shuffle_epi32(four, 0xB1));
    return _mm_cvtss_f32(_mm_castsi128_ps(four));
}
/* The first n lanes; +0 in the others. */
TILE_INLINE v16 v16_first(v16 v, uint32_t n)
{
    return V16_EACH(_mm256_and_ps(v.lo, _mm256_castsi256_ps(v16_mask(n, 0))),
                    _mm256_and_ps(v.hi, _mm256_castsi256_ps(v16_mask(n, 1))));
}

#endif
#endif
