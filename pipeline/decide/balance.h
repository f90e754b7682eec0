/* Whether a stage holds up its neighbours, and the cut of layers that would mend it. Pure.
 *
 * What counts is what the same chunks took, since all stages see all of them, and not what is thought to be behind it; and of it a layer: a stage with more of them takes longer and is not slow, and the model's last layer is hardly one. A stage is
 * slow when a layer takes 10 % longer there than on each of its neighbours, in two looks one after the other, and is so until it is
 * within 5 %; each state is told once. The cut is that of layers.h over nodes that are as fast as each was seen to be. */
#ifndef SL_PIPELINE_DECIDE_BALANCE_H
#define SL_PIPELINE_DECIDE_BALANCE_H

#include "pipeline/decide/cost_fit.h"
#include "pipeline/decide/layers.h"

enum { SL_BALANCE_CHUNKS = 64 /* of a stage, before its cost is believed */ };

struct sl_balance_stages { /* what is looked at */
    uint32_t n;
    const uint32_t *begin; /* [n + 1] */
    const double *us;      /* [n]: what the same chunks took on each */
};

/* Microseconds of a layer on each stage. */
void sl_balance_layer_us(double *layer_us, const struct sl_balance_stages *stages);
/* The cut for such layers; returns by how much the slowest stage gets faster, in parts of what it takes now (0: this cut is best, and
 * begin is it). */
double sl_balance_cut(uint32_t *begin, const struct sl_balance_stages *stages);

struct sl_balance {
    double had_us[SL_MAX_STAGES],
        us[SL_MAX_STAGES]; /* of all chunks at the last look, and of those between the last two */
    uint64_t had;          /* chunks at the last look */
    uint64_t next_us;      /* when it is looked at again */
    uint32_t seen, told;   /* 1 + stage; 0: none */
    double slower;         /* of `told`: parts by which a layer takes longer than on its slower neighbour */
};
enum sl_balance_news { SL_BALANCE_SAME, SL_BALANCE_SLOW, SL_BALANCE_EVEN };
/* Does nothing before next_us. SLOW: balance->told is news; EVEN: what was told holds no longer. */
enum sl_balance_news sl_balance_look(struct sl_balance *balance, const uint32_t *begin,
                                     const struct sl_cost_fit *fits, uint32_t n_stages, uint64_t now_us);

#endif
