/* kernels/gpu/route: the twin's routes are router/'s and its tasks those of experts/tasks.h, byte for byte, and nothing is found. */
#define DRAW_SEED 20261131
#include "tests/kernels/gpu/route_cases.h"

SL_TEST(a_route_and_its_tasks_have_the_bytes_of_the_host)
{
    for (uint32_t i = 0; i < ROUTE_CASES; i++)
        check_route(&route_cases[i], i);
}

SL_TEST(drawn_routes_do_too)
{
    const char *more = getenv("SLUICE_SEEDS");
    for (uint32_t i = 0, n = more ? (uint32_t)strtoul(more, NULL, 10) : 6; i < n; i++) {
        uint32_t n_experts = 1 + below(i % 8 == 0 ? 1024 : 130),
                 k = 1 + below(n_experts < 64 ? n_experts : 64);
        struct route_case c = {1 + below(300), n_experts, k, below(2), (enum logits)below(N_LOGITS)};
        check_route(&c, i);
    }
}
