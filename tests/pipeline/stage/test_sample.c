/* Sampling against exact probabilities, filters against a plain sort, and that a draw depends on
 * (seed, index) alone.
 *
 * All draws are seeded, so a statistical bound that holds once holds for ever: the bounds are still
 * those of a five-sigma test, to be meaningful when the random numbers change. */
#include "pipeline/stage/sample.h"

#include "base/rng.h"
#include "tests/check.h"

#include <math.h>
#include <stdlib.h>

enum { BIG = 151936 };

static const struct sl_sampling plain = {.temperature = 1, .top_p = 1, .seed = 1, .n_logprobs = -1};

static float *row_of(uint32_t vocab, uint64_t seed, float spread)
{
    float *logits = malloc(vocab * sizeof *logits);
    if (!logits)
        exit(1);
    for (uint32_t i = 0; i < vocab; i++) { /* a sum of three: roughly a bell, as logits are */
        double sum = 0;
        for (uint32_t j = 0; j < 3; j++)
            sum += sl_rng_unit(sl_rng_at(seed, 3 * i + j)) - 0.5;
        logits[i] = (float)sum * spread;
    }
    return logits;
}

static uint32_t draw_seen(const float *logits, uint32_t vocab, const struct sl_sampling *sampling,
                          const struct sl_seen *seen, uint64_t index)
{
    struct sl_token_out out;
    size_t bytes = vocab * sizeof *logits;
    void *scratch = malloc(sl_sample_scratch_bytes(vocab));
    float *row = malloc(bytes);
    if (!row || !scratch)
        exit(1);
    memcpy(row, logits, bytes);
    sl_sample(&out, row, vocab, sampling, seen, index, scratch);
    if (memcmp(row, logits, bytes) != 0)
        sl_test_fail(__FILE__, __LINE__, "the row is not as it was");
    free(scratch);
    free(row);
    return out.id;
}

static uint32_t draw(const float *logits, uint32_t vocab, const struct sl_sampling *sampling, uint64_t index)
{
    return draw_seen(logits, vocab, sampling, NULL, index);
}

SL_TEST(greedy_takes_the_largest_and_the_lowest_of_equals)
{
    struct sl_sampling s = plain;
    s.temperature = 0;
    CHECK_INT(draw((float[]){1, 3, 2, 3}, 4, &s, 0), 1);
    CHECK_INT(draw((float[]){-0.0f, 0.0f, -1}, 3, &s, 0), 0);
    CHECK_INT(draw((float[]){NAN, -5, NAN, -4}, 4, &s, 0), 3);
    CHECK_INT(draw((float[]){-INFINITY, -INFINITY, -9}, 3, &s, 0), 2);
    CHECK_INT(draw((float[]){NAN, NAN}, 2, &s, 0), 0);
    s.temperature = 1; /* no distribution can be made of these: the largest it is */
    CHECK_INT(draw((float[]){1, INFINITY, 2}, 3, &s, 0), 1);
    CHECK_INT(draw((float[]){-INFINITY, -INFINITY}, 2, &s, 0), 0);
    CHECK_INT(draw((float[]){NAN, 1, NAN}, 3, &s, 7), 1);
    s.temperature = 1e-30f;
    CHECK_INT(draw((float[]){1, 3e30f, 2}, 3, &s, 0), 1);
}

/* The count of each id in n draws lies within five standard deviations of what exp and division
 * say. */
static void check_distribution(const float *logits, uint32_t vocab, const struct sl_sampling *s,
                               const double *expected)
{
    enum { N = 40000 };
    uint32_t *counts = calloc(vocab, sizeof *counts);
    REQUIRE(counts);
    for (uint32_t i = 0; i < N; i++)
        counts[draw(logits, vocab, s, i)]++;
    for (uint32_t i = 0; i < vocab; i++) {
        double mean = N * expected[i], sigma = sqrt(mean * (1 - expected[i]));
        if (fabs(counts[i] - mean) > 5 * sigma + 1e-6)
            sl_test_fail(__FILE__, __LINE__, "id %u came %u times, expected %.1f +- %.1f", i, counts[i], mean,
                         sigma);
    }
    free(counts);
}

SL_TEST(draws_follow_the_softmax_at_a_temperature)
{
    static const float logits[] = {0.5f, -1, 2, 2, -INFINITY, 1.25f, NAN, -0.5f};
    for (int t = 0; t < 3; t++) {
        struct sl_sampling s = plain;
        s.temperature = (float[]){0.7f, 1, 2.5f}[t];
        s.seed = 100 + (uint64_t)t;
        double expected[8], sum = 0;
        for (int i = 0; i < 8; i++) {
            expected[i] = isnan(logits[i]) ? 0 : exp((double)logits[i] / (double)s.temperature);
            sum += expected[i];
        }
        for (int i = 0; i < 8; i++)
            expected[i] /= sum;
        check_distribution(logits, 8, &s, expected);
    }
}

SL_TEST(filters_apply_one_after_the_other)
{
    /* probabilities 0.4 0.2 0.2 0.1 0.06 0.04 by id 5 0 3 1 2 4 */
    float logits[6];
    static const double p[] = {0.2, 0.1, 0.06, 0.2, 0.04, 0.4};
    for (int i = 0; i < 6; i++)
        logits[i] = (float)log(p[i]);
    struct sl_sampling s = plain;
    s.top_k = 2; /* 0 and 3 tie: the lower id stays */
    check_distribution(logits, 6, &s, (double[]){1 / 3.0, 0, 0, 0, 0, 2 / 3.0});
    s = plain;
    s.top_p = 0.5f; /* 0.4 is not enough, 0.6 is; the tie as above */
    check_distribution(logits, 6, &s, (double[]){1 / 3.0, 0, 0, 0, 0, 2 / 3.0});
    s.top_p = 0.85f;
    check_distribution(logits, 6, &s, (double[]){2 / 9.0, 1 / 9.0, 0, 2 / 9.0, 0, 4 / 9.0});
    s = plain;
    s.min_p = 0.3f;
    check_distribution(logits, 6, &s, (double[]){0.25, 0, 0, 0.25, 0, 0.5});
    s.top_k = 4; /* 0.4 0.2 0.2 0.1 of 0.9; top_p is of what is left: 0.6 of 0.9 is reached with two */
    s.min_p = 0;
    s.top_p = 0.6f;
    check_distribution(logits, 6, &s, (double[]){1 / 3.0, 0, 0, 0, 0, 2 / 3.0});
    s.top_p = 1e-6f;
    check_distribution(logits, 6, &s, (double[]){0, 0, 0, 0, 0, 1});
    s = plain; /* min-p first: 0.4 0.2 0.2 of 0.8 are left, and 0.7 of that is reached with two */
    s.min_p = 0.3f;
    s.top_p = 0.7f;
    check_distribution(logits, 6, &s, (double[]){1 / 3.0, 0, 0, 0, 0, 2 / 3.0});
}

/* ---- what moves logits ---- */

/* The logits that penalties and biases make, by the formula and in double. */
static void move(double *to, const float *from, uint32_t vocab, const struct sl_sampling *s,
                 const uint32_t *prompt, uint32_t n_prompt, const uint32_t *output, uint32_t n_output,
                 const struct sl_bias *bias, uint32_t n_bias)
{
    for (uint32_t id = 0; id < vocab; id++) {
        uint32_t in_prompt = 0, count = 0;
        double x = (double)from[id];
        for (uint32_t i = 0; i < n_bias; i++)
            x += bias[i].id == id ? (double)bias[i].value : 0;
        for (uint32_t i = 0; i < n_prompt; i++)
            in_prompt += prompt[i] == id;
        for (uint32_t i = 0; i < n_output; i++)
            count += output[i] == id;
        if (in_prompt || count)
            x = x > 0 ? x / (double)s->repetition_penalty : x * (double)s->repetition_penalty;
        x -= (double)s->frequency_penalty * count;
        x -= count ? (double)s->presence_penalty : 0;
        to[id] = x;
    }
}

enum { IDS = 200 };

/* A view of these, packed and read, and the counts: what a node has. */
struct hearsay {
    uint8_t bytes[12 + 8 * SL_MAX_LOGIT_BIAS + IDS];
    struct sl_steering steering;
    uint64_t seen[(IDS + 63) / 64], prompt[(IDS + 63) / 64];
    uint32_t ids[IDS], counts[IDS];
    struct sl_counts output;
    struct sl_seen view;
};

static void tell(struct hearsay *t, const uint32_t *prompt, uint32_t n_prompt, const uint32_t *output,
                 uint32_t n_output, const struct sl_bias *bias, uint32_t n_bias)
{
    *t = (struct hearsay){.output = {.room = IDS, .ids = t->ids, .counts = t->counts}};
    uint32_t n = sl_ids_mark(t->seen, prompt, n_prompt), bytes = sl_steering_bytes(n_bias, n, IDS);
    REQUIRE(bytes <= sizeof t->bytes);
    sl_steering_pack(t->bytes, bias, n_bias, t->seen, n, IDS);
    REQUIRE(sl_steering_read(&t->steering, t->bytes, bytes, IDS) == NULL);
    sl_steering_mark(&t->steering, t->prompt);
    for (uint32_t i = 0; i < n_output; i++)
        sl_counts_add(&t->output, output[i]);
    t->view = (struct sl_seen){.steering = &t->steering,
                               .prompt = n ? t->prompt : NULL,
                               .n_ids = t->output.n,
                               .ids = t->ids,
                               .counts = t->counts};
}

SL_TEST(penalties_and_biases_move_logits_as_the_formula_says)
{
    static const struct sl_bias bias[] = {{0, 3}, {7, -100}, {31, 1.5f}, {199, 100}};
    static struct hearsay told;
    struct sl_rng rng = {3, 0};
    uint32_t prompt[60], output[90], n_wrong = 0;
    double moved[IDS];
    for (int turn = 0; turn < 60; turn++) {
        float *logits = row_of(IDS, 1000 + (uint64_t)turn, 20);
        uint32_t n_prompt = (uint32_t)(sl_rng_next(&rng) % 60), n_output = (uint32_t)(sl_rng_next(&rng) % 90);
        for (uint32_t i = 0; i < n_prompt; i++)
            prompt[i] = (uint32_t)(sl_rng_next(&rng) % (turn % 2 ? IDS : 10)); /* a bitmap, and a list */
        for (uint32_t i = 0; i < n_output; i++)
            output[i] = (uint32_t)(sl_rng_next(&rng) % 40);
        struct sl_sampling s = plain;
        s.temperature = 0;
        s.presence_penalty = (float[]){0, 2, -2, 0.5f}[turn % 4];
        s.frequency_penalty = (float[]){0, 0.3f, -0.25f}[turn % 3];
        s.repetition_penalty = (float[]){1.3f, 0.5f, 1.05f, 1, 3}[turn % 5];
        uint32_t n_bias = turn % 7 ? 0 : 4;
        tell(&told, prompt, n_prompt, output, n_output, bias, n_bias);
        move(moved, logits, IDS, &s, prompt, n_prompt, output, n_output, bias, n_bias);
        uint32_t best = 0, greedy = draw_seen(logits, IDS, &s, &told.view, 0);
        for (uint32_t i = 1; i < IDS; i++)
            best = moved[i] > moved[best] ? i : best;
        n_wrong += fabs(moved[greedy] - moved[best]) > 1e-5;
        free(logits);
    }
    CHECK_INT(n_wrong, 0);
}

SL_TEST(draws_follow_the_softmax_of_moved_logits)
{
    static struct hearsay told;
    static const uint32_t prompt[] = {1, 2, 2}, output[] = {2, 3, 3, 3};
    static const struct sl_bias bias[] = {{4, 1}};
    static const float logits[] = {0.5f, 1, -0.5f, 2, 0, -INFINITY};
    struct sl_sampling s = plain;
    s.repetition_penalty = 1.5f;
    s.frequency_penalty = 0.4f;
    s.presence_penalty = 0.7f;
    tell(&told, prompt, 3, output, 4, bias, 1);
    told.view.banned = (uint32_t[]){0, 900};
    told.view.n_banned = 2;
    /* banned; 1/1.5; -0.5 x 1.5 - 0.4 - 0.7; 2/1.5 - 3 x 0.4 - 0.7; 0 + 1; nothing */
    double x[] = {-INFINITY, 1 / 1.5, -0.75 - 1.1, 2 / 1.5 - 1.9, 1, -INFINITY}, expected[6], sum = 0;
    for (int i = 0; i < 6; i++)
        sum += expected[i] = exp(x[i]);
    enum { N = 40000 };
    uint32_t counts[6] = {0};
    for (uint32_t i = 0; i < N; i++)
        counts[draw_seen(logits, 6, &s, &told.view, i)]++;
    for (int i = 0; i < 6; i++) {
        double p = expected[i] / sum, sigma = sqrt(N * p * (1 - p));
        if (fabs(counts[i] - N * p) > 5 * sigma + 1e-6)
            sl_test_fail(__FILE__, __LINE__, "id %d came %u times, expected %.1f", i, counts[i], N * p);
    }
}

SL_TEST(logprobs_do_not_know_what_moved_the_logits)
{
    static struct hearsay told;
    static const uint32_t prompt[] = {1};
    static const struct sl_bias bias[] = {{2, 50}};
    float logits[] = {1, 4, 2, 3};
    void *room = malloc(sl_sample_scratch_bytes(4));
    struct sl_token_out out, raw;
    struct sl_sampling s = plain;
    s.temperature = 0;
    s.repetition_penalty = 2;
    s.n_logprobs = 2;
    tell(&told, prompt, 1, NULL, 0, bias, 1);
    sl_sample(&out, logits, 4, &s, &told.view, 0, room);
    sl_logprob_of(&raw, logits, 4, 2, 2, room);
    CHECK_INT(out.id, 2);
    CHECK(out.logprob == raw.logprob && out.n_top == 2);
    CHECK_INT(out.top_ids[0], 1);
    CHECK_INT(out.top_ids[1], 3);
    free(room);
}

/* What overflows stays a number, and better than what is banned. */
SL_TEST(no_penalty_lets_a_banned_id_come)
{
    static struct hearsay told;
    static const uint32_t all[] = {0, 1, 2, 3};
    static const float logits[] = {-3e38f, -2e38f, 5, -1e38f};
    struct sl_sampling s = plain;
    s.repetition_penalty = 3e38f;
    tell(&told, all, 4, NULL, 0, NULL, 0);
    told.view.banned = (uint32_t[]){2, 0};
    told.view.n_banned = 2;
    for (int t = 0; t < 2; t++) {
        s.temperature = (float)t;
        uint32_t id = draw_seen(logits, 4, &s, &told.view, 0);
        CHECK(id == 1 || id == 3);
    }
}

SL_TEST(a_draw_depends_on_seed_and_index_alone)
{
    float *logits = row_of(1000, 5, 6);
    struct sl_sampling s = plain;
    uint32_t forward[200], differ = 0;
    for (uint32_t i = 0; i < 200; i++)
        forward[i] = draw(logits, 1000, &s, i);
    for (uint32_t i = 200; i-- > 0;) {
        CHECK_INT(draw(logits, 1000, &s, i), forward[i]);
        s.seed++;
        differ += draw(logits, 1000, &s, i) != forward[i];
        s.seed--;
    }
    CHECK(differ > 100);
    free(logits);
}

/* top-k and top-p by sorting, the obvious way: which ids may come out. */
static const float *sorted_row;
static int by_logit(const void *a, const void *b)
{
    uint32_t i = *(const uint32_t *)a, j = *(const uint32_t *)b;
    if (sorted_row[i] != sorted_row[j])
        return sorted_row[i] > sorted_row[j] ? -1 : 1;
    return i < j ? -1 : 1;
}

static uint32_t survivors(const float *logits, uint32_t vocab, const struct sl_sampling *s, uint32_t *ids)
{
    for (uint32_t i = 0; i < vocab; i++)
        ids[i] = i;
    sorted_row = logits;
    qsort(ids, vocab, sizeof *ids, by_logit);
    uint32_t n = s->top_k && s->top_k < vocab ? s->top_k : vocab, kept = 0;
    double total = 0, sum = 0, largest = (double)logits[ids[0]];
    for (uint32_t i = 0; i < n; i++)
        total += exp((double)logits[ids[i]] - largest);
    while (kept < n && (s->top_p == 1 || sum < (double)s->top_p * total))
        sum += exp((double)logits[ids[kept++]] - largest);
    return kept;
}

SL_TEST(a_large_vocabulary_is_cut_where_a_sort_would_cut_it)
{
    float *logits = row_of(BIG, 9, 12);
    uint32_t *ids = malloc(BIG * sizeof *ids);
    REQUIRE(ids);
    for (uint32_t i = 0; i < BIG; i += 3)
        logits[i] = roundf(logits[i]); /* many ties */
    static const struct {
        uint32_t top_k;
        float top_p;
    } cases[] = {{1, 1},      {40, 1},    {5000, 1},    {0, 0.1f},   {0, 0.9f},
                 {0, 0.999f}, {50, 0.7f}, {BIG - 1, 1}, {1000000, 1}};
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        struct sl_sampling s = plain;
        s.top_k = cases[c].top_k;
        s.top_p = cases[c].top_p;
        uint32_t n = survivors(logits, BIG, &s, ids);
        uint32_t worst = ids[n - 1], seen = 0;
        for (uint64_t i = 0; i < 60; i++) {
            uint32_t id = draw(logits, BIG, &s, i);
            sorted_row = logits;
            CHECK(id == worst || by_logit(&id, &worst) < 0);
            seen += id != ids[0];
        }
        CHECK(n == 1 || seen > 0);
    }
    free(ids);
    free(logits);
}

/* A tie that spans the cut, in weights too: exactly k ids may come out, the lowest. */
SL_TEST(ties_at_the_cut_go_to_the_lower_id)
{
    float logits[64];
    for (int i = 0; i < 64; i++)
        logits[i] = 1;
    struct sl_sampling s = plain;
    s.top_k = 5;
    bool came[64] = {false};
    for (uint64_t i = 0; i < 300; i++)
        came[draw(logits, 64, &s, i)] = true;
    for (int i = 0; i < 64; i++)
        CHECK_INT(came[i], i < 5);
    s.top_k = 1; /* exp can't tell these two apart, the cut can */
    logits[9] = nextafterf(1, 2);
    CHECK_INT(draw(logits, 64, &s, 3), 9);
}

SL_TEST(logprobs_are_of_the_raw_logits)
{
    void *scratch = malloc(sl_sample_scratch_bytes(8));
    float logits[] = {1, 4, 2, 4, -INFINITY, 3, NAN, 0};
    double sum = 0;
    for (int i = 0; i < 8; i++)
        sum += isnan(logits[i]) ? 0 : exp((double)logits[i] - 4);
    struct sl_sampling s = plain;
    s.temperature = 0.3f;
    s.top_k = 1;
    s.n_logprobs = 3;
    struct sl_token_out out;
    sl_sample(&out, logits, 8, &s, NULL, 0, scratch);
    CHECK_INT(out.id, 1);
    CHECK(fabs((double)out.logprob + log(sum)) < 1e-6);
    CHECK_INT(out.n_top, 3);
    CHECK_INT(out.top_ids[0], 1);
    CHECK_INT(out.top_ids[1], 3);
    CHECK_INT(out.top_ids[2], 5);
    CHECK(fabs((double)out.top_logprobs[2] - (3 - 4 - log(sum))) < 1e-6);

    s.n_logprobs = 0;
    sl_sample(&out, logits, 8, &s, NULL, 0, scratch);
    CHECK_INT(out.n_top, 0);
    CHECK(out.logprob < 0);

    sl_logprob_of(&out, logits, 8, 7, 20, scratch);
    CHECK_INT(out.id, 7);
    CHECK(fabs((double)out.logprob - (0 - 4 - log(sum))) < 1e-6);
    CHECK_INT(out.n_top, 7); /* all but the NaN */
    CHECK(isinf(out.top_logprobs[6]));
    sl_logprob_of(&out, logits, 8, 6, 0, scratch);
    CHECK(isinf(out.logprob) && out.logprob < 0);
    sl_logprob_of(&out, logits, 8, 8, 0, scratch);
    CHECK(isinf(out.logprob) && out.logprob < 0);
    free(scratch);
}

SL_TEST(all_probabilities_of_a_large_row_sum_to_one)
{
    float *logits = row_of(BIG, 77, 20), *scratch = malloc(sl_sample_scratch_bytes(BIG));
    REQUIRE(scratch);
    double sum = 0;
    for (uint32_t i = 0; i < BIG; i++)
        sum += exp((double)logits[i]);
    struct sl_token_out out;
    for (uint32_t i = 0; i < BIG; i += 30001) {
        sl_logprob_of(&out, logits, BIG, i, 20, scratch);
        CHECK(fabs((double)out.logprob - ((double)logits[i] - log(sum))) < 2e-5);
        for (uint32_t j = 1; j < 20; j++)
            CHECK(out.top_logprobs[j - 1] >= out.top_logprobs[j]);
    }
    free(scratch);
    free(logits);
}

static const char *refusal(float temperature, float top_p, float min_p, int32_t n_logprobs)
{
    static struct sl_err err;
    struct sl_sampling s = {
        .temperature = temperature, .top_p = top_p, .min_p = min_p, .n_logprobs = n_logprobs};
    strcpy(err.text, "");
    sl_status status = sl_sampling_check(&s, &err);
    CHECK_INT(status, err.text[0] ? SL_E_INVALID : SL_OK);
    return err.text;
}

static const char *penalty_refusal(float presence, float frequency, float repetition)
{
    static struct sl_err err;
    struct sl_sampling s = plain;
    s.presence_penalty = presence;
    s.frequency_penalty = frequency;
    s.repetition_penalty = repetition;
    strcpy(err.text, "");
    CHECK_INT(sl_sampling_check(&s, &err), err.text[0] ? SL_E_INVALID : SL_OK);
    return err.text;
}

SL_TEST(penalties_out_of_range_are_refused_by_name)
{
    CHECK_STR(penalty_refusal(-2, 2, 0.01f), "");
    CHECK_STR(penalty_refusal(0, 0, 0), "");
    CHECK_CONTAINS(penalty_refusal(2.1f, 0, 1), "presence_penalty is 2.1");
    CHECK_CONTAINS(penalty_refusal(NAN, 0, 1), "presence_penalty");
    CHECK_CONTAINS(penalty_refusal(0, -2.1f, 1), "frequency_penalty is -2.1");
    CHECK_CONTAINS(penalty_refusal(0, INFINITY, 1), "frequency_penalty");
    CHECK_CONTAINS(penalty_refusal(0, 0, -1), "repetition_penalty is -1");
    CHECK_CONTAINS(penalty_refusal(0, 0, NAN), "repetition_penalty");
}

SL_TEST(what_is_no_number_is_refused_by_name)
{
    CHECK_STR(refusal(0, 1, 0, -1), "");
    CHECK_STR(refusal(2, 0.1f, 1, 20), "");
    CHECK_CONTAINS(refusal(-0.5f, 1, 0, -1), "temperature is -0.5");
    CHECK_CONTAINS(refusal(NAN, 1, 0, -1), "temperature");
    CHECK_CONTAINS(refusal(INFINITY, 1, 0, -1), "temperature");
    CHECK_CONTAINS(refusal(1, 0, 0, -1), "top_p is 0");
    CHECK_CONTAINS(refusal(1, 1.5f, 0, -1), "top_p");
    CHECK_CONTAINS(refusal(1, NAN, 0, -1), "top_p");
    CHECK_CONTAINS(refusal(1, 1, -0.1f, -1), "min_p");
    CHECK_CONTAINS(refusal(1, 1, 1.1f, -1), "min_p");
    CHECK_CONTAINS(refusal(1, 1, NAN, -1), "min_p");
    CHECK_CONTAINS(refusal(1, 1, 0, 21), "logprobs is 21");
    CHECK_CONTAINS(refusal(1, 1, 0, -2), "logprobs");
}
