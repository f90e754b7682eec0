/* What the core writes: records of the order log with the pages that they open, and the messages to the decode worker. The
 * budgets of the schedule are the promise, the tables of sequences.h are who has which number. */
#include "base/mutate.h"
#include "pipeline/decide/core_impl.h"

struct sl_action *sl_core_act(struct sl_actions *actions, enum sl_action_kind kind,
                              const struct sl_request *r)
{
    assert(actions->n < actions->room);
    struct sl_action *a = &actions->list[actions->n];
    *a = (struct sl_action){.kind = kind};
    actions->n +=
        !r || !r->refill || kind == SL_ACTION_RECORD; /* else it is written over: nobody is to know */
    if (r) {
        a->seq = r->seq;
        a->user = r->ask ? r->ask->user : NULL;
    }
    return a;
}

/* The next page of a sequence gets this number, which is free. */
static uint32_t put_page(struct sl_sequences *t, struct sl_sequence *s, uint32_t page)
{
    bool fresh;
    sl_status status = sl_sequences_put(t, s, s->n_pages, page, true, &fresh);
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
    struct sl_record *record = &core->log[core->log_number % core->log_room];
    record->number = core->log_number;
    record->kind = kind;
    record->seq = seq;
    record->n_slices = 0;
    return a;
}

/* Records that follow may use its pages at once: every stage applies this one first. */
void sl_core_release(struct sl_core *core, struct sl_stay *s, enum sl_order_kind kind,
                     struct sl_actions *actions)
{
    if (s->stages != SL_STAGES_LIVE || core->life == SL_LIFE_LOST)
        return;
    bool legal = sl_on_stages_step(&s->stages, SL_STAGES_RELEASE);
    assert(legal);
    if (kind == SL_ORDER_CANCEL && !sl_core_forget_pages(core, s))
        kind = SL_ORDER_FREE; /* what is under way is computed, for others */
    struct sl_action *a = append_record(core, kind, s->seq, s->request, actions);
    a->record.in_vain = kind == SL_ORDER_CANCEL && sl_core_first_unanswered(core, s->seq) != SL_PREFIX_NONE;
    close_table(&core->pages, s->seq);
    sl_core_let_go_prefix(core, &s->prefix);
    sl_schedule_give_prefill(&core->schedule, &s->entry);
}

uint32_t sl_core_stops(const struct sl_core *core, const struct sl_ask *ask,
                       uint32_t stops[SL_MAX_DECODE_STOPS])
{
    uint32_t n = 0;
    for (uint32_t i = 0; !ask->ignore_eos && i < core->config.n_end_ids; i++)
        stops[n++] = core->config.end_ids[i];
    for (uint32_t i = 0; i < ask->n_stop_ids; i++)
        stops[n++] = ask->stop_ids[i];
    return n;
}

/* A later stay only fills pages: its tokens were told. bans: room for ids. */
static void fill_slice(const struct sl_core *core, struct sl_order_slice *slice, struct sl_stay *s,
                       const struct sl_cut *cut, uint32_t *bans)
{
    const struct sl_ask *ask = s->request->ask;
    uint32_t end = cut->pos + cut->n, prompt = s->entry.prompt_tokens;
    bool only_fills = s->again || s->request->refill;
    *slice = (struct sl_order_slice){.seq = s->seq,
                                     .pos = cut->pos,
                                     .n = cut->n,
                                     .index = s->request->n_slices++,
                                     .prompt_tokens = prompt,
                                     .prompt_logprobs = only_fills ? -1 : ask->prompt_logprobs,
                                     .next_id = !only_fills && end < prompt ? ask->ids[end] : 0,
                                     .sampling = ask->sampling};
    slice->flags = (s->stages == SL_STAGES_NONE ? SL_SLICE_FIRST : 0u) |
                   (end == prompt ? SL_SLICE_LAST : 0u) | (s->request->handoff ? SL_SLICE_HANDOFF : 0u);
    if (s->request->handoff) {
        slice->decoder = s->entry.decoder;
        slice->decoder_life = core->decoders[s->entry.decoder].life - SL_MUTATED(OLD_LIFE);
    }
    if (only_fills) {
        slice->flags |= SL_SLICE_RESTORE;
        return;
    }
    slice->flags |= (ask->want_digest ? SL_SLICE_DIGEST : 0u);
    if (end == prompt) {
        slice->n_more = s->n - 1;
        slice->steering_bytes = ask->steering_bytes;
        slice->steering = ask->steering;
    }
    if (end == prompt && ask->min_tokens > 0) {
        slice->n_bans = sl_core_stops(core, ask, bans);
        slice->bans = (const uint8_t *)bans;
    }
}

/* The next page of answer k on the decode worker gets a number; it was promised. */
static uint32_t name_page(struct sl_core *core, struct sl_stay *s, uint32_t k)
{
    struct sl_sequences *pages = &sl_core_decoder_of(core, s)->pages;
    s->granted[k]++;
    return put_page(pages, table_of(pages, s->seq + k), sl_core_free_decode_page(core, s->entry.decoder));
}

static uint32_t name_promised(struct sl_core *core, struct sl_stay *s, uint32_t k)
{
    assert(s->unnamed > 0);
    s->unnamed--;
    return name_page(core, s, k);
}

static void give_pages(struct sl_core *core, struct sl_run *run, struct sl_order_slice *slice,
                       struct sl_stay *stay)
{
    struct sl_sequence *s = table_of(&core->pages, slice->seq);
    slice->page_first = s->n_pages;
    slice->n_pages = sl_pages_of(slice->pos + slice->n) - s->n_pages;
    slice->pages_at = run->order.n_pages;
    if (slice->flags & SL_SLICE_FIRST)
        sl_core_share_pages(core, stay, s);
    for (uint32_t i = slice->page_first; i < slice->page_first + slice->n_pages; i++) {
        uint32_t page = i < s->n_pages ? s->pages[i] : put_page(&core->pages, s, sl_core_free_page(core));
        bool is_pushed = slice->flags & SL_SLICE_HANDOFF && i >= stay->n_kept;
        run->pages[run->order.n_pages++] =
            (struct sl_page_numbers){page, is_pushed ? name_promised(core, stay, 0) : SL_NO_PAGE};
    }
    core->n_computed_tokens += stay->request->refill ? 0 : slice->n;
    sl_core_keep_pages(core, stay, s, slice->pos, slice->n);
}

static void note_asked(struct sl_record *record, const struct sl_order_slice *s)
{
    bool last = s->flags & SL_SLICE_LAST;
    record->slices[record->n_slices++] =
        (struct sl_asked_slice){.seq = s->seq,
                                .index = s->index,
                                .pos = s->pos,
                                .n = s->n,
                                .n_prompt = s->prompt_logprobs < 0 ? 0 : s->n - last,
                                .last = last,
                                .has_token = last && !(s->flags & SL_SLICE_RESTORE),
                                .n_more = s->n_more};
}

static void write_run(struct sl_core *core, const struct sl_cut *cuts, uint32_t n, struct sl_actions *actions)
{
    struct sl_run *run = &core->runs[core->n_runs++];
    run->order = (struct sl_order){.kind = SL_ORDER_RUN, .n_slices = n};
    for (uint32_t i = 0; i < n; i++) {
        struct sl_stay *s = sl_core_stay_of(cuts[i].entry);
        fill_slice(core, &run->order.slices[i], s, &cuts[i], run->bans[i]);
        give_pages(core, run, &run->order.slices[i], s);
        sl_core_copy_ids(run->ids + run->order.n_tokens, s, cuts[i].pos, cuts[i].n);
        run->order.n_tokens += cuts[i].n;
        bool legal = sl_on_stages_step(&s->stages, SL_STAGES_RUN);
        assert(legal);
    }
    struct sl_action *a = append_record(core, SL_ORDER_RUN, 0, NULL, actions);
    struct sl_record *record = &core->log[a->record.number % core->log_room];
    for (uint32_t i = 0; i < n; i++)
        note_asked(record, &run->order.slices[i]);
    sl_core_time_written(core, record, &run->order);
    run->order.number = a->record.number;
    a->record.run = run;
    core->runs_in_flight++;
}

static uint32_t cut(struct sl_core *core, struct sl_beginning *b, struct sl_cut cuts[SL_MAX_SLICES])
{
    if (core->config.schedule != SL_SCHEDULE_FIFO)
        return sl_rank_cut(&core->policy, &core->schedule, core->now_us, sl_core_begin_one, b, cuts);
    sl_core_look_up_admitted(core);
    uint32_t n = sl_schedule_cut(&core->schedule, cuts);
    for (uint32_t i = 0; i < n; i++)
        if (cuts[i].entry->pos == cuts[i].entry->prompt_tokens)
            sl_policy_leave(&core->policy, &core->schedule, cuts[i].entry);
    return n;
}

/* Of a refill that has the pipeline for itself one chunk at a time: who comes waits for no more. */
static uint32_t window_of(const struct sl_core *core)
{
    const struct sl_schedule_entry *head = core->schedule.head;
    if (head && !head->next && core->refills.active && sl_core_stay_of(core->schedule.head)->request->refill)
        return 1;
    return core->config.runs                           ? core->config.runs
           : core->config.schedule == SL_SCHEDULE_FIFO ? sl_plan_fifo_runs(&core->plan)
                                                       : core->policy.budget.runs;
}

/* Keep every stage busy and no more: what is in the log can't be overtaken by a later decision. */
void sl_core_write_runs(struct sl_core *core, struct sl_actions *actions)
{
    struct sl_beginning b = {.core = core, .actions = actions};
    core->n_runs = 0;
    while (core->runs_in_flight < window_of(core) && core->runs_in_flight < core->max_runs) {
        struct sl_cut cuts[SL_MAX_SLICES];
        uint32_t n = cut(core, &b, cuts);
        if (n == 0)
            return;
        write_run(core, cuts, n, actions);
    }
}

/* ---- the decode worker ---- */

static struct sl_adopt *act_adopt(struct sl_core *core, struct sl_stay *s, uint32_t k,
                                  enum sl_adopt_kind kind, struct sl_actions *actions)
{
    assert(core->n_adopts < sl_core_max_adopts(&core->plan));
    struct sl_adopt *adopt = &core->adopts[core->n_adopts++];
    *adopt = (struct sl_adopt){.kind = kind, .seq = s->seq + k};
    struct sl_action *a = sl_core_act(actions, SL_ACTION_ADOPT, s->request);
    a->seq = adopt->seq;
    a->decoder = s->entry.decoder;
    a->adopt = adopt;
    return adopt;
}

void sl_core_fill_adopt(const struct sl_core *core, const struct sl_stay *s, uint32_t k,
                        struct sl_adopt *adopt)
{
    const struct sl_ask *ask = s->request->ask;
    const struct sl_branch *answer = sl_core_answer_of(s, k);
    *adopt = (struct sl_adopt){.kind = k == 0 ? SL_ADOPT_TAKE : SL_ADOPT_FORK,
                               .seq = s->seq + k,
                               .from = k == 0 ? 0 : s->seq,
                               .prompt_tokens = s->entry.prompt_tokens,
                               .first_id = answer->last_id,
                               .n_out = s->n_told + 1,
                               .max_tokens = ask->max_tokens,
                               .min_tokens = ask->min_tokens,
                               .digest = ask->want_digest,
                               .logits_digest = answer->told_digest,
                               .sampling = ask->sampling,
                               .steering_bytes = ask->steering_bytes,
                               .steering = ask->steering};
    if (s->again) {
        adopt->counts_bytes = ask->said[s->first].counts_bytes;
        adopt->counts = ask->said[s->first].counts;
    }
    adopt->sampling.seed += SL_MUTATED(SAME_SEED) ? 0 : s->first + k;
    adopt->n_stops = sl_core_stops(core, ask, adopt->stops);
}

/* The pages that an answer begins with: those that the prompt fills are index 0's, the rest are its own. */
static void name_pages(struct sl_core *core, struct sl_stay *stay, uint32_t k, struct sl_adopt *adopt)
{
    const struct sl_ask *ask = stay->request->ask;
    struct sl_sequences *pages = &sl_core_decoder_of(core, stay)->pages;
    struct sl_sequence *s = table_of(pages, stay->seq + k);
    const struct sl_sequence *first = sl_sequences_find(pages, stay->seq);
    while (k > 0 && s->n_pages < ask->n_ids / SL_PAGE) {
        bool fresh;
        sl_status status = sl_sequences_put(pages, s, s->n_pages, first->pages[s->n_pages], false, &fresh);
        assert(status == SL_OK && !fresh);
        stay->granted[k]++;
    }
    while (s->n_pages < sl_schedule_grant(ask->n_ids, stay->n_told + 1, ask->max_tokens))
        name_promised(core, stay, k);
    adopt->n_pages = s->n_pages;
    adopt->pages = (const uint8_t *)s->pages; /* stays as it is until GONE */
}

/* Index 0 has the pages of the prompt, so it is taken even when its text has ended, and the others are made of it. What was
 * promised to those that ended with their first token is free. */
void sl_core_take(struct sl_core *core, struct sl_stay *s, struct sl_actions *actions)
{
    struct sl_adopt *take = NULL;
    uint32_t n_not = 0;
    for (uint32_t k = 0; k < s->n; k++) {
        bool alive = sl_core_is_alive(s, k);
        if (k > 0 && !alive) {
            n_not++;
            continue;
        }
        struct sl_adopt *adopt = act_adopt(core, s, k, SL_ADOPT_TAKE, actions);
        sl_core_fill_adopt(core, s, k, adopt);
        name_pages(core, s, k, adopt);
        bool legal = true;
        if (k == 0) {
            take = adopt;
            take->n_kept = s->n_kept;
        } else {
            legal = sl_on_decode_step(&s->decode[k], SL_DECODE_EXPECT);
        }
        if (!alive)
            legal = sl_on_decode_step(&s->decode[k], SL_DECODE_STOP);
        assert(legal);
        take->silent = !sl_core_is_alive(s, 0);
        take->n_forks += k > 0;
    }
    s->taken = true;
    core->n_kept_tokens += s->n_kept * SL_PAGE;
    core->n_pushed_tokens += s->entry.prompt_tokens - s->n_kept * SL_PAGE;
    sl_schedule_give_decode(&core->schedule, &s->entry, s->unnamed, n_not);
    core->look = core->look || s->unnamed > 0;
    s->unnamed = 0;
}

void sl_core_grant(struct sl_core *core, struct sl_stay *s, uint32_t k, uint32_t n_pages,
                   struct sl_actions *actions)
{
    struct sl_adopt *adopt = act_adopt(core, s, k, SL_ADOPT_GROW, actions);
    const struct sl_sequence *table = sl_sequences_find(&sl_core_decoder_of(core, s)->pages, s->seq + k);
    adopt->page_first = s->granted[k];
    adopt->n_pages = n_pages;
    for (uint32_t i = 0; i < n_pages; i++)
        name_page(core, s, k);
    adopt->pages = (const uint8_t *)(table->pages + adopt->page_first - SL_MUTATED(WRONG_PAGE));
}

void sl_core_give_up(struct sl_core *core, struct sl_stay *s, uint32_t k, struct sl_actions *actions)
{
    if (k == 0 && s->decode[0] == SL_DECODE_EXPECTED && sl_core_n_alive(s) > 0)
        return; /* the others are made of it */
    if (core->life == SL_LIFE_LOST || !sl_on_decode_step(&s->decode[k], SL_DECODE_STOP))
        return; /* it has nothing, or is at its end already */
    if (!SL_MUTATED(FORGET_CANCEL))
        act_adopt(core, s, k, SL_ADOPT_CANCEL, actions);
}

static bool is_gone(const struct sl_stay *s)
{
    bool gone = true;
    for (uint32_t k = 0; k < s->n; k++)
        gone = gone && s->decode[k] == SL_DECODE_NONE;
    return gone;
}

/* What pages others share stays used until the last of them goes. */
void sl_core_decode_gone(struct sl_core *core, struct sl_stay *s, uint32_t k)
{
    struct sl_sequences *table = &sl_core_decoder_of(core, s)->pages;
    uint32_t before = table->n_used;
    bool legal = sl_on_decode_step(&s->decode[k], SL_DECODE_GONE);
    assert(legal);
    close_table(table, s->seq + k);
    uint32_t pages = before - table->n_used;
    if (k == 0) { /* before it was taken, or not at all */
        pages += s->unnamed;
        s->unnamed = 0;
    }
    s->granted[k] = 0;
    sl_schedule_give_decode(&core->schedule, &s->entry, pages, 1);
    if (is_gone(s))
        sl_core_let_go_kept(core, s);
    core->look = true;
}
