/* The frame header: what is packed comes back, the offsets are the agreed ones, and every field at
 * its limits and beyond is judged as wire.h says. Headers that break one rule are made by changing
 * bytes and sealing them again with a right CRC, so that the check behind the CRC is the one that
 * speaks. */
#include "base/bytes.h"
#include "base/digest.h"
#include "base/lanes.h"
#include "base/profile.h"
#include "base/rng.h"
#include "pipeline/record/wire.h"
#include "tests/check.h"

static const struct sl_wire_limits limits = {
    .max_payload_bytes = 1 << 20, .max_layers = 48, .max_tokens = 4096};

static struct sl_wire sample(void)
{
    struct sl_wire wire = {.kind = SL_WIRE_ORDER,
                           .flags = SL_WIRE_HAS_CHECKSUM,
                           .seq = 0x1122334455667788u,
                           .epoch = 7,
                           .number = 42,
                           .chunk_index = 3,
                           .source = 1,
                           .layer_first = 24,
                           .layer_count = 24,
                           .token_first = 192,
                           .token_count = 64,
                           .dtype = 1,
                           .rank = 2,
                           .shape = {64, 96},
                           .payload_bytes = 64 * 96 * 2 + 100,
                           .checksum = 0xdeadbeef,
                           .meta_bytes = 100};
    return wire;
}

static void seal(uint8_t *header)
{
    sl_put32(header + 12, 0);
    sl_put32(header + 12, sl_crc32c(0, header, SL_WIRE_BYTES));
}

static const char *judge(const struct sl_wire *wire)
{
    uint8_t header[SL_WIRE_BYTES];
    struct sl_wire out;
    sl_wire_pack(header, wire);
    const char *bad = sl_wire_unpack(&out, header, sizeof header, &limits);
    return bad ? bad : "fine";
}

SL_TEST(what_is_packed_comes_back)
{
    struct sl_wire wire = sample(), out;
    uint8_t header[SL_WIRE_BYTES], again[SL_WIRE_BYTES];
    sl_wire_pack(header, &wire);
    REQUIRE(sl_wire_unpack(&out, header, sizeof header, &limits) == NULL);
    sl_wire_pack(again, &out);
    CHECK(memcmp(header, again, sizeof header) == 0);
    CHECK_INT(out.seq, wire.seq);
    CHECK_INT(out.meta_bytes, 100);
    CHECK_INT(out.checksum, 0xdeadbeef);
    CHECK_INT(out.shape[1], 96);
}

SL_TEST(offsets_are_the_agreed_ones)
{
    struct sl_wire wire = sample();
    uint8_t h[SL_WIRE_BYTES];
    sl_wire_pack(h, &wire);
    CHECK(memcmp(h, "MPT1", 4) == 0);
    CHECK_INT(sl_get16(h + 4), SL_WIRE_VERSION);
    CHECK_INT(sl_get16(h + 6), 128);
    CHECK_INT(sl_get16(h + 8), SL_WIRE_ORDER);
    CHECK_INT(sl_get64(h + 16), 0x1122334455667788u);
    CHECK_INT(sl_get64(h + 24), 7);
    CHECK_INT(sl_get64(h + 32), 42);
    CHECK_INT(sl_get32(h + 40), 3);
    CHECK_INT(sl_get16(h + 52), 24);
    CHECK_INT(sl_get64(h + 56), 192);
    CHECK_INT(h[69], 2);
    CHECK_INT(sl_get32(h + 76), 96);
    CHECK_INT(sl_get64(h + 88), 64 * 96 * 2 + 100);
    CHECK_INT(sl_get32(h + 96), 0xdeadbeef);
    CHECK_INT(sl_get32(h + 100), 100);
}

SL_TEST(kv_pages_carry_their_numerics)
{
    struct sl_wire wire = sample(), out;
    uint8_t h[SL_WIRE_BYTES];
    wire.kind = SL_WIRE_KV;
    wire.profile = SL_PROFILE_BF16DOT;
    sl_wire_pack(h, &wire);
    REQUIRE(sl_wire_unpack(&out, h, sizeof h, &limits) == NULL);
    CHECK_INT(h[70], SL_PROFILE_BF16DOT);
    CHECK_INT(out.profile, SL_PROFILE_BF16DOT);
    wire.profile = SL_PROFILES;
    CHECK_STR(judge(&wire), "unknown numerics profile");
}

SL_TEST(every_flipped_bit_is_noticed)
{
    struct sl_wire wire = sample(), out;
    uint8_t header[SL_WIRE_BYTES];
    sl_wire_pack(header, &wire);
    for (int bit = 0; bit < SL_WIRE_BYTES * 8; bit++) {
        header[bit / 8] ^= (uint8_t)(1 << bit % 8);
        if (!sl_wire_unpack(&out, header, sizeof header, &limits))
            sl_test_fail(__FILE__, __LINE__, "bit %d was flipped unnoticed", bit);
        header[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
}

/* Each row breaks one more of the rules that come before its own: the earliest must speak. */
SL_TEST(checks_come_in_the_agreed_order)
{
    struct sl_wire wire = sample(), out;
    uint8_t h[SL_WIRE_BYTES];
    sl_wire_pack(h, &wire);
    h[69] = 9;
    seal(h);
    CHECK_CONTAINS(sl_wire_unpack(&out, h, sizeof h, &limits), "rank");
    h[68] = 77;
    seal(h);
    CHECK_CONTAINS(sl_wire_unpack(&out, h, sizeof h, &limits), "dtype");
    h[70] = 1; /* a profile, on a frame that is no KV page */
    seal(h);
    CHECK_CONTAINS(sl_wire_unpack(&out, h, sizeof h, &limits), "profile");
    sl_put64(h + 56, UINT64_MAX);
    seal(h);
    CHECK_CONTAINS(sl_wire_unpack(&out, h, sizeof h, &limits), "token range");
    sl_put64(h + 88, UINT64_MAX);
    seal(h);
    CHECK_CONTAINS(sl_wire_unpack(&out, h, sizeof h, &limits), "larger");
    h[71] = 1;
    seal(h);
    CHECK_CONTAINS(sl_wire_unpack(&out, h, sizeof h, &limits), "reserved");
    sl_put16(h + 10, 0x8001);
    seal(h);
    CHECK_CONTAINS(sl_wire_unpack(&out, h, sizeof h, &limits), "flag");
    sl_put16(h + 8, 99);
    seal(h);
    CHECK_CONTAINS(sl_wire_unpack(&out, h, sizeof h, &limits), "kind");
    h[12] ^= 1;
    CHECK_CONTAINS(sl_wire_unpack(&out, h, sizeof h, &limits), "checksum");
    h[4] = SL_WIRE_VERSION + 1;
    CHECK_CONTAINS(sl_wire_unpack(&out, h, sizeof h, &limits), "version");
    h[0] = 0;
    CHECK_CONTAINS(sl_wire_unpack(&out, h, sizeof h, &limits), "magic");
    CHECK_CONTAINS(sl_wire_unpack(&out, h, 127, &limits), "128 bytes");
}

SL_TEST(kinds_at_their_ends)
{
    struct sl_wire wire = sample();
    wire.kind = 0;
    CHECK_CONTAINS(judge(&wire), "kind");
    wire.kind = SL_WIRE_HELLO;
    CHECK_STR(judge(&wire), "fine");
    wire.kind = SL_WIRE_ENDS;
    CHECK_STR(judge(&wire), "fine");
    wire.kind = SL_WIRE_ENDS + 1;
    CHECK_CONTAINS(judge(&wire), "kind");
}

SL_TEST(layer_and_token_ranges)
{
    struct sl_wire wire = sample();
    wire.layer_first = 48, wire.layer_count = 0;
    CHECK_STR(judge(&wire), "fine");
    wire.layer_count = 1;
    CHECK_CONTAINS(judge(&wire), "layer range");
    wire.layer_first = 0xffff, wire.layer_count = 0xffff;
    CHECK_CONTAINS(judge(&wire), "layer range");
    wire = sample();
    wire.token_first = 4096 - 64;
    CHECK_STR(judge(&wire), "fine");
    wire.token_first++;
    CHECK_CONTAINS(judge(&wire), "token range");
    wire.token_first = UINT64_MAX - 10; /* the sum would wrap */
    CHECK_CONTAINS(judge(&wire), "token range");
}

SL_TEST(only_pages_have_a_page_number)
{
    struct sl_wire wire = sample();
    wire.page = 8;
    CHECK_CONTAINS(judge(&wire), "page number");
    wire.kind = SL_WIRE_KV;
    CHECK_STR(judge(&wire), "fine");
}

SL_TEST(shape_adds_up_to_the_payload)
{
    struct sl_wire wire = sample();
    wire.payload_bytes++;
    CHECK_CONTAINS(judge(&wire), "add up");
    wire = sample();
    wire.meta_bytes = UINT32_MAX;
    CHECK_CONTAINS(judge(&wire), "add up");
    wire = sample();
    wire.shape[2] = 1; /* beyond the rank */
    CHECK_CONTAINS(judge(&wire), "unused");
    wire = sample();
    wire.rank = 4;
    for (int i = 0; i < 4; i++)
        wire.shape[i] = UINT32_MAX;
    CHECK_CONTAINS(judge(&wire), "overflows");
    wire.shape[0] = 0;
    wire.payload_bytes = wire.meta_bytes; /* no rows is a shape, too, however wide they would be */
    wire.shape[1] = wire.shape[2] = 1;
    CHECK_STR(judge(&wire), "fine");
}

SL_TEST(product_that_wraps_to_the_payload_is_refused)
{
    struct sl_wire wire = sample();
    wire.rank = 3;
    wire.dtype = 0;
    wire.meta_bytes = 0;
    wire.shape[0] = wire.shape[1] = 0x80000000u; /* 2^31 * 2^31 * 4 * 4 = 2^66: 0 in 64 bits */
    wire.shape[2] = 4;
    wire.payload_bytes = 0;
    CHECK_CONTAINS(judge(&wire), "overflows");
}

SL_TEST(payload_limit)
{
    struct sl_wire wire = sample();
    wire.rank = 0;
    wire.dtype = 0;
    wire.shape[0] = wire.shape[1] = 0;
    wire.payload_bytes = wire.meta_bytes = 1 << 20;
    CHECK_STR(judge(&wire), "fine");
    wire.payload_bytes = wire.meta_bytes = (1 << 20) + 1;
    CHECK_CONTAINS(judge(&wire), "larger");
}

SL_TEST(checksum_without_its_flag)
{
    struct sl_wire wire = sample();
    wire.flags = 0;
    CHECK_CONTAINS(judge(&wire), "not flagged");
    wire.checksum = 0;
    CHECK_STR(judge(&wire), "fine");
}

SL_TEST(reserved_bytes_are_zero)
{
    static const int places[] = {50, 51, 71};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        struct sl_wire wire = sample(), out;
        uint8_t h[SL_WIRE_BYTES];
        sl_wire_pack(h, &wire);
        h[places[i]] = 1;
        seal(h);
        const char *bad = sl_wire_unpack(&out, h, sizeof h, &limits);
        REQUIRE(bad != NULL);
        CHECK_CONTAINS(bad, "reserved");
    }
}

SL_TEST(a_mac_is_there_when_it_is_flagged)
{
    static const int places[] = {104, 111, 112, 127};
    struct sl_wire wire = sample(), out;
    uint8_t h[SL_WIRE_BYTES], text[SL_WIRE_BYTES], mac[SL_WIRE_MAC_BYTES],
        given[SL_WIRE_MAC_BYTES] = "sixteen of them";
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        sl_wire_pack(h, &wire);
        h[places[i]] = 1;
        seal(h);
        const char *bad = sl_wire_unpack(&out, h, sizeof h, &limits);
        CHECK_CONTAINS(bad ? bad : "nothing", "not flagged");
    }
    wire.flags |= SL_WIRE_HAS_MAC;
    wire.mac_number = UINT64_MAX - 1;
    sl_wire_pack(h, &wire);
    sl_wire_set_mac(h, given);
    CHECK(sl_wire_unpack(&out, h, sizeof h, &limits) == NULL && out.mac_number == UINT64_MAX - 1);
    sl_wire_mac_text(h, text, mac);
    CHECK(memcmp(mac, given, sizeof mac) == 0);
    sl_wire_pack(h, &wire); /* the text is the header without the MAC, and without its CRC */
    memset(h + 12, 0, 4);
    CHECK(memcmp(text, h, sizeof text) == 0);
}

SL_TEST(random_sealed_headers_keep_their_promises)
{
    struct sl_rng rng = {.seed = 4};
    int passed = 0;
    for (int round = 0; round < 200000; round++) {
        struct sl_wire wire = sample(), out;
        uint8_t h[SL_WIRE_BYTES];
        sl_wire_pack(h, &wire);
        for (uint64_t n = 1 + sl_rng_next(&rng) % 3; n > 0; n--)
            h[8 + sl_rng_next(&rng) % 120] = (uint8_t)sl_rng_next(&rng);
        seal(h);
        if (sl_wire_unpack(&out, h, sizeof h, &limits))
            continue;
        passed++;
        uint64_t rows = out.rank ? (out.dtype ? 2 : 4) : 0;
        for (int i = 0; i < out.rank; i++)
            rows *= out.shape[i];
        if (out.payload_bytes > limits.max_payload_bytes || out.meta_bytes > out.payload_bytes ||
            rows != out.payload_bytes - out.meta_bytes || out.layer_first + out.layer_count > 48 ||
            out.token_first + out.token_count > 4096)
            sl_test_fail(__FILE__, __LINE__, "round %d passed and lies", round);
    }
    CHECK(passed > 500); /* numbers, epochs and sequences may be anything */
}

SL_TEST(a_sealed_payload_is_whole_and_a_changed_one_is_not)
{
    uint8_t payload[1000];
    for (size_t i = 0; i < sizeof payload; i++)
        payload[i] = (uint8_t)sl_rng_at(4, i);
    struct sl_wire wire = {.kind = SL_WIRE_KV, .payload_bytes = sizeof payload, .meta_bytes = sizeof payload};
    CHECK(!sl_frame_whole(&wire, payload)); /* nobody vouches for it */
    sl_frame_seal(&wire, payload);
    CHECK_STR(judge(&wire), "fine");
    CHECK_INT(wire.checksum, (uint32_t)sl_xxh3(payload, sizeof payload));
    CHECK(sl_frame_whole(&wire, payload));
    for (size_t i = 0; i < sizeof payload; i++) {
        payload[i] ^= 0x10;
        CHECK(!sl_frame_whole(&wire, payload));
        payload[i] ^= 0x10;
    }
    wire.payload_bytes--;
    CHECK(!sl_frame_whole(&wire, payload));
    wire.payload_bytes++;
    wire.flags = 0;
    CHECK(!sl_frame_whole(&wire, payload));
}

SL_TEST(a_seal_travels_with_the_header_and_can_be_renewed)
{
    uint8_t payload[16] = "before", header[SL_WIRE_BYTES];
    struct sl_wire wire = {.kind = SL_WIRE_ORDER, .payload_bytes = 16, .meta_bytes = 16}, got;
    sl_frame_seal(&wire, payload);
    sl_wire_pack(header, &wire);
    REQUIRE(sl_wire_unpack(&got, header, sizeof header, &limits) == NULL);
    CHECK(sl_frame_whole(&got, payload));
    memcpy(payload, "after!", 6);
    CHECK(!sl_frame_whole(&got, payload));
    sl_frame_seal(&got, payload);
    CHECK(sl_frame_whole(&got, payload));
}

SL_TEST(a_seal_by_lanes_travels_and_is_told_by_a_flag)
{
    uint8_t payload[3000], header[SL_WIRE_BYTES];
    for (size_t i = 0; i < sizeof payload; i++)
        payload[i] = (uint8_t)sl_rng_at(5, i);
    struct sl_wire wire = {.kind = SL_WIRE_ORDER, .payload_bytes = sizeof payload, .meta_bytes = 3000}, got;
    sl_frame_seal_by_lanes(&wire, payload);
    CHECK_INT(wire.checksum, sl_lanes_of(payload, sizeof payload));
    sl_wire_pack(header, &wire);
    REQUIRE(sl_wire_unpack(&got, header, sizeof header, &limits) == NULL);
    CHECK(sl_frame_whole(&got, payload));
    payload[2999] ^= 1;
    CHECK(!sl_frame_whole(&got, payload));
    payload[2999] ^= 1;
    got.flags &= (uint16_t)~SL_WIRE_BY_LANES; /* another sum */
    CHECK(!sl_frame_whole(&got, payload));
    sl_frame_seal_by_lanes(&got, payload);
    sl_frame_seal(&got, payload); /* passed on by who has it in the host's memory */
    CHECK_INT(got.flags, SL_WIRE_HAS_CHECKSUM);
    CHECK(sl_frame_whole(&got, payload));
    wire.flags = SL_WIRE_BY_LANES;
    wire.checksum = 0;
    CHECK_STR(judge(&wire), "a checksum that is not flagged");
}

SL_TEST(rows_that_a_device_has_summed_up_have_the_seal_of_the_whole)
{
    enum { RECORD = 192, ROWS = 2800 };
    uint8_t payload[RECORD + ROWS];
    struct sl_lane_sums sums = {{0}};
    for (size_t i = 0; i < sizeof payload; i++)
        payload[i] = (uint8_t)sl_rng_at(6, i);
    sl_lanes_add(&sums, RECORD, payload + RECORD, ROWS);
    struct sl_wire wire = {.kind = SL_WIRE_ORDER, .payload_bytes = sizeof payload, .meta_bytes = RECORD};
    sl_frame_seal_by_sums(&wire, payload, &sums);
    CHECK(sl_frame_whole(&wire, payload)); /* as the host would have it, which has all of it */
    CHECK(sl_frame_whole_by_sums(&wire, payload, &sums));
    sums.sums[7] ^= 1;
    CHECK(!sl_frame_whole_by_sums(&wire, payload, &sums));
    sums.sums[7] ^= 1;
    payload[RECORD - 1] ^= 1;
    CHECK(!sl_frame_whole_by_sums(&wire, payload, &sums));
    payload[RECORD - 1] ^= 1;
    sl_frame_seal(&wire, payload); /* by another sum: nobody can say that the device's rows are whole */
    CHECK(!sl_frame_whole_by_sums(&wire, payload, &sums));
    sl_frame_seal_by_sums(&wire, payload, &sums);
    wire.flags &= (uint16_t)~SL_WIRE_HAS_CHECKSUM;
    CHECK(!sl_frame_whole_by_sums(&wire, payload, &sums));
}

SL_TEST(a_frame_without_payload_has_a_seal_too)
{
    struct sl_wire wire = {.kind = SL_WIRE_ORDER};
    sl_frame_seal(&wire, NULL);
    CHECK(sl_frame_whole(&wire, NULL));
    wire.checksum ^= 1;
    CHECK(!sl_frame_whole(&wire, NULL));
}
