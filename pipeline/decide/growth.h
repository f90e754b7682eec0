/* How long an answer will become: who asks for no length, as most do, must not hold the pages of a whole context, and who gets
 * none when he grows has wasted what he had. The expected length is the 75th percentile of the last outputs, or a quarter more
 * than the answer has already: chosen by simulation among averages, other percentiles and watermarks (a watermark set back
 * answers a hundred times as often and had pauses of minutes). Pure. */
#ifndef SL_PIPELINE_DECIDE_GROWTH_H
#define SL_PIPELINE_DECIDE_GROWTH_H

#include <stdint.h>

enum {
    SL_GROWTH_WINDOW = 512, /* outputs that are remembered */
    SL_GROWTH_LEAST = 32,   /* before so many were seen, */
    SL_GROWTH_GUESS = 512   /* this is the length that is expected, unless whoever asks knows better */
};

struct sl_growth {
    uint32_t guess; /* 0: SL_GROWTH_GUESS */
    uint32_t n, next;
    uint32_t lengths[SL_GROWTH_WINDOW]; /* in the order in which they came, around */
    uint32_t sorted[SL_GROWTH_WINDOW];
};

void sl_growth_add(struct sl_growth *g, uint32_t length); /* of an output that has ended by itself */
/* The length that an answer of n tokens is expected to end with: not less than n, not more than most. */
uint32_t sl_growth_expect(const struct sl_growth *g, uint32_t n, uint32_t most);

#endif
