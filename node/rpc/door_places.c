/* Who has a place when there are not enough (door_impl.h): by age, not by number.
 *
 * A connection that has never called does nobody any good, and an idle flood is made of such. So when all places are taken the
 * oldest of them goes; then, of those that have no call open, the one that has had none for longest (its client connects again
 * when it needs to); and a newcomer is refused only if each has just come or called. One address may have more than a quarter of the
 * places in this way only while no other asks: then its oldest go first, without grace, and its own newcomers displace nobody
 * else's. Addresses are counted in buckets by a hash with a random part (two that share one share a quarter, and nobody can
 * choose with whom); of IPv6 it is the /64, which is one customer's. */
#include "base/rng.h"
#include "node/rpc/door_impl.h"
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

enum { BARREN_MS = 100 }; /* a storm does not make us look at all connections for each newcomer */

/* ---- those that have never called, in the order in which they came ---- */

enum door_queue { OF_ALL, OF_PEER, OF_SHAKING };

static struct sl_door_neighbours *beside(struct sl_door_connection *c, enum door_queue which)
{
    return which == OF_PEER ? &c->of_peer : which == OF_SHAKING ? &c->of_shaking : &c->of_all;
}

static void append(struct sl_door_quiet *queue, struct sl_door_connection *c, enum door_queue which)
{
    *beside(c, which) = (struct sl_door_neighbours){queue->last, NULL};
    if (queue->last)
        beside(queue->last, which)->after = c;
    else
        queue->first = c;
    queue->last = c;
    queue->n++;
}

static void take_out(struct sl_door_quiet *queue, struct sl_door_connection *c, enum door_queue which)
{
    struct sl_door_neighbours at = *beside(c, which);
    if (at.before)
        beside(at.before, which)->after = at.after;
    else
        queue->first = at.after;
    if (at.after)
        beside(at.after, which)->before = at.before;
    else
        queue->last = at.before;
    queue->n--;
}

void sl_door_be_quiet(struct sl_door *door, struct sl_door_connection *c)
{
    c->quiet = true;
    append(&door->quiet, c, OF_ALL);
    append(&door->quiet_of[c->peer], c, OF_PEER);
}

void sl_door_be_heard(struct sl_door *door, struct sl_door_connection *c)
{
    if (!c->quiet)
        return;
    c->quiet = false;
    take_out(&door->quiet, c, OF_ALL);
    take_out(&door->quiet_of[c->peer], c, OF_PEER);
}

void sl_door_begin_shaking(struct sl_door *door, struct sl_door_connection *c)
{
    c->shaking_ms = door->now_ms;
    append(&door->begun, c, OF_SHAKING);
}

void sl_door_end_shaking(struct sl_door *door, struct sl_door_connection *c)
{
    take_out(&door->begun, c, OF_SHAKING);
}

uint32_t sl_door_peer_of(const struct sl_door *door, int fd)
{
    struct sockaddr_storage name;
    socklen_t bytes = sizeof name;
    const struct sockaddr_in *in = (const void *)&name;
    const struct sockaddr_in6 *in6 = (const void *)&name;
    uint64_t key = 0;
    if (getpeername(fd, (struct sockaddr *)&name, &bytes) != 0)
        return 0;
    if (name.ss_family == AF_INET)
        key = in->sin_addr.s_addr;
    else if (name.ss_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr))
        memcpy(&key, in6->sin6_addr.s6_addr + 12, 4);
    else if (name.ss_family == AF_INET6)
        memcpy(&key, in6->sin6_addr.s6_addr, 8);
    return (uint32_t)(sl_rng_at(door->peer_seed, key) % SL_DOOR_PEERS);
}

/* ---- who goes ---- */

bool sl_door_is_idle(const struct sl_door_connection *c)
{
    return c->frames.n_streams == 0 && !c->frames.header_stream && !c->up.bytes && !c->down.bytes &&
           !c->frames.down.have && !c->frames.down.left;
}

bool sl_door_is_full(const struct sl_door *door)
{
    return door->n >= door->most || door->n + 1 + 2 * door->n_live > door->total;
}

static struct sl_door_connection *oldest(const struct sl_door *door, const struct sl_door_quiet *queue,
                                         uint64_t grace_ms)
{
    struct sl_door_connection *c = queue->first;
    return c && door->now_ms - c->since_ms >= grace_ms ? c : NULL;
}

/* Of those that have called; asked only when there is no other, for it looks at all. */
static struct sl_door_connection *idlest(const struct sl_door *door)
{
    struct sl_door_connection *best = NULL;
    for (uint32_t i = 0; i < door->top; i++) {
        struct sl_door_connection *c = door->connections[i];
        if (c && c->core >= 0 && sl_door_is_idle(c) && door->now_ms - c->active_ms >= SL_DOOR_UNUSED_MS &&
            (!best || c->active_ms < best->active_ms))
            best = c;
    }
    return best;
}

bool sl_door_has_place(const struct sl_door *door)
{
    bool can_call = 3 * (door->n_live + 1) <= door->total; /* be it the only one beside those that have */
    return (can_call && (!sl_door_is_full(door) || oldest(door, &door->quiet, SL_DOOR_GRACE_MS))) ||
           idlest(door);
}

static const struct sl_door_quiet *most_of_all(const struct sl_door *door)
{
    const struct sl_door_quiet *most = door->quiet_of;
    for (uint32_t i = 1; i < SL_DOOR_PEERS; i++)
        if (door->quiet_of[i].n > most->n)
            most = &door->quiet_of[i];
    return most;
}

struct sl_door_connection *sl_door_who_goes_for(struct sl_door *door, uint32_t peer)
{
    uint32_t quarter = door->most / 4;
    if (peer != SL_DOOR_CALLS && door->quiet_of[peer].n >= quarter)
        return oldest(door, &door->quiet_of[peer], SL_DOOR_GRACE_MS);
    const struct sl_door_quiet *most = most_of_all(door);
    if (most->n > quarter)
        return most->first;
    struct sl_door_connection *c = oldest(door, &door->quiet, SL_DOOR_GRACE_MS);
    if (c || door->now_ms < door->barren_until_ms)
        return c;
    c = idlest(door);
    if (!c)
        door->barren_until_ms = door->now_ms + BARREN_MS;
    return c;
}

/* ---- unfinished messages ---- */

/* For how long its messages have been silent, added up: an honest one is whole in a moment or keeps coming, however many a
 * gateway begins at once; a flood has many of them or lets them lie. Who waits for room must not send. */
static uint64_t burden(const struct sl_door *door, const struct sl_door_connection *c)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; c->unfinished && i < c->frames.n_streams; i++) {
        const struct sl_frames_stream *stream = &c->frames.streams[i];
        if (!stream->whole && !stream->many)
            sum += 1 + (stream->waiting ? 0 : door->now_ms - stream->data_ms);
    }
    return sum;
}

struct sl_door_connection *sl_door_worst(const struct sl_door *door)
{
    struct sl_door_connection *worst = NULL;
    uint64_t most = 0;
    for (uint32_t i = 0; i < door->top; i++) {
        struct sl_door_connection *c = door->connections[i];
        uint64_t sum = c ? burden(door, c) : 0;
        if (sum > most || (worst && sum && sum == most && c->unfinished_ms < worst->unfinished_ms)) {
            worst = c;
            most = sum;
        }
    }
    return worst;
}
