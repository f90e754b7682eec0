/* The cut of layers.h: equal ones as they always were, and unequal ones against every cut there is. */
#include "base/rng.h"
#include "pipeline/decide/layers.h"
#include "pipeline/decide/plan.h"
#include "tests/check.h"
#include <math.h>

enum { N = 8, MOST_STAGES = 4 };

struct layers_world {
    double us[MOST_STAGES][SL_LAYERS_MOST], bytes[MOST_STAGES][SL_LAYERS_MOST];
    struct sl_layers_node nodes[MOST_STAGES];
};

static void alike(struct layers_world *w, uint32_t n_layers, double room)
{
    for (uint32_t k = 0; k < MOST_STAGES; k++) {
        for (uint32_t i = 0; i < n_layers; i++)
            w->us[k][i] = w->bytes[k][i] = 1;
        w->nodes[k] = (struct sl_layers_node){w->us[k], w->bytes[k], room};
    }
}

SL_TEST(equal_nodes_and_layers_give_the_cut_that_serve_makes)
{
    static struct layers_world w;
    for (uint32_t n_layers = 1; n_layers <= 97; n_layers += 6)
        for (uint32_t n = 1; n <= MOST_STAGES && n <= n_layers; n++) {
            uint32_t begin[SL_MAX_STAGES + 1];
            struct sl_plan plan;
            struct sl_plan_model model = {n_layers, 1024, 64, 1000, 1};
            struct sl_plan_options options = {.n_stages = n, .n_decoders = 1};
            alike(&w, n_layers, 1000);
            REQUIRE(sl_layers_cut(begin, n_layers, w.nodes, n));
            REQUIRE(sl_plan_make(&plan, &model, &options, NULL) == SL_OK);
            CHECK(memcmp(begin, plan.begin, (n + 1) * sizeof *begin) == 0);
        }
}

SL_TEST(an_equal_cut_begins_at_layer_0_ends_at_the_last_and_no_stage_has_two_more_than_another)
{
    for (uint32_t n_layers = 1; n_layers <= SL_LAYERS_MOST; n_layers += 7)
        for (uint32_t n = 1; n <= SL_MAX_STAGES && n <= n_layers; n++) {
            uint32_t begin[SL_MAX_STAGES + 2];
            memset(begin, 0xa5, sizeof begin);
            sl_layers_equal(begin, n_layers, n);
            CHECK(begin[0] == 0 && begin[n] == n_layers && begin[n + 1] == 0xa5a5a5a5);
            for (uint32_t k = 0; k < n; k++)
                CHECK((begin[k + 1] - begin[k]) - n_layers / n <= 1);
        }
}

static double slowest_of(const struct layers_world *w, const uint32_t *begin, uint32_t n, double *even)
{
    double most = 0;
    *even = 0;
    for (uint32_t k = 0; k < n; k++) {
        double us = sl_layers_sum(w->us[k], begin[k], begin[k + 1]);
        *even += us * us;
        most = fmax(most, us);
    }
    return most;
}

static double lack_of(const struct layers_world *w, const uint32_t *begin, uint32_t n)
{
    double most = -INFINITY;
    for (uint32_t k = 0; k < n; k++)
        most = fmax(most, sl_layers_sum(w->bytes[k], begin[k], begin[k + 1]) - w->nodes[k].room);
    return most;
}

struct best {
    double slowest, even, lack;
};

static void try_all(const struct layers_world *w, uint32_t *begin, uint32_t k, uint32_t n, struct best *best)
{
    if (k == n) {
        double even, slowest = slowest_of(w, begin, n, &even), lack = lack_of(w, begin, n);
        best->lack = fmin(best->lack, lack);
        if (lack > 0 || slowest > best->slowest)
            return;
        best->even = slowest < best->slowest ? even : fmin(best->even, even);
        best->slowest = slowest;
        return;
    }
    begin[n] = N;
    for (begin[k] = k == 0 ? 0 : begin[k - 1] + 1; begin[k] + (n - k) <= N; begin[k]++) {
        try_all(w, begin, k + 1, n, best);
        if (k == 0)
            break;
    }
}

SL_TEST(no_other_cut_is_better_and_none_holds_more_than_there_is_room_for)
{
    static struct layers_world w;
    struct sl_rng rng = {7, 0};
    uint32_t fitted = 0, lacked = 0;
    for (int round = 0; round < 400; round++) {
        uint32_t n = 1 + (uint32_t)(sl_rng_next(&rng) % MOST_STAGES), begin[SL_MAX_STAGES + 1],
                 any[MOST_STAGES + 1];
        struct best best = {INFINITY, INFINITY, INFINITY};
        alike(&w, N, 0);
        for (uint32_t k = 0; k < n; k++) {
            double slow = 1 + (double)(sl_rng_next(&rng) % 3);
            for (uint32_t i = 0; i < N; i++) {
                w.us[k][i] = slow * (1 + (double)(sl_rng_next(&rng) % 4));
                w.bytes[k][i] = 1 + (double)(sl_rng_next(&rng) % 3);
            }
            w.nodes[k].room = 2 + (double)(sl_rng_next(&rng) % 10);
        }
        try_all(&w, any, 0, n, &best);
        bool fits = sl_layers_cut(begin, N, w.nodes, n);
        double even, slowest = slowest_of(&w, begin, n, &even);
        CHECK(fits == (best.lack <= 0));
        CHECK(begin[0] == 0 && begin[n] == N);
        CHECK(fits ? lack_of(&w, begin, n) <= 0 && slowest == best.slowest && fabs(even - best.even) < 1e-6
                   : lack_of(&w, begin, n) == best.lack);
        fitted += fits;
        lacked += !fits;
    }
    CHECK(fitted > 50 && lacked > 50);
}

SL_TEST(a_plan_takes_a_cut_that_somebody_names_and_refuses_one_that_is_none)
{
    static const struct {
        uint32_t layers[3];
        const char *why;
    } bad[] = {{{5, 5, 1}, "11 layers together, and the model has 12"},
               {{0, 6, 6}, "leaves stage 0 without a layer"},
               {{12, 1, 0}, "leaves stage 2 without a layer"},
               {{6, 7, 1}, "14 layers together"},
               {{UINT32_MAX, 12, 1}, "4294967308 layers together"}};
    struct sl_plan_model model = {12, 1024, 64, 1000, 1};
    struct sl_plan plan;
    struct sl_err err;
    uint32_t layers[] = {2, 7, 3};
    struct sl_plan_options options = {.n_stages = 3, .n_decoders = 1, .layers = layers};
    REQUIRE(sl_plan_make(&plan, &model, &options, &err) == SL_OK);
    CHECK(plan.begin[1] == 2 && plan.begin[2] == 9 && plan.begin[3] == 12);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        options.layers = bad[i].layers;
        CHECK(sl_plan_make(&plan, &model, &options, &err) == SL_E_CONFIG);
        CHECK_CONTAINS(err.text, bad[i].why);
    }
}

SL_TEST(a_cut_is_read_as_it_is_written_and_refused_when_it_is_none)
{
    static const struct {
        const char *text, *why;
    } bad[] = {{"", "has \"\"; it takes"},
               {"3,,3", "has \"\""},
               {"3,2,", "has \"\""},
               {"3,0,3", "has \"0\""},
               {"3,257,3", "has \"257\""},
               {"3,0002,3", "has \"0002\""},
               {"3, 2,1", "has \" 2\""},
               {"3,-1,1", "has \"-1\""},
               {"3,4294967298,1", "has \"4294967298\""},
               {"3;2;1", "has \"3;2;1\""},
               {"3,3", "a cut into 2 stages and --stages is 3"},
               {"1,1,1,1", "a cut into 4 stages and --stages is 3"}};
    uint32_t room[SL_MAX_STAGES], begin[SL_MAX_STAGES + 1];
    const uint32_t *layers = room;
    char text[SL_LAYERS_TEXT], many[2 * SL_MAX_STAGES + 2];
    struct sl_err err = {0};
    CHECK(sl_layers_read(&layers, room, NULL, 3, &err) == SL_OK && layers == NULL);
    REQUIRE(sl_layers_read(&layers, room, "3,256,1", 3, &err) == SL_OK && layers == room);
    CHECK(room[0] == 3 && room[1] == 256 && room[2] == 1);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK_INT(sl_layers_read(&layers, room, bad[i].text, 3, &err), SL_E_USAGE);
        CHECK_CONTAINS(err.text, bad[i].why);
    }
    for (uint32_t k = 0; k <= SL_MAX_STAGES; k++)
        memcpy(many + 2 * k, k < SL_MAX_STAGES ? "4," : "4", 2);
    CHECK_INT(sl_layers_read(&layers, room, many, SL_MAX_STAGES, &err), SL_E_USAGE);
    CHECK_CONTAINS(err.text, "more than 60 stages");
    sl_layers_equal(begin, SL_LAYERS_MOST, SL_MAX_STAGES);
    sl_layers_write(text, begin, SL_MAX_STAGES);
    REQUIRE(sl_layers_read(&layers, room, text, SL_MAX_STAGES, &err) == SL_OK);
    for (uint32_t k = 0; k < SL_MAX_STAGES; k++)
        CHECK_INT(room[k], begin[k + 1] - begin[k]);
}
