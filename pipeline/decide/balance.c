/* The comparison and the cut of balance.h. */
#include "pipeline/decide/balance.h"
#include <math.h>

static const double slow = 0.10, even = 0.05, of_last = 0.1 /* of a layer: K and V alone */, worth = 0.01;
static const uint64_t look_us = 10 * 1000000;

static double layers_of(const struct sl_balance_stages *s, uint32_t k)
{
    double n = s->begin[k + 1] - s->begin[k];
    return k + 1 == s->n && n > 1 ? n - 1 + of_last : n;
}

void sl_balance_layer_us(double *layer_us, const struct sl_balance_stages *s)
{
    for (uint32_t k = 0; k < s->n; k++)
        layer_us[k] = s->us[k] / layers_of(s, k);
}

double sl_balance_cut(uint32_t *begin, const struct sl_balance_stages *s)
{
    static const double no_bytes[SL_LAYERS_MOST];
    double us[SL_MAX_STAGES][SL_LAYERS_MOST], layer_us[SL_MAX_STAGES], now = 0, then = 0;
    struct sl_layers_node nodes[SL_MAX_STAGES];
    uint32_t n_layers = s->begin[s->n];
    sl_balance_layer_us(layer_us, s);
    for (uint32_t k = 0; k < s->n; k++) {
        for (uint32_t i = 0; i < n_layers; i++)
            us[k][i] = layer_us[k] * (i + 1 == n_layers ? of_last : 1);
        nodes[k] = (struct sl_layers_node){us[k], no_bytes, 1};
        now = fmax(now, sl_layers_sum(us[k], s->begin[k], s->begin[k + 1]));
    }
    sl_layers_cut(begin, n_layers, nodes, s->n);
    for (uint32_t k = 0; k < s->n; k++)
        then = fmax(then, sl_layers_sum(us[k], begin[k], begin[k + 1]));
    if (now > 0 && now - then > worth * now)
        return (now - then) / now;
    for (uint32_t k = 0; k <= s->n; k++)
        begin[k] = s->begin[k];
    return 0;
}

/* By how much a layer takes longer than on the slower of its neighbours. */
static double slower_by(const double *layer_us, uint32_t n, uint32_t k)
{
    double neighbour = fmax(k > 0 ? layer_us[k - 1] : 0, k + 1 < n ? layer_us[k + 1] : 0);
    return neighbour > 0 ? layer_us[k] / neighbour - 1 : 0;
}

enum sl_balance_news sl_balance_look(struct sl_balance *b, const uint32_t *begin,
                                     const struct sl_cost_fit *fits, uint32_t n_stages, uint64_t now_us)
{
    double layer_us[SL_MAX_STAGES], most = 0;
    uint32_t slowest = 0;
    uint64_t fewest = UINT64_MAX;
    for (uint32_t k = 0; k < n_stages; k++)
        fewest = fits[k].chunks < fewest ? fits[k].chunks : fewest;
    if (fewest < b->had) /* they are counted anew */
        *b = (struct sl_balance){.next_us = b->next_us};
    if (now_us < b->next_us || n_stages < 2 || fewest < b->had + SL_BALANCE_CHUNKS)
        return SL_BALANCE_SAME;
    b->next_us = now_us + look_us;
    b->had = fewest;
    for (uint32_t k = 0; k < n_stages; k++) {
        b->us[k] = fits[k].measured_us - b->had_us[k];
        b->had_us[k] = fits[k].measured_us;
    }
    sl_balance_layer_us(layer_us, &(struct sl_balance_stages){n_stages, begin, b->us});
    for (uint32_t k = 0; k < n_stages; k++)
        if (slower_by(layer_us, n_stages, k) > most) {
            most = slower_by(layer_us, n_stages, k);
            slowest = k;
        }
    if (b->told && slower_by(layer_us, n_stages, b->told - 1) < even) {
        b->told = b->seen = 0;
        return SL_BALANCE_EVEN;
    }
    uint32_t is = most > slow ? slowest + 1 : 0, was = b->seen;
    b->seen = is;
    if (is == 0 || is != was || is == b->told)
        return SL_BALANCE_SAME;
    b->told = is;
    b->slower = most;
    return SL_BALANCE_SLOW;
}
