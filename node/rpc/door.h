/* The door: who may come in, and how much of what they send may lie in memory. It accepts gRPC's connections, reads their frames
 * (frames.h), and passes them on to the core over a socket pair.
 *
 * Why a relay and not the socket itself: the core acts first and counts later (frames.h), makes 30 KB of transport for whoever
 * connects, and tells neither the length of a message before it has the whole nor the stream of a call. With its bytes in our
 * hands a connection is counted before the core hears of it, can be shut with a sentence, is known with its address, and we see
 * when it closes. TLS ends here, too (tls.h): behind a handshake of the core's own, its frames would be counted by nobody. It costs a copy and a wake-up each way, some 20 us a call. In descriptors: a stranger, and
 * whoever has not called yet, costs one and no core (600 bytes of ours); who has called costs three.
 *
 * Why messages wait: a call is taken on its headers, and its message is received only when there is room for all of it. Until
 * then the stream holds at most its window (64 KiB). Messages that fit the window need no room; others take it from one of two
 * pools, so that prompts never queue behind files; the connection that holds least is served first.
 *
 * Handshakes of TLS are work that strangers ask for, so they get a share of the thread's time and no more, a few at a turn, and
 * wait outside of the set of connections that it serves.
 *
 * Threads: one, the door's, does all I/O. claim, delivered and forget may come from any thread; `verdict` may come from the
 * door's or whichever thread makes room, with the door's lock held: it must not call back. */
#ifndef SL_NODE_RPC_DOOR_H
#define SL_NODE_RPC_DOOR_H

#include "base/status.h"
#include "base/text.h"
#include "node/rpc/caller.h"
#include "node/rpc/frames.h"
#include "node/rpc/tls.h"
#include <stdint.h>

enum {
    /* Beyond it a connection is closed at once. 10,000 are served even with 20,000 descriptors (sl_door_plan). */
    SL_DOOR_CONNECTIONS = 16384,
    SL_DOOR_RESERVE = 96,       /* descriptors for links, files and ops, and a sixteenth of the limit */
    SL_DOOR_HELLO_MS = 5000,    /* to the end of the first SETTINGS frame, a handshake before it included */
    SL_DOOR_HANDSHAKES = 1024,  /* of TLS that have begun, some 40 KB each; the rest waits unread */
    SL_DOOR_SHAKE_PERCENT = 25, /* of the thread's time, for handshakes */
    SL_DOOR_AGED_NODE_MS =
        5000, /* for a node\'s, when it has expired: nothing is lost, it takes its newest files */
    SL_DOOR_AGED_MS =
        60 * 60 * 1000,      /* for the calls on a connection whose certificate was replaced or has expired */
    SL_DOOR_GRACE_MS = 1000, /* to make the first call, before another may take the place */
    SL_DOOR_UNUSED_MS = 10 * 1000,     /* without a call, likewise of those that have called */
    SL_DOOR_IDLE_MS = 15 * 60 * 1000,  /* without a call: clients connect again when they need to */
    SL_DOOR_LINGER_MS = 5000,          /* for the last bytes to a client that the core has let go of */
    SL_DOOR_STUCK_MS = 60 * 1000,      /* for a client to take any of what waits for it */
    SL_DOOR_LEAVE_MS = 1000,           /* for a client that is told to go to read why */
    SL_DOOR_LEAVE_BYTES = 1 << 20,     /* what it may send meanwhile */
    SL_DOOR_STALL_MS = 20 * 1000,      /* without a byte of an unfinished message */
    SL_DOOR_MESSAGE_MS = 60 * 1000,    /* for a whole message, and as long again as this rate takes for it: */
    SL_DOOR_BYTES_A_SECOND = 64 << 10, /* a slow line's */
    /* While others wait for room, whoever holds some must use it. */
    SL_DOOR_HURRY_MS = 5000,
    SL_DOOR_HURRY_BYTES_A_SECOND = 256 << 10,
    /* A client may give its streams no window, or not read at all: an answer of which nothing goes for so long is ended. */
    SL_DOOR_UNREAD_MS = 60 * 1000,
    SL_DOOR_UNREAD_SHORT_MS = 5000, /* one message to a probe, a question or a node of ours */
    SL_DOOR_ROOM_MS = 60 * 1000,    /* a message waits for room at most so long */
    /* Streams of all connections whose message is not whole; each may hold its window, so these are 80 MB with what the core
     * has for a stream. One more, and the connection is shut whose messages have been silent for longest, added up. */
    SL_DOOR_UNFINISHED = 1024,
    SL_DOOR_SMALL_MESSAGE = 1 << 20, /* up to here it is a prompt */
    SL_DOOR_POOLS = 2
};
/* Bytes of granted messages, of prompts and of larger ones: of the node and of one connection. */
#define SL_DOOR_POOL_BYTES                                                                                   \
    {                                                                                                        \
        32u << 20, 128u << 20                                                                                \
    }
#define SL_DOOR_CONNECTION_BYTES                                                                             \
    {                                                                                                        \
        8u << 20, 64u << 20                                                                                  \
    }

enum sl_door_verdict {
    SL_DOOR_WAIT,     /* `verdict` will be called */
    SL_DOOR_GRANTED,  /* receive it */
    SL_DOOR_TOO_LONG, /* the message is longer than is served */
    SL_DOOR_LATE,     /* it stopped coming */
    SL_DOOR_BUSY,     /* there was no room for it in time */
    SL_DOOR_UNREAD,   /* the client takes nothing of the answer */
    SL_DOOR_GONE      /* the stream has ended: so will the call */
};

struct sl_door_config {
    const char *listen;
    const struct sl_tls_config *tls; /* NULL: in the clear */
    /* An abstract socket's name: processes of the same user on this machine come in by it as nodes, in the clear. NULL: none. */
    const char *socket;
    uint32_t max_message_bytes;
    void *context;
    void (*connected)(void *context, int fd); /* fd is the callee's: a connection with its first call */
    void (*verdict)(void *context, void *call, enum sl_door_verdict verdict, uint32_t length);
    /* Whether the call goes on waiting for its client to take something of its answer, of which the newest bytes left at
     * moved_ms (0: none yet). False: it has waited too long, and gets SL_DOOR_UNREAD. With the lock, on the door's thread. */
    bool (*patient)(void *context, void *call, uint64_t moved_ms, uint64_t now_ms);
    /* Connections are taken (NULL), or why not; on the door's thread, without the lock. */
    void (*changed)(void *context, const char *why);
};

/* How many connections fit `limit` descriptors of which `used` are taken: *total descriptors for the door. 0: none. */
uint32_t sl_door_plan(uint64_t limit, uint64_t used, uint32_t *total);

struct sl_door;
/* Binds. SL_E_UNAVAILABLE names the address, or the limit on descriptors. */
sl_status sl_door_open(struct sl_door **door, const struct sl_door_config *config, struct sl_err *err);
sl_status sl_door_start(struct sl_door *door, struct sl_err *err); /* accepts from now on */
/* No new connection, and those without a call are told to go; calls run on. Before the core's shutdown. */
void sl_door_drain(struct sl_door *door);
bool sl_door_is_left(struct sl_door *door); /* all are told to go: nothing reaches the core any more */
/* After the core has let go of all connections: waits up to a second for their last bytes to leave. NULL is fine. */
void sl_door_close(struct sl_door *door);
int sl_door_port(const struct sl_door *door);

/* The call of a stream is here; many: it may get several messages, none longer than a stream's window. */
enum sl_door_verdict sl_door_claim(struct sl_door *door, const struct sl_frames_ticket *ticket, void *call,
                                   bool many, uint32_t *length);
/* Who makes the call of a stream; false: the stream has ended. */
bool sl_door_caller(struct sl_door *door, const struct sl_frames_ticket *ticket, struct sl_caller *caller);
void sl_door_delivered(struct sl_door *door,
                       const struct sl_frames_ticket *ticket);                    /* its message is freed */
void sl_door_forget(struct sl_door *door, const struct sl_frames_ticket *ticket); /* no verdict any more */

void sl_door_metrics(struct sl_door *door, struct sl_text *text);

#endif
