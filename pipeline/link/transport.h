/* Moving frames between nodes: a transport brings links up, lends out the receiver's slots as credits, moves
 * frames, and notices when a peer is gone. It moves bytes and knows no tensor.
 *
 * Two layers: `struct sl_transport_ops` (local | ucx | nccl) is driven by one I/O thread; `struct sl_io` is that
 * thread with rings to its owner, and is all that roles see. The owner (one thread) sends and takes events; buffers
 * belong to the io from the call until their one event, also after failure.
 *
 * A link is named by a 64-bit id that both ends know beforehand, with a 32-byte key. One side accepts, the other
 * connects; a link carries frames both ways. Where a peer is, is bytes (struct sl_io_address) that its io tells and that travel
 * to the other side by other means, beforehand: who is not awaited is not answered. It belongs to one epoch of the plan for its whole life; links of several
 * epochs may live on one io (while a plan is replaced), and a frame of another epoch than its link's ends the link. Each side lends n_slots of slot_bytes to the other: one slot = one
 * credit, cumulative counts on the wire. A frame sent without credit waits in the sender's io, in order. */
#ifndef SL_PIPELINE_LINK_TRANSPORT_H
#define SL_PIPELINE_LINK_TRANSPORT_H

#include "pipeline/record/wire.h"

enum sl_io_kind {
    SL_IO_LINK_UP,
    /* last event of a link; status and reason say why. Every tag and slot has come home before. */
    SL_IO_LINK_DOWN,
    SL_IO_SENT, /* the buffer of `tag` is free again; status SL_OK: the peer's owner has the frame; or why it has not */
    /* payload is the owner's until sl_io_release(io, link, slot). The header was checked, the payload was not read:
     * whoever uses it asks sl_frame_whole first, and counts and tells a mismatch. */
    SL_IO_FRAME,
    SL_IO_SILENCE, /* what sl_io_silent answers has changed */
    SL_IO_NUDGE    /* sl_io_nudge was called */
};

struct sl_io_event {
    enum sl_io_kind kind;
    sl_status status;
    uint64_t link;
    uint64_t tag;
    struct sl_wire wire;
    uint8_t *payload; /* 64-byte aligned */
    uint32_t slot;
    uint64_t at_us;     /* on the monotonic clock, when the I/O thread had the whole frame */
    const char *reason; /* static */
};

struct sl_fabric; /* the in-process network of the local transport */
sl_status sl_fabric_create(struct sl_fabric **fabric);
void sl_fabric_destroy(struct sl_fabric *fabric); /* after all ios on it */

/* Where an io is: its transport's bytes, for the io at the other end of a link and nobody else to read. */
enum { SL_IO_ADDRESS_BYTES = 256 };
struct sl_io_address {
    uint16_t n;
    uint8_t bytes[SL_IO_ADDRESS_BYTES];
};
/* false: n is 0 or too much. */
bool sl_io_address_set(struct sl_io_address *address, const void *bytes, size_t n);

enum { SL_IO_HOST_BYTES = 64 }; /* a numeric address with its zone, as text */

struct sl_io_config {
    const struct sl_transport_ops
        *transport; /* &sl_transport_local or &sl_transport_ucx, or either with rows beside its lines */
    const struct sl_rows_device *rows_device; /* those only (base/rows_device.h): where rows lie */
    uint64_t rows_from;                       /* those only: bytes of rows that go so, 0: from 256 KiB on */
    struct sl_fabric *fabric;                 /* local only */
    struct sl_net *net;                       /* sim only (transport_sim.h) */
    char address[256]; /* to listen on: a name or an IP address of this machine; local: ignored */
    uint16_t port;     /* 0: any of 13000..13063 (ucx), any (local) */
    /* local only, for measuring what a network would do: whatever leaves this io is under way for delay_us, and its frames leave
     * one behind the other at so many Gbit/s (0: at once). Both ends have it for what they send. */
    uint32_t delay_us;
    double gbit;
    struct sl_wire_limits limits;
    /* Told of the memory that frames of a link come to: when it is taken, and before it is given back. By the owner's thread. Or NULL. */
    void (*on_memory)(void *user, void *memory, size_t bytes, bool taken);
    void *memory_user;
    /* A peer that was not heard for silent_ms is silent, and lost after lost_ms; after half of that its line is made anew. 0: defaults 200, 1000, 10000, 2000; those but
     * the first are raised by TSan builds */
    uint32_t heartbeat_ms, silent_ms, lost_ms, handshake_ms;
    uint32_t join_ms; /* of links with rows beside, for both ends to meet; 0: 10000, raised likewise */
    const char *thread_name;
};

struct sl_io;
/* Starts the I/O thread and listens. SL_E_UNAVAILABLE names address and port. */
sl_status sl_io_create(struct sl_io **io, const struct sl_io_config *config, struct sl_err *err);
/* The same without a thread: whoever owns it says when it works and what time it is. It ends as a process does that is killed. seed: of
 * what is drawn. */
sl_status sl_io_create_stepped(struct sl_io **io, const struct sl_io_config *config, uint64_t seed,
                               struct sl_err *err);
/* All that can be done at that time, monotonic; returns for how many ms nothing is due but what the transport brings. */
int sl_io_turn(struct sl_io *io, uint64_t now_us);
/* Of two such ios: what each knows of the other's slots on a link is what is true there, as it must be once nothing is under way.
 * true, too, when the link is not up at both. */
bool sl_io_agrees(const struct sl_io *a, const struct sl_io *b, uint64_t link);
/* Where it is: for peers, and (numeric, without a port; empty: local) for people. */
const struct sl_io_address *sl_io_address(const struct sl_io *io);
const char *sl_io_host(const struct sl_io *io);
uint16_t sl_io_port(const struct sl_io *io);
bool sl_io_is_shielded(const struct sl_io *io); /* nobody but the hosts of its peers is heard at its port */
/* GOODBYE on every link, flush for at most 1 s, then close. After it no event comes; every buffer is free. */
void sl_io_destroy(struct sl_io *io);

struct sl_link_config {
    uint64_t id;
    uint64_t epoch; /* of the plan that has this link: both ends must name the same, and every frame does */
    uint8_t key[32];
    enum sl_link_auth auth; /* both ends must have the same */
    uint32_t n_slots;       /* 1..64 that we lend to the peer */
    size_t slot_bytes;
    /* Rows of ORDER go beside the line. Both ends must have the same. SL_E_INVALID: the transport cannot, or frames are to be
     * proved by a MAC of their payload, which would have to read the rows. */
    bool rows_beside;
};
/* Be ready for the peer that is there, and knows id and key. */
sl_status sl_io_accept(struct sl_io *io, const struct sl_link_config *link, const struct sl_io_address *peer);
/* Connect, with retries every 100 ms..2 s until it is up or dropped. A peer that is started again is elsewhere: drop the
 * link and connect to its new address. */
sl_status sl_io_connect(struct sl_io *io, const struct sl_link_config *link,
                        const struct sl_io_address *peer);
void sl_io_drop(struct sl_io *io, uint64_t link); /* -> LINK_DOWN */

/* A link that is up and whose peer is silent: it may be stopped, cut off, or gone, and it may come back, and then all goes on as
 * if nothing had been. 0: none. The owner's. */
uint64_t sl_io_silent(const struct sl_io *io);
bool sl_io_is_silent(const struct sl_io *io, uint64_t link); /* this one; false, too: there is no such link */

/* What the one who connected knows of the other's clock, that of sl_io_event.at_us; for drawings. The error of offset_us is at
 * most half of rtt_us, as long as neither I/O thread is kept from its work and the clocks do not drift. The one who accepted
 * never knows it, but within one process, where it is the same clock. */
struct sl_link_clock {
    bool known;        /* false, and zeros: not yet (it takes a ping after LINK_UP), or no such link */
    int64_t offset_us; /* the peer's clock minus ours; 0 where the difference is below the error */
    uint64_t rtt_us;
};
struct sl_link_clock sl_io_clock(const struct sl_io *io, uint64_t link); /* the owner's */

/* Queue a frame, sealed by whoever made its payload (sl_frame_seal). The payload is lent to us until SL_IO_SENT with this
 * tag (also when the link is down or unknown): it must not change. Nothing here reads it but the transport, to carry it.
 * SL_AGAIN: 1024 tags are out already. SL_E_INVALID: a header that no peer would take, or no seal (logged); no event follows.
 * A frame larger than the peer's slots comes back as SL_IO_SENT with SL_E_INVALID. */
sl_status sl_io_send(struct sl_io *io, uint64_t link, const struct sl_wire *wire, const void *payload,
                     uint64_t tag);
void sl_io_release(struct sl_io *io, uint64_t link, uint32_t slot);

/* The owner takes events: waits at most timeout_ms (-1: for ever, 0: not at all). SL_AGAIN when none came. */
sl_status sl_io_poll(struct sl_io *io, struct sl_io_event *event, int timeout_ms);
void sl_io_nudge(struct sl_io *io); /* any thread: makes a waiting sl_io_poll return SL_IO_NUDGE */

struct sl_io_stats {
    uint64_t bytes_sent, bytes_received, frames_sent, frames_received, links_up;
};
void sl_io_stats(const struct sl_io *io, struct sl_io_stats *stats); /* any thread, relaxed */

extern const struct sl_transport_ops sl_transport_local, sl_transport_ucx;
/* With rows of a GPU's memory beside the line: by NCCL, or by UCX that knows such memory (transport_beside.c). */
extern const struct sl_transport_ops sl_transport_local_nccl, sl_transport_ucx_nccl, sl_transport_ucx_device;

#endif
