/* What came of each request of a load: time stamps and counts, as the driver saw them and before anybody made a figure of
 * them. Everything that is reported (measure.h, the JSON, the drawings) is computed from these alone, so it can be computed
 * again, by other definitions too, from the per-request file.
 *
 * Times are ns of the monotonic clock, from the begin of the run; SL_NEVER: it did not happen. A request is due when the load
 * says so, whatever the server does; with a constant concurrency it is due when the one before it has ended. */
#ifndef SL_BENCH_SERVE_OUTCOME_H
#define SL_BENCH_SERVE_OUTCOME_H

#include <stdbool.h>
#include <stdint.h>

#define SL_NEVER UINT64_MAX

enum sl_ending {
    SL_ENDING_NONE,      /* still running, or never sent because the run was ended */
    SL_ENDING_DONE,      /* the server ended it well */
    SL_ENDING_CANCELLED, /* by us, as the load wanted it */
    SL_ENDING_FAILED,    /* refused, broken, nonsense */
    SL_ENDING_TIMEOUT,   /* --timeout, or the deadline of its class */
    SL_ENDING_UNSENT     /* too many were in flight: counts as failed */
};

/* Where the time to the first token went, when the server is ours: us. WIRE to DRAIN add up to first - sent; the KV tail comes
 * after the first token, and is what the second waits for. */
enum sl_ttft_part {
    SL_PART_WIRE,  /* from us to the coordinator and back, and what waits at either */
    SL_PART_QUEUE, /* admitted, but stage 0 has not begun */
    SL_PART_FILL,  /* from stage 0's begin until the last stage begins: the way of the first chunk */
    SL_PART_BUSY,  /* the last stage works at this request */
    SL_PART_STALL, /* it does not, between its first and its last chunk */
    SL_PART_DRAIN, /* from its end until the coordinator knows the first token */
    SL_PART_KV,    /* from the first token until the decode worker had the last page */
    SL_PARTS
};

struct sl_outcome {
    uint64_t due_ns, sent_ns;
    uint64_t first_ns, last_ns; /* arrival of the first and the last token */
    uint64_t end_ns;            /* the status, or our giving up */
    uint32_t number;            /* of the request within the load, from 0, in the order of being due */
    uint32_t input_tokens, output_tokens, wanted_tokens;
    uint32_t n_arrivals; /* messages with tokens in them */
    uint32_t n_gaps;     /* between arrivals, n_arrivals - 1 unless memory for them had to be bounded */
    float *gaps_ms;
    uint32_t load_class; /* index */
    enum sl_ending ending;
    uint32_t error; /* index into the run's sentences; 0: none */
    bool has_parts;
    uint32_t parts_us[SL_PARTS];
};

/* One run of a load against a target. */
struct sl_outcomes {
    struct sl_outcome *all; /* [n], by number */
    uint32_t n;
    const char *const *errors; /* [n_errors]: "" at 0; what failed requests were told, each sentence once */
    uint32_t n_errors;
    uint64_t n_gaps_left_out;  /* memory for gaps is bounded; ITL is of those that were kept */
    uint64_t began_ns;         /* of the monotonic clock: the zero of all times */
    uint64_t warm_ns, over_ns; /* what is measured was due in [warm, over), as times of this run */
};

#endif
