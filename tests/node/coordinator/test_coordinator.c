/* node/coordinator/coordinator.c: the deciding thread beside neighbours that are played by hand, one stage and a decode worker:
 * they answer what they should, but need not take what they are sent. */
#include "base/log.h"
#include "base/text.h"
#include "node/coordinator/coordinator.h"
#include "node/coordinator/links.h"
#include "pipeline/record/messages.h"
#include "pipeline/record/tail.h"
#include "tests/check.h"
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { CONTEXT = 128, RUNNING = 2, WAITING = 4, MANY = 100, STAGE = 1, DECODE = 2, NODES = 3, FRAME = 1024 };

struct neighbours {
    struct sl_fabric *fabric;
    struct sl_plan plan;
    struct sl_io *io[NODES]; /* the coordinator's is its own once it runs */
    struct sl_coordinator *coordinator;
    uint64_t records, seq; /* answered so far; of the first request */
    bool takes[NODES];     /* that node gives back the slots of what it was sent */
    uint8_t frames[4 * MANY][FRAME] __attribute__((aligned(64)));
    uint32_t n_frames;
    _Atomic uint32_t n_calls, n_tokens, n_ended;
    uint32_t n_unseen; /* ends that others could not read of yet when they were told */
    sl_status status;
    char error[320];
};

static void where_is(void *user, uint32_t node, struct sl_io_address *address)
{
    const struct neighbours *w = user;
    *address = *sl_io_address(w->io[node]);
}

static bool start(struct neighbours *w)
{
    struct sl_err err;
    uint32_t n_links[NODES];
    static const uint8_t secret[32] = {1};
    const struct sl_tenant_weight weight = {"blue", 3.5};
    struct sl_plan_model model = {
        .n_layers = 1, .max_pos = CONTEXT, .d_model = 64, .vocab = 100, .kv_layer_bytes = 4096};
    struct sl_plan_options options = {.n_stages = 1,
                                      .n_decoders = 1,
                                      .max_decoders = 1,
                                      .max_running = RUNNING,
                                      .max_prefill = 16, /* few enough buffers that they run out here */
                                      .context_tokens = CONTEXT,
                                      .epoch = 3};
    static const struct sl_shape shape = {.vocab = 100, .max_pos = CONTEXT, .d_model = 64, .n_layers = 1};
    struct sl_tokenizer *none;
    sl_log_init("test", SL_LOG_ERROR);
    *w = (struct neighbours){.takes = {true, true, true}};
    bool ready = sl_plan_make(&w->plan, &model, &options, &err) == SL_OK &&
                 sl_fabric_create(&w->fabric) == SL_OK && sl_tokenizer_none(&none, &err) == SL_OK;
    struct sl_io_config config = {.transport = &sl_transport_local,
                                  .fabric = w->fabric,
                                  .limits = {1 << 24, 1, CONTEXT},
                                  .thread_name = "io"};
    for (uint32_t k = 0; k < NODES; k++)
        ready = ready && sl_io_create(&w->io[k], &config, &err) == SL_OK;
    for (uint32_t k = 0; k < NODES; k++)
        ready =
            ready && sl_links_open(w->io[k], &w->plan, k, secret, where_is, w, &n_links[k], &err) == SL_OK;
    ready = ready && sl_coordinator_create(
                         &w->coordinator,
                         &(struct sl_coordinator_config){
                             .plan = &w->plan,
                             .shape = &shape,
                             .tokenizer = none,
                             .model_path = "none",
                             .model_name = "none",
                             .io = w->io[0],
                             .n_links = n_links[0],
                             .max_waiting = WAITING,
                             .schedule = SL_SCHEDULE_FIFO, /* which bounds the queue by number alone */
                             .n_weights = 1,
                             .weights = &weight},
                         &err) == SL_OK;
    if (!ready || sl_coordinator_wait_ready(w->coordinator, sl_test_patience_ms(30000), &err) != SL_OK)
        sl_test_fail(__FILE__, __LINE__, "%s", err.text);
    return ready;
}

static void stop(struct neighbours *w)
{
    sl_coordinator_destroy(w->coordinator);
    sl_io_destroy(w->io[STAGE]);
    sl_io_destroy(w->io[DECODE]);
    sl_fabric_destroy(w->fabric);
}

static void on_call(void *user)
{
    struct neighbours *w = user;
    atomic_fetch_add(&w->n_calls, 1);
}

/* Until what it was given before has been decided: what is asked for first is looked at before a decision, and the second is
 * looked at after it. */
static void settle(struct neighbours *w)
{
    for (int i = 0; i < 2; i++) {
        uint32_t before = atomic_load(&w->n_calls);
        REQUIRE(sl_coordinator_call(w->coordinator, on_call, w) == SL_OK);
        while (atomic_load(&w->n_calls) == before)
            sched_yield();
    }
}

/* What a neighbour was sent by now; the first request's seq is learned from it. */
static void take_frames(struct neighbours *w, uint32_t node)
{
    struct sl_io_event event;
    while (sl_io_poll(w->io[node], &event, 0) == SL_OK) {
        if (event.kind != SL_IO_FRAME)
            continue;
        struct sl_order order;
        struct sl_order_limits limits = sl_plan_order_limits(&w->plan);
        if (node == STAGE && w->seq == 0 &&
            sl_order_unpack(&order, event.payload, event.wire.meta_bytes, &limits) == NULL)
            w->seq = order.slices[0].seq;
        if (w->takes[node])
            sl_io_release(w->io[node], event.link, event.slot);
    }
}

static void send(struct neighbours *w, uint32_t node, enum sl_wire_kind kind, uint32_t bytes)
{
    struct sl_wire wire = {.kind = (uint16_t)kind, .payload_bytes = bytes, .meta_bytes = bytes};
    sl_frame_seal(&wire, w->frames[w->n_frames]);
    uint64_t link =
        node == STAGE ? sl_plan_link_id(&w->plan, STAGE, 0) : sl_plan_link_id(&w->plan, 0, DECODE);
    CHECK_INT(sl_io_send(w->io[node], link, &wire, w->frames[w->n_frames], w->n_frames), SL_OK);
    w->n_frames++;
}

/* The stage answers the next record, as if it had it: a RUN that is a whole prompt of one token, or a FREE. */
static void answer(struct neighbours *w, enum sl_order_kind kind, uint64_t seq)
{
    struct sl_cursor out = sl_cursor_over(w->frames[w->n_frames], FRAME);
    struct sl_result_head head = {.number = ++w->records, .kind = kind, .n_slices = kind == SL_ORDER_RUN};
    sl_result_put_head(&out, &head, 1);
    if (kind == SL_ORDER_RUN)
        sl_result_put_slice(
            &out, &(struct sl_result_slice){.seq = seq, .n = 1, .has_token = true, .first = {.id = 7}});
    send(w, STAGE, SL_WIRE_RESULT, (uint32_t)(out.at - w->frames[w->n_frames]));
}

/* The decode worker says of a sequence, as if it had it: adopted, one token, its last, gone. */
static void decode(struct neighbours *w, uint64_t seq)
{
    static const enum sl_tokens_kind kinds[] = {SL_TOKENS_ADOPTED, SL_TOKENS_TOKEN, SL_TOKENS_ENDED};
    struct sl_cursor out = sl_cursor_over(w->frames[w->n_frames], FRAME);
    for (int i = 0; i < 3; i++)
        sl_tokens_put(
            &out, &(struct sl_tokens_entry){.kind = kinds[i], .seq = seq, .token = {.id = 8}, .finish = 2});
    send(w, DECODE, SL_WIRE_TOKENS, (uint32_t)(out.at - w->frames[w->n_frames]));
}

static void on_piece(void *user, const struct sl_generated *p)
{
    struct neighbours *w = user;
    atomic_fetch_add(&w->n_tokens, p->n_tokens);
    if (!p->done)
        return;
    struct sl_load load;
    sl_coordinator_load(w->coordinator, &load);
    w->n_unseen +=
        load.requests_ok + load.requests_failed != atomic_load(&w->n_ended) + 1 || load.running > 0;
    w->status = p->status;
    snprintf(w->error, sizeof w->error, "%s", p->error ? p->error : "");
    atomic_fetch_add(&w->n_ended, 1);
}

/* One request from its submission to its end; the stage and the worker answer whether or not they were sent anything. */
static void serve_one(struct neighbours *w, uint32_t max_tokens)
{
    struct sl_err err;
    uint64_t handle, nth = atomic_load(&w->n_ended);
    uint32_t prompt = 5, tokens = atomic_load(&w->n_tokens);
    struct sl_generate g = {.ids = &prompt,
                            .n_ids = 1,
                            .max_tokens = max_tokens,
                            .sampling = {.top_p = 1, .n_logprobs = -1},
                            .prompt_logprobs = -1,
                            .deadline_ms = -1};
    REQUIRE(sl_coordinator_submit(w->coordinator, &g, on_piece, w, &handle, &err) == SL_OK);
    settle(w);
    while (w->seq == 0)
        take_frames(w, STAGE);
    uint64_t seq = w->seq + nth * (WAITING + w->plan.max_prefill + 4 * RUNNING + 1) *
                                SL_MAX_N; /* one place, once more around */
    if (atomic_load(&w->n_ended) == nth)
        answer(w, SL_ORDER_RUN, seq);
    while (max_tokens > 1 && atomic_load(&w->n_tokens) == tokens && atomic_load(&w->n_ended) == nth)
        sched_yield();
    settle(w);
    if (max_tokens > 1 && atomic_load(&w->n_ended) == nth)
        decode(w, seq);
    while (atomic_load(&w->n_ended) == nth)
        sched_yield();
    if (sl_coordinator_life(w->coordinator) == SL_LIFE_READY)
        answer(w, SL_ORDER_FREE, seq);
    CHECK(sl_coordinator_wait_idle(w->coordinator, 60000));
    take_frames(w, STAGE);
    take_frames(w, DECODE);
}

static void serve_many(struct neighbours *w, uint32_t max_tokens)
{
    for (int i = 0; i < MANY && sl_coordinator_life(w->coordinator) == SL_LIFE_READY; i++)
        serve_one(w, max_tokens);
    settle(w);
}

SL_TEST(neighbours_that_answer_and_take_are_served_for_ever)
{
    static struct neighbours w;
    if (!start(&w))
        return;
    serve_many(&w, 2);
    CHECK_INT(w.n_ended, MANY);
    CHECK_INT(w.n_unseen, 0); /* whoever is told of an end finds it counted */
    CHECK_INT(w.status, SL_OK);
    CHECK_INT(sl_coordinator_life(w.coordinator), SL_LIFE_READY);
    stop(&w);
}

SL_TEST(what_was_written_to_the_log_is_shown_as_it_was_written)
{
    static struct neighbours w;
    struct sl_tail tail = {.words = malloc(SL_TAIL_WORDS * sizeof *tail.words)};
    struct sl_tail_record record;
    if (!tail.words || !start(&w))
        return;
    CHECK_INT(sl_coordinator_records(w.coordinator, &tail, 60000), SL_OK);
    CHECK(tail.begin == tail.end);
    for (int i = 0; i < 3; i++)
        serve_one(&w, 1);
    REQUIRE(sl_coordinator_records(w.coordinator, &tail, 60000) == SL_OK);
    uint64_t at = tail.begin, seq = 0, n = 0, before_us = 0;
    for (; sl_tail_next(&tail, &at, &record); n++) {
        const struct sl_order_slice *s = &record.order.slices[0];
        CHECK(record.order.number == n + 1 && record.at_us >= before_us);
        before_us = record.at_us;
        CHECK_INT(record.order.kind, n % 2 ? SL_ORDER_FREE : SL_ORDER_RUN);
        if (n % 2)
            CHECK(record.order.seq == seq);
        else
            CHECK(record.order.n_slices == 1 && s->n == 1 && s->n_pages == 1 &&
                  s->flags == (SL_SLICE_FIRST | SL_SLICE_LAST));
        seq = s->seq;
    }
    CHECK_INT(n, 6);
    free(tail.words);
    stop(&w);
}

/* It is lost in a sentence, before anything of ours runs out. */
static void withhold(uint32_t node, const char *name)
{
    static struct neighbours w;
    if (!start(&w))
        return;
    w.takes[node] = false;
    char sentence[320];
    serve_many(&w, node == DECODE ? 2 : 1);
    CHECK_INT(sl_coordinator_life(w.coordinator), SL_LIFE_LOST);
    sl_coordinator_lost_sentence(w.coordinator, sentence, sizeof sentence);
    CHECK_CONTAINS(sentence, name);
    CHECK_CONTAINS(sentence, "takes nothing of what it is sent");
    CHECK(w.n_ended > 4 && w.n_ended < MANY);
    stop(&w);
}

SL_TEST(a_stage_that_answers_but_takes_no_records_is_lost)
{
    withhold(STAGE, "stage 0");
}

SL_TEST(a_decode_worker_that_answers_but_takes_no_sequences_is_lost)
{
    withhold(DECODE, "decode");
}

SL_TEST(stop_strings_are_bounded_in_bytes_each_and_together)
{
    static struct neighbours w;
    static char longest[SL_MAX_STOP_BYTES + 2];
    struct sl_err err;
    uint64_t handle;
    uint32_t prompt = 5;
    if (!start(&w))
        return;
    memset(longest, 'x', SL_MAX_STOP_BYTES + 1);
    struct sl_generate g = {.ids = &prompt,
                            .n_ids = 1,
                            .max_tokens = 1,
                            .sampling = {.top_p = 1, .n_logprobs = -1},
                            .prompt_logprobs = -1,
                            .n_stop = 1,
                            .stop = {longest},
                            .deadline_ms = -1};
    CHECK_INT(sl_coordinator_submit(w.coordinator, &g, on_piece, &w, &handle, &err), SL_E_INVALID);
    CHECK_CONTAINS(err.text, "stop string 0 has 1025 bytes");
    longest[SL_MAX_STOP_BYTES] = 0;
    for (g.n_stop = 0; g.n_stop < 5; g.n_stop++)
        g.stop[g.n_stop] = longest;
    CHECK_INT(sl_coordinator_submit(w.coordinator, &g, on_piece, &w, &handle, &err), SL_E_INVALID);
    CHECK_CONTAINS(err.text, "5120 bytes together");
    stop(&w);
}

SL_TEST(who_waits_for_a_pipeline_that_is_told_to_stop_is_told_so)
{
    static struct neighbours w;
    struct sl_err err;
    if (!start(&w))
        return;
    sl_coordinator_drain(w.coordinator);
    settle(&w);
    CHECK_INT(sl_coordinator_wait_ready(w.coordinator, 1, &err), SL_E_UNAVAILABLE);
    CHECK_CONTAINS(err.text, "told to stop");
    stop(&w);
}

static struct sl_generate one_token(const uint32_t *prompt)
{
    return (struct sl_generate){.ids = prompt,
                                .n_ids = 1,
                                .max_tokens = 1,
                                .sampling = {.top_p = 1, .n_logprobs = -1},
                                .prompt_logprobs = -1,
                                .deadline_ms = -1};
}

SL_TEST(a_deadline_that_is_past_a_rank_and_a_name_out_of_bounds_are_refused_at_once)
{
    static struct neighbours w;
    struct sl_err err;
    uint64_t handle;
    uint32_t prompt = 5;
    if (!start(&w))
        return;
    struct sl_generate g = one_token(&prompt);
    g.deadline_ms = 0;
    CHECK_INT(sl_coordinator_submit(w.coordinator, &g, on_piece, &w, &handle, &err), SL_E_DEADLINE);
    CHECK_CONTAINS(err.text, "deadline");
    g = one_token(&prompt);
    g.priority = SL_PRIORITY_MOST + 1;
    CHECK_INT(sl_coordinator_submit(w.coordinator, &g, on_piece, &w, &handle, &err), SL_E_INVALID);
    CHECK_CONTAINS(err.text, "priority is 3");
    g = one_token(&prompt);
    g.slo_ms = SL_MAX_SLO_MS + 1;
    CHECK_INT(sl_coordinator_submit(w.coordinator, &g, on_piece, &w, &handle, &err), SL_E_INVALID);
    CHECK_CONTAINS(err.text, "86400001 ms");
    g = one_token(&prompt);
    memset(g.tenant, 'x', sizeof g.tenant);
    CHECK_INT(sl_coordinator_submit(w.coordinator, &g, on_piece, &w, &handle, &err), SL_E_INVALID);
    CHECK_CONTAINS(err.text, "tenant");
    CHECK_INT(w.n_ended, 0);
    struct sl_text text = {0};
    sl_coordinator_metrics(w.coordinator, &text);
    CHECK_CONTAINS(text.data, "sluice_requests_refused_total{reason=\"deadline\"} 1\n");
    free(text.data);
    stop(&w);
}

SL_TEST(what_a_request_says_of_itself_reaches_the_queue_and_a_full_one_counts_whom_it_refuses)
{
    static struct neighbours w;
    struct sl_core_view *view = malloc(sizeof *view);
    struct sl_err err;
    struct sl_text text = {0};
    uint64_t handle;
    uint32_t prompt = 5, most;
    if (!view || !start(&w))
        return;
    most = WAITING + w.plan.max_prefill + w.plan.max_running;
    sl_coordinator_set_silent(w.coordinator, STAGE, true); /* whoever comes waits */
    for (uint32_t i = 0; i <= most; i++) {
        struct sl_generate g = one_token(&prompt);
        snprintf(g.request_id, sizeof g.request_id, "r%u", i);
        strcpy(g.tenant, i == 1 ? "blue" : "");
        g.priority = i == 1 ? -2 : 0;
        g.deadline_ms = i == 1 ? 600000 : -1;
        CHECK_INT(sl_coordinator_submit(w.coordinator, &g, on_piece, &w, &handle, &err), SL_OK);
    }
    REQUIRE(sl_coordinator_view(w.coordinator, view, 60000) == SL_OK);
    REQUIRE(view->n_entries == most);
    CHECK_STR(view->entries[1].id, "r1");
    CHECK_STR(view->entries[1].tenant, "blue");
    CHECK_INT(view->entries[1].priority, -2);
    CHECK(view->entries[1].deadline_us > view->now_us);
    CHECK(view->entries[0].deadline_us == 0 && view->entries[0].tenant[0] == 0);
    CHECK(view->tenants[1].weight == 3.5); /* as start() has it */
    CHECK_INT(w.n_ended, 1);
    CHECK_INT(w.status, SL_E_EXHAUSTED);
    settle(&w);
    sl_coordinator_metrics(w.coordinator, &text);
    CHECK_CONTAINS(text.data, "sluice_requests_refused_total{reason=\"queue\"} 1\n");
    CHECK_CONTAINS(text.data, "sluice_requests_refused_total{reason=\"time\"} 0\n");
    CHECK_CONTAINS(text.data, "sluice_request_ttft_error_ratio_count{class=\"short\"} 0\n");
    free(text.data);
    free(view);
    stop(&w);
}
