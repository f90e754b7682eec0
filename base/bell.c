/* An eventfd and a flag. The flag is what saves the system call: a ring writes to the eventfd only when the sleeper has
 * said that it is about to sleep, and takes the flag away, so that many rings in a row write once. Both sides exchange
 * rather than store or load: one of the two exchanges comes first, and either shows the other what was done before it. */
#include "base/bell.h"

#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

sl_status sl_bell_init(struct sl_bell *bell)
{
    atomic_init(&bell->asleep, 0);
    bell->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return bell->fd < 0 ? SL_E_IO : SL_OK;
}

void sl_bell_fini(struct sl_bell *bell)
{
    if (bell->fd >= 0)
        close(bell->fd);
    bell->fd = -1;
}

/* Either the exchange here comes first, then the sleeper's own exchange makes what was pushed
 * before visible to its last look; or the sleeper's came first, then we see that it sleeps. */
void sl_bell_ring(struct sl_bell *bell)
{
    if (!atomic_exchange(&bell->asleep, 0))
        return;
    uint64_t one = 1;
    ssize_t n = write(bell->fd, &one, sizeof one);
    (void)n; /* a full counter wakes as well */
}

void sl_bell_doze(struct sl_bell *bell)
{
    atomic_exchange(&bell->asleep, 1);
}

void sl_bell_hush(struct sl_bell *bell)
{
    uint64_t n;
    ssize_t got = read(bell->fd, &n, sizeof n);
    (void)got; /* nothing to read: it was not rung */
    atomic_exchange(&bell->asleep, 0);
}
