/* Second moments of a matrix's inputs (moments.h): summed over rows, read as they are or rotated.
 *
 * A sum is taken over a few rows in registers before it meets memory, since a k x k table of them does not
 * stay in the cache. The inner loop is plain C over contiguous floats, which compilers cut into vectors; it
 * is compiled twice, for AVX2 and for any x86-64, and gives the same bits in both, since products and sums
 * are rounded one by one. */
#include "model/quantise/moments.h"
#include "base/cpu.h"
#include "model/format.h"
#include <assert.h>
#include <math.h>
#include <stdlib.h>

enum { RUN = 8 }; /* rows that are summed up in registers */

sl_status sl_input_moments_init(struct sl_input_moments *m, uint32_t k, bool full, struct sl_err *err)
{
    uint32_t block = sl_rotation_of(SL_ROTATION_BLOCK, k);
    *m = (struct sl_input_moments){.k = k, .block = block, .width = full ? k : block ? block : 1};
    m->sums = calloc((size_t)k * m->width, sizeof *m->sums);
    m->row = malloc(k * sizeof *m->row);
    if (m->sums && m->row)
        return SL_OK;
    sl_input_moments_fini(m);
    return sl_fail(err, SL_E_NOMEM,
                   "no memory for the moments of %u inputs; without --feedback they take less", k);
}

void sl_input_moments_fini(struct sl_input_moments *m)
{
    free(m->sums);
    free(m->row);
    *m = (struct sl_input_moments){0};
}

/* sums[i][j] += sum over the rows of x_i x_j, for i of [begin, end) and `width` inputs j from `first` on.
 * Rows are summed before they are added. */
static inline __attribute__((always_inline)) void products(float *sums, uint32_t width,
                                                           const float *const rows[RUN], uint32_t begin,
                                                           uint32_t end, uint32_t first)
{
    for (uint32_t i = begin; i < end; i++) {
        float *restrict to = sums + (size_t)i * width;
        float x[RUN];
        for (int r = 0; r < RUN; r++)
            x[r] = rows[r][i];
        for (uint32_t j = 0; j < width; j++) {
            float sum = 0;
            for (int r = 0; r < RUN; r++)
                sum += x[r] * rows[r][first + j];
            to[j] += sum;
        }
    }
}

__attribute__((target("avx2"))) static void products_avx2(float *sums, uint32_t width,
                                                          const float *const rows[RUN], uint32_t begin,
                                                          uint32_t end, uint32_t first)
{
    products(sums, width, rows, begin, end, first);
}

static void products_any(float *sums, uint32_t width, const float *const rows[RUN], uint32_t begin,
                         uint32_t end, uint32_t first)
{
    products(sums, width, rows, begin, end, first);
}

static void add_run(struct sl_input_moments *m, const float *const rows[RUN])
{
    bool avx2 = sl_cpu_detect() & SL_CPU_AVX2;
    for (uint32_t first = 0; first < m->k; first += m->width) /* one turn when the table is full */
        (avx2 ? products_avx2 : products_any)(m->sums, m->width, rows, first, first + m->width, first);
}

/* The largest magnitude; NaN when there is a NaN or an infinity. */
static float largest(const float *x, uint32_t k)
{
    float max = 0, poison = 0;
    for (uint32_t i = 0; i < k; i++) {
        max = fabsf(x[i]) > max ? fabsf(x[i]) : max;
        poison += x[i] * 0.0f;
    }
    return max + poison;
}

static void add_step(struct sl_input_moments *m, const struct sl_ops *ops, const float *x, float max)
{
    double step = (double)max / 127;
    m->step2 += step * step;
    if (m->block) {
        memcpy(m->row, x, m->k * sizeof *x);
        ops->rotate(m->row, m->k, m->block);
        step = (double)largest(m->row, m->k) / 127;
        m->step2_block += step * step;
    }
    m->rows++;
}

void sl_input_moments_add(struct sl_input_moments *m, const struct sl_ops *ops, const float *x, uint32_t n)
{
    static const float zeros[SL_QUANT_MAX_K]; /* rows that fill up the last run */
    const float *rows[RUN];
    uint32_t held = 0;
    assert(m->k <= SL_QUANT_MAX_K);
    for (uint32_t i = 0; i < n; i++) {
        const float *row = x + (size_t)i * m->k;
        float max = largest(row, m->k);
        if (isfinite(max)) {
            add_step(m, ops, row, max);
            rows[held++] = row;
        }
        if (held == RUN) {
            add_run(m, rows);
            held = 0;
        }
    }
    if (held == 0)
        return;
    while (held < RUN)
        rows[held++] = zeros;
    add_run(m, rows);
}

/* ---- reading ---- */

/* Walsh-Hadamard over `block` doubles, `stride` apart. */
static void transform(double *x, size_t stride, uint32_t block)
{
    for (uint32_t h = 1; h < block; h *= 2)
        for (uint32_t i = 0; i < block; i++)
            if (!(i & h)) {
                double a = x[i * stride], b = x[(i + h) * stride];
                x[i * stride] = a + b;
                x[(i + h) * stride] = a - b;
            }
}

/* n x n, n a multiple of block: H A H with H in blocks. */
static void rotate_matrix(double *a, uint32_t n, uint32_t block)
{
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t b = 0; b < n; b += block)
            transform(a + (size_t)i * n + b, 1, block);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t b = 0; b < n; b += block)
            transform(a + (size_t)b * n + i, n, block);
}

/* Means of the products of `n` inputs from `first` on, n x n. */
static void means(const struct sl_input_moments *m, uint32_t first, uint32_t n, double *a)
{
    uint32_t offset = m->width == m->k ? first : 0; /* of the block within a row of the table */
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++)
            a[(size_t)i * n + j] =
                (double)m->sums[(size_t)(first + i) * m->width + offset + j] / (double)m->rows;
}

void sl_input_moments_weight(const struct sl_input_moments *m, uint32_t rotation, float *weight)
{
    enum { LARGEST = SL_ROTATION_BLOCK };
    static _Thread_local double a[LARGEST * LARGEST];
    uint32_t n = m->block ? m->block : 1;
    double mean = 0;
    assert(m->rows > 0 && n <= LARGEST && (rotation == 0 || rotation == m->block));
    for (uint32_t first = 0; first < m->k; first += n) {
        means(m, first, n, a);
        if (rotation)
            rotate_matrix(a, n, rotation);
        for (uint32_t i = 0; i < n; i++) {
            weight[first + i] = (float)a[(size_t)i * n + i];
            mean += a[(size_t)i * n + i] / m->k;
        }
    }
    float least = mean > 0 ? (float)(mean * 1e-4) : 1;
    for (uint32_t i = 0; i < m->k; i++)
        weight[i] = weight[i] > least ? weight[i] : least;
}

void sl_input_moments_matrix(const struct sl_input_moments *m, uint32_t rotation, double *h)
{
    assert(m->rows > 0 && m->width == m->k && (rotation == 0 || rotation == m->block));
    means(m, 0, m->k, h);
    if (rotation)
        rotate_matrix(h, m->k, rotation);
}

double sl_input_moments_step2(const struct sl_input_moments *m, uint32_t rotation)
{
    return m->rows ? (rotation ? m->step2_block : m->step2) / (double)m->rows : 0;
}
