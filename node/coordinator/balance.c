/* What the log says of a stage that holds up its neighbours (pipeline/decide/balance.h): once when it does, with the cut that would
 * mend it, and once when it does no longer. */
#include "base/log.h"
#include "node/coordinator/coordinator_impl.h"

static void tell_slow(struct sl_coordinator *c)
{
    uint32_t cut[SL_MAX_STAGES + 1], slow = c->balance.told - 1;
    char layers[SL_LAYERS_TEXT];
    double gain =
        sl_balance_cut(cut, &(struct sl_balance_stages){c->plan.n_stages, c->plan.begin, c->balance.us});
    sl_layers_write(layers, cut, c->plan.n_stages);
    if (gain > 0)
        sl_log_warn(
            "a layer takes %.0f %% longer on stage %u than on its neighbours, which wait for it; if the node is "
            "not mended: with --layers %s the pipeline's chunks would take %.0f %% less",
            100 * c->balance.slower, slow, layers, 100 * gain);
    else
        sl_log_warn(
            "a layer takes %.0f %% longer on stage %u than on its neighbours, which wait for it; no other cut of "
            "whole layers is better: look at that node",
            100 * c->balance.slower, slow);
}

void sl_balance_watch(struct sl_coordinator *c)
{
    const struct sl_cost_fit *fits = sl_core_fits(c->core);
    uint32_t told = c->balance.told;
    switch (sl_balance_look(&c->balance, c->plan.begin, fits, c->plan.n_stages, sl_coordinator_now_us())) {
    case SL_BALANCE_SLOW:
        tell_slow(c);
        break;
    case SL_BALANCE_EVEN:
        sl_log_info("a layer takes as long on stage %u as on its neighbours again", told - 1);
        break;
    case SL_BALANCE_SAME:
        break;
    }
}
