/* The integer products of plain AVX2, where sixteen-bit sums could overflow or pairs of bytes saturate:
 * extremes of every format with alternating signs, groups that pull in opposite directions, lengths at the
 * edges of units and chunks; and i8, which multiplies sums of an activation and a weight: all ends of both in
 * every pair, -128 included. What all tables have in common (ragged shapes, gathers, scales) is in
 * test_int.c. */
#include "base/cpu.h"
#include "base/rng.h"
#include "kernels/cpu/tables.h"
#include "kernels/ref/ref.h"
#include "tests/check.h"
#include <stdlib.h>

enum { GUARD = 64 };

static void *zeroed(size_t bytes)
{
    size_t whole = (bytes + 63) / 64 * 64 + 64;
    void *p = aligned_alloc(64, whole);
    memset(p, 0, whole);
    return p;
}

/* Every field of a panel from two functions of (output, input or group). */
static struct sl_panel panel_of(enum sl_dtype dtype, uint32_t n, uint32_t k,
                                uint32_t (*q)(uint32_t levels, uint32_t c, uint32_t i),
                                uint32_t (*s)(uint32_t c, uint32_t group))
{
    size_t block_bytes = sl_quant_block_bytes(dtype, k);
    uint8_t *data = zeroed(sl_panel_bytes(dtype, n, k));
    for (uint32_t c = 0; c < n; c++) {
        uint8_t *block = data + c / SL_LANES * block_bytes;
        ((float *)(void *)block)[c % SL_LANES] = 0.5f + 0.25f * (float)(c % 7);
        for (uint32_t i = 0; i < sl_quant_padded(k); i++)
            sl_quant_put(dtype, k, block, c % SL_LANES, i,
                         q((uint32_t)sl_quant_rule_of(dtype)->levels, c, i));
        for (uint32_t g = 0; g < sl_quant_groups(dtype, k); g++)
            sl_quant_put_scale(dtype, block, c % SL_LANES, g, s(c, g));
    }
    return (struct sl_panel){data, n, k, dtype, 0, 0};
}

static struct sl_rows8 rows_of(uint32_t m, uint32_t k, int8_t (*x)(uint32_t row, uint32_t i))
{
    struct sl_rows8 r = {.stride = sl_rows8_stride(k), .scale = zeroed(m * 4), .sum = zeroed(m * 4)};
    r.q = zeroed(m * r.stride);
    for (uint32_t row = 0; row < m; row++) {
        r.scale[row] = 1.0f + (float)row;
        for (uint32_t i = 0; i < k; i++)
            r.sum[row] += r.q[row * r.stride + i] = x(row, i);
    }
    return r;
}

/* Bits that differ between ref and AVX2, both products; the scratch ends with a guard that must be left
 * alone. */
static long differences(struct sl_rows8 x, uint32_t m, struct sl_panel w)
{
    size_t scratch_bytes = sl_int_avx2.scratch_bytes(w.k);
    uint8_t *scratch = zeroed(scratch_bytes + GUARD);
    float *a = zeroed((size_t)m * w.n * 4), *b = zeroed((size_t)m * w.n * 4);
    long wrong = 0;
    memset(scratch + scratch_bytes, 0x5A, GUARD);
    struct sl_gemm8 g = {.x = x, .m = m, .w = w, .col_end = w.n, .y = a, .y_stride = w.n};
    sl_ref_gemm8(&g, NULL);
    g.y = b;
    sl_int_avx2.gemm8(&g, scratch);
    wrong += memcmp(a, b, (size_t)m * w.n * 4) != 0;
    g.col_end = w.n / 2 / SL_LANES * SL_LANES;
    g.y = a;
    sl_ref_gemm8_swiglu(&g, NULL);
    g.y = b;
    sl_int_avx2.gemm8_swiglu(&g, scratch);
    wrong += memcmp(a, b, (size_t)m * w.n * 4) != 0;
    for (size_t i = 0; i < GUARD; i++)
        wrong += scratch[scratch_bytes + i] != 0x5A;
    free(scratch), free(a), free(b);
    return wrong;
}

static bool can_run(void)
{
    if (sl_cpu_detect() & SL_CPU_AVX2)
        return true;
    sl_test_skip("this processor has no AVX2");
    return false;
}

/* Formats [first, end). */
static void compare_some(const char *what, enum sl_dtype first, enum sl_dtype end, uint32_t m, uint32_t n,
                         uint32_t k, uint32_t (*q)(uint32_t, uint32_t, uint32_t),
                         uint32_t (*s)(uint32_t, uint32_t), int8_t (*x)(uint32_t, uint32_t))
{
    struct sl_rows8 rows = rows_of(m, k, x);
    for (enum sl_dtype d = first; d < end; d++) {
        struct sl_panel w = panel_of(d, n, k, q, s);
        long wrong = differences(rows, m, w);
        if (wrong)
            sl_test_fail(__FILE__, __LINE__, "%s, %s, %u rows, n %u, k %u: %ld differences", what,
                         sl_dtype_name(d), m, n, k, wrong);
        free((void *)(uintptr_t)w.data);
    }
    free(rows.q), free(rows.scale), free(rows.sum);
}
static void compare(const char *what, uint32_t m, uint32_t n, uint32_t k,
                    uint32_t (*q)(uint32_t, uint32_t, uint32_t), uint32_t (*s)(uint32_t, uint32_t),
                    int8_t (*x)(uint32_t, uint32_t))
{
    compare_some(what, SL_I8, SL_DTYPES, m, n, k, q, s, x);
}

static struct sl_rng rng = {11, 0};
static uint32_t q_random(uint32_t levels, uint32_t c, uint32_t i)
{
    (void)c, (void)i;
    uint32_t q = (uint32_t)(sl_rng_next(&rng) % levels);
    return levels == 256 && q == 0 ? 1 : q;
}
static uint32_t q_most(uint32_t levels, uint32_t c, uint32_t i)
{
    (void)c, (void)i;
    return levels - 1;
}
static uint32_t q_least(uint32_t levels, uint32_t c, uint32_t i)
{
    (void)c, (void)i;
    return levels == 256 ? 1 : 0;
}
static uint32_t q_by_turns(uint32_t levels, uint32_t c, uint32_t i)
{
    return (c + i) % 2 ? q_most(levels, c, i) : q_least(levels, c, i);
}
static uint32_t q_by_groups(uint32_t levels, uint32_t c, uint32_t i)
{
    return (c + i / 16) % 2 ? q_most(levels, c, i) : q_least(levels, c, i);
}
static uint32_t s_random(uint32_t c, uint32_t group)
{
    (void)c, (void)group;
    return (uint32_t)(sl_rng_next(&rng) % 16);
}
static uint32_t s_most(uint32_t c, uint32_t group)
{
    (void)c, (void)group;
    return 15;
}
static uint32_t s_by_turns(uint32_t c, uint32_t group)
{
    return (c + group) % 2 ? 15 : 0;
}
static int8_t x_random(uint32_t row, uint32_t i)
{
    (void)row, (void)i;
    return (int8_t)((int)(sl_rng_next(&rng) % 255) - 127);
}
static int8_t x_most(uint32_t row, uint32_t i)
{
    (void)row, (void)i;
    return 127;
}
static int8_t x_least(uint32_t row, uint32_t i)
{
    (void)row, (void)i;
    return -127;
}
static int8_t x_by_turns(uint32_t row, uint32_t i)
{
    return (row + i) % 2 ? 127 : -127;
}
static int8_t x_by_groups(uint32_t row, uint32_t i)
{
    return (row + i / 16) % 2 ? 127 : -127;
}

/* Pairs of neighbouring inputs go through all ends: 9 of i8's weights, as they are in the file, times 9 of
 * activations. */
static uint32_t q_end(uint32_t levels, uint32_t c, uint32_t i)
{
    static const uint8_t ends[] = {0, 1, 255};
    uint32_t pair = i / 2 + c;
    (void)levels;
    return ends[(i % 2 ? pair / 3 : pair) % 3];
}
static int8_t x_end(uint32_t row, uint32_t i)
{
    static const int8_t ends[] = {-128, -127, 127};
    uint32_t pair = i / 18 + row;
    return ends[(i % 2 ? pair / 3 : pair) % 3];
}
static uint32_t q_zero(uint32_t levels, uint32_t c, uint32_t i)
{
    (void)levels, (void)c, (void)i;
    return 0;
}
static int8_t x_lowest(uint32_t row, uint32_t i)
{
    (void)row, (void)i;
    return -128;
}

SL_TEST(no_pair_saturates_and_no_sum_overflows_at_the_extremes)
{
    uint32_t (*const qs[])(uint32_t, uint32_t, uint32_t) = {q_most, q_least, q_by_turns, q_by_groups};
    int8_t (*const xs[])(uint32_t, uint32_t) = {x_most, x_least, x_by_turns, x_by_groups};
    if (!can_run())
        return;
    for (size_t i = 0; i < sizeof qs / sizeof *qs; i++)
        for (size_t j = 0; j < sizeof xs / sizeof *xs; j++) {
            for (uint32_t m = 1; m <= 7; m++) {
                compare("extremes", m, 32, 96, qs[i], s_most, xs[j]);
                compare("extremes, scales 0 and 15", m, 32, 80, qs[i], s_by_turns, xs[j]);
            }
        }
}

SL_TEST(the_longest_row_stays_within_32_bits)
{
    if (!can_run())
        return;
    for (uint32_t m = 1; m <= 5; m += 2) {
        compare("longest row", m, 32, SL_QUANT_MAX_K, q_most, s_most, x_most);
        compare("longest row", m, 32, SL_QUANT_MAX_K, q_least, s_most, x_most);
    }
}

SL_TEST(each_group_takes_its_own_scale_and_start)
{
    if (!can_run())
        return;
    for (uint32_t k = 1; k <= 16 * 6; k += 5) /* from a part of a group to several units */
        for (uint32_t m = 1; m <= 5; m++)
            compare("groups", m, 32, k, q_random, s_by_turns, x_by_groups);
}

SL_TEST(every_height_of_tile_and_every_edge_of_a_chunk)
{
    static const uint32_t edges[] = {480, 511, 512, 513, 544, 1024, 1056};
    if (!can_run())
        return;
    for (uint32_t m = 1; m <= 70; m++)
        compare("heights", m, 32, 40 + m, q_random, s_random, x_random);
    for (size_t i = 0; i < sizeof edges / sizeof *edges; i++)
        compare("chunks", 8, 48, edges[i], q_random, s_random, x_random);
}

SL_TEST(more_rows_than_are_packed_at_once)
{
    if (!can_run())
        return;
    compare("many rows", 250, 32, 33, q_random, s_random, x_random);
    compare("few long rows", 9, 32, 20000, q_random, s_random, x_random);
}

SL_TEST(i8_is_exact_for_every_pair_of_ends_and_every_tile)
{
    /* inputs of part of a step, at the edges of a unit, of a chunk and of two */
    static const uint32_t ks[] = {1, 2, 3, 31, 32, 33, 162, 511, 512, 513, 1023, 1024, 1025, 1120};
    uint32_t (*const qs[])(uint32_t, uint32_t, uint32_t) = {q_end, q_zero, q_most};
    int8_t (*const xs[])(uint32_t, uint32_t) = {x_end, x_lowest, x_most};
    if (!can_run())
        return;
    for (size_t edge = 0; edge < sizeof ks / sizeof *ks; edge++)
        for (uint32_t m = 1; m <= 13; m++)
            for (size_t i = 0; i < sizeof qs / sizeof *qs; i++)
                compare_some("ends of i8", SL_I8, SL_I8 + 1, m, 32, ks[edge], qs[i], s_most, xs[(i + m) % 3]);
}

/* One and two rows go through four blocks side by side (of gate and up: two of each); a last block is alone. */
SL_TEST(streams_are_exact_at_the_extremes_and_have_a_tail)
{
    static const uint32_t ks[] = {96, 129, 512, 1120};
    uint32_t (*const qs[])(uint32_t, uint32_t, uint32_t) = {q_most, q_by_turns, q_random};
    int8_t (*const xs[])(uint32_t, uint32_t) = {x_least, x_by_groups, x_random};
    if (!can_run())
        return;
    for (size_t edge = 0; edge < sizeof ks / sizeof *ks; edge++)
        for (uint32_t m = 1; m <= 3; m++) {
            for (size_t i = 0; i < sizeof qs / sizeof *qs; i++)
                compare("streams", m, 144, ks[edge], qs[i], i ? s_by_turns : s_most, xs[i]);
            compare_some("streams of i8", SL_I8, SL_I8 + 1, m, 144, ks[edge], q_end, s_most, x_end);
        }
}

SL_TEST(i8_wraps_and_comes_back_in_the_longest_rows)
{
    if (!can_run())
        return;
    for (uint32_t m = 2; m <= 8; m += 3) { /* from bytes; with a panel; tiles of four */
        compare_some("longest i8", SL_I8, SL_I8 + 1, m, 32, SL_QUANT_MAX_K, q_zero, s_most, x_lowest);
        compare_some("longest i8", SL_I8, SL_I8 + 1, m, 32, SL_QUANT_MAX_K, q_most, s_most, x_least);
        compare_some("longest i8", SL_I8, SL_I8 + 1, m, 32, SL_QUANT_MAX_K, q_end, s_most, x_end);
    }
}
