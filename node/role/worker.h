/* A stage or decode worker as a process: LOAD (open the pack) -> JOIN (the coordinator's plan) -> bind weights, links ->
 * READY -> DRAIN -> STOP. The Join stream is the leash (member.h): when it can't be taken up again, the worker ends. */
#ifndef SL_NODE_ROLE_WORKER_H
#define SL_NODE_ROLE_WORKER_H

#include "base/status.h"
#include "model/pack/weights.h"
#include "node/coordinator/join_key.h"
#include "pipeline/record/rows.h"
#include <stdint.h>

struct sl_worker_config {
    const char *model;        /* a pack, or a checkpoint that is packed on first use */
    const char *coordinator;  /* HOST:PORT of its gRPC port */
    const char *data_address; /* to listen on, and where neighbours reach us: a name or an IP address */
    uint16_t data_port;       /* 0: one of 13000..13063 */
    const char *ops;          /* NULL: no ops HTTP */
    struct sl_join_key key;
    bool decode;
    bool whole; /* a decode worker with which the pipeline ends, as with a stage */
    uint32_t stage;
    uint32_t n_threads; /* 0: all processors */
    const char *device; /* as sl_device_kind_read takes it; NULL: the CPU */
    uint32_t join_timeout_s, lost_after_s;
    const char *numerics;  /* "auto", or the one profile that it offers */
    enum sl_rows_way rows; /* of a stage, to and from those beside it */
    bool rows_auto;        /* in place of it: whichever all stages have, from GPU to GPU if they can */
    struct sl_loading load;
};

/* Runs until it is told to stop. Signals must be blocked in the caller; they are waited for here. */
sl_status sl_worker_run(const struct sl_worker_config *config, struct sl_err *err);

#endif
