/* Who follows what the prefix cache holds: the events are the decider's (pipeline/decide/prefix.h) and are read on the coordinator's
 * thread, a handful at a time into a place of the follower's, which is its reader's until it has taken them. So nobody waits for a
 * slow one, and one that falls behind what the decider keeps is told the state again. */
#include "node/coordinator/coordinator_impl.h"
#include <stdlib.h>

struct sl_follower {
    struct sl_coordinator *coordinator;
    struct sl_follower *next;
    struct sl_prefix_reader reader;
    uint64_t start;
    void (*on_events)(void *user);
    void (*on_gone)(void *user);
    void *user;
    struct sl_post follow, more, unfollow; /* each is posted once at a time */
    uint32_t n_events;
    struct sl_kv_event events[SL_FOLLOWER_EVENTS];
    _Atomic enum { EMPTY, FULL, TAKEN } state; /* FULL: the events are its reader's, else the coordinator's */
};

/* Numbers of another life of this node are smaller than any of ours, or larger than those that were used. */
static uint64_t first_number(const struct sl_coordinator *c)
{
    return c->started_wall_us;
}

/* ---- on the coordinator's thread ---- */

static void fill(struct sl_coordinator *c, struct sl_follower *f)
{
    if (atomic_load(&f->state) != EMPTY)
        return;
    for (f->n_events = 0; f->n_events < SL_FOLLOWER_EVENTS; f->n_events++) {
        struct sl_kv_event *e = &f->events[f->n_events];
        if (!sl_core_prefix_event(c->core, &f->reader, &e->event))
            break;
        e->number = first_number(c) + f->reader.number;
        e->at_s = (double)(c->started_wall_us + sl_coordinator_now_us() - c->started_us) * 1e-6;
    }
    if (f->n_events == 0)
        return;
    atomic_store(&f->state, FULL);
    f->on_events(f->user);
}

static void begin(struct sl_coordinator *c, struct sl_follower *f)
{
    uint64_t first = first_number(c);
    /* it wants event `start` next, so it knows the one before */
    sl_core_prefix_events_from(c->core, &f->reader, f->start > first ? f->start - 1 - first : UINT64_MAX);
    f->next = c->followers;
    c->followers = f;
}

void sl_followers_on_post(struct sl_coordinator *c, struct sl_post *post)
{
    struct sl_follower *f = post->user, **at = &c->followers;
    if (post->kind == SL_POST_FOLLOW)
        begin(c, f);
    if (post->kind == SL_POST_MORE)
        atomic_store(&f->state, EMPTY);
    if (post->kind != SL_POST_UNFOLLOW) {
        fill(c, f);
        return;
    }
    while (*at != f)
        at = &(*at)->next;
    *at = f->next;
    f->on_gone(f->user);
    free(f);
}

void sl_followers_look(struct sl_coordinator *c)
{
    for (struct sl_follower *f = c->followers; f; f = f->next)
        fill(c, f);
}

/* ---- on the follower's ---- */

struct sl_follower *sl_coordinator_follow(struct sl_coordinator *c, uint64_t start, void (*on_events)(void *),
                                          void (*on_gone)(void *), void *user)
{
    struct sl_follower *f = calloc(1, sizeof *f);
    if (!f)
        return NULL;
    f->coordinator = c;
    f->start = start;
    f->on_events = on_events;
    f->on_gone = on_gone;
    f->user = user;
    f->follow = (struct sl_post){.kind = SL_POST_FOLLOW, .user = f, .stays = true};
    f->more = (struct sl_post){.kind = SL_POST_MORE, .user = f, .stays = true};
    f->unfollow = (struct sl_post){.kind = SL_POST_UNFOLLOW, .user = f, .stays = true};
    sl_mailbox_post(c, &f->follow);
    return f;
}

uint32_t sl_follower_events(struct sl_follower *f, const struct sl_kv_event **events)
{
    *events = f->events;
    return atomic_load(&f->state) == FULL ? f->n_events : 0;
}

void sl_follower_taken(struct sl_follower *f)
{
    atomic_store(&f->state, TAKEN);
    sl_mailbox_post(f->coordinator, &f->more);
}

void sl_follower_end(struct sl_follower *f)
{
    sl_mailbox_post(f->coordinator, &f->unfollow);
}
