/* Lines between threads of one process: letters in inboxes, a copy from the sender's buffer into
 * the receiver's slot, no socket. Used by `sluice generate --model`, and by tests that want no
 * network.
 *
 * A fabric is the network: who listens on which port. Each I/O thread has one inbox; a letter lies
 * inside the thing that it is about (an sending, or the pair of ends which makes a line), so sending
 * allocates nothing. A frame travels as a letter to the receiver, who copies the payload on his own
 * thread and sends the same letter back: the buffer is free when it comes home. One mutex guards
 * inboxes and pairs; it is held for a few instructions and never during a copy.
 *
 * A pair lives until both ends are closed and no letter points to it.
 *
 * A network's delay and rate can be asked for (sl_io_config): then an inbox is sorted by when its letters are there, and its
 * descriptor is a timer that goes off when the first of them is. Nothing overtakes on a line. What is under way costs nobody
 * anything but time: the copy is made when a frame is there. */
#include "base/bytes.h"
#include "base/clock.h"
#include "pipeline/link/transport_impl.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum letter { LETTER_CALL, LETTER_FRAME, LETTER_DONE, LETTER_HANGUP };

struct sl_line { /* one end of a pair */
    struct sl_pair *pair;
    struct sl_transport *transport; /* NULL: closed */
    struct sl_conn *conn;
    struct sl_line *next_closing;
    uint32_t n_out;         /* frames not yet home */
    uint64_t hangup_number; /* of the last letter that may be for it */
    uint64_t last_due_ns;   /* of what left this end */
    bool hung_up;           /* under the mutex: nobody posts a frame to this end any more */
    struct sl_mail hangup;  /* tells this end that the other hung up */
};

struct sl_pair {
    struct sl_line ends[2]; /* 0: who called */
    uint64_t link;
    struct sl_mail call;
    uint32_t n_refs; /* open ends, and letters about the pair itself */
};

struct sl_transport {
    struct sl_fabric *fabric;
    struct sl_hub *hub;
    struct sl_transport *next;
    struct sl_mail *inbox, **inbox_end;
    struct sl_line *closing;
    uint64_t n_posted; /* letters to this inbox */
    bool slow;         /* there is a delay or a rate */
    uint64_t delay_ns;
    double ns_per_byte;
    uint64_t free_ns; /* when what leaves us is out */
    int fd;           /* of an event; slow: a timer */
    uint16_t port;
};

struct sl_fabric {
    pthread_mutex_t mutex;
    struct sl_transport *listeners;
    uint16_t last_port;
};

sl_status sl_fabric_create(struct sl_fabric **out)
{
    struct sl_fabric *fabric = calloc(1, sizeof *fabric);
    if (!fabric)
        return SL_E_NOMEM;
    pthread_mutex_init(&fabric->mutex, NULL);
    *out = fabric;
    return SL_OK;
}

void sl_fabric_destroy(struct sl_fabric *fabric)
{
    if (!fabric)
        return;
    assert(!fabric->listeners);
    pthread_mutex_destroy(&fabric->mutex);
    free(fabric);
}

/* ---- Under the fabric's mutex ---- */

static struct sl_transport *listener_at(const struct sl_fabric *fabric, uint16_t port)
{
    struct sl_transport *t = fabric->listeners;
    while (t && t->port != port)
        t = t->next;
    return t;
}

/* The descriptor says that a letter is there, now or at due_ns. */
static void ring(const struct sl_transport *to, uint64_t due_ns)
{
    uint64_t one = 1;
    if (to->slow) {
        if (due_ns == 0)
            due_ns = 1; /* of one who is not slow: zeros would stop the timer */
        struct itimerspec at = {.it_value = {(time_t)(due_ns / 1000000000u), (long)(due_ns % 1000000000u)}};
        timerfd_settime(to->fd, TFD_TIMER_ABSTIME, &at, NULL);
    } else {
        ssize_t n = write(to->fd, &one, sizeof one);
        (void)n; /* a full counter wakes as well */
    }
}

/* When a letter with so many bytes that leaves this end now is there. */
static uint64_t due_of(struct sl_line *from, size_t bytes)
{
    struct sl_transport *t = from->transport;
    uint64_t now_ns = sl_clock_ns(), due_ns = now_ns;
    if (bytes > 0 && t->ns_per_byte > 0) {
        due_ns = t->free_ns > now_ns ? t->free_ns : now_ns;
        due_ns += (uint64_t)((double)bytes * t->ns_per_byte);
        t->free_ns = due_ns;
    }
    due_ns += t->delay_ns;
    if (due_ns < from->last_due_ns)
        due_ns = from->last_due_ns;
    from->last_due_ns = due_ns;
    return due_ns;
}

static void post(struct sl_transport *to, struct sl_mail *mail, struct sl_pair *pair, int side,
                 enum letter kind, size_t bytes)
{
    struct sl_line *from = &pair->ends[1 - side];
    struct sl_mail **at = to->inbox_end;
    mail->pair = pair;
    mail->to_side = (uint8_t)side;
    mail->kind = (uint8_t)kind;
    mail->number = ++to->n_posted;
    mail->due_ns = from->transport && from->transport->slow ? due_of(from, bytes) : 0;
    if (to->slow)
        for (at = &to->inbox; *at && (*at)->due_ns <= mail->due_ns;)
            at = &(*at)->next;
    mail->next = *at;
    *at = mail;
    if (!mail->next)
        to->inbox_end = &mail->next;
    if (at == &to->inbox)
        ring(to, mail->due_ns);
}

static void unref(struct sl_pair *pair)
{
    if (--pair->n_refs == 0)
        free(pair);
}

static int side_of(const struct sl_line *line)
{
    return line == &line->pair->ends[0] ? 0 : 1;
}

static void post_hangup(struct sl_pair *pair, int to_side)
{
    struct sl_line *peer = &pair->ends[to_side];
    if (!peer->transport)
        return;
    pair->n_refs++;
    post(peer->transport, &peer->hangup, pair, to_side, LETTER_HANGUP, 0);
}

static struct sl_sending *op_of(struct sl_mail *mail)
{
    return (struct sl_sending *)((char *)mail - offsetof(struct sl_sending, mail));
}

/* ---- Opening and closing ---- */

static sl_status local_open(struct sl_transport **out, struct sl_hub *hub, const struct sl_io_config *config,
                            struct sl_err *err)
{
    struct sl_fabric *fabric = config->fabric;
    assert(fabric);
    struct sl_transport *t = calloc(1, sizeof *t);
    if (!t)
        return sl_fail(err, SL_E_NOMEM, "out of memory for the local transport");
    t->fabric = fabric;
    t->hub = hub;
    t->inbox_end = &t->inbox;
    t->delay_ns = config->delay_us * UINT64_C(1000);
    t->ns_per_byte = config->gbit > 0 ? 8 / config->gbit : 0;
    t->slow = t->delay_ns > 0 || t->ns_per_byte > 0;
    t->fd = t->slow ? timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK)
                    : eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (t->fd < 0) {
        free(t);
        return sl_fail(
            err, SL_E_IO,
            "the local transport cannot get an eventfd or a timer; raise the limit of open files (ulimit -n)");
    }
    pthread_mutex_lock(&fabric->mutex);
    t->port = config->port;
    while (config->port == 0 && (t->port == 0 || listener_at(fabric, t->port)))
        t->port = ++fabric->last_port;
    bool taken = listener_at(fabric, t->port) != NULL;
    if (!taken) {
        t->next = fabric->listeners;
        fabric->listeners = t;
    }
    pthread_mutex_unlock(&fabric->mutex);
    if (taken) {
        close(t->fd);
        free(t);
        return sl_fail(err, SL_E_UNAVAILABLE, "port %u of the local transport is in use; choose another",
                       (unsigned)config->port);
    }
    *out = t;
    return SL_OK;
}

/* There is one host: an address is "local" and the port. */
static const char address_word[6] = "local";
enum { ADDRESS_BYTES = sizeof address_word + 2 };

static void local_where(const struct sl_transport *t, struct sl_io_address *address,
                        char host[SL_IO_HOST_BYTES], uint16_t *port, bool *shielded)
{
    address->n = ADDRESS_BYTES;
    memcpy(address->bytes, address_word, sizeof address_word);
    sl_put16(address->bytes + sizeof address_word, t->port);
    host[0] = 0;
    *port = t->port;
    *shielded = true;
}

static uint16_t port_in(const struct sl_io_address *address) /* 0: not one of this transport */
{
    if (address->n != ADDRESS_BYTES || memcmp(address->bytes, address_word, sizeof address_word) != 0)
        return 0;
    return sl_get16(address->bytes + sizeof address_word);
}

static sl_status local_connect(struct sl_transport *t, uint64_t link, const struct sl_io_address *peer,
                               struct sl_conn *conn, struct sl_line **line)
{
    uint16_t port = port_in(peer);
    if (port == 0)
        return SL_E_INVALID;
    struct sl_pair *pair = calloc(1, sizeof *pair);
    if (!pair)
        return SL_E_NOMEM;
    pair->n_refs = 3; /* two ends and the call */
    pair->link = link;
    pair->ends[0] = (struct sl_line){.pair = pair, .transport = t, .conn = conn};
    pthread_mutex_lock(&t->fabric->mutex);
    struct sl_transport *to = listener_at(t->fabric, port);
    if (to) {
        pair->ends[1] = (struct sl_line){.pair = pair, .transport = to};
        post(to, &pair->call, pair, 1, LETTER_CALL, 0);
    }
    pthread_mutex_unlock(&t->fabric->mutex);
    if (!to) {
        free(pair);
        return SL_E_UNAVAILABLE;
    }
    *line = &pair->ends[0];
    return SL_OK;
}

static void local_send(struct sl_line *line, struct sl_sending *sending)
{
    struct sl_fabric *fabric = line->transport->fabric;
    int to_side = 1 - side_of(line);
    pthread_mutex_lock(&fabric->mutex);
    struct sl_line *peer = &line->pair->ends[to_side];
    bool open = peer->transport && !peer->hung_up;
    if (open) {
        line->n_out++;
        post(peer->transport, &sending->mail, line->pair, to_side, LETTER_FRAME,
             SL_WIRE_BYTES + sending->bytes);
    }
    pthread_mutex_unlock(&fabric->mutex);
    if (!open)
        sl_sending_done(sending, SL_E_PEER_LOST);
}

static void close_later(struct sl_transport *t, struct sl_line *line) /* under the mutex */
{
    line->hangup_number = t->n_posted;
    line->next_closing = t->closing;
    t->closing = line;
}

static void local_hangup(struct sl_line *line, enum sl_hangup how)
{
    (void)how; /* with it a line never carries on */
    struct sl_transport *t = line->transport;
    pthread_mutex_lock(&t->fabric->mutex);
    line->hung_up = true;
    post_hangup(line->pair, 1 - side_of(line));
    close_later(t, line);
    pthread_mutex_unlock(&t->fabric->mutex);
}

/* ---- Letters ---- */

/* The frame's sending is the sender's; it is only read here, and sent home with what became of it. */
static void take_frame(struct sl_line *line, struct sl_mail *mail)
{
    struct sl_sending *sending = op_of(mail);
    sending->status = SL_E_PEER_LOST;
    if (!line->hung_up && line->conn) {
        struct sl_landing *landing =
            sl_conn_arrived(line->conn, sending->header, sizeof sending->header, sending->bytes);
        if (landing) {
            memcpy(landing->to, sending->payload, sending->bytes);
            sending->status = SL_OK;
            sl_conn_landed(landing, SL_OK);
        }
    }
    struct sl_transport *t = line->transport;
    int from_side = 1 - side_of(line);
    pthread_mutex_lock(&t->fabric->mutex);
    /* The sender's end cannot be closed while one of its frames is out. */
    post(line->pair->ends[from_side].transport, mail, line->pair, from_side, LETTER_DONE, 0);
    pthread_mutex_unlock(&t->fabric->mutex);
}

static void take_call(struct sl_transport *t, struct sl_line *line)
{
    struct sl_pair *pair = line->pair;
    const struct sl_io_address *awaited = sl_hub_awaits(t->hub, pair->link);
    pthread_mutex_lock(&t->fabric->mutex);
    const struct sl_transport *caller = pair->ends[0].transport; /* NULL: it has hung up already */
    bool known = awaited && caller && port_in(awaited) == caller->port;
    pthread_mutex_unlock(&t->fabric->mutex);
    if (awaited && !known)
        sl_hub_refused(t->hub);
    struct sl_conn *conn = known ? sl_hub_accept(t->hub, line, pair->link) : NULL;
    pthread_mutex_lock(&t->fabric->mutex);
    line->conn = conn;
    if (!conn) { /* turned away: this end is closed at once; frames that follow are sent home */
        line->hung_up = true;
        post_hangup(pair, 0);
        close_later(t, line);
    }
    pthread_mutex_unlock(&t->fabric->mutex);
}

static void take_letter(struct sl_transport *t, struct sl_mail *mail)
{
    struct sl_pair *pair = mail->pair;
    struct sl_line *line = &pair->ends[mail->to_side];
    enum letter kind = (enum letter)mail->kind;
    if (kind == LETTER_FRAME) {
        take_frame(line, mail);
    } else if (kind == LETTER_DONE) {
        struct sl_sending *sending = op_of(mail);
        line->n_out--;
        sl_sending_done(sending, sending->status);
    } else {
        if (kind == LETTER_CALL)
            take_call(t, line);
        else if (line->conn && !line->hung_up)
            sl_conn_broken(line->conn, SL_E_PEER_LOST, "the peer closed the line");
        pthread_mutex_lock(&t->fabric->mutex);
        unref(pair);
        pthread_mutex_unlock(&t->fabric->mutex);
    }
}

/* A letter up to that number is still on its way. */
static bool is_waiting(struct sl_transport *t, uint64_t number)
{
    pthread_mutex_lock(&t->fabric->mutex);
    const struct sl_mail *mail = t->inbox;
    while (mail && mail->number > number)
        mail = mail->next;
    pthread_mutex_unlock(&t->fabric->mutex);
    return mail != NULL;
}

/* An end is closed when the frames that it sent are home and what was in the inbox when it hung up has been taken: then no
 * frame in there is for it. A letter about a hang-up may still come; it holds the pair. */
static bool close_ended_lines(struct sl_transport *t)
{
    bool any = false;
    for (struct sl_line **at = &t->closing; *at;) {
        struct sl_line *line = *at;
        struct sl_conn *conn = line->conn;
        if (line->n_out > 0 || is_waiting(t, line->hangup_number)) {
            at = &line->next_closing;
            continue;
        }
        *at = line->next_closing;
        pthread_mutex_lock(&t->fabric->mutex);
        line->transport = NULL;
        unref(line->pair);
        pthread_mutex_unlock(&t->fabric->mutex);
        any = true;
        if (conn)
            sl_conn_closed(conn);
    }
    return any;
}

/* Those that are there, off the inbox: its first ones. */
static struct sl_mail *letters_due(struct sl_transport *t)
{
    struct sl_mail *first = t->inbox, **at = &t->inbox;
    if (!t->slow) {
        t->inbox = NULL;
        t->inbox_end = &t->inbox;
        return first;
    }
    for (uint64_t now_ns = sl_clock_ns(); *at && (*at)->due_ns <= now_ns;)
        at = &(*at)->next;
    if (at == &t->inbox)
        return NULL;
    t->inbox = *at;
    *at = NULL;
    if (!t->inbox)
        t->inbox_end = &t->inbox;
    return first;
}

static bool take_letters(struct sl_transport *t)
{
    pthread_mutex_lock(&t->fabric->mutex);
    struct sl_mail *mail = letters_due(t);
    pthread_mutex_unlock(&t->fabric->mutex);
    bool any = mail != NULL;
    while (mail) {
        struct sl_mail *next = mail->next; /* taking a letter may post it again */
        take_letter(t, mail);
        mail = next;
    }
    return any;
}

static bool local_progress(struct sl_transport *t)
{
    bool any = take_letters(t);
    return close_ended_lines(t) || any;
}

static int local_fd(const struct sl_transport *t)
{
    return t->fd;
}

static bool local_arm(struct sl_transport *t)
{
    uint64_t n;
    ssize_t got = read(t->fd, &n, sizeof n);
    (void)got; /* nothing to read: no letter came */
    pthread_mutex_lock(&t->fabric->mutex);
    bool none = t->inbox == NULL || (t->slow && t->inbox->due_ns > sl_clock_ns());
    if (none && t->inbox) /* its bell may have been what was just read */
        ring(t, t->inbox->due_ns);
    pthread_mutex_unlock(&t->fabric->mutex);
    return none;
}

/* Nobody finds this listener any more; who called in the last moment is turned away. */
static void local_close(struct sl_transport *t)
{
    pthread_mutex_lock(&t->fabric->mutex);
    struct sl_transport **at = &t->fabric->listeners;
    while (*at != t)
        at = &(*at)->next;
    *at = t->next;
    pthread_mutex_unlock(&t->fabric->mutex);
    while (local_progress(t) || t->closing)
        ;
    close(t->fd);
    free(t);
}

static sl_status local_map(struct sl_transport *t, void *base, size_t bytes, void **region)
{
    (void)t;
    (void)base;
    (void)bytes;
    *region = NULL; /* memory of this process needs no registration */
    return SL_OK;
}

static void local_unmap(struct sl_transport *t, void *region)
{
    (void)t;
    (void)region;
}

const struct sl_transport_ops sl_transport_local = {
    .name = "local",
    .silent_loss = false, /* both ends live and die with the process */
    .one_clock = true,
    .open = local_open,
    .close = local_close,
    .where = local_where,
    .connect = local_connect,
    .send = local_send,
    .hangup = local_hangup,
    .map = local_map,
    .unmap = local_unmap,
    .progress = local_progress,
    .fd = local_fd,
    .arm = local_arm,
};
