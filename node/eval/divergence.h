/* How far a model's predictions are from a reference's over a text: perplexity, KL divergence, agreement.
 *
 * The text is cut into windows of equal length; a position is one prediction in a window. sl_position_compare
 * looks at the whole row of logits of one position, in double; sl_divergence_report makes the figures from
 * all positions. Positions of one window share their text and are not independent, so every standard error is
 * taken between the windows' means (batch means): it does not shrink because windows are long. Pure: no
 * clock, no thread. */
#ifndef SL_NODE_EVAL_DIVERGENCE_H
#define SL_NODE_EVAL_DIVERGENCE_H

#include <stdbool.h>
#include <stdint.h>

struct sl_position {
    double nll, nll_reference; /* -ln p(true token) */
    double kld;                /* KL(reference || model) in nats, over the whole vocabulary */
    double gap;                /* p(true token): model minus reference */
    bool same_top;             /* both find the same token likeliest; ties go to the lower id */
};

/* reference and logits: [vocab]. Without a reference (NULL) only nll is set. nll is NaN when a logit is not
 * finite. */
void sl_position_compare(struct sl_position *out, const float *reference, const float *logits, uint32_t vocab,
                         uint32_t truth);

struct sl_estimate {
    double value, error; /* error: standard error; NaN with a single window, which says nothing about it */
};

struct sl_divergence {
    struct sl_estimate perplexity;
    /* The rest only with a reference. The error of the ratio is that of paired windows: much smaller than the
     * perplexities'. */
    struct sl_estimate perplexity_reference, perplexity_ratio;
    struct sl_estimate kld_mean, kld_median, kld_p99;
    double kld_max;
    struct sl_estimate same_top; /* share of positions */
    struct sl_estimate gap_mean, gap_rms;
};

/* positions: [n_windows][per_window], n_windows and per_window > 0. scratch: [n_windows * per_window].
 * A quantile lies between the two order statistics next to it, as numpy does it by default. */
void sl_divergence_report(struct sl_divergence *report, const struct sl_position *positions,
                          uint32_t n_windows, uint32_t per_window, bool with_reference, double *scratch);

#endif
