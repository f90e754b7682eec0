/* node/coordinator/port_probe.c: a port without an owner refuses; one that listens, or is shielded, does not. */
#include "node/coordinator/port_probe.h"
#include "pipeline/link/shield.h"
#include "tests/check.h"
#include "tests/node/coordinator/listener.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <unistd.h>

/* Until it is answered, or as long as it waits. */
static bool is_refused(struct sl_port_probe *probe, uint16_t port, int ms)
{
    if (sl_port_probe_begin(probe, "127.0.0.1", port))
        return true;
    struct pollfd fd = {.fd = probe->fd, .events = POLLOUT};
    poll(&fd, 1, ms);
    return sl_port_probe_refused(probe);
}

SL_TEST(a_port_that_listens_does_not_refuse_and_one_without_an_owner_does)
{
    struct sl_port_probe probe = SL_PORT_PROBE_NONE;
    int fd;
    uint16_t port = listen_somewhere(&fd);
    CHECK(!is_refused(&probe, port, 10000));
    CHECK_INT(probe.fd, -1); /* it was answered, and is over */
    close(fd);
    CHECK(is_refused(&probe, port, 10000));
    CHECK_INT(probe.fd, -1);
}

SL_TEST(a_shielded_port_says_nothing_until_its_owner_is_gone)
{
    struct sl_port_probe probe = SL_PORT_PROBE_NONE;
    struct sl_shield shield;
    struct sockaddr_storage at;
    int fd;
    uint16_t port = listen_somewhere(&fd);
    REQUIRE(sl_shield_open(&shield, port, &at));
    CHECK(!is_refused(&probe, port, 20));
    CHECK(probe.fd >= 0); /* still under way: no answer is none */
    CHECK(!is_refused(&probe, port, 20));
    sl_shield_close(&shield);
    close(fd);
    CHECK(is_refused(&probe, port, 10000));
}

SL_TEST(what_is_no_address_and_what_was_not_begun_refuses_nothing)
{
    struct sl_port_probe probe = SL_PORT_PROBE_NONE;
    CHECK(!sl_port_probe_refused(&probe));
    CHECK(!sl_port_probe_begin(&probe, "a name", 1));
    CHECK(!sl_port_probe_begin(&probe, "", 1));
    CHECK(!sl_port_probe_refused(&probe));
    sl_port_probe_end(&probe);
}
