/* The decider (pipeline/decide/core.h) among stages and a decode worker that answer at once and cost nothing. As many requests
 * as are asked for run at any time; the clock stands still while answers are made up, so the time is the core's alone. */
#include "bench/bench_decide.h"
#include "base/clock.h"
#include "base/rng.h"
#include "bench/samples.h"
#include "pipeline/decide/core.h"
#include <stdio.h>
#include <stdlib.h>

enum { VOCAB = 32000, PER_ROUND = 8 /* lives of each place in the batch */ };

struct answer_due { /* a record that the stages have not answered */
    uint64_t number;
    enum sl_order_kind kind;
    uint32_t n_slices;
    struct {
        uint64_t seq;
        uint32_t index, pos, n;
        bool last;
    } slices[SL_MAX_SLICES];
};

struct decider_bench {
    const struct sl_bench_decide *asked;
    struct sl_plan plan;
    struct sl_arena arena;
    struct sl_core *core;
    struct sl_actions actions;
    struct sl_ask *asks;
    uint32_t *ids, *told;                    /* told: what every answer is, [output_tokens] */
    uint32_t n_submitted, n_total, n_before; /* n_before: that only fill the cache */
    struct answer_due *due;                  /* a ring of room_due */
    uint32_t room_due, due_head, due_tail;
    uint64_t *taken; /* [requests] seqs that the decode worker makes tokens for */
    uint32_t *left, n_taken;
    uint8_t *bytes;
    size_t n_bytes;
    uint64_t ns, records, tokens, ended; /* ns: inside the core */
};

#define TIMED(b, call)                                                                                       \
    do {                                                                                                     \
        uint64_t timed_from_ = sl_clock_ns();                                                                \
        call;                                                                                                \
        (b)->ns += sl_clock_ns() - timed_from_;                                                              \
    } while (0)

static void note_record(struct decider_bench *b, const struct sl_action *a)
{
    struct answer_due *due = &b->due[b->due_head++ % b->room_due];
    *due = (struct answer_due){.number = a->record.number, .kind = a->record.kind};
    b->records++;
    for (uint32_t i = 0; a->record.run && i < a->record.run->order.n_slices; i++) {
        const struct sl_order_slice *s = &a->record.run->order.slices[i];
        due->slices[due->n_slices].seq = s->seq;
        due->slices[due->n_slices].index = s->index;
        due->slices[due->n_slices].pos = s->pos;
        due->slices[due->n_slices].n = s->n;
        due->slices[due->n_slices++].last = s->flags & SL_SLICE_LAST;
    }
}

static void submit_next(struct decider_bench *b);

static void carry_out(struct decider_bench *b)
{
    uint32_t n_ended = 0;
    for (uint32_t i = 0; i < b->actions.n; i++) {
        const struct sl_action *a = &b->actions.list[i];
        if (a->kind == SL_ACTION_RECORD)
            note_record(b, a);
        else if (a->kind == SL_ACTION_ADOPT && a->adopt->kind == SL_ADOPT_TAKE) {
            b->left[b->n_taken] = a->adopt->max_tokens;
            b->taken[b->n_taken++] = a->seq;
        } else if (a->kind == SL_ACTION_TOKEN)
            b->tokens++;
        else
            n_ended += a->kind == SL_ACTION_END;
    }
    b->actions.n = 0;
    b->ended += n_ended;
    for (; n_ended > 0 && b->n_submitted < b->n_total; n_ended--)
        submit_next(b);
}

static void submit_next(struct decider_bench *b)
{
    struct sl_ask *ask = &b->asks[b->n_submitted];
    const uint32_t *ids = b->ids;
    if (b->asked->cached_pages)
        ids += (size_t)b->n_submitted * b->asked->prompt_tokens;
    b->n_submitted++;
    *ask = (struct sl_ask){.ids = ids,
                           .n_ids = b->asked->prompt_tokens,
                           .max_tokens = b->asked->output_tokens,
                           .sampling = {.top_p = 1, .n_logprobs = -1},
                           .prompt_logprobs = -1,
                           .said = {{.ids = b->told}},
                           .user = ask};
    TIMED(b, sl_core_submit(b->core, 0, ask, &b->actions));
    carry_out(b);
}

/* false: no record waits for an answer. */
static bool answer(struct decider_bench *b)
{
    if (b->due_head == b->due_tail)
        return false;
    const struct answer_due *due = &b->due[b->due_tail++ % b->room_due];
    struct sl_cursor out = sl_cursor_over(b->bytes, b->n_bytes);
    struct sl_result_head head = {.number = due->number, .kind = due->kind, .n_slices = due->n_slices};
    sl_result_put_head(&out, &head, b->plan.n_stages);
    for (uint32_t i = 0; i < due->n_slices; i++) {
        struct sl_result_slice slice = {.seq = due->slices[i].seq,
                                        .index = due->slices[i].index,
                                        .pos = due->slices[i].pos,
                                        .n = due->slices[i].n,
                                        .has_token = due->slices[i].last};
        sl_result_put_slice(&out, &slice);
    }
    TIMED(b, sl_core_result(b->core, b->bytes, (size_t)(out.at - b->bytes), &b->actions));
    carry_out(b);
    TIMED(b, sl_core_decide(b->core, 0, &b->actions));
    carry_out(b);
    return true;
}

static void say(struct decider_bench *b, uint64_t seq, enum sl_tokens_kind kind, uint32_t finish)
{
    struct sl_tokens_entry entry = {.kind = kind, .seq = seq, .finish = finish};
    TIMED(b, sl_core_entry(b->core, 0, &entry, &b->actions));
    carry_out(b);
}

/* One token of every sequence that was taken. */
static void step(struct decider_bench *b)
{
    for (uint32_t i = b->n_taken; i-- > 0;) {
        uint64_t seq = b->taken[i];
        if (b->left[i] == b->asked->output_tokens)
            say(b, seq, SL_TOKENS_ADOPTED, 0);
        bool last = --b->left[i] == 1; /* the first token was the last stage's */
        say(b, seq, SL_TOKENS_TOKEN, last ? 2 : 0);
        if (!last)
            continue;
        b->taken[i] = b->taken[--b->n_taken];
        b->left[i] = b->left[b->n_taken];
        say(b, seq, SL_TOKENS_ENDED, 0);
    }
    TIMED(b, sl_core_decide(b->core, 0, &b->actions));
    carry_out(b);
}

/* Prompts of their own, but for the first half. */
static void make_ids(struct decider_bench *b)
{
    uint32_t n = b->asked->prompt_tokens;
    for (uint32_t k = 0; k < b->n_total; k++)
        for (uint32_t i = n / 2; i < n; i++)
            b->ids[(size_t)k * n + i] = (uint32_t)(sl_rng_at(k, i) % VOCAB);
}

static sl_status set_up(struct decider_bench *b, struct sl_err *err)
{
    const struct sl_bench_decide *v = b->asked;
    uint32_t own_pages = v->prompt_tokens / SL_PAGE - v->prompt_tokens / 2 / SL_PAGE;
    if (v->cached_pages && own_pages == 0)
        return sl_fail(err, SL_E_CONFIG,
                       "prompts of %u tokens have no page of their own; ask for at least %d",
                       v->prompt_tokens, 2 * SL_PAGE);
    uint32_t context = v->prompt_tokens + v->output_tokens;
    struct sl_plan_model model = {
        .n_layers = v->stages, .max_pos = context, .d_model = 1, .vocab = VOCAB, .kv_layer_bytes = 64};
    struct sl_plan_options options = {
        .n_stages = v->stages,
        .n_decoders = 1,
        .chunk_tokens = v->chunk,
        .max_running = v->requests,
        .context_tokens = context,
        .max_prefill = v->requests,
        /* a little more than all of them want: a fiftieth is kept back */
        .kv_tokens =
            ((uint64_t)(v->requests + v->requests / 32 + 1) * sl_pages_of(context) + v->cached_pages) *
            SL_PAGE};
    SL_TRY(sl_plan_make(&b->plan, &model, &options, err));
    struct sl_core_config config = {.plan = &b->plan,
                                    .n_decoders = 1,
                                    .max_requests = 2 * v->requests,
                                    .prefix_cache = v->cached_pages > 0};
    SL_TRY(sl_arena_init(&b->arena, sl_core_bytes(&config), err));
    SL_TRY(sl_core_init(&b->core, &b->arena, &config));
    b->n_before = v->cached_pages ? v->cached_pages / own_pages : 0;
    b->n_total = b->n_before + v->requests * PER_ROUND;
    b->actions.room = sl_core_max_actions(b->core);
    b->actions.list = calloc(b->actions.room, sizeof *b->actions.list);
    b->asks = calloc(b->n_total, sizeof *b->asks);
    b->ids = calloc((size_t)v->prompt_tokens * (v->cached_pages ? b->n_total : 1), sizeof *b->ids);
    b->told = calloc(v->output_tokens, sizeof *b->told);
    b->room_due = sl_plan_max_runs(&b->plan) + 2 * v->requests + 1;
    b->due = calloc(b->room_due, sizeof *b->due);
    b->taken = calloc(v->requests, sizeof *b->taken);
    b->left = calloc(v->requests, sizeof *b->left);
    b->n_bytes = sl_result_max_bytes(b->plan.n_stages, b->plan.max_chunk);
    b->bytes = malloc(b->n_bytes);
    if (!b->actions.list || !b->asks || !b->ids || !b->told || !b->due || !b->taken || !b->left || !b->bytes)
        return sl_fail(err, SL_E_NOMEM, "out of memory for %u requests; ask for fewer", v->requests);
    if (v->cached_pages)
        make_ids(b);
    sl_core_complete(b->core, &b->actions);
    carry_out(b);
    return SL_OK;
}

static void take_down(struct decider_bench *b)
{
    free(b->actions.list);
    free(b->asks);
    free(b->ids);
    free(b->told);
    free(b->due);
    free(b->taken);
    free(b->left);
    free(b->bytes);
    sl_arena_fini(&b->arena);
}

static sl_status run_round(struct decider_bench *b, struct sl_err *err)
{
    SL_TRY(set_up(b, err));
    for (uint32_t i = 0; i < b->asked->requests; i++)
        submit_next(b);
    TIMED(b, sl_core_decide(b->core, 0, &b->actions));
    carry_out(b);
    while (b->ended < b->n_total) { /* a decode step now and then, as between chunks */
        if (b->n_before > 0 && b->ended >= b->n_before)
            b->ns = b->records = b->tokens = b->n_before = 0; /* the cache is full, and now it counts */
        uint32_t answered = 0;
        while (answered < 4 && answer(b))
            answered++;
        if (answered == 0 && b->n_taken == 0)
            return sl_fail(err, SL_E_INTERNAL, "the decider has %u requests and does nothing; report this",
                           b->n_total - (uint32_t)b->ended);
        step(b);
    }
    return SL_OK;
}

sl_status sl_bench_decide(const struct sl_bench_decide *bench, struct sl_err *err)
{
    double records[SL_SAMPLES_MAX], share[SL_SAMPLES_MAX];
    uint64_t n_records = 0, n_tokens = 0;
    for (uint32_t round = 0; round < bench->rounds; round++) {
        struct decider_bench b = {.asked = bench};
        sl_status status = run_round(&b, err);
        take_down(&b);
        SL_TRY(status);
        records[round] = (double)b.records / ((double)b.ns * 1e-9);
        share[round] = (double)b.ns / (double)(b.records + b.tokens);
        n_records = b.records;
        n_tokens = b.tokens;
    }
    double rate = sl_median(records, bench->rounds), each = sl_median(share, bench->rounds);
    if (bench->json)
        printf(
            "{\"requests\": %u, \"records\": %llu, \"tokens\": %llu, \"records_per_s\": %.0f, \"ns_per_event\": %.0f}\n",
            bench->requests, (unsigned long long)n_records, (unsigned long long)n_tokens, rate, each);
    else
        printf(
            "%u requests running, prompts of %u tokens, %u tokens each\n"
            "%.0f records per second, all that happens to their requests included (%llu records, %llu tokens)\n"
            "%.0f ns of the decider for a record or a token\n",
            bench->requests, bench->prompt_tokens, bench->output_tokens, rate, (unsigned long long)n_records,
            (unsigned long long)n_tokens, each);
    return SL_OK;
}
