/* The watch list of cancels.h: whoever is gone is taken out by the last one, order means nothing. */
#include "node/coordinator/cancels.h"

void sl_cancels_add(struct sl_cancels *c, const struct sl_core *core, uint64_t seq, enum sl_where from,
                    uint64_t now_us, struct sl_hist hists[SL_WHERES])
{
    if (from == SL_WHERE_GONE)
        return;
    if (sl_core_where(core, seq) == SL_WHERE_GONE) {
        sl_hist_add(&hists[from], 0);
        return;
    }
    for (uint32_t i = 0; i < c->n; i++)
        if (c->watched[i].seq == seq)
            return; /* it was given up before */
    if (c->n < SL_CANCELS_WATCHED)
        c->watched[c->n++] = (struct sl_cancel){seq, now_us, from};
}

void sl_cancels_look(struct sl_cancels *c, const struct sl_core *core, uint64_t now_us,
                     struct sl_hist hists[SL_WHERES])
{
    for (uint32_t i = 0; i < c->n;) {
        const struct sl_cancel *w = &c->watched[i];
        if (sl_core_where(core, w->seq) != SL_WHERE_GONE) {
            i++;
            continue;
        }
        sl_hist_add(&hists[w->from], now_us - w->at_us);
        c->watched[i] = c->watched[--c->n];
    }
}
