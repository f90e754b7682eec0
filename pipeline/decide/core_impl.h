/* What core.c (inputs and answers) and core_log.c (what is written: the order log, with pages, and the decode worker's ADOPTs) share. */
#ifndef SL_PIPELINE_DECIDE_CORE_IMPL_H
#define SL_PIPELINE_DECIDE_CORE_IMPL_H

#include "base/pool.h"
#include "pipeline/decide/core.h"
#include "pipeline/decide/schedule.h"
#include "pipeline/decide/sequences.h"
#include <assert.h>

struct sl_branch { /* what becomes of one index */
    enum sl_on_decode decode;
    bool alive; /* its END was not told */
    bool over;  /* nothing may follow what was told; `finish` is final but for a stop string in it */
    enum sl_finish finish; /* so far */
    int64_t stop_id;
    uint32_t n_out, first_id;
    uint64_t logits_digest;
};

struct sl_request { /* an entry of the registry; seq 0: free */
    uint64_t
        seq; /* a multiple of SL_MAX_N; of answer i: seq + i. That of index 0 is what the stages know it by */
    struct sl_ask *ask; /* the holder's; NULL once the last END was told */
    struct sl_schedule_entry entry;
    enum sl_on_stages stages;
    bool handoff;
    bool settling; /* its first tokens were told; what follows is decided after the holder has seen them */
    uint32_t n, n_alive;
    struct sl_branch answers[SL_MAX_N];
};

struct sl_asked_slice { /* of a RUN record: what its answer must be about */
    uint64_t seq;
    uint32_t index, pos, n, n_prompt;
    bool last;       /* it ends the prompt: a first token comes with it */
    uint32_t n_more; /* and so many more */
};

struct sl_record { /* in the log, not yet answered by the last stage */
    enum sl_order_kind kind;
    uint64_t seq; /* FREE, CANCEL */
    uint32_t n_slices;
    struct sl_asked_slice slices[SL_MAX_SLICES];
};

struct sl_core {
    struct sl_core_config config;
    struct sl_plan plan;
    enum sl_life life;
    bool silent;        /* a node is */
    char sentence[320]; /* why it is lost */

    struct sl_request *requests; /* [max_requests]; that of seq s is s / SL_MAX_N % max_requests */
    struct sl_pool free_requests;
    uint32_t n_live, n_settling;
    uint64_t generation;

    struct sl_schedule schedule;
    struct sl_sequences pages, decode_pages; /* which numbers are given out */

    uint64_t log_number, log_answered; /* the last record written, and the last that came back */
    struct sl_record *log;             /* [log_room], by number: what is under way */
    uint32_t log_room;
    uint32_t runs_in_flight, max_runs;

    /* what actions point to, until the next input */
    struct sl_run *runs; /* [max_runs] */
    uint32_t n_runs;
    struct sl_adopt *adopts; /* [max_running] */
    uint32_t n_adopts;
    struct sl_result_head head;
    struct sl_result_slice *slices; /* [SL_MAX_SLICES] */
};

static inline struct sl_request *sl_core_request_of(struct sl_schedule_entry *entry)
{
    return (struct sl_request *)(void *)((char *)entry - offsetof(struct sl_request, entry));
}

/* core_log.c, which calls nothing of core.c */
struct sl_action *sl_core_act(struct sl_actions *actions, enum sl_action_kind kind,
                              const struct sl_request *r);
void sl_core_release(struct sl_core *core, struct sl_request *r, enum sl_order_kind kind,
                     struct sl_actions *actions);
void sl_core_write_runs(struct sl_core *core, struct sl_actions *actions);
/* What the decode worker is told of answer i, pages apart. */
void sl_core_fill_adopt(const struct sl_core *core, const struct sl_request *r, uint32_t i,
                        struct sl_adopt *adopt);
void sl_core_take(struct sl_core *core, struct sl_request *r, struct sl_actions *actions); /* TAKE, FORKs */
void sl_core_give_up(struct sl_core *core, struct sl_request *r, uint32_t i,
                     struct sl_actions *actions); /* CANCEL on the decode worker */
void sl_core_decode_gone(struct sl_core *core, struct sl_request *r, uint32_t i);

#endif
