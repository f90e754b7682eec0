/* All roles as threads of one process: what `sluice generate --model`, `score --model` and the benches use. The same
 * coordinator, stages and decode worker as in a cluster, over the local transport or over UCX, without gRPC. */
#ifndef SL_NODE_LOCAL_CLUSTER_H
#define SL_NODE_LOCAL_CLUSTER_H

#include "model/pack/weights.h"
#include "node/coordinator/coordinator.h"

struct sl_cluster_config {
    const char *model;      /* a pack, or a checkpoint directory (packed on first use into the cache) */
    uint32_t n_stages;      /* 1..n_layers */
    const uint32_t *layers; /* [n_stages], until the start: how many each has; NULL: cut equally */
    uint32_t n_threads;     /* per stage, and for each part of a decode worker */
    uint32_t chunk_tokens;  /* 0: the default (prompt/8, 64..2048, a multiple of 64) */
    const char *transport;  /* "local" or "ucx" */
    const char *kv;         /* "auto", "bf16", "i8" or "f32": sl_pack_kv_dtype */
    const char *numerics;   /* "f32", "bf16dot", or "auto": the fastest that this machine has; NULL: f32 */
    uint64_t kv_tokens;     /* of each pool; 0: as sl_plan_options has it */
    uint32_t max_prefill, max_running; /* prompts on the stages, answers in the decode batch; 0: default */
    uint32_t context_tokens;           /* longest prompt + output the pools are planned for; 0: the model's */
    bool without_decode;               /* score: no decode worker is started */
    uint32_t n_decoders;               /* decode workers; 0: one */
    uint32_t n_parts;                  /* that each of them is cut into, by layers; 0: one */
    const char *device;                /* of all nodes, as sl_device_kind_read takes it; NULL: the CPU */
    enum sl_rows_way rows;             /* nccl, ucx: if the device has places for rows that go so */
    uint64_t rows_from;                /* as sl_plan_options has it */
    uint64_t late; /* bit k: what is node 1 + k of the plan is on SL_DEVICE_LATE, not the CPU */
    enum sl_schedule_kind schedule; /* and what follows: as sl_coordinator_config has them */
    uint64_t chunk_us, slo_us;
    uint32_t n_weights;
    const struct sl_tenant_weight *weights; /* until the start */
    bool prefix_cache;
    bool quiet;
    struct sl_loading load; /* of the weights */
};

struct sl_cluster;
sl_status sl_cluster_start(struct sl_cluster **cluster, const struct sl_cluster_config *config,
                           struct sl_err *err);
struct sl_coordinator *sl_cluster_coordinator(struct sl_cluster *cluster);
/* The io of a node, numbered as in plan.h, which is its owner's: for tests, which make its frames go wrong. */
struct sl_io *sl_cluster_io(struct sl_cluster *cluster, uint32_t node);
/* A part of a decode worker ends as if it died; for tests. */
void sl_cluster_end_decoder(struct sl_cluster *cluster, uint32_t decoder, uint32_t part);
void sl_cluster_stop(struct sl_cluster *cluster); /* waits for running requests at most 1 s, then ends them */

#endif
