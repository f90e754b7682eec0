/* pipeline/link/transport_nccl.c: rows by NCCL, with all that can go wrong with them (nccl_twin/). What it has in common with every
 * transport is in test_io.c. Its planted faults (base/mutate.h) have to be found by this program. */
#include "tests/pipeline/link/two_ends.h"

#include "pipeline/link/transport_nccl_api.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <sysexits.h>

#define OVER_EACH(name)                                                                                      \
    static void name(const struct sl_transport_ops *transport);                                              \
    SL_TEST(rows_local_##name)                                                                               \
    {                                                                                                        \
        name(&sl_transport_local_nccl);                                                                      \
    }                                                                                                        \
    SL_TEST(rows_ucx_##name)                                                                                 \
    {                                                                                                        \
        name(&sl_transport_ucx_nccl);                                                                        \
    }                                                                                                        \
    static void name(const struct sl_transport_ops *transport)

/* Lines that break carry on, and rows that do not get through for five times so long break theirs. */
static bool start_hardy(struct world *world, const struct sl_transport_ops *transport, uint32_t silent_ms)
{
    struct sl_err err;
    *world = (struct world){0};
    fill_pool();
    if (!prepare_rows(transport) || sl_fabric_create(&world->fabric) != SL_OK)
        return false;
    struct sl_io_config config = config_of(transport, world);
    config.lost_ms = 600000;
    config.silent_ms = silent_ms;
    config.handshake_ms = 1000;
    config.join_ms = 800;
    if (sl_io_create(&world->a.io, &config, &err) == SL_OK &&
        sl_io_create(&world->b.io, &config, &err) == SL_OK)
        return true;
    sl_test_fail(__FILE__, __LINE__, "%s", err.text);
    return false;
}

static void stop_clean(struct world *world)
{
    stop(world);
    CHECK_INT(twin.comms(), 0);
}

/* Each frame once, whole and in order, and each tag home, whatever happened to lines. */
static void exchange(struct world *world, int frames)
{
    world->a.expect = world->b.expect = pool;
    for (int n = 0; n < frames; n++) {
        send_frame(&world->a, (uint64_t)n);
        send_frame(&world->b, (uint64_t)n);
    }
    UNTIL(world, world->a.n_frames == frames && world->b.n_frames == frames);
    UNTIL(world, world->a.n_sent == frames && world->b.n_sent == frames);
    check_tokens(&world->a, frames);
    check_tokens(&world->b, frames);
    CHECK_INT(world->a.n_torn + world->b.n_torn, 0);
    CHECK_INT(world->a.n_down + world->b.n_down, 0);
}

OVER_EACH(go_beside_from_so_many_bytes_on)
{
    struct world world;
    REQUIRE(start(&world, transport));
    connect_both(&world, 2, 2);
    CHECK_INT(send_bytes(&world.b, LINK, pool, 999 + 64, 1), SL_OK); /* behind a record of 64 bytes */
    UNTIL(&world, world.a.n_frames == 1 && world.b.n_sent == 1);
    CHECK_INT(twin.transfers(), 0);
    CHECK_INT(send_bytes(&world.b, LINK, pool, 1000 + 64, 1), SL_OK);
    UNTIL(&world, world.a.n_frames == 2 && world.b.n_sent == 2);
    CHECK_INT(twin.transfers(), 2); /* both ends of one */
    CHECK_INT(twin.comms(), 4);
    struct sl_wire wire = {
        .kind = SL_WIRE_KV, .payload_bytes = 5000, .dtype = SL_I8, .rank = 1, .shape = {5000}};
    sl_frame_seal(&wire, pool);
    CHECK_INT(sl_io_send(world.b.io, LINK, &wire, pool, 2), SL_OK); /* pages never do */
    UNTIL(&world, world.a.n_frames == 3);
    CHECK_INT(twin.transfers(), 2);
    CHECK_INT(world.a.n_torn, 0);
    stop_clean(&world);
    CHECK_INT(twin.mismatches(), 0);
}

OVER_EACH(that_hang_once_come_over_another_line)
{
    for (int at = 0; at < 2; at++) { /* of the first frame, and in the midst of others */
        struct world world;
        REQUIRE(start_hardy(&world, transport, 150));
        connect_both(&world, 3, 4);
        CHECK(twin.fault("stall", at * 31, 1));
        exchange(&world, 40);
        CHECK_INT(twin.struck(), 1);
        CHECK(world.a.n_silences + world.b.n_silences > 0);
        stop_clean(&world);
        CHECK_INT(twin.mismatches(), 0);
    }
}

/* It says so, and nobody waits for a time to pass. */
OVER_EACH(of_which_nccl_says_that_they_failed_come_over_another_line)
{
    struct world world;
    REQUIRE(start_hardy(&world, transport, 20000));
    connect_both(&world, 3, 4);
    CHECK(twin.fault("async_error", 9, 2));
    exchange(&world, 40);
    CHECK_INT(twin.struck(), 2);
    stop_clean(&world);
}

OVER_EACH(of_another_size_than_they_were_sent_are_not_taken)
{
    struct world world;
    REQUIRE(start_hardy(&world, transport, 150));
    connect_both(&world, 3, 4);
    CHECK(twin.fault("short", 5, 1));
    exchange(&world, 40);
    CHECK_INT(twin.struck(), 1);
    CHECK_INT(twin.mismatches(), 1);
    stop_clean(&world);
}

OVER_EACH(with_a_byte_changed_are_not_whole_and_the_link_lives)
{
    struct world world;
    REQUIRE(start_hardy(&world, transport, 150));
    connect_both(&world, 4, 4);
    CHECK(twin.fault("corrupt", 1, 1));
    for (int n = 0; n < 3; n++)
        CHECK_INT(send_bytes(&world.a, LINK, pool, 100000, (uint64_t)n), SL_OK);
    UNTIL(&world, world.b.n_frames == 3 && world.a.n_sent == 3);
    CHECK_INT(world.b.n_torn, 1);
    CHECK_INT(world.b.n_down + world.b.n_silences, 0);
    stop_clean(&world);
}

OVER_EACH(whose_ends_did_not_meet_meet_the_next_time)
{
    static const char *const faults[] = {"init_fail", "init_hang"};
    for (int i = 0; i < 2; i++) {
        struct world world;
        REQUIRE(start_hardy(&world, transport, 150));
        CHECK(twin.fault(faults[i], 0, 2));
        connect_both(&world, 2, 2);
        CHECK(twin.struck() == 2);
        exchange(&world, 10);
        stop_clean(&world);
    }
}

OVER_EACH(whose_next_line_gets_no_id_wait_for_another)
{
    struct world world;
    REQUIRE(start_hardy(&world, transport, 150));
    connect_both(&world, 2, 2); /* under ids that were drawn at the start */
    CHECK(twin.fault("id_fail", 0, 3));
    sl_io_fault_cut(world.a.io);
    UNTIL(&world, twin.struck() == 3);
    exchange(&world, 10);
    stop_clean(&world);
}

OVER_EACH(whose_ends_never_meet_have_no_link)
{
    static const char *const faults[] = {"init_fail", "init_hang"};
    for (int i = 0; i < 2; i++) {
        struct world world;
        REQUIRE(start_hardy(&world, transport, 150));
        CHECK(twin.fault(faults[i], 0, -1));
        struct sl_link_config link = link_config(LINK, 1, 2);
        CHECK_INT(sl_io_accept(world.a.io, &link, sl_io_address(world.b.io)), SL_OK);
        CHECK_INT(sl_io_connect(world.b.io, &link, sl_io_address(world.a.io)), SL_OK);
        send_frame(&world.b, 2);
        UNTIL(&world, twin.struck() >= 4); /* tries that are made anew */
        CHECK_INT(world.a.n_up + world.b.n_up + world.b.n_sent, 0);
        sl_io_drop(world.a.io, LINK);
        sl_io_drop(world.b.io, LINK);
        UNTIL(&world, world.a.n_down == 1 && world.b.n_down == 1 && world.b.n_sent == 1);
        CHECK_INT(world.b.sent_status[2], SL_E_CANCELLED);
        stop_clean(&world);
    }
}

OVER_EACH(that_hang_are_nccls_until_it_has_ended)
{
    struct world world;
    REQUIRE(start(&world, transport));
    connect_both(&world, 3, 3);
    CHECK(twin.fault("stall", 0, -1));
    for (uint64_t n = 0; n < 3; n++)
        CHECK_INT(send_bytes(&world.b, LINK, pool + n * 100000, 100000, n), SL_OK);
    UNTIL(&world, twin.struck() >= 2); /* both ends of the first */
    sl_io_drop(world.b.io, LINK);
    UNTIL(&world, world.b.n_sent > 0); /* not a byte of it is read any more */
    for (uint64_t n = 0; n < 3; n++)
        if (world.b.sent[n] && twin.uses(pool + n * 100000 + 50000))
            sl_test_fail(__FILE__, __LINE__, "tag %d came home while NCCL had its rows", (int)n);
    UNTIL(&world, world.b.n_down == 1 && world.a.n_down == 1);
    check_tokens(&world.b, 3);
    stop_clean(&world);
}

/* They may be written while their header is on its way: the stream waits, nobody else does. */
OVER_EACH(are_sent_when_they_are_written)
{
    static uint8_t late[300000];
    struct world world;
    REQUIRE(start(&world, transport));
    connect_both(&world, 2, 2);
    world.a.keep = true;
    memset(late, 0, sizeof late);
    memcpy(late, pool, 64); /* the record */
    rows_event = twin.event_open();
    struct sl_wire wire = {.kind = SL_WIRE_ORDER,
                           .payload_bytes = sizeof late,
                           .meta_bytes = 64,
                           .dtype = SL_I8,
                           .rank = 1,
                           .shape = {sizeof late - 64}};
    sl_frame_seal_by_lanes(&wire, pool); /* the device's word for what it will have written */
    CHECK_INT(sl_io_send(world.b.io, LINK, &wire, late, 1), SL_OK);
    UNTIL(&world, twin.transfers() >= 1); /* the receiver's, which waits */
    CHECK_INT(rows_awaited, 1);           /* and the sender's does, too */
    CHECK_INT(world.a.n_frames, 0);
    memcpy(late, pool, sizeof late);
    twin.event_fire(rows_event);
    UNTIL(&world, world.a.n_frames == 1 && world.b.n_sent == 1);
    CHECK_INT(world.a.n_torn, 0);
    stop_clean(&world);
    twin.event_close(rows_event);
}

/* ---- Headers that overtake each other ---- */

static struct sl_sending *held;
static uint32_t n_shuffled;

static void shuffling_send(struct sl_line *line, struct sl_sending *sending)
{
    bool hold = sending->link && !held && sl_rng_at(3, n_shuffled) % 2 && sending->wire.number % 3 != 2;
    n_shuffled += sending->link != NULL;
    if (hold) {
        held = sending;
        return;
    }
    sl_transport_local.send(line, sending);
    struct sl_sending *before = sending->link ? held : NULL;
    if (before) {
        held = NULL;
        sl_transport_local.send(line, before);
    }
}

SL_TEST(rows_are_received_in_the_order_in_which_they_were_sent)
{
    struct sl_transport_ops inner = sl_transport_local, outer = sl_transport_local_nccl;
    struct world world;
    inner.send = shuffling_send;
    outer.inner = &inner;
    held = NULL;
    REQUIRE(start(&world, &outer));
    connect_both(&world, 8, 8);
    world.a.expect = pool;
    for (uint64_t n = 0; n < 60; n++)
        send_frame(&world.b, n);
    UNTIL(&world, world.a.n_frames == 60 && world.b.n_sent == 60);
    CHECK_INT(twin.mismatches(), 0);
    CHECK_INT(world.a.n_torn, 0);
    stop_clean(&world);
}

/* ---- Ends of processes ---- */

/* How a process of its own ends that does this, and the last of what it says on stderr. */
static int end_of(void (*body)(void), char *said, size_t room)
{
    int ends[2], status = 0;
    uint64_t until = sl_clock_ns() + give_up_ms() * UINT64_C(1000000);
    if (pipe(ends) != 0)
        return -1;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        body();
        _exit(0);
    }
    close(ends[1]);
    while (waitpid(child, &status, WNOHANG) == 0) {
        if (sl_clock_ns() > until) {
            kill(child, SIGKILL);
            waitpid(child, &status, 0);
            break;
        }
        usleep(2000);
    }
    fcntl(ends[0], F_SETFL, O_NONBLOCK);
    ssize_t n = read(ends[0], said, room - 1);
    said[n > 0 ? n : 0] = '\0';
    close(ends[0]);
    return status;
}

static void abort_that_hangs(void)
{
    struct world world;
    if (!start(&world, &sl_transport_local_nccl))
        _exit(1);
    connect_both(&world, 1, 1);
    twin.fault("abort_hang", 0, -1);
    sl_io_drop(world.b.io, LINK);
    for (;;)
        take_all(&world.b, 10);
}

SL_TEST(rows_that_nccl_does_not_let_go_end_the_process)
{
    char said[4096];
    int status = end_of(abort_that_hangs, said, sizeof said);
    CHECK(WIFEXITED(status));
    CHECK_INT(WEXITSTATUS(status), EX_UNAVAILABLE);
    CHECK_CONTAINS(said, "NCCL has not ended a transfer of rows within 1000 ms");
}

/* The other end in a process of its own, which its library kills on an occasion; addresses go through pipes. */
static void be_victim(int in, int out, const char *fault, int after)
{
    struct world world = {0};
    struct sl_err err;
    struct sl_io_address theirs;
    REQUIRE(prepare_rows(&sl_transport_ucx_nccl));
    struct sl_io_config config = config_of(&sl_transport_ucx_nccl, &world);
    REQUIRE(sl_io_create(&world.b.io, &config, &err) == SL_OK && twin.fault(fault, after, 1));
    if (write(out, sl_io_address(world.b.io), sizeof theirs) != sizeof theirs ||
        read(in, &theirs, sizeof theirs) != sizeof theirs)
        return;
    struct sl_link_config link = link_config(LINK, 1, 4);
    sl_io_connect(world.b.io, &link, &theirs);
    UNTIL(&world, world.b.n_up == 1);
    for (uint64_t n = 0; n < 3; n++)
        send_frame(&world.b, n + 8); /* 300000, 100000 and 1048576 bytes */
    UNTIL(&world, world.b.n_sent == 3);
    sl_io_drop(world.b.io, LINK);
    for (;;)
        take_all(&world.b, 10);
}

static void lives_on_when_its_peer_dies(const char *fault, int after, bool comes_up)
{
    int there[2], back[2], status;
    struct world world = {0};
    struct sl_err err;
    struct sl_io_address theirs;
    fill_pool();
    REQUIRE(pipe(there) == 0 && pipe(back) == 0);
    fflush(stdout);
    pid_t victim = fork();
    if (victim == 0) {
        be_victim(there[0], back[1], fault, after);
        _exit(1);
    }
    REQUIRE(prepare_rows(&sl_transport_ucx_nccl));
    struct sl_io_config config = config_of(&sl_transport_ucx_nccl, &world);
    config.lost_ms = 2000;
    config.silent_ms = 200;
    REQUIRE(sl_io_create(&world.a.io, &config, &err) == SL_OK);
    REQUIRE(read(back[0], &theirs, sizeof theirs) == sizeof theirs &&
            write(there[1], sl_io_address(world.a.io), sizeof theirs) == sizeof theirs);
    struct sl_link_config link = link_config(LINK, 1, 4);
    CHECK_INT(sl_io_accept(world.a.io, &link, &theirs), SL_OK);
    for (uint64_t n = 0; n < 3; n++)
        send_frame(&world.a, n + 8);
    CHECK_INT(waitpid(victim, &status, 0), victim);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    if (!comes_up)
        sl_io_drop(world.a.io, LINK);
    UNTIL(&world, world.a.n_down == 1 && world.a.n_sent == 3);
    CHECK_INT(world.a.n_up, comes_up);
    CHECK_INT(world.a.n_torn, 0);
    CHECK(world.a.n_after_down <= world.a.n_silences); /* its silence is over, too: it is gone */
    for (uint64_t n = 8; n < 11; n++)
        CHECK_INT(world.a.sent[n], 1);
    sl_io_destroy(world.a.io);
    CHECK_INT(twin.comms(), 0);
    for (int i = 0; i < 2; i++) {
        close(there[i]);
        close(back[i]);
    }
}

SL_TEST(rows_of_a_peer_that_dies_as_both_meet)
{
    lives_on_when_its_peer_dies("die_init", 1, false);
}

SL_TEST(rows_of_a_peer_that_dies_as_it_sends)
{
    lives_on_when_its_peer_dies("die_send", 1, true);
}

SL_TEST(rows_of_a_peer_that_dies_as_it_aborts)
{
    lives_on_when_its_peer_dies("die_abort", 1, true);
}

/* ---- The library ---- */

SL_TEST(rows_need_a_library_of_a_known_version_and_a_device)
{
    struct world world = {0};
    REQUIRE(prepare_rows(&sl_transport_ucx_nccl));
    struct sl_io_config config = config_of(&sl_transport_ucx_nccl, &world);
    static const struct {
        const char *version, *said;
    } rows[] = {{"30100", "is NCCL 3.1.0"}, {"21704", "is NCCL 2.17.4"}, {"2804", "version code 2804"}};
    for (int i = 0; i < 3; i++) {
        setenv("NCCL_TWIN_VERSION", rows[i].version, 1);
        check_refusal(&config, SL_E_UNAVAILABLE, rows[i].said);
    }
    unsetenv("NCCL_TWIN_VERSION");
    REQUIRE(twin.fault("id_fail", 0, -1));
    check_refusal(&config, SL_E_UNAVAILABLE, "NCCL does not start (unhandled system error)");
    setenv("SLUICE_NCCL", "/nowhere/libnccl.so.2", 1);
    check_refusal(&config, SL_E_UNAVAILABLE, "/nowhere/libnccl.so.2");
    setenv("SLUICE_NCCL", "libm.so.6", 1);
    check_refusal(&config, SL_E_UNAVAILABLE, "libm.so.6 has no ncclGetVersion");
    REQUIRE(twin_begin());
    config.rows_device = NULL;
    check_refusal(&config, SL_E_CONFIG, "GPU's memory");
}

/* The real one needs no GPU to tell its version. Nothing of it stays in this process. */
static void open_real(void)
{
    struct sl_nccl nccl;
    struct sl_err err = {0};
    int version = 0;
    sl_status status = sl_nccl_open(&nccl, &version, &err);
    fprintf(stderr, "opened %d %s", status == SL_OK ? version : 0, err.text);
}

SL_TEST(rows_find_the_real_library_where_there_is_one)
{
    static const char *const files[] = {"libnccl.so.2", "/usr/local/cuda/lib64/libnccl.so.2",
                                        "/usr/local/cuda/lib/libnccl.so.2"};
    const char *named = getenv("SLUICE_REAL_NCCL"); /* PyPI's nvidia-nccl-cu13, say */
    char said[4096] = "";
    int version = 0;
    for (int i = named ? -1 : 0; i < 3 && version == 0; i++) {
        setenv("SLUICE_NCCL", i < 0 ? named : files[i], 1);
        end_of(open_real, said, sizeof said);
        if (sscanf(said, "opened %d", &version) == 1)
            printf("  %s is NCCL %d.%d.%d\n", i < 0 ? named : files[i], version / 10000, version / 100 % 100,
                   version % 100);
    }
    if (version == 0)
        sl_test_skip("there is no NCCL on this machine (SLUICE_REAL_NCCL names one)");
    CHECK(version == 0 || version / 10000 == 2);
}

/* ---- Both ends have to agree ---- */

OVER_EACH(of_one_end_and_not_of_the_other_are_no_link)
{
    for (int who = 0; who < 2; who++) {
        struct world world;
        REQUIRE(start(&world, transport));
        struct sl_link_config a = link_config(LINK, 1, 2), b = a;
        *(who ? &a.rows_beside : &b.rows_beside) = false;
        CHECK_INT(sl_io_accept(world.a.io, &a, sl_io_address(world.b.io)), SL_OK);
        CHECK_INT(sl_io_connect(world.b.io, &b, sl_io_address(world.a.io)), SL_OK);
        UNTIL(&world, sl_io_refusals(world.a.io) >= 2);
        CHECK_INT(world.a.n_up + world.b.n_up, 0);
        stop_clean(&world);
    }
    struct world plain;
    REQUIRE(start(&plain, transport->inner));
    struct sl_link_config link = link_config(LINK, 1, 2);
    link.rows_beside = true; /* over a transport that cannot */
    CHECK_INT(sl_io_accept(plain.a.io, &link, sl_io_address(plain.b.io)), SL_E_INVALID);
    stop(&plain);
}

/* A header proves whose the frame is, and what its rows add up to; a proof of every byte would have to read them on the host. */
OVER_EACH(may_have_headers_that_prove_their_sender)
{
    struct world world;
    REQUIRE(start(&world, transport));
    struct sl_link_config link = link_config(LINK, 1, 3);
    link.auth = SL_LINK_AUTH_PAYLOAD;
    CHECK_INT(sl_io_accept(world.a.io, &link, sl_io_address(world.b.io)), SL_E_INVALID);
    link.auth = SL_LINK_AUTH_HEADER;
    CHECK_INT(sl_io_accept(world.a.io, &link, sl_io_address(world.b.io)), SL_OK);
    CHECK_INT(sl_io_connect(world.b.io, &link, sl_io_address(world.a.io)), SL_OK);
    UNTIL(&world, world.a.n_up == 1 && world.b.n_up == 1);
    exchange(&world, 30);
    CHECK(twin.transfers() > 0);
    stop_clean(&world);
}

/* A coordinator's link beside one of stages: nothing of it goes by NCCL. */
OVER_EACH(of_some_links_leave_the_others_as_they_are)
{
    struct world world;
    REQUIRE(start(&world, transport));
    connect_both(&world, 2, 2);
    struct sl_link_config plain = link_config(LINK + 1, 2, 2);
    plain.rows_beside = false;
    CHECK_INT(sl_io_accept(world.a.io, &plain, sl_io_address(world.b.io)), SL_OK);
    CHECK_INT(sl_io_connect(world.b.io, &plain, sl_io_address(world.a.io)), SL_OK);
    UNTIL(&world, world.a.n_up == 2 && world.b.n_up == 2);
    CHECK_INT(send_bytes(&world.b, LINK + 1, pool, 300000, 1), SL_OK);
    UNTIL(&world, world.a.n_frames == 1 && world.b.n_sent == 1);
    CHECK_INT(twin.transfers(), 0);
    world.a.n_frames = 0;
    CHECK_INT(send_bytes(&world.b, LINK, pool, 300000, 2), SL_OK);
    UNTIL(&world, world.a.n_frames == 1 && world.b.n_sent == 2);
    CHECK_INT(twin.transfers(), 2);
    stop_clean(&world);
}
