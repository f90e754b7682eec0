/* Who goes first and until when, as seen from outside: of each RUN record that a core writes, whose slices are in it, whose stands at
 * its head and who got none. For every world that has a core. What is promised, whatever is predicted:
 *
 *   What has to be done by a time (its deadline) is not begun after it.
 *   By --schedule slo, among those of one tenant: who named a time for its first token that is over stands behind all others, but the
 *   oldest of the late heads every tenth chunk.
 *
 * So the oldest of all that wait, once its time is over and it has its pages, waits for no more than that (nobody is forgotten), and
 * who named a time heads no more of the chunks that others wait for than that (nobody pays for a time that can't be kept any more). */
#ifndef SL_PIPELINE_SIM_FAIR_H
#define SL_PIPELINE_SIM_FAIR_H

#include "pipeline/record/order.h"
#include "pipeline/sim/sim.h"

struct sl_fair_asker {
    uint64_t seq, taken;          /* seq 0: not taken; taken: in which order */
    uint64_t due_us, deadline_us; /* on the core's clock; 0: none was named, or it was kept */
    uint32_t cut;                 /* tokens of its prompt that are in the log */
};

struct sl_fair {
    const struct sl_sim_request *requests; /* [n], and whether they have ended */
    struct sl_fair_asker *askers;          /* [n] */
    uint32_t n;
    bool
        in_order; /* --schedule slo, one tenant, equal priorities, and nothing keeps any of them from a chunk but the order */
    uint64_t n_taken;
    uint32_t first, waited; /* who was the oldest, and chunks since it got something or was late */
    int32_t credit;         /* chunks that who is late may head, in tenths */
    /* chunks that the oldest got although its time was over, and those that others waited for who had begun */
    uint64_t late_turns, others_waited;
    char broken[100];
};

sl_status sl_fair_init(struct sl_fair *fair, const struct sl_sim_request *requests, uint32_t n,
                       bool in_order);
void sl_fair_fini(struct sl_fair *fair);
/* The core has taken request i, which may be refused yet. */
void sl_fair_take(struct sl_fair *fair, uint32_t i, uint64_t seq, uint64_t due_us, uint64_t deadline_us);
void sl_fair_forget(struct sl_fair *fair); /* another core begins, which has nothing of what this one had */
/* A RUN record is written. NULL, or which promise is broken (the fair's, until the next look). */
const char *sl_fair_look(struct sl_fair *fair, uint64_t now_us, const struct sl_order *order);

#endif
