/* Who is connected to the ops port, and who must go so that a probe is always answered. */
#ifndef SL_NODE_EDGE_ADMIN_HTTP_CROWD_H
#define SL_NODE_EDGE_ADMIN_HTTP_CROWD_H

#include "base/status.h"
#include <microhttpd.h>
#include <stdint.h>

enum {
    SL_CROWD_CONNECTIONS = 48, /* scrapers and probes are few; with more, the oldest idle one makes room */
    SL_CROWD_EXTRA = 16,       /* those that were told to go and have not yet */
    SL_CROWD_REQUEST_MS =
        5000, /* from the connection to its first request, and from there to the end of the answer */
    SL_CROWD_KEEP_MS = 60000 /* between requests: longer than a scraper's interval */
};

struct sl_crowd;
/* Binds; SL_E_UNAVAILABLE names the address. */
sl_status sl_crowd_open(struct sl_crowd **crowd, const char *listen, struct sl_err *err);
int sl_crowd_port(const struct sl_crowd *crowd);
/* Takes connections for the daemon (which has no listening socket of its own) from now on. */
sl_status sl_crowd_start(struct sl_crowd *crowd, struct MHD_Daemon *daemon, struct sl_err *err);
void sl_crowd_stop(struct sl_crowd *crowd);  /* takes none any more; before the daemon's stop */
void sl_crowd_close(struct sl_crowd *crowd); /* after it; NULL is fine */

/* For MHD_OPTION_NOTIFY_CONNECTION and MHD_OPTION_NOTIFY_COMPLETED; the context is the crowd. */
void sl_crowd_on_connection(void *crowd, struct MHD_Connection *connection, void **socket_context,
                            enum MHD_ConnectionNotificationCode code);
void sl_crowd_on_completed(void *crowd, struct MHD_Connection *connection, void **request_context,
                           enum MHD_RequestTerminationCode code);
/* A request's headers are here whole. */
void sl_crowd_asked(struct sl_crowd *crowd, struct MHD_Connection *connection);

#endif
