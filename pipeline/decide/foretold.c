/* The table of foretold.h: who is forgotten is replaced by the last one, order means nothing. */
#include "pipeline/decide/foretold.h"

static struct sl_foretold_cancel *soonest(struct sl_foretold *f)
{
    struct sl_foretold_cancel *least = &f->of[0];
    for (uint32_t i = 1; i < f->n; i++)
        if (f->of[i].number < least->number)
            least = &f->of[i];
    return least;
}

void sl_foretold_add(struct sl_foretold *f, struct sl_foretold_cancel cancel, uint64_t applied)
{
    if (cancel.seq == 0 || cancel.number <= applied || sl_foretold_has(f, cancel.seq))
        return;
    if (f->n < SL_FORETOLD) {
        f->of[f->n++] = cancel;
        return;
    }
    struct sl_foretold_cancel *least = soonest(f);
    if (least->number < cancel.number)
        *least = cancel;
}

bool sl_foretold_has(const struct sl_foretold *f, uint64_t seq)
{
    for (uint32_t i = 0; i < f->n; i++)
        if (f->of[i].seq == seq)
            return true;
    return false;
}

void sl_foretold_applied(struct sl_foretold *f, uint64_t number)
{
    for (uint32_t i = 0; i < f->n;)
        if (f->of[i].number <= number)
            f->of[i] = f->of[--f->n];
        else
            i++;
}
