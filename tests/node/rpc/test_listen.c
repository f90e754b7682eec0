/* Addresses as people write them, and a listener that outlives a shortage of descriptors. */
#include "tests/check.h"

#include "node/rpc/listen.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

static int dial(int port)
{
    struct sockaddr_in to = {.sin_family = AF_INET};
    to.sin_port = htons((uint16_t)port);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, (const struct sockaddr *)(const void *)&to, sizeof to) != 0)
        sl_test_fail(__FILE__, __LINE__, "cannot connect to port %d", port);
    return fd;
}

SL_TEST(every_way_to_write_an_address_is_understood)
{
    static const char *const good[][2] = {{"127.0.0.1:1", "127.0.0.1"},
                                          {"[::1]:1", "::1"},
                                          {"*:1", "*"},
                                          {"a-name.example:1", "a-name.example"},
                                          {"[fe80::1%eth0]:1", "fe80::1%eth0"}};
    char host[SL_HOST_BYTES];
    uint16_t port;
    struct sl_err err;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        CHECK_INT(sl_listen_parse(good[i][0], host, &port, &err), SL_OK);
        CHECK_STR(host, good[i][1]);
    }
}

SL_TEST(all_addresses_are_reached_over_the_loopback)
{
    static const char *const pairs[][2] = {{"*:7", "127.0.0.1:7"},    {"0.0.0.0:7", "127.0.0.1:7"},
                                           {"[::]:7", "127.0.0.1:7"}, {"127.0.0.1:7", "127.0.0.1:7"},
                                           {"[::1]:7", "[::1]:7"},    {"localhost:7", "localhost:7"}};
    char out[300];
    struct sl_err err;
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        CHECK_INT(sl_listen_reach(pairs[i][0], out, sizeof out, &err), SL_OK);
        CHECK_STR(out, pairs[i][1]);
    }
    CHECK(sl_listen_is_local("127.0.0.1:1") && sl_listen_is_local("[::1]:1") &&
          sl_listen_is_local("localhost:1"));
    CHECK(!sl_listen_is_local("*:1") && !sl_listen_is_local("0.0.0.0:1") && !sl_listen_is_local("[::]:1") &&
          !sl_listen_is_local("10.0.0.1:1") && !sl_listen_is_local("nonsense"));
}

SL_TEST(a_port_in_use_is_named_whatever_the_address_is)
{
    struct sl_listener first, second;
    struct sl_err err = {0};
    char address[32];
    REQUIRE(sl_listener_open(&first, "*:0", &err) == SL_OK);
    snprintf(address, sizeof address, "127.0.0.1:%d", first.port);
    CHECK_INT(sl_listener_open(&second, address, &err), SL_E_UNAVAILABLE);
    CHECK_CONTAINS(err.text, "another program listens there");
    snprintf(address, sizeof address, "*:%d", first.port);
    CHECK_INT(sl_listener_open(&second, address, &err), SL_E_UNAVAILABLE);
    CHECK_INT(sl_listener_open(&second, "no-such-name.invalid:1", &err), SL_E_UNAVAILABLE);
    CHECK_CONTAINS(err.text, "does not resolve");
    sl_listener_close(&first);
    sl_listener_close(&first);
}

SL_TEST(a_connection_is_taken_with_the_name_of_its_peer)
{
    struct sl_listener listener;
    struct sl_err err = {0};
    char text[SL_PEER_BYTES];
    int fd;
    REQUIRE(sl_listener_open(&listener, "127.0.0.1:0", &err) == SL_OK);
    CHECK_INT(sl_listener_accept(&listener, 0, &fd), SL_ACCEPT_NOTHING);
    int client = dial(listener.port);
    REQUIRE(sl_listener_accept(&listener, 0, &fd) == SL_ACCEPTED);
    sl_listen_peer(fd, text);
    CHECK_CONTAINS(text, "127.0.0.1:");
    CHECK((fcntl(fd, F_GETFL) & O_NONBLOCK) != 0);
    close(fd);
    close(client);
    sl_listener_close(&listener);
}

SL_TEST(a_shortage_of_descriptors_ends_when_it_ends)
{
    struct sl_listener listener;
    struct sl_err err = {0};
    struct rlimit before, none;
    int fd, clients[3];
    REQUIRE(sl_listener_open(&listener, "127.0.0.1:0", &err) == SL_OK);
    for (int i = 0; i < 3; i++)
        clients[i] = dial(listener.port);
    REQUIRE(getrlimit(RLIMIT_NOFILE, &before) == 0);
    none = before;
    int lowest = fcntl(0, F_DUPFD_CLOEXEC, 0); /* what the next descriptor would be */
    close(lowest);
    none.rlim_cur = (rlim_t)lowest;
    REQUIRE(setrlimit(RLIMIT_NOFILE, &none) == 0);
    CHECK_INT(sl_listener_accept(&listener, 0, &fd), SL_ACCEPT_SHUT); /* with the spare one */
    REQUIRE(setrlimit(RLIMIT_NOFILE, &before) == 0);
    char byte;
    CHECK_INT(recv(clients[0], &byte, 1, 0), 0); /* closed, not forgotten */
    for (int i = 1; i < 3; i++) {
        REQUIRE(sl_listener_accept(&listener, 0, &fd) == SL_ACCEPTED);
        close(fd);
    }
    for (int i = 0; i < 3; i++)
        close(clients[i]);
    sl_listener_close(&listener);
}
