/* Every table this machine can run against ref, bit for bit; and ref against long double.
 *
 * Values are drawn from a seeded generator with adversaries among them: infinities, denormals,
 * zeros of both signs, huge and tiny numbers. Equality is of bits; two NaNs are equal whatever
 * their payload, since the sign of a fresh NaN depends on the order of operands, which C does not
 * fix. Outputs lie between guards, and the whole buffer is compared, so a store outside the range
 * fails as a wrong value does. */
#include "kernels/exp.h"
#define DRAW_SEED 20240607
#include "tests/kernels/draw.h"
#include "tests/kernels/same.h"
#include <stdlib.h>

enum { GUARD = 32, PAGES = 4 };
enum draw { PLAIN, ADVERSE, FINITE };

static float draw(enum draw how)
{
    static const float special[] = {0.0f, -0.0f,  0x1p-140f, -0x1p-149f, 0x1p-126f, 1e-30f,
                                    1.0f, -1e30f, 3e38f,     INFINITY,   -INFINITY};
    if (how == ADVERSE && below(40) == 0)
        return special[below(sizeof special / sizeof *special)];
    if (how == FINITE && below(40) == 0)
        return special[below(6)];
    return draw_unit();
}

static float *draw_floats(size_t n, enum draw how)
{
    float *p = take(n * sizeof *p);
    for (size_t i = 0; i < n; i++)
        p[i] = draw(how);
    return p;
}

/* A panel of n x k with zeros beyond n, the values rounded to bf16 for both types. */
static struct sl_panel draw_panel(uint32_t n, uint32_t k, enum sl_dtype dtype, enum draw how)
{
    void *data = take(sl_panel_bytes(dtype, n, k));
    for (uint32_t c = 0; c < sl_round_lanes(n); c++) {
        for (uint32_t t = 0; t < k; t++) {
            uint16_t h = c < n ? sl_f32_to_bf16(draw(how)) : 0;
            if (dtype == SL_BF16)
                ((uint16_t *)data)[sl_panel_at(k, c, t)] = h;
            else
                ((float *)data)[sl_panel_at(k, c, t)] = sl_bf16_to_f32(h);
        }
    }
    return (struct sl_panel){.data = data, .n = n, .k = k, .dtype = dtype};
}

typedef void gemm_fn(const struct sl_gemm *g, void *scratch);

/* One case on ref and on every table, with the same start values between guards. */
static void compare_gemm(struct sl_gemm g, bool swiglu)
{
    uint32_t columns = swiglu ? g.w.n / 2 : g.w.n;
    g.y_stride = columns + 3;
    size_t n = GUARD + g.m * g.y_stride + GUARD;
    float *start = draw_floats(n, FINITE), *want = take(n * 4), *got = take(n * 4);
    void *scratch = take(sl_ops_ref.scratch_bytes(g.w.k));
    memcpy(want, start, n * 4);
    g.y = want + GUARD;
    (swiglu ? sl_ops_ref.gemm_swiglu : sl_ops_ref.gemm)(&g, scratch);
    free(scratch);
    EACH_TABLE (ops) {
        scratch = take(ops->scratch_bytes(g.w.k));
        memcpy(got, start, n * 4);
        g.y = got + GUARD;
        (swiglu ? ops->gemm_swiglu : ops->gemm)(&g, scratch);
        CHECK_SAME(ops->name, want, got, n, "%s m %u n %u k %u columns [%u, %u) %s%s%s",
                   swiglu ? "swiglu" : "gemm", g.m, g.w.n, g.w.k, g.col_begin, g.col_end,
                   g.w.dtype == SL_BF16 ? "bf16" : "f32", g.rows ? " gather" : "",
                   g.accumulate ? " accumulate" : "");
        free(scratch);
    }
    free(start);
    free(want);
    free(got);
}

static void vary_gemm(uint32_t m, uint32_t n, uint32_t k, enum sl_dtype dtype, enum draw how)
{
    enum { SOURCE_ROWS = 90 };
    struct sl_panel w = draw_panel(n, k, dtype, how);
    uint32_t rows[SOURCE_ROWS];
    for (uint32_t i = 0; i < m; i++)
        rows[i] = below(SOURCE_ROWS);
    size_t stride = k + below(5);
    float *x = draw_floats(SOURCE_ROWS * stride, how);
    struct sl_gemm g = {.x = x, .x_stride = stride, .m = m, .w = w, .col_end = n};
    compare_gemm(g, false);
    g.rows = rows;
    g.accumulate = true;
    compare_gemm(g, false);
    if (n > SL_LANES) {
        g.col_begin = SL_LANES;
        compare_gemm(g, false);
        g.col_end = n / SL_LANES * SL_LANES;
        compare_gemm(g, false);
    }
    free(x);
    free((void *)(uintptr_t)w.data);
}

SL_TEST(gemm_has_the_bits_of_ref_for_every_number_of_rows)
{
    for (uint32_t m = 1; m <= 27; m++)
        for (enum sl_dtype dtype = SL_F32; dtype <= SL_BF16; dtype++)
            vary_gemm(m, m % 3 ? 255 : 96, m % 2 ? 48 : 33, dtype, m % 4 ? PLAIN : ADVERSE);
    vary_gemm(70, 96, 256, SL_BF16, PLAIN);
    vary_gemm(70, 96, 256, SL_F32, ADVERSE);
}

SL_TEST(gemm_has_the_bits_of_ref_for_ragged_shapes)
{
    static const uint32_t sizes[] = {1, 7, 48, 96, 255, 256};
    for (size_t i = 0; i < 6; i++)
        for (size_t j = 0; j < 6; j++)
            for (enum sl_dtype dtype = SL_F32; dtype <= SL_BF16; dtype++) {
                static const uint32_t few[] = {1, 2, 5, 13};
                vary_gemm(few[below(4)], sizes[i], sizes[j], dtype, below(2) ? ADVERSE : FINITE);
            }
}

SL_TEST(gemm_packs_more_rows_than_fit_at_once)
{
    /* k this long leaves room for one or two tiles: the loop over packs runs several times */
    vary_gemm(27, 32, 9000, SL_BF16, PLAIN);
}

SL_TEST(gemm_of_no_columns_or_rows_writes_nothing)
{
    struct sl_panel w = draw_panel(32, 8, SL_BF16, PLAIN);
    float *x = draw_floats(8 * 4, PLAIN);
    compare_gemm((struct sl_gemm){.x = x, .x_stride = 8, .m = 4, .w = w}, false);
    compare_gemm((struct sl_gemm){.x = x, .x_stride = 8, .m = 0, .w = w, .col_end = 32}, false);
    compare_gemm((struct sl_gemm){.x = x, .x_stride = 8, .m = 4, .w = w}, true);
    free(x);
    free((void *)(uintptr_t)w.data);
}

SL_TEST(swiglu_has_the_bits_of_ref)
{
    static const uint32_t widths[] = {1, 16, 33, 48, 96, 255};
    for (uint32_t m = 1; m <= 27; m++) {
        uint32_t inner = widths[m % 6], k = m % 2 ? 64 : 7;
        struct sl_panel w =
            draw_panel(2 * sl_round_lanes(inner), k, (enum sl_dtype)(m / 2 % 2), m % 3 ? PLAIN : ADVERSE);
        float *x = draw_floats(m * k, PLAIN);
        for (size_t i = 0; i < m * k; i++)
            x[i] *= 30; /* reaches both ends of silu */
        struct sl_gemm g = {.x = x, .x_stride = k, .m = m, .w = w, .col_end = inner};
        compare_gemm(g, true);
        g.col_end = sl_round_lanes(inner);
        g.col_begin = g.col_end > 16 ? 16 : 0;
        compare_gemm(g, true);
        free(x);
        free((void *)(uintptr_t)w.data);
    }
}

/* A KV head group of PAGES pages: every key beyond those used holds garbage, which must not matter.
 */
struct float_pages {
    struct sl_panel k[PAGES], v[PAGES];
    const void *k_data[PAGES], *v_data[PAGES];
};

static void draw_pages(struct float_pages *p, uint32_t d_head, enum sl_dtype dtype)
{
    for (uint32_t i = 0; i < PAGES; i++) {
        p->k[i] = draw_panel(SL_PAGE_TOKENS, d_head, dtype, PLAIN);
        p->v[i] = draw_panel(d_head, SL_PAGE_TOKENS, dtype, PLAIN);
        p->k_data[i] = p->k[i].data;
        p->v_data[i] = p->v[i].data;
    }
}

static void free_pages(struct float_pages *p)
{
    for (uint32_t i = 0; i < PAGES; i++) {
        free((void *)(uintptr_t)p->k_data[i]);
        free((void *)(uintptr_t)p->v_data[i]);
    }
}

static void run_attend(const struct sl_ops *ops, const struct sl_attend *a)
{
    void *scratch = take(ops->scratch_bytes(a->d_head));
    ops->attend(a, scratch);
    free(scratch);
}

/* All tables agree with ref, and each agrees with itself one token at a time. */
static void compare_attend(struct sl_attend a)
{
    uint32_t width = a.n_rep * a.d_head;
    a.q_stride = width + 5;
    a.out_stride = width + 2;
    float *q = draw_floats(a.n_tok * a.q_stride, PLAIN);
    for (size_t i = 0; i < a.n_tok * a.q_stride; i++)
        q[i] *= 4;
    size_t n = a.n_tok * a.out_stride + 2 * GUARD;
    float *start = draw_floats(n, PLAIN), *want = take(n * 4), *got = take(n * 4);
    memcpy(want, start, n * 4);
    a.q = q;
    a.out = want + GUARD;
    run_attend(&sl_ops_ref, &a);
    EACH_TABLE (ops) {
        memcpy(got, start, n * 4);
        a.out = got + GUARD;
        run_attend(ops, &a);
        CHECK_SAME(ops->name, want, got, n, "attend pos %u tokens %u heads %u x %u", a.pos, a.n_tok, a.n_rep,
                   a.d_head);
        memcpy(got, start, n * 4);
        for (uint32_t t = 0; t < a.n_tok; t++) {
            struct sl_attend one = a;
            one.q = q + t * a.q_stride;
            one.out = got + GUARD + t * a.out_stride;
            one.pos = a.pos + t;
            one.n_tok = 1;
            run_attend(ops, &one);
        }
        CHECK_SAME(ops->name, want, got, n, "attend token by token from %u, %u x %u", a.pos, a.n_rep,
                   a.d_head);
    }
    free(q);
    free(start);
    free(want);
    free(got);
}

SL_TEST(attend_has_the_bits_of_ref_and_of_its_own_parts)
{
    static const uint32_t heads[] = {1, 3, 8}, sizes[] = {24, 64, 128};
    static const uint32_t begins[] = {0, 1, 63, 64, 65, 130}, counts[] = {1, 7, 64, 70};
    uint32_t turn = 0;
    for (size_t d = 0; d < 3; d++) {
        for (enum sl_dtype dtype = SL_F32; dtype <= SL_BF16; dtype++) {
            struct float_pages pages;
            draw_pages(&pages, sizes[d], dtype);
            for (size_t b = 0; b < 6; b++)
                for (size_t c = 0; c < 4; c++)
                    compare_attend((struct sl_attend){.n_rep = heads[turn++ % 3],
                                                      .d_head = sizes[d],
                                                      .n_tok = counts[c],
                                                      .pos = begins[b],
                                                      .k_pages = pages.k_data,
                                                      .v_pages = pages.v_data,
                                                      .kv_dtype = dtype,
                                                      .scale = 0.125f});
            free_pages(&pages);
        }
    }
}

SL_TEST(attend_never_looks_beyond_the_token)
{
    struct float_pages pages;
    draw_pages(&pages, 64, SL_F32);
    float *q = draw_floats(64 * 40, PLAIN), *first = take(64 * 40 * 4), *second = take(64 * 40 * 4);
    struct sl_attend a = {.q = q,
                          .q_stride = 64,
                          .n_rep = 1,
                          .d_head = 64,
                          .n_tok = 40,
                          .pos = 70,
                          .k_pages = pages.k_data,
                          .v_pages = pages.v_data,
                          .scale = 0.125f,
                          .out_stride = 64};
    uint32_t n;
    const struct sl_ops *const *tables = sl_ops_available(&n);
    for (uint32_t i = 0; i < n; i++) {
        a.out = first;
        run_attend(tables[i], &a);
        /* keys from position 110 on, and a page that must not be touched at all */
        for (uint32_t key = 110 - 64; key < 64; key++)
            for (uint32_t j = 0; j < 64; j++) {
                ((float *)(uintptr_t)pages.k_data[1])[sl_panel_at(64, key, j)] = draw(PLAIN) * 1e6f;
                ((float *)(uintptr_t)pages.v_data[1])[sl_panel_at(64, j, key)] = draw(PLAIN) * 1e6f;
            }
        const void *k = pages.k_data[2], *v = pages.v_data[2];
        pages.k_data[2] = pages.v_data[2] = NULL;
        a.out = second;
        run_attend(tables[i], &a);
        CHECK_SAME(tables[i]->name, first, second, 64 * 40, "garbage after the last key");
        pages.k_data[2] = k;
        pages.v_data[2] = v;
    }
    free(q);
    free(first);
    free(second);
    free_pages(&pages);
}

SL_TEST(norm_rope_softmax_combine_have_the_bits_of_ref)
{
    for (uint32_t n = 1; n < 140; n++) {
        enum draw how = n % 3 ? PLAIN : ADVERSE;
        float *x = draw_floats(2 * n + GUARD, how), *gain = draw_floats(n, PLAIN);
        float *sine = draw_floats(n, PLAIN), *want = take((2 * n + GUARD) * 4);
        float *got = take((2 * n + GUARD) * 4);
        const float *const rows[3] = {gain, sine, x + n};
        float *pairs = draw_floats(2 * sl_round_lanes(n), how);
        const size_t all = 2 * n + GUARD;
        EACH_TABLE (ops) {
#define BOTH(call, what)                                                                                     \
    do {                                                                                                     \
        const struct sl_ops *o = &sl_ops_ref;                                                                \
        float *y = memcpy(want, x, all * 4);                                                                 \
        call;                                                                                                \
        o = ops;                                                                                             \
        y = memcpy(got, x, all * 4);                                                                         \
        call;                                                                                                \
        CHECK_SAME(ops->name, want, got, all, what " of %u", n);                                             \
    } while (0)
            BOTH(o->rmsnorm(y, x, gain, n, 1e-6f), "rmsnorm");
            BOTH(o->rmsnorm(y, y, gain, n, 1e-6f), "rmsnorm in place");
            BOTH(o->rope(y, gain, sine, n), "rope");
            BOTH(o->softmax(y, n), "softmax");
            BOTH(o->swiglu(y, pairs, n), "swiglu");
            BOTH(o->combine(y, rows, gain, n < 3 ? n : 3, n), "combine");
            BOTH(o->convert(y, SL_F32, gain, n), "convert to f32");
            BOTH(o->convert(y, SL_BF16, x, n), "convert to bf16");
#undef BOTH
        }
        free(pairs);
        free(x);
        free(gain);
        free(sine);
        free(want);
        free(got);
    }
}

SL_TEST(convert_keeps_nan_and_rounds_to_even)
{
    const float in[17] = {NAN,       -NAN,      INFINITY,  -INFINITY,     0.0f,         -0.0f,
                          1.0f,      0x1.01p0f, 0x1.03p0f, 0x1.010002p0f, 3.4e38f,      -3.4e38f,
                          0x1p-149f, 0x1p-126f, -1e-40f,   0x1.fep127f,   0x1.fefffep0f};
    uint16_t want[17], got[17];
    sl_ops_ref.convert(want, SL_BF16, in, 17);
    CHECK((want[0] & 0x7FFF) > 0x7F80);
    CHECK_INT(want[7], 0x3F80);
    CHECK_INT(want[8], 0x3F82);
    CHECK_INT(want[9], 0x3F81);
    CHECK_INT(want[10], 0x7F80);
    EACH_TABLE (ops) {
        ops->convert(got, SL_BF16, in, 17);
        CHECK(memcmp(want, got, sizeof want) == 0);
    }
}

SL_TEST(exp_is_close_and_its_ends_are_exact)
{
    double worst = 0, worst2 = 0, worst_silu = 0;
    for (int i = -870000; i <= 880000; i++) {
        float x = (float)i * 1e-4f;
        double want = (double)expl((long double)x), want2 = (double)exp2l((long double)x);
        worst = fmax(worst, fabs((double)sl_expf(x) / want - 1.0));
        worst2 = fmax(worst2, fabs((double)sl_exp2_scalar(x) / want2 - 1.0));
        double silu = (double)x / (1.0 + exp(-(double)x));
        worst_silu = fmax(worst_silu, fabs((double)sl_silu_scalar(x) - silu) / (fabs(silu) + 1e-30));
    }
    if (worst > 4e-7 || worst2 > 4e-7 || worst_silu > 6e-7)
        sl_test_fail(__FILE__, __LINE__, "relative errors exp %g, exp2 %g, silu %g", worst, worst2,
                     worst_silu);
    CHECK(sl_expf(0.0f) == 1.0f && sl_exp2_scalar(-0.0f) == 1.0f);
    CHECK(same_float(sl_expf(-INFINITY), 0.0f) && same_float(sl_expf(-87.31f), 0.0f));
    CHECK(same_float(sl_exp2_scalar(-INFINITY), 0.0f) && same_float(sl_exp2_scalar(-1e30f), 0.0f));
    CHECK(isfinite(sl_expf(INFINITY)) && sl_expf(INFINITY) > 3.39e38f);
    CHECK(isfinite(sl_exp2_scalar(INFINITY)) && sl_exp2_scalar(127.0f) == 0x1p127f);
    CHECK(isnan(sl_expf(NAN)) && isnan(sl_exp2_scalar(NAN)));
}

/* exp as the tables see it: softmax of rows [0, x] has exp(x) in it, over the whole range. */
SL_TEST(every_table_has_the_exp_of_ref)
{
    enum { N = 1600 };
    float want[N], got[N];
    for (int round = 0; round < 60; round++) {
        for (int i = 0; i < N; i++)
            want[i] = i == 0 ? 0.0f : (float)(-120.0 * sl_rng_unit(sl_rng_next(&rng)));
        want[1] = -INFINITY;
        memcpy(got, want, sizeof got);
        float start[N];
        memcpy(start, want, sizeof start);
        sl_ops_ref.softmax(want, N);
        EACH_TABLE (ops) {
            memcpy(got, start, sizeof got);
            ops->softmax(got, N);
            CHECK_SAME(ops->name, want, got, N, "softmax round %d", round);
        }
    }
}

/* Of both signs, quiet and signalling, with all of the low bits that exp would shift into an exponent; i < NANS. */
enum { NANS = 2 * 6 * 512 };
static float nan_of(uint32_t i)
{
    static const uint32_t high[] = {0, 1, 0x1FFF, 0x2000, 0x2001, 0x3FFF}; /* 0x2000: quiet */
    uint32_t payload = high[i / 2 % 6] << 9 | i / 12,
             bits = i % 2 << 31 | 0x7F800000u | (payload ? payload : 3);
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static bool all_nan(const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isnan(x[i]))
            return false;
    return true;
}

SL_TEST(exp_of_no_number_is_none_whatever_its_payload_in_every_table)
{
    enum { N = 37 };
    float x[N], gates[2 * SL_LANES * 3], y[N];
    for (uint32_t i = 0; i < NANS; i++) {
        CHECK(isnan(sl_expf(nan_of(i))) && isnan(sl_exp2_scalar(nan_of(i))) &&
              isnan(sl_silu_scalar(nan_of(i))));
        EACH_TABLE (ops) {
            const uint32_t at = i * 5 % N;
            for (uint32_t j = 0; j < N; j++) /* the largest comes first, so that it is a number */
                x[j] = j == at && at > 0 ? nan_of(i) : -(float)j;
            ops->softmax(x, N);
            if (at > 0 && !all_nan(x, N))
                sl_test_fail(__FILE__, __LINE__, "%s: softmax, payload %u at %u", ops->name, i, at);
            for (uint32_t j = 0; j < sizeof gates / sizeof *gates; j++)
                gates[j] = j % (2 * SL_LANES) < SL_LANES ? nan_of(i) : 0.5f;
            ops->swiglu(y, gates, N);
            if (!all_nan(y, N))
                sl_test_fail(__FILE__, __LINE__, "%s: swiglu, payload %u", ops->name, i);
        }
    }
    sl_ops_ref.softmax(x, N);
    CHECK(all_nan(x, N));
}

/* A key that is no number makes none of what its row becomes; rows before it do not see it. */
SL_TEST(attend_of_a_key_that_is_no_number_is_none_in_every_table)
{
    enum { D = 24, TOKENS = 9, KEY = 66, POS = 62 };
    struct float_pages pages;
    float *q = draw_floats(TOKENS * D, PLAIN), out[TOKENS * D];
    draw_pages(&pages, D, SL_F32);
    for (uint32_t i = 0; i < NANS; i += 31) {
        ((float *)(uintptr_t)
             pages.k_data[KEY / SL_PAGE_TOKENS])[sl_panel_at(D, KEY % SL_PAGE_TOKENS, i % D)] = nan_of(i);
        struct sl_attend a = {.q = q,
                              .q_stride = D,
                              .n_rep = 1,
                              .d_head = D,
                              .n_tok = TOKENS,
                              .pos = POS,
                              .k_pages = pages.k_data,
                              .v_pages = pages.v_data,
                              .kv_dtype = SL_F32,
                              .scale = 0.125f,
                              .out = out,
                              .out_stride = D};
        run_attend(&sl_ops_ref, &a);
        CHECK(isfinite(out[(KEY - POS) * D - 1]) &&
              all_nan(out + (KEY - POS) * D, (TOKENS - (KEY - POS)) * D));
        EACH_TABLE (ops) {
            run_attend(ops, &a);
            if (!isfinite(out[(KEY - POS) * D - 1]) ||
                !all_nan(out + (KEY - POS) * D, (TOKENS - (KEY - POS)) * D))
                sl_test_fail(__FILE__, __LINE__, "%s: payload %u", ops->name, i);
        }
        ((float *)(uintptr_t)
             pages.k_data[KEY / SL_PAGE_TOKENS])[sl_panel_at(D, KEY % SL_PAGE_TOKENS, i % D)] = 0;
    }
    free_pages(&pages);
    free(q);
}

SL_TEST(ref_is_close_to_long_double)
{
    enum { N = 48, K = 255 };
    struct sl_panel w = draw_panel(N, K, SL_BF16, PLAIN);
    float *x = draw_floats(K, PLAIN), y[N], gain[K], normed[K];
    sl_ops_ref.gemm(
        &(struct sl_gemm){.x = x, .x_stride = K, .m = 1, .w = w, .col_end = N, .y = y, .y_stride = N}, NULL);
    for (uint32_t c = 0; c < N; c++) {
        long double sum = 0, magnitude = 0;
        for (uint32_t t = 0; t < K; t++) {
            long double p =
                (long double)x[t] * sl_bf16_to_f32(((const uint16_t *)w.data)[sl_panel_at(K, c, t)]);
            sum += p;
            magnitude += fabsl(p);
        }
        CHECK(fabsl((long double)y[c] - sum) < 2e-6L * magnitude);
    }
    long double squares = 0;
    for (uint32_t t = 0; t < K; t++) {
        squares += (long double)x[t] * x[t];
        gain[t] = 1.0f + (float)t * 0.01f;
    }
    sl_ops_ref.rmsnorm(normed, x, gain, K, 1e-6f);
    for (uint32_t t = 0; t < K; t++) {
        long double want = x[t] / sqrtl(squares / K + 1e-6L) * gain[t];
        CHECK(fabsl(normed[t] - want) <= 1e-6L * fabsl(want));
    }
    free(x);
    free((void *)(uintptr_t)w.data);
}

SL_TEST(ref_attention_is_close_to_long_double)
{
    enum { D = 24, POS = 130 };
    struct float_pages pages;
    draw_pages(&pages, D, SL_BF16);
    float *q = draw_floats(D, PLAIN), out[D];
    run_attend(&sl_ops_ref, &(struct sl_attend){.q = q,
                                                .n_rep = 1,
                                                .d_head = D,
                                                .n_tok = 1,
                                                .pos = POS,
                                                .k_pages = pages.k_data,
                                                .v_pages = pages.v_data,
                                                .kv_dtype = SL_BF16,
                                                .scale = 0.7f,
                                                .out = out});
    long double sum = 0, want[D] = {0};
    for (uint32_t key = 0; key <= POS; key++) {
        const uint16_t *k = pages.k_data[key / 64], *v = pages.v_data[key / 64];
        long double score = 0;
        for (uint32_t j = 0; j < D; j++)
            score += (long double)q[j] * sl_bf16_to_f32(k[sl_panel_at(D, key % 64, j)]);
        long double p = expl(score * 0.7L);
        sum += p;
        for (uint32_t j = 0; j < D; j++)
            want[j] += p * sl_bf16_to_f32(v[sl_panel_at(64, j, key % 64)]);
    }
    for (uint32_t j = 0; j < D; j++)
        CHECK(fabsl(out[j] - want[j] / sum) < 1e-6L);
    free(q);
    free_pages(&pages);
}

SL_TEST(select_follows_the_mask)
{
    const struct sl_ops *ops;
    struct sl_err err;
    char *before = getenv("SLUICE_CPU");
    char *kept = before ? strdup(before) : NULL;
    setenv("SLUICE_CPU", "ref", 1);
    REQUIRE(sl_ops_select(&ops, &err) == SL_OK);
    CHECK_STR(ops->name, "ref");
    setenv("SLUICE_CPU", "abacus", 1);
    CHECK_INT(sl_ops_select(&ops, &err), SL_E_CONFIG);
    CHECK_CONTAINS(err.text, "abacus");
    unsetenv("SLUICE_CPU");
    uint32_t n;
    REQUIRE(sl_ops_select(&ops, &err) == SL_OK);
    CHECK(ops == sl_ops_available(&n)[0]);
    CHECK(sl_ops_available(&n)[n - 1] == &sl_ops_ref);
    if (kept)
        setenv("SLUICE_CPU", kept, 1);
    free(kept);
}
