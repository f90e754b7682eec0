/* A small simulated world: the real decider (pipeline/decide/core.h) on a virtual clock, before stages that take the time of a
 * shape, with noise, and a decode worker that takes steps. Nothing is computed, so a prompt of 100,000 tokens costs no more than
 * its records. It is for figures; whether the decider is right, pipeline/sim finds out.
 *
 * Stages are a flow shop: record k begins on stage s when stage s - 1 has sent it and record k - 1 has left stage s. Since
 * records overtake nowhere, their ends follow from those of the record before, and only the RESULT is an event. */
#ifndef SL_BENCH_SCHEDULE_WORLD_H
#define SL_BENCH_SCHEDULE_WORLD_H

#include "bench/schedule_load.h"
#include "pipeline/decide/core.h"

/* free_us: when each stage is free; becomes when it is free again. spent_us: what the record takes on each. end_us: when it
 * leaves each. at_us: when it reaches stage 0, between_us: from one stage to the next. */
void sl_bench_flow(uint32_t n_stages, double at_us, double between_us, const double *spent_us,
                   double *free_us, double *end_us);

enum sl_bench_answers {                     /* how what was answered comes to the prefix cache */
                        SL_BENCH_REFILLED,  /* as the core has it: prefilled again when the stages are idle */
                        SL_BENCH_FORGOTTEN, /* not at all */
                        SL_BENCH_SENT, /* its pages go back over the decode worker's link, which no code does */
                        SL_BENCH_ANSWERS_WAYS
};

struct sl_bench_world_config {
    const struct sl_bench_shape *shape;
    enum sl_schedule_kind schedule;
    enum sl_bench_answers answers;
    double link_gbits;         /* of SENT: of the decode worker's link, a second */
    uint64_t chunk_us, slo_us; /* as of the core; 0: by cost */
    uint32_t runs;             /* under way at most; 0: as the core has it */
    uint32_t chunk_tokens;     /* of every chunk; 0: by the prompt, or as the schedule has it */
    uint32_t max_running;      /* 0: as many as a step can batch */
    uint64_t kv_tokens;        /* of each pool; 0: no bound that is felt */
    double slower;             /* than the shape says, so many times; 0: once */
    double sigma;              /* of the logarithm of a chunk's time */
    uint64_t seed;
    bool check; /* look at the core's tables after every event */
};

/* What the pages of so many tokens take over the decode worker's link. */
double sl_bench_link_us(const struct sl_bench_world_config *config, uint32_t tokens);

struct sl_bench_outcome { /* of a request; times of the world, 0: never */
    double submit_us, first_us, end_us;
    double predicted_us; /* from submit to first token, as told when it began; 0: nothing was */
    double pause_us;     /* the longest between two tokens */
    uint32_t n_out;
    uint32_t n_cached; /* tokens of its prompt behind which it began */
    sl_status status;  /* of its end */
    bool was_refused;  /* when it came */
    uint32_t retry_after_ms;
};

struct sl_bench_ran { /* a record that was answered */
    double at_us;
    uint32_t rows;
};

struct sl_bench_report {
    double end_us, last_submit_us;
    double busy_us; /* of the first stage */
    double fill_us; /* likewise, for what nobody had asked for */
    double sent_us; /* of the decode worker's link, when answers go back over it */
    uint64_t records, runs, slices, tokens, steps, set_back;
    double in_flight; /* chunks that were under way when one of them came back, in the mean */
    double step_us;   /* all steps together */
    bool slo_dear;    /* the core's target costs more than half of the throughput */
    uint32_t n_ran;
    struct sl_bench_ran *ran; /* [n_ran], in the order of time */
};

/* outcomes: one for each request of the load. report->ran is freed with sl_bench_report_fini, after an error, too.
 * SL_E_INTERNAL: a request never ends, or the core's tables break a promise. */
sl_status sl_bench_world_run(const struct sl_bench_world_config *config, const struct sl_bench_traffic *load,
                             struct sl_bench_outcome *outcomes, struct sl_bench_report *report,
                             struct sl_err *err);
void sl_bench_report_fini(struct sl_bench_report *report);

#endif
