/* The cut of the experts: every pair in exactly one task of its own expert, tallest first, heights within their limits,
 * enough tasks for every member. */
#include "base/rng.h"
#include "experts/tasks.h"
#include "tests/check.h"
#include <stdlib.h>

static void check_cut(const uint32_t *loads, uint32_t n_experts, uint32_t n_members)
{
    uint32_t *offsets = calloc(n_experts + 1, sizeof *offsets);
    for (uint32_t e = 0; e < n_experts; e++)
        offsets[e + 1] = offsets[e] + loads[e];
    uint32_t n = offsets[n_experts], most = sl_expert_tasks_max(n, n_experts);
    struct sl_expert_tasks s = {.task = calloc(most + 1, sizeof *s.task)};
    uint8_t *seen = calloc(n + 1, 1);
    sl_expert_tasks_make(&s, &(struct sl_route){.n_experts = n_experts, .offsets = offsets}, n_members);
    CHECK(s.n_tasks <= most);
    for (uint32_t i = 0; i < s.n_tasks; i++) {
        const struct sl_expert_task *t = &s.task[i];
        CHECK(t->m > 0 && t->m <= SL_EXPERT_ROWS_MAX);
        CHECK(i == 0 || t->m <= s.task[i - 1].m);
        CHECK(i == 0 || t->m != s.task[i - 1].m || t->first > s.task[i - 1].first);
        CHECK(t->first >= offsets[t->expert] && t->first + t->m <= offsets[t->expert + 1]);
        for (uint32_t j = t->first; j < t->first + t->m && j < n; j++)
            seen[j]++;
    }
    for (uint32_t j = 0; j < n; j++)
        CHECK_INT(seen[j], 1);
    if (n_members == 1)
        CHECK_INT(s.pieces, 0);
    else if (s.n_tasks > 0)
        CHECK(s.n_tasks * (s.pieces ? s.pieces : 1) >= 3 * n_members);
    free(offsets), free(s.task), free(seen);
}

SL_TEST(every_pair_is_in_one_task)
{
    struct sl_rng rng = {5, 0};
    uint32_t loads[128];
    for (int round = 0; round < 300; round++) {
        uint32_t n_experts = 1 + (uint32_t)(sl_rng_next(&rng) % 128), top = 1u << sl_rng_next(&rng) % 12;
        for (uint32_t e = 0; e < n_experts; e++)
            loads[e] = sl_rng_next(&rng) % 3 ? (uint32_t)(sl_rng_next(&rng) % top) : 0;
        check_cut(loads, n_experts, 1 + (uint32_t)(sl_rng_next(&rng) % 16));
    }
}

SL_TEST(nothing_to_do_and_all_rows_to_one)
{
    uint32_t none[3] = {0}, one[3] = {0, 4096, 0}, single[1] = {1};
    check_cut(none, 3, 2);
    check_cut(one, 3, 2);
    check_cut(one, 3, 1);
    check_cut(single, 1, 16);
}
