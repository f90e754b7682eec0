/* The model of time (pipeline/decide/cost.h) against its formula, slice by slice. */
#include "pipeline/decide/cost.h"
#include "tests/check.h"
#include <math.h>

static const struct sl_cost stage = {.us = {200, 0.1, 70, 0.01, 17000}, .hit = 8.0 / 128};

SL_TEST(a_chunk_costs_what_the_formula_says_of_its_slices)
{
    struct sl_cost_chunk chunk = {0};
    sl_cost_add(&chunk, 1024, 64);
    sl_cost_add(&chunk, 0, 7);
    double pairs = 2.0 * 1024 * 64 + 64 * 64 + 7 * 7,
           expected = 200 + 0.1 * 1024 + 70 * 71 + 0.01 * pairs + 17000 * (1 - pow(1 - 8.0 / 128, 71));
    CHECK(fabs(sl_cost_of(&stage, &chunk) / expected - 1) < 1e-12);
}

SL_TEST(a_chunk_of_no_rows_costs_nothing_and_a_dense_model_reads_no_experts)
{
    struct sl_cost_chunk none = {0}, one = {0};
    struct sl_cost dense = {.us = {10, 0, 1, 0, 500}, .hit = 0};
    sl_cost_add(&one, 0, 1);
    CHECK(sl_cost_of(&stage, &none) == 0);
    CHECK(sl_cost_of(&dense, &one) == 11);
}

SL_TEST(overhead_and_work_are_what_is_left_of_a_large_chunk_when_it_is_taken_apart)
{
    struct sl_cost_chunk chunk = {0};
    sl_cost_add(&chunk, 4096, 2048);
    double parts = sl_cost_overhead(&stage, 4096) + sl_cost_work(&stage, 4096, 2048);
    CHECK(fabs(sl_cost_of(&stage, &chunk) / parts - 1) < 1e-12);
}

SL_TEST(a_model_that_is_told_is_the_same_or_none)
{
    double numbers[SL_COST_NUMBERS];
    struct sl_cost told;
    sl_cost_put(&stage, numbers);
    REQUIRE(sl_cost_take(&told, numbers, SL_COST_NUMBERS));
    CHECK(told.hit == stage.hit && !memcmp(told.us, stage.us, sizeof told.us));
    CHECK(!sl_cost_take(&told, numbers, SL_COST_NUMBERS - 1));
    CHECK(!sl_cost_take(&told, numbers, 0));
    static const double bad[] = {-1, NAN, INFINITY, -INFINITY, 2e13};
    for (int i = 0; i < SL_COST_NUMBERS; i++)
        for (size_t k = 0; k < sizeof bad / sizeof *bad; k++) {
            double was = numbers[i];
            numbers[i] = bad[k];
            CHECK(!sl_cost_take(&told, numbers, SL_COST_NUMBERS));
            numbers[i] = was;
        }
    static const double nothing[SL_COST_NUMBERS] = {0};
    CHECK(!sl_cost_take(&told, nothing, SL_COST_NUMBERS));
}

SL_TEST(work_does_not_depend_on_where_it_is_cut)
{
    double whole = sl_cost_work(&stage, 0, 3000), cut = sl_cost_work(&stage, 0, 1000) +
                                                        sl_cost_work(&stage, 1000, 500) +
                                                        sl_cost_work(&stage, 1500, 1500);
    CHECK(fabs(whole / cut - 1) < 1e-12);
}
