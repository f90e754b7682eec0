/* The simulated network of transport_sim.h. A thing that is on its way is a letter in the inbox of whoever it is for, in the order of its
 * time; an io takes those that are due in its progress, as it would from a device. A small frame is copied when it is sent and its
 * sending is home at once; of a large one the receiver copies the sender's bytes, and only then it is home, so what is changed too
 * early shows. A pair of ends lives until both are closed and no letter is for one of them. */
#include "pipeline/link/transport_sim.h"
#include "base/bytes.h"
#include "base/digest.h"
#include "pipeline/link/transport_impl.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { EAGER_BYTES = 1024 };

enum sim_letter_kind { SIM_CALL, SIM_ARRIVE, SIM_LAND, SIM_DONE, SIM_HANGUP, SIM_OVER };

struct sim_pair;

struct sl_line { /* one end of a pair */
    struct sim_pair *pair;
    struct sl_transport *transport; /* NULL: closed, or never there */
    struct sl_conn *conn;
    struct sl_line *next;
    uint64_t last_us;      /* what it sends arrives in its order */
    struct sim_frame *out; /* large ones that are not home */
    bool hung_up;
};

struct sim_pair {
    struct sl_line ends[2]; /* 0: who called */
    uint64_t link;
    uint16_t ports[2];
    uint32_t n_refs; /* open ends, and letters */
};

struct sim_frame {
    struct sim_frame *next; /* of its line's `out` */
    struct sl_line *from;
    struct sl_sending *sending; /* NULL: it went home, or its sender is gone, and then, */
    const uint8_t *payload;     /* if it was large, this is NULL, too */
    struct sl_landing *landing;
    sl_status status;
    bool limbo; /* no letter has it: there is nobody to write to */
    size_t bytes;
    uint64_t digest; /* of what was to be sent, where it lies with the sender */
    uint8_t header[SL_WIRE_BYTES];
    uint8_t own[];
};

struct sim_letter {
    struct sim_letter *next;
    uint64_t at_us;
    enum sim_letter_kind kind;
    struct sl_line *to;
    struct sim_frame *frame;
};

struct sl_transport {
    struct sl_net *net;
    struct sl_hub *hub;
    struct sl_transport *next;
    struct sim_letter *inbox; /* by time; of equal times as they were sent */
    struct sl_line *lines;
    uint16_t port;
    bool no_power;
};

struct sl_net {
    struct sl_net_config config;
    struct sl_transport *listeners;
    uint64_t now_us;
    uint64_t n_touched;
    uint64_t gone[1 << 10]; /* bits of ports where somebody listened */
};

/* ---- letters ---- */

static int side_of(const struct sl_line *line)
{
    return line == &line->pair->ends[0] ? 0 : 1;
}

static struct sl_line *other_end(struct sl_line *line)
{
    return &line->pair->ends[1 - side_of(line)];
}

static void unref(struct sim_pair *pair)
{
    if (--pair->n_refs == 0)
        free(pair);
}

static void post(struct sl_line *to, uint64_t at_us, enum sim_letter_kind kind, struct sim_frame *frame)
{
    struct sim_letter *letter = malloc(sizeof *letter);
    assert(letter && to->transport);
    *letter = (struct sim_letter){.at_us = at_us, .kind = kind, .to = to, .frame = frame};
    struct sim_letter **at = &to->transport->inbox;
    while (*at && (*at)->at_us <= at_us)
        at = &(*at)->next;
    letter->next = *at;
    *at = letter;
    to->pair->n_refs++;
}

/* When what the line sends now arrives: behind all that it has sent before. */
static uint64_t arrival(struct sl_line *line, size_t bytes)
{
    const struct sl_net *net = line->transport->net;
    const uint16_t *ports = line->pair->ports;
    int side = side_of(line);
    uint64_t at_us =
        net->config.arrives_us(net->config.user, ports[side], ports[1 - side], bytes, net->now_us);
    assert(at_us >= net->now_us);
    line->last_us = at_us > line->last_us ? at_us : line->last_us;
    return line->last_us;
}

static void tell_other(struct sl_line *line, enum sim_letter_kind kind)
{
    uint64_t at_us = arrival(line, 0);
    if (other_end(line)->transport)
        post(other_end(line), at_us, kind, NULL);
}

/* ---- frames ---- */

static void take_out(struct sim_frame *frame)
{
    struct sim_frame **at = &frame->from->out;
    while (*at && *at != frame)
        at = &(*at)->next;
    if (*at)
        *at = frame->next;
}

/* Nobody will have it any more. */
static void frame_lost(struct sim_frame *frame)
{
    struct sl_line *from = frame->from;
    if (!frame->sending) {
        free(frame);
        return;
    }
    frame->status = SL_E_PEER_LOST;
    post(from, from->transport->net->now_us, SIM_DONE, frame);
}

/* Nobody will have it, and nobody says so: it lies here until the line is hung up. */
static void vanish(struct sim_frame *frame)
{
    frame->landing = NULL;
    frame->limbo = frame->sending != NULL;
    if (!frame->limbo)
        free(frame);
}

static void sim_send(struct sl_line *line, struct sl_sending *sending)
{
    bool eager = sending->bytes <= (line->transport->net->config.all_late ? 0 : EAGER_BYTES);
    if (line->hung_up) {
        sl_sending_done(sending, SL_E_PEER_LOST);
        return;
    }
    struct sim_frame *frame = malloc(sizeof *frame + (eager ? sending->bytes : 0));
    assert(frame);
    *frame = (struct sim_frame){.from = line, .bytes = sending->bytes};
    memcpy(frame->header, sending->header, sizeof frame->header);
    frame->payload = eager ? frame->own : sending->payload;
    if (eager) {
        memcpy(frame->own, sending->payload, sending->bytes);
    } else {
        frame->sending = sending;
        frame->digest = sl_xxh3(sending->payload, sending->bytes);
        frame->next = line->out;
        line->out = frame;
    }
    uint64_t at_us = arrival(line, sizeof frame->header + sending->bytes);
    if (other_end(line)->transport)
        post(other_end(line), at_us, SIM_ARRIVE, frame);
    else
        vanish(frame);
    if (eager)
        sl_sending_done(sending, SL_OK);
}

static void land(struct sl_line *line, struct sim_frame *frame)
{
    struct sl_landing *landing = frame->landing;
    bool whole = frame->payload && !line->hung_up;
    if (whole)
        memcpy(landing->to, frame->payload, frame->bytes);
    if (whole && frame->sending && sl_xxh3(frame->payload, frame->bytes) != frame->digest)
        line->transport->net->n_touched++;
    frame->status = SL_OK;
    if (!whole) {
        frame_lost(frame);
    } else if (!frame->sending) {
        free(frame);
    } else {
        const struct sl_net *net = line->transport->net;
        const uint16_t *ports = line->pair->ports;
        int side = side_of(line);
        post(frame->from,
             net->config.arrives_us(net->config.user, ports[side], ports[1 - side], 0, net->now_us), SIM_DONE,
             frame);
    }
    sl_conn_landed(landing, whole ? SL_OK : SL_E_PEER_LOST);
}

static void arrive(struct sl_line *line, struct sim_frame *frame)
{
    const struct sl_net *net = line->transport->net;
    struct sl_landing *landing = NULL;
    if (frame->payload && line->conn && !line->hung_up)
        landing = sl_conn_arrived(line->conn, frame->header, sizeof frame->header, frame->bytes);
    if (!landing) {
        frame_lost(frame);
        return;
    }
    uint64_t later_us = frame->bytes > EAGER_BYTES ? net->config.lands_us(net->config.user, frame->bytes) : 0;
    frame->landing = landing;
    if (later_us == 0)
        land(line, frame);
    else
        post(line, net->now_us + later_us, SIM_LAND, frame);
}

static void done(struct sim_frame *frame)
{
    struct sl_sending *sending = frame->sending;
    sl_status status = frame->status;
    take_out(frame);
    free(frame);
    if (sending)
        sl_sending_done(sending, status);
}

/* What the line had under way is the sender's again; who still holds a letter with it finds no bytes. */
static void recall(struct sl_line *line, bool tell)
{
    while (line->out) {
        struct sim_frame *frame = line->out;
        struct sl_sending *sending = frame->sending;
        line->out = frame->next;
        frame->sending = NULL;
        frame->payload = NULL;
        if (tell && sending)
            sl_sending_done(sending, SL_E_CANCELLED);
        if (frame->limbo)
            free(frame);
    }
}

/* ---- lines ---- */

static struct sl_transport *listener_at(const struct sl_net *net, uint16_t port)
{
    struct sl_transport *t = net->listeners;
    while (t && t->port != port)
        t = t->next;
    return t;
}

static void add_line(struct sl_transport *t, struct sl_line *line)
{
    line->next = t->lines;
    t->lines = line;
    line->pair->n_refs++;
}

/* Every letter for this end; what is in them is lost. */
static void drop_letters(struct sl_transport *t, const struct sl_line *line, bool tell)
{
    for (struct sim_letter **at = &t->inbox, *letter; (letter = *at);) {
        if (letter->to != line) {
            at = &letter->next;
            continue;
        }
        *at = letter->next;
        struct sim_frame *frame = letter->frame;
        if (letter->kind == SIM_LAND && tell)
            sl_conn_landed(frame->landing, SL_E_CANCELLED);
        if (letter->kind == SIM_DONE) {
            frame->sending = tell ? frame->sending : NULL;
            done(frame);
        } else if (frame && t->no_power) {
            vanish(frame);
        } else if (frame) {
            frame_lost(frame);
        }
        unref(line->pair);
        free(letter);
        at = &t->inbox; /* telling may have written to it */
    }
}

static void close_line(struct sl_transport *t, struct sl_line *line, bool tell)
{
    struct sl_line **at = &t->lines;
    while (*at != line)
        at = &(*at)->next;
    *at = line->next;
    line->hung_up = true;
    drop_letters(t, line, tell);
    recall(line, tell);
    line->transport = NULL;
    if (tell && line->conn)
        sl_conn_closed(line->conn);
    line->conn = NULL;
    unref(line->pair);
}

static void sim_hangup(struct sl_line *line, enum sl_hangup how)
{
    tell_other(line, how == SL_HANGUP_OVER ? SIM_OVER : SIM_HANGUP);
    line->hung_up = true;
}

static void take_call(struct sl_transport *t, struct sl_line *line)
{
    const struct sim_pair *pair = line->pair;
    const struct sl_io_address *awaited = sl_hub_awaits(t->hub, pair->link);
    bool known = awaited && awaited->n == 2 && sl_get16(awaited->bytes) == pair->ports[0];
    if (awaited && !known)
        sl_hub_refused(t->hub);
    line->conn = known ? sl_hub_accept(t->hub, line, pair->link) : NULL;
    if (!line->conn)
        sim_hangup(line, SL_HANGUP_END); /* turned away; what follows is lost */
}

static void take_letter(struct sl_transport *t, const struct sim_letter *letter)
{
    struct sl_line *line = letter->to;
    switch (letter->kind) {
    case SIM_CALL:
        take_call(t, line);
        break;
    case SIM_ARRIVE:
        arrive(line, letter->frame);
        break;
    case SIM_LAND:
        land(line, letter->frame);
        break;
    case SIM_DONE:
        done(letter->frame);
        break;
    case SIM_HANGUP:
        if (line->conn && !line->hung_up)
            sl_conn_broken(line->conn, SL_E_PEER_LOST, "the peer closed the line");
        break;
    case SIM_OVER:
        if (line->conn && !line->hung_up)
            sl_conn_over(line->conn);
        break;
    }
}

static bool sim_progress(struct sl_transport *t)
{
    bool any = false;
    while (t->inbox && t->inbox->at_us <= t->net->now_us) {
        struct sim_letter *letter = t->inbox;
        struct sim_pair *pair = letter->to->pair;
        t->inbox = letter->next;
        take_letter(t, letter);
        free(letter);
        unref(pair);
        any = true;
    }
    for (struct sl_line *line = t->lines, *next; line; line = next) {
        next = line->next;
        if (!line->hung_up)
            continue;
        close_line(t, line, true);
        any = true;
        next = t->lines; /* closing one may have changed the list */
    }
    return any;
}

static sl_status sim_connect(struct sl_transport *t, uint64_t link, const struct sl_io_address *peer,
                             struct sl_conn *conn, struct sl_line **line)
{
    uint16_t port = peer->n == 2 ? sl_get16(peer->bytes) : 0;
    if (port == 0)
        return SL_E_INVALID;
    struct sl_transport *to = listener_at(t->net, port);
    if (!to)
        return t->net->gone[port / 64] >> port % 64 & 1 ? SL_E_REFUSED : SL_E_UNAVAILABLE;
    struct sim_pair *pair = calloc(1, sizeof *pair);
    if (!pair)
        return SL_E_NOMEM;
    *pair = (struct sim_pair){.link = link, .ports = {t->port, port}};
    pair->ends[0] = (struct sl_line){.pair = pair, .transport = t, .conn = conn};
    pair->ends[1] = (struct sl_line){.pair = pair, .transport = to};
    add_line(t, &pair->ends[0]);
    add_line(to, &pair->ends[1]);
    post(&pair->ends[1], arrival(&pair->ends[0], 0), SIM_CALL, NULL);
    *line = &pair->ends[0];
    return SL_OK;
}

/* ---- life ---- */

static sl_status sim_open(struct sl_transport **out, struct sl_hub *hub, const struct sl_io_config *config,
                          struct sl_err *err)
{
    struct sl_net *net = config->net;
    struct sl_transport *t = calloc(1, sizeof *t);
    assert(net && config->port && !listener_at(net, config->port));
    if (!t)
        return sl_fail(err, SL_E_NOMEM, "out of memory for the simulated transport");
    *t = (struct sl_transport){.net = net, .hub = hub, .next = net->listeners, .port = config->port};
    net->listeners = t;
    *out = t;
    return SL_OK;
}

/* Its io ends as a process does that is killed: nothing is said, but by the system for it. */
static void sim_close(struct sl_transport *t)
{
    struct sl_transport **at = &t->net->listeners;
    while (*at != t)
        at = &(*at)->next;
    *at = t->next;
    if (!t->no_power)
        t->net->gone[t->port / 64] |= UINT64_C(1) << t->port % 64;
    while (t->lines) {
        if (!t->lines->hung_up && !t->no_power)
            tell_other(t->lines, SIM_HANGUP);
        close_line(t, t->lines, false);
    }
    assert(!t->inbox);
    free(t);
}

static void sim_where(const struct sl_transport *t, struct sl_io_address *address,
                      char host[SL_IO_HOST_BYTES], uint16_t *port, bool *shielded)
{
    address->n = 2;
    sl_put16(address->bytes, t->port);
    host[0] = 0;
    *port = t->port;
    *shielded = true; /* there are no strangers */
}

static sl_status sim_map(struct sl_transport *t, void *base, size_t bytes, void **region)
{
    (void)t, (void)base, (void)bytes;
    *region = NULL;
    return SL_OK;
}

static void sim_unmap(struct sl_transport *t, void *region)
{
    (void)t, (void)region;
}

static int sim_fd(const struct sl_transport *t)
{
    (void)t;
    return 0; /* nobody waits on it: whoever drives it knows when something is due */
}

static bool sim_arm(struct sl_transport *t)
{
    (void)t;
    return false;
}

const struct sl_transport_ops sl_transport_sim = {.name = "sim",
                                                  .silent_loss = true,
                                                  .open = sim_open,
                                                  .close = sim_close,
                                                  .where = sim_where,
                                                  .connect = sim_connect,
                                                  .send = sim_send,
                                                  .hangup = sim_hangup,
                                                  .map = sim_map,
                                                  .unmap = sim_unmap,
                                                  .progress = sim_progress,
                                                  .fd = sim_fd,
                                                  .arm = sim_arm};

sl_status sl_net_create(struct sl_net **out, const struct sl_net_config *config)
{
    struct sl_net *net = calloc(1, sizeof *net);
    if (!net)
        return SL_E_NOMEM;
    net->config = *config;
    *out = net;
    return SL_OK;
}

void sl_net_destroy(struct sl_net *net)
{
    assert(!net || !net->listeners);
    free(net);
}

void sl_net_set_now(struct sl_net *net, uint64_t now_us)
{
    assert(now_us >= net->now_us);
    net->now_us = now_us;
}

uint64_t sl_net_due_us(const struct sl_net *net, uint16_t port)
{
    const struct sl_transport *t = listener_at(net, port);
    return t && t->inbox ? t->inbox->at_us : UINT64_MAX;
}

uint64_t sl_net_touched(const struct sl_net *net)
{
    return net->n_touched;
}

void sl_net_break(struct sl_net *net, uint16_t a, uint16_t b)
{
    struct sl_transport *t = listener_at(net, a);
    for (struct sl_line *line = t ? t->lines : NULL; line; line = line->next)
        if (line->pair->ports[1 - side_of(line)] == b && !line->hung_up) {
            post(line, net->now_us, SIM_HANGUP, NULL);
            if (other_end(line)->transport)
                post(other_end(line), net->now_us, SIM_HANGUP, NULL);
        }
}

void sl_net_cut_power(struct sl_net *net, uint16_t port)
{
    struct sl_transport *t = listener_at(net, port);
    if (t)
        t->no_power = true;
}
