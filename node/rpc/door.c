/* See door.h. Connections and their bytes: one thread in epoll(7), level-triggered, a bounded piece of each in turn. */
#include "node/rpc/door.h"
#include "base/clock.h"
#include "base/digest.h"
#include "base/log.h"
#include "node/rpc/door_impl.h"
#include <dirent.h>
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    TICK_MS = 500,
    EVENTS = 256,
    PIECES = 4,       /* of SL_FRAMES_IN_BYTES that one connection gets in a turn */
    ACCEPTS = 64,     /* likewise of the listener */
    REST_MS = 100,    /* without descriptors: not at once again */
    TIRED_MS = 20,    /* of handshakes, likewise */
    STOP_MS = 1000,   /* for the last bytes at the end */
    LOG_MS = 1000,    /* between two lines about connections that were shut */
    LEAST_PLACES = 8, /* fewer are not a service */
    CALM = 11         /* HTTP/2's ENHANCE_YOUR_CALM */
};

const char *const sl_door_whys[SL_DOOR_WHYS] = {
    [SL_DOOR_SILENT] = "silent",       [SL_DOOR_STUCK] = "stuck",         [SL_DOOR_IDLE] = "idle",
    [SL_DOOR_CROWD] = "unfinished",    [SL_DOOR_NO_PLACE] = "no_place",   [SL_DOOR_DRAINING] = "draining",
    [SL_DOOR_DISPLACED] = "displaced", [SL_DOOR_HANDSHAKE] = "handshake", [SL_DOOR_AGED] = "aged",
};

/* What a client is told, in GOAWAY. */
static const char *const sentences[SL_DOOR_WHYS] = {
    [SL_FRAMES_TOO_MANY_STREAMS] = "too many streams are open on this connection",
    [SL_FRAMES_TOO_MANY_RESETS] = "too many streams were reset on this connection",
    [SL_FRAMES_TOO_MANY_CONTROLS] = "too many control frames",
    [SL_FRAMES_TOO_MUCH_HEADER] = "a header block is too long",
    [SL_FRAMES_TOO_SMALL_FRAMES] = "a message comes in too small pieces",
    [SL_FRAMES_NO_MEMORY] = "out of memory",
    [SL_DOOR_IDLE] = "no call for 15 minutes",
    [SL_DOOR_CROWD] = "too many messages are unfinished, and those of this connection weigh most",
    [SL_DOOR_NO_PLACE] = "no descriptor is left for a call on this connection",
    [SL_DOOR_DISPLACED] = "no call is open here, and another connection needs the place",
    [SL_DOOR_DRAINING] = "this node is shutting down",
    [SL_DOOR_AGED] = "certificates were replaced, or yours has expired: connect again",
};

static uint64_t clock_ms(void)
{
    return sl_clock_ns() / 1000000;
}

uint64_t sl_door_data(enum sl_door_kind kind, const struct sl_door_connection *c, uint32_t index)
{
    return (uint64_t)kind << 62 | (uint64_t)(c ? c->generation & 0x3fffffffu : 0) << 32 |
           (c ? c->index : index);
}

struct sl_door_connection *sl_door_named(const struct sl_door *door, uint64_t data)
{
    struct sl_door_connection *c = door->connections[(uint32_t)data];
    return c && (c->generation & 0x3fffffffu) == ((uint32_t)(data >> 32) & 0x3fffffffu) ? c : NULL;
}

bool sl_door_watch(int poll, int fd, uint32_t events, uint64_t data, int op)
{
    struct epoll_event event = {.events = events, .data = {.u64 = data}};
    return epoll_ctl(poll, op, fd, &event) == 0;
}

static bool watch(struct sl_door *door, int fd, uint32_t events, uint64_t data, int op)
{
    return sl_door_watch(door->poll, fd, events, data, op);
}

/* ---- bytes of a client, in the clear or not ---- */

static ssize_t hear(struct sl_door_connection *c, void *into, size_t room)
{
    return c->tls ? sl_tls_read(c->tls, into, room) : recv(c->fd, into, room, 0);
}

static ssize_t say(int fd, struct sl_tls_session *tls, const void *from, size_t bytes)
{
    return tls ? sl_tls_write(tls, from, bytes) : send(fd, from, bytes, MSG_NOSIGNAL);
}

/* ---- how many ---- */

uint32_t sl_door_plan(uint64_t limit, uint64_t used, uint32_t *total)
{
    uint64_t reserve = used + SL_DOOR_RESERVE + limit / 16, most = (uint64_t)SL_DOOR_CONNECTIONS * 3;
    uint64_t left = limit > reserve ? limit - reserve : 0;
    left = left < most ? left : most;
    *total = (uint32_t)left;
    /* Some are live (three descriptors), most are not: with as many connections as this, a quarter of them can be. */
    uint64_t n = left * 2 / 3;
    n = n < SL_DOOR_CONNECTIONS ? n : SL_DOOR_CONNECTIONS;
    return n < LEAST_PLACES ? 0 : (uint32_t)n;
}

static uint64_t open_descriptors(void)
{
    uint64_t n = 0;
    DIR *folder = opendir("/proc/self/fd");
    if (!folder)
        return 64;
    while (readdir(folder))
        n++;
    closedir(folder);
    return n > 3 ? n - 3 : 0; /* ".", ".." and the folder's own */
}

/* ---- the end of a connection ---- */

void sl_door_log(struct sl_door *door, int fd, const char *why)
{
    char peer[SL_PEER_BYTES], more[80] = "";
    if (door->logged_ms && door->now_ms - door->logged_ms < LOG_MS) {
        door->n_unlogged++;
        return;
    }
    sl_listen_peer(fd, peer);
    if (door->n_unlogged)
        snprintf(more, sizeof more, "; %llu more were shut since the last such line",
                 (unsigned long long)door->n_unlogged);
    sl_log_warn("the connection from %s was shut: %s%s", peer, why, more);
    door->logged_ms = door->now_ms;
    door->n_unlogged = 0;
}

/* Whether there is a sentence for it, and it can be read: not within another frame. */
static bool say_goodbye(const struct sl_door_connection *c, unsigned why)
{
    uint8_t frame[128];
    const struct sl_frames *f = &c->frames;
    if (!sentences[why] || !f->settled || c->down.bytes || f->down.have || f->down.left)
        return false;
    bool is_calm =
        why == SL_DOOR_IDLE || why == SL_DOOR_DRAINING || why == SL_DOOR_DISPLACED || why == SL_DOOR_AGED;
    uint32_t code = is_calm ? 0 : CALM;
    size_t n = sl_frames_goaway(frame, sizeof frame, f->last_id, code, sentences[why]);
    if (say(c->fd, c->tls, frame, n) != (ssize_t)n)
        return false;
    if (c->tls)
        sl_tls_bye(c->tls);
    return shutdown(c->fd, SHUT_WR) == 0;
}

/* The core and the calls lose it; its socket stays. */
static void let_go(struct sl_door *door, struct sl_door_connection *c)
{
    struct sl_door_scene scene = {door, c};
    for (uint32_t i = 0; i < c->frames.n_streams; i++)
        sl_door_on_gone(&scene, &c->frames.streams[i]);
    sl_frames_fini(&c->frames);
    if (c->core >= 0) {
        close(c->core);
        door->n_live--;
    }
    c->core = -1;
    c->up.bytes = c->down.bytes = 0;
    c->state = SL_DOOR_LEAVING;
    sl_door_be_heard(door, c);
    sl_door_shaker_drop(door, c);
    sl_door_count_unfinished(door, c);
    sl_door_make_room(door);
}

static void finish(struct sl_door *door, struct sl_door_connection *c)
{
    sl_tls_end(c->tls);
    c->tls = NULL;
    close(c->fd);
    c->fd = -1;
    c->state = SL_DOOR_DEAD;
    door->connections[c->index] = NULL;
    if (c->index < door->first_free)
        door->first_free = c->index;
    door->n--;
    c->next = door->dead;
    door->dead = c;
}

void sl_door_kill(struct sl_door *door, struct sl_door_connection *c, unsigned why)
{
    if (c->state >= SL_DOOR_LEAVING)
        return;
    door->n_closed[why]++;
    if (sentences[why] && why != SL_DOOR_IDLE && why != SL_DOOR_DRAINING && why != SL_DOOR_AGED)
        sl_door_log(door, c->fd, sentences[why]);
    bool stays = say_goodbye(c, why);
    let_go(door, c);
    c->since_ms = door->now_ms;
    if (!stays || !watch(door, c->fd, EPOLLIN, sl_door_data(SL_DOOR_CLIENT, c, 0), EPOLL_CTL_MOD))
        finish(door, c);
}

/* For a newcomer from `peer`, or for a call: its place is wanted at once. */
static bool displace(struct sl_door *door, uint32_t peer)
{
    struct sl_door_connection *c = sl_door_who_goes_for(door, peer);
    if (!c)
        return false;
    sl_door_kill(door, c, SL_DOOR_DISPLACED);
    if (c->state == SL_DOOR_LEAVING)
        finish(door, c);
    return true;
}

static void reap(struct sl_door *door)
{
    while (door->dead) {
        struct sl_door_connection *c = door->dead;
        door->dead = c->next;
        free(c->up.data);
        free(c->down.data);
        free(c);
    }
}

/* ---- writing ---- */

static bool keep_rest(struct sl_door_rest *rest, const uint8_t *data, size_t bytes)
{
    uint8_t *all = malloc(rest->bytes + bytes);
    if (!all)
        return false;
    if (rest->bytes)
        memcpy(all, rest->data + rest->at, rest->bytes);
    memcpy(all + rest->bytes, data, bytes);
    free(rest->data);
    *rest = (struct sl_door_rest){all, 0, rest->bytes + bytes};
    return true;
}

/* What does not go now is kept; its direction is not read meanwhile, so that it stays small. */
static bool put(int fd, struct sl_tls_session *tls, struct sl_door_rest *rest, const uint8_t *data,
                size_t bytes)
{
    while (bytes && !rest->bytes) {
        ssize_t n = say(fd, tls, data, bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EAGAIN && errno != ENOBUFS && errno != ENOMEM)
            return false;
        if (n < 0)
            break;
        data += n, bytes -= (size_t)n;
    }
    return bytes == 0 || keep_rest(rest, data, bytes);
}

static bool put_rest(int fd, struct sl_tls_session *tls, struct sl_door_rest *rest)
{
    while (rest->bytes) {
        ssize_t n = say(fd, tls, rest->data + rest->at, rest->bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN || errno == ENOBUFS || errno == ENOMEM;
        rest->at += (size_t)n, rest->bytes -= (size_t)n;
    }
    free(rest->data);
    rest->data = NULL;
    return true;
}

/* Reads a direction only while its other end takes. */
static void set_interest(struct sl_door *door, struct sl_door_connection *c)
{
    if (c->state >= SL_DOOR_LEAVING)
        return;
    uint32_t client = (c->up.bytes || c->state == SL_DOOR_CLOSING ? 0u : (uint32_t)EPOLLIN) |
                      (c->down.bytes ? (uint32_t)EPOLLOUT : 0u);
    if (client != c->client_events) {
        c->client_events = client;
        watch(door, c->fd, client, sl_door_data(SL_DOOR_CLIENT, c, 0), EPOLL_CTL_MOD);
    }
    if (c->core < 0)
        return;
    uint32_t core = (c->down.bytes || c->state == SL_DOOR_CLOSING ? 0u : (uint32_t)EPOLLIN) |
                    (c->up.bytes ? (uint32_t)EPOLLOUT : 0u);
    if (c->deaf ? !c->down.bytes : core != c->core_events) {
        watch(door, c->core, core, sl_door_data(SL_DOOR_CORE, c, 0), c->deaf ? EPOLL_CTL_ADD : EPOLL_CTL_MOD);
        c->core_events = core;
        c->deaf = false;
    }
}

/* ---- from the client to the core ---- */

/* Its first call: the core gets a socket of its own, and what the client has said so far. */
static unsigned go_live(struct sl_door *door, struct sl_door_connection *c)
{
    int pair[2];
    if (door->draining)
        return SL_DOOR_DRAINING;
    sl_door_be_heard(door, c);
    while (door->n + 2 * (door->n_live + 1) > door->total && displace(door, SL_DOOR_CALLS)) {
    }
    if (door->n + 2 * (door->n_live + 1) > door->total ||
        socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) != 0)
        return SL_DOOR_NO_PLACE;
    c->core = pair[0];
    door->n_live++;
    c->core_events = EPOLLIN;
    if (!watch(door, c->core, EPOLLIN, sl_door_data(SL_DOOR_CORE, c, 0), EPOLL_CTL_ADD)) {
        close(pair[1]);
        return SL_DOOR_NO_PLACE;
    }
    door->config.connected(door->config.context, pair[1]);
    c->mute = !put(c->core, NULL, &c->up, c->hello, SL_FRAMES_PREFACE_BYTES) ||
              !put(c->core, NULL, &c->up, c->frames.replay, c->frames.replay_bytes);
    return 0;
}

/* Too many unfinished messages: whoever has the worst of them goes, be it this one or another. */
static void thin_out(struct sl_door *door)
{
    while (door->n_unfinished > SL_DOOR_UNFINISHED)
        sl_door_kill(door, sl_door_worst(door), SL_DOOR_CROWD);
}

static void feed_up(struct sl_door *door, struct sl_door_connection *c, const uint8_t *in, size_t bytes)
{
    struct sl_frames_out out = {door->out, 0}, answer = {door->answer, 0};
    struct sl_door_scene scene = {door, c};
    const struct sl_frames_events events = {&scene, sl_door_on_known, sl_door_on_gone};
    unsigned why = sl_frames_up(&c->frames, in, bytes, door->now_ms, &events, &out, &answer);
    sl_door_count_unfinished(door, c);
    thin_out(door);
    if (c->state >= SL_DOOR_LEAVING)
        return;
    if (answer.bytes && !put(c->fd, c->tls, &c->down, answer.data, answer.bytes)) {
        sl_door_kill(door, c, 0);
        return;
    }
    if (!why && c->frames.live && c->core < 0)
        why = go_live(door, c);
    if (!why && out.bytes && !c->mute && !put(c->core, NULL, &c->up, out.data, out.bytes))
        c->mute = true;
    if (why)
        sl_door_kill(door, c, why);
}

/* The first bytes, until they are a preface and the head of SETTINGS, or cannot become it. */
static void greet(struct sl_door *door, struct sl_door_connection *c)
{
    ssize_t n = hear(c, c->hello + c->hello_have, sizeof c->hello - c->hello_have);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        sl_door_kill(door, c, 0);
        return;
    }
    c->hello_have = (uint8_t)(c->hello_have + n);
    if (!sl_frames_hello(c->hello, c->hello_have)) {
        sl_door_kill(door, c, SL_FRAMES_GARBAGE);
    } else if (c->hello_have == sizeof c->hello) {
        c->state = SL_DOOR_OPEN;
        feed_up(door, c, c->hello + SL_FRAMES_PREFACE_BYTES, sizeof c->hello - SL_FRAMES_PREFACE_BYTES);
    }
}

/* It has been told to go. Closed with bytes unread, its socket would send a reset that overtakes the sentence. */
static void throw_away(struct sl_door *door, struct sl_door_connection *c)
{
    ssize_t n = recv(c->fd, door->in, SL_FRAMES_IN_BYTES, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    c->thrown += n > 0 ? (uint32_t)n : 0;
    if (n <= 0 || c->thrown > SL_DOOR_LEAVE_BYTES)
        finish(door, c);
}

static void on_client(struct sl_door *door, struct sl_door_connection *c, uint32_t events)
{
    if (c->state == SL_DOOR_LEAVING) {
        throw_away(door, c);
        return;
    }
    if (events & EPOLLOUT) {
        c->moved_ms = door->now_ms;
        if (!put_rest(c->fd, c->tls, &c->down)) {
            sl_door_kill(door, c, 0);
            return;
        }
    }
    if (c->state == SL_DOOR_CLOSING && (!c->down.bytes || events & (EPOLLHUP | EPOLLERR))) {
        sl_door_kill(door, c, 0);
        return;
    }
    bool pends = false; /* within TLS, where epoll does not see it */
    for (int i = 0; (i < PIECES || pends) && c->state < SL_DOOR_CLOSING; i++) {
        if (c->up.bytes || !(events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
            break;
        if (c->state == SL_DOOR_STRANGER) {
            greet(door, c);
            pends = c->state < SL_DOOR_CLOSING && c->tls && sl_tls_pending(c->tls);
            if (!pends)
                break;
            continue;
        }
        ssize_t n = hear(c, door->in, SL_FRAMES_IN_BYTES);
        pends = false; /* a record is at most a quarter of that */
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            break;
        if (n <= 0) {
            sl_door_kill(door, c, 0);
            break;
        }
        feed_up(door, c, door->in, (size_t)n);
        if (n < SL_FRAMES_IN_BYTES && !c->tls)
            break;
    }
    if (c->up.bytes && events & EPOLLHUP) /* its client has gone, and the core does not take what it said */
        sl_door_kill(door, c, 0);
    set_interest(door, c);
}

/* ---- from the core to the client ---- */

static void core_has_gone(struct sl_door *door, struct sl_door_connection *c)
{
    if (!c->down.bytes) {
        sl_door_kill(door, c, 0);
        return;
    }
    close(c->core);
    c->core = -1;
    door->n_live--;
    c->state = SL_DOOR_CLOSING;
    c->moved_ms = door->now_ms;
}

static void feed_down(struct sl_door *door, struct sl_door_connection *c, size_t bytes)
{
    struct sl_frames_out out = {door->out, 0};
    struct sl_door_scene scene = {door, c};
    const struct sl_frames_events events = {&scene, sl_door_on_known, sl_door_on_gone};
    unsigned why = sl_frames_down(&c->frames, door->in, bytes, door->now_ms, &events, &out);
    sl_door_count_unfinished(door, c);
    c->moved_ms = door->now_ms; /* it is read only when nothing waits */
    if (!put(c->fd, c->tls, &c->down, out.data, out.bytes))
        sl_door_kill(door, c, 0);
    else if (why)
        sl_door_kill(door, c, why);
}

static void on_core(struct sl_door *door, struct sl_door_connection *c, uint32_t events)
{
    if (events & EPOLLOUT && !put_rest(c->core, NULL, &c->up)) {
        c->up.bytes = 0;
        c->mute = true; /* it does not take any more; what it still has to say comes */
    }
    if (events & EPOLLHUP &&
        c->down.bytes) { /* what it said last is read when the client has room; epoll would not wait */
        watch(door, c->core, 0, 0, EPOLL_CTL_DEL);
        c->deaf = true;
        return;
    }
    for (int i = 0; i < PIECES && c->state == SL_DOOR_OPEN && !c->down.bytes; i++) {
        ssize_t n = recv(c->core, door->in, SL_FRAMES_IN_BYTES, 0);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            break;
        if (n <= 0) {
            core_has_gone(door, c);
            break;
        }
        feed_down(door, c, (size_t)n);
        if (n < SL_FRAMES_IN_BYTES)
            break;
    }
    if (door->n_waiting[0] + door->n_waiting[1])
        sl_door_make_room(door);
    set_interest(door, c);
}

/* ---- coming in ---- */

static void take_in(struct sl_door *door, int fd, bool is_node)
{
    struct sl_door_connection *c = NULL;
    uint32_t peer = sl_door_peer_of(door, fd);
    while (sl_door_is_full(door) && displace(door, peer)) {
    }
    if (sl_door_is_full(door)) {
        door->n_full++;
        sl_door_log(door, fd, "all places for connections are taken");
        close(fd);
        return;
    }
    uint32_t index = door->first_free;
    while (index < door->top && door->connections[index])
        index++;
    door->first_free = index;
    if (!(c = calloc(1, sizeof *c)) || sl_random_bytes(&c->secret, sizeof c->secret) != SL_OK) {
        door->n_exhausted++;
        free(c);
        close(fd);
        return;
    }
    c->index = index;
    c->generation = ++door->next_generation;
    c->fd = fd;
    c->core = -1;
    c->since_ms = c->active_ms = door->now_ms;
    c->client_events = EPOLLIN;
    c->state = door->tls && !is_node ? SL_DOOR_SHAKING : SL_DOOR_STRANGER;
    c->caller.role = is_node ? SL_CALLER_NODE : SL_CALLER_OPEN;
    sl_frames_init(&c->frames, index, c->secret);
    if (c->state == SL_DOOR_SHAKING
            ? !sl_door_shaker_add(door, c)
            : !watch(door, fd, EPOLLIN, sl_door_data(SL_DOOR_CLIENT, c, 0), EPOLL_CTL_ADD)) {
        door->n_exhausted++;
        close(fd);
        free(c);
        return;
    }
    c->peer = peer;
    sl_door_be_quiet(door, c);
    door->connections[index] = c;
    door->top = index + 1 > door->top ? index + 1 : door->top;
    door->n++;
    door->n_accepted++;
}

static void listen_for(struct sl_door *door, bool on)
{
    if (door->socket >= 0)
        watch(door, door->socket, on ? (uint32_t)EPOLLIN : 0u,
              sl_door_data(SL_DOOR_LISTENER, NULL, SL_DOOR_LISTENER_SOCKET), EPOLL_CTL_MOD);
    for (uint32_t i = 0; i < door->listener.n; i++)
        watch(door, door->listener.fds[i], on ? (uint32_t)EPOLLIN : 0u,
              sl_door_data(SL_DOOR_LISTENER, NULL, i), EPOLL_CTL_MOD);
    if (door->resting == on)
        door->resting_since_ms = door->now_ms;
    door->resting = !on;
}

static void on_listener(struct sl_door *door, uint32_t which)
{
    for (int i = 0; i < ACCEPTS && which < door->listener.n; i++) {
        int fd;
        switch (sl_listener_accept(&door->listener, which, &fd)) {
        case SL_ACCEPTED:
            take_in(door, fd, false);
            break;
        case SL_ACCEPT_NOTHING:
            return;
        case SL_ACCEPT_SHUT:
            door->n_shut++;
            break;
        case SL_ACCEPT_EXHAUSTED:
            door->n_exhausted++;
            listen_for(door, false);
            return;
        }
    }
}

/* The socket for processes of this machine: what another user's sends is not even read. */
static void on_socket(struct sl_door *door)
{
    for (int i = 0; i < ACCEPTS && door->socket >= 0; i++) {
        struct ucred who;
        socklen_t bytes = sizeof who;
        int fd = accept4(door->socket, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0 && errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
            door->n_exhausted++; /* who waits would be reported again and again */
            listen_for(door, false);
        }
        if (fd < 0)
            return;
        if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &bytes) != 0 || who.uid != geteuid())
            close(fd);
        else
            take_in(door, fd, true);
    }
}

/* ---- the thread ---- */

/* Its certificate was replaced, ours was, or its time is over: it shall connect again. First it is told, with a GOAWAY that names
 * a stream far away: what it has sent by then is served, and its next calls go elsewhere. Who does not go by himself within a second
 * of his last call is shut, and who has calls when those have lasted for long enough. */
static void age_out(struct sl_door *door, struct sl_door_connection *c)
{
    static const uint32_t far_away = 0x7fffffff;
    uint8_t frame[128];
    if (c->state != SL_DOOR_OPEN || !c->tls)
        return;
    bool expired = c->expires_ms && door->now_ms >= c->expires_ms;
    if (c->era == sl_tls_era(door->tls) && !expired)
        return;
    uint64_t since_ms = c->aged_ms ? door->now_ms - c->aged_ms : 0;
    /* A node takes its Join stream up again by its newest files, and what it has to tell goes by those, too. */
    uint64_t most_ms = expired && c->caller.role == SL_CALLER_NODE ? SL_DOOR_AGED_NODE_MS : SL_DOOR_AGED_MS;
    bool stays = sl_door_is_idle(c) && door->now_ms - c->active_ms > SL_DOOR_LEAVE_MS;
    if (since_ms > most_ms || (since_ms > SL_DOOR_LEAVE_MS && stays)) {
        sl_door_kill(door, c, SL_DOOR_AGED);
        return;
    }
    if (c->aged_ms || !c->frames.settled || c->down.bytes || c->frames.down.have || c->frames.down.left)
        return; /* it knows, or is within another frame: at the next turn */
    c->aged_ms = door->now_ms;
    size_t n = sl_frames_goaway(frame, sizeof frame, far_away, 0, sentences[SL_DOOR_AGED]);
    if (!put(c->fd, c->tls, &c->down, frame, n))
        sl_door_kill(door, c, 0);
    set_interest(door, c);
}

static void look_at(struct sl_door *door, struct sl_door_connection *c)
{
    uint64_t age = door->now_ms - c->since_ms, stuck = c->down.bytes ? door->now_ms - c->moved_ms : 0;
    if (c->state == SL_DOOR_LEAVING) {
        if (age > SL_DOOR_LEAVE_MS)
            finish(door, c);
        return;
    }
    if (c->frames.n_streams)
        c->active_ms = door->now_ms;
    if (!c->frames.settled && age > SL_DOOR_HELLO_MS)
        sl_door_kill(door, c, SL_DOOR_SILENT);
    else if (stuck > (c->state == SL_DOOR_CLOSING ? SL_DOOR_LINGER_MS : SL_DOOR_STUCK_MS))
        sl_door_kill(door, c, SL_DOOR_STUCK);
    else if (door->now_ms - c->active_ms > SL_DOOR_IDLE_MS)
        sl_door_kill(door, c, SL_DOOR_IDLE);
    else if (!sl_door_look_for_late(door, c))
        sl_door_kill(door, c, SL_DOOR_SILENT);
    else
        sl_door_look_for_unread(door, c);
    age_out(door, c);
}

static void tick(struct sl_door *door)
{
    door->tick_ms = door->now_ms;
    if (door->tls)
        sl_tls_look(door->tls);
    for (uint32_t i = 0; i < door->top; i++)
        if (door->connections[i])
            look_at(door, door->connections[i]);
    while (door->top && !door->connections[door->top - 1])
        door->top--;
    sl_door_make_room(door);
}

static void on_event(struct sl_door *door, const struct epoll_event *event)
{
    enum sl_door_kind kind = (enum sl_door_kind)(event->data.u64 >> 62);
    uint32_t index = (uint32_t)event->data.u64;
    uint64_t count;
    if (kind == SL_DOOR_LISTENER && index == SL_DOOR_LISTENER_SOCKET) {
        on_socket(door);
    } else if (kind == SL_DOOR_LISTENER) {
        on_listener(door, index);
    } else if (kind == SL_DOOR_WAKE && index == SL_DOOR_WAKE_SHAKERS) {
        sl_door_shake_hands(door);
    } else if (kind == SL_DOOR_WAKE) {
        (void)!read(door->wake, &count, sizeof count);
    } else {
        struct sl_door_connection *c = sl_door_named(door, event->data.u64);
        if (!c)
            return; /* it ended earlier in this turn */
        if (kind == SL_DOOR_CLIENT)
            on_client(door, c, event->events);
        else
            on_core(door, c, event->events);
    }
}

static bool is_done(struct sl_door *door)
{
    return door->stopping && (door->n == 0 || door->now_ms - door->stop_ms > STOP_MS);
}

static void *door_main(void *argument)
{
    struct sl_door *door = argument;
    struct epoll_event events[EVENTS];
    pthread_mutex_lock(&door->lock);
    while (!is_done(door)) {
        int wait_ms = door->tired ? TIRED_MS : door->resting || door->stopping ? REST_MS : TICK_MS;
        pthread_mutex_unlock(&door->lock);
        int n = epoll_wait(door->poll, events, EVENTS, wait_ms);
        pthread_mutex_lock(&door->lock);
        door->now_ms = clock_ms();
        for (int i = 0; i < n; i++)
            on_event(door, &events[i]);
        if (door->tls)
            sl_door_shakers_rest(door);
        if (door->resting && door->now_ms - door->resting_since_ms >= REST_MS)
            listen_for(door, true);
        bool ticked = door->now_ms - door->tick_ms >= TICK_MS;
        if (ticked)
            tick(door);
        reap(door);
        const char *why = ticked ? sl_door_shut_because(door) : door->shut_because;
        if (why != door->shut_because) { /* not at every connection of a storm */
            door->shut_because = why;
            pthread_mutex_unlock(&door->lock);
            door->config.changed(door->config.context, why);
            pthread_mutex_lock(&door->lock);
        }
    }
    pthread_mutex_unlock(&door->lock);
    return NULL;
}

/* ---- open and close ---- */

static sl_status open_socket(struct sl_door *door, struct sl_err *err)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    size_t n = strlen(door->config.socket);
    if (n == 0 || n >= sizeof name.sun_path)
        return sl_fail(err, SL_E_CONFIG, "the socket's name must have 1 to %zu bytes",
                       sizeof name.sun_path - 1);
    memcpy(name.sun_path + 1, door->config.socket, n); /* a NUL before it: abstract, no file */
    door->socket = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (door->socket < 0 ||
        bind(door->socket, (const void *)&name,
             (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + n)) != 0 ||
        listen(door->socket, 64) != 0)
        return sl_fail(err, SL_E_UNAVAILABLE, "cannot listen on the socket %s: %s", door->config.socket,
                       strerror(errno));
    return SL_OK;
}

static sl_status prepare(struct sl_door *door, struct sl_err *err)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        limit.rlim_cur = 1024;
    uint64_t used = open_descriptors();
    door->most = sl_door_plan(limit.rlim_cur, used, &door->total);
    if (!door->most)
        return sl_fail(err, SL_E_UNAVAILABLE,
                       "cannot listen on %s: of %llu descriptors %llu are taken, and what is left is too few "
                       "for connections; raise the limit (ulimit -n 1024)",
                       door->config.listen, (unsigned long long)limit.rlim_cur, (unsigned long long)used);
    SL_TRY(sl_listener_open(&door->listener, door->config.listen, err));
    if (sl_random_bytes(&door->peer_seed, sizeof door->peer_seed) != SL_OK)
        return sl_fail(err, SL_E_INTERNAL, "no random bytes for the door on %s", door->config.listen);
    door->connections = calloc(door->most, sizeof(struct sl_door_connection *));
    door->quiet_of = calloc(SL_DOOR_PEERS, sizeof *door->quiet_of);
    door->in = malloc(SL_FRAMES_IN_BYTES);
    door->out = malloc(SL_FRAMES_OUT_BYTES);
    door->answer = malloc(SL_FRAMES_OUT_BYTES);
    if (!door->connections || !door->quiet_of || !door->in || !door->out || !door->answer)
        return sl_fail(err, SL_E_NOMEM, "out of memory for the door on %s", door->config.listen);
    door->poll = epoll_create1(EPOLL_CLOEXEC);
    door->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    bool good = door->poll >= 0 && door->wake >= 0 &&
                watch(door, door->wake, EPOLLIN, sl_door_data(SL_DOOR_WAKE, NULL, 0), EPOLL_CTL_ADD);
    for (uint32_t i = 0; good && i < door->listener.n; i++)
        good = watch(door, door->listener.fds[i], EPOLLIN, sl_door_data(SL_DOOR_LISTENER, NULL, i),
                     EPOLL_CTL_ADD);
    if (good && door->config.socket)
        SL_TRY(open_socket(door, err));
    good = good && (door->socket < 0 ||
                    watch(door, door->socket, EPOLLIN,
                          sl_door_data(SL_DOOR_LISTENER, NULL, SL_DOOR_LISTENER_SOCKET), EPOLL_CTL_ADD));
    if (!good)
        return sl_fail(err, SL_E_UNAVAILABLE, "cannot wait for connections on %s: %s", door->config.listen,
                       strerror(errno));
    return door->config.tls ? sl_door_shakers_open(door, err) : SL_OK;
}

sl_status sl_door_open(struct sl_door **out, const struct sl_door_config *config, struct sl_err *err)
{
    struct sl_door *door = calloc(1, sizeof *door);
    if (!door)
        return sl_fail(err, SL_E_NOMEM, "out of memory for the door on %s", config->listen);
    door->config = *config;
    door->poll = door->wake = door->shaking = door->socket = door->listener.spare = -1;
    door->now_ms = door->tick_ms = clock_ms();
    pthread_mutex_init(&door->lock, NULL);
    sl_status status = prepare(door, err);
    if (status != SL_OK) {
        sl_door_close(door);
        return status;
    }
    *out = door;
    return SL_OK;
}

sl_status sl_door_start(struct sl_door *door, struct sl_err *err)
{
    if (pthread_create(&door->thread, NULL, door_main, door) != 0)
        return sl_fail(err, SL_E_NOMEM, "cannot start a thread for gRPC: raise the limit on threads");
    pthread_setname_np(door->thread, "sl-door");
    door->started = true;
    return SL_OK;
}

static void close_socket(struct sl_door *door)
{
    if (door->socket >= 0)
        close(door->socket);
    door->socket = -1;
}

void sl_door_drain(struct sl_door *door)
{
    pthread_mutex_lock(&door->lock);
    door->draining = true;
    sl_listener_close(&door->listener);
    close_socket(door);
    for (uint32_t i = 0; i < door->top; i++)
        if (door->connections[i] && sl_door_is_idle(door->connections[i]))
            sl_door_kill(door, door->connections[i], SL_DOOR_DRAINING);
    pthread_mutex_unlock(&door->lock);
}

bool sl_door_is_left(struct sl_door *door)
{
    bool left = true;
    pthread_mutex_lock(&door->lock);
    for (uint32_t i = 0; i < door->top; i++)
        left &= !door->connections[i] || door->connections[i]->state >= SL_DOOR_LEAVING;
    pthread_mutex_unlock(&door->lock);
    return left;
}

void sl_door_close(struct sl_door *door)
{
    if (!door)
        return;
    if (door->started) {
        uint64_t one = 1;
        sl_door_drain(door);
        pthread_mutex_lock(&door->lock);
        door->stopping = true;
        door->stop_ms = clock_ms();
        pthread_mutex_unlock(&door->lock);
        (void)!write(door->wake, &one, sizeof one);
        pthread_join(door->thread, NULL);
    }
    for (uint32_t i = 0; i < door->top; i++) {
        struct sl_door_connection *c = door->connections[i];
        if (c)
            sl_door_kill(door, c, 0);
        if (c && c->state == SL_DOOR_LEAVING)
            finish(door, c);
    }
    reap(door);
    sl_listener_close(&door->listener);
    close_socket(door);
    sl_door_shakers_close(door);
    if (door->poll >= 0)
        close(door->poll);
    if (door->wake >= 0)
        close(door->wake);
    free(door->connections);
    free(door->quiet_of);
    free(door->in);
    free(door->out);
    free(door->answer);
    pthread_mutex_destroy(&door->lock);
    free(door);
}

int sl_door_port(const struct sl_door *door)
{
    return door->listener.port;
}
