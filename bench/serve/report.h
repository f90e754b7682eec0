/* What a measurement leaves behind: everything that the table, the JSON, the per-request file and the page are written from, and
 * nothing else is. A report is of one command: repeats of one load, or the points of a sweep. */
#ifndef SL_BENCH_SERVE_REPORT_H
#define SL_BENCH_SERVE_REPORT_H

#include "bench/serve/measure.h"
#include "pipeline/record/span.h"
#include <stdio.h>

struct sl_kept_timeline { /* of a request of a run, when the server is ours: a bounded number is kept */
    uint32_t number;      /* of its outcome */
    /* spans malloc'ed; times are the coordinator's us: submit_us is about when the outcome was sent */
    struct sl_timeline timeline;
};

struct sl_load_run {
    double rate;    /* intended requests/s of all open classes; 0: none is open */
    uint32_t point; /* of the sweep, from 0; repeats of a point have the same */
    struct sl_outcomes outcomes;
    struct sl_summary all;
    struct sl_summary *classes; /* [n_classes] */
    const struct sl_kept_timeline *timelines;
    uint32_t n_timelines;
    double stolen_share; /* of the processors' time during the run, taken by neighbours; < 0: not known */
    double cpu_share;    /* of one processor, by the harness */
    bool invalid;        /* lag p99 > 1 ms and > 1 % of the median TTFT */
};

struct sl_report {
    const char *target;             /* "grpc 127.0.0.1:50051" */
    const char *model;              /* as the server names it, or "" */
    const char *load;               /* one line: "poisson 4.00 requests/s, 512 in, 64 out, seed 1" */
    const char *command;            /* the command line */
    const char *date;               /* "2026-11-29T21:43:35Z" */
    const char *machine;            /* "AMD EPYC, 2 processors, Linux 6.1" */
    const char *version;            /* of sluice */
    const char *const *settings;    /* key, value, key, value, ..., NULL: every option */
    const char *const *class_names; /* [n_classes] */
    const struct sl_limits *limits; /* [n_classes] */
    uint32_t n_classes;
    const struct sl_load_run *runs;
    uint32_t n_runs, n_points, n_stages; /* n_stages 0: the server is not ours */
};

/* The page: one HTML file with its figures as inline SVG, readable without a network. SL_E_IO names the path. */
sl_status sl_report_html(const struct sl_report *report, const char *path, struct sl_err *err);
/* `vllm bench serve`'s JSON for the pooled runs of a point, with ours under "sluice"; and the exact histograms. */
sl_status sl_report_json(const struct sl_report *report, const char *path, struct sl_err *err);
/* A line per request. */
sl_status sl_report_jsonl(const struct sl_report *report, const char *path, struct sl_err *err);
sl_status sl_report_hgrm(const struct sl_report *report, const char *prefix, struct sl_err *err);
void sl_report_table(const struct sl_report *report, FILE *to, bool colour);

#endif
