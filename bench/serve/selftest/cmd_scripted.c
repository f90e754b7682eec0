/* `sluice bench scripted`: its options, and its life from the script that is read to the last line of the truth. */
#include "bench/serve/selftest/cmd_scripted.h"
#include "base/log.h"
#include "base/signals.h"
#include "bench/serve/selftest/scripted.h"
#include "model/pack/pack_cache.h"
#include "node/command/shared_options.h"
#include "node/rpc/rpc.h"
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <time.h>

struct scripted_values {
    const char *grpc_listen, *http_listen, *model, *ttft_law, *tpot_law, *stall, *fail, *truth;
    double ttft_ms, tpot_ms, slow_start_s;
    uint32_t tokens_per_message, output_tokens, servers, seed;
};

#define NUMBER(name, field, fallback, max, unit, help)                                                       \
    SL_OPTION_ROW(name, SL_OPT_FLOAT, scripted_values, field, fallback, NULL, 0, max, unit, help)

static const struct sl_option scripted_options[] = {
    SL_OPTION_TEXT("grpc-listen", SL_OPT_ADDRESS, scripted_values, grpc_listen, NULL, NULL,
                   "Speak gRPC (VllmEngine) here; port 0: any."),
    SL_OPTION_TEXT("http-listen", SL_OPT_ADDRESS, scripted_values, http_listen, NULL, NULL,
                   "Speak OpenAI's HTTP with SSE here; port 0: any."),
    SL_OPTION_MODEL(scripted_values, model),
    NUMBER("ttft", ttft_ms, "300", 1e6, "ms", "From being served to the first token, in the mean."),
    NUMBER("tpot", tpot_ms, "30", 1e6, "ms", "From token to token, in the mean."),
    SL_OPTION_TEXT("ttft-law", SL_OPT_STRING, scripted_values, ttft_law, "constant", "LAW",
                   "How the first is distributed: constant, exponential or lognormal:SIGMA."),
    SL_OPTION_TEXT("tpot-law", SL_OPT_STRING, scripted_values, tpot_law, "constant", "LAW",
                   "How the others are."),
    SL_OPTION_NUMBER("tokens-per-message", scripted_values, tokens_per_message, "1", 1, 1024, "tokens",
                     "That leave together, when the first of them is due."),
    SL_OPTION_NUMBER("default-tokens", scripted_values, output_tokens, "16", 1, SL_MAX_SCRIPTED_TOKENS,
                     "tokens", "Of who does not say max_tokens."),
    SL_OPTION_NUMBER("servers", scripted_values, servers, "0", 0, SL_SCENE_TURNS, "requests",
                     "That are served at once; more wait in the order of their arrival. 0: all are."),
    SL_OPTION_TEXT("stall", SL_OPT_LIST, scripted_values, stall, NULL, "AT:FOR",
                   "Nothing moves from AT seconds after the first request for FOR seconds."),
    SL_OPTION_TEXT("fail", SL_OPT_LIST, scripted_values, fail, NULL, "EVERY:KIND",
                   "What every so many requests meet: refuse, drop, never, garbage, twice, empty, usage-lie, "
                   "half, or slow (HTTP only)."),
    NUMBER("slow-start", slow_start_s, "0", 86400, "s", "Nobody listens before so long."),
    SL_OPTION_TEXT(
        "truth", SL_OPT_STRING, scripted_values, truth, NULL, "FILE",
        "Write a line of JSON per request at its end: when it arrived, was served, and had each token "
        "given to the transport, in ns of the monotonic clock."),
    SL_OPTION_SEED(scripted_values, seed, "0"),
    {0},
};

struct acting {
    const struct scripted_values *values;
    struct sl_script script;
    struct sl_words words;
    struct sl_pack *pack;
    struct sl_tokenizer *tokenizer;
    struct sl_play *play;
    struct sl_scripted scripted;
    struct sl_scripted_grpc *grpc;
    struct sl_scripted_http *http;
    bool has_rpc;
};

static sl_status read_script(struct acting *run, struct sl_err *err)
{
    const struct scripted_values *v = run->values;
    run->script = (struct sl_script){.ttft_ms = v->ttft_ms,
                                     .tpot_ms = v->tpot_ms,
                                     .tokens_per_message = v->tokens_per_message,
                                     .seed = v->seed};
    if (!v->grpc_listen && !v->http_listen)
        return sl_fail(err, SL_E_USAGE, "say --grpc-listen HOST:PORT, --http-listen HOST:PORT, or both");
    SL_TRY(sl_law_parse(&run->script.ttft_law, "ttft-law", v->ttft_law, err));
    SL_TRY(sl_law_parse(&run->script.tpot_law, "tpot-law", v->tpot_law, err));
    SL_TRY(sl_script_parse_stalls(&run->script, v->stall, err));
    SL_TRY(sl_script_parse_faults(&run->script, v->fail, err));
    for (uint32_t i = 0; i < run->script.n_failings; i++)
        if (run->script.failings[i].fault == SL_FAULT_SLOW && !v->http_listen)
            return sl_fail(err, SL_E_USAGE,
                           "slow is a fault of HTTP: say --http-listen, or leave it out of --fail");
    return SL_OK;
}

static sl_status open_model(struct acting *run, struct sl_err *err)
{
    if (run->values->model) {
        SL_TRY(sl_pack_open_any(&run->pack, run->values->model, err));
        SL_TRY(sl_pack_tokenizer(run->pack, &run->tokenizer, err));
        if (sl_tokenizer_vocab(run->tokenizer) == 0)
            return sl_fail(err, SL_E_DATA, "--model %s has no tokenizer; leave it out, or take another",
                           run->values->model);
    }
    return sl_words_init(&run->words, run->tokenizer, err);
}

/* Seconds pass, or a signal comes: true. */
static bool wait_signal(const sigset_t *set, double seconds)
{
    struct timespec t = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    return sigtimedwait(set, NULL, &t) > 0;
}

static void say_listening(const char *what, const char *listen, int port)
{
    int host = (int)(strrchr(listen, ':') - listen);
    sl_log_info("scripted %s on %.*s:%d", what, host, listen, port);
}

static sl_status open_doors(struct acting *run, struct sl_err *err)
{
    const struct scripted_values *v = run->values;
    if (v->grpc_listen) {
        SL_TRY(sl_scripted_grpc_start(&run->grpc, &run->scripted, v->grpc_listen, err));
        say_listening("gRPC", v->grpc_listen, sl_scripted_grpc_port(run->grpc));
    }
    if (v->http_listen) {
        SL_TRY(sl_scripted_http_start(&run->http, &run->scripted, v->http_listen, err));
        say_listening("HTTP", v->http_listen, sl_scripted_http_port(run->http));
    }
    return SL_OK;
}

static sl_status perform(struct acting *run, struct sl_err *err)
{
    const struct scripted_values *v = run->values;
    sigset_t set;
    SL_TRY(read_script(run, err));
    SL_TRY(open_model(run, err)); /* it may have to be packed, and Ctrl-C ends that */
    sl_signals_of_end(&set);
    pthread_sigmask(SIG_BLOCK, &set, NULL); /* before threads of ours: main alone takes them */
    sl_rpc_init();
    run->has_rpc = true;
    const struct sl_play_config config = {&run->script, v->servers, v->truth};
    SL_TRY(sl_play_start(&run->play, &config, err));
    run->scripted = (struct sl_scripted){
        &run->script,    run->play, &run->words, run->pack, run->pack ? sl_pack_name(run->pack) : "scripted",
        v->output_tokens};
    if (v->slow_start_s > 0 && wait_signal(&set, v->slow_start_s))
        return SL_OK;
    SL_TRY(open_doors(run, err));
    while (!wait_signal(&set, 3600)) {
    }
    return SL_OK;
}

/* Nobody comes any more, then everybody who is there is told, then what served them is taken down. */
static sl_status take_down(struct acting *run, struct sl_err *err)
{
    sl_status status = SL_OK;
    if (run->http)
        sl_scripted_http_quiesce(run->http);
    if (run->play)
        sl_play_close(run->play);
    sl_scripted_grpc_stop(run->grpc);
    sl_scripted_http_stop(run->http);
    if (run->play)
        status = sl_play_stop(run->play, err);
    if (run->has_rpc)
        sl_rpc_fini();
    sl_tokenizer_destroy(run->tokenizer);
    if (run->pack)
        sl_pack_close(run->pack);
    return status;
}

static int run_scripted(const void *values, const char *const *args, uint32_t n_args)
{
    static struct acting run; /* the words are some KB */
    struct sl_err err = {0}, late = {0};
    (void)args, (void)n_args;
    run = (struct acting){.values = values};
    sl_status status = perform(&run, &err);
    sl_status end = take_down(&run, &late);
    if (status != SL_OK)
        return sl_command_failed("bench scripted", &err);
    return end == SL_OK ? 0 : sl_command_failed("bench scripted", &late);
}

const struct sl_command sl_command_bench_scripted = {
    "bench scripted",
    "",
    "a server whose behaviour is written down, to try a harness on",
    "Pretends to be an inference server, over gRPC and OpenAI's HTTP: what it says, when, and which faults clients meet is given "
    "here, and what a perfect observer would have seen is written to --truth. SIGTERM ends it.",
    scripted_options,
    sizeof(struct scripted_values),
    0,
    0,
    run_scripted,
};
