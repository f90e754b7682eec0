/* Attention over pages of i8 on AVX-512 with VNNI: the integer tile, and the kernel written once for all
 * (attend8_body.inc).
 *
 * 32 zmm: 6 rows of 4 blocks are 24 sums, 4 vectors of the page and a broadcast. The dot step is inline
 * assembly of one instruction, because gcc 12 spills the sums of a tile around the intrinsic. Its unsigned
 * operand is the page's for keys and the row's for values. CMakeLists.txt compiles this file for the
 * instruction set; it is entered only through kernels/isa.c, after a check at run time. */
#include "kernels/cpu/tables.h"
#include "kernels/cpu/tile_avx512.h"
#include "kernels/exp.h"
#include <assert.h>

#include "kernels/cpu/exp_body.inc"

enum { A8_MR = 6, A8_NB = 4, A8_TILES = 1, A8_WORD = 4 };
#define A8_EXPANDS 0
#define A8_HEIGHTS(X) X(1) X(2) X(3) X(4) X(5) X(6)
/* clang-format off */
#define A8_SHAPES(X) \
    X(1, 1, 0) X(1, 2, 1) X(1, 4, 2) X(2, 1, 0) X(2, 2, 1) X(2, 4, 2) \
    X(3, 1, 0) X(3, 2, 1) X(3, 4, 2) X(4, 1, 0) X(4, 2, 1) X(4, 4, 2) \
    X(5, 1, 0) X(5, 2, 1) X(5, 4, 2) X(6, 1, 0) X(6, 2, 1) X(6, 4, 2)
/* clang-format on */
#define A8_QUANTISE sl_int_avx512vnni.quantise

typedef __m512i a8_sums;
typedef __m512i a8_four;
typedef __m512i a8_input;

TILE_INLINE a8_sums a8_set(int32_t n)
{
    return _mm512_set1_epi32(n);
}
TILE_INLINE v16 a8_to_floats(a8_sums s)
{
    return _mm512_cvtepi32_ps(s);
}
TILE_INLINE a8_four a8_load_keys(const uint8_t *p)
{
    return _mm512_loadu_si512(p);
}
TILE_INLINE a8_four a8_load_values(const uint8_t *p)
{
    return _mm512_loadu_si512(p);
}
TILE_INLINE a8_input a8_input_at(const char *p)
{
    return _mm512_set1_epi32(*(const int32_t *)(const void *)p);
}
/* sum += the four products of unsigned and signed bytes, per lane; no saturation */
TILE_INLINE a8_sums a8_dot_bytes(a8_sums sum, __m512i bytes, __m512i with)
{
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(bytes), "v"(with));
    return sum;
}
TILE_INLINE a8_sums a8_dot_keys(a8_sums sum, a8_four keys, a8_input q)
{
    return a8_dot_bytes(sum, keys, q);
}
TILE_INLINE a8_sums a8_dot_values(a8_sums sum, a8_four values, a8_input u)
{
    return a8_dot_bytes(sum, u, values);
}
TILE_INLINE void a8_store_query(char *to, const int8_t *q, size_t bytes)
{
    memcpy(to, q, bytes);
}
TILE_INLINE void a8_store_weights(char *to, v16 w)
{
    _mm_storeu_si128((__m128i *)(void *)to, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(w)));
}
/* Compared as bits: NaN and negative numbers are above all others. */
TILE_INLINE v16 a8_max_bits(v16 a, v16 b)
{
    return _mm512_castsi512_ps(_mm512_max_epu32(_mm512_castps_si512(a), _mm512_castps_si512(b)));
}
TILE_INLINE float a8_top(v16 v)
{
    __m128i top = _mm_cvtsi32_si128((int)_mm512_reduce_max_epu32(_mm512_castps_si512(v)));
    return _mm_cvtss_f32(_mm_castsi128_ps(top));
}
/* The first n lanes; +0 in the others. */
TILE_INLINE v16 v16_first(v16 v, uint32_t n)
{
    return _mm512_maskz_mov_ps(v16_mask(n), v);
}

#include "kernels/cpu/attend8_body.inc"

const struct sl_ops sl_attend8_avx512vnni = {
    .name = "avx512-vnni",
    .scratch_bytes = attend8_scratch_bytes,
    .attend8 = cpu_attend8,
    .attend_merge = cpu_attend_merge,
};
