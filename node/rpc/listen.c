/* Listen addresses: parsing, resolving, binding.
 *
 * gRPC's core answers a refused port with 0 and lines of its own, and by default lets two servers
 * share a port in silence. So the address is tried here first, where errno still says what is wrong
 * and the sentence can name the remedy. */
#include "node/rpc/listen.h"
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
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
        return sl_fail(err, SL_E_CONFIG,
                       "\"%.100s\" is not a listen address: write HOST:PORT, as in 127.0.0.1:50051", address);
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

static int bind_one(const struct addrinfo *info, int *error)
{
    int fd = socket(info->ai_family, info->ai_socktype | SOCK_CLOEXEC, info->ai_protocol);
    if (fd < 0) {
        *error = errno;
        return -1;
    }
    int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, info->ai_addr, info->ai_addrlen) == 0 && listen(fd, 128) == 0)
        return fd;
    *error = errno;
    close(fd);
    return -1;
}

sl_status sl_listen_open(const char *address, int *fd, int *port, struct sl_err *err)
{
    char host[SL_HOST_BYTES], service[8];
    uint16_t number;
    SL_TRY(sl_listen_parse(address, host, &number, err));
    snprintf(service, sizeof service, "%u", number);
    struct addrinfo hints, *list = NULL;
    memset(&hints, 0, sizeof hints);
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
    int rc = getaddrinfo(host, service, &hints, &list);
    if (rc != 0)
        return sl_fail(err, SL_E_UNAVAILABLE, "cannot listen on %s: the name does not resolve (%s)", address,
                       gai_strerror(rc));
    int error = 0, bound = -1;
    for (const struct addrinfo *info = list; info && bound < 0; info = info->ai_next)
        bound = bind_one(info, &error);
    freeaddrinfo(list);
    if (bound < 0)
        return sl_fail(err, SL_E_UNAVAILABLE, "cannot listen on %s: %s", address, reason_of(error));
    struct sockaddr_storage name;
    socklen_t bytes = sizeof name;
    if (getsockname(bound, (struct sockaddr *)&name, &bytes) != 0) {
        close(bound);
        return sl_fail(err, SL_E_IO, "cannot read the port of %s: %s", address, strerror(errno));
    }
    /* The port lies at the same place for both families. */
    *port = ntohs(((const struct sockaddr_in *)(const void *)&name)->sin_port);
    *fd = bound;
    return SL_OK;
}
