/* One HTTP GET of an ops port, for the commands that look at a running node (top, report). No library: a request of one line,
 * an answer that ends with the connection. */
#ifndef SL_NODE_CLIENT_HTTP_GET_H
#define SL_NODE_CLIENT_HTTP_GET_H

#include "base/status.h"
#include <stdint.h>

enum { SL_HTTP_MAX_BYTES = 16 << 20 };

struct sl_http_reply {
    int status;   /* 200, 404, ... */
    char *body;   /* the caller's to free; NUL behind it */
    size_t bytes; /* of the body */
};

/* Any status is SL_OK. SL_E_CONFIG: the address is none. SL_E_UNAVAILABLE: nobody answers within timeout_ms in all, or not
 * HTTP, or more than SL_HTTP_MAX_BYTES; the sentence names the address. */
sl_status sl_http_get(struct sl_http_reply *reply, const char *address, const char *path, uint32_t timeout_ms,
                      struct sl_err *err);
void sl_http_reply_free(struct sl_http_reply *reply);

/* Reads all the bytes of an answer: its status, and where the body begins. False: it is no whole answer. */
bool sl_http_read(const char *bytes, size_t n, int *status, size_t *body_at);

#endif
