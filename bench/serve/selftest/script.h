/* What the scripted server does, written down before it starts: when tokens come, when everything stands still, and which request
 * meets which fault. A script and the times of arrival say all times that a perfect observer would see (scene.h).
 *
 * Times of a script are ns from the first request. It shares no code with the harness that is measured by it. Pure. */
#ifndef SL_BENCH_SERVE_SELFTEST_SCRIPT_H
#define SL_BENCH_SERVE_SELFTEST_SCRIPT_H

#include "base/status.h"
#include <stdint.h>

enum { SL_MAX_STALLS = 64, SL_MAX_FAILINGS = 32, SL_MAX_SCRIPTED_TOKENS = 32768 };

enum sl_scripted_fault {
    SL_FAULT_NONE,
    SL_FAULT_REFUSE,    /* an error status at once */
    SL_FAULT_DROP,      /* breaks in the middle of its tokens */
    SL_FAULT_NEVER,     /* no answer, ever */
    SL_FAULT_GARBAGE,   /* bytes that are not the protocol, when the first token is due */
    SL_FAULT_TWICE,     /* completed twice, and a token in between */
    SL_FAULT_EMPTY,     /* an empty message before each with tokens, midway */
    SL_FAULT_USAGE_LIE, /* counts that are not true */
    SL_FAULT_HALF,      /* half of its tokens (of what is no stream, none), and a good end without a finish */
    SL_FAULT_SLOW,      /* one byte at a time; HTTP only */
    SL_FAULTS
};
extern const char *const sl_fault_names[SL_FAULTS]; /* "none", "refuse", ... */

struct sl_law { /* how a duration is distributed about its mean */
    enum { SL_LAW_CONSTANT, SL_LAW_EXPONENTIAL, SL_LAW_LOGNORMAL } kind;
    double sigma; /* lognormal: of the logarithm */
};

struct sl_script {
    double ttft_ms, tpot_ms;
    struct sl_law ttft_law, tpot_law;
    uint32_t tokens_per_message; /* at least 1 */
    uint64_t seed;
    struct sl_stall { /* nothing moves in [at, at + for) */
        uint64_t at_ns, for_ns;
    } stalls[SL_MAX_STALLS]; /* in order, apart */
    uint32_t n_stalls;
    struct sl_failing { /* every n-th request */
        uint32_t every;
        enum sl_scripted_fault fault;
    } failings[SL_MAX_FAILINGS];
    uint32_t n_failings;
};

/* "constant", "exponential", "lognormal:0.5". SL_E_USAGE names the option. */
sl_status sl_law_parse(struct sl_law *law, const char *option, const char *text, struct sl_err *err);
/* "2:1,5.5:0.25": at 2 s for 1 s, and so on; in any order. NULL: none. */
sl_status sl_script_parse_stalls(struct sl_script *script, const char *text, struct sl_err *err);
/* "10:drop,7:never": every 10th and every 7th request; of several that fit a request the first counts. NULL: none. */
sl_status sl_script_parse_faults(struct sl_script *script, const char *text, struct sl_err *err);

/* What request `number` (from 0) meets: with "10:drop" the 10th, the 20th, ... are dropped. */
enum sl_scripted_fault sl_script_fault(const struct sl_script *script, uint32_t number);
/* [n_tokens]: ns of work from being served until each token may leave. The tokens of a message leave with its first. The same
 * script and number, the same draws. */
void sl_script_draw(const struct sl_script *script, uint32_t number, uint32_t n_tokens, uint64_t *work_ns);
/* When work that begins at at_ns is done: the stalls do not count. */
uint64_t sl_script_after(const struct sl_script *script, uint64_t at_ns, uint64_t work_ns);

#endif
