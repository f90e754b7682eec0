/* Intervals of correlated samples: what they must say by hand, and how often they cover the truth in simulated runs whose truth is
 * known. SLUICE_SEEDS=1000 makes that many runs of each row (some minutes), holds them to the targets and prints the table; without it
 * there are fewer and shorter runs. */
#include "bench/serve/arrivals.h"
#include "bench/serve/interval.h"
#include "tests/check.h"
#include <math.h>
#include <stdlib.h>

enum { N_MOST = 100000 };

/* Processes whose quantiles are known. The queue starts in its steady state. */
enum process { EXPONENTIAL, LOGNORMAL, QUEUE_5, QUEUE_8, SLOW_WAVE, KINDS };
static const char *const kind_names[KINDS] = {"iid exponential", "iid lognormal 1.5", "M/M/1 at 0.5",
                                              "M/M/1 at 0.8", "noise on a slow wave"};
static const double LOGNORMAL_SIGMA = 1.5, WAVE_SHARE = 0.1, WAVE_MEMORY = 0.98;

static double exponential(struct sl_rng *rng)
{
    return -log(sl_draw_unit(rng));
}

static double load_of(enum process kind)
{
    return kind == QUEUE_5 ? 0.5 : 0.8;
}

static void queue(double *values, uint32_t n, double load, struct sl_rng *rng)
{
    double sojourn = exponential(rng) / (1 - load);
    for (uint32_t i = 0; i < n; i++) {
        values[i] = sojourn;
        double wait = sojourn - exponential(rng) / load;
        sojourn = fmax(wait, 0) + exponential(rng);
    }
}

static void draw(enum process kind, double *values, uint32_t n, struct sl_rng *rng)
{
    if (kind == QUEUE_5 || kind == QUEUE_8) {
        queue(values, n, load_of(kind), rng);
        return;
    }
    double wave = sl_draw_normal(rng);
    for (uint32_t i = 0; i < n; i++) {
        if (kind == EXPONENTIAL) {
            values[i] = exponential(rng);
        } else if (kind == LOGNORMAL) {
            values[i] = exp(LOGNORMAL_SIGMA * sl_draw_normal(rng));
        } else {
            values[i] = exp(sl_draw_normal(rng) + wave * sqrt(WAVE_SHARE));
            wave = WAVE_MEMORY * wave + sqrt(1 - WAVE_MEMORY * WAVE_MEMORY) * sl_draw_normal(rng);
        }
    }
}

static double normal_quantile(double q)
{
    double low = -10, high = 10;
    for (int i = 0; i < 80; i++) {
        double middle = 0.5 * (low + high);
        if (0.5 * erfc(-middle / sqrt(2)) < q)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static double true_quantile(enum process kind, double q)
{
    switch (kind) {
    case EXPONENTIAL:
        return -log(1 - q);
    case LOGNORMAL:
        return exp(LOGNORMAL_SIGMA * normal_quantile(q));
    case SLOW_WAVE:
        return exp(sqrt(1 + WAVE_SHARE) * normal_quantile(q));
    default: /* sojourn times in M/M/1 are exponential */
        return -log(1 - q) / (1 - load_of(kind));
    }
}

static double true_mean(enum process kind)
{
    switch (kind) {
    case EXPONENTIAL:
        return 1;
    case LOGNORMAL:
        return exp(LOGNORMAL_SIGMA * LOGNORMAL_SIGMA / 2);
    case SLOW_WAVE:
        return exp((1 + WAVE_SHARE) / 2);
    default:
        return 1 / (1 - load_of(kind));
    }
}

enum { FIGURES = 4 }; /* p50, p90, p99, mean */
static const double qs[FIGURES - 1] = {0.5, 0.9, 0.99};
static const char *const figure_names[FIGURES] = {"p50", "p90", "p99", "mean"};

struct cover { /* of a figure over runs */
    uint32_t runs, shown, covered;
    double width; /* summed, of the truth */
};

static void count(struct cover *cover, const struct sl_interval *interval, double truth)
{
    cover->runs++;
    if (!interval->bounded)
        return;
    cover->shown++;
    cover->covered += interval->low <= truth && truth <= interval->high;
    cover->width += (interval->high - interval->low) / truth;
}

static double covered(const struct cover *cover)
{
    return cover->shown ? (double)cover->covered / cover->shown : NAN;
}

static double shown(const struct cover *cover)
{
    return (double)cover->shown / cover->runs;
}

static void cover_runs(enum process kind, uint32_t n, uint32_t runs, struct cover covers[FIGURES])
{
    double *values = malloc(n * sizeof *values), *scratch = malloc(2 * n * sizeof *scratch);
    memset(covers, 0, FIGURES * sizeof *covers);
    for (uint32_t run = 0; run < runs; run++) {
        struct sl_rng rng = {1000003ull * (run + 1) + 7919ull * kind + n, 0};
        struct sl_interval intervals[FIGURES];
        draw(kind, values, n, &rng);
        sl_interval_quantiles(values, n, qs, FIGURES - 1, intervals, scratch);
        intervals[FIGURES - 1] = sl_interval_mean(values, n, scratch);
        for (int i = 0; i < FIGURES; i++)
            count(&covers[i], &intervals[i], i < FIGURES - 1 ? true_quantile(kind, qs[i]) : true_mean(kind));
    }
    free(scratch);
    free(values);
}

static void print_head(uint32_t runs)
{
    printf("%u runs a row; in each column: covers %%, n/a %%, width in parts of the truth\n", runs);
    printf("%-21s%7s", "samples", "n");
    for (int i = 0; i < FIGURES; i++)
        printf(" |%19s", figure_names[i]);
    printf("\n");
}

static void print_row(enum process kind, uint32_t n, const struct cover covers[FIGURES])
{
    printf("%-21s%7u", kind_names[kind], n);
    for (int i = 0; i < FIGURES; i++)
        if (covers[i].shown)
            printf(" |%6.1f%6.1f%7.3f", 100 * covered(&covers[i]), 100 - 100 * shown(&covers[i]),
                   covers[i].width / covers[i].shown);
        else
            printf(" |     -%6.1f      -", 100.0);
    printf("\n");
    fflush(stdout);
}

/* Where most runs have an interval it covers as it should; where most have none, few runs say something wrong. */
static void hold_to_target(enum process kind, uint32_t n, const struct cover *cover, const char *name,
                           double slack)
{
    bool queued = kind == QUEUE_5 || kind == QUEUE_8;
    double low = kind == SLOW_WAVE ? 0.90
                 : queued          ? 0.90
                                   : 0.93,
           high = queued || kind == SLOW_WAVE ? 0.98 : 0.97;
    double wrong = (double)(cover->shown - cover->covered) / cover->runs;
    if (wrong > 0.10 + slack)
        sl_test_fail(__FILE__, __LINE__, "%s, n %u, %s: %.1f %% of all runs are wrong", kind_names[kind], n,
                     name, 100 * wrong);
    if (shown(cover) >= 0.8 && !(covered(cover) >= low - slack && covered(cover) <= high + slack))
        sl_test_fail(__FILE__, __LINE__, "%s, n %u, %s: covered in %.1f %%", kind_names[kind], n, name,
                     100 * covered(cover));
}

SL_TEST(intervals_cover_the_truth_in_as_many_runs_as_they_say)
{
    static const uint32_t ns[] = {1000, 2000, 5000, 10000, 20000, 50000, N_MOST};
    const char *more = getenv("SLUICE_SEEDS");
    uint32_t runs = more ? (uint32_t)strtoul(more, NULL, 10) : 200;
    double slack = more ? 0 : 0.03;
    if (more)
        print_head(runs);
    for (int kind = 0; kind < KINDS; kind++)
        for (size_t i = 0; i < sizeof ns / sizeof ns[0] && (more || ns[i] <= 5000); i++) {
            struct cover covers[FIGURES];
            cover_runs((enum process)kind, ns[i], runs, covers);
            if (more)
                print_row((enum process)kind, ns[i], covers);
            for (int figure = 0; figure < FIGURES - 1; figure++)
                hold_to_target((enum process)kind, ns[i], &covers[figure], figure_names[figure], slack);
        }
}

SL_TEST(intervals_of_independent_samples_cover_the_truth)
{
    for (int kind = EXPONENTIAL; kind <= LOGNORMAL; kind++) {
        struct cover covers[FIGURES];
        cover_runs((enum process)kind, 1000, 400, covers);
        for (int i = 0; i < FIGURES - 1; i++) {
            CHECK(shown(&covers[i]) > 0.93);
            CHECK(covered(&covers[i]) > 0.92 && covered(&covers[i]) < 0.98);
        }
        CHECK(covered(&covers[FIGURES - 1]) > 0.85); /* the mean of a heavy tail: 1,000 samples are few */
    }
}

SL_TEST(intervals_of_a_queue_cover_the_truth_or_say_that_they_cannot)
{
    struct cover covers[FIGURES];
    cover_runs(QUEUE_8, 50000, 40, covers);
    for (int i = 0; i < FIGURES; i++) {
        CHECK(shown(&covers[i]) > 0.85);
        CHECK(covered(&covers[i]) > 0.85);
    }
    cover_runs(QUEUE_8, 1000, 300, covers);
    for (int i = 0; i < FIGURES; i++)
        CHECK(shown(&covers[i]) < 0.02); /* twelve samples' worth */
}

static double *new_values(enum process kind, uint32_t n, uint64_t seed)
{
    double *values = malloc(3 * n * sizeof *values);
    struct sl_rng rng = {seed, 0};
    draw(kind, values, n, &rng);
    return values; /* and scratch behind them */
}

SL_TEST(the_order_of_samples_counts)
{
    enum { N = 50000 };
    double *values = new_values(QUEUE_8, N, 5);
    struct sl_interval tied = sl_interval_quantile(values, N, 0.5, values + N);
    struct sl_rng rng = {9, 0};
    for (uint32_t i = N - 1; i > 0; i--) {
        uint32_t j = (uint32_t)(sl_rng_next(&rng) % (i + 1));
        double kept = values[i];
        values[i] = values[j];
        values[j] = kept;
    }
    struct sl_interval mixed = sl_interval_quantile(values, N, 0.5, values + N);
    CHECK(tied.bounded && mixed.bounded);
    CHECK(!(tied.value < mixed.value) && !(tied.value > mixed.value));
    CHECK(tied.high - tied.low > 4 * (mixed.high - mixed.low));
    CHECK_INT(mixed.n_blocks, N);
    CHECK(tied.n_blocks >= SL_INTERVAL_BLOCKS && tied.n_blocks < N / 64);
    free(values);
}

SL_TEST(what_never_forgets_has_no_interval)
{
    enum { N = 20000 };
    double *values = new_values(EXPONENTIAL, N, 3);
    double walk = 1e6;
    for (uint32_t i = 0; i < N; i++)
        walk = values[i] = walk + values[i] - 1;
    struct sl_interval interval = sl_interval_quantile(values, N, 0.5, values + N);
    CHECK(interval.known && !interval.bounded && interval.n_blocks < SL_INTERVAL_BLOCKS);
    CHECK(!sl_interval_mean(values, N, values + N).bounded);
    for (uint32_t i = 0; i < N; i++)
        values[i] = i; /* a server that gets slower all the time */
    CHECK(!sl_interval_quantile(values, N, 0.9, values + N).bounded);
    free(values);
}

enum { BURST = 40 };

/* The body is independent; now and then there is a burst of 40 that `more` is added to. */
static double *new_bursts(uint32_t n, double share, double more)
{
    double *values = new_values(EXPONENTIAL, n, 11);
    struct sl_rng rng = {12, 0};
    for (uint32_t i = 0; i + BURST < n; i++)
        if (sl_rng_unit(sl_rng_next(&rng)) < share / BURST)
            for (uint32_t j = 0; j < BURST; j++)
                values[i++] += more;
    return values;
}

SL_TEST(bursts_that_only_the_tail_shows_widen_the_interval_of_the_tail)
{
    enum { N = 100000 };
    double *values = new_bursts(N, 0.01, 20);
    struct sl_interval tied = sl_interval_quantile(values, N, 0.99, values + N);
    CHECK(tied.bounded && tied.n_blocks < N / BURST);
    CHECK(tied.low < 20 && tied.high > 20); /* about 1 % in 25 bursts: either side may be true */
    free(values);
}

SL_TEST(failures_in_bursts_are_fewer_than_they_are)
{
    enum { N = 100000 };
    double *values = new_bursts(N, 0.013, INFINITY);
    struct sl_interval tied = sl_interval_quantile(values, N, 0.99, values + N);
    CHECK(tied.bounded && tied.n_blocks < N / BURST);
    CHECK(isinf(tied.value) && isfinite(tied.low)); /* with as many failures one by one it is certain */
    free(values);
}

SL_TEST(the_value_is_the_nearest_rank_and_the_samples_stay_as_they_are)
{
    enum { N = 1000 };
    double values[N], before[N], scratch[2 * N];
    for (uint32_t i = 0; i < N; i++)
        before[i] = values[i] = (i * 7919u) % N + 1;
    const double some[] = {0.5, 0.75, 0.9, 0.95, 0.99};
    struct sl_interval intervals[5];
    sl_interval_quantiles(values, N, some, 5, intervals, scratch);
    CHECK(memcmp(values, before, sizeof values) == 0);
    for (int i = 0; i < 5; i++) {
        CHECK_INT(intervals[i].value, (long long)(some[i] * N + 0.5));
        struct sl_interval alone = sl_interval_quantile(values, N, some[i], scratch);
        CHECK(memcmp(&alone.value, &intervals[i].value, sizeof(double)) == 0);
        CHECK(alone.bounded == intervals[i].bounded);
        CHECK(memcmp(&alone.high, &intervals[i].high, sizeof(double)) == 0);
    }
}

SL_TEST(too_few_samples_for_a_quantile_are_said_to_be_too_few)
{
    double *values = new_values(EXPONENTIAL, 1000, 2);
    struct sl_interval interval = sl_interval_quantile(values, 999, 0.99, values + 1000);
    CHECK(!interval.known && !interval.bounded && interval.value > 0);
    CHECK(sl_interval_quantile(values, 1000, 0.99, values + 1000).known);
    CHECK(!sl_interval_quantile(values, 1000, 0.999, values + 1000).known);
    CHECK(sl_interval_quantile(values, 20, 0.5, values + 1000).known);
    CHECK(!sl_interval_quantile(values, 19, 0.5, values + 1000).known);
    CHECK(!sl_interval_quantile(values, 99, 0.1, values + 1000).known);
    interval = sl_interval_quantile(values, 0, 0.5, values + 1000);
    CHECK(!interval.known && !interval.bounded && isnan(interval.value));
    interval = sl_interval_mean(values, 0, values + 1000);
    CHECK(!interval.known && isnan(interval.value));
    CHECK(!sl_interval_mean(values, 19, values + 1000).bounded);
    free(values);
}

SL_TEST(equal_samples_have_the_interval_of_one_value)
{
    enum { N = 1000 };
    double values[N], scratch[2 * N];
    for (uint32_t i = 0; i < N; i++)
        values[i] = 4;
    const double some[] = {0.5, 0.9, 0.99};
    struct sl_interval intervals[3];
    sl_interval_quantiles(values, N, some, 3, intervals, scratch);
    for (int i = 0; i < 3; i++) {
        CHECK(intervals[i].known && intervals[i].bounded);
        CHECK_INT(intervals[i].low * 1000, 4000);
        CHECK_INT(intervals[i].value * 1000, 4000);
        CHECK_INT(intervals[i].high * 1000, 4000);
    }
    struct sl_interval mean = sl_interval_mean(values, N, scratch);
    CHECK(mean.bounded && !(mean.low < 4) && !(mean.high > 4));
}

SL_TEST(failed_requests_lie_above_all_others)
{
    enum { N = 4000 };
    double *values = new_values(EXPONENTIAL, N, 4);
    struct sl_rng rng = {6, 0};
    uint32_t n_failed = 0;
    for (uint32_t i = 0; i < N; i++)
        if (sl_rng_unit(sl_rng_next(&rng)) < 0.05) {
            values[i] = INFINITY;
            n_failed++;
        }
    struct sl_interval p99 = sl_interval_quantile(values, N, 0.99, values + N);
    CHECK(p99.known && p99.bounded && isinf(p99.value) && isinf(p99.low) && isinf(p99.high));
    struct sl_interval p95 = sl_interval_quantile(values, N, 0.95, values + N);
    CHECK(p95.bounded && isfinite(p95.low) && isinf(p95.high)); /* about at the edge: either may be true */
    struct sl_interval p90 = sl_interval_quantile(values, N, 0.9, values + N);
    CHECK(p90.bounded && isfinite(p90.high) && p90.low < p90.value && p90.value < p90.high);
    struct sl_interval mean = sl_interval_mean(values, N, values + N);
    CHECK(mean.bounded && mean.n_blocks <= N - n_failed && fabs(mean.value - 1) < 0.1);
    for (uint32_t i = 0; i < N; i++)
        values[i] = INFINITY;
    p90 = sl_interval_quantile(values, N, 0.9, values + N);
    CHECK(p90.known && isinf(p90.value));
    CHECK(!sl_interval_mean(values, N, values + N).known);
    free(values);
}
