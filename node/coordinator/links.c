/* A node's edges, from the plan: which to accept, which to connect, with how many slots of which size. */
#include "node/coordinator/links.h"
#include "base/digest.h"

sl_status sl_links_open(struct sl_io *io, const struct sl_plan *plan, uint32_t node, const uint8_t secret[32],
                        sl_peer_fn *peer, void *user, uint32_t *n_links, struct sl_err *err)
{
    struct sl_plan_link links[SL_MAX_LINKS];
    uint32_t n = sl_plan_links(plan, links);
    *n_links = 0;
    for (uint32_t i = 0; i < n; i++) {
        const struct sl_plan_link *l = &links[i];
        if (l->from != node && l->to != node)
            continue;
        bool connects = l->from == node;
        struct sl_link_config config = {.id = l->id,
                                        .epoch = plan->epoch,
                                        .n_slots = connects ? l->from_slots : l->to_slots,
                                        .slot_bytes = connects ? l->from_slot_bytes : l->to_slot_bytes};
        sl_hmac_sha256(secret, &l->id, sizeof l->id, config.key);
        sl_status status;
        if (connects) {
            char address[64] = "";
            uint16_t port = 0;
            peer(user, l->to, address, &port);
            status = sl_io_connect(io, &config, address, port);
        } else {
            status = sl_io_accept(io, &config);
        }
        if (status != SL_OK) {
            char from[24], to[24];
            return sl_fail(err, status, "cannot set up the link from %s to %s (%s)",
                           sl_plan_node_name(plan, l->from, from), sl_plan_node_name(plan, l->to, to),
                           sl_status_name(status));
        }
        ++*n_links;
    }
    return SL_OK;
}
