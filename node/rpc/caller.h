/* Who calls, as the names in a client's certificate say it: a role, which decides what may be called (struct sl_rpc_method's
 * `roles`), and a name, which is its tenant. Pure: names in, a caller out. Certificates are read in tls.c, which has checked by
 * then that a CA that we trust vouches for them.
 *
 * Two ways to say a role, and never both: rules (--tls-role PATTERN=ROLE), the first that fits any of the names; or, without
 * rules, one URI spiffe://DOMAIN/PATH/role/ROLE. What fits neither way is a stranger, who may call nothing: a certificate of the
 * same CA that was made for something else opens no door here. */
#ifndef SL_NODE_RPC_CALLER_H
#define SL_NODE_RPC_CALLER_H

#include "base/status.h"
#include <stddef.h>
#include <stdint.h>

enum sl_caller_role {
    SL_CALLER_OPEN,     /* nobody was asked: the port has no certificates (or none of clients) */
    SL_CALLER_STRANGER, /* its certificate has no role here */
    SL_CALLER_CLIENT,   /* asks for itself; also who has no certificate where none is required */
    SL_CALLER_GATEWAY,  /* asks for others, and says for whom */
    SL_CALLER_NODE,     /* a stage or decode worker */
    SL_CALLER_ADMIN,
    SL_CALLER_ROLES
};
extern const char *const sl_caller_roles[SL_CALLER_ROLES];

enum {
    SL_CALLER_NAME_BYTES = 64, /* its NUL included: a tenant's */
    SL_ROLE_RULES = 32,
    SL_ROLE_PATTERN_BYTES = 256,
    SL_CERT_NAMES = 64, /* of a certificate: with more, its holder is a stranger */
    SL_CERT_NAME_BYTES = 512
};

struct sl_caller {
    enum sl_caller_role role;
    char name[SL_CALLER_NAME_BYTES]; /* empty: it has none */
    const char *why;                 /* of a stranger: a static sentence */
};

struct sl_role_rules {
    uint32_t n;
    struct {
        char pattern[SL_ROLE_PATTERN_BYTES];
        enum sl_caller_role role;
    } list[SL_ROLE_RULES];
};
/* "PATTERN=ROLE,PATTERN=ROLE": ROLE is client, gateway, node or admin; `*` stands for one character or more of one label of a
 * host's name (no dot), or of one segment of a URI (no slash). NULL: no rules. SL_E_USAGE names the option and the item. */
sl_status sl_role_rules_read(struct sl_role_rules *rules, const char *list, const char *option,
                             struct sl_err *err);
/* Whether a pattern fits a name, whole. Letters of hosts' names are alike in both cases, those of URIs are not. */
bool sl_role_fits(const char *pattern, const char *name, size_t n_bytes, bool is_uri);

struct sl_cert_name { /* of the subject's alternative names: a URI or a host's */
    bool is_uri;
    const char *text; /* not terminated; any bytes */
    size_t n_bytes;
};
void sl_caller_read(struct sl_caller *caller, const struct sl_role_rules *rules,
                    const struct sl_cert_name *names, uint32_t n);

#endif
