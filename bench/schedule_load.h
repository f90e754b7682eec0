/* What is sent through the small simulated world: requests whose times, lengths, targets and tenants are a function of a seed.
 *
 * Open requests come at their time; closed ones are outstanding so many at a time: when one ends the next comes. Turns come when
 * their user has read the answer to the one before. */
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
    SL_BENCH_PREFIX, /* four of five begin with one of four texts of `tokens`, the others with as many of their own */
    SL_BENCH_CHAT, /* turns of 2048 tokens, 1024 in answer and a message, beside what an overload has */
    SL_BENCH_TRAFFICS
};
const char *sl_bench_traffic_name(enum sl_bench_traffic_kind kind);

enum { SL_BENCH_GROUPS = 3 }; /* kinds of requests within a load, which are counted by themselves */
/* NULL: the load has none of that number. */
const char *sl_bench_group_name(enum sl_bench_traffic_kind kind, uint32_t group);

enum sl_bench_class { SL_BENCH_CLASS_SHORT, SL_BENCH_CLASS_MIDDLE, SL_BENCH_CLASS_LONG, SL_BENCH_CLASSES };
enum sl_bench_class sl_bench_class_of(uint32_t n); /* short: up to 1024 tokens, middle: up to 8000 */

struct sl_bench_request {
    double at_us;                  /* of an open one */
    double target_us;              /* after it came; 0: none is said */
    double work_us;                /* of the capacity */
    uint32_t n, n_out, max_tokens; /* n_out: after so many its text ends, unless max_tokens are fewer */
    uint32_t tenant;               /* 0 or 1 */
    uint32_t group;
    uint32_t text, n_text; /* its first n_text tokens are those of a text that others begin with, too */
    /* Of its tokens, the first that someone had before: in a prompt, or in an answer. */
    uint32_t n_known;
    /* The turn that goes on with it, pause_us after its end, and the turn that it goes on with: one more than the index, 0: none.
     * A turn begins with prompt and answer of the one before. */
    uint32_t next, before;
    double pause_us;
};

struct sl_bench_traffic_config {
    enum sl_bench_traffic_kind kind;
    const struct sl_bench_shape *shape;
    double rate;         /* of overload, in capacities */
    uint32_t n_requests; /* open ones, or closed ones where there are no open */
    uint32_t tokens;     /* of LONG; of a text of PREFIX */
    uint64_t seed;
    double pause_us; /* of CHAT: from an answer to the next turn */
};

struct sl_bench_traffic {
    /* The open ones in the order of their time, then the closed ones, then turns that go on with others. */
    struct sl_bench_request *requests;
    uint32_t n_open, n_closed, n_turns, n; /* n: all of them */
    uint32_t width;                        /* closed ones that are outstanding */
    bool repeats;                          /* some begin as others did: the prefix cache is on */
};
/* SL_E_NOMEM. What it took is freed with sl_bench_traffic_fini, after an error, too. */
sl_status sl_bench_traffic_init(struct sl_bench_traffic *load, const struct sl_bench_traffic_config *config,
                                struct sl_err *err);
void sl_bench_traffic_fini(struct sl_bench_traffic *load);

#endif
