/* The corrected model (pipeline/decide/cost_fit.h) against stages whose truth is known: the two shapes that the policy was
 * simulated on, with noise, pauses, a wrong prior and changes of speed; then against anything. */
#include "base/rng.h"
#include "pipeline/decide/cost_fit.h"
#include "tests/check.h"
#include <math.h>
#include <stdlib.h>

/* Of whole stages: 24 layers of a 30B model and its head on 8 cores, 15 layers of a 671B one on eight GPUs. */
static const struct sl_cost shapes[] = {
    {.us = {24 * 200, 24 * 0.1, 24 * 70, 24 * 0.01, 24 * 17000, 12000}, .hit = 8.0 / 128},
    {.us = {15 * 131, 15 * 0.0038, 15 * 0.264, 15 * 8.1e-6, 15 * 367, 0}, .hit = 8.0 / 256},
};

static double unit(struct sl_rng *rng)
{
    return sl_rng_unit(sl_rng_next(rng));
}

static double normal(struct sl_rng *rng)
{
    double sum = -6;
    for (int i = 0; i < 12; i++)
        sum += unit(rng);
    return sum;
}

/* A chunk of a mixed load: a few slices, of short prompts and of long ones. */
static struct sl_cost_chunk draw(struct sl_rng *rng)
{
    struct sl_cost_chunk chunk = {0};
    for (uint64_t slices = 1 + sl_rng_next(rng) % 4; slices; slices--)
        if (sl_rng_next(rng) % 2) {
            sl_cost_add(&chunk, 0, (uint32_t)(16 + sl_rng_next(rng) % 256));
            sl_cost_want(&chunk, 1);
        } else
            sl_cost_add(&chunk, (uint32_t)(sl_rng_next(rng) % 256 * 64),
                        (uint32_t)(64 * (1 + sl_rng_next(rng) % 16)));
    return chunk;
}

struct trial {
    struct sl_rng rng;
    struct sl_cost truth;
    double noise, pauses; /* the deviation; the share of chunks that take 3 to 50 times as long */
};

static double take(struct trial *trial, const struct sl_cost_chunk *chunk)
{
    double us = sl_cost_of(&trial->truth, chunk) * exp(trial->noise * normal(&trial->rng));
    return unit(&trial->rng) < trial->pauses ? us * (3 + 47 * unit(&trial->rng)) : us;
}

/* Adds `chunks`; the errors of the predictions of those that are no pause, against what the chunk takes without noise, too. */
static void run(struct trial *trial, struct sl_cost_fit *fit, int chunks, double *errors)
{
    for (int i = 0; i < chunks; i++) {
        struct sl_cost_chunk chunk = draw(&trial->rng);
        if (errors)
            errors[i] = fabs(sl_cost_of(&fit->now, &chunk) / sl_cost_of(&trial->truth, &chunk) - 1);
        CHECK(sl_cost_fit_add(fit, &chunk, take(trial, &chunk)));
    }
}

static int ascending(const void *a, const void *b)
{
    return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b);
}

static double quantile(double *errors, int n, double q)
{
    qsort(errors, (size_t)n, sizeof *errors, ascending);
    return errors[(int)(q * (n - 1))];
}

/* A prior that is off by `all`, and by as much again as `each` in each coefficient. */
static struct sl_cost wrong(const struct sl_cost *truth, double all, const double each[SL_COST_TERMS])
{
    struct sl_cost prior = *truth;
    for (int i = 0; i < SL_COST_TERMS; i++)
        prior.us[i] *= all * each[i];
    return prior;
}

static const double skews[][SL_COST_TERMS] = {
    {1, 1, 1, 1, 1, 1},     {2, 1, 0.5, 1, 1, 0.3}, {1, 3, 1, 3, 0.5, 1},
    {1, 1, 1.5, 0.3, 2, 3}, {3, 0, 1, 0, 1, 2},
};

SL_TEST(after_fifty_chunks_the_prediction_is_right_to_the_noise_whatever_the_prior)
{
    double errors[SL_COST_ERRORS];
    for (unsigned shape = 0; shape < 2; shape++)
        for (unsigned skew = 0; skew < sizeof skews / sizeof *skews; skew++)
            for (int by = -1; by <= 1; by++) {
                struct trial trial = {{7 + skew, 0}, shapes[shape], 0.05, 0.02};
                struct sl_cost prior = wrong(&trial.truth, pow(3, by), skews[skew]);
                struct sl_cost_fit fit;
                sl_cost_fit_init(&fit, &prior);
                run(&trial, &fit, 50, NULL);
                run(&trial, &fit, SL_COST_ERRORS, errors);
                double seen = sl_cost_fit_error(&fit, 0.5), worst = sl_cost_fit_error(&fit, 0.9),
                       half = quantile(errors, SL_COST_ERRORS, 0.5),
                       most = quantile(errors, SL_COST_ERRORS, 0.9);
                if (seen > 0.07 || worst > 0.2 || half > 0.035 || most > 0.07)
                    sl_test_fail(
                        __FILE__, __LINE__,
                        "shape %u, skew %u, by 3^%d: the error is %.3f, %.3f at the 90th, without noise %.3f, %.3f",
                        shape, skew, by, seen, worst, half, most);
                CHECK(fit.cv > 0.03 && fit.cv < 0.09);
            }
}

SL_TEST(much_noise_is_known_as_such_and_costs_little)
{
    double errors[SL_COST_ERRORS];
    for (unsigned shape = 0; shape < 2; shape++) {
        struct trial trial = {{31, 0}, shapes[shape], 0.2, 0.02};
        struct sl_cost prior = wrong(&trial.truth, 1, skews[2]);
        struct sl_cost_fit fit;
        sl_cost_fit_init(&fit, &prior);
        run(&trial, &fit, 50, NULL);
        run(&trial, &fit, SL_COST_ERRORS, errors);
        double seen = sl_cost_fit_error(&fit, 0.5), worst = sl_cost_fit_error(&fit, 0.9),
               half = quantile(errors, SL_COST_ERRORS, 0.5), most = quantile(errors, SL_COST_ERRORS, 0.9);
        if (seen > 0.18 || worst > 0.5 || half > 0.08 || most > 0.2 || fit.cv < 0.13 || fit.cv > 0.3)
            sl_test_fail(__FILE__, __LINE__,
                         "shape %u: the error is %.3f, %.3f, without noise %.3f, %.3f; cv %.3f", shape, seen,
                         worst, half, most, fit.cv);
    }
}

SL_TEST(a_prior_that_is_wrong_by_three_is_right_after_three_chunks)
{
    static const double even[SL_COST_TERMS] = {1, 1, 1, 1, 1, 1};
    double errors[20];
    for (unsigned shape = 0; shape < 2; shape++)
        for (int by = -1; by <= 1; by += 2) {
            struct trial trial = {{3, 0}, shapes[shape], 0.05, 0};
            struct sl_cost prior = wrong(&trial.truth, pow(3, by), even);
            struct sl_cost_fit fit;
            sl_cost_fit_init(&fit, &prior);
            run(&trial, &fit, 3, NULL);
            run(&trial, &fit, 20, errors);
            CHECK(quantile(errors, 20, 1) < 0.15);
        }
}

SL_TEST(what_was_predicted_and_measured_is_added_up_and_errors_are_of_before)
{
    struct sl_cost_fit fit;
    struct sl_cost_chunk chunk = {0};
    sl_cost_add(&chunk, 0, 256);
    sl_cost_fit_init(&fit, &shapes[0]);
    double us = sl_cost_of(&shapes[0], &chunk);
    CHECK(sl_cost_fit_error(&fit, 0.5) == 0);
    sl_cost_fit_add(&fit, &chunk, 2 * us);
    CHECK(fabs(sl_cost_fit_error(&fit, 0.5) - 0.5) < 1e-6);
    CHECK(fabs(fit.predicted_us / us - 1) < 1e-9 && fabs(fit.measured_us / us - 2) < 1e-9);
    for (int i = 0; i < 2 * SL_COST_ERRORS; i++)
        sl_cost_fit_add(&fit, &chunk, 2 * us);
    CHECK(sl_cost_fit_error(&fit, 1) < 0.01); /* the first has left the window */
    CHECK(fit.predicted_us < fit.measured_us && fit.chunks == 2 * SL_COST_ERRORS + 1);
}

SL_TEST(what_the_load_does_not_show_keeps_the_shape_of_the_prior)
{
    static const double thrice[SL_COST_TERMS] = {3, 3, 3, 3, 3, 3};
    struct trial trial = {{5, 0}, shapes[0], 0.05, 0};
    struct sl_cost_fit fit;
    sl_cost_fit_init(&fit, &trial.truth);
    trial.truth = wrong(&trial.truth, 1, thrice);
    struct sl_cost_chunk same = {0}, other = {0};
    sl_cost_add(&same, 0, 256);
    sl_cost_add(&other, 16384, 1024);
    for (int i = 0; i < 500; i++)
        CHECK(sl_cost_fit_add(&fit, &same, take(&trial, &same)));
    CHECK(fabs(sl_cost_of(&fit.now, &other) / sl_cost_of(&trial.truth, &other) - 1) < 0.15);
}

SL_TEST(what_the_end_of_a_prompt_costs_is_learnt_where_there_is_a_head_and_nowhere_else)
{
    for (int head = 0; head < 2; head++) {
        struct trial trial = {{13, 0}, shapes[0], 0.05, 0};
        struct sl_cost prior = trial.truth;
        struct sl_cost_fit fit;
        prior.us[SL_COST_E] = head ? 1 : 0;
        trial.truth.us[SL_COST_E] = 2e5;
        sl_cost_fit_init(&fit, &prior);
        run(&trial, &fit, 300, NULL);
        if (head)
            CHECK(fabs(fit.now.us[SL_COST_E] / 2e5 - 1) < 0.2);
        else
            CHECK(fit.now.us[SL_COST_E] == 0);
    }
}

SL_TEST(a_stage_that_slows_down_to_a_tenth_is_followed_and_so_is_its_return)
{
    double errors[20];
    for (unsigned shape = 0; shape < 2; shape++) {
        struct trial trial = {{11, 0}, shapes[shape], 0.05, 0};
        struct sl_cost_fit fit;
        sl_cost_fit_init(&fit, &trial.truth);
        run(&trial, &fit, 100, NULL);
        static const double slow[SL_COST_TERMS] = {10, 10, 10, 10, 10, 10};
        for (int turn = 0; turn < 2; turn++) {
            trial.truth = turn ? shapes[shape] : wrong(&shapes[shape], 1, slow);
            run(&trial, &fit, 4, NULL);
            run(&trial, &fit, 20, errors);
            double half = quantile(errors, 20, 0.5), most = quantile(errors, 20, 1);
            if (half > 0.1 || most > 0.25)
                sl_test_fail(__FILE__, __LINE__, "shape %u, turn %d: %.3f, %.3f", shape, turn, half, most);
            run(&trial, &fit, 200, NULL);
            run(&trial, &fit, 20, errors);
            CHECK(quantile(errors, 20, 0.9) < 0.07);
        }
    }
}

SL_TEST(a_part_that_becomes_slow_is_followed_though_other_chunks_are_as_before)
{
    struct trial trial = {{13, 0}, shapes[0], 0.05, 0};
    struct sl_cost_fit fit;
    sl_cost_fit_init(&fit, &trial.truth);
    run(&trial, &fit, 100, NULL);
    trial.truth.us[SL_COST_A] *= 10;
    struct sl_cost_chunk small = {0}, large = {0};
    sl_cost_add(&small, 0, 64);
    sl_cost_add(&large, 8192, 512);
    for (int i = 0; i < 200; i++) {
        const struct sl_cost_chunk *chunk = i % 2 ? &small : &large;
        sl_cost_fit_add(&fit, chunk, take(&trial, chunk));
    }
    CHECK(fabs(sl_cost_of(&fit.now, &small) / sl_cost_of(&trial.truth, &small) - 1) < 0.1);
    CHECK(fabs(sl_cost_of(&fit.now, &large) / sl_cost_of(&trial.truth, &large) - 1) < 0.1);
}

SL_TEST(pauses_do_not_poison)
{
    for (int early = 0; early < 2; early++) {
        struct trial trial = {{17, 0}, shapes[0], 0.05, 0};
        struct sl_cost_fit fit;
        double errors[20];
        sl_cost_fit_init(&fit, &trial.truth);
        run(&trial, &fit, early ? 10 : 100, NULL);
        double cv = fit.cv;
        for (int i = 0; i < 2; i++) { /* one after the other */
            struct sl_cost_chunk chunk = draw(&trial.rng);
            CHECK(sl_cost_fit_add(&fit, &chunk, 1000 * sl_cost_of(&trial.truth, &chunk)));
        }
        run(&trial, &fit, 20, errors);
        CHECK(quantile(errors, 20, 1) < (early ? 0.3 : 0.1));
        CHECK(fit.cv < 2 * cv);
    }
}

SL_TEST(the_first_chunk_may_be_a_pause)
{
    struct trial trial = {{19, 0}, shapes[1], 0.05, 0};
    struct sl_cost_fit fit;
    double errors[30];
    sl_cost_fit_init(&fit, &trial.truth);
    struct sl_cost_chunk chunk = draw(&trial.rng);
    sl_cost_fit_add(&fit, &chunk, 50 * sl_cost_of(&trial.truth, &chunk));
    run(&trial, &fit, 20, NULL);
    run(&trial, &fit, 30, errors);
    CHECK(quantile(errors, 30, 0.9) < 0.1);
}

SL_TEST(what_is_no_measurement_is_refused_and_changes_nothing)
{
    struct sl_cost_fit fit, before;
    struct sl_cost_chunk good = {64, 64, 12288, 1}, bad[] = {{0},
                                                             {-1, 1, 1, 0},
                                                             {0, -1, 1, 0},
                                                             {0, 1, -1, 0},
                                                             {0, 1, 1, -1},
                                                             {NAN, 1, 1, 0},
                                                             {0, NAN, 1, 0},
                                                             {0, 1, NAN, 0},
                                                             {0, 1, 1, NAN},
                                                             {INFINITY, 1, 1, 0},
                                                             {0, INFINITY, 1, 0},
                                                             {0, 1, INFINITY, 0},
                                                             {0, 1, 1, 2}};
    double us[] = {0, -1, NAN, INFINITY, -INFINITY, 1e300};
    sl_cost_fit_init(&fit, &shapes[0]);
    before = fit;
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK(!sl_cost_fit_add(&fit, &bad[i], 1000));
    for (unsigned i = 0; i < sizeof us / sizeof *us; i++)
        CHECK(!sl_cost_fit_add(&fit, &good, us[i]));
    CHECK(!memcmp(&fit, &before, sizeof fit));
    CHECK(sl_cost_fit_error(&fit, 0.5) == 0);
}

/* What a fit promises whatever it was told. */
static bool holds(const struct sl_cost_fit *fit)
{
    bool good = isfinite(fit->cv) && fit->cv >= 0 && fit->now.hit >= 0 && fit->now.hit <= 1;
    for (int i = 0; i < SL_COST_TERMS; i++)
        good = good && isfinite(fit->now.us[i]) && fit->now.us[i] >= 0;
    struct sl_cost_chunk chunk = {1e5, 1e4, 1e9, 32};
    return good && isfinite(sl_cost_of(&fit->now, &chunk)) && isfinite(sl_cost_fit_error(fit, 0.9));
}

static double hostile(struct sl_rng *rng)
{
    static const double odd[] = {0, -1, NAN, INFINITY, 1e-300, 1e300, 1, 1e-3, 1e13, 1e18};
    uint64_t kind = sl_rng_next(rng) % 16;
    return kind < 10 ? odd[kind] : exp(60 * unit(rng) - 25);
}

SL_TEST(coefficients_are_finite_and_never_negative_whatever_comes)
{
    struct sl_rng rng = {23, 0};
    for (int trial = 0; trial < 100; trial++) {
        struct sl_cost prior = {.hit = hostile(&rng)};
        for (int i = 0; i < SL_COST_TERMS; i++)
            prior.us[i] = hostile(&rng);
        struct sl_cost_fit fit;
        sl_cost_fit_init(&fit, &prior);
        CHECK(holds(&fit));
        for (int i = 0; i < 1000; i++) {
            bool wild = sl_rng_next(&rng) % 2;
            struct sl_cost_chunk chunk = draw(&rng);
            if (wild)
                chunk = (struct sl_cost_chunk){hostile(&rng), hostile(&rng), hostile(&rng), hostile(&rng)};
            sl_cost_fit_add(&fit, &chunk, hostile(&rng));
            if (!holds(&fit)) {
                sl_test_fail(__FILE__, __LINE__, "trial %d, chunk %d", trial, i);
                return;
            }
        }
    }
}

SL_TEST(a_fit_is_right_again_after_anything)
{
    for (uint64_t seed = 0; seed < 20; seed++) {
        struct trial trial = {{seed, 0}, shapes[seed % 2], 0.05, 0};
        struct sl_cost_fit fit;
        double errors[100];
        sl_cost_fit_init(&fit, &trial.truth);
        for (int i = 0; i < 500; i++) {
            struct sl_cost_chunk chunk = draw(&trial.rng);
            sl_cost_fit_add(&fit, &chunk, hostile(&trial.rng));
        }
        run(&trial, &fit, 500, NULL);
        run(&trial, &fit, 100, errors);
        if (quantile(errors, 100, 0.5) > 0.1)
            sl_test_fail(__FILE__, __LINE__, "seed %llu: %.3f", (unsigned long long)seed, errors[50]);
    }
}

SL_TEST(points_measured_at_leisure_give_the_model_and_few_of_them_scale_the_prior)
{
    static const uint32_t rows[] = {1, 16, 64, 256, 2048}, positions[] = {0, 1024, 4096};
    for (unsigned shape = 0; shape < 2; shape++) {
        struct sl_cost_point points[16];
        struct sl_cost prior = wrong(&shapes[shape], 0.3, skews[2]), cost;
        uint32_t n = 0;
        for (unsigned i = 0; i < 15; i++) {
            struct sl_cost_point *p = &points[n++];
            *p = (struct sl_cost_point){{0}, 0};
            sl_cost_add(&p->chunk, positions[i % 3], rows[i / 3]);
            p->us = sl_cost_of(&shapes[shape], &p->chunk) * (i % 2 ? 1.03 : 0.97);
        }
        points[n++] = (struct sl_cost_point){{0, 1, 1, 0}, NAN};
        sl_cost_fit_points(&cost, &prior, points, n);
        for (uint32_t i = 0; i < 15; i++)
            CHECK(fabs(sl_cost_of(&cost, &points[i].chunk) / sl_cost_of(&shapes[shape], &points[i].chunk) -
                       1) < 0.06);
        prior = wrong(&shapes[shape], 0.3, skews[0]);
        sl_cost_fit_points(&cost, &prior, points, 3);
        for (uint32_t i = 0; i < 15; i++)
            CHECK(fabs(sl_cost_of(&cost, &points[i].chunk) / sl_cost_of(&shapes[shape], &points[i].chunk) -
                       1) < 0.2);
        sl_cost_fit_points(&cost, &prior, points, 0);
        for (int i = 0; i < SL_COST_TERMS; i++)
            CHECK(fabs(cost.us[i] - prior.us[i]) <= 1e-9 * prior.us[i]);
    }
}

/* x'·info·x − 2·rhs'·x */
static double value(const double info[SL_COST_TERMS][SL_COST_TERMS], const double *rhs, const double *x)
{
    double sum = 0;
    for (int i = 0; i < SL_COST_TERMS; i++) {
        sum -= 2 * rhs[i] * x[i];
        for (int j = 0; j < SL_COST_TERMS; j++)
            sum += x[i] * info[i][j] * x[j];
    }
    return sum;
}

SL_TEST(the_solver_finds_the_best_that_is_not_negative)
{
    struct sl_rng rng = {29, 0};
    int zeros = 0;
    for (int round = 0; round < 2000; round++) {
        double info[SL_COST_TERMS][SL_COST_TERMS] = {{0}}, rhs[SL_COST_TERMS] = {0}, x[SL_COST_TERMS];
        for (int row = 0; row < 8; row++) {
            double f[SL_COST_TERMS], y = normal(&rng);
            for (int i = 0; i < SL_COST_TERMS; i++)
                f[i] = normal(&rng);
            for (int i = 0; i < SL_COST_TERMS; i++) {
                rhs[i] += f[i] * y;
                for (int j = 0; j < SL_COST_TERMS; j++)
                    info[i][j] += f[i] * f[j];
            }
        }
        sl_cost_solve((const double(*)[SL_COST_TERMS])info, rhs, x);
        double best = value((const double(*)[SL_COST_TERMS])info, rhs, x);
        for (int i = 0; i < SL_COST_TERMS;
             i++) { /* the conditions of Karush, Kuhn and Tucker, and no step betters it */
            double slope = rhs[i];
            for (int j = 0; j < SL_COST_TERMS; j++)
                slope -= info[i][j] * x[j];
            zeros += x[i] == 0;
            CHECK(x[i] >= 0 && (x[i] > 0 ? fabs(slope) < 1e-6 : slope < 1e-6));
            double moved[SL_COST_TERMS];
            memcpy(moved, x, sizeof moved);
            moved[i] += 0.01;
            CHECK(value((const double(*)[SL_COST_TERMS])info, rhs, moved) >= best);
        }
    }
    CHECK(zeros > 2000 && zeros < 8000);
}
