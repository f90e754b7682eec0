/* Figures from outcomes (measure.h). One pass collects the values of a measure in the order of being due, intervals are made of
 * that; what is counted over time (in flight, tokens a second) looks at all requests of the class, those of the warm-up too,
 * within the measured part. */
#include "bench/serve/measure.h"
#include "bench/serve/sort.h"
#include <assert.h>
#include <math.h>
#include <stdlib.h>

static const double NS_PER_MS = 1e6, NS_PER_S = 1e9;
static const uint64_t SECOND_NS = 1000000000, SECONDS_MOST = 30 * 86400;

const char *const sl_measure_names[SL_MEASURES] = {"TTFT", "TTFT sent", "ITL", "TPOT", "E2E", "send lag"};
const char *const sl_measure_keys[SL_MEASURES] = {"ttft", "ttft_sent", "itl", "tpot", "e2el", "send_lag"};
const double sl_quantiles[SL_QUANTILES] = {0.5, 0.75, 0.9, 0.95, 0.99, 0.999};

bool sl_limits_any(const struct sl_limits *limits)
{
    return limits->ttft_ms > 0 || limits->tpot_ms > 0 || limits->e2e_ms > 0;
}

static bool has_failed(const struct sl_outcome *outcome)
{
    return outcome->ending == SL_ENDING_FAILED || outcome->ending == SL_ENDING_TIMEOUT ||
           outcome->ending == SL_ENDING_UNSENT;
}

/* NAN when either did not happen. */
static double ms_between(uint64_t from, uint64_t to)
{
    return from == SL_NEVER || to == SL_NEVER ? NAN : (double)(int64_t)(to - from) / NS_PER_MS;
}

static double first_token(const struct sl_outcome *outcome, uint64_t from)
{
    return outcome->first_ns == SL_NEVER && has_failed(outcome) ? INFINITY
                                                                : ms_between(from, outcome->first_ns);
}

/* What only a whole answer has. */
static double whole(const struct sl_outcome *outcome, double value)
{
    return has_failed(outcome) ? INFINITY : outcome->ending == SL_ENDING_DONE ? value : NAN;
}

double sl_measure_of(const struct sl_outcome *outcome, enum sl_measure measure)
{
    switch (measure) {
    case SL_TTFT:
        return first_token(outcome, outcome->due_ns);
    case SL_TTFT_SENT:
        return first_token(outcome, outcome->sent_ns);
    case SL_TPOT:
        return whole(outcome, outcome->output_tokens < 2 ? NAN
                                                         : ms_between(outcome->first_ns, outcome->last_ns) /
                                                               (outcome->output_tokens - 1));
    case SL_E2E:
        return whole(outcome, ms_between(outcome->due_ns, outcome->last_ns));
    case SL_LAG:
        return ms_between(outcome->due_ns, outcome->sent_ns);
    default: /* a list, not a value */
        return NAN;
    }
}

bool sl_measure_is_good(const struct sl_outcome *outcome, const struct sl_limits *limits)
{
    if (outcome->ending != SL_ENDING_DONE)
        return false;
    /* No token, no time to it, so no limit was held; a single token has no TPOT and breaks none. */
    return !(limits->ttft_ms > 0 && !(sl_measure_of(outcome, SL_TTFT) <= limits->ttft_ms)) &&
           !(limits->e2e_ms > 0 && !(sl_measure_of(outcome, SL_E2E) <= limits->e2e_ms)) &&
           !(limits->tpot_ms > 0 && sl_measure_of(outcome, SL_TPOT) > limits->tpot_ms);
}

struct view { /* of what is measured */
    const struct sl_outcomes *outcomes;
    int load_class; /* < 0: all */
    uint64_t end_ns;
};

static bool is_of_class(const struct view *view, const struct sl_outcome *outcome)
{
    return view->load_class < 0 || outcome->load_class == (uint32_t)view->load_class;
}

static bool is_measured(const struct view *view, const struct sl_outcome *outcome)
{
    return is_of_class(view, outcome) && outcome->due_ns >= view->outcomes->warm_ns &&
           outcome->due_ns < view->outcomes->over_ns;
}

static void count_ending(struct sl_summary *summary, enum sl_ending ending)
{
    switch (ending) {
    case SL_ENDING_DONE:
        summary->n_done++;
        break;
    case SL_ENDING_CANCELLED:
        summary->n_cancelled++;
        break;
    case SL_ENDING_FAILED:
        summary->n_failed++;
        break;
    case SL_ENDING_TIMEOUT:
        summary->n_timeout++;
        break;
    case SL_ENDING_UNSENT:
        summary->n_unsent++;
        break;
    default:
        summary->n_unfinished++;
    }
}

static void count(struct sl_summary *summary, struct view *view, const struct sl_limits *limits,
                  uint32_t n_classes)
{
    for (uint32_t i = 0; i < view->outcomes->n; i++) {
        const struct sl_outcome *outcome = &view->outcomes->all[i];
        assert(outcome->load_class < n_classes);
        if (!is_measured(view, outcome))
            continue;
        summary->n_requests++;
        count_ending(summary, outcome->ending);
        summary->n_good += sl_measure_is_good(outcome, &limits[outcome->load_class]);
        if (outcome->sent_ns != SL_NEVER) {
            summary->input_tokens += outcome->input_tokens;
            summary->output_tokens += outcome->output_tokens;
        }
        if (outcome->end_ns != SL_NEVER && outcome->end_ns > view->end_ns)
            view->end_ns = outcome->end_ns;
    }
    for (uint32_t i = 0; i < n_classes; i++)
        if (view->load_class < 0 || (uint32_t)view->load_class == i)
            summary->has_limits = summary->has_limits || sl_limits_any(&limits[i]);
}

static void set_rates(struct sl_summary *summary, const struct view *view)
{
    uint32_t judged = summary->n_requests - summary->n_cancelled;
    summary->good_share = judged > 0 ? (double)summary->n_good / judged : 0;
    summary->seconds = (double)(view->end_ns - view->outcomes->warm_ns) / NS_PER_S;
    if (!(summary->seconds > 0))
        return;
    summary->requests_per_s = summary->n_done / summary->seconds;
    summary->good_per_s = summary->n_good / summary->seconds;
    summary->output_per_s = (double)summary->output_tokens / summary->seconds;
    summary->tokens_per_s = (double)(summary->input_tokens + summary->output_tokens) / summary->seconds;
}

/* In flight: from sent to end, cut to the measured part. Sorted begins and ends are walked side by side; who ends when another begins
 * has made room for it. */
static uint32_t cut_flights(const struct view *view, double *begins, double *ends, double *sum_ns)
{
    uint32_t n = 0;
    uint64_t warm = view->outcomes->warm_ns;
    *sum_ns = 0;
    for (uint32_t i = 0; i < view->outcomes->n; i++) {
        const struct sl_outcome *outcome = &view->outcomes->all[i];
        if (!is_of_class(view, outcome) || outcome->sent_ns == SL_NEVER)
            continue;
        uint64_t begin = outcome->sent_ns > warm ? outcome->sent_ns : warm;
        uint64_t end = outcome->end_ns < view->end_ns ? outcome->end_ns : view->end_ns;
        if (end <= begin)
            continue;
        begins[n] = (double)(begin - warm);
        ends[n++] = (double)(end - warm);
        *sum_ns += (double)(end - begin);
    }
    return n;
}

static void measure_flights(struct sl_summary *summary, const struct view *view, double *room)
{
    double *begins = room, *ends = room + view->outcomes->n, *spare = ends + view->outcomes->n, sum_ns;
    uint32_t n = cut_flights(view, begins, ends, &sum_ns), ended = 0;
    sl_sort_doubles(begins, n, spare);
    sl_sort_doubles(ends, n, spare);
    for (uint32_t i = 0; i < n; i++) {
        while (ends[ended] <= begins[i])
            ended++;
        if (i + 1 - ended > summary->max_in_flight)
            summary->max_in_flight = i + 1 - ended;
    }
    summary->mean_in_flight = summary->seconds > 0 ? sum_ns / NS_PER_S / summary->seconds : 0;
}

/* Messages are known by the gaps between them and the tokens by their number, which are spread evenly over the messages; where memory
 * for gaps was bounded, messages beyond are spread evenly until the last. */
static void add_arrivals(const struct sl_outcome *outcome, uint64_t warm_ns, uint32_t *seconds,
                         uint64_t n_seconds)
{
    uint64_t n = outcome->n_arrivals, given = 0;
    double at_ns = (double)outcome->first_ns, last_ns = (double)outcome->last_ns;
    for (uint64_t i = 0; i < n; i++) {
        if (i > 0 && i <= outcome->n_gaps)
            at_ns += (double)outcome->gaps_ms[i - 1] * NS_PER_MS;
        else if (i > 0)
            at_ns += (last_ns - at_ns) / (double)(n - i);
        uint64_t upto = (i + 1) * outcome->output_tokens / n;
        double second = floor((fmin(at_ns, last_ns) - (double)warm_ns) / NS_PER_S);
        if (second >= 0 && second < (double)n_seconds)
            seconds[(uint64_t)second] += (uint32_t)(upto - given);
        given = upto;
    }
}

static sl_status measure_peak(struct sl_summary *summary, const struct view *view, struct sl_err *err)
{
    uint64_t n_seconds = (view->end_ns - view->outcomes->warm_ns) / SECOND_NS + 1;
    n_seconds =
        n_seconds < SECONDS_MOST ? n_seconds : SECONDS_MOST; /* a month: a lie about time costs no memory */
    uint32_t *seconds = calloc(n_seconds, sizeof *seconds), most = 0;
    if (!seconds)
        return sl_fail(err, SL_E_NOMEM, "out of memory for the tokens of %llu seconds",
                       (unsigned long long)n_seconds);
    for (uint32_t i = 0; i < view->outcomes->n; i++) {
        const struct sl_outcome *outcome = &view->outcomes->all[i];
        if (is_of_class(view, outcome) && outcome->first_ns != SL_NEVER && outcome->last_ns != SL_NEVER)
            add_arrivals(outcome, view->outcomes->warm_ns, seconds, n_seconds);
    }
    for (uint64_t i = 0; i < n_seconds; i++)
        most = seconds[i] > most ? seconds[i] : most;
    summary->max_output_per_s = most;
    free(seconds);
    return SL_OK;
}

static uint32_t collect(const struct view *view, enum sl_measure measure, double *values)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < view->outcomes->n; i++) {
        const struct sl_outcome *outcome = &view->outcomes->all[i];
        if (!is_measured(view, outcome))
            continue;
        for (uint32_t gap = 0; measure == SL_ITL && gap < outcome->n_gaps; gap++)
            values[n++] = (double)outcome->gaps_ms[gap];
        double value = sl_measure_of(outcome, measure);
        if (!isnan(value))
            values[n++] = value;
    }
    return n;
}

static void make_figure(struct sl_figure *figure, const double *values, uint32_t n, double *scratch)
{
    double sum = 0, squares = 0;
    figure->n = n;
    figure->minimum = INFINITY;
    figure->maximum = -INFINITY;
    for (uint32_t i = 0; i < n; i++) {
        if (isinf(values[i])) {
            figure->n_failed++;
            continue;
        }
        sum += values[i];
        figure->minimum = fmin(figure->minimum, values[i]);
        figure->maximum = fmax(figure->maximum, values[i]);
    }
    uint32_t finite = n - figure->n_failed;
    figure->mean = sum / finite;
    for (uint32_t i = 0; i < n; i++)
        squares += isinf(values[i]) ? 0 : (values[i] - figure->mean) * (values[i] - figure->mean);
    figure->deviation = sqrt(squares / finite);
    if (finite == 0)
        figure->mean = figure->deviation = figure->minimum = figure->maximum = NAN;
    sl_interval_quantiles(values, n, sl_quantiles, SL_QUANTILES, figure->quantiles, scratch);
    figure->mean_interval = sl_interval_mean(values, n, scratch);
}

static void measure_parts(struct sl_summary *summary, const struct view *view, double *room)
{
    double *values = room, *spare = room + view->outcomes->n;
    for (int part = 0; part < SL_PARTS; part++) {
        uint32_t n = 0;
        double sum = 0;
        for (uint32_t i = 0; i < view->outcomes->n; i++) {
            const struct sl_outcome *outcome = &view->outcomes->all[i];
            if (!is_measured(view, outcome) || !outcome->has_parts)
                continue;
            values[n] = outcome->parts_us[part] / 1e3;
            sum += values[n++];
        }
        summary->n_parts = n;
        if (n == 0)
            return;
        sl_sort_doubles(values, n, spare);
        summary->parts_ms[part] = sum / n;
        summary->parts_p99_ms[part] = values[sl_nearest_rank(n, 0.99)];
    }
}

/* The most values that a measure has. */
static uint64_t values_most(const struct view *view)
{
    uint64_t gaps = 0;
    for (uint32_t i = 0; i < view->outcomes->n; i++)
        if (is_measured(view, &view->outcomes->all[i]))
            gaps += view->outcomes->all[i].n_gaps;
    return gaps > view->outcomes->n ? gaps : view->outcomes->n;
}

sl_status sl_measure(struct sl_summary *summary, const struct sl_outcomes *outcomes, int load_class,
                     const struct sl_limits *limits, uint32_t n_classes, struct sl_err *err)
{
    struct view view = {outcomes, load_class, outcomes->warm_ns};
    uint64_t most = values_most(&view);
    *summary = (struct sl_summary){0};
    if (most > UINT32_MAX)
        return sl_fail(err, SL_E_EXHAUSTED,
                       "%llu gaps between tokens are too many to measure; run for less time",
                       (unsigned long long)most);
    double *values = calloc(3 * most + 1, sizeof *values); /* the values, and two of them for intervals */
    if (!values)
        return sl_fail(err, SL_E_NOMEM, "out of memory for %llu values of a measure",
                       (unsigned long long)most);
    count(summary, &view, limits, n_classes);
    set_rates(summary, &view);
    measure_flights(summary, &view, values);
    for (int measure = 0; measure < SL_MEASURES; measure++) {
        uint32_t n = collect(&view, (enum sl_measure)measure, values);
        make_figure(&summary->figures[measure], values, n, values + most);
    }
    measure_parts(summary, &view, values);
    sl_status status = measure_peak(summary, &view, err);
    free(values);
    return status;
}
