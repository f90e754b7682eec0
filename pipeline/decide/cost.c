/* The arithmetic of cost.h: the formula as it stands there, with u(X) by way of logarithms, which keep the share that one row of
 * many experts hits exact. */
#include "pipeline/decide/cost.h"
#include <math.h>

double sl_cost_hit(double hit, double rows)
{
    return hit <= 0 ? 0 : hit >= 1 ? 1 : -expm1(rows * log1p(-hit));
}

double sl_cost_of(const struct sl_cost *cost, const struct sl_cost_chunk *chunk)
{
    if (chunk->rows <= 0)
        return 0;
    return cost->us[SL_COST_C] + cost->us[SL_COST_GAMMA] * chunk->pos + cost->us[SL_COST_B] * chunk->rows +
           cost->us[SL_COST_A] * chunk->pairs + cost->us[SL_COST_W] * sl_cost_hit(cost->hit, chunk->rows);
}

double sl_cost_overhead(const struct sl_cost *cost, double pos)
{
    return cost->us[SL_COST_C] + cost->us[SL_COST_W] + cost->us[SL_COST_GAMMA] * pos;
}

double sl_cost_work(const struct sl_cost *cost, double pos, double n)
{
    return cost->us[SL_COST_B] * n + cost->us[SL_COST_A] * (2 * pos + n) * n;
}
