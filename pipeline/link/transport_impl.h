/* The seam between the link layer (link.c: credits, order; handshake.c: who may talk; life.c: heartbeat) and what
 * carries bytes (transport_local.c, transport_ucx.c). Private to pipeline/.
 *
 * A transport knows lines: two ends, frames of a header and a payload each. It is driven by one I/O
 * thread; only that thread calls the operations, and all upcalls happen inside `send` or
 * `progress`. A sending (a frame going out) and a landing (a frame coming in) belong to the transport
 * from the call to their one report, also after failure; `closed` is the last word about a line,
 * after every sending and every landing of it was reported. A broken line is reported and then left
 * alone until `hangup`.
 *
 * A frame comes in twice: `arrived` when its header is there, which names the place for the payload, and `landed` when the
 * payload lies in it; in between other frames may arrive and land, in any order. So header and payload may travel apart: over
 * a transport of collective calls (NCCL) headers, and the payloads of control frames (`link` is NULL), go over a
 * connection beside it in the order of `send`, and `arrived` posts the receive. Such a one has no length of its own to
 * compare (SL_BYTES_UNTOLD), its calls end without a word on any descriptor (poll_ms), and after `arrived` has returned NULL,
 * or a peer has gone, a call that nobody will match is for `hangup` to abort. Nothing above the seam reads or writes a
 * payload of data, out or in, but one: SL_PAD_BYTES of zeros stand for an empty one and lie in host memory. */
#ifndef SL_PIPELINE_LINK_TRANSPORT_IMPL_H
#define SL_PIPELINE_LINK_TRANSPORT_IMPL_H

#include "pipeline/link/transport.h"

#include <stddef.h>

enum { SL_LABEL_BYTES = 32, SL_BESIDE_ID_BYTES = 128 };

struct sl_hub;       /* the link layer of one I/O thread */
struct sl_conn;      /* its view of a line */
struct sl_link;      /* what the owner knows by an id */
struct sl_line;      /* the transport's view of a line */
struct sl_transport; /* the transport's state of one I/O thread */
struct sl_pair;      /* a line of the local transport, both ends */
struct sl_rows_carrier;

/* A letter in an inbox of the local transport; it lies in the thing it is about, so that none is
 * allocated. */
struct sl_mail {
    struct sl_mail *next;
    struct sl_pair *pair;
    uint64_t due_ns, number; /* when it is there, 0: at once; the inbox counts */
    uint8_t kind, to_side;
};

struct sl_sending { /* a frame on its way out */
    struct sl_sending *next;
    struct sl_conn *conn; /* while the transport has it */
    struct sl_link *link; /* NULL: a control frame */
    struct sl_wire wire;
    const void *payload;
    size_t bytes; /* on the line */
    uint64_t link_id, tag;
    sl_status status;
    uint8_t *damaged; /* by a test: a copy of the payload, sent in its place */
    bool busy, again; /* control frames: one of a kind is under way; send one more after it */
    struct sl_mail mail;
    uint8_t label[SL_LABEL_BYTES]; /* the transport's, to lie before the header */
    uint8_t header[SL_WIRE_BYTES];
};
_Static_assert(offsetof(struct sl_sending, header) == offsetof(struct sl_sending, label) + SL_LABEL_BYTES,
               "label and header can be sent as one");

struct sl_landing { /* where a frame that comes in has to go */
    struct sl_conn *conn;
    uint8_t *to;
    size_t bytes;
    void *region; /* the registration of `to`, NULL: none */
    struct sl_wire wire;
    uint8_t header[SL_WIRE_BYTES];
    bool busy;
};

enum sl_hangup {
    SL_HANGUP_END,    /* before it was of use, or the peer knows */
    SL_HANGUP_BROKEN, /* another will carry on, and not over what this one went over */
    SL_HANGUP_OVER    /* none will: the peer is told, if there is a way to */
};

struct sl_transport_ops {
    const char *name;
    const struct sl_transport_ops *inner;  /* NULL, or what this one carries frames with, but for rows */
    const struct sl_rows_carrier *carrier; /* and what it carries rows with (transport_beside.h) */
    bool silent_loss;                      /* a peer can vanish without a word: send heartbeats */
    bool one_clock;                        /* both ends read the same clock: it need not be estimated */
    /* 0: fd tells of everything. Else sendings and landings of data may end without it: while any is under way, and always
     * when there is no fd, progress is called after at most so many ms. */
    uint32_t poll_ms;

    /* Opens and listens. */
    sl_status (*open)(struct sl_transport **transport, struct sl_hub *hub, const struct sl_io_config *config,
                      struct sl_err *err);
    void (*close)(struct sl_transport *transport); /* after every line and region */
    /* Where others reach it; host may be left empty. shielded: strangers don't. */
    void (*where)(const struct sl_transport *transport, struct sl_io_address *address,
                  char host[SL_IO_HOST_BYTES], uint16_t *port, bool *shielded);
    /* Only lines to and from these peers are wanted from now on; NULL: it needs no telling. They stay valid until the next
     * call. Lines that are there already stay. */
    void (*admit)(struct sl_transport *transport, const struct sl_io_address *const *peers, uint32_t n_peers);

    /* A line for that link. SL_E_INVALID: the address can never work; SL_AGAIN: ask again in SL_DIAL_AGAIN_MS; anything else:
     * try again later. */
    sl_status (*connect)(struct sl_transport *transport, uint64_t link, const struct sl_io_address *peer,
                         struct sl_conn *conn, struct sl_line **line);
    void (*send)(struct sl_line *line,
                 struct sl_sending *sending); /* -> sl_sending_done once, maybe before return */
    void (*hangup)(struct sl_line *line, enum sl_hangup how); /* -> sl_conn_closed once, from progress */

    sl_status (*map)(struct sl_transport *transport, void *base, size_t bytes, void **region);
    void (*unmap)(struct sl_transport *transport, void *region);

    bool (*progress)(struct sl_transport *transport); /* never blocks; true: something happened */
    int (*fd)(const struct sl_transport *transport);  /* -1: none; then poll_ms is not 0 */
    bool (*arm)(struct sl_transport *transport); /* true: sleep, until fd is readable or poll_ms is over */

    /* Of one that carries rows beside its lines, over links that are so configured (sl_link_config.rows_beside); NULL: it does not. */
    /* From so many bytes of rows in an ORDER on: both ends must have the same. */
    uint64_t (*beside)(const struct sl_transport *transport);
    /* The handshake tells each end the id of the other, drawn anew for every line, under its MAC. false: there is none to be had. */
    bool (*offer)(struct sl_line *line, struct sl_conn *conn, uint8_t id[SL_BESIDE_ID_BYTES]);
    /* The other's is proved: meet there. SL_AGAIN: sl_conn_joined follows, or the line breaks; else why not. */
    sl_status (*join)(struct sl_conn *conn, const uint8_t id[SL_BESIDE_ID_BYTES]);
    /* With an inner transport: its lines are lines of this one. It is told before that one hangs up, and what that one reports is heard
     * here first, and passed on by sl_hub_X. */
    void (*leave)(struct sl_conn *conn);
    struct sl_landing *(*arrived)(struct sl_transport *transport, struct sl_conn *conn, const void *header,
                                  size_t header_bytes, size_t payload_bytes);
    void (*landed)(struct sl_transport *transport, struct sl_landing *landing, sl_status status);
    void (*sent)(struct sl_transport *transport, struct sl_sending *sending, sl_status status);
    void (*closed)(struct sl_transport *transport, struct sl_conn *conn);
};

/* Upcalls. A call for a link comes in: who is to be at the other end of it (NULL: nobody waits for that link), and, when it
 * is so, the connection (NULL: turn it away). */
const struct sl_io_address *sl_hub_awaits(struct sl_hub *hub, uint64_t link);
void sl_hub_refused(struct sl_hub *hub); /* who called is somebody else; counted */
struct sl_conn *sl_hub_accept(struct sl_hub *hub, struct sl_line *line, uint64_t link);
#define SL_BYTES_UNTOLD SIZE_MAX /* payload_bytes: the transport has only the header's word for it */
struct sl_landing *sl_conn_arrived(struct sl_conn *conn, const void *header, size_t header_bytes,
                                   size_t payload_bytes); /* NULL: drop it, the line is at fault */
void sl_conn_landed(struct sl_landing *landing, sl_status status);
void sl_sending_done(struct sl_sending *sending, sl_status status);
void sl_conn_broken(struct sl_conn *conn, sl_status status, const char *reason);
void sl_conn_over(struct sl_conn *conn); /* the peer says that no other line will follow */
void sl_conn_closed(struct sl_conn *conn);
struct sl_line *sl_conn_line(const struct sl_conn *conn);
void sl_conn_joined(struct sl_conn *conn); /* rows can go */
uint64_t sl_conn_delivered(
    const struct sl_conn *conn); /* frames of its link, over all lines: the number of the next */

/* The hub's own ears, for a transport that decorates another. */
struct sl_landing *sl_hub_arrived(struct sl_conn *conn, const void *header, size_t header_bytes,
                                  size_t payload_bytes);
void sl_hub_landed(struct sl_landing *landing, sl_status status);
void sl_hub_sent(struct sl_sending *sending, sl_status status);
void sl_hub_closed(struct sl_conn *conn);

/* For tests: faults that no public call can make. Any thread. */
void sl_io_fault_corrupt(struct sl_io *io, uint32_t n_frames); /* the next n get a wrong checksum */
enum sl_damage { SL_DAMAGE_HEADER, SL_DAMAGE_META, SL_DAMAGE_ROWS /* what is behind the meta bytes */ };
/* One bit of byte `at` of that part, in the next frame of this kind that has such a byte, on this link (0: on any), is
 * turned on its way out; the bytes of the sender stay as they are. One at a time: false while the last one still waits. */
bool sl_io_fault_damage(struct sl_io *io, uint64_t link, enum sl_wire_kind kind, enum sl_damage where,
                        uint32_t at);
void sl_io_fault_mute(struct sl_io *io, bool mute); /* heartbeats are not sent */
void sl_io_fault_cut(struct sl_io *io);             /* every line of it breaks, soon and once */
uint64_t sl_io_refusals(const struct sl_io *io);    /* handshakes that failed here */

#endif
