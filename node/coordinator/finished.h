/* The requests that were answered last, with the time of their end: when a node finds its weights spoiled, what has been told since
 * they were last known to be good can't be recalled, but it can be named. The coordinator's thread. */
#ifndef SL_NODE_COORDINATOR_FINISHED_H
#define SL_NODE_COORDINATOR_FINISHED_H

#include "pipeline/decide/core.h"

enum { SL_FINISHED_KEPT = 1024 };

struct sl_finished {
    struct {
        char id[SL_MAX_REQUEST_ID];
        uint64_t end_us;
    } kept[SL_FINISHED_KEPT]; /* the newest is at (n - 1) % SL_FINISHED_KEPT */
    uint64_t n;
};

void sl_finished_add(struct sl_finished *finished, const char *id, uint64_t end_us);
/* A line of the log for every few of those that ended at since_us or later, newest first; returns how many were named. */
uint32_t sl_finished_name(const struct sl_finished *finished, uint64_t since_us);

#endif
