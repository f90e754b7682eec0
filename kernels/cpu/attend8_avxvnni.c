/* Attention over pages of i8 on AVX2 with AVX-VNNI: the integer tile, and the kernel written once for all
 * (attend8_body.inc).
 *
 * Sixteen sums are two ymm: 6 rows of 1 block are 12 sums, 2 vectors of the page and a broadcast. The dot
 * step is inline assembly of one instruction; {vex} keeps the assembler from the AVX-512 encoding, which
 * these processors lack. CMakeLists.txt compiles this file for the instruction set; it is entered only
 * through kernels/isa.c, after a check at run time. */
#include "kernels/cpu/tables.h"
#include "kernels/cpu/tile_avx2.h"
#include "kernels/exp.h"
#include <assert.h>

#include "kernels/cpu/exp_body.inc"

enum { A8_MR = 6, A8_NB = 1, A8_TILES = 1, A8_WORD = 4 };
#define A8_EXPANDS 0
#define A8_HEIGHTS(X) X(1) X(2) X(3) X(4) X(5) X(6)
#define A8_SHAPES(X) X(1, 1, 0) X(2, 1, 0) X(3, 1, 0) X(4, 1, 0) X(5, 1, 0) X(6, 1, 0)
#define A8_QUANTISE sl_int_avxvnni.quantise

#include "kernels/cpu/attend8_ymm.h"

typedef a8_sums a8_four; /* outputs 0-7, 8-15 */
typedef __m256i a8_input;

TILE_INLINE a8_four a8_load_keys(const uint8_t *p)
{
    const __m256i *v = (const __m256i *)(const void *)p;
    return (a8_four){_mm256_loadu_si256(v), _mm256_loadu_si256(v + 1)};
}
TILE_INLINE a8_four a8_load_values(const uint8_t *p)
{
    return a8_load_keys(p);
}
TILE_INLINE a8_input a8_input_at(const char *p)
{
    return _mm256_set1_epi32(*(const int32_t *)(const void *)p);
}
/* sum += the four products of unsigned and signed bytes, per lane; no saturation */
TILE_INLINE __m256i a8_dot_half(__m256i sum, __m256i bytes, __m256i with)
{
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(bytes), "x"(with));
    return sum;
}
TILE_INLINE a8_sums a8_dot_keys(a8_sums sum, a8_four keys, a8_input q)
{
    return (a8_sums){a8_dot_half(sum.lo, keys.lo, q), a8_dot_half(sum.hi, keys.hi, q)};
}
TILE_INLINE a8_sums a8_dot_values(a8_sums sum, a8_four values, a8_input u)
{
    return (a8_sums){a8_dot_half(sum.lo, u, values.lo), a8_dot_half(sum.hi, u, values.hi)};
}
TILE_INLINE void a8_store_query(char *to, const int8_t *q, size_t bytes)
{
    memcpy(to, q, bytes);
}
TILE_INLINE void a8_store_weights(char *to, v16 w)
{
    __m256i words = a8_words(w);
    __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128((__m128i *)(void *)to, bytes);
}

#include "kernels/cpu/attend8_body.inc"

const struct sl_ops sl_attend8_avxvnni = {
    .name = "avx2-vnni",
    .scratch_bytes = attend8_scratch_bytes,
    .attend8 = cpu_attend8,
    .attend_merge = cpu_attend_merge,
};
