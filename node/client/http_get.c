/* A GET over a socket of its own. HTTP/1.0, so that the server neither sends in chunks nor waits for another request: the
 * answer is whole when the connection ends, and has as many bytes as its Content-Length says. */
#include "node/client/http_get.h"
#include "base/clock.h"
#include "node/rpc/listen.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

/* One header line, "Name: value", compared without case. */
static bool read_length(const char *line, size_t bytes, size_t *length)
{
    static const char name[] = "content-length:";
    size_t at = sizeof name - 1;
    if (bytes <= at || strncasecmp(line, name, at) != 0)
        return false;
    while (at < bytes && (line[at] == ' ' || line[at] == '\t'))
        at++;
    *length = 0;
    for (; at < bytes && line[at] >= '0' && line[at] <= '9' && *length <= SL_HTTP_MAX_BYTES; at++)
        *length = *length * 10 + (size_t)(line[at] - '0');
    return true;
}

bool sl_http_read(const char *bytes, size_t n, int *status, size_t *body_at)
{
    if (n < 13 || memcmp(bytes, "HTTP/1.", 7) != 0 || bytes[8] != ' ')
        return false;
    *status = 0;
    for (size_t i = 9; i < 12; i++) {
        if (bytes[i] < '0' || bytes[i] > '9')
            return false;
        *status = *status * 10 + (bytes[i] - '0');
    }
    size_t length = 0, line = 0;
    bool has_length = false;
    for (;;) {
        const char *end = memchr(bytes + line, '\n', n - line);
        if (!end)
            return false;
        size_t line_bytes = (size_t)(end - bytes) - line;
        if (line_bytes > 0 && bytes[line + line_bytes - 1] == '\r')
            line_bytes--;
        has_length = read_length(bytes + line, line_bytes, &length) || has_length;
        line = (size_t)(end - bytes) + 1;
        if (line_bytes == 0)
            break;
    }
    *body_at = line;
    return !has_length || n - line == length;
}

/* Until the deadline; false: it is over, or the socket is not that. */
static bool wait_for(int fd, short events, uint64_t until_ns)
{
    struct pollfd poll_fd = {fd, events, 0};
    uint64_t now = sl_clock_ns();
    int left_ms = now < until_ns ? (int)((until_ns - now) / 1000000u) : 0;
    return poll(&poll_fd, 1, left_ms) > 0;
}

static int connect_one(const struct addrinfo *address, uint64_t until_ns)
{
    int fd =
        socket(address->ai_family, address->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, address->ai_protocol);
    int error = 0;
    socklen_t bytes = sizeof error;
    if (fd < 0)
        return -1;
    if (connect(fd, address->ai_addr, address->ai_addrlen) == 0)
        return fd;
    if (errno == EINPROGRESS) {
        errno = ETIMEDOUT;
        if (wait_for(fd, POLLOUT, until_ns) && getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &bytes) == 0) {
            if (error == 0)
                return fd;
            errno = error;
        }
    }
    error = errno;
    close(fd);
    errno = error;
    return -1;
}

static sl_status open_socket(int *fd, const char *address, uint64_t until_ns, struct sl_err *err)
{
    char host[SL_HOST_BYTES], port_text[8];
    uint16_t port;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
    SL_TRY(sl_listen_parse(address, host, &port, err));
    snprintf(port_text, sizeof port_text, "%u", port);
    int code = getaddrinfo(host, port_text, &hints, &found);
    if (code != 0)
        return sl_fail(err, SL_E_UNAVAILABLE, "%s does not resolve: %s", address, gai_strerror(code));
    *fd = -1;
    for (const struct addrinfo *a = found; a && *fd < 0; a = a->ai_next)
        *fd = connect_one(a, until_ns);
    int error = errno;
    freeaddrinfo(found);
    if (*fd < 0)
        return sl_fail(err, SL_E_UNAVAILABLE,
                       "nobody answers at the ops port %s (%s); give that of a node's --ops", address,
                       strerror(error));
    return SL_OK;
}

static bool send_all(int fd, const char *text, size_t bytes, uint64_t until_ns)
{
    while (bytes > 0) {
        ssize_t sent = send(fd, text, bytes, MSG_NOSIGNAL);
        if (sent > 0) {
            text += sent;
            bytes -= (size_t)sent;
        } else if (errno != EINTR && (errno != EAGAIN || !wait_for(fd, POLLOUT, until_ns))) {
            return false;
        }
    }
    return true;
}

/* All that comes until the other end closes. */
static sl_status receive_all(int fd, char **all, size_t *n, uint64_t until_ns, struct sl_err *err)
{
    size_t room = 64 << 10;
    *n = 0;
    *all = malloc(room + 1);
    for (;;) {
        if (!*all)
            return sl_fail(err, SL_E_NOMEM, "no memory for an answer of %zu bytes", room);
        ssize_t got = recv(fd, *all + *n, room - *n, 0);
        if (got == 0)
            return SL_OK;
        if (got < 0 && (errno == EINTR || (errno == EAGAIN && wait_for(fd, POLLIN, until_ns))))
            continue;
        if (got < 0)
            return sl_fail(err, SL_E_UNAVAILABLE, "its answer stopped (%s); is it the port of --ops?",
                           errno == EAGAIN ? "it came too slowly" : strerror(errno));
        *n += (size_t)got;
        if (*n > SL_HTTP_MAX_BYTES)
            return sl_fail(err, SL_E_UNAVAILABLE, "its answer is longer than %d MiB",
                           SL_HTTP_MAX_BYTES >> 20);
        if (*n == room) {
            char *more = realloc(*all, 2 * room + 1);
            if (!more)
                free(*all);
            *all = more;
            room *= 2;
        }
    }
}

sl_status sl_http_get(struct sl_http_reply *reply, const char *address, const char *path, uint32_t timeout_ms,
                      struct sl_err *err)
{
    char request[640], *all = NULL;
    size_t n = 0, body_at = 0;
    int fd;
    uint64_t until_ns = sl_clock_ns() + (uint64_t)timeout_ms * 1000000u;
    *reply = (struct sl_http_reply){0};
    SL_TRY(open_socket(&fd, address, until_ns, err));
    int bytes =
        snprintf(request, sizeof request,
                 "GET %.200s HTTP/1.0\r\nHost: %.260s\r\nUser-Agent: sluice/" SLUICE_VERSION "\r\n\r\n", path,
                 address);
    sl_status status = SL_OK;
    if (!send_all(fd, request, (size_t)bytes, until_ns))
        status = sl_fail(err, SL_E_UNAVAILABLE, "it takes no request: %s", strerror(errno));
    else
        status = receive_all(fd, &all, &n, until_ns, err);
    close(fd);
    if (status == SL_OK && !sl_http_read(all, n, &reply->status, &body_at))
        status = sl_fail(err, SL_E_UNAVAILABLE,
                         "what it answers is not HTTP, or not whole; is it the port of --ops?");
    if (status != SL_OK) {
        free(all);
        return sl_err_prefix(err, "%s", address);
    }
    memmove(all, all + body_at, n - body_at);
    reply->bytes = n - body_at;
    reply->body = all;
    reply->body[reply->bytes] = 0;
    return SL_OK;
}

void sl_http_reply_free(struct sl_http_reply *reply)
{
    free(reply->body);
    *reply = (struct sl_http_reply){0};
}
