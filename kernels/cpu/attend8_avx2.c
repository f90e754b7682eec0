/* Attention over pages of i8 on plain AVX2: the integer tiles, and the kernel written once for all
 * (attend8_body.inc).
 *
 * There is no dot product of bytes whose pairs cannot overflow 16 bits (255 * 127 * 2 > 32767), so bytes
 * become words: of four bytes in a lane, 0 and 2 make the even and 1 and 3 the odd words; rows are stored as
 * words in that order. Few rows split a page's bytes as they go, and vpmaddwd adds two products a lane.
 *
 * For more rows a page is expanded to words first, and words are multiplied by Winograd's inner product
 * (S. Winograd, "A new algorithm for inner product", IEEE Transactions on Computers C-17, 1968):
 *
 *   x0 w0 + x1 w1 = (x0 + w1) (x1 + w0) - x0 x1 - w0 w1
 *
 * The last two terms belong to a row and to an output alone. What is left for both is two additions, one
 * vpmaddwd, which does it for two pairs, and the addition to the sum: one of four instructions for 32 products
 * multiplies, where it were two. Multiplications go through two of Zen 3's four vector pipes and additions
 * through all, so four instructions take one cycle and not four thirds. Words are of 10 bits at most, and sums
 * are modulo 2^32 until the terms are off: exact.
 *
 * Sixteen sums are two ymm: 4 rows of 1 block are 8 sums, 4 vectors of the page and 4 that come and go.
 * CMakeLists.txt compiles this file for the instruction set; it is entered only through kernels/isa.c, after a
 * check at run time. */
#include "kernels/cpu/tables.h"
#include "kernels/cpu/tile_avx2.h"
#include "kernels/exp.h"
#include <assert.h>

#include "kernels/cpu/exp_body.inc"

enum { A8_MR = 4, A8_NB = 1, A8_TILES = 4, A8_WORD = 8 };
enum { A8_EXPAND_ROWS = 12, A8_EXPANDED_TERMS = 64, A8_EXPANDED_STEP = 128 };
#define A8_EXPANDS 1
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

TILE_INLINE __m256i a8_load32(const uint8_t *p)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}
TILE_INLINE __m256i a8_even(__m256i v, const bool values)
{
    return values ? _mm256_srai_epi16(_mm256_slli_epi16(v, 8), 8)
                  : _mm256_and_si256(v, _mm256_set1_epi16(0xFF));
}
TILE_INLINE __m256i a8_odd(__m256i v, const bool values)
{
    return values ? _mm256_srai_epi16(v, 8) : _mm256_srli_epi16(v, 8);
}
TILE_INLINE a8_four a8_load_bytes(const uint8_t *p, const bool values)
{
    __m256i lo = a8_load32(p), hi = a8_load32(p + 32);
    return (a8_four){{a8_even(lo, values), a8_even(hi, values)}, {a8_odd(lo, values), a8_odd(hi, values)}};
}
TILE_INLINE a8_four a8_load_keys(const uint8_t *step)
{
    return a8_load_bytes(step, false);
}
TILE_INLINE a8_four a8_load_values(const uint8_t *step)
{
    return a8_load_bytes(step, true);
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
TILE_INLINE __m256i a8_dot_half(__m256i sum, __m256i even, __m256i odd, a8_input with)
{
    return a8_add_pairs(a8_add_pairs(sum, even, with.even), odd, with.odd);
}
TILE_INLINE a8_sums a8_dot_keys(a8_sums sum, a8_four keys, a8_input q)
{
    return (a8_sums){a8_dot_half(sum.lo, keys.even.lo, keys.odd.lo, q),
                     a8_dot_half(sum.hi, keys.even.hi, keys.odd.hi, q)};
}
TILE_INLINE a8_sums a8_dot_values(a8_sums sum, a8_four values, a8_input u)
{
    return a8_dot_keys(sum, values, u);
}

/* The tile of expanded blocks: of a step the even words, then the odd ones. */
TILE_INLINE a8_sums a8_sub(a8_sums s, const uint8_t *terms)
{
    return (a8_sums){_mm256_sub_epi32(s.lo, a8_load32(terms)), _mm256_sub_epi32(s.hi, a8_load32(terms + 32))};
}
TILE_INLINE a8_four a8_load_words(const uint8_t *step)
{
    return (a8_four){{a8_load32(step), a8_load32(step + 32)}, {a8_load32(step + 64), a8_load32(step + 96)}};
}
/* sum += (x even + w odd) (x odd + w even), per lane */
TILE_INLINE a8_sums a8_dot_words(a8_sums sum, a8_four w, const char *x)
{
    const int32_t *pairs = (const int32_t *)(const void *)x;
    __m256i even, odd, a, b;
    __asm__("vpbroadcastd %6, %2\n\tvpbroadcastd %7, %3\n\t"
            "vpaddw %10, %2, %4\n\tvpaddw %11, %2, %2\n\tvpaddw %8, %3, %5\n\tvpaddw %9, %3, %3\n\t"
            "vpmaddwd %4, %5, %4\n\tvpmaddwd %2, %3, %2\n\tvpaddd %4, %0, %0\n\tvpaddd %2, %1, %1"
            : "+x"(sum.lo), "+x"(sum.hi), "=&x"(even), "=&x"(odd), "=&x"(a), "=&x"(b)
            : "m"(pairs[0]), "m"(pairs[1]), "x"(w.even.lo), "x"(w.even.hi), "x"(w.odd.lo), "x"(w.odd.hi));
    return sum;
}

/* Eight outputs of a step to words; returns the products that their sums begin without. */
TILE_INLINE __m256i a8_expand_half(const uint8_t *from, uint8_t *to, const bool values)
{
    __m256i v = a8_load32(from), even = a8_even(v, values), odd = a8_odd(v, values);
    _mm256_storeu_si256((__m256i *)(void *)to, even);
    _mm256_storeu_si256((__m256i *)(void *)(to + 64), odd);
    return _mm256_madd_epi16(even, odd);
}
static void a8_expand_block(const uint8_t *from, uint32_t steps, uint8_t *to, const bool values)
{
    __m256i lo = _mm256_setzero_si256(), hi = lo;
    uint8_t *at = to + A8_EXPANDED_TERMS;
    for (uint32_t t = 0; t < steps; t++, from += 64, at += A8_EXPANDED_STEP) {
        lo = _mm256_add_epi32(lo, a8_expand_half(from, at, values));
        hi = _mm256_add_epi32(hi, a8_expand_half(from + 32, at + 32, values));
    }
    _mm256_storeu_si256((__m256i *)(void *)to, lo);
    _mm256_storeu_si256((__m256i *)(void *)(to + 32), hi);
}
/* The sum of a row's products of even by odd words; whole vectors of four steps. */
TILE_INLINE int32_t a8_words_term(const char *words, size_t bytes)
{
    __m256i sum = _mm256_setzero_si256();
    for (size_t i = 0; i < bytes; i += 32) {
        __m256i v = a8_load32((const uint8_t *)words + i);
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(v, _mm256_srli_epi64(v, 32)));
    }
    __m128i two = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_unpackhi_epi64(two, two)));
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
