/* What `sluice eval` prints: progress on stderr while it reads, then the figures, for people or as one JSON
 * object. */
#ifndef SL_NODE_EVAL_EVAL_OUTPUT_H
#define SL_NODE_EVAL_EVAL_OUTPUT_H

#include "node/eval/divergence.h"
#include "node/eval/eval_model.h"

struct sl_eval_run {  /* a whole run, as it is told */
    const char *text; /* where the tokens came from */
    uint32_t n_tokens, context, n_windows, per_window;
    uint32_t n_threads;
    const struct sl_eval_model *model, *reference; /* reference: NULL when there is none */
    double seconds;
    struct sl_divergence figures;
};

void sl_eval_print(const struct sl_eval_run *run);
void sl_eval_print_json(const struct sl_eval_run *run);

/* A line that is drawn over on a terminal, a line per 10 % otherwise: share done, time left, the figures so
 * far. */
struct sl_eval_progress {
    bool terminal;
    uint32_t n_windows, tenths;
    uint64_t began_ns, drawn_ns;
    double nll, kld; /* sums of the windows' means */
};
void sl_eval_progress_start(struct sl_eval_progress *progress, uint32_t n_windows);
/* After the window number `done` (1..n_windows). */
void sl_eval_progress_add(struct sl_eval_progress *progress, uint32_t done,
                          const struct sl_position *positions, uint32_t per_window, bool with_reference);
void sl_eval_progress_end(const struct sl_eval_progress *progress);

#endif
