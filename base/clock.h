/* Time as a value. The pure middle takes now_us as an argument; only edges call these. Whatever is waited for or measured is
 * measured on the monotonic clock: somebody may set the other one at any moment (the lint has the list of who may read it). */
#ifndef SL_BASE_CLOCK_H
#define SL_BASE_CLOCK_H

#include <pthread.h>
#include <stdint.h>
#include <time.h>

static inline uint64_t sl_clock_ns(void) /* monotonic */
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* What the calling thread has had of its processor: for benches, where a neighbour must not count. A system call. */
static inline uint64_t sl_clock_thread_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* What all threads of this process have had of theirs. */
static inline uint64_t sl_clock_process_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* What to wait until with pthread_cond_timedwait: timeout_ms from now. */
static inline struct timespec sl_clock_in_ms(uint64_t timeout_ms)
{
    uint64_t at_ns = sl_clock_ns() + timeout_ms * 1000000u;
    return (struct timespec){(time_t)(at_ns / 1000000000u), (long)(at_ns % 1000000000u)};
}

/* A condition whose timed waits are on this clock: POSIX's own default is the wall's. */
static inline void sl_clock_cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &monotonic);
    pthread_condattr_destroy(&monotonic);
}

/* Microseconds since 1970, to be printed or exported, never to be subtracted. */
static inline uint64_t sl_clock_wall_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

#endif
