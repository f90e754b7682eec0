/* router/route.c: selection, ties, renormalisation, and the stable grouping against a plain count. */
#include "base/rng.h"
#include "router/route.h"
#include "tests/check.h"
#include <math.h>
#include <stdlib.h>

SL_TEST(ties_go_to_the_lower_expert)
{
    float logits[6] = {1, 3, 3, 0, 3, 1}, gates[4];
    uint32_t experts[4];
    sl_route_choose(&sl_ops_ref, logits, 6, 4, true, experts, gates);
    CHECK_INT(experts[0], 1);
    CHECK_INT(experts[1], 2);
    CHECK_INT(experts[2], 4);
    CHECK_INT(experts[3], 0);
    CHECK(gates[0] == gates[1] && gates[1] == gates[2] && gates[3] < gates[2]);
    CHECK(fabsf(gates[0] + gates[1] + gates[2] + gates[3] - 1) < 1e-6f);
}

SL_TEST(without_renorm_gates_are_the_softmax)
{
    float logits[3] = {0, logf(2), logf(5)}, gates[2];
    uint32_t experts[2];
    sl_route_choose(&sl_ops_ref, logits, 3, 2, false, experts, gates);
    CHECK_INT(experts[0], 2);
    CHECK(fabsf(gates[0] - 5.0f / 8) < 1e-6f && fabsf(gates[1] - 2.0f / 8) < 1e-6f);
}

SL_TEST(grouping_is_a_stable_sort_by_expert)
{
    enum { T = 301, E = 7, K = 3 };
    struct sl_arena arena;
    struct sl_route route;
    REQUIRE(sl_arena_init(&arena, sl_route_bytes(T, E, K), NULL) == SL_OK);
    REQUIRE(sl_route_init(&route, &arena, T, E, K) == SL_OK);
    struct sl_rng rng = {3, 0};
    for (uint32_t n_tokens = 0; n_tokens <= T; n_tokens += 43) {
        for (uint32_t i = 0; i < n_tokens * K; i++) /* expert 5 stays without rows */
            route.experts[i] =
                (uint32_t)(sl_rng_next(&rng) % 5) + (i % 11 == 0 ? 2 : 0) == 5 ? 6 : (uint32_t)(i % 5);
        sl_route_group(&route, n_tokens);
        CHECK_INT(route.offsets[0], 0);
        CHECK_INT(route.offsets[E], n_tokens * K);
        CHECK_INT(route.offsets[6] - route.offsets[5], 0);
        for (uint32_t e = 0; e < E; e++)
            for (uint32_t i = route.offsets[e] + 1; i < route.offsets[e + 1]; i++)
                CHECK(route.rows[i - 1] <= route.rows[i]);
        for (uint32_t i = 0; i < n_tokens * K; i++) {
            uint32_t at = route.pairs[i], e = route.experts[i];
            CHECK(at >= route.offsets[e] && at < route.offsets[e + 1]);
            CHECK_INT(route.rows[at], i / K);
        }
    }
    sl_arena_fini(&arena);
}
