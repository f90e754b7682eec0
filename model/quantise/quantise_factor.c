/* From second moments to the factor of error feedback: H = R R' with R upper triangular, then U = R^-1.
 *
 * H^-1 = R^-T R^-1 = U'U, which is what the feedback wants, without ever forming H^-1. Both steps are
 * blocked: nearly all of the work is "rows of C -= A times rows of B" over tiles that stay in registers, in
 * double, each element one chain of subtractions in ascending order, so the result does not depend on the
 * machine. Everything happens in the upper triangle of h, in place: R replaces H from the last block of
 * columns to the first, U replaces R from the last block of rows to the first. */
#include "model/quantise/quantise.h"
#include <math.h>
#include <stdlib.h>

#define INLINE static inline __attribute__((always_inline))

typedef double four_doubles __attribute__((vector_size(32), aligned(8), may_alias));

/* BLOCK columns of A (and rows of B) at a time: a strip of B then is BLOCK x STRIP doubles, half of a small
 * L1 cache. A tile of C is 4 x 8: eight vectors of four, which leaves room for one row of B and a broadcast
 * among 16 registers. */
enum { BLOCK = 64, STRIP = 32, TILE_ROWS = 4, TILE_COLUMNS = 8 };

/* A pivot that lost so much of its diagonal is rounding noise. */
#define LEAST_PIVOT 1e-13

struct product {
    double *c;
    const double *a, *b;
    size_t c_stride, a_stride, b_stride;
    uint32_t rows, columns, depth;
};

INLINE void subtract_tile(const struct product *p, uint32_t i, uint32_t j)
{
    four_doubles sum[TILE_ROWS][2];
    for (uint32_t r = 0; r < TILE_ROWS; r++)
        for (uint32_t h = 0; h < 2; h++)
            sum[r][h] = *(const four_doubles *)(p->c + (i + r) * p->c_stride + j + h * 4);
    for (uint32_t m = 0; m < p->depth; m++) {
        const double *b = p->b + m * p->b_stride + j, *a = p->a + i * p->a_stride + m;
        four_doubles b0 = *(const four_doubles *)b, b1 = *(const four_doubles *)(b + 4);
        for (uint32_t r = 0; r < TILE_ROWS; r++) {
            sum[r][0] -= a[r * p->a_stride] * b0;
            sum[r][1] -= a[r * p->a_stride] * b1;
        }
    }
    for (uint32_t r = 0; r < TILE_ROWS; r++)
        for (uint32_t h = 0; h < 2; h++)
            *(four_doubles *)(p->c + (i + r) * p->c_stride + j + h * 4) = sum[r][h];
}

INLINE void subtract_scalar(const struct product *p, uint32_t i, uint32_t j)
{
    double sum = p->c[i * p->c_stride + j];
    for (uint32_t m = 0; m < p->depth; m++)
        sum -= p->a[i * p->a_stride + m] * p->b[m * p->b_stride + j];
    p->c[i * p->c_stride + j] = sum;
}

/* C -= A B. */
INLINE void subtract_body(const struct product *p)
{
    for (uint32_t strip = 0; strip < p->columns; strip += STRIP) {
        uint32_t end = strip + STRIP < p->columns ? strip + STRIP : p->columns;
        for (uint32_t i = 0; i < p->rows; i += TILE_ROWS) {
            uint32_t j = strip;
            for (; i + TILE_ROWS <= p->rows && j + TILE_COLUMNS <= end; j += TILE_COLUMNS)
                subtract_tile(p, i, j);
            for (uint32_t r = i; r < p->rows && r < i + TILE_ROWS; r++)
                for (uint32_t tail = j; tail < end; tail++)
                    subtract_scalar(p, r, tail);
        }
    }
}

__attribute__((target("avx2"))) static void subtract_avx2(const struct product *p)
{
    subtract_body(p);
}
static void subtract_any(const struct product *p)
{
    subtract_body(p);
}
static void subtract(const struct product *p)
{
    if (__builtin_cpu_supports("avx2"))
        subtract_avx2(p);
    else
        subtract_any(p);
}

/* Columns [begin, end) of R for rows [0, end), from columns of h that already lack the share of all later
 * columns. False when a pivot is not positive. diagonal: of the damped H. */
static bool factor_columns(double *h, uint32_t k, uint32_t begin, uint32_t end, const float *diagonal)
{
    for (uint32_t i = end; i-- > 0;) {
        double *row = h + (size_t)i * k;
        for (uint32_t j = end; j-- > begin && j >= i;) {
            const double *other = h + (size_t)j * k;
            double sum = row[j];
            for (uint32_t m = j + 1; m < end; m++)
                sum -= row[m] * other[m];
            if (i == j && !(sum > LEAST_PIVOT * (double)diagonal[j]))
                return false;
            row[j] = i == j ? sqrt(sum) : sum / other[j];
        }
    }
    return true;
}

/* H = R R', from the last columns to the first; transposed holds one block of columns of R as rows. */
static bool factor_upper(double *h, uint32_t k, const float *diagonal, double *transposed)
{
    for (uint32_t end = k; end > 0;) {
        uint32_t begin = end > BLOCK ? end - BLOCK : 0;
        if (!factor_columns(h, k, begin, end, diagonal))
            return false;
        for (uint32_t i = 0; i < begin; i++)
            for (uint32_t m = begin; m < end; m++)
                transposed[(size_t)(m - begin) * k + i] = h[(size_t)i * k + m];
        for (uint32_t i = 0; i < begin; i += BLOCK) { /* what lies left of the diagonal is never read */
            uint32_t rows = begin - i < BLOCK ? begin - i : BLOCK;
            subtract(&(struct product){h + (size_t)i * k + i, h + (size_t)i * k + begin, transposed + i, k, k,
                                       k, rows, begin - i, end - begin});
        }
        end = begin;
    }
    return true;
}

/* Rows [begin, end) of U = R^-1 in place: R's own rows are copied away, the share of later rows of U is
 * subtracted from those of the identity, and the small triangle is solved from its last row up. */
static void invert_rows(double *h, uint32_t k, uint32_t begin, uint32_t end, double *copy)
{
    for (uint32_t i = begin; i < end; i++) {
        memcpy(copy + (size_t)(i - begin) * k, h + (size_t)i * k, k * sizeof(double));
        memset(h + (size_t)i * k, 0, k * sizeof(double));
        h[(size_t)i * k + i] = 1.0;
    }
    for (uint32_t m = end; m < k; m += BLOCK) {
        uint32_t depth = k - m < BLOCK ? k - m : BLOCK;
        subtract(&(struct product){h + (size_t)begin * k + m, copy + m, h + (size_t)m * k + m, k, k, k,
                                   end - begin, k - m, depth});
    }
    for (uint32_t i = end; i-- > begin;) {
        double *row = h + (size_t)i * k;
        const double *r = copy + (size_t)(i - begin) * k;
        for (uint32_t m = i + 1; m < end; m++)
            for (uint32_t j = m; j < k; j++)
                row[j] -= r[m] * h[(size_t)m * k + j];
        for (uint32_t j = i; j < k; j++)
            row[j] /= r[i];
    }
}

sl_status sl_moments_factor(double *h, uint32_t k, double damping, float *weight, float *feedback,
                            struct sl_err *err)
{
    double mean = 0;
    for (uint32_t i = 0; i < k; i++)
        mean += h[(size_t)i * k + i] / k;
    for (uint32_t i = 0; i < k; i++) {
        h[(size_t)i * k + i] += damping * mean;
        weight[i] = (float)h[(size_t)i * k + i];
    }
    double *panel = malloc((size_t)BLOCK * k * sizeof(double));
    if (!panel)
        return sl_fail(err, SL_E_NOMEM,
                       "no memory to factor the moments of %u inputs; pack with fewer threads", k);
    bool positive = factor_upper(h, k, weight, panel);
    for (uint32_t end = k; positive && end > 0; end -= (end - 1) % BLOCK + 1)
        invert_rows(h, k, end - 1 - (end - 1) % BLOCK, end, panel);
    free(panel);
    if (!positive)
        return sl_fail(err, SL_E_DATA,
                       "the second moments of %u inputs are not positive definite: the calibration text is "
                       "too short for them; give a longer one to --calibrate",
                       k);
    for (size_t i = 0; i < (size_t)k * k; i++)
        feedback[i] = (float)h[i];
    return SL_OK;
}
