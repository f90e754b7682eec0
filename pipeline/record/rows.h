/* How a chunk's rows get from a stage to the next one: what plans say of a link, and `--rows` of a stage. Records, credits and all else
 * go the same way whichever it is. */
#ifndef SL_PIPELINE_RECORD_ROWS_H
#define SL_PIPELINE_RECORD_ROWS_H

#include <stdbool.h>

enum sl_rows_way {
    SL_ROWS_STAGED, /* through the host's memory, by the links' transport */
    SL_ROWS_UCX,    /* from a device's memory into another's, by UCX */
    SL_ROWS_NCCL,   /* likewise, by NCCL beside the links (pipeline/link/transport_nccl.c) */
    SL_ROWS_WAYS
};
const char *sl_rows_name(enum sl_rows_way way);                /* "staged" "ucx" "nccl" */
bool sl_rows_by_name(const char *name, enum sl_rows_way *way); /* false: there is none of that name */

#endif
