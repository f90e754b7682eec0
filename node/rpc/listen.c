/* Listen addresses: parsing, resolving, binding, accepting.
 *
 * gRPC's core answers a refused port with 0 and lines of its own, lets two servers share a port in silence, and 1.51 never
 * accepts again once accept(2) has failed for want of descriptors. So we bind and accept ourselves: errno still says here what
 * is wrong, the sentence can name the remedy, and a shortage ends when it ends. */
#include "node/rpc/listen.h"
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

sl_status sl_listen_parse(const char *address, char host[SL_HOST_BYTES], uint16_t *port, struct sl_err *err)
{
    const char *colon = strrchr(address, ':');
    size_t host_bytes = colon ? (size_t)(colon - address) : 0;
    bool bracketed = host_bytes > 2 && address[0] == '[' && address[host_bytes - 1] == ']';
    if (bracketed)
        host_bytes -= 2;
    bool good = colon && host_bytes > 0 && host_bytes < SL_HOST_BYTES;
    for (size_t i = 0; good && !bracketed && i < host_bytes; i++)
        good = !strchr("[]:", address[i]); /* only brackets make colons part of a host */
    char *end = NULL;
    unsigned long number = 0;
    if (good && colon[1] >= '0' && colon[1] <= '9')
        number = strtoul(colon + 1, &end, 10);
    if (!good || !end || *end || number > UINT16_MAX)
        return sl_fail(
            err, SL_E_CONFIG,
            "\"%.100s\" is not a listen address: write HOST:PORT, as in 127.0.0.1:50051, [::1]:50051 or "
            "*:50051",
            address);
    memcpy(host, address + (bracketed ? 1 : 0), host_bytes);
    host[host_bytes] = 0;
    *port = (uint16_t)number;
    return SL_OK;
}

static const char *reason_of(int error)
{
    switch (error) {
    case EADDRINUSE:
        return "another program listens there; stop it or choose another port";
    case EADDRNOTAVAIL:
        return "this machine has no such address";
    case EACCES:
        return "ports below 1024 need a privilege; choose a higher one";
    default:
        return strerror(error);
    }
}

static void set_option(int fd, int level, int name, int value)
{
    (void)setsockopt(fd, level, name, &value, sizeof value); /* what it changes is a comfort */
}

static int bind_one(const struct addrinfo *info, int *error)
{
    int fd = socket(info->ai_family, info->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, info->ai_protocol);
    if (fd < 0) {
        *error = errno;
        return -1;
    }
    set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    if (info->ai_family == AF_INET6) { /* [::] takes IPv4 as well, whatever the machine's default is */
        const struct sockaddr_in6 *in6 = (const void *)info->ai_addr;
        set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, !IN6_IS_ADDR_UNSPECIFIED(&in6->sin6_addr));
    }
    /* A storm fills a short backlog and the kernel then drops the handshakes of others for seconds. */
    if (bind(fd, info->ai_addr, info->ai_addrlen) == 0 && listen(fd, 4096) == 0)
        return fd;
    *error = errno;
    close(fd);
    return -1;
}

static sl_status resolve(const char *address, const char *host, uint16_t port, struct addrinfo **list,
                         struct sl_err *err)
{
    char service[8];
    struct addrinfo hints;
    snprintf(service, sizeof service, "%u", port);
    memset(&hints, 0, sizeof hints);
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
    int rc = getaddrinfo(host, service, &hints, list);
    if (rc != 0)
        return sl_fail(err, SL_E_UNAVAILABLE, "cannot listen on %s: the name does not resolve (%s)", address,
                       gai_strerror(rc));
    return SL_OK;
}

static int port_of(int fd)
{
    struct sockaddr_storage name;
    socklen_t bytes = sizeof name;
    if (getsockname(fd, (struct sockaddr *)&name, &bytes) != 0)
        return 0;
    /* The port lies at the same place for both families. */
    return ntohs(((const struct sockaddr_in *)(const void *)&name)->sin_port);
}

/* Every address of the list; one that this machine lacks (::1 without IPv6) is passed over if another is there. */
static int bind_all(struct sl_listener *listener, struct addrinfo *list)
{
    int error = 0;
    for (struct addrinfo *info = list; info && listener->n < SL_LISTEN_SOCKETS; info = info->ai_next) {
        int why = 0;
        if (listener->port) /* port 0: the first one's */
            ((struct sockaddr_in *)(void *)info->ai_addr)->sin_port = htons((uint16_t)listener->port);
        int fd = bind_one(info, &why);
        if (fd >= 0) {
            listener->fds[listener->n++] = fd;
            listener->port = port_of(fd);
        } else if (why != EADDRNOTAVAIL && why != EAFNOSUPPORT) {
            return why;
        } else {
            error = why;
        }
    }
    return listener->n ? 0 : error;
}

static int open_spare(void)
{
    return open("/dev/null", O_RDONLY | O_CLOEXEC);
}

sl_status sl_listener_open(struct sl_listener *listener, const char *address, struct sl_err *err)
{
    char host[SL_HOST_BYTES];
    uint16_t port;
    struct addrinfo *list = NULL;
    *listener = (struct sl_listener){.spare = -1};
    SL_TRY(sl_listen_parse(address, host, &port, err));
    bool any = strcmp(host, "*") == 0;
    int error = EAFNOSUPPORT;
    for (int family = 0; family < (any ? 2 : 1) && error == EAFNOSUPPORT; family++) {
        SL_TRY(resolve(address, !any ? host : family == 0 ? "::" : "0.0.0.0", port, &list, err));
        error = bind_all(listener, list);
        freeaddrinfo(list);
    }
    if (error != 0 || listener->port == 0) {
        sl_listener_close(listener);
        return sl_fail(err, SL_E_UNAVAILABLE, "cannot listen on %s: %s", address, reason_of(error));
    }
    listener->spare = open_spare();
    return SL_OK;
}

void sl_listener_close(struct sl_listener *listener)
{
    for (uint32_t i = 0; i < listener->n; i++)
        close(listener->fds[i]);
    if (listener->spare >= 0)
        close(listener->spare);
    listener->n = 0;
    listener->spare = -1;
}

/* No descriptor is left. Who waits would be reported again and again, so one is let go of for as long as it takes to close
 * them: they learn at once that there is no place. */
static enum sl_accepted shut_one(struct sl_listener *listener, int socket)
{
    if (listener->spare < 0)
        return SL_ACCEPT_EXHAUSTED;
    close(listener->spare);
    int fd = accept4(socket, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0)
        close(fd);
    listener->spare = open_spare();
    return fd >= 0 ? SL_ACCEPT_SHUT : SL_ACCEPT_EXHAUSTED;
}

enum sl_accepted sl_listener_accept(struct sl_listener *listener, uint32_t which, int *fd)
{
    if (listener->spare < 0)
        listener->spare = open_spare();
    for (;;) {
        *fd = accept4(listener->fds[which], NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (*fd >= 0) {
            set_option(*fd, IPPROTO_TCP, TCP_NODELAY, 1);
            set_option(*fd, SOL_SOCKET, SO_KEEPALIVE,
                       1); /* a peer that lost its power keeps no place for ever */
            set_option(*fd, IPPROTO_TCP, TCP_KEEPIDLE, 60);
            set_option(*fd, IPPROTO_TCP, TCP_KEEPINTVL, 10);
            set_option(*fd, IPPROTO_TCP, TCP_KEEPCNT, 3);
            return SL_ACCEPTED;
        }
        switch (errno) {
        case EAGAIN:
            return SL_ACCEPT_NOTHING;
        case EMFILE:
        case ENFILE:
            return shut_one(listener, listener->fds[which]);
        case ENOBUFS:
        case ENOMEM:
        case EBADF:
        case EINVAL:
            return SL_ACCEPT_EXHAUSTED;
        default: /* EINTR, ECONNABORTED, and what accept(2) passes on of the network: it was that connection's */
            break;
        }
    }
}

void sl_listen_peer(int fd, char text[SL_PEER_BYTES])
{
    struct sockaddr_storage name;
    socklen_t bytes = sizeof name;
    char host[SL_PEER_BYTES - 10], service[8];
    strcpy(text, "?");
    if (getpeername(fd, (struct sockaddr *)&name, &bytes) != 0 ||
        getnameinfo((struct sockaddr *)&name, bytes, host, sizeof host, service, sizeof service,
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        return;
    snprintf(text, SL_PEER_BYTES, strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, service);
}

static bool is_loopback(const struct sockaddr *address)
{
    const struct sockaddr_in *in = (const void *)address;
    const struct sockaddr_in6 *in6 = (const void *)address;
    return address->sa_family == AF_INET
               ? ntohl(in->sin_addr.s_addr) >> 24 == 127
               : address->sa_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&in6->sin6_addr);
}

bool sl_listen_is_local(const char *address)
{
    char host[SL_HOST_BYTES];
    uint16_t port;
    struct addrinfo *list = NULL;
    struct sl_err err;
    if (sl_listen_parse(address, host, &port, &err) != SL_OK || strcmp(host, "*") == 0 ||
        resolve(address, host, port, &list, &err) != SL_OK)
        return false;
    bool local = true;
    for (const struct addrinfo *info = list; info; info = info->ai_next)
        local &= is_loopback(info->ai_addr);
    freeaddrinfo(list);
    return local;
}

sl_status sl_listen_reach(const char *address, char *out, size_t room, struct sl_err *err)
{
    char host[SL_HOST_BYTES];
    uint16_t port;
    struct addrinfo *list = NULL;
    SL_TRY(sl_listen_parse(address, host, &port, err));
    bool any = strcmp(host, "*") == 0;
    if (!any) {
        SL_TRY(resolve(address, host, port, &list, err));
        const struct sockaddr_in *in = (const void *)list->ai_addr;
        const struct sockaddr_in6 *in6 = (const void *)list->ai_addr;
        any = list->ai_family == AF_INET ? in->sin_addr.s_addr == INADDR_ANY
                                         : IN6_IS_ADDR_UNSPECIFIED(&in6->sin6_addr);
        freeaddrinfo(list);
    }
    if (any)
        snprintf(out, room, "127.0.0.1:%u", port);
    else
        snprintf(out, room, "%s", address);
    return SL_OK;
}
