/* How a chunk's rows get from a stage to the next one: what plans say of a link, and `--rows` of a stage. Records, credits and all else
 * go the same way whichever it is. */
#ifndef SL_PIPELINE_RECORD_ROWS_H
#define SL_PIPELINE_RECORD_ROWS_H

#include <stdbool.h>
#include <stdint.h>

enum sl_rows_way {
    SL_ROWS_STAGED, /* through the host's memory, by the links' transport */
    SL_ROWS_UCX, /* from a device's memory into another's, beside the links (pipeline/link/transport_beside.h), by UCX */
    SL_ROWS_NCCL, /* likewise, by NCCL */
    SL_ROWS_WAYS
};

/* Rows of a chunk from so many bytes on go beside the link, where its plan says so: below that a call of NCCL costs more than it
 * saves, and they are staged as any others. */
enum { SL_ROWS_BESIDE_FROM = 256 * 1024 };

static inline bool sl_rows_go_beside(enum sl_rows_way way)
{
    return way == SL_ROWS_UCX || way == SL_ROWS_NCCL;
}

/* They are sealed by pieces of 16 bytes (base/lanes.h). */
static inline bool sl_rows_may_go_beside(uint32_t d_model)
{
    return d_model % 4 == 0;
}

const char *sl_rows_name(enum sl_rows_way way);                /* "staged" "ucx" "nccl" */
bool sl_rows_by_name(const char *name, enum sl_rows_way *way); /* false: there is none of that name */

#endif
