/* A stage as a cost and a table. The value of a position is a hash of its row and of every value before it in the sequence's
 * pages, as attention would have it. */
#include "pipeline/sim/sim_impl.h"
#include <assert.h>
#include <stdlib.h>

static void no_clearing(void *user, uint32_t page)
{
    (void)user, (void)page; /* what a page held before is what a mistake would read */
}

static uint32_t node_of(const struct sl_sim_stage *st)
{
    return sl_plan_stage_node(st->k);
}

static uint64_t *value_at(struct sl_sim_stage *st, const struct sl_sequence *q, uint32_t pos)
{
    return &st->values[(size_t)q->pages[pos / SL_PAGE] * SL_PAGE + pos % SL_PAGE];
}

uint64_t sl_sim_page_sum(const struct sl_sim_stage *st, uint32_t page, uint32_t n_tokens)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < n_tokens; i++)
        sum = sl_sim_mix(sum, st->values[(size_t)page * SL_PAGE + i]);
    return sum;
}

/* Rows of a slice in place: in come those of the stage before, out go ours. */
static void run_slice(struct sl_sim_stage *st, const struct sl_order_slice *slice,
                      const struct sl_sequence *q, uint64_t *rows)
{
    uint64_t seen = 0;
    for (uint32_t pos = 0; pos < slice->pos + slice->n; pos++) {
        if (pos >= slice->pos)
            *value_at(st, q, pos) = sl_sim_position(rows[pos - slice->pos], st->k, pos);
        seen = sl_sim_mix(seen, *value_at(st, q, pos));
        if (pos >= slice->pos)
            rows[pos - slice->pos] = seen;
    }
}

static bool is_behind(const struct sl_sim_stage *st, uint64_t seq)
{
    const struct sl_sim_frame *f = st->queue->next;
    while (f && sl_order_cancels(f->bytes) != seq)
        f = f->next;
    return f != NULL;
}

/* As a real stage does: nobody wants what the record at the head of the queue runs. */
static bool is_given_up(struct sl_sim *s, const struct sl_sim_stage *st)
{
    bool foretold = false;
    if (st->k > 0 && sl_order_trace(st->queue->bytes, st->k - 1).begin_us == SL_GIVEN_UP)
        return true;
    for (uint32_t i = 0; i < st->order.n_slices; i++) {
        bool behind = is_behind(st, st->order.slices[i].seq);
        if (!behind && !sl_foretold_has(&st->foretold, st->order.slices[i].seq))
            return false;
        foretold = foretold || !behind;
    }
    s->report.foretold += foretold;
    return true;
}

/* ---- what is told beside the log ---- */

void sl_sim_foretell(struct sl_sim *s, struct sl_foretold_cancel cancel)
{
    s->words = realloc(s->words, (s->n_words + 1) * sizeof *s->words);
    assert(s->words);
    s->words[s->n_words] = (struct sl_sim_word){.cancel = cancel};
    for (uint32_t k = 0; k < s->plan.n_stages; k++)
        for (uint64_t n = sl_rng_next(&s->rng) % 3; n > 0; n--)
            sl_sim_at(s, s->now_us + sl_rng_next(&s->rng) % s->config.foretold_us, SL_SIM_FORETELL,
                      s->n_words * s->plan.n_stages + k, NULL);
    s->n_words++;
}

void sl_sim_stage_hear(struct sl_sim *s, uint32_t which)
{
    struct sl_sim_word *word = &s->words[which / s->plan.n_stages];
    struct sl_sim_stage *st = &s->stages[which % s->plan.n_stages];
    word->heard |= UINT64_C(1) << st->k;
    if (s->config.plant != SL_SIM_DEAF)
        sl_foretold_add(&st->foretold, word->cancel, st->applied);
}

static bool has_heard(const struct sl_sim *s, uint32_t k, uint64_t seq)
{
    for (uint32_t i = 0; i < s->n_words; i++)
        if (s->words[i].cancel.seq == seq && s->words[i].heard >> k & 1)
            return true;
    return false;
}

/* The bound: what a stage begins is wanted, as far as it was ever told. */
static void check_wanted(struct sl_sim *s, const struct sl_sim_stage *st)
{
    for (uint32_t i = 0; i < st->order.n_slices; i++)
        if (!has_heard(s, st->k, st->order.slices[i].seq))
            return;
    sl_sim_break(s, "stage %u begins record %llu, of which it was told that nobody wants it", st->k,
                 (unsigned long long)st->order.number);
}

/* As a real stage does: pages that are full, or that end the prompt, and those that a first slice shares, but for
 * those that lie there; held until they have left. */
static void push_pages(struct sl_sim *s, struct sl_sim_stage *st, const struct sl_order_slice *slice,
                       const struct sl_sequence *q, const uint8_t *meta)
{
    uint32_t end = slice->pos + slice->n,
             ready = slice->flags & SL_SLICE_LAST ? sl_pages_of(end) : end / SL_PAGE;
    uint32_t *half = &st->half_page[q - st->table.sequences];
    const struct sl_sim_decode *to = &s->decoders[slice->decoder];
    bool is_here = to->known && to->life == slice->decoder_life;
    for (uint32_t i = slice->flags & SL_SLICE_FIRST ? 0 : slice->pos / SL_PAGE; i < ready && is_here; i++) {
        uint32_t there =
            i < slice->page_first
                ? *half
                : sl_order_page(meta, &s->limits, slice->pages_at + i - slice->page_first).decode;
        if (there == SL_NO_PAGE)
            continue; /* it lies there */
        struct sl_sim_frame *f =
            sl_sim_frame(s, node_of(st), sl_plan_decode_node(&s->plan, slice->decoder), 0);
        uint32_t left = slice->prompt_tokens - i * SL_PAGE;
        f->seq = slice->seq;
        f->index = i;
        f->page = q->pages[i];
        f->to_page = there;
        f->n_tokens = left < SL_PAGE ? left : SL_PAGE;
        f->sum = sl_sim_page_sum(st, f->page, f->n_tokens);
        if (s->config.plant != SL_SIM_LATE_PUSH)
            sl_sequences_read_begin(&st->table, f->page);
        sl_sim_send(s, f);
    }
    if (slice->n_pages > 0)
        *half = sl_order_page(meta, &s->limits, slice->pages_at + slice->n_pages - 1).decode;
}

static void send_result(struct sl_sim *s, struct sl_sim_stage *st, const uint8_t *meta, const uint64_t *rows)
{
    size_t most = sl_result_max_bytes(s->plan.n_stages, s->plan.max_chunk);
    struct sl_sim_frame *f = sl_sim_frame(s, node_of(st), 0, most);
    struct sl_cursor out = sl_cursor_over(f->bytes, most);
    struct sl_result_head head = {
        .number = st->order.number, .kind = st->order.kind, .n_slices = st->order.n_slices};
    for (uint32_t k = 0; k < s->plan.n_stages; k++)
        head.traces[k] = sl_order_trace(meta, k);
    sl_result_put_head(&out, &head, s->plan.n_stages);
    for (uint32_t i = 0; i < st->order.n_slices; i++) {
        const struct sl_order_slice *slice = &st->order.slices[i];
        rows += slice->n;
        struct sl_result_slice result = {.seq = slice->seq,
                                         .index = slice->index,
                                         .pos = slice->pos,
                                         .n = slice->n,
                                         .has_token = slice->flags & SL_SLICE_LAST &&
                                                      !(slice->flags & SL_SLICE_RESTORE)};
        struct sl_sim_text text = {.steered = sl_sim_steer(slice->steering, slice->steering_bytes)};
        uint64_t seed = slice->sampling.seed;
        result.first.id = sl_sim_choose(s, rows[-1], &text, seed);
        for (; result.n_more < slice->n_more; result.n_more++)
            result.more[result.n_more].id = sl_sim_choose(s, rows[-1], &text, seed + 1 + result.n_more);
        sl_result_put_slice(&out, &result);
    }
    assert(!out.bad);
    f->n = (size_t)(out.at - f->bytes);
    sl_sim_send(s, f);
}

static void pass_on(struct sl_sim *s, struct sl_sim_stage *st, struct sl_sim_frame *frame)
{
    if (st->k + 1 == s->plan.n_stages) {
        send_result(s, st, frame->bytes, frame->rows);
    } else {
        struct sl_sim_frame *f = sl_sim_frame(s, node_of(st), node_of(st) + 1, frame->n);
        memcpy(f->bytes, frame->bytes, frame->n);
        f->rows = frame->rows;
        frame->rows = NULL;
        sl_sim_send(s, f);
    }
    st->queue = frame->next;
    if (!st->queue)
        st->end = &st->queue;
    sl_sim_release(s, frame);
}

void sl_sim_stage_ran(struct sl_sim *s, uint32_t k)
{
    struct sl_sim_stage *st = &s->stages[k];
    struct sl_sim_frame *frame = st->queue;
    uint64_t *rows = frame->rows;
    uint64_t begin_us = st->given_up || is_given_up(s, st) ? SL_GIVEN_UP : st->begin_us;
    s->report.given_up += st->given_up;
    for (uint32_t i = 0; i < st->order.n_slices && !st->given_up; i++) {
        run_slice(st, &st->order.slices[i], st->found[i], rows);
        rows += st->order.slices[i].n;
    }
    for (uint32_t i = 0; i < st->order.n_slices; i++)
        if (st->order.slices[i].flags & SL_SLICE_HANDOFF)
            push_pages(s, st, &st->order.slices[i], st->found[i], frame->bytes);
    st->busy = false;
    sl_order_set_trace(frame->bytes, k, &(struct sl_trace){.begin_us = begin_us, .end_us = s->now_us});
    pass_on(s, st, frame);
    sl_sim_stage_go_on(s, st);
}

/* Behind a record all stages have the same sequences, in the same pages, whatever each of them computes. */
static void check_table(struct sl_sim *s, const struct sl_sim_stage *st)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < st->table.max_sequences; i++) {
        const struct sl_sequence *q = &st->table.sequences[i];
        uint64_t of = q->live ? sl_sim_mix(q->id, q->n_pages) : 0;
        for (uint32_t k = 0; q->live && k < q->n_pages; k++)
            of = sl_sim_mix(of, q->pages[k]);
        sum += of; /* each has a place of its own on each stage */
    }
    uint64_t at = st->applied % SL_SIM_RECORDS;
    if (st->k == 0) {
        s->tables[at].number = st->applied;
        s->tables[at].sum = sum;
    } else if (s->tables[at].number != st->applied || s->tables[at].sum != sum) {
        sl_sim_break(s, "stage %u has other pages than stage 0 behind record %llu", st->k,
                     (unsigned long long)st->applied);
    }
}

/* Stage 0 makes rows of ids. */
static void embed(struct sl_sim *s, struct sl_sim_frame *frame, uint32_t n_tokens)
{
    const uint8_t *ids = sl_order_ids(frame->bytes, s->plan.n_stages);
    frame->rows = malloc((n_tokens + 1) * sizeof *frame->rows);
    assert(frame->rows);
    for (uint32_t i = 0; i < n_tokens; i++)
        frame->rows[i] = sl_get32(ids + 4 * (size_t)i);
}

static void plant(struct sl_sim *s, struct sl_sim_stage *st)
{
    if (s->config.plant != SL_SIM_SWAP_PAGES || s->planted || st->k + 1 != s->plan.n_stages)
        return;
    for (uint32_t i = 0; i < st->order.n_slices; i++)
        if (st->found[i]->n_pages > 1) {
            uint32_t *pages = st->found[i]->pages, first = pages[0];
            pages[0] = pages[1];
            pages[1] = first;
            s->planted = true;
            return;
        }
}

void sl_sim_stage_go_on(struct sl_sim *s, struct sl_sim_stage *st)
{
    while (st->queue && !st->busy && !s->broken[0]) {
        struct sl_sim_frame *frame = st->queue;
        const char *bad = sl_order_unpack(&st->order, frame->bytes, frame->n, &s->limits);
        if (!bad && st->order.number != st->applied + 1)
            bad = "record out of order";
        sl_status status = SL_OK;
        if (!bad && st->order.kind == SL_ORDER_RUN)
            status = sl_sequences_apply(&st->table, &st->order, frame->bytes, &s->limits, st->found,
                                        no_clearing, NULL, &bad);
        if (status == SL_AGAIN)
            return; /* pages are still being read: their leaving calls again */
        if (bad) {
            sl_sim_break(s, "stage %u cannot take record %llu: %s", st->k,
                         (unsigned long long)st->order.number, bad);
            return;
        }
        sl_foretold_applied(&st->foretold, ++st->applied);
        if (st->order.kind == SL_ORDER_RUN) {
            check_table(s, st);
            plant(s, st);
            if (st->k == 0)
                embed(s, frame, st->order.n_tokens);
            st->busy = true;
            st->begin_us = s->now_us;
            st->given_up = is_given_up(s, st);
            if (!st->given_up)
                check_wanted(s, st);
            uint64_t cost =
                st->given_up ? 0 : s->config.chunk_us + (uint64_t)s->config.token_us * st->order.n_tokens;
            sl_sim_at(s, s->now_us + cost + (cost ? sl_rng_next(&s->rng) % (cost / 2 + 1) : 0), SL_SIM_RAN,
                      st->k, NULL);
            return;
        }
        struct sl_sequence *q = sl_sequences_find(&st->table, st->order.seq);
        if (q)
            sl_sequences_close(&st->table, q);
        check_table(s, st);
        pass_on(s, st, frame);
    }
}

void sl_sim_stage_deliver(struct sl_sim *s, struct sl_sim_frame *frame)
{
    struct sl_sim_stage *st = &s->stages[s->links[frame->link].plan.to - 1];
    frame->next = NULL;
    *st->end = frame;
    st->end = &frame->next;
    sl_sim_stage_go_on(s, st);
}

sl_status sl_sim_stages_init(struct sl_sim *s)
{
    s->stages = calloc(s->plan.n_stages, sizeof *s->stages);
    if (!s->stages)
        return SL_E_NOMEM;
    for (uint32_t k = 0; k < s->plan.n_stages; k++) {
        struct sl_sim_stage *st = &s->stages[k];
        st->k = k;
        st->end = &st->queue;
        st->values = calloc((size_t)s->plan.n_pages * SL_PAGE, sizeof *st->values);
        st->half_page = calloc(s->plan.max_prefill, sizeof *st->half_page);
        if (!st->values || !st->half_page)
            return SL_E_NOMEM;
        SL_TRY(sl_sequences_init(&st->table, &s->arena, s->plan.max_prefill, s->plan.context_tokens,
                                 s->plan.n_pages));
    }
    return SL_OK;
}

void sl_sim_stages_fini(struct sl_sim *s)
{
    for (uint32_t k = 0; s->stages && k < s->plan.n_stages; k++) {
        struct sl_sim_stage *st = &s->stages[k];
        while (st->queue) {
            struct sl_sim_frame *frame = st->queue;
            st->queue = frame->next;
            sl_sim_release(s, frame);
        }
        free(st->values);
        free(st->half_page);
    }
    free(s->stages);
}
