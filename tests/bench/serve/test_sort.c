/* Sorting by bytes against the library's sort, and what is looked up in sorted samples. */
#include "base/rng.h"
#include "bench/serve/sort.h"
#include "tests/check.h"
#include <math.h>
#include <stdlib.h>

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void compare(const double *values, uint32_t n)
{
    double *ours = malloc((n + 1) * sizeof *ours), *theirs = malloc((n + 1) * sizeof *theirs);
    double *spare = malloc((n + 1) * sizeof *spare);
    memcpy(ours, values, n * sizeof *values);
    memcpy(theirs, values, n * sizeof *values);
    sl_sort_doubles(ours, n, spare);
    qsort(theirs, n, sizeof *theirs, by_value);
    for (uint32_t i = 0; i < n; i++)
        CHECK(!(ours[i] < theirs[i]) && !(ours[i] > theirs[i]));
    free(spare);
    free(theirs);
    free(ours);
}

SL_TEST(sorted_as_the_library_sorts)
{
    enum { N = 3000 };
    double values[N];
    struct sl_rng rng = {7, 0};
    for (uint32_t n = 0; n < N; n = n * 2 + 1) {
        for (uint32_t i = 0; i < n; i++) {
            double unit = sl_rng_unit(sl_rng_next(&rng));
            values[i] = i % 5 == 0   ? INFINITY
                        : i % 5 == 1 ? -unit
                        : i % 5 == 2 ? floor(unit * 4)
                        : i % 5 == 3 ? ldexp(unit, (int)(unit * 200) - 100)
                                     : 1e300 * unit;
        }
        compare(values, n);
    }
}

SL_TEST(one_value_over_and_over_is_sorted)
{
    double values[100];
    for (int i = 0; i < 100; i++)
        values[i] = 2.5;
    compare(values, 100);
}

SL_TEST(counts_below_and_up_to_a_value)
{
    const double sorted[] = {-1, 0, 2, 2, 2, 3, INFINITY, INFINITY};
    CHECK_INT(sl_sorted_below(sorted, 8, 2), 2);
    CHECK_INT(sl_sorted_up_to(sorted, 8, 2), 5);
    CHECK_INT(sl_sorted_below(sorted, 8, -5), 0);
    CHECK_INT(sl_sorted_up_to(sorted, 8, -1), 1);
    CHECK_INT(sl_sorted_below(sorted, 8, INFINITY), 6);
    CHECK_INT(sl_sorted_up_to(sorted, 8, INFINITY), 8);
    CHECK_INT(sl_sorted_up_to(sorted, 0, 1), 0);
}

SL_TEST(the_nearest_rank_is_the_least_with_so_many_at_or_below_it)
{
    CHECK_INT(sl_nearest_rank(1000, 0.99), 989);
    CHECK_INT(sl_nearest_rank(1000, 0.999), 998);
    CHECK_INT(sl_nearest_rank(1001, 0.99), 990);
    CHECK_INT(sl_nearest_rank(4, 0.5), 1);
    CHECK_INT(sl_nearest_rank(5, 0.5), 2);
    CHECK_INT(sl_nearest_rank(1, 0.999), 0);
    CHECK_INT(sl_nearest_rank(3, 0), 0);
    CHECK_INT(sl_nearest_rank(3, 1), 2);
    for (uint32_t n = 1; n <= 100000; n = n * 10)
        for (uint32_t thousandth = 1; thousandth < 1000; thousandth++)
            CHECK_INT(sl_nearest_rank(n, thousandth / 1000.0), ((uint64_t)n * thousandth + 999) / 1000 - 1);
}
