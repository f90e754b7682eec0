/* What `bench prefill` and `bench decode` share: a stage over all layers of a pack, and the account
 * of a measured stretch: wall time, time and work by part, the machine's rooflines of the same
 * minute.
 *
 * The context that is said to be there already is not computed (16k tokens would take longer than
 * everything else): the first chunk of it is, and its pages are copied to all further ones. Kernels
 * do the same work on any numbers. */
#ifndef SL_BENCH_STAGE_BENCH_H
#define SL_BENCH_STAGE_BENCH_H

#include "bench/samples.h"
#include "kernels/roofline.h"
#include "pipeline/stage/stage.h"

struct sl_stage_bench_options {
    const char *model, *kv, *numerics;
    const char *device; /* as sl_device_kind_read takes it; NULL: the CPU */
    struct sl_loading load;
    uint32_t n_threads;  /* 0: all processors */
    uint32_t max_tokens; /* rows of a chunk */
    uint32_t n_sequences;
    uint32_t context_tokens; /* of a sequence, what is measured included */
};

struct sl_stage_bench {
    struct sl_pack *pack;
    struct sl_stage *stage;
    const struct sl_ops *ops; /* on the CPU */
    enum sl_device_kind
        device; /* the twin's times are no figures: those of a simulation, whose clock counts operations */
    struct sl_chunk chunk;
    struct sl_stage_bench_options options;
    float *rows;
    uint32_t *ids;
};

struct sl_account { /* of one stretch */
    struct sl_parts parts;
    uint64_t wall_ns, run_ns;    /* of a twin: the sum of its parts */
    struct sl_roofline roofline; /* measured just before */
};

struct sl_part_report { /* of the team's time */
    double share, ms;   /* share of wall time, 0..1 */
    double gops, gb_per_s;
    double roofline_share; /* least time / time; 0: no work was counted */
    bool memory_bound;     /* which limit that is */
};
struct sl_stage_report {
    double tok_per_s, ms;  /* rates of a twin are 0, as those in parts are: its times are no figures */
    double mfu;            /* least time at the peaks of the instructions / wall time; 0: not known */
    double mfu_mma;        /* of a GPU, the same where integers have mma.sync alone */
    double roofline_share; /* the same with memory's limit */
    double read_share, gb_per_s;
    double wait_share; /* members x wall time that no part has: imbalance, barriers, serial steps */
    struct sl_part_report part[SL_PARTS];
};

sl_status sl_stage_bench_open(struct sl_stage_bench *b, const struct sl_stage_bench_options *options,
                              struct sl_err *err);
void sl_stage_bench_close(struct sl_stage_bench *b);

/* A sequence whose first n_tokens positions are filled, and with pages for max_tokens. */
sl_status sl_stage_bench_sequence(struct sl_stage_bench *b, uint64_t id, uint32_t n_tokens,
                                  uint32_t max_tokens, struct sl_sequence **sequence, struct sl_err *err);
/* Positions [pos, pos + n) of one sequence, random ids, chunk by chunk; then the logits of the last
 * row. */
void sl_stage_bench_prefill(struct sl_stage_bench *b, struct sl_sequence *sequence, uint32_t pos, uint32_t n);

/* The roofline (measured, or the GPU's), then the clock and the counters. */
sl_status sl_account_begin(struct sl_account *account, const struct sl_stage_bench *b, struct sl_err *err);
void sl_account_end(struct sl_account *account, const struct sl_stage_bench *b);
/* The medians over rounds, figure by figure. n_tokens were worked on in each. */
void sl_stage_report_make(struct sl_stage_report *report, const struct sl_stage_bench *b,
                          const struct sl_account *accounts, uint32_t n_accounts, uint32_t n_tokens);

void sl_stage_report_head(const struct sl_stage_bench *b, const struct sl_account *account, bool json);
/* "79.1 tokens/s (12.64 ms a step)", or that it is simulated. */
void sl_stage_report_speed(const struct sl_stage_report *report, double ms, const char *unit);
void sl_stage_report_print(const struct sl_stage_report *report, bool colour);
void sl_stage_report_json(const struct sl_stage_report *report); /* members of an object, without braces */

#endif
