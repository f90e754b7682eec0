/* Beta and Student's t (student.h). The incomplete beta function by its continued fraction (DLMF 8.17.22), evaluated from the
 * front by Lentz' method; it converges in about sqrt(max(a, b)) steps on the side of the mean where it is asked. */
#include "bench/serve/student.h"
#include <math.h>
#include <stdint.h>

enum { STEPS_MOST = 200000, HALVINGS = 200 };

static double not_zero(double x)
{
    return fabs(x) < 1e-300 ? 1e-300 : x;
}

static double fraction(double x, double a, double b)
{
    double c = 1, d = 1 / not_zero(1 - (a + b) * x / (a + 1)), result = d;
    for (uint32_t step = 1; step < STEPS_MOST; step++) {
        double m = step;
        double even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
        d = 1 / not_zero(1 + even * d);
        c = not_zero(1 + even / c);
        result *= c * d;
        double odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
        d = 1 / not_zero(1 + odd * d);
        c = not_zero(1 + odd / c);
        result *= c * d;
        if (fabs(c * d - 1) < 1e-14)
            break;
    }
    return result;
}

double sl_beta_cdf(double x, double a, double b)
{
    if (x <= 0)
        return 0;
    if (x >= 1)
        return 1;
    int sign;
    double log_front =
        lgamma_r(a + b, &sign) - lgamma_r(a, &sign) - lgamma_r(b, &sign) + a * log(x) + b * log1p(-x);
    if (x < (a + 1) / (a + b + 2))
        return exp(log_front) * fraction(x, a, b) / a;
    return 1 - exp(log_front) * fraction(1 - x, b, a) / b;
}

double sl_student_cdf(double t, double degrees)
{
    double tail = 0.5 * sl_beta_cdf(degrees / (degrees + t * t), degrees / 2, 0.5);
    return t > 0 ? 1 - tail : tail;
}

double sl_student_quantile(double p, double degrees)
{
    double tail = p > 0.5 ? 1 - p : p, low = 0, high = 1;
    while (sl_student_cdf(-high, degrees) > tail && high < 1e300)
        high *= 2;
    for (int i = 0; i < HALVINGS && high - low > 1e-13 * high; i++) {
        double middle = 0.5 * (low + high);
        if (sl_student_cdf(-middle, degrees) > tail)
            low = middle;
        else
            high = middle;
    }
    return p > 0.5 ? high : -high;
}
