/* The scrubber: a thread that goes on asking, while weights are computed with, whether they are still those that were loaded.
 *
 * A mapped file can be written, truncated or replaced by anybody who may, and memory can lose a bit. So each file is looked at
 * four times a second: when its size or times have changed, all its blocks are compared at once, and again at the next look, in case
 * the clock of the file system was too coarse for a second write. Beside that all blocks are compared in turn, with
 * half a hundredth of the time of one processor at most, and in ten seconds if that suffices: a node is to cost less than a
 * hundredth when nobody asks it anything.
 *
 * What it has found stays found, and it stops looking. It never touches the chunk path. */
#ifndef SL_MODEL_PACK_SCRUB_H
#define SL_MODEL_PACK_SCRUB_H

#include "model/pack/weights.h"

struct sl_spoiled {
    char sentence[320]; /* names file, tensor and remedy */
    uint64_t good_ns;   /* when what is spoiled was last known to be good, on sl_clock_ns */
};

struct sl_scrub_config {
    /* Once, on the scrubber's thread. */
    void (*on_spoiled)(void *user, const struct sl_spoiled *spoiled);
    void *user;
};

struct sl_scrubber;
/* The weights stay open until it is stopped. With SL_VERIFY_OFF it has nothing to compare with, and sees truncation alone. */
sl_status sl_scrubber_start(struct sl_scrubber **scrubber, const struct sl_weights *weights,
                            const struct sl_scrub_config *config, struct sl_err *err);
void sl_scrubber_stop(struct sl_scrubber *scrubber); /* joins; NULL is fine */
/* What it has found, which lives as long as it; NULL: nothing so far. Any thread. */
const struct sl_spoiled *sl_scrubber_found(const struct sl_scrubber *scrubber);
/* What it has cost and done so far. Any thread. */
void sl_scrubber_account(const struct sl_scrubber *scrubber, uint64_t *cpu_ns, uint64_t *bytes);

#endif
