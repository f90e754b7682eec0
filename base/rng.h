/* Seeded random numbers. sl_rng_at is counter-based: the value for (seed, index) does not depend on what
 * was drawn before, so a request draws the same numbers whatever batch it is in. SplitMix64 finaliser
 * (Steele, Lea, Flood 2014). */
#ifndef SL_BASE_RNG_H
#define SL_BASE_RNG_H

#include <stdint.h>

static inline uint64_t sl_rng_at(uint64_t seed, uint64_t index)
{
    uint64_t z = seed * 0xD1B54A32D192ED03u + (index + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* [0, 1) with 53 bits */
static inline double sl_rng_unit(uint64_t bits)
{
    return (double)(bits >> 11) * 0x1p-53;
}

struct sl_rng {
    uint64_t seed, index;
};

static inline uint64_t sl_rng_next(struct sl_rng *rng)
{
    return sl_rng_at(rng->seed, rng->index++);
}

#endif
