/* Bringing gRPC's C core up and down, and translating its world: log lines and status codes.
 *
 * The core's threads inherit the signal mask of whoever makes them, so SIGTERM, SIGINT and SIGHUP are
 * blocked around every call that may start one; the process's main thread alone waits for signals.
 * One client can make the core log a line per broken handshake: the lines are routed to our log
 * with a limit, and those about TLS, which only our clients do in the core, left out. And the soft limit on open files is raised to the hard one before the first listener
 * exists: it is what the door shares out (door.h). */
#include "base/clock.h"
#include "base/log.h"
#include "node/rpc/rpc_impl.h"
#include <grpc/support/log.h>
#include <string.h>
#include <sys/resource.h>

enum { LOG_LINES = 8, LOG_WINDOW_US = 10 * 1000 * 1000 };

static pthread_mutex_t init_lock = PTHREAD_MUTEX_INITIALIZER;
static uint32_t init_count;

static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t log_window_us;
static uint32_t log_lines, log_dropped;
static _Thread_local bool log_quiet;

/* A client of TLS has one sentence for what failed (tls_explain.c); these are what the core says of it, line by line. */
static bool is_about_tls(const char *line)
{
    static const char *const said[] = {
        "Corruption detected", "SSL routines",      "SSL_", "TSI_", "Handshake failed",
        "handshaker",          "Security handshake"};
    for (size_t i = 0; i < sizeof said / sizeof *said; i++)
        if (strstr(line, said[i]))
            return true;
    return false;
}

static void core_log(gpr_log_func_args *args)
{
    if (log_quiet || is_about_tls(args->message))
        return;
    uint64_t now = sl_clock_ns() / 1000;
    pthread_mutex_lock(&log_lock);
    uint32_t dropped = 0;
    if (log_window_us == 0 || now - log_window_us > LOG_WINDOW_US) {
        dropped = log_dropped;
        log_window_us = now;
        log_lines = log_dropped = 0;
    }
    bool drop = log_lines >= LOG_LINES;
    if (drop)
        log_dropped++;
    else
        log_lines++;
    pthread_mutex_unlock(&log_lock);
    if (dropped)
        sl_log_warn("grpc: %u more lines like the last ones were dropped", dropped);
    if (!drop)
        sl_log_warn("grpc: %s", args->message);
}

static void raise_file_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == limit.rlim_max)
        return;
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
        sl_log_warn("the limit on open files stays low: raise it with ulimit -n");
}

void sl_rpc_init(void)
{
    pthread_mutex_lock(&init_lock);
    if (init_count++ == 0) {
        sigset_t before;
        raise_file_limit();
        gpr_set_log_function(core_log);
        sl_rpc_signals_block(&before);
        grpc_init();
        sl_rpc_signals_restore(&before);
    }
    pthread_mutex_unlock(&init_lock);
}

void sl_rpc_fini(void)
{
    pthread_mutex_lock(&init_lock);
    if (init_count > 0 && --init_count == 0)
        grpc_shutdown();
    pthread_mutex_unlock(&init_lock);
}

void sl_rpc_signals_block(sigset_t *before)
{
    sigset_t blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGTERM);
    sigaddset(&blocked, SIGINT);
    sigaddset(&blocked, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &blocked, before);
}

void sl_rpc_signals_restore(const sigset_t *before)
{
    pthread_sigmask(SIG_SETMASK, before, NULL);
}

void sl_rpc_log_quiet(bool quiet)
{
    log_quiet = quiet;
}

grpc_arg sl_rpc_arg(const char *key, int value)
{
    grpc_arg arg;
    memset(&arg, 0, sizeof arg);
    arg.type = GRPC_ARG_INTEGER;
    arg.key = (char *)(uintptr_t)key; /* the core copies it; its struct only forgot the const */
    arg.value.integer = value;
    return arg;
}

grpc_status_code sl_rpc_code(sl_status status)
{
    switch (status) {
    case SL_OK:
        return GRPC_STATUS_OK;
    case SL_E_CORRUPT:
        return GRPC_STATUS_DATA_LOSS;
    case SL_E_INVALID:
    case SL_E_USAGE:
        return GRPC_STATUS_INVALID_ARGUMENT;
    case SL_E_NOT_FOUND:
        return GRPC_STATUS_NOT_FOUND;
    case SL_E_EXISTS:
        return GRPC_STATUS_ALREADY_EXISTS;
    case SL_AGAIN:
    case SL_E_EXHAUSTED:
    case SL_E_NOMEM:
        return GRPC_STATUS_RESOURCE_EXHAUSTED;
    case SL_E_CANCELLED:
        return GRPC_STATUS_CANCELLED;
    case SL_E_DEADLINE:
        return GRPC_STATUS_DEADLINE_EXCEEDED;
    case SL_E_UNIMPLEMENTED:
        return GRPC_STATUS_UNIMPLEMENTED;
    case SL_E_PEER_LOST:
    case SL_E_UNAVAILABLE:
        return GRPC_STATUS_UNAVAILABLE;
    case SL_E_REFUSED:
    case SL_E_CONFIG:
        return GRPC_STATUS_FAILED_PRECONDITION;
    case SL_E_DENIED:
        return GRPC_STATUS_PERMISSION_DENIED;
    case SL_E_PROTOCOL:
    case SL_E_DATA:
    case SL_E_IO:
    case SL_E_INTERNAL:
        return GRPC_STATUS_INTERNAL;
    }
    return GRPC_STATUS_UNKNOWN;
}

sl_status sl_rpc_status(grpc_status_code code)
{
    switch (code) {
    case GRPC_STATUS_OK:
        return SL_OK;
    case GRPC_STATUS_CANCELLED:
        return SL_E_CANCELLED;
    case GRPC_STATUS_INVALID_ARGUMENT:
    case GRPC_STATUS_OUT_OF_RANGE:
        return SL_E_INVALID;
    case GRPC_STATUS_DEADLINE_EXCEEDED:
        return SL_E_DEADLINE;
    case GRPC_STATUS_NOT_FOUND:
        return SL_E_NOT_FOUND;
    case GRPC_STATUS_ALREADY_EXISTS:
        return SL_E_EXISTS;
    case GRPC_STATUS_RESOURCE_EXHAUSTED:
        return SL_E_EXHAUSTED;
    case GRPC_STATUS_PERMISSION_DENIED:
    case GRPC_STATUS_UNAUTHENTICATED:
        return SL_E_DENIED;
    case GRPC_STATUS_FAILED_PRECONDITION:
        return SL_E_REFUSED;
    case GRPC_STATUS_UNIMPLEMENTED:
        return SL_E_UNIMPLEMENTED;
    case GRPC_STATUS_UNAVAILABLE:
        return SL_E_UNAVAILABLE;
    case GRPC_STATUS_DATA_LOSS:
        return SL_E_CORRUPT;
    default:
        return SL_E_INTERNAL;
    }
}
