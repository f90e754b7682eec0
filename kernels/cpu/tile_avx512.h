/* The tile of sixteen floats on AVX-512 (F BW DQ VL): one zmm.
 *
 * Same names and same meaning as tile_avx2.h; the kernels in *_body.inc are written once against
 * them. Every function is one rounding per lane or none, so a kernel has the same bits on both. *_n
 * loads and stores touch only the first n elements (1..16) of memory; lanes beyond take `fill`.
 * Without AVX-512 switched on this header is empty: only ops_avx512.c is compiled for it. */
#ifndef SL_KERNELS_CPU_TILE_AVX512_H
#define SL_KERNELS_CPU_TILE_AVX512_H

#ifdef __AVX512DQ__
#include "kernels/cpu/tile.h"
#include <immintrin.h>
#include <stdint.h>

typedef __m512 v16;

TILE_INLINE __mmask16 v16_mask(uint32_t n)
{
    return (__mmask16)((1u << n) - 1u);
}
TILE_INLINE v16 v16_set1(float f)
{
    return _mm512_set1_ps(f);
}
TILE_INLINE v16 v16_load(const float *p)
{
    return _mm512_loadu_ps(p);
}
TILE_INLINE v16 v16_load_n(const float *p, uint32_t n, float fill)
{
    return _mm512_mask_loadu_ps(_mm512_set1_ps(fill), v16_mask(n), p);
}
/* Sixteen bf16 weights; on this instruction set their lanes come in order, and split and join do
 * nothing. */
TILE_INLINE v16 v16_load_bf16_split(const uint16_t *p)
{
    /* word 2i + 1 of the result is word i, the others are zero: one permutation, not a widening and a shift */
    const __m512i lane = _mm512_setr_epi32(
        0x00000000, 0x00010000, 0x00020000, 0x00030000, 0x00040000, 0x00050000, 0x00060000, 0x00070000,
        0x00080000, 0x00090000, 0x000A0000, 0x000B0000, 0x000C0000, 0x000D0000, 0x000E0000, 0x000F0000);
    __m512i words = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)(const void *)p));
    return _mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(0xAAAAAAAAu, lane, words));
}
TILE_INLINE v16 v16_split(v16 v)
{
    return v;
}
TILE_INLINE v16 v16_join(v16 v)
{
    return v;
}
TILE_INLINE void v16_store(float *p, v16 v)
{
    _mm512_storeu_ps(p, v);
}
TILE_INLINE void v16_stream(float *p, v16 v) /* past the caches, to a multiple of 64 bytes */
{
    _mm512_stream_ps(p, v);
}
TILE_INLINE void v16_store_n(float *p, v16 v, uint32_t n)
{
    _mm512_mask_storeu_ps(p, v16_mask(n), v);
}
TILE_INLINE v16 v16_fma(v16 a, v16 b, v16 c)
{
    return _mm512_fmadd_ps(a, b, c);
}
TILE_INLINE v16 v16_fms(v16 a, v16 b, v16 c) /* a*b - c */
{
    return _mm512_fmsub_ps(a, b, c);
}
TILE_INLINE v16 v16_mul(v16 a, v16 b)
{
    return _mm512_mul_ps(a, b);
}
TILE_INLINE v16 v16_div(v16 a, v16 b)
{
    return _mm512_div_ps(a, b);
}
TILE_INLINE v16 v16_add(v16 a, v16 b)
{
    return _mm512_add_ps(a, b);
}
TILE_INLINE v16 v16_sub(v16 a, v16 b)
{
    return _mm512_sub_ps(a, b);
}
TILE_INLINE v16 v16_max(v16 a, v16 b)
{
    return _mm512_max_ps(a, b);
}
TILE_INLINE v16 v16_min(v16 a, v16 b) /* b when either is NaN */
{
    return _mm512_min_ps(a, b);
}
/* v, but +0 where x < cut, and x where that is NaN: the maximum of two is the second when either is. v > x elsewhere. */
TILE_INLINE v16 v16_cut(v16 v, v16 x, float cut)
{
    return _mm512_maskz_max_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(cut), _CMP_NLT_UQ), v, x);
}
/* v * 2^n by adding n, the low bits of `rounded`, to the exponents */
TILE_INLINE v16 v16_scale(v16 v, v16 rounded)
{
    __m512i n = _mm512_slli_epi32(_mm512_castps_si512(rounded), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(v), n));
}

/* lane j + lane j+8, then +4, +2, +1: the tree of isa.h */
TILE_INLINE float v16_sum(v16 v)
{
    __m256 a = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}
TILE_INLINE float v16_peak(v16 v)
{
    __m256 a = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(b, _mm_movehdup_ps(b)));
}

/* To bf16, nearest even; NaN is kept and made quiet. */
TILE_INLINE void v16_store_bf16(uint16_t *p, v16 v)
{
    __m512i u = _mm512_castps_si512(v);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    __m512i r = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7FFF)), odd);
    __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    r = _mm512_mask_or_epi32(r, nan, u, _mm512_set1_epi32(0x400000));
    r = _mm512_srli_epi32(r, 16);
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(r));
}

/* The larger magnitude of each lane, as bits: NaN is above infinity, infinity above every number. `most` has no sign. */
TILE_INLINE v16 v16_max_magnitude(v16 most, v16 v)
{
    __m512i bits = _mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(0x7FFFFFFF));
    return _mm512_castsi512_ps(_mm512_max_epi32(_mm512_castps_si512(most), bits));
}
/* Integers of [-127, 127] held as floats, to bytes. */
TILE_INLINE void v16_store_s8(int8_t *p, v16 v)
{
    _mm_storeu_si128((__m128i *)(void *)p, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v)));
}
/* p[lane] - minus, rounded once to a float */
TILE_INLINE v16 v16_load_s32(const int32_t *p, int32_t minus)
{
    return _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_loadu_si512(p), _mm512_set1_epi32(minus)));
}
/* Lanes at distance 1, 2, 4, 8 change places. */
TILE_INLINE v16 v16_swap1(v16 v)
{
    return _mm512_permute_ps(v, 0xB1);
}
TILE_INLINE v16 v16_swap2(v16 v)
{
    return _mm512_permute_ps(v, 0x4E);
}
TILE_INLINE v16 v16_swap4(v16 v)
{
    return _mm512_shuffle_f32x4(v, v, 0xB1);
}
TILE_INLINE v16 v16_swap8(v16 v)
{
    return _mm512_shuffle_f32x4(v, v, 0x4E);
}

#endif
#endif
