/* Arrival processes against the distributions that they are named after: chi-square over 100 bins of equal probability, at 1 %. The
 * true distribution function, the incomplete gamma function, is computed here by its series, in another way than anything in the
 * sampler. Seeds are fixed, so a verdict is one for ever. */
#include "bench/serve/arrivals.h"
#include "tests/check.h"
#include <math.h>
#include <stdlib.h>

enum { DRAWS = 100000, BINS = 100, SEEDS = 5, SHAPES = 5 };
static const double shapes[SHAPES] = {0.25, 0.5, 1, 2, 4};
static const double CHI_SQUARE_1 = 134.64; /* 99 degrees, 1 % */

/* P(X <= x) of a gamma variable of scale 1: x^k e^-x sum_i x^i / (k (k + 1) ... (k + i)) / Gamma(k). */
static double gamma_cdf(double x, double k)
{
    if (x <= 0)
        return 0;
    double term = 1 / k, sum = term;
    for (int i = 1; i < 2000 && term > sum * 1e-17; i++) {
        term *= x / (k + i);
        sum += term;
    }
    return sum * exp(k * log(x) - x - lgamma(k));
}

static double chi_square(const double *draws, double shape)
{
    uint32_t bins[BINS] = {0};
    double sum = 0, expected = (double)DRAWS / BINS;
    for (uint32_t i = 0; i < DRAWS; i++) {
        int bin = (int)(gamma_cdf(draws[i], shape) * BINS);
        bins[bin < BINS ? bin : BINS - 1]++;
    }
    for (int i = 0; i < BINS; i++)
        sum += (bins[i] - expected) * (bins[i] - expected) / expected;
    return sum;
}

static struct sl_arrivals parsed(const char *text)
{
    struct sl_arrivals arrivals;
    struct sl_err err;
    if (sl_arrivals_parse(&arrivals, text, &err) != SL_OK)
        sl_test_fail(__FILE__, __LINE__, "%s: %s", text, err.text);
    return arrivals;
}

/* Gaps in parts of their scale: at this rate a ns is next to nothing even of gaps of shape 0.25. */
static void draw_gaps(const char *text, uint64_t seed, double shape, double *gaps)
{
    static const double RATE = 0.05;
    struct sl_arrivals arrivals = parsed(text);
    sl_arrivals_begin(&arrivals, RATE, seed);
    uint64_t before = 0;
    for (uint32_t i = 0; i < DRAWS; i++) {
        uint64_t at = sl_arrivals_next(&arrivals);
        if (at < before)
            sl_test_fail(__FILE__, __LINE__, "%s: fell from %llu", text, (unsigned long long)before);
        gaps[i] = (double)(at - before) / 1e9 * RATE * shape;
        before = at;
    }
}

/* Of neighbours, in standard deviations: normal if gaps are independent of each other. */
static double neighbours(const double *gaps)
{
    double sum = 0, squares = 0, products = 0;
    for (uint32_t i = 0; i < DRAWS; i++)
        sum += gaps[i];
    double mean = sum / DRAWS;
    for (uint32_t i = 0; i < DRAWS; i++) {
        squares += (gaps[i] - mean) * (gaps[i] - mean);
        if (i > 0)
            products += (gaps[i] - mean) * (gaps[i - 1] - mean);
    }
    return products / squares * sqrt(DRAWS);
}

SL_TEST(the_gamma_function_of_this_test_is_right)
{
    for (double x = 0.01; x < 30; x *= 1.3) {
        CHECK(fabs(gamma_cdf(x, 1) - (1 - exp(-x))) < 1e-12);
        CHECK(fabs(gamma_cdf(x, 2) - (1 - exp(-x) * (1 + x))) < 1e-12);
        CHECK(fabs(gamma_cdf(x, 0.5) - erf(sqrt(x))) < 1e-12);
        CHECK(fabs(gamma_cdf(x, 4) - (1 - exp(-x) * (1 + x + x * x / 2 + x * x * x / 6))) < 1e-12);
    }
}

SL_TEST(poisson_and_gamma_arrivals_are_what_they_say)
{
    double *gaps = malloc(DRAWS * sizeof *gaps);
    for (int shape = 0; shape < SHAPES; shape++) {
        char text[32];
        snprintf(text, sizeof text, "gamma:%g", shapes[shape]);
        for (uint64_t seed = 1; seed <= SEEDS; seed++)
            for (int poisson = 0; poisson <= (shape == 2); poisson++) {
                const char *process = poisson ? "poisson" : text;
                draw_gaps(process, seed, shapes[shape], gaps);
                double chi = chi_square(gaps, shapes[shape]);
                if (!(chi < CHI_SQUARE_1))
                    sl_test_fail(__FILE__, __LINE__, "%s, seed %llu: chi-square %.1f", process,
                                 (unsigned long long)seed, chi);
                CHECK(fabs(neighbours(gaps)) < 3.5);
            }
    }
    free(gaps);
}

SL_TEST(the_sampler_of_gamma_is_right_for_any_shape)
{
    static const double more[] = {0.05, 0.9, 1.1, 10, 100};
    double *draws = malloc(DRAWS * sizeof *draws);
    for (size_t i = 0; i < sizeof more / sizeof more[0]; i++) {
        struct sl_rng rng = {42, 0};
        for (uint32_t j = 0; j < DRAWS; j++)
            draws[j] = sl_draw_gamma(&rng, more[i]);
        CHECK(chi_square(draws, more[i]) < CHI_SQUARE_1);
    }
    free(draws);
}

SL_TEST(a_shape_that_is_a_little_off_is_found_out)
{
    double *gaps = malloc(DRAWS * sizeof *gaps);
    for (int shape = 0; shape < SHAPES; shape++) {
        char text[32];
        snprintf(text, sizeof text, "gamma:%g", shapes[shape]);
        draw_gaps(text, 1, shapes[shape], gaps);
        CHECK(chi_square(gaps, shapes[shape] * 1.03) > CHI_SQUARE_1);
        for (uint32_t i = 0; i < DRAWS; i++)
            gaps[i] *= 1.06; /* as if the rate were */
        CHECK(chi_square(gaps, shapes[shape]) > CHI_SQUARE_1);
    }
    for (uint32_t i = 1; i < DRAWS; i++)
        gaps[i] = gaps[i] + 0.05 * gaps[i - 1];
    CHECK(neighbours(gaps) > 3.5);
    free(gaps);
}

SL_TEST(constant_arrivals_are_one_interval_apart_and_do_not_drift)
{
    struct sl_arrivals arrivals = parsed("constant");
    sl_arrivals_begin(&arrivals, 100, 1);
    for (uint64_t i = 1; i <= DRAWS; i++) {
        int64_t late = (int64_t)(sl_arrivals_next(&arrivals) - i * 10000000);
        CHECK(late >= -2 && late <= 2);
    }
}

SL_TEST(the_same_seed_draws_the_same_arrivals_and_another_draws_others)
{
    struct sl_arrivals a = parsed("gamma:0.5"), b = a, c = a;
    sl_arrivals_begin(&a, 3, 7);
    sl_arrivals_begin(&b, 3, 7);
    sl_arrivals_begin(&c, 3, 8);
    uint32_t same = 0;
    for (int i = 0; i < 1000; i++) {
        uint64_t at = sl_arrivals_next(&a);
        CHECK(at == sl_arrivals_next(&b));
        same += at == sl_arrivals_next(&c);
    }
    CHECK(same < 5);
}

SL_TEST(nonsense_is_refused_with_what_is_accepted)
{
    static const char *const wrong[] = {
        "",        "Poisson",     "poisson ",  "gamma",     "gamma:",   "gamma:x",   "gamma:-1",
        "gamma:0", "gamma:0.001", "gamma:nan", "gamma:inf", "gamma:2x", "gamma:1e7", "constant:3"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        struct sl_arrivals arrivals;
        struct sl_err err = {0};
        CHECK_INT(sl_arrivals_parse(&arrivals, wrong[i], &err), SL_E_USAGE);
        CHECK(err.text[0] != '\0');
    }
    CHECK(parsed("gamma:0.25").kind == SL_ARRIVAL_GAMMA);
    CHECK(parsed("poisson").kind == SL_ARRIVAL_POISSON);
}
