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
/* TOKEN, END or SET_BACK; others are none of their business. NULL, or which promise was broken (static). *text_ends: the holder finds
 * the end of its text in this token, and has to say so to the core. */
const char *sl_holders_hear(struct sl_holders *holders, const struct sl_action *action, uint64_t now_us,
                            bool *text_ends);

#endif
