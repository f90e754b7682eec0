/* `sluice generate` and `sluice score`: a prompt goes in, tokens come out as they are made, or the
 * log-probabilities of the prompt itself. Both share the option rows, the prompt's three forms, and
 * the client of node/client/client.h; they differ in what they ask for and in what they print.
 *
 * Ctrl-C cancels the request, so that its work stops on the server too; what has come is printed
 * and the exit code is 130. A second one, or one outside a request, ends the program at once. */
#include "base/cpu.h"
#include "base/digest.h"
#include "base/log.h"
#include "node/client/client.h"
#include "node/client/output.h"
#include "node/client/prompt.h"
#include "node/client/timeline.h"
#include "node/command/commands.h"
#include "node/command/serving_options.h"
#include "node/coordinator/tenants.h"
#include "node/edge/traceparent.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { EXIT_INTERRUPTED = 130, MAX_COUNT = 1 << 24 };

struct generate_values {
    const char *endpoint, *model, *transport, *kv, *numerics, *device;
    const char *prompt, *prompt_file, *token_ids, *tenant, *priority, *traceparent;
    const char *output, *timeline_svg, *layers;
    uint32_t stages, decode_stages, chunk, threads, max_tokens, seed, logprobs, top_k, slo_ttft;
    struct sl_loading_values load;
    struct sl_client_tls tls;
    double temperature, top_p, min_p, presence_penalty, frequency_penalty, repetition_penalty;
    bool ignore_eos, timeline, digest;
};

#define ROW(name, type, field, fallback, choices, min, max, unit, help)                                      \
    {                                                                                                        \
        name, type, offsetof(struct generate_values, field), fallback, choices, min, max, unit, help         \
    }
#define SHARED_ROWS                                                                                               \
    SL_OPTION_ENDPOINT(generate_values, endpoint, NULL), SL_CLIENT_TLS_ROWS(generate_values, tls),                \
        SL_OPTION_MODEL(generate_values, model), SL_OPTION_STAGES(generate_values, stages, "1"),                  \
        SL_OPTION_LAYERS(generate_values, layers), SL_OPTION_DECODE_STAGES(generate_values, decode_stages),       \
        SL_OPTION_THREADS(generate_values, threads, "0"), SL_OPTION_DEVICE(generate_values, device),              \
        SL_OPTION_CHUNK(generate_values, chunk), SL_OPTION_TRANSPORT(generate_values, transport),                 \
        SL_OPTION_KV(generate_values, kv), SL_OPTION_NUMERICS(generate_values, numerics, "f32"),                  \
        SL_LOADING_ROWS(generate_values),                                                                         \
        ROW("prompt", SL_OPT_STRING, prompt, NULL, NULL, 0, 0, NULL, "The prompt."),                              \
        ROW("prompt-file", SL_OPT_STRING, prompt_file, NULL, NULL, 0, 0, "FILE",                                  \
            "A file with the prompt, UTF-8; - is standard input."),                                               \
        SL_OPTION_TOKEN_IDS(generate_values, token_ids),                                                          \
        ROW("logprobs", SL_OPT_UINT, logprobs, "0", NULL, 0, SL_MAX_LOGPROBS, NULL,                               \
            "With --output json: also the log-probabilities of the K best tokens at each place."),                \
        ROW("tenant", SL_OPT_STRING, tenant, NULL, NULL, 0, 0, "NAME",                                            \
            "Whose share of the pipeline it uses (x-tenant-id)."),                                                \
        ROW("priority", SL_OPT_CHOICE, priority, "0", "-2|-1|0|1|2", 0, 0, NULL,                                  \
            "Each step halves the time in which its first token is wanted, a step below 0 doubles it "            \
            "(x-priority)."),                                                                                     \
        ROW("slo-ttft", SL_OPT_UINT, slo_ttft, "0", NULL, 0, SL_MAX_SLO_MS, "ms",                                 \
            "When its first token is wanted; refused at once if that can't be (x-slo-ttft-ms); 0: no "            \
            "promise is asked for."),                                                                             \
        ROW("traceparent", SL_OPT_STRING, traceparent, NULL, NULL, 0, 0, "TRACE",                                 \
            "With --endpoint, the trace that the request is part of, as W3C has it (00-TRACE-SPAN-01); new: one " \
            "of its own, whose id is said on stderr. Without it, what $TRACEPARENT says."),                       \
        ROW("timeline", SL_OPT_BOOL, timeline, NULL, NULL, 0, 0, NULL,                                            \
            "Draw which stage worked on which chunk when."),                                                      \
        ROW("timeline-svg", SL_OPT_STRING, timeline_svg, NULL, NULL, 0, 0, "FILE",                                \
            "The same drawing as an SVG file.")

static const struct sl_option generate_options[] = {
    SHARED_ROWS,
    ROW("max-tokens", SL_OPT_UINT, max_tokens, "128", NULL, 1, MAX_COUNT, "tokens",
        "How many tokens at most."),
    ROW("temperature", SL_OPT_FLOAT, temperature, "0", NULL, 0, 100, NULL,
        "0 takes the likeliest token each time; above, tokens are drawn, the higher the wilder."),
    ROW("top-k", SL_OPT_UINT, top_k, "0", NULL, 0, MAX_COUNT, NULL,
        "Draw among the K likeliest; 0 means all."),
    ROW("top-p", SL_OPT_FLOAT, top_p, "1", NULL, 0.000001, 1, NULL,
        "Draw among the likeliest that make up this share."),
    ROW("min-p", SL_OPT_FLOAT, min_p, "0", NULL, 0, 1, NULL,
        "Leave out tokens less likely than this share of the likeliest."),
    ROW("presence-penalty", SL_OPT_FLOAT, presence_penalty, "0", NULL, -2, 2, NULL,
        "Taken from the logit of each token that the answer has."),
    ROW("frequency-penalty", SL_OPT_FLOAT, frequency_penalty, "0", NULL, -2, 2, NULL,
        "Likewise, times how often it has it."),
    ROW("repetition-penalty", SL_OPT_FLOAT, repetition_penalty, "1", NULL, 0.01, 100, NULL,
        "Divides the positive logits of tokens in prompt and answer, multiplies the negative; 1 is off."),
    SL_OPTION_SEED(generate_values, seed, "0"),
    ROW("ignore-eos", SL_OPT_BOOL, ignore_eos, NULL, NULL, 0, 0, NULL, "Go on after an end-of-text token."),
    ROW("digest", SL_OPT_BOOL, digest, NULL, NULL, 0, 0, NULL,
        "With --model and --output json: digests of all logits and KV pages; equal numbers, equal bits."),
    ROW("output", SL_OPT_CHOICE, output, "text", "text|ids|json", 0, 0, NULL,
        "Text as it comes, token ids as they come, or one JSON object at the end."),
    {0},
};

static const struct sl_option score_options[] = {
    SHARED_ROWS,
    ROW("output", SL_OPT_CHOICE, output, "text", "text|ids|json", 0, 0, NULL,
        "A summary, a line `id log-probability` for each token, or one JSON object."),
    {0},
};

/* ---- Ctrl-C. ---- */

struct interrupts {
    pthread_t thread;
    sigset_t set;
    pthread_mutex_t lock; /* between the waiting thread and main: client, quit */
    struct sl_client *client;
    bool quit, interrupted;
};

static void *wait_for_signals(void *user)
{
    struct interrupts *in = user;
    for (;;) {
        int number = 0;
        if (sigwait(&in->set, &number) != 0)
            return NULL;
        pthread_mutex_lock(&in->lock);
        bool quit = in->quit, again = in->interrupted;
        in->interrupted = true;
        bool cancelled = !quit && !again && in->client && sl_client_cancel(in->client);
        pthread_mutex_unlock(&in->lock);
        if (quit)
            return NULL;
        if (!cancelled)
            _exit(EXIT_INTERRUPTED);
    }
}

/* Before any other thread starts: all of them inherit the mask, so the signals come to ours alone.
 */
static sl_status interrupts_start(struct interrupts *in, struct sl_err *err)
{
    memset(in, 0, sizeof *in);
    pthread_mutex_init(&in->lock, NULL);
    sigemptyset(&in->set);
    sigaddset(&in->set, SIGINT);
    sigaddset(&in->set, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &in->set, NULL);
    if (pthread_create(&in->thread, NULL, wait_for_signals, in) != 0)
        return sl_fail(err, SL_E_UNAVAILABLE, "no thread can be started; the limit of processes is reached");
    return SL_OK;
}

static void interrupts_watch(struct interrupts *in, struct sl_client *client)
{
    pthread_mutex_lock(&in->lock);
    in->client = client;
    pthread_mutex_unlock(&in->lock);
}

static bool interrupts_stop(struct interrupts *in)
{
    pthread_mutex_lock(&in->lock);
    in->quit = true;
    bool interrupted = in->interrupted;
    pthread_mutex_unlock(&in->lock);
    pthread_kill(in->thread, SIGTERM);
    pthread_join(in->thread, NULL);
    pthread_mutex_destroy(&in->lock);
    return interrupted;
}

/* ---- One request. ---- */

static sl_status check_values(const struct generate_values *v, struct sl_err *err)
{
    if (!v->endpoint == !v->model)
        return sl_fail(err, SL_E_USAGE,
                       "say either --endpoint HOST:PORT (a server) or --model PATH (in this process)");
    if (v->endpoint && strcmp(v->device, "cpu") != 0)
        return sl_fail(
            err, SL_E_USAGE,
            "--device goes with --model: the stages of a server have the devices that it was started with");
    if (!!v->prompt + !!v->prompt_file + !!v->token_ids != 1)
        return sl_fail(err, SL_E_USAGE, "say one of --prompt TEXT, --prompt-file FILE, --token-ids FILE");
    if (v->tenant && !sl_tenant_is_name(v->tenant, strlen(v->tenant)))
        return sl_fail(err, SL_E_USAGE, "--tenant takes at most %d printable characters without blanks",
                       SL_MAX_TENANT - 1);
    if (v->digest && (v->endpoint || strcmp(v->output, "json") != 0))
        return sl_fail(err, SL_E_USAGE, "--digest goes with --model and --output json");
    return SL_OK;
}

/* What goes with the request as traceparent: what was asked for, or whatever began this program says by the custom of OpenTelemetry's
 * tools, where what is none is as if it were not there. *out: NULL, or text. */
static sl_status trace_of(const struct generate_values *v, char text[SL_TRACEPARENT_ROOM], const char **out,
                          struct sl_err *err)
{
    struct sl_traceparent trace;
    const char *given = v->traceparent ? v->traceparent : v->endpoint ? getenv("TRACEPARENT") : NULL;
    bool is_new = v->traceparent && strcmp(given, "new") == 0;
    *out = NULL;
    if (v->traceparent && v->model)
        return sl_fail(err, SL_E_USAGE,
                       "--traceparent goes with --endpoint; in this process nobody records traces");
    if (!given)
        return SL_OK;
    if (is_new) {
        trace.sampled = true;
        if (sl_random_bytes(trace.trace_id, sizeof trace.trace_id) != SL_OK ||
            sl_random_bytes(trace.parent_id, sizeof trace.parent_id) != SL_OK)
            return sl_fail(err, SL_E_INTERNAL, "no random bytes for the id of the trace");
    } else if (!sl_traceparent_read(&trace, given, strlen(given))) {
        return !v->traceparent
                   ? SL_OK
                   : sl_fail(err, SL_E_USAGE,
                             "--traceparent takes new, or 00-, 32 hexadecimal digits, -, 16 of them and -01 "
                             "(small ones, not all zeros)");
    }
    sl_traceparent_write(text, &trace);
    *out = text;
    if (is_new)
        fprintf(stderr, "trace %.32s\n", text + 3);
    return SL_OK;
}

static struct sl_client_config client_config(const struct generate_values *v, bool score)
{
    return (struct sl_client_config){
        .endpoint = v->endpoint,
        .cluster = {.model = v->model,
                    .load = sl_loading_of(&v->load, SL_PROGRESS_BAR),
                    .n_stages = v->stages,
                    .n_parts = v->decode_stages,
                    .n_threads = sl_cpu_threads(v->threads, v->stages),
                    .chunk_tokens = v->chunk,
                    .transport = v->transport,
                    .kv = v->kv,
                    .numerics = v->numerics,
                    .device = v->device,
                    .max_running = 1,
                    .without_decode = score,
                    .quiet = true},
    };
}

static struct sl_generate request_of(const struct generate_values *v, const struct sl_prompt *prompt,
                                     bool score)
{
    bool json = strcmp(v->output, "json") == 0;
    struct sl_generate generate = {
        .ids = prompt->ids,
        .n_ids = prompt->n_ids,
        .sampling = {.temperature = (float)v->temperature,
                     .top_k = v->top_k,
                     .top_p = score ? 1 : (float)v->top_p,
                     .min_p = (float)v->min_p,
                     .seed = v->seed,
                     .n_logprobs = json && !score ? (int32_t)v->logprobs : -1,
                     .presence_penalty = (float)v->presence_penalty,
                     .frequency_penalty = (float)v->frequency_penalty,
                     .repetition_penalty = score ? 1 : (float)v->repetition_penalty},
        .max_tokens = score ? 0 : v->max_tokens,
        .ignore_eos = v->ignore_eos,
        .skip_special = true,
        .prompt_logprobs = score ? (json ? (int32_t)v->logprobs : 0) : -1,
        .want_digest = v->digest,
        .want_timeline = json || v->timeline || v->timeline_svg,
        .deadline_ms = -1,
        .slo_ms = v->slo_ttft,
        .priority = (int32_t)strtol(v->priority, NULL, 10),
    };
    snprintf(generate.tenant, sizeof generate.tenant, "%s", v->tenant ? v->tenant : "");
    return generate;
}

static sl_status draw(const struct generate_values *v, const struct sl_answer *answer, struct sl_err *err)
{
    if (!v->timeline && !v->timeline_svg)
        return SL_OK;
    if (!answer->has_timeline)
        return sl_fail(err, SL_E_UNIMPLEMENTED, "the server sent no timeline; only sluice can");
    if (v->timeline) {
        FILE *to = strcmp(v->output, "text") == 0 ? stdout : stderr;
        fputc('\n', to);
        sl_timeline_draw(&answer->timeline, to, 96, isatty(fileno(to)) && !getenv("NO_COLOR"));
    }
    return v->timeline_svg ? sl_timeline_svg(&answer->timeline, v->timeline_svg, err) : SL_OK;
}

static sl_status ask(const struct generate_values *v, struct sl_client *client, struct interrupts *in,
                     const char *traceparent, bool score, struct sl_err *err)
{
    struct sl_prompt prompt;
    SL_TRY(
        sl_prompt_read(&prompt, v->prompt, v->prompt_file, v->token_ids, sl_client_tokenizer(client), err));
    struct sl_generate generate = request_of(v, &prompt, score);
    generate.traceparent = traceparent;
    sl_status status = sl_client_start(client, prompt.n_ids + generate.max_tokens, err);
    struct sl_output output;
    struct sl_answer answer = {0};
    sl_output_begin(&output, v->output, sl_client_tokenizer(client), score);
    output.digest = v->digest;
    if (status == SL_OK) {
        interrupts_watch(in, client);
        status = sl_client_generate(client, &generate, sl_output_tokens, &output, &answer, err);
        interrupts_watch(in, NULL);
    }
    if (status == SL_OK || answer.n_tokens > 0)
        sl_output_end(&output, &answer, &prompt, v->logprobs > 0);
    if (status == SL_OK)
        status = draw(v, &answer, err);
    sl_output_fini(&output);
    sl_answer_free(&answer);
    sl_prompt_free(&prompt);
    return status;
}

static int run(const struct generate_values *v, const char *name, bool score)
{
    struct sl_err err = {0};
    char trace[SL_TRACEPARENT_ROOM];
    const char *traceparent;
    if (check_values(v, &err) != SL_OK || trace_of(v, trace, &traceparent, &err) != SL_OK ||
        sl_client_tls_use(&v->tls, &err) != SL_OK)
        return sl_command_failed(name, &err);
    sl_log_init(name, SL_LOG_WARN); /* the answer is what the user wants to see */
    struct interrupts in;
    if (interrupts_start(&in, &err) != SL_OK)
        return sl_command_failed(name, &err);
    struct sl_client_config config = client_config(v, score);
    struct sl_client *client = NULL;
    struct sl_plan_options options = {.n_stages = v->stages,
                                      .n_decoders = score ? 0 : 1,
                                      .n_parts = v->decode_stages,
                                      .chunk_tokens = v->chunk,
                                      .max_running = config.cluster.max_running};
    uint32_t layers[SL_MAX_STAGES];
    sl_status status = SL_OK;
    if (v->model)
        status = sl_layers_read(&options.layers, layers, v->layers, v->stages, &err);
    config.cluster.layers = options.layers;
    if (v->model && status == SL_OK)
        status = sl_plan_early_alone(v->model, &options, &err);
    if (status == SL_OK)
        status = sl_client_open(&client, &config, &err);
    if (status == SL_OK)
        status = ask(v, client, &in, traceparent, score, &err);
    sl_client_close(client);
    if (interrupts_stop(&in))
        return EXIT_INTERRUPTED;
    return status == SL_OK ? 0 : sl_command_failed(name, &err);
}

static int run_generate(const void *values, const char *const *args, uint32_t n_args)
{
    (void)args;
    (void)n_args;
    return run(values, "generate", false);
}

static int run_score(const void *values, const char *const *args, uint32_t n_args)
{
    (void)args;
    (void)n_args;
    return run(values, "score", true);
}

const struct sl_command sl_command_generate = {
    "generate",
    "",
    "answer a prompt, through a server or in this process",
    "Sends a prompt to a server (--endpoint), or runs it through the same stages as threads of "
    "this process (--model, with --stages to --numerics), and prints the answer as it comes. Ctrl-C cancels "
    "the request.",
    generate_options,
    sizeof(struct generate_values),
    0,
    0,
    run_generate,
};

const struct sl_command sl_command_score = {
    "score",
    "",
    "log-probability of each token of a given text",
    "Runs a text through the stages at prefill speed and prints how likely the model finds each "
    "token after those before it. "
    "The first token has no log-probability.",
    score_options,
    sizeof(struct generate_values),
    0,
    0,
    run_score,
};
