/* The planner's arithmetic against what others have published (SGLang, 15 January 2026: prompts of 128K to 1M tokens on H20 nodes,
 * layers over 1, 4 and 8 of them, chunks cut by its own dynamic rule). The node's one free rate is fitted to the two times on one
 * node (bench/plan/kinds.c); the other five are predicted. */
#include "bench/plan/config.h"
#include "bench/plan/nodes.h"
#include "tests/check.h"
#include <math.h>
#include <stdlib.h>

enum { K = 1024, MOST_CHUNKS = 1024, PAGE = 64 };

struct published {
    const char *shape;
    uint32_t devices, stages, prompt, chunk;
    double smooth; /* of the dynamic rule; 0: fixed chunks */
    double seconds;
};

static const struct published fitted[] = {
    {"deepseek-v3", 8, 1, 128 * K, 12288, 0, 48.5},
    {"qwen3-235b-a22b", 4, 1, 128 * K, 18432, 0, 55.5},
};
static const struct published predicted[] = {
    {"deepseek-v3", 8, 4, 128 * K, 12288, 0.65, 15.5},
    {"qwen3-235b-a22b", 4, 8, 128 * K, 18432, 0.8, 10.54},
    {"qwen3-235b-a22b", 4, 8, 256 * K, 18432, 0.8, 32.68},
    {"qwen3-235b-a22b", 4, 8, 512 * K, 18432, 0.8, 114.33},
    {"qwen3-235b-a22b", 4, 8, 1024 * K, 18432, 0.8, 420.91},
};

/* Its rule: the next chunk takes as long as the first did, moved towards the first by 1 - smooth, and has a quarter of it at least,
 * in whole pages. */
static uint32_t their_chunks(uint32_t *rows, const struct published *p, const struct sl_cost *all)
{
    uint32_t n = 0;
    for (uint32_t pos = 0; pos < p->prompt; pos += rows[n++]) {
        double low = 0, high = p->chunk, x = p->chunk, first = sl_cost_work(all, 0, p->chunk);
        for (int i = 0; i < 40 && p->smooth > 0 && pos > 0; i++) {
            double middle = (low + high) / 2;
            if (sl_cost_work(all, pos, middle) > first)
                high = middle;
            else
                low = middle;
        }
        if (p->smooth > 0 && pos > 0)
            x = fmax(p->chunk + p->smooth * (low - p->chunk), p->chunk / 4.0);
        rows[n] = (uint32_t)x / PAGE * PAGE;
        if (rows[n] > p->prompt - pos)
            rows[n] = p->prompt - pos;
        if (n + 1 == MOST_CHUNKS)
            abort();
    }
    return n;
}

static double seconds_of(const struct published *p)
{
    static struct sl_planner_model model;
    static struct sl_forecast f;
    struct sl_planner_node nodes[8];
    struct sl_plan_kind kind = *sl_plan_kind_find("h20");
    struct sl_plan_format fp8 = {8, 8, 2};
    struct sl_planner_wish wish = {.whole_last_layer = true};
    uint32_t rows[MOST_CHUNKS];
    struct sl_cost all;
    kind.devices = p->devices;
    sl_plan_model_of(&model, sl_plan_shape_find(p->shape), &fp8);
    f = (struct sl_forecast){.n_stages = p->stages, .row_bytes = 2 * 2}; /* two rows of two bytes a number */
    sl_layers_equal(f.begin, model.n_layers, p->stages);
    for (uint32_t k = 0; k < p->stages; k++) {
        sl_plan_nodes_of(&nodes[k], &kind);
        f.stages[k].node = k;
        sl_planner_stage_cost(&f.stages[k].cost, &model, f.begin[k], f.begin[k + 1], &nodes[k], &wish);
    }
    sl_planner_stage_cost(&all, &model, 0, model.n_layers, &nodes[0], &wish);
    return sl_planner_walk(&f, &model, nodes, rows, their_chunks(rows, p, &all)) / 1e6;
}

static double error_of(const struct published *p)
{
    double s = seconds_of(p), error = s / p->seconds - 1;
    printf("figure: %s on %u node%s, %uK tokens: %.2f s, published %.2f s (%+.1f %%)\n", p->shape, p->stages,
           p->stages > 1 ? "s" : "", p->prompt / K, s, p->seconds, 100 * error);
    return fabs(error);
}

SL_TEST(the_five_published_times_that_nothing_was_fitted_to_are_predicted_within_nine_percent)
{
    for (size_t i = 0; i < sizeof predicted / sizeof *predicted; i++)
        CHECK(error_of(&predicted[i]) <= 0.09);
}

SL_TEST(the_two_that_the_rate_was_fitted_to_are_within_twelve_percent)
{
    for (size_t i = 0; i < sizeof fitted / sizeof *fitted; i++)
        CHECK(error_of(&fitted[i]) <= 0.12);
}

/* The rate in kinds.c is the one that the two points want, and no other was slipped in. */
SL_TEST(the_fitted_rate_is_where_the_two_errors_are_smallest)
{
    double errors[2] = {seconds_of(&fitted[0]) / fitted[0].seconds - 1,
                        seconds_of(&fitted[1]) / fitted[1].seconds - 1};
    CHECK(errors[0] * errors[1] < 0);
    CHECK(fabs(errors[0] + errors[1]) < 0.01);
}

SL_TEST(public_shapes_have_the_parameters_of_their_names)
{
    static const struct {
        const char *name;
        double billions;
    } of[] = {{"deepseek-v3", 671},    {"qwen3-235b-a22b", 235}, {"qwen3-30b-a3b", 30.5},
              {"glm-4.5", 355},        {"mixtral-8x22b", 141},   {"mixtral-8x7b", 46.7},
              {"llama-3.1-405b", 406}, {"llama-3.1-70b", 70.6},  {"kimi-k2", 1026},
              {"qwen3-32b", 32.8}};
    for (size_t i = 0; i < sizeof of / sizeof *of; i++) {
        double billions = sl_plan_parameters(sl_plan_shape_find(of[i].name)) / 1e9;
        if (fabs(billions / of[i].billions - 1) > 0.015)
            sl_test_fail(__FILE__, __LINE__, "%s has %.1f billion parameters, not %.1f", of[i].name, billions,
                         of[i].billions);
    }
}
