/* The edge: everything of this node that speaks gRPC or HTTP to the outside. A server with its
 * services, and the ops listener.
 *
 * Order of life: sl_rpc_init - coordinator - sl_edge_start - ... - sl_edge_stop - coordinator down
 * - sl_rpc_fini. After sl_edge_stop no callback of the edge is running and no gRPC call is held; a
 * coordinator that still ends requests may call their sl_generated_fn safely. */
#ifndef SL_NODE_EDGE_EDGE_H
#define SL_NODE_EDGE_EDGE_H

#include "node/coordinator/coordinator.h"
#include "node/rpc/rpc.h"

struct sl_traces; /* traces.h */

struct sl_edge_config {
    const char *listen;              /* gRPC, "127.0.0.1:50051" */
    const struct sl_tls_config *tls; /* NULL: in the clear */
    const char *socket;              /* for nodes of this machine (sl_rpc_server_config); NULL: none */
    bool trust_headers;              /* of callers without a name, where nobody is asked for one */
    const char *ops;                 /* ops HTTP, "127.0.0.1:8081"; NULL: none */
    struct sl_coordinator *coordinator;
    struct sl_traces *traces;            /* NULL: none; it outlives the coordinator, too */
    const struct sl_rpc_method *methods; /* more of them: sluice.v1.Control */
    uint32_t n_methods;
};

struct sl_edge;
/* Starts as not serving. SL_E_UNAVAILABLE names the address that is taken. */
sl_status sl_edge_start(struct sl_edge **edge, const struct sl_edge_config *config, struct sl_err *err);
int sl_edge_port(const struct sl_edge *edge);
int sl_edge_ops_port(const struct sl_edge *edge); /* 0: none */
/* Drives health Check and Watch of "", VllmEngine and GRPCInferenceService, and /readyz; the first
 * true also /startupz. */
void sl_edge_set_serving(struct sl_edge *edge, bool serving);
/* Not serving; Watches end; no new calls; running ones go on for grace_ms, then are cancelled.
 * Blocks. */
void sl_edge_stop(struct sl_edge *edge, uint32_t grace_ms);

/* What the services say about readiness: the pipeline's life, and whether clients can come in. */
struct sl_edge_view {
    struct sl_coordinator *coordinator;
    bool trust_headers;
    struct sl_traces *traces; /* NULL: none */
    _Atomic(const char *)
        shut_because; /* NULL: gRPC connections are taken; else why not, a static sentence */
};

/* ---- the services; each fills methods of an array with room and returns how many ---- */
enum { SL_EDGE_METHODS = 32 }; /* more than all of ours together */

struct sl_engine;                                              /* vllm.grpc.engine.VllmEngine */
struct sl_engine *sl_engine_create(struct sl_edge_view *view); /* which outlives it */
void sl_engine_destroy(struct sl_engine *engine);              /* after the server's stop */
void sl_engine_end(struct sl_engine *engine); /* ends its streams that never end: before the server's stop */
uint32_t sl_engine_methods(struct sl_engine *engine, struct sl_rpc_method *methods);

struct sl_health; /* grpc.health.v1.Health */
struct sl_health *sl_health_create(void);
void sl_health_destroy(struct sl_health *health); /* after the server's stop */
uint32_t sl_health_methods(struct sl_health *health, struct sl_rpc_method *methods);
/* One caller at a time; a service is known from its first, before the server's start. service: a static string; "": the node. */
void sl_health_set(struct sl_health *health, const char *service, bool serving);
void sl_health_end(struct sl_health *health); /* ends all Watches, and later ones at once: before
                                                 the server's stop */

uint32_t sl_reflection_methods(struct sl_rpc_method *methods); /* grpc.reflection.v1 and v1alpha: no state */
uint32_t sl_oip_methods(struct sl_edge_view *view,
                        struct sl_rpc_method *methods); /* Open Inference Protocol v2 */

#endif
