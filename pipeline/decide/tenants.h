/* Who shares the pipeline: each tenant has a counter of the work that was cut for it, divided by its weight, and whoever is ahead
 * of the one that got least by more than a chunk stands behind all others. A tenant that has nothing to cut earns no credit: when
 * it comes back, its counter is at least that of the least of those that have. Pure; a table in the core's arena. */
#ifndef SL_PIPELINE_DECIDE_TENANTS_H
#define SL_PIPELINE_DECIDE_TENANTS_H

#include "base/arena.h"
#include "pipeline/decide/offered.h"
#include <stdbool.h>
#include <stdint.h>

enum { SL_MAX_TENANT = 64 /* bytes of a name, its NUL included */, SL_MAX_WEIGHTS = 64 };

struct sl_tenant_weight { /* of those that are configured; all others weigh 1 */
    char tenant[SL_MAX_TENANT];
    double weight; /* more than 0 */
};

struct sl_tenant {
    char name[SL_MAX_TENANT];
    uint64_t hash;          /* of the name */
    double weight, used_us; /* work that was cut, by weight */
    uint32_t n_live;        /* requests; 0: it may be forgotten */
    uint32_t n_uncut;       /* with something to cut */
    double uncut_us;        /* what that is, as it was when it came */
    struct sl_offered offered;
};

struct sl_tenants {
    struct sl_tenant *of; /* [room]; those below n are known */
    uint32_t n, room, n_backlogged;
    double floor_us; /* used by whoever was the last to have work: where all begin when there is none */
    uint32_t n_weights;
    struct sl_tenant_weight weights[SL_MAX_WEIGHTS];
};

size_t sl_tenants_bytes(uint32_t max_live);
/* max_live: requests at once, as many as there can be tenants among them. */
sl_status sl_tenants_init(struct sl_tenants *t, struct sl_arena *arena, uint32_t max_live,
                          const struct sl_tenant_weight *weights, uint32_t n_weights);
uint32_t sl_tenants_find(const struct sl_tenants *t,
                         const char *name); /* UINT32_MAX: not known, so it has nothing here */
double sl_tenants_weight(const struct sl_tenants *t, const char *name);
/* A request of it lives; whose work was forgotten begins anew. Returns its place, which holds until it leaves. */
uint32_t sl_tenants_enter(struct sl_tenants *t, const char *name);
void sl_tenants_leave(struct sl_tenants *t, uint32_t tenant);
/* Work to cut has come, or there is none of that request any more. */
void sl_tenants_backlog(struct sl_tenants *t, uint32_t tenant, double work_us);
void sl_tenants_done(struct sl_tenants *t, uint32_t tenant, double work_us);
void sl_tenants_charge(struct sl_tenants *t, uint32_t tenant, double us);
double sl_tenants_least_us(const struct sl_tenants *t); /* used by the least of those that have work to cut */
/* Weights of those that have work to cut, `also` counted whether it has or not. */
double sl_tenants_active_weight(const struct sl_tenants *t, uint32_t also);

#endif
