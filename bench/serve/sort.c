/* Sorting (sort.h): by the bytes of keys, lowest first. A double's bits are in the order of its values once the sign bit is
 * turned and, of negative ones, all bits are; bytes that are the same in all keys are passed over. */
#include "bench/serve/sort.h"
#include <assert.h>
#include <math.h>
#include <string.h>

enum { BYTES = 8, RADIX = 256 };

static uint64_t key_of(double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits >> 63 ? ~bits : bits | 1ull << 63;
}

static uint32_t byte_of(double value, int byte)
{
    return (uint32_t)(key_of(value) >> (8 * byte)) & (RADIX - 1);
}

static void move_by(const double *from, double *to, uint32_t n, int byte, const uint32_t *counts)
{
    uint32_t next[RADIX], at = 0;
    for (int i = 0; i < RADIX; i++) {
        next[i] = at;
        at += counts[i];
    }
    for (uint32_t i = 0; i < n; i++)
        to[next[byte_of(from[i], byte)]++] = from[i];
}

void sl_sort_doubles(double *values, uint32_t n, double *spare)
{
    static_assert(sizeof(double) == BYTES, "keys are 64 bits");
    uint32_t counts[BYTES][RADIX] = {{0}};
    for (uint32_t i = 0; i < n; i++) {
        uint64_t key = key_of(values[i]);
        for (int byte = 0; byte < BYTES; byte++)
            counts[byte][(key >> (8 * byte)) & (RADIX - 1)]++;
    }
    double *from = values, *to = spare;
    for (int byte = 0; n > 0 && byte < BYTES; byte++) {
        if (counts[byte][byte_of(from[0], byte)] == n)
            continue;
        move_by(from, to, n, byte, counts[byte]);
        double *kept = from;
        from = to;
        to = kept;
    }
    if (from != values)
        memcpy(values, from, n * sizeof *values);
}

uint32_t sl_sorted_below(const double *sorted, uint32_t n, double value)
{
    uint32_t low = 0;
    while (n > 0) {
        uint32_t half = n / 2;
        if (sorted[low + half] < value) {
            low += half + 1;
            n -= half + 1;
        } else {
            n = half;
        }
    }
    return low;
}

uint32_t sl_sorted_up_to(const double *sorted, uint32_t n, double value)
{
    return value < INFINITY ? sl_sorted_below(sorted, n, nextafter(value, INFINITY)) : n;
}

uint32_t sl_nearest_rank(uint32_t n, double q)
{
    static const double ROUNDING = 1e-6; /* 0.99 * 1000 is 990, whatever its last bit says */
    assert(n > 0);
    double rank = ceil(q * n - ROUNDING);
    return rank < 1 ? 0 : rank > n ? n - 1 : (uint32_t)rank - 1;
}
