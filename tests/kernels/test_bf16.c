/* Profile bf16dot: the processor's dot product against its description in ref/bf16_ref.c, bit for bit, and ref against
 * double arithmetic.
 *
 * The first test asks the instruction itself, one step at a time over the whole range of exponents: were a processor to
 * round otherwise than the manual says, it would fail here, by name. The others compare the kernels with ref, and rows
 * and columns done alone with those done in company. Equality is of bits; two NaNs are equal. Where the processor has no
 * bf16 dot product only ref is left, and the comparisons are skipped aloud. */
#define DRAW_SEED 20251124
#include "tests/kernels/draw.h"
#include "tests/kernels/same.h"
#include <stdlib.h>

enum { GUARD = 32, PAGES = 4 };

static float *draw_floats(size_t n)
{
    float *p = take(n * sizeof *p);
    for (size_t i = 0; i < n; i++)
        p[i] = draw_unit();
    return p;
}

static struct sl_panel draw_panel(uint32_t n, uint32_t k, enum sl_dtype dtype)
{
    void *data = take(sl_panel_bytes(dtype, n, k));
    for (uint32_t c = 0; c < sl_round_lanes(n); c++)
        for (uint32_t t = 0; t < k; t++) {
            float w = c < n ? draw_unit() : 0.0f;
            if (dtype == SL_BF16)
                ((uint16_t *)data)[sl_panel_at(k, c, t)] = sl_f32_to_bf16(w);
            else
                ((float *)data)[sl_panel_at(k, c, t)] = w;
        }
    return (struct sl_panel){.data = data, .n = n, .k = k, .dtype = dtype};
}

static void free_panel(struct sl_panel w)
{
    free((void *)(uintptr_t)w.data);
}

/* The tables of the profile: ref last. */
static const struct sl_ops *const *tables_of_profile(uint32_t *n, const struct sl_ops **ref)
{
    const struct sl_ops *const *tables = sl_ops_available_profile(SL_PROFILE_BF16DOT, n);
    *ref = tables[*n - 1];
    if (*n == 1)
        sl_test_skip("this processor has no AVX512_BF16: ref is the only table of bf16dot");
    return tables;
}

static void run_gemm(const struct sl_ops *ops, const struct sl_gemm *g, bool swiglu)
{
    void *scratch = take(ops->scratch_bytes(g->w.k));
    (swiglu ? ops->gemm_swiglu : ops->gemm)(g, scratch);
    free(scratch);
}

/* ---- the instruction ---- */

enum { RANGES = 6 };

/* Any bits; or sums and products of about the same size, of the smallest, of the largest, or denormal. */
static uint32_t draw_bits(uint32_t range, bool sum)
{
    static const struct {
        uint32_t low, width; /* of the exponent */
    } factors[RANGES] = {{0, 256}, {120, 14}, {50, 20}, {180, 20}, {0, 3}, {125, 3}},
      sums[RANGES] = {{0, 256}, {115, 24}, {0, 12}, {240, 15}, {0, 24}, {0, 2}};
    uint32_t low = sum ? sums[range].low : factors[range].low,
             width = sum ? sums[range].width : factors[range].width;
    return ((uint32_t)sl_rng_next(&rng) & 0x807FFFFFu) | (low + below(width)) << 23;
}

SL_TEST(the_instruction_is_two_fused_steps_odd_first_without_denormals)
{
    uint32_t n;
    const struct sl_ops *ref, *const *tables = tables_of_profile(&n, &ref);
    uint16_t w[2 * SL_LANES] __attribute__((aligned(64)));
    for (uint32_t turn = 0; turn < 60000 && n > 1; turn++) {
        float x[2], start[SL_LANES], want[SL_LANES], got[SL_LANES];
        uint32_t range = turn % RANGES;
        for (uint32_t i = 0; i < 2 * SL_LANES; i++)
            w[i] = (uint16_t)(draw_bits(range, false) >> 16);
        for (uint32_t i = 0; i < SL_LANES; i++) {
            uint32_t bits = draw_bits(range, true);
            memcpy(&start[i], &bits, 4);
        }
        for (uint32_t i = 0; i < 2; i++) {
            uint32_t bits = draw_bits(range == 4 ? 3 : range, false); /* denormal weights meet large inputs */
            memcpy(&x[i], &bits, 4);
        }
        struct sl_gemm g = {.x = x,
                            .x_stride = 2,
                            .m = 1,
                            .w = {.data = w, .n = SL_LANES, .k = 2, .dtype = SL_BF16},
                            .col_end = SL_LANES,
                            .y = want,
                            .y_stride = SL_LANES,
                            .accumulate = true};
        memcpy(want, start, sizeof want);
        run_gemm(ref, &g, false);
        memcpy(got, start, sizeof got);
        g.y = got;
        run_gemm(tables[0], &g, false);
        CHECK_SAME(tables[0]->name, want, got, SL_LANES, "range %u, x = %a, %a", range, (double)x[0],
                   (double)x[1]);
    }
}

/* ---- products ---- */

static void compare_gemm(struct sl_gemm g, bool swiglu)
{
    uint32_t n_tables;
    const struct sl_ops *ref, *const *tables = sl_ops_available_profile(SL_PROFILE_BF16DOT, &n_tables);
    ref = tables[n_tables - 1];
    g.y_stride = (swiglu ? g.w.n / 2 : g.w.n) + 3;
    size_t n = GUARD + g.m * g.y_stride + GUARD;
    float *start = draw_floats(n), *want = take(n * 4), *got = take(n * 4);
    memcpy(want, start, n * 4);
    g.y = want + GUARD;
    run_gemm(ref, &g, swiglu);
    for (uint32_t i = 0; i + 1 < n_tables; i++) {
        memcpy(got, start, n * 4);
        g.y = got + GUARD;
        run_gemm(tables[i], &g, swiglu);
        CHECK_SAME(tables[i]->name, want, got, n, "%s m %u n %u k %u columns [%u, %u)%s%s%s",
                   swiglu ? "swiglu" : "gemm", g.m, g.w.n, g.w.k, g.col_begin, g.col_end,
                   g.w.dtype == SL_F32 ? " f32" : "", g.rows ? " gather" : "",
                   g.accumulate ? " accumulate" : "");
    }
    free(start);
    free(want);
    free(got);
}

static void vary_gemm(uint32_t m, uint32_t n, uint32_t k, enum sl_dtype dtype)
{
    enum { SOURCE_ROWS = 90 };
    struct sl_panel w = draw_panel(n, k, dtype);
    uint32_t rows[SOURCE_ROWS];
    for (uint32_t i = 0; i < m; i++)
        rows[i] = below(SOURCE_ROWS);
    size_t stride = k + below(5);
    float *x = draw_floats(SOURCE_ROWS * stride);
    struct sl_gemm g = {.x = x, .x_stride = stride, .m = m, .w = w, .col_end = n};
    compare_gemm(g, false);
    g.rows = rows;
    g.accumulate = true;
    compare_gemm(g, false);
    if (n > 2 * SL_LANES) {
        g.col_begin = SL_LANES;
        g.col_end = n / SL_LANES * SL_LANES;
        compare_gemm(g, false);
    }
    free(x);
    free_panel(w);
}

SL_TEST(gemm_has_the_bits_of_ref)
{
    static const uint32_t sizes[] = {1, 2, 7, 16, 33, 255, 256};
    uint32_t n_tables;
    const struct sl_ops *ref;
    tables_of_profile(&n_tables, &ref);
    for (uint32_t m = 0; m <= 27; m++)
        for (enum sl_dtype dtype = SL_F32; dtype <= SL_BF16; dtype++)
            vary_gemm(m, m % 3 ? 255 : 96, m % 2 ? 48 : 33, dtype);
    for (size_t i = 0; i < 7; i++)
        for (size_t j = 0; j < 7; j++)
            vary_gemm(1 + below(14), sizes[i], sizes[j], SL_BF16);
    vary_gemm(70, 96, 256, SL_BF16);
    vary_gemm(27, 32, 18001, SL_BF16); /* leaves room for few tiles: several packs */
}

SL_TEST(swiglu_has_the_bits_of_ref)
{
    static const uint32_t widths[] = {1, 16, 33, 48, 96, 255};
    uint32_t n_tables;
    const struct sl_ops *ref;
    tables_of_profile(&n_tables, &ref);
    for (uint32_t m = 1; m <= 27; m++) {
        uint32_t inner = widths[m % 6], k = m % 2 ? 64 : 7;
        struct sl_panel w = draw_panel(2 * sl_round_lanes(inner), k, SL_BF16);
        float *x = draw_floats(m * k);
        for (size_t i = 0; i < m * k; i++)
            x[i] *= 30; /* reaches both ends of silu */
        struct sl_gemm g = {.x = x, .x_stride = k, .m = m, .w = w, .col_end = inner};
        compare_gemm(g, true);
        g.col_end = sl_round_lanes(inner);
        g.col_begin = g.col_end > 16 ? 16 : 0;
        compare_gemm(g, true);
        free(x);
        free_panel(w);
    }
}

SL_TEST(f32_weights_keep_the_bits_of_profile_f32)
{
    uint32_t n_tables;
    const struct sl_ops *const *tables = sl_ops_available_profile(SL_PROFILE_BF16DOT, &n_tables);
    struct sl_panel w = draw_panel(70, 65, SL_F32);
    float *x = draw_floats(13 * 65), *want = take(13 * 70 * 4), *got = take(13 * 70 * 4);
    struct sl_gemm g = {.x = x, .x_stride = 65, .m = 13, .w = w, .col_end = 70, .y = want, .y_stride = 70};
    run_gemm(&sl_ops_ref, &g, false);
    g.y = got;
    for (uint32_t i = 0; i < n_tables; i++) {
        run_gemm(tables[i], &g, false);
        CHECK_SAME(tables[i]->name, want, got, 13 * 70, "f32 weights");
    }
    free(x);
    free(want);
    free(got);
    free_panel(w);
}

SL_TEST(a_row_has_its_bits_in_any_company)
{
    enum { M = 29, N = 80, K = 130 };
    uint32_t n_tables;
    const struct sl_ops *const *tables = sl_ops_available_profile(SL_PROFILE_BF16DOT, &n_tables);
    struct sl_panel w = draw_panel(N, K, SL_BF16);
    float *x = draw_floats(M * K), *want = take(M * N * 4), *got = take(M * N * 4);
    struct sl_gemm all = {.x = x, .x_stride = K, .m = M, .w = w, .col_end = N, .y = want, .y_stride = N};
    for (uint32_t i = 0; i < n_tables; i++) {
        run_gemm(tables[i], &all, false);
        for (uint32_t row = 0; row < M; row++) {
            struct sl_gemm one = all;
            one.x = x + row * K;
            one.y = got + row * N;
            one.m = 1;
            for (one.col_begin = 0; one.col_begin < N; one.col_begin = one.col_end) {
                uint32_t end = one.col_begin + SL_LANES * (1 + below(3));
                one.col_end = end < N ? end : N;
                run_gemm(tables[i], &one, false);
            }
        }
        CHECK_SAME(tables[i]->name, want, got, M * N, "rows alone");
    }
    free(x);
    free(want);
    free(got);
    free_panel(w);
}

SL_TEST(ref_is_near_double_arithmetic_over_rounded_rows)
{
    enum { M = 3, N = 32, K = 513 };
    uint32_t n_tables;
    const struct sl_ops *ref = sl_ops_available_profile(SL_PROFILE_BF16DOT, &n_tables)[n_tables - 1];
    struct sl_panel w = draw_panel(N, K, SL_BF16);
    float *x = draw_floats(M * K), *y = take(M * N * 4);
    struct sl_gemm g = {.x = x, .x_stride = K, .m = M, .w = w, .col_end = N, .y = y, .y_stride = N};
    run_gemm(n_tables ? ref : NULL, &g, false);
    double xy = 0, xx = 0, yy = 0;
    for (uint32_t i = 0; i < M; i++)
        for (uint32_t c = 0; c < N; c++) {
            double sum = 0;
            for (uint32_t t = 0; t < K; t++)
                sum += (double)sl_bf16_to_f32(sl_f32_to_bf16(x[i * K + t])) *
                       (double)sl_bf16_to_f32(((const uint16_t *)w.data)[sl_panel_at(K, c, t)]);
            double got = (double)y[i * N + c];
            xy += sum * got;
            xx += sum * sum;
            yy += got * got;
        }
    CHECK(fabs(1.0 - 2.0 * xy / (xx + yy)) < 1e-9);
    free(x);
    free(y);
    free_panel(w);
}

/* ---- attention ---- */

struct bf16_pages {
    struct sl_panel k[PAGES], v[PAGES];
    const void *k_data[PAGES], *v_data[PAGES];
};

static void draw_pages(struct bf16_pages *p, uint32_t d_head)
{
    for (uint32_t i = 0; i < PAGES; i++) {
        p->k[i] = draw_panel(SL_PAGE_TOKENS, d_head, SL_BF16);
        p->v[i] = draw_panel(d_head, SL_PAGE_TOKENS, SL_BF16);
        p->k_data[i] = p->k[i].data;
        p->v_data[i] = p->v[i].data;
    }
}

static void free_pages(struct bf16_pages *p)
{
    for (uint32_t i = 0; i < PAGES; i++) {
        free_panel(p->k[i]);
        free_panel(p->v[i]);
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
    uint32_t n_tables;
    const struct sl_ops *const *tables = sl_ops_available_profile(SL_PROFILE_BF16DOT, &n_tables);
    a.q_stride = a.n_rep * a.d_head + 5;
    a.out_stride = a.n_rep * a.d_head + 2;
    size_t n = a.n_tok * a.out_stride + 2 * GUARD;
    float *q = draw_floats(a.n_tok * a.q_stride), *start = draw_floats(n), *want = take(n * 4),
          *got = take(n * 4);
    for (size_t i = 0; i < a.n_tok * a.q_stride; i++)
        q[i] *= 4;
    a.q = q;
    memcpy(want, start, n * 4);
    a.out = want + GUARD;
    run_attend(tables[n_tables - 1], &a);
    for (uint32_t i = 0; i < n_tables; i++) {
        memcpy(got, start, n * 4);
        a.out = got + GUARD;
        run_attend(tables[i], &a);
        CHECK_SAME(tables[i]->name, want, got, n, "attend pos %u tokens %u heads %u x %u", a.pos, a.n_tok,
                   a.n_rep, a.d_head);
        memcpy(got, start, n * 4);
        for (uint32_t t = 0; t < a.n_tok; t++) {
            struct sl_attend one = a;
            one.q = q + t * a.q_stride;
            one.out = got + GUARD + t * a.out_stride;
            one.pos = a.pos + t;
            one.n_tok = 1;
            run_attend(tables[i], &one);
        }
        CHECK_SAME(tables[i]->name, want, got, n, "attend token by token from %u, %u x %u", a.pos, a.n_rep,
                   a.d_head);
    }
    free(q);
    free(start);
    free(want);
    free(got);
}

SL_TEST(attend_has_the_bits_of_ref_and_of_its_own_parts)
{
    static const uint32_t heads[] = {1, 3, 8}, sizes[] = {17, 24, 64, 128};
    static const uint32_t begins[] = {0, 1, 63, 64, 65, 130}, counts[] = {1, 7, 64, 70};
    uint32_t turn = 0, n_tables;
    const struct sl_ops *ref;
    tables_of_profile(&n_tables, &ref);
    for (size_t d = 0; d < 4; d++) {
        struct bf16_pages pages;
        draw_pages(&pages, sizes[d]);
        for (size_t b = 0; b < 6; b++)
            for (size_t c = 0; c < 4; c++)
                compare_attend((struct sl_attend){.n_rep = heads[turn++ % 3],
                                                  .d_head = sizes[d],
                                                  .n_tok = counts[c],
                                                  .pos = begins[b],
                                                  .k_pages = pages.k_data,
                                                  .v_pages = pages.v_data,
                                                  .kv_dtype = SL_BF16,
                                                  .scale = 0.125f});
        free_pages(&pages);
    }
}

/* Attention of one row in double; with `narrow`, q * scale and p are rounded to bf16 on the way, as naive code does. */
static void attend_in_double(const struct bf16_pages *pages, const float *q, uint32_t d, uint32_t n_keys,
                             bool narrow, double *out)
{
    double p[PAGES * SL_PAGE_TOKENS], max = -INFINITY, sum = 0;
    for (uint32_t key = 0; key < n_keys; key++) {
        const uint16_t *k = pages->k_data[key / SL_PAGE_TOKENS];
        p[key] = 0;
        for (uint32_t i = 0; i < d; i++) {
            float scaled = q[i] * 0.125f;
            double x = narrow ? (double)sl_bf16_to_f32(sl_f32_to_bf16(scaled)) : (double)q[i] * 0.125;
            p[key] += x * (double)sl_bf16_to_f32(k[sl_panel_at(d, key % SL_PAGE_TOKENS, i)]);
        }
        max = p[key] > max ? p[key] : max;
    }
    for (uint32_t i = 0; i < d; i++)
        out[i] = 0;
    for (uint32_t key = 0; key < n_keys; key++) {
        const uint16_t *v = pages->v_data[key / SL_PAGE_TOKENS];
        double e = exp(p[key] - max), w = narrow ? (double)sl_bf16_to_f32(sl_f32_to_bf16((float)e)) : e;
        sum += e;
        for (uint32_t i = 0; i < d; i++)
            out[i] += w * (double)sl_bf16_to_f32(v[sl_panel_at(SL_PAGE_TOKENS, i, key % SL_PAGE_TOKENS)]);
    }
    for (uint32_t i = 0; i < d; i++)
        out[i] /= sum;
}

SL_TEST(attention_errs_no_more_than_naive_bf16_code)
{
    enum { D = 64, KEYS = 200, ROWS = 24 };
    uint32_t n_tables;
    const struct sl_ops *const *tables = sl_ops_available_profile(SL_PROFILE_BF16DOT, &n_tables);
    struct bf16_pages pages;
    draw_pages(&pages, D);
    double exact[D], naive[D], error_naive = 0, error[8] = {0};
    for (uint32_t row = 0; row < ROWS; row++) {
        float *q = draw_floats(D), out[D];
        for (uint32_t i = 0; i < D; i++)
            q[i] *= 4;
        attend_in_double(&pages, q, D, KEYS, false, exact);
        attend_in_double(&pages, q, D, KEYS, true, naive);
        for (uint32_t i = 0; i < D; i++)
            error_naive += (naive[i] - exact[i]) * (naive[i] - exact[i]);
        struct sl_attend a = {.q = q,
                              .q_stride = D,
                              .n_rep = 1,
                              .d_head = D,
                              .n_tok = 1,
                              .pos = KEYS - 1,
                              .k_pages = pages.k_data,
                              .v_pages = pages.v_data,
                              .kv_dtype = SL_BF16,
                              .scale = 0.125f,
                              .out = out,
                              .out_stride = D};
        for (uint32_t i = 0; i < n_tables && i < 8; i++) {
            run_attend(tables[i], &a);
            for (uint32_t j = 0; j < D; j++)
                error[i] += ((double)out[j] - exact[j]) * ((double)out[j] - exact[j]);
        }
        free(q);
    }
    for (uint32_t i = 0; i < n_tables && i < 8; i++)
        if (sqrt(error[i]) > 1.5 * sqrt(error_naive))
            sl_test_fail(__FILE__, __LINE__, "%s: error %g, naive bf16 code %g", tables[i]->name,
                         sqrt(error[i]), sqrt(error_naive));
    free_pages(&pages);
}

/* ---- the choice ---- */

SL_TEST(a_machine_offers_what_its_processor_does)
{
    const struct sl_ops *ops;
    struct sl_err err;
    char *before = getenv("SLUICE_CPU"), *kept = before ? strdup(before) : NULL;
    setenv("SLUICE_CPU", "ref", 1);
    CHECK_INT(sl_ops_profiles(), 1u << SL_PROFILE_F32);
    CHECK_INT(sl_ops_select_profile(&ops, SL_PROFILE_BF16DOT, &err), SL_E_CONFIG);
    CHECK_CONTAINS(err.text, "bf16dot");
    CHECK_CONTAINS(err.text, "--numerics f32");
    unsetenv("SLUICE_CPU");
    uint32_t n;
    const struct sl_ops *const *tables = sl_ops_available_profile(SL_PROFILE_BF16DOT, &n);
    bool has = sl_ops_profiles() & 1u << SL_PROFILE_BF16DOT;
    CHECK_INT(has, n > 1);
    CHECK_INT(sl_ops_select_profile(&ops, SL_PROFILE_BF16DOT, &err), has ? SL_OK : SL_E_CONFIG);
    if (has)
        CHECK(ops == tables[0] && ops->gemm != sl_ops_available(&n)[0]->gemm &&
              ops->softmax == sl_ops_available(&n)[0]->softmax);
    if (kept)
        setenv("SLUICE_CPU", kept, 1);
    free(kept);
}

SL_TEST(profiles_have_names)
{
    enum sl_profile profile;
    char list[40];
    for (unsigned i = 0; i < SL_PROFILES; i++) {
        REQUIRE(sl_profile_parse(&profile, sl_profile_name((enum sl_profile)i)));
        CHECK_INT(profile, i);
    }
    CHECK(!sl_profile_parse(&profile, "f16"));
    CHECK(!sl_profile_parse(&profile, ""));
    CHECK_STR(sl_profile_list(3, list, sizeof list), "f32, bf16dot");
    CHECK_STR(sl_profile_list(2, list, sizeof list), "bf16dot");
    CHECK_STR(sl_profile_list(0, list, sizeof list), "");
    CHECK_STR(sl_profile_list(3, list, 6), "f32, ");
}
