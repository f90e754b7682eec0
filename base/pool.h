/* A fixed pool of n numbered things: take one, give it back, count what is out. O(1), no allocation after
 * init. The things themselves live in somebody's array; the pool owns only the numbers. One thread. */
#ifndef SL_BASE_POOL_H
#define SL_BASE_POOL_H

#include "base/arena.h"
#include <assert.h>

struct sl_pool {
    uint32_t *free_ids;
    uint32_t n_free, n_total;
};

static inline size_t sl_pool_bytes(uint32_t n)
{
    return sl_arena_round(n * sizeof(uint32_t));
}

static inline sl_status sl_pool_init(struct sl_pool *pool, struct sl_arena *arena, uint32_t n)
{
    pool->free_ids = sl_arena_take(arena, n * sizeof(uint32_t));
    if (!pool->free_ids)
        return SL_E_NOMEM;
    for (uint32_t i = 0; i < n; i++)
        pool->free_ids[i] = n - 1 - i; /* lowest number first */
    pool->n_free = pool->n_total = n;
    return SL_OK;
}

static inline sl_status sl_pool_take(struct sl_pool *pool, uint32_t *id)
{
    if (pool->n_free == 0)
        return SL_E_EXHAUSTED;
    *id = pool->free_ids[--pool->n_free];
    return SL_OK;
}

static inline void sl_pool_give(struct sl_pool *pool, uint32_t id)
{
    assert(id < pool->n_total && pool->n_free < pool->n_total);
    pool->free_ids[pool->n_free++] = id;
}

#endif
