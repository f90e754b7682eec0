/* A whole pipeline on a virtual clock, in one thread: the real decider, real stages and decode workers as their roles' steps, each with
 * a real io and real links, over a simulated network (pipeline/link/transport_sim.h) and before devices that compute hashes. What is
 * played here is what is around them: time, the network, who asks, the control streams by which nodes are told of each other, and
 * what goes wrong.
 *
 * Deterministic: the same config and requests give the same history. Knows no thread and no clock. */
#ifndef SL_BENCH_SIMULATE_WORLD_H
#define SL_BENCH_SIMULATE_WORLD_H

#include "bench/simulate/faults.h"
#include "pipeline/decide/cost.h"
#include "pipeline/sim/sim.h"

enum { SL_WORLD_VOCAB = 128, SL_WORLD_END_ID = 7 /* ends a text */ };

struct sl_world_config {
    uint64_t seed;
    uint32_t faults;
    uint32_t n_layers, n_stages, n_decoders, max_prefill, max_running, max_requests, chunk_tokens,
        context_tokens, expect_tokens;
    uint64_t kv_tokens, flush_us; /* flush_us: when the prefix cache is flushed; 0: never */
    bool prefix_cache;
    bool all_late;   /* see sl_net_config */
    bool slow_push;  /* pages are long under way to decode workers */
    bool in_order;   /* nothing keeps a request from a chunk but who goes first: see fair.h */
    bool one_by_one; /* a request comes when the one before has ended */
    /* [n_requests] a request comes its arrive_us after the one before and this many records are there; NULL: after the start */
    const uint32_t *after;
    uint32_t
        late_us; /* by as much work and frames may be late, each time another, and who comes by three times that */
    enum sl_schedule_kind schedule;
    enum sl_link_auth auth;
    uint64_t budget_us, slo_us;
    uint32_t runs;
    struct sl_cost cost; /* of all layers on one node */
    /* [n_stages + 1], of each stage and of a decode worker, where they are known and told to the decider; NULL: by `cost` */
    const struct sl_cost *costs;
    uint64_t most_events;
    void (*tell)(void *user, uint64_t at_us, const char *what);
    void *tell_user;
    /* a record is written; order and pages as sl_tail_add takes them; NULL: nobody wants to know */
    void (*record)(void *user, uint64_t at_us, const struct sl_order *order,
                   const struct sl_page_numbers *pages);
    void *record_user;
};

struct sl_world_report {
    uint64_t end_us, events, records, tokens, set_back, cached_tokens, evicted, given_up, foretold, frames,
        resent, lost, left, faults, longest_wait_us;
    uint64_t
        pipelines_lost; /* what they had has ended with SL_E_UNAVAILABLE, as has what came before the next one was ready */
};

/* SL_E_INTERNAL: a promise was broken, and which. */
sl_status sl_world_run(const struct sl_world_config *config, struct sl_sim_request *requests,
                       uint32_t n_requests, struct sl_world_report *report, struct sl_err *err);

#endif
