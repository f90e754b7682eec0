/* What tests of the twin's kernels compare results by: floats by their bits, two NaNs being equal whatever their payload. And
 * device memory that holds what the host has, or nothing that may be read. */
#ifndef SL_TESTS_KERNELS_GPU_BITS_H
#define SL_TESTS_KERNELS_GPU_BITS_H

#include "kernels/gpu/host.h"
#include <math.h>
#include <stdint.h>
#include <string.h>

/* How many of n differ. */
static inline uint64_t differing_floats(const float *a, const float *b, size_t n)
{
    uint64_t wrong = 0;
    for (size_t i = 0; i < n; i++)
        wrong += memcmp(&a[i], &b[i], sizeof *a) != 0 && !(isnan(a[i]) && isnan(b[i]));
    return wrong;
}

static inline uint64_t differing_bytes(const void *a, const void *b, size_t n)
{
    uint64_t wrong = 0;
    for (size_t i = 0; i < n; i++)
        wrong += ((const uint8_t *)a)[i] != ((const uint8_t *)b)[i];
    return wrong;
}

static inline void *on_device(const void *from, size_t bytes)
{
    return memcpy(gpu_alloc(bytes), from, bytes);
}

static inline void *unwritten(size_t bytes)
{
    void *at = gpu_alloc(bytes);
    gpu_poison(at, bytes);
    return at;
}

#endif
