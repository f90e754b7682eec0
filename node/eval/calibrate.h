/* A text seen through a model: the moments of every matrix's inputs, for the packer (model/pack/pack.h).
 *
 * The checkpoint is run once over the text, a layer at a time, from an exact pack: only the hidden rows of
 * the text and one layer's moments are in memory, whatever the model's size. Not thread-safe; the packer
 * calls on its own thread. */
#ifndef SL_NODE_EVAL_CALIBRATE_H
#define SL_NODE_EVAL_CALIBRATE_H

#include "model/pack/pack.h"

struct sl_calibrate_options {
    const char *text; /* a file; "-": standard input */
    uint32_t max_tokens;
    uint32_t threads; /* 0: all processors */
    bool feedback;    /* keep all products */
};

struct sl_calibrator;
/* src: the checkpoint; its exact pack is made in the cache when it is not there (sl_pack_open_any). Fills
 * *calibration, which lives as long as the calibrator. SL_E_DATA when the text is too short to say anything.
 */
sl_status sl_calibrator_create(struct sl_calibrator **calibrator, const char *src,
                               const struct sl_calibrate_options *options,
                               struct sl_pack_calibration *calibration, struct sl_err *err);
void sl_calibrator_destroy(struct sl_calibrator *calibrator); /* NULL is fine */

#endif
