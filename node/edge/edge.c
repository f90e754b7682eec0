/* The edge put together (edge.h): one server with all services, one ops listener, one switch
 * "serving". */
#include "node/edge/edge.h"
#include "base/clock.h"
#include "base/log.h"
#include "node/edge/admin_http.h"
#include "node/edge/records_json.h"
#include "node/edge/schedule_json.h"
#include "node/edge/traces.h"
#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { VIEW_MS = 2000 }; /* the one thread of the ops port waits no longer */
enum { WORKERS = 2, MESSAGE_BYTES = 32 << 20, METADATA_BYTES = 8 << 10, QUEUE_MESSAGES = 64 };

static const char *const service_names[] = {"", "vllm.grpc.engine.VllmEngine",
                                            "inference.GRPCInferenceService"};

struct sl_edge {
    struct sl_edge_view view;
    struct sl_rpc_server *server;
    pthread_mutex_t
        switching; /* between what switches health: nobody else may keep a node from saying that it ends */
    pthread_mutex_t lock;        /* between who asks a server and its end; a scrape holds it for its time */
    struct sl_rpc_server *asked; /* by metrics; NULL: not yet, or not any more */
    struct sl_engine *engine;
    struct sl_health *health;
    struct sl_admin *ops;
    atomic_bool serving, has_served;
};

/* The pipeline's life, to whoever asks why this node takes nothing. */
static const char *why_not(enum sl_life life)
{
    static const char *const sentences[SL_LIVES] = {
        [SL_LIFE_FORMING] = "waiting for stages",     [SL_LIFE_READY] = "waiting for the links of the stages",
        [SL_LIFE_DRAINING] = "this node is draining", [SL_LIFE_LOST] = "a stage or the decode worker is lost",
        [SL_LIFE_STOPPED] = "this node is stopping",
    };
    return sentences[life];
}

static const char *why_silent(struct sl_coordinator *coordinator)
{
    struct sl_load load;
    sl_coordinator_load(coordinator, &load);
    return load.alone ? "no decode worker is here; start one with sluice decode"
                      : "a stage or the decode worker is silent";
}

static void on_state(void *context, struct sl_admin_state *state)
{
    struct sl_edge *edge = context;
    state->started = atomic_load(&edge->has_served);
    const char *shut = atomic_load(&edge->view.shut_because);
    state->ready = atomic_load(&edge->serving) && !shut;
    state->profile = sl_coordinator_profile(edge->view.coordinator);
    if (!state->ready)
        state->reason = atomic_load(&edge->serving) && shut ? shut
                        : sl_coordinator_silent(edge->view.coordinator)
                            ? why_silent(edge->view.coordinator)
                            : why_not(sl_coordinator_life(edge->view.coordinator));
}

static void on_metrics(void *context, struct sl_text *text)
{
    struct sl_edge *edge = context;
    sl_coordinator_metrics(edge->view.coordinator, text);
    pthread_mutex_lock(&edge->lock);
    if (edge->asked)
        sl_rpc_server_metrics(edge->asked, text);
    pthread_mutex_unlock(&edge->lock);
    if (edge->view.traces)
        sl_traces_metrics(edge->view.traces, text);
}

static bool on_schedule(void *context, struct sl_text *text)
{
    struct sl_edge *edge = context;
    struct sl_core_view *view = malloc(sizeof *view);
    bool taken = view && sl_coordinator_view(edge->view.coordinator, view, VIEW_MS) == SL_OK;
    if (taken)
        sl_schedule_json(view, text);
    free(view);
    return taken;
}

static bool on_records(void *context, struct sl_text *text)
{
    struct sl_edge *edge = context;
    struct sl_tail tail = {.words = malloc(SL_TAIL_WORDS * sizeof *tail.words)};
    bool taken = tail.words && sl_coordinator_records(edge->view.coordinator, &tail, VIEW_MS) == SL_OK;
    if (taken)
        sl_records_json(&tail, sl_clock_ns() / 1000, text);
    free(tail.words);
    return taken;
}

static bool on_flush(void *context)
{
    struct sl_edge *edge = context;
    return sl_coordinator_flush_prefixes(edge->view.coordinator);
}

/* Health is what both say, the pipeline and the listener, as it is now. */
static void tell_health(struct sl_edge *edge)
{
    pthread_mutex_lock(&edge->switching);
    bool serving = atomic_load(&edge->serving) && !atomic_load(&edge->view.shut_because);
    for (size_t i = 0; i < sizeof service_names / sizeof *service_names; i++)
        sl_health_set(edge->health, service_names[i], serving);
    pthread_mutex_unlock(&edge->switching);
}

static void on_door(void *context, const char *why)
{
    struct sl_edge *edge = context;
    atomic_store(&edge->view.shut_because, why);
    tell_health(edge);
    if (why && atomic_load(&edge->serving))
        sl_log_warn("not ready: %s", why);
}

static void discard(struct sl_edge *edge)
{
    sl_admin_stop(edge->ops);
    sl_engine_destroy(edge->engine);
    sl_health_destroy(edge->health);
    pthread_mutex_destroy(&edge->switching);
    pthread_mutex_destroy(&edge->lock);
    free(edge);
}

static sl_status start_server(struct sl_edge *edge, const struct sl_edge_config *config, struct sl_err *err)
{
    uint32_t n = 0;
    struct sl_rpc_method *methods = calloc(SL_EDGE_METHODS + config->n_methods, sizeof *methods);
    if (!methods)
        return sl_fail(err, SL_E_NOMEM, "out of memory for the services on %s", config->listen);
    n += sl_engine_methods(edge->engine, methods + n);
    n += sl_health_methods(edge->health, methods + n);
    n += sl_reflection_methods(methods + n);
    n += sl_oip_methods(&edge->view, methods + n);
    assert(n <= SL_EDGE_METHODS);
    if (config->n_methods)
        memcpy(methods + n, config->methods, config->n_methods * sizeof *methods);
    for (uint32_t i = 0; i < config->n_methods; i++)
        methods[n++].place = SL_RPC_CONTROL;
    const struct sl_rpc_server_config server = {.listen = config->listen,
                                                .tls = config->tls,
                                                .socket = config->socket,
                                                .n_workers = WORKERS,
                                                .max_message_bytes = MESSAGE_BYTES,
                                                .max_metadata_bytes = METADATA_BYTES,
                                                .queue_messages = QUEUE_MESSAGES,
                                                .on_door = on_door,
                                                .context = edge};
    sl_status status = sl_rpc_server_start(&edge->server, &server, methods, n, err);
    free(methods);
    pthread_mutex_lock(&edge->lock);
    edge->asked = edge->server;
    pthread_mutex_unlock(&edge->lock);
    return status;
}

sl_status sl_edge_start(struct sl_edge **out, const struct sl_edge_config *config, struct sl_err *err)
{
    struct sl_edge *edge = calloc(1, sizeof *edge);
    if (!edge)
        return sl_fail(err, SL_E_NOMEM, "out of memory for the edge on %s", config->listen);
    edge->view.coordinator = config->coordinator;
    edge->view.trust_headers = config->trust_headers;
    edge->view.traces = config->traces;
    pthread_mutex_init(&edge->switching, NULL);
    pthread_mutex_init(&edge->lock, NULL);
    edge->engine = sl_engine_create(&edge->view);
    edge->health = sl_health_create();
    if (!edge->engine || !edge->health) {
        discard(edge);
        return sl_fail(err, SL_E_NOMEM, "out of memory for the edge on %s", config->listen);
    }
    for (size_t i = 0; i < sizeof service_names / sizeof *service_names; i++)
        sl_health_set(edge->health, service_names[i], false);
    const struct sl_admin_config ops = {.listen = config->ops,
                                        .state = on_state,
                                        .metrics = on_metrics,
                                        .schedule = on_schedule,
                                        .records = on_records,
                                        .flush = on_flush,
                                        .context = edge};
    sl_status status = config->ops ? sl_admin_start(&edge->ops, &ops, err) : SL_OK;
    if (status == SL_OK)
        status = start_server(edge, config, err);
    if (status != SL_OK) {
        discard(edge);
        return status;
    }
    *out = edge;
    return SL_OK;
}

int sl_edge_port(const struct sl_edge *edge)
{
    return sl_rpc_server_port(edge->server);
}

int sl_edge_ops_port(const struct sl_edge *edge)
{
    return edge->ops ? sl_admin_port(edge->ops) : 0;
}

void sl_edge_set_serving(struct sl_edge *edge, bool serving)
{
    if (serving)
        atomic_store(&edge->has_served, true);
    if (atomic_exchange(&edge->serving, serving) == serving)
        return;
    tell_health(edge);
    sl_log_info("the endpoint is %s", serving ? "serving" : "not serving");
}

void sl_edge_stop(struct sl_edge *edge, uint32_t grace_ms)
{
    sl_edge_set_serving(edge, false);
    sl_health_end(edge->health);
    sl_engine_end(edge->engine);
    pthread_mutex_lock(&edge->lock);
    edge->asked = NULL;
    pthread_mutex_unlock(&edge->lock);
    sl_rpc_server_stop(edge->server, grace_ms);
    discard(edge);
}
