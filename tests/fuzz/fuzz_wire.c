/* The frame header, as whoever reaches the data port could send it.
 *
 * Every input is tried twice: as it is, which mostly ends at the magic number or the CRC, and cut
 * to size and sealed with the right magic, version and CRC, so that the checks behind them are
 * reached as well. A header that passes must keep what wire.h promises about it, and must come back
 * from packing bit by bit. */
#include "base/bytes.h"
#include "base/digest.h"
#include "kernels/panel.h"
#include "pipeline/record/wire.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static const struct sl_wire_limits limits = {
    .max_payload_bytes = 64 << 20, .max_layers = 256, .max_tokens = 1 << 20};

static void require(bool promise)
{
    if (!promise)
        abort();
}

static void try_header(const uint8_t *in, size_t bytes)
{
    struct sl_wire wire;
    if (sl_wire_unpack(&wire, in, bytes, &limits))
        return;
    uint64_t rows_bytes = wire.rank ? sl_dtype_bytes((enum sl_dtype)wire.dtype) : 0;
    for (int i = 0; i < wire.rank; i++)
        rows_bytes *= wire.shape[i];
    require(wire.kind >= SL_WIRE_HELLO && wire.kind <= SL_WIRE_ENDS);
    require(wire.rank <= 4 && wire.dtype <= SL_I8);
    require(wire.payload_bytes <= limits.max_payload_bytes);
    require(wire.meta_bytes <= wire.payload_bytes);
    require(rows_bytes == wire.payload_bytes - wire.meta_bytes);
    require((uint32_t)wire.layer_first + wire.layer_count <= limits.max_layers);
    require(wire.token_first <= limits.max_tokens &&
            wire.token_first + wire.token_count <= limits.max_tokens);
    uint8_t again[SL_WIRE_BYTES], text[SL_WIRE_BYTES], mac[SL_WIRE_MAC_BYTES];
    sl_wire_pack(again, &wire);
    sl_wire_mac_text(in, text, mac);
    if (wire.flags & SL_WIRE_HAS_MAC)
        sl_wire_set_mac(again, mac);
    require(memcmp(again, in, sizeof again) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    try_header(data, bytes);
    uint8_t sealed[SL_WIRE_BYTES] = {0};
    memcpy(sealed, data, bytes < sizeof sealed ? bytes : sizeof sealed);
    sl_put32(sealed, SL_WIRE_MAGIC);
    sl_put16(sealed + 4, SL_WIRE_VERSION);
    sl_put16(sealed + 6, SL_WIRE_BYTES);
    sl_put32(sealed + 12, 0);
    sl_put32(sealed + 12, sl_crc32c(0, sealed, sizeof sealed));
    try_header(sealed, sizeof sealed);
    return 0;
}
