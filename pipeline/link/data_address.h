/* What a user calls a data address, and the one interface of this machine that owns it. */
#ifndef SL_PIPELINE_LINK_DATA_ADDRESS_H
#define SL_PIPELINE_LINK_DATA_ADDRESS_H

#include "base/status.h"
#include <net/if.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

struct sl_data_address {
    struct sockaddr_storage at;
    socklen_t bytes;
    char interface[IF_NAMESIZE];
};
/* A name, an IPv4 or an IPv6 address, the last in brackets or not. SL_E_CONFIG: it means no interface, or every; SL_E_UNAVAILABLE:
 * no interface of this machine has it. The data plane can't bind an address of one link only (fe80::), whatever its zone. */
sl_status sl_data_address_find(struct sl_data_address *address, const char *text, struct sl_err *err);
/* Numeric, as in "10.0.0.1" or "fd00::2". */
void sl_data_address_text(const struct sockaddr_storage *address, char *text, size_t room);
bool sl_data_address_same(const struct sockaddr_storage *a,
                          const struct sockaddr_storage *b); /* but for the port */
void sl_data_address_set_port(struct sockaddr_storage *address, uint16_t port);

#endif
