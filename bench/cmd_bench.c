/* The option rows of `sluice bench kernels`, `load`, `prefill`, `decode`, `pipeline`, `layout`, `decide`, `schedule`,
 * `cost` and `links`;
 * what is measured, and how, is in bench_*.c. */
#include "base/log.h"
#include "bench/bench_cost.h"
#include "bench/bench_decide.h"
#include "bench/bench_kernels.h"
#include "bench/bench_layout.h"
#include "bench/bench_links.h"
#include "bench/bench_load.h"
#include "bench/bench_pipeline.h"
#include "bench/bench_schedule.h"
#include "bench/bench_stage.h"
#include "bench/commands.h"
#include "bench/gpu_kernels.h"
#include "node/command/shared_options.h"
#include "node/coordinator/coordinator.h"
#include "pipeline/stage/device_kind.h"

static const struct sl_option kernels_options[] = {
    SL_OPTION_TEXT(
        "filter", SL_OPT_STRING, sl_bench_kernels, filter, NULL, "TEXT",
        "Only rows with TEXT in \"isa profile kernel shape format rows N\", of a GPU in \"kernel shape format rows N\"."),
    SL_OPTION_DEVICE(sl_bench_kernels, device),
    SL_OPTION_THREADS(sl_bench_kernels, n_threads, "1"),
    SL_OPTION_ROUNDS(sl_bench_kernels, rounds, "5"),
    SL_OPTION_JSON(sl_bench_kernels, json),
    {0},
};

static int run_kernels(const void *values, const char *const *args, uint32_t n_args)
{
    struct sl_err err;
    (void)args;
    (void)n_args;
    const struct sl_bench_kernels *bench = values;
    enum sl_device_kind kind;
    sl_status status = sl_device_kind_read(&kind, bench->device, &err);
    if (status == SL_OK)
        status = (kind == SL_DEVICE_CPU ? sl_bench_kernels : sl_bench_gpu_kernels)(bench, &err);
    return status == SL_OK ? 0 : sl_command_failed("bench kernels", &err);
}

const struct sl_command sl_command_bench_kernels = {
    "bench kernels",
    "",
    "each kernel's time, its share of the peak and of memory's speed",
    "Measures every kernel in every format on every instruction set of this machine, beside the peak of the instruction that it is "
    "made of and the speed of memory, and checks each against the scalar reference. With --device cuda those of a GPU, by its events, "
    "beside what mma.sync and wgmma reach and beside copies within its memory; with --device twin small shapes, "
    "simulated: their bits, and no times.",
    kernels_options,
    sizeof(struct sl_bench_kernels),
    0,
    0,
    run_kernels,
};

static const struct sl_option load_options[] = {
    SL_OPTION_MODEL(sl_bench_load, model),
    SL_OPTION_THREADS(sl_bench_load, n_threads, "0"),
    SL_OPTION_ROUNDS(sl_bench_load, rounds, "5"),
    SL_OPTION_NUMBER("scrub", sl_bench_load, seconds, "10", 0, 3600, "s",
                     "How long the scrubber is watched; 0: not at all."),
    SL_OPTION_JSON(sl_bench_load, json),
    {0},
};

static int run_load(const void *values, const char *const *args, uint32_t n_args)
{
    struct sl_err err;
    (void)args;
    (void)n_args;
    return sl_bench_load(values, &err) == SL_OK ? 0 : sl_command_failed("bench load", &err);
}

const struct sl_command sl_command_bench_load = {
    "bench load",
    "",
    "how fast weights are verified while they are loaded, and what scrubbing costs",
    "Loads all weights of a pack out of the page cache, verified, and as private copies, in rounds with plain reading of the same "
    "files by as many threads; then watches the scrubber for a while.",
    load_options,
    sizeof(struct sl_bench_load),
    0,
    0,
    run_load,
};

/* Rows that prefill and decode share, of either's struct. */
#define STAGE_ROWS(values)                                                                                   \
    SL_OPTION_MODEL(values, model),                                                                          \
        SL_OPTION_NUMBER("context", values, context, "0", 0, 1 << 20, "tokens",                              \
                         "Tokens that are in the pages already."),                                           \
        SL_OPTION_DEVICE(values, device), SL_OPTION_THREADS(values, n_threads, "2"),                         \
        SL_OPTION_ROUNDS(values, rounds, "5"), SL_OPTION_KV(values, kv),                                     \
        SL_OPTION_NUMERICS(values, numerics, "f32"), SL_LOADING_ROWS(values), SL_OPTION_JSON(values, json)

static const struct sl_option prefill_options[] = {
    STAGE_ROWS(sl_bench_prefill),
    SL_OPTION_TEXT("prompt-tokens", SL_OPT_STRING, sl_bench_prefill, prompt_tokens, "512,2048", "LIST",
                   "Lengths of prompts, with commas."),
    SL_OPTION_NUMBER("chunk", sl_bench_prefill, chunk, "512", 1, SL_MAX_CHUNK_ASKED, "tokens",
                     "Rows that go through the layers at once."),
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
    "Prefills prompts of random ids through all layers of a pack and says where the time goes, and how near each part comes to the "
    "machine's peak and to the speed of its memory, both measured beside it; of a GPU they are its kind's, and parts are times "
    "between its events. Of --device twin all times are a simulation's.",
    prefill_options,
    sizeof(struct sl_bench_prefill),
    0,
    0,
    run_prefill,
};

static const struct sl_option cost_options[] = {
    SL_OPTION_MODEL(sl_bench_cost, model),
    SL_OPTION_DEVICE(sl_bench_cost, device),
    SL_OPTION_THREADS(sl_bench_cost, n_threads, "1"),
    SL_OPTION_NUMBER("chunks", sl_bench_cost, chunks, "400", 8, 100000, "chunks",
                     "Whose predictions count; the first 50 are learnt from."),
    SL_OPTION_KV(sl_bench_cost, kv),
    SL_OPTION_NUMERICS(sl_bench_cost, numerics, "f32"),
    SL_LOADING_ROWS(sl_bench_cost),
    SL_OPTION_JSON(sl_bench_cost, json),
    {0},
};

static int run_cost(const void *values, const char *const *args, uint32_t n_args)
{
    struct sl_err err;
    (void)args;
    (void)n_args;
    return sl_bench_cost(values, &err) == SL_OK ? 0 : sl_command_failed("bench cost", &err);
}

const struct sl_command sl_command_bench_cost = {
    "bench cost",
    "",
    "how well the time of a chunk is predicted",
    "Runs a mixed load of short prompts and pieces of long ones through one stage over all layers, each chunk predicted before it "
    "runs and learnt from afterwards, beside how much one and the same chunk varies: on the wall, and, on the CPU, of the processor "
    "that the thread had.",
    cost_options,
    sizeof(struct sl_bench_cost),
    0,
    0,
    run_cost,
};

static const struct sl_option decode_options[] = {
    STAGE_ROWS(sl_bench_decode),
    SL_OPTION_TEXT("batch", SL_OPT_STRING, sl_bench_decode, batch, "1,4,16", "LIST",
                   "Sequences of a step, with commas."),
    SL_OPTION_NUMBER("steps", sl_bench_decode, steps, "16", 1, 65536, "steps", "Of a round."),
    SL_OPTION_TEXT(
        "sampling", SL_OPT_STRING, sl_bench_decode, sampling, "none", "KIND",
        "Of a token from each row: none, plain (temperature and top-p), or penalties (and all three of them, and a "
        "bias, with the context as the prompt and 1024 tokens said)."),
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
    "Decodes batches of sequences through all layers of a pack and says where the time goes, and how near it comes to the speed of "
    "memory, measured beside it; of a GPU it is its kind's. Of --device twin all times are a simulation's.",
    decode_options,
    sizeof(struct sl_bench_decode),
    0,
    0,
    run_decode,
};

static const struct sl_option pipeline_options[] = {
    SL_OPTION_MODEL(sl_bench_pipeline, model),
    SL_OPTION_STAGES(sl_bench_pipeline, n_stages, "2"),
    SL_OPTION_LAYERS(sl_bench_pipeline, layers),
    SL_OPTION_NUMBER("prompt-tokens", sl_bench_pipeline, prompt_tokens, "4096", 1, 1 << 20, "tokens",
                     "Length of the prompt."),
    SL_OPTION_THREADS(sl_bench_pipeline, n_threads, "1"),
    SL_OPTION_CHUNK(sl_bench_pipeline, chunk_tokens),
    SL_OPTION_ROUNDS(sl_bench_pipeline, rounds, "3"),
    SL_OPTION_TRANSPORT(sl_bench_pipeline, transport),
    SL_OPTION_KV(sl_bench_pipeline, kv),
    SL_OPTION_JSON(sl_bench_pipeline, json),
    {0},
};

static int run_pipeline(const void *values, const char *const *args, uint32_t n_args)
{
    (void)args;
    (void)n_args;
    const struct sl_bench_pipeline *bench = values;
    struct sl_err err = {0};
    sl_log_init("bench pipeline", SL_LOG_WARN); /* the figures are what is wanted, not each request */
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

static const struct sl_option layout_options[] = {
    SL_OPTION_MODEL(sl_bench_layout, model),
    SL_OPTION_TEXT("nodes", SL_OPT_STRING, sl_bench_layout, nodes, "1,2,4,8", "LIST",
                   "On how many nodes, with commas; each has one thread."),
    SL_OPTION_TEXT("delay-us", SL_OPT_STRING, sl_bench_layout, delays, "0,50,200", "LIST",
                   "How long a frame is under way between two nodes, in microseconds, with commas."),
    SL_OPTION_ROW("gbit", SL_OPT_FLOAT, sl_bench_layout, gbit, NULL, NULL, 0.001, 100000, "Gbit/s",
                  "What leaves a node, at most; without it, no limit."),
    SL_OPTION_NUMBER("prompt-tokens", sl_bench_layout, prompt_tokens, "2048", 1, 1 << 20, "tokens",
                     "Length of the prompt."),
    SL_OPTION_NUMBER(
        "chunk", sl_bench_layout, chunk, "256", 64, SL_MAX_CHUNK_ASKED, "tokens",
        "Rows that a node has at once, whole pages of 64: of a pipeline's chunk, and of its share where experts are "
        "sharded."),
    SL_OPTION_CHOICE(
        "clock", sl_bench_layout, clock, "auto", "auto|real|virtual",
        "real: all nodes at once, as threads, over links that impose delay and rate; virtual: one at a time, each for "
        "what it had of its processor, and their frames played with delay and rate; auto: real where there is a "
        "processor for each node."),
    SL_OPTION_ROUNDS(sl_bench_layout, rounds, "3"),
    SL_OPTION_TRANSPORT(sl_bench_layout, transport),
    SL_OPTION_KV(sl_bench_layout, kv),
    SL_OPTION_TEXT("svg", SL_OPT_STRING, sl_bench_layout, svg, NULL, "FILE", "A drawing of it."),
    SL_OPTION_JSON(sl_bench_layout, json),
    {0},
};

static int run_layout(const void *values, const char *const *args, uint32_t n_args)
{
    struct sl_err err;
    (void)args;
    (void)n_args;
    sl_log_init("bench layout", SL_LOG_WARN);
    return sl_bench_layout(values, &err) == SL_OK ? 0 : sl_command_failed("bench layout", &err);
}

const struct sl_command sl_command_bench_layout = {
    "bench layout",
    "",
    "one prompt on N nodes: experts sharded against layers sharded",
    "Prefills the same prompt with the same kernels on N nodes that each have some layers, and on N nodes that each have some of "
    "every layer's experts and share out the rows; over real frames, which a network's delay and rate are imposed on. Says how long "
    "each takes, what crosses and what is waited for, beside what the algebra makes of one node's times; and sees that all give the "
    "bits of one node, but where sums cross in bf16 as in the field.",
    layout_options,
    sizeof(struct sl_bench_layout),
    0,
    0,
    run_layout,
};

static const struct sl_option decide_options[] = {
    SL_OPTION_NUMBER("requests", sl_bench_decide, requests, "256", 1, SL_MAX_BATCH, "requests",
                     "That run at once."),
    SL_OPTION_NUMBER("prompt-tokens", sl_bench_decide, prompt_tokens, "1024", 1, 1048576, "tokens",
                     "Length of the prompt."),
    SL_OPTION_NUMBER("output-tokens", sl_bench_decide, output_tokens, "32", 2, 4096, "tokens",
                     "That each request gets."),
    SL_OPTION_CHUNK(sl_bench_decide, chunk),
    SL_OPTION_NUMBER(
        "cached-pages", sl_bench_decide, cached_pages, "0", 0, 10000000, "pages",
        "KV pages that a prefix cache has before; prompts then have their first half in common. 0: no "
        "cache, and prompts that are alike."),
    SL_OPTION_STAGES(sl_bench_decide, stages, "4"),
    SL_OPTION_ROUNDS(sl_bench_decide, rounds, "5"),
    SL_OPTION_JSON(sl_bench_decide, json),
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

static const struct sl_option schedule_options[] = {
    SL_OPTION_ROW("table", SL_OPT_BOOL, sl_bench_schedule, table, NULL, NULL, 0, 0, NULL,
                  "All measures that have a target here, over three seeds, instead of one load."),
    SL_OPTION_CHOICE(
        "world", sl_bench_schedule, world, "A", "A|A8|B4|B8|D",
        "A: Qwen3-30B-A3B on two CPU nodes, A8: on eight; B4: DeepSeek-V3 on four H200 nodes, B8: on eight."),
    SL_OPTION_CHOICE(
        "load", sl_bench_schedule, load, "mix",
        "mix|alone|short|full|long|overload|tenants|growth|prefix|chat",
        "mix: 64-token prompts with long ones always outstanding; alone: without them; short: prompts of 64 to 512 tokens, "
        "128 outstanding; full: the lengths of overload, 64 outstanding; long: one prompt at a time; overload: at a rate, with "
        "targets; tenants: one at 0.3 of the capacity beside a flooder at 3; growth: without max_tokens; prefix: four of five begin "
        "with one of four texts of --prompt-tokens, at a rate; chat: turns of 2048 tokens, 1024 in answer "
        "and a message, at 0.1 of the capacity (B4, B8: 0.02), beside an overload's at the rest of the rate."),
    SL_OPTION_SCHEDULE(sl_bench_schedule, schedule),
    SL_OPTION_ROW("rate", SL_OPT_FLOAT, sl_bench_schedule, rate, "1", NULL, 0.01, 100, "capacities",
                  "At which overload, prefix and chat come: 1 is what the world can serve of it."),
    SL_OPTION_ROW("pause", SL_OPT_FLOAT, sl_bench_schedule, pause, "5", NULL, 0, 86400, "s",
                  "Of a chat, from an answer to the next turn."),
    SL_OPTION_CHOICE(
        "answers", sl_bench_schedule, answers, "refill", "refill|off|sent",
        "How a chat's answers come to the prefix cache. refill: as ever, prefilled again when the stages are idle; off: "
        "not at all; sent: their pages go back from the decode worker, which is no more than a sum here."),
    SL_OPTION_ROW("link-gbits", SL_OPT_FLOAT, sl_bench_schedule, gbits, "10", NULL, 0.001, 10000, "Gb/s",
                  "With --answers sent, the link of the decode worker."),
    SL_OPTION_ROW("sigma", SL_OPT_FLOAT, sl_bench_schedule, sigma, "0.05", NULL, 0, 1, NULL,
                  "Noise of a chunk's time: the deviation of its logarithm."),
    SL_OPTION_ROW(
        "slower", SL_OPT_FLOAT, sl_bench_schedule, slower, "1", NULL, 0.1, 100, "times",
        "Than the world's are its stages. A tenant's half of the pipeline alone: --load overload --rate 0.3 --slower 2."),
    SL_OPTION_NUMBER("requests", sl_bench_schedule, requests, "4000", 1, 100000, "requests",
                     "Of the load: the open ones, where it has such."),
    SL_OPTION_NUMBER("prompt-tokens", sl_bench_schedule, tokens, "8192", 1, 1 << 20, "tokens",
                     "Length of the prompt."),
    SL_OPTION_CHUNK_MS(sl_bench_schedule, chunk_ms),
    SL_OPTION_SLO(sl_bench_schedule, slo_ms),
    SL_OPTION_CHUNK(sl_bench_schedule, chunk),
    SL_OPTION_NUMBER("runs", sl_bench_schedule, runs, "0", 0, 2 * SL_MAX_STAGES + 4, "chunks",
                     "Under way at most; 0: as many as keep every stage busy."),
    SL_OPTION_SEED(sl_bench_schedule, seed, "1"),
    SL_OPTION_ROW("check", SL_OPT_BOOL, sl_bench_schedule, check, NULL, NULL, 0, 0, NULL,
                  "Look at the decider's tables after every event."),
    SL_OPTION_JSON(sl_bench_schedule, json),
    {0},
};

static int run_schedule(const void *values, const char *const *args, uint32_t n_args)
{
    struct sl_err err;
    (void)args;
    (void)n_args;
    return sl_bench_schedule(values, &err) == SL_OK ? 0 : sl_command_failed("bench schedule", &err);
}

const struct sl_command sl_command_bench_schedule = {
    "bench schedule",
    "",
    "what the decider's policy does to requests, in a simulated pipeline",
    "Runs the decider on a virtual clock, before stages that take the time of a model on a machine, with noise, and says how long "
    "first tokens take, how many are in time, and what the pipeline gets done. The same seed, the same history.",
    schedule_options,
    sizeof(struct sl_bench_schedule),
    0,
    0,
    run_schedule,
};

static const struct sl_option links_options[] = {
    SL_OPTION_NUMBER("kib", sl_bench_links, kib, "4096", 1, 262144, "KiB", "Size of a frame's payload."),
    SL_OPTION_NUMBER("frames", sl_bench_links, frames, "64", 1, 1000, "frames",
                     "Of a round, over each link."),
    SL_OPTION_ROUNDS(sl_bench_links, rounds, "21"),
    SL_OPTION_JSON(sl_bench_links, json),
    {0},
};

static int run_links(const void *values, const char *const *args, uint32_t n_args)
{
    struct sl_err err;
    (void)args;
    (void)n_args;
    return sl_bench_links(values, &err) == SL_OK ? 0 : sl_command_failed("bench links", &err);
}

const struct sl_command sl_command_bench_links = {
    "bench links",
    "",
    "what --link-auth costs a frame",
    "Sends frames between two nodes' ends over UCX on loopback, proved in each way that --link-auth has, in turn, "
    "and says what a frame takes and how much more than without proof.",
    links_options,
    sizeof(struct sl_bench_links),
    0,
    0,
    run_links,
};
