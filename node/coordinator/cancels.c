/* The watch list of cancels.h: whoever is gone is taken out by the last one, order means nothing. */
#include "node/coordinator/cancels.h"

static struct sl_cancel *find(struct sl_cancels *c, uint64_t seq) /* NULL: it is not watched */
{
    for (uint32_t i = 0; i < c->n; i++)
        if (c->watched[i].seq == seq)
            return &c->watched[i];
    return NULL;
}

void sl_cancels_add(struct sl_cancels *c, const struct sl_core *core, uint64_t seq, enum sl_where from,
                    uint64_t now_us, struct sl_hist hists[SL_WHERES])
{
    if (from == SL_WHERE_GONE)
        return;
    if (sl_core_where(core, seq) == SL_WHERE_GONE) {
        sl_hist_add(&hists[from], 0);
        return;
    }
    if (find(c, seq))
        return; /* it was given up before */
    if (c->n < SL_CANCELS_WATCHED)
        c->watched[c->n++] = (struct sl_cancel){seq, now_us, from, 0};
}

/* The requests of all slices; false: somebody wants one of them, or was not watched. */
static bool all_given_up(struct sl_cancels *c, const struct sl_core *core, struct sl_cursor in,
                         uint32_t n_slices, struct sl_cancel *of[SL_MAX_SLICES])
{
    for (uint32_t i = 0; i < n_slices; i++) {
        struct sl_result_slice slice;
        struct sl_token_out token;
        if (!sl_result_get_slice(&in, &slice) || !(of[i] = find(c, sl_core_request_of(core, slice.seq))))
            return false;
        for (uint32_t k = 0; k < slice.n_prompt; k++)
            if (!sl_token_get(&in, &token))
                return false;
    }
    return true;
}

void sl_cancels_ran(struct sl_cancels *c, const struct sl_core *core, struct sl_cursor in,
                    const struct sl_result_head *head, const int64_t *ahead_us, uint32_t n_stages)
{
    struct sl_cancel *of[SL_MAX_SLICES];
    uint64_t worked_us = 0;
    if (c->n == 0 || head->n_slices > SL_MAX_SLICES || !all_given_up(c, core, in, head->n_slices, of))
        return;
    for (uint32_t k = 0; k < n_stages; k++) {
        uint64_t end_us = sl_span_time(head->traces[k].end_us, ahead_us[k]);
        worked_us = end_us > worked_us ? end_us : worked_us;
    }
    for (uint32_t i = 0; i < head->n_slices; i++)
        if (worked_us > of[i]->worked_us)
            of[i]->worked_us = worked_us;
}

void sl_cancels_look(struct sl_cancels *c, const struct sl_core *core, uint64_t now_us,
                     struct sl_hist hists[SL_WHERES], struct sl_hist *in_vain)
{
    for (uint32_t i = 0; i < c->n;) {
        const struct sl_cancel *w = &c->watched[i];
        if (sl_core_where(core, w->seq) != SL_WHERE_GONE) {
            i++;
            continue;
        }
        sl_hist_add(&hists[w->from], now_us - w->at_us);
        if (w->from == SL_WHERE_PREFILL)
            sl_hist_add(in_vain, w->worked_us > w->at_us ? w->worked_us - w->at_us : 0);
        c->watched[i] = c->watched[--c->n];
    }
}
