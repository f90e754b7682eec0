/* HTTP/2 as the door reads it: frames and the length of gRPC messages, never header fields. No I/O, no clock, no lock.
 *
 * The gRPC core acts first and counts later: it makes a call for every HEADERS frame, lets MAX_CONCURRENT_STREAMS bind only who
 * acknowledged it, and collects a message of any declared length before it looks at a limit. So the door counts before it: open
 * streams, resets, control frames, header bytes, and how long each stream's message says it is. What it learns about a stream
 * must find its call, and the core tells nobody the number of a stream; therefore each new header block gets one more field,
 * SL_FRAMES_FIELD, appended as a CONTINUATION frame (a literal without index changes no table): the stream's ticket. Its name has
 * a random part of this process, and the last one in a block counts. A client can hide ours (a literal of its own that claims to
 * be longer) and send one of that name in its place, if it learns the name; so a ticket holds 64 random bits of its connection,
 * and nobody can name another's.
 *
 * A connection without a call costs no core: until its first HEADERS frame the door itself answers SETTINGS and PING and keeps
 * what must be replayed (`live` is false). Afterwards it removes the acknowledgements that its own answers made superfluous. */
#ifndef SL_NODE_RPC_FRAMES_H
#define SL_NODE_RPC_FRAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SL_FRAMES_STREAMS = 256, /* what SETTINGS tell a client: streams open at once on a connection */
    /* Who has not read our SETTINGS yet may open more without ill will; beyond this nobody is served: 512 streams are
     * 8 MiB in the core. */
    SL_FRAMES_MAX_STREAMS = 512,
    /* Before it has acknowledged them, which takes a round trip, a client has opened few streams: Go 100 at most, others none. So
     * whoever connects only to throw streams in is shut before the core has heard of one. The same bounds its resets. */
    SL_FRAMES_EARLY_STREAMS = 128,
    SL_FRAMES_WINDOW =
        65535, /* bytes of a message that a stream may send before it is granted (RFC 9113 6.9.2) */
    SL_FRAMES_RESETS = 1024,         /* a gateway that ends cancels all its calls at once, now and then: */
    SL_FRAMES_RESETS_A_SECOND = 100, /* this many again after a second; a reset flood makes 30,000 */
    SL_FRAMES_CONTROLS = 4096, /* PING, SETTINGS, PRIORITY, empty DATA and frames of no meaning, likewise */
    SL_FRAMES_CONTROLS_A_SECOND =
        500, /* a client that pings with every message of a stream makes some ten a second */
    /* PINGs that DATA sent to the client has paid for, a frame one: grpc-go sends one for what it receives, in every round trip,
     * to learn how fast the line is. The core's own count of them starts anew with each DATA frame, too. */
    SL_FRAMES_PINGS_PAID = 4096,
    SL_FRAMES_HEADER_BYTES = 64 << 10, /* of a block as it is sent; 8 KiB of fields are served */
    SL_FRAMES_CONTINUATIONS = 16,      /* a block of 64 KiB in frames of 16 KiB has 4 */
    /* DATA frames below 256 bytes in one message: each costs the core a slice of 32 bytes, whatever it holds. */
    SL_FRAMES_SMALL_BYTES = 256,
    SL_FRAMES_SMALL = 2048,
    SL_FRAMES_REPLAY_BYTES =
        512, /* what a client says before its first call: SETTINGS and a window, some 60 bytes */
    SL_FRAMES_IN_BYTES = 64 << 10,
    /* The most that comes out of SL_FRAMES_IN_BYTES: each frame of 9 bytes or more may get a field of 64. */
    SL_FRAMES_OUT_BYTES = SL_FRAMES_IN_BYTES * 8 + 1024,
    SL_FRAMES_NAME_BYTES = 20
};

/* Why a connection is shut; the names are those of the metric (sl_frames_ends). */
enum sl_frames_end {
    SL_FRAMES_GO_ON,
    SL_FRAMES_GARBAGE, /* not HTTP/2, or what no client may send */
    SL_FRAMES_TOO_MANY_STREAMS,
    SL_FRAMES_TOO_MANY_RESETS,
    SL_FRAMES_TOO_MANY_CONTROLS,
    SL_FRAMES_TOO_MUCH_HEADER,
    SL_FRAMES_TOO_SMALL_FRAMES,
    SL_FRAMES_NO_MEMORY,
    SL_FRAMES_ENDS
};
extern const char *const sl_frames_ends[SL_FRAMES_ENDS];

struct sl_frames_stream {
    uint32_t id;
    uint32_t length;     /* of the first message (`many`: of the newest), once `known` */
    uint32_t longest;    /* of all */
    uint32_t next, left; /* the prefix that is being read; what is missing of that message */
    uint8_t prefix_have; /* of the 5 bytes before a message */
    bool known;          /* the length is; a stream that ended without a message has length 0 */
    bool whole;          /* nothing more of the first message will come */
    bool many;           /* its client may send more than one message; each must fit the window */
    bool waiting;        /* the door's, like all below: for room */
    bool told;           /* that it is late or too long */
    bool granted;
    uint16_t small; /* DATA frames below SL_FRAMES_SMALL_BYTES */
    uint32_t reserved;
    uint64_t begun_ms, data_ms;
    uint64_t answer_ms; /* when the newest bytes of its answer came from the core */
    bool unread;        /* it was told that nobody reads its answer */
    void *call;
};

struct sl_frames_walk { /* where in a frame a direction is */
    uint8_t head[9];
    uint8_t have;
    bool swallow;
    uint8_t type, flags;
    uint32_t stream, left, taken;
};

struct
    sl_frames_events { /* about a stream, while its frames are read; the pointer is good until the return */
    void *context;
    void (*known)(void *context, struct sl_frames_stream *stream);
    void (*gone)(void *context, struct sl_frames_stream *stream);
};

struct sl_frames {
    struct sl_frames_walk up, down; /* from the client, from the core */
    uint32_t last_id, header_stream, header_bytes;
    uint8_t continuations;
    bool header_new, inject;
    bool live;         /* the core is wanted: replay, then whatever comes out */
    bool settled;      /* the first SETTINGS frame is here whole */
    bool swallow_ack;  /* the client's, of the door's own SETTINGS */
    bool acknowledged; /* it has come, and not in one breath with the client's hello */
    bool may_acknowledge;
    uint8_t core_acks; /* of the core, to SETTINGS that the door acknowledged */
    uint8_t pad_left;  /* of the DATA frame */
    bool pad_known;
    uint32_t pad;
    uint32_t data_at; /* the stream's place, of the DATA frame; n_streams and more: none */
    uint32_t n_streams, room, n_unfinished;
    uint32_t pings_paid;
    uint64_t resets_ms, controls_ms; /* when the buckets were empty of water, in thousandths */
    struct sl_frames_stream *streams;
    uint8_t ticket[24]; /* what is the connection's of it, as hexadecimal text */
    uint16_t replay_bytes;
    uint8_t replay[SL_FRAMES_REPLAY_BYTES];
};

struct sl_frames_out { /* the caller's memory, with room for SL_FRAMES_OUT_BYTES; bytes are added */
    uint8_t *data;
    size_t bytes;
};

struct sl_frames_ticket { /* which stream a call is */
    uint32_t connection, stream;
    uint64_t secret; /* the connection's */
};
/* The name of the field; made at the first use. */
const char *sl_frames_field(void);
/* Its value: false if it isn't one. */
bool sl_frames_read_ticket(const uint8_t *value, size_t bytes, struct sl_frames_ticket *ticket);

void sl_frames_init(struct sl_frames *frames, uint32_t connection, uint64_t secret);
void sl_frames_fini(struct sl_frames *frames);
/* How many of these first bytes of a connection may still become an HTTP/2 preface and a SETTINGS frame's head
 * (SL_FRAMES_PREFACE_BYTES): false, never. */
enum { SL_FRAMES_PREFACE_BYTES = 24, SL_FRAMES_HELLO_BYTES = 33 };
bool sl_frames_hello(const uint8_t *in, size_t bytes);
/* After the preface, up to SL_FRAMES_IN_BYTES of what the client sent. to_core is for the core, when it is there; `answer` (room for
 * SL_FRAMES_OUT_BYTES) is for the client, and only of a connection that is not live. */
enum sl_frames_end sl_frames_up(struct sl_frames *frames, const uint8_t *in, size_t bytes, uint64_t now_ms,
                                const struct sl_frames_events *events, struct sl_frames_out *to_core,
                                struct sl_frames_out *answer);
/* What the core says; to_client has room for bytes + 16. */
enum sl_frames_end sl_frames_down(struct sl_frames *frames, const uint8_t *in, size_t bytes, uint64_t now_ms,
                                  const struct sl_frames_events *events, struct sl_frames_out *to_client);
struct sl_frames_stream *sl_frames_find(const struct sl_frames *frames, uint32_t id);
void sl_frames_be_many(struct sl_frames *frames, struct sl_frames_stream *stream);
/* A GOAWAY frame that says why; only between frames (down.have and down.left are 0). */
size_t sl_frames_goaway(uint8_t *out, size_t room, uint32_t last_id, uint32_t code, const char *why);

#endif
