/* What an I/O thread keeps: the hub, its links and their connections. Private to link.c (frames),
 * handshake.c (who may talk), life.c (whether they still do) and io.c, which drives them.
 *
 * A link is what the owner asked for, by id: it is made by the owner, lives on the I/O thread while
 * frames move, and is freed there once the owner has seen LINK_DOWN and given every slot back. A
 * connection (sl_conn) is one line of the transport under it: a link that dials may use up several
 * of them before one passes the handshake; a line that came in has no link before it. Fields of
 * sl_link are grouped by the thread that owns them; nothing is shared but the estimate of the peer's clock. */
#ifndef SL_PIPELINE_LINK_LINK_IMPL_H
#define SL_PIPELINE_LINK_LINK_IMPL_H

#include "base/bell.h"
#include "base/digest.h"
#include "base/ring.h"
#include "base/rng.h"
#include "pipeline/link/transport_impl.h"

enum {
    SL_LINKS_MAX = 64,
    SL_SLOTS_MAX = 64,
    SL_HALF_OPEN_MAX = 16,
    SL_SENDS_MAX = 1024,
    SL_CONTROL_BYTES = 64, /* payload of every control frame but WELCOME, which has an id more */
    SL_NONCE_BYTES = 16,
    SL_MAC_BYTES = 32,
    SL_WELCOME_BYTES = SL_NONCE_BYTES + SL_MAC_BYTES + SL_BESIDE_ID_BYTES,
    SL_PAD_BYTES = 8,   /* what a frame without payload carries (UCX wants some) */
    SL_LEAVE_MS = 1000, /* for flushing when a link is dropped or left */
    SL_DIAL_AGAIN_MS = 20,
    SL_RETRY_MIN_MS = 100,
    SL_RETRY_MAX_MS = 2000,
    SL_CLOCK_SAMPLES = 16,   /* pings of which the fastest tells the peer's clock */
    SL_BREAKS_MAX = 8,       /* of lines in a row on which no frame got through */
    SL_SLOWEST_MB_PER_S = 64 /* silence is allowed for as long as the bytes under way need */
};

struct sl_slot {
    struct sl_landing landing;
    uint64_t at_us;
    bool whole; /* arrived, waits for its turn */
    uint8_t index;
};

enum sl_link_state { SL_LINK_WAITING, SL_LINK_UP, SL_LINK_OVER };

struct sl_link {
    struct sl_link_config config; /* constant after creation, like all down to `stride` */
    uint32_t entry;
    bool dials;
    struct sl_io_address peer;
    uint8_t *memory;
    size_t memory_bytes, stride;

    /* the owner's */
    uint64_t held;  /* slots with the owner, a bit each */
    uint32_t n_out; /* tags not yet home */
    bool dropped, down_noted, down_waiting;
    sl_status down_status;
    const char *down_reason;

    /* the I/O thread's */
    enum sl_link_state state;
    struct sl_conn *conn;
    void *region;
    struct sl_sending *waiting, **waiting_end;
    struct sl_sending *unconfirmed,
        **unconfirmed_end; /* sent, in order; those with a conn are with the transport yet */
    uint64_t granted_to_us, sent, confirmed, peer_slot_bytes;
    uint64_t granted_to_peer, delivered;
    struct sl_slot slots[SL_SLOTS_MAX];
    uint8_t free_slots[SL_SLOTS_MAX];
    uint32_t n_free;
    struct sl_slot *window[SL_SLOTS_MAX]; /* by sequence: frames may end out of order */
    bool cancelled;                       /* the owner dropped it */
    bool leaving;                         /* say goodbye and go */
    bool broken; /* it was up, its line broke, and until lost_at_ms another one may carry on */
    const char *broken_reason;
    uint64_t leave_by_ms, retry_at_ms, lost_at_ms;
    uint32_t retry_ms;
    uint64_t headway;  /* frames that got through, either way, when the line broke last */
    uint32_t n_breaks; /* since then, with frames on their way */

    _Atomic bool silent; /* likewise: sl_io_silent */
    /* the I/O thread's to write and the owner's to read: sl_io_clock. A pair may be of two neighbouring estimates. */
    _Atomic bool clock_known;
    _Atomic int64_t clock_offset_us;
    _Atomic uint64_t clock_rtt_us;
};

enum sl_conn_state {
    SL_CONN_ACCEPTED, /* server: waits for HELLO */
    SL_CONN_GREETED,  /* server: has sent WELCOME, waits for the proof */
    SL_CONN_JOINING,  /* server: has the proof, waits until rows can go beside */
    SL_CONN_DIALED,   /* client: has sent HELLO */
    SL_CONN_PROVED,   /* client: has sent its proof, waits for the first CREDIT */
    SL_CONN_OPEN
};

struct sl_clock_sample { /* one ping and its answer */
    int64_t offset_us;   /* the peer's clock minus ours */
    uint64_t rtt_us;
};

struct sl_control_frame {
    struct sl_sending sending;
    uint8_t body[SL_WELCOME_BYTES];
};

struct sl_proof { /* of frames one way (auth.c) */
    struct sl_hmac_key header;
    struct sl_gmac *payload; /* NULL: frames are proved by their headers */
};

struct sl_conn {
    struct sl_conn *next;
    struct sl_hub *hub;
    struct sl_line *line;
    struct sl_link *link; /* NULL: a line that came in, before its handshake */
    enum sl_conn_state state;
    uint64_t link_id, epoch; /* the link's: as dialed, or as the call named it and a link here has them */
    uint8_t nonce_client[SL_NONCE_BYTES], nonce_server[SL_NONCE_BYTES];
    uint64_t beside; /* rows from so many bytes on go beside; 0: none do */
    uint8_t id_client[SL_BESIDE_ID_BYTES], id_server[SL_BESIDE_ID_BYTES]; /* where; zeros: not told yet */
    enum sl_link_auth auth; /* of the link, once it is known which that is */
    struct sl_proof out, in;
    uint64_t n_signed;
    uint64_t opened_ms, heard_ms, bytes_under_way;
    uint64_t excused_ms; /* for how long the bytes that were under way at its fault excused silence */
    uint64_t ping_at_ms; /* the one who dialed: at once when it is up, then by the heartbeat */
    struct sl_clock_sample clock_samples[SL_CLOCK_SAMPLES];
    uint32_t n_clock_samples;     /* ever; the last ones are kept */
    uint32_t n_sends, n_landings; /* data frames with the transport */
    bool joins;                   /* rows are to go beside it, and both ends have begun to meet */
    bool said_goodbye, heard_goodbye, hung_up;
    bool for_good; /* no other line will carry on: we have decided so, or the peer says so */
    uint64_t peer_sent, goodbye_by_ms;
    sl_status fault;
    const char *reason;
    struct sl_control_frame control_out[SL_WIRE_GOODBYE + 1]; /* by kind */
    struct sl_landing control_in;
    uint8_t control_body[SL_WELCOME_BYTES];
};

enum sl_note_kind { SL_NOTE_UP, SL_NOTE_DOWN, SL_NOTE_SENT, SL_NOTE_FRAME };

struct sl_note { /* from the I/O thread to the owner */
    enum sl_note_kind kind;
    sl_status status;
    struct sl_link *link;
    union {
        struct sl_sending *sending;
        struct sl_slot *slot;
        const char *reason;
    };
};

struct sl_fault {
    uint64_t link;
    enum sl_wire_kind kind;
    enum sl_damage where;
    uint32_t at;
};

struct sl_hub {
    const struct sl_transport_ops *ops;
    struct sl_transport *transport;
    struct sl_io_config config; /* with the defaults filled in */
    struct sl_link *links[SL_LINKS_MAX];
    uint32_t n_entries; /* of links: none has had one behind them */
    struct sl_conn *conns;
    struct sl_ring notes;
    struct sl_bell owner;
    struct sl_rng jitter;
    uint64_t now_ms, now_us; /* sl_hub_turn */
    uint64_t due_ms;         /* until then the last step had nothing to do; 0: there was none */
    uint64_t admitted;       /* entries of links whose peers may come, as the transport was told */
    bool admit_stale;        /* an entry is another link's since */
    bool closing;
    _Atomic uint64_t bytes_sent, bytes_received, frames_sent, frames_received, links_up, refusals;
    _Atomic uint32_t fault_corrupt;
    _Atomic bool silence_changed; /* and the owner was not told yet */
    _Atomic bool fault_mute, fault_armed, fault_cut;
    struct sl_fault fault; /* the I/O thread's while armed, then the test's */
};

/* The hub reads no clock. Its driver tells it the time, monotonic ms and wall-clock us, before each of its calls below and
 * before each round of the transport's progress; every deadline is reckoned from this and every frame stamped with it. */
static inline void sl_hub_turn(struct sl_hub *hub, uint64_t now_ms, uint64_t now_us)
{
    hub->now_ms = now_ms;
    hub->now_us = now_us;
}

/* The I/O thread's calls. */
void sl_link_begin(struct sl_hub *hub, struct sl_link *link); /* register memory, dial or be ready */
void sl_link_send(struct sl_hub *hub, struct sl_link *link,
                  struct sl_sending *sending); /* link NULL: unknown */
void sl_link_give_back(struct sl_hub *hub, struct sl_link *link, uint32_t index);
void sl_link_cancel(struct sl_hub *hub, struct sl_link *link);
void sl_link_end(struct sl_hub *hub, struct sl_link *link); /* unregister; the memory is the caller's */
/* Timers, closings and retries; returns for how many ms nothing is due. */
int sl_hub_step(struct sl_hub *hub);
void sl_hub_leave(struct sl_hub *hub);      /* GOODBYE on every link, accept no more */
bool sl_hub_idle(const struct sl_hub *hub); /* no connection is left */
void sl_hub_abort(struct sl_hub *hub);      /* the time for flushing is over */

/* Between the three files. */
static inline size_t sl_control_bytes(enum sl_wire_kind kind)
{
    return kind == SL_WIRE_WELCOME ? SL_WELCOME_BYTES : SL_CONTROL_BYTES;
}
void sl_hub_note(struct sl_hub *hub, const struct sl_note *note);
static inline void sl_hub_count(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}
/* The first fault of a connection counts; sl_hub_step hangs up. */
void sl_conn_fail(struct sl_conn *conn, sl_status status, const char *reason);
/* How long what is on its way may take on the slowest line that is foreseen: so long the peer may be silent. */
static inline uint64_t sl_conn_excuse_ms(const struct sl_conn *conn)
{
    return conn->bytes_under_way / (1000u * SL_SLOWEST_MB_PER_S);
}
/* auth.c. Both nonces are known: the keys of this line; false: out of memory. */
bool sl_conn_agree(struct sl_conn *conn, const uint8_t out[32], const uint8_t in[32]);
void sl_conn_forget_keys(struct sl_conn *conn);
/* The header of a frame that goes out now, with its proof. Its payload is what the peer will have. */
void sl_conn_pack(struct sl_conn *conn, struct sl_sending *sending);
/* NULL, or why the frame is not the peer's (static): when its header is there, and when all of it is. */
const char *sl_conn_doubt_header(struct sl_conn *conn, const struct sl_wire *wire,
                                 const uint8_t header[SL_WIRE_BYTES]);
const char *sl_conn_doubt_payload(struct sl_conn *conn, const struct sl_landing *landing);

void sl_conn_refuse(struct sl_conn *conn, const char *reason); /* a fault before the link is up; counted */
/* At most one control frame of a kind is under way: one that would be the second is dropped, CREDIT follows the first. */
void sl_conn_control(struct sl_conn *conn, enum sl_wire_kind kind, uint64_t number,
                     const uint8_t *body); /* of sl_control_bytes(kind); NULL: zeros */
void sl_conn_credit(struct sl_conn *conn); /* tells the peer what it may send by now */
void sl_conn_on_hello(struct sl_conn *conn, const struct sl_wire *wire, const uint8_t *body);
void sl_conn_on_welcome(struct sl_conn *conn, const uint8_t *body);
void sl_conn_on_first_credit(struct sl_conn *conn); /* the dialing side is up */
void sl_conn_on_goodbye(struct sl_conn *conn, uint64_t peer_sent);
void sl_conn_on_ping(struct sl_conn *conn, uint64_t number, const uint8_t *body);
void sl_conn_on_pong(struct sl_conn *conn, const uint8_t *body);
void sl_link_set_clock(struct sl_link *link, int64_t offset_us, uint64_t rtt_us);
sl_status sl_link_dial(struct sl_hub *hub, struct sl_link *link); /* a connection, and HELLO on it */
void sl_link_over(struct sl_hub *hub, struct sl_link *link, sl_status status, const char *reason);
void sl_link_return_waiting(struct sl_hub *hub, struct sl_link *link, sl_status status);
void sl_link_return_unconfirmed(struct sl_hub *hub, struct sl_link *link, sl_status status);
void sl_link_break(struct sl_link *link,
                   const char *reason); /* its line is gone: what came in half is forgotten */
void sl_link_set_silent(struct sl_hub *hub, struct sl_link *link, bool silent);

#endif
