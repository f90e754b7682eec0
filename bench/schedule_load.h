/* What is sent through the small simulated world: requests whose times, lengths, targets and tenants are a function of a seed.
 *
 * Open requests come at their time; closed ones are outstanding so many at a time: when one ends the next comes. */
#ifndef SL_BENCH_SCHEDULE_LOAD_H
#define SL_BENCH_SCHEDULE_LOAD_H

#include "base/status.h"
#include "bench/schedule_shape.h"

enum sl_bench_traffic_kind {
    SL_BENCH_MIX, /* 64-token prompts at 0.3 of what they alone would use, long ones of 8k to 16k always outstanding */
    SL_BENCH_ALONE,    /* these short ones without the long ones */
    SL_BENCH_SHORT,    /* prompts of 64 to 512 tokens, 128 outstanding */
    SL_BENCH_FULL,     /* the lengths of overload, 64 outstanding */
    SL_BENCH_LONG,     /* one prompt at a time, of `tokens` */
    SL_BENCH_OVERLOAD, /* open, at `rate` times the capacity, each with a target */
    SL_BENCH_TENANTS,  /* one at 0.3 of the capacity beside one at 3.0, which comes in bursts of 20 */
    SL_BENCH_GROWTH, /* short prompts without max_tokens, 300 tokens of output in the mean; 256 outstanding */
    SL_BENCH_TRAFFICS
};
const char *sl_bench_traffic_name(enum sl_bench_traffic_kind kind);

enum sl_bench_class { SL_BENCH_CLASS_SHORT, SL_BENCH_CLASS_MIDDLE, SL_BENCH_CLASS_LONG, SL_BENCH_CLASSES };
enum sl_bench_class sl_bench_class_of(uint32_t n); /* short: up to 1024 tokens, middle: up to 8000 */

struct sl_bench_request {
    double at_us;                  /* of an open one */
    double target_us;              /* after it came; 0: none is said */
    double work_us;                /* of the capacity */
    uint32_t n, n_out, max_tokens; /* n_out: after so many its text ends, unless max_tokens are fewer */
    uint32_t tenant;               /* 0 or 1 */
};

struct sl_bench_traffic_config {
    enum sl_bench_traffic_kind kind;
    const struct sl_bench_shape *shape;
    double rate;         /* of overload, in capacities */
    uint32_t n_requests; /* open ones, or closed ones where there are no open */
    uint32_t tokens;     /* of LONG */
    uint64_t seed;
};

struct sl_bench_traffic {
    struct sl_bench_request *requests; /* the open ones in the order of their time, then the closed ones */
    uint32_t n_open, n_closed, width;  /* width: closed ones that are outstanding */
};
/* SL_E_NOMEM. What it took is freed with sl_bench_traffic_fini, after an error, too. */
sl_status sl_bench_traffic_init(struct sl_bench_traffic *load, const struct sl_bench_traffic_config *config,
                                struct sl_err *err);
void sl_bench_traffic_fini(struct sl_bench_traffic *load);

#endif
