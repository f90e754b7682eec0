/* A pipeline without machines: the real decider, N stages and decode workers that may die on a virtual clock, joined by links that take
 * random time. Stages compute nothing but keep the books of a real one: records as bytes, pages by number, credits; what a
 * position "is" is a hash of all that a model would make it of, so that a page in the wrong place, a record out of order or a
 * page that was used again too early gives another token. The oracle is the same request alone.
 *
 * Deterministic: the same config and requests give the same history. Knows no thread and no clock; allocates. */
#ifndef SL_PIPELINE_SIM_SIM_H
#define SL_PIPELINE_SIM_SIM_H

#include "pipeline/decide/core.h"

enum sl_sim_plant { /* what the world does wrong once, to show that it is noticed */
                    SL_SIM_HONEST,
                    SL_SIM_SWAP_PAGES, /* the last stage puts a page of a record elsewhere */
                    SL_SIM_LATE_PUSH,  /* a stage forgets that a page is still being read */
                    SL_SIM_DEAF,       /* stages do not heed what is foretold */
                    SL_SIM_FALSE_WORD, /* and a cancel is foretold of what nobody has cancelled */
                    SL_SIM_LOST_PAGE   /* a decode worker has lost a page that is believed to lie there */
};

enum { SL_SIM_MAX_LEAVINGS = 8 };

struct sl_sim_leaving { /* of a decode worker */
    uint64_t at_us;
    uint32_t decoder;
    bool told_to; /* it is told to go, and does when it has nothing left; else it dies with all that it has */
    uint64_t leave_us; /* told_to: how long it may take */
    uint64_t told_us;  /* else: so long nobody knows */
    uint64_t back_us;  /* so long its place is empty; 0: for ever */
};

struct sl_sim_config {
    uint64_t seed;
    uint32_t n_stages, max_prefill, max_running, max_requests, chunk_tokens, context_tokens;
    uint32_t n_decoders; /* 0 is 1 */
    uint32_t n_leavings;
    struct sl_sim_leaving leavings[SL_SIM_MAX_LEAVINGS];
    uint64_t alone_us; /* see sl_core_config */
    uint64_t kv_tokens;
    uint32_t expect_tokens; /* of an output; 0: as the decider does */
    bool prefix_cache;
    uint64_t flush_us;     /* when the cache is flushed; 0: never */
    uint64_t foretold_us;  /* within this time a stage is told of a CANCEL, or twice, or never; 0: none is */
    uint32_t max_push_us;  /* of a KV page, beside that */
    uint32_t max_delay_us; /* of a frame; 0: none takes time */
    enum sl_schedule_kind schedule;
    uint64_t budget_us, slo_us; /* of the policy: what a chunk may take, and the target; 0: by cost */
    uint32_t runs;              /* chunks under way at most; 0: by what is seen */
    uint32_t chunk_us, token_us, step_us; /* what a chunk costs and each of its tokens; a decode step */
    enum sl_sim_plant plant;
    bool one_tenant;      /* of equal priorities: then it is looked at who goes first (fair.c) */
    uint32_t most_events; /* a world that goes on after so many breaks a promise; 0: no bound */
    void (*tell)(void *user, uint64_t at_us, const char *what); /* of every event; NULL: nobody */
    void *tell_user;
};

struct sl_sim_request {
    uint64_t arrive_us, cancel_us; /* cancel_us 0: never */
    const uint32_t *ids;
    uint32_t n_ids, max_tokens, min_tokens;
    bool ignore_eos;
    uint32_t n;                                              /* answers; 0 is 1 */
    uint8_t salt;                                            /* of its prefix; 0: none */
    uint64_t seed;                                           /* answer i is that of seed + i */
    float temperature, repetition_penalty, presence_penalty; /* where tokens are really sampled; 0: off */
    uint32_t
        text_ends_at; /* the holder finds a stop string in this token of answer 0, and one later in the next; 0: never */
    uint64_t deadline_us, target_us;
    int32_t priority;
    const char *tenant;      /* NULL: none is named */
    uint32_t steering_bytes; /* every token depends on it */
    const uint8_t *steering;

    /* what came of it */
    struct sl_sim_answer {
        uint32_t *tokens; /* [max_tokens], the caller's */
        uint32_t n_tokens;
        uint32_t n_set_back;
        bool ended;
        sl_status status;
        enum sl_finish finish;
        uint64_t first_us, end_us;
    } answers[SL_MAX_N];
    bool ended; /* all of them */
};

struct sl_sim_report {
    uint64_t end_us, events, records, steps, tokens, set_back, cached_tokens, evicted;
    uint64_t kept;           /* pages that decode workers were told to have already */
    uint64_t given_up;       /* records that a stage did not run, since all of it was cancelled */
    uint64_t foretold;       /* of them, whose CANCELs were not among the frames that the stage held */
    uint32_t n_lost, n_left; /* decode workers */
    uint32_t most_running;   /* requests with pages at once */
    /* fair.c: chunks that the oldest got although its time was over, and those that others waited for who had begun */
    uint64_t late_turns, others_waited;
};

/* Runs until nothing is left to happen. SL_E_INTERNAL: a promise was broken, and which. */
sl_status sl_sim_run(const struct sl_sim_config *config, struct sl_sim_request *requests, uint32_t n_requests,
                     struct sl_sim_report *report, struct sl_err *err);

#endif
