/* Recursive least squares of cost_fit.h. Coefficients are counted in units of the prior, so that they are all about 1 and one
 * number says how far they may stray; a row is divided by the time that its chunk should take, so that relative errors count and
 * large chunks do not drown small ones. */
#include "pipeline/decide/cost_fit.h"
#include <math.h>
#include <string.h>

#define N SL_COST_TERMS
static const double forget = 0.01;      /* a chunk; more, the further the spread is beyond noise */
static const double forget_more = 0.5;  /* of what it is beyond */
static const double most_noise = 0.25;  /* this */
static const double most_forget = 0.15; /* and never more */
static const double stray =
    0.5; /* how far a coefficient may be from s·prior, relatively, before it must be shown */
static const double least_share = 0.2;   /* of a usual chunk, that every coefficient is counted in at least */
static const double untried = 0.5;       /* spread before the prior has been tried */
static const double least_spread = 0.02; /* clocks and caches alone make that */
static const double most_spread = 2;
static const double gain = 0.05;        /* of the averages of deviations */
static const double far_off = 3;        /* deviations that make an outlier */
static const double after_change = 0.1; /* what the old chunks still count when the stage has changed */
static const double some_scale = 1e-3;  /* keeps s at 1 before the first chunk */
static const double most_log = 25;      /* of measured/predicted */

void sl_cost_terms(const struct sl_cost_chunk *chunk, double hit, double terms[N])
{
    terms[SL_COST_C] = 1;
    terms[SL_COST_GAMMA] = chunk->pos;
    terms[SL_COST_B] = chunk->rows;
    terms[SL_COST_A] = chunk->pairs;
    terms[SL_COST_W] = sl_cost_hit(hit, chunk->rows);
    terms[SL_COST_E] = chunk->wanted;
}

/* Solves info·x = rhs over the coordinates in `set`, the others being 0, by Cholesky's factors. */
static void solve_set(const double info[N][N], const double rhs[N], unsigned set, double x[N])
{
    double factor[N][N], y[N];
    int at[N], n = 0;
    for (int i = 0; i < N; i++) {
        x[i] = 0;
        if (set >> i & 1)
            at[n++] = i;
    }
    for (int i = 0; i < n; i++) {
        for (int j = 0; j <= i; j++) {
            double sum = info[at[i]][at[j]];
            for (int k = 0; k < j; k++)
                sum -= factor[i][k] * factor[j][k];
            double least =
                info[at[i]][at[i]] * 1e-12; /* rounding must not make a root of something negative */
            factor[i][j] = i == j ? sqrt(sum > least ? sum : least) : sum / factor[j][j];
        }
        y[i] = rhs[at[i]];
        for (int k = 0; k < i; k++)
            y[i] -= factor[i][k] * y[k];
        y[i] /= factor[i][i];
    }
    for (int i = n - 1; i >= 0; i--) {
        for (int k = i + 1; k < n; k++)
            y[i] -= factor[k][i] * y[k];
        y[i] /= factor[i][i];
        x[at[i]] = y[i];
    }
}

/* The coordinate outside of `set` that would most improve x by growing; -1: none. */
static int next_in(const double info[N][N], const double rhs[N], unsigned set, const double x[N])
{
    int best = -1;
    double most = 1e-9;
    for (int i = 0; i < N; i++) {
        if (set >> i & 1)
            continue;
        double slope = rhs[i], size = fabs(rhs[i]);
        for (int j = 0; j < N; j++) {
            slope -= info[i][j] * x[j];
            size += fabs(info[i][j] * x[j]);
        }
        if (slope > most * size) {
            most = slope / size;
            best = i;
        }
    }
    return best;
}

/* Lawson and Hanson's active set, which starts with all coordinates, since most often none is 0. */
void sl_cost_solve(const double info[N][N], const double rhs[N], double x[N])
{
    double next[N];
    unsigned set = (1u << N) - 1;
    memset(x, 0, sizeof(double[N]));
    for (int tries = 0; tries < 4 * N; tries++) {
        solve_set(info, rhs, set, next);
        double step = 1;
        int out = -1;
        for (int i = 0; i < N; i++) {
            if (!(set >> i & 1) || next[i] > 0)
                continue;
            double s = x[i] > 0 ? x[i] / (x[i] - next[i]) : 0;
            if (out < 0 || s < step || (s == step && next[i] < next[out])) {
                step = s;
                out = i;
            }
        }
        if (out < 0) {
            memcpy(x, next, sizeof next);
            int in = next_in(info, rhs, set, x);
            if (in < 0)
                return;
            set |= 1u << in;
            continue;
        }
        for (int i = 0; i < N; i++)
            x[i] = set >> i & 1 ? fmax(x[i] + step * (next[i] - x[i]), 0) : 0;
        x[out] = 0;
        set &= ~(1u << out);
    }
}

static double sane(double value, double most)
{
    return value >= 0 && value <= most ? value : 0;
}

void sl_cost_fit_init(struct sl_cost_fit *fit, const struct sl_cost *prior)
{
    *fit = (struct sl_cost_fit){.cv = 0.05, .spread = untried};
    double all = 0;
    for (int i = 0; i < N; i++)
        all += fit->prior.us[i] = sane(prior->us[i], SL_COST_MOST_US);
    if (all <= 0)
        fit->prior.us[SL_COST_C] = 1; /* something must be scaled */
    fit->prior.hit = sane(prior->hit, 1);
    fit->now = fit->prior;
    /* A coefficient that the prior has at next to 0 must be able to grow, too. */
    struct sl_cost_chunk usual = {0};
    double terms[N];
    sl_cost_add(&usual, 2048, 256);
    sl_cost_want(&usual, 1);
    sl_cost_terms(&usual, fit->prior.hit, terms);
    double least = sl_cost_of(&fit->prior, &usual) * least_share;
    for (int i = 0; i < N; i++)
        fit->unit[i] = terms[i] > 0 ? fmax(fit->prior.us[i], least / terms[i]) : 1;
    if (fit->prior.us[SL_COST_E] <= 0) /* but this one: a stage has the head, or has it not */
        fit->unit[SL_COST_E] = 0;
}

/* The model that the sums ask for. */
static void solve(struct sl_cost_fit *fit)
{
    double info[N][N], rhs[N], x[N], prior[N], up = some_scale, down = some_scale;
    for (int i = 0; i < N; i++)
        prior[i] = fit->unit[i] > 0 ? fit->prior.us[i] / fit->unit[i] : 0;
    for (int i = 0; i < N; i++) {
        up += prior[i] * fit->rhs[i];
        for (int j = 0; j < N; j++)
            down += prior[i] * fit->info[i][j] * prior[j];
    }
    double s = up / down, noise = fmin(fit->spread, most_noise / 2),
           keep = noise * noise / (stray * stray) / (s * s);
    for (int i = 0; i < N; i++) {
        for (int j = 0; j < N; j++)
            info[i][j] = fit->info[i][j] + (i == j ? keep : 0);
        rhs[i] = fit->rhs[i] + keep * s * prior[i];
    }
    sl_cost_solve((const double(*)[N])info, rhs, x);
    double all = 0;
    for (int i = 0; i < N; i++)
        all += x[i];
    bool good = all > 0 && all < 1e30; /* false for what is no number, too */
    for (int i = 0; i < N; i++)
        fit->now.us[i] = fmin((good ? x[i] : s * prior[i]) * fit->unit[i], SL_COST_MOST_US);
}

/* The stage is e^by times as slow as it was: so is the model, and what it has learnt counts little. */
static void scale(struct sl_cost_fit *fit, double by)
{
    double r = exp(by);
    for (int i = 0; i < N; i++) {
        for (int j = 0; j < N; j++)
            fit->info[i][j] *= after_change / (r * r);
        fit->rhs[i] *= after_change / r;
    }
}

static double middle(const double of[3])
{
    return fmax(fmin(of[0], of[1]), fmin(fmax(of[0], of[1]), of[2]));
}

/* What of the deviation is believed; the whole model may have been scaled before. */
static double believe(struct sl_cost_fit *fit, double off)
{
    double most = far_off * fit->spread;
    if (fabs(off) <= most) {
        fit->streaks = 0;
        return off;
    }
    if (fit->streaks && (fit->streak[0] > 0) != (off > 0))
        fit->streaks = 0;
    fit->streak[fit->streaks++] = off;
    if (fit->streaks < 3)
        return off > 0 ? most : -most;
    fit->streaks = 0;
    scale(fit, middle(fit->streak));
    fit->spread = fmax(fit->spread, untried / 2);
    return off;
}

static bool takes(const struct sl_cost_chunk *chunk, double measured_us)
{
    return chunk->rows > 0 && chunk->rows <= 1e9 && chunk->pos >= 0 && chunk->pos <= 1e12 &&
           chunk->pairs >= 0 && chunk->pairs <= 1e18 && chunk->wanted >= 0 && chunk->wanted <= chunk->rows &&
           measured_us > 0 && measured_us <= SL_COST_MOST_US;
}

/* The sums so far count `keep`; a chunk took `took` and weighs as one that takes `weigh`. */
static void add_row(struct sl_cost_fit *fit, const struct sl_cost_chunk *chunk, double keep, double took,
                    double weigh)
{
    double terms[N], row[N];
    sl_cost_terms(chunk, fit->prior.hit, terms);
    for (int i = 0; i < N; i++)
        row[i] = fit->unit[i] * terms[i] / weigh;
    for (int i = 0; i < N; i++) {
        for (int j = 0; j < N; j++)
            fit->info[i][j] = keep * fit->info[i][j] + row[i] * row[j];
        fit->rhs[i] = keep * fit->rhs[i] + row[i] * took / weigh;
    }
}

bool sl_cost_fit_add(struct sl_cost_fit *fit, const struct sl_cost_chunk *chunk, double measured_us)
{
    if (!takes(chunk, measured_us))
        return false;
    double predicted = fmax(sl_cost_of(&fit->now, chunk), 1e-3),
           off = fmax(fmin(log(measured_us / predicted), most_log), -most_log);
    fit->predicted_us += predicted;
    fit->measured_us += measured_us;
    fit->errors[fit->chunks++ % SL_COST_ERRORS] = (float)fmin(fabs(predicted / measured_us - 1), 1e9);
    double seen = fmin(fabs(off), (far_off + 1) * fit->spread),
           rate = fmax(gain, 1.0 / (double)(fit->chunks + 3));
    bool outlier = fabs(off) > far_off * fit->spread;
    double believed = believe(fit, off);
    fit->spread = fmin(fmax(fit->spread + rate * (1.25 * seen - fit->spread), least_spread), most_spread);
    if (fit->chunks > 3 && !outlier) /* the first show how wrong the prior is, not how the stage varies */
        fit->cv += gain * (1.25 * fabs(off) - fit->cv);

    /* A chunk weighs by what it should take; one that is further off than noise, by what it is believed to take. */
    double took = predicted * exp(believed), noise = 2 * fit->cv,
           weigh = predicted * exp(believed > noise    ? believed - noise
                                   : believed < -noise ? believed + noise
                                                       : 0),
           keep = 1 - fmin(forget + forget_more * fmax(fit->spread - most_noise, 0), most_forget);
    add_row(fit, chunk, keep, took, weigh);
    solve(fit);
    return true;
}

void sl_cost_fit_points(struct sl_cost *cost, const struct sl_cost *prior, const struct sl_cost_point *points,
                        uint32_t n)
{
    struct sl_cost_fit fit;
    sl_cost_fit_init(&fit, prior);
    fit.spread = fit.cv;
    for (uint32_t i = 0; i < n; i++)
        if (takes(&points[i].chunk, points[i].us))
            add_row(&fit, &points[i].chunk, 1, points[i].us, points[i].us);
    solve(&fit);
    *cost = fit.now;
}

double sl_cost_fit_error(const struct sl_cost_fit *fit, double q)
{
    float sorted[SL_COST_ERRORS];
    uint32_t n = fit->chunks < SL_COST_ERRORS ? (uint32_t)fit->chunks : SL_COST_ERRORS;
    if (!n)
        return 0;
    memcpy(sorted, fit->errors, n * sizeof *sorted);
    for (uint32_t gap = 109; gap; gap = gap * 4 / 9) /* Shell's sort: 109, 48, 21, 9, 4, 1 */
        for (uint32_t i = gap; i < n; i++) {
            float value = sorted[i];
            uint32_t j = i;
            for (; j >= gap && sorted[j - gap] > value; j -= gap)
                sorted[j] = sorted[j - gap];
            sorted[j] = value;
        }
    double at = (q >= 0 && q <= 1 ? q : 1) * (n - 1);
    return (double)sorted[(uint32_t)(at + 0.5)];
}
