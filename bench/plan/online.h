/* What a pipeline that runs should change (`sluice plan --from-metrics`): its coefficients and its load from two looks at its ops port,
 * and the planner's arithmetic on them. */
#ifndef SL_BENCH_PLAN_ONLINE_H
#define SL_BENCH_PLAN_ONLINE_H

#include "node/client/scrape.h"
#include "pipeline/decide/layers.h"
#include "pipeline/decide/planner.h"
#include <stdio.h>

struct sl_plan_seen { /* of a running pipeline */
    uint32_t n_stages, begin[SL_MAX_STAGES + 1];
    struct sl_cost costs[SL_MAX_STAGES];
    double chunk_us; /* T* now; 0: not known */
    double rate, prompt,
        output; /* requests a second, tokens that were computed and made for each; of what came between the looks */
    double asked_tokens_s; /* that decode workers made meanwhile */
    uint32_t decoders;
    double step_us, answers; /* of a decode worker, in the mean */
};

enum { SL_PLAN_ADVICE = 6, SL_PLAN_ADVICE_TEXT = 128 + SL_LAYERS_TEXT };
struct sl_plan_advice { /* one thing that could be changed, with the options that do it */
    char what[SL_PLAN_ADVICE_TEXT];
    double ttft_us, requests_s;
};

struct sl_plan_online {
    struct sl_plan_seen seen;
    double ttft_us, requests_s; /* as it is */
    uint32_t slow;              /* 1 + stage whose layers take longest */
    double slower;              /* than on its slower neighbour */
    uint32_t n;
    struct sl_plan_advice advice[SL_PLAN_ADVICE]; /* by gain, what is worth it */
    uint32_t decoders;                            /* that the load wants; 0: it has no output */
};

/* before NULL: since the node began; then no rate is known. chunk_us: from /debug/schedule, 0: not known. SL_E_DATA: these are not a
 * coordinator's metrics. */
sl_status sl_plan_see(struct sl_plan_seen *seen, const struct sl_scrape *before, const struct sl_scrape *now,
                      double seconds, double chunk_us, struct sl_err *err);
sl_status sl_plan_advise(struct sl_plan_online *online, struct sl_err *err);
void sl_plan_online_text(const struct sl_plan_online *online, FILE *to);
void sl_plan_online_json(const struct sl_plan_online *online, FILE *to);

#endif
