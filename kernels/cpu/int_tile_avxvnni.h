/* The integer tile on AVX2 with AVX-VNNI: one ymm of bytes, which is four inputs of eight outputs, half a
 * panel's block.
 *
 * Same names and same meaning as int_tile_avx512vnni.h; int_body.inc is written once against them. This
 * encoding of the dot step has no broadcast operand, so the activations of a row are broadcast into a
 * register first. The {vex} prefix keeps the assembler from the AVX-512 encoding, which these processors
 * lack. Without AVX-VNNI switched on this header is empty: only int_avxvnni.c is compiled for it. */
#ifndef SL_KERNELS_CPU_INT_TILE_AVXVNNI_H
#define SL_KERNELS_CPU_INT_TILE_AVXVNNI_H

#if defined(__AVXVNNI__) && defined(__AVX2__)
#include "kernels/cpu/tile.h"
#include <immintrin.h>
#include <string.h>

typedef __m256i iv;
enum { IV_LANES = 8 }; /* outputs of one vector */

/* A word in all lanes of 32 bits. Volatile, or else the compiler reads the same words once for all vectors
 * and then has not enough registers to keep them. */
TILE_INLINE iv iv_set32_at(const int32_t *p)
{
    iv v;
    __asm__ volatile("vpbroadcastd %1, %0" : "=x"(v) : "m"(*p));
    return v;
}
/* What the dot step takes for the activations of one row: here a register. */
typedef __m256i iv_input;
TILE_INLINE iv_input iv_input_at(const int32_t *p)
{
    return iv_set32_at(p);
}
/* sums += the four products of unsigned weights and signed activations, per output; no saturation.
 * Volatile keeps the steps in the order of the source: a compiler that decodes all of a unit first runs out
 * of registers. */
#define IV_DOT(sums, weights, input)                                                                         \
    __asm__ volatile("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sums) : "x"(weights), "x"(input))

/* sums += a * b in lanes of 32 bits. Both fit 16 bits and b is not negative, so that its upper half is 0 and
 * what the instruction makes of the upper halves vanishes. */
#define IV_DOT16(sums, a, b) __asm__ volatile("%{vex%} vpdpwssd %2, %1, %0" : "+x"(sums) : "x"(a), "x"(b))

TILE_INLINE iv iv_zero(void)
{
    return _mm256_setzero_si256();
}
TILE_INLINE iv iv_load(const uint8_t *p)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}
TILE_INLINE void iv_store(void *p, iv v)
{
    _mm256_storeu_si256(p, v);
}
TILE_INLINE iv iv_set8(int byte)
{
    return _mm256_set1_epi8((char)byte);
}
TILE_INLINE iv iv_and(iv a, iv b)
{
    return _mm256_and_si256(a, b);
}
TILE_INLINE iv iv_or_and(iv a, iv b, iv mask) /* a | (b & mask) */
{
    return _mm256_or_si256(a, _mm256_and_si256(b, mask));
}
TILE_INLINE iv iv_right16(iv v, int bits)
{
    return _mm256_srli_epi16(v, bits);
}
TILE_INLINE iv iv_left16(iv v, int bits)
{
    return _mm256_slli_epi16(v, bits);
}
TILE_INLINE iv iv_right16_by(iv v, uint32_t bits) /* not a constant */
{
    return _mm256_srl_epi16(v, _mm_cvtsi32_si128((int)bits));
}
TILE_INLINE iv iv_low_bytes(iv v) /* of lanes of 16 bits */
{
    return _mm256_and_si256(v, _mm256_set1_epi16(0xFF));
}
TILE_INLINE iv iv_mul16(iv a, iv b)
{
    return _mm256_mullo_epi16(a, b);
}
TILE_INLINE iv iv_add8(iv a, iv b)
{
    return _mm256_add_epi8(a, b);
}
TILE_INLINE iv iv_add32(iv a, iv b)
{
    return _mm256_add_epi32(a, b);
}
/* One byte of each output, in all four bytes of its lane. */
TILE_INLINE iv iv_spread(const uint8_t *p)
{
    const __m256i outputs = _mm256_setr_epi32(0x00000000, 0x01010101, 0x02020202, 0x03030303, 0x04040404,
                                              0x05050505, 0x06060606, 0x07070707);
    int64_t bytes;
    memcpy(&bytes, p, sizeof bytes);
    return _mm256_shuffle_epi8(_mm256_set1_epi64x(bytes), outputs);
}
/* table[index] in each byte; every index is below 16. */
TILE_INLINE iv iv_lookup(const uint8_t table[16], iv index)
{
    __m128i t = _mm_loadu_si128((const __m128i *)(const void *)table);
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(t), index);
}
/* The nibble of each output's byte that begins at bit `shift`, in lanes of 32 bits. */
TILE_INLINE iv iv_scale32(const uint8_t *p, uint32_t shift)
{
    iv lane = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p));
    return _mm256_and_si256(_mm256_srl_epi32(lane, _mm_cvtsi32_si128((int)shift)), _mm256_set1_epi32(15));
}
TILE_INLINE int32_t iv_first32(iv v)
{
    return _mm_cvtsi128_si32(_mm256_castsi256_si128(v));
}

#endif
#endif
