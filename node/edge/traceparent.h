/* W3C's traceparent: which trace of a client's a request is part of. Pure; what comes is a stranger's, and what is not to the letter
 * is as if it had not come: a trace is never a reason to refuse a request. */
#ifndef SL_NODE_EDGE_TRACEPARENT_H
#define SL_NODE_EDGE_TRACEPARENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sl_traceparent {
    uint8_t trace_id[16], parent_id[8];
    bool sampled; /* whoever began it records it */
};
/* False: it is none (of another shape, or of zeros); *out is zeros then. Versions to come may say more behind a dash. */
bool sl_traceparent_read(struct sl_traceparent *out, const char *bytes, size_t n);
enum { SL_TRACEPARENT_ROOM = 56 };
void sl_traceparent_write(char out[SL_TRACEPARENT_ROOM], const struct sl_traceparent *in);
/* 2 * n digits and a zero. */
void sl_hex_write(char *out, const uint8_t *bytes, size_t n);

#endif
