/* What was measured of a stage's chunks, kept in the cache directory beside the tuning of the kernels (kernels/tune.h): a small
 * text file for each model, layer range, processor, device (of GPUs: each kind) and way to compute. It is untrusted: what was read is parsed, checked, written
 * again in memory and compared, so nothing that we did not write ourselves is believed. */
#ifndef SL_PIPELINE_STAGE_COST_STORE_H
#define SL_PIPELINE_STAGE_COST_STORE_H

#include "base/status.h"
#include "pipeline/decide/cost_fit.h"

enum { SL_COST_POINTS = 18, SL_COST_FILE = 2048, SL_COST_KEY = 512 };

struct sl_measured_point {
    uint32_t pos, rows, wanted; /* a chunk of one slice */
    double us;
};

struct sl_measured_cost {
    struct sl_cost cost;
    uint32_t reach_rows, reach_pos; /* the largest that could have been measured, had there been time */
    uint32_t n_points;
    struct sl_measured_point points[SL_COST_POINTS];
};

static inline struct sl_cost_chunk sl_measured_chunk(const struct sl_measured_point *point)
{
    struct sl_cost_chunk chunk = {0};
    sl_cost_add(&chunk, point->pos, point->rows);
    sl_cost_want(&chunk, point->wanted);
    return chunk;
}

/* key: lines that say whose cost it is, each with its line feed. */
void sl_cost_render(const struct sl_measured_cost *measured, const char *key, char text[SL_COST_FILE]);
/* NULL: it is to the letter what we would write; else what is wrong, a few words. */
const char *sl_cost_parse(struct sl_measured_cost *measured, const char *key, const char *text, size_t bytes);

/* False: there is no such file, or none that can be used, of which a warning tells. */
bool sl_cost_load(struct sl_measured_cost *measured, const char *key, const char *dir);
/* Whole or not at all. False: it could not be written. */
bool sl_cost_save(const struct sl_measured_cost *measured, const char *key, const char *dir);

#endif
