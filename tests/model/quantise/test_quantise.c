/* The quantiser against what it must not be worse than: a brute-force search on small blocks, rounding to
 * nearest under the largest magnitude, the table of expected SNR, and, for error feedback, plain rounding
 * under the true error x'Hx. Then its promises: the same bytes always, values in range for any finite input,
 * padding without influence, a report that says what the file holds, and integer scales of 0 that every
 * kernel table understands. */
#include "base/rng.h"
#include "kernels/isa.h"
#include "model/quantise/quantise_impl.h"
#include "tests/check.h"
#include <math.h>
#include <stdlib.h>

static const enum sl_dtype formats[] = {SL_I8, SL_I4, SL_I4G16, SL_I3, SL_I2};
enum { FORMATS = 5 };

static void *aligned(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!p)
        abort();
    return p;
}

/* Distributions of weights: what a row of a checkpoint can look like. */
enum input_kind { GAUSS, STUDENT, CHANNELS, OUTLIER, KINDS };
static const char *const kind_names[] = {"gauss", "t5", "channels", "outlier"};

static double gauss(struct sl_rng *rng)
{
    double u = sl_rng_unit(sl_rng_next(rng)) + 0x1p-54, v = sl_rng_unit(sl_rng_next(rng));
    return sqrt(-2 * log(u)) * cos(6.283185307179586 * v);
}

static void fill_rows(float *w, uint32_t n, uint32_t k, enum input_kind kind, uint64_t seed)
{
    struct sl_rng rng = {seed, 0};
    double *channel = aligned(k * sizeof(double));
    for (uint32_t i = 0; i < k; i++)
        channel[i] = kind == CHANNELS ? exp(0.5 * gauss(&rng)) : 1.0;
    for (uint32_t r = 0; r < n; r++) {
        for (uint32_t i = 0; i < k; i++) {
            double z = gauss(&rng) * channel[i], chi = 0;
            for (int j = 0; kind == STUDENT && j < 5; j++) {
                double y = gauss(&rng);
                chi += y * y;
            }
            if (kind == STUDENT)
                z /= sqrt(chi / 5);
            w[(size_t)r * k + i] = (float)z;
        }
        if (kind == OUTLIER)
            w[(size_t)r * k + (size_t)(r * 7 % k)] *= 30.0f;
    }
    free(channel);
}

/* One block with its surroundings. */
struct search_job {
    uint32_t k;
    enum sl_dtype dtype;
    const float *rows[SL_LANES];
    void *block, *scratch;
    struct sl_quantise_report report;
};

static void job_init(struct search_job *job, enum sl_dtype dtype, const float *w, uint32_t n, uint32_t k)
{
    *job = (struct search_job){.k = k, .dtype = dtype};
    for (uint32_t c = 0; c < SL_LANES && c < n; c++)
        job->rows[c] = w + (size_t)c * k;
    job->block = aligned(sl_quant_block_bytes(dtype, k));
    job->scratch = aligned(sl_quantise_scratch_bytes(k));
    memset(job->block, 0xEE, sl_quant_block_bytes(dtype, k));
    memset(job->scratch, 0xFF, sl_quantise_scratch_bytes(k)); /* NaNs, if it were read before it is written */
}

static void job_run(struct search_job *job, const struct sl_moments *moments)
{
    job->report = (struct sl_quantise_report){0};
    sl_quantise_block(job->rows, job->k, job->dtype, moments, job->block, &job->report, job->scratch);
}

static void job_fini(struct search_job *job)
{
    free(job->block);
    free(job->scratch);
}

static double stored(const struct search_job *job, uint32_t c, uint32_t i)
{
    return (double)sl_quant_row_scales(job->block)[c] * sl_quant_weight(job->dtype, job->k, job->block, c, i);
}

static double row_error(const struct search_job *job, uint32_t c, const float *weight)
{
    double sum = 0;
    for (uint32_t i = 0; i < job->k; i++) {
        double d = (double)job->rows[c][i] - stored(job, c, i);
        sum += (weight ? (double)weight[i] : 1.0) * d * d;
    }
    return sum;
}

/* S has 12 significant bits, w8 is of -127..127, nothing is infinite. */
static bool in_range(const struct search_job *job)
{
    for (uint32_t c = 0; c < SL_LANES; c++) {
        float S = sl_quant_row_scales(job->block)[c];
        uint32_t bits;
        memcpy(&bits, &S, 4);
        if ((bits & 0xFFFu) != 0 || !(S >= 0.0f) || !isfinite(S) || (!job->rows[c] && S != 0.0f))
            return false;
        for (uint32_t i = 0; i < job->k; i++) {
            int32_t w8 = sl_quant_weight(job->dtype, job->k, job->block, c, i);
            if (w8 < -127 || w8 > 127)
                return false;
        }
    }
    return true;
}

/* The least error of n inputs for a spacing, by looking at every level; written apart from the code under
 * test. */
static double group_error(const struct sl_quant_rule *rule, const float *x, const float *weight, uint32_t n,
                          double scale)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        double u = ((double)x[i] / scale + rule->zero) / rule->step, d;
        double q = fmin(fmax(nearbyint(u), rule->group ? 0 : 1), rule->levels - 1);
        d = (double)x[i] - scale * (rule->step * q - rule->zero);
        sum += (double)weight[i] * d * d;
    }
    return sum;
}

static double row_error_at(enum sl_dtype dtype, const float *x, const float *weight, uint32_t k, double S)
{
    const struct sl_quant_rule *rule = sl_quant_rule_of(dtype);
    if (!rule->group)
        return group_error(rule, x, weight, k, S);
    double sum = 0;
    for (uint32_t begin = 0; begin < k; begin += rule->group) {
        uint32_t n = k - begin < rule->group ? k - begin : rule->group;
        double best = 0;
        for (uint32_t i = begin; i < begin + n; i++)
            best += (double)weight[i] * (double)x[i] * (double)x[i];
        for (int s = 1; s <= 15; s++)
            best = fmin(best, group_error(rule, x + begin, weight + begin, n, S * s));
        sum += best;
    }
    return sum;
}

static double peak_of(const float *x, uint32_t k)
{
    double peak = 0;
    for (uint32_t i = 0; i < k; i++)
        peak = fmax(peak, fabs((double)x[i]));
    return peak;
}

/* The S at which nothing is clipped with the largest s. */
static double reaching_scale(enum sl_dtype dtype, double peak)
{
    const struct sl_quant_rule *rule = sl_quant_rule_of(dtype);
    double farthest = rule->step * (rule->levels - 1) - rule->zero; /* the smaller side: 7, 127, 7, 3 */
    return peak / (farthest * (rule->group ? 15 : 1));
}

/* Rounding to nearest under scales that clip nothing. */
static double plain_error(enum sl_dtype dtype, const float *x, const float *weight, uint32_t k)
{
    const struct sl_quant_rule *rule = sl_quant_rule_of(dtype);
    double S = reaching_scale(dtype, peak_of(x, k)), sum = 0;
    if (!rule->group)
        return group_error(rule, x, weight, k, S);
    for (uint32_t begin = 0; begin < k; begin += rule->group) {
        uint32_t n = k - begin < rule->group ? k - begin : rule->group;
        double s = fmax(1, ceil(15 * reaching_scale(dtype, peak_of(x + begin, n)) / S - 1e-9));
        sum += group_error(rule, x + begin, weight + begin, n, S * s);
    }
    return sum;
}

/* Rows of two to four groups: the error is as rugged as it gets, since few numbers average it. */
SL_TEST(near_the_brute_force_optimum_and_never_worse_than_plain_rounding)
{
    enum { K = 64, GRID = 300 };
    static float w[SL_LANES * K], weight[K];
    for (int f = 0; f < FORMATS; f++) {
        for (int kind = 0; kind < KINDS; kind++) {
            for (int weighted = 0; weighted < 2; weighted++) {
                struct search_job job;
                struct sl_rng rng = {99, 0};
                double ours = 0, best_sum = 0;
                fill_rows(w, SL_LANES, K, (enum input_kind)kind, 10 + (uint64_t)kind);
                for (uint32_t i = 0; i < K; i++)
                    weight[i] = weighted ? (float)exp(gauss(&rng)) * 1e-6f : 1.0f;
                job_init(&job, formats[f], w, SL_LANES, K);
                job_run(&job, &(struct sl_moments){K, weight, NULL});
                CHECK(in_range(&job));
                for (uint32_t c = 0; c < SL_LANES; c++) {
                    double reach = reaching_scale(formats[f], peak_of(job.rows[c], K)), best = INFINITY;
                    for (int t = 0; t < GRID; t++)
                        best = fmin(best, row_error_at(formats[f], job.rows[c], weight, K,
                                                       reach * 0.12 * pow(1.009, t)));
                    double mine = row_error(&job, c, weight),
                           plain = plain_error(formats[f], job.rows[c], weight, K);
                    double own = row_error_at(formats[f], job.rows[c], weight, K,
                                              (double)sl_quant_row_scales(job.block)[c]);
                    if (mine > own * 1.01) /* s and q belong to the S that is stored */
                        sl_test_fail(__FILE__, __LINE__, "%s %s row %u: error %g, its S allows %g",
                                     sl_dtype_name(formats[f]), kind_names[kind], c, mine, own);
                    if (mine > plain * 1.005) /* plain rounding has not to round S to 12 bits */
                        sl_test_fail(__FILE__, __LINE__, "%s %s row %u: error %g, plain rounding %g",
                                     sl_dtype_name(formats[f]), kind_names[kind], c, mine, plain);
                    ours += mine;
                    best_sum += best;
                }
                if (ours > best_sum * (formats[f] == SL_I8 ? 1.08 : 1.04))
                    sl_test_fail(__FILE__, __LINE__, "%s %s: error %g, by brute force %g",
                                 sl_dtype_name(formats[f]), kind_names[kind], ours, best_sum);
                job_fini(&job);
            }
        }
    }
}

/* Expected (dB), synthetic rows of 4096. */
SL_TEST(signal_to_noise_of_the_formats)
{
    enum { K = 4096 };
    static const double table[FORMATS][3] = {
        {41.3, 34.4, 35.2}, {21.1, 18.9, 18.4}, {22.1, 20.2, 19.9}, {16.1, 14.4, 13.9}, {10.1, 8.5, 7.9}};
    static float w[SL_LANES * K];
    for (int kind = 0; kind < 3; kind++) {
        fill_rows(w, SL_LANES, K, (enum input_kind)kind, 3);
        for (int f = 0; f < FORMATS; f++) {
            struct search_job job;
            job_init(&job, formats[f], w, SL_LANES, K);
            job_run(&job, NULL);
            double db = 10 * log10(job.report.plain_signal / job.report.plain_noise);
            if (db < table[f][kind] - 0.3)
                sl_test_fail(__FILE__, __LINE__, "%s %s: %.2f dB, expected %.1f", sl_dtype_name(formats[f]),
                             kind_names[kind], db, table[f][kind]);
            job_fini(&job);
        }
    }
}

SL_TEST(the_report_says_what_the_block_holds)
{
    enum { K = 100 };
    static float w[SL_LANES * K], weight[K];
    fill_rows(w, SL_LANES, K, STUDENT, 5);
    for (uint32_t i = 0; i < K; i++)
        weight[i] = 0.25f + (float)(i % 7);
    for (int f = 0; f < FORMATS; f++) {
        struct search_job job;
        double signal = 0, noise = 0, plain = 0;
        job_init(&job, formats[f], w, 11, K);
        job_run(&job, &(struct sl_moments){K, weight, NULL});
        for (uint32_t c = 0; c < 11; c++) {
            noise += row_error(&job, c, weight);
            plain += row_error(&job, c, NULL);
            for (uint32_t i = 0; i < K; i++)
                signal += (double)weight[i] * (double)job.rows[c][i] * (double)job.rows[c][i];
        }
        CHECK(fabs(job.report.signal / signal - 1) < 1e-9);
        CHECK(fabs(job.report.noise / noise - 1) < 1e-9);
        CHECK(fabs(job.report.plain_noise / plain - 1) < 1e-9);
        CHECK(in_range(&job)); /* rows 11..15 are padding: S = 0 */
        job_fini(&job);
    }
}

/* Rows that a checkpoint should not have, but one will. */
SL_TEST(extremes_behave)
{
    enum { K = 96 };
    static float w[SL_LANES * K], ones[K];
    memset(w, 0, sizeof w);
    for (uint32_t i = 0; i < K; i++) {
        ones[i] = 1.0f;
        w[1 * K + i] = i == 40 ? 1.0f : 0.0f;          /* one-hot */
        w[2 * K + i] = i == 95 ? -3e38f : 0.0f;        /* one-hot, nearly the largest float */
        w[3 * K + i] = (i % 2 ? 1e30f : -1e30f);       /* huge */
        w[4 * K + i] = 1e-40f * (float)i;              /* denormal: counts as zero */
        w[5 * K + i] = 0x1p-99f * sinf((float)i);      /* about the smallest that counts */
        w[6 * K + i] = i == 3 ? 1e20f : 1e-30f;        /* more range than a float's bits */
        w[7 * K + i] = 1.0f;                           /* constant */
        w[8 * K + i] = i < 32 ? 0.0f : cosf((float)i); /* a zero group */
        w[9 * K + i] = 3.4028235e38f;
    }
    for (int f = 0; f < FORMATS; f++) {
        struct search_job job;
        job_init(&job, formats[f], w, SL_LANES, K);
        job_run(&job, NULL);
        CHECK(in_range(&job));
        const float *S = sl_quant_row_scales(job.block);
        CHECK(S[0] == 0.0f && S[4] == 0.0f && S[15] == 0.0f);
        CHECK(S[1] > 0.0f && S[2] > 0.0f && S[5] > 0.0f);
        for (uint32_t c = 1; c < 10; c++) {
            double signal = 0, best = INFINITY, reach = reaching_scale(formats[f], peak_of(job.rows[c], K));
            for (uint32_t i = 0; i < K; i++)
                signal += (double)job.rows[c][i] * (double)job.rows[c][i];
            for (int t = 0; t < 300; t++)
                best =
                    fmin(best, row_error_at(formats[f], job.rows[c], ones, K, reach * 0.12 * pow(1.009, t)));
            double error = row_error(&job, c, NULL);
            if (c != 4 && error > 1.05 * best + 1e-6 * signal) /* 1e-6: S has 12 bits */
                sl_test_fail(__FILE__, __LINE__, "%s row %u: error %g of signal %g, the best is %g",
                             sl_dtype_name(formats[f]), c, error, signal, best);
        }
        job_fini(&job);
    }
}

/* Moments of inputs that are correlated as activations are: few directions carry most of the power. */
static double *correlated_moments(uint32_t k, uint64_t seed)
{
    enum { DIRECTIONS = 24 };
    struct sl_rng rng = {seed, 0};
    double *h = aligned((size_t)k * k * sizeof(double)), *v = aligned(k * sizeof(double));
    memset(h, 0, (size_t)k * k * sizeof(double));
    for (uint32_t i = 0; i < k; i++)
        h[(size_t)i * k + i] = 0.3 * exp(gauss(&rng));
    for (int d = 0; d < DIRECTIONS; d++) {
        for (uint32_t i = 0; i < k; i++)
            v[i] = gauss(&rng) * sqrt(8.0 / (d + 1));
        for (uint32_t i = 0; i < k; i++)
            for (uint32_t j = 0; j < k; j++)
                h[(size_t)i * k + j] += v[i] * v[j] / DIRECTIONS;
    }
    free(v);
    return h;
}

/* A factor made of moments that stay for the true error. */
struct calibration {
    uint32_t k;
    double *h;
    float *weight, *feedback;
};

static void calibration_init(struct calibration *c, uint32_t k, double damping)
{
    size_t bytes = (size_t)k * k * sizeof(double);
    struct sl_err err;
    double *work = aligned(bytes);
    *c = (struct calibration){k, correlated_moments(k, 77), aligned(k * sizeof(float)), aligned(bytes / 2)};
    memcpy(work, c->h, bytes);
    CHECK_INT(sl_moments_factor(work, k, damping, c->weight, c->feedback, &err), SL_OK);
    free(work);
}

static void calibration_fini(struct calibration *c)
{
    free(c->h);
    free(c->weight);
    free(c->feedback);
}

/* Sum over the rows of (x - w)' H (x - w): the mean squared error of the outputs. */
static double output_error(const struct search_job *job, const double *h)
{
    double *d = aligned(job->k * sizeof(double)), sum = 0;
    for (uint32_t c = 0; c < SL_LANES && job->rows[c]; c++) {
        for (uint32_t i = 0; i < job->k; i++)
            d[i] = (double)job->rows[c][i] - stored(job, c, i);
        for (uint32_t i = 0; i < job->k; i++)
            for (uint32_t j = 0; j < job->k; j++)
                sum += d[i] * d[j] * h[(size_t)i * job->k + j];
    }
    free(d);
    return sum;
}

SL_TEST(the_factor_is_that_of_the_inverse)
{
    static const uint32_t sizes[] = {1, 5, 64, 65, 200};
    for (int t = 0; t < 5; t++) {
        struct calibration c;
        uint32_t k = sizes[t];
        double mean = 0, worst = 0;
        calibration_init(&c, k, 0.01);
        for (uint32_t i = 0; i < k; i++)
            mean += c.h[(size_t)i * k + i] / k;
        for (uint32_t i = 0; i < k; i++) {
            CHECK(fabs((double)c.weight[i] - c.h[(size_t)i * k + i] - 0.01 * mean) < 1e-5 * mean);
            c.h[(size_t)i * k + i] += 0.01 * mean;
            for (uint32_t j = 0; j < i; j++)
                CHECK(c.feedback[(size_t)i * k + j] == 0.0f);
        }
        /* U H U' is the identity when H^-1 = U'U. */
        double *uh = aligned((size_t)k * k * sizeof(double));
        memset(uh, 0, (size_t)k * k * sizeof(double));
        for (uint32_t i = 0; i < k; i++)
            for (uint32_t m = i; m < k; m++)
                for (uint32_t j = 0; j < k; j++)
                    uh[(size_t)i * k + j] += (double)c.feedback[(size_t)i * k + m] * c.h[(size_t)m * k + j];
        for (uint32_t i = 0; i < k; i++) {
            for (uint32_t j = 0; j < k; j++) {
                double sum = i == j ? -1 : 0;
                for (uint32_t m = j; m < k; m++)
                    sum += uh[(size_t)i * k + m] * (double)c.feedback[(size_t)j * k + m];
                worst = fmax(worst, fabs(sum));
            }
        }
        CHECK(worst < 1e-4);
        free(uh);
        calibration_fini(&c);
    }
}

SL_TEST(moments_of_too_little_text_are_refused)
{
    enum { K = 70 };
    static double h[K * K];
    static float weight[K], feedback[K * K];
    struct sl_err err;
    for (uint32_t i = 0; i < K; i++)
        for (uint32_t j = 0; j < K; j++)
            h[i * K + j] = (double)(i + 1) * (j + 1); /* one token */
    CHECK_INT(sl_moments_factor(h, K, 0.0, weight, feedback, &err), SL_E_DATA);
    CHECK_CONTAINS(err.text, "too short");
    memset(h, 0, sizeof h); /* an expert that no token reached */
    CHECK_INT(sl_moments_factor(h, K, 0.1, weight, feedback, &err), SL_E_DATA);
    for (uint32_t i = 0; i < K; i++)
        h[i * K + i] = 1.0;
    h[3 * K + 5] = h[5 * K + 3] = NAN;
    CHECK_INT(sl_moments_factor(h, K, 0.1, weight, feedback, &err), SL_E_DATA);
}

SL_TEST(feedback_lowers_the_error_of_the_outputs)
{
    enum { K = 200 };
    static float w[SL_LANES * K];
    struct calibration cal;
    calibration_init(&cal, K, 0.01);
    for (int kind = 0; kind < KINDS; kind++) {
        fill_rows(w, SL_LANES, K, (enum input_kind)kind, 8);
        for (int f = 0; f < FORMATS; f++) {
            struct search_job job;
            job_init(&job, formats[f], w, SL_LANES, K);
            job_run(&job, NULL);
            double plain = output_error(&job, cal.h);
            job_run(&job, &(struct sl_moments){K, cal.weight, cal.feedback});
            double fed = output_error(&job, cal.h);
            CHECK(in_range(&job));
            if (fed > 0.5 * plain) /* 0.26 to 0.44 were seen */
                sl_test_fail(__FILE__, __LINE__, "%s %s: feedback leaves %.2f of the error",
                             sl_dtype_name(formats[f]), kind_names[kind], fed / plain);
            job_fini(&job);
        }
    }
    calibration_fini(&cal);
}

/* Every clone of the loops, any alignment of the rows, any leftovers in the scratch: one answer. */
SL_TEST(the_same_bytes_always)
{
    enum { K = 131 };
    static float w[SL_LANES * K + 1], moved[SL_LANES * K + 1];
    struct calibration cal;
    calibration_init(&cal, K, 0.01);
    fill_rows(w, SL_LANES, K, STUDENT, 4);
    memcpy(moved + 1, w, SL_LANES * K * sizeof(float));
    for (int f = 0; f < FORMATS; f++) {
        for (int fed = 0; fed < 2; fed++) {
            struct search_job a, b;
            struct sl_moments moments = {K, cal.weight, fed ? cal.feedback : NULL};
            size_t bytes = sl_quant_block_bytes(formats[f], K);
            job_init(&a, formats[f], w, SL_LANES, K);
            job_init(&b, formats[f], moved + 1, SL_LANES, K);
            job_run(&a, &moments);
            sl_quantise_block_by(&sl_quantise_loops_any, b.rows, K, formats[f], &moments, b.block, &b.report,
                                 b.scratch);
            CHECK(memcmp(a.block, b.block, bytes) == 0);
            CHECK(memcmp(&a.report, &b.report, sizeof a.report) == 0);
            memset(b.block, 0, bytes);
            job_run(&b, &moments);
            CHECK(memcmp(a.block, b.block, bytes) == 0);
            job_fini(&a);
            job_fini(&b);
        }
    }
    calibration_fini(&cal);
}

/* A row decides alone: its neighbours in the block, padding rows among them, do not change its bytes. */
SL_TEST(rows_do_not_influence_each_other)
{
    enum { K = 64 };
    static float w[SL_LANES * K];
    fill_rows(w, SL_LANES, K, OUTLIER, 6);
    for (int f = 0; f < FORMATS; f++) {
        struct search_job all, one;
        job_init(&all, formats[f], w, SL_LANES, K);
        job_init(&one, formats[f], w, SL_LANES, K);
        for (uint32_t c = 0; c < SL_LANES; c++)
            one.rows[c] = c == 9 ? all.rows[2] : NULL;
        job_run(&all, NULL);
        job_run(&one, NULL);
        for (uint32_t i = 0; i < K; i++)
            CHECK(stored(&all, 2, i) == stored(&one, 9, i));
        job_fini(&all);
        job_fini(&one);
    }
}

/* Inputs beyond k: a row of 40 is a row of 64 whose last 24 are zero and weigh nothing. */
SL_TEST(padding_inputs_have_no_influence)
{
    enum { K = 40, PADDED = 64 };
    static float w[SL_LANES * K], wide[SL_LANES * PADDED], weight[PADDED];
    fill_rows(w, SL_LANES, K, GAUSS, 12);
    for (uint32_t c = 0; c < SL_LANES; c++)
        memcpy(wide + c * PADDED, w + c * K, K * sizeof(float));
    for (uint32_t i = 0; i < PADDED; i++)
        weight[i] = i < K ? 1.0f : 0.0f;
    for (int f = 0; f < FORMATS; f++) {
        struct search_job narrow, padded;
        job_init(&narrow, formats[f], w, SL_LANES, K);
        job_init(&padded, formats[f], wide, SL_LANES, PADDED);
        job_run(&narrow, NULL);
        job_run(&padded, &(struct sl_moments){PADDED, weight, NULL});
        CHECK(memcmp(narrow.block, padded.block, sl_quant_block_bytes(formats[f], K)) == 0);
        job_fini(&narrow);
        job_fini(&padded);
    }
}

/* A group of zeros has s = 0 in every format; the kernels have to take it for zero. */
SL_TEST(zero_groups_are_zero_in_every_kernel)
{
    enum { K = 64 };
    static float w[SL_LANES * K];
    fill_rows(w, SL_LANES, K, GAUSS, 2);
    for (uint32_t c = 0; c < SL_LANES; c++)
        memset(w + c * K + (c % 2) * 32, 0, 32 * sizeof(float));
    uint32_t n_tables;
    const struct sl_ops *const *tables = sl_ops_available(&n_tables);
    for (int f = 0; f < FORMATS; f++) {
        struct search_job job;
        job_init(&job, formats[f], w, SL_LANES, K);
        job_run(&job, NULL);
        for (uint32_t c = 0; c < SL_LANES; c++)
            for (uint32_t i = 0; i < 32; i++)
                CHECK_INT(sl_quant_weight(formats[f], K, job.block, c, c % 2 * 32 + i), 0);
        for (uint32_t t = 0; t < n_tables; t++) {
            _Alignas(64) int8_t q[64];
            float x[K], y[SL_LANES], scale;
            int32_t sum;
            void *scratch = aligned(tables[t]->scratch_bytes(K));
            for (uint32_t i = 0; i < K; i++)
                x[i] = (float)((i * 37) % 21) - 10.0f;
            tables[t]->quantise(x, K, q, 64, &scale, &sum);
            struct sl_gemm8 g = {.x = {q, 64, &scale, &sum},
                                 .m = 1,
                                 .w = {job.block, SL_LANES, K, formats[f], 0, 1},
                                 .col_end = SL_LANES,
                                 .y = y,
                                 .y_stride = SL_LANES};
            tables[t]->gemm8(&g, scratch);
            for (uint32_t c = 0; c < SL_LANES; c++) {
                int32_t dot = 0;
                for (uint32_t i = 0; i < K; i++)
                    dot += q[i] * sl_quant_weight(formats[f], K, job.block, c, i);
                CHECK(y[c] == sl_quant_row_scales(job.block)[c] * scale * (float)dot);
            }
            free(scratch);
        }
        job_fini(&job);
    }
}

SL_TEST(rotated_weights_meet_rotated_inputs)
{
    enum { K = 384, N = 3 };
    static float w[N * K], turned[N * K], x[K];
    struct sl_rng rng = {1, 0};
    for (uint32_t block = 1; block <= 128; block *= 2) {
        fill_rows(w, N, K, STUDENT, block);
        memcpy(turned, w, sizeof w);
        sl_rotate_weights(turned, N, K, block);
        for (uint32_t r = 0; r < N; r++) {
            double before = 0, after = 0, size = 0;
            float y[K];
            for (uint32_t i = 0; i < K; i++)
                x[i] = y[i] = (float)gauss(&rng);
            sl_ops_ref.rotate(y, K, block);
            for (uint32_t i = 0; i < K; i++) {
                before += (double)x[i] * (double)w[r * K + i];
                after += (double)y[i] * (double)turned[r * K + i];
                size += fabs((double)x[i] * (double)w[r * K + i]);
            }
            CHECK(fabs(before - after) < 1e-6 * size);
            CHECK(block == 1 || turned[r * K] != w[r * K]);
        }
    }
}
