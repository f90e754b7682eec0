/* `sluice bench serve`: a load, a target, runs, and what is left of them on disk. */
#ifndef SL_BENCH_SERVE_SERVE_H
#define SL_BENCH_SERVE_SERVE_H

#include "base/status.h"
#include "node/command/security.h"
#include <stdint.h>

enum {
    SL_EXIT_INVALID = 3
}; /* the harness was late itself: the figures are written, and not to be believed */

struct sl_bench_serve {
    /* whom */
    const char *grpc, *openai, *served_model, *api, *extra_body;
    struct sl_client_tls tls;
    const char *token;
    /* what */
    uint32_t requests, concurrency, prefix_groups, prefix_tokens, turns, think_ms, deadline_ms, seed,
        vocabulary;
    double duration_s, rate, trace_speed, temperature;
    const char *arrivals, *trace, *input, *output, *prompts, *mix, *headers, *cancel, *slo;
    bool own_length;
    /* how */
    double warm_up_s, ready_timeout_s, timeout_s;
    uint32_t repeat, max_in_flight;
    const char *sweep, *compare, *cpus, *progress;
    /* where to */
    const char *save, *save_requests, *save_page, *save_histograms;
    /* filled by the command */
    const char *command_line;
    const char *const *settings; /* key, value, ..., NULL */
};

/* Returns the exit code; prints errors. */
int sl_bench_serve_run(const struct sl_bench_serve *options, const char *other);

#endif
