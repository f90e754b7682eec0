/* How the door shares out descriptors and places, and whose a call is; what it does with floods is in tests/e2e/test_door.py. */
#include "tests/check.h"

#include "node/rpc/door.h"
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

SL_TEST(descriptors_are_kept_for_everything_else)
{
    static const uint64_t limits[] = {300, 1024, 4096, 20000, 65536, 1048576};
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++)
        for (uint64_t used = 20; used < 100; used += 20) {
            uint32_t total = 0, most = sl_door_plan(limits[i], used, &total);
            CHECK(most >= 8 && most <= SL_DOOR_CONNECTIONS);
            CHECK(used + SL_DOOR_RESERVE + total <= limits[i]);
            CHECK(total >= most + 2 * (most / 8)); /* full of idle ones, some can still call */
        }
}

SL_TEST(ten_thousand_connections_fit_twenty_thousand_descriptors)
{
    uint32_t total;
    CHECK(sl_door_plan(20000, 100, &total) >= 10000);
}

SL_TEST(too_few_descriptors_are_no_plan)
{
    uint32_t total;
    CHECK_INT(sl_door_plan(100, 30, &total), 0);
    CHECK_INT(sl_door_plan(0, 30, &total), 0);
    CHECK_INT(sl_door_plan(130, 30, &total), 0);
}

SL_TEST(a_message_of_any_size_fits_its_pool)
{
    static const uint32_t node[SL_DOOR_POOLS] = SL_DOOR_POOL_BYTES,
                          connection[SL_DOOR_POOLS] = SL_DOOR_CONNECTION_BYTES;
    CHECK(connection[0] >= SL_DOOR_SMALL_MESSAGE && connection[0] <= node[0]);
    CHECK(connection[1] >= 32u << 20 && connection[1] <= node[1]); /* the largest message that is served */
}

/* ---- a door on the loopback, and clients that say what they are told to ---- */

static struct sl_door *door;
static int core_of[64];
static atomic_uint n_cores;

static void on_connected(void *context, int fd)
{
    (void)context;
    core_of[atomic_load(&n_cores) % 64] = fd;
    atomic_fetch_add(&n_cores, 1);
}

static void on_verdict(void *context, void *call, enum sl_door_verdict verdict, uint32_t length)
{
    (void)context, (void)call, (void)verdict, (void)length;
}

static bool is_patient(void *context, void *call, uint64_t moved_ms, uint64_t now_ms)
{
    (void)context, (void)call, (void)moved_ms, (void)now_ms;
    return true;
}

static void on_changed(void *context, const char *why)
{
    (void)context, (void)why;
}

static bool open_door(void)
{
    const struct sl_door_config config = {.listen = "127.0.0.1:0",
                                          .max_message_bytes = 1 << 20,
                                          .connected = on_connected,
                                          .verdict = on_verdict,
                                          .patient = is_patient,
                                          .changed = on_changed};
    struct sl_err err;
    atomic_store(&n_cores, 0);
    bool good = sl_door_open(&door, &config, &err) == SL_OK && sl_door_start(door, &err) == SL_OK;
    CHECK(good);
    return good;
}

static void close_door(void)
{
    for (uint32_t i = 0; i < atomic_load(&n_cores) && i < 64; i++)
        close(core_of[i]);
    sl_door_close(door);
}

/* From 127.0.0.`host`, which is all this machine. */
static int come_in(int host)
{
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000000u | (uint32_t)host)};
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                             .sin_port = htons((uint16_t)sl_door_port(door))};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(bind(fd, (struct sockaddr *)&from, sizeof from) == 0);
    CHECK(connect(fd, (struct sockaddr *)&to, sizeof to) == 0);
    return fd;
}

static const char greeting[] =
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0"; /* and the last zero of SETTINGS */
static const char call_1[] = "\0\0\3\1\4\0\0\0\1abc";

static void say(int fd, const char *text, size_t bytes)
{
    CHECK(send(fd, text, bytes, MSG_NOSIGNAL) == (ssize_t)bytes);
}

/* What the core hears of connection `i`: preface, SETTINGS, the call's block, and the ticket at the end. */
static struct sl_frames_ticket ticket_of(uint32_t i)
{
    uint8_t heard[256];
    struct sl_frames_ticket ticket = {0};
    size_t n = 0, whole = 24 + 9 + 12 + 9 + 3 + strlen(sl_frames_field()) + 32;
    while (atomic_load(&n_cores) <= i)
        sched_yield();
    fcntl(core_of[i], F_SETFL, 0);
    while (n < whole) {
        ssize_t got = recv(core_of[i], heard + n, sizeof heard - n, 0);
        CHECK(got > 0);
        if (got <= 0)
            return ticket;
        n += (size_t)got;
    }
    CHECK(sl_frames_read_ticket(heard + whole - 32, 32, &ticket));
    return ticket;
}

SL_TEST(a_ticket_is_its_connections_and_no_one_can_guess_another)
{
    char call;
    uint32_t length;
    if (!open_door())
        return;
    int fds[2];
    struct sl_frames_ticket tickets[2];
    for (uint32_t i = 0; i < 2; i++) {
        fds[i] = come_in(1);
        say(fds[i], greeting, sizeof greeting);
        say(fds[i], call_1, sizeof call_1 - 1);
        tickets[i] = ticket_of(i);
        CHECK_INT(tickets[i].stream, 1);
    }
    CHECK(tickets[0].secret && tickets[0].secret != tickets[1].secret);
    struct sl_frames_ticket guess = tickets[0];
    guess.connection = tickets[1].connection; /* all that the client of the first knows */
    CHECK_INT(sl_door_claim(door, &guess, &call, false, &length), SL_DOOR_GONE);
    for (uint32_t bit = 0; bit < 64; bit++) {
        guess = tickets[1];
        guess.secret ^= (uint64_t)1 << bit;
        CHECK_INT(sl_door_claim(door, &guess, &call, false, &length), SL_DOOR_GONE);
    }
    CHECK_INT(sl_door_claim(door, &tickets[1], &call, false, &length), SL_DOOR_WAIT);
    CHECK_INT(sl_door_claim(door, &tickets[1], &call, false, &length), SL_DOOR_GONE); /* it is one call's */
    sl_door_forget(door, &tickets[1]);
    close(fds[0]);
    close(fds[1]);
    close_door();
}
