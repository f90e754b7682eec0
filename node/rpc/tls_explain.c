/* Why a client's TLS does not come about, in one sentence (tls.h). gRPC says it in several lines of its own, or not at all: a
 * server that refuses a certificate of TLS 1.3 does so behind the handshake, and all that is left is a connection that closed. So
 * the same handshake is done once more by hand, with an eye on what each step says. Never on a path that matters: only after a
 * call has failed. */
#include "base/clock.h"
#include "node/rpc/listen.h"
#include "node/rpc/tls_impl.h"
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct attempt {
    const char *endpoint;
    const struct sl_tls_files *files;
    char host[SL_HOST_BYTES];
    uint64_t until_ns;
    int fd;
    SSL *ssl;
};

static bool wait_for(const struct attempt *a, short events)
{
    uint64_t now = sl_clock_ns();
    struct pollfd p = {a->fd, events, 0};
    return now < a->until_ns && poll(&p, 1, (int)((a->until_ns - now) / 1000000u) + 1) == 1;
}

static bool dial(struct attempt *a)
{
    uint16_t port;
    char service[8];
    struct sl_err err;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV}, *list = NULL;
    if (sl_listen_parse(a->endpoint, a->host, &port, &err) != SL_OK)
        return false;
    snprintf(service, sizeof service, "%u", port);
    if (getaddrinfo(a->host, service, &hints, &list) != 0)
        return false;
    for (struct addrinfo *i = list; i && a->fd < 0; i = i->ai_next) {
        int error = 0;
        socklen_t bytes = sizeof error;
        a->fd = socket(i->ai_family, i->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, i->ai_protocol);
        if (a->fd >= 0 && connect(a->fd, i->ai_addr, i->ai_addrlen) != 0 &&
            (errno != EINPROGRESS || !wait_for(a, POLLOUT) ||
             getsockopt(a->fd, SOL_SOCKET, SO_ERROR, &error, &bytes) != 0 || error != 0)) {
            close(a->fd);
            a->fd = -1;
        }
    }
    freeaddrinfo(list);
    return a->fd >= 0;
}

/* Goes on until `step` neither waits nor time is over. */
static int drive(struct attempt *a, int (*step)(SSL *))
{
    for (;;) {
        ERR_clear_error();
        int n = step(a->ssl), error = SSL_get_error(a->ssl, n);
        if ((error != SSL_ERROR_WANT_READ || !wait_for(a, POLLIN)) &&
            (error != SSL_ERROR_WANT_WRITE || !wait_for(a, POLLOUT)))
            return error;
    }
}

static int read_one(SSL *ssl)
{
    char byte;
    return SSL_read(ssl, &byte, 1);
}

/* "a.example, b.example": what the server's certificate is for. */
static const char *names_of(char out[120], X509 *cert)
{
    size_t n = 0;
    GENERAL_NAMES *all = cert ? X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL) : NULL;
    out[0] = 0;
    for (int i = 0; all && i < sk_GENERAL_NAME_num(all) && n < 100; i++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(all, i);
        if (name->type != GEN_DNS && name->type != GEN_URI)
            continue;
        const ASN1_IA5STRING *text =
            name->type == GEN_DNS ? name->d.dNSName : name->d.uniformResourceIdentifier;
        n += (size_t)snprintf(out + n, 120 - n, "%s%.*s", n ? ", " : "", ASN1_STRING_length(text),
                              (const char *)ASN1_STRING_get0_data(text));
    }
    GENERAL_NAMES_free(all);
    for (char *c = out; *c; c++)
        if (*c < ' ' || *c == 0x7f)
            *c = '?';
    return out[0] ? out : "no names";
}

static void say_verdict(struct attempt *a, long verdict, struct sl_err *err)
{
    char names[120];
    const char *wanted = a->files->name ? a->files->name : a->host;
    X509 *cert = SSL_get0_peer_certificate(a->ssl);
    if (verdict == X509_V_ERR_HOSTNAME_MISMATCH || verdict == X509_V_ERR_IP_ADDRESS_MISMATCH)
        sl_fail(err, SL_E_UNAVAILABLE,
                "the certificate of %s is for %s and not for %s; ask it by such a name, or say --tls-name",
                a->endpoint, names_of(names, cert), wanted);
    else if (verdict == X509_V_ERR_CERT_HAS_EXPIRED || verdict == X509_V_ERR_CERT_NOT_YET_VALID)
        sl_fail(err, SL_E_UNAVAILABLE, "the certificate of %s %s; renew it there, or look at the clocks",
                a->endpoint, verdict == X509_V_ERR_CERT_HAS_EXPIRED ? "has expired" : "is not valid yet");
    else
        sl_fail(err, SL_E_UNAVAILABLE,
                "the certificate of %s is not taken (%s); give the CA that signed it with --tls-ca",
                a->endpoint, X509_verify_cert_error_string(verdict));
}

/* What the server's alert says about us. */
static bool say_alert(const struct attempt *a, unsigned long error, struct sl_err *err)
{
    const char *ours = a->files->cert ? a->files->cert : "none";
    switch (ERR_GET_LIB(error) == ERR_LIB_SSL ? ERR_GET_REASON(error) : 0) {
    case SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED:
    case SSL_R_SSLV3_ALERT_HANDSHAKE_FAILURE:
        sl_fail(err, SL_E_UNAVAILABLE,
                "%s wants a certificate of its clients (ours: %s); give one with --tls-cert and --tls-key",
                a->endpoint, ours);
        return true;
    case SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED:
        sl_fail(err, SL_E_UNAVAILABLE, "%s says that our certificate %s has expired; renew it", a->endpoint,
                ours);
        return true;
    case SSL_R_TLSV1_ALERT_UNKNOWN_CA:
    case SSL_R_SSLV3_ALERT_BAD_CERTIFICATE:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN:
    case SSL_R_SSLV3_ALERT_UNSUPPORTED_CERTIFICATE:
        sl_fail(err, SL_E_UNAVAILABLE,
                "%s does not take our certificate %s (%s); have it signed by the CA that it trusts",
                a->endpoint, ours, ERR_reason_error_string(error));
        return true;
    case SSL_R_WRONG_VERSION_NUMBER:
    case SSL_R_PACKET_LENGTH_TOO_LONG:
    case SSL_R_HTTP_REQUEST:
        sl_fail(err, SL_E_UNAVAILABLE,
                "%s does not speak TLS; leave --tls-ca and its like out, or ask another port", a->endpoint);
        return true;
    default:
        return false;
    }
}

static bool say_what_came(struct attempt *a, struct sl_err *err)
{
    int got = drive(a, SSL_do_handshake);
    unsigned long error = ERR_peek_last_error();
    long verdict = SSL_get_verify_result(a->ssl);
    if (verdict != X509_V_OK) {
        say_verdict(a, verdict, err);
        return true;
    }
    if (got == SSL_ERROR_NONE) { /* TLS 1.3: what the server thinks of us comes behind it */
        got = drive(a, read_one);
        error = ERR_peek_last_error();
    }
    if (say_alert(a, error, err))
        return true;
    if (SSL_is_init_finished(a->ssl))
        return false; /* it would have worked */
    if (error == 0 && got != SSL_ERROR_WANT_READ) {
        sl_fail(
            err, SL_E_UNAVAILABLE,
            "%s closed the connection at the first words of TLS; it may not speak TLS: leave --tls-ca and its like out",
            a->endpoint);
        return true;
    }
    if (error == 0)
        return false;
    sl_fail(err, SL_E_UNAVAILABLE, "the TLS handshake with %s failed: %s", a->endpoint,
            ERR_reason_error_string(error));
    return true;
}

static bool prepare(struct attempt *a, SSL_CTX *ctx)
{
    static const unsigned char h2[] = {2, 'h', '2'};
    struct sl_err err;
    struct sl_tls_pair pair = {0};
    X509_STORE *store = NULL;
    const char *name = a->files->name ? a->files->name : a->host;
    if (a->files->ca ? sl_tls_trust_load(&store, NULL, a->files->ca, &err) != SL_OK
                     : SSL_CTX_set_default_verify_paths(ctx) != 1)
        return false;
    if (store)
        SSL_CTX_set_cert_store(ctx, store);
    if (a->files->cert && sl_tls_pair_load(&pair, a->files->cert, a->files->key, &err) != SL_OK)
        return false;
    SSL_CTX_set_verify(ctx, SSL_VERIFY_NONE,
                       NULL); /* it is looked at, and what it says is kept, whatever it is */
    bool good = !pair.cert || SSL_CTX_use_cert_and_key(ctx, pair.cert, pair.key, pair.chain, 1) == 1;
    sl_tls_pair_free(&pair);
    if (!good || !(a->ssl = SSL_new(ctx)))
        return false;
    X509_VERIFY_PARAM *verify = SSL_get0_param(a->ssl);
    X509_VERIFY_PARAM_set_flags(verify, X509_V_FLAG_PARTIAL_CHAIN);
    if (X509_VERIFY_PARAM_set1_ip_asc(verify, name) != 1) {
        SSL_set1_host(a->ssl, name);
        SSL_set_tlsext_host_name(a->ssl, name);
    }
    SSL_set_alpn_protos(a->ssl, h2, sizeof h2);
    SSL_set_connect_state(a->ssl);
    return SSL_set_fd(a->ssl, a->fd) == 1;
}

sl_status sl_tls_explain(const char *endpoint, const struct sl_tls_files *files, uint32_t timeout_ms,
                         struct sl_err *err)
{
    struct sl_err why;
    struct attempt a = {endpoint, files, "", sl_clock_ns() + timeout_ms * UINT64_C(1000000), -1, NULL};
    sigset_t pipe, before;
    const struct timespec now = {0, 0};
    sigemptyset(&pipe);
    sigaddset(&pipe, SIGPIPE);
    if (!dial(&a))
        return SL_OK;
    SSL_CTX *ctx = sl_tls_context(TLS_client_method());
    pthread_sigmask(SIG_BLOCK, &pipe, &before);
    bool said = ctx && prepare(&a, ctx) && say_what_came(&a, &why);
    sigtimedwait(&pipe, NULL, &now); /* of a server that closed while we spoke */
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    SSL_free(a.ssl);
    SSL_CTX_free(ctx);
    close(a.fd);
    ERR_clear_error();
    return said ? sl_fail(err, why.status, "%s", why.text) : SL_OK;
}
