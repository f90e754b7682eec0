/* See admin_http_crowd.h. libmicrohttpd has a limit on connections and a time limit that starts anew with every byte: 64
 * connections that say nothing, or a byte a second, kept every probe out. So we accept ourselves, with the oldest idle
 * connection closed for a newcomer, and a time for the whole of a request.
 *
 * A descriptor is the daemon's once it has it, and it closes it. To end a connection we shut its socket down, which the daemon
 * sees; that is safe only between the daemon's two notices, STARTED and CLOSED (which comes before it closes), under our lock. */
#include "node/edge/admin_http_crowd.h"
#include "base/clock.h"
#include "node/rpc/listen.h"
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

enum { TURN_MS = 500, REST_MS = 10 };

struct guest {
    int fd;          /* -1: free */
    bool started;    /* the daemon has it */
    bool in_request; /* its headers are here, its answer has not left */
    bool has_asked;
    bool told; /* its socket is shut down */
    uint64_t since_ms;
};

struct sl_crowd {
    struct sl_listener listener;
    struct MHD_Daemon *daemon;
    int wake;
    bool running;
    pthread_t thread;
    pthread_mutex_t lock; /* between our thread and the daemon's: the guests */
    struct guest guests[SL_CROWD_CONNECTIONS + SL_CROWD_EXTRA];
};

static uint64_t clock_ms(void)
{
    return sl_clock_ns() / 1000000;
}

static struct guest *find(struct sl_crowd *crowd, int fd)
{
    for (size_t i = 0; i < sizeof crowd->guests / sizeof *crowd->guests; i++)
        if (crowd->guests[i].fd == fd)
            return &crowd->guests[i];
    return NULL;
}

static struct guest *guest_of(struct sl_crowd *crowd, struct MHD_Connection *connection)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    return info ? find(crowd, info->connect_fd) : NULL;
}

void sl_crowd_on_connection(void *context, struct MHD_Connection *connection, void **socket_context,
                            enum MHD_ConnectionNotificationCode code)
{
    struct sl_crowd *crowd = context;
    (void)socket_context;
    pthread_mutex_lock(&crowd->lock);
    struct guest *guest = guest_of(crowd, connection);
    if (guest && code == MHD_CONNECTION_NOTIFY_STARTED)
        guest->started = true;
    else if (guest)
        guest->fd = -1;
    pthread_mutex_unlock(&crowd->lock);
}

void sl_crowd_on_completed(void *context, struct MHD_Connection *connection, void **request_context,
                           enum MHD_RequestTerminationCode code)
{
    struct sl_crowd *crowd = context;
    (void)request_context, (void)code;
    pthread_mutex_lock(&crowd->lock);
    struct guest *guest = guest_of(crowd, connection);
    if (guest) {
        guest->in_request = false;
        guest->since_ms = clock_ms();
    }
    pthread_mutex_unlock(&crowd->lock);
}

void sl_crowd_asked(struct sl_crowd *crowd, struct MHD_Connection *connection)
{
    pthread_mutex_lock(&crowd->lock);
    struct guest *guest = guest_of(crowd, connection);
    if (guest) {
        guest->in_request = guest->has_asked = true;
        guest->since_ms = clock_ms();
    }
    pthread_mutex_unlock(&crowd->lock);
}

/* ---- with the lock, on our thread ---- */

static void tell_to_go(struct guest *guest)
{
    guest->told = true;
    shutdown(guest->fd, SHUT_RDWR);
}

static void end_the_late(struct sl_crowd *crowd)
{
    uint64_t now = clock_ms();
    for (size_t i = 0; i < sizeof crowd->guests / sizeof *crowd->guests; i++) {
        struct guest *guest = &crowd->guests[i];
        uint64_t most =
            guest->has_asked && !guest->in_request ? (uint64_t)SL_CROWD_KEEP_MS : SL_CROWD_REQUEST_MS;
        if (guest->fd >= 0 && now > guest->since_ms + most) {
            if (guest->started && !guest->told)
                tell_to_go(guest);
            else if (!guest->started) /* the daemon never took it: the number is not ours any more */
                guest->fd = -1;
        }
    }
}

/* Whoever waits for its answer stays if anybody else can go; of the others the one that has been quiet longest. */
static struct guest *oldest(struct sl_crowd *crowd, bool in_request)
{
    struct guest *it = NULL;
    for (size_t i = 0; i < sizeof crowd->guests / sizeof *crowd->guests; i++) {
        struct guest *guest = &crowd->guests[i];
        if (guest->fd >= 0 && guest->started && !guest->told && guest->in_request == in_request &&
            (!it || guest->since_ms < it->since_ms))
            it = guest;
    }
    return it;
}

static struct guest *make_place(struct sl_crowd *crowd, int fd)
{
    size_t staying = 0;
    struct guest *place = find(crowd, fd); /* an old number of a connection that has ended */
    for (size_t i = 0; i < sizeof crowd->guests / sizeof *crowd->guests; i++) {
        staying += crowd->guests[i].fd >= 0 && !crowd->guests[i].told;
        if (!place && crowd->guests[i].fd < 0)
            place = &crowd->guests[i];
    }
    if (staying >= SL_CROWD_CONNECTIONS) {
        struct guest *out = oldest(crowd, false);
        out = out ? out : oldest(crowd, true);
        if (out)
            tell_to_go(out);
    }
    return place;
}

static void take_in(struct sl_crowd *crowd, int fd)
{
    struct sockaddr_storage name;
    socklen_t bytes = sizeof name;
    pthread_mutex_lock(&crowd->lock);
    struct guest *guest = make_place(crowd, fd);
    if (guest)
        *guest = (struct guest){.fd = fd, .since_ms = clock_ms()};
    pthread_mutex_unlock(&crowd->lock);
    if (!guest || getpeername(fd, (struct sockaddr *)&name, &bytes) != 0) {
        pthread_mutex_lock(&crowd->lock);
        if (guest)
            guest->fd = -1;
        pthread_mutex_unlock(&crowd->lock);
        close(fd);
        return;
    }
    (void)MHD_add_connection(crowd->daemon, fd, (struct sockaddr *)&name, bytes); /* closes it if it must */
}

/* Those that were told to go leave when the daemon gets to them: until then a newcomer waits in the backlog, where a probe is
 * late and not lost. */
static bool has_place(struct sl_crowd *crowd)
{
    pthread_mutex_lock(&crowd->lock);
    bool has = find(crowd, -1) != NULL;
    pthread_mutex_unlock(&crowd->lock);
    return has;
}

static bool accept_all(struct sl_crowd *crowd, uint32_t which)
{
    for (int i = 0; i < SL_CROWD_CONNECTIONS; i++) {
        int fd;
        if (!has_place(crowd))
            return false;
        switch (sl_listener_accept(&crowd->listener, which, &fd)) {
        case SL_ACCEPTED:
            take_in(crowd, fd);
            break;
        case SL_ACCEPT_SHUT:
            break;
        case SL_ACCEPT_NOTHING:
            return true;
        case SL_ACCEPT_EXHAUSTED:
            return false;
        }
    }
    return true;
}

static void *crowd_main(void *argument)
{
    struct sl_crowd *crowd = argument;
    struct pollfd polled[1 + SL_LISTEN_SOCKETS] = {{.fd = crowd->wake, .events = POLLIN}};
    uint32_t n = crowd->listener.n;
    bool good = true;
    for (uint32_t i = 0; i < n; i++)
        polled[1 + i] = (struct pollfd){.fd = crowd->listener.fds[i], .events = POLLIN};
    for (;;) {
        /* without descriptors the listener would be reported again and again */
        poll(polled, good ? 1 + n : 1, good ? TURN_MS : REST_MS);
        if (polled[0].revents)
            return NULL;
        bool rested = !good;
        good = true;
        for (uint32_t i = 0; i < n; i++)
            if (rested || polled[1 + i].revents)
                good &= accept_all(crowd, i);
        pthread_mutex_lock(&crowd->lock);
        end_the_late(crowd);
        pthread_mutex_unlock(&crowd->lock);
    }
}

sl_status sl_crowd_open(struct sl_crowd **out, const char *listen, struct sl_err *err)
{
    struct sl_crowd *crowd = calloc(1, sizeof *crowd);
    if (!crowd)
        return sl_fail(err, SL_E_NOMEM, "out of memory for the ops listener on %s", listen);
    for (size_t i = 0; i < sizeof crowd->guests / sizeof *crowd->guests; i++)
        crowd->guests[i].fd = -1;
    pthread_mutex_init(&crowd->lock, NULL);
    crowd->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    sl_status status =
        crowd->wake < 0 ? sl_fail(err, SL_E_UNAVAILABLE, "cannot listen on %s: %s", listen, strerror(errno))
                        : sl_listener_open(&crowd->listener, listen, err);
    if (status != SL_OK) {
        if (crowd->wake < 0)
            crowd->listener.spare = -1;
        sl_crowd_close(crowd);
        return status;
    }
    *out = crowd;
    return SL_OK;
}

int sl_crowd_port(const struct sl_crowd *crowd)
{
    return crowd->listener.port;
}

sl_status sl_crowd_start(struct sl_crowd *crowd, struct MHD_Daemon *daemon, struct sl_err *err)
{
    crowd->daemon = daemon;
    if (pthread_create(&crowd->thread, NULL, crowd_main, crowd) != 0)
        return sl_fail(err, SL_E_UNAVAILABLE,
                       "cannot start a thread for ops HTTP: raise the limit on threads");
    pthread_setname_np(crowd->thread, "sl-ops-door");
    crowd->running = true;
    return SL_OK;
}

void sl_crowd_stop(struct sl_crowd *crowd)
{
    uint64_t one = 1;
    if (!crowd->running)
        return;
    (void)!write(crowd->wake, &one, sizeof one);
    pthread_join(crowd->thread, NULL);
    crowd->running = false;
}

void sl_crowd_close(struct sl_crowd *crowd)
{
    if (!crowd)
        return;
    sl_listener_close(&crowd->listener);
    if (crowd->wake >= 0)
        close(crowd->wake);
    pthread_mutex_destroy(&crowd->lock);
    free(crowd);
}
