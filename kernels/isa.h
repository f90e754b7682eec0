/* The maths on views: one table per backend, `ref` being the specification.
 *
 * Order of summation is part of the contract, and it is the same in every table (profile `f32`), so all
 * of them give the same bits:
 *  - a dot product is one chain of fused multiply-adds in ascending order of the input index, starting from
 *    +0 or, with `accumulate`, from the value in y;
 *  - a sum over a row (norms, softmax) is 16 partial sums, element i going to partial i % 16 in ascending
 *    order, then the tree p[j] += p[j+8], +4, +2, +1;
 *  - exp, silu use one polynomial with one sequence of FMAs (kernels/exp.h).
 * In profile `bf16dot` a dot product with bf16 weights or KV has the order and the roundings that ref/bf16_ref.c
 * describes; all else is the same.
 * All functions: any thread, no allocation, no state; scratch is the caller's, private to the thread. Rows are
 * row-major f32 with a stride in elements. Output rows never overlap inputs unless it is said. */
#ifndef SL_KERNELS_ISA_H
#define SL_KERNELS_ISA_H

#include "base/profile.h"
#include "base/status.h"
#include "kernels/page.h"
#include "kernels/panel.h"
#include "kernels/quant.h"

/* y[i][c] = (accumulate ? y[i][c] : 0) + sum over t of x[row(i)][t] * w(c, t),  c in [col_begin, col_end).
 * row(i) = rows ? rows[i] : i (a gather); y rows are i itself. col_begin is a multiple of 16; col_end too, or w.n. */
struct sl_gemm {
    const float *x;
    size_t x_stride;
    const uint32_t *rows;
    uint32_t m;
    struct sl_panel w;
    uint32_t col_begin, col_end;
    float *y;
    size_t y_stride;
    bool accumulate;
};

/* The same over integer weights: y[i][c] = (S_c * scale(i)) * (float)dot, rounded once, or with `accumulate`
 * fma(S_c * scale(i), (float)dot, y[i][c]); dot is the exact integer sum over inputs of x8 * w8 (kernels/quant.h). A row whose scale is NaN gives NaN.
 * rows: as above, a gather; x.q, x.scale and x.sum are all indexed by it. */
struct sl_gemm8 {
    struct sl_rows8 x;
    const uint32_t *rows;
    uint32_t m;
    struct sl_panel w; /* an integer dtype; k <= SL_QUANT_MAX_K */
    uint32_t col_begin, col_end;
    float *y;
    size_t y_stride;
    bool accumulate;
};

/* Attention of one KV head group over pages: rows are (token, head) pairs which share keys;
 * row = token * n_rep + head. q: [n_tok][q_stride], the group's n_rep heads of d_head lie side by side at q; out
 * likewise with out_stride. Token t stands at absolute position pos + t and sees keys 0..pos+t. Page p
 * (kernels/page.h) holds keys [64p, 64p+64).
 *
 * attend, pages of floats. Scores are (q.k), scale * log2 e being folded into q beforehand (see ref); softmax is
 * online in ascending page order: per page, m' = max(m, row maximum), p = exp2(s - m'), l = l*c + sum(p),
 * o = o*c + p.V, c = exp2(m - m'); at the end o / l. Keys after the token's own give p = +0 exactly.
 *
 * attend8, pages of i8. q * (scale * log2 e) is quantised to q8 and its scale sq, as `quantise` does. Per page:
 *   t_j = S_j * (float)(q8 . k8_j)         the sum is exact
 *   m' = max(m, sq * max t_j), c = exp2(m - m')
 *   p_j = exp2(fma(t_j, sq, -m')), +0 for keys after the token's own; l = fma(l, c, sum p_j)
 *   w_j = p_j * scale_j of V; W = the largest; u_j = nearest even of w_j * (255 / W), an integer 0..255
 *   o_i = fma((float)(sum over j of u_j * v8_ji), W * (1/255 rounded), o_i * c)     the sum is exact
 * W is compared as bits: < 2^-100 counts as 0, and so do all u_j then; no number of [0, inf) makes the row NaN,
 * as a NaN in q or among the scales of K does.
 *
 * Pages form segments of SL_SEGMENT_PAGES; each starts afresh with m = -inf, l = o = 0. Segments are merged in
 * ascending order, whoever computed them: M' = max(M, m), C = exp2(M - M'), c = exp2(m - M'),
 * L = fma(l, c, L * C), O = fma(o, c, O * C), beginning with the first segment as it is. So a context may be
 * split among threads, and bits do not depend on it. */
struct sl_attend {
    const float *q;
    size_t q_stride;
    uint32_t n_rep, d_head; /* attend8: d_head <= 1024, so that an exact sum is exact as a float, too */
    uint32_t n_tok;
    uint32_t pos;
    /* by page; only those of the segments at hand are looked at */
    const void *const *k_pages, *const *v_pages;
    enum sl_dtype kv_dtype;
    float scale;
    float *out;
    size_t out_stride;

    /* NULL: everything, to out. Else segments [segment, segment_end) alone, and out is not touched: the state of
     * row r in segment s goes to states + ((s - segment) * n_tok * n_rep + r) * sl_attend_state_floats(d_head):
     * o in d_head rounded up to 16 floats, then m, then l. A row's states stop with the segment of its key. */
    float *states;
    uint32_t segment, segment_end;
};

static inline size_t sl_attend_state_floats(uint32_t d_head)
{
    return (size_t)sl_round_lanes(d_head) + SL_LANES;
}
/* Segments up to that of position pos. */
static inline uint32_t sl_attend_segments(uint32_t pos)
{
    return pos / (SL_PAGE_TOKENS * SL_SEGMENT_PAGES) + 1;
}

struct sl_ops {
    const char *name; /* "ref", "avx2", "avx512" */

    /* Thread-private bytes that the gemms and attend need for rows of at most k_max inputs. */
    size_t (*scratch_bytes)(uint32_t k_max);

    void (*gemm)(const struct sl_gemm *g, void *scratch);

    /* w interleaves gate and up by 16: panel block 2b holds gate outputs [16b,16b+16), block 2b+1 the up outputs.
     * w.n = 2*round16(I). y[i][c] = silu(gate_c) * up_c for c in [col_begin, col_end) of I; accumulate is ignored. */
    void (*gemm_swiglu)(const struct sl_gemm *g, void *scratch);

    /* y[c] = silu(gate_c) * up_c for c < n, from a row of the product whose outputs are interleaved as above. */
    void (*swiglu)(float *y, const float *gate_up, uint32_t n);

    void (*attend)(const struct sl_attend *a, void *scratch);
    void (*attend8)(const struct sl_attend *a, void *scratch);
    /* The states of segments 0, 1, ... of all rows (segment is 0), merged and finished to out. For both. */
    void (*attend_merge)(const struct sl_attend *a);

    /* A row to s8: amax = the largest magnitude; scale = round_up12(amax / 127), q = nearest even of x * (1 / scale).
     * amax < 2^-100: q, scale, sum are 0. A NaN or an infinity in x: q and sum 0, scale NaN, so the outputs are NaN and
     * are noticed. q has q_bytes (a multiple of 64, >= k): zero beyond k. sum: of q. */
    void (*quantise)(const float *x, uint32_t k, int8_t *q, size_t q_bytes, float *scale, int32_t *sum);

    /* Unnormalised Walsh-Hadamard transform of each block of `block` floats (a power of two that divides k), in place:
     * for h = 1, 2, ... block/2: (a, b) at distance h become (a + b, a - b). */
    void (*rotate)(float *x, uint32_t k, uint32_t block);

    void (*gemm8)(const struct sl_gemm8 *g, void *scratch);
    /* As gemm_swiglu: gate and up each rounded as gemm8 rounds y. */
    void (*gemm8_swiglu)(const struct sl_gemm8 *g, void *scratch);

    /* y = x * (1/sqrt(mean(x^2) + eps)) * gain, n elements; y may be x. */
    void (*rmsnorm)(float *y, const float *x, const float *gain, uint32_t n, float eps);

    /* Rotate halves: for i < n_pairs: (x[i], x[i+n_pairs]) by (cos[i], sin[i]). In place. */
    void (*rope)(float *x, const float *cosine, const float *sine, uint32_t n_pairs);

    /* x = exp(x - max(x)) / sum, in place */
    void (*softmax)(float *x, uint32_t n);

    /* y[j] += sum over e, ascending, of gate[e] * rows[e][j]: one FMA chain starting at y[j]. */
    void (*combine)(float *y, const float *const *rows, const float *gate, uint32_t n_rows, uint32_t n);

    /* Convert a row of f32 to bf16 (nearest even) or copy. */
    void (*convert)(void *to, enum sl_dtype dtype, const float *from, uint32_t n);
};

extern const struct sl_ops sl_ops_ref;

/* The profiles that this machine offers under SLUICE_CPU, a set (base/profile.h); f32 is always among them. */
uint32_t sl_ops_profiles(void);

/* The best table for this machine under SLUICE_CPU; the last of the list is always ref. Profile f32. */
sl_status sl_ops_select(const struct sl_ops **ops, struct sl_err *err);
/* The same of any profile. SL_E_CONFIG when the machine does not offer it. */
sl_status sl_ops_select_profile(const struct sl_ops **ops, enum sl_profile profile, struct sl_err *err);
/* Every table that this machine can run, best first; *n of them (tests compare them all with ref). */
const struct sl_ops *const *sl_ops_available(uint32_t *n);
const struct sl_ops *const *sl_ops_available_profile(enum sl_profile profile, uint32_t *n);

/* Scalar exp used by all tables' tails and by ref; relative error < 4e-6, exp(-inf) = +0, exp(x < -87.3) = +0,
 * NaN of NaN. */
float sl_expf(float x);

#endif
