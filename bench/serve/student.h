/* The distributions that intervals are made of: beta and Student's t. Pure. */
#ifndef SL_BENCH_SERVE_STUDENT_H
#define SL_BENCH_SERVE_STUDENT_H

/* The regularised incomplete beta function: P(X <= x) of a beta(a, b) variable; a, b > 0. To 1e-9 and better up to a + b of 1e7. */
double sl_beta_cdf(double x, double a, double b);
/* Of Student's t with any degrees > 0 of freedom. */
double sl_student_cdf(double t, double degrees);
/* p in (0, 1): t with sl_student_cdf(t) == p. */
double sl_student_quantile(double p, double degrees);

#endif
