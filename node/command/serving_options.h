/* The options that `serve` and `coordinator` share: one struct inside both commands' values, one list of rows. */
#ifndef SL_NODE_COMMAND_SERVING_OPTIONS_H
#define SL_NODE_COMMAND_SERVING_OPTIONS_H

#include "node/command/security.h"
#include "node/coordinator/coordinator.h"
#include "node/coordinator/tenants.h"

struct sl_serving_options {
    const char *listen, *ops, *kv, *numerics, *name, *schedule, *tenant_weight, *prefix_cache, *link_auth;
    const char *otlp_endpoint, *layers;
    uint32_t stages, decoders, max_decoders, decode_stages, chunk, max_prefill, max_running, max_waiting,
        context, kv_tokens, drain_timeout, lost_after, chunk_ms, slo;
    struct sl_server_tls tls;
};

/* values: the command's struct, whose member `serving` is a struct sl_serving_options. */
#define SL_SERVING_ROWS(values)                                                                              \
    SL_OPTION_STAGES(values, serving.stages, "2"), SL_OPTION_LAYERS(values, serving.layers),                 \
        SL_OPTION_NUMBER("decoders", values, serving.decoders, "1", 1, SL_MAX_DECODERS, "workers",           \
                         "Decode workers that must be there before it is ready; others may join later."),    \
        SL_OPTION_NUMBER(                                                                                    \
            "max-decoders", values, serving.max_decoders, "0", 0, SL_MAX_DECODERS, "workers",                \
            "Decode workers that may be there at once: places are kept for them. 0: 4, or as many as "       \
            "--decoders."),                                                                                  \
        SL_OPTION_DECODE_STAGES(values, serving.decode_stages),                                              \
        SL_OPTION_TEXT("listen", SL_OPT_ADDRESS, values, serving.listen, "127.0.0.1:50051", NULL,            \
                       "gRPC for clients and for joining nodes; *:PORT for every address of this machine."), \
        SL_OPTION_OPS(values, serving.ops, "127.0.0.1:8081"), SL_OPTION_CHUNK(values, serving.chunk),        \
        SL_OPTION_KV(values, serving.kv), SL_OPTION_NUMERICS(values, serving.numerics, "f32"),               \
        SL_OPTION_MAX_PREFILL(values, serving.max_prefill),                                                  \
        SL_OPTION_MAX_RUNNING(values, serving.max_running),                                                  \
        SL_OPTION_NUMBER(                                                                                    \
            "max-waiting", values, serving.max_waiting, "1024", 1, SL_MAX_WAITING, "requests",               \
            "More are refused when so many are here beside those that --max-prefill and "                    \
            "--max-running of each of --max-decoders allow to be worked on, or when the queue "              \
            "holds 64 MiB, 64 Mi tokens or 4 hours of work; while others wait, a tenant has its share."),    \
        SL_OPTION_SCHEDULE(values, serving.schedule), SL_OPTION_CHUNK_MS(values, serving.chunk_ms),          \
        SL_OPTION_SLO(values, serving.slo),                                                                  \
        SL_OPTION_TEXT("tenant-weight", SL_OPT_LIST, values, serving.tenant_weight, NULL, "NAME=W",          \
                       "With --schedule slo, the share of a tenant (x-tenant-id) beside the others', who "   \
                       "weigh 1; may be given several times, or as a list with commas."),                    \
        SL_OPTION_CHOICE("prefix-cache", values, serving.prefix_cache, "on", "on|off",                       \
                         "Keep the KV pages of prompts and answers that are done, on stages and decode "     \
                         "workers, and neither compute nor push them again for one that starts with the "    \
                         "same tokens (and x-cache-salt)."),                                                 \
        SL_OPTION_CONTEXT(values, serving.context), SL_OPTION_KV_TOKENS(values, serving.kv_tokens),          \
        SL_OPTION_TEXT("name", SL_OPT_STRING, values, serving.name, NULL, NULL,                              \
                       "Model name told to clients; without it, that of the directory as given."),           \
        SL_OPTION_CHOICE("link-auth", values, serving.link_auth, "header", "none|header|payload",            \
                         "What every frame between nodes proves. header: who sent it, by a MAC of its "      \
                         "header; payload: that no byte was changed, by a MAC of all; none: neither."),      \
        SL_OPTION_TEXT("otlp-endpoint", SL_OPT_STRING, values, serving.otlp_endpoint, NULL, "URL",           \
                       "Bring a trace of each request to this OpenTelemetry collector, over HTTP "           \
                       "(http://HOST:4318); without it, none."),                                             \
        SL_OPTION_LOST_AFTER(values, serving.lost_after),                                                    \
        SL_OPTION_NUMBER("drain-timeout", values, serving.drain_timeout, "60", 0, 86400, "s",                \
                         "How long running requests may take after SIGTERM."),                               \
        SL_SERVER_TLS_ROWS(values, serving.tls)

_Static_assert(SL_WAITING_BYTES == 64 << 20 && SL_WAITING_TOKENS == 64 << 20 &&
                   SL_WAITING_WORK_US == UINT64_C(4) * 3600 * 1000000,
               "the help of --max-waiting says so");

static inline enum sl_schedule_kind sl_schedule_of(const struct sl_serving_options *v)
{
    return v->schedule[0] == 'f' ? SL_SCHEDULE_FIFO : SL_SCHEDULE_SLO;
}

/* Room for as many as are asked for, and for some that come while others go. */
static inline uint32_t sl_serving_max_decoders(const struct sl_serving_options *v)
{
    return v->max_decoders ? v->max_decoders : v->decoders > 4 ? v->decoders : 4;
}

struct sl_plan_options;
/* Refuses what config.json of the model (a checkpoint or a pack) shows to be impossible; before it is packed. */
sl_status sl_plan_early(const char *model, const struct sl_plan_options *options, struct sl_err *err);
/* Likewise, for who serves nobody. */
sl_status sl_plan_early_alone(const char *model, const struct sl_plan_options *options, struct sl_err *err);

#endif
