/* What people type who come from vLLM, SGLang or llama.cpp, and which option of ours it is: a guess by spelling would send them
 * to the wrong one ("--port" is two letters from "--ops"). */
#include "node/command/options_impl.h"

#include <string.h>

/* clang-format off */
static const struct sl_foreign_option foreign[] = {
    /* where it listens */
    {"port", "listen", "HOST:PORT"}, {"host", "listen", "HOST:PORT"}, {"bind", "listen", "HOST:PORT"},
    {"grpc-port", "listen", "HOST:PORT"}, {"metrics-port", "ops", "HOST:PORT"}, {"prometheus-port", "ops", "HOST:PORT"},
    {"base-url", "endpoint", "HOST:PORT"}, {"server-url", "endpoint", "HOST:PORT"},
    /* sizes */
    {"max-model-len", "context", "N"}, {"context-length", "context", "N"}, {"ctx-size", "context", "N"},
    {"max-seq-len", "context", "N"}, {"n-ctx", "context", "N"}, {"max-num-seqs", "max-running", "N"},
    {"max-running-requests", "max-running", "N"}, {"max-batch-size", "max-running", "N"}, {"parallel", "max-running", "N"},
    {"max-concurrent-requests", "max-running", "N"}, {"max-queued-requests", "max-waiting", "N"},
    {"max-num-batched-tokens", "chunk", "N"}, {"chunked-prefill-size", "chunk", "N"}, {"ubatch-size", "chunk", "N"},
    {"batch-size", "chunk", "N"}, {"max-total-tokens", "kv-tokens", "N"}, {"gpu-memory-utilization", "kv-tokens", "N"},
    {"mem-fraction-static", "kv-tokens", "N"}, {"num-gpu-blocks-override", "kv-tokens", "N"},
    {"pipeline-parallel-size", "stages", "N"}, {"pp-size", "stages", "N"}, {"pp", "stages", "N"},
    {"tensor-parallel-size", "stages", "N"}, {"tp-size", "stages", "N"}, {"tp", "stages", "N"},
    {"scheduling-policy", "schedule", "slo|fifo"}, {"schedule-policy", "schedule", "slo|fifo"},
    {"enable-prefix-caching", "prefix-cache", "on"}, {"no-enable-prefix-caching", "prefix-cache", "off"},
    {"disable-radix-cache", "prefix-cache", "off"},
    {"n-threads", "threads", "N"}, {"threads-batch", "threads", "N"},
    /* numbers and names */
    {"kv-cache-dtype", "kv", "bf16|i8|f32"}, {"cache-type-k", "kv", "bf16|i8|f32"}, {"cache-type-v", "kv", "bf16|i8|f32"},
    {"dtype", "numerics", "auto|f32|..."}, {"served-model-name", "name", "NAME"}, {"model-name", "name", "NAME"},
    {"alias", "name", "NAME"}, {"quantization", "experts", "FORMAT"}, {"ftype", "experts", "FORMAT"},
    /* requests */
    {"temp", "temperature", "X"}, {"n-predict", "max-tokens", "N"}, {"predict", "max-tokens", "N"},
    {"max-new-tokens", "max-tokens", "N"}, {"file", "prompt-file", "FILE"},
    /* what has no option here */
    {"model-path", NULL, "the model is an argument: its directory, without an option before it"},
    {"download-dir", NULL, "models are not downloaded here; give the checkpoint's directory"},
    {"hf-repo", NULL, "models are not downloaded here; give the checkpoint's directory"},
    {"trust-remote-code", NULL, "no code of a model is run; leave it out"},
    {"tokenizer", NULL, "the tokenizer.json beside the weights is used; leave it out"},
    {"api-key", NULL, "clients are not authenticated here; put a gateway in front of --listen"},
    {"ssl-keyfile", NULL, "TLS ends in front of this node; put a gateway in front of --listen"},
    {"ssl-certfile", NULL, "TLS ends in front of this node; put a gateway in front of --listen"},
    {"log-level", NULL, "set SLUICE_LOG to error, warn, info or debug"},
    {"n-gpu-layers", NULL, "this build computes on processors; leave it out"},
    {"enforce-eager", NULL, "nothing is compiled at start; leave it out"},
    {"enable-chunked-prefill", NULL, "prompts are always prefilled in chunks; --chunk says how long they are"},
    {NULL, NULL, NULL}};
/* clang-format on */

const struct sl_foreign_option *sl_foreign_options(void)
{
    return foreign;
}

const struct sl_foreign_option *sl_foreign_option_find(const char *name)
{
    for (const struct sl_foreign_option *f = foreign; f->name; f++)
        if (strcmp(f->name, name) == 0)
            return f;
    return NULL;
}
