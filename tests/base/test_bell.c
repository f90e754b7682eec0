/* The bell: rung only for a sleeper, never lost, and two threads that hand numbers to each other by it get all of them. */
#include "base/bell.h"
#include "base/ring.h"
#include "tests/check.h"
#include <poll.h>
#include <pthread.h>

static bool rings(const struct sl_bell *bell, int wait_ms)
{
    struct pollfd fd = {.fd = bell->fd, .events = POLLIN};
    return poll(&fd, 1, wait_ms) == 1;
}

SL_TEST(a_thread_that_is_awake_is_not_written_to)
{
    struct sl_bell bell;
    REQUIRE(sl_bell_init(&bell) == SL_OK);
    sl_bell_ring(&bell);
    CHECK(!rings(&bell, 0));
    sl_bell_fini(&bell);
}

SL_TEST(a_ring_after_the_last_look_wakes)
{
    struct sl_bell bell;
    REQUIRE(sl_bell_init(&bell) == SL_OK);
    sl_bell_doze(&bell);
    sl_bell_ring(&bell);
    sl_bell_ring(&bell); /* the second finds it woken already */
    CHECK(rings(&bell, -1));
    sl_bell_hush(&bell);
    CHECK(!rings(&bell, 0));
    sl_bell_ring(&bell); /* awake again */
    CHECK(!rings(&bell, 0));
    sl_bell_fini(&bell);
    CHECK_INT(bell.fd, -1);
    sl_bell_fini(&bell);
}

enum { N_ITEMS = 100000 };

struct belt {
    struct sl_bell bell;
    struct sl_ring ring;
};

static void *produce(void *argument)
{
    struct belt *belt = argument;
    for (uint32_t i = 0; i < N_ITEMS; i++) {
        while (sl_ring_push(&belt->ring, &i) != SL_OK)
            sl_bell_ring(&belt->bell);
        sl_bell_ring(&belt->bell);
    }
    return NULL;
}

/* No time-out anywhere: a lost ring would hang here. */
SL_TEST(no_ring_is_lost_between_two_threads)
{
    struct belt belt;
    REQUIRE(sl_bell_init(&belt.bell) == SL_OK);
    REQUIRE(sl_ring_init(&belt.ring, 64, sizeof(uint32_t)) == SL_OK);
    pthread_t thread;
    REQUIRE(pthread_create(&thread, NULL, produce, &belt) == 0);
    for (uint32_t next = 0, got; next < N_ITEMS;) {
        if (sl_ring_pop(&belt.ring, &got) == SL_OK) {
            if (got != next++)
                sl_test_fail(__FILE__, __LINE__, "item %u came as %u", next - 1, got);
            continue;
        }
        sl_bell_doze(&belt.bell);
        if (atomic_load(&belt.ring.head) == atomic_load(&belt.ring.tail))
            rings(&belt.bell, -1);
        sl_bell_hush(&belt.bell);
    }
    pthread_join(thread, NULL);
    sl_ring_fini(&belt.ring);
    sl_bell_fini(&belt.bell);
}
