/* attention/: the page layout, and the block against a naive double-precision attention, whole and in pieces. */
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

struct fixture {
    struct sl_arena arena;
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
    *p = (struct sl_panel){data, n, k, SL_F32, 0};
    return data;
}

static float *random_floats(struct sl_rng *rng, size_t n, float scale, float offset)
{
    float *x = malloc(n * sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = offset + noise(rng, scale);
    return x;
}

static struct fixture *make_fixture(const struct sl_ops *ops, uint32_t n_threads, enum sl_dtype dtype)
{
    struct fixture *f = calloc(1, sizeof *f);
    struct sl_rng rng = {11, 0};
    struct sl_kv_layout layout = {1, NKV, D, dtype};
    sl_arena_init(&f->arena, sl_kv_bytes(&layout, PAGES), NULL);
    sl_kv_init(&f->kv, &f->arena, &layout, PAGES);
    for (uint32_t i = 0; i < PAGES; i++)
        sl_kv_take(&f->kv, &f->pages[i]);
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
    f->a.ops = ops;
    sl_team_create(&f->a.team, n_threads, ops->scratch_bytes(NQ * D), NULL);
    f->a.dims = (struct sl_attention_dims){H, NQ, NKV, D, 1e-6f, 1 / sqrtf(D)};
    f->a.kv = &f->kv;
    f->a.buffers = (struct sl_attention_buffers){calloc(T, H * 4), calloc(T, QKV * 4), calloc(T, NQ * D * 4),
                                                 calloc(2 * PAGES * n_threads, sizeof(void *)), PAGES};
    return f;
}

static void free_fixture(struct fixture *f)
{
    free(f->a.buffers.normed);
    free(f->a.buffers.qkv);
    free(f->a.buffers.mixed);
    free(f->a.buffers.page_table);
    sl_team_destroy(f->a.team);
    free((void *)(uintptr_t)f->w.qkv.data);
    free((void *)(uintptr_t)f->w.o.data);
    free(f->qkv), free(f->o), free(f->norm), free(f->q_norm), free(f->k_norm);
    sl_arena_fini(&f->arena);
    free(f);
}

static void run_chunks(struct fixture *f, float *x, uint32_t chunk)
{
    for (uint32_t pos = 0; pos < T; pos += chunk) {
        uint32_t n = T - pos < chunk ? T - pos : chunk;
        struct sl_attention_slice slice = {0, n, pos, f->pages};
        sl_attention_run(&f->a, &f->w, 0, x + (size_t)pos * H, n, &slice, 1, f->cosine + pos * D / 2, f->sine + pos * D / 2);
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
static void naive(const struct fixture *f, const float *x, double *y)
{
    double (*qkv)[QKV] = calloc(T, sizeof *qkv);
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
            norm_rope(&qkv[t][h * D], h < NQ ? f->q_norm : f->k_norm, f->cosine + t * D / 2, f->sine + t * D / 2);
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
    struct fixture *f = make_fixture(&sl_ops_ref, 1, SL_F32);
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

SL_TEST(chunks_threads_and_backends_change_no_bit)
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
                struct fixture *f = make_fixture(tables[b], threads[t], SL_BF16);
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

SL_TEST(a_page_pool_ends_and_comes_back_zeroed)
{
    struct sl_kv_layout layout = {2, 1, 24, SL_BF16};
    struct sl_arena arena;
    struct sl_kv kv;
    uint32_t a, b;
    float row[24];
    for (int i = 0; i < 24; i++)
        row[i] = 1.5f;
    REQUIRE(sl_arena_init(&arena, sl_kv_bytes(&layout, 1), NULL) == SL_OK);
    REQUIRE(sl_kv_init(&kv, &arena, &layout, 1) == SL_OK);
    REQUIRE(sl_kv_take(&kv, &a) == SL_OK);
    CHECK_INT(sl_kv_take(&kv, &b), SL_E_EXHAUSTED);
    sl_kv_append(&kv, a, 1, 63, row, row);
    const uint16_t *v = (const uint16_t *)(const void *)sl_kv_v(&kv, a, 1, 0);
    CHECK_INT(v[sl_panel_at(64, 23, 63)], 0x3FC0);
    CHECK_INT(v[sl_panel_at(64, 23, 62)], 0);
    sl_kv_give(&kv, a);
    REQUIRE(sl_kv_take(&kv, &b) == SL_OK);
    CHECK_INT(v[sl_panel_at(64, 23, 63)], 0);
    CHECK(sl_kv_bytes(&(struct sl_kv_layout){256, 4096, 512, SL_F32}, UINT32_MAX) == SIZE_MAX);
    sl_arena_fini(&arena);
}
