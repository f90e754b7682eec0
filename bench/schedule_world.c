/* The clock of schedule_world.h, the coordinator around the core, and the stages. */
#include "bench/schedule_world.h"
#include "base/rng.h"
#include "bench/schedule_impl.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    WAITING = 1024, /* requests in the queue, as of a server without options */
    AMPLE_TOKENS = 1 << 23
};

void sl_bench_flow(uint32_t n_stages, double at_us, double between_us, const double *spent_us,
                   double *free_us, double *end_us)
{
    for (uint32_t s = 0; s < n_stages; s++) {
        double begin = at_us > free_us[s] ? at_us : free_us[s];
        end_us[s] = free_us[s] = begin + spent_us[s];
        at_us = end_us[s] + between_us;
    }
}

void sl_bench_world_fail(struct sl_bench_world *w, sl_status status, const char *sentence)
{
    if (w->status == SL_OK)
        w->status = sl_fail(w->err, status, "%s (seed %llu, at %.0f us)", sentence,
                            (unsigned long long)w->config.seed, w->now_us);
}

/* ---- events ---- */

static bool earlier(const struct sl_bench_event *a, const struct sl_bench_event *b)
{
    return a->at_us != b->at_us ? a->at_us < b->at_us : a->number < b->number;
}

void sl_bench_world_at(struct sl_bench_world *w, double at_us, struct sl_bench_event event)
{
    if (w->n_events == w->room_events) {
        uint32_t room = w->room_events ? 2 * w->room_events : 1024;
        struct sl_bench_event *heap = realloc(w->heap, room * sizeof *heap);
        if (!heap) {
            sl_bench_world_fail(w, SL_E_NOMEM, "out of memory; ask for fewer requests");
            free(event.adopt);
            free(event.entries);
            return;
        }
        w->heap = heap;
        w->room_events = room;
    }
    event.at_us = at_us;
    event.number = w->n_made++;
    uint32_t i = w->n_events++;
    for (; i > 0 && earlier(&event, &w->heap[(i - 1) / 2]); i = (i - 1) / 2)
        w->heap[i] = w->heap[(i - 1) / 2];
    w->heap[i] = event;
}

static bool next_event(struct sl_bench_world *w, struct sl_bench_event *event)
{
    if (w->n_events == 0)
        return false;
    *event = w->heap[0];
    struct sl_bench_event last = w->heap[--w->n_events];
    uint32_t i = 0;
    for (uint32_t child; (child = 2 * i + 1) < w->n_events; i = child) {
        if (child + 1 < w->n_events && earlier(&w->heap[child + 1], &w->heap[child]))
            child++;
        if (!earlier(&w->heap[child], &last))
            break;
        w->heap[i] = w->heap[child];
    }
    w->heap[i] = last;
    w->now_us = event->at_us;
    return true;
}

/* ---- the stages ---- */

double sl_bench_link_us(const struct sl_bench_world_config *config, uint32_t tokens)
{
    return 8.0 * tokens * config->shape->kv_bytes / (config->link_gbits * 1e3);
}

/* Log-normal around 1, by the record and the stage alone. */
static double noise(const struct sl_bench_world *w, uint64_t number, uint32_t stage)
{
    uint64_t at = 2 * (number * SL_MAX_STAGES + stage);
    double u = sl_rng_unit(sl_rng_at(w->config.seed ^ 0x5EED, at)) + 1e-12,
           v = sl_rng_unit(sl_rng_at(w->config.seed ^ 0x5EED, at + 1));
    return exp(w->config.sigma * sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
}

static void note_slice(struct sl_bench_due *due, const struct sl_order_slice *s, struct sl_cost_chunk *chunk)
{
    bool last = s->flags & SL_SLICE_LAST, again = s->flags & SL_SLICE_RESTORE;
    due->slices[due->n_slices].seq = s->seq;
    due->slices[due->n_slices].index = s->index;
    due->slices[due->n_slices].pos = s->pos;
    due->slices[due->n_slices].n = s->n;
    due->slices[due->n_slices++].has_token = last && !again;
    due->fills = due->fills || again;
    sl_cost_add(chunk, s->pos, s->n);
}

static double slower(const struct sl_bench_world *w)
{
    return w->config.slower > 0 ? w->config.slower : 1;
}

/* A record is sent: when it leaves each stage is known at once. */
static void run_record(struct sl_bench_world *w, const struct sl_action *a)
{
    const struct sl_bench_shape *shape = w->config.shape;
    struct sl_bench_due *due = &w->due[w->due_head++ % w->room_due];
    struct sl_cost_chunk chunk = {0};
    *due = (struct sl_bench_due){.number = a->record.number, .seq = a->seq, .kind = a->record.kind};
    for (uint32_t i = 0; a->record.run && i < a->record.run->order.n_slices; i++)
        note_slice(due, &a->record.run->order.slices[i], &chunk);
    due->rows = (uint32_t)chunk.rows;
    double spent[SL_MAX_STAGES], ends[SL_MAX_STAGES],
        us = slower(w) * sl_bench_shape_us(shape, &chunk),
        between = shape->hop_us + shape->hop_row_us * chunk.rows;
    for (uint32_t s = 0; s < shape->n_stages; s++)
        spent[s] = us > 0 ? us * noise(w, due->number, s) : 0;
    sl_bench_flow(shape->n_stages, w->now_us + shape->hop_us, between, spent, w->free_us, ends);
    for (uint32_t s = 0; s < shape->n_stages; s++)
        due->traces[s] =
            (struct sl_trace){.recv_us = (uint64_t)(s ? ends[s - 1] + between : w->now_us + shape->hop_us),
                              .begin_us = (uint64_t)(ends[s] - spent[s]),
                              .end_us = (uint64_t)ends[s]};
    w->report->records++;
    w->report->runs += us > 0;
    w->report->slices += due->n_slices;
    w->report->busy_us += spent[0];
    w->report->fill_us += due->fills ? spent[0] : 0;
    sl_bench_world_at(w, ends[shape->n_stages - 1] + shape->hop_us,
                      (struct sl_bench_event){.kind = SL_BENCH_RESULT});
}

uint32_t sl_bench_token_of(const struct sl_bench_world *w, uint32_t which, uint32_t n)
{
    return n >= w->load->requests[which].n_out ? SL_BENCH_END_ID : SL_BENCH_ID;
}

/* ---- actions ---- */

/* Tokens in the whole pages of the answer before it that went back over the link, and were there in time: they are left out of
 * its prompt, which begins behind that of the turn before as it is. So its own rows look back on as many tokens less. */
static uint32_t sent_of(const struct sl_bench_world *w, uint32_t which)
{
    const struct sl_bench_request *r = &w->load->requests[which],
                                  *before = r->before ? &w->load->requests[r->before - 1] : NULL;
    if (!before || w->config.answers != SL_BENCH_SENT)
        return 0;
    uint32_t n = ((before->n + before->n_out) / SL_PAGE - before->n / SL_PAGE) * SL_PAGE;
    return before->pause_us < sl_bench_link_us(&w->config, n) ? 0 : n;
}

static uint32_t which_of(const struct sl_bench_world *w, const struct sl_action *a)
{
    return (uint32_t)((const struct sl_ask *)a->user - w->asks);
}

static void send_adopt(struct sl_bench_world *w, const struct sl_action *a)
{
    struct sl_bench_adopt *frame = malloc(sizeof *frame);
    if (!frame) {
        sl_bench_world_fail(w, SL_E_NOMEM, "out of memory; ask for fewer requests");
        return;
    }
    *frame = (struct sl_bench_adopt){.adopt = *a->adopt, .which = a->user ? which_of(w, a) : 0};
    sl_bench_world_at(w, w->now_us + w->config.shape->hop_us,
                      (struct sl_bench_event){.kind = SL_BENCH_ADOPT, .adopt = frame});
}

static void on_token(struct sl_bench_world *w, uint32_t which, uint32_t n_cached)
{
    struct sl_bench_outcome *o = &w->outcomes[which];
    double pause = w->now_us - w->last_us[which];
    if (o->n_out++ == 0) {
        o->first_us = w->now_us;
        uint32_t sent = sent_of(w, which);
        bool behind = sent > 0 && n_cached >= w->load->requests[w->load->requests[which].before - 1].n /
                                                  SL_PAGE * SL_PAGE;
        o->n_cached = n_cached + (behind ? sent : 0);
    } else if (pause > o->pause_us)
        o->pause_us = pause;
    w->last_us[which] = w->now_us;
    w->report->tokens++;
}

static void arrive_next(struct sl_bench_world *w)
{
    uint32_t n_open = w->load->n_open;
    double until = n_open ? w->load->requests[n_open - 1].at_us : HUGE_VAL;
    if (w->next_closed == w->load->n_closed || w->now_us > until)
        return;
    sl_bench_world_at(w, w->now_us,
                      (struct sl_bench_event){.kind = SL_BENCH_ARRIVE, .which = n_open + w->next_closed++});
}

static void on_end(struct sl_bench_world *w, const struct sl_action *a)
{
    uint32_t which = which_of(w, a);
    struct sl_bench_outcome *o = &w->outcomes[which];
    o->end_us = w->now_us;
    o->status = a->end.status;
    o->retry_after_ms = a->end.retry_after_ms;
    w->n_live--;
    free(w->ids[which]);
    w->ids[which] = NULL;
    const struct sl_bench_request *r = &w->load->requests[which];
    if (r->next && o->first_us > 0 && o->status == SL_OK)
        sl_bench_world_at(w, w->now_us + r->pause_us,
                          (struct sl_bench_event){.kind = SL_BENCH_ARRIVE, .which = r->next - 1});
    if (which >= w->load->n_open && !r->before)
        arrive_next(w);
}

static void carry_out(struct sl_bench_world *w)
{
    for (uint32_t i = 0; i < w->actions.n; i++) {
        const struct sl_action *a = &w->actions.list[i];
        if (a->kind == SL_ACTION_RECORD)
            run_record(w, a);
        else if (a->kind == SL_ACTION_ADOPT)
            send_adopt(w, a);
        else if (a->kind == SL_ACTION_TOKEN)
            on_token(w, which_of(w, a), a->token.cached_tokens);
        else if (a->kind == SL_ACTION_END)
            on_end(w, a);
        else if (a->kind == SL_ACTION_ADMIT)
            w->outcomes[which_of(w, a)].predicted_us = (double)a->admit.predicted_us;
        else if (a->kind == SL_ACTION_SET_BACK)
            w->report->set_back++;
    }
    w->actions.n = 0;
}

/* ---- inputs ---- */

static const uint32_t *ids_of(struct sl_bench_world *w, uint32_t which)
{
    const struct sl_bench_request *r = &w->load->requests[which];
    if (r->n_text == 0 && !r->before)
        return sl_bench_texts_own(&w->texts, which);
    w->ids[which] = malloc(r->n * sizeof **w->ids);
    if (!w->ids[which]) {
        sl_bench_world_fail(w, SL_E_NOMEM, "out of memory; ask for fewer requests");
        return NULL;
    }
    uint32_t *ids = w->ids[which], sent = sent_of(w, which);
    sl_bench_texts_write(&w->texts, w->load, which, ids, r->n);
    if (sent > 0) {
        uint32_t at = w->load->requests[r->before - 1].n / SL_PAGE * SL_PAGE;
        memmove(ids + at, ids + at + sent, (r->n - at - sent) * sizeof *ids);
        w->report->sent_us += sl_bench_link_us(&w->config, sent);
    }
    return ids;
}

static void on_arrive(struct sl_bench_world *w, uint32_t which)
{
    const struct sl_bench_request *r = &w->load->requests[which];
    struct sl_ask *ask = &w->asks[which];
    const uint32_t *ids = ids_of(w, which);
    if (!ids)
        return;
    *ask = (struct sl_ask){.ids = ids,
                           .n_ids = r->n - sent_of(w, which),
                           .max_tokens = r->max_tokens,
                           .sampling = {.top_p = 1, .n_logprobs = -1},
                           .prompt_logprobs = -1,
                           .user = ask};
    ask->said[0].ids = w->told;
    if (r->target_us > 0)
        ask->target_us = (uint64_t)(w->now_us + r->target_us);
    if (r->tenant > 0)
        ask->tenant[0] = 'f';
    w->n_live++;
    w->report->last_submit_us = w->outcomes[which].submit_us = w->now_us;
    w->outcomes[which].was_refused = sl_core_submit(w->core, (uint64_t)w->now_us, ask, &w->actions) == 0;
    carry_out(w);
}

static void note_ran(struct sl_bench_world *w, uint32_t rows)
{
    if (rows > 0 && w->report->n_ran == w->room_ran) {
        uint32_t room = w->room_ran ? 2 * w->room_ran : 4096;
        struct sl_bench_ran *ran = realloc(w->report->ran, room * sizeof *ran);
        if (!ran) {
            sl_bench_world_fail(w, SL_E_NOMEM, "out of memory; ask for fewer requests");
            return;
        }
        w->report->ran = ran;
        w->room_ran = room;
    }
    if (rows > 0)
        w->report->in_flight += (double)(w->report->runs - w->report->n_ran);
    if (rows > 0)
        w->report->ran[w->report->n_ran++] = (struct sl_bench_ran){w->now_us, rows};
}

static void on_result(struct sl_bench_world *w)
{
    const struct sl_bench_due *due = &w->due[w->due_tail++ % w->room_due];
    struct sl_cursor out = sl_cursor_over(w->bytes, w->n_bytes);
    struct sl_result_head head = {.number = due->number, .kind = due->kind, .n_slices = due->n_slices};
    for (uint32_t s = 0; s < w->plan.n_stages; s++)
        head.traces[s] = due->traces[s];
    sl_result_put_head(&out, &head, w->plan.n_stages);
    for (uint32_t i = 0; i < due->n_slices; i++) {
        struct sl_result_slice slice = {.seq = due->slices[i].seq,
                                        .index = due->slices[i].index,
                                        .pos = due->slices[i].pos,
                                        .n = due->slices[i].n,
                                        .has_token = due->slices[i].has_token,
                                        .first = {.id = SL_BENCH_ID}};
        sl_result_put_slice(&out, &slice);
    }
    note_ran(w, due->rows);
    const char *bad = sl_core_result(w->core, w->bytes, (size_t)(out.at - w->bytes), &w->actions);
    if (bad)
        sl_bench_world_fail(w, SL_E_INTERNAL, bad);
    carry_out(w);
}

static void on_tokens(struct sl_bench_world *w, const struct sl_bench_entries *entries)
{
    for (uint32_t i = 0; i < entries->n && w->status == SL_OK; i++) {
        const char *bad = sl_core_entry(w->core, 0, &entries->list[i], &w->actions);
        if (bad)
            sl_bench_world_fail(w, SL_E_INTERNAL, bad);
        carry_out(w);
    }
}

static void decide(struct sl_bench_world *w)
{
    sl_core_decide(w->core, (uint64_t)w->now_us, &w->actions);
    carry_out(w);
    double wake_us = (double)sl_core_wake_us(w->core);
    if (wake_us > 0 && (w->wake_us <= w->now_us || wake_us < w->wake_us)) {
        w->wake_us = wake_us > w->now_us ? wake_us : w->now_us + 1;
        sl_bench_world_at(w, w->wake_us, (struct sl_bench_event){.kind = SL_BENCH_WAKE});
    }
}

static void happen(struct sl_bench_world *w, const struct sl_bench_event *e)
{
    switch (e->kind) {
    case SL_BENCH_ARRIVE:
        on_arrive(w, e->which);
        break;
    case SL_BENCH_RESULT:
        on_result(w);
        break;
    case SL_BENCH_TOKENS:
        on_tokens(w, e->entries);
        break;
    case SL_BENCH_ADOPT:
        sl_bench_decode_deliver(w, e->adopt);
        return; /* the coordinator knows of nothing */
    case SL_BENCH_STEP:
        sl_bench_decode_step(w);
        return;
    case SL_BENCH_WAKE:
        break;
    }
    if (w->status == SL_OK)
        decide(w);
    const char *bad = w->config.check ? sl_core_check(w->core) : NULL;
    if (bad)
        sl_bench_world_fail(w, SL_E_INTERNAL, bad);
}

/* ---- the world ---- */

static sl_status make_core(struct sl_bench_world *w)
{
    const struct sl_bench_world_config *c = &w->config;
    const struct sl_bench_shape *shape = c->shape;
    struct sl_plan_model model = {.n_layers = shape->n_stages,
                                  .max_pos = shape->context,
                                  .d_model = 1,
                                  .vocab = SL_BENCH_VOCAB,
                                  .kv_layer_bytes = 64};
    struct sl_plan_options options = {.n_stages = shape->n_stages,
                                      .n_decoders = 1,
                                      .chunk_tokens = c->chunk_tokens,
                                      .max_prefill = SL_MAX_BATCH,
                                      .max_running = c->max_running ? c->max_running : SL_MAX_BATCH,
                                      .context_tokens = shape->context,
                                      .kv_tokens = c->kv_tokens ? c->kv_tokens : AMPLE_TOKENS};
    if (c->schedule == SL_SCHEDULE_SLO && c->chunk_tokens == 0)
        options.chunk_tokens = shape->max_chunk; /* what buffers are planned for: the budget is in time */
    SL_TRY(sl_plan_make(&w->plan, &model, &options, w->err));
    w->plan.chunk_tokens = c->chunk_tokens; /* nobody has asked for chunks of so many rows */
    struct sl_core_config core = {.plan = &w->plan,
                                  .n_decoders = 1,
                                  .n_end_ids = 1,
                                  .end_ids = {SL_BENCH_END_ID},
                                  .max_requests = WAITING + SL_MAX_BATCH,
                                  .schedule = c->schedule,
                                  .chunk_us = c->chunk_us,
                                  .slo_us = c->slo_us,
                                  .runs = c->runs,
                                  .prefix_cache = w->load->repeats,
                                  .no_refill = c->answers != SL_BENCH_REFILLED,
                                  /* closed ones would all be refused at once */
                                  .max_waiting_us = w->load->width > 0 ? UINT64_MAX / 2 : 0};
    SL_TRY(sl_arena_init(&w->arena, sl_core_bytes(&core), w->err));
    SL_TRY(sl_core_init(&w->core, &w->arena, &core));
    struct sl_cost prior = sl_bench_shape_prior(shape);
    for (uint32_t t = 0; t < SL_COST_TERMS; t++)
        prior.us[t] *= slower(w);
    for (uint32_t k = 0; k < shape->n_stages; k++)
        sl_core_cost(w->core, k, &prior);
    w->actions.room = sl_core_max_actions(w->core);
    w->n_bytes = sl_result_max_bytes(w->plan.n_stages, w->plan.max_chunk);
    w->room_due = 4 * sl_plan_max_runs(&w->plan) + 2 * w->plan.max_prefill + 2 * w->plan.max_running;
    return SL_OK;
}

static sl_status take_memory(struct sl_bench_world *w)
{
    uint32_t n = w->load->n, context = w->config.shape->context;
    w->actions.list = calloc(w->actions.room, sizeof *w->actions.list);
    w->asks = calloc(n, sizeof *w->asks);
    w->last_us = calloc(n, sizeof *w->last_us);
    w->ids = calloc(n, sizeof *w->ids);
    w->told = calloc(context, sizeof *w->told);
    w->due = calloc(w->room_due, sizeof *w->due);
    w->bytes = malloc(w->n_bytes);
    if (!w->actions.list || !w->asks || !w->last_us || !w->ids || !w->told || !w->due || !w->bytes)
        return sl_fail(w->err, SL_E_NOMEM, "out of memory for %u requests; ask for fewer", n);
    for (uint32_t i = 0; i < context; i++)
        w->told[i] = SL_BENCH_ID;
    return sl_bench_texts_init(&w->texts, w->config.seed, context, w->err);
}

static void take_down(struct sl_bench_world *w)
{
    struct sl_bench_event event;
    while (next_event(w, &event)) {
        free(event.adopt);
        free(event.entries);
    }
    free(w->heap);
    free(w->actions.list);
    free(w->asks);
    free(w->last_us);
    for (uint32_t i = 0; w->ids && i < w->load->n; i++)
        free(w->ids[i]);
    free(w->ids);
    sl_bench_texts_fini(&w->texts);
    free(w->told);
    free(w->due);
    free(w->bytes);
    sl_arena_fini(&w->arena);
    free(w);
}

static void go(struct sl_bench_world *w)
{
    struct sl_bench_event event;
    sl_core_complete(w->core, &w->actions);
    carry_out(w);
    for (uint32_t i = 0; i < w->load->n_open; i++)
        sl_bench_world_at(w, w->load->requests[i].at_us,
                          (struct sl_bench_event){.kind = SL_BENCH_ARRIVE, .which = i});
    for (uint32_t i = 0; i < w->load->width; i++)
        arrive_next(w);
    while (w->status == SL_OK && next_event(w, &event)) {
        happen(w, &event);
        free(event.adopt);
        free(event.entries);
    }
    if (w->status == SL_OK && w->n_live > 0)
        sl_bench_world_fail(w, SL_E_INTERNAL, "requests are left and nothing goes on; report this");
    struct sl_core_load left;
    sl_core_load(w->core, &left);
    w->report->slo_dear = left.slo_dear;
    w->report->end_us = w->now_us;
    w->report->in_flight /= w->report->n_ran > 0 ? w->report->n_ran : 1;
}

sl_status sl_bench_world_run(const struct sl_bench_world_config *config, const struct sl_bench_traffic *load,
                             struct sl_bench_outcome *outcomes, struct sl_bench_report *report,
                             struct sl_err *err)
{
    struct sl_bench_world *w = calloc(1, sizeof *w);
    *report = (struct sl_bench_report){0};
    if (!w)
        return sl_fail(err, SL_E_NOMEM, "out of memory");
    *w = (struct sl_bench_world){
        .config = *config, .load = load, .outcomes = outcomes, .report = report, .err = err};
    memset(outcomes, 0, load->n * sizeof *outcomes);
    w->status = make_core(w);
    if (w->status == SL_OK)
        w->status = take_memory(w);
    if (w->status == SL_OK)
        go(w);
    sl_status status = w->status;
    take_down(w);
    return status;
}

void sl_bench_report_fini(struct sl_bench_report *report)
{
    free(report->ran);
    report->ran = NULL;
}
