/* The arithmetic of cost.h: the formula as it stands there, with u(X) by way of logarithms, which keep the share that one row of
 * many experts hits exact. */
#include "pipeline/decide/cost.h"
#include <math.h>
#include <string.h>

double sl_cost_hit(double hit, double rows)
{
    return hit <= 0 ? 0 : hit >= 1 ? 1 : -expm1(rows * log1p(-hit));
}

double sl_cost_of(const struct sl_cost *cost, const struct sl_cost_chunk *chunk)
{
    if (chunk->rows <= 0)
        return 0;
    return cost->us[SL_COST_C] + cost->us[SL_COST_GAMMA] * chunk->pos + cost->us[SL_COST_B] * chunk->rows +
           cost->us[SL_COST_A] * chunk->pairs + cost->us[SL_COST_E] * chunk->wanted +
           cost->us[SL_COST_W] * sl_cost_hit(cost->hit, chunk->rows);
}

bool sl_cost_is_sane(const struct sl_cost *cost)
{
    struct sl_cost_chunk one = {0};
    bool sane = cost->hit >= 0 && cost->hit <= 1; /* which no NaN is */
    for (int i = 0; i < SL_COST_TERMS; i++)
        sane = sane && cost->us[i] >= 0 && cost->us[i] <= SL_COST_MOST_US;
    sl_cost_add(&one, 0, 1);
    return sane && sl_cost_of(cost, &one) > 0;
}

void sl_cost_put(const struct sl_cost *cost, double numbers[SL_COST_NUMBERS])
{
    memcpy(numbers, cost->us, sizeof cost->us);
    numbers[SL_COST_TERMS] = cost->hit;
}

bool sl_cost_take(struct sl_cost *cost, const double *numbers, size_t n)
{
    if (n != SL_COST_NUMBERS)
        return false;
    memcpy(cost->us, numbers, sizeof cost->us);
    cost->hit = numbers[SL_COST_TERMS];
    return sl_cost_is_sane(cost);
}

double sl_cost_overhead(const struct sl_cost *cost, double pos)
{
    return cost->us[SL_COST_C] + cost->us[SL_COST_W] + cost->us[SL_COST_GAMMA] * pos;
}

double sl_cost_work(const struct sl_cost *cost, double pos, double n)
{
    return cost->us[SL_COST_B] * n + cost->us[SL_COST_A] * (2 * pos + n) * n;
}
