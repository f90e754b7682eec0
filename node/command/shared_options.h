/* The options that several commands have, each defined once: name, type, bounds, unit and help. A command says where the
 * value lies (`values` is its struct, `field` a member of it) and what counts without the option; NULL: nothing, a number is 0.
 * What must hold for one command alone is checked by it. tests/bench/test_commands.c walks the tables of all commands. */
#ifndef SL_NODE_COMMAND_SHARED_OPTIONS_H
#define SL_NODE_COMMAND_SHARED_OPTIONS_H

#include "base/profile.h"
#include "model/pack/weights.h"
#include "node/command/options.h"
#include "pipeline/decide/layers.h"
#include "pipeline/decide/limits.h"

#define SL_OPTION_ROW(name, type, values, field, fallback, choices, min, max, unit, help)                    \
    {                                                                                                        \
        name, type, offsetof(struct values, field), fallback, choices, min, max, unit, help                  \
    }
#define SL_OPTION_NUMBER(name, values, field, fallback, min, max, unit, help)                                \
    SL_OPTION_ROW(name, SL_OPT_UINT, values, field, fallback, NULL, min, max, unit, help)
#define SL_OPTION_TEXT(name, type, values, field, fallback, unit, help)                                      \
    SL_OPTION_ROW(name, type, values, field, fallback, NULL, 0, 0, unit, help)
#define SL_OPTION_CHOICE(name, values, field, fallback, choices, help)                                       \
    SL_OPTION_ROW(name, SL_OPT_CHOICE, values, field, fallback, choices, 0, 0, NULL, help)

/* ---- a model and how it is run ---- */

#define SL_OPTION_MODEL(values, field)                                                                       \
    SL_OPTION_TEXT("model", SL_OPT_STRING, values, field, NULL, "PATH",                                      \
                   "A pack, or a Hugging Face directory (packed on first use).")
#define SL_OPTION_STAGES(values, field, fallback)                                                            \
    SL_OPTION_NUMBER("stages", values, field, fallback, 1, SL_MAX_STAGES, "stages",                          \
                     "Into how many stages the layers are cut.")
#define SL_OPTION_LAYERS(values, field)                                                                      \
    SL_OPTION_TEXT("layers", SL_OPT_STRING, values, field, NULL, "A,B,...",                                  \
                   "How many layers each of --stages has, first to last, as in 3,2,1; without it, equally "  \
                   "many. It changes times, and no bit of an answer.")
#define SL_OPTION_DECODE_STAGES(values, field)                                                               \
    SL_OPTION_NUMBER(                                                                                        \
        "decode-stages", values, field, "1", 1, SL_MAX_PARTS, "processes",                                   \
        "Into how many processes each decode worker is cut, by layers: for a model that is too "             \
        "large for one.")
#define SL_OPTION_THREADS(values, field, fallback)                                                           \
    SL_OPTION_NUMBER("threads", values, field, fallback, 0, 1024, "threads",                                 \
                     "Compute threads, of each stage where there are several; 0: all processors, shared "    \
                     "among them.")
#define SL_OPTION_DEVICE(values, field)                                                                      \
    SL_OPTION_TEXT("device", SL_OPT_STRING, values, field, "cpu", "cpu|cuda[:N|:UUID][/shared]|auto|twin",   \
                   "What runs the chunks, with the same bits. cuda: a GPU, any that is free or one as "      \
                   "`nvidia-smi -L` lists it; no other stage has it, unless each that has says /shared "     \
                   "behind it; auto: a GPU if there is one, else the CPU; twin: a GPU that is not there, "   \
                   "for trying.")
#define SL_OPTION_CHUNK(values, field)                                                                       \
    SL_OPTION_NUMBER("chunk", values, field, "0", 0, SL_MAX_CHUNK_ASKED, "tokens",                           \
                     "Tokens of a chunk; 0: an eighth of the prompt, 64 to 2048.")
#define SL_OPTION_SCHEDULE(values, field)                                                                    \
    SL_OPTION_CHOICE("schedule", values, field, "slo", "slo|fifo",                                           \
                     "Who runs next. slo: by predicted time, targets, priorities and tenants; fifo: in "     \
                     "arrival order, by numbers of tokens (--chunk).")
#define SL_OPTION_CHUNK_MS(values, field)                                                                    \
    SL_OPTION_NUMBER("chunk-ms", values, field, "0", 0, 3600000, "ms",                                       \
                     "With --schedule slo, what a chunk may take on the slowest stage; 0: by what chunks "   \
                     "are measured to cost.")
#define SL_OPTION_SLO(values, field) /* SL_MAX_SLO_MS is the coordinator's */                                \
    SL_OPTION_NUMBER("slo", values, field, "0", 0, SL_MAX_SLO_MS, "ms",                                      \
                     "With --schedule slo, when the first token of a short prompt is wanted if its request " \
                     "does not say (x-slo-ttft-ms, a deadline); 0: by cost.")
#define SL_OPTION_CONTEXT(values, field)                                                                     \
    SL_OPTION_NUMBER("context", values, field, "0", 0, 1 << 22, "tokens",                                    \
                     "Longest prompt and output together; 0: the model's.")
#define SL_OPTION_MAX_RUNNING(values, field)                                                                 \
    SL_OPTION_NUMBER("max-running", values, field, "16", 1, SL_MAX_BATCH, "answers",                         \
                     "Answers that are decoded at once: places in the batch.")
#define SL_OPTION_MAX_PREFILL(values, field)                                                                 \
    SL_OPTION_NUMBER("max-prefill", values, field, "0", 0, SL_MAX_BATCH, "prompts",                          \
                     "Prompts that are prefilled at once; 0: as many as --max-running, at least 128.")
#define SL_OPTION_KV_TOKENS(values, field)                                                                   \
    SL_OPTION_NUMBER("kv-tokens", values, field, "0", 0, UINT32_MAX, "tokens",                               \
                     "Size of each process's KV pool; 0: a context for every place in the batch, at most "   \
                     "131072.")
#define SL_OPTION_KV(values, field)                                                                          \
    SL_OPTION_CHOICE("kv", values, field, "auto", "auto|bf16|i8|f32",                                        \
                     "Numbers of the KV cache. auto: i8 with integer experts, else bf16.")
#define SL_OPTION_ROWS(values, field)                                                                        \
    SL_OPTION_CHOICE(                                                                                        \
        "rows", values, field, "auto", "auto|staged|ucx|nccl",                                               \
        "How rows get from a stage to the next. staged: through the host's memory; nccl: from "              \
        "one GPU's memory into another's, if there are 256 KiB of them or more; ucx: likewise, "             \
        "by a UCX that was built with CUDA; auto: nccl where all stages have GPUs of one "                   \
        "driver and NCCL, else staged.")
#define SL_OPTION_NUMERICS(values, field, fallback)                                                          \
    SL_OPTION_CHOICE("numerics", values, field, fallback, SL_NUMERICS_CHOICES,                               \
                     "Rounding: f32 has the same bits on every machine; bf16dot uses the bf16 dot product "  \
                     "and needs AVX512_BF16 on all nodes; auto takes bf16dot where all have it. A "          \
                     "coordinator decides, a stage or decode worker offers.")
#define SL_OPTION_TRANSPORT(values, field)                                                                   \
    SL_OPTION_CHOICE("transport", values, field, "local", "local|ucx", "How stages pass chunks on.")

/* How weights are loaded: rows of a command whose values have a `struct sl_loading_values load`. */
struct sl_loading_values {
    const char *verify, *weights;
};
#define SL_LOADING_ROWS(values)                                                                              \
    SL_OPTION_CHOICE("verify", values, load.verify, "fast", "fast|full|off",                                 \
                     "Compare the weights with the pack before they are used. fast: every block by its "     \
                     "XXH3, at the speed of memory; full: every file by its SHA-256, too; off: neither now " \
                     "nor later."),                                                                          \
        SL_OPTION_CHOICE("weights", values, load.weights, "map", "map|copy",                                 \
                         "map: the pack's files are memory, shared by all processes of this machine; copy: " \
                         "private memory, which no write to a file can change. A GPU has them in its own.")
static inline struct sl_loading sl_loading_of(const struct sl_loading_values *values,
                                              enum sl_progress_kind progress)
{
    return (struct sl_loading){.verify = values->verify[1] == 'a'   ? SL_VERIFY_FAST
                                         : values->verify[1] == 'u' ? SL_VERIFY_FULL
                                                                    : SL_VERIFY_OFF,
                               .copy = values->weights[0] == 'c',
                               .progress = progress};
}

/* ---- addresses and waiting ---- */

#define SL_OPTION_ENDPOINT(values, field, fallback)                                                          \
    SL_OPTION_TEXT("endpoint", SL_OPT_ADDRESS, values, field, fallback, NULL, "The server to ask, over gRPC.")
#define SL_OPTION_OPS(values, field, fallback)                                                               \
    SL_OPTION_TEXT("ops", SL_OPT_ADDRESS, values, field, fallback, NULL,                                     \
                   "HTTP for /metrics and the probes; without an address, none.")
#define SL_OPTION_DATA_ADDRESS(values, field)                                                                \
    SL_OPTION_TEXT("data-address", SL_OPT_STRING, values, field, "127.0.0.1", "HOST",                        \
                   "The address to listen on for chunks, KV pages and results, and where other nodes reach " \
                   "it: a name or an IP address of one interface; of a private network.")
#define SL_OPTION_DATA_PORT(values, field)                                                                   \
    SL_OPTION_NUMBER("data-port", values, field, "0", 0, 65535, NULL,                                        \
                     "The one port for data; 0 takes a free one of 13000 to 13063.")
#define SL_OPTION_LOST_AFTER(values, field)                                                                  \
    SL_OPTION_NUMBER(                                                                                        \
        "lost-after", values, field, "10", 1, 3600, "s",                                                     \
        "How long a node may be silent (stopped, cut off) before it counts as lost; until then "             \
        "requests wait and go on when it is heard again. The same on all nodes.")
#define SL_OPTION_JOIN_KEY_FILE(values, field)                                                               \
    SL_OPTION_TEXT("join-key-file", SL_OPT_STRING, values, field, NULL, "PATH",                              \
                   "A file with the secret that all nodes of a pipeline share; who does not know it can "    \
                   "neither join nor open a link. Make one: head -c 32 /dev/urandom | base64.")
#define SL_OPTION_INSECURE_NETWORK(values, field)                                                            \
    SL_OPTION_ROW(                                                                                           \
        "insecure-network", SL_OPT_BOOL, values, field, NULL, NULL, 0, 0, NULL,                              \
        "Listen beyond this machine without a join key or certificates: whoever reaches the ports "          \
        "can take a stage's place.")
#define SL_OPTION_TLS(values, field)                                                                         \
    SL_OPTION_ROW("tls", SL_OPT_BOOL, values, field, NULL, NULL, 0, 0, NULL,                                 \
                  "TLS to the gRPC server; --tls-ca and its like say it, too.")
#define SL_OPTION_TLS_CA(values, field)                                                                      \
    SL_OPTION_TEXT(                                                                                          \
        "tls-ca", SL_OPT_STRING, values, field, NULL, "PATH",                                                \
        "Certificates (PEM) that the other side's must go back to. Without it a client takes the "           \
        "system's, and a server asks nobody for one.")
#define SL_OPTION_TLS_CERT(values, field)                                                                    \
    SL_OPTION_TEXT(                                                                                          \
        "tls-cert", SL_OPT_STRING, values, field, NULL, "PATH",                                              \
        "Our certificate (PEM), with those between it and its CA; with --tls-key. Read again when "          \
        "the files change.")
#define SL_OPTION_TLS_KEY(values, field)                                                                     \
    SL_OPTION_TEXT("tls-key", SL_OPT_STRING, values, field, NULL, "PATH",                                    \
                   "The key of --tls-cert (PEM, without a passphrase).")
#define SL_OPTION_TLS_NAME(values, field)                                                                    \
    SL_OPTION_TEXT("tls-name", SL_OPT_STRING, values, field, NULL, "NAME",                                   \
                   "The name that the server's certificate must have, if it is not the one we ask it by.")
#define SL_OPTION_JOIN_SOCKET(values, field)                                                                 \
    SL_OPTION_TEXT("join-socket", SL_OPT_STRING, values, field, NULL, "NAME",                                \
                   "An abstract socket by which nodes of this machine and this user join, without TLS; the " \
                   "same on both sides.")
#define SL_OPTION_JOIN_TIMEOUT(values, field, fallback)                                                      \
    SL_OPTION_NUMBER("join-timeout", values, field, fallback, 1, 86400, "s",                                 \
                     "How long to wait: a coordinator until all nodes have joined, a node for its "          \
                     "coordinator.")

/* ---- input, measuring, output ---- */

#define SL_OPTION_TOKEN_IDS(values, field)                                                                   \
    SL_OPTION_TEXT("token-ids", SL_OPT_STRING, values, field, NULL, "FILE",                                  \
                   "A file of token ids instead of text: a JSON list, or numbers with blanks or commas "     \
                   "between; - is standard input.")
#define SL_OPTION_SEED(values, field, fallback)                                                              \
    SL_OPTION_NUMBER("seed", values, field, fallback, 0, INT32_MAX, NULL, "The same seed, the same result.")
#define SL_OPTION_ROUNDS(values, field, fallback)                                                            \
    SL_OPTION_NUMBER("rounds", values, field, fallback, 1, 101, "rounds",                                    \
                     "Of measuring; what is compared takes turns, and medians are reported.")
#define SL_OPTION_JSON(values, field)                                                                        \
    SL_OPTION_ROW("json", SL_OPT_BOOL, values, field, NULL, NULL, 0, 0, NULL, "One JSON object.")

#endif
