/* HOST:PORT, the sockets that listen there, and how a connection is taken from them. gRPC's door and ops HTTP share it, so that
 * the sentence of a port in use, names and `*`, and what happens without descriptors are the same for both. */
#ifndef SL_NODE_RPC_LISTEN_H
#define SL_NODE_RPC_LISTEN_H

#include "base/status.h"
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

enum { SL_HOST_BYTES = 256, SL_LISTEN_SOCKETS = 8, SL_PEER_BYTES = 80 };

/* "127.0.0.1:8081", "[::]:8081", "[fe80::1%eth0]:8081", "localhost:0", "*:8081" (every address of the machine, both families)
 * -> host without brackets, port. SL_E_CONFIG names the text. */
sl_status sl_listen_parse(const char *address, char host[SL_HOST_BYTES], uint16_t *port, struct sl_err *err);
/* How a process on this machine reaches whoever listens there: the same, but the loopback for all addresses. */
sl_status sl_listen_reach(const char *address, char *out, size_t room, struct sl_err *err);
/* Whether only this machine reaches it; false too if it does not resolve. */
bool sl_listen_is_local(const char *address);

struct sl_listener {
    int fds[SL_LISTEN_SOCKETS]; /* a name may have several addresses; non-blocking */
    uint32_t n;
    int port;
    int spare; /* a descriptor to let go of when there is none left: accept, close, and take it again */
};
/* Bound and listening. SL_E_UNAVAILABLE names the address. */
sl_status sl_listener_open(struct sl_listener *listener, const char *address, struct sl_err *err);
void sl_listener_close(struct sl_listener *listener); /* twice is fine */

enum sl_accepted {
    SL_ACCEPTED,        /* *fd is the caller's, non-blocking */
    SL_ACCEPT_NOTHING,  /* nobody waits */
    SL_ACCEPT_SHUT,     /* no descriptor was left: whoever waited was closed; go on */
    SL_ACCEPT_EXHAUSTED /* not even that worked: ask again in a while, not at once */
};
/* Takes one from fds[which]. EMFILE, ENFILE, ENOBUFS and ENOMEM are survived. One thread. */
enum sl_accepted sl_listener_accept(struct sl_listener *listener, uint32_t which, int *fd);

/* "127.0.0.1:40001", of the other end; "?" if it has gone. */
void sl_listen_peer(int fd, char text[SL_PEER_BYTES]);

#endif
