/* Integer weights on plain AVX2: bytes times bytes by vpmaddubsw, which adds pairs in sixteen bits.
 *
 * A sixteen-bit sum is exact as long as the weights are small, so they stay as the file has them, u in 0..15:
 * a unit of 32 inputs takes eight steps of maddubs and one widening per vector of eight outputs, and the
 * widening, a pmaddwd, multiplies by the group's integer scale on its way. The zero is in the sum before it
 * begins: minus zero times the sum of the activations that go into that lane. Two lanes of sixteen bits make
 * one output, and they need not have the same scale: where a group is 16 inputs, the left lane of a panel
 * takes the unit's first group and the right lane its second (the decoder and the packing of the activations
 * put the bytes there), so that every format costs one widening a unit. Weights of i8 are too
 * large for all this: they are multiplied as words, which is int_words.inc.
 *
 *   |sum of a lane| <= 16 inputs * 15 * 128 = 30720 < 2^15; on its way to there it may wrap, and back.
 *
 * Up to four rows do without a panel. Putting bytes into lanes would cost them more than what it saves, a
 * second widening of a unit: they take the bytes as they lie in the file, and a group of 16 has its own sums.
 *
 * - setup: activations are packed as [unit][step][row] with their starts, once for all columns;
 * - load: a chunk of one block's weights is decoded to a panel in the first cache, once for all rows;
 * - compute: tiles of up to 6 rows x 16 outputs. The sums of sixteen bits are in registers for the length of
 * a unit; those of 32 bits are in memory, where they cost a load and a store every eight steps;
 * - finish: (S * scale) * (float)sum, or silu(gate) * up. */
#include "kernels/cpu/tables.h"
#include "kernels/cpu/tile_avx2.h"
#include "kernels/exp.h"
#include <assert.h>

#include "kernels/cpu/exp_body.inc"
#include "kernels/cpu/quantise_body.inc"

#include "kernels/cpu/int_finish.inc"

enum {
    TILE_MR = 6,            /* 12 sums, 2 weights, a broadcast, a product: 16 ymm */
    STEPS = 8,              /* of 4 inputs in a unit */
    PLANE_BYTES = 9 * 64,   /* a unit as the tile wants it: eight steps of 16 outputs, then their scales */
    CHUNK_UNITS = 16,       /* 9 KiB of panel, in a first cache of 32 with sums and activations */
    DIRECT_MR = 4,          /* rows that do without a panel, in every format */
    STREAMS = 4,            /* blocks side by side, for up to */
    STREAMS_MR = 2,         /* rows */
    DIRECT_AHEAD = 4096,    /* bytes on their way to the second cache, which waits for more than the
                              * first; the best of 2 to 32 KiB on Zen 3 */
    ROWS_AT_ONCE = 240,     /* rows that share one decoding: it costs them 1 % */
    PACK_BYTES = 512 * 1024 /* of their activations: half of a common L2 */
};

/* --- compute --- */

/* What a tile multiplies. */
struct tile_plane {
    const int32_t *a;      /* [units][STEPS][stride]: four activations of each row */
    const int32_t *starts; /* [units][stride]: two lanes of each row; BY_GROUP: [units][2][4] */
    const uint8_t *w;      /* the first unit of a panel */
    uint32_t units;
    uint32_t ahead_lines; /* cache lines to fetch from memory in each unit, from `ahead` on */
    const uint8_t *ahead;
};
/* Where a block's weights lie. */
struct block {
    const uint8_t *units, *scales;
};
typedef void plane_fn(const struct tile_plane *in, int32_t *sums);

/* Assembly, because both compilers hoist loads out of order and then spill the sums: half the speed. */
#define LANE_STEP(sum, weights, input)                                                                       \
    do {                                                                                                     \
        __m256i product_;                                                                                    \
        __asm__ volatile("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0"                                        \
                         : "+x"(sum), "=&x"(product_)                                                        \
                         : "x"(weights), "x"(input));                                                        \
    } while (0)
/* The same of one input for two vectors of outputs, the input's last use. Both products come before both sums:
 * 4 to 6 % of a tile on Zen 3, which then has less often a sum in a pipe that could multiply. */
#define LANE_STEP_BOTH(sum0, sum1, weights0, weights1, input)                                                \
    do {                                                                                                     \
        __m256i product_;                                                                                    \
        __asm__ volatile("vpmaddubsw %2, %4, %3\n\tvpmaddubsw %2, %5, %2\n\t"                                \
                         "vpaddw %3, %0, %0\n\tvpaddw %2, %1, %1"                                            \
                         : "+x"(sum0), "+x"(sum1), "+x"(input), "=&x"(product_)                              \
                         : "x"(weights0), "x"(weights1));                                                    \
    } while (0)
#define LANE_WIDEN(total, sum, scales)                                                                       \
    __asm__ volatile("vpmaddwd %2, %1, %1\n\tvpaddd %0, %1, %1\n\tvmovdqu %1, %0"                            \
                     : "+m"(total), "+x"(sum)                                                                \
                     : "x"(scales))
#define LANE_LOAD(to, p)                                                                                     \
    __asm__ volatile("vmovdqa %1, %0" : "=x"(to) : "m"(*(const __m256i *)(const void *)(p)))
#define LANE_BROADCAST(to, p) __asm__ volatile("vpbroadcastd %1, %0" : "=x"(to) : "m"(*(p)))
/* Keeps clang from making the same weights again for each of their uses. */
#define LANE_ONCE(weights) __asm__ volatile("" : "+x"(weights))

/* Activations of a step lie at multiples of this: rows are packed four at a time. */
TILE_INLINE uint32_t tile_stride(uint32_t mr)
{
    return mr <= 4 ? 4 : 8;
}

/* sums[row][16] += a tile's rows times a block's units. mr is a constant at every call. */
TILE_INLINE void plane_dots(const struct tile_plane *in, int32_t *sums, const int mr)
{
    const size_t stride = tile_stride((uint32_t)mr);
    const int32_t *a = in->a, *starts = in->starts;
    const uint8_t *w = in->w, *ahead = in->ahead;
    for (uint32_t units = in->units; units > 0; units--) {
        __m256i sum[TILE_MR][2], left, right;
        for (uint32_t line = in->ahead_lines; line > 0; line--, ahead += 64)
            _mm_prefetch((const char *)ahead, _MM_HINT_T1);
        TILE_EACH (i, mr) {
            LANE_BROADCAST(sum[i][0], starts + i);
            sum[i][1] = sum[i][0];
        }
        TILE_EACH (t, STEPS) {
            LANE_LOAD(left, w + 64 * t);
            LANE_LOAD(right, w + 64 * t + 32);
            TILE_EACH (i, mr) {
                __m256i x;
                LANE_BROADCAST(x, a + (size_t)t * stride + i);
                LANE_STEP_BOTH(sum[i][0], sum[i][1], left, right, x);
            }
        }
        LANE_LOAD(left, w + 64 * STEPS);
        LANE_LOAD(right, w + 64 * STEPS + 32);
        TILE_EACH (i, mr) {
            __m256i *total = (__m256i *)(void *)(sums + i * SL_LANES);
            LANE_WIDEN(total[0], sum[i][0], left);
            LANE_WIDEN(total[1], sum[i][1], right);
        }
        a += STEPS * stride;
        starts += stride;
        w += PLANE_BYTES;
    }
}

#define PLANE_DEFINE(mr)                                                                                     \
    static void plane_##mr(const struct tile_plane *in, int32_t *sums)                                       \
    {                                                                                                        \
        plane_dots(in, sums, mr);                                                                            \
    }
PLANE_DEFINE(3)
PLANE_DEFINE(4)
PLANE_DEFINE(5)
PLANE_DEFINE(6)
/* More than four rows never make a tile of fewer than three. */
static plane_fn *const planes[TILE_MR + 1] = {[3] = plane_3, plane_4, plane_5, plane_6};

/* --- load --- */

TILE_INLINE __m256i load32(const uint8_t *p)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}

TILE_INLINE int unit_bytes(enum sl_dtype d) /* of all but i8 */
{
    return d == SL_I2 ? 128 : d == SL_I3 ? 192 : 256;
}

TILE_INLINE __m256i nibbles(__m256i v, const bool high)
{
    return _mm256_and_si256(high ? _mm256_srli_epi16(v, 4) : v, _mm256_set1_epi8(15));
}

/* Where groups are of 16: vectors of the same step of either group, to [first's word, second's word] of the
 * left or of the right words. */
TILE_INLINE __m256i weave_words(__m256i first, __m256i second, const bool right)
{
    return right ? _mm256_blend_epi16(_mm256_srli_epi32(first, 16), second, 0xAA)
                 : _mm256_blend_epi16(first, _mm256_slli_epi32(second, 16), 0xAA);
}

/* Bits 2h and 2h + 1 of each byte, as twice their value. */
TILE_INLINE __m256i twice_pair(__m256i v, const int h)
{
    __m256i at = h == 0 ? _mm256_slli_epi16(v, 1) : _mm256_srli_epi16(v, 2 * h - 1);
    return _mm256_and_si256(at, _mm256_set1_epi8(6));
}

/* u of step t, eight outputs from `unit` on. i3's third vector has a unit's steps in the bits of its bytes:
 * bit h of the first group's words, bit 4 + h of the second's. */
TILE_INLINE __m256i lane_weights(enum sl_dtype d, const uint8_t *unit, const int t)
{
    if (d == SL_I4)
        return nibbles(load32(unit + t / 2 * 64), t % 2);
    if (d == SL_I4G16) {
        __m256i first = load32(unit + t / 4 * 64), second = load32(unit + t / 4 * 64 + 128);
        return nibbles(weave_words(first, second, t % 2), t / 2 % 2);
    }
    __m256i u = twice_pair(weave_words(load32(unit), load32(unit + 64), t % 2), t / 2);
    if (d == SL_I2)
        return u;
    __m256i high = load32(unit + 128);
    high = _mm256_slli_epi16(weave_words(high, _mm256_srli_epi16(high, 4), t % 2), 3 - t / 2);
    return _mm256_or_si256(u, _mm256_and_si256(high, _mm256_set1_epi8(8)));
}

/* The scales of eight outputs' lanes in unit u; `scales` is the block's, from the first of those outputs. */
TILE_INLINE __m256i lane_scales(enum sl_dtype d, const uint8_t *scales, uint32_t u)
{
    const uint8_t *at = scales + (size_t)(d == SL_I4 ? u / 2 : u) * SL_LANES;
    __m128i both = _mm_loadl_epi64((const __m128i *)(const void *)at), mask = _mm_set1_epi8(15);
    __m128i left = _mm_and_si128(both, mask), right = _mm_and_si128(_mm_srli_epi16(both, 4), mask);
    if (d == SL_I4)
        left = right = u % 2 ? right : left;
    return _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(left, right));
}

/* Units [unit, unit + units) of a block to planes. */
TILE_INLINE void decode_units(const struct block *b, uint32_t unit, uint32_t units, uint8_t *to,
                              const enum sl_dtype d)
{
    for (uint32_t u = unit; u < unit + units; u++, to += PLANE_BYTES)
        TILE_EACH (half, 2) {
            const uint8_t *from = b->units + (size_t)u * (size_t)unit_bytes(d) + 32 * half;
            TILE_EACH (t, STEPS)
                _mm256_store_si256((__m256i *)(void *)(to + 64 * t + 32 * half), lane_weights(d, from, t));
            _mm256_store_si256((__m256i *)(void *)(to + 64 * STEPS + 32 * half),
                               lane_scales(d, b->scales + 8 * half, u));
        }
}

/* --- compute, few rows --- */

TILE_INLINE bool has_halves(enum sl_dtype d)
{
    return d != SL_I4;
}
/* Of a unit: the groups that have their own scale. */
TILE_INLINE int unit_parts(enum sl_dtype d)
{
    return d == SL_I4 ? 1 : 2;
}

/* Two steps of i3 as i4 has them, h and h + 2 of a group: the two low bits of each are moved to their place,
 * the third is looked up for both at once. */
TILE_INLINE __m256i i3_nibbles(const uint8_t *unit, const int group, const int h)
{
    const __m128i thirds =
        h == 0 ? _mm_setr_epi8(0, 8, 0, 8, -128, -120, -128, -120, 0, 8, 0, 8, -128, -120, -128, -120)
               : _mm_setr_epi8(0, 0, 8, 8, 0, 0, 8, 8, -128, -128, -120, -120, -128, -128, -120, -120);
    __m256i low = load32(unit + 64 * group), third = nibbles(load32(unit + 128), group == 1);
    low = h == 0 ? _mm256_slli_epi16(low, 1) : _mm256_srli_epi16(low, 1);
    return _mm256_or_si256(_mm256_and_si256(low, _mm256_set1_epi8(0x66)),
                           _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(thirds), third));
}

/* The step that is taken as the part's n-th. Of i3 those of a pair of nibbles follow each other. */
TILE_INLINE int part_step(enum sl_dtype d, const int part, const int n)
{
    return has_halves(d) ? 4 * part + (d == SL_I3 ? n % 2 * 2 + n / 2 : n) : n;
}

/* u of the part's n-th step, eight outputs from `unit` on. *pair: what i3 keeps from a step to the next. */
TILE_INLINE __m256i part_weights(enum sl_dtype d, const uint8_t *unit, const int part, const int n,
                                 __m256i *pair)
{
    const int t = part_step(d, part, n);
    if (d == SL_I4 || d == SL_I4G16)
        return nibbles(load32(unit + t / 2 * 64), t % 2);
    if (d == SL_I2)
        return twice_pair(load32(unit + part * 64), n);
    if (n % 2 == 0) {
        *pair = i3_nibbles(unit, part, n / 2);
        LANE_ONCE(*pair);
    }
    return nibbles(*pair, n % 2);
}

/* The scales of a part: both lanes of an output have the same. `scales` are the unit's, of all 16 outputs; of
 * i4 an odd unit has the high nibbles. */
TILE_INLINE __m256i part_scales(enum sl_dtype d, const uint8_t *scales, const int part, uint32_t u,
                                const int half)
{
    const char c = (char)(8 * half), no = -1;
    const __m256i spread = _mm256_setr_epi8(c, no, c, no, c + 1, no, c + 1, no, c + 2, no, c + 2, no, c + 3,
                                            no, c + 3, no, c + 4, no, c + 4, no, c + 5, no, c + 5, no, c + 6,
                                            no, c + 6, no, c + 7, no, c + 7, no);
    __m256i both = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)scales));
    both = _mm256_shuffle_epi8(both, spread);
    if (d == SL_I4)
        both = _mm256_srl_epi16(both, _mm_cvtsi32_si128((int)(u % 2 * 4)));
    return nibbles(both, part == 1);
}

/* A part's outputs [8 * first, 8 * (first + nv)). */
TILE_INLINE void direct_part(const struct block *unit, uint32_t u, const int32_t *a, const int32_t *starts,
                             int32_t *sums, const int part, const int first, const int nv, const int mr,
                             const enum sl_dtype d)
{
    const int steps = has_halves(d) ? STEPS / 2 : STEPS;
    __m256i sum[DIRECT_MR][2], w[2], pair[2];
    TILE_EACH (i, mr)
        TILE_EACH (v, nv)
            sum[i][v] = _mm256_set1_epi32(starts[4 * part + i]);
    TILE_EACH (n, steps) {
        const int t = part_step(d, part, n);
        TILE_EACH (v, nv) {
            w[v] = part_weights(d, unit->units + 32 * (first + v), part, n, &pair[v]);
            LANE_ONCE(w[v]);
        }
        TILE_EACH (i, mr) {
            __m256i x = _mm256_set1_epi32(a[4 * t + i]);
            if (nv == 2)
                LANE_STEP_BOTH(sum[i][0], sum[i][1], w[0], w[1], x);
            else
                LANE_STEP(sum[i][0], w[0], x);
        }
    }
    TILE_EACH (v, nv) {
        __m256i scales = part_scales(d, unit->scales, part, u, first + v);
        TILE_EACH (i, mr) {
            __m256i *total = (__m256i *)(void *)(sums + i * SL_LANES + 8 * (first + v));
            LANE_WIDEN(*total, sum[i][v], scales);
        }
    }
}

/* sums[block][row][16] += up to 4 rows times all units of n blocks, a unit of each in turn. n, d and mr are
 * constants at every call. */
TILE_INLINE void direct_dots(const struct block *blocks, const struct tile_plane *in, int32_t *sums,
                             const int n, const int mr, const enum sl_dtype d)
{
    const int nv = mr <= 2 ? 2 : 1; /* two share broadcasts; more rows leave no registers for that */
    const int32_t *a = in->a, *starts = in->starts;
    struct block at[STREAMS]; /* from the present unit on */
    for (int i = 0; i < n; i++) {
        at[i] = blocks[i];
        for (const uint8_t *line = at[i].scales - 64; line < at[i].units; line += 64)
            _mm_prefetch((const char *)line + DIRECT_AHEAD, _MM_HINT_T1);
    }
    for (uint32_t u = 0; u < in->units; u++) {
        for (int i = 0; i < n; i++) {
            TILE_EACH (line, unit_bytes(d) / 64)
                _mm_prefetch((const char *)at[i].units + DIRECT_AHEAD + 64 * line, _MM_HINT_T1);
            TILE_EACH_OF(side, 2 / nv, 2)
            TILE_EACH (part, unit_parts(d))
                direct_part(&at[i], u, a, starts, sums + i * mr * SL_LANES, part, side, nv, mr, d);
            at[i].units += unit_bytes(d);
            at[i].scales += d != SL_I4 || u % 2 ? SL_LANES : 0;
        }
        a += STEPS * 4;
        starts += has_halves(d) ? 8 : 4;
    }
}

/* --- one entry per format --- */

struct format {
    void (*decode)(const struct block *b, uint32_t unit, uint32_t units, uint8_t *to);
    void (*direct[DIRECT_MR + 1])(const struct block *block, const struct tile_plane *in, int32_t *sums);
    /* STREAMS blocks side by side: where decoding leaves a processor time to wait for memory */
    void (*streams[STREAMS_MR + 1])(const struct block *blocks, const struct tile_plane *in, int32_t *sums);
};
#define DIRECT_DEFINE(name, d, n, mr)                                                                        \
    static void name##_##d##_##mr(const struct block *blocks, const struct tile_plane *in, int32_t *sums)    \
    {                                                                                                        \
        direct_dots(blocks, in, sums, n, mr, d);                                                             \
    }
#define FORMAT_DEFINE(d)                                                                                     \
    static void decode_##d(const struct block *b, uint32_t unit, uint32_t units, uint8_t *to)                \
    {                                                                                                        \
        decode_units(b, unit, units, to, d);                                                                 \
    }                                                                                                        \
    DIRECT_DEFINE(direct, d, 1, 1)                                                                           \
    DIRECT_DEFINE(direct, d, 1, 2)                                                                           \
    DIRECT_DEFINE(direct, d, 1, 3)                                                                           \
    DIRECT_DEFINE(direct, d, 1, 4)
#define STREAMS_DEFINE(d)                                                                                    \
    DIRECT_DEFINE(streams, d, STREAMS, 1)                                                                    \
    DIRECT_DEFINE(streams, d, STREAMS, 2)
FORMAT_DEFINE(SL_I4)
FORMAT_DEFINE(SL_I4G16)
FORMAT_DEFINE(SL_I3)
FORMAT_DEFINE(SL_I2)
STREAMS_DEFINE(SL_I4)
STREAMS_DEFINE(SL_I4G16)
#define FORMAT_ENTRY(d, ...)                                                                                 \
    [d] = {decode_##d, {NULL, direct_##d##_1, direct_##d##_2, direct_##d##_3, direct_##d##_4}, __VA_ARGS__}
#define FORMAT_STREAMS(d)                                                                                    \
    {                                                                                                        \
        NULL, streams_##d##_1, streams_##d##_2                                                               \
    }
static const struct format formats[SL_DTYPES] = {
    FORMAT_ENTRY(SL_I4, FORMAT_STREAMS(SL_I4)),
    FORMAT_ENTRY(SL_I4G16, FORMAT_STREAMS(SL_I4G16)),
    FORMAT_ENTRY(SL_I3, {NULL}),
    FORMAT_ENTRY(SL_I2, {NULL}),
};

/* --- setup --- */

/* Rows [begin, begin + n) of a product, packed as tiles of nearly equal height, and where their sums are. */
struct packed_rows8 {
    uint32_t begin, n, n_tiles, units;
    int32_t *a;      /* [tile][units][STEPS][stride 8] at most */
    int32_t *starts; /* [tile][units][stride 8] at most */
    int32_t *own;    /* [n]: of i8: what the sums of a row begin at */
    int32_t *sums;   /* [2][n][16]; of few rows [STREAMS][n][16] */
    uint8_t *panel;  /* a decoded chunk; of i8 the outputs' own sums come first */
};

static uint32_t tile_begin(const struct packed_rows8 *p, uint32_t tile)
{
    return (uint32_t)((uint64_t)p->n * tile / p->n_tiles);
}
static uint32_t tile_height(const struct packed_rows8 *p, uint32_t tile)
{
    return tile_begin(p, tile + 1) - tile_begin(p, tile);
}

/* Groups of 32 have one pair of starts a unit. Those of 16 have words of the first and of the second group in
 * turn in the planes of a panel, and are one after the other, each with starts, for few rows. */
enum order { BY_UNIT, WOVEN, BY_GROUP };

/* Four rows' inputs of a unit. */
TILE_INLINE __m256i unit_in_order(const int8_t *row, enum order order)
{
    __m256i v = load32((const uint8_t *)row);
    const __m256i weave = _mm256_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15, 0, 1, 8, 9,
                                           2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15);
    return order == WOVEN ? _mm256_shuffle_epi8(_mm256_permute4x64_epi64(v, 0xD8), weave) : v;
}

TILE_INLINE void store_steps(int32_t *to, size_t stride, __m256i four_rows) /* of steps t and t + 4 */
{
    _mm_storeu_si128((__m128i *)(void *)to, _mm256_castsi256_si128(four_rows));
    _mm_storeu_si128((__m128i *)(void *)(to + 4 * stride), _mm256_extracti128_si256(four_rows, 1));
}

/* One unit of four rows: a transpose of words of 32 bits, and the starts of their lanes. */
TILE_INLINE void pack_unit(const int8_t *const rows[4], size_t at, enum order order, int zero, int32_t *a,
                           int32_t *starts, size_t stride)
{
    __m256i r0 = unit_in_order(rows[0] + at, order), r1 = unit_in_order(rows[1] + at, order);
    __m256i r2 = unit_in_order(rows[2] + at, order), r3 = unit_in_order(rows[3] + at, order);
    __m256i ones = _mm256_set1_epi8(1), lanes = _mm256_setzero_si256();
    __m256i low01 = _mm256_unpacklo_epi32(r0, r1), high01 = _mm256_unpackhi_epi32(r0, r1);
    __m256i low23 = _mm256_unpacklo_epi32(r2, r3), high23 = _mm256_unpackhi_epi32(r2, r3);
    __m256i step[4] = {_mm256_unpacklo_epi64(low01, low23), _mm256_unpackhi_epi64(low01, low23),
                       _mm256_unpacklo_epi64(high01, high23), _mm256_unpackhi_epi64(high01, high23)};
    TILE_EACH (t, 4) {
        store_steps(a + (size_t)t * stride, stride, step[t]);
        lanes = _mm256_add_epi16(lanes, _mm256_maddubs_epi16(ones, step[t]));
    }
    if (order == BY_GROUP) {
        lanes = _mm256_mullo_epi16(lanes, _mm256_set1_epi16((short)-zero));
        _mm256_storeu_si256((__m256i *)(void *)starts, lanes);
        return;
    }
    __m128i sum = _mm_add_epi16(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256(lanes, 1));
    _mm_storeu_si128((__m128i *)(void *)starts, _mm_mullo_epi16(sum, _mm_set1_epi16((short)-zero)));
}

static const int8_t *row_of(const struct sl_gemm8 *g, uint32_t i)
{
    return g->x.q + (size_t)(g->rows ? g->rows[i] : i) * g->x.stride;
}

/* Four rows of a tile from row i on; beyond its last row: the last again, and no tile reads it. */
static void rows_of_tile(const struct sl_gemm8 *g, const struct packed_rows8 *p, uint32_t tile, uint32_t i,
                         const int8_t *rows[4])
{
    uint32_t last = tile_height(p, tile) - 1;
    for (uint32_t j = 0; j < 4; j++)
        rows[j] = row_of(g, p->begin + tile_begin(p, tile) + (i + j < last ? i + j : last));
}

static void pack_rows(const struct sl_gemm8 *g, struct packed_rows8 *p)
{
    const struct sl_quant_rule *rule = sl_quant_rule_of(g->w.dtype);
    enum order order = rule->group != 16 ? BY_UNIT : p->n <= DIRECT_MR ? BY_GROUP : WOVEN;
    for (uint32_t tile = 0; tile < p->n_tiles; tile++) {
        uint32_t height = tile_height(p, tile), stride = tile_stride(height);
        size_t first = (size_t)tile * p->units * 8;
        int32_t *a = p->a + first * STEPS, *starts = p->starts + first;
        for (uint32_t i = 0; i < height; i += 4) {
            const int8_t *rows[4];
            rows_of_tile(g, p, tile, i, rows);
            for (uint32_t u = 0; u < p->units; u++)
                pack_unit(rows, (size_t)u * SL_QUANT_UNIT, order, rule->zero,
                          a + (size_t)u * STEPS * stride + i,
                          starts + (size_t)u * (order == BY_GROUP ? 8 : stride) + i, stride);
        }
    }
}

/* --- the kernel --- */

static struct block block_at(const struct sl_panel *w, uint32_t block)
{
    const uint8_t *at = (const uint8_t *)w->data + block * sl_quant_block_bytes(w->dtype, w->k);
    return (struct block){sl_quant_units(w->dtype, w->k, at), sl_quant_scales(at)};
}

/* A tile's activations from `unit` on. */
static struct tile_plane plane_input(const struct packed_rows8 *p, uint32_t tile, uint32_t unit,
                                     uint32_t units)
{
    size_t stride = tile_stride(tile_height(p, tile));
    size_t first = (size_t)tile * p->units * 8 + unit * stride;
    return (struct tile_plane){.a = p->a + first * STEPS, .starts = p->starts + first, .units = units};
}

/* All rows times a decoded chunk. Each tile fetches its share of the bytes [ahead, ahead + bytes) from
 * memory. */
static void chunk_run(const struct packed_rows8 *p, uint32_t unit, uint32_t units, const uint8_t *ahead,
                      size_t bytes, int32_t *sums)
{
    uint32_t lines = (uint32_t)(bytes / 64), share = (lines + p->n_tiles * units - 1) / (p->n_tiles * units);
    for (uint32_t tile = 0; tile < p->n_tiles; tile++) {
        struct tile_plane in = plane_input(p, tile, unit, units);
        in.w = p->panel;
        in.ahead = ahead + (size_t)tile * units * share * 64;
        in.ahead_lines = tile * units * share < lines ? share : 0;
        planes[tile_height(p, tile)](&in, sums + (size_t)tile_begin(p, tile) * SL_LANES);
    }
}

#include "kernels/cpu/int_words.inc"

_Static_assert(STREAMS *STREAMS_MR <= 2 * WORD_MR && STREAMS * STREAMS_MR <= 2 * TILE_MR,
               "the sums of two blocks of a whole tile have room for those of all streams");

/* sums[n][16] = the sums of a block's outputs, of rows that share a panel. */
static void byte_sums(const struct packed_rows8 *p, enum sl_dtype d, const struct block *b, int32_t *sums)
{
    size_t bytes = (size_t)unit_bytes(d);
    memset(sums, 0, (size_t)p->n * SL_LANES * sizeof *sums);
    for (uint32_t unit = 0; unit < p->units; unit += CHUNK_UNITS) {
        uint32_t units = p->units - unit < CHUNK_UNITS ? p->units - unit : CHUNK_UNITS;
        formats[d].decode(b, unit, units, p->panel);
        chunk_run(p, unit, units, b->units + (unit + units) * bytes, units * bytes, sums);
    }
}

/* sums[block][n][16] = the same of up to four rows. */
static void byte_direct(const struct packed_rows8 *p, enum sl_dtype d, const struct block *blocks,
                        uint32_t n_blocks, int32_t *sums)
{
    const size_t size = (size_t)p->n * SL_LANES;
    struct tile_plane in = plane_input(p, 0, 0, p->units);
    memset(sums, 0, n_blocks * size * sizeof *sums);
    if (n_blocks == STREAMS) {
        formats[d].streams[p->n](blocks, &in, sums);
        return;
    }
    for (uint32_t i = 0; i < n_blocks; i++)
        formats[d].direct[p->n](&blocks[i], &in, sums + i * size);
}

/* The two ways to multiply: coded formats as bytes, i8 as words. */
static const struct route {
    uint32_t tile_mr;
    int32_t zero; /* that its sums' weights are too large by */
    void (*pack)(const struct sl_gemm8 *g, struct packed_rows8 *p);
    void (*sums)(const struct packed_rows8 *p, enum sl_dtype d, const struct block *b, int32_t *sums);
    void (*direct)(const struct packed_rows8 *p, enum sl_dtype d, const struct block *blocks,
                   uint32_t n_blocks, int32_t *sums);
} byte_route = {TILE_MR, 0, pack_rows, byte_sums, byte_direct},
  word_route = {WORD_MR, 128, word_pack_rows, word_sums, word_direct};

static const struct route *route_of(enum sl_dtype d)
{
    return d == SL_I8 ? &word_route : &byte_route;
}

/* n blocks of y from their sums: [n][1, or gate and up][rows][16]. */
static void finish_blocks(const struct sl_gemm8 *g, const struct packed_rows8 *p, const uint32_t *at,
                          uint32_t n, bool swiglu)
{
    const size_t size = (size_t)p->n * SL_LANES;
    for (uint32_t i = 0; i < n; i++) {
        int32_t *sums = p->sums + (swiglu ? 2 * i : i) * size;
        finish_block(g, p->begin, p->n, at[i],
                     (struct int_sums){.sums = sums,
                                       .up = swiglu ? sums + size : NULL,
                                       .stride = SL_LANES,
                                       .zero = route_of(g->w.dtype)->zero});
    }
}

/* Outputs [16 block, 16 block + 16) of y, of rows that share a panel. */
static void panel_block(const struct sl_gemm8 *g, const struct packed_rows8 *p, uint32_t block, bool swiglu)
{
    const uint32_t outputs = swiglu ? 2 : 1;
    for (uint32_t i = 0; i < outputs; i++) {
        struct block b = block_at(&g->w, outputs * block + i);
        route_of(g->w.dtype)->sums(p, g->w.dtype, &b, p->sums + (size_t)i * p->n * SL_LANES);
    }
    finish_blocks(g, p, &block, 1, swiglu);
}

/* Up to four rows times n blocks of y, which lie apart. */
static void direct_blocks(const struct sl_gemm8 *g, const struct packed_rows8 *p, const uint32_t *at,
                          uint32_t n, bool swiglu)
{
    const uint32_t outputs = swiglu ? 2 : 1;
    struct block blocks[STREAMS];
    for (uint32_t i = 0; i < n * outputs; i++)
        blocks[i] = block_at(&g->w, at[i / outputs] * outputs + i % outputs);
    route_of(g->w.dtype)->direct(p, g->w.dtype, blocks, n * outputs, p->sums);
    finish_blocks(g, p, at, n, swiglu);
}

/* One or two rows wait for memory, which Zen 3 reads faster in four streams than in one (roofline.c): the
 * blocks of y are cut into as many runs, which go side by side. i3 and i2 wait for their decoders. */
static void direct_columns(const struct sl_gemm8 *g, const struct packed_rows8 *p, bool swiglu)
{
    uint32_t begin = g->col_begin / SL_LANES, end = sl_round_lanes(g->col_end) / SL_LANES, at[STREAMS];
    bool streams = p->n <= STREAMS_MR && g->w.dtype != SL_I3 && g->w.dtype != SL_I2;
    uint32_t runs = !streams ? 1 : swiglu ? STREAMS / 2 : STREAMS, each = (end - begin) / runs;
    for (uint32_t i = 0; i < each; i++) {
        for (uint32_t run = 0; run < runs; run++)
            at[run] = begin + run * each + i;
        direct_blocks(g, p, at, runs, swiglu);
    }
    for (uint32_t block = begin + runs * each; block < end; block++)
        direct_blocks(g, p, &block, 1, swiglu);
}

/* --- entries --- */

/* Tiles of some height whose activations are packed at once, of rows with so many units. */
static uint32_t tiles_at_once(uint32_t units, uint32_t tile_mr)
{
    uint32_t most = ROWS_AT_ONCE / tile_mr, fit = units ? PACK_BYTES / (units * STEPS * 32) : most;
    fit = fit < most ? fit : most;
    return fit ? fit : 1;
}

static void *take(char **scratch, size_t bytes)
{
    void *at = *scratch;
    *scratch += (bytes + 63) / 64 * 64;
    return at;
}

static void product(const struct sl_gemm8 *g, void *scratch, bool swiglu)
{
    const struct route *route = route_of(g->w.dtype);
    uint32_t tile_mr = route->tile_mr;
    uint32_t units = sl_quant_padded(g->w.k) / SL_QUANT_UNIT, tiles = tiles_at_once(units, tile_mr),
             most = tiles * tile_mr;
    struct packed_rows8 p = {.units = units};
    char *at = (char *)scratch + -(uintptr_t)scratch % 64;
    assert(g->w.k <= SL_QUANT_MAX_K && sl_dtype_is_integer(g->w.dtype));
    p.a = take(&at, (size_t)tiles * units * STEPS * 8 * sizeof *p.a);
    p.starts = take(&at, (size_t)tiles * units * 8 * sizeof *p.starts);
    p.own = take(&at, most * sizeof *p.own);
    p.sums = take(&at, (size_t)2 * most * SL_LANES * sizeof *p.sums);
    p.panel = take(&at, (size_t)PANEL_BYTES);
    for (; p.begin < g->m; p.begin += p.n) {
        p.n = g->m - p.begin < most ? g->m - p.begin : most;
        p.n_tiles = (p.n + tile_mr - 1) / tile_mr;
        route->pack(g, &p);
        if (p.n <= DIRECT_MR) {
            direct_columns(g, &p, swiglu);
            continue;
        }
        for (uint32_t block = g->col_begin / SL_LANES; block * SL_LANES < g->col_end; block++)
            panel_block(g, &p, block, swiglu);
    }
    sl_stream_end(g);
}

static void cpu_gemm8(const struct sl_gemm8 *g, void *scratch)
{
    assert(g->col_begin % SL_LANES == 0 && g->col_end <= g->w.n);
    assert(g->col_end % SL_LANES == 0 || g->col_end == g->w.n);
    product(g, scratch, false);
}

static void cpu_gemm8_swiglu(const struct sl_gemm8 *g, void *scratch)
{
    assert(g->col_begin % SL_LANES == 0 && sl_round_lanes(g->col_end) <= g->w.n / 2);
    product(g, scratch, true);
}

static size_t scratch_bytes(uint32_t k_max)
{
    size_t units = sl_quant_padded(k_max) / SL_QUANT_UNIT, one_tile = units * STEPS * 8 * sizeof(int32_t);
    size_t a = one_tile > PACK_BYTES ? one_tile : PACK_BYTES, own = ROWS_AT_ONCE * sizeof(int32_t);
    return a + a / STEPS + own + 2 * SL_LANES * own + (size_t)PANEL_BYTES + 5 * 64;
}

const struct sl_ops sl_int_avx2 = {
    .name = "avx2",
    .scratch_bytes = scratch_bytes,
    .quantise = cpu_quantise,
    .rotate = cpu_rotate,
    .gemm8 = cpu_gemm8,
    .gemm8_swiglu = cpu_gemm8_swiglu,
};
