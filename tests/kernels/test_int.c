/* The integer half of every table this machine can run against ref, bit for bit; and ref against plain
 * arithmetic.
 *
 * Weights are random bits with the extremes among them (every q and every s is legal, so every pattern of
 * bits is a panel); outputs lie between guards, scratch has exactly the bytes that were asked for and a guard
 * behind, and whole buffers are compared. Each case runs three times per table: as the kernel would choose,
 * with every product decoded in registers, and with every product decoded to a panel. SLUICE_TEST_SMALL=1
 * keeps the shapes small enough for an emulated processor (shared tools: run-on-cpu); a SUBSTRING selects
 * tests as in every program. */
#include "base/rng.h"
#include "kernels/tune.h"
#include "tests/kernels/same.h"
#include <stdlib.h>

enum { GUARD = 64, SOURCE_ROWS = 96 };

static struct sl_rng rng = {20261124, 0};

static bool small(void)
{
    const char *v = getenv("SLUICE_TEST_SMALL");
    return v && *v == '1';
}

static uint32_t below(uint32_t n)
{
    return (uint32_t)(sl_rng_next(&rng) % n);
}

/* bytes, then GUARD bytes of 0x5A; 64-byte aligned. */
static void *take(size_t bytes)
{
    uint8_t *p = aligned_alloc(64, (bytes + GUARD + 63) / 64 * 64);
    if (!p)
        abort();
    return memset(p, 0x5A, bytes + GUARD);
}

static bool guard_is_whole(const void *p, size_t bytes)
{
    for (size_t i = 0; i < GUARD; i++)
        if (((const uint8_t *)p)[bytes + i] != 0x5A)
            return false;
    return true;
}

/* Runs `body` with `ops` set to each table but ref. */
#define EACH_FORMAT(d) for (enum sl_dtype d = SL_I8; d < SL_DTYPES; d++)

enum weights { RANDOM, LOWEST, HIGHEST };

/* A panel of n x k: random q and s, or all of them at an end; row scales of 12 significant bits. Every block
 * is written whole, so the inputs beyond k hold q that must not matter. */
static struct sl_panel draw_panel(uint32_t n, uint32_t k, enum sl_dtype d, enum weights how)
{
    size_t bytes = sl_panel_bytes(d, n, k), block = sl_quant_block_bytes(d, k);
    uint8_t *data = take(bytes);
    for (size_t i = 0; i < bytes; i++)
        data[i] = how == LOWEST ? 0 : how == HIGHEST ? 0xFF : (uint8_t)sl_rng_next(&rng);
    for (uint32_t c = 0; c < sl_round_lanes(n); c++) {
        float s = sl_round_up12((float)(sl_rng_unit(sl_rng_next(&rng)) + 0.5) * 0x1p-9f);
        ((float *)(void *)(data + c / SL_LANES * block))[c % SL_LANES] = c < n ? s : 0.0f;
    }
    for (size_t at = 64; how == LOWEST && d != SL_I8 && at < bytes; at += block)
        memset(data + at, 0xFF, sl_quant_scale_bytes(d, k)); /* q 0 with s 15: the most negative weight */
    return (struct sl_panel){.data = data, .n = n, .k = k, .dtype = d};
}

static void free_panel(struct sl_panel w)
{
    free((void *)(uintptr_t)w.data);
}

/* Rows of activations: random, with rows of +127, of -127, of alternating signs, of zeros, and one whose
 * scale is NaN. */
static struct sl_rows8 draw_rows(uint32_t k)
{
    size_t stride = sl_rows8_stride(k);
    struct sl_rows8 x = {take(SOURCE_ROWS * stride), stride, take(SOURCE_ROWS * 4), take(SOURCE_ROWS * 4)};
    for (uint32_t r = 0; r < SOURCE_ROWS; r++) {
        int32_t sum = 0;
        for (uint32_t t = 0; t < stride; t++) {
            int q = (int)below(255) - 127;
            q = r % 16 == 1   ? 127
                : r % 16 == 2 ? -127
                : r % 16 == 3 ? (t % 2 ? 127 : -127)
                : r % 16 == 4 ? 0
                              : q;
            x.q[r * stride + t] = (int8_t)(t < k ? q : 0);
            sum += t < k ? q : 0;
        }
        x.sum[r] = sum;
        x.scale[r] =
            r % 16 == 5 ? NAN : sl_round_up12((float)(sl_rng_unit(sl_rng_next(&rng)) + 0.01) * 0x1p-5f);
    }
    return x;
}

static void free_rows(struct sl_rows8 x)
{
    free(x.q);
    free(x.scale);
    free(x.sum);
}

static const char *const way_names[] = {"by choice", "in registers", "by panel"};

static void force(int way)
{
    struct sl_tune tune;
    for (int d = 0; d < SL_DTYPES; d++)
        tune.few_rows[d] = way == 1 ? SL_TUNE_ROWS_MAX : 0;
    sl_tune_set(way == 0 ? NULL : &tune);
}

static void check_table(const struct sl_ops *ops, const struct sl_gemm8 *g, bool swiglu, const float *start,
                        const float *want, size_t n)
{
    size_t scratch_bytes = ops->scratch_bytes(g->w.k);
    for (int way = 0; way < 3; way++) {
        uint8_t *scratch = take(scratch_bytes);
        float *got = take(n * 4);
        struct sl_gemm8 mine = *g;
        memcpy(got, start, n * 4);
        mine.y = got + GUARD;
        force(way);
        (swiglu ? ops->gemm8_swiglu : ops->gemm8)(&mine, scratch);
        force(0);
        for (size_t i = 0; i < n; i++) {
            if (same_float(want[i], got[i]))
                continue;
            sl_test_fail(__FILE__, __LINE__,
                         "%s %s %s %s m %u n %u k %u columns [%u, %u)%s%s: element %zu is %a, ref has %a",
                         ops->name, sl_dtype_name(g->w.dtype), swiglu ? "swiglu" : "gemm", way_names[way],
                         g->m, g->w.n, g->w.k, g->col_begin, g->col_end, g->rows ? " gather" : "",
                         g->accumulate ? " accumulate" : "", i, (double)got[i], (double)want[i]);
            break;
        }
        CHECK(guard_is_whole(scratch, scratch_bytes));
        free(scratch);
        free(got);
    }
}

/* One case on ref and on every table, with the same start values and guards before, between and behind the
 * rows. Rows lie at any address, those of large outputs at multiples of a line: these are streamed
 * (kernels/cpu/stream.h). */
static void compare(struct sl_gemm8 g, bool swiglu)
{
    uint32_t columns = swiglu ? g.w.n / 2 : g.w.n;
    g.y_stride = (size_t)g.m * columns >= 1 << 15 ? sl_round_lanes(columns) + SL_LANES : columns + 3;
    size_t n = GUARD + g.m * g.y_stride + GUARD;
    float *start = take(n * 4), *want = take(n * 4);
    for (size_t i = 0; i < n; i++)
        start[i] = (float)(sl_rng_unit(sl_rng_next(&rng)) - 0.5) * 100;
    memcpy(want, start, n * 4);
    g.y = want + GUARD;
    (swiglu ? sl_ops_ref.gemm8_swiglu : sl_ops_ref.gemm8)(&g, NULL);
    EACH_TABLE (ops)
        check_table(ops, &g, swiglu, start, want, n);
    free(start);
    free(want);
}

static void vary(uint32_t m, uint32_t n, uint32_t k, enum sl_dtype d, enum weights how)
{
    uint32_t rows[SOURCE_ROWS];
    struct sl_panel w = draw_panel(n, k, d, how);
    struct sl_rows8 x = draw_rows(k);
    for (uint32_t i = 0; i < SOURCE_ROWS; i++)
        rows[i] = below(SOURCE_ROWS);
    struct sl_gemm8 g = {.x = x, .m = m, .w = w, .col_end = n};
    compare(g, false);
    g.rows = rows;
    g.accumulate = true;
    compare(g, false);
    if (n > SL_LANES) {
        g.col_begin = SL_LANES;
        compare(g, false);
        g.col_end = n / SL_LANES * SL_LANES;
        compare(g, false);
    }
    free_rows(x);
    free_panel(w);
}

SL_TEST(gemm8_has_the_bits_of_ref_for_every_number_of_rows)
{
    for (uint32_t m = 1; m <= 70; m += small() ? 3 : 1)
        EACH_FORMAT(d)
    vary(m, small() ? 17 : m % 2 ? 80 : 49, small() ? 40 : m % 3 ? 96 : 77, d, RANDOM);
}

SL_TEST(gemm8_has_the_bits_of_ref_for_ragged_shapes)
{
    static const uint32_t ns[] = {1, 15, 16, 33, 64, 100, 129},
                          ks[] = {1, 3, 4, 31, 32, 33, 63, 64, 65, 127, 255, 480};
    static const uint32_t ms[] = {1, 2, 3, 4, 5, 7, 13, 21};
    for (size_t i = 0; i < 7; i += small() ? 3 : 1)
        for (size_t j = 0; j < 12; j += small() ? 4 : 1)
            EACH_FORMAT(d)
    vary(ms[below(8)], ns[i], ks[j], d, RANDOM);
}

SL_TEST(gemm8_is_exact_at_the_ends_of_every_range)
{
    EACH_FORMAT(d)
    for (enum weights how = LOWEST; how <= HIGHEST; how++) {
        vary(20, 32, small() ? 64 : 1024, d, how);
        vary(4, 16, small() ? 64 : 4096, d, how);
    }
}

SL_TEST(gemm8_of_the_longest_rows)
{
    if (small()) {
        sl_test_skip("rows of 65536 inputs take too long on an emulated processor");
        return;
    }
    struct sl_rows8 x = draw_rows(SL_QUANT_MAX_K);
    EACH_FORMAT(d)
    {
        struct sl_panel w = draw_panel(16, SL_QUANT_MAX_K, d, HIGHEST);
        compare((struct sl_gemm8){.x = x, .m = 7, .w = w, .col_end = 16}, false);
        free_panel(w);
    }
    free_rows(x);
}

SL_TEST(gemm8_packs_more_rows_than_fit_at_once)
{
    if (small()) {
        sl_test_skip("many long rows take too long on an emulated processor");
        return;
    }
    EACH_FORMAT(d)
    vary(90, 16, 9000, d, RANDOM);
    struct sl_panel w = draw_panel(16, 8, SL_I4, RANDOM);
    struct sl_rows8 x = draw_rows(8);
    uint32_t rows[2100];
    for (uint32_t i = 0; i < 2100; i++)
        rows[i] = below(SOURCE_ROWS);
    compare((struct sl_gemm8){.x = x, .rows = rows, .m = 2100, .w = w, .col_end = 16}, false);
    free_rows(x);
    free_panel(w);
}

SL_TEST(gemm8_of_a_large_output_has_the_bits_of_ref)
{
    uint32_t rows[300];
    for (uint32_t i = 0; i < 300; i++)
        rows[i] = below(SOURCE_ROWS);
    EACH_FORMAT(d)
    {
        struct sl_panel w = draw_panel(7 * SL_LANES + 5, 40, d, RANDOM); /* the last block is not streamed */
        struct sl_rows8 x = draw_rows(40);
        compare((struct sl_gemm8){.x = x, .rows = rows, .m = 300, .w = w, .col_end = w.n}, false);
        free_rows(x);
        free_panel(w);
    }
}

SL_TEST(gemm8_of_no_rows_or_columns_writes_nothing)
{
    EACH_FORMAT(d)
    {
        struct sl_panel w = draw_panel(32, 40, d, RANDOM);
        struct sl_rows8 x = draw_rows(40);
        compare((struct sl_gemm8){.x = x, .m = 0, .w = w, .col_end = 32}, false);
        compare((struct sl_gemm8){.x = x, .m = 4, .w = w}, false);
        compare((struct sl_gemm8){.x = x, .m = 0, .w = w, .col_end = 16}, true);
        compare((struct sl_gemm8){.x = x, .m = 4, .w = w}, true);
        free_rows(x);
        free_panel(w);
    }
}

SL_TEST(swiglu_has_the_bits_of_ref)
{
    static const uint32_t widths[] = {1, 16, 33, 48, 96, 129};
    for (uint32_t m = 1; m <= 70; m += small() ? 9 : 1)
        EACH_FORMAT(d)
        {
            uint32_t inner = small() ? 17 : widths[m % 6], k = m % 2 ? 64 : 37, rows[SOURCE_ROWS];
            struct sl_panel w = draw_panel(2 * sl_round_lanes(inner), k, d, RANDOM);
            struct sl_rows8 x = draw_rows(k);
            for (uint32_t i = 0; i < SOURCE_ROWS; i++)
                rows[i] = below(SOURCE_ROWS);
            struct sl_gemm8 g = {.x = x, .m = m, .w = w, .col_end = inner};
            compare(g, true);
            g.rows = rows;
            g.col_end = sl_round_lanes(inner);
            g.col_begin = g.col_end > 16 ? 16 : 0;
            compare(g, true);
            free_rows(x);
            free_panel(w);
        }
}

/* Activations that are 1 at one input pick single weights out of a panel: with S and scale 1 the output is w8
 * itself. */
SL_TEST(every_decoder_gives_the_weight_of_the_layout)
{
    enum { K = 96, N = 32 };
    EACH_FORMAT(d)
    {
        struct sl_panel w = draw_panel(N, K, d, RANDOM);
        size_t block = sl_quant_block_bytes(d, K);
        for (uint32_t c = 0; c < N; c++)
            ((float *)(uintptr_t)w.data)[c / SL_LANES * block / 4 + c % SL_LANES] = 1.0f;
        struct sl_rows8 x = draw_rows(K);
        memset(x.q, 0, SOURCE_ROWS * x.stride);
        for (uint32_t r = 0; r < SOURCE_ROWS; r++) {
            x.q[r * x.stride + r % K] = 1;
            x.sum[r] = 1;
            x.scale[r] = 1.0f;
        }
        EACH_TABLE (ops) {
            void *scratch = take(ops->scratch_bytes(K));
            float *y = take(SOURCE_ROWS * N * 4);
            for (int way = 1; way < 3; way++) {
                force(way);
                ops->gemm8(&(struct sl_gemm8){.x = x, .m = K, .w = w, .col_end = N, .y = y, .y_stride = N},
                           scratch);
                force(0);
                for (uint32_t i = 0; i < K * N; i++) {
                    const uint8_t *at = (const uint8_t *)w.data + i % N / SL_LANES * block;
                    if (y[i] != (float)sl_quant_weight(d, K, at, i % SL_LANES, i / N)) {
                        sl_test_fail(__FILE__, __LINE__, "%s %s %s: weight %u of output %u is %g", ops->name,
                                     sl_dtype_name(d), way_names[way], i / N, i % N, (double)y[i]);
                        break;
                    }
                }
            }
            free(scratch);
            free(y);
        }
        free_rows(x);
        free_panel(w);
    }
}

SL_TEST(ref_rounds_an_exact_sum_once)
{
    enum { K = 999 };
    EACH_FORMAT(d)
    {
        struct sl_panel w = draw_panel(16, K, d, RANDOM);
        struct sl_rows8 x = draw_rows(K);
        float y[16];
        for (uint32_t r = 0; r < 32; r++) {
            if (isnan(x.scale[r]))
                continue;
            sl_ops_ref.gemm8(
                &(struct sl_gemm8){.x = x, .rows = &r, .m = 1, .w = w, .col_end = 16, .y = y, .y_stride = 16},
                NULL);
            for (uint32_t c = 0; c < 16; c++) {
                int64_t sum = 0;
                for (uint32_t t = 0; t < K; t++)
                    sum += (int64_t)x.q[r * x.stride + t] * sl_quant_weight(d, K, w.data, c, t);
                double exact = (double)sl_quant_row_scales(w.data)[c] * (double)x.scale[r] * (double)sum;
                float near = (float)exact;
                CHECK(y[c] >= nextafterf(near, -INFINITY) && y[c] <= nextafterf(near, INFINITY));
            }
        }
        free_rows(x);
        free_panel(w);
    }
}

static void compare_quantise(const float *x, uint32_t k, const char *what)
{
    size_t q_bytes = sl_rows8_stride(k) + 64 * below(2);
    int8_t *want = take(q_bytes), *got = take(q_bytes);
    float scale = -1;
    int32_t sum = -1;
    sl_ops_ref.quantise(x, k, want, q_bytes, &scale, &sum);
    EACH_TABLE (ops) {
        float my_scale = -1;
        int32_t my_sum = -1;
        memset(got, 0x5A, q_bytes);
        ops->quantise(x, k, got, q_bytes, &my_scale, &my_sum);
        if (!same_float(scale, my_scale) || sum != my_sum || memcmp(want, got, q_bytes) != 0 ||
            !guard_is_whole(got, q_bytes))
            sl_test_fail(__FILE__, __LINE__,
                         "%s quantises a row of %u (%s) to scale %a sum %d, ref to %a, %d", ops->name, k,
                         what, (double)my_scale, my_sum, (double)scale, sum);
    }
    free(want);
    free(got);
}

SL_TEST(quantise_has_the_bits_of_ref)
{
    static const uint32_t ks[] = {1, 2, 15, 16, 17, 63, 64, 65, 768, 2048};
    static const float magnitudes[] = {1.0f, 1e-3f, 1e-28f, 1e-31f, 1e-38f, 1e-42f, 1e30f, 3.4e38f};
    for (size_t i = 0; i < 10; i++) {
        uint32_t k = ks[i];
        float *x = take(k * 4);
        for (size_t j = 0; j < 8; j++) {
            for (uint32_t t = 0; t < k; t++)
                x[t] = (float)(2 * sl_rng_unit(sl_rng_next(&rng)) - 1) * magnitudes[j];
            compare_quantise(x, k, "random");
            x[below(k)] = magnitudes[j] * 1.00001f;
            x[below(k)] = -0.0f;
            compare_quantise(x, k, "with an outlier");
        }
        for (int n = 1; n <= 127; n += 2) { /* quotients that lie half between integers */
            for (uint32_t t = 0; t < k; t++)
                x[t] = (float)((int)(t % 254) - 127) + 0.5f;
            x[0] = 127.0f;
            compare_quantise(x, k, "halves");
        }
        free(x);
    }
}

SL_TEST(quantise_of_rows_that_are_no_numbers)
{
    static const float adverse[] = {NAN,        INFINITY,  -INFINITY, 0x1p-149f,
                                    -0x1p-126f, 0x1p-100f, 3.4e38f,   -0.0f};
    static const uint32_t ks[] = {1, 16, 37, 200};
    for (size_t i = 0; i < 4; i++)
        for (size_t j = 0; j < 8; j++) {
            uint32_t k = ks[i];
            float *x = take(k * 4);
            for (uint32_t t = 0; t < k; t++)
                x[t] = 0.0f;
            compare_quantise(x, k, "zeros");
            x[below(k)] = adverse[j];
            compare_quantise(x, k, "one-hot");
            for (uint32_t t = 0; t < k; t++)
                x[t] = adverse[j];
            compare_quantise(x, k, "all the same");
            for (uint32_t t = 0; t < k; t++)
                x[t] = 1.0f + (float)t;
            x[below(k)] = adverse[j];
            compare_quantise(x, k, "one among numbers");
            free(x);
        }
}

SL_TEST(rotate_has_the_bits_of_ref_and_is_its_own_inverse)
{
    for (uint32_t block = 1; block <= 1024; block *= 2)
        for (uint32_t times = 1; times <= 11; times += 5) {
            uint32_t k = block * times;
            float *x = take(k * 4), *want = take(k * 4), *got = take(k * 4);
            for (uint32_t t = 0; t < k; t++)
                x[t] = t % 50 == 7 ? -0.0f : (float)(2 * sl_rng_unit(sl_rng_next(&rng)) - 1);
            memcpy(want, x, k * 4);
            sl_ops_ref.rotate(want, k, block);
            EACH_TABLE (ops) {
                memcpy(got, x, k * 4);
                ops->rotate(got, k, block);
                if (memcmp(want, got, k * 4) != 0 || !guard_is_whole(got, k * 4))
                    sl_test_fail(__FILE__, __LINE__,
                                 "%s rotates %u floats in blocks of %u otherwise than ref", ops->name, k,
                                 block);
            }
            sl_ops_ref.rotate(want, k, block);
            for (uint32_t t = 0; t < k; t++)
                CHECK(fabsf(want[t] / (float)block - x[t]) < 1e-5f);
            free(x);
            free(want);
            free(got);
        }
}
