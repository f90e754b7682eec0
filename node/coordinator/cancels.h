/* How long it takes until nothing is left of a request that was given up, by how far it had come: until the stages have answered its
 * CANCEL, which every chunk that was in the log before it comes before, and the decode worker has said that it has nothing. And how
 * long stages went on computing for it, which is less: they give up what they can. The coordinator's thread alone. */
#ifndef SL_NODE_COORDINATOR_CANCELS_H
#define SL_NODE_COORDINATOR_CANCELS_H

#include "base/hist.h"
#include "pipeline/decide/core.h"
#include "pipeline/record/span.h"

enum { SL_CANCELS_WATCHED = 4096 }; /* at once; of more, those that come later are not measured */

struct sl_cancels {
    struct sl_cancel {
        uint64_t seq, at_us;
        enum sl_where from;
        uint64_t
            worked_us; /* when the last stage was done with what it ran for nobody else; 0: none has run any */
    } watched[SL_CANCELS_WATCHED];
    uint32_t n;
};

/* Before it is told to the core: how far it has come. After it: what is left is watched. */
void sl_cancels_add(struct sl_cancels *c, const struct sl_core *core, uint64_t seq, enum sl_where from,
                    uint64_t now_us, struct sl_hist hists[SL_WHERES]);
/* A RUN was answered, before the core has heard of it: `in` is behind its head. When all that it ran is given up, whoever ran it did so
 * in vain. ahead_us: the stages' clocks. */
void sl_cancels_ran(struct sl_cancels *c, const struct sl_core *core, struct sl_cursor in,
                    const struct sl_result_head *head, const int64_t *ahead_us, uint32_t n_stages);
/* Who is gone by now is counted in hists, by SL_WHERE_*; and in `in_vain`, how long stages worked on for it, of those that were being
 * prefilled. */
void sl_cancels_look(struct sl_cancels *c, const struct sl_core *core, uint64_t now_us,
                     struct sl_hist hists[SL_WHERES], struct sl_hist *in_vain);

#endif
