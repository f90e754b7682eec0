/* The 128-byte header of every frame between nodes: little-endian, fixed offsets, own CRC.
 * Knows bytes only: no socket, no model. Everything in it is checked before a payload byte is touched; the payload itself is
 * vouched for by its checksum (sl_frame_seal, sl_frame_whole). */
#ifndef SL_PIPELINE_RECORD_WIRE_H
#define SL_PIPELINE_RECORD_WIRE_H

#include "base/status.h"
#include <stdbool.h>
#include <stdint.h>

enum { SL_WIRE_BYTES = 128, SL_WIRE_VERSION = 13, SL_WIRE_MAGIC = 0x3154504d /* "MPT1" */ };

enum sl_wire_kind {
    SL_WIRE_HELLO = 1, /* the first six belong to the transport and never reach a role */
    SL_WIRE_WELCOME,
    SL_WIRE_CREDIT,
    SL_WIRE_PING,
    SL_WIRE_PONG,
    SL_WIRE_GOODBYE,
    SL_WIRE_ORDER,   /* one record of the order log, with its chunk's rows when it runs one */
    SL_WIRE_RESULT,  /* last stage -> coordinator: what a record produced */
    SL_WIRE_KV,      /* stage -> decode: KV pages of a layer range */
    SL_WIRE_ADOPT,   /* coordinator -> decode, and from part to part: take this sequence, or cancel it */
    SL_WIRE_TOKENS,  /* decode -> coordinator; from part to part */
    SL_WIRE_SPOILED, /* down the stages, or decode -> coordinator: a node's weights are not what was loaded */
    SL_WIRE_STEP,    /* around the parts of a decode worker: rows of a micro-batch (parts.h) */
    SL_WIRE_ENDS     /* likewise: sequences that end */
};

enum { /* flags */
       SL_WIRE_HAS_CHECKSUM = 1,
       SL_WIRE_HAS_MAC = 2,
       SL_WIRE_BY_LANES = 4 /* the checksum is that of base/lanes.h, as devices make it */
};
enum { SL_WIRE_MAC_BYTES = 16 };

enum sl_link_auth { /* what every frame of a link has that proves who sent it (pipeline/link/auth.c) */
                    SL_LINK_AUTH_NONE,   /* the handshake of its line alone */
                    SL_LINK_AUTH_HEADER, /* a MAC of its header, and thereby of the checksum of its payload */
                    SL_LINK_AUTH_PAYLOAD, /* a MAC of all its bytes */
                    SL_LINK_AUTHS
};
const char *sl_link_auth_name(enum sl_link_auth auth);                /* "none" "header" "payload" */
bool sl_link_auth_by_name(const char *name, enum sl_link_auth *auth); /* false: there is none of that name */

struct sl_wire {
    uint16_t kind, flags;
    uint64_t seq;         /* sequence id, where the frame is about one */
    uint64_t epoch;       /* set by the transport */
    uint64_t number;      /* set by the transport: frame number on its link */
    uint32_t chunk_index; /* of KV pages: the slice of the sequence that filled them */
    uint32_t page;        /* of KV pages: where the decode worker puts them (order.h); else 0 */
    uint16_t source;
    uint16_t layer_first, layer_count;
    uint64_t token_first;
    uint32_t token_count;
    uint8_t dtype, rank; /* of the rows behind the meta bytes; rank 0: none. dtype: sl_dtype */
    uint8_t profile;     /* of KV pages: sl_profile, the numerics that made them; else 0 */
    uint32_t shape[4];
    uint64_t payload_bytes; /* meta_bytes + product(shape) * size of dtype */
    uint32_t checksum;      /* of the payload, when flagged: low half of XXH3, or by lanes (sl_frame_seal) */
    uint32_t meta_bytes;    /* leading bytes of the payload which are a record */
    uint64_t mac_number;    /* of the MAC on its line, when flagged; set by the transport */
};

struct sl_wire_limits {
    uint64_t max_payload_bytes;
    uint32_t max_layers;
    uint64_t max_tokens;
};

void sl_wire_pack(uint8_t out[SL_WIRE_BYTES], const struct sl_wire *wire);
/* NULL, or what is wrong, a static string. Order of checks: length, magic, version, header CRC, kind and flags, reserved
 * zeros, limits, ranges (overflow-safe), profile, dtype, rank, product(shape)*size + meta == payload. */
const char *sl_wire_unpack(struct sl_wire *wire, const uint8_t *in, size_t bytes,
                           const struct sl_wire_limits *limits);

/* A MAC of the frame (pipeline/link/auth.c) is taken over the header as it is packed, flagged, with zeros in its place and in the
 * CRC's. From a header: that text and the MAC that it has. Into it, and the CRC is right again. */
void sl_wire_mac_text(const uint8_t header[SL_WIRE_BYTES], uint8_t text[SL_WIRE_BYTES],
                      uint8_t mac[SL_WIRE_MAC_BYTES]);
void sl_wire_set_mac(uint8_t header[SL_WIRE_BYTES], const uint8_t mac[SL_WIRE_MAC_BYTES]);

/* The payload has a checksum of its own, made by whoever made the bytes and checked by whoever is about to use them: what
 * carries frames in between (pipeline/link/) never reads a payload, which may lie in a device's memory or be on its way
 * still. Seal when no byte changes any more; a frame passed on with one byte changed is sealed anew. */
void sl_frame_seal(struct sl_wire *wire, const void *payload);
/* The same with the checksum that bytes in a device's memory can have, too (base/lanes.h); who checks sees it by a flag. */
void sl_frame_seal_by_lanes(struct sl_wire *wire, const void *payload);
/* Of a frame whose rows lie with a device, which has summed them up behind a record of a multiple of 16 bytes; payload: that record. */
struct sl_lane_sums;
void sl_frame_seal_by_sums(struct sl_wire *wire, const void *payload, const struct sl_lane_sums *rows);
bool sl_frame_whole_by_sums(const struct sl_wire *wire, const void *payload, const struct sl_lane_sums *rows);
/* Over payload_bytes, which sl_wire_unpack has bounded. False also for a frame that was not sealed. */
bool sl_frame_whole(const struct sl_wire *wire, const void *payload);

#endif
