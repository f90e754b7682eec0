/* pipeline/decide/tenants.c: counters of work by weight, no credit for who is idle, and a table that never forgets who lives. */
#include "base/rng.h"
#include "pipeline/decide/tenants.h"
#include "tests/check.h"
#include <stdio.h>

enum { LIVE = 20 };

static void open_table(struct sl_tenants *t, struct sl_arena *arena, const struct sl_tenant_weight *weights,
                       uint32_t n)
{
    REQUIRE(sl_arena_init(arena, sl_tenants_bytes(LIVE), NULL) == SL_OK);
    REQUIRE(sl_tenants_init(t, arena, LIVE, weights, n) == SL_OK);
}

SL_TEST(a_name_has_one_place_and_its_weight)
{
    struct sl_tenants t;
    struct sl_arena arena;
    const struct sl_tenant_weight weights[] = {{"gold", 4}};
    open_table(&t, &arena, weights, 1);
    CHECK_INT(sl_tenants_find(&t, "gold"), UINT32_MAX);
    uint32_t gold = sl_tenants_enter(&t, "gold"), nobody = sl_tenants_enter(&t, "");
    CHECK(gold != nobody && sl_tenants_enter(&t, "gold") == gold && sl_tenants_find(&t, "gold") == gold);
    CHECK(t.of[gold].weight == 4 && t.of[nobody].weight == 1);
    sl_tenants_charge(&t, gold, 100);
    sl_tenants_charge(&t, nobody, 100);
    CHECK(t.of[gold].used_us == 25 && t.of[nobody].used_us == 100);
    sl_arena_fini(&arena);
}

SL_TEST(who_was_idle_comes_back_without_credit)
{
    struct sl_tenants t;
    struct sl_arena arena;
    open_table(&t, &arena, NULL, 0);
    uint32_t busy = sl_tenants_enter(&t, "busy"), idle = sl_tenants_enter(&t, "idle");
    sl_tenants_backlog(&t, busy, 10);
    sl_tenants_charge(&t, busy, 5000);
    sl_tenants_backlog(&t, idle, 10);
    CHECK(t.of[idle].used_us == 5000 && sl_tenants_least_us(&t) == 5000);
    sl_tenants_done(&t, idle, 10);
    sl_tenants_charge(&t, busy, 1000);
    sl_tenants_done(&t, busy, 10);
    sl_tenants_backlog(&t, idle, 10); /* when nobody has work the last who had tells where to begin */
    CHECK(t.of[idle].used_us == 6000);
    sl_arena_fini(&arena);
}

SL_TEST(a_debt_is_remembered_while_its_tenant_is_idle)
{
    struct sl_tenants t;
    struct sl_arena arena;
    open_table(&t, &arena, NULL, 0);
    uint32_t one = sl_tenants_enter(&t, "one"), other = sl_tenants_enter(&t, "other");
    sl_tenants_backlog(&t, other, 1);
    sl_tenants_backlog(&t, one, 1);
    sl_tenants_charge(&t, one, 700);
    sl_tenants_done(&t, one, 1);
    sl_tenants_leave(&t, one);
    CHECK_INT(sl_tenants_enter(&t, "one"), one);
    sl_tenants_backlog(&t, one, 1);
    CHECK(t.of[one].used_us == 700 && sl_tenants_least_us(&t) == 0);
    sl_arena_fini(&arena);
}

SL_TEST(more_names_than_it_has_room_for_push_out_only_those_that_do_not_live)
{
    struct sl_tenants t;
    struct sl_arena arena;
    struct sl_rng rng = {5, 0};
    uint32_t live[LIVE];
    char names[LIVE][16] = {{0}};
    open_table(&t, &arena, NULL, 0);
    for (uint32_t turn = 0; turn < 20000; turn++) {
        uint32_t i = (uint32_t)(sl_rng_next(&rng) % LIVE);
        if (names[i][0]) {
            CHECK_STR(t.of[live[i]].name, names[i]);
            sl_tenants_charge(&t, live[i], (double)(sl_rng_next(&rng) % 100));
            sl_tenants_done(&t, live[i], 1);
            sl_tenants_leave(&t, live[i]);
        }
        snprintf(names[i], sizeof names[i], "t%u", (unsigned)(sl_rng_next(&rng) % 5000));
        live[i] = sl_tenants_enter(&t, names[i]);
        sl_tenants_backlog(&t, live[i], 1);
        CHECK(t.n <= t.room);
    }
    CHECK_INT(t.n, t.room);
    sl_arena_fini(&arena);
}
