/* A checksum whose pieces may be added in any order, for bytes that lie in the memory of a device: there thousands of threads read
 * them, and nobody is first. For integrity only, not against an attacker.
 *
 * The bytes are cut into pieces of 16, the last one filled up with zeros. A piece is four 32-bit words, and each word has a key
 * that depends on where it stands; what a piece counts for is (w0 + k0) * (w1 + k1) + (w2 + k2) * (w3 + k3), words and keys added
 * modulo 2^32, products modulo 2^64. Piece i is added to lane i % 64, modulo 2^64: sums of integers do not care about their order,
 * and a warp and its neighbour never add to the same place. At the end lanes and length are mixed, in the order of the lanes.
 * A device's kernel has the same definition and must give the same number (tests/base/test_lanes.c has some). */
#ifndef SL_BASE_LANES_H
#define SL_BASE_LANES_H

#include <stddef.h>
#include <stdint.h>

enum { SL_SUM_LANES = 64, SL_LANE_BYTES = 16 };

struct sl_lane_sums { /* sums so far; zeros to start */
    uint64_t sums[SL_SUM_LANES];
};

/* The bytes that stand at `at`, a multiple of 16, of the whole; so is their number, but for the last ones. */
void sl_lanes_add(struct sl_lane_sums *lanes, uint64_t at, const void *data, size_t bytes);
uint32_t sl_lanes_end(const struct sl_lane_sums *lanes, uint64_t bytes); /* all have been added */
uint32_t sl_lanes_of(const void *data, size_t bytes);

#endif
