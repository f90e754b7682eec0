/* A node's edges (links.h): declared from the plan, and followed. */
#include "node/coordinator/links.h"
#include "base/bytes.h"
#include "base/digest.h"

void sl_link_key(const uint8_t secret[32], uint64_t id, uint8_t key[32])
{
    uint8_t text[8];
    sl_put64(text, id);
    sl_hmac_sha256(secret, text, sizeof text, key);
}

sl_status sl_links_open(struct sl_io *io, const struct sl_plan *plan, uint32_t node, const uint8_t secret[32],
                        sl_peer_fn *peer, void *user, uint32_t *n_links, struct sl_err *err)
{
    struct sl_plan_link links[SL_MAX_LINKS];
    uint32_t n = sl_plan_links(plan, links);
    *n_links = 0;
    for (uint32_t i = 0; i < n; i++) {
        const struct sl_plan_link *l = &links[i];
        bool later = l->decoder != SL_NO_DECODER && l->decoder >= plan->n_decoders;
        if ((l->from != node && l->to != node) || later)
            continue;
        bool connects = l->from == node;
        struct sl_link_config config = {.id = l->id,
                                        .epoch = plan->epoch,
                                        .auth = plan->link_auth,
                                        .n_slots = connects ? l->from_slots : l->to_slots,
                                        .slot_bytes = connects ? l->from_slot_bytes : l->to_slot_bytes,
                                        .rows_beside =
                                            sl_rows_go_beside(plan->rows) && sl_plan_link_has_rows(l)};
        sl_link_key(secret, l->id, config.key);
        struct sl_io_address at = {0};
        peer(user, connects ? l->to : l->from, &at);
        sl_status status = connects ? sl_io_connect(io, &config, &at) : sl_io_accept(io, &config, &at);
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

sl_status sl_links_open_decoder(struct sl_io *io, const struct sl_plan *plan, uint32_t node, uint32_t to,
                                uint32_t life, const uint8_t secret[32], const struct sl_io_address *at,
                                uint64_t *link, struct sl_err *err)
{
    struct sl_plan then = *plan;
    struct sl_plan_link links[SL_MAX_LINKS], *l = links;
    char name[24];
    then.decoder_life[sl_plan_decoder_of(plan, to)] = life;
    for (uint32_t i = 0, n = sl_plan_links(&then, links); i < n; i++)
        if (links[i].from == node && links[i].to == to)
            l = &links[i];
    struct sl_link_config config = {.id = l->id,
                                    .epoch = then.epoch,
                                    .auth = then.link_auth,
                                    .n_slots = l->from_slots,
                                    .slot_bytes = l->from_slot_bytes};
    sl_link_key(secret, l->id, config.key);
    *link = l->id;
    sl_status status = sl_io_connect(io, &config, at);
    return status == SL_OK ? SL_OK
                           : sl_fail(err, status, "cannot set up the link to %s (%s)",
                                     sl_plan_node_name(plan, to, name), sl_status_name(status));
}

bool sl_links_on_event(struct sl_links *links, const struct sl_io_event *event, const char *remedy,
                       struct sl_err *err)
{
    char name[24];
    if (links->state == SL_LINKS_LOST)
        return false; /* the first loss is the cause of those that follow */
    if (event->kind == SL_IO_LINK_UP && ++links->n_up == links->n_links) {
        links->state = SL_LINKS_UP;
        return true;
    }
    if (event->kind != SL_IO_LINK_DOWN)
        return false;
    links->state = SL_LINKS_LOST;
    sl_fail(err, SL_E_PEER_LOST, "%s was lost (%s); %s",
            sl_plan_node_name(links->plan, sl_plan_link_peer(event->link, links->node), name),
            event->reason ? event->reason : "the link is down", remedy);
    return true;
}
