/* `sluice bench kernels` and `sluice bench pipeline`: the option rows; what is measured, and how,
 * is in bench_*.c. */
#include "bench/bench_kernels.h"
#include "bench/bench_pipeline.h"
#include "bench/commands.h"

struct kernels_values {
    bool json;
};

static const struct sl_option kernels_options[] = {
    {"json", SL_OPT_BOOL, offsetof(struct kernels_values, json), NULL, NULL, 0, 0, NULL,
     "One JSON object."},
    {0},
};

static int run_kernels(const void *values, const char *const *args, uint32_t n_args)
{
    (void)args;
    (void)n_args;
    const struct kernels_values *v = values;
    return sl_bench_kernels(v->json);
}

const struct sl_command sl_command_bench_kernels = {
    "bench kernels",
    "",
    "each kernel's time, GFLOP/s and share of the peak",
    "Measures every kernel on every instruction set of this machine beside the peak of its fused "
    "multiply-adds, and checks each "
    "against the scalar reference.",
    kernels_options,
    sizeof(struct kernels_values),
    0,
    0,
    run_kernels,
};

#define ROW(name, type, field, fallback, choices, min, max, unit, help)                            \
    {                                                                                              \
        name, type, offsetof(struct sl_bench_pipeline, field), fallback, choices, min, max, unit,  \
            help                                                                                   \
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
    ROW("kv", SL_OPT_CHOICE, kv, "bf16", "bf16|i8|f32", 0, 0, NULL, "Numbers of the KV cache."),
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
