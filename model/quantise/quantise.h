/* From sixteen rows of floats to one block of an integer panel (kernels/quant.h): the choice of S, s and q.
 *
 * For each row the error sum_i weight_i * (x_i - S * s_g * (u_i - z))^2 is made small by a joint search: candidates of the row
 * scale S (12 significant bits), for each the best integer s of every group and the nearest q. With `feedback` the columns
 * are then rounded one after the other and the error of each is carried to those not yet rounded (optimal brain
 * quantisation with a fixed order), by the factor of the calibration's second moments. Pure, deterministic, no
 * allocation, any thread; the same input gives the same bytes whatever the number of threads. */
#ifndef SL_MODEL_QUANTISE_QUANTISE_H
#define SL_MODEL_QUANTISE_QUANTISE_H

#include "base/status.h"
#include "kernels/quant.h"

/* Second moments of a tensor's inputs, from calibration text; shared by all of its rows. */
struct sl_moments {
    uint32_t k;
    const float *weight; /* [k]: mean of x_i^2, > 0 after damping; NULL: all 1 */
    /* [k][k] row-major upper triangular Cholesky factor U of the inverse of the damped moments
     * H = X'X/n + lambda I, so that H^-1 = U'U; NULL: no error feedback */
    const float *feedback;
};

struct sl_quantise_report { /* sums over the rows done: SNR in dB = 10 log10(signal / noise) */
    double signal, noise;   /* sum w x^2 and sum w (x - w8 S)^2, w = the moments' weight, with feedback too */
    double plain_signal, plain_noise; /* the same with weight 1 */
};

/* Bytes of scratch for rows of k inputs, 64-byte aligned, private to the thread. */
size_t sl_quantise_scratch_bytes(uint32_t k);

/* rows[c] has k floats (finite), NULL for padding (S = 0). block: sl_quant_block_bytes(dtype, k), overwritten.
 * Adds to *report. moments may be NULL. */
void sl_quantise_block(const float *const rows[SL_LANES], uint32_t k, enum sl_dtype dtype,
                       const struct sl_moments *moments, void *block, struct sl_quantise_report *report,
                       void *scratch);

/* From H (k x k, row-major, symmetric, destroyed) with `damping` times its mean diagonal added, to weight [k] and the factor
 * [k][k]. SL_E_DATA when H is not positive definite even so (says that the calibration text is too short). */
sl_status sl_moments_factor(double *h, uint32_t k, double damping, float *weight, float *feedback,
                            struct sl_err *err);

/* Rotates n rows of k floats in place by the orthogonal block-Hadamard matrix divided by `block`, so that
 * rotate(w) . sl_ops.rotate(x) = w . x up to rounding. */
void sl_rotate_weights(float *rows, uint32_t n, uint32_t k, uint32_t block);

#endif
