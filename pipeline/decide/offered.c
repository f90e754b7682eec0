/* Sums that decay with a minute: all of them at once, whenever one is added to. */
#include "pipeline/decide/offered.h"
#include <math.h>

static const double window_us = 60e6, most = 0.8;

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

void sl_offered_add(struct sl_offered *o, uint64_t now_us, uint32_t tokens, double work_us)
{
    double left = left_of(o, now_us);
    for (uint32_t i = 0; i < SL_SIZES; i++)
        o->us[i] *= left;
    o->us[sl_offered_size(tokens)] += work_us;
    o->at_us = now_us > o->at_us ? now_us : o->at_us;
}

void sl_offered_below(const struct sl_offered *o, uint64_t now_us, double share[SL_SIZES])
{
    double sum = 0, left = left_of(o, now_us) / window_us;
    for (uint32_t i = 0; i < SL_SIZES; i++) {
        share[i] = sum < most ? sum : most;
        sum += o->us[i] * left;
    }
}
