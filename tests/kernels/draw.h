/* What tests of kernels draw their operands with: one seeded generator a program, and aligned memory that is full of
 * 0x5A, so that what nobody wrote is not zero by chance. DRAW_SEED is defined before this is included. */
#ifndef SL_TESTS_KERNELS_DRAW_H
#define SL_TESTS_KERNELS_DRAW_H

#include "base/rng.h"
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifndef DRAW_SEED
#define DRAW_SEED 1
#endif

static struct sl_rng rng = {DRAW_SEED, 0};

/* 64 bytes or more beyond `bytes`, on a cache line; the caller's, by free. */
static inline void *take(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 127) / 64 * 64);
    if (!p)
        abort();
    return memset(p, 0x5A, (bytes + 127) / 64 * 64);
}

static inline uint32_t below(uint32_t n)
{
    return (uint32_t)(sl_rng_next(&rng) % n);
}

/* In [-1, 1). */
static inline float draw_unit(void)
{
    return (float)(sl_rng_unit(sl_rng_next(&rng)) * 2.0 - 1.0);
}

/* What is no number, of any sign and payload. */
static inline float draw_nan(void)
{
    const uint32_t bits = 0x7F800001u | (uint32_t)sl_rng_next(&rng);
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

#endif
