/* pipeline/decide/budget.c against figures that were worked out by hand for a CPU pipeline (24 layers of a stage, 8 of 128 experts)
 * and against what a search finds. */
#include "pipeline/decide/budget.h"
#include "tests/check.h"
#include <math.h>

static const struct sl_cost cpu = {.us = {24 * 200, 24 * 0.1, 24 * 70, 24 * 0.01, 24 * 17000},
                                   .hit = 8.0 / 128};

static double last_is = 1; /* what the last stage takes, in parts of the others */

static struct sl_budget make(uint32_t n_stages, double cv, double hops_us, struct sl_budget_wish wish)
{
    struct sl_cost costs[16];
    struct sl_budget b;
    for (uint32_t k = 0; k < n_stages; k++)
        costs[k] = cpu;
    for (int i = 0; i < SL_COST_TERMS; i++)
        costs[n_stages - 1].us[i] *= last_is;
    sl_budget_make(&b, costs, n_stages, 2048, &(struct sl_pace){.cv = cv, .hops_us = hops_us}, &wish);
    return b;
}

SL_TEST(a_chunk_may_take_some_times_its_overhead_and_a_target_makes_it_smaller)
{
    struct sl_budget b = make(2, 0.05, 0, (struct sl_budget_wish){0});
    CHECK(fabs(b.chunk_us / (3.4 * 412800) - 1) < 1e-9 && b.runs == 3 && !b.dear);
    b = make(2, 0.05, 0, (struct sl_budget_wish){.slo_us = 4e6});
    CHECK(fabs(b.chunk_us / (4e6 / (4 * 1.05)) - 1) < 1e-9 && !b.dear);
    b = make(2, 0.05, 0, (struct sl_budget_wish){.slo_us = 700e3});
    CHECK(b.dear); /* more than half of the time would go for reading weights */
    b = make(2, 0.05, 0, (struct sl_budget_wish){.chunk_us = 123456});
    CHECK(b.chunk_us == 123456);
}

SL_TEST(a_prefix_makes_chunks_larger_when_reading_it_costs_more_than_is_allowed)
{
    struct sl_budget b = make(2, 0, 0, (struct sl_budget_wish){0});
    CHECK(sl_budget_chunk_us(&b, 0) == b.chunk_us);
    double far = sl_budget_chunk_us(&b, 1000000);
    CHECK(far > b.chunk_us && fabs(far / (sl_cost_overhead(&cpu, 1000000) / 0.3) - 1) < 1e-9);
}

SL_TEST(who_asks_for_chunks_of_so_many_rows_gets_them_wherever_they_begin)
{
    struct sl_budget b = make(2, 0.05, 0, (struct sl_budget_wish){.by_rows = true, .slo_us = 1000});
    for (uint32_t pos = 0; pos < 100000; pos += 10000) {
        struct sl_cost_chunk full = {0};
        sl_cost_add(&full, pos, 2048);
        CHECK(sl_cost_of(&b.cost, &full) <= sl_budget_chunk_us(&b, pos));
    }
    CHECK(sl_budget_alone_us(&b, 0, 0, 9000) == INFINITY);
}

SL_TEST(as_many_runs_as_keep_stages_busy_with_noise_and_hops_and_no_more)
{
    CHECK_INT(make(1, 0.05, 0, (struct sl_budget_wish){0}).runs, 2);
    CHECK_INT(make(8, 0.03, 0, (struct sl_budget_wish){0}).runs, 9);
    CHECK_INT(make(8, 0.05, 0, (struct sl_budget_wish){0}).runs, 10);
    CHECK_INT(make(8, 0.20, 0, (struct sl_budget_wish){0}).runs, 11);
    CHECK_INT(make(8, 0.05, 9 * 0.2 * 3.4 * 412800, (struct sl_budget_wish){0}).runs, 11);
    CHECK_INT(make(2, 9.0, 0, (struct sl_budget_wish){0}).runs, 8); /* buffers are planned for no more */
    CHECK_INT(make(2, 0.05, 0, (struct sl_budget_wish){.runs = 5}).runs, 5);
}

/* Who comes waits for as many as are under way. */
SL_TEST(chunks_are_shorter_where_short_prompts_come_and_there_are_more_stages)
{
    static const uint32_t stages[] = {1, 2, 3, 4, 5, 8, 16};
    static const double overheads[] = {3.4, 3.4, 2.92, 2.6, 2.5, 2.5, 2.5};
    for (uint32_t i = 0; i < 7; i++) {
        struct sl_budget b = make(stages[i], 0, 0, (struct sl_budget_wish){.hasty = true}),
                         calm = make(stages[i], 0, 0, (struct sl_budget_wish){0});
        double behind = sl_budget_chunk_us(&b, 100000);
        CHECK(fabs(b.chunk_us / (overheads[i] * 412800) - 1) < 1e-9);
        CHECK(fabs(calm.chunk_us / (3.4 * 412800) - 1) < 1e-9);
        CHECK(behind >= b.chunk_us && behind >= 0.98 * overheads[i] * sl_cost_overhead(&b.cost, 100000));
    }
}

/* A prompt alone in chunks of T (of 0: as the budget has them): cut like that, and passed from stage to stage. */
static double ttft_alone(const struct sl_budget *b, uint32_t n_stages, uint32_t n, double fixed_us)
{
    double ends[16] = {0};
    for (uint32_t pos = 0; pos < n;) {
        double chunk_us = fixed_us > 0 ? fixed_us : sl_budget_alone_us(b, 0, pos, n);
        uint32_t take = 64;
        struct sl_cost_chunk c = {0};
        sl_cost_add(&c, pos, 64);
        while (pos + take < n) {
            struct sl_cost_chunk more = {0};
            sl_cost_add(&more, pos, take + 64);
            if (sl_cost_of(&cpu, &more) > chunk_us)
                break;
            c = more;
            take += 64;
        }
        double at = 0;
        for (uint32_t k = 0; k < n_stages; k++) {
            ends[k] =
                (ends[k] > at ? ends[k] : at) + sl_cost_of(&cpu, &c) * (k + 1 == n_stages ? last_is : 1);
            at = ends[k];
        }
        pos += take;
    }
    return ends[n_stages - 1];
}

SL_TEST(a_prompt_alone_is_expected_when_it_has_passed_stages_that_take_what_they_take)
{
    static const double last[] = {1, 0.6, 0.3};
    for (int i = 0; i < 3; i++) {
        last_is = last[i];
        struct sl_budget b = make(2, 0, 0, (struct sl_budget_wish){0});
        for (uint32_t n = 256; n <= 16384; n *= 2)
            CHECK(fabs(sl_budget_idle_us(&b, 0, n, INFINITY) / ttft_alone(&b, 2, n, 0) - 1) < 0.04);
    }
    last_is = 1;
}

SL_TEST(a_prompt_alone_is_cut_nearly_as_well_as_a_search_would)
{
    static const uint32_t stages[] = {2, 4, 8}, lengths[] = {8192, 32768};
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 2; j++) {
            struct sl_budget b = make(stages[i], 0, 0, (struct sl_budget_wish){0});
            double ours = ttft_alone(&b, stages[i], lengths[j], 0), best = INFINITY;
            for (double us = 5e5; us < 2e7; us *= 1.01)
                best = fmin(best, ttft_alone(&b, stages[i], lengths[j], us));
            CHECK(ours <= 1.03 * best);
        }
}

SL_TEST(work_is_what_many_chunks_take_and_an_idle_pipeline_takes_no_less)
{
    struct sl_budget b = make(4, 0, 1000, (struct sl_budget_wish){0});
    double work = sl_budget_work_us(&b, 0, 8192), plain = sl_cost_work(&cpu, 0, 8192);
    CHECK(work > plain && work < 1.5 * plain);
    CHECK(sl_budget_work_us(&b, 8192, 8192) == 0);
    CHECK(sl_budget_idle_us(&b, 0, 64, INFINITY) >= 4 * sl_budget_single_us(&b, 0, 64));
    CHECK(sl_budget_idle_us(&b, 0, 8192, INFINITY) > plain);
    CHECK(fabs(sl_budget_idle_us(&b, 0, 8192, INFINITY) / ttft_alone(&b, 4, 8192, 0) - 1) < 0.08);
    CHECK(sl_budget_target_us(&b, 0, 0, 64) > 3 * sl_budget_idle_us(&b, 0, 64, 1) + b.chunk_us);
}

/* A stage of a small model, whose chunks at the beginning of a prompt are far cheaper than reading the prompt's end is. */
SL_TEST(an_idle_pipeline_is_never_predicted_to_take_much_more_than_the_work)
{
    struct sl_cost tiny = {.us = {90, 0.06, 40, 0.023, 340}, .hit = 0.25};
    for (uint32_t stages = 1; stages <= 8; stages *= 2)
        for (uint32_t n = 64; n <= 131072; n *= 2) {
            struct sl_cost costs[8];
            struct sl_budget b;
            for (uint32_t k = 0; k < stages; k++)
                costs[k] = tiny;
            sl_budget_make(&b, costs, stages, 2048, &(struct sl_pace){.cv = 0.05},
                           &(struct sl_budget_wish){0});
            double work = sl_cost_work(&tiny, 0, n), idle = sl_budget_idle_us(&b, 0, n, 1);
            CHECK(idle >= work);
            CHECK(idle <= 2 * work + stages * sl_budget_single_us(&b, 0, n < 64 ? n : 64) * 4 + 1e4);
            CHECK(sl_budget_work_us(&b, 0, n) <= 2 * work + 4e3);
        }
}
