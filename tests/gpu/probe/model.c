/* What each primitive of the seam has to give, once more and without it (probe.h): scalars, matrices, arrays of bytes. Fragments are
 * taken apart by the documents' formula for where an element lies, products are sums over k. And the operands, by one seed. */
#include "base/rng.h"
#include "kernels/exp.h"
#include "tests/gpu/probe/probe.h"
#include <math.h>
#include <stdbool.h>
#include <string.h>

#define SHAPE(name, in, out, cases) {#name, in, out, cases},
const struct probe_shape probe_shapes[PROBE_OPS] = {PROBE_WARP(SHAPE) PROBE_FOUR(SHAPE)};
#undef SHAPE

/* ---- operands ---- */

static const float odd[] = {0.0f,
                            -0.0f,
                            1.0f,
                            -1.0f,
                            0.5f,
                            1.5f,
                            2.5f,
                            -2.5f,
                            INFINITY,
                            NAN,
                            1e-45f,
                            -1e-40f,
                            0x1p-126f,
                            0x1p-149f,
                            3.4e38f,
                            0x1.fffffep127f,
                            88.7f,
                            88.73f,
                            -87.2f,
                            -87.4f,
                            -126.5f,
                            127.9f,
                            0x1.000002p0f,
                            -INFINITY,
                            8388607.5f,
                            3.0f,
                            1.0f / 3,
                            0x1p-75f,
                            0x1p75f,
                            16777217.0f,
                            -0x1.fffffep127f,
                            7.0f};

static float of_word(uint32_t word)
{
    float v;
    memcpy(&v, &word, 4);
    return v;
}

static uint32_t to_word(float v)
{
    uint32_t word;
    memcpy(&word, &v, 4);
    return word;
}

/* Case 0 is the odd numbers, case 1 any bits, the others of an ordinary size. */
static uint32_t draw_float(enum probe_op op, uint64_t bits, uint32_t kind, uint32_t row, uint32_t lane)
{
    float v = (float)(sl_rng_unit(bits) - 0.5) * 300.0f;
    if (op == PROBE_ROUND) /* halves, too; and no further than integers go */
        return to_word(kind == 0 ? rintf(v) + 0.5f : kind == 1 ? v * 1e6f : v);
    if (op == PROBE_FLOAT_OF_INTEGER_FLOATS)
        return (uint32_t)(bits >> 32) >> (kind * 7);
    if (kind == 0)
        return to_word(odd[(lane * (2 * row + 1) + row * 5) % 32]);
    return kind == 1 ? (uint32_t)bits : to_word(v);
}

void probe_draw(enum probe_op op, uint32_t *in)
{
    const struct probe_shape *s = &probe_shapes[op];
    struct sl_rng rng = {20261130 + (uint64_t)op, 0};
    for (uint32_t i = 0; i < s->cases * s->n_in * 32; i++) {
        uint64_t bits = sl_rng_next(&rng);
        uint32_t kind = i / 32 / s->n_in, row = i / 32 % s->n_in;
        in[i] = (uint32_t)(bits >> 17);
        if (op <= PROBE_ROUND)
            in[i] = draw_float(op, bits, kind, row, i % 32);
        bool ends = kind == 0 && (op == PROBE_MMA_U8S8 || op == PROBE_MMA_S8U8) && row < 6;
        if (ends) /* bytes at the ends of their ranges */
            in[i] = (bits & 1) ? 0x80FF7F00u : 0xFF80FF80u;
        bool one = (op == PROBE_GLOBAL_STORES || op == PROBE_SHARED_STORES) && row == 5;
        if (one || (op == PROBE_SHARED_LOADS && row == 4))
            in[i] = 5 * kind + 1; /* the same for all lanes, so that each has a place of its own */
        bool a_sum =
            (op == PROBE_MMA_U8S8 || op == PROBE_MMA_S8U8) ? row >= 6 : op >= PROBE_WGMMA_0 && row >= 144;
        if (a_sum) /* far from the ends of an i32, which no sum of ours comes near */
            in[i] = (uint32_t)((int32_t)in[i] >> 4);
    }
}

/* ---- what they give ---- */

static float model_float(enum probe_op op, float a, float b, float c)
{
    volatile float product = a * b; /* rounded before the sum */
    switch (op) {
    case PROBE_FMA_FLOATS:
        return fmaf(a, b, c);
    case PROBE_MULTIPLY_ADD_FLOATS:
        return product + c;
    case PROBE_ADD_FLOATS:
        return a + b;
    case PROBE_SUBTRACT_FLOATS:
        return a - b;
    case PROBE_DIVIDE_FLOATS:
        return a / b;
    case PROBE_ROOT_FLOATS:
        return sqrtf(a);
    case PROBE_MOST_FLOATS:
        return b > a ? b : a;
    case PROBE_LESS_FLOATS:
        return a < b ? 1.0f : -1.0f;
    case PROBE_EXP_FLOATS:
        return sl_exp_scalar(a);
    case PROBE_EXP2_FLOATS:
        return sl_exp2_scalar(a);
    case PROBE_SILU_FLOATS:
        return sl_silu_scalar(a);
    default: /* FLOAT_OF_INTEGER_FLOATS */
        return (float)(int32_t)to_word(a);
    }
}

static void model_integers(const uint32_t *in, uint32_t *out, uint32_t l)
{
    uint32_t a = in[l], b = in[32 + l], c = in[64 + l], n = b % 32;
    uint32_t most = a > b ? a : b, least = b < c ? b : c, ones = 0;
    for (uint32_t bit = 0; bit < 32; bit++)
        ones += a >> bit & 1;
    out[l] = a * b + c;
    out[32 + l] = (a >> n) ^ (c << n);
    out[64 + l] = (uint32_t)((int64_t)(int32_t)a >> n);
    out[96 + l] = ones;
    out[128 + l] = most - least;
    out[160 + l] = a < 0x80000000u && b >= 7 ? (a & b) : (a | c);
    out[192 + l] = (uint32_t)((uint64_t)a * b >> 32);
}

static void model_shuffles(const uint32_t *in, uint32_t *out, uint32_t l)
{
    static const uint32_t masks[] = {1, 2, 4, 8, 16, 31};
    uint32_t votes = 0;
    for (uint32_t i = 0; i < 6; i++)
        out[i * 32 + l] = in[l ^ masks[i]];
    for (uint32_t i = 0; i < 32; i++)
        votes |= (in[i] < 0x80000000u ? 1u : 0u) << i;
    out[6 * 32 + l] = in[9];
    out[7 * 32 + l] = votes;
}

/* Loads of 1, 2, 4, 8 and 16 bytes out of 16. */
static void model_loads(const uint8_t *from, bool on, uint32_t *out, uint32_t l)
{
    static const struct {
        uint32_t at, bytes, row;
    } loads[] = {{3, 1, 0}, {6, 2, 1}, {4, 4, 2}, {8, 8, 3}, {0, 16, 5}};
    for (uint32_t i = 0; i < 5; i++) {
        uint32_t words[4] = {0};
        if (on)
            memcpy(words, from + loads[i].at, loads[i].bytes);
        for (uint32_t w = 0; w < (loads[i].bytes + 3) / 4; w++)
            out[(loads[i].row + w) * 32 + l] = words[w];
    }
}

/* The same widths, each into 512 bytes of its own. */
static void model_stores(const uint32_t *in, uint8_t *out, uint32_t l, uint32_t who)
{
    static const struct {
        uint32_t at, bytes, from;
    } stores[] = {{5, 1, 0}, {10, 2, 1}, {12, 4, 2}, {8, 8, 0}, {0, 16, 0}};
    for (uint32_t i = 0; i < 5; i++) {
        uint32_t words[4] = {0};
        for (uint32_t w = 0; w < (stores[i].bytes + 3) / 4; w++)
            words[w] = in[(stores[i].from + w) * 32 + l];
        memcpy(out + 512 * i + 16 * who + stores[i].at, words, stores[i].bytes);
    }
}

static void model_copy(const uint32_t *in, uint32_t *out, uint32_t l)
{
    uint32_t of = l ^ 1; /* whose 16 bytes this lane reads back */
    bool on = in[128 + of] & 1, act = in[160 + of] & 1;
    for (uint32_t i = 0; i < 4; i++)
        out[i * 32 + l] = !act ? 0xA5A5A5A5u : on ? in[(in[192 + of] % 32) * 4 + i] : 0;
}

static uint8_t byte_of(const uint32_t *rows, uint32_t row, uint32_t lane, uint32_t byte)
{
    return (uint8_t)(rows[row * 32 + lane] >> (8 * byte));
}

/* Row r, column k of A: lane 4 * (r % 8) + k % 16 / 4, register r / 8 + 2 * (k / 16), byte k % 4. Of B, k and n: lane 4n + k % 16 / 4. */
static void model_mma(const uint32_t *in, uint32_t *out, bool a_is_signed)
{
    for (uint32_t r = 0; r < 16; r++)
        for (uint32_t n = 0; n < 8; n++) {
            uint32_t at = (r / 8 * 2 + n % 2) * 32 + r % 8 * 4 + n / 2;
            int64_t sum = (int32_t)in[6 * 32 + at];
            for (uint32_t k = 0; k < 32; k++) {
                uint8_t a = byte_of(in, r / 8 + k / 16 * 2, r % 8 * 4 + k % 16 / 4, k % 4);
                uint8_t b = byte_of(in + 4 * 32, k / 16, n * 4 + k % 16 / 4, k % 4);
                sum += a_is_signed ? (int8_t)a * (int)b : (int)a * (int8_t)b;
            }
            out[at] = (uint32_t)sum;
        }
}

static void model_wgmma(const uint32_t *in, uint32_t *out, uint32_t quarter)
{
    const uint8_t *columns = (const uint8_t *)(in + 16 * 32);
    for (uint32_t r = 0; r < 64; r++)
        for (uint32_t n = 0; n < 128; n++) {
            uint32_t reg = n / 8 * 4 + r % 16 / 8 * 2 + n % 2;
            uint32_t at = (r / 16 * 64 + reg) * 32 + r % 8 * 4 + n % 8 / 2;
            int64_t sum = (int32_t)in[144 * 32 + at];
            for (uint32_t k = 0; k < 32; k++) {
                uint8_t a = byte_of(in, r / 16 * 4 + r % 16 / 8 + k / 16 * 2, r % 8 * 4 + k % 16 / 4, k % 4);
                sum += (int)a * (int8_t)columns[n * 128 + quarter * 32 + k];
            }
            out[at] = (uint32_t)sum;
        }
}

static void model_lane(enum probe_op op, const uint32_t *in, uint32_t *out, uint32_t l)
{
    const uint32_t n_in = probe_shapes[op].n_in;
    if (op < PROBE_ROUND)
        out[l] = to_word(model_float(op, of_word(in[l]), n_in > 1 ? of_word(in[32 + l]) : 0,
                                     n_in > 2 ? of_word(in[64 + l]) : 0));
    else if (op == PROBE_ROUND)
        out[l] = (uint32_t)(int32_t)nearbyint((double)of_word(in[l]));
    else if (op == PROBE_INTEGERS)
        model_integers(in, out, l);
    else if (op == PROBE_SHUFFLES)
        model_shuffles(in, out, l);
    else if (op == PROBE_GLOBAL_LOADS)
        model_loads((const uint8_t *)(in + in[160 + l] % 32 * 4), in[128 + l] & 1, out, l);
    else if (op == PROBE_SHARED_LOADS) {
        uint32_t who = (l ^ in[128 + l]) % 32;
        const uint32_t words[4] = {in[who], in[32 + who], in[64 + who], in[96 + who]};
        model_loads((const uint8_t *)words, true, out, l);
    } else if (op == PROBE_GLOBAL_STORES || op == PROBE_SHARED_STORES) {
        if (in[128 + l] & 1)
            model_stores(in, (uint8_t *)out, l, (l ^ in[160 + l]) % 32);
    } else if (op == PROBE_COPY_ASYNC)
        model_copy(in, out, l);
    else if (op == PROBE_BARRIERS)
        for (uint32_t i = 0; i < n_in; i++)
            out[i * 32 + l] = in[i * 32 + (l ^ 1)];
}

void probe_model(enum probe_op op, const uint32_t *in, uint32_t *out)
{
    if (op == PROBE_MMA_U8S8 || op == PROBE_MMA_S8U8)
        model_mma(in, out, op == PROBE_MMA_S8U8);
    else if (op >= PROBE_WGMMA_0 && op <= PROBE_WGMMA_3)
        model_wgmma(in, out, op - PROBE_WGMMA_0);
    else
        for (uint32_t l = 0; l < 32; l++)
            model_lane(op, in, out, l);
}
