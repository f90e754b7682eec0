/* pipeline/decide/core_time.c: what the core believes of time, stated a second time. What a request may expect of the decode workers
 * is in test_core_check.c, over everything that can happen. */
#include "pipeline/decide/core_impl.h"
#include "tests/pipeline/decide/core_world.h"

SL_TEST(a_trial_that_shows_nothing_better_makes_the_next_one_wait_twice_as_long)
{
    struct core_world *w = new_world();
    struct sl_schedule_entry e = {.prompt_tokens = 100};
    uint64_t first = w->core->time.trial_us, waits = first;
    CHECK_INT(first, 1000000);
    for (int i = 0; i < 9; i++) {
        sl_core_time_admitted(w->core, &e, 1000, true);
        waits = waits < 64000000 ? 2 * waits : waits;
        CHECK_INT(w->core->time.trial_us, waits);
    }
    CHECK_INT(waits, 64000000);
    sl_core_time_admitted(w->core, &e, 1000, false); /* one that may come without a trial */
    CHECK_INT(w->core->time.trial_us, first);
    end_world(w);
}

SL_TEST(a_token_takes_the_time_between_the_first_and_the_last)
{
    struct core_world *w = new_world();
    w->core->now_us = 50000;
    struct sl_branch answer = {.n_out = 5, .first_us = 10000};
    sl_core_time_answer_ends(w->core, &answer);
    CHECK(w->core->time.step_us == 10000); /* four steps in 40 ms */
    answer = (struct sl_branch){.n_out = 1, .first_us = 10000};
    sl_core_time_answer_ends(w->core, &answer); /* says nothing */
    CHECK(w->core->time.step_us == 10000);
    end_world(w);
}

SL_TEST(what_a_stage_does_between_two_chunks_is_part_of_what_a_chunk_costs)
{
    struct core_world *w = new_world();
    const struct sl_budget *budget = &w->core->policy.budget;
    double costs = budget->cost.us[SL_COST_C], chunk = budget->chunk_us;
    w->core->time.gap_us[1] = 1500;
    sl_core_budget(w->core);
    CHECK(budget->cost.us[SL_COST_C] ==
          costs + 1500);             /* of the stage that takes longest: it is the one now */
    CHECK(budget->chunk_us > chunk); /* chunks are as much larger as it takes to pay for it */
    w->core->time.gap_us[0] = 4000;
    sl_core_budget(w->core);
    CHECK(budget->cost.us[SL_COST_C] == costs + 4000);
    end_world(w);
}

SL_TEST(what_a_tenant_offered_is_expected_of_it_and_of_all_and_not_of_another)
{
    struct core_world *w = new_world();
    struct sl_tenants *tenants = &w->core->policy.tenants;
    struct sl_schedule_entry one = {.prompt_tokens = 100, .tenant = sl_tenants_enter(tenants, "one")},
                             two = {.prompt_tokens = 100, .tenant = sl_tenants_enter(tenants, "two")};
    struct sl_outlook outlook;
    for (int i = 0; i < 20; i++)
        sl_core_time_admitted(w->core, &one, 10000, false);
    sl_core_outlook(w->core, &one, &outlook);
    double all = sl_newcomers_share(&outlook.newcomers, UINT32_MAX);
    CHECK(all > 0 && sl_newcomers_share(&outlook.own, UINT32_MAX) == all);
    sl_core_outlook(w->core, &two, &outlook);
    CHECK(sl_newcomers_share(&outlook.newcomers, UINT32_MAX) == all);
    CHECK(sl_newcomers_share(&outlook.own, UINT32_MAX) == 0);
    end_world(w);
}

SL_TEST(what_is_under_way_is_so_until_the_last_stage_is_through_with_it)
{
    struct core_world *w = new_world();
    struct sl_schedule_entry e = {.prompt_tokens = 100};
    struct sl_outlook outlook;
    w->core->now_us = 1000;
    w->core->time.ends_us[0] = 5000;
    w->core->time.ends_us[STAGES - 1] = 9000;
    CHECK(sl_core_under_way_us(w->core) == 8000);
    sl_core_outlook(w->core, &e, &outlook);
    CHECK(outlook.first_us == 4000 && outlook.last_us == 8000);
    w->core->now_us = 9001; /* later than was thought: nothing is */
    CHECK(sl_core_under_way_us(w->core) == 0);
    end_world(w);
}
