/* Sequences that come and go (adoptees.h). All that a step can have to say fits its TOKENS buffer (sl_tokens_max_bytes), but for the
 * arrivals of a long prompt, which are told over several. */
#include "node/role/adoptees.h"
#include <stdlib.h>
#include <string.h>

/* ---- what is said ---- */

static uint8_t *out_buffer(const struct sl_adoptees *t, uint32_t i)
{
    return t->out + i * t->plan->tokens_bytes;
}

/* The buffer on top of the free ones is written to; it leaves them when there was something to say. */
bool sl_adoptees_begin(struct sl_adoptees *t)
{
    if (t->n_free_out == 0)
        return false;
    t->said = sl_cursor_over(out_buffer(t, t->free_out[t->n_free_out - 1]), t->plan->tokens_bytes);
    return true;
}

void sl_adoptees_unsay(struct sl_adoptees *t)
{
    t->said.at = out_buffer(t, t->free_out[t->n_free_out - 1]);
}

void sl_adoptees_flush(struct sl_adoptees *t, uint64_t link, struct sl_role_actions *actions)
{
    uint32_t buffer = t->free_out[t->n_free_out - 1];
    uint8_t *bytes = out_buffer(t, buffer);
    if (t->said.at == bytes)
        return;
    t->n_free_out--;
    struct sl_role_action send = {.kind = SL_ROLE_SEND,
                                  .link = link,
                                  .wire = {.kind = SL_WIRE_TOKENS},
                                  .payload = bytes,
                                  .tag = buffer};
    send.wire.payload_bytes = (uint64_t)(t->said.at - bytes);
    send.wire.meta_bytes = (uint32_t)send.wire.payload_bytes;
    sl_frame_seal(&send.wire, bytes);
    sl_role_act(actions, &send);
}

void sl_adoptees_sent(struct sl_adoptees *t, uint64_t tag)
{
    assert(t->n_free_out < SL_TOKENS_BUFFERS);
    t->free_out[t->n_free_out++] = (uint32_t)tag;
}

void sl_adoptees_say(struct sl_adoptees *t, const struct sl_tokens_entry *entry)
{
    sl_tokens_put(&t->said, entry);
    assert(!t->said.bad);
}

static bool has_room(const struct sl_adoptees *t, uint32_t n_entries)
{
    return (size_t)(t->said.end - t->said.at) >= n_entries * sl_tokens_entry_max_bytes();
}

/* ---- sequences ---- */

enum sl_adoptee_state sl_adoptee_after(enum sl_adoptee_state state, enum sl_adoptee_event event)
{
    enum {
        FREE = SL_ADOPTEE_FREE,
        ARRIVING = SL_ADOPTEE_ARRIVING,
        NAMED = SL_ADOPTEE_NAMED,
        WHOLE = SL_ADOPTEE_WHOLE,
        ADOPTED = SL_ADOPTEE_ADOPTED,
        ENDING = SL_ADOPTEE_ENDING,
        NEVER = SL_ADOPTEE_STATES
    };
    static const uint8_t after[SL_ADOPTEE_STATES][SL_ADOPTEE_EVENTS] = {
        /*             PAGE      NAME   FILLED  TOLD    OVER    END */
        [FREE] = {ARRIVING, NAMED, NEVER, NEVER, NEVER, NEVER},
        [ARRIVING] = {ARRIVING, NAMED, NEVER, NEVER, ENDING, FREE},
        [NAMED] = {NAMED, NEVER, WHOLE, NEVER, ENDING, FREE},
        [WHOLE] = {NEVER, NEVER, NEVER, ADOPTED, ENDING, FREE},
        [ADOPTED] = {NEVER, NEVER, NEVER, NEVER, ENDING, FREE},
        [ENDING] = {NEVER, NEVER, NEVER, NEVER, NEVER, FREE},
    };
    return (enum sl_adoptee_state)after[state][event];
}

static bool may(const struct sl_adoptee *a, enum sl_adoptee_event event)
{
    return sl_adoptee_after(a->state, event) != SL_ADOPTEE_STATES;
}

static void move(struct sl_adoptee *a, enum sl_adoptee_event event)
{
    assert(may(a, event));
    a->state = sl_adoptee_after(a->state, event);
}

/* They are of a part whose words go to the chief. */
static bool is_of_other(const struct sl_adoptees *t)
{
    return t->part + 1 < t->plan->n_parts;
}

struct sl_adoptee *sl_adoptees_find(struct sl_adoptees *t, uint64_t seq)
{
    for (uint32_t i = 0; i < t->plan->max_running; i++)
        if (t->list[i].state != SL_ADOPTEE_FREE && t->list[i].state != SL_ADOPTEE_ENDING &&
            t->list[i].sequence->id == seq)
            return &t->list[i];
    return NULL;
}

struct sl_adoptee *sl_adoptees_find_ending(struct sl_adoptees *t, uint64_t seq)
{
    for (uint32_t i = 0; i < t->plan->max_running; i++)
        if (t->list[i].state == SL_ADOPTEE_ENDING && t->list[i].sequence->id == seq)
            return &t->list[i];
    return NULL;
}

/* Whole here and elsewhere, and not waiting for the FORKs that come behind its TAKE. */
static bool is_to_tell(const struct sl_adoptees *t, const struct sl_adoptee *a)
{
    return a->state == SL_ADOPTEE_WHOLE && a->n_forks_left == 0 && a->n_whole == t->n_others;
}

bool sl_adoptees_any_to_tell(const struct sl_adoptees *t)
{
    for (uint32_t i = 0; i < t->plan->max_running; i++)
        if (is_to_tell(t, &t->list[i]))
            return true;
    return false;
}

bool sl_adoptees_has_ended(const struct sl_adoptees *t, uint64_t seq)
{
    uint32_t n = t->n_ended < SL_TOMBSTONES ? t->n_ended : SL_TOMBSTONES;
    for (uint32_t i = 0; i < n; i++)
        if (t->ended[i] == seq)
            return true;
    return false;
}

/* An entry that is free, for the sequence; it is still FREE. NULL: the table is full. */
static struct sl_adoptee *open_adoptee(struct sl_adoptees *t, uint64_t seq)
{
    for (uint32_t i = 0; i < t->plan->max_running; i++) {
        struct sl_adoptee *a = &t->list[i];
        if (a->state != SL_ADOPTEE_FREE)
            continue;
        struct sl_sequence *s = sl_sequences_open(sl_stage_sequences(t->stage), seq);
        if (!s)
            return NULL;
        *a = (struct sl_adoptee){.sequence = s, .arrivals = a->arrivals};
        return a;
    }
    return NULL;
}

static void end_forks(struct sl_adoptees *t, struct sl_adoptee *a, uint64_t seq);

void sl_adoptees_end(struct sl_adoptees *t, struct sl_adoptee *a, uint64_t seq, sl_status status)
{
    if (a && a->state >= SL_ADOPTEE_NAMED)
        end_forks(t, a, seq);
    t->ended[t->n_ended++ % SL_TOMBSTONES] = seq;
    t->on_end(t->owner, a, seq, status);
}

void sl_adoptees_keep_ending(struct sl_adoptee *a)
{
    move(a, SL_ADOPTEE_OVER);
}

void sl_adoptees_close(struct sl_adoptees *t, struct sl_adoptee *a)
{
    sl_sequences_close(sl_stage_sequences(t->stage), a->sequence);
    move(a, SL_ADOPTEE_END);
}

/* Page `index` of the sequence lies where the record said; shared: what was written there is meant. false: not if the log is to be
 * believed. */
static bool place_page(struct sl_adoptees *t, struct sl_adoptee *a, uint32_t index, uint32_t page,
                       bool shared)
{
    bool fresh;
    if (sl_sequences_put(sl_stage_sequences(t->stage), a->sequence, index, page, !shared, &fresh) != SL_OK)
        return false;
    if (fresh)
        sl_stage_clear(t->stage, page);
    return true;
}

/* ---- several answers to a prompt ---- */

static bool waits_for(const struct sl_adoptee *fork, uint64_t seq)
{
    return fork->state == SL_ADOPTEE_NAMED && fork->spec.kind == SL_ADOPT_FORK && fork->spec.from == seq;
}

/* Who is still to be made of it ends with it; and when it is such a one, one less is to be made. */
static void end_forks(struct sl_adoptees *t, struct sl_adoptee *a, uint64_t seq)
{
    struct sl_adoptee *from = a->spec.kind == SL_ADOPT_FORK ? sl_adoptees_find(t, a->spec.from) : NULL;
    if (from && waits_for(a, a->spec.from))
        from->n_forks_left--;
    for (uint32_t i = 0; i < t->plan->max_running; i++)
        if (waits_for(&t->list[i], seq))
            sl_adoptees_end(t, &t->list[i], t->list[i].spec.seq, SL_E_CORRUPT);
}

/* The pages that the prompt fills are the fork's as well. The last one, which both will write to, it has for itself; what the
 * prompt has of it is copied, and nobody has written behind that: index 0 waits for its forks. */
static bool fill_fork(struct sl_adoptees *t, struct sl_adoptee *fork, const struct sl_adoptee *from)
{
    uint32_t prompt = from->spec.prompt_tokens, whole = prompt / SL_PAGE;
    const struct sl_share *share = sl_stage_share(t->stage);
    if (fork->spec.prompt_tokens != prompt ||
        memcmp(fork->sequence->pages, from->sequence->pages, whole * sizeof(uint32_t)) != 0)
        return false;
    if (prompt % SL_PAGE)
        sl_stage_page_in(t->stage, fork->sequence->pages[whole], share->begin, share->end - share->begin,
                         sl_stage_page_out(t->stage, from->sequence->pages[whole]));
    return true;
}

/* Those that have been named, of one that is whole. */
static void make_forks(struct sl_adoptees *t, struct sl_adoptee *from)
{
    uint64_t seq = from->sequence->id;
    for (uint32_t i = 0; i < t->plan->max_running; i++) {
        struct sl_adoptee *fork = &t->list[i];
        if (!waits_for(fork, seq))
            continue;
        if (!fill_fork(t, fork, from)) {
            sl_adoptees_end(t, fork, fork->spec.seq, SL_E_CORRUPT);
            continue;
        }
        move(fork, SL_ADOPTEE_FILLED);
        from->n_forks_left--;
    }
}

/* Of a named sequence: a stage that sent more than the prompt ends it, and with the last page of all stages it is whole. */
static void look_whether_whole(struct sl_adoptees *t, struct sl_adoptee *a)
{
    bool whole = a->spec.kind == SL_ADOPT_TAKE; /* a FORK is made of another */
    for (uint32_t k = 0, begin, end; k < t->plan->n_stages; k++) {
        if (!sl_plan_overlap(t->plan, k, t->part, &begin, &end))
            continue;
        if (a->next[k] > (a->spec.kind == SL_ADOPT_TAKE ? a->spec.prompt_tokens : 0)) {
            sl_adoptees_end(t, a, a->sequence->id, SL_E_CORRUPT);
            return;
        }
        whole = whole && a->next[k] == a->spec.prompt_tokens;
    }
    if (!whole)
        return;
    move(a, SL_ADOPTEE_FILLED);
    make_forks(t, a);
}

/* When its pages came, as far as the buffer has room, and then that it is adopted. */
static void tell_arrivals(struct sl_adoptees *t, struct sl_adoptee *a)
{
    uint64_t seq = a->sequence->id;
    for (; a->n_told < a->n_arrivals && has_room(t, 1); a->n_told++)
        sl_adoptees_say(t, &(struct sl_tokens_entry){.kind = SL_TOKENS_ARRIVED,
                                                     .seq = seq,
                                                     .stage = a->arrivals[a->n_told].stage,
                                                     .chunk = a->arrivals[a->n_told].chunk,
                                                     .at_us = a->arrivals[a->n_told].at_us});
    if (a->n_told < a->n_arrivals || !is_to_tell(t, a) || !has_room(t, 2))
        return;
    sl_adoptees_say(
        t, &(struct sl_tokens_entry){.kind = SL_TOKENS_ADOPTED, .seq = seq, .at_us = a->last_arrival_us});
    move(a, SL_ADOPTEE_TOLD);
    if (a->spec.silent && !is_of_other(t)) /* the chief says when */
        sl_adoptees_end(t, a, seq, SL_OK);
}

void sl_adoptees_tell(struct sl_adoptees *t)
{
    for (uint32_t i = 0; i < t->plan->max_running; i++)
        if (t->list[i].state == SL_ADOPTEE_WHOLE && t->list[i].n_whole == t->n_others)
            tell_arrivals(t, &t->list[i]);
}

void sl_adoptees_note_arrival(struct sl_adoptees *t, struct sl_adoptee *a, uint32_t stage, uint32_t chunk,
                              uint64_t at_us)
{
    a->last_arrival_us = at_us;
    for (uint32_t i = a->n_arrivals; i-- > 0;)
        if (a->arrivals[i].stage == stage && a->arrivals[i].chunk == chunk) {
            a->arrivals[i].at_us = at_us;
            return;
        }
    if (a->n_arrivals < t->max_arrivals)
        a->arrivals[a->n_arrivals++] = (struct sl_arrival){stage, chunk, at_us};
}

/* ---- frames ---- */

static const char *check_kv(const struct sl_adoptees *t, const struct sl_io_event *frame)
{
    const struct sl_wire *w = &frame->wire;
    if (w->source >= t->plan->n_stages ||
        sl_plan_link_peer(frame->link, t->node) != sl_plan_stage_node(w->source))
        return "stage";
    uint32_t begin, end;
    if (!sl_plan_overlap(t->plan, w->source, t->part, &begin, &end) || w->layer_first != begin ||
        begin + w->layer_count != end)
        return "layers";
    if (w->token_first % SL_PAGE || w->token_count == 0 || w->token_count > SL_PAGE ||
        w->token_first + w->token_count > t->plan->context_tokens)
        return "tokens";
    if (w->meta_bytes || w->dtype != t->plan->kv_dtype ||
        w->payload_bytes != w->layer_count * t->plan->kv_layer_bytes)
        return "size";
    if (w->profile != t->plan->profile)
        return "numerics profile";
    return NULL;
}

static void keep_page(struct sl_adoptees *t, struct sl_adoptee *a, const struct sl_io_event *frame)
{
    const struct sl_wire *w = &frame->wire;
    sl_stage_page_in(t->stage, a->sequence->pages[w->token_first / SL_PAGE], w->layer_first, w->layer_count,
                     frame->payload);
    a->next[w->source] += w->token_count;
    sl_adoptees_note_arrival(t, a, w->source, w->chunk_index, frame->at_us);
    move(a, SL_ADOPTEE_PAGE);
    if (a->state == SL_ADOPTEE_NAMED)
        look_whether_whole(t, a);
}

/* Whether its pages come from this token on: the first who says so is believed. */
static bool begins_at(const struct sl_adoptees *t, struct sl_adoptee *a, uint32_t token)
{
    for (uint32_t k = 0; k < t->plan->n_stages && !a->begun; k++)
        a->next[k] = token;
    a->from = a->begun ? a->from : token;
    a->begun = true;
    return a->from == token;
}

/* Pages may come before the ADOPT that names their sequence; the coordinator has counted them already. */
void sl_adoptees_on_kv(struct sl_adoptees *t, const struct sl_io_event *frame)
{
    const struct sl_wire *w = &frame->wire;
    struct sl_adoptee *a = sl_adoptees_find(t, w->seq);
    atomic_fetch_add(&t->meter->kv_frames, 1);
    atomic_fetch_add(&t->meter->kv_bytes, w->payload_bytes);
    if (sl_adoptees_has_ended(t, w->seq))
        return;
    if (check_kv(t, frame) || !sl_frame_whole(w, frame->payload)) {
        atomic_fetch_add(&t->meter->checksum_failures, 1);
        sl_adoptees_end(t, a, w->seq, SL_E_CORRUPT);
        return;
    }
    if (!a && !(a = open_adoptee(t, w->seq))) {
        sl_adoptees_end(t, NULL, w->seq, SL_E_EXHAUSTED);
        return;
    }
    /* a page twice, one that is missing, one too many, or one where another's lies */
    bool fits =
        may(a, SL_ADOPTEE_PAGE) && a->spec.kind != SL_ADOPT_FORK &&
        (a->begun ? w->token_first == a->next[w->source] : begins_at(t, a, (uint32_t)w->token_first)) &&
        place_page(t, a, (uint32_t)w->token_first / SL_PAGE, w->page, false);
    if (fits) {
        keep_page(t, a, frame);
        return;
    }
    if (a->state == SL_ADOPTEE_FREE) /* only just opened */
        move(a, SL_ADOPTEE_PAGE);
    sl_adoptees_end(t, a, w->seq, SL_E_CORRUPT);
}

/* a: its entry, which is told as ended when the ADOPT can't be. */
static void name_sequence(struct sl_adoptees *t, struct sl_adoptee *a, const struct sl_adopt *adopt)
{
    bool forks = adopt->kind == SL_ADOPT_FORK;
    uint32_t n_shared = forks ? adopt->prompt_tokens / SL_PAGE : adopt->n_kept;
    move(a, SL_ADOPTEE_NAME);
    a->spec = *adopt;
    a->spec.pages = a->spec.steering = a->spec.counts = NULL; /* they are in the frame */
    if (t->on_named)
        t->on_named(t->owner, a, adopt);
    bool fits = forks || begins_at(t, a, n_shared * SL_PAGE);
    for (uint32_t i = 0; i < adopt->n_pages; i++)
        if (!fits || !place_page(t, a, i, sl_get32(adopt->pages + 4 * (size_t)i), i < n_shared)) {
            sl_adoptees_end(t, a, adopt->seq, SL_E_CORRUPT);
            return;
        }
    a->n_forks_left = adopt->n_forks;
    look_whether_whole(t, a);
}

/* NULL, or what is wrong. A fork of one that has ended ends, too. */
static const char *fork_sequence(struct sl_adoptees *t, struct sl_adoptee *a, const struct sl_adopt *adopt)
{
    struct sl_adoptee *from = sl_adoptees_find(t, adopt->from);
    uint32_t n_named = 0;
    for (uint32_t i = 0; i < t->plan->max_running; i++)
        n_named += waits_for(&t->list[i], adopt->from);
    if (!from && !sl_adoptees_has_ended(t, adopt->from))
        return "it makes a sequence of one that is not here";
    if (from && (from->spec.kind != SL_ADOPT_TAKE || from->n_forks_left <= n_named))
        return "it makes more of a sequence than it said";
    if (!from) {
        if (a->state == SL_ADOPTEE_FREE)
            move(a, SL_ADOPTEE_NAME);
        sl_adoptees_end(t, a, adopt->seq, SL_E_CORRUPT);
        return NULL;
    }
    name_sequence(t, a, adopt);
    if (from->state == SL_ADOPTEE_WHOLE)
        make_forks(t, from);
    return NULL;
}

/* A FORK for which there is no room: its prompt's sequence waits for the others alone. */
static void expect_one_less(struct sl_adoptees *t, const struct sl_adopt *adopt)
{
    struct sl_adoptee *from = adopt->kind == SL_ADOPT_FORK ? sl_adoptees_find(t, adopt->from) : NULL;
    if (from && from->n_forks_left > 0)
        from->n_forks_left--;
}

/* NULL, or what is wrong. */
static const char *grow_sequence(struct sl_adoptees *t, struct sl_adoptee *a, const struct sl_adopt *adopt)
{
    if (!a || a->state < SL_ADOPTEE_NAMED)
        return "what is not here, or was not named, is to grow";
    if (adopt->page_first != a->sequence->n_pages)
        return "a sequence grows by other pages than its next";
    for (uint32_t i = 0; i < adopt->n_pages; i++)
        if (!place_page(t, a, adopt->page_first + i, sl_get32(adopt->pages + 4 * (size_t)i), false)) {
            sl_adoptees_end(t, a, adopt->seq, SL_E_CORRUPT);
            return NULL;
        }
    return NULL;
}

/* NULL, or what is wrong. */
static const char *obey(struct sl_adoptees *t, struct sl_adoptee *a, const struct sl_adopt *adopt)
{
    bool names = adopt->kind == SL_ADOPT_TAKE || adopt->kind == SL_ADOPT_FORK;
    if (adopt->kind == SL_ADOPT_CANCEL && is_of_other(t))
        return "it cancels, which is the chief's";
    if (sl_adoptees_has_ended(t, adopt->seq)) {
        /* the two crossed: its end is on the way to the coordinator, and is told once */
        if (names && t->on_late_name)
            t->on_late_name(t->owner, adopt->seq);
        return NULL;
    }
    if (adopt->kind == SL_ADOPT_CANCEL) {
        sl_adoptees_end(t, a, adopt->seq, SL_OK);
        return NULL;
    }
    if (adopt->kind == SL_ADOPT_GROW)
        return grow_sequence(t, a, adopt);
    if (!a && !(a = open_adoptee(t, adopt->seq))) {
        sl_adoptees_end(t, NULL, adopt->seq, SL_E_EXHAUSTED);
        expect_one_less(t, adopt);
        return NULL;
    }
    if (adopt->kind == SL_ADOPT_FORK)
        return fork_sequence(t, a, adopt);
    name_sequence(t, a, adopt);
    return NULL;
}

sl_status sl_adoptees_on_adopt(struct sl_adoptees *t, const struct sl_io_event *frame, const char *from,
                               struct sl_err *err)
{
    struct sl_adopt adopt;
    struct sl_order_limits limits = sl_plan_order_limits(t->plan);
    if (!sl_frame_whole(&frame->wire, frame->payload)) {
        atomic_fetch_add(&t->meter->checksum_failures, 1);
        return sl_fail(err, SL_E_CORRUPT, "an ADOPT from the %s failed its checksum; restart the pipeline",
                       from);
    }
    const char *bad = sl_adopt_unpack(&adopt, frame->payload, frame->wire.meta_bytes, &limits);
    struct sl_adoptee *a = bad ? NULL : sl_adoptees_find(t, adopt.seq);
    bool names = adopt.kind == SL_ADOPT_TAKE || adopt.kind == SL_ADOPT_FORK;
    if (a && names && !may(a, SL_ADOPTEE_NAME))
        bad = "it names a sequence twice";
    if (!bad)
        bad = obey(t, a, &adopt);
    if (!bad)
        return SL_OK;
    return sl_fail(err, SL_E_PROTOCOL, "an ADOPT from the %s is not acceptable: %s; restart the pipeline",
                   from, bad);
}

/* ---- steps ---- */

const char *sl_adoptees_chunk(struct sl_adoptees *t, struct sl_step *step, float *x, struct sl_chunk *chunk)
{
    uint32_t n = 0, width = t->plan->d_model;
    for (uint32_t i = 0; i < step->n; i++) {
        const struct sl_step_row row = step->rows[i];
        const struct sl_adoptee *a = sl_adoptees_find(t, row.seq);
        if (!a && sl_adoptees_has_ended(t, row.seq))
            continue;
        if (!a || a->state != SL_ADOPTEE_ADOPTED)
            return "it is of a sequence that is not here";
        if (row.pos / SL_PAGE >= a->sequence->n_pages)
            return "it goes beyond the pages that were granted";
        if (x && n < i)
            memmove(x + (size_t)n * width, x + (size_t)i * width, width * sizeof *x);
        chunk->slices[n] = (struct sl_chunk_slice){a->sequence, row.pos, 1, 0};
        step->rows[n++] = row;
    }
    step->n = chunk->n_slices = chunk->n_tokens = n;
    return NULL;
}

/* ---- life ---- */

sl_status sl_adoptees_init(struct sl_adoptees *t, const struct sl_role_config *config)
{
    const struct sl_plan *plan = config->plan;
    t->stage = config->stage;
    t->plan = plan;
    t->meter = config->meter;
    t->node = 1 + config->k;
    t->part = sl_plan_part_of(plan, t->node);
    t->n_others = is_of_other(t) ? 0 : plan->n_parts - 1;
    t->max_arrivals = sl_pages_of(plan->context_tokens) * plan->n_stages;
    t->list = calloc(plan->max_running, sizeof *t->list);
    t->out = malloc((size_t)SL_TOKENS_BUFFERS * plan->tokens_bytes); /* sent as far as it was written */
    if (!t->list || !t->out)
        return SL_E_NOMEM;
    for (uint32_t i = 0; i < SL_TOKENS_BUFFERS; i++)
        t->free_out[t->n_free_out++] = i;
    for (uint32_t i = 0; i < plan->max_running; i++) {
        t->list[i].arrivals = calloc(t->max_arrivals, sizeof *t->list[i].arrivals);
        if (!t->list[i].arrivals)
            return SL_E_NOMEM;
    }
    return SL_OK;
}

void sl_adoptees_free(struct sl_adoptees *t)
{
    for (uint32_t i = 0; t->list && i < t->plan->max_running; i++)
        free(t->list[i].arrivals);
    free(t->list);
    free(t->out);
}
