/* What waits to be prefilled, and what was promised to whom: places, and pages on the stages and on the decode worker. Pure: no
 * clock, thread or I/O, so the tests and the simulator run this very code.
 *
 * Who is next, and what goes into the next chunk, is rank.h's; here is only the cut in arrival order, with which it is compared,
 * and which is what it was: chunks of a size planned for the request at the head. Who is admitted has at once every page that its prefill needs, on the stages
 * and on a decode worker (place.h says which), a place among those that are prefilled and places in that worker's batch: who
 * waits holds nothing, so nobody waits for each other. What answers grow by is not promised, but expected (growth.h): who would
 * begin waits until it fits with what all the others there are expected to become, or until a decode worker is empty.
 *
 * In arrival order, what the head's last slice leaves free of its chunk is filled with the first tokens of those behind it, so
 * several requests share a chunk, as long as the steering of those that end in it fits its record. */
#ifndef SL_PIPELINE_DECIDE_SCHEDULE_H
#define SL_PIPELINE_DECIDE_SCHEDULE_H

#include "pipeline/decide/plan.h"

struct sl_schedule_entry {
    uint64_t arrival; /* the order; one that comes again has that of its first time */
    uint32_t prompt_tokens;
    uint32_t chunk_tokens;
    uint32_t prefill_pages;    /* on every stage */
    uint32_t decode_pages;     /* on a decode worker, to begin with, of all answers; 0: no hand-off */
    uint32_t n_places;         /* in the decode batch, one an answer; 0: no hand-off */
    size_t held_bytes;         /* that its holder keeps for it: counted while it waits */
    uint64_t deadline_us;      /* for its prompt to be in the log; 0: none, or it once was */
    uint32_t steering_bytes;   /* in the record that ends its prompt */
    uint32_t start, pos;       /* where cutting began; tokens already there */
    uint32_t decoder;          /* the place of that worker, once it is admitted */
    uint32_t shared_pages;     /* of others, that its first slice names, when it begins behind a prefix */
    bool admitted, prefilling; /* prefilling: it has its place on the stages */
    bool prefill_only;         /* and wants none in the decode batch */
    struct sl_schedule_entry *next, *before;

    /* what rank.h orders by */
    uint64_t arrived_us, due_us; /* when its first token is wanted */
    double key_us;               /* as it was when it was last looked at */
    struct sl_schedule_entry *next_key, *before_key;
    bool counted;  /* in its tenant\'s queue */
    bool promised; /* its holder said when, and was not refused */
    bool again; /* it was begun before, and set back: whoever waits for what it holds can't wait in its way */
    uint32_t tenant;
    double backlog_us; /* its work when it came, as its tenant's queue counts it */
    double work_us;    /* what is left of it at work_pos, as that version of the budget has it */
    uint32_t work_version, work_pos;
};

struct sl_schedule_decoder { /* of a decode worker: what is taken, and promised, of its places and pages */
    /* every page that somebody has alone, those to come, and those that are kept there and held */
    uint32_t n_decoding, pages_used;
};

struct sl_schedule {
    const struct sl_plan *plan;
    struct sl_schedule_entry *waiting;     /* the first of those that wait, in the list of */
    struct sl_schedule_entry *head, *last; /* waiting or not yet wholly cut: the admitted, then by arrival */
    struct sl_schedule_entry *first_key, *last_key; /* the same, nearly by their keys: rank.h sorts them */
    uint32_t n_waiting, n_uncut;                    /* those that are not admitted; all of the list */
    uint64_t waiting_tokens;                        /* of prompts that are not admitted */
    uint32_t n_prefilling, n_decoding; /* places that are taken: sequences on the stages, answers anywhere */
    uint32_t n_prefill_only;           /* of the former, those without one of the latter */
    uint32_t prefill_pages_used;       /* promised: every page with a number, and those to come */
    uint32_t pages_held;               /* on the stages, by those who use prefixes, beside what is promised */
    struct sl_schedule_decoder decoders[SL_MAX_DECODERS];
    size_t waiting_bytes; /* held for those that are not admitted */
};

struct sl_cut { /* one slice that was cut: which entry, from where, how much */
    struct sl_schedule_entry *entry;
    uint32_t pos, n;
};

void sl_schedule_init(struct sl_schedule *schedule, const struct sl_plan *plan);

/* max_tokens: of output, 0: no hand-off; n_out of them are told before it begins on the decode worker (at least 1), of which all
 * but the last are part of its prompt. n: answers, which share the pages that the prompt fills. */
void sl_schedule_entry_init(struct sl_schedule_entry *entry, const struct sl_plan *plan,
                            uint32_t prompt_tokens, uint32_t max_tokens, uint32_t n_out, uint32_t n);
/* Pages that an answer has on the decode worker when n_out of max_tokens are told: as far as it has come, and a little ahead. */
uint32_t sl_schedule_grant(uint32_t prompt_tokens, uint32_t n_out, uint32_t max_tokens);
void sl_schedule_push(struct sl_schedule *schedule, struct sl_schedule_entry *entry); /* the last to arrive */
void sl_schedule_push_back(struct sl_schedule *schedule,
                           struct sl_schedule_entry *entry); /* where it once was */
/* The stages have places and pages for it. */
bool sl_schedule_fits(const struct sl_schedule *schedule, const struct sl_schedule_entry *entry);
/* So has a decode worker. growth: pages there that it and those that have begun there are expected to want yet. */
bool sl_schedule_fits_decoder(const struct sl_schedule *schedule, const struct sl_schedule_entry *entry,
                              uint32_t decoder, uint32_t growth);
/* The first that waits, if it fits the stages; NULL: none, or it must wait. */
struct sl_schedule_entry *sl_schedule_next(const struct sl_schedule *schedule);
/* An entry that fits begins; decoder: where it fits, too, when it is handed off. */
void sl_schedule_admit(struct sl_schedule *schedule, struct sl_schedule_entry *entry, uint32_t decoder);
/* Cut the next chunk from admitted entries; returns the number of slices (0: nothing to do). */
uint32_t sl_schedule_cut(struct sl_schedule *schedule, struct sl_cut cuts[SL_MAX_SLICES]);
/* Among those before it in the list of keys it goes where its key belongs. */
void sl_schedule_sink(struct sl_schedule *schedule, struct sl_schedule_entry *entry);
/* Take an entry out of the queue, cut or not (cancel). What it was promised stays as it is until given back. */
void sl_schedule_remove(struct sl_schedule *schedule, struct sl_schedule_entry *entry);
/* Nothing of it was cut: its first slice begins behind so many pages of others, and what it needs is the rest. */
void sl_schedule_begin_behind(struct sl_schedule *schedule, struct sl_schedule_entry *entry,
                              uint32_t n_pages);
/* There are as many pages on the stages as it needs of its own. */
bool sl_schedule_has_pages(const struct sl_schedule *schedule, const struct sl_schedule_entry *entry);
/* One that it was promised is another's now. */
void sl_schedule_give_page(struct sl_schedule *schedule, struct sl_schedule_entry *entry);
/* Its pages on the stages may be used again by what is written next. */
void sl_schedule_give_prefill(struct sl_schedule *schedule, struct sl_schedule_entry *entry);
/* The stages have said that nothing of it is left there. */
void sl_schedule_leave_stages(struct sl_schedule *schedule, struct sl_schedule_entry *entry);
/* So many of the pages that it was promised with its beginning lie on its decode worker already, and are another's. */
void sl_schedule_lie_there(struct sl_schedule *schedule, struct sl_schedule_entry *entry, uint32_t pages);
bool sl_schedule_grow(struct sl_schedule *schedule,
                      uint32_t decoder); /* one more page on that decode worker; false: there is none */
void sl_schedule_give_decode(struct sl_schedule *schedule, struct sl_schedule_entry *entry, uint32_t pages,
                             uint32_t places);
/* Nothing of it is left anywhere: its places, those that are still its own, are others'. */
void sl_schedule_end(struct sl_schedule *schedule, struct sl_schedule_entry *entry);

#endif
