/* From options to what they mean: the load, the points of a sweep, limits. Pure but for files that are named. */
#ifndef SL_BENCH_SERVE_OPTIONS_LOAD_H
#define SL_BENCH_SERVE_OPTIONS_LOAD_H

#include "bench/serve/serve.h"
#include "bench/serve/workload.h"

enum { SL_SWEEP_POINTS = 64 };

enum sl_sweep_kind { SL_SWEEP_NONE, SL_SWEEP_RATE, SL_SWEEP_CONCURRENCY, SL_SWEEP_SCALE };
struct sl_sweep {
    enum sl_sweep_kind kind;
    uint32_t n; /* 1 when there is none */
    double values[SL_SWEEP_POINTS];
};
/* NULL: no sweep. */
sl_status sl_sweep_parse(struct sl_sweep *sweep, const char *text, struct sl_err *err);
/* "ttft=500,tpot=50,e2e=5000" */
sl_status sl_limits_parse(struct sl_limits *limits, const char *text, struct sl_err *err);
/* "0.1:20" or "0.1:500ms" */
sl_status sl_cancel_parse(struct sl_load_class *load_class, const char *text, struct sl_err *err);
/* The load of the options; sl_workload_free even after an error. */
sl_status sl_workload_of(struct sl_workload *workload, const struct sl_bench_serve *options,
                         struct sl_err *err);
/* The load of a point: rates and concurrency as the sweep says. */
void sl_workload_at(struct sl_workload *to, const struct sl_workload *from, const struct sl_sweep *sweep,
                    uint32_t point);

#endif
