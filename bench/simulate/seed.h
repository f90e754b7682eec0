/* One seed: its world is drawn, run, and every answer compared with the same request alone. */
#ifndef SL_BENCH_SIMULATE_SEED_H
#define SL_BENCH_SIMULATE_SEED_H

#include "bench/simulate/load.h"

struct sl_seed_config {
    uint32_t n_stages, n_decoders, faults, most_events;
    const struct sl_sim_load *load;
    void (*tell)(void *user, uint64_t at_us, const char *what); /* of every event; NULL: nobody */
    void *tell_user;
};

struct sl_seed_sums { /* over seeds */
    uint64_t requests, answers, records, tokens, set_back, cached_tokens, given_up, cut, events, end_us;
    uint64_t frames, lost, left, faults, refused, pipelines_lost;
};

/* SL_E_INTERNAL: the promise that was broken, in one sentence. history: as sl_sim_history_init made it of the load. */
sl_status sl_seed_run(const struct sl_seed_config *config, struct sl_sim_history *history, uint64_t seed,
                      struct sl_seed_sums *sums, struct sl_err *err);

#endif
