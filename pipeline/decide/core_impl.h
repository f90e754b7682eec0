/* What core.c (inputs and answers), core_log.c (what is written: the order log, with pages, and the decode worker's ADOPTs),
 * core_grow.c (who begins, grows and is set back), core_prefix.c (what is not computed again), core_kept.c (what is not
 * pushed again) and core_time.c (costs, and what may
 * be expected) share.
 *
 * A request is what was asked for, with its answers. Answers are in the pipeline for a *stay*, under one sequence id, from the
 * queue until nothing is left of it on any node: the first stay is that of all answers of a request; one that is set back ends
 * its stay and comes again in one of its own, where its prompt is what was asked and what was told. */
#ifndef SL_PIPELINE_DECIDE_CORE_IMPL_H
#define SL_PIPELINE_DECIDE_CORE_IMPL_H

#include "base/pool.h"
#include "pipeline/decide/admit.h"
#include "pipeline/decide/core.h"
#include "pipeline/decide/cost_fit.h"
#include "pipeline/decide/growth.h"
#include "pipeline/decide/place.h"
#include "pipeline/decide/sequences.h"
#include <assert.h>

struct sl_branch { /* what becomes of one answer */
    struct sl_stay *stay;
    bool alive;    /* its END was not told */
    bool over;     /* nothing may follow what was told; `finish` is final but for a stop string in it */
    bool set_back; /* it was told to leave the decode worker, and waits again when it has */
    enum sl_finish finish; /* so far */
    int64_t stop_id;
    uint32_t n_out, last_id;
    uint32_t n_set_back; /* how often */
    uint64_t first_us;   /* when its first token was told */
    /* of the row that gave the first token; of all others that were told in stays that have ended */
    uint64_t logits_digest, told_digest;
};

struct sl_request { /* an entry of the registry; seq 0: free */
    uint64_t
        seq; /* a multiple of SL_MAX_N, of its first stay; what actions call answer i, in whichever stay, is seq + i */
    struct sl_ask *ask; /* the holder's; NULL once the last END was told */
    bool begun;         /* its first stay was admitted */
    bool refill;        /* the core's own: nobody is told of it (core_refill.c) */
    uint32_t tenant;
    uint64_t submitted_us;
    double predicted_us, told_us; /* its time to first token (admit.h), as it was when it came; 0: none */
    bool handoff;
    uint32_t n, n_alive;
    uint32_t n_slices;      /* in the log, of all stays */
    uint32_t cached_tokens; /* of its prompt, that its first stay began behind */
    struct sl_stay *stays;  /* those of which something is left, or that will be */
    struct sl_branch answers[SL_MAX_N];
};

struct sl_stay {  /* seq 0: free */
    uint64_t seq; /* a multiple of SL_MAX_N; of its answer k, on the decode worker: seq + k */
    struct sl_request *request;
    struct sl_stay *next; /* of the request */
    struct sl_stay *next_begun, *next_settling;
    uint32_t first, n; /* the answers of the request that it makes */
    uint32_t
        n_told; /* tokens of its answer that are its prompt's end, all but the last that were told; 0 in the first stay */
    bool again; /* it is not the first: no token comes of its prefill */
    bool
        settling; /* its prefill is done; what follows is decided after the holder has seen its first tokens */
    bool taken;   /* the decode worker was told to take it */
    struct sl_prefix_at prefix; /* what it holds of the cache */
    struct sl_prefix_at kept;   /* of what its decode worker keeps */
    uint32_t n_kept;            /* pages of its prompt that lay there when it began: they are not pushed */
    struct sl_schedule_entry entry;
    enum sl_on_stages stages;
    enum sl_on_decode decode[SL_MAX_N];
    uint32_t granted[SL_MAX_N]; /* pages on the decode worker that have numbers */
    uint32_t unnamed;           /* that were promised with its beginning and have none yet */
};

struct sl_asked_slice { /* of a RUN record: what its answer must be about */
    uint64_t seq;
    uint32_t index, pos, n, n_prompt;
    bool last;       /* it ends the prompt */
    bool has_token;  /* and a first token comes with it, */
    uint32_t n_more; /* and so many more */
};

struct sl_record { /* in the log, not yet answered by the last stage */
    uint64_t number;
    enum sl_order_kind kind;
    uint64_t seq; /* FREE, CANCEL */
    uint32_t n_slices;
    struct sl_asked_slice slices[SL_MAX_SLICES];
    /* RUN: what was predicted of it, and took */
    struct sl_cost_chunk chunk;
    uint64_t written_us;
    double predicted_us[SL_MAX_STAGES], ends_us[SL_MAX_STAGES]; /* ends_us: when it leaves a stage */
    double took_us;                                             /* of all stages, waiting there included */
};

enum { SL_HOPS_SEEN = 64 };
struct sl_core_time { /* core_time.c */
    struct sl_cost_fit fits[SL_MAX_STAGES];
    double mean_us[SL_MAX_STAGES]; /* of the last chunks, by stage */
    double ends_us[SL_MAX_STAGES]; /* when the last record that was written leaves each stage */
    double hops_us[SL_HOPS_SEEN]; /* what answers took beside the stages' work: the least is the way itself */
    uint32_t n_hops;
    uint64_t left_us[SL_MAX_STAGES]; /* when a stage had done its last chunk, on its own clock */
    double gap_us[SL_MAX_STAGES];    /* between two chunks of a stage that is busy */
    uint64_t looked_at;              /* the last record whose answer was timed */
    uint64_t traced_us,
        trial_us; /* when a chunk was measured last; for how long none may be until one is taken on trial */
    double kappa[2];           /* by how much predictions of short and of long prompts were wrong lately */
    struct sl_offered offered; /* that was admitted */
    double short_part;         /* of the last requests, by number: those with a short prompt */
    double step_us;            /* from one output token to the next */
};

enum { SL_REFILLS = 8 /* answers that wait to be prefilled for the cache */ };
struct sl_refill {
    struct sl_ask ask;
    uint32_t *ids;     /* [context] of its prompt and answer, whole pages */
    uint32_t n_prompt; /* whole pages of the prompt, which were cached when it ended */
};
struct sl_refills { /* a ring of n, the oldest first */
    struct sl_refill of[SL_REFILLS];
    uint32_t first, n;
    struct sl_request *active; /* of the first, in the pipeline */
};

struct sl_decoder { /* a place for a decode worker */
    enum sl_decoder_state state;
    bool silent;               /* it is not heard: nothing new begins there until it is */
    uint32_t life;             /* of who has the place */
    struct sl_sequences pages; /* which numbers are given out */
    struct sl_prefix kept;     /* pages of what is gone, which it reads as long as it has them */
    struct sl_step_fit step;   /* what a token step takes there */
    uint64_t
        leave_us; /* LEAVING: for how long it may have something yet, and, once it was decided, until when */
    uint64_t gone_us;
};

struct sl_core {
    struct sl_core_config config;
    struct sl_plan plan;
    enum sl_life life;
    bool silent;        /* a node is */
    char sentence[320]; /* why it is lost */

    struct sl_request *requests; /* [max_requests] */
    struct sl_pool free_requests;
    /* [n_stays]; that of seq s is s / SL_MAX_N % n_stays. Of request i the first is i; the others come from free_stays, whose
     * numbers count from max_requests on */
    struct sl_stay *stays;
    uint32_t n_stays;
    struct sl_pool free_stays;
    uint32_t n_live;
    struct sl_stay *settling; /* in the order of their results */
    uint64_t generation, arrivals;

    uint64_t now_us; /* of the last input that has a time */
    struct sl_schedule schedule;
    struct sl_policy policy;
    struct sl_refills refills;
    struct sl_core_time time;
    struct sl_sequences pages; /* of the stages: which numbers are given out */
    struct sl_prefix prefix;   /* pages of the stages, which it reads as long as it has them */
    uint32_t *forgotten;       /* [pages of a context]: for sl_core_forget_pages */
    uint64_t n_cached_tokens, n_computed_tokens;
    uint64_t n_kept_tokens, n_pushed_tokens; /* of prompts that decode workers took */
    struct sl_decoder decoders[SL_MAX_DECODERS];
    uint64_t alone_us; /* since when no decode worker takes anything; 0: one does */
    bool abandoned;    /* that has lasted too long: who needs one is refused */

    struct sl_stay *begun;   /* admitted and not wholly gone: the oldest first */
    struct sl_growth growth; /* how long outputs become */
    bool look;           /* something happened by which pages may be granted, or someone must be set back */
    uint32_t n_sitting;  /* answers that can make no token for want of a page */
    uint64_t n_set_back; /* answers, ever */
    uint64_t n_moved;    /* likewise */

    uint64_t log_number, log_answered; /* the last record written, and the last that came back */
    struct sl_record *log;             /* [log_room], by number: what is under way */
    uint32_t log_room;
    uint32_t runs_in_flight, max_runs;

    /* what actions point to, until the next input */
    struct sl_run *runs; /* [max_runs] */
    uint32_t n_runs;
    struct sl_adopt *adopts; /* [sl_core_max_adopts] */
    uint32_t n_adopts;
    struct sl_result_head head;
    struct sl_result_slice *slices; /* [SL_MAX_SLICES] */
};

struct sl_beginning { /* of requests, in one decision */
    struct sl_core *core;
    struct sl_actions *actions;
    bool summed;
    uint32_t growth[SL_MAX_DECODERS]; /* pages that those which have begun there are expected to want yet */
};

/* Of one input: each answer on the decode worker may be granted a page and be told to stop, or it is taken. */
static inline uint32_t sl_core_max_adopts(const struct sl_plan *plan)
{
    return 2 * plan->max_running * plan->max_decoders + 1;
}

static inline struct sl_stay *sl_core_stay_of(struct sl_schedule_entry *entry)
{
    return (struct sl_stay *)(void *)((char *)entry - offsetof(struct sl_stay, entry));
}

static inline struct sl_branch *sl_core_answer_of(const struct sl_stay *s, uint32_t k)
{
    return &s->request->answers[s->first + k];
}

static inline struct sl_decoder *sl_core_decoder_of(struct sl_core *core, const struct sl_stay *s)
{
    return &core->decoders[s->entry.decoder];
}

/* Whether answer k of the stay goes on in it. */
static inline bool sl_core_is_alive(const struct sl_stay *s, uint32_t k)
{
    const struct sl_branch *answer = sl_core_answer_of(s, k);
    return answer->alive && answer->stay == s;
}

static inline uint32_t sl_core_n_alive(const struct sl_stay *s)
{
    uint32_t n = 0;
    for (uint32_t k = 0; k < s->n; k++)
        n += sl_core_is_alive(s, k);
    return n;
}

/* core_log.c, which calls nothing of the others */
struct sl_action *sl_core_act(struct sl_actions *actions, enum sl_action_kind kind,
                              const struct sl_request *r);
void sl_core_release(struct sl_core *core, struct sl_stay *s, enum sl_order_kind kind,
                     struct sl_actions *actions);
void sl_core_write_runs(struct sl_core *core, struct sl_actions *actions);
/* The ids that end its text; returns how many. */
uint32_t sl_core_stops(const struct sl_core *core, const struct sl_ask *ask,
                       uint32_t stops[SL_MAX_DECODE_STOPS]);
/* What the decode worker is told of answer k of a stay, pages apart. */
void sl_core_fill_adopt(const struct sl_core *core, const struct sl_stay *s, uint32_t k,
                        struct sl_adopt *adopt);
void sl_core_take(struct sl_core *core, struct sl_stay *s, struct sl_actions *actions); /* TAKE, FORKs */
void sl_core_grant(struct sl_core *core, struct sl_stay *s, uint32_t k, uint32_t n_pages,
                   struct sl_actions *actions); /* GROW, promised by the schedule */
void sl_core_give_up(struct sl_core *core, struct sl_stay *s, uint32_t k,
                     struct sl_actions *actions); /* CANCEL on the decode worker */
void sl_core_decode_gone(struct sl_core *core, struct sl_stay *s, uint32_t k);

/* core_time.c */
void sl_core_time_init(struct sl_core *core);
void sl_core_budget(struct sl_core *core); /* made anew of costs and pace */
/* A RUN is written; its traces came back; and what was answered until now is timed. */
void sl_core_time_written(struct sl_core *core, struct sl_record *record, const struct sl_order *order);
void sl_core_time_traced(struct sl_core *core, struct sl_record *record, const struct sl_result_head *head);
void sl_core_time_look(struct sl_core *core, uint64_t now_us);
/* Until what is under way leaves the last stage, as predicted. */
double sl_core_under_way_us(const struct sl_core *core);
/* What an entry that is not queued yet may expect. */
void sl_core_outlook(const struct sl_core *core, const struct sl_schedule_entry *e,
                     struct sl_outlook *outlook);
void sl_core_time_admitted(struct sl_core *core, struct sl_schedule_entry *e, double work_us, bool trial);
void sl_core_time_first_token(struct sl_core *core, const struct sl_stay *s);
void sl_core_time_answer_ends(struct sl_core *core, const struct sl_branch *answer);
/* core_submit.c */
const struct sl_request *sl_core_find_id(const struct sl_core *core,
                                         const char *id); /* NULL: none that lives */
/* Of a first stay. */
void sl_core_make_entry(const struct sl_core *core, const struct sl_ask *ask,
                        struct sl_schedule_entry *entry);

/* core.c */
void sl_core_begin_input(struct sl_core *core); /* what actions pointed to until now is written over */
void sl_core_end_answer(struct sl_core *core, struct sl_request *r, uint32_t i, sl_status status,
                        enum sl_finish finish, const char *error, uint64_t kv_digest,
                        struct sl_actions *actions);
/* What answer k had on a decode worker is gone: it waits for a stay of its own, where it once waited. */
void sl_core_come_again(struct sl_core *core, struct sl_stay *from, uint32_t k, uint64_t told_digest,
                        struct sl_actions *actions);
/* The same of a whole prompt of which no token was told. */
void sl_core_begin_anew(struct sl_core *core, struct sl_stay *from, struct sl_actions *actions);
void sl_core_retire(struct sl_core *core,
                    struct sl_stay *s); /* if no answer goes on in it, and nothing is left */

/* core_decoders.c: who has come, goes, or is gone */
void sl_core_look_at_decoders(struct sl_core *core, uint64_t now_us, struct sl_actions *actions);
uint64_t sl_core_decoders_wake_us(const struct sl_core *core); /* 0: never */
void sl_core_decoder_load(const struct sl_core *core, uint32_t decoder, struct sl_decoder_load *load);
/* core_prefix.c, which calls nothing of the others but sl_core_forget_kept */
void sl_core_copy_ids(uint32_t *out, const struct sl_stay *s, uint32_t pos, uint32_t n);
void sl_core_copy_ids_of(uint32_t *out, const struct sl_ask *ask, const uint32_t *told, uint32_t pos,
                         uint32_t n);
/* It begins behind what is cached of its prompt: an entry of which nothing was cut (a sl_look_fn, whose user is the core), those of
 * all that were admitted, and one whose stay is still to be made. */
void sl_core_look_up(void *core, struct sl_schedule_entry *entry);
void sl_core_look_up_admitted(struct sl_core *core);
void sl_core_look_up_new(struct sl_core *core, const struct sl_ask *ask, struct sl_schedule_entry *entry,
                         struct sl_prefix_at *at);
/* Whole pages at the beginning of it that are cached: as if it had been asked for now, nothing else changes. */
uint32_t sl_core_n_cached(struct sl_core *core, const struct sl_ask *ask);
void sl_core_let_go_prefix(struct sl_core *core, struct sl_prefix_at *at);
/* The others that wait hold nothing, if it has no pages else. */
void sl_core_make_room(struct sl_core *core, const struct sl_schedule_entry *entry);
/* Its first slice: the pages behind which it begins are its sequence's. */
void sl_core_share_pages(struct sl_core *core, struct sl_stay *stay, struct sl_sequence *s);
/* Where the first slice of it begins that the stages have not answered. SL_PREFIX_NONE: they have answered all. */
uint32_t sl_core_first_unanswered(const struct sl_core *core, uint64_t seq);
/* It is given up, and with it what records that are not answered yet put into the cache. false: others want that. */
bool sl_core_forget_pages(struct sl_core *core, struct sl_stay *stay);
uint32_t sl_core_free_page(struct sl_core *core); /* of the stages, for which there is a promise */
/* What the slice completes is the cache's. */
void sl_core_keep_pages(struct sl_core *core, struct sl_stay *stay, const struct sl_sequence *s, uint32_t pos,
                        uint32_t n);

/* core_kept.c, which calls nothing of the others but sl_core_copy_ids and its like */
struct sl_kept_at { /* what a decode worker keeps of a prompt: its first n pages, the last in `page` */
    uint32_t n, page;
};
/* Of each decode worker that is in question. */
void sl_core_look_up_kept(const struct sl_core *core, const struct sl_stay *s, const bool *in_question,
                          struct sl_kept_at kept[SL_MAX_DECODERS]);
/* It begins on its decode worker with those, which are its own until all of its answers are gone from there. */
void sl_core_begin_kept(struct sl_core *core, struct sl_stay *s, const struct sl_kept_at *kept);
/* All of its prompt has come to its decode worker; answer k ends there, or may: others may begin with its pages. */
void sl_core_keep_prompt(struct sl_core *core, struct sl_stay *s, uint32_t k);
void sl_core_keep_answer(struct sl_core *core, struct sl_stay *s, uint32_t k);
/* Nothing of it is on its decode worker any more. */
void sl_core_let_go_kept(struct sl_core *core, struct sl_stay *s);
uint32_t sl_core_free_decode_page(struct sl_core *core, uint32_t decoder); /* there is a promise */
/* Nothing that is kept there is found any more, and what nobody holds is free. */
void sl_core_forget_kept(struct sl_core *core, uint32_t decoder);

/* core_refill.c */
size_t sl_core_refill_bytes(const struct sl_core_config *config);
sl_status sl_core_refill_init(struct sl_core *core, struct sl_arena *arena);
/* An answer that is about to end well: it is prefilled for the cache when there is time. */
void sl_core_refill_note(struct sl_core *core, const struct sl_request *r, uint32_t i);
void sl_core_refill(struct sl_core *core);      /* if nobody wants anything, the next of them is queued */
void sl_core_refill_done(struct sl_core *core); /* its pages are the cache's */
/* It ends; it is begun anew later unless it is to be forgotten. */
void sl_core_refill_stop(struct sl_core *core, bool forget, struct sl_actions *actions);
void sl_core_refill_look(struct sl_core *core,
                         struct sl_actions *actions); /* it ends if it could not begin */

/* core.c */
struct sl_stay *sl_core_make_stay(struct sl_core *core, struct sl_request *r, uint32_t place, uint32_t first,
                                  uint32_t n);
void sl_core_end_answers(struct sl_core *core, struct sl_request *r, sl_status status, enum sl_finish finish,
                         const char *error, struct sl_actions *actions);

/* core_grow.c */
/* Whether an entry of a stay gets all that its prefill needs; a sl_begin_fn, whose user is a struct sl_beginning. */
bool sl_core_begin_one(void *beginning, struct sl_schedule_entry *entry);
void sl_core_begin(struct sl_core *core, struct sl_actions *actions); /* admits who fits */
/* Pages to those that need the next one, the oldest first; and when too few go on, the youngest is set back. */
void sl_core_grow(struct sl_core *core, struct sl_actions *actions);
/* Whether answer k, which is being decoded, wants a page that it has not. */
bool sl_core_wants(const struct sl_stay *s, uint32_t k);

#endif
