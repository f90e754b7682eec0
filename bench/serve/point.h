/* The points of a report: its runs, those of one load together. A report has one point, or one for each
 * load of a sweep; the repeats of a point are measured one by one (sl_run) and pooled here, so that "the
 * p99 at 4 requests/s" is one figure. */
#ifndef SL_BENCH_SERVE_POINT_H
#define SL_BENCH_SERVE_POINT_H

#include "bench/serve/report.h"

struct sl_point {
    uint32_t number; /* sl_run.point */
    double rate;
    bool invalid; /* one of its runs is */
    const struct sl_load_run **runs;
    uint32_t n_runs;       /* at least 1 */
    struct sl_summary all; /* of the only run, else pooled: figures of all samples, rates of all seconds */
    struct sl_summary *classes; /* [n_classes] */
};
struct sl_points {
    struct sl_point *at;
    uint32_t n;
};

/* Points without a run (a sweep that was ended) are left out. */
sl_status sl_points_init(struct sl_points *points, const struct sl_report *report, struct sl_err *err);
void sl_points_fini(struct sl_points *points);

/* A measure of all measured requests of a point's runs, or of one class (load_class >= 0), in the order of
 * being due; what has none is left out, +inf: failed. values: malloc'ed. */
sl_status sl_point_values(const struct sl_point *point, int load_class, enum sl_measure measure,
                          double **values, uint32_t *n, struct sl_err *err);
/* Whether a request was due in what is measured, and of this class (< 0: of any). */
bool sl_point_counts(const struct sl_load_run *run, const struct sl_outcome *outcome, int load_class);

#endif
