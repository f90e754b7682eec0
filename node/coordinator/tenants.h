/* Whose requests they are: the names of tenants as a trusted gateway gives them, and the weights that an operator gives those.
 * Pure: bytes in, values or a sentence out. */
#ifndef SL_NODE_COORDINATOR_TENANTS_H
#define SL_NODE_COORDINATOR_TENANTS_H

#include "base/status.h"
#include "pipeline/decide/core.h"

/* A name has 1 to SL_MAX_TENANT - 1 printable characters of ASCII, no blank; none at all is that of those who name none. */
bool sl_tenant_is_name(const char *bytes, size_t n);

struct sl_tenant_weights {
    uint32_t n;
    struct sl_tenant_weight list[SL_MAX_WEIGHTS];
};
/* "a=2,b=0.5"; NULL or empty: none. SL_E_USAGE with a sentence that names `option`. */
sl_status sl_tenant_weights_read(struct sl_tenant_weights *weights, const char *list, const char *option,
                                 struct sl_err *err);

#endif
