/* Attention over pages: i8 against ref bit for bit, segments split and merged, and errors against double
 * precision.
 *
 * Float pages take part wherever segments do; test_isa.c has their bits within a segment. Values come from a
 * seeded generator. Two NaNs are equal whatever their payload. Outputs lie between guards that are compared,
 * too. */
#include "base/cpu.h"
#include "kernels/cpu/tables.h"
#include "kernels/exp.h"
#define DRAW_SEED 20261124
#include "tests/kernels/draw.h"
#include "tests/kernels/same.h"
#include <stdlib.h>

enum { GUARD = 16, MAX_PAGES = 3 * SL_SEGMENT_PAGES + 2, SEGMENT = SL_SEGMENT_PAGES * SL_PAGE_TOKENS };

/* The keys and values of one head as floats, and as pages of a type. */
struct context {
    enum sl_dtype dtype;
    uint32_t d_head, n_keys, n_pages;
    float *k, *v; /* [n_keys][d_head] */
    const void *k_pages[MAX_PAGES], *v_pages[MAX_PAGES];
};

static void put_i8(uint8_t *k_page, uint8_t *v_page, uint32_t d, uint32_t slot, const float *k,
                   const float *v)
{
    int8_t q[1024];
    float scale;
    int32_t sum;
    sl_ops_ref.quantise(k, d, q, sl_rows8_stride(d), &scale, &sum);
    for (uint32_t i = 0; i < d; i++)
        k_page[sl_page8_k_at(d, slot, i)] = (uint8_t)(q[i] + 128);
    memcpy(k_page + sl_page8_k_scale_at(d, slot), &scale, sizeof scale);
    sl_ops_ref.quantise(v, d, q, sl_rows8_stride(d), &scale, &sum);
    for (uint32_t i = 0; i < d; i++)
        v_page[sl_page8_v_at(slot, i)] = (uint8_t)q[i];
    memcpy(v_page + sl_page8_scales_at(d) + slot * sizeof scale, &scale, sizeof scale);
}

static void put_float(enum sl_dtype dtype, void *page, size_t at, float value)
{
    if (dtype == SL_BF16)
        ((uint16_t *)page)[at] = sl_f32_to_bf16(value);
    else
        ((float *)page)[at] = value;
}

static void put_key(struct context *c, uint32_t key)
{
    uint32_t d = c->d_head, slot = key % SL_PAGE_TOKENS;
    void *k_page = (void *)(uintptr_t)c->k_pages[key / SL_PAGE_TOKENS];
    void *v_page = (void *)(uintptr_t)c->v_pages[key / SL_PAGE_TOKENS];
    const float *k = c->k + (size_t)key * d, *v = c->v + (size_t)key * d;
    if (c->dtype == SL_I8) {
        put_i8(k_page, v_page, d, slot, k, v);
        return;
    }
    for (uint32_t i = 0; i < d; i++) {
        put_float(c->dtype, k_page, sl_panel_at(d, slot, i), k[i]);
        put_float(c->dtype, v_page, sl_panel_at(SL_PAGE_TOKENS, i, slot), v[i]);
    }
}

/* Slots that hold no key are zero, as a page pool hands them out. */
static struct context *make_context(enum sl_dtype dtype, uint32_t d_head, uint32_t n_keys)
{
    struct context *c = calloc(1, sizeof *c);
    *c = (struct context){.dtype = dtype,
                          .d_head = d_head,
                          .n_keys = n_keys,
                          .n_pages = (n_keys + SL_PAGE_TOKENS - 1) / SL_PAGE_TOKENS};
    c->k = take((size_t)n_keys * d_head * sizeof(float));
    c->v = take((size_t)n_keys * d_head * sizeof(float));
    for (size_t i = 0; i < (size_t)n_keys * d_head; i++) {
        c->k[i] = draw_unit();
        c->v[i] = draw_unit();
    }
    for (uint32_t p = 0; p < c->n_pages; p++) {
        c->k_pages[p] = memset(take(sl_page_k_bytes(dtype, d_head)), 0, sl_page_k_bytes(dtype, d_head));
        c->v_pages[p] = memset(take(sl_page_v_bytes(dtype, d_head)), 0, sl_page_v_bytes(dtype, d_head));
    }
    for (uint32_t key = 0; key < n_keys; key++)
        put_key(c, key);
    return c;
}

static void free_context(struct context *c)
{
    for (uint32_t p = 0; p < c->n_pages; p++) {
        free((void *)(uintptr_t)c->k_pages[p]);
        free((void *)(uintptr_t)c->v_pages[p]);
    }
    free(c->k), free(c->v), free(c);
}

static void attend_with(const struct sl_ops *ops, const struct sl_attend *a)
{
    void *scratch = take(ops->scratch_bytes(a->d_head));
    (a->kv_dtype == SL_I8 ? ops->attend8 : ops->attend)(a, scratch);
    free(scratch);
}

/* Queries and outputs of a case: out lies between guards. */
struct rows {
    struct sl_attend a;
    float *q, *out;
    size_t n_out;
};

static struct rows make_rows(const struct context *c, uint32_t n_rep, uint32_t pos, uint32_t n_tok)
{
    uint32_t width = n_rep * c->d_head;
    struct rows r = {.n_out = 2 * GUARD + (size_t)n_tok * (width + 3)};
    r.a = (struct sl_attend){.q_stride = width + 5,
                             .n_rep = n_rep,
                             .d_head = c->d_head,
                             .n_tok = n_tok,
                             .pos = pos,
                             .k_pages = c->k_pages,
                             .v_pages = c->v_pages,
                             .kv_dtype = c->dtype,
                             .scale = 4.0f / sqrtf((float)c->d_head),
                             .out_stride = width + 3};
    r.q = take(n_tok * r.a.q_stride * sizeof(float));
    for (size_t i = 0; i < n_tok * r.a.q_stride; i++)
        r.q[i] = draw_unit();
    r.out = take(r.n_out * sizeof(float));
    r.a.q = r.q;
    r.a.out = r.out + GUARD;
    return r;
}

static void free_rows(struct rows *r)
{
    free(r->q), free(r->out);
}

#define CHECK_ROWS(ops, want, got, n, r, how)                                                                \
    do {                                                                                                     \
        if (first_difference(want, got, n) >= 0)                                                             \
            sl_test_fail(__FILE__, __LINE__, "%s, %s, %s: %u tokens from %u, %u x %u, differ from ref",      \
                         (ops)->name, how, sl_dtype_name((r)->a.kv_dtype), (r)->a.n_tok, (r)->a.pos,         \
                         (r)->a.n_rep, (r)->a.d_head);                                                       \
    } while (0)

/* Each segment's states by a call of its own, the last first; then the merge. */
static void attend_split(const struct sl_ops *ops, struct sl_attend a)
{
    uint32_t n = sl_attend_segments(a.pos + a.n_tok - 1);
    size_t floats = (size_t)a.n_tok * a.n_rep * sl_attend_state_floats(a.d_head);
    float *states = take(n * floats * sizeof *states);
    for (uint32_t s = n; s-- > 0;) {
        struct sl_attend part = a;
        part.out = NULL;
        part.states = states + s * floats;
        part.segment = s;
        part.segment_end = s + 1;
        attend_with(ops, &part);
    }
    a.states = states;
    a.segment_end = n;
    ops->attend_merge(&a);
    free(states);
}

/* Every table, whole, token by token, and split, has the bits of ref. */
static void compare_rows(struct rows *r)
{
    uint32_t n_tok = r->a.n_tok;
    float *want = take(r->n_out * sizeof(float)), *got = take(r->n_out * sizeof(float));
    memcpy(want, r->out, r->n_out * sizeof(float));
    r->a.out = want + GUARD;
    attend_with(&sl_ops_ref, &r->a);
    uint32_t n;
    const struct sl_ops *const *tables = sl_ops_available(&n);
    for (uint32_t i = 0; i < n; i++) {
        r->a.out = got + GUARD;
        memcpy(got, r->out, r->n_out * sizeof(float));
        attend_with(tables[i], &r->a);
        CHECK_ROWS(tables[i], want, got, r->n_out, r, "whole");
        memcpy(got, r->out, r->n_out * sizeof(float));
        attend_split(tables[i], r->a);
        CHECK_ROWS(tables[i], want, got, r->n_out, r, "split");
        memcpy(got, r->out, r->n_out * sizeof(float));
        for (uint32_t t = 0; t < n_tok && i + 1 < n; t++) {
            struct sl_attend one = r->a;
            one.q += t * one.q_stride;
            one.out += t * one.out_stride;
            one.pos += t;
            one.n_tok = 1;
            attend_with(tables[i], &one);
        }
        if (i + 1 < n)
            CHECK_ROWS(tables[i], want, got, r->n_out, r, "token by token");
    }
    free(want), free(got);
}

static void compare(const struct context *c, uint32_t n_rep, uint32_t pos, uint32_t n_tok)
{
    struct rows r = make_rows(c, n_rep, pos, n_tok);
    compare_rows(&r);
    free_rows(&r);
}

/* SLUICE_TEST_SMALL=1 keeps to what an emulated processor does in a minute: one size. */
static bool small_tier(void)
{
    const char *v = getenv("SLUICE_TEST_SMALL");
    return v && *v == '1';
}

SL_TEST(i8_has_the_bits_of_ref)
{
    static const uint32_t sizes[] = {33, 16, 24, 64, 80, 96, 128, 192, 256};
    static const uint32_t begins[] = {0, 1, 63, 64, 65, 130}, counts[] = {1, 2, 7, 64, 70};
    uint32_t turn = 0;
    for (size_t d = 0; d < (small_tier() ? 1 : sizeof sizes / sizeof *sizes); d++) {
        struct context *c = make_context(SL_I8, sizes[d], 200);
        for (size_t b = 0; b < 6; b++)
            for (uint32_t i = 0; i < 2; i++, turn++)
                compare(c, turn % 8 + 1, begins[b], counts[turn % 5]);
        free_context(c);
    }
}

SL_TEST(segments_have_the_same_bits_whoever_computes_them)
{
    static const enum sl_dtype dtypes[] = {SL_I8, SL_BF16, SL_F32};
    static const struct {
        uint32_t pos, n_tok, n_rep;
    } cases[] = {{SEGMENT - 1, 1, 3},     {SEGMENT, 1, 8},          {SEGMENT - 3, 6, 2},
                 {2 * SEGMENT - 2, 5, 4}, {2 * SEGMENT + 63, 3, 1}, {SEGMENT - SL_PAGE_TOKENS, 70, 1},
                 {3 * SEGMENT + 64, 2, 5}};
    for (size_t t = 0; t < 3; t++) {
        struct context *c = make_context(dtypes[t], 32, 3 * SEGMENT + 70);
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
            compare(c, cases[i].n_rep, cases[i].pos, cases[i].n_tok);
        free_context(c);
    }
}

/* Joined tables have the largest scratch of their parts, which could hide that one of them takes more than it says. */
SL_TEST(scratch_is_enough_by_itself)
{
    static const struct {
        uint32_t needs;
        const struct sl_ops *ops;
    } own[] = {{SL_CPU_AVX2, &sl_attend8_avx2},
               {SL_CPU_AVX2 | SL_CPU_AVXVNNI, &sl_attend8_avxvnni},
               {SL_CPU_AVX512 | SL_CPU_VNNI, &sl_attend8_avx512vnni}};
    static const uint32_t sizes[] = {16, 24, 128, 1024}, counts[] = {1, 11, 12, 17, 192, 200};
    if (!(sl_cpu_detect() & SL_CPU_AVX2)) {
        sl_test_skip("this processor has no table but ref");
        return;
    }
    for (size_t t = 0; t < sizeof own / sizeof *own; t++)
        for (size_t d = 0; d < sizeof sizes / sizeof *sizes; d++) {
            if ((sl_cpu_detect() & own[t].needs) != own[t].needs)
                continue;
            struct context *c = make_context(SL_I8, sizes[d], 270);
            for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
                struct rows r = make_rows(c, 1, 70, counts[i]);
                size_t bytes = own[t].ops->scratch_bytes(sizes[d]);
                uint8_t *scratch = take(bytes + 64);
                own[t].ops->attend8(&r.a, scratch);
                for (size_t j = bytes; j < bytes + 64; j++)
                    CHECK_INT(scratch[j], 0x5A);
                free(scratch);
                free_rows(&r);
            }
            free_context(c);
        }
}

/* One row from its definition in double precision over the float keys and values. */
static void exact_row(const struct context *c, const struct sl_attend *a, uint32_t t, uint32_t head,
                      double *out)
{
    uint32_t d = c->d_head, n = a->pos + t + 1;
    const float *q = a->q + t * a->q_stride + (size_t)head * d;
    double *p = malloc(n * sizeof *p), top = -INFINITY, sum = 0;
    for (uint32_t j = 0; j < n; j++) {
        p[j] = 0;
        for (uint32_t i = 0; i < d; i++)
            p[j] += (double)q[i] * (double)c->k[(size_t)j * d + i];
        p[j] *= (double)a->scale;
        top = p[j] > top ? p[j] : top;
    }
    memset(out, 0, d * sizeof *out);
    for (uint32_t j = 0; j < n; j++) {
        double e = exp(p[j] - top);
        sum += e;
        for (uint32_t i = 0; i < d; i++)
            out[i] += e * (double)c->v[(size_t)j * d + i];
    }
    for (uint32_t i = 0; i < d; i++)
        out[i] /= sum;
    free(p);
}

/* The same in single precision with plain sums, which is what a naive kernel does. */
static void naive_row(const struct context *c, const struct sl_attend *a, uint32_t t, uint32_t head,
                      float *out)
{
    uint32_t d = c->d_head, n = a->pos + t + 1;
    const float *q = a->q + t * a->q_stride + (size_t)head * d;
    float *p = malloc(n * sizeof *p), top = -INFINITY, sum = 0;
    for (uint32_t j = 0; j < n; j++) {
        p[j] = 0;
        for (uint32_t i = 0; i < d; i++)
            p[j] += q[i] * c->k[(size_t)j * d + i];
        p[j] *= a->scale;
        top = p[j] > top ? p[j] : top;
    }
    memset(out, 0, d * sizeof *out);
    for (uint32_t j = 0; j < n; j++) {
        float e = expf(p[j] - top);
        sum += e;
        for (uint32_t i = 0; i < d; i++)
            out[i] += e * c->v[(size_t)j * d + i];
    }
    for (uint32_t i = 0; i < d; i++)
        out[i] /= sum;
    free(p);
}

struct errors {
    double ours, naive, size; /* root mean squares */
};

static struct errors measure(struct context *c, uint32_t pos, uint32_t n_tok, float scale)
{
    uint32_t d = c->d_head, n_rep = 2;
    double ours = 0, naive = 0, size = 0, *want = malloc(d * sizeof *want);
    float *plain = malloc(d * sizeof *plain);
    struct rows r = make_rows(c, n_rep, pos, n_tok);
    r.a.scale = scale;
    attend_with(*sl_ops_available(&(uint32_t){0}), &r.a);
    for (uint32_t row = 0; row < n_tok * n_rep; row++) {
        const float *got = r.a.out + row / n_rep * r.a.out_stride + row % n_rep * d;
        exact_row(c, &r.a, row / n_rep, row % n_rep, want);
        naive_row(c, &r.a, row / n_rep, row % n_rep, plain);
        for (uint32_t i = 0; i < d; i++) {
            ours += pow((double)got[i] - want[i], 2);
            naive += pow((double)plain[i] - want[i], 2);
            size += want[i] * want[i];
        }
    }
    free(want), free(plain);
    free_rows(&r);
    return (struct errors){sqrt(ours), sqrt(naive), sqrt(size)};
}

/* Keys and values as bf16 have them, so that only arithmetic differs. */
static struct context *make_bf16_context(uint32_t d_head, uint32_t n_keys)
{
    struct context *c = make_context(SL_BF16, d_head, n_keys);
    for (size_t i = 0; i < (size_t)n_keys * d_head; i++) {
        c->k[i] = sl_bf16_to_f32(sl_f32_to_bf16(c->k[i]));
        c->v[i] = sl_bf16_to_f32(sl_f32_to_bf16(c->v[i]));
    }
    return c;
}

/* Where scores are sharp, the few rows with two nearly equal keys make most of the error: one sample of rows
 * says little. Over ten the two are about equal. */
SL_TEST(floats_are_no_worse_than_a_naive_kernel)
{
    static const float scales[] = {0.09f, 0.5f, 2.0f};
    struct context *c = make_bf16_context(128, SEGMENT + 300);
    for (size_t i = 0; i < 3; i++)
        for (uint32_t pos = 100; pos < SEGMENT + 300; pos += SEGMENT) {
            struct errors e = {0};
            for (int sample = 0; sample < 10; sample++) {
                struct errors one = measure(c, pos, 4, scales[i]);
                e.ours = hypot(e.ours, one.ours);
                e.naive = hypot(e.naive, one.naive);
            }
            if (e.ours > 1.5 * e.naive)
                sl_test_fail(__FILE__, __LINE__, "from %u, scale %g: error %g, naive %g", pos,
                             (double)scales[i], e.ours, e.naive);
        }
    free_context(c);
}

/* What 8 bits cost: the rounding of q, k, p and v. Flat scores average it away, sharp ones show that of a
 * single value row; the bound is 1.3 times what was measured over both. */
SL_TEST(i8_stays_within_its_error)
{
    static const struct {
        float scale;
        double bound;
    } cases[] = {{0.05f, 0.02}, {0.3f, 0.02}, {2.0f, 0.05}};
    struct context *c = make_context(SL_I8, 128, SEGMENT + 300);
    for (size_t i = 0; i < 3; i++)
        for (uint32_t pos = 100; pos < SEGMENT + 300; pos += SEGMENT) {
            struct errors e = measure(c, pos, 8, cases[i].scale);
            printf("i8 from %u, scale %g: error %.5f of the output\n", pos, (double)cases[i].scale,
                   e.ours / e.size);
            CHECK(e.ours < cases[i].bound * e.size);
        }
    free_context(c);
}

/* NaN in a row of q reaches that row alone; NaN or infinity in a visible key or value reaches every row that
 * sees it, and no other. */
static void check_poison(const struct context *c, const struct sl_attend *a, uint32_t from_row,
                         uint32_t end_row)
{
    uint32_t n;
    const struct sl_ops *const *tables = sl_ops_available(&n);
    for (uint32_t i = 0; i < n; i++) {
        attend_with(tables[i], a);
        for (uint32_t row = 0; row < a->n_tok * a->n_rep; row++) {
            const float *out = a->out + row / a->n_rep * a->out_stride + (size_t)(row % a->n_rep) * c->d_head;
            bool poisoned = row >= from_row && row < end_row;
            for (uint32_t j = 0; j < c->d_head; j++)
                if (isnan(out[j]) != poisoned || isinf(out[j])) {
                    sl_test_fail(__FILE__, __LINE__, "%s: row %u channel %u is %g", tables[i]->name, row, j,
                                 (double)out[j]);
                    return;
                }
        }
    }
}

SL_TEST(a_nan_comes_out_as_nan_where_it_is_seen)
{
    static const float poisons[] = {NAN, INFINITY, -INFINITY, -NAN};
    struct context *c = make_context(SL_I8, 48, SEGMENT + 40);
    for (size_t i = 0; i < 4; i++) {
        struct rows r = make_rows(c, 3, SEGMENT - 20, 40);
        float *q = r.q + 7 * r.a.q_stride + 48 + 5, kept = *q;
        *q = poisons[i];
        check_poison(c, &r.a, 7 * 3 + 1, 7 * 3 + 2);
        *q = kept;
        for (int values = 0; values < 2; values++) {
            uint32_t key = SEGMENT - 20 + 13 * (uint32_t)i; /* seen by token 13i and later */
            float *at = (values ? c->v : c->k) + (size_t)key * 48 + 9, before = *at;
            if (key >= SEGMENT + 20)
                break;
            *at = poisons[i];
            put_key(c, key);
            check_poison(c, &r.a, 13 * (uint32_t)i * 3, 40 * 3);
            *at = before;
            put_key(c, key);
        }
        free_rows(&r);
    }
    free_context(c);
}

/* Rows of zeros, tiny and huge values, one-hot rows: all tables have the bits of ref. */
SL_TEST(adverse_rows_have_the_bits_of_ref)
{
    static const float special[] = {0.0f, -0.0f, 0x1p-140f, 0x1p-105f, 1e-30f, 1e30f, -3e38f, 3e38f};
    struct context *c = make_context(SL_I8, 40, 300);
    for (int round = 0; round < 12; round++) {
        for (uint32_t key = 0; key < 300; key++) {
            uint32_t kind = below(6), at = below(40);
            for (uint32_t i = 0; i < 40; i++) {
                float k = draw_unit(), v = draw_unit();
                c->k[key * 40 + i] = kind == 0              ? 0
                                     : kind == 1 && i != at ? 0
                                     : kind == 2            ? k * special[below(8)]
                                                            : k;
                c->v[key * 40 + i] = kind == 0              ? 0
                                     : kind == 1 && i != at ? 0
                                     : kind == 3            ? v * special[below(6)]
                                                            : v;
            }
            put_key(c, key);
        }
        compare(c, below(8) + 1, 290 - below(280), 1 + below(9));
    }
    free_context(c);
}

SL_TEST(a_row_of_zero_queries_is_the_mean_of_the_values)
{
    struct context *c = make_context(SL_I8, 64, 100);
    struct rows r = make_rows(c, 1, 99, 1);
    double mean = 0;
    memset(r.q, 0, r.a.q_stride * sizeof(float));
    for (uint32_t key = 0; key < 100; key++)
        mean += (double)c->v[(size_t)key * 64] / 100;
    attend_with(*sl_ops_available(&(uint32_t){0}), &r.a);
    CHECK(fabs((double)r.a.out[0] - mean) < 2e-3);
    free_rows(&r);
    free_context(c);
}

SL_TEST(nothing_beyond_the_token_is_looked_at)
{
    struct context *c = make_context(SL_I8, 64, 192);
    struct rows r = make_rows(c, 2, 70, 40);
    float *first = take(r.n_out * sizeof(float));
    const void *k = c->k_pages[2], *v = c->v_pages[2];
    uint32_t n;
    const struct sl_ops *const *tables = sl_ops_available(&n);
    for (uint32_t i = 0; i < n; i++) {
        attend_with(tables[i], &r.a);
        memcpy(first, r.out, r.n_out * sizeof(float));
        for (uint32_t key = 110; key < 128; key++) { /* after the last token, on its page */
            for (uint32_t j = 0; j < 64; j++) {
                c->k[key * 64 + j] = below(3) ? draw_unit() * 1e20f : NAN;
                c->v[key * 64 + j] = below(3) ? draw_unit() * 1e20f : NAN;
            }
            put_key(c, key);
        }
        c->k_pages[2] = c->v_pages[2] = NULL;
        attend_with(tables[i], &r.a);
        CHECK(first_difference(first, r.out, r.n_out) < 0);
        c->k_pages[2] = k;
        c->v_pages[2] = v;
    }
    free(first);
    free_rows(&r);
    free_context(c);
}

/* Every key, value and query at its limit, all weights at 255: no sum overflows, of either sign. */
SL_TEST(i8_has_the_bits_of_ref_at_the_extremes)
{
    struct context *c = make_context(SL_I8, 128, 200);
    for (uint32_t turn = 0; turn < 3; turn++) {
        for (uint32_t key = 0; key < c->n_keys; key++) {
            for (uint32_t i = 0; i < c->d_head; i++) {
                c->k[(size_t)key * c->d_head + i] = turn == 2 && i % 2 ? -1.0f : 1.0f;
                c->v[(size_t)key * c->d_head + i] = turn == 0 || (turn == 2 && i % 2) ? -1.0f : 1.0f;
            }
            put_key(c, key);
        }
        struct rows r = make_rows(c, 2, 127, 70);
        for (size_t i = 0; i < r.a.n_tok * r.a.q_stride; i++)
            r.q[i] = i % 2 ? -1.0f : turn == 1 ? -1.0f : 1.0f;
        compare_rows(&r);
        free_rows(&r);
    }
    free_context(c);
}
