/* Private to the coordinator: coordinator.c (the thread, between io and core), mailbox.c (what other threads ask), call.c (the
 * holder of one request: its text, its spans, its caller), followers.c (who follows the prefix cache), cancels.c (how long a cancel takes), queue_view.c (the queue and the log, for who looks), metrics.c (what is counted, and
 * its text). All decisions are the core's (pipeline/decide/core.h). */
#ifndef SL_NODE_COORDINATOR_COORDINATOR_IMPL_H
#define SL_NODE_COORDINATOR_COORDINATOR_IMPL_H

#include "base/clock.h"
#include "base/hist.h"
#include "base/latest.h"
#include "node/coordinator/cancels.h"
#include "node/coordinator/coordinator.h"
#include "node/coordinator/finished.h"
#include "node/coordinator/links.h"
#include "node/coordinator/tenants.h"
#include "pipeline/decide/balance.h"
#include "pipeline/record/busy.h"
#include "pipeline/record/hops.h"
#include "pipeline/record/messages.h"
#include "pipeline/record/tail.h"
#include <pthread.h>
#include <stdatomic.h>

struct sl_call_text { /* one answer */
    uint32_t n_out;
    uint32_t *ids, room; /* that were told: whoever is set back is prefilled with them */
    uint64_t last_us;
    struct sl_detok detok; /* for stop strings */
    char *tail;            /* text that a stop string may still begin in; in sl_call.tails */
    size_t tail_bytes;
    const char *matched; /* the stop string that ended it */
};

struct sl_call {          /* one request, as whoever asked sees it; the thread's own once it was posted */
    struct sl_call *next; /* of its bucket */
    uint64_t handle, seq;
    struct sl_ask ask; /* ids, steering and prompt are our copies */
    char owner[SL_MAX_TENANT];
    bool skip_special, include_stop, want_timeline;
    char trace_id[SL_TRACE_DIGITS];
    uint32_t n_stop;
    char *stop[SL_MAX_STOP_STRINGS];
    sl_generated_fn *fn;
    void *user;
    uint64_t submit_us, admit_us, first_us;
    uint64_t predicted_us; /* from submit to first, as was predicted at submit; 0: nothing was */
    bool failed;           /* one of its answers, */
    sl_status failed_with; /* and the first of them how */
    uint32_t n;
    struct sl_call_text texts[SL_MAX_N];
    struct sl_span *spans;
    uint32_t n_spans, room_spans;
    struct sl_foreign *foreign; /* until its first token */
    uint32_t n_foreign;
    char *tails; /* of all texts */
    size_t longest_stop;
};

enum sl_post_kind {
    SL_POST_SUBMIT,
    SL_POST_CANCEL,
    SL_POST_CANCEL_ID,
    SL_POST_CALL,
    SL_POST_SILENT, /* node `handle` hears nothing from a neighbour */
    SL_POST_HEARD,
    SL_POST_COST,          /* of stage `handle` */
    SL_POST_DECODER_READY, /* the decode worker in place `handle`, of `life`: all its links are up, as it says, */
    SL_POST_DECODER_LEAVES, /* it is to go, */
    SL_POST_DECODER_LOST,   /* it is gone */
    SL_POST_MOURN,
    SL_POST_DRAIN,
    SL_POST_FLUSH,
    SL_POST_FOLLOW, /* a follower begins, has taken what it was given, and goes */
    SL_POST_MORE,
    SL_POST_UNFOLLOW,
    SL_POST_STOP
};

struct sl_post { /* what another thread asks of the coordinator's */
    struct sl_post *next;
    enum sl_post_kind kind;
    struct sl_call *call;
    uint64_t handle;
    uint32_t life;
    char text[320];            /* a request id, or a sentence */
    char owner[SL_MAX_TENANT]; /* of a request id */
    bool owned;
    struct sl_cost cost;
    void (*fn)(void *user);
    void *user;
    bool stays; /* it is part of something else, which frees it */
};

enum { SL_RATIO_BUCKETS = 12 };
struct sl_ratios { /* a histogram of what is a number without a unit; its bounds are in metrics.c */
    uint64_t count, buckets[SL_RATIO_BUCKETS];
    double sum;
};

/* What kept a request from being queued, for the metric. */
enum sl_refused {
    SL_REFUSED_QUEUE,
    SL_REFUSED_TIME,
    SL_REFUSED_PROMISE,
    SL_REFUSED_SHARE,
    SL_REFUSED_DEADLINE,
    SL_REFUSED_NOT_READY,
    SL_REFUSED_REQUEST,
    SL_REFUSED_KINDS
};

struct sl_coordinator_meter {
    uint64_t output_tokens, ok[3], failed, rejected, checksum_failures;
    uint64_t refused[SL_REFUSED_KINDS];
    uint64_t decoders_lost[2]; /* by whether their weights were spoiled */
    struct sl_hops hops;
    uint64_t targets[2]; /* requests that named a time for their first token, by whether it was met */
    struct sl_ratios ttft_error[2]; /* of short prompts, and of others */
    struct sl_hist ttft, queue, prefill, e2e, inter_token;
    struct sl_hist cancel[SL_WHERES]; /* by how far it had come */
    struct sl_hist cancel_in_vain;    /* how long stages worked on, of those that were being prefilled */
    uint64_t second[10], second_tokens[10]; /* output tokens by second, for the rate over 10 s */
};

struct sl_published { /* what other threads see of the thread's state */
    struct sl_core_load core;
    struct sl_coordinator_meter meter;
    uint64_t last_receive_wall_us;
};

enum {
    SL_CALL_BUCKETS = 256,
    SL_CALL_HOLDER_BYTES =
        8192 /* what whoever asked keeps beside the call, as the edge does: a stream and its first block */
};

struct sl_word { /* what a holder has to say to the core of its request */
    uint64_t seq;
    uint32_t n; /* the text was seen to end at this token; 0: there was no memory to go on */
};

struct sl_buffers { /* that frames to one neighbour are sent from */
    uint64_t link;
    char peer[24]; /* its name */
    uint8_t *bytes;
    size_t size;    /* of one */
    uint32_t *free; /* numbers, a stack */
    uint32_t n_free;
    bool stuck; /* the neighbour has not taken what it was sent, and is lost for it */
};

enum { SL_SILENT_TO_US = 1, SL_SILENT_TO_OTHERS = 2 /* << part of it */ };

struct sl_coordinator_decoder { /* a place for a decode worker, and who has it: the thread's own */
    uint64_t link;              /* to it; 0: nobody is there */
    uint32_t life;
    bool up, ready; /* our link to it is; and all of its own, as it has told */
    bool here;      /* the decider knows it */
    uint32_t silent;
    struct sl_buffers adopts;
};

struct sl_coordinator {
    struct sl_plan plan;
    struct sl_shape shape;
    struct sl_tokenizer *tokenizer;
    char *model_path, *model_name;
    struct sl_coordinator_config config;
    struct sl_tenant_weights weights;
    struct sl_io *io;
    pthread_t thread;
    bool started;
    uint64_t started_us, started_wall_us; /* the latter in the names of requests */
    _Atomic uint32_t profile_known;       /* 1 + profile; 0: not decided */

    /* the mailbox: any thread puts in, the coordinator's takes all */
    _Atomic(struct sl_post *) posts; /* newest first */
    _Atomic uint64_t n_posted;
    struct sl_post last; /* that stops the thread */
    _Atomic uint64_t next_handle;
    _Atomic uint64_t n_past; /* requests whose deadline had passed before they were posted */

    /* what the thread tells others; the lock only for those who wait for a change of life, or for idleness */
    struct sl_balance balance;                  /* what the log says of slow stages: balance.c */
    bool said_dear;                             /* what sl_core_load.slo_dear means was logged: once */
    struct sl_latest published, published_fits; /* of the chunks of each stage */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    enum sl_life life;
    uint64_t n_taken; /* posts that were carried out */
    uint32_t n_live;
    char lost_sentence[320];
    sl_status lost_status;

    /* the thread's own */
    struct sl_links links;
    struct sl_arena arena;
    struct sl_core *core;
    struct sl_actions actions;
    /* the next inputs: of one RESULT each slice may tell as many first tokens as a prompt has answers; a decision admits */
    struct sl_word words[SL_MAX_SLICES * SL_MAX_N + SL_MAX_BATCH];
    uint32_t n_words;
    struct sl_call *calls[SL_CALL_BUCKETS]; /* by handle */
    struct sl_published now;
    uint64_t taken;
    bool stop;
    struct sl_buffers orders;
    struct sl_coordinator_decoder decoders[SL_MAX_DECODERS];
    uint64_t silent_to; /* nodes of the chain that hear nothing from a neighbour, a bit each; ours is bit 0 */
    bool told_not_serving; /* what was told last: a node is silent, or no decode worker is here */
    struct sl_finished finished;
    struct sl_cancels cancels;
    struct sl_follower *followers;
    struct sl_busy busy;        /* what the stages did lately, */
    struct sl_foreign *foreign; /* and room for what of it a request waited for */
    struct sl_tail tail;        /* what was written to the log lately */

    pthread_mutex_t view_lock; /* between the thread, when it is asked to, and who looks: all below */
    pthread_cond_t view_taken;
    struct sl_core_view *view; /* made when first asked for */
    struct sl_tail seen_tail;  /* likewise its words */
    uint64_t n_views, n_tails;
};

/* The clock of everything that the thread hands to the core or notes in a span. */
static inline uint64_t sl_coordinator_now_us(void)
{
    return sl_clock_ns() / 1000u;
}

/* decoders.c: the decode workers as the thread sees them */
struct sl_coordinator_decoder *sl_decoder_by_link(struct sl_coordinator *c,
                                                  uint64_t link);       /* NULL: of nobody who is there */
bool sl_is_decoder_link(const struct sl_coordinator *c, uint64_t link); /* also of one that was */
/* One more event of its link, after the pipeline was complete. */
void sl_decoder_on_link(struct sl_coordinator *c, const struct sl_io_event *event);
/* It is not to be gone on with: status and sentence say why; spoiled: what it has told can't be trusted. */
void sl_decoder_lose(struct sl_coordinator *c, uint32_t d, sl_status status, const char *sentence,
                     bool spoiled);
void sl_decoder_on_post(struct sl_coordinator *c, const struct sl_post *post);
void sl_decoder_set_silent(struct sl_coordinator *c, uint32_t d, uint32_t whom, bool silent);
void sl_decoder_left(struct sl_coordinator *c, uint32_t d); /* LEFT */
/* coordinator.c */
void sl_coordinator_carry_out(struct sl_coordinator *c);
/* What was counted can be read by others from here on; nobody is woken by it. */
void sl_coordinator_show(struct sl_coordinator *c);
void sl_coordinator_lose(struct sl_coordinator *c, sl_status status, const char *sentence);

/* call.c; sl_call_make: any thread, SL_E_NOMEM; the rest the coordinator's */
sl_status sl_call_make(struct sl_call **call, const struct sl_generate *g, struct sl_tokenizer *tokenizer,
                       uint32_t vocab);
void sl_call_free(struct sl_call *call);
void sl_call_insert(struct sl_coordinator *c, struct sl_call *call);
/* It is no longer queued: takes the memory that its answer needs. False: there is none. */
bool sl_call_admitted(struct sl_coordinator *c, struct sl_call *call, const struct sl_action *admit);
struct sl_call *sl_call_find(const struct sl_coordinator *c, uint64_t handle); /* NULL: it has ended */
/* Keeps the id of a token that is being told. False: there is no memory. */
bool sl_call_keep(struct sl_call *call, const struct sl_action *token);
/* An answer of it was set back: counts what was told of it, for its penalties. False: there is no memory. */
bool sl_call_set_back(struct sl_coordinator *c, struct sl_call *call, const struct sl_action *set_back);
/* Tells a token, or the prompt alone. True: the text ends with it, by a stop string. */
bool sl_call_token(struct sl_coordinator *c, struct sl_call *call, const struct sl_action *token);
void sl_call_end(struct sl_coordinator *c, struct sl_call *call,
                 const struct sl_action *end); /* tells it, and frees with the last */
void sl_call_ran(struct sl_coordinator *c, struct sl_call *call, const struct sl_action *ran);
void sl_call_arrived(const struct sl_coordinator *c, struct sl_call *call, const struct sl_action *arrived);

/* followers.c */
void sl_followers_on_post(struct sl_coordinator *c, struct sl_post *post);
void sl_followers_look(struct sl_coordinator *c); /* there may be something new for them */

/* mailbox.c; any thread. */
void sl_mailbox_post(struct sl_coordinator *c, struct sl_post *post);
/* The posts since the last time, oldest first; the caller frees them with sl_post_free. */
struct sl_post *sl_mailbox_take(struct sl_coordinator *c);
void sl_post_free(struct sl_coordinator *c, struct sl_post *post);
void sl_mailbox_stop(struct sl_coordinator *c); /* ends the thread; needs no memory */

/* balance.c: a RESULT was taken */
void sl_balance_watch(struct sl_coordinator *c);

/* metrics.c; the thread's */
void sl_meter_admitted(struct sl_coordinator *c, struct sl_call *call, uint64_t now_us);
void sl_meter_token(struct sl_coordinator *c, struct sl_call *call, struct sl_call_text *text,
                    uint64_t now_us);
void sl_meter_ended(struct sl_coordinator *c, const struct sl_call *call, const struct sl_action *end,
                    uint64_t now_us);

#endif
