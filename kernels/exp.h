/* The one polynomial behind exp, exp2 and silu: constants, and the scalar sequence that defines the
 * bits.
 *
 * 2^x = 2^n * 2^f with n the nearest integer and f in [-1/2, 1/2]; 2^f is a degree-5 minimax
 * polynomial with p(0) = 1 exactly (so exp2(0) is 1 and an online softmax whose maximum stays put
 * is not rescaled by 1 - ulp). n is found by adding 1.5 * 2^23, which leaves it in the low bits of
 * the sum; adding those bits to the exponent of p scales it without a conversion and reaches the
 * whole range of normal floats. Relative error < 3e-7. Every instruction set performs this very
 * sequence of FMAs, so all of them give the same bits. Below the cut the result is +0 (also for
 * -inf); above the cap it stays at the last finite value. NaN stays NaN, whatever its payload: its low bits are not
 * added to its exponent. */
#ifndef SL_KERNELS_EXP_H
#define SL_KERNELS_EXP_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#define SL_EXP_C1 0x1.62e42ap-1f
#define SL_EXP_C2 0x1.ebf9bcp-3f
#define SL_EXP_C3 0x1.c6b752p-5f
#define SL_EXP_C4 0x1.3cea88p-7f
#define SL_EXP_C5 0x1.5bba14p-10f

#define SL_EXP_MAGIC 0x1.8p23f        /* its last bit is worth 1: adding it rounds to an integer */
#define SL_EXP_LOG2E_HI 0x1.715476p0f /* log2 e in two floats: one alone would cost 3e-6 at x = -80 */
#define SL_EXP_LOG2E_LO 0x1.4ae0c0p-26f

#define SL_EXP_CUT (-87.3f) /* exp(x < cut) = +0: the results would be denormal */
#define SL_EXP_CAP 88.722f
#define SL_EXP2_CUT (-126.0f)
#define SL_EXP2_CAP 0x1.fffffep6f

/* 2^n * p(f), with n taken from the low bits of `rounded` = n + SL_EXP_MAGIC. */
static inline float sl_exp_finish(float f, float rounded)
{
    float p = SL_EXP_C5;
    p = fmaf(p, f, SL_EXP_C4);
    p = fmaf(p, f, SL_EXP_C3);
    p = fmaf(p, f, SL_EXP_C2);
    p = fmaf(p, f, SL_EXP_C1);
    p = fmaf(p, f, 1.0f);
    if (p != p)
        return p;
    uint32_t bits, n;
    memcpy(&bits, &p, 4);
    memcpy(&n, &rounded, 4);
    bits += n << 23;
    memcpy(&p, &bits, 4);
    return p;
}

static inline float sl_exp_scalar(float x)
{
    if (x < SL_EXP_CUT)
        return 0.0f;
    x = SL_EXP_CAP < x ? SL_EXP_CAP : x;
    float rounded = fmaf(x, SL_EXP_LOG2E_HI, SL_EXP_MAGIC);
    float n = rounded - SL_EXP_MAGIC;
    float f = fmaf(x, SL_EXP_LOG2E_HI, -n);
    f = fmaf(x, SL_EXP_LOG2E_LO, f);
    return sl_exp_finish(f, rounded);
}

static inline float sl_exp2_scalar(float x)
{
    if (x < SL_EXP2_CUT)
        return 0.0f;
    x = SL_EXP2_CAP < x ? SL_EXP2_CAP : x;
    float rounded = x + SL_EXP_MAGIC;
    return sl_exp_finish(x - (rounded - SL_EXP_MAGIC), rounded);
}

static inline float sl_silu_scalar(float x)
{
    return x / (1.0f + sl_exp_scalar(-x));
}

#endif
