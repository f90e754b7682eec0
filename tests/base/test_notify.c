/* Tests of what a supervisor is told: by path and by abstract name, nothing without a socket, and a sign of life only from a loop
 * that turns. A round of the watch is over when it has woken the loop again, so nothing here measures time. */
#include "base/notify.h"
#include "tests/check.h"

#include <poll.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* A supervisor's socket; name: as in NOTIFY_SOCKET. */
static int listen_at(const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    memcpy(address.sun_path, name, strlen(name));
    if (name[0] == '@')
        address.sun_path[0] = 0;
    socklen_t bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name));
    if (bind(fd, (const struct sockaddr *)&address, bytes) != 0)
        sl_test_fail(__FILE__, __LINE__, "cannot bind %s", name);
    setenv("NOTIFY_SOCKET", name, 1);
    return fd;
}

/* The next message; "" when none comes within wait_ms (-1: for ever). */
static const char *next(int fd, int wait_ms)
{
    static char text[2048];
    struct pollfd ready = {fd, POLLIN, 0};
    ssize_t n = poll(&ready, 1, wait_ms) == 1 ? recv(fd, text, sizeof text - 1, 0) : 0;
    text[n > 0 ? n : 0] = 0;
    return text;
}

SL_TEST(lines_go_to_a_socket_by_path_and_by_abstract_name)
{
    char path[100], abstract[100];
    snprintf(path, sizeof path, "%s/notify", sl_test_dir());
    snprintf(abstract, sizeof abstract, "@sluice-test-notify-%d", (int)getpid());
    const char *const names[] = {path, abstract};
    for (int i = 0; i < 2; i++) {
        int fd = listen_at(names[i]);
        sl_notify("READY=1\nSTATUS=%d stages", 2);
        CHECK_STR(next(fd, -1), "READY=1\nSTATUS=2 stages");
        close(fd);
    }
    unsetenv("NOTIFY_SOCKET");
}

SL_TEST(without_a_socket_that_can_be_nothing_is_sent)
{
    static char endless[400];
    memset(endless, 'x', sizeof endless - 1);
    endless[0] = '/';
    const char *const names[] = {"", "relative", "@", "/nobody/listens/here", endless};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        setenv("NOTIFY_SOCKET", names[i], 1);
        sl_notify("READY=1");
    }
    unsetenv("NOTIFY_SOCKET");
    sl_notify("READY=1");
}

static _Atomic uint64_t woken;
static _Atomic bool turning;

static void wake(void *user)
{
    (void)user;
    atomic_fetch_add(&woken, 1);
    if (atomic_load(&turning))
        sl_notify_turn();
}

SL_TEST(a_sign_of_life_comes_only_from_a_loop_that_turns)
{
    char name[100];
    snprintf(name, sizeof name, "@sluice-test-watch-%d", (int)getpid());
    int fd = listen_at(name);
    setenv("WATCHDOG_USEC", "4000", 1);
    atomic_store(&turning, true);
    sl_notify_watch(wake, NULL);
    for (int i = 0; i < 3; i++)
        CHECK_STR(next(fd, -1), "WATCHDOG=1");
    atomic_store(&turning, false);
    for (uint64_t from = atomic_load(&woken);
         atomic_load(&woken) < from + 3;) /* the round that was under way is over */
        next(fd, 1);
    while (next(fd, 0)[0])
        ;
    for (uint64_t from = atomic_load(&woken); atomic_load(&woken) < from + 20;)
        CHECK_STR(next(fd, 1), "");
    atomic_store(&turning, true); /* it was only late */
    CHECK_STR(next(fd, -1), "WATCHDOG=1");
    sl_notify_unwatch();
    sl_notify_unwatch();
    close(fd);
    unsetenv("WATCHDOG_USEC");
    unsetenv("NOTIFY_SOCKET");
}

SL_TEST(a_watch_that_is_asked_of_another_process_or_of_none_does_not_begin)
{
    static const char *const asked[][2] = {{NULL, NULL}, {"0", NULL}, {"soon", NULL}, {"4000", "1"}};
    for (size_t i = 0; i < sizeof asked / sizeof *asked; i++) {
        if (asked[i][0])
            setenv("WATCHDOG_USEC", asked[i][0], 1);
        if (asked[i][1])
            setenv("WATCHDOG_PID", asked[i][1], 1);
        uint64_t before = atomic_load(&woken);
        sl_notify_watch(wake, NULL);
        CHECK_INT(atomic_load(&woken), before);
        sl_notify_unwatch();
        unsetenv("WATCHDOG_USEC");
        unsetenv("WATCHDOG_PID");
    }
}
