/* Attention over pages of i8 on plain AVX2: the integer tile, and the kernel written once for all
 * (attend8_body.inc).
 *
 * There is no dot product of bytes whose pairs cannot overflow 16 bits (255 * 127 * 2 > 32767), so bytes
 * become words: of four bytes in a lane, 0 and 2 make one pair of words and 1 and 3 the other, by a shift and
 * a mask that serve all rows of the tile; rows are stored as words in that order. vpmaddwd then adds two
 * products a lane, exactly. Sixteen sums are two ymm: 4 rows of 1 block are 8 sums, 4 vectors of the page, a
 * row's two pairs and a product. CMakeLists.txt compiles this file for the instruction set; it is entered
 * only through kernels/ops.c, after a check at run time. */
#include "kernels/cpu/tables.h"
#include "kernels/cpu/tile_avx2.h"
#include "kernels/exp.h"
#include <assert.h>

#include "kernels/cpu/exp_body.inc"

enum { A8_MR = 4, A8_NB = 1, A8_WORD = 8 };
#define A8_VALUE_UNIT 0x1p-8f
#define A8_HEIGHTS(X) X(1) X(2) X(3) X(4)
#define A8_SHAPES(X) X(1, 1, 0) X(2, 1, 0) X(3, 1, 0) X(4, 1, 0)
#define A8_QUANTISE sl_int_avx2.quantise

#include "kernels/cpu/attend8_ymm.h"

typedef struct {
    a8_sums even, odd; /* of each lane's four inputs as words: 0 and 2, 1 and 3 */
} a8_four;
typedef struct {
    __m256i even, odd;
} a8_input;

TILE_INLINE a8_four a8_load_keys(const uint8_t *p)
{
    const __m256i *v = (const __m256i *)(const void *)p;
    __m256i lo = _mm256_loadu_si256(v), hi = _mm256_loadu_si256(v + 1), low_bytes = _mm256_set1_epi16(0xFF);
    return (a8_four){{_mm256_and_si256(lo, low_bytes), _mm256_and_si256(hi, low_bytes)},
                     {_mm256_srli_epi16(lo, 8), _mm256_srli_epi16(hi, 8)}};
}
/* Times 256: a signed byte that stays in the upper half of its word needs no extension. */
TILE_INLINE a8_four a8_load_values(const uint8_t *p)
{
    const __m256i *v = (const __m256i *)(const void *)p;
    __m256i lo = _mm256_loadu_si256(v), hi = _mm256_loadu_si256(v + 1);
    __m256i high_bytes = _mm256_set1_epi16((short)0xFF00);
    return (a8_four){{_mm256_slli_epi16(lo, 8), _mm256_slli_epi16(hi, 8)},
                     {_mm256_and_si256(lo, high_bytes), _mm256_and_si256(hi, high_bytes)}};
}
TILE_INLINE a8_input a8_input_at(const char *p)
{
    const int32_t *pairs = (const int32_t *)(const void *)p;
    return (a8_input){_mm256_set1_epi32(pairs[0]), _mm256_set1_epi32(pairs[1])};
}
/* sum += the products of four pairs of words, per lane. Assembly, because gcc 12 adds the products to each
 * other first, and then runs out of registers. */
TILE_INLINE __m256i a8_add_pairs(__m256i sum, __m256i words, __m256i with)
{
    __m256i products;
    __asm__("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+x"(sum), "=&x"(products) : "x"(words), "x"(with));
    return sum;
}
TILE_INLINE __m256i a8_dot(__m256i sum, __m256i even, __m256i odd, a8_input with)
{
    return a8_add_pairs(a8_add_pairs(sum, even, with.even), odd, with.odd);
}
TILE_INLINE a8_sums a8_dot_keys(a8_sums sum, a8_four keys, a8_input q)
{
    return (a8_sums){a8_dot(sum.lo, keys.even.lo, keys.odd.lo, q),
                     a8_dot(sum.hi, keys.even.hi, keys.odd.hi, q)};
}
TILE_INLINE a8_sums a8_dot_values(a8_sums sum, a8_four values, a8_input u)
{
    return a8_dot_keys(sum, values, u);
}
/* Words in the order 0 2 1 3 of each four. */
TILE_INLINE void a8_store_words(char *to, __m256i words)
{
    const __m256i order = _mm256_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15, 0, 1, 4, 5,
                                           2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15);
    _mm256_storeu_si256((__m256i *)(void *)to, _mm256_shuffle_epi8(words, order));
}
TILE_INLINE void a8_store_query(char *to, const int8_t *q, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += 16)
        a8_store_words(to + 2 * i,
                       _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)(q + i))));
}
TILE_INLINE void a8_store_weights(char *to, v16 w)
{
    a8_store_words(to, a8_words(w));
}

#include "kernels/cpu/attend8_body.inc"

const struct sl_ops sl_attend8_avx2 = {
    .name = "avx2",
    .scratch_bytes = attend8_scratch_bytes,
    .attend8 = cpu_attend8,
    .attend_merge = cpu_attend_merge,
};
