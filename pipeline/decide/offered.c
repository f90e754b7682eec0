/* Sums that decay with a minute: all of them at once, whenever one is added to. */
#include "pipeline/decide/offered.h"
#include <math.h>

static const double window_us = 60e6, most = 0.8, most_of_rate = 0.95;

static double left_of(const struct sl_offered *o, uint64_t now_us)
{
    return now_us > o->at_us ? exp(-(double)(now_us - o->at_us) / window_us) : 1;
}

uint32_t sl_offered_size(uint32_t tokens)
{
    uint32_t size = 0;
    while (size + 1 < SL_SIZES && tokens > (uint32_t)SL_SIZE_TOKENS << size)
        size++;
    return size;
}

void sl_offered_add(struct sl_offered *o, uint64_t now_us, uint32_t tokens, double work_us, double behind_us)
{
    double left = left_of(o, now_us);
    uint32_t size = sl_offered_size(tokens);
    for (uint32_t i = 0; i < SL_SIZES; i++) {
        o->us[i] *= left;
        o->behind[i] *= left;
    }
    o->us[size] += work_us;
    o->behind[size] += work_us * behind_us;
    o->at_us = now_us > o->at_us ? now_us : o->at_us;
}

void sl_offered_expect(const struct sl_offered *o, uint64_t now_us, struct sl_newcomers *n)
{
    double sum = 0, left = left_of(o, now_us) / window_us;
    for (uint32_t i = 0; i < SL_SIZES; i++) {
        n->share[i] = fmin(o->us[i] * left, most - sum);
        n->behind_us[i] = o->us[i] > 0 ? o->behind[i] / o->us[i] : 0;
        sum += n->share[i];
    }
}

double sl_newcomers_share(const struct sl_newcomers *n, uint32_t tokens)
{
    double sum = 0;
    for (uint32_t i = 0; i <= sl_offered_size(tokens); i++)
        sum += n->share[i];
    return sum;
}

/* The end is where rate * end = work + sum of share * min(key - behind, end). The right side is concave, so that steps of Newton's
 * from behind the end come down to it and never pass it; each step takes sizes from those that pass all the time. */
double sl_newcomers_end_us(const struct sl_newcomers *n, double key_us, double work_us, double rate)
{
    double end = INFINITY, sum = sl_newcomers_share(n, UINT32_MAX),
           of_share = sum > most_of_rate * rate ? most_of_rate * rate / sum : 1;
    for (uint32_t step = 0; step <= SL_SIZES; step++) {
        double work = work_us, free = rate;
        for (uint32_t i = 0; i < SL_SIZES; i++) {
            double until = key_us - n->behind_us[i], share = of_share * n->share[i];
            if (share <= 0 || until <= 0)
                continue;
            if (until < end && end < INFINITY)
                work += share * until;
            else
                free -= share;
        }
        if (work / free >= end)
            break;
        end = work / free;
    }
    return end;
}
