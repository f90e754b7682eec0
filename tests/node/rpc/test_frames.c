/* Frames by hand: what the door counts, what it adds and takes away, and that pieces of any size give the same. */
#include "tests/check.h"

#include "base/rng.h"
#include "node/rpc/frames.h"
#include <stdlib.h>
#include <string.h>

enum { DATA = 0, HEADERS = 1, RESET = 3, SETTINGS = 4, PING = 6, WINDOW = 8, CONTINUATION = 9 };

struct bytes {
    uint8_t data[1 << 17];
    size_t n;
};

static void add(struct bytes *b, int type, int flags, uint32_t stream, const void *payload, size_t n)
{
    uint8_t head[9] = {(uint8_t)(n >> 16),      (uint8_t)(n >> 8),      (uint8_t)n,
                       (uint8_t)type,           (uint8_t)flags,         (uint8_t)(stream >> 24),
                       (uint8_t)(stream >> 16), (uint8_t)(stream >> 8), (uint8_t)stream};
    memcpy(b->data + b->n, head, 9);
    if (n)
        memcpy(b->data + b->n + 9, payload, n);
    b->n += 9 + n;
}

static uint32_t n_known, n_gone, last_length;

static void on_known(void *context, struct sl_frames_stream *stream)
{
    (void)context;
    n_known++;
    last_length = stream->length;
}

static void on_gone(void *context, struct sl_frames_stream *stream)
{
    (void)context, (void)stream;
    n_gone++;
}

static const struct sl_frames_events events = {NULL, on_known, on_gone};

struct rig {
    struct sl_frames frames;
    uint8_t core[SL_FRAMES_OUT_BYTES * 8], client[SL_FRAMES_OUT_BYTES * 8];
    size_t n_core, n_client;
    uint64_t now_ms;
};
static struct rig rig, other;

static void begin(struct rig *r)
{
    sl_frames_fini(&r->frames);
    memset(r, 0, sizeof *r);
    sl_frames_init(&r->frames, 0x1234, 0xfedcba9876543210);
    n_known = n_gone = last_length = 0;
}

static enum sl_frames_end up(struct rig *r, const void *in, size_t bytes, size_t piece)
{
    for (size_t at = 0; at < bytes; at += piece) {
        struct sl_frames_out core = {r->core, r->n_core}, answer = {r->client, r->n_client};
        size_t n = bytes - at < piece ? bytes - at : piece;
        enum sl_frames_end end =
            sl_frames_up(&r->frames, (const uint8_t *)in + at, n, r->now_ms, &events, &core, &answer);
        r->n_core = core.bytes, r->n_client = answer.bytes;
        if (end)
            return end;
    }
    return SL_FRAMES_GO_ON;
}

static enum sl_frames_end down(struct rig *r, const struct bytes *b)
{
    struct sl_frames_out out = {r->client, r->n_client};
    enum sl_frames_end end = sl_frames_down(&r->frames, b->data, b->n, r->now_ms, &events, &out);
    r->n_client = out.bytes;
    return end;
}

static struct bytes in;

static void say_hello(struct rig *r)
{
    begin(r);
    in.n = 0;
    add(&in, SETTINGS, 0, 0, NULL, 0);
    CHECK_INT(up(r, in.data, in.n, SL_FRAMES_IN_BYTES), SL_FRAMES_GO_ON);
    in.n = 0;
}

static enum sl_frames_end send_all(void)
{
    enum sl_frames_end end = up(&rig, in.data, in.n, SL_FRAMES_IN_BYTES);
    in.n = 0;
    return end;
}

static void acknowledge(void)
{
    add(&in, SETTINGS, 1, 0, NULL, 0);
    CHECK_INT(send_all(), SL_FRAMES_GO_ON);
}

SL_TEST(a_connection_without_a_call_is_answered_without_a_core)
{
    begin(&rig);
    in.n = 0;
    add(&in, SETTINGS, 0, 0, "\0\4\0\1\0\0", 6);
    add(&in, PING, 0, 0, "abcdefgh", 8);
    add(&in, WINDOW, 0, 0, "\0\0\1\0", 4);
    add(&in, SETTINGS, 1, 0, NULL, 0);
    CHECK_INT(up(&rig, in.data, in.n, 1), SL_FRAMES_GO_ON);
    CHECK(!rig.frames.live && rig.frames.settled);
    CHECK_INT(rig.n_core, 0);
    CHECK_INT(rig.n_client, 15 + 9 + 17); /* its SETTINGS, ACK, the ping back */
    CHECK_INT(rig.client[3], SETTINGS);
    CHECK_INT(rig.client[14], 0);
    CHECK_INT(rig.client[13], 1); /* 256 streams */
    CHECK(memcmp(rig.client + rig.n_client - 8, "abcdefgh", 8) == 0);
    CHECK_INT(rig.frames.replay_bytes, 15 + 13); /* what the core will want to hear */
}

SL_TEST(the_first_frame_is_settings)
{
    begin(&rig);
    in.n = 0;
    add(&in, PING, 0, 0, "abcdefgh", 8);
    CHECK_INT(send_all(), SL_FRAMES_GARBAGE);
    begin(&rig);
    add(&in, SETTINGS, 1, 0, NULL, 0);
    CHECK_INT(send_all(), SL_FRAMES_GARBAGE);
    CHECK(sl_frames_hello((const uint8_t *)"PRI * HT", 8));
    CHECK(!sl_frames_hello((const uint8_t *)"GET / HT", 8));
    CHECK(!sl_frames_hello((const uint8_t *)"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\1\0\0\0\0\0", 33));
}

SL_TEST(a_new_block_gets_its_ticket_and_trailers_do_not)
{
    struct sl_frames_ticket ticket;
    say_hello(&rig);
    add(&in, HEADERS, 4, 7, "abc", 3);
    CHECK_INT(send_all(), SL_FRAMES_GO_ON);
    CHECK(rig.frames.live);
    CHECK_INT(rig.core[4], 0); /* END_HEADERS is the last frame's */
    const uint8_t *more = rig.core + 12;
    CHECK_INT(more[3], CONTINUATION);
    CHECK_INT(more[4], 4);
    CHECK(memcmp(more + 11, sl_frames_field(), strlen(sl_frames_field())) == 0);
    CHECK(sl_frames_read_ticket(rig.core + rig.n_core - 32, 32, &ticket));
    CHECK_INT(ticket.connection, 0x1234);
    CHECK_INT(ticket.stream, 7);
    CHECK(ticket.secret == 0xfedcba9876543210);
    CHECK(!sl_frames_read_ticket((const uint8_t *)"fedcba9876543210000012340000000x", 32, &ticket));
    size_t before = rig.n_core;
    add(&in, HEADERS, 5, 7, "abc", 3);
    CHECK_INT(send_all(), SL_FRAMES_GO_ON);
    CHECK_INT(rig.n_core, before + 12);
    CHECK_INT(rig.core[before + 4], 5);
    CHECK_INT(rig.frames.n_unfinished, 0); /* its client has ended it, message or not */
}

SL_TEST(a_block_in_pieces_gets_its_ticket_at_its_end)
{
    say_hello(&rig);
    add(&in, HEADERS, 0, 1, "abc", 3);
    add(&in, CONTINUATION, 4, 1, "de", 2);
    CHECK_INT(send_all(), SL_FRAMES_GO_ON);
    CHECK_INT(rig.core[4], 0);
    CHECK_INT(rig.core[12 + 4], 0);
    CHECK_INT(rig.core[12 + 11 + 3], CONTINUATION);
    CHECK_INT(rig.core[12 + 11 + 4], 4);
    add(&in, HEADERS, 0, 3, "abc", 3);
    add(&in, PING, 0, 0, "abcdefgh", 8);
    CHECK_INT(send_all(), SL_FRAMES_GARBAGE); /* nothing may come in between */
}

SL_TEST(the_length_of_a_message_is_known_from_its_first_five_bytes)
{
    static uint8_t body[1000];
    say_hello(&rig);
    add(&in, HEADERS, 4, 1, "abc", 3);
    add(&in, DATA, 0, 1, "\0\0", 2);
    add(&in, DATA, 8, 1, "\2\0\3\xe8pp", 6); /* padded by two; 1000 bytes follow */
    CHECK_INT(send_all(), SL_FRAMES_GO_ON);
    CHECK_INT(n_known, 1);
    CHECK_INT(last_length, 1000);
    CHECK_INT(rig.frames.n_unfinished, 1);
    add(&in, DATA, 0, 1, body, 999);
    CHECK_INT(send_all(), SL_FRAMES_GO_ON);
    CHECK_INT(rig.frames.streams[0].left, 1);
    add(&in, DATA, 1, 1, body, 1);
    CHECK_INT(send_all(), SL_FRAMES_GO_ON);
    CHECK_INT(rig.frames.n_unfinished, 0);
    CHECK_INT(n_known, 1);
}

SL_TEST(who_sends_many_messages_is_walked_from_the_first)
{
    say_hello(&rig);
    add(&in, HEADERS, 4, 1, "abc", 3);
    add(&in, DATA, 0, 1, "\0\0\0\0\1x\0\0\0\0\2y", 12);
    CHECK_INT(send_all(), SL_FRAMES_GO_ON);
    CHECK_INT(last_length, 1);
    sl_frames_be_many(&rig.frames, &rig.frames.streams[0]); /* its call came late */
    add(&in, DATA, 0, 1, "z\0\0\1\0\0", 6);
    CHECK_INT(send_all(), SL_FRAMES_GO_ON);
    CHECK_INT(last_length, 65536);
    CHECK_INT(rig.frames.streams[0].longest, 65536);
}

SL_TEST(pieces_of_any_size_give_the_same)
{
    struct sl_rng rng = {.seed = 5};
    for (int round = 0; round < 50; round++) {
        static struct bytes all;
        uint8_t body[600];
        all.n = 0;
        memset(body, 0, sizeof body);
        add(&all, SETTINGS, 0, 0, NULL, 0);
        for (uint32_t i = 0; i < 20; i++) {
            uint32_t stream = 1 + 2 * i;
            add(&all, HEADERS, 4, stream, body, sl_rng_next(&rng) % 40);
            body[4] = (uint8_t)sl_rng_next(&rng);
            add(&all, DATA, 0, stream, body, sl_rng_next(&rng) % sizeof body);
            if (sl_rng_next(&rng) % 2)
                add(&all, RESET, 0, stream, "\0\0\0\x08", 4);
            add(&all, PING, 0, 0, "abcdefgh", 8);
        }
        begin(&rig), begin(&other);
        CHECK_INT(up(&rig, all.data, all.n, SL_FRAMES_IN_BYTES), SL_FRAMES_GO_ON);
        CHECK_INT(up(&other, all.data, all.n, 1 + sl_rng_next(&rng) % 30), SL_FRAMES_GO_ON);
        CHECK_INT(rig.n_core, other.n_core);
        CHECK(memcmp(rig.core, other.core, rig.n_core) == 0);
        CHECK_INT(rig.frames.n_streams, other.frames.n_streams);
        CHECK_INT(rig.frames.n_unfinished, other.frames.n_unfinished);
    }
}

SL_TEST(streams_end_with_whoever_ends_them)
{
    static struct bytes out;
    say_hello(&rig);
    for (uint32_t i = 0; i < 3; i++)
        add(&in, HEADERS, 4, 1 + 2 * i, "abc", 3);
    CHECK_INT(send_all(), SL_FRAMES_GO_ON);
    CHECK_INT(rig.frames.n_streams, 3);
    out.n = 0;
    add(&out, HEADERS, 4, 1, "abc", 3);
    CHECK_INT(down(&rig, &out), SL_FRAMES_GO_ON);
    CHECK_INT(rig.frames.n_streams, 3);
    out.n = 0;
    add(&out, HEADERS, 5, 1, "abc", 3);
    add(&out, RESET, 0, 3, "\0\0\0\0", 4);
    CHECK_INT(down(&rig, &out), SL_FRAMES_GO_ON);
    add(&in, RESET, 0, 5, "\0\0\0\x08", 4);
    CHECK_INT(send_all(), SL_FRAMES_GO_ON);
    CHECK_INT(rig.frames.n_streams, 0);
    CHECK_INT(n_gone, 3);
    CHECK_INT(rig.frames.n_unfinished, 0);
}

SL_TEST(acknowledgements_of_what_the_door_said_are_taken_out)
{
    static struct bytes out;
    say_hello(&rig);
    size_t answered = rig.n_client;
    add(&in, HEADERS, 4, 1, "abc", 3);
    CHECK_INT(send_all(), SL_FRAMES_GO_ON);
    size_t before = rig.n_core;
    add(&in, SETTINGS, 1, 0, NULL, 0); /* of the door's */
    CHECK_INT(send_all(), SL_FRAMES_GO_ON);
    CHECK_INT(rig.n_core, before);
    add(&in, SETTINGS, 1, 0, NULL, 0); /* of the core's */
    CHECK_INT(send_all(), SL_FRAMES_GO_ON);
    CHECK_INT(rig.n_core, before + 9);
    out.n = 0;
    add(&out, SETTINGS, 0, 0, NULL, 0);
    add(&out, SETTINGS, 1, 0, NULL, 0); /* what the door has acknowledged */
    CHECK_INT(down(&rig, &out), SL_FRAMES_GO_ON);
    CHECK_INT(rig.n_client, answered + 9);
}

static enum sl_frames_end repeat(int type, int flags, const char *payload, size_t bytes, int times, bool open)
{
    enum sl_frames_end end = SL_FRAMES_GO_ON;
    say_hello(&rig);
    acknowledge();
    for (int i = 0; i < times && !end; i++) {
        if (open)
            add(&in, HEADERS, 4, 1 + 2 * (uint32_t)i, "abc", 3);
        add(&in, type, flags, type == HEADERS || open ? 1 + 2 * (uint32_t)i : 0, payload, bytes);
        end = send_all();
        rig.n_core = rig.n_client = 0;
    }
    return end;
}

SL_TEST(what_is_too_much_ends_the_connection)
{
    CHECK_INT(repeat(HEADERS, 4, "abc", 3, SL_FRAMES_MAX_STREAMS, false), SL_FRAMES_GO_ON);
    CHECK_INT(repeat(HEADERS, 4, "abc", 3, SL_FRAMES_MAX_STREAMS + 1, false), SL_FRAMES_TOO_MANY_STREAMS);
    CHECK_INT(repeat(RESET, 0, "\0\0\0\x08", 4, SL_FRAMES_RESETS, true), SL_FRAMES_GO_ON);
    CHECK_INT(repeat(RESET, 0, "\0\0\0\x08", 4, SL_FRAMES_RESETS + 1, true), SL_FRAMES_TOO_MANY_RESETS);
    CHECK_INT(repeat(PING, 0, "abcdefgh", 8, SL_FRAMES_CONTROLS + 1, false), SL_FRAMES_TOO_MANY_CONTROLS);
    CHECK_INT(repeat(HEADERS, 4, "abc", 3, 1, false), SL_FRAMES_GO_ON);
    enum sl_frames_end end = SL_FRAMES_GO_ON;
    for (int i = 0; i < SL_FRAMES_SMALL && !end; i++, rig.n_core = 0) {
        add(&in, DATA, 0, 1, "x", 1);
        end = send_all();
    }
    CHECK_INT(end, SL_FRAMES_GO_ON);
    add(&in, DATA, 0, 1, "x", 1);
    CHECK_INT(send_all(), SL_FRAMES_TOO_SMALL_FRAMES);
    say_hello(&rig);
    add(&in, HEADERS, 0, 1, "abc", 3);
    for (int i = 0; i <= SL_FRAMES_CONTINUATIONS; i++)
        add(&in, CONTINUATION, 0, 1, "a", 1);
    CHECK_INT(send_all(), SL_FRAMES_TOO_MUCH_HEADER);
}

SL_TEST(who_has_not_acknowledged_gets_little)
{
    say_hello(&rig);
    for (uint32_t i = 0; i < SL_FRAMES_EARLY_STREAMS; i++)
        add(&in, HEADERS, 4, 1 + 2 * i, "abc", 3);
    CHECK_INT(send_all(), SL_FRAMES_GO_ON);
    add(&in, HEADERS, 4, 1 + 2 * SL_FRAMES_EARLY_STREAMS, "abc", 3);
    CHECK_INT(send_all(), SL_FRAMES_TOO_MANY_STREAMS);
    begin(&rig);
    add(&in, SETTINGS, 0, 0, NULL, 0);
    add(&in, SETTINGS, 1, 0, NULL, 0); /* in one breath: it cannot have read ours */
    CHECK_INT(send_all(), SL_FRAMES_GO_ON);
    CHECK(!rig.frames.acknowledged);
}

SL_TEST(resets_are_forgiven_at_a_rate)
{
    say_hello(&rig);
    for (uint32_t i = 0; i < 4 * SL_FRAMES_RESETS; i++) {
        rig.now_ms += 1000 / SL_FRAMES_RESETS_A_SECOND;
        rig.n_core = 0;
        add(&in, HEADERS, 4, 1 + 2 * i, "abc", 3);
        add(&in, RESET, 0, 1 + 2 * i, "\0\0\0\x08", 4);
        REQUIRE(send_all() == SL_FRAMES_GO_ON);
    }
}

SL_TEST(resets_that_a_client_provokes_count_as_its_own)
{
    static struct bytes out;
    enum sl_frames_end end = SL_FRAMES_GO_ON;
    uint32_t i = 0;
    say_hello(&rig);
    acknowledge();
    for (; i <= SL_FRAMES_RESETS && !end; i++) {
        rig.n_core = rig.n_client = 0;
        add(&in, HEADERS, 4, 1 + 2 * i, "abc", 3);
        REQUIRE(send_all() == SL_FRAMES_GO_ON);
        out.n = 0;
        add(&out, RESET, 0, 1 + 2 * i, "\0\0\0\1", 4);
        end = down(&rig, &out);
    }
    CHECK_INT(end, SL_FRAMES_TOO_MANY_RESETS);
    CHECK_INT(i, SL_FRAMES_RESETS + 1);
}

/* One for what it receives is what grpc-go sends; without DATA they are counted. */
SL_TEST(data_that_a_client_gets_pays_for_its_pings)
{
    static struct bytes out;
    say_hello(&rig);
    add(&in, HEADERS, 4, 1, "abc", 3);
    REQUIRE(send_all() == SL_FRAMES_GO_ON);
    for (uint32_t i = 0; i < 4 * SL_FRAMES_CONTROLS; i++) {
        rig.n_core = rig.n_client = out.n = 0;
        add(&out, DATA, 0, 1, "token", 5);
        REQUIRE(down(&rig, &out) == SL_FRAMES_GO_ON);
        add(&in, PING, 0, 0, "abcdefgh", 8);
        REQUIRE(send_all() == SL_FRAMES_GO_ON);
    }
    for (uint32_t i = 0; i < 2 * SL_FRAMES_PINGS_PAID; i++) { /* what may be saved up has an end */
        rig.n_client = out.n = 0;
        add(&out, DATA, 0, 1, "token", 5);
        REQUIRE(down(&rig, &out) == SL_FRAMES_GO_ON);
    }
    uint32_t n = 0;
    for (enum sl_frames_end end = SL_FRAMES_GO_ON; !end; n++) {
        rig.n_core = 0;
        add(&in, PING, 0, 0, "abcdefgh", 8);
        end = send_all();
    }
    CHECK(n > SL_FRAMES_PINGS_PAID && n <= SL_FRAMES_PINGS_PAID + SL_FRAMES_CONTROLS + 1);
}
