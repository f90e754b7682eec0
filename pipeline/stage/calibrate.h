/* A stage measures what its chunks cost (pipeline/decide/cost.h), before it is used: a few dummy chunks of several sizes behind
 * several prefixes, beside a prior of the model's shape and the peaks of the machine or of its GPU's kind. What a chunk does depends on shapes alone, so
 * random ids and empty pages do. Kept by cost_store.h.
 *
 * (The calibration of a packer, node/eval/calibrate.h, is another thing: it looks at a text, not at a clock.) */
#ifndef SL_PIPELINE_STAGE_CALIBRATE_H
#define SL_PIPELINE_STAGE_CALIBRATE_H

#include "pipeline/stage/cost_store.h"
#include "pipeline/stage/stage.h"

struct sl_stage_trial {
    uint64_t
        budget_us; /* of the stage's processor: up to four times as long. The cheapest three points are measured even so */
    const char *dir; /* where it is kept; NULL: nowhere */
    bool fresh;      /* what is kept there is not read */
};

struct sl_stage_calibration {
    struct sl_cost prior;
    bool
        no_peaks; /* of the stage's device none are known: the prior is a shape that was scaled by what was measured */
    struct sl_measured_cost measured;
    bool kept; /* it was read and not measured now */
};

/* The stage's thread, before its role is made: its sequences, pages and counts of pages are afterwards what they were.
 * SL_E_NOMEM; SL_E_EXHAUSTED: its pages or its table are taken. */
sl_status sl_stage_calibrate(struct sl_stage_calibration *calibration, struct sl_stage *stage,
                             const struct sl_pack *pack, const struct sl_stage_trial *trial,
                             struct sl_err *err);

/* The same for who starts a stage: from the cache directory, or measured in a time that suits the size of its weights (the demo
 * model: a tenth of a second) and kept there; the stage expects it of its chunks. False: it could not be, of which a warning tells. */
bool sl_stage_cost(struct sl_cost *cost, struct sl_stage *stage, const struct sl_pack *pack);

#endif
