/* Wakes a thread that sleeps in poll(2), and costs no system call when it does not sleep.
 *
 * The sleeper, one thread, in this order: sl_bell_doze; look once more for what it waits for; only if there is nothing,
 * poll on `fd` (alone or among others); sl_bell_hush. Whoever has something for it, any thread: put it where the sleeper
 * looks, then sl_bell_ring. No ring is lost; a wake-up for nothing can happen. */
#ifndef SL_BASE_BELL_H
#define SL_BASE_BELL_H

#include "base/status.h"
#include <stdatomic.h>

struct sl_bell {
    int fd; /* readable when rung; an eventfd, non-blocking */
    _Atomic int asleep;
};

sl_status sl_bell_init(struct sl_bell *bell); /* SL_E_IO: no descriptor is left; fd is -1 then */
void sl_bell_fini(struct sl_bell *bell);      /* twice, or with fd -1, does nothing */
void sl_bell_ring(struct sl_bell *bell);
void sl_bell_doze(struct sl_bell *bell);
void sl_bell_hush(struct sl_bell *bell);

#endif
