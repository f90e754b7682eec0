/* The option rows of `sluice simulate`; what it does is in simulate.c. */
#include "bench/simulate/cmd_simulate.h"
#include "base/log.h"
#include "bench/simulate/load.h"
#include "bench/simulate/simulate.h"
#include "node/command/shared_options.h"

static const struct sl_option simulate_options[] = {
    SL_OPTION_TEXT("seeds", SL_OPT_STRING, sl_simulate, seeds, "1:200", "A:B",
                   "From the first to the last: each is a world of its own, and the same one every time."),
    SL_OPTION_STAGES(sl_simulate, n_stages, "4"),
    SL_OPTION_NUMBER("decoders", sl_simulate, n_decoders, "2", 1, SL_MAX_DECODERS, "decode workers",
                     "That are there at the beginning."),
    SL_OPTION_NUMBER("requests", sl_simulate, n_requests, "50", 1, SL_SIM_MOST_REQUESTS, "requests",
                     "Of each seed; of a trace its first so many rows."),
    SL_OPTION_NUMBER("context", sl_simulate, context, "1024", 128, 1 << 16, "tokens",
                     "Longest prompt and output together; what is longer is cut."),
    SL_OPTION_TEXT(
        "load", SL_OPT_STRING, sl_simulate, load, "poisson:100", "LOAD",
        "When requests come and how long they are: a trace (Mooncake's JSON lines, BurstGPT's CSV), or "
        "poisson:RATE[,in=LENGTH][,out=LENGTH] with lengths as bench serve has them."),
    SL_OPTION_TEXT(
        "faults", SL_OPT_STRING, sl_simulate, faults, "all", "LIST",
        "What goes wrong: none, all, or some of delay, reorder, clog, partition, crash, freeze, slow, clock, "
        "lost-client and lost-stage."),
    SL_OPTION_NUMBER("max-events", sl_simulate, most_events, "5000000", 1000, 4000000000.0, "events",
                     "Of a seed; one that has not ended then has failed."),
    SL_OPTION_TEXT("trace", SL_OPT_STRING, sl_simulate, trace, NULL, "FILE",
                   "Write down every event of the one seed."),
    SL_OPTION_JSON(sl_simulate, json),
    {0},
};

static int run_simulate(const void *values, const char *const *args, uint32_t n_args)
{
    struct sl_err err;
    (void)args;
    (void)n_args;
    sl_log_init("simulate", SL_LOG_ERROR);
    return sl_simulate(values, &err) == SL_OK ? 0 : sl_command_failed("simulate", &err);
}

const struct sl_command sl_command_simulate = {
    "simulate",
    "",
    "whole pipelines under faults, seed by seed, on a virtual clock",
    "Runs the very code that decides, the roles of all nodes and the links between them on a virtual clock, over a simulated network "
    "and devices that compute hashes in the time of the cost model, where things go wrong at any moment. Every answer is compared "
    "with the same request alone on one stage, and after every event it is looked at what must hold. A seed that fails is said with "
    "the command that runs it again, and with its last events.",
    simulate_options,
    sizeof(struct sl_simulate),
    0,
    0,
    run_simulate,
};
