/* The coordinator's choice of what runs next: admission against page budgets and the cut of the next chunk. Pure: no clock,
 * thread or I/O, so the tests and the simulator run this very code.
 *
 * Requests are admitted and cut in arrival order. A chunk has the size planned for the request at the head; what the head's
 * last slice leaves free is filled with the first tokens of those behind it, so several requests share a chunk, as long as the
 * steering of those that end in it fits its record. */
#ifndef SL_PIPELINE_DECIDE_SCHEDULE_H
#define SL_PIPELINE_DECIDE_SCHEDULE_H

#include "pipeline/decide/plan.h"

struct sl_schedule_entry {
    uint64_t seq;
    uint32_t prompt_tokens;
    uint32_t chunk_tokens;
    uint32_t prefill_pages;  /* on every stage */
    uint32_t decode_pages;   /* on the decode worker, of all answers; 0: no hand-off */
    uint32_t own_pages;      /* of them, those of one answer that it shares with no other */
    uint32_t n_places;       /* answers that may still run */
    size_t held_bytes;       /* that its holder keeps for it: counted while it waits */
    uint32_t steering_bytes; /* in the record that ends its prompt */
    uint32_t pos;            /* tokens already cut */
    uint32_t n_slices;       /* slices already cut */
    bool admitted;
    struct sl_schedule_entry *next;
};

struct sl_schedule {
    const struct sl_plan *plan;
    struct sl_schedule_entry *head, **tail; /* waiting or not yet wholly cut, in arrival order */
    uint32_t n_admitted;                    /* places of those admitted and not yet ended */
    uint32_t prefill_pages_used, decode_pages_used;
    size_t waiting_bytes; /* held for those that are not admitted */
};

struct sl_cut { /* one slice that was cut: which entry, from where, how much */
    struct sl_schedule_entry *entry;
    uint32_t pos, n, index;
};

void sl_schedule_init(struct sl_schedule *schedule, const struct sl_plan *plan);

/* Pages a request will need; output_tokens 0: no hand-off. */
void sl_schedule_entry_init(struct sl_schedule_entry *entry, const struct sl_plan *plan, uint64_t seq,
                            uint32_t prompt_tokens, uint32_t output_tokens);
/* Its prompt gets n answers: they take n places, and share the pages that the prompt fills. */
void sl_schedule_entry_fork(struct sl_schedule_entry *entry, uint32_t n);
void sl_schedule_push(struct sl_schedule *schedule, struct sl_schedule_entry *entry);
/* The next waiting entry in arrival order that fits now, marked admitted; NULL: none, or the first one must wait. */
struct sl_schedule_entry *sl_schedule_admit(struct sl_schedule *schedule);
/* Cut the next chunk from admitted entries; returns the number of slices (0: nothing to do). */
uint32_t sl_schedule_cut(struct sl_schedule *schedule, struct sl_cut cuts[SL_MAX_SLICES]);
/* Take an entry out of the queue, cut or not (cancel). Budgets stay as they are until given back. */
void sl_schedule_remove(struct sl_schedule *schedule, struct sl_schedule_entry *entry);
void sl_schedule_give_prefill(struct sl_schedule *schedule, struct sl_schedule_entry *entry);
/* One answer has left the decode worker. The last one gives what they shared; the last place is given by the end. */
void sl_schedule_give_decode(struct sl_schedule *schedule, struct sl_schedule_entry *entry);
/* The request has ended and all its pages are back. */
void sl_schedule_end(struct sl_schedule *schedule, struct sl_schedule_entry *entry);

#endif
