/* The worker team of a stage: n threads (the caller is member 0) that run one function together and meet at
 * its end. No lock on the chunk path: an epoch counter released by the caller, a countdown by the members;
 * members spin about 50 us, then sleep on a futex, so an idle stage costs nothing. */
#ifndef SL_KERNELS_TEAM_H
#define SL_KERNELS_TEAM_H

#include "base/status.h"
#include "kernels/parts.h"
#include <stdint.h>

struct sl_team;
enum { SL_TEAM_MAX = 1024 }; /* members */

/* member: 0..n-1. scratch: scratch_bytes, 64-byte aligned, private to the member. */
typedef void sl_team_fn(void *arg, uint32_t member, uint32_t n_members, void *scratch);

sl_status sl_team_create(struct sl_team **team, uint32_t n_threads, size_t scratch_bytes, struct sl_err *err);
void sl_team_destroy(struct sl_team *team); /* joins; NULL is fine */
uint32_t sl_team_size(const struct sl_team *team);

/* Runs fn on every member and returns when all are done. Only from the creating thread. */
void sl_team_run(struct sl_team *team, sl_team_fn *fn, void *arg);

/* Inside a run: a shared counter for dynamic tasks, reset by sl_team_run. Returns 0, 1, 2, ... once each. */
uint32_t sl_team_next(struct sl_team *team);

/* The member's own account of time and work: added to by the member inside a run, read by the creating thread
 * between runs. It only grows. */
struct sl_parts *sl_team_parts(struct sl_team *team, uint32_t member);
/* The sum over members. Between runs, creating thread. */
void sl_team_parts_sum(struct sl_team *team, struct sl_parts *sum);

#endif
