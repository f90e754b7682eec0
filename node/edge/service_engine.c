/* vllm.grpc.engine.VllmEngine: registration and everything but Generate (engine_generate.c).
 *
 * Gateways find out which engine they face by HealthCheck, read the model from GetModelInfo, watch
 * GetLoads, and abort by request id, besides hanging up. GetTokenizer is in tokenizer_archive.c, SubscribeKvEvents in
 * kv_events.c. The rest
 * is UNIMPLEMENTED with a sentence; a gateway takes that as "this engine has no such thing". */
#include "base/clock.h"
#include "base/log.h"
#include "model/shape.h"
#include "node/edge/edge.h"
#include "node/edge/engine_impl.h"
#include "node/edge/kv_events.h"
#include "node/edge/tokenizer_archive.h"
#include <jansson.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_ABORT_IDS = 1024 };

/* A pointer that a generated struct wants without const; packing only reads it. */
static char *unconst(const char *text)
{
    return (char *)(uintptr_t)text;
}

static void on_health(struct sl_rpc_call *call, const uint8_t *message, size_t bytes, void *context)
{
    struct sl_engine *engine = context;
    Vllm__Grpc__Engine__HealthCheckResponse reply = VLLM__GRPC__ENGINE__HEALTH_CHECK_RESPONSE__INIT;
    struct sl_load load;
    (void)message, (void)bytes;
    sl_coordinator_load(engine->coordinator, &load);
    const char *shut = atomic_load(&engine->view->shut_because);
    reply.healthy = load.life == SL_LIFE_READY && !load.silent && !load.alone && !shut;
    reply.message = unconst(reply.healthy ? "ok"
                            : load.silent ? "a stage or the decode worker is silent"
                            : load.alone && load.life == SL_LIFE_READY
                                ? "no decode worker is here; start one with sluice decode"
                            : load.life == SL_LIFE_READY   ? shut
                            : load.life == SL_LIFE_FORMING ? "waiting for stages"
                                                           : sl_life_name(load.life));
    sl_pb_reply(call, &reply.base);
}

/* Who is known aborts what he began, an admin anything; of others' ids nothing is told, as if they were not there. Each id becomes a post to the coordinator, so their number is bounded, too. */
static bool check_abort(const Vllm__Grpc__Engine__AbortRequest *request, char *sentence, size_t room)
{
    sentence[0] = 0;
    if (request->n_request_ids > MAX_ABORT_IDS)
        snprintf(sentence, room, "request_ids has %zu ids; at most %d are accepted", request->n_request_ids,
                 MAX_ABORT_IDS);
    for (size_t i = 0; !sentence[0] && i < request->n_request_ids; i++)
        if (strlen(request->request_ids[i]) >= SL_MAX_REQUEST_ID)
            snprintf(sentence, room, "request_ids[%zu] has %zu bytes; at most %d are accepted", i,
                     strlen(request->request_ids[i]), SL_MAX_REQUEST_ID - 1);
    return !sentence[0];
}

static void on_abort(struct sl_rpc_call *call, const uint8_t *message, size_t bytes, void *context)
{
    struct sl_engine *engine = context;
    Vllm__Grpc__Engine__AbortResponse reply = VLLM__GRPC__ENGINE__ABORT_RESPONSE__INIT;
    struct sl_pb pb = {0};
    const Vllm__Grpc__Engine__AbortRequest *request =
        (const void *)sl_pb_unpack(&pb, call, &vllm__grpc__engine__abort_request__descriptor, message, bytes);
    if (!request)
        return;
    char sentence[160];
    const struct sl_caller *who = sl_rpc_caller(call);
    bool any = who->role == SL_CALLER_OPEN || who->role == SL_CALLER_ADMIN;
    if (check_abort(request, sentence, sizeof sentence)) {
        for (size_t i = 0; i < request->n_request_ids; i++)
            sl_coordinator_cancel_id(engine->coordinator, request->request_ids[i], any ? NULL : who->name);
        sl_pb_reply(call, &reply.base);
    } else {
        sl_engine_refuse(call, SL_E_INVALID, sentence, 0);
    }
    sl_pb_free(&pb);
}

/* Who is known to administrate may; where nobody is asked who he is, only the machine itself. */
static void on_flush(struct sl_rpc_call *call, const uint8_t *message, size_t bytes, void *context)
{
    struct sl_engine *engine = context;
    Smg__Grpc__Common__FlushCacheResponse reply = SMG__GRPC__COMMON__FLUSH_CACHE_RESPONSE__INIT;
    (void)message, (void)bytes;
    if (sl_rpc_caller(call)->role != SL_CALLER_ADMIN) {
        sl_rpc_finish(call, SL_E_UNIMPLEMENTED,
                      "FlushCache is served to an admin's certificate alone; without TLS, on the node's own "
                      "machine, POST /debug/flush_prefix_cache to its ops port");
        return;
    }
    reply.success = sl_coordinator_flush_prefixes(engine->coordinator);
    reply.message = unconst(reply.success ? "flushed" : "there is no prefix cache");
    sl_log_info("%s flushes the prefix cache", sl_rpc_caller(call)->name);
    sl_pb_reply(call, &reply.base);
}

/* ---- info ---- */

/* The sampling values that the model's authors recommend, as JSON; NULL: none. Only those we serve:
 * a gateway fills them into requests that leave them out. */
static char *default_sampling(const struct sl_coordinator *coordinator)
{
    static const char *const served[] = {
        "temperature",       "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty",
        "repetition_penalty"};
    char *given = NULL, *text = NULL;
    size_t bytes = 0;
    if (sl_coordinator_read_file(coordinator, "generation_config.json", &given, &bytes, NULL) != SL_OK)
        return NULL;
    json_t *file = json_loadb(given, bytes, JSON_REJECT_DUPLICATES, NULL), *chosen = json_object();
    free(given);
    for (size_t i = 0; file && i < sizeof served / sizeof *served; i++) {
        json_t *value = json_object_get(file, served[i]);
        if (json_is_number(value))
            json_object_set(chosen, served[i], value);
    }
    if (json_object_size(chosen))
        text = json_dumps(chosen, JSON_COMPACT | JSON_SORT_KEYS | JSON_REAL_PRECISION(7));
    json_decref(chosen);
    json_decref(file);
    return text;
}

static void on_model_info(struct sl_rpc_call *call, const uint8_t *message, size_t bytes, void *context)
{
    struct sl_engine *engine = context;
    const struct sl_shape *shape = sl_coordinator_shape(engine->coordinator);
    uint32_t context_tokens = sl_coordinator_context(engine->coordinator);
    Vllm__Grpc__Engine__GetModelInfoResponse reply = VLLM__GRPC__ENGINE__GET_MODEL_INFO_RESPONSE__INIT;
    char *architectures[] = {unconst(shape->architecture)};
    int32_t eos[SL_MAX_EOS];
    (void)message, (void)bytes;
    for (uint32_t i = 0; i < shape->n_eos; i++)
        eos[i] = (int32_t)shape->eos[i];
    reply.model_path = unconst(sl_coordinator_model_path(engine->coordinator));
    reply.tokenizer_path = reply.model_path;
    reply.served_model_name = unconst(sl_coordinator_model_name(engine->coordinator));
    reply.is_generation = true;
    reply.max_context_length = context_tokens;
    reply.max_req_input_len = context_tokens ? (int32_t)context_tokens - 1 : 0;
    reply.vocab_size = shape->vocab;
    reply.model_type = unconst(shape->model_type);
    reply.n_architectures = 1;
    reply.architectures = architectures;
    reply.n_eos_token_ids = shape->n_eos;
    reply.eos_token_ids = eos;
    reply.pad_token_id = shape->pad < 0 ? 0 : shape->pad;
    reply.bos_token_id = shape->bos < 0 ? 0 : shape->bos;
    char *sampling = default_sampling(engine->coordinator);
    if (sampling)
        reply.default_sampling_params_json = sampling;
    sl_pb_reply(call, &reply.base);
    free(sampling);
}

static void on_server_info(struct sl_rpc_call *call, const uint8_t *message, size_t bytes, void *context)
{
    struct sl_engine *engine = context;
    Vllm__Grpc__Engine__GetServerInfoResponse reply = VLLM__GRPC__ENGINE__GET_SERVER_INFO_RESPONSE__INIT;
    struct sl_load load;
    (void)message, (void)bytes;
    sl_coordinator_load(engine->coordinator, &load);
    reply.active_requests = load.running + load.waiting;
    reply.is_paused = load.life == SL_LIFE_DRAINING;
    reply.last_receive_timestamp = (double)load.last_receive_wall_us * 1e-6;
    reply.uptime_seconds = (double)load.uptime_us * 1e-6;
    reply.server_type = unconst("sluice");
    reply.data_parallel_size = 1;
    reply.kv_cache_dtype = unconst(sl_coordinator_kv_dtype(engine->coordinator));
    reply.block_size = SL_PAGE;
    reply.attention_backend = unconst("sluice");
    reply.model_dtype = unconst("bf16");
    reply.max_num_seqs = (int32_t)load.max_running;
    sl_pb_reply(call, &reply.base);
}

static double ratio(uint64_t part, uint64_t whole)
{
    return whole ? (double)part / (double)whole : 0.0;
}

static void on_loads(struct sl_rpc_call *call, const uint8_t *message, size_t bytes, void *context)
{
    struct sl_engine *engine = context;
    Vllm__Grpc__Engine__GetLoadsResponse reply = VLLM__GRPC__ENGINE__GET_LOADS_RESPONSE__INIT;
    Vllm__Grpc__Engine__SchedulerLoad rank0 = VLLM__GRPC__ENGINE__SCHEDULER_LOAD__INIT, *loads[] = {&rank0};
    struct sl_load load;
    struct sl_pb pb = {0};
    const Vllm__Grpc__Engine__GetLoadsRequest *request = (const void *)sl_pb_unpack(
        &pb, call, &vllm__grpc__engine__get_loads_request__descriptor, message, bytes);
    if (!request)
        return;
    bool wanted = !request->_dp_rank_case || request->dp_rank <= 0;
    sl_pb_free(&pb);
    char timestamp[32];
    time_t now = (time_t)(sl_clock_wall_us() / 1000000u);
    struct tm utc;
    strftime(timestamp, sizeof timestamp, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
    sl_coordinator_load(engine->coordinator, &load);
    rank0.num_running_reqs = (int32_t)load.running;
    rank0.num_waiting_reqs = (int32_t)load.waiting;
    rank0.num_total_reqs = (int32_t)(load.running + load.waiting);
    rank0.num_used_tokens = (int32_t)(load.kv_pages_used * SL_PAGE);
    rank0.max_total_num_tokens = (int32_t)(load.kv_pages_total * SL_PAGE);
    rank0.token_usage = ratio(load.kv_pages_used, load.kv_pages_total);
    rank0.gen_throughput = load.output_tokens_per_s;
    rank0.cache_hit_rate =
        ratio(load.prompt_tokens_cached, load.prompt_tokens_cached + load.prompt_tokens_computed);
    rank0.utilization = ratio(load.decoding, load.max_running);
    rank0.max_running_requests = (int32_t)load.max_running;
    rank0.num_waiting_uncached_tokens = (int32_t)load.waiting_tokens;
    reply.timestamp = timestamp;
    reply.version = unconst(SLUICE_VERSION);
    reply.dp_rank_count = 1;
    reply.n_loads = wanted;
    reply.loads = loads;
    sl_pb_reply(call, &reply.base);
}

/* ---- registration ---- */

static void on_unserved(struct sl_rpc_call *call, const uint8_t *message, size_t bytes, void *context)
{
    (void)message, (void)bytes;
    sl_rpc_finish(call, SL_E_UNIMPLEMENTED, context);
}

uint32_t sl_engine_methods(struct sl_engine *engine, struct sl_rpc_method *methods)
{
#define PATH(name) "/vllm.grpc.engine.VllmEngine/" name
    const struct sl_rpc_method served[] = {
        {PATH("Generate"), true, sl_engine_on_generate, engine, false, SL_RPC_WORK, SL_RPC_USERS},
        {PATH("HealthCheck"), false, on_health, engine, false, SL_RPC_ADMIN, SL_RPC_USERS},
        {PATH("Abort"), false, on_abort, engine, false, SL_RPC_ADMIN, SL_RPC_USERS},
        {PATH("GetModelInfo"), false, on_model_info, engine, false, SL_RPC_ADMIN, SL_RPC_USERS},
        {PATH("GetServerInfo"), false, on_server_info, engine, false, SL_RPC_ADMIN, SL_RPC_USERS},
        {PATH("GetLoads"), false, on_loads, engine, false, SL_RPC_ADMIN, SL_RPC_USERS},
        {PATH("GetTokenizer"), true, sl_archive_on_call, engine->archive, false, SL_RPC_WORK, SL_RPC_USERS},
        {PATH("Embed"), false, on_unserved, unconst("Embed is not served: the model generates text"), false,
         SL_RPC_ADMIN, SL_RPC_USERS},
        {PATH("FlushCache"), false, on_flush, engine, false, SL_RPC_ADMIN, SL_RPC_ADMINISTRATOR},
        {PATH("StartProfile"), false, on_unserved,
         unconst("StartProfile is not served: ask for a timeline with the request"), false, SL_RPC_ADMIN,
         SL_RPC_ADMINISTRATOR},
        {PATH("StopProfile"), false, on_unserved,
         unconst("StopProfile is not served: ask for a timeline with the request"), false, SL_RPC_ADMIN,
         SL_RPC_ADMINISTRATOR},
        {PATH("SubscribeKvEvents"), true, sl_kv_watches_on_call, engine->kv_watches, false, SL_RPC_WATCH,
         SL_RPC_GATEWAY | SL_RPC_ADMINISTRATOR},
    };
#undef PATH
    memcpy(methods, served, sizeof served);
    return sizeof served / sizeof *served;
}

static sl_status read_of_coordinator(void *coordinator, const char *name, char **text, size_t *bytes,
                                     struct sl_err *err)
{
    return sl_coordinator_read_file(coordinator, name, text, bytes, err);
}

struct sl_engine *sl_engine_create(struct sl_edge_view *view)
{
    struct sl_engine *engine = calloc(1, sizeof *engine);
    if (!engine)
        return NULL;
    engine->coordinator = view->coordinator;
    engine->view = view;
    engine->archive = sl_archive_create(read_of_coordinator, view->coordinator);
    engine->kv_watches = sl_kv_watches_create(view->coordinator);
    if (!engine->archive || !engine->kv_watches) {
        sl_engine_destroy(engine);
        return NULL;
    }
    return engine;
}

void sl_engine_destroy(struct sl_engine *engine)
{
    if (!engine)
        return;
    sl_archive_destroy(engine->archive);
    sl_kv_watches_destroy(engine->kv_watches);
    free(engine);
}

void sl_engine_end(struct sl_engine *engine)
{
    sl_kv_watches_end(engine->kv_watches);
}
