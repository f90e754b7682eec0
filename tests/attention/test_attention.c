/* attention/: the page layout, and the block against a naive double-precision attention, whole and in pieces.
 */
#include "attention/attention.h"
#include "base/rng.h"
#include "tests/check.h"
#include <math.h>
#include <stdlib.h>

enum { H = 96, NQ = 4, NKV = 2, D = 32, T = 150, QKV = (NQ + 2 * NKV) * D, PAGES = 3 };

static float noise(struct sl_rng *rng, float scale)
{
    return (float)(sl_rng_unit(sl_rng_next(rng)) - 0.5) * scale;
}

struct attention_fixture {
    struct sl_arena arena, buffers;
    struct sl_team *team;
    struct sl_kv kv;
    struct sl_attention a;
    struct sl_attention_weights w;
    float *qkv, *o, *norm, *q_norm, *k_norm; /* row-major originals */
    float cosine[T * D / 2], sine[T * D / 2];
    uint32_t pages[PAGES];
};

static float *panel(struct sl_panel *p, const float *w, uint32_t n, uint32_t k)
{
    float *data = aligned_alloc(64, sl_panel_bytes(SL_F32, n, k));
    memset(data, 0, sl_panel_bytes(SL_F32, n, k));
    for (uint32_t r = 0; r < n; r++)
        for (uint32_t c = 0; c < k; c++)
            data[sl_panel_at(k, r, c)] = w[(size_t)r * k + c];
    *p = (struct sl_panel){data, n, k, SL_F32, 0, 0};
    return data;
}

static float *random_floats(struct sl_rng *rng, size_t n, float scale, float offset)
{
    float *x = malloc(n * sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = offset + noise(rng, scale);
    return x;
}

static struct attention_fixture *make_fixture(const struct sl_ops *ops, uint32_t n_threads,
                                              enum sl_dtype dtype)
{
    struct attention_fixture *f = calloc(1, sizeof *f);
    struct sl_rng rng = {11, 0};
    struct sl_kv_layout layout = {1, NKV, D, dtype};
    sl_arena_init(&f->arena, sl_kv_bytes(&layout, PAGES), NULL);
    sl_kv_init(&f->kv, &f->arena, &layout, PAGES);
    for (uint32_t i = 0; i < PAGES; i++)
        f->pages[i] = i;
    f->qkv = random_floats(&rng, QKV * H, 0.5f, 0);
    f->o = random_floats(&rng, H * NQ * D, 0.5f, 0);
    f->norm = random_floats(&rng, H, 0.5f, 1);
    f->q_norm = random_floats(&rng, D, 0.5f, 1);
    f->k_norm = random_floats(&rng, D, 0.5f, 1);
    panel(&f->w.qkv, f->qkv, QKV, H);
    panel(&f->w.o, f->o, H, NQ * D);
    f->w.norm = f->norm;
    f->w.q_norm = f->q_norm;
    f->w.k_norm = f->k_norm;
    for (uint32_t t = 0; t < T; t++)
        for (uint32_t i = 0; i < D / 2; i++) {
            double angle = t * pow(10000, -2.0 * i / D);
            f->cosine[t * D / 2 + i] = (float)cos(angle);
            f->sine[t * D / 2 + i] = (float)sin(angle);
        }
    struct sl_attention_dims dims = {H, NQ, NKV, D, 1e-6f, 1 / sqrtf(D)};
    sl_team_create(&f->team, n_threads, ops->scratch_bytes(NQ * D), NULL);
    sl_arena_init(&f->buffers, sl_attention_bytes(&dims, T, PAGES, n_threads), NULL);
    sl_attention_init(&f->a, &f->buffers, ops, f->team, &f->kv, &dims, T, PAGES);
    return f;
}

/* A panel of a float matrix at i8 or i4, nearest values, its rows rotated before when rotation > 0. */
static void quantised(struct sl_panel *p, const float *w, uint32_t n, uint32_t k, enum sl_dtype dtype,
                      uint32_t rotation)
{
    uint8_t *data = aligned_alloc(64, sl_panel_bytes(dtype, n, k));
    float row[NQ * D];
    memset(data, 0, sl_panel_bytes(dtype, n, k));
    for (uint32_t r = 0; r < n; r++) {
        void *block = data + r / SL_LANES * sl_quant_block_bytes(dtype, k);
        float most = 0, step;
        for (uint32_t i = 0; i < k; i++)
            row[i] = w[(size_t)r * k + i] / (rotation ? (float)rotation : 1.0f);
        if (rotation)
            sl_ops_ref.rotate(row, k, rotation);
        for (uint32_t i = 0; i < k; i++)
            most = fmaxf(most, fabsf(row[i]));
        step = sl_round_up12(most / (dtype == SL_I8 ? 127.0f : 7.0f));
        ((float *)block)[r % SL_LANES] = step;
        for (uint32_t i = 0; i < k; i++)
            sl_quant_put(dtype, k, block, r % SL_LANES, i,
                         (uint32_t)(lrintf(row[i] / step) + (dtype == SL_I8 ? 128 : 8)));
        for (uint32_t g = 0; g < sl_quant_groups(dtype, k); g++)
            sl_quant_put_scale(dtype, block, r % SL_LANES, g, 1);
    }
    *p = (struct sl_panel){data, n, k, dtype, rotation, 0};
}

static void integer_weights(struct attention_fixture *f, enum sl_dtype dtype, uint32_t rotation)
{
    if (!sl_dtype_is_integer(dtype))
        return;
    free((void *)(uintptr_t)f->w.qkv.data);
    free((void *)(uintptr_t)f->w.o.data);
    quantised(&f->w.qkv, f->qkv, QKV, H, dtype, rotation);
    quantised(&f->w.o, f->o, H, NQ * D, dtype, rotation);
}

static void free_fixture(struct attention_fixture *f)
{
    sl_team_destroy(f->team);
    sl_arena_fini(&f->buffers);
    free((void *)(uintptr_t)f->w.qkv.data);
    free((void *)(uintptr_t)f->w.o.data);
    free(f->qkv), free(f->o), free(f->norm), free(f->q_norm), free(f->k_norm);
    sl_arena_fini(&f->arena);
    free(f);
}

static void run_chunks(struct attention_fixture *f, float *x, uint32_t chunk)
{
    for (uint32_t pos = 0; pos < T; pos += chunk) {
        uint32_t n = T - pos < chunk ? T - pos : chunk;
        struct sl_attention_slice slice = {0, n, pos, f->pages, 0};
        sl_attention_run(&f->a, &f->w, 0, x + (size_t)pos * H, n, &slice, 1, f->cosine + pos * D / 2,
                         f->sine + pos * D / 2);
    }
}

static void norm_rope(double *head, const float *gain, const float *cosine, const float *sine)
{
    double sum = 0, turned[D];
    for (int i = 0; i < D; i++)
        sum += head[i] * head[i];
    for (int i = 0; i < D; i++)
        head[i] *= gain[i] / sqrt(sum / D + 1e-6);
    for (int i = 0; i < D / 2; i++) {
        turned[i] = head[i] * cosine[i] - head[i + D / 2] * sine[i];
        turned[i + D / 2] = head[i + D / 2] * cosine[i] + head[i] * sine[i];
    }
    memcpy(head, turned, sizeof turned);
}

/* y = x + o(attention(norm(x))) in double precision, straight from the definition */
static void naive(const struct attention_fixture *f, const float *x, double *y)
{
    double(*qkv)[QKV] = calloc(T, sizeof *qkv);
    for (int t = 0; t < T; t++) {
        double normed[H], sum = 0;
        for (int i = 0; i < H; i++)
            sum += (double)x[t * H + i] * x[t * H + i];
        for (int i = 0; i < H; i++)
            normed[i] = x[t * H + i] * (double)f->norm[i] / sqrt(sum / H + 1e-6);
        for (int r = 0; r < QKV; r++)
            for (int i = 0; i < H; i++)
                qkv[t][r] += normed[i] * f->qkv[r * H + i];
        for (int h = 0; h < NQ + NKV; h++)
            norm_rope(&qkv[t][h * D], h < NQ ? f->q_norm : f->k_norm, f->cosine + t * D / 2,
                      f->sine + t * D / 2);
    }
    for (int t = 0; t < T; t++) {
        double mixed[NQ * D] = {0};
        for (int h = 0; h < NQ; h++) {
            int kv = h / (NQ / NKV);
            double p[T], top = -INFINITY, sum = 0;
            for (int j = 0; j <= t; j++) {
                p[j] = 0;
                for (int i = 0; i < D; i++)
                    p[j] += qkv[t][h * D + i] * qkv[j][(NQ + kv) * D + i] / sqrt(D);
                top = p[j] > top ? p[j] : top;
            }
            for (int j = 0; j <= t; j++)
                sum += p[j] = exp(p[j] - top);
            for (int j = 0; j <= t; j++)
                for (int i = 0; i < D; i++)
                    mixed[h * D + i] += p[j] / sum * qkv[j][(NQ + NKV + kv) * D + i];
        }
        for (int r = 0; r < H; r++) {
            y[t * H + r] = x[t * H + r];
            for (int i = 0; i < NQ * D; i++)
                y[t * H + r] += mixed[i] * f->o[r * NQ * D + i];
        }
    }
    free(qkv);
}

SL_TEST(the_block_is_the_textbook_attention)
{
    struct attention_fixture *f = make_fixture(&sl_ops_ref, 1, SL_F32);
    struct sl_rng rng = {5, 0};
    float *x = random_floats(&rng, T * H, 2, 0);
    double *y = malloc(sizeof(double) * T * H), worst = 0;
    naive(f, x, y);
    run_chunks(f, x, T);
    for (int i = 0; i < T * H; i++)
        worst = fmax(worst, fabs(y[i] - x[i]));
    CHECK(worst < 2e-4);
    free(x);
    free(y);
    free_fixture(f);
}

/* Whatever the chunks, threads and tables: the same rows and the same page bytes. */
static void compare_runs(enum sl_dtype kv_dtype, enum sl_dtype weights, uint32_t rotation, uint32_t digits)
{
    struct sl_rng rng = {5, 0};
    float *input = random_floats(&rng, T * H, 2, 0), *first = NULL, *x = malloc(sizeof(float) * T * H);
    uint8_t *first_kv = NULL;
    uint32_t n_tables;
    const struct sl_ops *const *tables = sl_ops_available(&n_tables);
    static const uint32_t chunks[] = {T, 64, 7, 1}, threads[] = {1, 3};
    for (uint32_t b = 0; b < n_tables; b++)
        for (int c = 0; c < 4; c++)
            for (int t = 0; t < 2; t++) {
                struct attention_fixture *f = make_fixture(tables[b], threads[t], kv_dtype);
                integer_weights(f, weights, rotation);
                f->w.qkv.digits = f->w.o.digits = digits;
                memcpy(x, input, sizeof(float) * T * H);
                run_chunks(f, x, chunks[c]);
                size_t kv_bytes = PAGES * f->kv.slot_bytes;
                if (!first) {
                    first = malloc(sizeof(float) * T * H);
                    memcpy(first, x, sizeof(float) * T * H);
                    first_kv = malloc(kv_bytes);
                    memcpy(first_kv, f->kv.base, kv_bytes);
                }
                CHECK(memcmp(first, x, sizeof(float) * T * H) == 0);
                CHECK(memcmp(first_kv, f->kv.base, kv_bytes) == 0);
                free_fixture(f);
            }
    free(first), free(first_kv), free(x), free(input);
}

SL_TEST(chunks_threads_and_backends_change_no_bit)
{
    compare_runs(SL_F32, SL_F32, 0, 0);
    compare_runs(SL_BF16, SL_F32, 0, 0);
    compare_runs(SL_I8, SL_F32, 0, 0);
}

SL_TEST(nor_do_they_with_integer_weights)
{
    compare_runs(SL_BF16, SL_I8, 0, 0);
    compare_runs(SL_I8, SL_I4, 32, 0);
    compare_runs(SL_F32, SL_I8, 32, 2);
}

/* i8 weights, i8 pages and s8 activations against the same block in floats: what eight bits may cost. */
SL_TEST(eight_bits_stay_near_the_floats)
{
    struct sl_rng rng = {5, 0};
    float *x = random_floats(&rng, T * H, 2, 0), *y = malloc(sizeof(float) * T * H),
          *before = malloc(sizeof(float) * T * H);
    memcpy(y, x, sizeof(float) * T * H);
    memcpy(before, x, sizeof(float) * T * H);
    struct attention_fixture *f = make_fixture(*sl_ops_available(&(uint32_t){0}), 1, SL_I8);
    for (uint32_t rotation = 0; rotation <= 32; rotation += 32) {
        integer_weights(f, SL_I8, rotation);
        f->w.qkv.digits = f->w.o.digits = rotation ? 2 : 0;
        memcpy(y, before, sizeof(float) * T * H);
        run_chunks(f, y, 50);
        struct attention_fixture *g = make_fixture(&sl_ops_ref, 1, SL_F32);
        memcpy(x, before, sizeof(float) * T * H);
        run_chunks(g, x, T);
        double error = 0, size = 0;
        for (int i = 0; i < T * H; i++) {
            error += pow((double)(x[i] - y[i]), 2);
            size += pow((double)(x[i] - before[i]), 2);
        }
        CHECK(size > 0 && sqrt(error / size) < 0.03);
        free_fixture(g);
    }
    free_fixture(f);
    free(x), free(y), free(before);
}

/* A context of several segments: a decode step of three sequences has the same bits on one thread, which goes
 * through them in order, and on more, which share them out. */
enum { LONG = 3 * SL_SEGMENT_PAGES * SL_PAGE_TOKENS + 100, LONG_PAGES = LONG / SL_PAGE_TOKENS + 1, ROWS = 6 };

struct long_context {
    struct sl_arena arena;
    struct sl_kv kv;
    uint32_t pages[LONG_PAGES];
};

static void fill_long(struct long_context *l, enum sl_dtype dtype)
{
    struct sl_kv_layout layout = {1, NKV, D, dtype};
    struct sl_rng rng = {3, 0};
    float k[NKV * D], v[NKV * D];
    sl_arena_init(&l->arena, sl_kv_bytes(&layout, LONG_PAGES), NULL);
    sl_kv_init(&l->kv, &l->arena, &layout, LONG_PAGES);
    for (uint32_t i = 0; i < LONG_PAGES; i++)
        l->pages[i] = i;
    for (uint32_t t = 0; t < LONG; t++) {
        for (uint32_t i = 0; i < NKV * D; i++) {
            k[i] = noise(&rng, 2);
            v[i] = noise(&rng, 2);
        }
        sl_kv_append(&l->kv, &sl_ops_ref, l->pages[t / SL_PAGE_TOKENS], 0, t % SL_PAGE_TOKENS, k, v);
    }
}

/* Returns whether segments were shared out. */
static bool run_long(struct long_context *l, const struct sl_ops *ops, uint32_t n_threads, float *x)
{
    struct attention_fixture *f = make_fixture(ops, n_threads, SL_F32);
    struct sl_arena arena;
    struct sl_attention a;
    struct sl_rng rng = {8, 0};
    sl_arena_init(&arena, sl_attention_bytes(&f->a.dims, ROWS, LONG_PAGES, n_threads), NULL);
    CHECK_INT(sl_attention_init(&a, &arena, ops, f->team, &l->kv, &f->a.dims, ROWS, LONG_PAGES), SL_OK);
    for (int i = 0; i < ROWS * H; i++)
        x[i] = noise(&rng, 2);
    /* one token in the fourth segment, four that cross into the second, one in the first */
    uint32_t edge = SL_SEGMENT_PAGES * SL_PAGE_TOKENS;
    struct sl_attention_slice slices[] = {
        {0, 1, LONG - 1, l->pages, 0}, {1, 4, edge - 2, l->pages, 0}, {5, 1, 9, l->pages, 0}};
    uint8_t *kept = malloc(l->kv.slot_bytes * LONG_PAGES);
    memcpy(kept, l->kv.base, l->kv.slot_bytes * LONG_PAGES); /* the slices share pages, and append to them */
    sl_attention_run(&a, &f->w, 0, x, ROWS, slices, 3, f->cosine, f->sine);
    memcpy(l->kv.base, kept, l->kv.slot_bytes * LONG_PAGES);
    bool shared = false;
    for (size_t i = 0; i < a.buffers.state_floats; i++)
        shared = shared || a.buffers.states[i] != 0;
    free(kept);
    sl_arena_fini(&arena);
    free_fixture(f);
    return shared;
}

SL_TEST(segments_are_shared_out_without_a_trace)
{
    static const enum sl_dtype dtypes[] = {SL_F32, SL_BF16, SL_I8};
    static const uint32_t threads[] = {1, 2, 5, 16};
    uint32_t n_tables;
    const struct sl_ops *const *tables = sl_ops_available(&n_tables);
    for (size_t d = 0; d < 3; d++) {
        struct long_context *l = calloc(1, sizeof *l);
        float first[ROWS * H], x[ROWS * H];
        fill_long(l, dtypes[d]);
        run_long(l, &sl_ops_ref, 1, first);
        for (uint32_t b = 0; b < n_tables; b++)
            for (int t = 0; t < 4; t++) {
                bool shared = run_long(l, tables[b], threads[t], x);
                CHECK_INT(shared, threads[t] >= 5); /* 4 tiles x 2 heads are enough for fewer */
                CHECK(memcmp(first, x, sizeof x) == 0);
            }
        sl_arena_fini(&l->arena);
        free(l);
    }
}

SL_TEST(a_page_holds_what_was_appended_until_it_is_cleared)
{
    struct sl_kv_layout layout = {2, 1, 24, SL_BF16};
    struct sl_arena arena;
    struct sl_kv kv;
    float row[24];
    for (int i = 0; i < 24; i++)
        row[i] = 1.5f;
    REQUIRE(sl_arena_init(&arena, sl_kv_bytes(&layout, 2), NULL) == SL_OK);
    REQUIRE(sl_kv_init(&kv, &arena, &layout, 2) == SL_OK);
    sl_kv_append(&kv, &sl_ops_ref, 1, 1, 63, row, row);
    const uint16_t *v = (const uint16_t *)(const void *)sl_kv_v(&kv, 1, 1, 0);
    CHECK_INT(v[sl_panel_at(64, 23, 63)], 0x3FC0);
    CHECK_INT(v[sl_panel_at(64, 23, 62)], 0);
    sl_kv_clear(&kv, 0);
    CHECK_INT(v[sl_panel_at(64, 23, 63)], 0x3FC0);
    sl_kv_clear(&kv, 1);
    CHECK_INT(v[sl_panel_at(64, 23, 63)], 0);
    CHECK(sl_kv_bytes(&(struct sl_kv_layout){256, 4096, 512, SL_F32}, UINT32_MAX) == SIZE_MAX);
    sl_arena_fini(&arena);
}
