/* The shield of a listener (shield.h): classic socket filters, which need no privilege. A filter on a listening socket sees the
 * packets that want to become a connection; one that has become one keeps the filter of that moment, which lets its peer's
 * packets pass. */
#include "pipeline/link/shield.h"
#include "pipeline/link/data_address.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static uint16_t port_of(const struct sockaddr_storage *address)
{
    return address->ss_family == AF_INET ? ntohs(((const struct sockaddr_in *)address)->sin_port)
                                         : ntohs(((const struct sockaddr_in6 *)address)->sin6_port);
}

/* Does this descriptor listen at that port? */
static bool listens(int fd, uint16_t port, struct sockaddr_storage *address)
{
    int on = 0;
    socklen_t bytes = sizeof on;
    memset(address, 0, sizeof *address);
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &on, &bytes) != 0 || !on)
        return false;
    bytes = sizeof *address;
    if (getsockname(fd, (struct sockaddr *)address, &bytes) != 0)
        return false;
    return (address->ss_family == AF_INET || address->ss_family == AF_INET6) && port_of(address) == port;
}

static int find(uint16_t port, struct sockaddr_storage *address)
{
    struct sockaddr_storage at, found = {0};
    int best = -1;
    DIR *all = opendir("/proc/self/fd");
    if (!all)
        return -1;
    for (struct dirent *entry; (entry = readdir(all));) {
        int fd = atoi(entry->d_name);
        if (entry->d_name[0] == '.' || !listens(fd, port, &at) ||
            (best >= 0 && !sl_data_address_same(&at, address)))
            continue;
        best = fd;
        found = at;
    }
    closedir(all);
    if (best >= 0)
        *address = found;
    return best;
}

static void hold(struct sl_shield *shield)
{
    for (int i = 0; i < SL_SHIELD_RESERVE; i++)
        if (shield->reserve[i] < 0)
            shield->reserve[i] = open("/dev/null", O_RDONLY | O_CLOEXEC);
}

static void let_go(struct sl_shield *shield)
{
    for (int i = 0; i < SL_SHIELD_RESERVE; i++) {
        if (shield->reserve[i] >= 0)
            close(shield->reserve[i]);
        shield->reserve[i] = -1;
    }
}

void sl_shield_none(struct sl_shield *shield)
{
    *shield = (struct sl_shield){.fd = -1};
    memset(shield->reserve, -1, sizeof shield->reserve);
}

bool sl_shield_open(struct sl_shield *shield, uint16_t port, struct sockaddr_storage *address)
{
    sl_shield_none(shield);
    shield->fd = find(port, address);
    shield->family = address->ss_family;
    shield->port = port;
    if (shield->fd < 0)
        return false;
    /* What it accepts ends with a reset, never in TIME_WAIT, so that a node that is started again has its port at once: the
     * library binds without SO_REUSEADDR. Nothing is lost by that which the two ends did not settle by GOODBYE before. */
    struct linger reset = {.l_onoff = 1, .l_linger = 0};
    setsockopt(shield->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    return sl_shield_admit(shield, NULL, 0);
}

void sl_shield_close(struct sl_shield *shield)
{
    let_go(shield);
    shield->fd = -1;
}

/* ---- the filter ---- */

enum { V4_SOURCE = 12, V6_SOURCE = 8, ENOUGH = SL_SHIELD_PEERS * 9 + 1 };

struct program {
    struct sock_filter rows[ENOUGH];
    unsigned short n;
};

static void row(struct program *p, uint16_t code, uint8_t if_true, uint8_t if_false, uint32_t k)
{
    p->rows[p->n++] = (struct sock_filter){code, if_true, if_false, k};
}

/* If all words of the packet's source are these it passes; else the next peer's rows decide. */
static void pass_source(struct program *p, const uint8_t *address, unsigned n_words, uint32_t offset)
{
    for (unsigned i = 0; i < n_words; i++) {
        const uint8_t *b = address + 4 * i;
        uint32_t word = (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
        row(p, BPF_LD | BPF_W | BPF_ABS, 0, 0, (uint32_t)SKF_NET_OFF + offset + 4 * i);
        row(p, BPF_JMP | BPF_JEQ | BPF_K, 0, (uint8_t)(2 * (n_words - 1 - i) + 1), word);
    }
    row(p, BPF_RET | BPF_K, 0, 0, UINT32_MAX);
}

bool sl_shield_lives(struct sl_shield *shield)
{
    struct sockaddr_storage now;
    if (shield->fd >= 0 &&
        !shield->lost) /* its owner may have closed it, and the number be another's by now */
        shield->lost = !listens(shield->fd, shield->port, &now);
    return !shield->lost;
}

bool sl_shield_admit(struct sl_shield *shield, const struct sockaddr_storage *peers, uint32_t n_peers)
{
    if (shield->fd < 0)
        return true;
    if (!sl_shield_lives(shield)) {
        errno = EBADF;
        return false;
    }
    struct program p = {.n = 0};
    for (uint32_t i = 0; i < n_peers && i < SL_SHIELD_PEERS; i++) {
        if (peers[i].ss_family != shield->family)
            continue;
        if (shield->family == AF_INET)
            pass_source(&p, (const uint8_t *)&((const struct sockaddr_in *)&peers[i])->sin_addr, 1,
                        V4_SOURCE);
        else
            pass_source(&p, (const uint8_t *)&((const struct sockaddr_in6 *)&peers[i])->sin6_addr, 4,
                        V6_SOURCE);
    }
    if (p.n > 0)
        let_go(shield);
    else
        hold(shield);
    row(&p, BPF_RET | BPF_K, 0, 0, 0);
    struct sock_fprog program = {p.n, p.rows};
    return setsockopt(shield->fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) == 0;
}
