/* pipeline/decide/core_submit.c: who is refused, with which words, and that nothing of it is left. */
#include "tests/pipeline/decide/core_world.h"

/* Submits an ask that is refused, and looks at the one action that comes of it. */
static const struct sl_action *refused(struct sl_core *core, uint64_t now_us, struct sl_ask *ask,
                                       sl_status status, const char *why, struct sl_actions *actions)
{
    struct sl_core_load before, after;
    sl_core_load(core, &before);
    actions->n = 0;
    CHECK_INT(sl_core_submit(core, now_us, ask, actions), 0);
    sl_core_load(core, &after);
    CHECK(before.live == after.live && before.waiting == after.waiting);
    if (actions->n != 1) {
        sl_test_fail(__FILE__, __LINE__, "%s: %u actions", why, actions->n);
        return NULL;
    }
    const struct sl_action *a = &actions->list[0];
    CHECK(a->kind == SL_ACTION_END && a->user == ask->user && a->end.last);
    CHECK_INT(a->end.status, status);
    CHECK_STR(a->end.error, why);
    CHECK(a->end.finish == SL_FINISH_ABORT && a->end.stop_id == -1 && a->end.n_out == 0);
    actions->n = 0;
    return a;
}

SL_TEST(who_can_never_be_answered_or_not_now_is_told_why)
{
    struct core_world *w = malloc(sizeof *w);
    make_world(w, 16);
    struct heard *h[REQUESTS], *late = ask(w, 10, 2), *many = ask(w, 10, 2), *pages = ask(w, 400, 100),
                               *twin = ask(w, 10, 2);
    late->ask.deadline_us = 7;
    refused(w->core, 7, &late->ask, SL_E_DEADLINE, "its deadline had passed when it came; allow more time",
            &w->actions);
    many->ask.n = 17;
    refused(w->core, 7, &many->ask, SL_E_INVALID,
            "n is more than the answers that are decoded at once here; ask for fewer", &w->actions);
    pages->ask.n = 11;
    refused(
        w->core, 7, &pages->ask, SL_E_INVALID,
        "n answers to this prompt need more KV pages than this node has; ask for fewer, or with a shorter "
        "prompt",
        &w->actions);
    for (uint32_t i = 0; i < REQUESTS; i++) {
        h[i] = ask(w, 10, 2);
        snprintf(h[i]->ask.id, sizeof h[i]->ask.id, "r%u", i);
        snprintf(twin->ask.id, sizeof twin->ask.id, "r0");
        submit(w, h[i]);
        CHECK(h[i]->seq != 0);
        if (i + 1 < REQUESTS)
            refused(w->core, 7, &twin->ask, SL_E_EXISTS, "a request with this id is live; choose another id",
                    &w->actions);
    }
    twin->ask.id[0] = '\0';
    refused(w->core, 7, &twin->ask, SL_E_EXHAUSTED,
            "as many requests are queued as this node takes; try again later", &w->actions);
    sl_core_lose(w->core, SL_E_CORRUPT, "stage 1 is lost", &w->actions);
    carry_out(w);
    refused(w->core, 7, &twin->ask, SL_E_UNAVAILABLE, "stage 1 is lost", &w->actions);
    for (uint32_t i = 0; i < REQUESTS; i++)
        free(h[i]);
    free(late), free(many), free(pages), free(twin);
    end_world(w);
}

/* Its own queue: the one of the worlds beside this is in order of arrival, which refuses nobody for what others asked. */
SL_TEST(whom_the_queue_has_no_room_for_is_told_when_to_come_again)
{
    static const struct sl_plan_model model = {
        .n_layers = 4, .max_pos = CONTEXT, .d_model = 8, .vocab = 1000, .kv_layer_bytes = 64};
    struct sl_plan_options options = {.n_stages = 1, .n_decoders = 1, .max_running = 1, .epoch = 1};
    struct sl_plan plan;
    struct sl_arena arena;
    struct sl_core *core;
    static const uint32_t ids[10];
    REQUIRE(sl_plan_make(&plan, &model, &options, NULL) == SL_OK);
    struct sl_core_config config = {.plan = &plan,
                                    .n_decoders = 1,
                                    .max_requests = 8,
                                    .max_waiting_us = UINT64_MAX / 2,
                                    .max_waiting_tokens = 25};
    REQUIRE(sl_arena_init(&arena, sl_core_bytes(&config), NULL) == SL_OK);
    REQUIRE(sl_core_init(&core, &arena, &config) == SL_OK);
    struct sl_actions actions = {.room = sl_core_max_actions(core)};
    actions.list = calloc(actions.room, sizeof *actions.list);
    sl_core_complete(core, &actions);
    struct sl_ask asks[3];
    for (uint32_t i = 0; i < 3; i++)
        asks[i] = (struct sl_ask){.ids = ids, .n_ids = 10, .max_tokens = 2, .prompt_logprobs = -1};
    CHECK(sl_core_submit(core, 1, &asks[0], &actions) != 0 &&
          sl_core_submit(core, 1, &asks[1], &actions) != 0);
    const struct sl_action *a = refused(
        core, 1, &asks[2], SL_E_EXHAUSTED,
        "the requests that are queued have as many tokens as this node takes; try again later", &actions);
    CHECK(a && a->end.retry_after_ms > 0 && a->end.retry_after_ms <= 600000);
    free(actions.list);
    sl_arena_fini(&arena);
}
