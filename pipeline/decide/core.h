/* The decider of a pipeline: requests as a state machine, (now, input) -> actions. It alone decides what runs, in which order
 * and with which pages, when a request ends and how. Pure: no clock, thread, lock, I/O or allocation after init; the thread
 * of node/coordinator, the tests and the simulator run this very code.
 *
 * Inputs append to the caller's list of actions, which the caller carries out in order before the next input. After a batch of
 * inputs comes sl_core_decide, which looks at deadlines and writes what runs next.
 *
 *   submit ─> queued ─> admitted ─> RUN records ─> first token ─┬─> end                       (one token, or none)
 *               ↑                                               └─> TAKE ─> adopted ─> tokens ─> end
 *               └──────────────────────── set back ────────────────────────────────────┘
 *
 * A request may want n answers to its prompt: it is prefilled once, the last stage samples n first tokens with seeds seed + i, and
 * from there on each answer lives for itself: index i has seq + i, its own end, and its own sequence on the decode worker, made
 * of the pages of index 0 (FORK). Until the first tokens they have one life; the ask is the holder's again after the last END.
 *
 * Decode workers come and go while it runs. Each stay has one, chosen when it begins (place.h). When that worker is lost, what it
 * had is prefilled again for another, with what was told: same tokens, none twice. Who finds none here waits, but not for ever.
 *
 * An answer on the decode worker is granted pages as it grows. When there are none, it sits out steps; when nobody goes on, or
 * half of the batch sits out, the youngest gives all its pages back, waits where it once waited, and is prefilled again with
 * what was told (SET_BACK): its holder sees a pause and the same tokens.
 *
 * The text of a request is its holder's: who makes text of tokens looks for stop strings and reports that it ends at token n
 * (sl_core_text_ends); what that means is decided here, and a token after it is never told. One thread at a time. */
#ifndef SL_PIPELINE_DECIDE_CORE_H
#define SL_PIPELINE_DECIDE_CORE_H

#include "base/arena.h"
#include "pipeline/decide/cost_fit.h"
#include "pipeline/decide/life.h"
#include "pipeline/decide/plan.h"
#include "pipeline/decide/prefix.h"
#include "pipeline/decide/tenants.h"
#include "pipeline/record/messages.h"

enum { SL_MAX_STOP_IDS = 64, SL_MAX_REQUEST_ID = 128, SL_MAX_END_IDS = 32 };
enum { SL_PRIORITY_LEAST = -2, SL_PRIORITY_MOST = 2 };
_Static_assert((int)SL_MAX_STOP_IDS + (int)SL_MAX_END_IDS <= (int)SL_MAX_DECODE_STOPS,
               "ADOPT has room for all of them");

enum sl_finish { SL_FINISH_STOP, SL_FINISH_LENGTH, SL_FINISH_ABORT };

struct sl_said { /* what was told of an answer, kept by the holder and up to date before the next input */
    const uint32_t *ids;
    const uint8_t
        *counts; /* from SET_BACK on, when penalties count it: as sl_counts_pack makes it of all ids */
    uint32_t counts_bytes;
};

struct
    sl_ask { /* what is asked for; its values were checked by who submits. The holder's memory until the END */
    char id[SL_MAX_REQUEST_ID];
    const uint32_t *ids; /* the prompt */
    uint32_t n_ids;
    struct sl_sampling sampling;
    uint32_t n;          /* answers: 1 to SL_MAX_N and max_running; 0 is 1 */
    uint32_t max_tokens; /* of each; 0: the prompt's log-probabilities alone */
    uint32_t min_tokens;
    bool ignore_eos, want_digest;
    uint32_t n_stop_ids;
    uint32_t stop_ids[SL_MAX_STOP_IDS];
    int32_t prompt_logprobs; /* -1: none */
    /* [n_ids], filled here with the log-probabilities of the prompt; NULL: not wanted. Wanted once it is admitted */
    struct sl_token_out *prompt;
    uint32_t steering_bytes; /* 0: nothing but its sampling steers it; at most plan->steering_bytes */
    const uint8_t *steering; /* as sl_steering_pack makes it */
    size_t held_bytes;       /* that the holder keeps while it waits */
    uint64_t deadline_us;    /* on the clock of `now`, for its prompt to be in the log, not later; 0: none */
    uint64_t target_us;      /* likewise, when its first token is wanted; 0: by the schedule's own target */
    uint8_t cache_salt[SL_PREFIX_NAME]; /* its prefix is shared with those of the same salt; zeros: none */
    int32_t priority; /* SL_PRIORITY_LEAST..SL_PRIORITY_MOST: each step halves the schedule's own target */
    char tenant[SL_MAX_TENANT];    /* whose share of the pipeline it uses; empty: theirs who name none */
    void *user;                    /* the holder: comes with every action about the request */
    struct sl_said said[SL_MAX_N]; /* the holder's to keep, when max_tokens is more than 1 */
};

enum sl_action_kind {
    SL_ACTION_RECORD, /* the next record of the log */
    SL_ACTION_ADOPT,  /* to a decode worker */
    SL_ACTION_ADMIT,  /* it has what its prefill needs and is no longer queued; once a request */
    SL_ACTION_SET_BACK, /* an answer has given its pages back and waits to be prefilled again: ask->said gets its counts */
    SL_ACTION_RAN,     /* every stage has run a slice of it */
    SL_ACTION_ARRIVED, /* a decode worker has the pages of a slice of one stage */
    SL_ACTION_TOKEN,   /* one more output token; with the first one all of ask->prompt is there */
    SL_ACTION_END, /* the last word about an answer; with `last` about the request: the ask is the holder's again, and free */
    SL_ACTION_LIFE, /* the pipeline's life has changed */
    SL_ACTION_LEFT  /* a decode worker that leaves has nothing left: it may go */
};

struct sl_run { /* a RUN record and what it refers to */
    struct sl_order order;
    uint32_t *ids;                 /* [order.n_tokens] of all slices */
    struct sl_page_numbers *pages; /* [order.n_pages] */
    uint32_t bans[SL_MAX_SLICES][SL_MAX_DECODE_STOPS];
};

struct sl_action {
    enum sl_action_kind kind;
    uint64_t seq;     /* of the answer, the same in all its stays; of RECORD and ADOPT that of the stay */
    uint32_t index;   /* of it: TOKEN, SET_BACK, END */
    uint32_t decoder; /* the place of the decode worker: ADOPT, ARRIVED, LEFT */
    void *user;
    union {
        struct {
            enum sl_order_kind kind;
            uint64_t number;
            const struct sl_run *run; /* RUN; valid until the next input */
            /* CANCEL: chunks of it are under way, which the stages need not run if they are told before it comes to them
             * (foretold.h) */
            bool in_vain;
        } record;
        struct sl_adopt *adopt; /* valid until the next input */
        struct {
            uint64_t
                predicted_us; /* from its submission to its first token, as predicted then; 0: nothing was */
        } admit;
        struct {
            const struct sl_result_head *head; /* what the stages did; valid until the next input */
            const double *predicted_us;        /* by stage, of the whole record; as long */
            uint32_t index, pos, n;            /* the slice */
        } ran;
        struct {
            uint32_t stage, chunk;
            uint64_t at_us; /* on the decode worker's clock */
        } arrived;
        struct {
            const struct sl_token_out
                *out;       /* valid until the next input; NULL: none, the prompt alone was asked for */
            uint32_t n_out; /* its number, from 1 */
            uint32_t cached_tokens; /* of the prompt, that were not run */
        } token;
        struct {
            sl_status status;
            const char *error; /* a sentence when status is not SL_OK, valid until the next input */
            enum sl_finish finish;
            bool last;
            uint32_t n_out, cached_tokens;
            int64_t stop_id; /* the id that ended it; -1: none */
            uint64_t logits_digest, kv_digest;
            uint32_t
                retry_after_ms; /* when to try again what was refused for want of time or room; 0: nothing is known */
            enum sl_refusal refusal; /* of one that was never queued */
        } end;
        struct {
            enum sl_life life;
            const char *sentence; /* what was lost; NULL: nothing */
        } life;
    };
};

struct sl_actions {
    struct sl_action *list;
    uint32_t n, room;
};

enum sl_schedule_kind {
    SL_SCHEDULE_SLO, /* by predicted time, targets and tenants */
    SL_SCHEDULE_FIFO /* in arrival order, by numbers of tokens */
};

struct sl_core_config {
    const struct sl_plan *plan; /* copied */
    uint32_t n_decoders;        /* that are there from the start, in the first places */
    uint64_t alone_us;          /* how long who needs a decode worker waits when there is none; 0: for ever */
    uint32_t n_end_ids;         /* ids that end a text unless that is ignored */
    uint32_t end_ids[SL_MAX_END_IDS];
    uint32_t max_requests; /* queued and running */
    /* that requests which wait may hold together, but for one, which may always wait; 0: SL_WAITING_BYTES. What one may hold
     * is bounded field by field by who submits */
    size_t max_waiting_bytes;
    uint32_t expect_tokens; /* of an output, before enough were seen; 0: SL_GROWTH_GUESS */
    enum sl_schedule_kind schedule;
    uint64_t chunk_us; /* what a chunk may take on the slowest stage; 0: by cost */
    uint64_t slo_us;   /* the target of a short prompt's first token; 0: by cost */
    uint32_t runs;     /* chunks under way at most; 0: by what is seen */
    /* What waits, with prefill of what has begun: in predicted time and in tokens; 0: SL_WAITING_WORK_US, SL_WAITING_TOKENS */
    uint64_t max_waiting_us, max_waiting_tokens;
    bool prefix_cache; /* pages of what is gone are kept for those that begin with the same ids */
    bool no_refill;    /* answers are not prefilled again for it: for comparison */
    uint32_t n_weights;
    const struct sl_tenant_weight *weights; /* copied */
};

struct sl_core;
size_t sl_core_bytes(const struct sl_core_config *config);
/* SL_E_NOMEM: the arena was planned too small. The core lives in the arena and dies with it. */
sl_status sl_core_init(struct sl_core **core, struct sl_arena *arena, const struct sl_core_config *config);
uint32_t sl_core_max_actions(const struct sl_core *core); /* that one input can make */

/* ---- inputs; now_us: monotonic ---- */

/* *ask stays where it is until its last END. Returns its seq, that of index 0; 0: refused, and the one END that says why is in
 * the list. */
uint64_t sl_core_submit(struct sl_core *core, uint64_t now_us, struct sl_ask *ask,
                        struct sl_actions *actions);
void sl_core_cancel(struct sl_core *core, uint64_t seq,
                    struct sl_actions *actions); /* all answers; idempotent */
void sl_core_cancel_id(struct sl_core *core, const char *id, struct sl_actions *actions);
/* Its holder can't go on with it: it ends with status and sentence (static). */
void sl_core_fail(struct sl_core *core, uint64_t seq, sl_status status, const char *sentence,
                  struct sl_actions *actions);
/* The text of the answer seq ends at output token n, the last one that was told; else it is too late, and nothing happens. */
void sl_core_text_ends(struct sl_core *core, uint64_t seq, uint32_t n, struct sl_actions *actions);
/* What a stage's chunks cost, as it measured itself, before it has run any. */
void sl_core_cost(struct sl_core *core, uint32_t stage, const struct sl_cost *prior);
/* A RESULT, and one entry of a TOKENS frame. NULL, or what is wrong with it (static): then the caller
 * carries out what is in the list and calls sl_core_lose. */
const char *sl_core_result(struct sl_core *core, const uint8_t *bytes, size_t n, struct sl_actions *actions);
const char *sl_core_entry(struct sl_core *core, uint32_t decoder, const struct sl_tokens_entry *entry,
                          struct sl_actions *actions);
void sl_core_complete(struct sl_core *core, struct sl_actions *actions); /* every link is up: it is ready */
/* A neighbour is gone or can't be believed: every request ends with status and sentence (copied). While draining with nothing
 * left to do it is no loss. */
void sl_core_lose(struct sl_core *core, sl_status status, const char *sentence, struct sl_actions *actions);
/* A node of the pipeline is silent, or none is any more: until it is heard, what is not under way waits. */
void sl_core_silence(struct sl_core *core, bool silent, struct sl_actions *actions);
/* A decode worker has its links, to every stage and to us, and takes an empty place. */
void sl_core_decoder_joins(struct sl_core *core, uint32_t decoder, uint32_t life, struct sl_actions *actions);
/* It is to go: nothing new begins there, what it has goes on for leave_us at most, and then or before comes LEFT. */
void sl_core_decoder_leaves(struct sl_core *core, uint32_t decoder, uint64_t leave_us,
                            struct sl_actions *actions);
/* It is gone, with all that it had. Nothing ends by that, unless what it has told can't be trusted: then spoiled is the sentence
 * (copied) that each of those answers ends with, SL_E_CORRUPT; else NULL. */
void sl_core_decoder_lost(struct sl_core *core, uint32_t decoder, const char *spoiled,
                          struct sl_actions *actions);
/* It is not heard, or is again. */
void sl_core_decoder_silence(struct sl_core *core, uint32_t decoder, bool silent, struct sl_actions *actions);
void sl_core_drain(struct sl_core *core, struct sl_actions *actions);
void sl_core_stop(struct sl_core *core,
                  struct sl_actions *actions); /* every request ends with SL_FINISH_ABORT */
/* No prefix that is cached now is found any more. */
void sl_core_flush_prefixes(struct sl_core *core);
/* Deadlines, admissions, what runs next. After every batch of inputs, and at sl_core_wake_us. */
void sl_core_decide(struct sl_core *core, uint64_t now_us, struct sl_actions *actions);

/* ---- questions ---- */

enum sl_where { /* how far a request has come: the furthest of its answers; what it has then comes back from there */
                SL_WHERE_GONE,    /* nothing is left of it anywhere */
                SL_WHERE_QUEUED,  /* no stage has anything of it */
                SL_WHERE_PREFILL, /* on the stages, and not wholly prefilled */
                SL_WHERE_HANDOFF, /* prefilled, and not yet with the decode worker as a whole */
                SL_WHERE_DECODE,
                SL_WHERES
};
enum sl_where sl_core_where(const struct sl_core *core, uint64_t seq);
uint64_t sl_core_request_of(const struct sl_core *core, uint64_t seq); /* that has a stay of seq; 0: none */
uint64_t sl_core_seq_of(const struct sl_core *core, const char *id);   /* of one that is live; 0: none */

uint64_t sl_core_wake_us(const struct sl_core *core); /* when to decide again if nothing happens; 0: never */

enum sl_decoder_state {
    SL_DECODER_NONE, /* nobody has the place */
    SL_DECODER_HERE,
    SL_DECODER_LEAVING /* what it has goes on; nothing new begins there */
};

struct sl_decoder_load {
    enum sl_decoder_state state;
    bool silent;
    uint32_t life, decoding, pages_used;
    uint32_t pages_kept; /* by name, in use or not */
    double step_us;      /* that a token step with one more answer is thought to take; 0: nothing is known */
};

struct sl_core_load {
    enum sl_life life;
    bool
        silent; /* a node is, without which nothing begins: no request should come, and those that are here wait */
    bool alone;    /* no decode worker takes anything: likewise */
    uint32_t live; /* of which anything is left anywhere */
    uint32_t
        running; /* answers that have begun: those with a place in the decode batch, and those that want none */
    uint32_t prefilling,
        decoding;        /* places that are taken, of max_prefill and of max_running on each decode worker */
    uint32_t n_decoders; /* decode workers on which an answer could begin */
    struct sl_decoder_load decoders[SL_MAX_DECODERS];
    uint32_t waiting, waiting_tokens;
    uint32_t sitting_out; /* answers that make no token for want of a page */
    uint64_t set_back;    /* answers, since the start */
    uint64_t moved;       /* likewise, because their decode worker was lost, or left before they ended */
    size_t waiting_bytes;
    uint32_t pages_used, decode_pages_used,
        n_pages;           /* promised to requests; on the stages with those of prefixes in use */
    uint32_t pages_cached; /* on the stages, by name, in use or not */
    uint64_t prompt_tokens_cached, prompt_tokens_computed, pages_evicted; /* since the start */
    uint64_t handoff_tokens_kept, handoff_tokens_pushed; /* likewise, of prompts that decode workers took */
    uint64_t records, records_answered;
    bool slo_dear; /* the target of short prompts costs more than half of the throughput */
};
void sl_core_load(const struct sl_core *core, struct sl_core_load *load);
/* What the chunks of each stage cost as of now, and how well that was known: [n_stages]. */
const struct sl_cost_fit *sl_core_fits(const struct sl_core *core);
/* What is cached without a salt, event by event, as in prefix.h; nothing ever when there is no cache. */
void sl_core_prefix_events_from(const struct sl_core *core, struct sl_prefix_reader *reader, uint64_t number);
bool sl_core_prefix_event(const struct sl_core *core, struct sl_prefix_reader *reader,
                          struct sl_prefix_event *event);
/* For tests: NULL, or which promise about pages, places and the queue its tables break (static). */
const char *sl_core_check(const struct sl_core *core);

#endif
