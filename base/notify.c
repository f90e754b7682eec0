/* sd_notify's protocol without its library, which is a dependency of 1 MB for a sendto. The thread of the watch does not ask the
 * loop how it is, it looks at a counter that the loop steps: a loop that hangs in whatever call answers nothing. */
#include "base/notify.h"
#include "base/clock.h"
#include "base/log.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

enum { LINES_BYTES = 1024, SEND_S = 1, LEAST_PERIOD_US = 1000 };

static _Atomic uint64_t turns; /* of the one role that this process has */

static struct {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t ended;
    bool runs, end;
    uint64_t period_us;
    void (*wake)(void *user);
    void *user;
} watch;

void sl_notify_turn(void)
{
    atomic_fetch_add_explicit(&turns, 1, memory_order_relaxed);
}

/* "/run/systemd/notify", or "@name" in the abstract namespace, where the first byte is 0 and there is none at the end. */
static socklen_t address_of(struct sockaddr_un *address, const char *name)
{
    size_t bytes = strlen(name);
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    if ((name[0] != '/' && name[0] != '@') || bytes < 2 || bytes >= sizeof address->sun_path)
        return 0;
    memcpy(address->sun_path, name, bytes);
    if (name[0] == '@')
        address->sun_path[0] = 0;
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + bytes + (name[0] == '/'));
}

void sl_notify(const char *lines, ...)
{
    const char *name = getenv("NOTIFY_SOCKET");
    struct sockaddr_un address;
    char text[LINES_BYTES];
    struct timeval patience = {SEND_S, 0};
    va_list arguments;
    if (!name || !name[0])
        return;
    va_start(arguments, lines);
    vsnprintf(text, sizeof text, lines, arguments);
    va_end(arguments);
    socklen_t bytes = address_of(&address, name);
    int fd = bytes ? socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0) : -1;
    if (fd < 0)
        return;
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (sendto(fd, text, strlen(text), MSG_NOSIGNAL, (const struct sockaddr *)&address, bytes) < 0)
        sl_log_debug("the supervisor at NOTIFY_SOCKET takes no message");
    close(fd);
}

static void *watch_thread(void *unused)
{
    uint64_t seen = atomic_load(&turns);
    (void)unused;
    pthread_mutex_lock(&watch.lock);
    while (!watch.end) {
        uint64_t until_ns = sl_clock_ns() + watch.period_us * 1000u;
        watch.wake(watch.user);
        while (!watch.end && sl_clock_ns() < until_ns) {
            struct timespec at = {(time_t)(until_ns / 1000000000u), (long)(until_ns % 1000000000u)};
            pthread_cond_timedwait(&watch.ended, &watch.lock, &at);
        }
        uint64_t now = atomic_load(&turns);
        if (!watch.end && now != seen)
            sl_notify("WATCHDOG=1");
        seen = now;
    }
    pthread_mutex_unlock(&watch.lock);
    return NULL;
}

/* How often a sign is wanted, halved; 0: it is not, or not of this process. */
static uint64_t wanted_period_us(void)
{
    const char *every = getenv("WATCHDOG_USEC"), *pid = getenv("WATCHDOG_PID");
    unsigned long long us = every ? strtoull(every, NULL, 10) : 0;
    if (us == 0 || us > UINT64_MAX / 4000 || (pid && strtoll(pid, NULL, 10) != getpid()))
        return 0;
    return us / 2 > LEAST_PERIOD_US ? us / 2 : LEAST_PERIOD_US;
}

void sl_notify_watch(void (*wake)(void *user), void *user)
{
    watch.period_us = wanted_period_us();
    if (watch.period_us == 0 || watch.runs)
        return;
    watch.wake = wake;
    watch.user = user;
    watch.end = false;
    pthread_mutex_init(&watch.lock, NULL);
    sl_clock_cond_init(&watch.ended);
    watch.runs = pthread_create(&watch.thread, NULL, watch_thread, NULL) == 0;
    if (watch.runs)
        pthread_setname_np(watch.thread, "sl-watch");
    else
        sl_log_error("no thread for the watchdog: the supervisor will take this node for dead");
}

void sl_notify_unwatch(void)
{
    if (!watch.runs)
        return;
    pthread_mutex_lock(&watch.lock);
    watch.end = true;
    pthread_cond_signal(&watch.ended);
    pthread_mutex_unlock(&watch.lock);
    pthread_join(watch.thread, NULL);
    pthread_cond_destroy(&watch.ended);
    pthread_mutex_destroy(&watch.lock);
    watch.runs = false;
}
