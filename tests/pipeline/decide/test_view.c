/* pipeline/decide/view.c: the queue as it is shown. */
#include "pipeline/decide/view.h"
#include "tests/pipeline/decide/core_world.h"
#include <math.h>

SL_TEST(an_empty_pipeline_shows_its_pages_and_nobody)
{
    struct core_world *w = new_world();
    struct sl_core_view *view = malloc(sizeof *view);
    memset(view, 1, sizeof *view); /* whatever was there before, flags that are set, too */
    sl_core_view(w->core, 17, view);
    CHECK_INT(view->now_us, 17);
    CHECK_INT(view->n_entries, 0);
    CHECK_INT(view->n_entries_all, 0);
    CHECK_INT(view->n_tenants, 0);
    CHECK(!view->more_tenants);
    CHECK_INT(view->pages_used, 0);
    CHECK_INT(view->n_pages, w->plan.n_pages);
    CHECK(view->runs == 0 && view->max_runs > 0);
    free(view);
    end_world(w);
}

SL_TEST(the_queue_is_shown_in_its_order_with_what_is_cut_of_whom)
{
    struct core_world *w = new_world();
    struct heard *h[REQUESTS];
    struct sl_core_view *view = malloc(sizeof *view);
    for (uint32_t i = 0; i < REQUESTS; i++) { /* places for three */
        h[i] = ask(w, 400 + i, 1);
        snprintf(h[i]->ask.id, sizeof h[i]->ask.id, "r%u", i);
        snprintf(h[i]->ask.tenant, sizeof h[i]->ask.tenant, "%s", i % 2 ? "odd" : "");
        h[i]->ask.priority = (int32_t)i % 3;
        submit(w, h[i]);
    }
    sl_core_view(w->core, 1, view);
    REQUIRE(view->n_entries == REQUESTS && view->n_entries_all == REQUESTS);
    CHECK_INT(view->runs, 0);
    for (uint32_t i = 0; i < REQUESTS; i++) {
        const struct sl_view_entry *e = &view->entries[i];
        CHECK_STR(e->id, h[i]->ask.id);
        CHECK_STR(e->tenant, h[i]->ask.tenant);
        CHECK_INT(e->seq, h[i]->seq);
        CHECK_INT(e->prompt_tokens, 400 + i);
        CHECK_INT(e->priority, (int32_t)i % 3);
        CHECK(e->pos == 0 && !e->admitted && !e->again && e->pages == 7);
    }
    REQUIRE(view->n_tenants == 2 && !view->more_tenants);
    CHECK_STR(view->tenants[1].tenant, "odd");
    CHECK(view->tenants[1].weight == 1);
    CHECK_INT(view->tenants[1].n_entries, 3);
    CHECK_INT(view->tenants[1].uncut_tokens, 401 + 403 + 405);
    decide(w);
    sl_core_view(w->core, 2, view);
    uint64_t uncut = 0;
    for (uint32_t i = 0; i < view->n_entries; i++)
        uncut += view->entries[i].prompt_tokens - view->entries[i].pos;
    CHECK_INT(view->runs, w->n_runs);
    CHECK(view->entries[0].admitted && view->entries[0].pos > 0 && view->pages_used > 0);
    CHECK(view->n_decoders == 1 && view->decoders[0].state == SL_DECODER_HERE &&
          view->decoders[0].pages_used == view->decode_pages_used);
    CHECK_INT(uncut, view->tenants[0].uncut_tokens + view->tenants[1].uncut_tokens);
    for (uint32_t i = 0; i < REQUESTS; i++)
        sl_core_cancel(w->core, h[i]->seq, &w->actions);
    carry_out(w);
    answer_all(w, 1);
    sl_core_view(w->core, 3, view);
    CHECK_INT(view->n_entries_all, 0);
    check_all_back(w);
    for (uint32_t i = 0; i < REQUESTS; i++)
        free(h[i]);
    free(view);
    end_world(w);
}

/* More than fit are counted. */
SL_TEST(a_longer_queue_is_cut_and_counted)
{
    enum { MANY = 300 };
    static const struct sl_plan_model model = {
        .n_layers = 4, .max_pos = CONTEXT, .d_model = 8, .vocab = 1000, .kv_layer_bytes = 64};
    struct sl_plan_options options = {
        .n_stages = 1, .n_decoders = 1, .chunk_tokens = CHUNK, .max_running = 1, .epoch = 1};
    static const struct sl_tenant_weight weights[] = {{"t5", 2.5}};
    struct sl_plan plan;
    struct sl_arena arena;
    struct sl_core *core;
    REQUIRE(sl_plan_make(&plan, &model, &options, NULL) == SL_OK);
    struct sl_core_config config = {
        .plan = &plan, .n_decoders = 1, .max_requests = 2 * MANY, .n_weights = 1, .weights = weights};
    REQUIRE(sl_arena_init(&arena, sl_core_bytes(&config), NULL) == SL_OK);
    REQUIRE(sl_core_init(&core, &arena, &config) == SL_OK);
    struct sl_actions actions = {.room = sl_core_max_actions(core)};
    actions.list = calloc(actions.room, sizeof *actions.list);
    struct sl_ask *asks = calloc(MANY, sizeof *asks);
    static const uint32_t ids[1] = {3};
    sl_core_complete(core, &actions);
    for (uint32_t i = 0; i < MANY; i++) {
        asks[i] = (struct sl_ask){.ids = ids, .n_ids = 1, .max_tokens = 1, .prompt_logprobs = -1};
        snprintf(asks[i].tenant, sizeof asks[i].tenant, "t%u", i % 70);
        CHECK(sl_core_submit(core, 1, &asks[i], &actions) != 0);
    }
    struct sl_core_view *view = malloc(sizeof *view);
    sl_core_view(core, 2, view);
    CHECK_INT(view->n_entries, SL_VIEW_ENTRIES);
    CHECK_INT(view->n_entries_all, MANY);
    CHECK_INT(view->n_tenants, SL_VIEW_TENANTS);
    CHECK(view->more_tenants);
    for (uint32_t i = 0; i < SL_VIEW_ENTRIES; i++) { /* in the order of the next chunk, one after another */
        const struct sl_view_entry *e = &view->entries[i], *next = e + 1;
        CHECK(e->work_us > 0 && e->due_us > 0 && e->predicted_begin_us < e->predicted_end_us);
        if (i + 1 == SL_VIEW_ENTRIES)
            break;
        CHECK(next->predicted_begin_us >= e->predicted_begin_us + (uint64_t)e->work_us);
        CHECK(2 * e->outside + e->late <= 2 * next->outside + next->late);
        CHECK(e->late || next->late || e->outside != next->outside || e->key_us <= next->key_us);
        CHECK(isnan(e->key_us) == e->late);
    }
    CHECK(view->budget_us > 0 && view->max_runs >= 2);
    CHECK(view->tenants[5].weight == 2.5 && view->tenants[6].weight == 1);
    CHECK_INT(view->tenants[0].n_entries, 5); /* of those that are not among the entries, too */
    free(view);
    free(asks);
    free(actions.list);
    sl_arena_fini(&arena);
}
