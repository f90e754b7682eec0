/* The coordinator: the one decider. It admits requests, cuts chunks, writes the order log, follows results, and streams tokens
 * to whoever asked. One thread owns all of it; the calls below may come from any thread and are queued to that thread.
 *
 * The edge (gRPC) and the in-process client are the two callers. */
#ifndef SL_NODE_COORDINATOR_COORDINATOR_H
#define SL_NODE_COORDINATOR_COORDINATOR_H

#include "model/shape.h"
#include "model/tokenizer/tokenizer.h"
#include "pipeline/decide/cost.h"
#include "pipeline/decide/view.h"
#include "pipeline/link/transport.h"
#include "pipeline/record/span.h"

struct sl_coordinator;
struct sl_pack; /* of whoever made the coordinator; it is only handed back */

enum {
    SL_MAX_STOP_STRINGS = 16,
    SL_MAX_STOP_BYTES = 1024 /* of one */,
    SL_MAX_STOPS_BYTES = 4096 /* of all */
};

enum { SL_MAX_SLO_MS = 86400000 }; /* a day */

enum { SL_TRACE_DIGITS = 33 }; /* the id of a trace as text */

struct sl_generate { /* one call, already validated for shape by the edge; copied by submit */
    char request_id[SL_MAX_REQUEST_ID]; /* empty: one is made */
    const uint32_t *ids;                /* the prompt */
    uint32_t n_ids;
    struct sl_sampling sampling;
    uint32_t n;                 /* answers, of seeds seed + i; 0 is 1 */
    uint32_t n_bias;            /* logit_bias, ids ascending */
    const struct sl_bias *bias; /* [n_bias] */
    uint32_t max_tokens;        /* 0: prefill only (score) */
    uint32_t min_tokens;
    bool ignore_eos;
    uint32_t n_stop_ids;
    uint32_t stop_ids[SL_MAX_STOP_IDS];
    uint32_t n_stop;
    const char *stop[SL_MAX_STOP_STRINGS]; /* NUL-terminated UTF-8 */
    bool skip_special;                     /* detokenizing, for stop strings and text */
    bool include_stop;                     /* keep the stop string in the output */
    int32_t prompt_logprobs;               /* -1: none; 0: of each prompt token; k: and of the k best */
    bool want_timeline;
    char trace_id[SL_TRACE_DIGITS]; /* empty: it is part of none */
    bool want_digest;               /* of logits and KV: two runs that must agree are compared by it */
    int64_t deadline_ms;            /* time left; -1: none */
    const char
        *traceparent; /* of the remote client alone: metadata that goes with it, to the letter; NULL: none */
    uint32_t slo_ms;  /* from now to its first token, as wanted; 0: by the schedule's own target */
    int32_t priority; /* SL_PRIORITY_LEAST..SL_PRIORITY_MOST */
    char tenant[SL_MAX_TENANT]; /* empty: theirs who name none */
    char owner[SL_MAX_TENANT];  /* who may abort it by its id, besides an admin; empty: nobody is known */
    uint8_t cache_salt[SL_PREFIX_NAME]; /* prefixes are shared with those of the same salt; zeros: none */
};

struct sl_generated {                  /* a piece of an answer, or its end; valid during the callback */
    uint32_t index;                    /* of the answer */
    const struct sl_token_out *tokens; /* new ones */
    uint32_t n_tokens;
    uint32_t prompt_tokens, completion_tokens; /* so far */
    uint32_t cached_tokens;                    /* of the prompt, which were not computed again */
    /* prompt_logprobs: one a prompt token, [0] unused; with the first piece only */
    const struct sl_token_out *prompt;
    uint32_t n_prompt;
    bool done, last;         /* the answer's end; and with it that of all of them */
    const char *request_id;  /* with done */
    sl_status status;        /* of the end: SL_OK, or why it failed */
    const char *error;       /* sentence, when status != SL_OK */
    uint32_t retry_after_ms; /* of one that was refused: when to try again; 0: nothing is known */
    enum sl_finish finish;
    int64_t matched_stop_id;            /* -1: none */
    const char *matched_stop;           /* NULL: none */
    const struct sl_timeline *timeline; /* with done, when wanted */
    /* with done, when wanted: of all logits rows that gave a token; of all KV pages */
    uint64_t logits_digest, kv_digest;
};
/* Called on the coordinator's thread: must not block. After `last` it is never called again; a request that is refused has one
 * piece, of index 0. */
typedef void sl_generated_fn(void *user, const struct sl_generated *piece);

struct sl_coordinator_config {
    const struct sl_plan *plan; /* copied, like all that follows but io */
    const struct sl_shape *shape;
    struct sl_tokenizer *tokenizer; /* becomes the coordinator's */
    const char *model_path, *model_name;
    /* A file of the model as it was verified, malloc'ed; SL_E_NOT_FOUND: it has none of that name. Any thread. */
    sl_status (*read_file)(const struct sl_pack *pack, const char *name, char **text, size_t *bytes,
                           struct sl_err *err);
    const struct sl_pack *pack;
    /* its owner is the coordinator's thread from here on; closed by destroy */
    struct sl_io *io;
    uint32_t n_links; /* that must come up before it is ready */
    bool prefix_cache;
    uint32_t max_waiting; /* requests in the queue; 0: SL_DEFAULT_WAITING. Their bytes: SL_WAITING_BYTES */
    enum sl_schedule_kind schedule;
    uint64_t chunk_us, slo_us; /* as sl_core_config has them */
    uint32_t n_weights;        /* at most SL_MAX_WEIGHTS */
    const struct sl_tenant_weight *weights;
    /* A neighbour was lost (or sent what it may not): every live request has been ended with SL_E_UNAVAILABLE, new ones are
     * refused. On the coordinator's thread; NULL: none. */
    void (*on_lost)(void *user, const char *sentence);
    void (*on_ready)(void *user);
    void (*on_silence)(
        void *user); /* what sl_coordinator_silent answers has changed; on the coordinator's thread */
    /* How long who needs a decode worker waits when the last one is gone; 0: the pipeline is lost with it, for nobody can join. */
    uint32_t alone_ms;
    uint32_t leave_ms; /* how long a decode worker that was told to stop may go on with what it has */
    /* The decode worker of this life, in this place, has nothing left and may go (sentence NULL), or is lost. Its place is empty, and
     * whoever takes it has another life. On the coordinator's thread; NULL: none. */
    void (*on_decoder_gone)(void *user, uint32_t decoder, uint32_t life, const char *sentence);
    /* The log has a CANCEL of seq in record `number`, and chunks of it are under way: the stages are to be told, which may fail
     * (foretold.h). On the coordinator's thread; NULL: they hear of it when it comes. */
    void (*on_cancelled)(void *user, uint64_t seq, uint64_t number);
    void *user;
};
sl_status sl_coordinator_create(struct sl_coordinator **c, const struct sl_coordinator_config *config,
                                struct sl_err *err);
/* Ends what is live with SL_FINISH_ABORT, joins the thread, closes io. Who may still submit has been stopped before: a request
 * that comes after the thread has ended is never told anything. */
void sl_coordinator_destroy(struct sl_coordinator *c);
/* Run fn(user) on the coordinator's thread, soon: the way to its io, whose owner it is. SL_E_NOMEM. */
sl_status sl_coordinator_call(struct sl_coordinator *c, void (*fn)(void *user), void *user);
/* A neighbour is known to be gone before its link says so. Any thread. */
void sl_coordinator_mourn(struct sl_coordinator *c, const char *sentence);
/* Node `node` of the plan hears nothing from one of its neighbours, or hears all of them again. While any hears nothing, the
 * pipeline is not ready and begins nothing: a neighbour that comes back finds all as it was. Any thread. */
void sl_coordinator_set_silent(struct sl_coordinator *c, uint32_t node, bool silent);
bool sl_coordinator_silent(struct sl_coordinator *c); /* or no decode worker is here */
/* What the chunks of a stage cost, as it measured them before it was ready. Any thread. */
void sl_coordinator_set_cost(struct sl_coordinator *c, uint32_t stage, const struct sl_cost *cost);

/* ---- decode workers that come and go while it runs; any thread but the first ---- */

/* On the coordinator's thread: from now on the place is that of a decode worker of this life, and its link is to be made. */
void sl_coordinator_expect_decoder(struct sl_coordinator *c, uint32_t decoder, uint32_t life);
/* It has all its links; with ours, answers begin there. */
void sl_coordinator_decoder_ready(struct sl_coordinator *c, uint32_t decoder, uint32_t life);
/* It was told to stop: on_decoder_gone when it has nothing left. */
void sl_coordinator_decoder_leaves(struct sl_coordinator *c, uint32_t decoder, uint32_t life);
/* It is known to be gone before its link says so. */
void sl_coordinator_decoder_lost(struct sl_coordinator *c, uint32_t decoder, uint32_t life,
                                 const char *sentence);

/* Refuse new requests; running and queued ones go on. */
void sl_coordinator_drain(struct sl_coordinator *c);
/* Wait until no request is live, at most timeout_ms. False: some still are. */
bool sl_coordinator_wait_idle(struct sl_coordinator *c, uint32_t timeout_ms);
/* Wait until every link is up. SL_E_UNAVAILABLE: a neighbour was lost, timeout_ms is over, or it drains or stops. */
sl_status sl_coordinator_wait_ready(struct sl_coordinator *c, uint32_t timeout_ms, struct sl_err *err);

/* Queue a request. Its values are checked here (ids in the vocabulary, length within the context, sampling, ...): SL_E_INVALID
 * with a sentence, SL_E_EXHAUSTED without memory, SL_E_UNAVAILABLE without a decode worker that it needs. When SL_OK, fn will
 * be called until the last is done; what depends on the state of things is said there: SL_E_EXISTS (the id is live), SL_E_EXHAUSTED (the
 * queue is full), SL_E_UNAVAILABLE (draining, lost or not ready). *handle names the request for cancel. */
sl_status sl_coordinator_submit(struct sl_coordinator *c, const struct sl_generate *generate,
                                sl_generated_fn *fn, void *user, uint64_t *handle, struct sl_err *err);
/* Idempotent; the stream ends with SL_FINISH_ABORT unless it has ended before. */
void sl_coordinator_cancel(struct sl_coordinator *c, uint64_t handle);
/* owner: only if it is theirs; NULL: whosever it is. */
void sl_coordinator_cancel_id(struct sl_coordinator *c, const char *request_id, const char *owner);
/* No prefix that is cached now is used by requests to come. Any thread; it is done before what is asked afterwards. false: there
 * is no cache. */
bool sl_coordinator_flush_prefixes(struct sl_coordinator *c);

/* ---- what the prefix cache holds, for gateways that route by it ---- */

enum { SL_FOLLOWER_EVENTS = 32 };
struct sl_kv_event {
    uint64_t
        number; /* one more each time, but for those of a state, which have the number up to which it tells */
    double at_s; /* of the wall clock */
    struct sl_prefix_event event;
};
struct sl_follower;
bool sl_coordinator_has_prefixes(const struct sl_coordinator *c);
/* From event `start` on; 0, or one that is not kept: CLEARED, what is cached now, and what happens from then on. on_events: there
 * is something to take; on the coordinator's thread, as on_gone, after which user is of no use to it. NULL: out of memory. */
struct sl_follower *sl_coordinator_follow(struct sl_coordinator *c, uint64_t start,
                                          void (*on_events)(void *user), void (*on_gone)(void *user),
                                          void *user);
/* What was brought and not taken; returns how many. One thread, as what follows. */
uint32_t sl_follower_events(struct sl_follower *follower, const struct sl_kv_event **events);
void sl_follower_taken(struct sl_follower *follower); /* all of them; more may come */
void sl_follower_end(struct sl_follower *follower);   /* on_gone comes, and nothing behind it */

struct sl_load { /* a snapshot for GetLoads, metrics, tests */
    uint32_t running, waiting;
    uint32_t waiting_tokens;                /* prompt tokens not yet prefilled */
    size_t waiting_bytes;                   /* that the queue holds */
    uint32_t kv_pages_used, kv_pages_total; /* of one stage's pool: all are alike */
    uint32_t decode_pages_used, decode_pages_total;
    uint32_t max_running;
    uint32_t decoding;        /* of max_running: places in the batch that are taken */
    uint32_t sitting_out;     /* answers that make no token for want of a KV page */
    uint64_t set_back;        /* answers, since the start */
    uint64_t moved;           /* likewise, because their decode worker was lost, or left before they ended */
    uint32_t kv_pages_cached; /* of one stage's pool, by what is in them: in use or free on demand */
    uint64_t pages_evicted;
    /* of prompts that have begun: computed by the stages, or found there */
    uint64_t prompt_tokens_computed, prompt_tokens_cached;
    /* of prompts that a decode worker took: pushed by the stages, or found there */
    uint64_t handoff_tokens_pushed, handoff_tokens_kept;
    uint64_t output_tokens, requests_ok, requests_failed, requests_aborted;
    double output_tokens_per_s; /* over the last 10 s */
    enum sl_life life;
    bool silent; /* a node is */
    bool alone;  /* no decode worker is here */
    uint32_t n_decoders, max_decoders;
    struct sl_decoder_load decoders[SL_MAX_DECODERS];
    uint32_t n_stages;
    uint64_t uptime_us, last_receive_wall_us;
};
void sl_coordinator_load(struct sl_coordinator *c, struct sl_load *load);

/* The queue as it is between two inputs. SL_E_DEADLINE: the thread had other things to do for timeout_ms. Any thread, but not
 * while it is destroyed. */
sl_status sl_coordinator_view(struct sl_coordinator *c, struct sl_core_view *view, uint32_t timeout_ms);
/* Likewise the last records of the order log; tail->words: room for SL_TAIL_WORDS of the caller's. */
struct sl_tail;
sl_status sl_coordinator_records(struct sl_coordinator *c, struct sl_tail *tail, uint32_t timeout_ms);

/* What the pipeline is just now, as its decider sees it. Any thread. */
enum sl_life sl_coordinator_life(struct sl_coordinator *c);
/* Why it is LOST; empty otherwise. SL_E_PEER_LOST, or SL_E_DATA when a node's weights were spoiled. */
sl_status sl_coordinator_lost_sentence(struct sl_coordinator *c, char *sentence, size_t bytes);

const struct sl_shape *sl_coordinator_shape(const struct sl_coordinator *c);
const struct sl_tokenizer *sl_coordinator_tokenizer(const struct sl_coordinator *c);
const char *sl_coordinator_model_path(const struct sl_coordinator *c); /* the pack's directory, absolute */
const char *sl_coordinator_model_name(const struct sl_coordinator *c);
sl_status sl_coordinator_read_file(const struct sl_coordinator *c, const char *name, char **text,
                                   size_t *bytes, struct sl_err *err);
const char *sl_coordinator_kv_dtype(const struct sl_coordinator *c); /* "bf16", "i8" or "f32" */
/* The numerics profile that all nodes run: set once, when it is decided; until then NULL. Any thread. */
void sl_coordinator_set_profile(struct sl_coordinator *c, enum sl_profile profile);
const char *sl_coordinator_profile(const struct sl_coordinator *c);
/* longest prompt + output that submit accepts */
uint32_t sl_coordinator_context(const struct sl_coordinator *c);
const struct sl_plan *sl_coordinator_plan(const struct sl_coordinator *c);

/* Metrics of the coordinator in OpenMetrics text, appended to *text (malloc'ed, grows). */
struct sl_text;
void sl_coordinator_metrics(struct sl_coordinator *c, struct sl_text *text);

#endif
