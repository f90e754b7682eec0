/* A connection that is only tried (port_probe.h). */
#include "node/coordinator/port_probe.h"
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

void sl_port_probe_end(struct sl_port_probe *probe)
{
    if (probe->fd >= 0)
        close(probe->fd);
    probe->fd = -1;
}

bool sl_port_probe_begin(struct sl_port_probe *probe, const char *host, uint16_t port)
{
    struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM},
                    *found = NULL;
    char service[8];
    sl_port_probe_end(probe);
    snprintf(service, sizeof service, "%u", port);
    if (getaddrinfo(host, service, &hints, &found) != 0)
        return false;
    bool refused = false;
    probe->fd = socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (probe->fd >= 0 && connect(probe->fd, found->ai_addr, found->ai_addrlen) != 0 &&
        errno != EINPROGRESS) {
        refused = errno == ECONNREFUSED;
        sl_port_probe_end(probe);
    }
    freeaddrinfo(found);
    return refused;
}

bool sl_port_probe_refused(struct sl_port_probe *probe)
{
    struct pollfd fd = {.fd = probe->fd, .events = POLLOUT};
    int error = 0;
    socklen_t bytes = sizeof error;
    if (probe->fd < 0 || poll(&fd, 1, 0) <= 0)
        return false;
    getsockopt(probe->fd, SOL_SOCKET, SO_ERROR, &error, &bytes);
    sl_port_probe_end(probe);
    return error == ECONNREFUSED;
}
