/* Perplexity, KL divergence and their standard errors (divergence.h).
 *
 * A row needs one exponential a logit and model. With r and l measured from their maxima, e_i = exp(r_i), R
 * and L the sums of exp(r_i) and exp(l_i), KL(r || l) = sum e_i (r_i - l_i) / R - ln(R / L) which is exactly
 * 0 for equal rows, and wrong by about 1e-15 otherwise: divergences of interest are above 1e-9.
 *
 * Means have batch-mean errors. A quantile's error follows Woodruff: the share of positions below the
 * quantile is a mean and has such an error; the quantiles at that share plus and minus its error bound an
 * interval, half of which is told. */
#include "node/eval/divergence.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- one position ---- */

struct divergence_row { /* what both sides need of a row of logits */
    double max, sum;    /* sum of exp(logit - max) */
    uint32_t top;
};

static uint32_t top_of(const float *logits, uint32_t vocab)
{
    uint32_t top = 0;
    for (uint32_t i = 1; i < vocab; i++)
        if (logits[i] > logits[top])
            top = i;
    return top;
}

static bool all_finite(const float *logits, uint32_t vocab)
{
    bool finite = true;
    for (uint32_t i = 0; i < vocab; i++)
        finite &= (bool)isfinite(logits[i]);
    return finite;
}

static double log_sum(const struct divergence_row *row)
{
    return row->max + log(row->sum);
}

static struct divergence_row row_of(const float *logits, uint32_t vocab)
{
    struct divergence_row row = {.top = top_of(logits, vocab)};
    row.max = (double)logits[row.top];
    for (uint32_t i = 0; i < vocab; i++)
        row.sum += exp((double)logits[i] - row.max);
    return row;
}

/* The reference's row, and on the way the sum of e_i (r_i - l_i), l measured from max. */
static struct divergence_row reference_row(const float *reference, const float *logits, double max,
                                           uint32_t vocab, double *weighted)
{
    struct divergence_row row = {.top = top_of(reference, vocab)};
    row.max = (double)reference[row.top];
    *weighted = 0;
    for (uint32_t i = 0; i < vocab; i++) {
        double r = (double)reference[i] - row.max, e = exp(r);
        row.sum += e;
        *weighted += e * (r - ((double)logits[i] - max));
    }
    return row;
}

void sl_position_compare(struct sl_position *out, const float *reference, const float *logits, uint32_t vocab,
                         uint32_t truth)
{
    *out = (struct sl_position){.nll = NAN};
    if (!all_finite(logits, vocab) || (reference && !all_finite(reference, vocab)))
        return;
    struct divergence_row row = row_of(logits, vocab);
    out->nll = log_sum(&row) - (double)logits[truth];
    if (!reference)
        return;
    double weighted;
    struct divergence_row from = reference_row(reference, logits, row.max, vocab, &weighted);
    double kld = weighted / from.sum - log(from.sum / row.sum);
    out->kld = kld > 0 ? kld : 0; /* it cannot be negative; the last bit of a rounding can */
    out->nll_reference = log_sum(&from) - (double)reference[truth];
    out->gap = exp(-out->nll) - exp(-out->nll_reference);
    out->same_top = row.top == from.top;
}

/* ---- all positions ---- */

struct table {
    const struct sl_position *positions;
    uint32_t n_windows, per_window;
};

enum quantity { NLL, NLL_REFERENCE, NLL_MORE, KLD, KLD_WITHIN, SAME_TOP, GAP, GAP_SQUARE };

/* limit: of KLD_WITHIN alone. */
static double value_of(const struct sl_position *p, enum quantity what, double limit)
{
    switch (what) {
    case NLL:
        return p->nll;
    case NLL_REFERENCE:
        return p->nll_reference;
    case NLL_MORE:
        return p->nll - p->nll_reference;
    case KLD:
        return p->kld;
    case KLD_WITHIN:
        return p->kld <= limit;
    case SAME_TOP:
        return p->same_top;
    case GAP:
        return p->gap;
    case GAP_SQUARE:
        break;
    }
    return p->gap * p->gap;
}

static double window_mean(const struct table *t, uint32_t window, enum quantity what, double limit)
{
    double sum = 0;
    for (uint32_t i = 0; i < t->per_window; i++)
        sum += value_of(&t->positions[(size_t)window * t->per_window + i], what, limit);
    return sum / t->per_window;
}

/* The mean over windows, and its standard error between them. */
static struct sl_estimate mean_of(const struct table *t, enum quantity what, double limit)
{
    double n = t->n_windows, sum = 0, squares = 0;
    for (uint32_t w = 0; w < t->n_windows; w++)
        sum += window_mean(t, w, what, limit);
    double mean = sum / n;
    for (uint32_t w = 0; w < t->n_windows; w++) {
        double off = window_mean(t, w, what, limit) - mean;
        squares += off * off;
    }
    return (struct sl_estimate){mean, t->n_windows > 1 ? sqrt(squares / (n * (n - 1))) : NAN};
}

/* exp of an estimate: the error is carried over by the derivative. */
static struct sl_estimate exp_of(struct sl_estimate e)
{
    double value = exp(e.value);
    return (struct sl_estimate){value, value * e.error};
}

static struct sl_estimate root_of(struct sl_estimate e)
{
    double root = sqrt(e.value);
    return (struct sl_estimate){root, root > 0 ? e.error / (2 * root) : e.error};
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double quantile(const double *sorted, size_t n, double share)
{
    double at = (share < 0 ? 0 : share > 1 ? 1 : share) * (double)(n - 1);
    size_t below = (size_t)at, above = below + 1 < n ? below + 1 : below;
    return sorted[below] + (at - (double)below) * (sorted[above] - sorted[below]);
}

static struct sl_estimate quantile_of(const struct table *t, const double *sorted, double share)
{
    size_t n = (size_t)t->n_windows * t->per_window;
    double value = quantile(sorted, n, share);
    double off = mean_of(t, KLD_WITHIN, value).error;
    if (isnan(off))
        return (struct sl_estimate){value, NAN};
    return (struct sl_estimate){value,
                                (quantile(sorted, n, share + off) - quantile(sorted, n, share - off)) / 2};
}

void sl_divergence_report(struct sl_divergence *report, const struct sl_position *positions,
                          uint32_t n_windows, uint32_t per_window, bool with_reference, double *scratch)
{
    struct table t = {positions, n_windows, per_window};
    size_t n = (size_t)n_windows * per_window;
    memset(report, 0, sizeof *report);
    report->perplexity = exp_of(mean_of(&t, NLL, 0));
    if (!with_reference)
        return;
    report->perplexity_reference = exp_of(mean_of(&t, NLL_REFERENCE, 0));
    report->perplexity_ratio = exp_of(mean_of(&t, NLL_MORE, 0));
    report->same_top = mean_of(&t, SAME_TOP, 0);
    report->gap_mean = mean_of(&t, GAP, 0);
    report->gap_rms = root_of(mean_of(&t, GAP_SQUARE, 0));
    for (size_t i = 0; i < n; i++)
        scratch[i] = positions[i].kld;
    qsort(scratch, n, sizeof *scratch, by_value);
    report->kld_mean = mean_of(&t, KLD, 0);
    report->kld_median = quantile_of(&t, scratch, 0.5);
    report->kld_p99 = quantile_of(&t, scratch, 0.99);
    report->kld_max = scratch[n - 1];
}
