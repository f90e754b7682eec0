/* What the files that speak OpenSSL share: reading PEM files, with a sentence for each way in which they can be wrong. */
#ifndef SL_NODE_RPC_TLS_IMPL_H
#define SL_NODE_RPC_TLS_IMPL_H

#include "node/rpc/tls.h"
#include <openssl/ssl.h>

struct sl_tls_pair { /* a certificate with those between it and its CA, and its key */
    X509 *cert;
    STACK_OF(X509) * chain;
    EVP_PKEY *key;
};
/* Both files, that they belong together, and that now is within the certificate's time. SL_E_CONFIG. */
sl_status sl_tls_pair_load(struct sl_tls_pair *pair, const char *cert, const char *key, struct sl_err *err);
void sl_tls_pair_free(struct sl_tls_pair *pair);
/* The certificates of a file as what we trust, and as the names that a client is told (NULL: not wanted). */
sl_status sl_tls_trust_load(X509_STORE **store, STACK_OF(X509_NAME) * *names, const char *ca,
                            struct sl_err *err);
/* What every context of ours has: versions, ciphers, no resumption. NULL: no memory. */
SSL_CTX *sl_tls_context(const SSL_METHOD *method);
/* The reason that OpenSSL gave last on this thread, static; its queue is empty afterwards. */
const char *sl_tls_reason(void);

#endif
