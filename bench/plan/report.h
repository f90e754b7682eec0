/* What `sluice plan` says: the plan, first tokens over lengths, and the same over numbers of stages beside experts over as many nodes.
 * Text, JSON and drawing are made of one struct. */
#ifndef SL_BENCH_PLAN_REPORT_H
#define SL_BENCH_PLAN_REPORT_H

#include "bench/plan/config.h"
#include <stdio.h>

enum { SL_PLAN_ROWS = 24, SL_PLAN_LENGTHS = 6 };

struct sl_plan_row { /* with so many stages */
    uint32_t n;
    bool fits;
    double ttft_us, requests_s;
    struct sl_planner_experts experts; /* over as many nodes like the first */
};

struct sl_plan_report {
    struct sl_planner_model model;
    struct sl_planner_node nodes[SL_PLANNER_NODES];
    uint32_t n_nodes;
    struct sl_planner_load load;
    struct sl_planner_wish wish;
    double parameters; /* 0: not known */
    char assumed[160]; /* what costs and bytes are made of, a few words */
    struct sl_forecast forecast;
    uint32_t n_rows, n_lengths;
    struct sl_plan_row rows[SL_PLAN_ROWS];
    struct {
        uint32_t tokens;
        double ttft_us;
    } lengths[SL_PLAN_LENGTHS];
    double one_node_us; /* the load's prompt on one node as fast as all stages together */
};

/* All that follows from what is above the forecast. SL_E_CONFIG as sl_planner_make. */
sl_status sl_plan_report_fill(struct sl_plan_report *report, struct sl_err *err);
/* Whether what node i's rates are from is said with it: there is something, and no node before it said the same. */
bool sl_plan_report_tells_rates(const struct sl_plan_report *report, uint32_t i);
void sl_plan_report_text(const struct sl_plan_report *report, FILE *to);
void sl_plan_report_json(const struct sl_plan_report *report, FILE *to);
/* The pipeline of one prompt, and first tokens over stages for both layouts. SL_E_IO names the path. */
sl_status sl_plan_report_svg(const struct sl_plan_report *report, const char *path, struct sl_err *err);

#endif
