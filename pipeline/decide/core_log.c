/* What the core writes: records of the order log with the pages that they open, and the messages to the decode worker. The
 * budgets of the schedule are the promise, the tables of sequences.h are who has which number. */
#include "pipeline/decide/core_impl.h"

struct sl_action *sl_core_act(struct sl_actions *actions, enum sl_action_kind kind,
                              const struct sl_request *r)
{
    assert(actions->n < actions->room);
    struct sl_action *a = &actions->list[actions->n++];
    *a = (struct sl_action){.kind = kind};
    if (r) {
        a->seq = r->seq;
        a->user = r->ask ? r->ask->user : NULL;
    }
    return a;
}

/* Page i of a sequence, the next, gets a number; admission has seen to it that there is one. */
static uint32_t next_page(struct sl_sequences *t, struct sl_sequence *s)
{
    uint32_t page;
    bool fresh;
    sl_status status = sl_sequences_take(t, &page);
    assert(status == SL_OK);
    status = sl_sequences_put(t, s, s->n_pages, page, true, &fresh);
    assert(status == SL_OK && fresh);
    return page;
}

static struct sl_sequence *table_of(struct sl_sequences *t, uint64_t seq)
{
    struct sl_sequence *s = sl_sequences_find(t, seq);
    if (!s)
        s = sl_sequences_open(t, seq);
    assert(s); /* as many as may run */
    return s;
}

static void close_table(struct sl_sequences *t, uint64_t seq)
{
    struct sl_sequence *s = sl_sequences_find(t, seq);
    if (s)
        sl_sequences_close(t, s);
}

static struct sl_action *append_record(struct sl_core *core, enum sl_order_kind kind, uint64_t seq,
                                       const struct sl_request *r, struct sl_actions *actions)
{
    assert(core->log_number - core->log_answered < core->log_room);
    struct sl_action *a = sl_core_act(actions, SL_ACTION_RECORD, r);
    a->seq = seq;
    a->record.kind = kind;
    a->record.number = ++core->log_number;
    core->log[core->log_number % core->log_room] = (struct sl_record){.kind = kind, .seq = seq};
    return a;
}

/* Records that follow may use its pages at once: every stage applies this one first. */
void sl_core_release(struct sl_core *core, struct sl_request *r, enum sl_order_kind kind,
                     struct sl_actions *actions)
{
    if (r->stages != SL_STAGES_LIVE || core->life == SL_LIFE_LOST)
        return;
    bool legal = sl_on_stages_step(&r->stages, SL_STAGES_RELEASE);
    assert(legal);
    append_record(core, kind, r->seq, r, actions);
    close_table(&core->pages, r->seq);
    sl_schedule_give_prefill(&core->schedule, &r->entry);
}

static void fill_slice(struct sl_order_slice *slice, const struct sl_request *r, const struct sl_cut *cut)
{
    const struct sl_ask *ask = r->ask;
    uint32_t end = cut->pos + cut->n;
    *slice = (struct sl_order_slice){.seq = r->seq,
                                     .pos = cut->pos,
                                     .n = cut->n,
                                     .index = cut->index,
                                     .prompt_tokens = ask->n_ids,
                                     .prompt_logprobs = ask->prompt_logprobs,
                                     .next_id = end < ask->n_ids ? ask->ids[end] : 0,
                                     .sampling = ask->sampling};
    slice->flags = (cut->pos == 0 ? SL_SLICE_FIRST : 0u) | (end == ask->n_ids ? SL_SLICE_LAST : 0u) |
                   (ask->want_digest ? SL_SLICE_DIGEST : 0u) | (r->handoff ? SL_SLICE_HANDOFF : 0u) |
                   (ask->min_tokens > 0 && !ask->ignore_eos ? SL_SLICE_NO_EOS : 0u);
    if (end == ask->n_ids) {
        slice->n_more = r->n - 1;
        slice->steering_bytes = ask->steering_bytes;
        slice->steering = ask->steering;
    }
}

static void give_pages(struct sl_core *core, struct sl_run *run, struct sl_order_slice *slice)
{
    struct sl_sequence *s = table_of(&core->pages, slice->seq);
    struct sl_sequence *d =
        slice->flags & SL_SLICE_HANDOFF ? table_of(&core->decode_pages, slice->seq) : NULL;
    slice->page_first = s->n_pages;
    slice->n_pages = sl_pages_of(slice->pos + slice->n) - s->n_pages;
    slice->pages_at = run->order.n_pages;
    for (uint32_t i = 0; i < slice->n_pages; i++) {
        uint32_t page = next_page(&core->pages, s);
        run->pages[run->order.n_pages++] =
            (struct sl_page_numbers){page, d ? next_page(&core->decode_pages, d) : SL_NO_PAGE};
    }
}

static void write_run(struct sl_core *core, const struct sl_cut *cuts, uint32_t n, struct sl_actions *actions)
{
    struct sl_run *run = &core->runs[core->n_runs++];
    run->order = (struct sl_order){.kind = SL_ORDER_RUN, .n_slices = n};
    for (uint32_t i = 0; i < n; i++) {
        struct sl_request *r = sl_core_request_of(cuts[i].entry);
        fill_slice(&run->order.slices[i], r, &cuts[i]);
        give_pages(core, run, &run->order.slices[i]);
        run->ids[i] = r->ask->ids + cuts[i].pos;
        run->order.n_tokens += cuts[i].n;
        bool legal = sl_on_stages_step(&r->stages, SL_STAGES_RUN);
        assert(legal);
    }
    struct sl_action *a = append_record(core, SL_ORDER_RUN, 0, NULL, actions);
    struct sl_record *record = &core->log[a->record.number % core->log_room];
    for (record->n_slices = 0; record->n_slices < n; record->n_slices++) {
        const struct sl_order_slice *s = &run->order.slices[record->n_slices];
        bool last = s->flags & SL_SLICE_LAST;
        record->slices[record->n_slices] = (struct sl_asked_slice){
            s->seq, s->index, s->pos, s->n, s->prompt_logprobs < 0 ? 0 : s->n - last, last, s->n_more};
    }
    run->order.number = a->record.number;
    a->record.run = run;
    core->runs_in_flight++;
}

/* Keep every stage busy and no more: what is in the log can't be overtaken by a later decision. */
void sl_core_write_runs(struct sl_core *core, struct sl_actions *actions)
{
    struct sl_schedule_entry *entry;
    while ((entry = sl_schedule_admit(&core->schedule))) {
        struct sl_request *r = sl_core_request_of(entry);
        sl_core_act(actions, SL_ACTION_ADMIT, r);
        if (r->handoff) {
            bool legal = sl_on_decode_step(&r->answers[0].decode, SL_DECODE_EXPECT);
            assert(legal);
        }
    }
    core->n_runs = 0;
    while (core->runs_in_flight < core->max_runs) {
        struct sl_cut cuts[SL_MAX_SLICES];
        uint32_t n = sl_schedule_cut(&core->schedule, cuts);
        if (n == 0)
            return;
        write_run(core, cuts, n, actions);
    }
}

/* ---- the decode worker ---- */

static struct sl_adopt *act_adopt(struct sl_core *core, struct sl_request *r, uint32_t i,
                                  enum sl_adopt_kind kind, struct sl_actions *actions)
{
    assert(core->n_adopts < core->plan.max_running);
    struct sl_adopt *adopt = &core->adopts[core->n_adopts++];
    *adopt = (struct sl_adopt){.kind = kind, .seq = r->seq + i};
    sl_core_act(actions, SL_ACTION_ADOPT, r)->adopt = adopt;
    return adopt;
}

void sl_core_fill_adopt(const struct sl_core *core, const struct sl_request *r, uint32_t i,
                        struct sl_adopt *adopt)
{
    const struct sl_ask *ask = r->ask;
    *adopt = (struct sl_adopt){.kind = i == 0 ? SL_ADOPT_TAKE : SL_ADOPT_FORK,
                               .seq = r->seq + i,
                               .from = i == 0 ? 0 : r->seq,
                               .prompt_tokens = ask->n_ids,
                               .first_id = r->answers[i].first_id,
                               .max_tokens = ask->max_tokens,
                               .min_tokens = ask->min_tokens,
                               .digest = ask->want_digest,
                               .sampling = ask->sampling,
                               .steering_bytes = ask->steering_bytes,
                               .steering = ask->steering};
    adopt->sampling.seed += i;
    for (uint32_t k = 0; !ask->ignore_eos && k < core->config.n_end_ids; k++)
        adopt->stops[adopt->n_stops++] = core->config.end_ids[k];
    for (uint32_t k = 0; k < ask->n_stop_ids; k++)
        adopt->stops[adopt->n_stops++] = ask->stop_ids[k];
}

/* Every page of an answer, prompt and output: those that the prompt fills are index 0's, the rest are its own. */
static void name_pages(struct sl_core *core, struct sl_request *r, uint32_t i, struct sl_adopt *adopt)
{
    struct sl_sequence *s = table_of(&core->decode_pages, r->seq + i);
    const struct sl_sequence *first = sl_sequences_find(&core->decode_pages, r->seq);
    while (i > 0 && s->n_pages < r->ask->n_ids / SL_PAGE) {
        bool fresh;
        sl_status status =
            sl_sequences_put(&core->decode_pages, s, s->n_pages, first->pages[s->n_pages], false, &fresh);
        assert(status == SL_OK && !fresh);
    }
    while (s->n_pages < sl_pages_of(r->ask->n_ids + r->ask->max_tokens))
        next_page(&core->decode_pages, s);
    adopt->n_pages = s->n_pages;
    adopt->pages = (const uint8_t *)s->pages; /* stays as it is until GONE */
}

/* Index 0 has the pages of the prompt, so it is taken even when its text has ended, and the others are made of it. */
void sl_core_take(struct sl_core *core, struct sl_request *r, struct sl_actions *actions)
{
    struct sl_adopt *take = NULL;
    for (uint32_t i = 0; i < r->n; i++) {
        struct sl_branch *answer = &r->answers[i];
        if (i > 0 && !answer->alive)
            continue;
        struct sl_adopt *adopt = act_adopt(core, r, i, SL_ADOPT_TAKE, actions);
        sl_core_fill_adopt(core, r, i, adopt);
        name_pages(core, r, i, adopt);
        bool legal = true;
        if (i == 0)
            take = adopt;
        else
            legal = sl_on_decode_step(&answer->decode, SL_DECODE_EXPECT);
        if (!answer->alive)
            legal = sl_on_decode_step(&answer->decode, SL_DECODE_STOP);
        assert(legal);
        take->silent = !r->answers[0].alive;
        take->n_forks += i > 0;
    }
}

void sl_core_give_up(struct sl_core *core, struct sl_request *r, uint32_t i, struct sl_actions *actions)
{
    struct sl_branch *answer = &r->answers[i];
    if (i == 0 && answer->decode == SL_DECODE_EXPECTED && r->n_alive > 0)
        return; /* the others are made of it */
    if (core->life == SL_LIFE_LOST || !sl_on_decode_step(&answer->decode, SL_DECODE_STOP))
        return; /* it has nothing, or is at its end already */
    act_adopt(core, r, i, SL_ADOPT_CANCEL, actions);
}

void sl_core_decode_gone(struct sl_core *core, struct sl_request *r, uint32_t i)
{
    bool legal = sl_on_decode_step(&r->answers[i].decode, SL_DECODE_GONE);
    assert(legal);
    close_table(&core->decode_pages, r->seq + i);
    sl_schedule_give_decode(&core->schedule, &r->entry);
}
