/* A network on a virtual clock, for ios that are stepped (sl_io_create_stepped): whoever drives them says what time it is and when what is
 * sent arrives. Frames of a line arrive in their order, those of different lines in any, and the payload of a large one lands some
 * time after its header, from the sender's own bytes; a line can break, and a listener can vanish with or without a word.
 *
 * Deterministic: the same calls give the same history. One thread. */
#ifndef SL_PIPELINE_LINK_TRANSPORT_SIM_H
#define SL_PIPELINE_LINK_TRANSPORT_SIM_H

#include "pipeline/link/transport.h"

extern const struct sl_transport_ops sl_transport_sim;

struct sl_net_config {
    /* When what leaves port `from` at now_us arrives at port `to`: now_us at the earliest. UINT64_MAX: not before the line breaks. */
    uint64_t (*arrives_us)(void *user, uint16_t from, uint16_t to, size_t bytes, uint64_t now_us);
    /* How long after its header a payload of so many bytes has landed. */
    uint64_t (*lands_us)(void *user, size_t bytes);
    void *user;
    /* Small payloads, too, are read from the sender's own bytes, when they arrive, and are on their way out until then. */
    bool all_late;
};

struct sl_net;
sl_status sl_net_create(struct sl_net **net, const struct sl_net_config *config);
void sl_net_destroy(struct sl_net *net); /* after all ios on it */

/* What time it is from now on; never less than before. */
void sl_net_set_now(struct sl_net *net, uint64_t now_us);
/* When the next thing comes to who listens there; UINT64_MAX: nothing does. */
uint64_t sl_net_due_us(const struct sl_net *net, uint16_t port);
/* Payloads that were not, when they landed, what they were when they were sent: somebody wrote to bytes that were under way. */
uint64_t sl_net_touched(const struct sl_net *net);
/* Every line between the two breaks: both hear of it. */
void sl_net_break(struct sl_net *net, uint16_t a, uint16_t b);
/* Who listens there has no power any more: when its io is destroyed, nobody hears of it. Else its lines are closed for it. */
void sl_net_cut_power(struct sl_net *net, uint16_t port);

#endif
