/* The options of who may come in: TLS of servers and clients, roles, what the network is told at start, and what a process that
 * holds prompts does not leave behind. Keys come from files, never from arguments or the environment, which /proc shows. */
#ifndef SL_NODE_COMMAND_SECURITY_H
#define SL_NODE_COMMAND_SECURITY_H

#include "node/command/shared_options.h"
#include "node/coordinator/join_key.h"
#include "node/rpc/tls.h"

struct sl_client_tls { /* of values that have SL_CLIENT_TLS_ROWS */
    struct sl_tls_files files;
    bool on;
};
struct sl_server_tls { /* of values that have SL_SERVER_TLS_ROWS */
    struct sl_tls_files files;
    const char *role;
    bool require_client, trust_headers;
};

#define SL_TLS_FILE_ROWS(values, files)                                                                      \
    SL_OPTION_TLS_CA(values, files.ca), SL_OPTION_TLS_CERT(values, files.cert),                              \
        SL_OPTION_TLS_KEY(values, files.key)
/* tls: the member of the values that is one of the structs above. */
#define SL_CLIENT_TLS_ROWS(values, tls)                                                                      \
    SL_OPTION_TLS(values, tls.on), SL_TLS_FILE_ROWS(values, tls.files),                                      \
        SL_OPTION_TLS_NAME(values, tls.files.name)
#define SL_SERVER_TLS_ROWS(values, tls)                                                                      \
    SL_TLS_FILE_ROWS(values, tls.files),                                                                     \
        SL_OPTION_ROW("tls-require-client", SL_OPT_BOOL, values, tls.require_client, NULL, NULL, 0, 0, NULL, \
                      "Shut out who shows no certificate; without it, such a one is a client without a "     \
                      "name."),                                                                              \
        SL_OPTION_TEXT("tls-role", SL_OPT_LIST, values, tls.role, NULL, "PATTERN=ROLE",                      \
                       "Whose certificate has a name (URI or host) that fits is a client, gateway, node or " \
                       "admin; * is one label or segment; the first that fits counts; may be given several " \
                       "times, or as a list with commas. Without it, the certificate's URI says it: "        \
                       "spiffe://DOMAIN/.../role/ROLE."),                                                    \
        SL_OPTION_ROW("trust-headers", SL_OPT_BOOL, values, tls.trust_headers, NULL, NULL, 0, 0, NULL,       \
                      "Where certificates are not asked for, believe x-tenant-id, x-cache-salt and "         \
                      "x-priority of whoever calls. Who listens on this machine only does so anyway.")

/* From here on this process speaks TLS to servers, if the options say so. SL_E_USAGE, SL_E_CONFIG. */
sl_status sl_client_tls_use(const struct sl_client_tls *tls, struct sl_err *err);

struct sl_serving_tls {
    bool on;
    struct sl_tls_config config; /* rules: those below, so it does not move */
    struct sl_role_rules rules;
};
/* What is wrong with the options or the files is said now. SL_E_USAGE, SL_E_CONFIG. */
sl_status sl_serving_tls_read(struct sl_serving_tls *tls, const struct sl_server_tls *options,
                              struct sl_err *err);

/* Who listens beyond this machine has a join key or certificates, or says that he means it (SL_E_USAGE). */
sl_status sl_check_open(const struct sl_join_key *key, bool certified, bool insecure, bool local,
                        const char *option, const char *address, struct sl_err *err);

struct sl_banner {
    const char *listen, *ops, *socket; /* NULL: none */
    const struct sl_serving_tls *tls;
    bool keyed, trusting;
    const char *data_host;
    bool data_shielded;
    uint32_t data_port;
};
/* Every listener of a coordinator, and who may reach it, into the log. */
void sl_banner_log(const struct sl_banner *banner);

/* No core of this process, which would hold prompts and keys, is written or handed to a program. */
void sl_no_cores(void);

#endif
