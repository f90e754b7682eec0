/* From logits to a token. Which ids survive the filters, and which of them is drawn, must be the
 * same on every machine: so weights come from the softmax of kernels/isa.h, which gives the same
 * bits in every table, and every sum has one order. Only the reported log-probabilities go through
 * libm's logf.
 *
 * A vocabulary has 150,000 entries and a filter keeps a few of them, so nothing is sorted. A filter
 * is a *cut*: ids in descending order of logit (ties to the lower id) are kept until their count
 * (top-k) or their weight (top-p) suffices. The cut is found digit by digit: logits are mapped to
 * integers of the same order, one histogram over the upper eleven bits says in which bucket the cut
 * lies, the next looks only inside it. Three linear passes, whatever the data. Ordering by logit
 * and not by weight matters: exp rounds neighbours to one value, and top-k 1 must be the greedy
 * token. */
#include "pipeline/stage/sample.h"

#include "base/rng.h"
#include "kernels/isa.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <stdatomic.h>
#include <string.h>

enum { DIGIT_BITS = 11, N_BUCKETS = 1 << DIGIT_BITS, MAX_BANNED = 256 };

struct change {
    uint32_t id;
    float was;
};

/* A weight per id, and what changed: every id twice at most by penalties, and once by a bias and a ban. */
static size_t max_changes(uint32_t vocab)
{
    return 2 * (size_t)vocab + SL_MAX_LOGIT_BIAS + MAX_BANNED;
}

size_t sl_sample_scratch_bytes(uint32_t vocab)
{
    return (size_t)vocab * sizeof(float) + max_changes(vocab) * sizeof(struct change);
}

/* The id of the largest logit, the lowest of several. NaN is never larger, so it loses to
 * everything. */
static uint32_t best_of(const float *logits, uint32_t vocab)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < vocab; i++)
        if (logits[i] > logits[best] || (isnan(logits[best]) && !isnan(logits[i])))
            best = i;
    return best;
}

/* ---- filters ---- */

/* An integer of the same order as the logit. Both zeros are one; NaN never has a weight and is not
 * asked for. */
static uint32_t order_of(float logit)
{
    uint32_t bits;
    logit += 0.0f;
    memcpy(&bits, &logit, sizeof bits);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

struct cut {
    uint32_t order; /* ids above it stay */
    double before;  /* what those ids amount to */
};

/* Where ids, from the largest logit down, first amount to `need`; with by_weight their weights are
 * added up, else they are counted. False when all of them together do not. Ids of weight 0 are out
 * already. */
static bool find_cut(struct cut *cut, const float *logits, const float *weights, uint32_t vocab, double need,
                     bool by_weight)
{
    uint32_t prefix = 0, mask = 0;
    double before = 0;
    for (uint32_t shift = 32, left = 32; left > 0;) {
        uint32_t bits = left < DIGIT_BITS ? left : DIGIT_BITS;
        double amounts[N_BUCKETS] = {0};
        left -= bits;
        shift -= bits;
        for (uint32_t i = 0; i < vocab; i++) {
            uint32_t order = order_of(logits[i]);
            if (weights[i] > 0 && (order & mask) == prefix)
                amounts[order >> shift & ((1u << bits) - 1)] += by_weight ? (double)weights[i] : 1.0;
        }
        uint32_t bucket = (1u << bits) - 1;
        while (bucket > 0 && before + amounts[bucket] < need)
            before += amounts[bucket--];
        if (before + amounts[bucket] < need && mask == 0)
            return false;
        mask |= ((1u << bits) - 1) << shift;
        prefix |= bucket << shift;
    }
    *cut = (struct cut){prefix, before};
    return true;
}

/* Takes the weight from all ids beyond the one that makes the amount reach `need`. */
static void keep(const float *logits, float *weights, uint32_t vocab, double need, bool by_weight)
{
    struct cut cut;
    if (!find_cut(&cut, logits, weights, vocab, need, by_weight))
        return;
    double amount = cut.before;
    for (uint32_t i = 0; i < vocab; i++) {
        uint32_t order = order_of(logits[i]);
        if (order > cut.order || weights[i] <= 0)
            continue;
        if (order == cut.order && amount < need)
            amount += by_weight ? (double)weights[i] : 1.0;
        else
            weights[i] = 0;
    }
}

static double sum_of(const float *weights, uint32_t vocab)
{
    double sum = 0;
    for (uint32_t i = 0; i < vocab; i++)
        sum += (double)weights[i];
    return sum;
}

/* The best table, asked for once: cpuid costs 20 us in a virtual machine. Whoever is first stores
 * what all others would have stored. */
static const struct sl_ops *best_ops(void)
{
    static _Atomic(const struct sl_ops *) known;
    const struct sl_ops *ops = atomic_load_explicit(&known, memory_order_relaxed);
    if (ops)
        return ops;
    if (sl_ops_select(&ops, NULL) != SL_OK)
        ops = &sl_ops_ref; /* slower, same bits */
    atomic_store_explicit(&known, ops, memory_order_relaxed);
    return ops;
}

/* weights = softmax(logits / temperature); NaN counts as -inf. logits[best] is finite and the
 * largest. */
static void weigh(float *weights, const float *logits, uint32_t vocab, uint32_t best, float temperature)
{
    for (uint32_t i = 0; i < vocab; i++) {
        float x = (logits[i] - logits[best]) / temperature; /* the difference first: no overflow to +inf */
        weights[i] = isnan(x) ? -INFINITY : x;
    }
    best_ops()->softmax(weights, vocab);
}

static uint32_t draw(const float *weights, uint32_t vocab, uint32_t otherwise, uint64_t seed, uint64_t index)
{
    double target = sl_rng_unit(sl_rng_at(seed, index)) * sum_of(weights, vocab), sum = 0;
    uint32_t last = otherwise;
    for (uint32_t i = 0; i < vocab; i++) {
        if (weights[i] <= 0)
            continue;
        sum += (double)weights[i];
        last = i;
        if (sum > target)
            break;
    }
    return last;
}

/* ---- log-probabilities ---- */

static void top_of(struct sl_token_out *out, const float *logits, uint32_t vocab, uint32_t n)
{
    out->n_top = 0;
    for (uint32_t i = 0; i < vocab && n > 0; i++) {
        if (isnan(logits[i]) || (out->n_top == n && logits[i] <= out->top_logprobs[n - 1]))
            continue;
        uint32_t at = out->n_top < n ? out->n_top++ : n - 1;
        for (; at > 0 && out->top_logprobs[at - 1] < logits[i]; at--) {
            out->top_logprobs[at] = out->top_logprobs[at - 1];
            out->top_ids[at] = out->top_ids[at - 1];
        }
        out->top_logprobs[at] = logits[i];
        out->top_ids[at] = i;
    }
}

void sl_logprob_of(struct sl_token_out *out, const float *logits, uint32_t vocab, uint32_t id, uint32_t n_top,
                   void *scratch)
{
    uint32_t best = best_of(logits, vocab);
    top_of(out, logits, vocab, n_top < SL_MAX_LOGPROBS ? n_top : SL_MAX_LOGPROBS);
    out->id = id;
    out->logprob = -INFINITY;
    if (!isfinite(logits[best]) || id >= vocab) { /* no distribution, or not in it: nothing is likely */
        for (uint32_t i = 0; i < out->n_top; i++)
            out->top_logprobs[i] = -INFINITY;
        return;
    }
    float *weights = scratch;
    weigh(weights, logits, vocab, best, 1);
    float log_sum = -logf(weights[best]); /* the largest is exp(0) over the sum */
    for (uint32_t i = 0; i < out->n_top; i++)
        out->top_logprobs[i] = out->top_logprobs[i] - logits[best] - log_sum;
    out->logprob = isnan(logits[id]) ? -INFINITY : logits[id] - logits[best] - log_sum;
}

/* ---- what moves logits: written into the row, which is put back afterwards ---- */

struct row {
    float *logits;
    uint32_t vocab;
    struct change *changes; /* in the order of their making */
    size_t n;
};

/* A number stays one: who asks for much gets the largest there is, and is still better than what is banned. */
static void set(struct row *row, uint32_t id, float value)
{
    float was = row->logits[id];
    assert(row->n < max_changes(row->vocab));
    row->changes[row->n++] = (struct change){id, was};
    row->logits[id] = !isfinite(was)     ? value
                      : value > FLT_MAX  ? FLT_MAX
                      : value < -FLT_MAX ? -FLT_MAX
                                         : value;
}

static void put_back(struct row *row)
{
    while (row->n > 0) {
        const struct change *c = &row->changes[--row->n];
        row->logits[c->id] = c->was;
    }
}

static void ban(struct row *row, const uint32_t *ids, uint32_t n)
{
    assert(n <= MAX_BANNED);
    for (uint32_t i = 0; i < n; i++) {
        if (ids[i] >= row->vocab)
            continue;
        row->changes[row->n++] = (struct change){ids[i], row->logits[ids[i]]};
        row->logits[ids[i]] = -INFINITY;
    }
}

static void add_bias(struct row *row, const struct sl_steering *steering)
{
    for (uint32_t i = 0; i < steering->n_bias; i++) {
        struct sl_bias b = sl_steering_bias(steering, i);
        set(row, b.id, row->logits[b.id] + b.value);
    }
}

static float repeated(float x, float penalty)
{
    return x > 0 ? x / penalty : x * penalty;
}

static void penalise(struct row *row, const struct sl_sampling *s, const struct sl_seen *seen)
{
    bool repeats = sl_sampling_repeats(s);
    for (uint32_t w = 0; repeats && seen->prompt && w < sl_id_words(row->vocab); w++)
        for (uint64_t left = seen->prompt[w]; left; left &= left - 1) {
            uint32_t id = w * 64 + (uint32_t)__builtin_ctzll(left);
            set(row, id, repeated(row->logits[id], s->repetition_penalty));
        }
    for (uint32_t i = 0; i < seen->n_ids; i++) {
        uint32_t id = seen->ids[i];
        float x = row->logits[id];
        if (repeats && !(seen->prompt && sl_id_is_in(seen->prompt, id)))
            x = repeated(x, s->repetition_penalty);
        x -= s->frequency_penalty * (float)seen->counts[i];
        set(row, id, x - s->presence_penalty);
    }
}

static void steer(struct row *row, const struct sl_sampling *sampling, const struct sl_seen *seen)
{
    ban(row, seen->banned, seen->n_banned);
    if (seen->steering)
        add_bias(row, seen->steering);
    if (sl_sampling_counts(sampling))
        penalise(row, sampling, seen);
}

/* ---- a token ---- */

static uint32_t choose(const float *logits, uint32_t vocab, const struct sl_sampling *sampling,
                       uint64_t index, float *weights)
{
    uint32_t id = best_of(logits, vocab);
    if (sampling->temperature == 0 || !isfinite(logits[id]))
        return id;
    weigh(weights, logits, vocab, id, sampling->temperature);
    float least = sampling->min_p * weights[id];
    for (uint32_t i = 0; i < vocab && least > 0; i++)
        if (weights[i] < least)
            weights[i] = 0;
    if (sampling->top_k > 0 && sampling->top_k < vocab)
        keep(logits, weights, vocab, sampling->top_k, false);
    if (sampling->top_p < 1)
        keep(logits, weights, vocab, (double)sampling->top_p * sum_of(weights, vocab), true);
    return draw(weights, vocab, id, sampling->seed, index);
}

void sl_sample(struct sl_token_out *out, float *logits, uint32_t vocab, const struct sl_sampling *sampling,
               const struct sl_seen *seen, uint64_t index, void *scratch)
{
    float *weights = scratch;
    struct row row = {logits, vocab, (struct change *)(void *)(weights + vocab), 0};
    if (seen)
        steer(&row, sampling, seen);
    uint32_t id = choose(logits, vocab, sampling, index, weights);
    put_back(&row);
    if (sampling->n_logprobs >= 0) {
        sl_logprob_of(out, logits, vocab, id, (uint32_t)sampling->n_logprobs, scratch);
        return;
    }
    memset(out, 0, sizeof *out);
    out->id = id;
}
