/* pipeline/decide/plan.c: a plan is made exactly when everything is within its bound, and each bound is tried on both of its sides. */
#include "pipeline/decide/plan.h"
#include "tests/check.h"

static const struct sl_plan_model model = {
    .n_layers = 40, .max_pos = 4096, .d_model = 8, .vocab = 1000, .kv_layer_bytes = 64};

static struct sl_plan_options usual(void)
{
    return (struct sl_plan_options){.n_stages = 2, .n_decoders = 1, .context_tokens = 512, .epoch = 1};
}

static sl_status made(const struct sl_plan_options *options)
{
    static struct sl_plan plan;
    return sl_plan_make(&plan, &model, options, NULL);
}

/* Set to `most` it is made, and to one more it is not. */
#define CHECK_MOST(field, most)                                                                              \
    do {                                                                                                     \
        struct sl_plan_options o = usual();                                                                  \
        o.field = (most);                                                                                    \
        CHECK_INT(made(&o), SL_OK);                                                                          \
        o.field = (most) + 1;                                                                                \
        CHECK_INT(made(&o), SL_E_CONFIG);                                                                    \
    } while (0)

SL_TEST(as_much_as_the_bound_is_planned_and_no_more)
{
    CHECK_MOST(context_tokens, model.max_pos);
    CHECK_MOST(chunk_tokens, SL_MAX_CHUNK_ASKED);
    CHECK_MOST(max_prefill, SL_MAX_BATCH);
    CHECK_MOST(max_running, SL_MAX_BATCH);
    CHECK_MOST(n_parts, SL_MAX_PARTS);
    CHECK_MOST(n_decoders, SL_MAX_DECODERS);
    CHECK_MOST(max_decoders, SL_MAX_DECODERS);
    struct sl_plan_options none = usual();
    none.n_stages = 0;
    CHECK_INT(made(&none), SL_E_CONFIG);
}

/* A stage has an edge to each part of a decode worker that has layers of it; here, with one stage, to all. */
static uint32_t links_of_the_stage(uint32_t n_decoders, uint32_t n_parts)
{
    return 2 + n_decoders * n_parts;
}

SL_TEST(a_node_has_no_more_links_than_an_io)
{
    uint32_t n_made = 0, n_refused = 0;
    for (uint32_t d = 1; d <= SL_MAX_DECODERS; d++)
        for (uint32_t parts = 1; parts <= SL_MAX_PARTS; parts++) {
            struct sl_plan_options o = usual();
            o.n_stages = 1;
            o.n_decoders = d;
            o.n_parts = parts;
            bool fits = links_of_the_stage(d, parts) <= SL_IO_LINKS;
            n_made += fits;
            n_refused += !fits;
            CHECK_INT(made(&o), fits ? SL_OK : SL_E_CONFIG);
        }
    CHECK(n_made > 0 && n_refused > 0);
}

SL_TEST(layers_are_shared_without_a_gap_by_stages_and_by_parts)
{
    static struct sl_plan plan;
    for (uint32_t stages = 1; stages <= 8; stages++)
        for (uint32_t parts = 1; parts <= SL_MAX_PARTS; parts++) {
            struct sl_plan_options o = usual();
            o.n_stages = stages;
            o.n_parts = parts;
            REQUIRE(sl_plan_make(&plan, &model, &o, NULL) == SL_OK);
            uint32_t n = 0;
            for (uint32_t k = 0; k < stages; k++)
                for (uint32_t part = 0; part < parts; part++) {
                    uint32_t begin, end;
                    if (!sl_plan_overlap(&plan, k, part, &begin, &end))
                        continue;
                    CHECK(begin < end && begin >= plan.begin[k] && end <= plan.begin[k + 1]);
                    CHECK(begin >= plan.part_begin[part] && end <= plan.part_begin[part + 1]);
                    n += end - begin;
                }
            CHECK_INT(n, model.n_layers); /* each layer's pages go from one stage to one part */
        }
}

SL_TEST(every_node_has_a_name_of_its_own_and_a_decode_worker_that_is_alone_no_number)
{
    static struct sl_plan plan;
    static const char *const few[] = {"coordinator", "stage 0", "stage 1", "decode"},
                             *const many[] = {"coordinator",     "stage 0",         "decode 0",
                                              "decode 1",        "decode 0 part 0", "decode 0 part 1",
                                              "decode 1 part 0", "decode 1 part 1"};
    char name[24];
    struct sl_plan_options o = usual();
    o.n_stages = 2;
    o.n_decoders = o.n_parts = 1;
    REQUIRE(sl_plan_make(&plan, &model, &o, NULL) == SL_OK);
    for (uint32_t i = 0; i < sizeof few / sizeof *few; i++)
        CHECK_STR(sl_plan_node_name(&plan, i, name), few[i]);
    o.n_stages = 1;
    o.n_decoders = 2;
    o.n_parts = 3;
    REQUIRE(sl_plan_make(&plan, &model, &o, NULL) == SL_OK);
    for (uint32_t i = 0; i < sizeof many / sizeof *many; i++)
        CHECK_STR(sl_plan_node_name(&plan, i, name), many[i]);
}

SL_TEST(stages_have_places_for_rows_where_these_go_beside_and_decode_workers_have_none)
{
    struct sl_plan plan;
    struct sl_plan_options o = usual();
    o.rows = SL_ROWS_NCCL;
    CHECK_INT(sl_plan_make(&plan, &model, &o, NULL), SL_OK);
    CHECK_INT(sl_plan_share(&plan, 0, 1).n_places, SL_ORDER_SLOTS); /* a slot each of the link before it */
    CHECK_INT(sl_plan_share(&plan, 1, 1).n_places, SL_ORDER_SLOTS);
    CHECK_INT(sl_plan_share(&plan, 2, 1).n_places, 0);
    CHECK(sl_plan_rows_beside(&plan, SL_ROWS_BESIDE_FROM));
    CHECK(!sl_plan_rows_beside(&plan, SL_ROWS_BESIDE_FROM - 1));
    o.rows_from = 100;
    CHECK_INT(sl_plan_make(&plan, &model, &o, NULL), SL_OK);
    CHECK(sl_plan_rows_beside(&plan, 100) && !sl_plan_rows_beside(&plan, 99));
    struct sl_plan_model odd = model;
    odd.d_model = 10;
    CHECK_INT(sl_plan_make(&plan, &odd, &o, NULL), SL_E_CONFIG);
    o.rows = SL_ROWS_STAGED;
    CHECK_INT(sl_plan_make(&plan, &odd, &o, NULL), SL_OK);
    CHECK(!sl_plan_rows_beside(&plan, 1u << 30));
    CHECK_INT(sl_plan_share(&plan, 0, 1).n_places, 0);
    o.rows = SL_ROWS_NCCL;
    o.n_stages = 1; /* none go anywhere */
    CHECK_INT(sl_plan_make(&plan, &model, &o, NULL), SL_OK);
    CHECK_INT(sl_plan_share(&plan, 0, 1).n_places, 0);
}
