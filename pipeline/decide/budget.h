/* What a chunk may take and how many may be under way, made of what chunks cost. Pure; all times are microseconds on the slowest
 * stage, which is the one that the others wait for.
 *
 * A chunk is a budget of time, since equal numbers of tokens do not take equal time: attention grows with what lies before them.
 * It is 3.4 times what a chunk costs beside its rows, so that less than a third of the time goes for reading weights; less
 * when short prompts come and there are many stages, since they wait for all chunks that are under way; a target for short prompts makes it smaller, because who comes waits for the chunks that were cut before. A prefix makes it larger again
 * (reading it is overhead, too), and a prompt that has the pipeline for itself is cut so that filling and draining it cost least. */
#ifndef SL_PIPELINE_DECIDE_BUDGET_H
#define SL_PIPELINE_DECIDE_BUDGET_H

#include "pipeline/decide/cost.h"

struct sl_pace { /* what the pipeline was seen to do */
    double stages_us,
        slowest_us; /* means of the last runs: of all stages together, and of the slowest; 0: none was seen */
    double hops_us; /* from the decider through all stages and back, beside their work */
    double cv;      /* relative deviation of what chunks take from what was predicted */
};

struct sl_budget {
    struct sl_cost cost; /* of the slowest stage */
    uint32_t n_stages, max_rows;
    double
        others; /* what all other stages together take for a chunk, in parts of the slowest: 0 .. n_stages - 1 */
    double hop_us;
    double end_us;    /* what the end of a prompt costs the last stage */
    double chunk_us;  /* T*: what a chunk may take, prefixes apart */
    double overheads; /* of its time to what it costs beside its rows, by cost */
    double lag_us;    /* how much later the last stage is than the first */
    uint32_t runs;    /* chunks under way: R */
    bool by_rows;     /* a chunk is full when it has max_rows */
    bool dear;        /* the target costs more than half of the throughput */
};

struct sl_budget_wish { /* of who runs the pipeline; 0: by cost */
    double chunk_us, slo_us;
    uint32_t runs;
    bool by_rows; /* a chunk takes what max_rows take */
    bool hasty;   /* short prompts come, which wait for what is under way */
};

/* costs: [n_stages]; max_rows: of a chunk. */
void sl_budget_make(struct sl_budget *budget, const struct sl_cost *costs, uint32_t n_stages,
                    uint32_t max_rows, const struct sl_pace *pace, const struct sl_budget_wish *wish);
/* Of a chunk whose first slice begins at pos. */
double sl_budget_chunk_us(const struct sl_budget *budget, uint32_t pos);
/* Of the next chunk of a prompt [start, n) that has the pipeline for itself and is cut as far as pos. */
double sl_budget_alone_us(const struct sl_budget *budget, uint32_t start, uint32_t pos, uint32_t n);
/* What prefilling [pos, n) takes of the slowest stage's time, overhead of its chunks included. */
double sl_budget_work_us(const struct sl_budget *budget, uint32_t pos, uint32_t n);
/* As one chunk of its own. */
double sl_budget_single_us(const struct sl_budget *budget, uint32_t pos, uint32_t n);
/* From submit to first token of a prompt [start, n) when nothing else is there, and its chunks may be so many times as large as
 * usual. */
double sl_budget_idle_us(const struct sl_budget *budget, uint32_t start, uint32_t n, double times);
/* The target of a prompt that names none: slo_us (0: by cost) and three times what it takes on an idle pipeline. */
double sl_budget_target_us(const struct sl_budget *budget, double slo_us, uint32_t start, uint32_t n);

#endif
