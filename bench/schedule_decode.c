/* The decode worker of the small simulated world: it has the pages that it was granted, makes a token a step for each sequence
 * whose next position has one, and says what the real one says. All pages of a prompt are there before its TAKE is, because the
 * first token came to the coordinator behind them. */
#include "bench/schedule_impl.h"
#include <stdlib.h>

static struct sl_bench_entries *frame_of(struct sl_bench_world *w, uint32_t room)
{
    struct sl_bench_entries *entries = calloc(1, sizeof *entries + room * sizeof *entries->list);
    if (!entries)
        sl_bench_world_fail(w, SL_E_NOMEM, "out of memory; ask for fewer requests");
    return entries;
}

static void send(struct sl_bench_world *w, struct sl_bench_entries *entries)
{
    if (entries)
        sl_bench_world_at(w, w->now_us + w->config.shape->hop_us,
                          (struct sl_bench_event){.kind = SL_BENCH_TOKENS, .entries = entries});
}

static void say(struct sl_bench_world *w, enum sl_tokens_kind kind, uint64_t seq)
{
    struct sl_bench_entries *entries = frame_of(w, 1);
    if (entries)
        entries->list[entries->n++] = (struct sl_tokens_entry){.kind = kind, .seq = seq};
    send(w, entries);
}

static bool can_step(const struct sl_bench_adoptee *a)
{
    uint32_t pos = a->spec.prompt_tokens + a->n_out - a->spec.n_out;
    return a->used && pos / SL_PAGE < a->n_pages;
}

static void step_soon(struct sl_bench_world *w)
{
    const struct sl_bench_shape *shape = w->config.shape;
    uint32_t batch = 0;
    for (uint32_t i = 0; !w->stepping && i < SL_MAX_BATCH; i++)
        batch += w->adoptees[i].stepping = can_step(&w->adoptees[i]);
    if (batch == 0)
        return;
    double spent_us = shape->step_us + batch * shape->step_row_us;
    w->stepping = true;
    w->report->steps++;
    w->report->step_us += spent_us;
    sl_bench_world_at(w, w->now_us + spent_us, (struct sl_bench_event){.kind = SL_BENCH_STEP});
}

static struct sl_bench_adoptee *find(struct sl_bench_world *w, uint64_t seq)
{
    for (uint32_t i = 0; i < SL_MAX_BATCH; i++)
        if (w->adoptees[i].used && w->adoptees[i].spec.seq == seq)
            return &w->adoptees[i];
    return NULL;
}

static void take(struct sl_bench_world *w, const struct sl_bench_adopt *frame)
{
    for (uint32_t i = 0; i < SL_MAX_BATCH; i++) {
        struct sl_bench_adoptee *a = &w->adoptees[i];
        if (a->used)
            continue;
        *a = (struct sl_bench_adoptee){.used = true,
                                       .spec = frame->adopt,
                                       .which = frame->which,
                                       .n_out = frame->adopt.n_out,
                                       .n_pages = frame->adopt.n_pages};
        say(w, SL_TOKENS_ADOPTED, frame->adopt.seq);
        return;
    }
    sl_bench_world_fail(w, SL_E_INTERNAL, "the decode worker was given more sequences than a step can batch");
}

void sl_bench_decode_deliver(struct sl_bench_world *w, const struct sl_bench_adopt *frame)
{
    struct sl_bench_adoptee *a = find(w, frame->adopt.seq);
    switch (frame->adopt.kind) {
    case SL_ADOPT_TAKE:
        take(w, frame);
        break;
    case SL_ADOPT_GROW:
        if (a && frame->adopt.page_first != a->n_pages)
            sl_bench_world_fail(w, SL_E_INTERNAL, "a grant of pages does not begin where the last one ended");
        if (a)
            a->n_pages += frame->adopt.n_pages;
        break;
    case SL_ADOPT_CANCEL:
        if (a)
            a->used = a->stepping = false;
        say(w, SL_TOKENS_ENDED, frame->adopt.seq);
        break;
    case SL_ADOPT_FORK:
        sl_bench_world_fail(w, SL_E_INTERNAL, "this world asks for one answer, and was told of a fork");
    }
    step_soon(w);
}

void sl_bench_decode_step(struct sl_bench_world *w)
{
    struct sl_bench_entries *entries = frame_of(w, 2 * SL_MAX_BATCH);
    w->stepping = false;
    for (uint32_t i = 0; entries && i < SL_MAX_BATCH; i++) {
        struct sl_bench_adoptee *a = &w->adoptees[i];
        if (!a->used || !a->stepping)
            continue;
        struct sl_tokens_entry *e = &entries->list[entries->n++];
        *e = (struct sl_tokens_entry){.kind = SL_TOKENS_TOKEN, .seq = a->spec.seq};
        e->token.id = sl_bench_token_of(w, a->which, ++a->n_out);
        e->finish = sl_adopt_finish(&a->spec, e->token.id, a->n_out);
        if (!e->finish)
            continue;
        entries->list[entries->n++] = (struct sl_tokens_entry){.kind = SL_TOKENS_ENDED, .seq = a->spec.seq};
        a->used = false;
    }
    send(w, entries);
    step_soon(w);
}
