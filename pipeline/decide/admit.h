/* Whether a request can have its first token when it is wanted, said at once. Pure.
 *
 * The prediction is the request's own under the order of rank.h: what is under way has to leave the first stage, those that come
 * before it are cut, then itself, then its last chunk passes the other stages. What those will take
 * who are still to come and pass it is reserved (offered.h). A request that would be late is refused with a time to try again, and so is one that would make others late who
 * were told that they will not be; but nobody is blamed for a promise that is lost already, and what a tenant can finish within
 * its own share is taken whatever others have queued. Who wants nothing by a time is not refused by a prediction: it is only
 * ordered, and bounded by what the queue may hold. If all want something and all are refused, nothing would correct the predictions any more:
 * so now and then one that would be in time if they were wrong is taken by an idle pipeline. */
#ifndef SL_PIPELINE_DECIDE_ADMIT_H
#define SL_PIPELINE_DECIDE_ADMIT_H

#include "pipeline/decide/life.h"
#include "pipeline/decide/rank.h"

enum { SL_SHORT_TOKENS = 1024 /* to be prefilled: who has no more is short */ };

struct sl_outlook {           /* what is known beside the queue; microseconds from now */
    double first_us, last_us; /* until what is under way leaves the first stage, and the last */
    double room_us;           /* until there are pages and a place for it */
    double corrected;         /* by which factor predictions of its class were wrong lately */
    bool stale;               /* nothing is under way, and for long nothing was measured: */
    double at_best_us; /* then what it takes if stages are as they were when they measured themselves */
    struct sl_newcomers newcomers, own; /* all who are still to come; those of its tenant */
};

struct sl_queue_bounds { /* of what waits; work in microseconds of the slowest stage */
    double work_us;
    uint64_t tokens;
    uint32_t count;
};

struct sl_admission {
    double predicted_us, told_us; /* its time to first token; told_us: as it was wrong lately */
    enum sl_refusal refusal;
    double excess_us;    /* how much too late it or another would be: > 0 when refused */
    const char *refused; /* a sentence (static); NULL: it is admitted */
    bool trial;          /* to see whether it is late */
};

/* entry is made and has its tenant, but is not in the schedule. */
void sl_admit(struct sl_admission *admission, struct sl_policy *policy, struct sl_schedule *schedule,
              const struct sl_outlook *outlook, struct sl_schedule_entry *entry, uint64_t now_us);
/* Whether it would break a bound of the queue; while others wait, each tenant has its share of them. */
void sl_admit_queue(struct sl_admission *admission, const struct sl_policy *policy,
                    const struct sl_schedule *schedule, const struct sl_queue_bounds *bounds,
                    const struct sl_schedule_entry *entry, double work_us);
/* When to try again: what it was too late by, and some, so that not all come back at once. draw: any number. */
uint32_t sl_admit_retry_ms(const struct sl_admission *admission, const struct sl_outlook *outlook,
                           uint64_t draw);

#endif
