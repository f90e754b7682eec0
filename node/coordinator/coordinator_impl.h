/* Private to the coordinator's three files: coordinator.c (thread, events, the order log), coordinator_request.c (one
 * request's life), coordinator_calls.c (what other threads call: submit, cancel, load, metrics). */
#ifndef SL_NODE_COORDINATOR_COORDINATOR_IMPL_H
#define SL_NODE_COORDINATOR_COORDINATOR_IMPL_H

#include "base/hist.h"
#include "node/coordinator/coordinator.h"
#include "pipeline/decide/schedule.h"
#include "pipeline/decide/sequences.h"
#include "pipeline/record/messages.h"
#include <pthread.h>
#include <stdatomic.h>

struct sl_request {
    struct sl_request *next; /* registry; under lock */
    uint64_t seq;
    struct sl_generate ask; /* ids and stop strings are our copies */
    sl_generated_fn *fn;
    void *user;
    struct sl_schedule_entry entry;
    bool queued;                 /* the core thread has it */
    bool handoff, decode_live;   /* the decode worker may hold pages of it */
    bool stages_live, free_sent; /* stages may hold pages of it; FREE or CANCEL is in the log */
    bool adopted;
    _Atomic bool done;    /* fn has been told the end; submit looks at it from other threads */
    bool ended_by_decode; /* its finish is known; the end is told at ENDED, with the digests */
    enum sl_finish finish;
    int64_t matched_stop_id;
    const char *matched_stop;
    uint32_t n_out;
    uint64_t logits_digest;
    uint64_t submit_us, admit_us, first_us, last_us, deadline_us; /* wall clock; deadline 0: none */
    struct sl_token_out *prompt; /* [n_ids], when prompt_logprobs are wanted */
    struct sl_span *spans;
    uint32_t n_spans, room_spans;
    struct sl_detok detok; /* for stop strings */
    char *tail;            /* text that a stop string may still begin in */
    size_t tail_bytes, longest_stop;
};

enum sl_op_kind { SL_OP_SUBMIT, SL_OP_CANCEL, SL_OP_CANCEL_ID, SL_OP_CALL, SL_OP_MOURN };

struct sl_op_item { /* what other threads ask of the core thread */
    struct sl_op_item *next;
    enum sl_op_kind kind;
    struct sl_request *request;
    uint64_t seq;
    char id[320]; /* a request id, or a sentence */
    void (*fn)(void *user);
    void *user;
};

struct sl_coordinator_meter { /* under lock */
    uint64_t prompt_tokens, output_tokens, ok[3], failed, rejected;
    uint64_t chunks, records;
    struct sl_hist ttft, queue, prefill, e2e, inter_token;
    uint64_t bubble_us, span_us;            /* of finished prefills, over all stages */
    uint64_t second[10], second_tokens[10]; /* output tokens by wall-clock second, for the 10 s rate */
};

struct sl_record { /* in the log, not yet answered by the last stage */
    enum sl_order_kind kind;
    uint64_t seq;
};

enum { SL_LOG_RING = 2048 };

struct sl_coordinator {
    struct sl_plan plan;
    struct sl_shape shape;
    struct sl_tokenizer *tokenizer;
    char *model_path, *model_name;
    struct sl_coordinator_config config;
    struct sl_io *io;
    pthread_t thread;
    bool started;
    _Atomic uint32_t profile_known; /* 1 + profile; 0: not decided */

    pthread_mutex_t lock; /* callers against the core thread: all of this block */
    pthread_cond_t changed;
    struct sl_request *requests;
    uint32_t n_requests, n_waiting;
    struct sl_op_item *ops, **ops_tail;
    struct sl_load load;
    struct sl_coordinator_meter meter;
    bool ready, draining, lost, stop;
    char lost_sentence[320];
    uint64_t next_seq;

    /* the core thread's own */
    struct sl_schedule schedule;
    struct sl_arena arena;
    struct sl_sequences pages, decode_pages; /* which numbers the log has given out */
    struct sl_page_numbers *numbers;         /* of the record being written */
    uint64_t log_number;                     /* last record written */
    uint64_t log_answered;                   /* last record answered by the last stage */
    struct sl_record log[SL_LOG_RING];
    uint32_t runs_in_flight, max_runs;
    uint8_t *order_buffers, *adopt_buffers;
    uint32_t *free_orders, n_free_orders, n_order_buffers;
    uint32_t *free_adopts, n_free_adopts, n_adopt_buffers;
    uint32_t n_up;
};

/* coordinator.c */
void sl_coordinator_log_control(struct sl_coordinator *c, enum sl_order_kind kind, struct sl_request *r);
/* The load that other threads see; lock held. */
void sl_coordinator_publish(struct sl_coordinator *c);
/* The next page of a sequence gets a number, which the budgets have room for. */
uint32_t sl_coordinator_next_page(struct sl_sequences *t, struct sl_sequence *s);
void sl_coordinator_send_adopt(struct sl_coordinator *c, const struct sl_adopt *adopt);

/* coordinator_request.c; all on the core thread */
void sl_request_free(struct sl_request *r);
/* The head of the registry. Other threads only put requests before it, and only this one takes them out, so the list behind it
 * can be walked without the lock. */
struct sl_request *sl_request_first(struct sl_coordinator *c);
struct sl_request *sl_request_find(struct sl_coordinator *c, uint64_t seq);
/* from the queue into the schedule */
void sl_request_start(struct sl_coordinator *c, struct sl_request *r);
void sl_request_admitted(struct sl_coordinator *c, struct sl_request *r);
void sl_request_on_slice(struct sl_coordinator *c, const struct sl_result_head *head,
                         const struct sl_result_slice *slice, struct sl_cursor *prompt);
void sl_request_on_entry(struct sl_coordinator *c, const struct sl_tokens_entry *entry);
void sl_request_stages_freed(struct sl_coordinator *c, struct sl_request *r);
/* Tell the end once and let go of everything that is held elsewhere. */
void sl_request_end(struct sl_coordinator *c, struct sl_request *r, sl_status status, enum sl_finish finish,
                    const char *error);
/* Remove it from the registry when nothing of it is left anywhere. */
void sl_request_retire(struct sl_coordinator *c, struct sl_request *r);

#endif
