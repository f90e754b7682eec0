/* The table of tenants.h. Names are found by their hash; who has no request is remembered while there is room, because a tenant
 * that sends one request after the other would else be new each time, and get more than its share. */
#include "pipeline/decide/tenants.h"
#include "base/digest.h"
#include <assert.h>
#include <string.h>

enum { REMEMBERED = 256 /* beside those that live */ };

size_t sl_tenants_bytes(uint32_t max_live)
{
    return sl_arena_round(((size_t)max_live + REMEMBERED) * sizeof(struct sl_tenant));
}

sl_status sl_tenants_init(struct sl_tenants *t, struct sl_arena *arena, uint32_t max_live,
                          const struct sl_tenant_weight *weights, uint32_t n_weights)
{
    *t = (struct sl_tenants){.room = max_live + REMEMBERED, .n_weights = n_weights};
    assert(n_weights <= SL_MAX_WEIGHTS);
    if (n_weights > 0)
        memcpy(t->weights, weights, n_weights * sizeof *weights);
    t->of = sl_arena_take(arena, t->room * sizeof *t->of);
    return t->of ? SL_OK : SL_E_NOMEM;
}

uint32_t sl_tenants_find(const struct sl_tenants *t, const char *name)
{
    uint64_t hash = sl_xxh3(name, strlen(name));
    for (uint32_t i = 0; i < t->n; i++)
        if (t->of[i].hash == hash && strcmp(t->of[i].name, name) == 0)
            return i;
    return UINT32_MAX;
}

double sl_tenants_weight(const struct sl_tenants *t, const char *name)
{
    for (uint32_t i = 0; i < t->n_weights; i++)
        if (strcmp(t->weights[i].tenant, name) == 0)
            return t->weights[i].weight;
    return 1;
}

/* Whoever of those without a request used least: the others have more to be reminded of. */
static uint32_t place_for(struct sl_tenants *t)
{
    uint32_t least = UINT32_MAX;
    if (t->n < t->room)
        return t->n++;
    for (uint32_t i = 0; i < t->n; i++)
        if (t->of[i].n_live == 0 && (least == UINT32_MAX || t->of[i].used_us < t->of[least].used_us))
            least = i;
    assert(least != UINT32_MAX); /* there is room for more than live */
    return least;
}

uint32_t sl_tenants_enter(struct sl_tenants *t, const char *name)
{
    uint32_t i = sl_tenants_find(t, name);
    if (i == UINT32_MAX) {
        i = place_for(t);
        t->of[i] =
            (struct sl_tenant){.hash = sl_xxh3(name, strlen(name)), .weight = sl_tenants_weight(t, name)};
        memcpy(t->of[i].name, name, strlen(name) + 1);
    }
    t->of[i].n_live++;
    return i;
}

void sl_tenants_leave(struct sl_tenants *t, uint32_t tenant)
{
    assert(t->of[tenant].n_live > 0);
    t->of[tenant].n_live--;
}

double sl_tenants_least_us(const struct sl_tenants *t)
{
    double least = -1;
    for (uint32_t i = 0; t->n_backlogged > 0 && i < t->n; i++)
        if (t->of[i].n_uncut > 0 && (least < 0 || t->of[i].used_us < least))
            least = t->of[i].used_us;
    return least < 0 ? t->floor_us : least;
}

void sl_tenants_backlog(struct sl_tenants *t, uint32_t tenant, double work_us)
{
    struct sl_tenant *of = &t->of[tenant];
    if (of->n_uncut == 0) {
        double least = sl_tenants_least_us(t);
        of->used_us = of->used_us > least ? of->used_us : least;
        of->uncut_us = 0;
        t->n_backlogged++;
    }
    of->n_uncut++;
    of->uncut_us += work_us;
}

void sl_tenants_done(struct sl_tenants *t, uint32_t tenant, double work_us)
{
    struct sl_tenant *of = &t->of[tenant];
    assert(of->n_uncut > 0);
    of->uncut_us -= work_us;
    if (--of->n_uncut > 0)
        return;
    t->n_backlogged--;
    if (of->used_us > t->floor_us)
        t->floor_us = of->used_us;
}

void sl_tenants_charge(struct sl_tenants *t, uint32_t tenant, double us)
{
    t->of[tenant].used_us += us / t->of[tenant].weight;
}

double sl_tenants_active_weight(const struct sl_tenants *t, uint32_t also)
{
    double sum = 0;
    for (uint32_t i = 0; i < t->n; i++)
        if (t->of[i].n_uncut > 0 || i == also)
            sum += t->of[i].weight;
    return sum;
}
