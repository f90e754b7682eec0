/* The decode worker of role_decode.h. A step takes a TOKENS buffer first and sends it last, if anything was said; all that a
 * step can have to say fits it (sl_tokens_max_bytes), but for the arrivals of a long prompt, which are told over several. */
#include "node/role/role_decode.h"
#include "base/digest.h"
#include "pipeline/record/messages.h"
#include "pipeline/stage/sample.h"
#include <stdlib.h>
#include <string.h>

enum { TOMBSTONES = 1024 };

struct arrival {
    uint32_t stage, chunk;
    uint64_t at_us;
};

struct adoptee { /* a sequence here, from its first page or its name on */
    enum sl_adoptee_state state;
    struct sl_sequence *sequence;
    struct sl_adopt spec; /* NAMED and later */
    /* first token of the page that each stage sends next: a stage pushes its pages in order, from the first that does not lie here
     * already, which the first page of all says, or the TAKE */
    uint32_t next[SL_MAX_STAGES];
    bool begun;
    uint32_t from; /* once it has begun: where that was */
    uint32_t n_out, last_id;
    uint32_t n_forks_left; /* that are to be made of its prompt before it goes on */
    /* the steering of spec, which was in the frame, copied to its memory; the ids of its prompt; what it has said so far. From
     * the first token on, which the ADOPT names, counts grow by its own tokens alone */
    uint8_t *steering_room; /* [plan->steering_bytes] */
    struct sl_steering steering;
    uint64_t *prompt_ids; /* bitmap of the vocabulary */
    struct sl_counts counts;
    uint64_t logits_digest, last_arrival_us;
    uint32_t n_arrivals, n_told;
    struct arrival *arrivals; /* [n_stages * pages of a context] */
};

struct sl_decode_role {
    struct sl_role_config config;
    struct sl_stage *stage;
    const struct sl_plan *plan;
    struct sl_role_meter *meter;
    uint32_t node; /* its number */
    uint64_t adopt_link;
    struct adoptee *adoptees; /* [max_running] */
    uint32_t max_arrivals;
    uint64_t ended[TOMBSTONES]; /* late pages of these are dropped */
    uint32_t n_ended;
    uint8_t *out; /* SL_TOKENS_BUFFERS of tokens_bytes; the tag of a frame is its buffer */
    uint32_t free_out[SL_TOKENS_BUFFERS], n_free_out;
    struct sl_cursor cursor; /* of a step: over the buffer that it took */
    struct sl_io_event queue[SL_DECODE_QUEUE];
    uint32_t queue_head, queue_tail, n_in_a_row;
    struct sl_last_word last_word;
    struct sl_chunk chunk;
    float *rows; /* [max_running][d_model] */
    void *scratch;
    struct sl_utilisation utilisation;
    struct sl_role_actions *actions; /* of this step */
};

/* ---- what is said ---- */

static uint8_t *out_buffer(const struct sl_decode_role *r, uint32_t i)
{
    return r->out + i * r->plan->tokens_bytes;
}

static void put(struct sl_decode_role *r, const struct sl_tokens_entry *entry)
{
    sl_tokens_put(&r->cursor, entry);
    assert(!r->cursor.bad);
}

static bool has_room(const struct sl_decode_role *r, uint32_t n_entries)
{
    return (size_t)(r->cursor.end - r->cursor.at) >= n_entries * sl_tokens_entry_max_bytes();
}

/* The buffer on top of the free ones is written to; it leaves them when there was something to say. */
static void flush(struct sl_decode_role *r)
{
    uint32_t buffer = r->free_out[r->n_free_out - 1];
    uint8_t *bytes = out_buffer(r, buffer);
    if (r->cursor.at == bytes)
        return;
    r->n_free_out--;
    struct sl_role_action send = {.kind = SL_ROLE_SEND,
                                  .link = r->adopt_link,
                                  .wire = {.kind = SL_WIRE_TOKENS},
                                  .payload = bytes,
                                  .tag = buffer};
    send.wire.payload_bytes = (uint64_t)(r->cursor.at - bytes);
    send.wire.meta_bytes = (uint32_t)send.wire.payload_bytes;
    sl_frame_seal(&send.wire, bytes);
    sl_role_act(r->actions, &send);
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
        NEVER = SL_ADOPTEE_STATES
    };
    static const uint8_t after[SL_ADOPTEE_STATES][SL_ADOPTEE_EVENTS] = {
        /*            PAGE      NAME   FILLED  TOLD     END */
        [FREE] = {ARRIVING, NAMED, NEVER, NEVER, NEVER}, [ARRIVING] = {ARRIVING, NAMED, NEVER, NEVER, FREE},
        [NAMED] = {NAMED, NEVER, WHOLE, NEVER, FREE},    [WHOLE] = {NEVER, NEVER, NEVER, ADOPTED, FREE},
        [ADOPTED] = {NEVER, NEVER, NEVER, NEVER, FREE},
    };
    return (enum sl_adoptee_state)after[state][event];
}

static bool may(const struct adoptee *a, enum sl_adoptee_event event)
{
    return sl_adoptee_after(a->state, event) != SL_ADOPTEE_STATES;
}

static void move(struct adoptee *a, enum sl_adoptee_event event)
{
    assert(may(a, event));
    a->state = sl_adoptee_after(a->state, event);
}

static struct adoptee *find(struct sl_decode_role *r, uint64_t seq)
{
    for (uint32_t i = 0; i < r->plan->max_running; i++)
        if (r->adoptees[i].state != SL_ADOPTEE_FREE && r->adoptees[i].sequence->id == seq)
            return &r->adoptees[i];
    return NULL;
}

/* Whole, and not waiting for the FORKs that come behind its TAKE. */
static bool any_to_tell(const struct sl_decode_role *r)
{
    for (uint32_t i = 0; i < r->plan->max_running; i++)
        if (r->adoptees[i].state == SL_ADOPTEE_WHOLE && r->adoptees[i].n_forks_left == 0)
            return true;
    return false;
}

static bool has_ended(const struct sl_decode_role *r, uint64_t seq)
{
    uint32_t n = r->n_ended < TOMBSTONES ? r->n_ended : TOMBSTONES;
    for (uint32_t i = 0; i < n; i++)
        if (r->ended[i] == seq)
            return true;
    return false;
}

/* An entry that is free, for the sequence; it is still FREE. NULL: the table is full. */
static struct adoptee *open_adoptee(struct sl_decode_role *r, uint64_t seq)
{
    for (uint32_t i = 0; i < r->plan->max_running; i++) {
        struct adoptee *a = &r->adoptees[i];
        if (a->state != SL_ADOPTEE_FREE)
            continue;
        struct sl_sequence *s = sl_sequences_open(sl_stage_sequences(r->stage), seq);
        if (!s)
            return NULL;
        *a = (struct adoptee){
            .sequence = s,
            .arrivals = a->arrivals,
            .steering_room = a->steering_room,
            .prompt_ids = a->prompt_ids,
            .counts = {.room = a->counts.room, .ids = a->counts.ids, .counts = a->counts.counts}};
        return a;
    }
    return NULL;
}

/* Where the token that was told last goes. */
static uint32_t next_pos(const struct adoptee *a)
{
    return a->spec.prompt_tokens + a->n_out - a->spec.n_out;
}

/* It has the page that it needs now: else it sits out until it is granted one, or told to go. */
static bool can_step(const struct adoptee *a)
{
    return a->state == SL_ADOPTEE_ADOPTED && next_pos(a) / SL_PAGE < a->sequence->n_pages;
}

static bool any_to_step(const struct sl_decode_role *r)
{
    for (uint32_t i = 0; i < r->plan->max_running; i++)
        if (can_step(&r->adoptees[i]))
            return true;
    return false;
}

static void end_forks(struct sl_decode_role *r, struct adoptee *a, uint64_t seq);

/* A sequence ends here once, whether it ever was here (a) or not, and that is told. */
static void end_sequence(struct sl_decode_role *r, struct adoptee *a, uint64_t seq, sl_status status)
{
    struct sl_tokens_entry entry = {
        .kind = status == SL_OK ? SL_TOKENS_ENDED : SL_TOKENS_FAILED, .seq = seq, .status = status};
    if (a) {
        entry.logits_digest = a->logits_digest;
        if (a->state == SL_ADOPTEE_ADOPTED &&
            a->spec.digest) /* the last token never went through the layers */
            entry.kv_digest = sl_stage_kv_digest(r->stage, a->sequence, next_pos(a), 0);
        if (a->state >= SL_ADOPTEE_NAMED)
            end_forks(r, a, seq);
        sl_sequences_close(sl_stage_sequences(r->stage), a->sequence);
        move(a, SL_ADOPTEE_END);
    }
    r->ended[r->n_ended++ % TOMBSTONES] = seq;
    put(r, &entry);
}

/* Page `index` of the sequence lies where the record said; shared: what was written there is meant. false: not if the log is to be
 * believed. */
static bool place_page(struct sl_decode_role *r, struct adoptee *a, uint32_t index, uint32_t page,
                       bool shared)
{
    bool fresh;
    if (sl_sequences_put(sl_stage_sequences(r->stage), a->sequence, index, page, !shared, &fresh) != SL_OK)
        return false;
    if (fresh)
        sl_stage_clear(r->stage, page);
    return true;
}

/* ---- several answers to a prompt ---- */

static bool waits_for(const struct adoptee *fork, uint64_t seq)
{
    return fork->state == SL_ADOPTEE_NAMED && fork->spec.kind == SL_ADOPT_FORK && fork->spec.from == seq;
}

/* Who is still to be made of it ends with it; and when it is such a one, one less is to be made. */
static void end_forks(struct sl_decode_role *r, struct adoptee *a, uint64_t seq)
{
    struct adoptee *from = a->spec.kind == SL_ADOPT_FORK ? find(r, a->spec.from) : NULL;
    if (from && waits_for(a, a->spec.from))
        from->n_forks_left--;
    for (uint32_t i = 0; i < r->plan->max_running; i++)
        if (waits_for(&r->adoptees[i], seq))
            end_sequence(r, &r->adoptees[i], r->adoptees[i].spec.seq, SL_E_CORRUPT);
}

/* The pages that the prompt fills are the fork's as well. The last one, which both will write to, it has for itself; what the
 * prompt has of it is copied, and nobody has written behind that: index 0 waits for its forks. */
static bool fill_fork(struct sl_decode_role *r, struct adoptee *fork, const struct adoptee *from)
{
    uint32_t prompt = from->spec.prompt_tokens, whole = prompt / SL_PAGE;
    if (fork->spec.prompt_tokens != prompt ||
        memcmp(fork->sequence->pages, from->sequence->pages, whole * sizeof(uint32_t)) != 0)
        return false;
    if (prompt % SL_PAGE)
        sl_stage_page_in(r->stage, fork->sequence->pages[whole], 0, r->plan->n_layers,
                         sl_stage_page_out(r->stage, from->sequence->pages[whole]));
    return true;
}

/* Those that have been named, of one that is whole. */
static void make_forks(struct sl_decode_role *r, struct adoptee *from)
{
    uint64_t seq = from->sequence->id;
    for (uint32_t i = 0; i < r->plan->max_running; i++) {
        struct adoptee *fork = &r->adoptees[i];
        if (!waits_for(fork, seq))
            continue;
        if (!fill_fork(r, fork, from)) {
            end_sequence(r, fork, fork->spec.seq, SL_E_CORRUPT);
            continue;
        }
        move(fork, SL_ADOPTEE_FILLED);
        from->n_forks_left--;
    }
}

/* Of a named sequence: a stage that sent more than the prompt ends it, and with the last page of all stages it is whole. */
static void look_whether_whole(struct sl_decode_role *r, struct adoptee *a)
{
    bool whole = a->spec.kind == SL_ADOPT_TAKE; /* a FORK is made of another */
    for (uint32_t k = 0; k < r->plan->n_stages; k++) {
        if (a->next[k] > (a->spec.kind == SL_ADOPT_TAKE ? a->spec.prompt_tokens : 0)) {
            end_sequence(r, a, a->sequence->id, SL_E_CORRUPT);
            return;
        }
        whole = whole && a->next[k] == a->spec.prompt_tokens;
    }
    if (!whole)
        return;
    move(a, SL_ADOPTEE_FILLED);
    make_forks(r, a);
}

static void note_token(struct adoptee *a, uint32_t id)
{
    a->n_out++;
    a->last_id = id;
    if (sl_sampling_counts(&a->spec.sampling))
        sl_counts_add(&a->counts, id);
}

/* When its pages came, as far as the buffer has room, and then that it is adopted. */
static void tell_arrivals(struct sl_decode_role *r, struct adoptee *a)
{
    uint64_t seq = a->sequence->id;
    for (; a->n_told < a->n_arrivals && has_room(r, 1); a->n_told++)
        put(r, &(struct sl_tokens_entry){.kind = SL_TOKENS_ARRIVED,
                                         .seq = seq,
                                         .stage = a->arrivals[a->n_told].stage,
                                         .chunk = a->arrivals[a->n_told].chunk,
                                         .at_us = a->arrivals[a->n_told].at_us});
    if (a->n_told < a->n_arrivals || a->n_forks_left > 0 || !has_room(r, 2))
        return;
    put(r, &(struct sl_tokens_entry){.kind = SL_TOKENS_ADOPTED, .seq = seq, .at_us = a->last_arrival_us});
    move(a, SL_ADOPTEE_TOLD);
    if (a->spec.silent)
        end_sequence(r, a, seq, SL_OK);
}

static void tell(struct sl_decode_role *r)
{
    for (uint32_t i = 0; i < r->plan->max_running; i++)
        if (r->adoptees[i].state == SL_ADOPTEE_WHOLE)
            tell_arrivals(r, &r->adoptees[i]);
}

static void note_arrival(struct sl_decode_role *r, struct adoptee *a, const struct sl_io_event *frame)
{
    a->last_arrival_us = frame->at_us;
    for (uint32_t i = a->n_arrivals; i-- > 0;)
        if (a->arrivals[i].stage == frame->wire.source && a->arrivals[i].chunk == frame->wire.chunk_index) {
            a->arrivals[i].at_us = frame->at_us;
            return;
        }
    if (a->n_arrivals < r->max_arrivals)
        a->arrivals[a->n_arrivals++] =
            (struct arrival){frame->wire.source, frame->wire.chunk_index, frame->at_us};
}

/* ---- frames ---- */

static const char *check_kv(const struct sl_decode_role *r, const struct sl_io_event *frame)
{
    const struct sl_wire *w = &frame->wire;
    if (w->source >= r->plan->n_stages ||
        sl_plan_link_peer(frame->link, r->node) != sl_plan_stage_node(w->source))
        return "stage";
    uint32_t begin = r->plan->begin[w->source];
    if (w->layer_first != begin || begin + w->layer_count != r->plan->begin[w->source + 1])
        return "layers";
    if (w->token_first % SL_PAGE || w->token_count == 0 || w->token_count > SL_PAGE ||
        w->token_first + w->token_count > r->plan->context_tokens)
        return "tokens";
    if (w->meta_bytes || w->dtype != r->plan->kv_dtype ||
        w->payload_bytes != w->layer_count * r->plan->kv_layer_bytes)
        return "size";
    if (w->profile != r->plan->profile)
        return "numerics profile";
    return NULL;
}

static void keep_page(struct sl_decode_role *r, struct adoptee *a, const struct sl_io_event *frame)
{
    const struct sl_wire *w = &frame->wire;
    sl_stage_page_in(r->stage, a->sequence->pages[w->token_first / SL_PAGE], w->layer_first, w->layer_count,
                     frame->payload);
    a->next[w->source] += w->token_count;
    note_arrival(r, a, frame);
    move(a, SL_ADOPTEE_PAGE);
    if (a->state == SL_ADOPTEE_NAMED)
        look_whether_whole(r, a);
}

/* Whether its pages come from this token on: the first who says so is believed. */
static bool begins_at(const struct sl_decode_role *r, struct adoptee *a, uint32_t token)
{
    for (uint32_t k = 0; k < r->plan->n_stages && !a->begun; k++)
        a->next[k] = token;
    a->from = a->begun ? a->from : token;
    a->begun = true;
    return a->from == token;
}

/* Pages may come before the ADOPT that names their sequence; the coordinator has counted them already. */
static void on_kv(struct sl_decode_role *r, const struct sl_io_event *frame)
{
    const struct sl_wire *w = &frame->wire;
    struct adoptee *a = find(r, w->seq);
    atomic_fetch_add(&r->meter->kv_frames, 1);
    atomic_fetch_add(&r->meter->kv_bytes, w->payload_bytes);
    if (has_ended(r, w->seq))
        return;
    if (check_kv(r, frame) || !sl_frame_whole(w, frame->payload)) {
        atomic_fetch_add(&r->meter->checksum_failures, 1);
        end_sequence(r, a, w->seq, SL_E_CORRUPT);
        return;
    }
    if (!a && !(a = open_adoptee(r, w->seq))) {
        end_sequence(r, NULL, w->seq, SL_E_EXHAUSTED);
        return;
    }
    /* a page twice, one that is missing, one too many, or one where another's lies */
    bool fits =
        may(a, SL_ADOPTEE_PAGE) && a->spec.kind != SL_ADOPT_FORK &&
        (a->begun ? w->token_first == a->next[w->source] : begins_at(r, a, (uint32_t)w->token_first)) &&
        place_page(r, a, (uint32_t)w->token_first / SL_PAGE, w->page, false);
    if (fits) {
        keep_page(r, a, frame);
        return;
    }
    if (a->state == SL_ADOPTEE_FREE) /* only just opened */
        move(a, SL_ADOPTEE_PAGE);
    end_sequence(r, a, w->seq, SL_E_CORRUPT);
}

/* What was told: of an answer that comes again it was counted by who sent it, else it is the first token. */
static void keep_text(struct sl_decode_role *r, struct adoptee *a)
{
    uint32_t n_ids;
    a->n_out = a->spec.n_out;
    a->last_id = a->spec.first_id;
    a->logits_digest = a->spec.logits_digest;
    if (!sl_sampling_counts(&a->spec.sampling))
        return;
    if (a->n_out == 1) {
        sl_counts_add(&a->counts, a->last_id);
        return;
    }
    const char *bad =
        sl_counts_read(&a->counts, a->spec.counts, a->spec.counts_bytes, r->plan->vocab, &n_ids);
    assert(!bad); /* it was read with the ADOPT, and there is room for a whole context */
    a->spec.counts = NULL;
}

static void keep_steering(struct sl_decode_role *r, struct adoptee *a)
{
    if (a->spec.steering_bytes)
        memcpy(a->steering_room, a->spec.steering, a->spec.steering_bytes);
    a->spec.steering = a->steering_room;
    const char *bad =
        sl_steering_read(&a->steering, a->spec.steering, a->spec.steering_bytes, r->plan->vocab);
    assert(!bad); /* it was read with the ADOPT */
    if (!a->steering.n_ids)
        return;
    memset(a->prompt_ids, 0, sl_id_words(r->plan->vocab) * sizeof *a->prompt_ids);
    sl_steering_mark(&a->steering, a->prompt_ids);
}

/* a: its entry, which is told as ended when the ADOPT can't be. */
static void name_sequence(struct sl_decode_role *r, struct adoptee *a, const struct sl_adopt *adopt)
{
    bool forks = adopt->kind == SL_ADOPT_FORK;
    uint32_t n_shared = forks ? adopt->prompt_tokens / SL_PAGE : adopt->n_kept;
    move(a, SL_ADOPTEE_NAME);
    a->spec = *adopt;
    bool fits = forks || begins_at(r, a, n_shared * SL_PAGE);
    for (uint32_t i = 0; i < adopt->n_pages; i++)
        if (!fits || !place_page(r, a, i, sl_get32(adopt->pages + 4 * (size_t)i), i < n_shared)) {
            end_sequence(r, a, adopt->seq, SL_E_CORRUPT);
            return;
        }
    a->spec.pages = NULL; /* they were in the frame */
    a->n_forks_left = adopt->n_forks;
    keep_steering(r, a);
    keep_text(r, a);
    look_whether_whole(r, a);
}

/* NULL, or what is wrong. A fork of one that has ended ends, too. */
static const char *fork_sequence(struct sl_decode_role *r, struct adoptee *a, const struct sl_adopt *adopt)
{
    struct adoptee *from = find(r, adopt->from);
    uint32_t n_named = 0;
    for (uint32_t i = 0; i < r->plan->max_running; i++)
        n_named += waits_for(&r->adoptees[i], adopt->from);
    if (!from && !has_ended(r, adopt->from))
        return "it makes a sequence of one that is not here";
    if (from && (from->spec.kind != SL_ADOPT_TAKE || from->n_forks_left <= n_named))
        return "it makes more of a sequence than it said";
    if (!from) {
        if (a->state == SL_ADOPTEE_FREE)
            move(a, SL_ADOPTEE_NAME);
        end_sequence(r, a, adopt->seq, SL_E_CORRUPT);
        return NULL;
    }
    name_sequence(r, a, adopt);
    if (from->state == SL_ADOPTEE_WHOLE)
        make_forks(r, from);
    return NULL;
}

/* A FORK for which there is no room: its prompt's sequence waits for the others alone. */
static void expect_one_less(struct sl_decode_role *r, const struct sl_adopt *adopt)
{
    struct adoptee *from = adopt->kind == SL_ADOPT_FORK ? find(r, adopt->from) : NULL;
    if (from && from->n_forks_left > 0)
        from->n_forks_left--;
}

/* NULL, or what is wrong. */
static const char *grow_sequence(struct sl_decode_role *r, struct adoptee *a, const struct sl_adopt *adopt)
{
    if (!a || a->state < SL_ADOPTEE_NAMED)
        return "what is not here, or was not named, is to grow";
    if (adopt->page_first != a->sequence->n_pages)
        return "a sequence grows by other pages than its next";
    for (uint32_t i = 0; i < adopt->n_pages; i++)
        if (!place_page(r, a, adopt->page_first + i, sl_get32(adopt->pages + 4 * (size_t)i), false)) {
            end_sequence(r, a, adopt->seq, SL_E_CORRUPT);
            return NULL;
        }
    return NULL;
}

/* NULL, or what is wrong. */
static const char *obey(struct sl_decode_role *r, struct adoptee *a, const struct sl_adopt *adopt)
{
    if (has_ended(r, adopt->seq))
        return NULL; /* the two crossed: its end is on the way to the coordinator, and is told once */
    if (adopt->kind == SL_ADOPT_CANCEL) {
        end_sequence(r, a, adopt->seq, SL_OK);
        return NULL;
    }
    if (adopt->kind == SL_ADOPT_GROW)
        return grow_sequence(r, a, adopt);
    if (!a && !(a = open_adoptee(r, adopt->seq))) {
        end_sequence(r, NULL, adopt->seq, SL_E_EXHAUSTED);
        expect_one_less(r, adopt);
        return NULL;
    }
    if (adopt->kind == SL_ADOPT_FORK)
        return fork_sequence(r, a, adopt);
    name_sequence(r, a, adopt);
    return NULL;
}

static sl_status on_adopt(struct sl_decode_role *r, const struct sl_io_event *frame, struct sl_err *err)
{
    struct sl_adopt adopt;
    struct sl_order_limits limits = sl_plan_order_limits(r->plan);
    if (!sl_frame_whole(&frame->wire, frame->payload)) {
        atomic_fetch_add(&r->meter->checksum_failures, 1);
        return sl_fail(err, SL_E_CORRUPT,
                       "an ADOPT from the coordinator failed its checksum; restart the pipeline");
    }
    const char *bad = sl_adopt_unpack(&adopt, frame->payload, frame->wire.meta_bytes, &limits);
    struct adoptee *a = bad ? NULL : find(r, adopt.seq);
    bool names = adopt.kind == SL_ADOPT_TAKE || adopt.kind == SL_ADOPT_FORK;
    if (a && names && !may(a, SL_ADOPTEE_NAME))
        bad = "it names a sequence twice";
    if (!bad)
        bad = obey(r, a, &adopt);
    if (!bad)
        return SL_OK;
    return sl_fail(err, SL_E_PROTOCOL,
                   "an ADOPT from the coordinator is not acceptable: %s; restart the pipeline", bad);
}

static sl_status take_frame(struct sl_decode_role *r, struct sl_err *err)
{
    const struct sl_io_event *frame = &r->queue[r->queue_tail++ % SL_DECODE_QUEUE];
    if (frame->wire.kind == SL_WIRE_KV)
        on_kv(r, frame);
    else
        SL_TRY(on_adopt(r, frame, err));
    sl_role_act(r->actions,
                &(struct sl_role_action){.kind = SL_ROLE_RELEASE, .link = frame->link, .slot = frame->slot});
    return SL_OK;
}

/* ---- tokens ---- */

static void sample_row(struct sl_decode_role *r, struct adoptee *a, float *logits)
{
    struct sl_tokens_entry entry = {.kind = SL_TOKENS_TOKEN, .seq = a->sequence->id};
    if (a->spec.digest) {
        uint64_t chain[2] = {a->logits_digest, sl_xxh3(logits, r->plan->vocab * sizeof *logits)};
        a->logits_digest = sl_xxh3(chain, sizeof chain);
    }
    struct sl_seen seen = {.steering = &a->steering,
                           .prompt = a->steering.n_ids ? a->prompt_ids : NULL,
                           .n_ids = a->counts.n,
                           .ids = a->counts.ids,
                           .counts = a->counts.counts,
                           .n_banned = a->n_out < a->spec.min_tokens ? a->spec.n_stops : 0,
                           .banned = a->spec.stops};
    entry.logits_digest = a->logits_digest;
    sl_sample(&entry.token, logits, r->plan->vocab, &a->spec.sampling, &seen, a->n_out, r->scratch);
    note_token(a, entry.token.id);
    entry.finish = sl_adopt_finish(&a->spec, entry.token.id, a->n_out);
    put(r, &entry);
    if (entry.finish)
        end_sequence(r, a, entry.seq, SL_OK);
}

/* One token of every adopted sequence that has a page for it. */
static void token_step(struct sl_decode_role *r)
{
    struct adoptee *batch[SL_MAX_BATCH];
    uint32_t ids[SL_MAX_BATCH], n = 0;
    for (uint32_t i = 0; i < r->plan->max_running; i++) {
        struct adoptee *a = &r->adoptees[i];
        if (!can_step(a))
            continue;
        r->chunk.slices[n] = (struct sl_chunk_slice){a->sequence, next_pos(a), 1, 0};
        ids[n] = a->last_id;
        batch[n++] = a;
    }
    if (n == 0)
        return;
    uint64_t begin = r->config.now_us(r->config.clock);
    r->chunk.n_slices = r->chunk.n_tokens = n;
    r->chunk.x = r->rows;
    sl_stage_embed(r->stage, &r->chunk, (const uint8_t *)ids);
    sl_stage_run(r->stage, &r->chunk);
    float *logits = sl_stage_logits(r->stage, r->rows, n);
    for (uint32_t i = 0; i < n; i++)
        sample_row(r, batch[i], logits + (size_t)i * r->plan->vocab);
    atomic_fetch_add(&r->meter->steps, 1);
    atomic_fetch_add(&r->meter->tokens, n);
    uint64_t took_us = r->config.now_us(r->config.clock) - begin;
    atomic_fetch_add(&r->meter->busy_us, took_us);
    put(r, &(struct sl_tokens_entry){.kind = SL_TOKENS_STEP,
                                     .rows = n,
                                     .step_us = took_us < UINT32_MAX ? (uint32_t)took_us : UINT32_MAX});
    sl_role_meter_publish(r->meter, &r->utilisation, r->stage);
}

/* ---- steps ---- */

/* Frames go first, because a sequence that joins makes every step to come worth more; but a batch does not wait for a flood of
 * them. */
static sl_status work(struct sl_decode_role *r, struct sl_err *err)
{
    bool frames = r->queue_head != r->queue_tail;
    if (frames && (r->n_in_a_row < SL_FRAMES_IN_A_ROW || !any_to_step(r))) {
        r->n_in_a_row++;
        SL_TRY(take_frame(r, err));
    } else {
        r->n_in_a_row = 0;
        token_step(r);
    }
    tell(r);
    return SL_OK;
}

static sl_status on_frame(struct sl_decode_role *r, const struct sl_io_event *frame, struct sl_err *err)
{
    bool of_coordinator = frame->link == r->adopt_link;
    if (frame->wire.kind != (of_coordinator ? SL_WIRE_ADOPT : SL_WIRE_KV)) {
        char name[24];
        uint32_t from = sl_plan_link_peer(frame->link, r->node);
        return sl_fail(
            err, SL_E_PROTOCOL,
            "a frame of kind %u from %s does not belong to the decode worker; run the same version on all nodes",
            frame->wire.kind, sl_plan_node_name(r->plan, from, name));
    }
    assert(r->queue_head - r->queue_tail < SL_DECODE_QUEUE); /* each is in a slot that we lent */
    r->queue[r->queue_head++ % SL_DECODE_QUEUE] = *frame;
    return SL_OK;
}

static sl_status on_sent(struct sl_decode_role *r, const struct sl_io_event *event, struct sl_err *err)
{
    if (event->tag == SL_TOKENS_BUFFERS) /* the last word, which lies elsewhere */
        return sl_role_check_sent(event, err);
    assert(r->n_free_out < SL_TOKENS_BUFFERS);
    r->free_out[r->n_free_out++] = (uint32_t)event->tag;
    return sl_role_check_sent(event, err);
}

sl_status sl_decode_role_step(struct sl_decode_role *r, const struct sl_io_event *event,
                              struct sl_role_actions *actions, struct sl_err *err)
{
    sl_status status = SL_OK;
    actions->n = 0;
    r->actions = actions;
    if (event && event->kind == SL_IO_FRAME) {
        status = on_frame(r, event, err);
    } else if (event && event->kind == SL_IO_SENT) {
        status = on_sent(r, event, err);
    } else if (sl_stage_spoiled(r->stage)) {
        sl_role_last_word(&r->last_word, r->stage, "the decode worker", r->adopt_link, SL_TOKENS_BUFFERS,
                          actions);
        actions->go_on = false;
        return SL_OK; /* and nothing else any more */
    } else if (r->n_free_out > 0) {
        r->cursor = sl_cursor_over(out_buffer(r, r->free_out[r->n_free_out - 1]), r->plan->tokens_bytes);
        status = work(r, err);
        if (sl_stage_spoiled(r->stage)) /* found while it worked: none of it leaves */
            r->cursor.at = out_buffer(r, r->free_out[r->n_free_out - 1]);
        flush(r);
        sl_role_meter_pages(r->meter, sl_stage_sequences(r->stage));
    }
    actions->go_on =
        r->n_free_out > 0 && (r->queue_head != r->queue_tail || any_to_tell(r) || any_to_step(r));
    return status;
}

/* ---- life ---- */

static sl_status take_memory(struct sl_decode_role *r)
{
    size_t row_bytes = (size_t)r->plan->max_running * r->plan->d_model * sizeof(float);
    r->max_arrivals = sl_pages_of(r->plan->context_tokens) * r->plan->n_stages;
    r->adoptees = calloc(r->plan->max_running, sizeof *r->adoptees);
    r->out = calloc(SL_TOKENS_BUFFERS, r->plan->tokens_bytes);
    r->scratch = malloc(sl_sample_scratch_bytes(r->plan->vocab));
    r->rows = aligned_alloc(64, (row_bytes + 63) / 64 * 64);
    if (!r->adoptees || !r->out || !r->scratch || !r->rows)
        return SL_E_NOMEM;
    for (uint32_t i = 0; i < r->plan->max_running; i++) {
        struct adoptee *a = &r->adoptees[i];
        a->arrivals = calloc(r->max_arrivals, sizeof *a->arrivals);
        a->steering_room = calloc(1, r->plan->steering_bytes);
        a->prompt_ids = calloc(sl_id_words(r->plan->vocab), sizeof *a->prompt_ids);
        a->counts.room = sl_plan_max_distinct(r->plan);
        a->counts.ids = calloc(a->counts.room, sizeof *a->counts.ids);
        a->counts.counts = calloc(a->counts.room, sizeof *a->counts.counts);
        if (!a->arrivals || !a->steering_room || !a->prompt_ids || !a->counts.ids || !a->counts.counts)
            return SL_E_NOMEM;
    }
    for (uint32_t i = 0; i < SL_TOKENS_BUFFERS; i++)
        r->free_out[r->n_free_out++] = i;
    return SL_OK;
}

sl_status sl_decode_role_create(struct sl_decode_role **out, const struct sl_role_config *config,
                                struct sl_err *err)
{
    const struct sl_plan *plan = config->plan;
    struct sl_decode_role *r = calloc(1, sizeof *r);
    if (r) {
        r->config = *config;
        r->stage = config->stage;
        r->plan = plan;
        r->meter = config->meter;
        r->node = 1 + config->k;
        r->adopt_link = sl_plan_link_id(plan, 0, r->node);
    }
    if (!r || take_memory(r) != SL_OK) {
        sl_decode_role_destroy(r);
        return sl_fail(err, SL_E_NOMEM, "out of memory for the buffers of the decode worker");
    }
    atomic_store(&r->meter->pages_total, plan->n_pages);
    sl_status status = sl_utilisation_init(&r->utilisation, r->stage, err);
    if (status != SL_OK) {
        sl_decode_role_destroy(r);
        return status;
    }
    *out = r;
    return SL_OK;
}

static void adoptee_free(struct adoptee *a)
{
    free(a->arrivals);
    free(a->steering_room);
    free(a->prompt_ids);
    free(a->counts.ids);
    free(a->counts.counts);
}

void sl_decode_role_destroy(struct sl_decode_role *r)
{
    if (!r)
        return;
    for (uint32_t i = 0; r->adoptees && i < r->plan->max_running; i++)
        adoptee_free(&r->adoptees[i]);
    free(r->adoptees);
    free(r->out);
    free(r->scratch);
    free(r->rows);
    free(r);
}
