/* What is to happen when: a heap of moments, the earliest first. */
#ifndef SL_BENCH_SERVE_MOMENTS_H
#define SL_BENCH_SERVE_MOMENTS_H

#include <stdbool.h>
#include <stdint.h>

struct sl_moment {
    uint64_t at_ns;
    uint64_t a, b; /* the owner's */
};

struct sl_moment_heap {
    struct sl_moment *heap;
    uint32_t n, room;
};

bool sl_moments_add(struct sl_moment_heap *moments, struct sl_moment moment); /* false: no memory */
uint64_t sl_moments_next(const struct sl_moment_heap *moments);               /* UINT64_MAX: none */
struct sl_moment sl_moments_take(struct sl_moment_heap *moments); /* the earliest, of at least one */
void sl_moments_free(struct sl_moment_heap *moments);

#endif
