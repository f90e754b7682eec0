/* Who asked, in a simulated world: requests become asks, and what the core says of them is written down and held against what was
 * promised to them: tokens in their order, one end, nothing after it. For every world that has a core. */
#ifndef SL_PIPELINE_SIM_HOLDER_H
#define SL_PIPELINE_SIM_HOLDER_H

#include "pipeline/sim/sim.h"

struct sl_holders {
    struct sl_sim_request *requests;
    struct sl_ask *asks; /* [n] */
    uint32_t n, vocab;
    uint32_t n_ended;          /* requests */
    uint64_t tokens, set_back; /* in all */
};
sl_status sl_holders_init(struct sl_holders *holders, struct sl_sim_request *requests, uint32_t n,
                          uint32_t vocab);
void sl_holders_fini(struct sl_holders *holders);
/* Filled with what request i asks for; times are those of the request. */
struct sl_ask *sl_holders_ask(struct sl_holders *holders, uint32_t i);
/* Carries out what the core wants, in its order, and empties the list: a token, an end and a set back are told to who asked, who
 * tells the core where a text ends, which may want more; all else is handed to `act`. NULL, or the first promise that was broken
 * (static). */
typedef void sl_holders_act(void *world, const struct sl_action *action);
const char *sl_holders_carry_out(struct sl_holders *holders, struct sl_core *core, struct sl_actions *actions,
                                 uint64_t now_us, sl_holders_act *act, void *world);

#endif
