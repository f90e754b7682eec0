/* The feed-forward against a double-precision loop from the definition: routed with and without a shared expert, dense, with
 * float and with integer weights, rotated and not; no bit depends on threads, chunking or the backend; experts without rows,
 * all rows to one expert. With integer weights the loop has the very values that the panels hold, so what remains is the
 * rounding of activations to s8. */
#include "base/rng.h"
#include "experts/experts.h"
#include "tests/check.h"
#include <math.h>
#include <stdlib.h>

enum { H = 40, I = 24, S = 56, E = 6, K = 2, T = 37 };

struct experts_fixture {
    float norm[H], router[E * H], gate[E][I * H], up[E][I * H], down[E][H * I];
    float s_gate[S * H], s_up[S * H], s_down[H * S], s_scale[H];
    struct sl_experts_weights w;
    void *blocks[5];
};

static void fill(struct sl_rng *rng, float *x, size_t n, float scale, float offset)
{
    for (size_t i = 0; i < n; i++)
        x[i] = offset + (float)(sl_rng_unit(sl_rng_next(rng)) - 0.5) * scale;
}

static void put_panel(float *to, const float *w, uint32_t n, uint32_t k)
{
    for (uint32_t r = 0; r < n; r++)
        for (uint32_t c = 0; c < k; c++)
            to[sl_panel_at(k, r, c)] = w[r * k + c];
}

/* gate and up interleaved by 16 outputs, as isa.h wants them */
static void put_gate_up(float *to, const float *gate, const float *up, uint32_t n, uint32_t k)
{
    for (uint32_t r = 0; r < n; r++)
        for (uint32_t c = 0; c < k; c++) {
            to[sl_panel_at(k, r / 16 * 32 + r % 16, c)] = gate[r * k + c];
            to[sl_panel_at(k, r / 16 * 32 + 16 + r % 16, c)] = up[r * k + c];
        }
}

static float *block(struct experts_fixture *f, int i, size_t bytes)
{
    f->blocks[i] = aligned_alloc(64, (bytes + 63) / 64 * 64);
    memset(f->blocks[i], 0, bytes);
    return f->blocks[i];
}

/* One row of an integer panel, drawn: q and s anywhere in their range. w becomes what the row means for inputs that are not
 * rotated: w' H in blocks, H[j][i] = (-1)^popcount(j & i). */
static void draw_row(struct sl_rng *rng, uint8_t *panel, enum sl_dtype dtype, uint32_t rotation,
                     uint32_t output, float *w, uint32_t k)
{
    const struct sl_quant_rule *rule = sl_quant_rule_of(dtype);
    uint8_t *at = panel + output / SL_LANES * sl_quant_block_bytes(dtype, k);
    uint32_t c = output % SL_LANES;
    float scale = sl_round_up12((float)(0.5 + sl_rng_unit(sl_rng_next(rng))) * 0.004f /
                                (float)(rotation ? rotation / 2 : 1)),
          row[64];
    ((float *)(void *)at)[c] = scale;
    for (uint32_t g = 0; g < sl_quant_groups(dtype, k); g++)
        sl_quant_put_scale(dtype, at, c, g, (uint32_t)(sl_rng_next(rng) % 16));
    for (uint32_t i = 0; i < sl_quant_padded(k); i++)
        sl_quant_put(dtype, k, at, c, i,
                     (uint32_t)(sl_rng_next(rng) % (uint32_t)(rule->levels - 1) + (dtype == SL_I8)));
    for (uint32_t i = 0; i < k; i++)
        w[i] = row[i] = scale * (float)sl_quant_weight(dtype, k, at, c, i);
    for (uint32_t i = 0; rotation && i < k; i++) {
        w[i] = 0;
        for (uint32_t j = 0; j < rotation; j++)
            w[i] += __builtin_popcount(i % rotation & j) % 2 ? -row[i - i % rotation + j]
                                                             : row[i - i % rotation + j];
    }
}

static struct sl_panel draw_gate_up(struct sl_rng *rng, uint8_t *to, enum sl_dtype dtype, uint32_t rotation,
                                    float *gate, float *up, uint32_t n, uint32_t k)
{
    for (uint32_t r = 0; r < n; r++) {
        draw_row(rng, to, dtype, rotation, r / 16 * 32 + r % 16, gate + r * k, k);
        draw_row(rng, to, dtype, rotation, r / 16 * 32 + 16 + r % 16, up + r * k, k);
    }
    return (struct sl_panel){to, 2 * sl_round_lanes(n), k, dtype, rotation, 0};
}

static struct sl_panel draw_down(struct sl_rng *rng, uint8_t *to, enum sl_dtype dtype, uint32_t rotation,
                                 float *w, uint32_t n, uint32_t k)
{
    for (uint32_t r = 0; r < n; r++)
        draw_row(rng, to, dtype, rotation, r, w + r * k, k);
    return (struct sl_panel){to, n, k, dtype, rotation, 0};
}

static void integer_weights(struct experts_fixture *f, struct sl_rng *rng, enum sl_dtype dtype,
                            uint32_t rotation)
{
    uint32_t gu = 2 * sl_round_lanes(I), sgu = 2 * sl_round_lanes(S), single_rotation = rotation / 2;
    size_t gu_bytes = sl_panel_bytes(dtype, gu, H), down_bytes = sl_panel_bytes(dtype, H, I);
    for (int i = 1; i < 5; i++)
        free(f->blocks[i]);
    uint8_t *gate_up = (void *)block(f, 1, E * gu_bytes), *down = (void *)block(f, 2, E * down_bytes);
    uint8_t *s_gate_up = (void *)block(f, 3, sl_panel_bytes(dtype, sgu, H)),
            *s_down = (void *)block(f, 4, sl_panel_bytes(dtype, H, S));
    for (uint32_t e = 0; e < E; e++) {
        f->w.routed.gate_up =
            draw_gate_up(rng, gate_up + e * gu_bytes, dtype, rotation, f->gate[e], f->up[e], I, H);
        f->w.routed.down = draw_down(rng, down + e * down_bytes, dtype, rotation, f->down[e], H, I);
    }
    f->w.routed = (struct sl_expert_set){f->w.routed.gate_up, f->w.routed.down, gu_bytes, down_bytes};
    f->w.routed.gate_up.data = gate_up;
    f->w.routed.down.data = down;
    f->w.gate_up = draw_gate_up(rng, s_gate_up, dtype, single_rotation, f->s_gate, f->s_up, S, H);
    f->w.down = draw_down(rng, s_down, dtype, single_rotation, f->s_down, H, S);
}

static struct experts_fixture *make_fixture(bool moe, bool single, enum sl_dtype dtype, uint32_t rotation)
{
    struct experts_fixture *f = calloc(1, sizeof *f);
    struct sl_rng rng = {21, 0};
    fill(&rng, f->norm, H, 0.5f, 1);
    fill(&rng, f->router, E * H, 2, 0);
    fill(&rng, f->gate[0], E * I * H, 0.6f, 0);
    fill(&rng, f->up[0], E * I * H, 0.6f, 0);
    fill(&rng, f->down[0], E * H * I, 0.6f, 0);
    fill(&rng, f->s_gate, S * H, 0.6f, 0);
    fill(&rng, f->s_up, S * H, 0.6f, 0);
    fill(&rng, f->s_down, H * S, 0.6f, 0);
    fill(&rng, f->s_scale, H, 0.6f, 0);
    uint32_t gu = 2 * sl_round_lanes(I), sgu = 2 * sl_round_lanes(S);
    size_t gu_bytes = sl_panel_bytes(SL_F32, gu, H), down_bytes = sl_panel_bytes(SL_F32, H, I);
    float *router = block(f, 0, sl_panel_bytes(SL_F32, E, H)), *gate_up = block(f, 1, E * gu_bytes),
          *down = block(f, 2, E * down_bytes), *s_gate_up = block(f, 3, sl_panel_bytes(SL_F32, sgu, H)),
          *s_down = block(f, 4, sl_panel_bytes(SL_F32, H, S));
    put_panel(router, f->router, E, H);
    for (uint32_t e = 0; e < E; e++) {
        put_gate_up(gate_up + e * gu_bytes / 4, f->gate[e], f->up[e], I, H);
        put_panel(down + e * down_bytes / 4, f->down[e], H, I);
    }
    put_gate_up(s_gate_up, f->s_gate, f->s_up, S, H);
    put_panel(s_down, f->s_down, H, S);
    f->w = (struct sl_experts_weights){
        .norm = f->norm,
        .is_moe = moe,
        .router = {router, E, H, SL_F32, 0, 0},
        .routed = {{gate_up, gu, H, SL_F32, 0, 0}, {down, H, I, SL_F32, 0, 0}, gu_bytes, down_bytes},
        .gate_up = {s_gate_up, sgu, H, SL_F32, 0, 0},
        .down = {s_down, H, S, SL_F32, 0, 0},
        .has_single = single,
        .shared_gate = moe && single ? f->s_scale : NULL};
    if (sl_dtype_is_integer(dtype))
        integer_weights(f, &rng, dtype, rotation);
    return f;
}

static void free_fixture(struct experts_fixture *f)
{
    for (int i = 0; i < 5; i++)
        free(f->blocks[i]);
    free(f);
}

static void naive_ffn(double *y, const double *x, const float *gate, const float *up, const float *down,
                      int width, double scale)
{
    double hidden[S];
    for (int r = 0; r < width; r++) {
        double g = 0, u = 0;
        for (int i = 0; i < H; i++) {
            g += x[i] * gate[r * H + i];
            u += x[i] * up[r * H + i];
        }
        hidden[r] = g / (1 + exp(-g)) * u;
    }
    for (int r = 0; r < H; r++)
        for (int i = 0; i < width; i++)
            y[r] += scale * hidden[i] * down[r * width + i];
}

static void naive_row(const struct experts_fixture *f, const float *x, double *y)
{
    double normed[H], sum = 0, scores[E], chosen_sum = 0, scale = 0;
    int chosen[K];
    for (int i = 0; i < H; i++)
        sum += (double)x[i] * x[i];
    for (int i = 0; i < H; i++) {
        normed[i] = x[i] * (double)f->norm[i] / sqrt(sum / H + 1e-6);
        y[i] = x[i];
        scale += normed[i] * f->s_scale[i];
    }
    if (f->w.is_moe) {
        for (int e = 0; e < E; e++) {
            scores[e] = 0;
            for (int i = 0; i < H; i++)
                scores[e] += normed[i] * f->router[e * H + i];
            scores[e] = exp(scores[e]);
        }
        for (int k = 0; k < K; k++) {
            chosen[k] = -1;
            for (int e = 0; e < E; e++)
                if ((k == 0 || e != chosen[0]) && (chosen[k] < 0 || scores[e] > scores[chosen[k]]))
                    chosen[k] = e;
            chosen_sum += scores[chosen[k]];
        }
        for (int k = 0; k < K; k++)
            naive_ffn(y, normed, f->gate[chosen[k]], f->up[chosen[k]], f->down[chosen[k]], I,
                      scores[chosen[k]] / chosen_sum);
    }
    if (f->w.has_single)
        naive_ffn(y, normed, f->s_gate, f->s_up, f->s_down, S, f->w.shared_gate ? 1 / (1 + exp(-scale)) : 1);
}

static void run(const struct experts_fixture *f, const struct sl_ops *ops, uint32_t threads, uint32_t chunk,
                float *x)
{
    struct sl_arena arena;
    struct sl_experts experts;
    struct sl_team *team;
    struct sl_experts_dims dims = {H, E, K, I, S, true, 1e-6f};
    sl_team_create(&team, threads, ops->scratch_bytes(S), NULL);
    sl_arena_init(&arena, sl_experts_bytes(&dims, T, threads), NULL);
    CHECK_INT(sl_experts_init(&experts, &arena, ops, team, &dims, T), SL_OK);
    for (uint32_t row = 0; row < T; row += chunk) {
        sl_experts_run(&experts, &f->w, x + row * H, T - row < chunk ? T - row : chunk);
        sl_experts_finish(&experts);
    }
    sl_arena_fini(&arena);
    sl_team_destroy(team);
}

static void check_kind(bool moe, bool single, bool one_expert, enum sl_dtype dtype, uint32_t rotation,
                       uint32_t digits)
{
    struct experts_fixture *f = make_fixture(moe, single, dtype, rotation);
    f->w.routed.gate_up.digits = f->w.routed.down.digits = f->w.gate_up.digits = f->w.down.digits = digits;
    if (one_expert) /* experts 3 and 4 win everywhere, the others get no rows */
        for (int i = 0; i < H; i++)
            for (uint32_t e = 0; e < E; e++)
                ((float *)(uintptr_t)f->w.router.data)[sl_panel_at(H, e, (uint32_t)i)] =
                    f->router[e * H + (uint32_t)i] = e == 3   ? 0.02f
                                                     : e == 4 ? 0.01f
                                                              : 0.0f;
    struct sl_rng rng = {9, 0};
    float input[T * H], first[T * H], x[T * H];
    double worst = 0, expected[H], noise = 0, signal = 0;
    fill(&rng, input, T * H, 3, one_expert ? 2.0f : 0);
    uint32_t n_tables;
    const struct sl_ops *const *tables = sl_ops_available(&n_tables);
    memcpy(first, input, sizeof input);
    run(f, &sl_ops_ref, 1, T, first);
    for (int t = 0; t < T; t++) {
        naive_row(f, input + t * H, expected);
        for (int i = 0; i < H; i++) {
            double change = expected[i] - input[t * H + i], error = expected[i] - first[t * H + i];
            worst = fmax(worst, fabs(error));
            noise += error * error;
            signal += change * change;
        }
    }
    if (!sl_dtype_is_integer(dtype))
        CHECK(worst < 1e-4);
    else /* two roundings of rows to 8 bits: 40 dB each or so; a missing rotation or a wrong row gives 0 dB.
              * With two digits the rows have 15 bits. */
        CHECK(noise < (digits == 2 ? 1e-7 : 1e-3) * signal);
    for (uint32_t b = 0; b < n_tables; b++)
        for (uint32_t threads = 1; threads <= 3; threads++)
            for (uint32_t chunk = 1; chunk <= T; chunk += 9) {
                memcpy(x, input, sizeof input);
                run(f, tables[b], threads, chunk, x);
                CHECK(memcmp(x, first, sizeof x) == 0);
            }
    free_fixture(f);
}

SL_TEST(routed_experts)
{
    check_kind(true, false, false, SL_F32, 0, 0);
}
SL_TEST(all_rows_to_two_experts)
{
    check_kind(true, false, true, SL_F32, 0, 0);
}
SL_TEST(routed_with_a_gated_shared_expert)
{
    check_kind(true, true, false, SL_F32, 0, 0);
}
SL_TEST(a_dense_layer)
{
    check_kind(false, true, false, SL_F32, 0, 0);
}
SL_TEST(integer_experts_of_every_format)
{
    for (enum sl_dtype d = SL_I8; d < SL_DTYPES; d++)
        check_kind(true, d == SL_I8, false, d, d == SL_I4 || d == SL_I8 ? 8 : 0, 0);
}
SL_TEST(all_rows_to_two_integer_experts)
{
    check_kind(true, false, true, SL_I4, 0, 0);
}
SL_TEST(a_dense_integer_layer)
{
    check_kind(false, true, false, SL_I8, 8, 0);
}
SL_TEST(two_digits_of_activations)
{
    check_kind(true, true, false, SL_I8, 8, 2);
    check_kind(true, false, true, SL_I4, 0, 2);
    check_kind(false, true, false, SL_I8, 0, 2);
}
SL_TEST(two_digits_beside_one)
{
    struct experts_fixture *f = make_fixture(true, true, SL_I8, 0);
    /* the shared expert's rows ask for more than the routed ones have */
    f->w.gate_up.digits = f->w.down.digits = 2;
    float input[T * H], first[T * H], x[T * H];
    struct sl_rng rng = {4, 0};
    fill(&rng, input, T * H, 3, 0);
    memcpy(first, input, sizeof input);
    run(f, &sl_ops_ref, 1, T, first);
    memcpy(x, input, sizeof input);
    uint32_t n_tables;
    run(f, sl_ops_available(&n_tables)[0], 3, 10, x);
    CHECK(memcmp(x, first, sizeof x) == 0);
    double expected[H], worst = 0;
    for (int t = 0; t < T; t++) {
        naive_row(f, input + t * H, expected);
        for (int i = 0; i < H; i++)
            worst = fmax(worst, fabs(expected[i] - first[t * H + i]));
    }
    CHECK(worst < 0.2); /* the routed half is still of 8 bits */
    free_fixture(f);
}
