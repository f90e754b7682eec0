/* A node's edges, from the plan: which to accept, which to connect, with how many slots of which size; and whether they are
 * up. */
#ifndef SL_NODE_COORDINATOR_LINKS_H
#define SL_NODE_COORDINATOR_LINKS_H

#include "pipeline/decide/plan.h"
#include "pipeline/link/transport.h"

/* The key of one link of those that share a secret. */
void sl_link_key(const uint8_t secret[32], uint64_t id, uint8_t key[32]);

/* Declares the node's links to its io, as the plan has them from the start. Keys are derived from `secret`, so both
 * ends agree when they share it. peer(user, node, address) says where a node's io is. */
typedef void sl_peer_fn(void *user, uint32_t node, struct sl_io_address *address);
sl_status sl_links_open(struct sl_io *io, const struct sl_plan *plan, uint32_t node, const uint8_t secret[32],
                        sl_peer_fn *peer, void *user, uint32_t *n_links, struct sl_err *err);

/* Declares the link between a node of the chain and the decode worker, or the part of one, that is node `to` in this life of its
 * place: *link is its id, by which it is dropped when that one is gone. */
sl_status sl_links_open_decoder(struct sl_io *io, const struct sl_plan *plan, uint32_t node, uint32_t to,
                                uint32_t life, const uint8_t secret[32], const struct sl_io_address *at,
                                uint64_t *link, struct sl_err *err);

enum sl_links_state {
    SL_LINKS_FORMING, /* some are not up yet */
    SL_LINKS_UP,
    SL_LINKS_LOST /* one went down; it stays so */
};
struct sl_links { /* of one node, as its io reports them; the first three are the user's to set */
    const struct sl_plan *plan;
    uint32_t node, n_links;
    uint32_t n_up;
    enum sl_links_state state;
};
/* LINK_UP and LINK_DOWN; other events are none of its business. true: the state has changed. To LOST: *err is
 * SL_E_PEER_LOST and names the neighbour, the reason and the remedy: "stage 1 was lost (reason); remedy". */
bool sl_links_on_event(struct sl_links *links, const struct sl_io_event *event, const char *remedy,
                       struct sl_err *err);

#endif
