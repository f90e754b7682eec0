/* The option rows of `sluice bench serve`. */
#include "bench/serve/cmd_serve.h"
#include "bench/serve/serve.h"
#include "node/command/shared_options.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct sl_bench_serve values_of;
#define NUMBER(name, field, fallback, min, max, unit, help)                                                  \
    SL_OPTION_NUMBER(name, sl_bench_serve, field, fallback, min, max, unit, help)
#define REAL(name, field, fallback, min, max, unit, help)                                                    \
    SL_OPTION_ROW(name, SL_OPT_FLOAT, sl_bench_serve, field, fallback, NULL, min, max, unit, help)
#define TEXT(name, field, fallback, unit, help)                                                              \
    SL_OPTION_TEXT(name, SL_OPT_STRING, sl_bench_serve, field, fallback, unit, help)
#define FLAG(name, field, help) SL_OPTION_TEXT(name, SL_OPT_BOOL, sl_bench_serve, field, NULL, NULL, help)

static const struct sl_option options[] = {
    /* whom */
    SL_OPTION_TEXT("grpc", SL_OPT_ADDRESS, sl_bench_serve, grpc, NULL, NULL,
                   "A VllmEngine over gRPC: sluice, vLLM's and SMG's workers. Prompts are token ids."),
    TEXT("openai", openai, NULL, "URL",
         "A server or gateway with OpenAI's HTTP: vLLM, SGLang, llama-server, smg. Prompts are text."),
    SL_OPTION_CHOICE("api", sl_bench_serve, api, "completions", "completions|chat",
                     "Of OpenAI's: which is asked."),
    TEXT("served-model", served_model, NULL, "NAME",
         "Of OpenAI's: the model to ask for; without it, the first that is listed."),
    TEXT("extra-body", extra_body, NULL, "JSON",
         "Of OpenAI's: members that every request has besides, as in {\"cache_prompt\": false}."),
    NUMBER(
        "vocabulary", vocabulary, "0", 0, 1 << 24, "ids",
        "Size of the model's vocabulary: prompts to --openai are ids then, too; 0: as a gRPC server says."),
    SL_CLIENT_TLS_ROWS(sl_bench_serve, tls),
    TEXT("token", token, NULL, "TOKEN", "Bearer token; better as SLUICE_TOKEN, which no process list shows."),
    /* what */
    REAL("rate", rate, "0", 0, 1e6, "requests/s",
         "Open loop: requests are due at this rate and sent on time, whatever the server does."),
    TEXT("arrivals", arrivals, "poisson", "PROCESS",
         "poisson, constant or gamma:SHAPE (below 1 is burstier)."),
    NUMBER(
        "concurrency", concurrency, "0", 0, 65536, "requests",
        "Closed loop instead: so many at a time, each after the one before it. It measures a server that is waited for."),
    TEXT(
        "trace", trace, NULL, "PATH",
        "Arrivals and lengths of a trace instead: Mooncake JSONL (hash_ids are shared prefixes) or BurstGPT CSV."),
    REAL("trace-speed", trace_speed, "1", 1e-6, 1e6, NULL, "So many times as fast as the trace was."),
    NUMBER("requests", requests, "0", 0, 1 << 24, "requests",
           "Of the load; 0: 100, or as --duration and --trace say."),
    REAL("duration", duration_s, "0", 0, 1e6, "s", "Nothing is due after it; 0: no bound."),
    TEXT(
        "input-length", input, "512", "TOKENS",
        "Of prompts: 512, 128-1024, normal:MEAN:DEVIATION or lognormal:MEDIAN:SIGMA; a shared prefix is part of it."),
    TEXT("output-length", output, "64", "TOKENS", "Of answers, likewise. Answers are forced to it."),
    FLAG("own-length", own_length, "Answers may end earlier, where the model ends them."),
    NUMBER("prefix-groups", prefix_groups, "0", 0, 1 << 24, "groups",
           "Request i begins as all of group i modulo this; 0: no shared prefixes."),
    NUMBER("prefix-tokens", prefix_tokens, "0", 0, 1 << 22, "tokens", "Length of a shared prefix."),
    NUMBER("turns", turns, "1", 1, 1000, "turns",
           "Of a conversation: each says all that was said before, and comes after its answer."),
    NUMBER("think-ms", think_ms, "0", 0, 3600000, "ms", "From an answer to the next turn."),
    TEXT(
        "prompts", prompts, NULL, "PATH",
        "Prompts from a file instead of random ones: windows of a text, or lines of JSON (.jsonl) with prompt, input_ids or messages."),
    TEXT("mix", mix, NULL, "PATH",
         "Classes of requests, each with its own arrivals, lengths, limits and headers (JSON; see README)."),
    SL_OPTION_TEXT("header", SL_OPT_LIST, sl_bench_serve, headers, NULL, "NAME:VALUE",
                   "Metadata of every request, as x-tenant-id:a; may be given several times."),
    NUMBER("deadline-ms", deadline_ms, "0", 0, 3600000, "ms",
           "Of each call, told to a gRPC server; 0: none."),
    TEXT("cancel", cancel, NULL, "SHARE:WHEN",
         "This share of calls is cancelled, as 0.1:20 (tokens) or 0.1:500ms."),
    TEXT("slo", slo, NULL, "LIMITS", "What counts as good, as ttft=500,tpot=50,e2e=5000 (ms)."),
    SL_OPTION_ROW("temperature", SL_OPT_FLOAT, sl_bench_serve, temperature, "0", NULL, 0, 100, NULL,
                  "0 takes the likeliest token each time; above, tokens are drawn, the higher the wilder."),
    SL_OPTION_SEED(sl_bench_serve, seed, "1"),
    /* how */
    REAL("warm-up", warm_up_s, "0", 0, 1e6, "s", "Requests that are due before are sent and not measured."),
    REAL("ready-timeout", ready_timeout_s, "60", 0, 86400, "s", "How long the server may take to be ready."),
    REAL("timeout", timeout_s, "600", 0.001, 86400, "s", "A request without an end by then has failed."),
    NUMBER("repeat", repeat, "1", 1, 100, "runs",
           "Of the load, each with a seed of its own; the figures are of their variation then."),
    TEXT(
        "sweep", sweep, NULL, "WHAT=LIST",
        "One run for each: rate=1,2,4, concurrency=1,2,4 or scale=0.5,1,2 (of all rates); 1:16:5 is five from 1 to 16, each as many "
        "times the one before. It ends after the first point that the server cannot follow."),
    NUMBER("max-in-flight", max_in_flight, "4096", 1, 65536, "requests",
           "What is due beyond it is not sent, and counts as failed."),
    TEXT("cpus", cpus, NULL, "LIST", "Processors that the harness keeps to, as 0 or 2,3."),
    SL_OPTION_CHOICE("progress", sl_bench_serve, progress, "auto", "auto|on|off",
                     "A line while it runs; auto: on a terminal."),
    TEXT("compare", compare, NULL, "PATH",
         "Measure nothing: this result of --save beside the one named after it."),
    /* where to */
    TEXT("save", save, NULL, "PATH",
         "Write the result as JSON: that of `vllm bench serve`, with ours in it."),
    TEXT("save-requests", save_requests, NULL, "PATH", "Write a line of JSON for each request."),
    TEXT("save-page", save_page, NULL, "PATH", "Write one HTML file with figures."),
    TEXT("save-histograms", save_histograms, NULL, "PREFIX",
         "Write PREFIX-MEASURE.hgrm for HdrHistogram's plotters."),
    {0},
};

/* A value as it would be written, for the record of a run. */
static char *value_text(const struct sl_option *option, const void *values)
{
    const char *field = (const char *)values + option->offset;
    char text[512] = "";
    const char *given = NULL;
    if (option->type == SL_OPT_UINT)
        snprintf(text, sizeof text, "%u", *(const uint32_t *)field);
    else if (option->type == SL_OPT_FLOAT)
        snprintf(text, sizeof text, "%.10g", *(const double *)field);
    else if (option->type == SL_OPT_BOOL)
        snprintf(text, sizeof text, "%s", *(const bool *)field ? "true" : "false");
    else
        given = *(const char *const *)field;
    if (given)
        snprintf(text, sizeof text, "%s", strcmp(option->name, "token") == 0 ? "(not shown)" : given);
    return strdup(text);
}

enum { SETTINGS = 2 * sizeof options / sizeof *options + 2 };

static void list_settings(const void *values, char *settings[SETTINGS])
{
    uint32_t n = 0;
    for (const struct sl_option *o = options; o->name; o++) {
        settings[n++] = (char *)(uintptr_t)o->name;
        settings[n++] = value_text(o, values);
    }
    settings[n] = NULL;
}

/* The command as it was given, for the record; what follows --token is not shown. */
static void read_command_line(char *text, size_t room)
{
    char raw[4096];
    FILE *from = fopen("/proc/self/cmdline", "re");
    size_t n = from ? fread(raw, 1, sizeof raw - 1, from) : 0, used = 0;
    bool hidden = false;
    if (from)
        fclose(from);
    raw[n] = 0;
    text[0] = 0;
    for (size_t at = 0; at < n && used + 4 < room; at += strlen(raw + at) + 1) {
        const char *word = raw + at;
        bool quoted = word[strcspn(word, " \t\n\"'{}$&|;<>()*?")] != 0 || !word[0];
        if (hidden)
            word = "...", quoted = false;
        else if (strncmp(word, "--token=", 8) == 0)
            word = "--token=...", quoted = false;
        hidden = strcmp(word, "--token") == 0;
        int more = snprintf(text + used, room - used, quoted ? "%s'%s'" : "%s%s", used ? " " : "", word);
        used += more > 0 ? (size_t)more : 0;
    }
}

static int run(const void *values, const char *const *args, uint32_t n_args)
{
    struct sl_bench_serve filled = *(const values_of *)values;
    char *settings[SETTINGS];
    char command_line[4096];
    list_settings(values, settings);
    read_command_line(command_line, sizeof command_line);
    filled.command_line = command_line;
    filled.settings = (const char *const *)settings;
    int code = sl_bench_serve_run(&filled, n_args ? args[0] : NULL);
    for (uint32_t i = 1; settings[i - 1]; i += 2)
        free(settings[i]);
    return code;
}

const struct sl_command sl_command_bench_serve = {
    "bench serve",
    "[RESULT]",
    "latency under load, of a server that is running",
    "Sends a load to a server and says how long its users wait. Arrivals are drawn before the run and do not wait for the server; "
    "TTFT counts from when a request was due; failed requests lie in the tail; every percentile has an interval, or n/a. Exit code 3: "
    "the harness itself was late, and the figures are not to be believed.",
    options,
    sizeof(struct sl_bench_serve),
    0,
    1,
    run,
};
