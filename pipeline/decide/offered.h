/* Work that came lately, by the size of its prompts: who waits is passed by smaller ones, and by those most of all that are still
 * to come. The last minute says how many that will be, and where in the order they will stand: by how much the key of one (rank.h) is
 * behind its arrival. Who comes so late that its key is behind one's own does not pass it any more. Pure. */
#ifndef SL_PIPELINE_DECIDE_OFFERED_H
#define SL_PIPELINE_DECIDE_OFFERED_H

#include <stdint.h>

enum {
    SL_SIZES = 12,
    SL_SIZE_TOKENS =
        64 /* the first size has at most so many to prefill, each after it twice as many, the last any */
};

struct sl_offered {
    double us[SL_SIZES];     /* as it was at at_us, where what is older counts less */
    double behind[SL_SIZES]; /* the same times by how much their keys were behind their arrivals, us */
    uint64_t at_us;
};

struct sl_newcomers { /* who is expected, by size */
    double
        share[SL_SIZES]; /* of the pipeline's time that they will take; together 0..0.8, the smallest first */
    double behind_us[SL_SIZES];
};

uint32_t sl_offered_size(uint32_t tokens);
/* A prompt came: so many tokens are to be prefilled, which is so much work, and its key is behind_us after its arrival. */
void sl_offered_add(struct sl_offered *offered, uint64_t now_us, uint32_t tokens, double work_us,
                    double behind_us);
void sl_offered_expect(const struct sl_offered *offered, uint64_t now_us, struct sl_newcomers *newcomers);
/* What those of at most so many tokens will take. */
double sl_newcomers_share(const struct sl_newcomers *newcomers, uint32_t tokens);
/* Microseconds until work is done for which there is a part `rate` of the pipeline, if newcomers whose keys are before key_us (from
 * now) pass it until then. They leave it a twentieth of that at least. */
double sl_newcomers_end_us(const struct sl_newcomers *newcomers, double key_us, double work_us, double rate);

#endif
