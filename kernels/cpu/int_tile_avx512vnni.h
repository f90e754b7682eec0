/* The integer tile on AVX-512 with VNNI: one zmm of bytes, which is four inputs of sixteen outputs.
 *
 * Same names and same meaning as int_tile_avxvnni.h; int_body.inc is written once against them. The dot step
 * is inline assembly of one instruction, with the activations as a broadcast memory operand: from the
 * intrinsic, gcc 12 made a kernel that spilled fifty registers a round as soon as the loop grew a little.
 * Without VNNI switched on this header is empty: only int_avx512vnni.c is compiled for it. */
#ifndef SL_KERNELS_CPU_INT_TILE_AVX512VNNI_H
#define SL_KERNELS_CPU_INT_TILE_AVX512VNNI_H

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
#include "kernels/cpu/tile.h"
#include <immintrin.h>

typedef __m512i iv;
enum { IV_LANES = 16 }; /* outputs of one vector */

/* What the dot step takes for the activations of one row: here a place in memory. */
typedef const int32_t *iv_input;
TILE_INLINE iv_input iv_input_at(const int32_t *p)
{
    return p;
}
/* sums += the four products of unsigned weights and signed activations, per output; no saturation.
 * Volatile keeps the steps in the order of the source: a compiler that decodes all of a unit first runs out
 * of registers. */
#define IV_DOT(sums, weights, input)                                                                         \
    __asm__ volatile("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sums) : "v"(weights), "m"(*(input)))

/* sums += a * b in lanes of 32 bits. Both fit 16 bits and b is not negative, so that its upper half is 0 and
 * what the instruction makes of the upper halves vanishes. */
#define IV_DOT16(sums, a, b) __asm__ volatile("vpdpwssd %2, %1, %0" : "+v"(sums) : "v"(a), "v"(b))

TILE_INLINE iv iv_zero(void)
{
    return _mm512_setzero_si512();
}
TILE_INLINE iv iv_load(const uint8_t *p)
{
    return _mm512_loadu_si512(p);
}
TILE_INLINE void iv_store(void *p, iv v)
{
    _mm512_storeu_si512(p, v);
}
TILE_INLINE iv iv_set8(int byte)
{
    return _mm512_set1_epi8((char)byte);
}
TILE_INLINE iv iv_and(iv a, iv b)
{
    return _mm512_and_si512(a, b);
}
TILE_INLINE iv iv_or_and(iv a, iv b, iv mask) /* a | (b & mask) */
{
    return _mm512_ternarylogic_epi64(a, b, mask, 0xF8);
}
TILE_INLINE iv iv_right16(iv v, int bits)
{
    return _mm512_srli_epi16(v, (uint8_t)bits);
}
TILE_INLINE iv iv_left16(iv v, int bits)
{
    return _mm512_slli_epi16(v, (uint8_t)bits);
}
TILE_INLINE iv iv_right16_by(iv v, uint32_t bits) /* not a constant */
{
    return _mm512_srl_epi16(v, _mm_cvtsi32_si128((int)bits));
}
TILE_INLINE iv
iv_low_bytes(iv v) /* of lanes of 16 bits; by a mask register, since vector registers are few */
{
    return _mm512_maskz_mov_epi8(0x5555555555555555u, v);
}
TILE_INLINE iv iv_mul16(iv a, iv b)
{
    return _mm512_mullo_epi16(a, b);
}
TILE_INLINE iv iv_add8(iv a, iv b)
{
    return _mm512_add_epi8(a, b);
}
TILE_INLINE iv iv_add32(iv a, iv b)
{
    return _mm512_add_epi32(a, b);
}
/* One byte of each output, in all four bytes of its lane. */
TILE_INLINE iv iv_spread(const uint8_t *p)
{
    const __m512i outputs = _mm512_setr_epi32(
        0x00000000, 0x01010101, 0x02020202, 0x03030303, 0x04040404, 0x05050505, 0x06060606, 0x07070707,
        0x08080808, 0x09090909, 0x0A0A0A0A, 0x0B0B0B0B, 0x0C0C0C0C, 0x0D0D0D0D, 0x0E0E0E0E, 0x0F0F0F0F);
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)p)),
                               outputs);
}
/* table[index] in each byte; every index is below 16. */
TILE_INLINE iv iv_lookup(const uint8_t table[16], iv index)
{
    __m128i t = _mm_loadu_si128((const __m128i *)(const void *)table);
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(t), index);
}
/* A word in all lanes of 32 bits. Volatile, or else the compiler reads the same words once for all vectors
 * and then has not enough registers to keep them. */
TILE_INLINE iv iv_set32_at(const int32_t *p)
{
    iv v;
    __asm__ volatile("vpbroadcastd %1, %0" : "=v"(v) : "m"(*p));
    return v;
}
/* The nibble of each output's byte that begins at bit `shift`, in lanes of 32 bits. */
TILE_INLINE iv iv_scale32(const uint8_t *p, uint32_t shift)
{
    iv lane = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
    return _mm512_and_si512(_mm512_srl_epi32(lane, _mm_cvtsi32_si128((int)shift)), _mm512_set1_epi32(15));
}
TILE_INLINE int32_t iv_first32(iv v)
{
    return _mm_cvtsi128_si32(_mm512_castsi512_si128(v));
}

#endif
#endif
