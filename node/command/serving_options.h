/* The options that `serve` and `coordinator` share: one struct inside both commands' values, one list of rows. */
#ifndef SL_NODE_COMMAND_SERVING_OPTIONS_H
#define SL_NODE_COMMAND_SERVING_OPTIONS_H

#include "node/command/options.h"
#include "pipeline/decide/plan.h"

struct sl_serving_options {
    const char *listen, *ops, *kv, *numerics, *name;
    uint32_t stages, chunk, max_running, max_waiting, context, kv_tokens, drain_timeout;
};

#define SL_SERVING_ROW(type, values, option, field, fallback, choices, min, max, unit, help)                 \
    {                                                                                                        \
        option, type, offsetof(struct values, serving.field), fallback, choices, min, max, unit, help        \
    }

/* values: the command's struct, whose member `serving` is a struct sl_serving_options. */
#define SL_SERVING_ROWS(values)                                                                              \
    SL_SERVING_ROW(SL_OPT_UINT, values, "stages", stages, "2", NULL, 1, SL_MAX_STAGES, "stages",             \
                   "Into how many stages the layers are cut."),                                              \
        SL_SERVING_ROW(SL_OPT_ADDRESS, values, "listen", listen, "127.0.0.1:50051", NULL, 0, 0, NULL,        \
                       "gRPC for clients and for joining nodes."),                                           \
        SL_SERVING_ROW(SL_OPT_ADDRESS, values, "ops", ops, "127.0.0.1:8081", NULL, 0, 0, NULL,               \
                       "HTTP for /metrics and the probes."),                                                 \
        SL_SERVING_ROW(SL_OPT_UINT, values, "chunk", chunk, "0", NULL, 0, SL_MAX_CHUNK_ASKED, "tokens",      \
                       "Tokens of a chunk; 0: an eighth of the prompt, 64 to 2048."),                        \
        SL_SERVING_ROW(SL_OPT_CHOICE, values, "kv", kv, "auto", "auto|bf16|i8|f32", 0, 0, NULL,              \
                       "Numbers of the KV cache. auto: i8 with integer experts, else bf16."),                \
        SL_SERVING_ROW(                                                                                      \
            SL_OPT_CHOICE, values, "numerics", numerics, "f32", SL_NUMERICS_CHOICES, 0, 0, NULL,             \
            "Rounding: f32 has the same bits on every machine; bf16dot uses the bf16 dot product and needs " \
            "AVX512_BF16 on all nodes; auto takes bf16dot where all have it."),                              \
        SL_SERVING_ROW(SL_OPT_UINT, values, "max-running", max_running, "16", NULL, 1, SL_MAX_BATCH,         \
                       "requests", "Requests that hold pages at once."),                                     \
        SL_SERVING_ROW(SL_OPT_UINT, values, "max-waiting", max_waiting, "1024", NULL, 1, 1000000,            \
                       "requests", "Requests in the queue; more are refused."),                              \
        SL_SERVING_ROW(SL_OPT_UINT, values, "context", context, "0", NULL, 0, 1 << 22, "tokens",             \
                       "Longest prompt and output together; 0: the model's."),                               \
        SL_SERVING_ROW(                                                                                      \
            SL_OPT_UINT, values, "kv-tokens", kv_tokens, "0", NULL, 0, 4294967295.0, "tokens",               \
            "Size of each process's KV pool; 0: a context for every running request, at most 131072."),      \
        SL_SERVING_ROW(SL_OPT_STRING, values, "name", name, NULL, NULL, 0, 0, NULL,                          \
                       "Model name told to clients; without it, the path."),                                 \
        SL_SERVING_ROW(SL_OPT_UINT, values, "drain-timeout", drain_timeout, "60", NULL, 0, 86400, "s",       \
                       "How long running requests may take after SIGTERM.")

#endif
