/* The logger of log.h: a line is built in a buffer on the stack and leaves in one write(2), so that the lines of
 * several threads and of several processes on one terminal do not tear. */
#include "base/log.h"
#include "base/clock.h"
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct {
    pthread_mutex_t lock; /* role: set by main, read by any thread that logs */
    char role[48];
    _Atomic int level;
    _Atomic int terminal; /* -1: not asked yet */
} the_log = {PTHREAD_MUTEX_INITIALIZER, "sluice", SL_LOG_INFO, -1};

static const char *const level_names[] = {"error", "warn", "info", "debug"};

void sl_log_set_role(const char *role)
{
    pthread_mutex_lock(&the_log.lock);
    snprintf(the_log.role, sizeof the_log.role, "%s", role);
    pthread_mutex_unlock(&the_log.lock);
}

enum sl_log_level sl_log_level_from_name(const char *name, enum sl_log_level otherwise)
{
    for (int i = 0; name && i < 4; i++)
        if (strcmp(name, level_names[i]) == 0)
            return (enum sl_log_level)i;
    return otherwise;
}

void sl_log_init(const char *role, enum sl_log_level level)
{
    sl_log_set_role(role);
    atomic_store(&the_log.level, sl_log_level_from_name(getenv("SLUICE_LOG"), level));
    atomic_store(&the_log.terminal, isatty(STDERR_FILENO) ? 1 : 0);
}

/* JSON string contents: quotes, backslashes and control characters escaped. */
static size_t escape(char *out, size_t room, const char *in)
{
    size_t n = 0;
    for (; *in && n + 7 < room; in++) {
        unsigned char ch = (unsigned char)*in;
        if (ch == '"' || ch == '\\') {
            out[n++] = '\\';
            out[n++] = (char)ch;
        } else if (ch < 0x20) {
            n += (size_t)snprintf(out + n, 7, "\\u%04x", ch);
        } else {
            out[n++] = (char)ch;
        }
    }
    out[n] = 0;
    return n;
}

bool sl_log_may(struct sl_log_seldom *seldom, uint64_t now_ns, uint32_t *left_out)
{
    uint64_t next_ns = atomic_load(&seldom->next_ns);
    bool may =
        now_ns >= next_ns && atomic_compare_exchange_strong(&seldom->next_ns, &next_ns,
                                                            now_ns + SL_LOG_SELDOM_MS * UINT64_C(1000000));
    *left_out = may ? atomic_exchange(&seldom->left_out, 0) : atomic_fetch_add(&seldom->left_out, 1) + 1;
    return may;
}

bool sl_log_is_taken(void)
{
    struct pollfd out = {.fd = STDERR_FILENO, .events = POLLOUT};
    return poll(&out, 1, 0) !=
           0; /* of a pipe: it has room for more than a line; an error is no reason to wait */
}

/* What a peer has written must not steer the terminal. */
static void blunt(char *message)
{
    for (char *c = message; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = '?';
}

void sl_log(enum sl_log_level level, const char *format, ...)
{
    if ((int)level > atomic_load_explicit(&the_log.level, memory_order_relaxed))
        return;
    char message[1024], line[2600], stamp[32], role[48];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    pthread_mutex_lock(&the_log.lock);
    memcpy(role, the_log.role, sizeof role);
    pthread_mutex_unlock(&the_log.lock);
    if (atomic_load(&the_log.terminal) < 0)
        atomic_store(&the_log.terminal, isatty(STDERR_FILENO) ? 1 : 0);

    uint64_t us = sl_clock_wall_us();
    time_t seconds = (time_t)(us / 1000000u);
    struct tm utc;
    gmtime_r(&seconds, &utc);
    int n;
    if (atomic_load(&the_log.terminal)) {
        static const char *const marks[] = {"\033[31merror\033[0m ", "\033[33mwarn\033[0m ", "",
                                            "\033[2mdebug\033[0m "};
        strftime(stamp, sizeof stamp, "%H:%M:%S", &utc);
        blunt(message);
        n = snprintf(line, sizeof line, "\033[2m%s.%03u\033[0m \033[36m%s\033[0m %s%s\n", stamp,
                     (unsigned)(us / 1000u % 1000u), role, marks[level], message);
    } else {
        char escaped[2200];
        escape(escaped, sizeof escaped, message);
        strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", &utc);
        n = snprintf(line, sizeof line,
                     "{\"time\":\"%s.%06uZ\",\"level\":\"%s\",\"role\":\"%s\",\"message\":\"%s\"}\n", stamp,
                     (unsigned)(us % 1000000u), level_names[level], role, escaped);
    }
    if (n > (int)sizeof line - 1)
        n = (int)sizeof line - 1;
    ssize_t ignored = write(STDERR_FILENO, line, (size_t)n);
    (void)ignored; /* nowhere left to complain to */
}
