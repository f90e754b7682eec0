/* From outcomes to figures. The definitions, once (ecosystem.md 5.1 has where other tools differ):
 *
 *   TTFT       first token - due. From the intended arrival, so that what waited at the client counts
 *   TTFT sent  first token - sent
 *   ITL        each gap between messages with tokens, over all requests
 *   TPOT       (last token - first token) / (tokens - 1); none with fewer than 2 tokens
 *   E2E        last token - due
 *   lag        sent - due: ours, not the server's
 *
 * A failed request, one that timed out and one that was never sent has an infinite TTFT (unless the token came), TPOT and
 * E2E: it lies in the tail of every percentile and is never dropped; means are of what is finite and say of how many. A request that
 * we cancelled as the load wanted has a TTFT if the token came, and no TPOT or E2E; so has one that was still running when the run
 * ended, which is counted as unfinished. Requests due before the end of the warm-up are not measured, but they were sent: who is
 * in flight, and tokens in a second, are those of all requests of the class. Goodput counts requests that ended well within all limits
 * of their class, per second; an answer without a token holds no limit of TTFT or E2E. Pure. */
#ifndef SL_BENCH_SERVE_MEASURE_H
#define SL_BENCH_SERVE_MEASURE_H

#include "base/status.h"
#include "bench/serve/interval.h"
#include "bench/serve/outcome.h"

enum sl_measure { SL_TTFT, SL_TTFT_SENT, SL_ITL, SL_TPOT, SL_E2E, SL_LAG, SL_MEASURES };
extern const char
    *const sl_measure_names[SL_MEASURES]; /* "TTFT", "TTFT sent", "ITL", "TPOT", "E2E", "send lag" */
extern const char
    *const sl_measure_keys[SL_MEASURES]; /* "ttft", "ttft_sent", "itl", "tpot", "e2el", "send_lag" */

enum { SL_QUANTILES = 6 };
extern const double sl_quantiles[SL_QUANTILES]; /* 0.5 0.75 0.9 0.95 0.99 0.999 */

struct sl_limits { /* ms; 0: no limit */
    double ttft_ms, tpot_ms, e2e_ms;
};
bool sl_limits_any(const struct sl_limits *limits);

struct sl_figure {
    uint32_t n, n_failed;                     /* samples, and of them infinite */
    double mean, deviation, minimum, maximum; /* of what is finite, ms; deviation by n; NAN: nothing is */
    struct sl_interval mean_interval;
    struct sl_interval quantiles[SL_QUANTILES];
};

struct sl_summary { /* of a class, or of all */
    uint32_t n_requests, n_done, n_cancelled, n_failed, n_timeout, n_unsent, n_unfinished;
    uint64_t input_tokens, output_tokens;
    double seconds; /* of the measured part: from warm to the last end */
    double requests_per_s, output_per_s,
        tokens_per_s; /* requests that were done; tokens of all that were sent */
    bool has_limits;
    uint32_t n_good;
    double good_per_s, good_share;           /* of what was not cancelled by us */
    uint32_t max_in_flight;                  /* of the measured part, as are the next two */
    double mean_in_flight, max_output_per_s; /* the most output tokens in a second, counted from warm */
    struct sl_figure figures[SL_MEASURES];
    uint32_t n_parts;          /* requests with parts */
    double parts_ms[SL_PARTS]; /* means */
    double parts_p99_ms[SL_PARTS];
};

/* load_class < 0: all classes, each request held to the limits of its own. limits: [n_classes]. Takes 24 bytes for each request, or
 * for each gap if these are more. */
sl_status sl_measure(struct sl_summary *summary, const struct sl_outcomes *outcomes, int load_class,
                     const struct sl_limits *limits, uint32_t n_classes, struct sl_err *err);
/* The nearest rank of q, one of sl_quantiles, known or not; 0: no samples. */
static inline double sl_figure_near(const struct sl_figure *figure, double q)
{
    for (int i = 0; i < SL_QUANTILES && figure->n; i++)
        if (sl_quantiles[i] == q)
            return figure->quantiles[i].value;
    return 0;
}
/* The value in ms of one request; NAN: it has none; +inf: failed. ITL has a list (gaps_ms) instead. */
double sl_measure_of(const struct sl_outcome *outcome, enum sl_measure measure);
bool sl_measure_is_good(const struct sl_outcome *outcome, const struct sl_limits *limits);

#endif
