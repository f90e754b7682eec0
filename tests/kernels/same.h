/* What the tests of kernels compare by: the bits of floats, two NaNs being the same whatever their payload. */
#ifndef SL_TESTS_KERNELS_SAME_H
#define SL_TESTS_KERNELS_SAME_H

#include "kernels/isa.h"
#include "tests/check.h"
#include <math.h>

static inline bool same_float(float a, float b)
{
    return (isnan(a) && isnan(b)) || memcmp(&a, &b, sizeof a) == 0;
}

/* The index of the first difference, or -1. */
static inline long first_difference(const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!same_float(a[i], b[i]))
            return (long)i;
    return -1;
}

/* The format says which case it was. */
#define CHECK_SAME(table, want, got, n, ...)                                                                 \
    do {                                                                                                     \
        long at_ = first_difference(want, got, n);                                                           \
        if (at_ >= 0) {                                                                                      \
            char what_[200];                                                                                 \
            snprintf(what_, sizeof what_, __VA_ARGS__);                                                      \
            sl_test_fail(__FILE__, __LINE__, "%s, %s: element %ld is %a, ref has %a", table, what_, at_,     \
                         (double)(got)[at_], (double)(want)[at_]);                                           \
        }                                                                                                    \
    } while (0)

/* Runs what follows with `ops` set to each table but ref. */
#define EACH_TABLE(ops)                                                                                      \
    uint32_t n_tables_;                                                                                      \
    const struct sl_ops *const *tables_ = sl_ops_available(&n_tables_);                                      \
    for (const struct sl_ops *ops; n_tables_ > 1 && (ops = *tables_, true); tables_++, n_tables_--)

#endif
