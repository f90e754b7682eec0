/* What the metadata of a Generate says beside its message: whose it is, how it ranks, when its first token is wanted,
 * and with whom it shares prefixes.
 * Pure: a gateway is trusted to say who its clients are, but what it passes on are bytes like any others. */
#ifndef SL_NODE_EDGE_HEADERS_H
#define SL_NODE_EDGE_HEADERS_H

#include "node/coordinator/coordinator.h"
#include "node/rpc/caller.h"

enum sl_header { SL_HEADER_TENANT, SL_HEADER_PRIORITY, SL_HEADER_SLO_TTFT, SL_HEADER_CACHE_SALT, SL_HEADERS };
enum { SL_MAX_SALT_BYTES = 256 };
const char *sl_header_name(enum sl_header header); /* "x-tenant-id", ... */

struct sl_header_value {
    uint32_t n;        /* how often it is there; 0: not at all */
    const char *bytes; /* of one of them; not terminated */
    size_t n_bytes;
};
/* What of the headers a caller may say. A gateway all, and so may who is not asked for a name where `trusting`. Who has a
 * certificate speaks for himself alone: the tenant is the certificate's name, priorities are not his to give, and his prefixes
 * are shared with nobody (a salt of his divides them further). Of others none is believed, and SL_E_DENIED names the one that is
 * there. */
sl_status sl_headers_of(struct sl_generate *generate, const struct sl_header_value values[SL_HEADERS],
                        const struct sl_caller *caller, bool trusting, struct sl_err *err);
/* Fills tenant, priority, slo_ms and cache_salt, which is a digest of the salt. SL_E_INVALID names the header. */
sl_status sl_headers_read(struct sl_generate *generate, const struct sl_header_value values[SL_HEADERS],
                          struct sl_err *err);

#endif
