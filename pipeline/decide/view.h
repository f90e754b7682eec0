/* The queue as whoever runs the node wants to see it: who is next and why, and when each is expected to begin and to be done. A
 * question of the core like any other, answered into memory of who asks and bounded: what is beyond its lists is only counted. */
#ifndef SL_PIPELINE_DECIDE_VIEW_H
#define SL_PIPELINE_DECIDE_VIEW_H

#include "pipeline/decide/core.h"

enum { SL_VIEW_ENTRIES = 256, SL_VIEW_TENANTS = 64 };

struct sl_view_entry { /* a stay whose prompt is not wholly in the log */
    uint64_t seq;      /* of the request */
    char id[SL_MAX_REQUEST_ID], tenant[SL_MAX_TENANT];
    int32_t priority;
    uint32_t prompt_tokens, start, pos; /* start of them needed no work, up to pos they are in the log */
    uint32_t pages;                     /* of every stage, that its prefill needs */
    uint32_t shared_pages;              /* of every stage, behind which it will begin */
    bool admitted;                      /* it has them */
    bool again;                         /* it was set back */
    bool late;                          /* it can't come in time any more, and stands behind those that can */
    bool outside;         /* its tenant is ahead of others, and it stands behind all of theirs */
    uint64_t deadline_us; /* that was asked for; 0: none */
    uint64_t due_us;      /* by which it is ordered */
    double key_us;        /* due + 3 · work, smallest first; NaN: it is ordered by arrival */
    double work_us;       /* that is left of its prefill, on the slowest stage */
    uint64_t predicted_begin_us, predicted_end_us; /* of that, if nobody else comes */
};

struct sl_view_tenant { /* that has an entry */
    char tenant[SL_MAX_TENANT];
    double weight;
    double used_us; /* its counter: work that was cut for it, by its weight */
    uint32_t n_entries;
    uint64_t uncut_tokens;
};

struct sl_core_view {
    uint64_t now_us;
    enum sl_schedule_kind schedule;
    uint64_t budget_us;      /* what a chunk may take on the slowest stage (T*); 0: it is cut by tokens */
    uint32_t runs, max_runs; /* RUN records in flight, and how many may be (R) */
    /* pages_used: with those of prefixes in use; decode_pages_used: of all decode workers; n_pages: of one pool */
    uint32_t pages_used, decode_pages_used, n_pages;
    uint32_t pages_cached; /* on the stages, in use or not */
    uint32_t n_decoders;   /* places of decode workers; of those that are here: */
    struct sl_decoder_load decoders[SL_MAX_DECODERS];
    uint32_t n_entries, n_entries_all; /* in the order of the next chunk */
    struct sl_view_entry entries[SL_VIEW_ENTRIES];
    uint32_t n_tenants;
    bool more_tenants; /* than are shown */
    struct sl_view_tenant tenants[SL_VIEW_TENANTS];
};

void sl_core_view(const struct sl_core *core, uint64_t now_us, struct sl_core_view *view);

#endif
