/* How long it takes until nothing is left of a request that was given up, by how far it had come: until the stages have answered its
 * CANCEL, which every chunk that was in the log before it comes before, and the decode worker has said that it has nothing. The
 * coordinator's thread alone. */
#ifndef SL_NODE_COORDINATOR_CANCELS_H
#define SL_NODE_COORDINATOR_CANCELS_H

#include "base/hist.h"
#include "pipeline/decide/core.h"

enum { SL_CANCELS_WATCHED = 4096 }; /* at once; of more, those that come later are not measured */

struct sl_cancels {
    struct sl_cancel {
        uint64_t seq, at_us;
        enum sl_where from;
    } watched[SL_CANCELS_WATCHED];
    uint32_t n;
};

/* Before it is told to the core: how far it has come. After it: what is left is watched. */
void sl_cancels_add(struct sl_cancels *c, const struct sl_core *core, uint64_t seq, enum sl_where from,
                    uint64_t now_us, struct sl_hist hists[SL_WHERES]);
/* Who is gone by now is counted in hists, by SL_WHERE_*. */
void sl_cancels_look(struct sl_cancels *c, const struct sl_core *core, uint64_t now_us,
                     struct sl_hist hists[SL_WHERES]);

#endif
