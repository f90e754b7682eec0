/* `sluice bench schedule`: what a policy of the decider does to requests, in a small simulated world. */
#ifndef SL_BENCH_BENCH_SCHEDULE_H
#define SL_BENCH_BENCH_SCHEDULE_H

#include "bench/schedule_figures.h"

struct sl_bench_schedule {
    const char *world, *load, *schedule, *answers;
    double rate, sigma, slower, pause, gbits;
    uint32_t requests, tokens, seed, chunk_ms, slo_ms, chunk, runs;
    bool check, table, json;
};
sl_status sl_bench_schedule(const struct sl_bench_schedule *bench, struct sl_err *err);

/* One load through one world: what the rows of the table are made of. */
struct sl_bench_run {
    struct sl_bench_traffic_config load;
    struct sl_bench_world_config world;
};
sl_status sl_bench_schedule_run(const struct sl_bench_run *run, struct sl_bench_figures *figures,
                                struct sl_bench_report *report, struct sl_err *err);
/* The measures of the issue that are shown in this world, each with its target. */
sl_status sl_bench_schedule_table(const struct sl_bench_schedule *bench, struct sl_err *err);

#endif
