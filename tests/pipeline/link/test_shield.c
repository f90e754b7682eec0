/* The shield over a listener of the test's own. On the loopback interface a connection is there when connect() returns, or it is
 * not going to be before its second try, a second later: so nothing here waits. */
#include "pipeline/link/data_address.h"
#include "pipeline/link/shield.h"
#include "tests/check.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <unistd.h>

static struct sockaddr_storage address_of(int family, const char *text, uint16_t port)
{
    struct sockaddr_storage at = {.ss_family = (sa_family_t)family};
    void *to = family == AF_INET ? (void *)&((struct sockaddr_in *)&at)->sin_addr
                                 : (void *)&((struct sockaddr_in6 *)&at)->sin6_addr;
    CHECK_INT(inet_pton(family, text, to), 1);
    sl_data_address_set_port(&at, port);
    return at;
}

static socklen_t bytes_of(const struct sockaddr_storage *at)
{
    return at->ss_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
}

/* -1: this machine has no such address. */
static int listen_at(int family, const char *text, uint16_t *port)
{
    struct sockaddr_storage at = address_of(family, text, 0);
    socklen_t bytes = bytes_of(&at);
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&at, bytes) != 0 || listen(fd, 8) != 0)
        return -1;
    CHECK_INT(getsockname(fd, (struct sockaddr *)&at, &bytes), 0);
    *port = ntohs(((struct sockaddr_in *)&at)->sin_port); /* at the same place in both */
    return fd;
}

static int call(int family, const char *from, const char *to, uint16_t port)
{
    struct sockaddr_storage source = address_of(family, from, 0), at = address_of(family, to, port);
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    CHECK_INT(bind(fd, (struct sockaddr *)&source, bytes_of(&source)), 0);
    CHECK(connect(fd, (struct sockaddr *)&at, bytes_of(&at)) == 0 || errno == EINPROGRESS);
    return fd;
}

static bool is_heard(int family, const char *from, const char *to, uint16_t port)
{
    struct pollfd p = {.fd = call(family, from, to, port), .events = POLLOUT};
    bool heard = poll(&p, 1, 0) == 1;
    close(p.fd);
    return heard;
}

SL_TEST(only_the_wanted_are_heard_and_who_is_there_stays)
{
    uint16_t port;
    int fd = listen_at(AF_INET, "127.0.0.1", &port);
    struct sl_shield shield;
    struct sockaddr_storage at = {.ss_family = AF_INET};
    REQUIRE(fd >= 0 && sl_shield_open(&shield, port, &at));
    CHECK_INT(shield.fd, fd);
    CHECK(!is_heard(AF_INET, "127.0.0.1", "127.0.0.1", port));
    struct sockaddr_storage wanted[2] = {address_of(AF_INET, "127.0.0.9", 1),
                                         address_of(AF_INET, "127.0.0.3", 2)};
    CHECK(sl_shield_admit(&shield, wanted, 2));
    CHECK(!is_heard(AF_INET, "127.0.0.1", "127.0.0.1", port));
    CHECK(is_heard(AF_INET, "127.0.0.3", "127.0.0.1", port));
    int friend = call(AF_INET, "127.0.0.9", "127.0.0.1", port), ours;
    CHECK((ours = accept(fd, NULL, NULL)) >= 0); /* the one before was heard first, and has gone */
    close(ours);
    CHECK((ours = accept(fd, NULL, NULL)) >= 0);
    CHECK(sl_shield_admit(&shield, NULL, 0));
    CHECK(!is_heard(AF_INET, "127.0.0.9", "127.0.0.1", port));
    char byte = 0;
    CHECK_INT(write(friend, "x", 1), 1);
    CHECK_INT(read(ours, &byte, 1), 1);
    CHECK_INT(byte, 'x');
    close(friend);
    close(ours);
    sl_shield_close(&shield);
    CHECK_INT(close(fd), 0); /* it stayed its owner's */
}

SL_TEST(ipv6_sources_are_compared_whole)
{
    uint16_t port;
    int fd = listen_at(AF_INET6, "::1", &port);
    struct sl_shield shield;
    struct sockaddr_storage at = {.ss_family = AF_INET6};
    if (fd < 0) {
        sl_test_skip("this machine has no ::1");
        return;
    }
    REQUIRE(sl_shield_open(&shield, port, &at));
    CHECK(!is_heard(AF_INET6, "::1", "::1", port));
    static const char *const others[] = {"::2", "::1:0:1", "1::1", "0:1::1"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        struct sockaddr_storage other = address_of(AF_INET6, others[i], 1);
        CHECK(sl_shield_admit(&shield, &other, 1));
        CHECK(!is_heard(AF_INET6, "::1", "::1", port));
    }
    struct sockaddr_storage wanted[2] = {address_of(AF_INET6, "fd00::7", 1), address_of(AF_INET6, "::1", 1)};
    CHECK(sl_shield_admit(&shield, wanted, 2));
    CHECK(is_heard(AF_INET6, "::1", "::1", port));
    sl_shield_close(&shield);
    close(fd);
}

SL_TEST(as_many_peers_as_there_can_be_links)
{
    uint16_t port;
    int fd = listen_at(AF_INET, "127.0.0.1", &port);
    struct sl_shield shield;
    struct sockaddr_storage at = {.ss_family = AF_INET}, wanted[SL_SHIELD_PEERS];
    REQUIRE(fd >= 0 && sl_shield_open(&shield, port, &at));
    for (int i = 0; i < SL_SHIELD_PEERS; i++) {
        char text[32];
        snprintf(text, sizeof text, "127.0.%d.1", i);
        wanted[i] = address_of(AF_INET, text, 1);
    }
    CHECK(sl_shield_admit(&shield, wanted, SL_SHIELD_PEERS));
    CHECK(is_heard(AF_INET, "127.0.63.1", "127.0.0.1", port));
    CHECK(!is_heard(AF_INET, "127.0.64.1", "127.0.0.1", port));
    sl_shield_close(&shield);
    close(fd);
}

SL_TEST(reserve_is_free_while_peers_are_wanted)
{
    uint16_t port;
    int fd = listen_at(AF_INET, "127.0.0.1", &port);
    struct sl_shield shield;
    struct sockaddr_storage at = {.ss_family = AF_INET}, wanted = address_of(AF_INET, "127.0.0.1", 1);
    REQUIRE(fd >= 0 && sl_shield_open(&shield, port, &at));
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < SL_SHIELD_RESERVE; i++)
            CHECK(shield.reserve[i] >= 0);
        CHECK(sl_shield_admit(&shield, &wanted, 1));
        for (int i = 0; i < SL_SHIELD_RESERVE; i++)
            CHECK_INT(shield.reserve[i], -1);
        CHECK(sl_shield_admit(&shield, NULL, 0));
    }
    sl_shield_close(&shield);
    close(fd);
}

/* A process may be started without them. */
SL_TEST(reserve_lets_go_of_every_number_that_of_standard_input_too)
{
    uint16_t port;
    int fd = listen_at(AF_INET, "127.0.0.1", &port);
    struct sl_shield shield;
    struct sockaddr_storage at = {.ss_family = AF_INET}, wanted = address_of(AF_INET, "127.0.0.1", 1);
    close(STDIN_FILENO);
    REQUIRE(fd >= 0 && sl_shield_open(&shield, port, &at));
    CHECK_INT(shield.reserve[0], STDIN_FILENO);
    CHECK(sl_shield_admit(&shield, &wanted, 1));
    CHECK(fcntl(STDIN_FILENO, F_GETFD) < 0 && errno == EBADF);
    sl_shield_close(&shield);
    close(fd);
}

SL_TEST(listener_that_its_owner_closed_is_told_and_its_number_left_alone)
{
    uint16_t port, other_port;
    int fd = listen_at(AF_INET, "127.0.0.1", &port);
    struct sl_shield shield;
    struct sockaddr_storage at = {.ss_family = AF_INET};
    REQUIRE(fd >= 0 && sl_shield_open(&shield, port, &at));
    close(fd);
    int other = listen_at(AF_INET, "127.0.0.1", &other_port); /* gets the same number */
    CHECK_INT(other, fd);
    CHECK(!sl_shield_admit(&shield, NULL, 0) && shield.lost);
    CHECK(is_heard(AF_INET, "127.0.0.1", "127.0.0.1", other_port));
    sl_shield_close(&shield);
    close(other);
    at = (struct sockaddr_storage){.ss_family = AF_INET};
    CHECK(!sl_shield_open(&shield, port, &at)); /* nobody listens there any more */
    CHECK_INT(shield.fd, -1);
    sl_shield_close(&shield);
}
