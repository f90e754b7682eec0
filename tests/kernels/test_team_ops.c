/* Shared products: whatever is cut by rows and columns, the bits are those of one call over everything. Few rows of a
 * matrix that is larger than its usual pieces are cut smaller (team_ops.c, PIECE_BYTES): there is one of these, too. */
#include "kernels/team_ops.h"
#include "tests/check.h"
#define DRAW_SEED 20261128
#include "tests/kernels/draw.h"
#include <stdlib.h>

enum { MAX_MEMBERS = 3, UNTOUCHED = 0x5A };

static struct sl_panel integer_panel(enum sl_dtype dtype, uint32_t n, uint32_t k)
{
    size_t bytes = sl_panel_bytes(dtype, n, k), block_bytes = sl_quant_block_bytes(dtype, k);
    uint8_t *data = take(bytes);
    for (size_t i = 0; i < bytes; i++)
        data[i] = (uint8_t)(sl_rng_next(&rng) | 1); /* no byte of i8 is -128 */
    for (uint32_t c = 0; c < sl_round_lanes(n); c++)
        ((float *)(void *)(data + c / SL_LANES * block_bytes))[c % SL_LANES] = c < n ? 0.01f : 0.0f;
    return (struct sl_panel){data, n, k, dtype, 0, 1};
}

static struct sl_rows8 make_rows8(uint32_t m, uint32_t k)
{
    struct sl_rows8 r = {.stride = sl_rows8_stride(k), .scale = take(m * 4), .sum = take(m * 4)};
    float *x = take(k * sizeof *x);
    r.q = take(m * r.stride);
    for (uint32_t i = 0; i < m; i++) {
        for (uint32_t j = 0; j < k; j++)
            x[j] = draw_unit();
        sl_ops_ref.quantise(x, k, r.q + i * r.stride, r.stride, &r.scale[i], &r.sum[i]);
    }
    free(x);
    return r;
}

static void free_rows8(struct sl_rows8 *r)
{
    free(r->q), free(r->scale), free(r->sum);
}

static struct sl_team *make_team(uint32_t members, const struct sl_ops *ops, uint32_t k)
{
    struct sl_team *team;
    struct sl_err err;
    if (sl_team_create(&team, members, ops->scratch_bytes(k), &err) != SL_OK)
        abort();
    return team;
}

/* The product of all rows in one call, y being [m][g->y_stride]. */
static void whole(const struct sl_ops *ops, const struct sl_gemm8 *g, const struct sl_rows8 *second,
                  bool swiglu)
{
    void *scratch = take(ops->scratch_bytes(g->w.k));
    (swiglu ? ops->gemm8_swiglu : ops->gemm8)(g, scratch);
    if (second) {
        struct sl_gemm8 again = *g;
        again.x = *second;
        again.accumulate = true;
        ops->gemm8(&again, scratch);
    }
    free(scratch);
}

static void compare_integers(struct sl_panel w, uint32_t m, bool swiglu, bool two_digits)
{
    const struct sl_ops *ops = *sl_ops_available(&(uint32_t){0});
    uint32_t columns = swiglu ? w.n / 2 : w.n, stride = columns + 3;
    size_t bytes = (size_t)m * stride * sizeof(float);
    struct sl_rows8 x = make_rows8(m, w.k), second = make_rows8(m, w.k);
    float *want = take(bytes), *got = take(bytes);
    w.digits = two_digits ? 2 : 1;
    struct sl_gemm8 g = {.x = x, .m = m, .w = w, .col_end = columns, .y = want, .y_stride = stride};
    whole(ops, &g, two_digits ? &second : NULL, swiglu);
    g.y = got;
    for (uint32_t members = 1; members <= MAX_MEMBERS; members++) {
        struct sl_team *team = make_team(members, ops, w.k);
        memset(got, UNTOUCHED, bytes);
        sl_gemm8_team(team, ops, &g, two_digits ? &second : NULL, swiglu, SL_PART_EXPERTS);
        if (memcmp(want, got, bytes) != 0)
            sl_test_fail(__FILE__, __LINE__, "%s, %u rows, n %u, k %u, %u members: not the bits of one call",
                         sl_dtype_name(w.dtype), m, w.n, w.k, members);
        sl_team_destroy(team);
    }
    free(want), free(got);
    free_rows8(&x), free_rows8(&second);
}

SL_TEST(integer_products_are_the_same_however_they_are_cut)
{
    static const uint32_t rows[] = {1, 2, 16, 17, 241, 500};
    for (enum sl_dtype d = SL_I8; d < SL_DTYPES; d++) {
        struct sl_panel w = integer_panel(d, 416, 96);
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
            compare_integers(w, rows[i], false, false);
            compare_integers(w, rows[i], true, false);
        }
        compare_integers(w, 20, false, true);
        free((void *)(uintptr_t)w.data);
    }
}

SL_TEST(few_rows_of_a_large_matrix_are_cut_smaller)
{
    /* 29 MiB: more pieces than three members have by the rest */
    struct sl_panel w = integer_panel(SL_I8, 15008, 2048);
    compare_integers(w, 1, false, false);
    compare_integers(w, 16, false, false);
    compare_integers(w, 2, true, false);
    free((void *)(uintptr_t)w.data);
}

SL_TEST(float_products_are_the_same_however_they_are_cut)
{
    enum { N = 200, K = 70, M = 300 };
    const struct sl_ops *ops = *sl_ops_available(&(uint32_t){0});
    float *x = take(M * K * sizeof *x), *want = take(M * N * sizeof *want), *got = take(M * N * sizeof *got);
    float *data = take(sl_panel_bytes(SL_F32, N, K));
    for (size_t i = 0; i < sl_panel_bytes(SL_F32, N, K) / sizeof *data; i++)
        data[i] = draw_unit();
    for (size_t i = 0; i < M * K; i++)
        x[i] = draw_unit();
    for (uint32_t m = 1; m <= M; m = 3 * m + 2) {
        struct sl_gemm g = {.x = x,
                            .x_stride = K,
                            .m = m,
                            .w = {data, N, K, SL_F32, 0, 0},
                            .col_begin = 16,
                            .col_end = N,
                            .y = want,
                            .y_stride = N};
        void *scratch = take(ops->scratch_bytes(K));
        memset(want, UNTOUCHED, M * N * sizeof *want);
        ops->gemm(&g, scratch);
        free(scratch);
        g.y = got;
        for (uint32_t members = 1; members <= MAX_MEMBERS; members++) {
            struct sl_team *team = make_team(members, ops, K);
            memset(got, UNTOUCHED, M * N * sizeof *got);
            sl_gemm_team(team, ops, &g, false, SL_PART_EXPERTS);
            CHECK(memcmp(want, got, M * N * sizeof *want) == 0);
            sl_team_destroy(team);
        }
    }
    free(x), free(want), free(got), free(data);
}

SL_TEST(pieces_are_everything_once_at_multiples_of_the_unit)
{
    for (uint32_t total = 0; total < 200; total += 13)
        for (uint32_t n_tasks = 1; n_tasks < 9; n_tasks++) {
            uint32_t at = 0, begin, end;
            for (uint32_t i = 0; i < n_tasks; i++, at = end) {
                sl_piece(total, 16, n_tasks, i, &begin, &end);
                CHECK_INT(begin, at);
                CHECK(end == total || end % 16 == 0);
            }
            CHECK_INT(at, total);
        }
}
