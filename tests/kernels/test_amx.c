/* The AMX kernel over emulated tiles, bit for bit against ref: every format, every number of rows, ragged
 * shapes; and the emulation itself against sums that are written down another way. The instructions are not
 * run: nothing here has them. Compiled for AVX-512, whose decoders and last step the kernel uses; run only
 * where the processor has it. */
#define SL_AMX_EMULATED 1
#include "base/cpu.h"
#include "base/rng.h"
#include "kernels/cpu/amx_tile.h"
#include "kernels/cpu/tables.h"
#include "kernels/cpu/tile_avx512.h"
#include "kernels/exp.h"
#include "kernels/ref/ref.h"
#include "tests/check.h"
#include <assert.h>
#include <stdlib.h>

#include "kernels/cpu/exp_body.inc"

#include "kernels/cpu/int_finish.inc"

#include "kernels/cpu/int_amx_body.inc"

enum { GUARD = 256, UNTOUCHED = 0x5A };

static bool can_run(void)
{
    uint32_t needed = SL_CPU_AVX512 | SL_CPU_VNNI;
    if ((sl_cpu_detect() & needed) == needed) {
        printf("     (emulated tiles: no AMX instruction was run)\n");
        return true;
    }
    sl_test_skip("the AMX kernel decodes with AVX-512 VNNI, which this processor lacks");
    return false;
}

static struct sl_rng rng = {5, 0};

/* Followed by `guard` bytes that say whether somebody wrote too far. */
static void *guarded(size_t bytes, size_t guard)
{
    uint8_t *p = aligned_alloc(64, (bytes + guard + 63) / 64 * 64);
    memset(p, 0, bytes);
    memset(p + bytes, UNTOUCHED, guard);
    return p;
}
static long touched(const void *p, size_t bytes)
{
    long n = 0;
    for (size_t i = 0; i < GUARD; i++)
        n += ((const uint8_t *)p)[bytes + i] != UNTOUCHED;
    return n;
}

/* A panel whose last block ends at the end of its memory, as a mapped file may. */
static struct sl_panel random_panel(enum sl_dtype dtype, uint32_t n, uint32_t k)
{
    size_t bytes = sl_panel_bytes(dtype, n, k), block_bytes = sl_quant_block_bytes(dtype, k);
    uint8_t *data = guarded(bytes, 0);
    for (size_t i = 0; i < bytes; i++)
        data[i] = (uint8_t)sl_rng_next(&rng);
    for (uint32_t c = 0; c < sl_round_lanes(n); c++)
        ((float *)(void *)(data + c / SL_LANES * block_bytes))[c % SL_LANES] =
            c < n ? 0.25f * (float)(1 + c % 5) : 0.0f;
    return (struct sl_panel){data, n, k, dtype, 0, 0};
}

static struct sl_rows8 random_rows(uint32_t m, uint32_t k, bool extreme)
{
    struct sl_rows8 r = {.stride = sl_rows8_stride(k), .scale = guarded(m * 4, 0), .sum = guarded(m * 4, 0)};
    r.q = guarded(m * r.stride, 0);
    for (uint32_t i = 0; i < m; i++) {
        r.scale[i] = i % 7 == 3 ? NAN : 0.5f + (float)i;
        for (uint32_t t = 0; t < k; t++) {
            int q = (int)(sl_rng_next(&rng) % 255) - 127;
            r.sum[i] += r.q[i * r.stride + t] = (int8_t)(extreme ? (q < 0 ? -127 : 127) : q);
        }
    }
    return r;
}

/* Compares both products of one shape; `rows` gathers in descending order. */
static void compare(enum sl_dtype d, uint32_t m, uint32_t n, uint32_t k, bool extreme)
{
    struct sl_rows8 x = random_rows(m, k, extreme);
    struct sl_panel w = random_panel(d, n, k);
    size_t scratch_bytes = amx_scratch_bytes(k), y_bytes = (size_t)m * n * sizeof(float);
    void *scratch = guarded(scratch_bytes, GUARD);
    float *expected = guarded(y_bytes, GUARD), *y = guarded(y_bytes, GUARD);
    uint32_t *rows = guarded(m * 4, 0);
    long wrong = 0;
    for (uint32_t i = 0; i < m; i++)
        rows[i] = m - 1 - i;
    for (int variant = 0; variant < 4; variant++) { /* plain, gathered, accumulated, gate and up */
        struct sl_gemm8 g = {.x = x, .rows = variant == 1 ? rows : NULL, .m = m, .w = w, .y_stride = n};
        g.accumulate = variant == 2;
        uint32_t paired =
            n / 2 / SL_LANES * SL_LANES; /* of y: whole blocks of gate and up, the last of them ragged */
        g.col_end = variant == 3 ? paired - (paired > 0 ? m % 4 : 0) : n;
        g.col_begin = variant == 1 && n > SL_LANES ? SL_LANES : 0;
        g.y = expected;
        (variant == 3 ? sl_ref_gemm8_swiglu : sl_ref_gemm8)(&g, NULL);
        g.y = y;
        (variant == 3 ? amx_gemm8_swiglu : amx_gemm8)(&g, scratch);
        wrong += memcmp(expected, y, y_bytes) != 0;
    }
    wrong += touched(scratch, scratch_bytes) + touched(y, y_bytes);
    if (wrong)
        sl_test_fail(__FILE__, __LINE__, "%s, %u rows, n %u, k %u: %ld differences", sl_dtype_name(d), m, n,
                     k, wrong);
    free(x.q), free(x.scale), free(x.sum), free((void *)(uintptr_t)w.data);
    free(scratch), free(expected), free(y), free(rows);
}

SL_TEST(every_number_of_rows_in_every_format)
{
    if (!can_run())
        return;
    for (uint32_t m = 1; m <= 70; m++)
        for (enum sl_dtype d = SL_I8; d < SL_DTYPES; d++)
            compare(d, m, 32, 32 + m % 5 * 20, m % 2);
}

SL_TEST(ragged_shapes_and_visits_to_the_sums)
{
    static const uint32_t shapes[][2] = {{1, 1},     {15, 31},   {17, 33},    {33, 64},
                                         {64, 65},   {65, 96},   {80, 95},    {96, 992},
                                         {49, 1024}, {72, 1025}, {130, 1088}, {16, 2080}};
    if (!can_run())
        return;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (enum sl_dtype d = SL_I8; d < SL_DTYPES; d++)
            for (uint32_t m = 5; m <= 37; m += 16)
                compare(d, m, shapes[i][0], shapes[i][1], i % 2);
}

SL_TEST(more_rows_than_are_packed_at_once)
{
    if (!can_run())
        return;
    compare(SL_I4, 40, 16, 40000, true); /* 2.5 MB of rows: two passes, of 32 and of 8 rows */
    compare(SL_I8, 33, 16, SL_QUANT_MAX_K, true);
}

/* Plain C, but compiled for AVX-512 as the whole file: not even entered where that is missing. */
static __attribute__((noinline)) void multiply_emulated(void)
{
    enum { ROWS = 5, DEPTH = 7, OUTPUTS = 9 };
    int8_t a[ROWS][4 * DEPTH];
    uint8_t b[DEPTH][4 * OUTPUTS];
    int32_t c[ROWS + 1][OUTPUTS + 1] = {{0}};
    struct amx_config f = {
        .palette = 1, .rows = {ROWS, ROWS, DEPTH}, .row_bytes = {4 * OUTPUTS, 4 * DEPTH, 4 * OUTPUTS}};
    for (size_t i = 0; i < sizeof a; i++)
        ((int8_t *)a)[i] = (int8_t)sl_rng_next(&rng);
    for (size_t i = 0; i < sizeof b; i++)
        ((uint8_t *)b)[i] = (uint8_t)sl_rng_next(&rng);
    amx_configure(&f);
    AMX_ZERO(0);
    AMX_LOAD(1, a, sizeof a[0]);
    AMX_LOAD(2, b, sizeof b[0]);
    AMX_DOT_S8U8(0, 1, 2);
    AMX_DOT_S8U8(0, 1, 2);
    AMX_STORE(0, c, sizeof c[0]);
    amx_release();
    for (int m = 0; m <= ROWS; m++)
        for (int n = 0; n <= OUTPUTS; n++) {
            int32_t sum = 0;
            for (int k = 0; m < ROWS && n < OUTPUTS && k < DEPTH; k++)
                sum += 2 * (a[m][4 * k] * b[k][4 * n] + a[m][4 * k + 1] * b[k][4 * n + 1] +
                            a[m][4 * k + 2] * b[k][4 * n + 2] + a[m][4 * k + 3] * b[k][4 * n + 3]);
            CHECK_INT(c[m][n], sum);
        }
}
SL_TEST(emulated_tiles_multiply_what_is_configured)
{
    if (can_run())
        multiply_emulated();
}

static __attribute__((noinline)) void sum_emulated_bf16(void)
{
    /* (1 + 2^-30) of the even chain rounds to 1; 2^-30 of the odd one survives next to -1 in the tile */
    uint16_t a[4] = {sl_f32_to_bf16(1), sl_f32_to_bf16(0x1p-30f), sl_f32_to_bf16(0x1p-30f),
                     sl_f32_to_bf16(0x1p-127f)};
    uint16_t b[2][2] = {{sl_f32_to_bf16(1), sl_f32_to_bf16(1)},
                        {sl_f32_to_bf16(1), sl_f32_to_bf16(0x1p100f)}};
    float c = -1.0f;
    struct amx_config f = {.palette = 1, .rows = {1, 1, 2}, .row_bytes = {4, 8, 4}};
    amx_configure(&f);
    AMX_LOAD(0, &c, (size_t)4);
    AMX_LOAD(1, a, (size_t)8);
    AMX_LOAD(2, b, (size_t)4);
    AMX_DOT_BF16(0, 1, 2); /* the denormal counts as zero; 1 + 2^-30 is 1 */
    AMX_STORE(0, &c, (size_t)4);
    CHECK(c == 0.0f);
    a[0] = 0;
    c = 0.0f;
    AMX_LOAD(0, &c, (size_t)4);
    AMX_LOAD(1, a, (size_t)8);
    AMX_DOT_BF16(0, 1, 2);
    AMX_STORE(0, &c, (size_t)4);
    CHECK(c == 0x1p-29f);
    amx_release();
}
SL_TEST(emulated_bf16_sums_even_and_odd_inputs_apart)
{
    if (can_run())
        sum_emulated_bf16();
}
