/* Frames that prove who sent them: `--link-auth`.
 *
 * The handshake shows that the peer knows the link's key when a line comes into being; who can put bytes into that line later, or
 * change some, is found out here. Both ends make a key for each direction of each line, from the link's key and both nonces, so what
 * was said on another line, or by ourselves, proves nothing. Behind the handshake every frame has a MAC with a number of its own:
 *
 *   header   HMAC-SHA256, cut to 128 bits, over the header, which has the checksum of the payload. Made and checked before the first
 *            byte of the payload moves. XXH3 is no secret: who can change bytes on their way can make others with that checksum
 *   payload  AES-256-GMAC over header and payload, checked when all is there and before anybody is told. The payload is read once
 *            more at both ends, so it has to lie in the host's memory
 *
 * A frame that is sent again on the same line is turned away by its number (link.c); control frames say where things stand, and
 * an old one says nothing new. Not covered: what travels beside the line (NCCL, writes into the other's memory). */
#include "pipeline/link/link_impl.h"

#include <string.h>

static bool proof_init(struct sl_proof *proof, enum sl_link_auth auth, const uint8_t key[32])
{
    if (auth == SL_LINK_AUTH_HEADER)
        sl_hmac_key(&proof->header, key);
    if (auth == SL_LINK_AUTH_PAYLOAD)
        proof->payload = sl_gmac_begin(key);
    return auth != SL_LINK_AUTH_PAYLOAD || proof->payload;
}

bool sl_conn_agree(struct sl_conn *conn, const uint8_t out[32], const uint8_t in[32])
{
    return proof_init(&conn->out, conn->auth, out) && proof_init(&conn->in, conn->auth, in);
}

void sl_conn_forget_keys(struct sl_conn *conn)
{
    sl_gmac_end(conn->out.payload);
    sl_gmac_end(conn->in.payload);
    conn->out = conn->in = (struct sl_proof){0};
}

static bool mac_of(struct sl_proof *proof, uint64_t number, const uint8_t text[SL_WIRE_BYTES],
                   const void *payload, size_t bytes, uint8_t mac[SL_WIRE_MAC_BYTES])
{
    uint8_t whole[SL_MAC_BYTES];
    if (proof->payload)
        return sl_gmac_of(proof->payload, number, text, SL_WIRE_BYTES, payload, bytes, mac);
    sl_hmac_with(&proof->header, text, SL_WIRE_BYTES, whole);
    memcpy(mac, whole, SL_WIRE_MAC_BYTES);
    return true;
}

/* HELLO and WELCOME have proofs of their own. */
static bool is_proved(const struct sl_conn *conn, enum sl_wire_kind kind)
{
    return conn->auth != SL_LINK_AUTH_NONE && kind != SL_WIRE_HELLO && kind != SL_WIRE_WELCOME;
}

void sl_conn_pack(struct sl_conn *conn, struct sl_sending *sending)
{
    struct sl_wire *wire = &sending->wire;
    uint8_t text[SL_WIRE_BYTES], mac[SL_WIRE_MAC_BYTES];
    bool proved = is_proved(conn, (enum sl_wire_kind)wire->kind);
    wire->flags = (uint16_t)(proved ? wire->flags | SL_WIRE_HAS_MAC : wire->flags & ~SL_WIRE_HAS_MAC);
    wire->mac_number = proved ? ++conn->n_signed : 0; /* a frame that goes out again has another */
    sl_wire_pack(sending->header, wire);
    if (!proved)
        return;
    sl_wire_mac_text(sending->header, text, mac);
    if (mac_of(&conn->out, wire->mac_number, text, sending->payload, sending->bytes, mac))
        sl_wire_set_mac(sending->header, mac); /* else the peer will find it wrong */
}

static const char *check(struct sl_proof *proof, const struct sl_wire *wire,
                         const uint8_t header[SL_WIRE_BYTES], const void *payload, size_t bytes)
{
    uint8_t text[SL_WIRE_BYTES], mac[SL_WIRE_MAC_BYTES], expected[SL_WIRE_MAC_BYTES];
    sl_wire_mac_text(header, text, mac);
    bool right = mac_of(proof, wire->mac_number, text, payload, bytes, expected) &&
                 sl_equal_constant_time(mac, expected, sizeof mac);
    return right ? NULL : "a frame that the peer did not make, or that was changed on its way";
}

const char *sl_conn_doubt_header(struct sl_conn *conn, const struct sl_wire *wire,
                                 const uint8_t header[SL_WIRE_BYTES])
{
    bool proved = is_proved(conn, (enum sl_wire_kind)wire->kind), has = wire->flags & SL_WIRE_HAS_MAC;
    if (proved != has)
        return proved ? "a frame without proof of its sender"
                      : "a proof of its sender that was not agreed on";
    if (!proved || conn->auth == SL_LINK_AUTH_PAYLOAD)
        return NULL;
    return check(&conn->in, wire, header, NULL, 0);
}

const char *sl_conn_doubt_payload(struct sl_conn *conn, const struct sl_landing *landing)
{
    if (conn->auth != SL_LINK_AUTH_PAYLOAD || !is_proved(conn, (enum sl_wire_kind)landing->wire.kind))
        return NULL;
    return check(&conn->in, &landing->wire, landing->header, landing->to, landing->bytes);
}
