/* A listening socket that is not ours, shielded from strangers: the library that owns it (UCX) takes whatever connects, ends
 * the process over bytes that it does not understand, and closes its listener for good when descriptors run out. So the kernel
 * is told, by a packet filter on that socket, whose connections are wanted at the moment: mostly nobody's. Packets of others
 * are dropped before there is a connection: no descriptor, no thread woken, no byte read. Connections that are there stay. */
#ifndef SL_PIPELINE_LINK_SHIELD_H
#define SL_PIPELINE_LINK_SHIELD_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

enum { SL_SHIELD_PEERS = 64, SL_SHIELD_RESERVE = 16 };

struct sl_shield {
    int fd; /* the listener; -1: not found, nothing is shielded */
    int family;
    uint16_t port;
    int reserve
        [SL_SHIELD_RESERVE]; /* descriptors held while nobody is wanted, so that wanted connections find some free */
    bool lost;
};

void sl_shield_none(struct sl_shield *shield); /* of no socket: may be closed */
/* The socket of this process that listens at that port, best at that address; *address becomes its own. Nobody is wanted from here
 * on. false: there is none. */
bool sl_shield_open(struct sl_shield *shield, uint16_t port, struct sockaddr_storage *address);
/* Connections from these addresses are wanted, as many as SL_SHIELD_PEERS. 0: nobody's. false: the listener is gone, or the
 * kernel does not take the filter (errno). */
bool sl_shield_admit(struct sl_shield *shield, const struct sockaddr_storage *peers, uint32_t n_peers);
bool sl_shield_lives(struct sl_shield *shield); /* false: the listener is gone */
void sl_shield_close(struct sl_shield *shield); /* the socket is its owner's */

#endif
