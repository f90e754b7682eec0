/* Who is next, by predicted time, and what goes into the next chunk. Pure.
 *
 * A request is due when its holder wants its first token, or by a target of its own. Among those that can still make it the
 * smallest due + 3 · work comes first: by deadline alone, long prompts that are near theirs hold up everybody, by work alone they
 * wait for ever. Who was promised its time and can't make it any more stands behind, since that time is better spent on others; whose
 * target nobody named stands as if it had come now, or short prompts that are late would wait for all of a long one. The oldest of both
 * is at the head of every tenth chunk. Tenants that are ahead of others (tenants.h) stand behind all, there as well. Nothing in the log is overtaken:
 * the order is looked at anew for every chunk, and a long prompt goes on when it is its turn again.
 *
 * The head decides what the chunk may take (budget.h), if a page of the deepest prompt that was begun does not take more: then chunks
 * of so long there are anyway; others fill what it leaves, as much of each as fits. Who holds no pages gets
 * all that its prefill needs when its first slice is cut, or none; one that has waited for more than half of its time lets nobody
 * behind it begin before. */
#ifndef SL_PIPELINE_DECIDE_RANK_H
#define SL_PIPELINE_DECIDE_RANK_H

#include "pipeline/decide/budget.h"
#include "pipeline/decide/schedule.h"
#include "pipeline/decide/tenants.h"

enum { SL_RANK_LOOK = 40 /* the first of the order, among whom a chunk finds its slices */ };

/* An entry of which nothing was cut is next to be looked at for a chunk: it may turn out to begin later than was known. */
typedef void sl_look_fn(void *user, struct sl_schedule_entry *entry);

struct sl_policy {
    sl_look_fn *look; /* NULL: none */
    void *look_user;
    struct sl_budget budget;
    uint32_t version; /* of it: work that was predicted by another one is predicted anew */
    struct sl_tenants tenants;
    double short_share;   /* of the pipeline's time that went for short prompts in the last minute */
    uint32_t late_tenths; /* of a chunk whose head is the oldest late one: credit */
};

struct sl_ranked { /* smallest first: by behind, then by key, then by arrival */
    struct sl_schedule_entry *entry;
    uint32_t
        behind; /* 0: in its order; 1: late for its promise; 2, 3: likewise, of a tenant that is ahead of others */
    double key_us; /* sl_rank_place_us */
};

/* A budget that differs so much from the former one that cached work must be predicted anew. */
void sl_policy_set(struct sl_policy *policy, const struct sl_budget *budget);
/* How many times as large as usual a chunk of a prompt may be that is alone. */
double sl_policy_alone_times(const struct sl_policy *policy);
/* An entry with its tenant and its times comes into the queue, or leaves it; `again`: where it once was. */
void sl_policy_enter(struct sl_policy *policy, struct sl_schedule *schedule, struct sl_schedule_entry *entry,
                     bool again);
void sl_policy_leave(struct sl_policy *policy, struct sl_schedule *schedule, struct sl_schedule_entry *entry);
/* What is left to prefill of it, in microseconds of the slowest stage. */
double sl_rank_work_us(const struct sl_policy *policy, struct sl_schedule_entry *entry);
/* It can't make it any more, whoever else is there. */
bool sl_rank_is_late(const struct sl_policy *policy, struct sl_schedule_entry *entry, uint64_t now_us);
double sl_rank_key_us(const struct sl_policy *policy, struct sl_schedule_entry *entry);
/* The schedule's list of keys is in their order then. */
void sl_rank_sort(const struct sl_policy *policy, struct sl_schedule *schedule);
/* By what it stands in the order now: its key; of who is late, its arrival if it was promised, else the key that it would have if it
 * came now. */
double sl_rank_place_us(const struct sl_policy *policy, struct sl_schedule_entry *entry, bool late,
                        uint64_t now_us);
/* The first `room` of the order, with the oldest late one at its head when `late_first` and there is one. Returns how many;
 * *any_late: whether any of all is. */
uint32_t sl_rank_order(const struct sl_policy *policy, const struct sl_schedule *schedule, uint64_t now_us,
                       bool late_first, struct sl_ranked *order, uint32_t room, bool *any_late);

/* entry, which is not admitted, gets all that its prefill needs (sl_schedule_admit), or nothing: false. */
typedef bool sl_begin_fn(void *user, struct sl_schedule_entry *entry);
/* The next chunk; returns the number of its slices, 0: nothing can be cut. */
uint32_t sl_rank_cut(struct sl_policy *policy, struct sl_schedule *schedule, uint64_t now_us,
                     sl_begin_fn *begin, void *user, struct sl_cut cuts[SL_MAX_SLICES]);

#endif
