/* Packing and checking the header of a frame.
 *
 * The header is 128 bytes at fixed little-endian offsets, never a C struct copied, so that two
 * builds of different compilers agree. The bytes come from another machine and are believed in the
 * order that wire.h names: a damaged header ends at the CRC, a header of somebody who means harm
 * ends at the limits and at the overflow-safe sums. A header that passes describes a payload whose
 * every length is bounded.
 *
 * Offsets 16..127 are covered by the CRC like the rest; the CRC field itself counts as zero. The
 * u32 behind the payload checksum holds the length of the record in front of the rows. */
#include "pipeline/record/wire.h"

#include "base/arena.h"
#include "base/bytes.h"
#include "base/digest.h"
#include "base/dtype.h"
#include "base/lanes.h"
#include "base/profile.h"
#include <string.h>

enum {
    AT_MAGIC = 0,
    AT_VERSION = 4,
    AT_HEADER_BYTES = 6,
    AT_KIND = 8,
    AT_FLAGS = 10,
    AT_CRC = 12,
    AT_SEQ = 16,
    AT_EPOCH = 24,
    AT_NUMBER = 32,
    AT_CHUNK_INDEX = 40,
    AT_PAGE = 44,
    AT_SOURCE = 48,
    AT_ZERO2 = 50,
    AT_LAYER_FIRST = 52,
    AT_LAYER_COUNT = 54,
    AT_TOKEN_FIRST = 56,
    AT_TOKEN_COUNT = 64,
    AT_DTYPE = 68,
    AT_RANK = 69,
    AT_PROFILE = 70,
    AT_ZERO1 = 71,
    AT_SHAPE = 72,
    AT_PAYLOAD_BYTES = 88,
    AT_CHECKSUM = 96,
    AT_META_BYTES = 100,
    AT_MAC_NUMBER = 104,
    AT_MAC = 112
};
_Static_assert(AT_MAC + SL_WIRE_MAC_BYTES == SL_WIRE_BYTES, "the MAC ends the header");

static const char *const auth_names[SL_LINK_AUTHS] = {"none", "header", "payload"};

const char *sl_link_auth_name(enum sl_link_auth auth)
{
    return auth_names[auth];
}

bool sl_link_auth_by_name(const char *name, enum sl_link_auth *auth)
{
    for (int i = 0; i < SL_LINK_AUTHS; i++)
        if (strcmp(name, auth_names[i]) == 0) {
            *auth = (enum sl_link_auth)i;
            return true;
        }
    return false;
}

static uint32_t header_crc(const uint8_t in[SL_WIRE_BYTES])
{
    uint8_t copy[SL_WIRE_BYTES];
    memcpy(copy, in, sizeof copy);
    sl_put32(copy + AT_CRC, 0);
    return sl_crc32c(0, copy, sizeof copy);
}

void sl_wire_pack(uint8_t out[SL_WIRE_BYTES], const struct sl_wire *wire)
{
    memset(out, 0, SL_WIRE_BYTES);
    sl_put32(out + AT_MAGIC, SL_WIRE_MAGIC);
    sl_put16(out + AT_VERSION, SL_WIRE_VERSION);
    sl_put16(out + AT_HEADER_BYTES, SL_WIRE_BYTES);
    sl_put16(out + AT_KIND, wire->kind);
    sl_put16(out + AT_FLAGS, wire->flags);
    sl_put64(out + AT_SEQ, wire->seq);
    sl_put64(out + AT_EPOCH, wire->epoch);
    sl_put64(out + AT_NUMBER, wire->number);
    sl_put32(out + AT_CHUNK_INDEX, wire->chunk_index);
    sl_put32(out + AT_PAGE, wire->page);
    sl_put16(out + AT_SOURCE, wire->source);
    sl_put16(out + AT_LAYER_FIRST, wire->layer_first);
    sl_put16(out + AT_LAYER_COUNT, wire->layer_count);
    sl_put64(out + AT_TOKEN_FIRST, wire->token_first);
    sl_put32(out + AT_TOKEN_COUNT, wire->token_count);
    out[AT_DTYPE] = wire->dtype;
    out[AT_RANK] = wire->rank;
    out[AT_PROFILE] = wire->profile;
    for (int i = 0; i < 4; i++)
        sl_put32(out + AT_SHAPE + 4 * i, wire->shape[i]);
    sl_put64(out + AT_PAYLOAD_BYTES, wire->payload_bytes);
    sl_put32(out + AT_CHECKSUM, wire->checksum);
    sl_put32(out + AT_META_BYTES, wire->meta_bytes);
    sl_put64(out + AT_MAC_NUMBER, wire->mac_number);
    sl_put32(out + AT_CRC, header_crc(out));
}

void sl_wire_mac_text(const uint8_t header[SL_WIRE_BYTES], uint8_t text[SL_WIRE_BYTES],
                      uint8_t mac[SL_WIRE_MAC_BYTES])
{
    memcpy(text, header, SL_WIRE_BYTES);
    memcpy(mac, header + AT_MAC, SL_WIRE_MAC_BYTES);
    memset(text + AT_MAC, 0, SL_WIRE_MAC_BYTES);
    sl_put32(text + AT_CRC, 0);
}

void sl_wire_set_mac(uint8_t header[SL_WIRE_BYTES], const uint8_t mac[SL_WIRE_MAC_BYTES])
{
    memcpy(header + AT_MAC, mac, SL_WIRE_MAC_BYTES);
    sl_put32(header + AT_CRC, header_crc(header));
}

static void read_fields(struct sl_wire *wire, const uint8_t *in)
{
    *wire = (struct sl_wire){
        .kind = sl_get16(in + AT_KIND),
        .flags = sl_get16(in + AT_FLAGS),
        .seq = sl_get64(in + AT_SEQ),
        .epoch = sl_get64(in + AT_EPOCH),
        .number = sl_get64(in + AT_NUMBER),
        .chunk_index = sl_get32(in + AT_CHUNK_INDEX),
        .page = sl_get32(in + AT_PAGE),
        .source = sl_get16(in + AT_SOURCE),
        .layer_first = sl_get16(in + AT_LAYER_FIRST),
        .layer_count = sl_get16(in + AT_LAYER_COUNT),
        .token_first = sl_get64(in + AT_TOKEN_FIRST),
        .token_count = sl_get32(in + AT_TOKEN_COUNT),
        .dtype = in[AT_DTYPE],
        .rank = in[AT_RANK],
        .profile = in[AT_PROFILE],
        .payload_bytes = sl_get64(in + AT_PAYLOAD_BYTES),
        .checksum = sl_get32(in + AT_CHECKSUM),
        .meta_bytes = sl_get32(in + AT_META_BYTES),
        .mac_number = sl_get64(in + AT_MAC_NUMBER),
    };
    for (int i = 0; i < 4; i++)
        wire->shape[i] = sl_get32(in + AT_SHAPE + 4 * i);
}

/* Limits first, then the sums, neither of which may wrap. */
static const char *check_ranges(const struct sl_wire *wire, const struct sl_wire_limits *limits)
{
    if (wire->payload_bytes > limits->max_payload_bytes)
        return "the payload is larger than this node takes";
    if (wire->layer_first > limits->max_layers || wire->layer_count > limits->max_layers - wire->layer_first)
        return "the layer range is outside the model";
    if (wire->token_first > limits->max_tokens || wire->token_count > limits->max_tokens - wire->token_first)
        return "the token range is outside the context";
    if (wire->page != 0 && wire->kind != SL_WIRE_KV)
        return "a page number on a frame without pages";
    return NULL;
}

static const char *check_payload(const struct sl_wire *wire)
{
    if (wire->profile >= SL_PROFILES || (wire->profile != 0 && wire->kind != SL_WIRE_KV))
        return "unknown numerics profile";
    if (wire->dtype != SL_F32 && wire->dtype != SL_BF16 && wire->dtype != SL_I8) /* i8: pages as bytes */
        return "unknown dtype";
    if (wire->rank > 4)
        return "the rank is above 4";
    size_t rows_bytes = wire->rank ? sl_dtype_bytes((enum sl_dtype)wire->dtype) : 0;
    for (int i = 0; i < 4; i++) {
        if (i >= wire->rank && wire->shape[i] != 0)
            return "an unused dimension is not zero";
        if (i < wire->rank && !sl_mul_size(rows_bytes, wire->shape[i], &rows_bytes))
            return "the shape overflows";
    }
    size_t bytes;
    if (!sl_add_size(rows_bytes, wire->meta_bytes, &bytes))
        return "the shape overflows";
    if (bytes != wire->payload_bytes)
        return "the shape and the record do not add up to the payload";
    return NULL;
}

const char *sl_wire_unpack(struct sl_wire *wire, const uint8_t *in, size_t bytes,
                           const struct sl_wire_limits *limits)
{
    if (bytes != SL_WIRE_BYTES)
        return "the header is not 128 bytes long";
    if (sl_get32(in + AT_MAGIC) != SL_WIRE_MAGIC)
        return "wrong magic number";
    if (sl_get16(in + AT_VERSION) != SL_WIRE_VERSION || sl_get16(in + AT_HEADER_BYTES) != SL_WIRE_BYTES)
        return "unknown wire version";
    if (sl_get32(in + AT_CRC) != header_crc(in))
        return "the header checksum does not match";
    read_fields(wire, in);
    if (wire->kind < SL_WIRE_HELLO || wire->kind > SL_WIRE_ENDS)
        return "unknown kind of frame";
    if ((wire->flags & ~(SL_WIRE_HAS_CHECKSUM | SL_WIRE_HAS_MAC | SL_WIRE_BY_LANES)) != 0)
        return "unknown flag";
    static const uint8_t zero[SL_WIRE_MAC_BYTES];
    if (in[AT_ZERO1] != 0 || memcmp(in + AT_ZERO2, zero, 2) != 0)
        return "a reserved byte is not zero";
    if (!(wire->flags & SL_WIRE_HAS_MAC) &&
        (wire->mac_number != 0 || memcmp(in + AT_MAC, zero, SL_WIRE_MAC_BYTES) != 0))
        return "a MAC that is not flagged";
    if (!(wire->flags & SL_WIRE_HAS_CHECKSUM) && (wire->checksum != 0 || wire->flags & SL_WIRE_BY_LANES))
        return "a checksum that is not flagged";
    const char *bad = check_ranges(wire, limits);
    return bad ? bad : check_payload(wire);
}

static uint32_t checksum_of(const struct sl_wire *wire, const void *payload)
{
    size_t bytes = (size_t)wire->payload_bytes;
    return wire->flags & SL_WIRE_BY_LANES ? sl_lanes_of(payload, bytes) : (uint32_t)sl_xxh3(payload, bytes);
}

void sl_frame_seal(struct sl_wire *wire, const void *payload)
{
    wire->flags = (uint16_t)((wire->flags | SL_WIRE_HAS_CHECKSUM) & ~SL_WIRE_BY_LANES);
    wire->checksum = checksum_of(wire, payload);
}

void sl_frame_seal_by_lanes(struct sl_wire *wire, const void *payload)
{
    wire->flags |= SL_WIRE_HAS_CHECKSUM | SL_WIRE_BY_LANES;
    wire->checksum = checksum_of(wire, payload);
}

bool sl_frame_whole(const struct sl_wire *wire, const void *payload)
{
    return (wire->flags & SL_WIRE_HAS_CHECKSUM) && wire->checksum == checksum_of(wire, payload);
}

static uint32_t checksum_by_sums(const struct sl_wire *wire, const void *payload,
                                 const struct sl_lane_sums *rows)
{
    struct sl_lane_sums whole = *rows;
    sl_lanes_add(&whole, 0, payload, wire->meta_bytes);
    return sl_lanes_end(&whole, wire->payload_bytes);
}

void sl_frame_seal_by_sums(struct sl_wire *wire, const void *payload, const struct sl_lane_sums *rows)
{
    wire->flags |= SL_WIRE_HAS_CHECKSUM | SL_WIRE_BY_LANES;
    wire->checksum = checksum_by_sums(wire, payload, rows);
}

bool sl_frame_whole_by_sums(const struct sl_wire *wire, const void *payload, const struct sl_lane_sums *rows)
{
    return (wire->flags & SL_WIRE_HAS_CHECKSUM) && (wire->flags & SL_WIRE_BY_LANES) &&
           wire->checksum == checksum_by_sums(wire, payload, rows);
}
