/* HOST:PORT, and a bound TCP socket from it. The sentence of a port in use is made here, for gRPC
 * and ops HTTP alike. */
#ifndef SL_NODE_RPC_LISTEN_H
#define SL_NODE_RPC_LISTEN_H

#include "base/status.h"
#include <stdint.h>

enum { SL_HOST_BYTES = 256 };

/* "127.0.0.1:8081", "[::]:8081", "localhost:0" -> host without brackets, port. SL_E_CONFIG names
 * the text. */
sl_status sl_listen_parse(const char *address, char host[SL_HOST_BYTES], uint16_t *port, struct sl_err *err);
/* Bound and listening; *fd is the caller's; *port is the real one. SL_E_UNAVAILABLE names the
 * address. */
sl_status sl_listen_open(const char *address, int *fd, int *port, struct sl_err *err);

#endif
