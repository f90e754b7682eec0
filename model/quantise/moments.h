/* What a calibration text says about the inputs of one matrix: second moments, and how coarse their rounding
 * to s8 is.
 *
 * With a rotation in mind (model/format.h) the sums keep all products within a Hadamard block, k x block of
 * them, so that the moments of the rotated inputs follow from the same sums; for error feedback all k x k are
 * kept. Sums are floats over runs of a few rows, added in the order in which the rows come: the same text
 * gives the same bits. */
#ifndef SL_MODEL_QUANTISE_MOMENTS_H
#define SL_MODEL_QUANTISE_MOMENTS_H

#include "kernels/isa.h"

struct sl_input_moments {
    uint32_t k;
    uint32_t block; /* the rotation that is measured beside none: sl_rotation_of(SL_ROTATION_BLOCK, k) */
    uint32_t width; /* products kept for each input: k, or the block (1 when there is none) */
    uint64_t rows;
    float *sums; /* [k][width]: sum of x_i x_j, j counted from the block's first input (or from 0) */
    double step2, step2_block; /* sum of (max |x| / 127)^2, as it is and rotated */
    float *row;                /* [k]: a row being rotated */
};

sl_status sl_input_moments_init(struct sl_input_moments *m, uint32_t k, bool full, struct sl_err *err);
void sl_input_moments_fini(struct sl_input_moments *m); /* a zeroed one is fine */
/* n rows of k floats side by side. Rows with a NaN or an infinity are left out. */
void sl_input_moments_add(struct sl_input_moments *m, const struct sl_ops *ops, const float *x, uint32_t n);

/* rotation: 0 or m->block. The mean square of each input as quantising sees it, raised to a floor of 1e-4 of
 * their average: an input that the text left at zero may still be used by another text. rows > 0. */
void sl_input_moments_weight(const struct sl_input_moments *m, uint32_t rotation, float *weight);
/* The same for all products, [k][k], without a floor; needs a full one. */
void sl_input_moments_matrix(const struct sl_input_moments *m, uint32_t rotation, double *h);
/* The mean square of an s8 step of a row's scale. */
double sl_input_moments_step2(const struct sl_input_moments *m, uint32_t rotation);

#endif
