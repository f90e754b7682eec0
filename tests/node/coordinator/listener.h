/* A port of this machine that somebody listens at, for tests of who is looked for there. */
#ifndef SL_TESTS_NODE_COORDINATOR_LISTENER_H
#define SL_TESTS_NODE_COORDINATOR_LISTENER_H

#include "tests/check.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

static inline uint16_t listen_somewhere(int *fd)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t bytes = sizeof at;
    *fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool ok = *fd >= 0 && bind(*fd, (struct sockaddr *)&at, sizeof at) == 0 && listen(*fd, 16) == 0 &&
              getsockname(*fd, (struct sockaddr *)&at, &bytes) == 0;
    if (!ok)
        sl_test_fail(__FILE__, __LINE__, "no port to listen at");
    return ntohs(at.sin_port);
}

#endif
