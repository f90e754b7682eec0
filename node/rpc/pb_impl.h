/* protobuf for the services: bounded unpacking, packing into a call, and a walk over raw fields.
 *
 * protobuf-c allocates 50-63 times the size of a hostile message (measured), so a
 * request is unpacked into an arena of 8 times its bytes + 64 KiB, which takes it whole or fails
 * cleanly, and is freed at once. It also cuts a string at an embedded NUL in silence: who must know
 * walks the raw fields. */
#ifndef SL_NODE_RPC_PB_IMPL_H
#define SL_NODE_RPC_PB_IMPL_H

#include "node/rpc/rpc.h"
#include <protobuf-c/protobuf-c.h>

struct sl_pb { /* one request's memory; zero before use */
    uint8_t *block;
    size_t bytes, used;
    bool refused; /* something did not fit */
    ProtobufCAllocator allocator;
};

/* NULL: the call is finished already (INVALID_ARGUMENT or RESOURCE_EXHAUSTED), and pb is empty. */
ProtobufCMessage *sl_pb_unpack(struct sl_pb *pb, struct sl_rpc_call *call,
                               const ProtobufCMessageDescriptor *type, const uint8_t *message, size_t bytes);
/* More memory from the same arena, or from one of its own (sl_pb_reserve); zeroed; NULL: full. */
void *sl_pb_take(struct sl_pb *pb, size_t bytes);
bool sl_pb_reserve(struct sl_pb *pb, size_t bytes);
void sl_pb_free(struct sl_pb *pb);

/* Packs and queues; the status of sl_rpc_write, or SL_E_NOMEM. */
sl_status sl_pb_write(struct sl_rpc_call *call, const ProtobufCMessage *message);
/* The whole of a unary answer: packs, queues, finishes well. */
void sl_pb_reply(struct sl_rpc_call *call, const ProtobufCMessage *message);

/* A run of raw bytes, and the next field in it. Fields that are not length-delimited have data
 * NULL. False at the end and at the first byte that is not protobuf. */
struct sl_pb_span {
    const uint8_t *data;
    size_t bytes;
};
bool sl_pb_next(struct sl_pb_span *rest, uint32_t *number, struct sl_pb_span *value);
struct sl_pb_span sl_pb_find(struct sl_pb_span message, uint32_t number); /* the first; empty: none */

#endif
