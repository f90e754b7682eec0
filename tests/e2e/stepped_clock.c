/* A wall clock that can be stepped while a program runs: loaded before libc (LD_PRELOAD), it adds the seconds that stand in the
 * file STEPPED_CLOCK to whatever the program reads of CLOCK_REALTIME, and what waits until a time of day waits by the stepped
 * one. The monotonic clock is left alone, as the kernel leaves it alone. Waits are cut into slices, so that a step is seen by
 * who sleeps already. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { SLICE_NS = 50000000 };

static _Atomic int64_t *step_s; /* NULL: not stepped */

__attribute__((constructor)) static void map_step(void)
{
    const char *path = getenv("STEPPED_CLOCK");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *page = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *step_s, PROT_READ, MAP_SHARED, fd, 0);
    if (fd >= 0)
        close(fd);
    step_s = page == MAP_FAILED ? NULL : page;
}

static int is_wall(clockid_t clock)
{
    return clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE;
}

static int64_t true_ns(void)
{
    struct timespec t;
    syscall(SYS_clock_gettime, CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int64_t step_ns(void)
{
    return step_s ? atomic_load(step_s) * 1000000000 : 0;
}

int clock_gettime(clockid_t clock, struct timespec *t)
{
    static int (*next)(clockid_t, struct timespec *);
    if (!next)
        next = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int status = next(clock, t);
    if (status == 0 && is_wall(clock))
        t->tv_sec += step_ns() / 1000000000;
    return status;
}

int gettimeofday(struct timeval *restrict t, void *restrict zone)
{
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    *t = (struct timeval){now.tv_sec, now.tv_nsec / 1000};
    return 0;
}

time_t time(time_t *out)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out)
        *out = now.tv_sec;
    return now.tv_sec;
}

int timespec_get(struct timespec *t, int base)
{
    return base == TIME_UTC && clock_gettime(CLOCK_REALTIME, t) == 0 ? base : 0;
}

/* The true time at which a wait until a stepped one looks again; 0: the stepped time is over. */
static struct timespec slice_until(const struct timespec *stepped, int *over)
{
    int64_t now = true_ns(),
            left = (int64_t)stepped->tv_sec * 1000000000 + stepped->tv_nsec - (now + step_ns());
    *over = left <= 0;
    int64_t until = now + (left < SLICE_NS ? left : SLICE_NS);
    return (struct timespec){until / 1000000000, until % 1000000000};
}

int pthread_cond_timedwait(pthread_cond_t *restrict cond, pthread_mutex_t *restrict lock,
                           const struct timespec *restrict until)
{
    static int (*next)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
    if (!next)
        next = (int (*)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *))dlsym(
            RTLD_NEXT, "pthread_cond_timedwait");
    if (cond->__data.__wrefs & 2) /* glibc's mark of a condition on the monotonic clock */
        return next(cond, lock, until);
    int over;
    struct timespec slice = slice_until(until, &over);
    int status = next(cond, lock, &slice);
    return status == ETIMEDOUT && !over ? 0 : status; /* a wait may end early */
}

int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict until)
{
    static int (*next)(sem_t *, const struct timespec *);
    if (!next)
        next = (int (*)(sem_t *, const struct timespec *))dlsym(RTLD_NEXT, "sem_timedwait");
    for (;;) {
        int over;
        struct timespec slice = slice_until(until, &over);
        if (next(semaphore, &slice) == 0)
            return 0;
        if (errno != ETIMEDOUT || over)
            return -1;
    }
}

/* gRPC's conditions are futexes that wait until a time of day. */
long syscall(long number, ...)
{
    static long (*next)(long, ...);
    if (!next)
        next = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    va_list list;
    long a[6];
    va_start(list, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(list, long);
    va_end(list);
    int waits = number == SYS_futex && ((int)a[1] & FUTEX_CLOCK_REALTIME) &&
                ((int)a[1] & FUTEX_CMD_MASK) == FUTEX_WAIT_BITSET && a[3];
    while (waits) {
        int over;
        struct timespec slice = slice_until((const struct timespec *)a[3], &over);
        long status = next(number, a[0], a[1], a[2], &slice, a[4], a[5]);
        if (status == 0 || errno != ETIMEDOUT || over)
            return status;
    }
    return next(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
