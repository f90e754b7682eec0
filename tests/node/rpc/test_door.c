/* How the door shares out descriptors and places, and whose a call is; what it does with floods is in tests/e2e/test_door.py. */
#include "tests/check.h"

#include "node/rpc/door_impl.h"
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
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

/* ---- who has a place ---- */

/* One with so few places that a test can take them all. */
static bool open_small_door(void)
{
    struct rlimit before, few;
    CHECK(getrlimit(RLIMIT_NOFILE, &before) == 0);
    few = before;
    few.rlim_cur = 300;
    setrlimit(RLIMIT_NOFILE, &few);
    bool opened = open_door();
    setrlimit(RLIMIT_NOFILE, &before);
    return opened;
}

static uint64_t metric(const char *line)
{
    struct sl_text text = {0};
    sl_door_metrics(door, &text);
    const char *at = strstr(text.data, line);
    CHECK(at);
    uint64_t value = at ? strtoull(at + strlen(line), NULL, 10) : 0;
    free(text.data);
    return value;
}

static uint32_t places(void)
{
    return (uint32_t)metric("\nsluice_grpc_connections_limit ");
}

static uint64_t displaced(void)
{
    return metric("\nsluice_grpc_connections_shut_total{reason=\"displaced\"} ");
}

/* A newcomer says hello: true once the door has answered, false if it was turned away. */
static bool is_let_in(int fd)
{
    uint8_t answer[9];
    (void)!send(fd, greeting, sizeof greeting, MSG_NOSIGNAL);
    return recv(fd, answer, sizeof answer, 0) == (ssize_t)sizeof answer;
}

static int comes_in(int host)
{
    int fd = come_in(host);
    if (is_let_in(fd))
        return fd;
    close(fd);
    return -1;
}

/* Whatever is there is read; false once the door has closed it. */
static bool is_open(int fd)
{
    uint8_t heard[256];
    ssize_t n;
    while ((n = recv(fd, heard, sizeof heard, MSG_DONTWAIT)) > 0) {
    }
    return n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
}

static uint32_t n_open(const int *fds, uint32_t n)
{
    uint32_t open = 0;
    for (uint32_t i = 0; i < n; i++)
        open += is_open(fds[i]);
    return open;
}

static void close_all(const int *fds, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        close(fds[i]);
}

SL_TEST(the_oldest_that_never_called_makes_room_for_a_newcomer)
{
    int crowd[200], newcomer = -1;
    uint32_t n = 0;
    if (!open_small_door())
        return;
    while (n < places() && n < 200) { /* of many hosts: none has a quarter */
        crowd[n] = comes_in(2 + (int)n % 16);
        REQUIRE(crowd[n] >= 0);
        n++;
        if (n == 2) { /* these call: nobody takes their places */
            for (uint32_t i = 0; i < 2; i++) {
                say(crowd[i], call_1, sizeof call_1 - 1);
                ticket_of(i);
            }
        }
    }
    uint64_t before = displaced();
    while (newcomer < 0) /* as long as all have just come, it is refused */
        newcomer = comes_in(1);
    CHECK(displaced() == before + 1);
    CHECK(is_open(crowd[0]) && is_open(crowd[1]) && !is_open(crowd[2]));
    CHECK_INT(n_open(crowd, n), n - 1);
    close_all(crowd, n);
    close(newcomer);
    close_door();
}

SL_TEST(one_address_keeps_a_quarter_of_the_places_when_others_come)
{
    int crowd[200], others[200];
    uint32_t n = 0, n_others = 0;
    if (!open_small_door())
        return;
    uint32_t most = places(), quarter = most / 4;
    REQUIRE(most < 200);
    for (; n < most; n++) {
        crowd[n] = comes_in(2);
        REQUIRE(crowd[n] >= 0);
    }
    for (; n_others < most - quarter; n_others++) { /* each at once: the crowd has no grace */
        others[n_others] = -1;
        for (int i = 0; i < 1000 && others[n_others] < 0; i++) /* whose place it gets must have gone */
            others[n_others] = comes_in(3 + (int)n_others % 16);
        REQUIRE(others[n_others] >= 0);
    }
    CHECK_INT(n_open(crowd, n), quarter);
    CHECK_INT(n_open(crowd, n - quarter), 0); /* the oldest went */
    CHECK_INT(n_open(others, n_others), n_others);
    for (uint32_t i = 0; i < 20; i++) { /* its newcomers displace its own, or nobody */
        int more = comes_in(2);
        if (more >= 0)
            crowd[n++] = more;
    }
    CHECK_INT(n_open(others, n_others), n_others);
    CHECK_INT(n_open(crowd, n), quarter);
    close_all(crowd, n);
    close_all(others, n_others);
    close_door();
}

SL_TEST(then_goes_who_has_had_no_call_for_longest)
{
    struct sl_door_connection c[4] = {{0}}, *all[] = {&c[0], &c[1], &c[2], &c[3]};
    struct sl_door_quiet by_peer[SL_DOOR_PEERS] = {{0}};
    struct sl_frames_stream stream = {.id = 1};
    struct sl_door d = {.connections = all,
                        .top = 4,
                        .n = 4,
                        .n_live = 3,
                        .most = 40,
                        .total = 11,
                        .quiet_of = by_peer,
                        .now_ms = 100000};
    for (int i = 0; i < 4; i++)
        c[i] =
            (struct sl_door_connection){.core = 1, .active_ms = d.now_ms - SL_DOOR_UNUSED_MS - (uint64_t)i};
    c[3].frames.n_streams = 1; /* a call */
    c[3].frames.streams = &stream;
    CHECK(sl_door_who_goes_for(&d, SL_DOOR_CALLS) == &c[2]);
    CHECK(sl_door_has_place(&d));
    c[0].core = -1; /* it has never called */
    sl_door_be_quiet(&d, &c[0]);
    CHECK(sl_door_who_goes_for(&d, SL_DOOR_CALLS) == &c[0]);
    sl_door_be_heard(&d, &c[0]);
    c[1].active_ms = c[2].active_ms = d.now_ms - SL_DOOR_UNUSED_MS + 1;
    CHECK(sl_door_who_goes_for(&d, SL_DOOR_CALLS) == NULL);
    CHECK(d.barren_until_ms > d.now_ms); /* it does not look again at once */
    CHECK(!sl_door_has_place(&d));       /* three descriptors each, and two are left */
    d.total = 12;
    d.n = 3;
    CHECK(sl_door_has_place(&d));
}

/* ---- unfinished messages ---- */

static void give_streams(struct sl_door_connection *c, uint32_t n, uint64_t silent_since_ms, bool waiting)
{
    memset(c, 0, sizeof *c);
    c->frames.streams = calloc(n, sizeof *c->frames.streams);
    c->frames.n_streams = c->frames.n_unfinished = c->unfinished = n;
    for (uint32_t i = 0; i < n; i++)
        c->frames.streams[i] =
            (struct sl_frames_stream){.id = 1 + 2 * i, .data_ms = silent_since_ms, .waiting = waiting};
}

/* Which of the two goes. */
static int worse(uint32_t n, uint64_t silent_ms, bool waiting, uint32_t n_other, uint64_t other_silent_ms)
{
    struct sl_door_connection a, b, *both[] = {&a, &b};
    struct sl_door d = {.connections = both, .top = 2, .now_ms = 1000000};
    give_streams(&a, n, d.now_ms - silent_ms, waiting);
    give_streams(&b, n_other, d.now_ms - other_silent_ms, false);
    int which = sl_door_worst(&d) == &a ? 0 : 1;
    sl_frames_fini(&a.frames);
    sl_frames_fini(&b.frames);
    return which;
}

SL_TEST(who_lets_messages_lie_goes_before_who_begins_many)
{
    CHECK_INT(worse(1, 10000, false, 50, 5), 0);   /* one of a thousand idlers against a gateway */
    CHECK_INT(worse(128, 20, false, 1, 1200), 0);  /* a flood against one on a slow line */
    CHECK_INT(worse(128, 0, false, 20, 0), 0);     /* all in one breath: by number */
    CHECK_INT(worse(20, 30000, true, 1, 1000), 1); /* who waits for room must not send */
}
