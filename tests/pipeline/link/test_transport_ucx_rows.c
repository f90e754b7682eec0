/* pipeline/link/transport_ucx_rows.c: rows by UCX from one memory into another's, which is the host's here. What it has in common with
 * every transport is in test_io.c, whole pipelines on the twin of a GPU are in tests/node/local/test_rows.c. */
#include "tests/pipeline/link/two_ends.h"

#include "base/bytes.h"
#include "pipeline/link/transport_beside.h"
#include "pipeline/link/transport_ucx.h"
#include <dlfcn.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

SL_TEST(rows_go_beside_from_so_many_bytes_on)
{
    struct world world;
    REQUIRE(start(&world, &sl_transport_ucx_device));
    connect_both(&world, 2, 2);
    CHECK_INT(send_bytes(&world.b, LINK, pool, 999 + 64, 1), SL_OK); /* behind a record of 64 bytes */
    UNTIL(&world, world.a.n_frames == 1 && world.b.n_sent == 1);
    CHECK_INT(rows_awaited, 0);
    CHECK_INT(send_bytes(&world.b, LINK, pool, 1000 + 64, 1), SL_OK);
    UNTIL(&world, world.a.n_frames == 2 && world.b.n_sent == 2);
    CHECK_INT(rows_awaited, 1);
    struct sl_wire wire = {
        .kind = SL_WIRE_KV, .payload_bytes = 5000, .dtype = SL_I8, .rank = 1, .shape = {5000}};
    sl_frame_seal(&wire, pool);
    CHECK_INT(sl_io_send(world.b.io, LINK, &wire, pool, 2), SL_OK); /* pages never do */
    UNTIL(&world, world.a.n_frames == 3);
    CHECK_INT(rows_awaited, 1);
    CHECK_INT(world.a.n_torn, 0);
    stop(&world);
}

SL_TEST(rows_are_sent_when_they_are_written)
{
    static uint8_t late[300000];
    struct world world;
    REQUIRE(start(&world, &sl_transport_ucx_device));
    connect_both(&world, 2, 2);
    world.a.keep = true;
    memset(late, 0, sizeof late);
    memcpy(late, pool, 64);
    rows_event = twin.event_open();
    struct sl_wire wire = {.kind = SL_WIRE_ORDER,
                           .payload_bytes = sizeof late,
                           .meta_bytes = 64,
                           .dtype = SL_I8,
                           .rank = 1,
                           .shape = {sizeof late - 64}};
    sl_frame_seal_by_lanes(&wire, pool); /* the device's word for what it will have written */
    CHECK_INT(sl_io_send(world.b.io, LINK, &wire, late, 1), SL_OK);
    UNTIL(&world, rows_awaited == 1);
    send_frame(&world.a, 0); /* there and back again: the header has come, and its rows have not */
    UNTIL(&world, world.b.n_frames == 1 && world.a.n_sent == 1);
    CHECK_INT(world.a.n_frames, 0);
    memcpy(late, pool, sizeof late);
    twin.event_fire(rows_event);
    UNTIL(&world, world.a.n_frames == 1 && world.b.n_sent == 1);
    CHECK_INT(world.a.n_torn, 0);
    stop(&world);
    twin.event_close(rows_event);
}

SL_TEST(rows_that_are_never_written_come_home_with_their_line)
{
    struct world world;
    REQUIRE(start(&world, &sl_transport_ucx_device));
    connect_both(&world, 2, 2);
    rows_event = twin.event_open();
    send_frame(&world.b, 8);
    UNTIL(&world, rows_awaited == 1);
    sl_io_drop(world.b.io, LINK);
    UNTIL(&world, world.a.n_down == 1 && world.b.n_down == 1 && world.b.n_sent == 1);
    CHECK_INT(world.b.sent_status[8], SL_E_CANCELLED);
    CHECK_INT(world.a.n_frames, 0);
    stop(&world);
    twin.event_fire(rows_event);
    twin.event_close(rows_event);
}

/* At any moment: before the ends have met, while they greet each other, with rows under way or waited for. */
SL_TEST(links_are_dropped_and_made_anew_whatever_their_rows_are_at)
{
    const char *more = getenv("SLUICE_SEEDS");
    uint64_t rounds = more ? strtoull(more, NULL, 10) : 20;
    struct world world;
    REQUIRE(start(&world, &sl_transport_ucx_device));
    for (uint64_t round = 0; round < rounds; round++) {
        struct sl_link_config link = link_config(LINK, 1, 3);
        struct side *first = sl_rng_at(3, round) % 2 ? &world.a : &world.b;
        world.a.n_frames = world.b.n_frames = world.a.n_sent = world.b.n_sent = 0;
        world.a.n_down = world.b.n_down = world.a.n_up = world.b.n_up = 0;
        CHECK_INT(sl_io_accept(world.a.io, &link, sl_io_address(world.b.io)), SL_OK);
        CHECK_INT(sl_io_connect(world.b.io, &link, sl_io_address(world.a.io)), SL_OK);
        for (uint64_t n = 0; n < 4; n++) {
            CHECK_INT(send_bytes(&world.a, LINK, frame_data(n), 300000, n), SL_OK);
            CHECK_INT(send_bytes(&world.b, LINK, frame_data(n), 300000, n), SL_OK);
        }
        for (uint64_t i = sl_rng_at(4, round) % 300; i > 0; i--)
            if (!take_all(&world.a, 0) && !take_all(&world.b, 0))
                usleep(500);
        sl_io_drop(first->io, LINK);
        UNTIL(&world, first->n_down == 1);
        sl_io_drop(world.a.io, LINK);
        sl_io_drop(world.b.io, LINK);
        UNTIL(&world,
              world.a.n_down == 1 && world.b.n_down == 1 && world.a.n_sent == 4 && world.b.n_sent == 4);
        CHECK_INT(world.a.n_torn + world.b.n_torn, 0);
    }
    world.a.n_frames = world.a.n_down = world.a.n_up = world.b.n_up = 0;
    connect_both(&world, 2, 2);
    send_frame(&world.b, 8);
    UNTIL(&world, world.a.n_frames == 1);
    stop(&world);
}

/* Over and over again until it is killed. */
static void be_victim(int in, int out)
{
    struct world world = {0};
    struct sl_err err;
    struct sl_io_address theirs;
    REQUIRE(prepare_rows(&sl_transport_ucx_device));
    struct sl_io_config config = config_of(&sl_transport_ucx_device, &world);
    REQUIRE(sl_io_create(&world.b.io, &config, &err) == SL_OK);
    if (write(out, sl_io_address(world.b.io), sizeof theirs) != sizeof theirs ||
        read(in, &theirs, sizeof theirs) != sizeof theirs)
        return;
    struct sl_link_config link = link_config(LINK, 1, 4);
    sl_io_connect(world.b.io, &link, &theirs);
    for (uint64_t n = 0;; n++) {
        if (send_bytes(&world.b, LINK, pool, MAX_BYTES, n) != SL_OK)
            return;
        while (world.b.n_sent <= (int)n)
            take_all(&world.b, 10);
    }
}

SL_TEST(rows_of_a_peer_that_is_killed_amid_them_come_home)
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
        be_victim(there[0], back[1]);
        _exit(1);
    }
    REQUIRE(prepare_rows(&sl_transport_ucx_device));
    struct sl_io_config config = config_of(&sl_transport_ucx_device, &world);
    config.lost_ms = 2000;
    REQUIRE(sl_io_create(&world.a.io, &config, &err) == SL_OK);
    REQUIRE(read(back[0], &theirs, sizeof theirs) == sizeof theirs &&
            write(there[1], sl_io_address(world.a.io), sizeof theirs) == sizeof theirs);
    struct sl_link_config link = link_config(LINK, 1, 4);
    CHECK_INT(sl_io_accept(world.a.io, &link, &theirs), SL_OK);
    UNTIL(&world, world.a.n_frames >= 4);
    for (uint64_t n = 0; n < 3; n++)
        send_frame(&world.a, n + 8);
    CHECK_INT(kill(victim, SIGKILL), 0);
    CHECK_INT(waitpid(victim, &status, 0), victim);
    UNTIL(&world, world.a.n_down == 1 && world.a.n_sent == 3);
    CHECK_INT(world.a.n_torn, 0);
    for (uint64_t n = 8; n < 11; n++)
        CHECK_INT(world.a.sent[n], 1);
    sl_io_destroy(world.a.io);
    for (int i = 0; i < 2; i++) {
        close(there[i]);
        close(back[i]);
    }
}

/* ---- What a peer may get wrong ---- */

SL_TEST(rows_that_nobody_waits_for_are_the_end_of_their_line)
{
    static struct sl_way way;
    static struct sl_transport transport;
    way = (struct sl_way){.device = &host_rows};
    way.ops[3] = (struct sl_rows_op){.busy = true, .number = 5, .rows = pool, .n_rows = 100};
    way.ops[4] = (struct sl_rows_op){.busy = true, .number = 6, .rows = pool, .n_rows = 100, .through = 1};
    static const struct {
        bool has_way;
        uint64_t number;
        size_t bytes;
        const char *said;
    } cases[] = {{false, 5, 100, "of a frame that has none"},
                 {true, 4, 100, "of a frame that has none, or before its header"},
                 {true, 6, 100, "of a frame that has none"}, /* they have come before */
                 {true, 5, 101, "of another size than their frame's header says"},
                 {true, 5, 0, "of another size"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct sl_line line = {.rows = cases[i].has_way ? &way : NULL, .transport = &transport};
        CHECK_INT(sl_ucx_rows_arrived(&line, cases[i].number, NULL, cases[i].bytes), UCS_OK);
        CHECK(line.failed && line.n_under_way == 0);
        CHECK_CONTAINS(line.reason, cases[i].said);
    }
    CHECK_INT(way.ops[3].through, 0);
}

/* ---- What UCX may do, and who else uses it ---- */

/* UCX as this program calls it: its own, but for a receive that is over before the call returns, and rows that are sent as nobody should. */
static bool at_once;
static ucs_status_t at_once_status;
static char at_once_request;
static _Atomic int wrong; /* enum wrong_rows, of the next rows that are sent, greetings apart */
enum wrong_rows {
    RIGHT,
    EAGER,
    TWICE,
    LESS,
    MORE,
    NEXT_NUMBER,
    GREETED_AGAIN,
    OTHER_LINE,
    SHORT_LABEL,
    LONG_LABEL,
    WRONGS
};

static void *of_ucx(const char *name)
{
    void *found = dlsym(RTLD_NEXT, name);
    SET_UP(found, name);
    return found;
}

ucs_status_ptr_t ucp_am_recv_data_nbx(ucp_worker_h worker, void *data, void *to, size_t bytes,
                                      const ucp_request_param_t *param)
{
    if (at_once) {
        param->cb.recv_am(&at_once_request, at_once_status, bytes, param->user_data);
        return &at_once_request;
    }
    void *found = of_ucx("ucp_am_recv_data_nbx");
    ucs_status_ptr_t (*receive)(ucp_worker_h, void *, void *, size_t, const ucp_request_param_t *);
    memcpy(&receive, &found, sizeof receive);
    return receive(worker, data, to, bytes, param);
}

void ucp_request_free(void *request)
{
    void *found = of_ucx("ucp_request_free");
    void (*let_go)(void *);
    memcpy(&let_go, &found, sizeof let_go);
    if (request != &at_once_request)
        let_go(request);
}

static void on_first(void *request, ucs_status_t status, void *user)
{
    (void)status, (void)user;
    ucp_request_free(request);
}

ucs_status_ptr_t ucp_am_send_nbx(ucp_ep_h ep, unsigned id, const void *label, size_t label_bytes,
                                 const void *rows, size_t bytes, const ucp_request_param_t *param)
{
    static uint8_t other[SL_LABEL_BYTES + 8];
    void *found = of_ucx("ucp_am_send_nbx");
    ucs_status_ptr_t (*send)(ucp_ep_h, unsigned, const void *, size_t, const void *, size_t,
                             const ucp_request_param_t *);
    memcpy(&send, &found, sizeof send);
    bool are_rows = id == SL_UCX_ROWS_AM_ID && sl_get64((const uint8_t *)label + 16) != UINT64_MAX;
    enum wrong_rows how = are_rows ? (enum wrong_rows)atomic_exchange(&wrong, RIGHT) : RIGHT;
    if (how == RIGHT)
        return send(ep, id, label, label_bytes, rows, bytes, param);
    ucp_request_param_t changed = *param;
    memcpy(other, label, SL_LABEL_BYTES);
    if (how == EAGER) {
        changed.flags = UCP_AM_SEND_FLAG_REPLY | UCP_AM_SEND_FLAG_EAGER;
    } else if (how == TWICE) {
        changed.cb.send = on_first;
        send(ep, id, other, sizeof other - 8, rows, bytes, &changed);
        changed = *param;
    } else if (how == NEXT_NUMBER) {
        sl_put64(other + 16, sl_get64(other + 16) + 1);
    } else if (how == GREETED_AGAIN) {
        sl_put64(other + 16, UINT64_MAX);
    } else if (how == OTHER_LINE) {
        other[8] ^= 1;
    }
    bytes = how == LESS ? bytes - 1 : how == MORE ? bytes + 64 : bytes;
    label_bytes += how == LONG_LABEL ? 8 : how == SHORT_LABEL ? (size_t)-1 : 0;
    return send(ep, id, other, label_bytes, rows, bytes, &changed);
}

SL_TEST(rows_that_are_there_or_lost_before_the_call_returns_are_so)
{
    static const struct {
        ucs_status_t status;
        int through;
    } cases[] = {{UCS_OK, 1}, {UCS_ERR_CANCELED, -1}, {UCS_ERR_UNREACHABLE, -1}};
    static struct sl_way way;
    static struct sl_transport transport;
    at_once = true;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct sl_line line = {.rows = &way, .transport = &transport};
        way = (struct sl_way){.device = &host_rows};
        way.ops[3] = (struct sl_rows_op){.busy = true, .number = 5, .rows = pool, .n_rows = 100};
        at_once_status = cases[i].status;
        CHECK_INT(sl_ucx_rows_arrived(&line, 5, NULL, 100), UCS_INPROGRESS);
        CHECK_INT(way.ops[3].through, cases[i].through);
        CHECK(!way.ops[3].line && line.n_under_way == 0 && !line.failed);
    }
    at_once = false;
}

/* Each costs the line at most, at once or when its rows have not come in time; another one carries on, and no frame is another's. */
SL_TEST(rows_that_are_sent_as_nobody_should_are_never_taken_for_others)
{
    enum { FRAMES = 6 };
    for (int how = RIGHT + 1; how < WRONGS; how++) {
        struct world world = {0};
        struct sl_err err;
        fill_pool();
        REQUIRE(prepare_rows(&sl_transport_ucx_device));
        struct sl_io_config config = config_of(&sl_transport_ucx_device, &world);
        config.lost_ms = 600000;
        config.silent_ms = 200; /* five times as long rows may take */
        REQUIRE(sl_io_create(&world.a.io, &config, &err) == SL_OK &&
                sl_io_create(&world.b.io, &config, &err) == SL_OK);
        connect_both(&world, 3, 3);
        world.a.expect = pool;
        for (uint64_t n = 0; n < FRAMES; n++)
            send_frame(&world.b, n);
        UNTIL(&world, world.b.n_sent == FRAMES);
        int silences = world.a.n_silences;
        atomic_store(&wrong, how);
        for (uint64_t n = FRAMES; n < 2 * FRAMES; n++)
            send_frame(&world.b, n);
        UNTIL(&world, world.a.n_frames == 2 * FRAMES && world.b.n_sent == 2 * FRAMES);
        CHECK_INT(atomic_load(&wrong), RIGHT);
        CHECK(world.a.n_silences > silences); /* the line was lost */
        CHECK_INT(world.a.n_torn + world.a.n_down + world.b.n_down, 0);
        check_tokens(&world.b, 2 * FRAMES);
        stop(&world);
    }
}

/* ---- What UCX has ---- */

SL_TEST(rows_by_ucx_need_a_device_whose_memory_it_knows)
{
    struct world world = {0};
    struct sl_rows_device real = host_rows;
    REQUIRE(prepare_rows(&sl_transport_ucx_device));
    struct sl_io_config config = config_of(&sl_transport_ucx_device, &world);
    real.twin = false;
    config.rows_device = &real;
    setenv("UCX_TLS", "tcp", 1); /* with which even one that has CUDA knows of none */
    check_refusal(&config, SL_E_UNAVAILABLE, "knows no GPU's memory here (UCX_TLS=tcp)");
    unsetenv("UCX_TLS");
    setenv("UCX_RNDV_SCHEME", "put_zcopy", 1);
    check_refusal(&config, SL_E_CONFIG,
                  "UCX_RNDV_SCHEME=put_zcopy: rows by UCX have to be fetched by who receives them");
    unsetenv("UCX_RNDV_SCHEME");
    config.rows_device = NULL;
    check_refusal(&config, SL_E_CONFIG, "--rows ucx is for rows in a GPU's memory");
}

/* UCX 1.13 uses shared memory for endpoints that tell of errors only if it is told to: else it takes tcp and says nothing. */
SL_TEST(rows_do_not_fall_back_to_tcp_without_a_word)
{
    struct world world;
    setenv("UCX_TLS", "tcp,posix", 1);
    setenv("UCX_POSIX_ERROR_HANDLING", "n", 1);
    REQUIRE(start(&world, &sl_transport_ucx_device));
    struct sl_link_config link = link_config(LINK, 1, 2);
    CHECK_INT(sl_io_accept(world.a.io, &link, sl_io_address(world.b.io)), SL_OK);
    CHECK_INT(sl_io_connect(world.b.io, &link, sl_io_address(world.a.io)), SL_OK);
    UNTIL(&world, sl_io_refusals(world.a.io) + sl_io_refusals(world.b.io) >= 2);
    CHECK_INT(world.a.n_up + world.b.n_up, 0);
    stop(&world);
    setenv("UCX_POSIX_ERROR_HANDLING", "y", 1);
    REQUIRE(start(&world, &sl_transport_ucx_device));
    connect_both(&world, 2, 2);
    world.a.expect = pool;
    for (uint64_t n = 0; n < 20; n++)
        send_frame(&world.b, n);
    UNTIL(&world, world.a.n_frames == 20 && world.b.n_sent == 20);
    CHECK(rows_awaited > 0);
    stop(&world);
    unsetenv("UCX_TLS");
    unsetenv("UCX_POSIX_ERROR_HANDLING");
}
