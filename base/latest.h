/* The latest of a value that one thread writes and others read: the writer never waits, a reader gets a whole value. Three
 * slots: the writer's, the readers', and the one between them, which the two exchange. Readers take turns among themselves. */
#ifndef SL_BASE_LATEST_H
#define SL_BASE_LATEST_H

#include "base/status.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { SL_LATEST_FRESH = 4 };

struct sl_latest {
    size_t bytes;
    uint8_t *slots;          /* [3][bytes] */
    _Atomic uint32_t middle; /* a slot, and SL_LATEST_FRESH when the writer left it there */
    uint32_t back;           /* the writer's slot */
    uint32_t front;          /* the readers', under the lock */
    pthread_mutex_t readers;
};

/* All zero until the first write. */
static inline sl_status sl_latest_init(struct sl_latest *l, size_t bytes)
{
    l->bytes = bytes;
    l->slots = calloc(3, bytes);
    atomic_init(&l->middle, 1);
    l->back = 2;
    l->front = 0;
    pthread_mutex_init(&l->readers, NULL);
    return l->slots ? SL_OK : SL_E_NOMEM;
}

static inline void sl_latest_fini(struct sl_latest *l)
{
    free(l->slots);
    pthread_mutex_destroy(&l->readers);
}

/* The writer: `bytes` of value. */
static inline void sl_latest_write(struct sl_latest *l, const void *value)
{
    memcpy(l->slots + l->back * l->bytes, value, l->bytes);
    l->back = atomic_exchange_explicit(&l->middle, l->back | SL_LATEST_FRESH, memory_order_acq_rel) &
              ~(uint32_t)SL_LATEST_FRESH;
}

/* Any thread. */
static inline void sl_latest_read(struct sl_latest *l, void *value)
{
    pthread_mutex_lock(&l->readers);
    if (atomic_load_explicit(&l->middle, memory_order_relaxed) & SL_LATEST_FRESH)
        l->front =
            atomic_exchange_explicit(&l->middle, l->front, memory_order_acq_rel) & ~(uint32_t)SL_LATEST_FRESH;
    memcpy(value, l->slots + l->front * l->bytes, l->bytes);
    pthread_mutex_unlock(&l->readers);
}

#endif
