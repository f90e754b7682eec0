/* A pipeline for tests of the decider: the test is the thread around the core, the stages, which apply every record, and the
 * decode worker. Inputs are given by hand. */
#ifndef SL_TESTS_PIPELINE_DECIDE_CORE_WORLD_H
#define SL_TESTS_PIPELINE_DECIDE_CORE_WORLD_H

#include "pipeline/decide/core.h"
#include "pipeline/decide/sequences.h"
#include "tests/check.h"
#include <stdlib.h>

enum { STAGES = 2, RUNNING = 3, REQUESTS = 6, CONTEXT = 512, CHUNK = 64, ROOM = 1024, LOG = 4096, EOS = 7 };

struct waiting { /* a record that the stages have not answered yet */
    enum sl_order_kind kind;
    uint64_t number, seq;
    struct sl_order order;
    uint32_t n_pushed; /* of its pages, to the decode worker */
};

struct heard_answer { /* of an index behind 0 */
    uint32_t n, first;
    bool ended;
    sl_status status;
    enum sl_finish finish;
};

struct heard { /* what the holder of a request was told; of index 0, but for the last three */
    struct sl_ask ask;
    uint64_t seq;
    uint32_t tokens[ROOM], n;
    bool ended;
    sl_status status;
    enum sl_finish finish;
    int64_t stop_id;
    uint32_t n_out;
    uint64_t kv_digest;
    struct heard_answer others[SL_MAX_N];
    uint32_t n_ended, n_set_back;
    bool all_ended;
};

struct core_world {
    struct sl_arena arena, tables;
    struct sl_plan plan;
    struct sl_core *core;
    struct sl_action list[ROOM];
    struct sl_actions actions;
    struct waiting log[LOG];
    uint32_t head, tail;
    struct sl_sequences stage; /* what a stage makes of the log */
    struct sl_adopt adopts[LOG];
    uint32_t adopted_by[LOG]; /* by number of the ADOPT: the place of the decode worker */
    uint32_t speaker;         /* the decode worker that says what is said */
    uint32_t n_left, left;    /* decode workers that may go, and the last of them */
    uint32_t n_adopts, n_lives, n_runs, n_steered, n_bans; /* slices that steer; ids that may not come */
    enum sl_life life;
    const char *refused; /* results are, with these words */
    bool gives_up;       /* the last stage answers as if all that a record runs had been cancelled */
    bool end_at_first;   /* the holder finds a stop string in the first token of every text */
    uint32_t ids[CONTEXT];
    uint64_t now_us;
    struct sl_trace traces[STAGES]; /* of what is answered */
};

static inline void no_clearing(void *user, uint32_t page)
{
    (void)user, (void)page;
}

static inline void apply_record(struct core_world *w, const struct sl_action *a)
{
    struct waiting *at = &w->log[w->head++ % LOG];
    *at = (struct waiting){a->record.kind, a->record.number, a->seq, {0}, 0};
    if (a->record.kind != SL_ORDER_RUN) {
        struct sl_sequence *s = sl_sequences_find(&w->stage, a->seq);
        REQUIRE(s != NULL);
        sl_sequences_close(&w->stage, s);
        return;
    }
    struct sl_order_limits limits = sl_plan_order_limits(&w->plan);
    const struct sl_run *run = a->record.run;
    for (uint32_t i = 0; i < run->order.n_slices; i++) {
        w->n_steered += run->order.slices[i].steering_bytes > 0;
        w->n_bans += run->order.slices[i].n_bans;
    }
    for (uint32_t i = 0; i < run->order.n_pages; i++)
        at->n_pushed += run->pages[i].decode != SL_NO_PAGE;
    uint8_t *meta = malloc(sl_order_meta_bytes(&limits));
    sl_order_pack(meta, &run->order, run->ids, run->pages, &limits);
    const char *bad = sl_order_unpack(&at->order, meta, sl_order_meta_bytes(&limits), &limits);
    struct sl_sequence *found[SL_MAX_SLICES];
    if (bad ||
        sl_sequences_apply(&w->stage, &at->order, meta, &limits, found, no_clearing, NULL, &bad) != SL_OK)
        sl_test_fail(__FILE__, __LINE__, "no stage would take this record: %s", bad);
    free(meta);
    w->n_runs++;
}

static inline void hear(struct core_world *w, const struct sl_action *a);

static inline void carry_out(struct core_world *w)
{
    uint64_t ends[ROOM];
    uint32_t n_ends = 0;
    for (uint32_t i = 0; i < w->actions.n; i++) {
        const struct sl_action *a = &w->list[i];
        hear(w, a);
        if (a->kind == SL_ACTION_TOKEN && w->end_at_first && a->token.n_out == 1)
            ends[n_ends++] = a->seq;
    }
    w->actions.n = 0;
    const char *bad = sl_core_check(w->core);
    if (bad)
        sl_test_fail(__FILE__, __LINE__, "%s", bad);
    for (uint32_t i = 0; i < n_ends; i++) {
        sl_core_text_ends(w->core, ends[i], 1, &w->actions);
        carry_out(w);
    }
}

static inline void hear(struct core_world *w, const struct sl_action *a)
{
    struct heard *h = a->user;
    switch (a->kind) {
    case SL_ACTION_RECORD:
        apply_record(w, a);
        break;
    case SL_ACTION_ADOPT:
        w->adopted_by[w->n_adopts % LOG] = a->decoder;
        w->adopts[w->n_adopts++ % LOG] = *a->adopt;
        break;
    case SL_ACTION_SET_BACK:
        h->n_set_back++;
        break;
    case SL_ACTION_TOKEN:
        if (a->index > 0) {
            struct heard_answer *other = &h->others[a->index];
            CHECK(!other->ended && a->token.n_out == ++other->n && a->seq % SL_MAX_N == a->index);
            if (other->n == 1)
                other->first = a->token.out->id;
            break;
        }
        CHECK(!h->ended && (a->token.out == NULL || a->token.n_out == h->n + 1));
        if (a->token.out)
            h->tokens[h->n++] = a->token.out->id;
        break;
    case SL_ACTION_END:
        CHECK(!h->all_ended);
        h->n_ended++;
        h->all_ended = a->end.last;
        CHECK((a->end.status != SL_OK) == (a->end.error != NULL));
        if (a->index > 0) {
            struct heard_answer *other = &h->others[a->index];
            CHECK(!other->ended);
            *other = (struct heard_answer){other->n, other->first, true, a->end.status, a->end.finish};
            break;
        }
        CHECK(!h->ended);
        h->ended = true;
        h->status = a->end.status;
        h->finish = a->end.finish;
        h->stop_id = a->end.stop_id;
        h->n_out = a->end.n_out;
        h->kv_digest = a->end.kv_digest;
        break;
    case SL_ACTION_LIFE:
        w->life = a->life.life;
        w->n_lives++;
        break;
    case SL_ACTION_LEFT:
        w->n_left++;
        w->left = a->decoder;
        break;
    default:
        CHECK(h != NULL);
    }
}

/* expect_tokens: of an output, as the decider begins; 0: its own guess. */
static inline void make_whole_world(struct core_world *w, uint32_t n_decoders, uint32_t running,
                                    uint32_t expect_tokens, bool prefix_cache)
{
    static const struct sl_plan_model model = {
        .n_layers = 4, .max_pos = CONTEXT, .d_model = 8, .vocab = 1000, .kv_layer_bytes = 64};
    struct sl_plan_options options = {.n_stages = STAGES,
                                      .n_decoders = n_decoders,
                                      .chunk_tokens = CHUNK,
                                      .max_prefill = n_decoders * running,
                                      .max_running = running,
                                      .kv_tokens = 1024,
                                      .epoch = 1};
    *w = (struct core_world){.actions = {.room = ROOM}};
    w->actions.list = w->list;
    REQUIRE(sl_plan_make(&w->plan, &model, &options, NULL) == SL_OK);
    struct sl_core_config config = {.plan = &w->plan,
                                    .schedule = SL_SCHEDULE_FIFO, /* the cuts are known beforehand */
                                    .n_decoders = n_decoders,
                                    .alone_us = 5000,
                                    .n_end_ids = 1,
                                    .end_ids = {EOS},
                                    .max_requests = REQUESTS,
                                    .expect_tokens = expect_tokens,
                                    .prefix_cache = prefix_cache};
    REQUIRE(sl_arena_init(&w->arena, sl_core_bytes(&config), NULL) == SL_OK);
    REQUIRE(sl_core_init(&w->core, &w->arena, &config) == SL_OK);
    REQUIRE(sl_core_max_actions(w->core) <= ROOM);
    uint32_t prompts = w->plan.max_prefill;
    REQUIRE(sl_arena_init(&w->tables, sl_sequences_bytes(prompts, CONTEXT, w->plan.n_pages), NULL) == SL_OK);
    REQUIRE(sl_sequences_init(&w->stage, &w->tables, prompts, CONTEXT, w->plan.n_pages) == SL_OK);
    for (uint32_t i = 0; i < CONTEXT; i++)
        w->ids[i] = i;
    sl_core_complete(w->core, &w->actions);
    carry_out(w);
    CHECK_INT(w->life, SL_LIFE_READY);
}

static inline void make_world_of(struct core_world *w, uint32_t n_decoders, uint32_t running,
                                 uint32_t expect_tokens)
{
    make_whole_world(w, n_decoders, running, expect_tokens, false);
}

static inline void make_world_with(struct core_world *w, uint32_t running, uint32_t expect_tokens,
                                   bool prefix_cache)
{
    make_whole_world(w, 1, running, expect_tokens, prefix_cache);
}

static inline void make_world_that_expects(struct core_world *w, uint32_t running, uint32_t expect_tokens)
{
    make_world_of(w, 1, running, expect_tokens);
}

static inline void make_world(struct core_world *w, uint32_t running)
{
    make_world_that_expects(w, running, 0);
}

static inline void end_world(struct core_world *w)
{
    sl_arena_fini(&w->arena);
    sl_arena_fini(&w->tables);
    free(w);
}

static inline struct heard *ask(struct core_world *w, uint32_t n_ids, uint32_t max_tokens)
{
    struct heard *h = calloc(1, sizeof *h);
    h->ask = (struct sl_ask){.ids = w->ids,
                             .n_ids = n_ids,
                             .max_tokens = max_tokens,
                             .sampling = {.top_p = 1, .n_logprobs = -1},
                             .prompt_logprobs = -1,
                             .user = h,
                             .said = {{.ids = h->tokens}}};
    return h;
}

static inline void submit(struct core_world *w, struct heard *h)
{
    h->seq = sl_core_submit(w->core, w->now_us, &h->ask, &w->actions);
    carry_out(w);
}

static inline void decide(struct core_world *w)
{
    sl_core_decide(w->core, w->now_us, &w->actions);
    carry_out(w);
}

/* The last stage answers the record that is next; first tokens are `token`. false: there is none. */
static inline bool answer(struct core_world *w, uint32_t token)
{
    if (w->head == w->tail)
        return false;
    const struct waiting *at = &w->log[w->tail++ % LOG];
    uint8_t bytes[1 << 16];
    struct sl_cursor out = sl_cursor_over(bytes, sizeof bytes);
    struct sl_result_head head = {.number = at->number, .kind = at->kind, .n_slices = at->order.n_slices};
    memcpy(head.traces, w->traces, sizeof w->traces);
    if (w->gives_up)
        head.traces[STAGES - 1].begin_us = SL_GIVEN_UP;
    sl_result_put_head(&out, &head, STAGES);
    for (uint32_t i = 0; i < at->order.n_slices; i++) {
        const struct sl_order_slice *s = &at->order.slices[i];
        struct sl_result_slice slice = {.seq = s->seq,
                                        .index = s->index,
                                        .pos = s->pos,
                                        .n = s->n,
                                        .has_token =
                                            (s->flags & (SL_SLICE_LAST | SL_SLICE_RESTORE)) == SL_SLICE_LAST,
                                        .first = {.id = token},
                                        .n_more = s->n_more};
        for (uint32_t k = 0; k < s->n_more; k++)
            slice.more[k].id = token + 1 + k;
        sl_result_put_slice(&out, &slice);
    }
    CHECK(!out.bad);
    const char *bad = sl_core_result(w->core, bytes, (size_t)(out.at - bytes), &w->actions);
    if (w->refused)
        CHECK_CONTAINS(bad ? bad : "", w->refused);
    else if (bad)
        sl_test_fail(__FILE__, __LINE__, "the core refuses a result: %s", bad);
    carry_out(w);
    return true;
}

static inline const char *say(struct core_world *w, uint64_t seq, enum sl_tokens_kind kind, uint32_t token,
                              uint32_t finish)
{
    struct sl_tokens_entry entry = {
        .kind = kind, .seq = seq, .token = {.id = token}, .finish = finish, .kv_digest = 99};
    if (kind == SL_TOKENS_FAILED)
        entry.status = SL_E_CORRUPT;
    const char *bad = sl_core_entry(w->core, w->speaker, &entry, &w->actions);
    carry_out(w);
    return bad;
}

static inline void answer_all(struct core_world *w, uint32_t token)
{
    decide(w);
    while (answer(w, token))
        decide(w);
}

static inline void check_all_back(struct core_world *w)
{
    struct sl_core_load load;
    sl_core_load(w->core, &load);
    CHECK_INT(load.live, 0);
    CHECK_INT(load.running, 0);
    CHECK_INT(load.waiting, 0);
    CHECK_INT(load.pages_used, 0);
    CHECK_INT(load.decode_pages_used, 0);
    CHECK_INT(load.records, load.records_answered);
    CHECK_INT(w->stage.n_live, 0);
    CHECK_INT(w->stage.n_used, 0);
}

static inline struct core_world *new_world(void)
{
    struct core_world *w = malloc(sizeof *w);
    make_world(w, RUNNING);
    return w;
}

#endif
