/* pipeline/link/transport_ucx.c: what the I/O layer does over UCX alone: names and ports, who is heard, silence, and links that share a
 * connection (two_ends.h). */
#include "tests/pipeline/link/two_ends.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

SL_TEST(ucx_name_stands_for_its_address)
{
    struct world world = {0};
    struct sl_err err;
    struct sl_io_config config = config_of(&sl_transport_ucx, &world);
    snprintf(config.address, sizeof config.address, "localhost");
    REQUIRE(sl_io_create(&world.a.io, &config, &err) == SL_OK);
    CHECK_STR(sl_io_host(world.a.io), "127.0.0.1");
    sl_io_destroy(world.a.io);
}

/* 0: no connection yet; 1: there is one. */
static int connected(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    return poll(&p, 1, 0);
}

static int knock(uint16_t port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int failed = connect(fd, (struct sockaddr *)&at, sizeof at);
    CHECK(fd >= 0 && (!failed || errno == EINPROGRESS));
    return fd;
}

/* On the loopback interface a connection is there when connect() returns, or it is not going to be. */
SL_TEST(ucx_port_is_deaf_but_for_the_peers_of_links_to_come)
{
    struct world world;
    REQUIRE(start(&world, &sl_transport_ucx));
    int before = knock(sl_io_port(world.a.io));
    CHECK_INT(connected(before), 0);
    struct sl_link_config link = link_config(LINK, 1, 2);
    CHECK_INT(sl_io_accept(world.a.io, &link, sl_io_address(world.b.io)), SL_OK);
    int meanwhile = -1;
    UNTIL(&world,
          (meanwhile >= 0 ? close(meanwhile) : 0, connected(meanwhile = knock(sl_io_port(world.a.io))) == 1));
    CHECK_INT(sl_io_connect(world.b.io, &link, sl_io_address(world.a.io)), SL_OK);
    UNTIL(&world, world.a.n_up == 1 && world.b.n_up == 1);
    send_frame(&world.b, 0);
    UNTIL(&world, world.a.n_frames == 1 && world.b.n_sent == 1);
    int after = -1;
    UNTIL(&world, (after >= 0 ? close(after) : 0, connected(after = knock(sl_io_port(world.a.io))) == 0));
    CHECK_INT(write(meanwhile, pool, 64), 64); /* garbage over what was let in harms nobody but itself */
    send_frame(&world.b, 1);
    UNTIL(&world, world.a.n_frames == 2);
    CHECK_INT(connected(after), 0);
    CHECK_INT(world.a.n_down + world.b.n_down, 0);
    close(before);
    close(meanwhile);
    close(after);
    stop(&world);
}

/* Connections that the other side closed, and those that were closed here: neither leaves the port behind in TIME_WAIT. */
SL_TEST(ucx_port_is_free_again_at_once)
{
    uint16_t port = (uint16_t)(10000 + getpid() % 3000); /* below those that others of these tests take */
    for (int life = 0; life < 6; life++) {
        struct world world = {0};
        struct sl_err err = {0};
        fill_pool();
        struct sl_io_config config = config_of(&sl_transport_ucx, &world);
        REQUIRE(sl_io_create(&world.b.io, &config, &err) == SL_OK);
        config.port = port;
        if (sl_io_create(&world.a.io, &config, &err) != SL_OK)
            sl_test_fail(__FILE__, __LINE__, "%s", err.text);
        REQUIRE(world.a.io != NULL);
        CHECK_INT(sl_io_port(world.a.io), port);
        connect_both(&world, 1, 1);
        send_frame(&world.b, 0);
        UNTIL(&world, world.a.n_frames == 1);
        struct side *first = life % 2 ? &world.a : &world.b, *second = life % 2 ? &world.b : &world.a;
        sl_io_destroy(first->io);
        first->io = NULL;
        UNTIL(&world, second->n_down == 1);
        sl_io_destroy(second->io);
    }
}

/* The first address of an interface that is global, or unique local; false: this machine has none. */
static bool find_ipv6(char text[64])
{
    struct ifaddrs *all;
    bool found = false;
    if (getifaddrs(&all) != 0)
        return false;
    for (struct ifaddrs *i = all; i && !found; i = i->ifa_next) {
        if (!i->ifa_addr || i->ifa_addr->sa_family != AF_INET6 || i->ifa_flags & IFF_LOOPBACK)
            continue;
        const struct in6_addr *at = &((struct sockaddr_in6 *)(void *)i->ifa_addr)->sin6_addr;
        found = !IN6_IS_ADDR_LINKLOCAL(at) && inet_ntop(AF_INET6, at, text, 64);
    }
    freeifaddrs(all);
    return found;
}

SL_TEST(ucx_frames_over_ipv6)
{
    struct world world = {0};
    struct sl_err err;
    char text[64];
    if (!find_ipv6(text)) {
        sl_test_skip("no interface of this machine has a global IPv6 address");
        return;
    }
    fill_pool();
    struct sl_io_config config = config_of(&sl_transport_ucx, &world);
    snprintf(config.address, sizeof config.address, "[%s]", text);
    REQUIRE(sl_io_create(&world.a.io, &config, &err) == SL_OK);
    REQUIRE(sl_io_create(&world.b.io, &config, &err) == SL_OK);
    CHECK_STR(sl_io_host(world.a.io), text);
    connect_both(&world, 2, 2);
    world.a.expect = pool;
    for (uint64_t n = 0; n < 20; n++)
        send_frame(&world.b, n);
    UNTIL(&world, world.a.n_frames == 20);
    stop(&world);
}

/* An IPv4 address of this machine that is not the loopback's; false: it has none. */
static bool find_ipv4(char text[64])
{
    struct ifaddrs *all;
    bool found = false;
    if (getifaddrs(&all) != 0)
        return false;
    for (struct ifaddrs *i = all; i && !found; i = i->ifa_next)
        found = i->ifa_addr && i->ifa_addr->sa_family == AF_INET && !(i->ifa_flags & IFF_LOOPBACK) &&
                inet_ntop(AF_INET, &((struct sockaddr_in *)(void *)i->ifa_addr)->sin_addr, text, 64);
    freeifaddrs(all);
    return found;
}

/* What the process says on stderr goes into a file meanwhile. */
static int say_into(FILE *file)
{
    int before = dup(STDERR_FILENO);
    fflush(stderr);
    dup2(fileno(file), STDERR_FILENO);
    return before;
}

static bool has_said(FILE *file, const char *words)
{
    char text[8192];
    ssize_t n = pread(fileno(file), text, sizeof text - 1, 0);
    text[n > 0 ? n : 0] = 0;
    return strstr(text, words) != NULL;
}

/* As where a sandbox forbids socket filters: this thread, and those that it makes. */
static bool forbid_socket_filters(void)
{
    struct sock_filter rows[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_setsockopt, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SO_ATTACH_FILTER, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof rows / sizeof *rows, rows};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

static void *open_without_a_shield(void *opened)
{
    struct world world = {0};
    struct sl_err err;
    struct sl_io_config config = config_of(&sl_transport_ucx, &world);
    if (!forbid_socket_filters())
        return NULL;
    *(bool *)opened = true;
    CHECK_INT(sl_io_create(&world.a.io, &config, &err), SL_OK);
    sl_io_destroy(world.a.io);
    return NULL;
}

SL_TEST(ucx_port_without_a_shield_is_said_with_what_that_means)
{
    pthread_t thread;
    bool opened = false;
    FILE *log = tmpfile();
    REQUIRE(log != NULL);
    int before = say_into(log);
    REQUIRE(pthread_create(&thread, NULL, open_without_a_shield, &opened) == 0);
    pthread_join(thread, NULL);
    dup2(before, STDERR_FILENO);
    close(before);
    if (opened) {
        CHECK(has_said(
            log,
            "is not shielded from strangers, because this kernel, or a sandbox, takes a socket filter of nobody "
            "but who has CAP_NET_ADMIN"));
        CHECK(has_said(log, "can end this node"));
        CHECK(has_said(log, "read and write its memory"));
    } else {
        sl_test_skip("this kernel has no seccomp");
    }
    fclose(log);
}

/* The way to one's own address of another interface begins at that address: as on a machine with two networks. */
SL_TEST(ucx_who_is_not_heard_is_told_why)
{
    struct world world = {0};
    struct sl_err err;
    char text[64], words[128];
    if (!find_ipv4(text)) {
        sl_test_skip("this machine has no IPv4 address but the loopback's");
        return;
    }
    struct sl_io_config config = config_of(&sl_transport_ucx, &world);
    FILE *log = tmpfile();
    REQUIRE(log && sl_io_create(&world.b.io, &config, &err) == SL_OK);
    snprintf(config.address, sizeof config.address, "%s", text);
    REQUIRE(sl_io_create(&world.a.io, &config, &err) == SL_OK);
    struct sl_link_config link = link_config(LINK, 1, 1);
    snprintf(words, sizeof words,
             "leave this machine from %s, but the node there hears this one from 127.0.0.1 only", text);
    int before = say_into(log);
    CHECK_INT(sl_io_accept(world.a.io, &link, sl_io_address(world.b.io)), SL_OK);
    CHECK_INT(sl_io_connect(world.b.io, &link, sl_io_address(world.a.io)), SL_OK);
    UNTIL(&world, has_said(log, words));
    dup2(before, STDERR_FILENO);
    close(before);
    snprintf(words, sizeof words, "--data-address %s", text);
    CHECK(has_said(log, words));
    CHECK_INT(world.a.n_up + world.b.n_up, 0);
    fclose(log);
    stop(&world);
}

/* The peer's thread runs and its socket takes data, but it says nothing: what a stopped machine
 * looks like. */
SL_TEST(ucx_silent_peer_is_lost)
{
    struct world world = {0};
    struct sl_err err;
    fill_pool();
    struct sl_io_config config = config_of(&sl_transport_ucx, &world);
    config.heartbeat_ms = 20;
    config.lost_ms = 400;
    REQUIRE(sl_io_create(&world.b.io, &config, &err) == SL_OK);
    config.lost_ms = 2000;
    REQUIRE(sl_io_create(&world.a.io, &config, &err) == SL_OK);
    connect_both(&world, 1, 1);
    world.a.keep = true;
    for (uint64_t n = 0; n < 5; n++)
        CHECK_INT(send_bytes(&world.b, LINK, pool, 100000, n), SL_OK);
    UNTIL(&world, world.a.n_frames == 1);
    sl_io_fault_mute(world.a.io, true);
    UNTIL(&world, world.b.n_down == 1);
    CHECK_INT(world.b.down_status, SL_E_PEER_LOST);
    CHECK_STR(world.b.down_reason, "no heartbeat");
    check_tokens(&world.b, 5);
    CHECK_INT(world.b.n_after_down, 0);
    UNTIL(&world, world.a.n_down == 1);
    stop(&world);
}

/* As a process that is stopped for a while: both are told, nothing is lost, and the link carries on. */
SL_TEST(ucx_silent_peer_is_heard_again)
{
    struct world world = {0};
    struct sl_err err;
    fill_pool();
    struct sl_io_config config = config_of(&sl_transport_ucx, &world);
    config.heartbeat_ms = 20;
    config.silent_ms = 100;
    config.lost_ms = 600000;
    REQUIRE(sl_io_create(&world.b.io, &config, &err) == SL_OK);
    REQUIRE(sl_io_create(&world.a.io, &config, &err) == SL_OK);
    connect_both(&world, 2, 2);
    CHECK_INT(sl_io_silent(world.b.io), 0);
    sl_io_fault_mute(world.a.io, true);
    UNTIL(&world, sl_io_silent(world.b.io) == LINK && world.b.n_silences > 0);
    for (uint64_t n = 0; n < 5; n++)
        send_frame(&world.b, n);
    int told = world.b.n_silences;
    sl_io_fault_mute(world.a.io, false);
    UNTIL(&world, world.a.n_frames == 5 && world.b.n_sent == 5);
    UNTIL(&world, sl_io_silent(world.b.io) == 0 && world.b.n_silences > told);
    check_tokens(&world.b, 5);
    CHECK_INT(world.a.n_down + world.b.n_down, 0);
    stop(&world);
}

/* A line on which nothing comes is not waited for until the peer is lost: another one goes another way. The peer is mute on both, so
 * only a new line can end the silence. */
SL_TEST(ucx_line_that_carries_nothing_is_made_anew)
{
    struct world world = {0};
    struct sl_err err;
    fill_pool();
    struct sl_io_config config = config_of(&sl_transport_ucx, &world);
    config.heartbeat_ms = 20;
    config.silent_ms = 100;
    config.lost_ms = 6000;
    REQUIRE(sl_io_create(&world.b.io, &config, &err) == SL_OK);
    config.lost_ms = 600000;
    REQUIRE(sl_io_create(&world.a.io, &config, &err) == SL_OK);
    connect_both(&world, 2, 2);
    sl_io_fault_mute(world.a.io, true);
    UNTIL(&world, sl_io_silent(world.b.io) == LINK);
    UNTIL(&world, sl_io_silent(world.b.io) == 0);
    sl_io_fault_mute(world.a.io, false);
    for (uint64_t n = 0; n < 5; n++)
        send_frame(&world.b, n);
    UNTIL(&world, world.a.n_frames == 5 && world.b.n_sent == 5);
    check_tokens(&world.b, 5);
    CHECK_INT(world.a.n_down + world.b.n_down, 0);
    stop(&world);
}

/* Two links over one connection. One ends for a header that makes no sense, in the middle of large frames that still come. Returns how
 * often either side was told that somebody was silent: that is how the owner of the other sees that its line was made anew. */
static int silences_when_another_link_ends(void)
{
    enum { OTHER = 5 };
    struct world world;
    if (!start(&world, &sl_transport_ucx))
        return 0;
    struct sl_link_config ends = link_config(LINK, 1, 8), stays = link_config(OTHER, 2, 2);
    CHECK_INT(sl_io_accept(world.a.io, &ends, sl_io_address(world.b.io)), SL_OK);
    CHECK_INT(sl_io_connect(world.b.io, &ends, sl_io_address(world.a.io)), SL_OK);
    CHECK_INT(sl_io_accept(world.a.io, &stays, sl_io_address(world.b.io)), SL_OK);
    CHECK_INT(sl_io_connect(world.b.io, &stays, sl_io_address(world.a.io)), SL_OK);
    UNTIL(&world, world.a.n_up == 2 && world.b.n_up == 2);
    CHECK(sl_io_fault_damage(world.b.io, LINK, SL_WIRE_RESULT, SL_DAMAGE_HEADER, 40));
    struct sl_wire wires[8]; /* sealed beforehand, so that all are on their way at once */
    for (uint64_t n = 0; n < 8; n++) {
        wires[n] = (struct sl_wire){.kind = n < 7 ? SL_WIRE_ORDER : SL_WIRE_RESULT,
                                    .seq = n,
                                    .payload_bytes = n < 7 ? MAX_BYTES : 8,
                                    .meta_bytes = n < 7 ? MAX_BYTES : 8};
        sl_frame_seal(&wires[n], pool);
    }
    for (uint64_t n = 0; n < 8; n++)
        CHECK_INT(sl_io_send(world.b.io, LINK, &wires[n], pool, n), SL_OK);
    UNTIL(&world, world.a.n_down == 1 && world.b.n_down == 1);
    check_tokens(&world.b, 8);
    world.a.n_frames = 0; /* the other's numbers */
    world.a.n_after_down = world.b.n_after_down = 0;
    CHECK_INT(send_bytes(&world.b, OTHER, pool, 100, 8), SL_OK);
    UNTIL(&world, world.a.n_frames == 1 && world.b.n_sent == 9);
    stop(&world);
    return world.a.n_silences + world.b.n_silences;
}

/* It gets a second for what is under way, which a crowded machine may need longer for: then the connection is cut. */
SL_TEST(ucx_a_link_that_ends_in_the_middle_of_frames_hurts_no_other_over_the_same_connection)
{
    int hurt = 0;
    fill_pool();
    for (int round = 0; round < 8; round++)
        hurt += silences_when_another_link_ends() > 0;
    CHECK(hurt <= 2);
}

/* Both ends are worked by the test, so that it says who is late. */
static void turn(struct side *side)
{
    struct sl_io_event event;
    sl_io_turn(side->io, sl_clock_ns() / 1000);
    while (sl_io_poll(side->io, &event, 0) == SL_OK) {
        side->n_up += event.kind == SL_IO_LINK_UP;
        side->n_down += event.kind == SL_IO_LINK_DOWN;
    }
    usleep(200);
}

/* A waits for a link, B calls; each has had so many turns since. */
static void begin_a_link(struct world *world, int n_turns)
{
    *world = (struct world){0};
    struct sl_io_config config = config_of(&sl_transport_ucx, world);
    struct sl_link_config link = link_config(LINK, 1, 2);
    REQUIRE(sl_io_create_stepped(&world->a.io, &config, 1, NULL) == SL_OK);
    REQUIRE(sl_io_create_stepped(&world->b.io, &config, 2, NULL) == SL_OK);
    CHECK_INT(sl_io_accept(world->a.io, &link, sl_io_address(world->b.io)), SL_OK);
    turn(&world->a);
    CHECK_INT(sl_io_connect(world->b.io, &link, sl_io_address(world->a.io)), SL_OK);
    for (int i = 0; i < n_turns; i++) {
        turn(&world->b);
        turn(&world->a);
    }
}

static void end_alone(struct side *side)
{
    for (int i = 0; i < 20; i++)
        turn(side);
    sl_io_destroy(side->io);
}

/* UCX 1.13 ends the process (an assertion) whose answer to a call for an endpoint finds the caller's closed. */
SL_TEST(ucx_a_link_that_is_dropped_while_it_is_made_does_not_end_its_late_peer)
{
    for (int n_turns = 0; n_turns < 16; n_turns++) {
        struct world world;
        begin_a_link(&world, n_turns);
        sl_io_drop(world.b.io, LINK);
        for (int i = 0; i < 20; i++) /* A is not heard for a while */
            turn(&world.b);
        while (world.b.n_down == 0) {
            turn(&world.a);
            turn(&world.b);
        }
        sl_io_destroy(world.b.io);
        end_alone(&world.a);
    }
}

static void *work(void *arg)
{
    struct side *side = arg;
    while (!atomic_load(&side->over))
        turn(side);
    return NULL;
}

/* A peer that ends of its own will (its weights are bad, say) while its neighbours connect: they live on. */
SL_TEST(ucx_a_node_that_ends_while_links_are_made_to_it_ends_no_other)
{
    for (int n_turns = 1; n_turns < 8; n_turns += 2) {
        struct world world;
        pthread_t thread;
        begin_a_link(&world, n_turns);
        REQUIRE(pthread_create(&thread, NULL, work, &world.b) == 0);
        sl_io_destroy(world.a.io);
        atomic_store(&world.b.over, true);
        pthread_join(thread, NULL);
        end_alone(&world.b);
    }
}
