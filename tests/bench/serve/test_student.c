/* Beta and t against what tables say and against sums that are known. */
#include "bench/serve/student.h"
#include "tests/check.h"
#include <math.h>

#define CHECK_NEAR(a, b, within)                                                                             \
    do {                                                                                                     \
        double near_a_ = (a), near_b_ = (b);                                                                 \
        if (!(fabs(near_a_ - near_b_) <= (within)))                                                          \
            sl_test_fail(__FILE__, __LINE__, "%s is %.10g, expected %.10g", #a, near_a_, near_b_);           \
    } while (0)

SL_TEST(quantiles_of_t_are_those_of_the_tables)
{
    static const struct {
        double p, degrees, t;
    } table[] = {{0.975, 1, 12.7062}, {0.975, 2, 4.30265},  {0.975, 3, 3.18245},  {0.975, 4, 2.77645},
                 {0.975, 9, 2.26216}, {0.975, 19, 2.09302}, {0.975, 30, 2.04227}, {0.975, 100, 1.98397},
                 {0.95, 10, 1.81246}, {0.995, 5, 4.03214},  {0.9, 20, 1.32534},   {0.999, 7, 4.78529}};
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        CHECK_NEAR(sl_student_quantile(table[i].p, table[i].degrees), table[i].t, 6e-5 * table[i].t);
        CHECK_NEAR(sl_student_quantile(1 - table[i].p, table[i].degrees), -table[i].t, 6e-5 * table[i].t);
        CHECK_NEAR(sl_student_cdf(table[i].t, table[i].degrees), table[i].p, 2e-6);
    }
    CHECK_NEAR(sl_student_quantile(0.975, 1e7), 1.959964, 2e-6);
    CHECK_NEAR(sl_student_quantile(0.5, 5), 0, 1e-9);
    CHECK_NEAR(sl_student_cdf(0, 3), 0.5, 1e-12);
}

SL_TEST(one_degree_is_cauchy_and_parts_of_degrees_lie_in_between)
{
    for (double t = -5; t <= 5; t += 0.25)
        CHECK_NEAR(sl_student_cdf(t, 1), 0.5 + atan(t) / M_PI, 1e-10);
    double t = sl_student_quantile(0.975, 4.5);
    CHECK(t < 2.77645 && t > 2.57058);
}

/* I_x(a, b) for whole a and b: P(at least a of a + b - 1 with chance x). */
static double binomial_tail(double x, int a, int b)
{
    double sum = 0;
    int n = a + b - 1;
    for (int k = a; k <= n; k++)
        sum += exp(lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1) + k * log(x) + (n - k) * log1p(-x));
    return sum;
}

SL_TEST(the_beta_function_is_the_binomial_sum)
{
    static const int pairs[][2] = {{1, 1}, {2, 5}, {5, 2}, {10, 990}, {990, 11}, {500, 501}, {3, 3000}};
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++)
        for (double x = 0.001; x < 1; x += 0.0333) {
            int a = pairs[i][0], b = pairs[i][1];
            CHECK_NEAR(sl_beta_cdf(x, a, b), binomial_tail(x, a, b), 1e-10);
            CHECK_NEAR(sl_beta_cdf(x, a, b) + sl_beta_cdf(1 - x, b, a), 1, 1e-12);
        }
    CHECK_NEAR(sl_beta_cdf(0, 2, 3), 0, 0);
    CHECK_NEAR(sl_beta_cdf(1, 2, 3), 1, 0);
    /* large: the median of a beta is about its mean less a third of its skewness */
    CHECK_NEAR(sl_beta_cdf(0.99, 9.9e6, 1e5), 0.5, 1e-3);
}
