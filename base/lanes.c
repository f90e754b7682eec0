/* The scalar definition of the checksum by lanes (lanes.h), which a device must match. */
#include "base/lanes.h"

#include <assert.h>
#include <string.h>

/* Murmur's last steps: every bit of x moves every bit of what comes out. */
static uint64_t mix(uint64_t x)
{
    x ^= x >> 33;
    x *= UINT64_C(0xff51afd7ed558ccd);
    x ^= x >> 33;
    x *= UINT64_C(0xc4ceb9fe1a85ec53);
    return x ^ x >> 33;
}

static uint64_t value_of(uint64_t piece, const uint32_t w[4])
{
    uint64_t a = mix(2 * piece + 1), b = mix(2 * piece + 2);
    uint32_t k[4] = {(uint32_t)a, (uint32_t)(a >> 32), (uint32_t)b, (uint32_t)(b >> 32)};
    return (uint64_t)(w[0] + k[0]) * (w[1] + k[1]) + (uint64_t)(w[2] + k[2]) * (w[3] + k[3]);
}

void sl_lanes_add(struct sl_lane_sums *lanes, uint64_t at, const void *data, size_t bytes)
{
    assert(at % SL_LANE_BYTES == 0);
    const uint8_t *p = data;
    uint64_t piece = at / SL_LANE_BYTES;
    uint32_t w[4];
    for (; bytes >= SL_LANE_BYTES; bytes -= SL_LANE_BYTES, p += SL_LANE_BYTES, piece++) {
        memcpy(w, p, SL_LANE_BYTES);
        lanes->sums[piece % SL_SUM_LANES] += value_of(piece, w);
    }
    if (bytes == 0)
        return;
    memset(w, 0, sizeof w);
    memcpy(w, p, bytes);
    lanes->sums[piece % SL_SUM_LANES] += value_of(piece, w);
}

uint32_t sl_lanes_end(const struct sl_lane_sums *lanes, uint64_t bytes)
{
    uint64_t whole = mix(bytes + 1);
    for (int i = 0; i < SL_SUM_LANES; i++)
        whole = mix(whole ^ lanes->sums[i]);
    return (uint32_t)whole;
}

uint32_t sl_lanes_of(const void *data, size_t bytes)
{
    struct sl_lane_sums lanes = {{0}};
    sl_lanes_add(&lanes, 0, data, bytes);
    return sl_lanes_end(&lanes, bytes);
}
