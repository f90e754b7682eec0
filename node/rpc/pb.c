/* Bounded protobuf (pb_impl.h). The arena never frees a piece: protobuf-c frees field by field,
 * which is wasted work for memory that dies as a whole. */
#include "node/rpc/pb_impl.h"
#include <stdlib.h>
#include <string.h>

enum { ARENA_FACTOR = 8, ARENA_SLACK = 64 << 10, ALIGNMENT = 16 };

void *sl_pb_take(struct sl_pb *pb, size_t bytes)
{
    if (bytes > pb->bytes - pb->used) {
        pb->refused = true;
        return NULL;
    }
    void *piece = pb->block + pb->used;
    size_t rounded = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    pb->used = rounded > pb->bytes - pb->used ? pb->bytes : pb->used + rounded;
    return memset(piece, 0, bytes);
}

static void *take(void *data, size_t bytes)
{
    return sl_pb_take(data, bytes);
}

static void give(void *data, void *piece)
{
    (void)data;
    (void)piece;
}

bool sl_pb_reserve(struct sl_pb *pb, size_t bytes)
{
    pb->block = malloc(bytes ? bytes : 1);
    pb->bytes = pb->block ? bytes : 0;
    pb->used = 0;
    pb->allocator = (ProtobufCAllocator){take, give, pb};
    return pb->block != NULL;
}

void sl_pb_free(struct sl_pb *pb)
{
    free(pb->block);
    memset(pb, 0, sizeof *pb);
}

ProtobufCMessage *sl_pb_unpack(struct sl_pb *pb, struct sl_rpc_call *call,
                               const ProtobufCMessageDescriptor *type, const uint8_t *message, size_t bytes)
{
    if (!sl_pb_reserve(pb, bytes * ARENA_FACTOR + ARENA_SLACK)) {
        sl_rpc_pushback(call, 1000);
        sl_rpc_finish(call, SL_E_EXHAUSTED, "out of memory for this request; try again later");
        return NULL;
    }
    ProtobufCMessage *unpacked = protobuf_c_message_unpack(type, &pb->allocator, bytes, message);
    if (unpacked)
        return unpacked;
    bool full = pb->refused;
    sl_pb_free(pb);
    if (full)
        sl_rpc_finish(call, SL_E_EXHAUSTED,
                      "the request unpacks to more than 8 times its size: send lists packed and no "
                      "unknown fields");
    else
        sl_rpc_finish(call, SL_E_INVALID, "the request is not a message of this method's type");
    return NULL;
}

sl_status sl_pb_write(struct sl_rpc_call *call, const ProtobufCMessage *message)
{
    uint8_t small[1024];
    size_t bytes = protobuf_c_message_get_packed_size(message);
    uint8_t *packed = bytes <= sizeof small ? small : malloc(bytes);
    if (!packed)
        return SL_E_NOMEM;
    protobuf_c_message_pack(message, packed);
    sl_status status = sl_rpc_write(call, packed, bytes);
    if (packed != small)
        free(packed);
    return status;
}

void sl_pb_reply(struct sl_rpc_call *call, const ProtobufCMessage *message)
{
    sl_status status = sl_pb_write(call, message);
    if (status == SL_OK)
        sl_rpc_finish(call, SL_OK, NULL);
    else if (status != SL_E_CANCELLED)
        sl_rpc_finish(call, SL_E_EXHAUSTED, "out of memory for the reply; try again later");
}

/* ---- raw fields ---- */

static bool varint(struct sl_pb_span *rest, uint64_t *value)
{
    *value = 0;
    for (uint32_t shift = 0; shift < 64 && rest->bytes; shift += 7) {
        uint8_t byte = *rest->data++;
        rest->bytes--;
        *value |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80))
            return true;
    }
    return false;
}

static bool skip(struct sl_pb_span *rest, uint64_t bytes)
{
    if (bytes > rest->bytes)
        return false;
    rest->data += bytes;
    rest->bytes -= (size_t)bytes;
    return true;
}

bool sl_pb_next(struct sl_pb_span *rest, uint32_t *number, struct sl_pb_span *value)
{
    uint64_t key, length;
    *value = (struct sl_pb_span){NULL, 0};
    if (!varint(rest, &key) || key >> 3 > UINT32_MAX)
        return false;
    *number = (uint32_t)(key >> 3);
    switch (key & 7) {
    case 0:
        return varint(rest, &length);
    case 1:
        return skip(rest, 8);
    case 2:
        if (!varint(rest, &length))
            return false;
        *value = (struct sl_pb_span){rest->data, (size_t)length};
        return skip(rest, length);
    case 5:
        return skip(rest, 4);
    default:
        return false;
    }
}

struct sl_pb_span sl_pb_find(struct sl_pb_span message, uint32_t number)
{
    struct sl_pb_span value;
    uint32_t at;
    while (sl_pb_next(&message, &at, &value))
        if (at == number)
            return value;
    return (struct sl_pb_span){NULL, 0};
}
