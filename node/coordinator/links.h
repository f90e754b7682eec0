/* A node's edges, from the plan: which to accept, which to connect, with how many slots of which size. */
#ifndef SL_NODE_COORDINATOR_LINKS_H
#define SL_NODE_COORDINATOR_LINKS_H

#include "pipeline/decide/plan.h"
#include "pipeline/link/transport.h"

/* Declares the node's links to its io, as the plan has them. keys: 32 bytes derived per link from `secret` (HMAC of the id),
 * so both ends agree when they share it. peer(user, node, address, &port) says where a node listens. */
typedef void sl_peer_fn(void *user, uint32_t node, char address[64], uint16_t *port);
sl_status sl_links_open(struct sl_io *io, const struct sl_plan *plan, uint32_t node, const uint8_t secret[32],
                        sl_peer_fn *peer, void *user, uint32_t *n_links, struct sl_err *err);

#endif
