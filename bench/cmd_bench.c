/* The option rows of `sluice bench kernels`, `prefill`, `decode`, `pipeline` and `decide`; what is measured,
 * and how, is in bench_*.c. */
#include "bench/bench_decide.h"
#include "bench/bench_kernels.h"
#include "bench/bench_pipeline.h"
#include "bench/bench_stage.h"
#include "bench/commands.h"
#include "pipeline/record/order.h"

#define KERNELS_ROW(name, type, field, fallback, min, max, unit, help)                                       \
    {                                                                                                        \
        name, type, offsetof(struct sl_bench_kernels, field), fallback, NULL, min, max, unit, help           \
    }
static const struct sl_option kernels_options[] = {
    KERNELS_ROW("filter", SL_OPT_STRING, filter, NULL, 0, 0, "TEXT",
                "Only rows with TEXT in \"isa profile kernel shape format rows N\"."),
    KERNELS_ROW("threads", SL_OPT_UINT, n_threads, "1", 1, 1024, "threads",
                "That run a kernel at the same time."),
    KERNELS_ROW("rounds", SL_OPT_UINT, rounds, "5", 1, 101, "rounds",
                "Interleaved with the peaks; medians are reported."),
    KERNELS_ROW("json", SL_OPT_BOOL, json, NULL, 0, 0, NULL, "One JSON object."),
    {0},
};

static int run_kernels(const void *values, const char *const *args, uint32_t n_args)
{
    struct sl_err err;
    (void)args;
    (void)n_args;
    return sl_bench_kernels(values, &err) == SL_OK ? 0 : sl_command_failed("bench kernels", &err);
}

const struct sl_command sl_command_bench_kernels = {
    "bench kernels",
    "",
    "each kernel's time, its share of the peak and of memory's speed",
    "Measures every kernel in every format on every instruction set of this machine, beside the "
    "peak of the instruction "
    "that it is made of and the speed of memory, and checks each against the scalar reference.",
    kernels_options,
    sizeof(struct sl_bench_kernels),
    0,
    0,
    run_kernels,
};

/* Rows that prefill and decode share, of either's struct. */
#define STAGE_ROWS(values)                                                                                   \
    {"model",                                                                                                \
     SL_OPT_STRING,                                                                                          \
     offsetof(struct values, model),                                                                         \
     NULL,                                                                                                   \
     NULL,                                                                                                   \
     0,                                                                                                      \
     0,                                                                                                      \
     "PATH",                                                                                                 \
     "A pack, also one with random weights (`sluice pack --random`), or a Hugging Face "                     \
     "directory."},                                                                                          \
        {"context", SL_OPT_UINT, offsetof(struct values, context),       "0", NULL, 0,                       \
         1048576,   "tokens",    "Tokens that are in the pages already."},                                   \
        {"threads", SL_OPT_UINT,   offsetof(struct values, n_threads), "2", NULL, 1, 1024,                   \
         "threads", "Of the team."},                                                                         \
        {"rounds", SL_OPT_UINT, offsetof(struct values, rounds),                                             \
         "5",      NULL,        1,                                                                           \
         101,      "rounds",    "After one that only warms up; medians are reported."},                      \
        {"kv",                                                                                               \
         SL_OPT_CHOICE,                                                                                      \
         offsetof(struct values, kv),                                                                        \
         "auto",                                                                                             \
         "auto|bf16|i8|f32",                                                                                 \
         0,                                                                                                  \
         0,                                                                                                  \
         NULL,                                                                                               \
         "Numbers of the KV cache. auto: i8 with integer experts, else bf16."},                              \
        {"numerics", SL_OPT_CHOICE, offsetof(struct values, numerics),                                       \
         "f32",      "f32|bf16dot", 0,                                                                       \
         0,          NULL,          "The numerics profile; bf16dot needs a processor with AVX512_BF16."},    \
    {                                                                                                        \
        "json", SL_OPT_BOOL, offsetof(struct values, json), NULL, NULL, 0, 0, NULL, "One JSON object."       \
    }

static const struct sl_option prefill_options[] = {
    STAGE_ROWS(sl_bench_prefill),
    {"prompt-tokens", SL_OPT_STRING, offsetof(struct sl_bench_prefill, prompt_tokens), "512,2048", NULL, 0, 0,
     "LIST", "Lengths of prompts, with commas."},
    {"chunk", SL_OPT_UINT, offsetof(struct sl_bench_prefill, chunk), "512", NULL, 1, 8192, "tokens",
     "Rows that go through the layers at once."},
    {0},
};

static int run_prefill(const void *values, const char *const *args, uint32_t n_args)
{
    struct sl_err err;
    (void)args;
    (void)n_args;
    return sl_bench_prefill(values, &err) == SL_OK ? 0 : sl_command_failed("bench prefill", &err);
}

const struct sl_command sl_command_bench_prefill = {
    "bench prefill",
    "",
    "prefill speed of one stage, split by part",
    "Prefills prompts of random ids through all layers of a pack and says where the time goes, and "
    "how near each part "
    "comes to the machine's peak and to the speed of its memory, both measured beside it.",
    prefill_options,
    sizeof(struct sl_bench_prefill),
    0,
    0,
    run_prefill,
};

static const struct sl_option decode_options[] = {
    STAGE_ROWS(sl_bench_decode),
    {"batch", SL_OPT_STRING, offsetof(struct sl_bench_decode, batch), "1,4,16", NULL, 0, 0, "LIST",
     "Sequences of a step, with commas."},
    {"steps", SL_OPT_UINT, offsetof(struct sl_bench_decode, steps), "16", NULL, 1, 65536, "steps",
     "Of a round."},
    {0},
};

static int run_decode(const void *values, const char *const *args, uint32_t n_args)
{
    struct sl_err err;
    (void)args;
    (void)n_args;
    return sl_bench_decode(values, &err) == SL_OK ? 0 : sl_command_failed("bench decode", &err);
}

const struct sl_command sl_command_bench_decode = {
    "bench decode",
    "",
    "decode speed of one stage, split by part",
    "Decodes batches of sequences through all layers of a pack and says where the time goes, and "
    "how near it comes to the "
    "speed of memory, measured beside it.",
    decode_options,
    sizeof(struct sl_bench_decode),
    0,
    0,
    run_decode,
};

#define ROW(name, type, field, fallback, choices, min, max, unit, help)                                      \
    {                                                                                                        \
        name, type, offsetof(struct sl_bench_pipeline, field), fallback, choices, min, max, unit, help       \
    }
static const struct sl_option pipeline_options[] = {
    ROW("model", SL_OPT_STRING, model, NULL, NULL, 0, 0, "PATH",
        "A pack or a Hugging Face directory (packed on first use)."),
    ROW("stages", SL_OPT_UINT, n_stages, "2", NULL, 1, 64, "stages",
        "Stages of the pipeline, processes side by side."),
    ROW("prompt-tokens", SL_OPT_UINT, prompt_tokens, "4096", NULL, 1, 1048576, "tokens",
        "Length of the prompt."),
    ROW("threads", SL_OPT_UINT, n_threads, "1", NULL, 1, 1024, "threads", "Per stage."),
    ROW("chunk", SL_OPT_UINT, chunk_tokens, "0", NULL, 0, 8192, "tokens",
        "Tokens of a chunk; 0 means an eighth of the prompt, 64 to 2048."),
    ROW("rounds", SL_OPT_UINT, rounds, "3", NULL, 1, 101, "rounds",
        "Interleaved rounds; medians are compared."),
    ROW("transport", SL_OPT_CHOICE, transport, "local", "local|ucx", 0, 0, NULL,
        "How stages pass chunks on."),
    ROW("kv", SL_OPT_CHOICE, kv, "auto", "auto|bf16|i8|f32", 0, 0, NULL,
        "Numbers of the KV cache. auto: i8 with integer experts, else bf16."),
    ROW("json", SL_OPT_BOOL, json, NULL, NULL, 0, 0, NULL, "One JSON object, with every sample."),
    {0},
};

static int run_pipeline(const void *values, const char *const *args, uint32_t n_args)
{
    (void)args;
    (void)n_args;
    const struct sl_bench_pipeline *bench = values;
    struct sl_err err = {0};
    if (!bench->model)
        sl_fail(&err, SL_E_USAGE, "say --model PATH");
    else
        sl_bench_pipeline(bench, &err);
    return err.status == SL_OK ? 0 : sl_command_failed("bench pipeline", &err);
}

const struct sl_command sl_command_bench_pipeline = {
    "bench pipeline",
    "",
    "prefill throughput of N stages against N processes",
    "Prefills the same prompt through a pipeline of N stages, through one stage, and through N "
    "single-stage processes at the "
    "same time, in interleaved rounds, and says how much of what the machine gives N workers the "
    "pipeline gets.",
    pipeline_options,
    sizeof(struct sl_bench_pipeline),
    0,
    0,
    run_pipeline,
};

#define DECIDE_ROW(name, type, field, fallback, min, max, unit, help)                                        \
    {                                                                                                        \
        name, type, offsetof(struct sl_bench_decide, field), fallback, NULL, min, max, unit, help            \
    }
static const struct sl_option decide_options[] = {
    DECIDE_ROW("requests", SL_OPT_UINT, requests, "256", 1, 256, "requests", "That run at once."),
    DECIDE_ROW("prompt-tokens", SL_OPT_UINT, prompt_tokens, "1024", 1, 131072, "tokens", "Of each prompt."),
    DECIDE_ROW("output-tokens", SL_OPT_UINT, output_tokens, "32", 2, 4096, "tokens",
               "That each request gets."),
    DECIDE_ROW("chunk", SL_OPT_UINT, chunk, "256", 1, 8192, "tokens",
               "Rows that go through the layers at once."),
    DECIDE_ROW("stages", SL_OPT_UINT, stages, "4", 1, SL_MAX_STAGES, "stages", "Of the pipeline."),
    DECIDE_ROW("rounds", SL_OPT_UINT, rounds, "5", 1, 101, "rounds", "Medians are reported."),
    DECIDE_ROW("json", SL_OPT_BOOL, json, NULL, 0, 0, NULL, "One JSON object."),
    {0},
};

static int run_decide(const void *values, const char *const *args, uint32_t n_args)
{
    struct sl_err err;
    (void)args;
    (void)n_args;
    return sl_bench_decide(values, &err) == SL_OK ? 0 : sl_command_failed("bench decide", &err);
}

const struct sl_command sl_command_bench_decide = {
    "bench decide",
    "",
    "what a decision of the coordinator costs",
    "Runs the decider alone, among stages and a decode worker that answer at once, and says how many records of the order log "
    "it writes per second while so many requests are running.",
    decide_options,
    sizeof(struct sl_bench_decide),
    0,
    0,
    run_decide,
};
