/* The example of HACKING, "How a request's key is computed": its numbers are what the code makes of it. Run it with SLUICE_PAGE=1 to
 * have the lines as they must stand there. */
#include "pipeline/decide/rank.h"
#include "tests/check.h"
#include <stdlib.h>

enum { NOW_US = 100000, ROWS = 2048, ASKS = 5 };

static const struct example_ask {
    const char *name;
    uint32_t tokens, cut;
    uint64_t arrived_us, target_us; /* target_us: after its arrival, as asked; 0: its own */
    int priority;
} asks[ASKS] = {
    {"A", 64, 0, 95000, 0, 0},  {"B", 8192, 1024, 0, 0, 0},      {"C", 600, 0, 40000, 200000, 0},
    {"D", 100, 0, 98000, 0, 1}, {"E", 4000, 0, 20000, 60000, 0},
};

static const struct sl_cost cost = {.us = {[SL_COST_C] = 1000,
                                           [SL_COST_GAMMA] = 0.1,
                                           [SL_COST_B] = 50,
                                           [SL_COST_A] = 0.005,
                                           [SL_COST_W] = 1000},
                                    .hit = 0.0625};

struct example {
    struct sl_arena arena;
    struct sl_plan plan;
    struct sl_schedule schedule;
    struct sl_policy policy;
    struct sl_schedule_entry entries[ASKS];
};

static void make_example(struct example *x)
{
    static const struct sl_plan_model model = {
        .n_layers = 4, .max_pos = 16384, .d_model = 8, .vocab = 1000, .kv_layer_bytes = 64};
    struct sl_plan_options options = {.n_stages = 2, .max_prefill = 8, .max_running = 1, .epoch = 1};
    struct sl_cost costs[2] = {cost, cost};
    struct sl_budget budget;
    REQUIRE(sl_plan_make(&x->plan, &model, &options, NULL) == SL_OK);
    REQUIRE(sl_arena_init(&x->arena, sl_tenants_bytes(ASKS), NULL) == SL_OK);
    REQUIRE(sl_tenants_init(&x->policy.tenants, &x->arena, ASKS, NULL, 0) == SL_OK);
    sl_schedule_init(&x->schedule, &x->plan);
    sl_budget_make(&budget, costs, 2, ROWS, &(struct sl_pace){0}, &(struct sl_budget_wish){0});
    sl_policy_set(&x->policy, &budget);
    for (uint32_t i = 0; i < ASKS; i++) {
        struct sl_schedule_entry *e = &x->entries[i];
        sl_schedule_entry_init(e, &x->plan, asks[i].tokens, 0, 1, 1);
        double target = asks[i].target_us ? (double)asks[i].target_us
                                          : sl_budget_target_us(&budget, 0, 0, asks[i].tokens);
        e->arrival = i + 1;
        e->arrived_us = asks[i].arrived_us;
        e->promised = asks[i].target_us > 0;
        e->due_us = asks[i].arrived_us + (uint64_t)(target / (asks[i].priority > 0 ? 2 : 1));
        e->tenant = sl_tenants_enter(&x->policy.tenants, "");
        e->pos = asks[i].cut;
        sl_policy_enter(&x->policy, &x->schedule, e, false);
    }
}

static const char *read_page(void)
{
    static char text[1 << 18];
    FILE *f = fopen("HACKING.md", "r"); /* tests run at the root; by hand perhaps in build/ */
    if (!f)
        f = fopen("../HACKING.md", "r");
    text[f ? fread(text, 1, sizeof text - 1, f) : 0] = '\0';
    if (f)
        fclose(f);
    return text;
}

static void check_line(const char *page, const char *line)
{
    if (getenv("SLUICE_PAGE"))
        printf("%s\n", line);
    else if (!strstr(page, line))
        sl_test_fail(__FILE__, __LINE__, "HACKING.md has not the line that the code makes:\n%s", line);
}

SL_TEST(the_example_of_the_page_is_what_the_code_makes)
{
    struct example *x = calloc(1, sizeof *x);
    const char *page = read_page();
    struct sl_ranked order[SL_RANK_LOOK];
    bool any_late;
    char line[200];
    make_example(x);
    REQUIRE(page[0]);
    const struct sl_budget *b = &x->policy.budget;
    snprintf(line, sizeof line, "T* = %.1f ms, R = %u, lag = %.1f ms", b->chunk_us / 1000, b->runs,
             b->lag_us / 1000);
    check_line(page, line);
    uint32_t n = sl_rank_order(&x->policy, &x->schedule, NOW_US, false, order, SL_RANK_LOOK, &any_late);
    REQUIRE(n == ASKS);
    CHECK(any_late);
    for (uint32_t i = 0; i < n; i++) {
        struct sl_schedule_entry *e = order[i].entry;
        uint32_t k = (uint32_t)(e - x->entries);
        snprintf(line, sizeof line, "| %s | %.1f | %.1f | %.1f | %s |", asks[k].name,
                 (double)e->due_us / 1000, sl_rank_work_us(&x->policy, e) / 1000, order[i].key_us / 1000,
                 order[i].behind ? "late" : "in time");
        const char *before = strstr(page, line);
        check_line(page, line);
        page = before && !getenv("SLUICE_PAGE") ? before : page; /* in the order of the next chunk */
    }
    sl_arena_fini(&x->arena);
    free(x);
}
