/* What is asked of a simulated world: a trace of real arrivals, or a Poisson process with lengths; and of it the requests of a seed,
 * with all that a request may want, which follow from the seed alone. */
#ifndef SL_BENCH_SIMULATE_LOAD_H
#define SL_BENCH_SIMULATE_LOAD_H

#include "bench/serve/workload.h"
#include "bench/simulate/faults.h"
#include "bench/simulate/world.h"

enum { SL_SIM_MOST_REQUESTS = 4096 };

struct sl_sim_load {
    struct sl_arrival_trace *trace; /* or */
    double rate;                    /* requests per second */
    struct sl_length input, output;
    uint32_t n_requests, context_tokens;
};
/* "poisson:RATE[,in=LENGTH][,out=LENGTH]" or the name of a trace (bench/serve/trace.h), of which the first n_requests rows count.
 * SL_E_USAGE, SL_E_DATA, SL_E_IO; sl_sim_load_fini even after an error. */
sl_status sl_sim_load_read(struct sl_sim_load *load, const char *text, uint32_t n_requests,
                           uint32_t context_tokens, struct sl_err *err);
void sl_sim_load_fini(struct sl_sim_load *load);

struct sl_sim_history { /* the requests of a seed, with their memory */
    struct sl_sim_request *requests;
    uint32_t n, context_tokens, n_cut; /* n_cut: whose prompts were cut to the context */
    uint32_t *ids, *tokens;            /* [n][context_tokens], [n][SL_SIM_ANSWERS][context_tokens] */
    uint8_t *steering;                 /* [n][SL_SIM_STEERING] */
};
enum { SL_SIM_ANSWERS = 4, SL_SIM_STEERING = 512 };
sl_status sl_sim_history_init(struct sl_sim_history *history, const struct sl_sim_load *load,
                              struct sl_err *err);
void sl_sim_history_fini(struct sl_sim_history *history);
/* most_n: answers that a request may want. */
void sl_sim_history_draw(struct sl_sim_history *history, const struct sl_sim_load *load, uint32_t faults,
                         uint32_t most_n, uint64_t seed);

#endif
