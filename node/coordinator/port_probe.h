/* Whether a TCP port refuses connections. The port of a process that lives either takes them or, when it is shielded
 * (pipeline/link/shield.h), says nothing; it is refused by its host when nobody listens there, so that process is gone. */
#ifndef SL_NODE_COORDINATOR_PORT_PROBE_H
#define SL_NODE_COORDINATOR_PORT_PROBE_H

#include <stdbool.h>
#include <stdint.h>

struct sl_port_probe {
    int fd; /* -1: none is under way */
};

#define SL_PORT_PROBE_NONE ((struct sl_port_probe){-1})

/* Begins to connect; one that is under way is given up. host: numeric. True: refused at once. */
bool sl_port_probe_begin(struct sl_port_probe *probe, const char *host, uint16_t port);
/* True: refused. One that was answered, however, is over. */
bool sl_port_probe_refused(struct sl_port_probe *probe);
void sl_port_probe_end(struct sl_port_probe *probe);

#endif
