/* Handshakes of TLS at the door. A handshake costs this machine a millisecond and a stranger next to nothing, so it is the one
 * thing at the door that is paid for by time: SL_DOOR_SHAKE_PERCENT of the thread's, a few at a turn. Who shakes hands is in a set
 * of epoll of its own, which is an entry of the door's set: when the time is spent the one entry is taken out, and whoever has
 * called is served as if nobody knocked.
 *
 * What a handshake holds in memory is made when its first bytes are here, for SL_DOOR_HANDSHAKES at once; for one more the oldest
 * goes, if it had a second, else the newcomer waits in the kernel, where it costs nothing. */
#include "base/clock.h"
#include "node/rpc/door_impl.h"
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { SHAKES = 8 /* in a turn */, SAVED_NS = 50 * 1000 * 1000 /* the most that is saved up */ };

sl_status sl_door_shakers_open(struct sl_door *door, struct sl_err *err)
{
    SL_TRY(sl_tls_open(&door->tls, door->config.tls, err));
    door->shake_ns = SAVED_NS;
    door->shake_at_ns = sl_clock_ns();
    door->shaking = epoll_create1(EPOLL_CLOEXEC);
    if (door->shaking < 0 ||
        !sl_door_watch(door->poll, door->shaking, EPOLLIN,
                       sl_door_data(SL_DOOR_WAKE, NULL, SL_DOOR_WAKE_SHAKERS), EPOLL_CTL_ADD))
        return sl_fail(err, SL_E_UNAVAILABLE, "cannot wait for handshakes on %s: %s", door->config.listen,
                       strerror(errno));
    return SL_OK;
}

void sl_door_shakers_close(struct sl_door *door)
{
    if (door->shaking >= 0)
        close(door->shaking);
    sl_tls_close(door->tls);
}

bool sl_door_shaker_add(struct sl_door *door, struct sl_door_connection *c)
{
    return sl_door_watch(door->shaking, c->fd, EPOLLIN, sl_door_data(SL_DOOR_CLIENT, c, 0), EPOLL_CTL_ADD);
}

/* Its descriptor leaves the set when it is closed; what must be undone here is its place among the begun. */
void sl_door_shaker_drop(struct sl_door *door, struct sl_door_connection *c)
{
    if (!c->shaking_ms)
        return;
    sl_door_end_shaking(door, c);
    c->shaking_ms = 0;
}

static void set_tired(struct sl_door *door, bool tired)
{
    if (door->tired != tired)
        sl_door_watch(door->poll, door->shaking, tired ? 0u : (uint32_t)EPOLLIN,
                      sl_door_data(SL_DOOR_WAKE, NULL, SL_DOOR_WAKE_SHAKERS), EPOLL_CTL_MOD);
    door->tired = tired;
}

void sl_door_shakers_rest(struct sl_door *door)
{
    uint64_t now = sl_clock_ns();
    door->shake_ns += (int64_t)((now - door->shake_at_ns) * SL_DOOR_SHAKE_PERCENT / 100);
    door->shake_ns = door->shake_ns > SAVED_NS ? SAVED_NS : door->shake_ns;
    door->shake_at_ns = now;
    if (door->tired && door->shake_ns > 0)
        set_tired(door, false);
}

static bool begin(struct sl_door *door, struct sl_door_connection *c)
{
    struct sl_door_connection *oldest = door->begun.first;
    if (door->begun.n >= SL_DOOR_HANDSHAKES && door->now_ms - oldest->shaking_ms < SL_DOOR_GRACE_MS)
        return false;
    if (door->begun.n >= SL_DOOR_HANDSHAKES)
        sl_door_kill(door, oldest, SL_DOOR_SILENT);
    c->tls = sl_tls_begin(door->tls, c->fd);
    if (c->tls)
        sl_door_begin_shaking(door, c);
    else
        sl_door_kill(door, c, SL_FRAMES_NO_MEMORY);
    return true;
}

/* It is known now, and one of those that the door serves. */
static void welcome(struct sl_door *door, struct sl_door_connection *c)
{
    int64_t left_s;
    sl_door_shaker_drop(door, c);
    sl_tls_who(c->tls, &c->caller, &left_s, &c->era);
    c->expires_ms = left_s < 0 ? 0 : door->now_ms + (uint64_t)left_s * 1000 + 1;
    c->state = SL_DOOR_STRANGER;
    c->client_events = EPOLLIN;
    door->n_shakes_done++;
    epoll_ctl(door->shaking, EPOLL_CTL_DEL, c->fd, NULL);
    if (!sl_door_watch(door->poll, c->fd, EPOLLIN, sl_door_data(SL_DOOR_CLIENT, c, 0), EPOLL_CTL_ADD))
        sl_door_kill(door, c, 0);
}

static void go_on(struct sl_door *door, struct sl_door_connection *c)
{
    enum sl_tls_step step = sl_tls_shake(c->tls);
    uint32_t wanted = step == SL_TLS_WRITES ? (uint32_t)EPOLLOUT : (uint32_t)EPOLLIN;
    switch (step) {
    case SL_TLS_DONE:
        welcome(door, c);
        break;
    case SL_TLS_READS:
    case SL_TLS_WRITES:
        if (wanted != c->client_events)
            sl_door_watch(door->shaking, c->fd, wanted, sl_door_data(SL_DOOR_CLIENT, c, 0), EPOLL_CTL_MOD);
        c->client_events = wanted;
        break;
    case SL_TLS_FAILED:
        sl_door_log(door, c->fd, sl_tls_why(c->tls));
        sl_door_kill(door, c, SL_DOOR_HANDSHAKE);
        break;
    }
}

void sl_door_shake_hands(struct sl_door *door)
{
    struct epoll_event events[SHAKES];
    int n = epoll_wait(door->shaking, events, SHAKES, 0);
    for (int i = 0; i < n && door->shake_ns > 0; i++) {
        struct sl_door_connection *c = sl_door_named(door, events[i].data.u64);
        uint64_t since = sl_clock_ns();
        bool can = c && (c->tls || begin(door, c));
        if (can && c->state == SL_DOOR_SHAKING)
            go_on(door, c);
        door->shake_ns -= (int64_t)(sl_clock_ns() - since);
        if (c && !can)
            door->shake_ns = 0; /* there is no place for it: not at once again */
    }
    if (door->shake_ns <= 0)
        set_tired(door, true);
}
