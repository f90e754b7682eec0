/* base/lanes.c: the checksum whose pieces may be added in any order. */
#include "base/lanes.h"
#include "base/rng.h"
#include "tests/check.h"

#include <stdlib.h>

enum { BYTES = 5000 };
static uint8_t bytes[BYTES];

static void fill(void)
{
    for (size_t i = 0; i < BYTES; i++)
        bytes[i] = (uint8_t)sl_rng_at(17, i);
}

/* The definition once more, with nothing but sums of 32 and 64 bits. */
static uint32_t by_hand(const uint8_t *data, size_t n)
{
    uint64_t sums[64] = {0}, h = n + 1;
#define MIX(x)                                                                                               \
    do {                                                                                                     \
        (x) ^= (x) >> 33;                                                                                    \
        (x) *= 18397679294719823053u;                                                                        \
        (x) ^= (x) >> 33;                                                                                    \
        (x) *= 14181476777654086739u;                                                                        \
        (x) ^= (x) >> 33;                                                                                    \
    } while (0)
    for (uint64_t i = 0; i * 16 < n; i++) {
        uint32_t w[4] = {0};
        for (size_t k = 0; k < 16 && i * 16 + k < n; k++)
            w[k / 4] |= (uint32_t)data[i * 16 + k] << 8 * (k % 4);
        uint64_t a = 2 * i + 1, b = 2 * i + 2;
        MIX(a);
        MIX(b);
        uint32_t w0 = w[0] + (uint32_t)a, w1 = w[1] + (uint32_t)(a >> 32), w2 = w[2] + (uint32_t)b,
                 w3 = w[3] + (uint32_t)(b >> 32);
        sums[i % 64] += (uint64_t)w0 * w1 + (uint64_t)w2 * w3;
    }
    MIX(h);
    for (int i = 0; i < 64; i++) {
        h ^= sums[i];
        MIX(h);
    }
    return (uint32_t)h;
}

SL_TEST(the_sum_is_what_its_definition_says)
{
    fill();
    for (size_t n = 0; n <= BYTES; n += n < 70 ? 1 : 331)
        CHECK_INT(sl_lanes_of(bytes, n), by_hand(bytes, n));
}

/* What another implementation is compared with, on bytes that need no generator. */
SL_TEST(known_sums_stay_as_they_are)
{
    uint8_t counted[4096];
    for (size_t i = 0; i < sizeof counted; i++)
        counted[i] = (uint8_t)(i * 7 + i / 256);
    CHECK_INT(sl_lanes_of(counted, 0), 4167942924u);
    CHECK_INT(sl_lanes_of(counted, 1), 3098536768u);
    CHECK_INT(sl_lanes_of(counted, 16), 1693706985u);
    CHECK_INT(sl_lanes_of(counted, 1000), 439020779u);
    CHECK_INT(sl_lanes_of(counted, 4096), 3124216772u);
}

SL_TEST(pieces_may_be_added_in_any_order_and_cut)
{
    fill();
    uint32_t whole = sl_lanes_of(bytes, BYTES);
    for (uint64_t seed = 0; seed < 50; seed++) {
        enum { PIECES = (BYTES + 15) / 16 };
        struct sl_lane_sums lanes = {{0}}, others = {{0}};
        size_t order[PIECES], n = 0;
        for (size_t i = 0; i < PIECES; n++) { /* runs of one to five pieces */
            order[n] = i;
            i += 1 + sl_rng_at(seed, i) % 5;
        }
        for (size_t left = n; left > 0; left--) {
            size_t pick = sl_rng_at(seed + 1000, left) % left, first = order[pick], end = PIECES;
            for (size_t k = 0; k < n;
                 k++) /* taken ones stand behind `left`, and still say where runs begin */
                end = order[k] > first && order[k] < end ? order[k] : end;
            size_t to = end * 16 < BYTES ? end * 16 : BYTES;
            sl_lanes_add(left % 2 ? &lanes : &others, first * 16, bytes + first * 16, to - first * 16);
            order[pick] = order[left - 1];
            order[left - 1] = first;
        }
        for (int i = 0; i < SL_SUM_LANES; i++) /* as two blocks of a device add up */
            lanes.sums[i] += others.sums[i];
        CHECK_INT(sl_lanes_end(&lanes, BYTES), whole);
    }
}

SL_TEST(a_bit_a_swap_and_a_length_change_it)
{
    fill();
    uint32_t whole = sl_lanes_of(bytes, BYTES);
    for (size_t i = 0; i < BYTES; i++) {
        uint8_t bit = (uint8_t)(1u << i % 8);
        bytes[i] ^= bit;
        CHECK(sl_lanes_of(bytes, BYTES) != whole);
        bytes[i] ^= bit;
    }
    for (size_t apart = 16; apart <= 2048; apart *= 2) /* rows and lanes that changed places */
        for (size_t at = 0; at + apart + 16 <= BYTES; at += 16) {
            uint8_t moved[BYTES];
            memcpy(moved, bytes, BYTES);
            memcpy(moved + at, bytes + at + apart, 16);
            memcpy(moved + at + apart, bytes + at, 16);
            CHECK(sl_lanes_of(moved, BYTES) != whole);
        }
    static const uint8_t zeros[BYTES];
    for (size_t n = 0; n < 200; n++) /* zeros that fill up a piece are not bytes of it */
        CHECK(sl_lanes_of(zeros, n) != sl_lanes_of(zeros, n + 1));
}
