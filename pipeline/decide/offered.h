/* Work that came lately, by the size of its prompts: a long prompt is passed by shorter ones while it waits and while it is cut, and
 * by those most of all that are still to come. The last minute says how many that will be. Pure. */
#ifndef SL_PIPELINE_DECIDE_OFFERED_H
#define SL_PIPELINE_DECIDE_OFFERED_H

#include <stdint.h>

enum {
    SL_SIZES = 12,
    SL_SIZE_TOKENS =
        64 /* the first size has at most so many to prefill, each after it twice as many, the last any */
};

struct sl_offered {
    double us[SL_SIZES]; /* as it was at at_us, where what is older counts less */
    uint64_t at_us;
};

uint32_t sl_offered_size(uint32_t tokens);
/* A prompt came: so many tokens are to be prefilled, which is so much work. */
void sl_offered_add(struct sl_offered *offered, uint64_t now_us, uint32_t tokens, double work_us);
/* share[i]: of the pipeline's time, what prompts of sizes below i take; 0..0.8. */
void sl_offered_below(const struct sl_offered *offered, uint64_t now_us, double share[SL_SIZES]);

#endif
