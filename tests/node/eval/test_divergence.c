/* The figures of `sluice eval` against a brute force in long double, straight from the definitions: softmax
 * by division, KL by its sum, quantiles by sorting, errors from the table of window means. */
#include "node/eval/divergence.h"

#include "base/rng.h"
#include "tests/check.h"

#include <math.h>
#include <stdlib.h>

enum { VOCAB = 1009 };

static void fill(float *logits, uint64_t seed, float spread)
{
    for (uint32_t i = 0; i < VOCAB; i++) {
        double sum = 0;
        for (uint32_t j = 0; j < 3; j++)
            sum += sl_rng_unit(sl_rng_at(seed, 3 * i + j)) - 0.5;
        logits[i] = (float)sum * spread;
    }
}

static void softmax(long double *p, const float *logits)
{
    long double sum = 0;
    for (uint32_t i = 0; i < VOCAB; i++)
        sum += expl((long double)logits[i]);
    for (uint32_t i = 0; i < VOCAB; i++)
        p[i] = expl((long double)logits[i]) / sum;
}

static bool near(double got, long double want, double relative)
{
    return fabsl((long double)got - want) <= (long double)relative * fabsl(want) + 1e-14L;
}

SL_TEST(a_position_is_what_the_definitions_say)
{
    static float reference[VOCAB], logits[VOCAB];
    static long double p[VOCAB], q[VOCAB];
    for (uint64_t seed = 0; seed < 40; seed++) {
        uint32_t truth = (uint32_t)(seed * 97 % VOCAB);
        float apart = (float)pow(10, -(double)(seed % 6)); /* from another distribution to nearly the same */
        fill(reference, seed, 12);
        fill(logits, 1000 + seed, 1);
        for (uint32_t i = 0; i < VOCAB; i++)
            logits[i] = reference[i] + apart * logits[i] + 5; /* a constant changes nothing */
        softmax(p, reference);
        softmax(q, logits);
        long double kl = 0;
        uint32_t top_p = 0, top_q = 0;
        for (uint32_t i = 0; i < VOCAB; i++) {
            kl += p[i] * logl(p[i] / q[i]);
            top_p = p[i] > p[top_p] ? i : top_p;
            top_q = q[i] > q[top_q] ? i : top_q;
        }
        struct sl_position got;
        sl_position_compare(&got, reference, logits, VOCAB, truth);
        CHECK(near(got.nll, -logl(q[truth]), 1e-12));
        CHECK(near(got.nll_reference, -logl(p[truth]), 1e-12));
        CHECK(near(got.kld, kl, 1e-4) && got.kld > 0);
        CHECK(near(got.gap, q[truth] - p[truth], 1e-9));
        CHECK_INT(got.same_top, top_p == top_q);
        struct sl_position alone;
        sl_position_compare(&alone, NULL, logits, VOCAB, truth);
        CHECK(alone.nll == got.nll && alone.kld == 0);
    }
}

SL_TEST(equal_rows_diverge_by_nothing_at_all)
{
    static float logits[VOCAB];
    for (uint64_t seed = 0; seed < 20; seed++) {
        struct sl_position got;
        fill(logits, seed, seed % 2 ? 40 : 0.01f);
        sl_position_compare(&got, logits, logits, VOCAB, 3);
        CHECK(got.kld == 0 && got.gap == 0 && got.same_top && got.nll == got.nll_reference);
    }
}

SL_TEST(rows_of_two_by_hand)
{
    struct sl_position got; /* p = 3/4, 1/4; q = 1/2, 1/2: KL = ln 2 - H(p) */
    sl_position_compare(&got, (float[]){1.09861229f, 0}, (float[]){7, 7}, 2, 1);
    CHECK(near(got.kld, 0.75L * logl(1.5L) + 0.25L * logl(0.5L), 1e-6));
    CHECK(near(got.gap, 0.25L, 1e-6) && near(got.nll, logl(2), 1e-12));
    CHECK(got.same_top); /* of equals the lower id */
    sl_position_compare(&got, (float[]){0, 1}, (float[]){7, 7}, 2, 1);
    CHECK(!got.same_top);
    /* Far apart: exp would overflow without the maximum, and underflows to nothing with it. */
    sl_position_compare(&got, (float[]){2000, 0}, (float[]){0, 2000}, 2, 0);
    CHECK(near(got.kld, 2000, 1e-12) && near(got.nll, 2000, 1e-12) && got.gap == -1);
}

SL_TEST(a_logit_that_is_no_number_is_told)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < 3; i++) {
        struct sl_position got;
        float row[] = {1, bad[i], 2}, good[] = {1, 2, 3};
        sl_position_compare(&got, NULL, row, 3, 0);
        CHECK(isnan(got.nll));
        sl_position_compare(&got, row, good, 3, 0);
        CHECK(isnan(got.nll));
        sl_position_compare(&got, good, row, 3, 0);
        CHECK(isnan(got.nll));
    }
}

/* ---- the report ---- */

enum { WINDOWS = 7, PER = 31, N = WINDOWS * PER };

static void fill_positions(struct sl_position *positions)
{
    for (uint32_t i = 0; i < N; i++) {
        double shift = sl_rng_unit(sl_rng_at(1, i / PER)); /* windows differ, as texts do */
        positions[i].nll = 3 + shift + sl_rng_unit(sl_rng_at(2, i));
        positions[i].nll_reference = positions[i].nll - 0.01 * sl_rng_unit(sl_rng_at(3, i)) - 0.02 * shift;
        positions[i].kld = pow(sl_rng_unit(sl_rng_at(4, i)), 4) * (0.1 + shift);
        positions[i].gap = 0.2 * (sl_rng_unit(sl_rng_at(5, i)) - 0.4);
        positions[i].same_top = sl_rng_unit(sl_rng_at(6, i)) < 0.8;
    }
}

/* Mean and standard error between window means of value[i]. */
static void batch(const long double *value, long double *mean, long double *error)
{
    long double means[WINDOWS] = {0}, squares = 0;
    *mean = 0;
    for (uint32_t i = 0; i < N; i++) {
        means[i / PER] += value[i] / PER;
        *mean += value[i] / N;
    }
    for (uint32_t w = 0; w < WINDOWS; w++)
        squares += (means[w] - *mean) * (means[w] - *mean);
    *error = sqrtl(squares / (WINDOWS - 1)) / sqrtl(WINDOWS);
}

static bool is(struct sl_estimate got, long double value, long double error)
{
    return near(got.value, value, 1e-12) && near(got.error, error, 1e-9);
}

SL_TEST(means_and_their_errors)
{
    static struct sl_position positions[N];
    static long double values[7][N];
    double scratch[N];
    long double mean[7], error[7];
    struct sl_divergence got;
    fill_positions(positions);
    for (uint32_t i = 0; i < N; i++) {
        const struct sl_position *p = &positions[i];
        const double of[7] = {p->nll, p->nll_reference, p->nll - p->nll_reference, p->kld, p->same_top,
                              p->gap, p->gap * p->gap};
        for (uint32_t k = 0; k < 7; k++)
            values[k][i] = (long double)of[k];
    }
    for (uint32_t k = 0; k < 7; k++)
        batch(values[k], &mean[k], &error[k]);
    sl_divergence_report(&got, positions, WINDOWS, PER, true, scratch);
    CHECK(is(got.perplexity, expl(mean[0]), expl(mean[0]) * error[0]));
    CHECK(is(got.perplexity_reference, expl(mean[1]), expl(mean[1]) * error[1]));
    CHECK(is(got.perplexity_ratio, expl(mean[2]), expl(mean[2]) * error[2]));
    CHECK(got.perplexity_ratio.error < 0.1 * got.perplexity.error / got.perplexity.value); /* paired */
    CHECK(is(got.kld_mean, mean[3], error[3]));
    CHECK(is(got.same_top, mean[4], error[4]));
    CHECK(is(got.gap_mean, mean[5], error[5]));
    CHECK(is(got.gap_rms, sqrtl(mean[6]), error[6] / (2 * sqrtl(mean[6]))));
    sl_divergence_report(&got, positions, WINDOWS, PER, false, scratch);
    CHECK(is(got.perplexity, expl(mean[0]), expl(mean[0]) * error[0]) && got.kld_mean.value == 0);
}

/* KLs of 1..n in an order that mixes them: quantiles are known, and the interval can be counted off. */
SL_TEST(quantiles_and_their_errors)
{
    static struct sl_position positions[N];
    double scratch[N];
    long double within[N], mean, error;
    struct sl_divergence got;
    for (uint32_t i = 0; i < N; i++)
        positions[i].kld = 1 + i * 100 % N; /* 217 = 7 * 31 and 100 share no factor */
    sl_divergence_report(&got, positions, WINDOWS, PER, true, scratch);
    CHECK(got.kld_max == N);
    CHECK(near(got.kld_median.value, (N + 1) / 2.0L, 1e-12));
    CHECK(near(got.kld_p99.value, 1 + 0.99L * (N - 1), 1e-12));
    for (uint32_t i = 0; i < N; i++)
        within[i] = positions[i].kld <= got.kld_median.value;
    batch(within, &mean, &error);
    CHECK(error > 0);
    CHECK(near(got.kld_median.error, error * (N - 1), 1e-9)); /* equally spaced: a share is a distance */
}

SL_TEST(one_window_has_no_error_and_one_position_no_trouble)
{
    struct sl_position one = {.nll = 2, .nll_reference = 1, .kld = 0.5, .gap = -0.1};
    struct sl_divergence got;
    double scratch;
    sl_divergence_report(&got, &one, 1, 1, true, &scratch);
    CHECK(near(got.perplexity.value, expl(2), 1e-12) && near(got.perplexity_ratio.value, expl(1), 1e-12));
    CHECK(got.kld_mean.value == 0.5 && got.kld_median.value == 0.5 && got.kld_p99.value == 0.5 &&
          got.kld_max == 0.5);
    CHECK(isnan(got.perplexity.error) && isnan(got.kld_mean.error) && isnan(got.kld_p99.error) &&
          isnan(got.gap_rms.error));
}
