/* The tile of sixteen floats on AVX2 with FMA: two ymm, lanes 0-7 and 8-15.
 *
 * Same names and same meaning as tile_avx512.h; the kernels in *_body.inc are written once against
 * them. Every function is one rounding per lane or none, so a kernel has the same bits on both. *_n
 * loads and stores touch only the first n elements (1..16) of memory; lanes beyond take `fill`.
 * Without AVX2 and FMA switched on this header is empty: only ops_avx2.c is compiled for it. */
#ifndef SL_KERNELS_CPU_TILE_AVX2_H
#define SL_KERNELS_CPU_TILE_AVX2_H

#if defined(__AVX2__) && defined(__FMA__)
#include "kernels/cpu/tile.h"
#include <immintrin.h>
#include <stdint.h>

typedef struct {
    __m256 lo, hi;
} v16;

#define V16_EACH(expression_lo, expression_hi) ((v16){expression_lo, expression_hi})

/* Eight lanes of all ones or zeros, for lanes [8*half, 8*half + 8) of the first n. */
TILE_INLINE __m256i v16_mask(uint32_t n, int half)
{
    __m256i lane = _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(8 * half));
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), lane);
}
TILE_INLINE v16 v16_set1(float f)
{
    __m256 v = _mm256_set1_ps(f);
    return V16_EACH(v, v);
}
TILE_INLINE v16 v16_load(const float *p)
{
    return V16_EACH(_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8));
}
TILE_INLINE v16 v16_load_n(const float *p, uint32_t n, float fill)
{
    __m256i lo = v16_mask(n, 0), hi = v16_mask(n, 1);
    __m256 f = _mm256_set1_ps(fill);
    return V16_EACH(_mm256_blendv_ps(f, _mm256_maskload_ps(p, lo), _mm256_castsi256_ps(lo)),
                    _mm256_blendv_ps(f, _mm256_maskload_ps(p + 8, hi), _mm256_castsi256_ps(hi)));
}
/* Sixteen bf16 weights as they come cheapest: even lanes in lo, odd lanes in hi, one shift and one
 * mask (widening each half would cost four operations on ports that the multipliers need).
 * v16_split and v16_join translate. */
TILE_INLINE v16 v16_load_bf16_split(const uint16_t *p)
{
    __m256i both = _mm256_loadu_si256((const __m256i *)(const void *)p);
    __m256i odd = _mm256_and_si256(both, _mm256_set1_epi32((int)0xFFFF0000));
    return V16_EACH(_mm256_castsi256_ps(_mm256_slli_epi32(both, 16)), _mm256_castsi256_ps(odd));
}
TILE_INLINE v16 v16_split(v16 v) /* lanes in order -> even, odd */
{
    __m256 a = _mm256_permute2f128_ps(v.lo, v.hi, 0x20); /* 0-3, 8-11 */
    __m256 b = _mm256_permute2f128_ps(v.lo, v.hi, 0x31); /* 4-7, 12-15 */
    return V16_EACH(_mm256_shuffle_ps(a, b, 0x88), _mm256_shuffle_ps(a, b, 0xDD));
}
TILE_INLINE v16 v16_join(v16 v) /* even, odd -> lanes in order */
{
    __m256 a = _mm256_unpacklo_ps(v.lo, v.hi); /* 0-3, 8-11 */
    __m256 b = _mm256_unpackhi_ps(v.lo, v.hi); /* 4-7, 12-15 */
    return V16_EACH(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
}
TILE_INLINE void v16_store(float *p, v16 v)
{
    _mm256_storeu_ps(p, v.lo);
    _mm256_storeu_ps(p + 8, v.hi);
}
TILE_INLINE void v16_stream(float *p, v16 v) /* past the caches, to a multiple of 64 bytes */
{
    _mm256_stream_ps(p, v.lo);
    _mm256_stream_ps(p + 8, v.hi);
}
TILE_INLINE void v16_store_n(float *p, v16 v, uint32_t n)
{
    _mm256_maskstore_ps(p, v16_mask(n, 0), v.lo);
    _mm256_maskstore_ps(p + 8, v16_mask(n, 1), v.hi);
}
TILE_INLINE v16 v16_fma(v16 a, v16 b, v16 c)
{
    return V16_EACH(_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi));
}
TILE_INLINE v16 v16_fms(v16 a, v16 b, v16 c) /* a*b - c */
{
    return V16_EACH(_mm256_fmsub_ps(a.lo, b.lo, c.lo), _mm256_fmsub_ps(a.hi, b.hi, c.hi));
}
TILE_INLINE v16 v16_mul(v16 a, v16 b)
{
    return V16_EACH(_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi));
}
TILE_INLINE v16 v16_div(v16 a, v16 b)
{
    return V16_EACH(_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi));
}
TILE_INLINE v16 v16_add(v16 a, v16 b)
{
    return V16_EACH(_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi));
}
TILE_INLINE v16 v16_sub(v16 a, v16 b)
{
    return V16_EACH(_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi));
}
TILE_INLINE v16 v16_max(v16 a, v16 b)
{
    return V16_EACH(_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi));
}
TILE_INLINE v16 v16_min(v16 a, v16 b) /* b when either is NaN */
{
    return V16_EACH(_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi));
}
/* v, but +0 where x < cut < 0, and x where that is NaN: the maximum of two is the second when either is. v > x elsewhere. */
TILE_INLINE v16 v16_cut(v16 v, v16 x, float cut)
{
    __m256 c = _mm256_set1_ps(cut);
    return V16_EACH(_mm256_max_ps(_mm256_and_ps(v.lo, _mm256_cmp_ps(x.lo, c, _CMP_NLT_UQ)), x.lo),
                    _mm256_max_ps(_mm256_and_ps(v.hi, _mm256_cmp_ps(x.hi, c, _CMP_NLT_UQ)), x.hi));
}
TILE_INLINE __m256 v16_scale_half(__m256 v, __m256 rounded)
{
    __m256i n = _mm256_slli_epi32(_mm256_castps_si256(rounded), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(v), n));
}
/* v * 2^n by adding n, the low bits of `rounded`, to the exponents */
TILE_INLINE v16 v16_scale(v16 v, v16 rounded)
{
    return V16_EACH(v16_scale_half(v.lo, rounded.lo), v16_scale_half(v.hi, rounded.hi));
}

/* lane j + lane j+8, then +4, +2, +1: the tree of isa.h */
TILE_INLINE float v16_sum(v16 v)
{
    __m256 a = _mm256_add_ps(v.lo, v.hi);
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}
TILE_INLINE float v16_peak(v16 v)
{
    __m256 a = _mm256_max_ps(v.lo, v.hi);
    __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(b, _mm_movehdup_ps(b)));
}

/* Eight floats to bf16 in the low halves of eight words, nearest even; NaN is kept and made quiet.
 */
TILE_INLINE __m256i v16_narrow(__m256 v)
{
    __m256i u = _mm256_castps_si256(v);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    __m256i r = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7FFF)), odd);
    __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    return _mm256_srli_epi32(_mm256_blendv_epi8(r, quiet, nan), 16);
}
TILE_INLINE void v16_store_bf16(uint16_t *p, v16 v)
{
    __m256i packed = _mm256_packus_epi32(v16_narrow(v.lo), v16_narrow(v.hi));
    /* packus works within 128-bit halves: put the quarters back in order */
    _mm256_storeu_si256((__m256i *)p, _mm256_permute4x64_epi64(packed, 0xD8));
}

TILE_INLINE __m256 v16_max_magnitude_half(__m256 most, __m256 v)
{
    __m256i bits = _mm256_and_si256(_mm256_castps_si256(v), _mm256_set1_epi32(0x7FFFFFFF));
    return _mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(most), bits));
}
/* The larger magnitude of each lane, as bits: NaN is above infinity, infinity above every number. `most` has no sign. */
TILE_INLINE v16 v16_max_magnitude(v16 most, v16 v)
{
    return V16_EACH(v16_max_magnitude_half(most.lo, v.lo), v16_max_magnitude_half(most.hi, v.hi));
}
/* Integers of [-127, 127] held as floats, to bytes. */
TILE_INLINE void v16_store_s8(int8_t *p, v16 v)
{
    __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(v.lo), _mm256_cvtps_epi32(v.hi));
    words = _mm256_permute4x64_epi64(words, 0xD8); /* packs works within 128-bit halves */
    __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128((__m128i *)(void *)p, bytes);
}
/* p[lane] - minus, rounded once to a float */
TILE_INLINE v16 v16_load_s32(const int32_t *p, int32_t minus)
{
    const __m256i *v = (const __m256i *)(const void *)p;
    __m256i m = _mm256_set1_epi32(minus);
    return V16_EACH(_mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_loadu_si256(v), m)),
                    _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_loadu_si256(v + 1), m)));
}
/* Lanes at distance 1, 2, 4, 8 change places. */
TILE_INLINE v16 v16_swap1(v16 v)
{
    return V16_EACH(_mm256_permute_ps(v.lo, 0xB1), _mm256_permute_ps(v.hi, 0xB1));
}
TILE_INLINE v16 v16_swap2(v16 v)
{
    return V16_EACH(_mm256_permute_ps(v.lo, 0x4E), _mm256_permute_ps(v.hi, 0x4E));
}
TILE_INLINE v16 v16_swap4(v16 v)
{
    return V16_EACH(_mm256_permute2f128_ps(v.lo, v.lo, 0x01), _mm256_permute2f128_ps(v.hi, v.hi, 0x01));
}
TILE_INLINE v16 v16_swap8(v16 v)
{
    return V16_EACH(v.hi, v.lo);
}

#endif
#endif
