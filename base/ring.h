/* A bounded single-producer single-consumer ring of fixed-size items: the way ownership moves between two
 * threads. C11 atomics, no lock, no allocation after init. The capacity is a power of two. */
#ifndef SL_BASE_RING_H
#define SL_BASE_RING_H

#include "base/status.h"
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct sl_ring {
    _Alignas(64) _Atomic uint32_t head; /* written by the producer */
    _Alignas(64) _Atomic uint32_t tail; /* written by the consumer */
    _Alignas(64) uint32_t mask;
    uint32_t item_bytes;
    uint8_t *items;
};

static inline sl_status sl_ring_init(struct sl_ring *ring, uint32_t capacity, uint32_t item_bytes)
{
    if (capacity == 0 || (capacity & (capacity - 1)) != 0)
        return SL_E_INTERNAL;
    memset(ring, 0, sizeof *ring);
    ring->items = malloc((size_t)capacity * item_bytes); /* each is written before it is read */
    if (!ring->items)
        return SL_E_NOMEM;
    ring->mask = capacity - 1;
    ring->item_bytes = item_bytes;
    return SL_OK;
}

static inline void sl_ring_fini(struct sl_ring *ring)
{
    free(ring->items);
    ring->items = NULL;
}

/* Producer only. SL_AGAIN when full. */
static inline sl_status sl_ring_push(struct sl_ring *ring, const void *item)
{
    uint32_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
    uint32_t tail = atomic_load_explicit(&ring->tail, memory_order_acquire);
    if (head - tail > ring->mask)
        return SL_AGAIN;
    memcpy(ring->items + (size_t)(head & ring->mask) * ring->item_bytes, item, ring->item_bytes);
    atomic_store_explicit(&ring->head, head + 1, memory_order_release);
    return SL_OK;
}

/* Consumer only. SL_AGAIN when empty. */
static inline sl_status sl_ring_pop(struct sl_ring *ring, void *item)
{
    uint32_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
    uint32_t head = atomic_load_explicit(&ring->head, memory_order_acquire);
    if (head == tail)
        return SL_AGAIN;
    memcpy(item, ring->items + (size_t)(tail & ring->mask) * ring->item_bytes, ring->item_bytes);
    atomic_store_explicit(&ring->tail, tail + 1, memory_order_release);
    return SL_OK;
}

#endif
