/* A bump allocator with a planned size and a seal.
 *
 * Long-lived objects compute their need before they take it (sl_<noun>_bytes), reserve it once, and after
 * READY nothing on the chunk path allocates. Memory comes zeroed from mmap, so pages that are never
 * touched cost nothing, and the bytes can be registered with a NIC as one region.
 * One thread at a time; no locking. */
#ifndef SL_BASE_ARENA_H
#define SL_BASE_ARENA_H

#include "base/status.h"
#include <stdint.h>

struct sl_arena {
    uint8_t *base;
    size_t size_bytes, used_bytes;
    bool sealed;
};

enum { SL_CACHE_LINE = 64 };

/* Map size_bytes of zeroed memory. SL_E_NOMEM names the size. */
sl_status sl_arena_init(struct sl_arena *arena, size_t size_bytes, struct sl_err *err);
void sl_arena_fini(struct sl_arena *arena); /* a zeroed arena is fine */

/* 64-byte aligned, zeroed. NULL when the plan is exceeded; aborts when sealed (our own mistake). */
void *sl_arena_take(struct sl_arena *arena, size_t bytes);
void sl_arena_seal(struct sl_arena *arena);

/* What sl_arena_take(bytes) really uses: the plan adds these up. */
static inline size_t sl_arena_round(size_t bytes)
{
    return (bytes + SL_CACHE_LINE - 1) / SL_CACHE_LINE * SL_CACHE_LINE;
}

/* a*b, a+b in size_t; false when it does not fit. */
static inline bool sl_mul_size(size_t a, size_t b, size_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}
static inline bool sl_add_size(size_t a, size_t b, size_t *out)
{
    return !__builtin_add_overflow(a, b, out);
}

#endif
