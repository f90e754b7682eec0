/* The planner's promises over drawn models and nodes, and its arithmetic against sums that can be made by hand. */
#include "base/rng.h"
#include "pipeline/decide/planner.h"
#include "tests/check.h"
#include <math.h>

enum { MOST_NODES = 12 };

static struct sl_planner_model model;
static struct sl_planner_node nodes[MOST_NODES];
static struct sl_forecast f, g;

static void make_model(uint32_t n_layers, bool dense)
{
    model = (struct sl_planner_model){.name = "m",
                                      .n_layers = n_layers,
                                      .d_model = 4096,
                                      .context = 131072,
                                      .n_experts = dense ? 0 : 128,
                                      .top_k = dense ? 0 : 8,
                                      .embed_bytes = 6e8,
                                      .head_bytes = 6e8,
                                      .scratch_row_bytes = 2e5};
    for (uint32_t i = 0; i < n_layers; i++)
        model.layers[i] = (struct sl_planner_layer){.row_flop = dense ? 1.5e9 : 1.5e8,
                                                    .expert_flop = dense ? 0 : 3e8,
                                                    .pair_flop = 16384,
                                                    .always_bytes = dense ? 7e8 : 7e7,
                                                    .expert_bytes = dense ? 0 : 2.4e9,
                                                    .kv_bytes = 2048};
}

static struct sl_planner_node make_node(double speed, double memory)
{
    return (struct sl_planner_node){.name = "n",
                                    .devices = 1,
                                    .memory_bytes = memory,
                                    .matrix_flops = speed * 2e14,
                                    .attention_flops = speed * 1e14,
                                    .memory_speed = 3e12,
                                    .skew = 1,
                                    .layer_us = 50,
                                    .link_speed = 5e10,
                                    .link_us = 20};
}

static double unit(struct sl_rng *rng)
{
    return sl_rng_unit(sl_rng_next(rng));
}

SL_TEST(more_nodes_never_predict_less_throughput)
{
    struct sl_rng rng = {3, 0};
    for (int round = 0; round < 40; round++) {
        bool equal = round % 2 == 0, dense = round % 5 == 0;
        make_model(6 + (uint32_t)(unit(&rng) * 40), dense);
        double memory = 2e10 + unit(&rng) * 2e11, last = 0;
        struct sl_planner_load load = {256 + floor(unit(&rng) * 30000),
                                       round % 3 ? 64 + floor(unit(&rng) * 500) : 0, 0, 0};
        for (uint32_t n = 0; n < MOST_NODES; n++)
            nodes[n] = make_node(equal ? 1 : 0.3 + unit(&rng), memory * (equal ? 1 : 0.5 + unit(&rng)));
        for (uint32_t n = 1; n <= MOST_NODES; n++) {
            struct sl_planner_wish wish = {0};
            if (sl_planner_make(&f, &model, nodes, n, &load, &wish, NULL) != SL_OK) {
                CHECK(last == 0); /* what fits fewer nodes fits more */
                continue;
            }
            CHECK(f.requests_s >= last);
            last = f.requests_s;
        }
        CHECK(last > 0);
    }
}

SL_TEST(a_cut_never_holds_more_than_the_memory_of_its_nodes)
{
    struct sl_rng rng = {5, 0};
    uint32_t n_fit = 0;
    for (int round = 0; round < 60; round++) {
        make_model(4 + (uint32_t)(unit(&rng) * 60), false);
        struct sl_planner_load load = {1 + floor(unit(&rng) * 100000), floor(unit(&rng) * 1000), 0, 0};
        struct sl_planner_wish wish = {0};
        for (uint32_t n = 0; n < MOST_NODES; n++)
            nodes[n] = make_node(0.3 + unit(&rng), 2e10 + unit(&rng) * 6e10);
        for (uint32_t n = 1; n <= MOST_NODES && n <= model.n_layers; n++) {
            if (sl_planner_try(&f, &model, nodes, MOST_NODES, n, &load, &wish, NULL) != SL_OK)
                continue;
            n_fit++;
            CHECK(f.kv_tokens >= load.prompt + load.output);
            for (uint32_t k = 0; k < n; k++) {
                const struct sl_planner_stage *s = &f.stages[k];
                CHECK(s->weight_bytes + s->kv_bytes + s->buffer_bytes <= s->room_bytes);
                CHECK(f.begin[k] < f.begin[k + 1]);
            }
            CHECK(f.n_nodes <= MOST_NODES);
        }
    }
    CHECK(n_fit > 100);
}

SL_TEST(what_is_missing_is_said_in_bytes)
{
    struct sl_planner_load load = {1000, 0, 0, 0};
    struct sl_planner_wish wish = {0};
    struct sl_err err;
    make_model(10, false);
    nodes[0] = nodes[1] = make_node(1, 1e10);
    CHECK(sl_planner_make(&f, &model, nodes, 2, &load, &wish, &err) == SL_E_CONFIG);
    double buffers = SL_MAX_CHUNK * (2e5 + SL_ORDER_SLOTS * 4096.0 * 4),
           half = 5 * (2.47e9 + 1024 * 2048.0) + 6e8;
    char missing[80];
    snprintf(missing, sizeof missing, "%.0f bytes are missing", 2 * (half - (1e10 - buffers)));
    CHECK_CONTAINS(err.text, missing);
    CHECK_CONTAINS(err.text, "does not fit 2 nodes");
    nodes[1] = make_node(1, 3e9); /* 6 and 4 layers: 6 GB and 8 GB too many; 7 and 3 would be more */
    snprintf(nodes[1].name, sizeof nodes[1].name, "small");
    CHECK(sl_planner_make(&f, &model, nodes, 2, &load, &wish, &err) == SL_E_CONFIG);
    snprintf(missing, sizeof missing, "%.0f of them on small for layers 6 to 9",
             4 * (2.47e9 + 1024 * 2048.0) + 6e8 - (3e9 - buffers));
    CHECK_CONTAINS(err.text, missing);
}

/* One chunk of a prompt over one node: the formula of cost.h and nothing else. */
SL_TEST(a_prompt_of_one_chunk_on_one_node_takes_what_the_formula_says)
{
    struct sl_planner_load load = {512, 0, 0, 0};
    struct sl_planner_wish wish = {.whole_last_layer = true, .chunk_rows = 512};
    make_model(10, false);
    nodes[0] = make_node(1, 1e11);
    REQUIRE(sl_planner_make(&f, &model, nodes, 1, &load, &wish, NULL) == SL_OK);
    double hit = 1 - pow(1 - 8.0 / 128, 512),
           layer =
               50 + 1e6 * (7e7 / 3e12 + 512 * 4.5e8 / 2e14 + 512.0 * 512 * 16384 / 1e14 + 2.4e9 / 3e12 * hit),
           all = 10 * layer + 2 * 20 + 1e6 * 6e8 / 3e12;
    CHECK(fabs(f.ttft_us / all - 1) < 1e-9);
}

/* Equal chunks on equal stages without a hop: (C + S - 1) times a chunk. */
SL_TEST(equal_chunks_fill_and_drain_as_the_textbook_says)
{
    struct sl_planner_load load = {8192, 0, 0, 0};
    struct sl_planner_wish wish = {.whole_last_layer = true, .chunk_rows = 1024};
    make_model(8, true);
    model.head_bytes = 0;
    for (uint32_t i = 0; i < 8; i++)
        model.layers[i].pair_flop = model.layers[i].kv_bytes = 0;
    for (int n = 0; n < 4; n++) {
        nodes[n] = make_node(1, 1e12);
        nodes[n].link_speed = nodes[n].link_us = 0;
    }
    REQUIRE(sl_planner_try(&f, &model, nodes, 4, 4, &load, &wish, NULL) == SL_OK);
    double chunk = 2 * (50 + 1e6 * (7e8 / 3e12 + 1024 * 1.5e9 / 2e14));
    CHECK(fabs(f.ttft_us / ((8 + 4 - 1) * chunk) - 1) < 1e-9);
    CHECK(fabs(sl_planner_one_node(&f, &model, nodes, 8192) / (8 * chunk) - 1) < 1e-9);
    CHECK(f.bound == SL_BOUND_COMPUTE);
}

SL_TEST(a_thin_link_is_what_holds_it_up)
{
    struct sl_planner_load load = {8192, 0, 0, 0};
    struct sl_planner_wish wish = {0};
    make_model(20, false);
    for (int n = 0; n < 2; n++) {
        nodes[n] = make_node(1, 1e12);
        nodes[n].link_speed = 1e7;
    }
    REQUIRE(sl_planner_try(&f, &model, nodes, 2, 2, &load, &wish, NULL) == SL_OK);
    CHECK(f.bound == SL_BOUND_LINK);
    CHECK(f.ttft_us >= 1e6 * 8192 * 4096.0 * 4 / 1e7);
}

SL_TEST(targets_that_nothing_keeps_are_refused_with_what_is_possible)
{
    struct sl_planner_load load = {32768, 128, 0, 0};
    struct sl_planner_wish wish = {.slo_ttft_us = 1000};
    struct sl_err err;
    make_model(20, false);
    for (int n = 0; n < 4; n++)
        nodes[n] = make_node(1, 2e11);
    CHECK(sl_planner_make(&f, &model, nodes, 4, &load, &wish, &err) == SL_E_CONFIG);
    CHECK_CONTAINS(err.text, "no cut of these nodes has the first token of 32768 tokens in 1 ms");
    wish = (struct sl_planner_wish){.slo_tpot_us = 1};
    CHECK(sl_planner_make(&f, &model, nodes, 4, &load, &wish, &err) == SL_E_CONFIG);
    CHECK_CONTAINS(err.text, "no decode worker of these nodes makes a token in 0.001 ms");
    wish = (struct sl_planner_wish){0};
    load.rate = 1e6;
    CHECK(sl_planner_make(&f, &model, nodes, 4, &load, &wish, &err) == SL_E_CONFIG);
    CHECK_CONTAINS(err.text, "requests a second, not 1e+06");
}

SL_TEST(a_rate_takes_the_fewest_nodes_that_carry_it)
{
    struct sl_planner_load load = {4096, 0, 0, 0};
    struct sl_planner_wish wish = {0};
    make_model(40, false);
    for (int n = 0; n < MOST_NODES; n++)
        nodes[n] = make_node(1, 2e11);
    REQUIRE(sl_planner_make(&g, &model, nodes, MOST_NODES, &load, &wish, NULL) == SL_OK);
    load.rate = g.requests_s / 3;
    REQUIRE(sl_planner_make(&f, &model, nodes, MOST_NODES, &load, &wish, NULL) == SL_OK);
    CHECK(f.requests_s >= load.rate && f.n_nodes < g.n_nodes && f.wait_us > 0);
    uint32_t n = f.n_nodes;
    CHECK(n == 1 || (sl_planner_try(&g, &model, nodes, n - 1, n - 1, &load, &wish, NULL) == SL_OK &&
                     load.rate > 0.8 * g.requests_s));
}

SL_TEST(experts_over_nodes_exchange_what_was_measured_where_it_was_measured)
{
    struct sl_planner_node node = make_node(1, 1e12);
    bool table;
    make_model(1, false);
    model.d_model = 7168;
    model.n_experts = 256;
    node.devices = 8;
    node.link_speed = 4e11;
    CHECK(fabs(sl_planner_exchange_us(&model, &node, 1, 1024, &table) - 464) < 1e-6 && table);
    CHECK(fabs(sl_planner_exchange_us(&model, &node, 4, 4096, &table) - 5494) < 1e-6 && table);
    CHECK(fabs(sl_planner_exchange_us(&model, &node, 2, 2560, &table) - (962 + 3043) / 2.0) < 1e-6);
    CHECK(sl_planner_exchange_us(&model, &node, 16, 1024, NULL) > 5127);
    model.top_k =
        4; /* fewer experts for a token: fewer rows leave their node, by as much as the formula says */
    for (uint32_t n = 2; n <= 8; n *= 2) {
        double whole = n == 2   ? 962
                       : n == 4 ? 1613
                                : 5127,
               stay = 1 - 1.0 / n, like = (1 - pow(stay, 4)) / (1 - pow(stay, 8));
        CHECK(fabs(sl_planner_exchange_us(&model, &node, n, 1024, &table) - whole * like) < 1e-6 && table);
    }
    CHECK(fabs(sl_planner_exchange_us(&model, &node, 1, 1024, &table) - 464 / 2.0) < 1e-6 && table);
    model.top_k = 8;
    node.link_speed = 1e10; /* a link of another kind: bytes */
    double bytes = 1024 * 8 * 2 * (1 - pow(0.5, 8)) * 0.5 * 7168 * 3;
    CHECK(fabs(sl_planner_exchange_us(&model, &node, 2, 1024, &table) - (1e6 * bytes / 1e10 + 40 + 4)) <
              1e-6 &&
          !table);
    CHECK(sl_planner_exchange_us(&model, &node, 1, 1024, NULL) == 0);
}

SL_TEST(experts_on_one_node_take_what_the_stage_takes_in_one_chunk)
{
    struct sl_planner_experts e;
    struct sl_planner_wish whole = {.whole_last_layer = true};
    struct sl_cost cost;
    struct sl_cost_chunk chunk = {0};
    make_model(10, false);
    nodes[0] = make_node(1, 1e12);
    sl_planner_experts(&e, &model, &nodes[0], 1, 8192);
    sl_planner_stage_cost(&cost, &model, 0, 10, &nodes[0], &whole);
    sl_cost_add(&chunk, 0, 8192);
    double sum = sl_cost_of(&cost, &chunk), hidden = cost.us[SL_COST_W]; /* which computing hides there */
    CHECK(fabs(e.ttft_us / (sum - hidden) - 1) < 1e-3);
    CHECK(e.exchange_us == 0 && e.bytes == 0);
    make_model(10, true);
    sl_planner_experts(&e, &model, &nodes[0], 4, 8192);
    CHECK(e.ttft_us == 0);
}
