/* A decode worker as a table: pages come from every stage, a sequence that has all of them and was named is adopted, and a
 * step gives each adopted sequence a token, which is a hash of everything that its pages hold. */
#include "pipeline/sim/sim_impl.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>

static uint64_t *value_at(struct sl_sim *s, uint32_t stage, uint32_t page, uint32_t at)
{
    return &s->decode->values[((size_t)stage * s->plan.n_pages + page) * SL_PAGE + at];
}

static void say(struct sl_sim *s, const struct sl_tokens_entry *entry)
{
    struct sl_sim_frame *f =
        sl_sim_frame(s, sl_plan_decode_node(&s->plan, s->decode->place), 0, sl_tokens_entry_max_bytes());
    struct sl_cursor out = sl_cursor_over(f->bytes, f->n);
    sl_tokens_put(&out, entry);
    f->n = (size_t)(out.at - f->bytes);
    sl_sim_send(s, f);
}

static struct sl_sim_adoptee *find(struct sl_sim *s, uint64_t seq)
{
    for (uint32_t i = 0; i < s->plan.max_running; i++)
        if (s->decode->adoptees[i].sequence && s->decode->adoptees[i].sequence->id == seq)
            return &s->decode->adoptees[i];
    return NULL;
}

static struct sl_sim_adoptee *find_or_open(struct sl_sim *s, uint64_t seq)
{
    struct sl_sim_adoptee *a = find(s, seq);
    for (uint32_t i = 0; !a && i < s->plan.max_running; i++)
        if (!s->decode->adoptees[i].sequence) {
            a = &s->decode->adoptees[i];
            *a = (struct sl_sim_adoptee){.sequence = sl_sequences_open(&s->decode->table, seq)};
        }
    if (!a)
        sl_sim_break(s, "the decode worker was given more sequences than may run");
    return a;
}

static bool has_ended(const struct sl_sim *s, uint64_t seq)
{
    for (uint32_t i = 0; i < 256; i++)
        if (s->decode->ended[i] == seq)
            return true;
    return false;
}

static void adopt_when_whole(struct sl_sim *s, struct sl_sim_adoptee *a);
static void step_soon(struct sl_sim *s, const struct sl_sim_adoptee *a);

static bool waits_for(const struct sl_sim_adoptee *fork, uint64_t seq)
{
    return fork->sequence && fork->named && !fork->adopted && fork->spec.kind == SL_ADOPT_FORK &&
           fork->spec.from == seq;
}

static void end(struct sl_sim *s, struct sl_sim_adoptee *a, uint64_t seq)
{
    if (a) {
        struct sl_sim_adoptee *from = waits_for(a, a->spec.from) ? find(s, a->spec.from) : NULL;
        if (from && --from->n_forks_left == 0)
            adopt_when_whole(s, from);
        for (uint32_t i = 0; i < s->plan.max_running; i++)
            if (waits_for(&s->decode->adoptees[i], seq))
                sl_sim_break(s, "sequence %llu ended and others are to be made of it",
                             (unsigned long long)seq);
        sl_sequences_close(&s->decode->table, a->sequence);
        a->sequence = NULL;
    }
    s->decode->ended[s->decode->n_ended++ % 256] = seq;
    say(s, &(struct sl_tokens_entry){.kind = SL_TOKENS_ENDED, .seq = seq});
}

static bool is_whole(const struct sl_sim *s, const struct sl_sim_adoptee *a)
{
    for (uint32_t k = 0; k < s->plan.n_stages; k++)
        if (!a->named || a->adopted || a->got[k] < a->spec.prompt_tokens)
            return false;
    return true;
}

/* What the prompt has of its last page, of every stage. */
static void fork_pages(struct sl_sim *s, struct sl_sim_adoptee *fork, const struct sl_sim_adoptee *from)
{
    uint32_t prompt = from->spec.prompt_tokens, last = prompt / SL_PAGE;
    for (uint32_t k = 0; k < s->plan.n_stages; k++) {
        for (uint32_t i = 0; i < prompt % SL_PAGE; i++)
            *value_at(s, k, fork->sequence->pages[last], i) = *value_at(s, k, from->sequence->pages[last], i);
        fork->got[k] = prompt;
    }
    for (uint32_t i = 0; i < last; i++)
        if (fork->sequence->pages[i] != from->sequence->pages[i])
            sl_sim_break(s, "page %u of a fork is not that of its prompt", i);
}

static void adopt_when_whole(struct sl_sim *s, struct sl_sim_adoptee *a)
{
    if (!is_whole(s, a))
        return;
    for (uint32_t i = 0; i < s->plan.max_running; i++) {
        struct sl_sim_adoptee *fork = &s->decode->adoptees[i];
        if (!waits_for(fork, a->spec.seq))
            continue;
        fork_pages(s, fork, a);
        a->n_forks_left--;
        adopt_when_whole(s, fork);
    }
    if (a->n_forks_left > 0)
        return;
    a->adopted = true;
    a->text.n_out = a->spec.n_out;
    a->last_id = a->spec.first_id;
    say(s, &(struct sl_tokens_entry){.kind = SL_TOKENS_ADOPTED, .seq = a->spec.seq});
    if (a->spec.silent) {
        end(s, a, a->spec.seq);
        return;
    }
    step_soon(s, a);
}

static bool place(struct sl_sim *s, struct sl_sim_adoptee *a, uint32_t index, uint32_t page, bool shared)
{
    bool fresh;
    if (sl_sequences_put(&s->decode->table, a->sequence, index, page, !shared, &fresh) == SL_OK)
        return true;
    sl_sim_break(s, "page %u of a sequence cannot be number %u on the decode worker", index, page);
    return false;
}

/* The first word about it says how much of its prompt lies here. */
static void begins_at(struct sl_sim *s, struct sl_sim_adoptee *a, uint32_t token)
{
    for (uint32_t k = 0; k < s->plan.n_stages && !a->begun; k++)
        a->got[k] = token;
    a->from = a->begun ? a->from : token;
    a->begun = true;
}

/* The page is copied now: until this moment the sender had to leave it as it was. */
static void on_page(struct sl_sim *s, const struct sl_sim_frame *f)
{
    struct sl_sim_stage *from = &s->stages[f->from - 1];
    struct sl_sim_adoptee *a = has_ended(s, f->seq) ? NULL : find_or_open(s, f->seq);
    if (f->sum != sl_sim_page_sum(from, f->page, f->n_tokens))
        sl_sim_break(s, "page %u of stage %u changed while it was read", f->page, from->k);
    if (a)
        begins_at(s, a, f->index * SL_PAGE);
    if (a && f->index * SL_PAGE != a->got[from->k])
        sl_sim_break(s, "stage %u sends page %u of a sequence out of order", from->k, f->index);
    if (a && place(s, a, f->index, f->to_page, false)) {
        for (uint32_t i = 0; i < f->n_tokens; i++)
            *value_at(s, from->k, f->to_page, i) = from->values[(size_t)f->page * SL_PAGE + i];
        a->got[from->k] += f->n_tokens;
        adopt_when_whole(s, a);
    }
}

/* The page has left, whoever has it now. */
static void page_left(struct sl_sim *s, const struct sl_sim_frame *f)
{
    struct sl_sim_stage *from = &s->stages[f->from - 1];
    if (s->config.plant != SL_SIM_LATE_PUSH)
        sl_sequences_read_end(&from->table, f->page);
    sl_sim_stage_go_on(s, from);
}

static void on_grow(struct sl_sim *s, struct sl_sim_adoptee *a, const struct sl_adopt *adopt)
{
    if (!a && !has_ended(s, adopt->seq))
        sl_sim_break(s, "what is not here is to grow");
    if (!a)
        return;
    if (adopt->page_first != a->sequence->n_pages)
        sl_sim_break(s, "a sequence of %u pages grows from page %u on", a->sequence->n_pages,
                     adopt->page_first);
    for (uint32_t i = 0; i < adopt->n_pages; i++)
        place(s, a, adopt->page_first + i, sl_get32(adopt->pages + 4 * (size_t)i), false);
    step_soon(s, a);
}

/* Of an answer that comes again all that was told counts; else its first token. */
static void keep_text(struct sl_sim *s, struct sl_sim_adoptee *a, const struct sl_adopt *adopt)
{
    uint32_t ids[4096], counts[4096], n_ids = 0;
    struct sl_counts all = {.room = 4096, .ids = ids, .counts = counts};
    const char *bad = sl_counts_read(&all, adopt->counts, adopt->counts_bytes, s->plan.vocab, &n_ids);
    a->text = (struct sl_sim_text){.steered = sl_sim_steer(adopt->steering, adopt->steering_bytes)};
    for (uint32_t i = 0; i < all.n; i++)
        a->text.counted += all.counts[i] * sl_sim_count(all.ids[i]);
    if (adopt->n_out == 1)
        a->text.counted = sl_sim_count(adopt->first_id);
    else if (bad || n_ids != adopt->n_out)
        sl_sim_break(s, "of %u tokens that were told %u are counted", adopt->n_out, n_ids);
}

static void on_adopt(struct sl_sim *s, const struct sl_sim_frame *f)
{
    struct sl_adopt adopt;
    const char *bad = sl_adopt_unpack(&adopt, f->bytes, f->n, &s->limits);
    if (bad) {
        sl_sim_break(s, "the decode worker cannot take an ADOPT: %s", bad);
        return;
    }
    if (adopt.kind == SL_ADOPT_CANCEL) {
        end(s, find(s, adopt.seq), adopt.seq);
        return;
    }
    if (adopt.kind == SL_ADOPT_GROW) {
        on_grow(s, find(s, adopt.seq), &adopt);
        return;
    }
    struct sl_sim_adoptee *a = find_or_open(s, adopt.seq), *from = NULL;
    uint32_t n_shared = adopt.kind == SL_ADOPT_FORK ? adopt.prompt_tokens / SL_PAGE : adopt.n_kept;
    if (adopt.kind == SL_ADOPT_FORK && (!(from = find(s, adopt.from)) || from->n_forks_left == 0)) {
        sl_sim_break(s, "a fork of what is not here, or waits for none");
        return;
    }
    if (a && adopt.kind == SL_ADOPT_TAKE) {
        begins_at(s, a, adopt.n_kept * SL_PAGE);
        if (a->from != adopt.n_kept * SL_PAGE)
            sl_sim_break(s, "pages of a sequence come from token %u on, and %u of them lie there", a->from,
                         adopt.n_kept);
        s->report.kept += adopt.n_kept;
        if (s->config.plant == SL_SIM_LOST_PAGE && adopt.n_kept > 0)
            *value_at(s, 0, sl_get32(adopt.pages), 0) ^= 1;
    }
    for (uint32_t i = 0; a && i < adopt.n_pages; i++)
        if (!place(s, a, i, sl_get32(adopt.pages + 4 * (size_t)i), i < n_shared))
            return;
    if (!a)
        return;
    keep_text(s, a, &adopt);
    a->spec = adopt;
    a->spec.pages = a->spec.steering = a->spec.counts = NULL; /* they were in the frame */
    a->named = true;
    a->n_forks_left = adopt.n_forks;
    adopt_when_whole(s, from ? from : a);
}

void sl_sim_decode_deliver(struct sl_sim *s, struct sl_sim_frame *frame)
{
    s->decode = &s->decoders[s->links[frame->link].plan.decoder];
    bool lost = s->decode->dead || s->decode->life != frame->life;
    if (!lost && frame->kind == SL_LINK_KV)
        on_page(s, frame);
    else if (!lost)
        on_adopt(s, frame);
    if (frame->kind == SL_LINK_KV)
        page_left(s, frame);
    sl_sim_release(s, frame);
}

/* Where the token that was told last goes. */
static uint32_t next_pos(const struct sl_sim_adoptee *a)
{
    return a->spec.prompt_tokens + a->text.n_out - a->spec.n_out;
}

static bool can_step(const struct sl_sim_adoptee *a)
{
    return a->sequence && a->adopted && next_pos(a) / SL_PAGE < a->sequence->n_pages;
}

/* As the stages would make it: what a position holds does not depend on who computed it. */
static void make_token(struct sl_sim *s, struct sl_sim_adoptee *a)
{
    uint32_t pos = next_pos(a);
    uint64_t row = a->last_id;
    for (uint32_t k = 0; k < s->plan.n_stages; k++) {
        *value_at(s, k, a->sequence->pages[pos / SL_PAGE], pos % SL_PAGE) = sl_sim_position(row, k, pos);
        row = 0;
        for (uint32_t p = 0; p <= pos; p++)
            row = sl_sim_mix(row, *value_at(s, k, a->sequence->pages[p / SL_PAGE], p % SL_PAGE));
    }
    struct sl_tokens_entry entry = {.kind = SL_TOKENS_TOKEN,
                                    .seq = a->spec.seq,
                                    .token = {.id = sl_sim_choose(s, row, &a->text, a->spec.sampling.seed)}};
    a->last_id = entry.token.id;
    a->text.n_out++;
    a->text.counted += sl_sim_count(a->last_id);
    entry.finish = sl_adopt_finish(&a->spec, a->last_id, a->text.n_out);
    say(s, &entry);
    if (entry.finish)
        end(s, a, a->spec.seq);
}

static void step_soon(struct sl_sim *s, const struct sl_sim_adoptee *a)
{
    if (s->decode->stepping || !can_step(a))
        return;
    sl_sim_at(s, s->now_us + s->config.step_us, SL_SIM_STEP, s->decode->place, NULL);
    s->decode->stepping = true;
}

/* Who comes in its place has nothing of what its pages held. */
void sl_sim_decode_die(struct sl_sim *s, uint32_t place)
{
    struct sl_sim_decode *d = &s->decoders[place];
    for (uint32_t i = 0; i < s->plan.max_running; i++) {
        if (d->adoptees[i].sequence)
            sl_sequences_close(&d->table, d->adoptees[i].sequence);
        d->adoptees[i].sequence = NULL;
    }
    memset(d->values, 0xee, (size_t)s->plan.n_stages * s->plan.n_pages * SL_PAGE * sizeof *d->values);
    memset(d->table.written, 0, (s->plan.n_pages + 63) / 64 * sizeof *d->table.written);
    d->dead = true;
    d->stepping = false;
}

void sl_sim_decode_step(struct sl_sim *s, uint32_t place)
{
    uint32_t rows = 0;
    s->decode = &s->decoders[place];
    if (s->decode->dead)
        return;
    s->report.steps++;
    s->decode->stepping = false;
    for (uint32_t i = 0; i < s->plan.max_running; i++)
        if (can_step(&s->decode->adoptees[i])) {
            make_token(s, &s->decode->adoptees[i]);
            rows++;
        }
    if (rows > 0)
        say(s, &(struct sl_tokens_entry){
                   .kind = SL_TOKENS_STEP, .rows = rows, .step_us = s->config.step_us * (1 + place)});
    for (uint32_t i = 0; i < s->plan.max_running; i++)
        step_soon(s, &s->decode->adoptees[i]);
}

sl_status sl_sim_decode_init(struct sl_sim *s)
{
    for (uint32_t i = 0; i < s->plan.max_decoders; i++) {
        struct sl_sim_decode *d = &s->decoders[i];
        d->place = i;
        d->known = true;
        d->adoptees = calloc(s->plan.max_running, sizeof *d->adoptees);
        d->values = calloc((size_t)s->plan.n_stages * s->plan.n_pages * SL_PAGE, sizeof *d->values);
        if (!d->adoptees || !d->values)
            return SL_E_NOMEM;
        SL_TRY(sl_sequences_init(&d->table, &s->arena, s->plan.max_running, s->plan.context_tokens,
                                 s->plan.n_pages));
    }
    return SL_OK;
}

void sl_sim_decode_fini(struct sl_sim *s)
{
    for (uint32_t i = 0; i < SL_MAX_DECODERS; i++) {
        free(s->decoders[i].adoptees);
        free(s->decoders[i].values);
    }
}
