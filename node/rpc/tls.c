/* The server's side of TLS (tls.h): the context in use and the files behind it, handshakes, and bytes. */
#include "base/log.h"
#include "base/metric.h"
#include "node/rpc/tls_impl.h"
#include <errno.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum {
    FILES = 3,
    DEPTH = 5,              /* of a client's chain */
    CHAIN_BYTES = 32 << 10, /* likewise, as it is sent */
    /* Messages of a handshake behind it, that is keys that a client changes: once in 380 GB is due. */
    AFTERTHOUGHTS = 64
};

struct sl_tls {
    struct sl_tls_config config;
    struct sl_role_rules rules;
    char *paths[FILES]; /* cert, key, ca */
    SSL_CTX *ctx;
    uint32_t era;
    struct stat seen[FILES]; /* of what is in use, or was refused */
    bool refused;
    char told[sizeof(((struct sl_err *)0)->text)];
    int64_t left_s; /* of our certificate, when it was looked at last */
    uint64_t n_taken, n_refused;
};

struct sl_tls_session {
    struct sl_tls *tls;
    SSL *ssl;
    uint32_t era;
    uint32_t n_afterthoughts;
    bool done;   /* the handshake is */
    bool broken; /* OpenSSL wants no more calls */
    char why[160];
};

/* ---- the context ---- */

/* Only h2 is spoken here; who offers other things alone is told so by an alert. */
static int choose_h2(SSL *ssl, const unsigned char **out, unsigned char *out_bytes, const unsigned char *in,
                     unsigned in_bytes, void *user)
{
    (void)ssl, (void)user;
    for (unsigned at = 0; at < in_bytes; at += 1u + in[at])
        if (in[at] == 2 && at + 3 <= in_bytes && memcmp(in + at + 1, "h2", 2) == 0) {
            *out = in + at + 1;
            *out_bytes = 2;
            return SSL_TLSEXT_ERR_OK;
        }
    return SSL_TLSEXT_ERR_ALERT_FATAL;
}

static void on_message(int writes, int version, int type, const void *bytes, size_t n, SSL *ssl, void *user)
{
    struct sl_tls_session *session = SSL_get_app_data(ssl);
    (void)version, (void)bytes, (void)n, (void)user;
    if (!writes && type == SSL3_RT_HANDSHAKE && session && session->done)
        session->n_afterthoughts++;
}

static sl_status make_context(const struct sl_tls *tls, SSL_CTX **out, struct sl_err *err)
{
    struct sl_tls_pair pair = {0};
    X509_STORE *store = NULL;
    STACK_OF(X509_NAME) *names = NULL;
    SL_TRY(sl_tls_pair_load(&pair, tls->paths[0], tls->paths[1], err));
    sl_status status = tls->paths[2] ? sl_tls_trust_load(&store, &names, tls->paths[2], err) : SL_OK;
    SSL_CTX *ctx = status == SL_OK ? sl_tls_context(TLS_server_method()) : NULL;
    if (ctx) {
        if (store) {
            SSL_CTX_set1_cert_store(ctx, store);
            SSL_CTX_set_client_CA_list(ctx, names); /* it is the context's now */
            names = NULL;
            SSL_CTX_set_verify(
                ctx, SSL_VERIFY_PEER | (tls->config.require_client ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT : 0),
                NULL);
            SSL_CTX_set_verify_depth(ctx, DEPTH);
        }
        SSL_CTX_set_max_cert_list(ctx, CHAIN_BYTES);
        SSL_CTX_set_alpn_select_cb(ctx, choose_h2, NULL);
        SSL_CTX_set_msg_callback(ctx, on_message);
        SSL_CTX_clear_mode(ctx, SSL_MODE_AUTO_RETRY); /* one record at a time, whatever it is */
        SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                  SSL_MODE_RELEASE_BUFFERS);
        if (SSL_CTX_use_cert_and_key(ctx, pair.cert, pair.key, pair.chain, 1) != 1) {
            status = sl_fail(err, SL_E_CONFIG, "the certificate file %s cannot be used: %s", tls->paths[0],
                             sl_tls_reason());
            SSL_CTX_free(ctx);
            ctx = NULL;
        }
    } else if (status == SL_OK) {
        status = sl_fail(err, SL_E_NOMEM, "no memory for TLS");
    }
    X509_STORE_free(store);
    sk_X509_NAME_pop_free(names, X509_NAME_free);
    sl_tls_pair_free(&pair);
    *out = ctx;
    return status;
}

/* ---- the files ---- */

static bool look(const struct sl_tls *tls, struct stat now[FILES])
{
    bool changed = false;
    memset(now, 0, FILES * sizeof *now);
    for (int i = 0; i < FILES; i++) {
        const struct stat *a = &now[i], *b = &tls->seen[i];
        if (tls->paths[i] && stat(tls->paths[i], &now[i]) != 0)
            now[i] = (struct stat){0};
        changed |= a->st_ino != b->st_ino || a->st_dev != b->st_dev || a->st_size != b->st_size ||
                   a->st_mtim.tv_sec != b->st_mtim.tv_sec || a->st_mtim.tv_nsec != b->st_mtim.tv_nsec ||
                   a->st_ctim.tv_sec != b->st_ctim.tv_sec || a->st_ctim.tv_nsec != b->st_ctim.tv_nsec;
    }
    return changed;
}

static int64_t left_s_of(X509 *cert)
{
    int days = 0, seconds = 0;
    if (!cert || ASN1_TIME_diff(&days, &seconds, NULL, X509_get0_notAfter(cert)) != 1)
        return -1;
    int64_t left = (int64_t)days * 86400 + seconds;
    return left < 0 ? 0 : left;
}

void sl_tls_look(struct sl_tls *tls)
{
    struct stat now[FILES];
    struct sl_err err;
    SSL_CTX *fresh;
    tls->left_s = left_s_of(SSL_CTX_get0_certificate(tls->ctx));
    if (!look(tls, now) && !tls->refused)
        return; /* what was refused may be right later: by its time, or since the other file came */
    memcpy(tls->seen, now, sizeof now);
    if (make_context(tls, &fresh, &err) != SL_OK) {
        if (!tls->refused || strcmp(tls->told, err.text) != 0) {
            sl_log_warn("%s; what was in use until now stays in use", err.text);
            snprintf(tls->told, sizeof tls->told, "%s", err.text);
            tls->n_refused++;
        }
        tls->refused = true;
        return;
    }
    SSL_CTX_free(tls->ctx); /* sessions that were begun with it hold on to it */
    tls->ctx = fresh;
    tls->refused = false;
    tls->era++;
    tls->n_taken++;
    tls->left_s = left_s_of(SSL_CTX_get0_certificate(tls->ctx));
    sl_log_info(
        "the certificates for gRPC were replaced; new connections get those, old ones are told to go");
}

static bool copy_path(char **to, const char *from)
{
    return !from || (*to = strdup(from));
}

sl_status sl_tls_open(struct sl_tls **out, const struct sl_tls_config *config, struct sl_err *err)
{
    struct sl_tls *tls = calloc(1, sizeof *tls);
    if (!tls)
        return sl_fail(err, SL_E_NOMEM, "no memory for TLS");
    tls->config = *config;
    if (config->rules)
        tls->rules = *config->rules;
    tls->config.rules = NULL;
    sl_status status = copy_path(&tls->paths[0], config->cert) && copy_path(&tls->paths[1], config->key) &&
                               copy_path(&tls->paths[2], config->ca)
                           ? SL_OK
                           : sl_fail(err, SL_E_NOMEM, "no memory for TLS");
    if (status == SL_OK) {
        struct stat now[FILES];
        look(tls, now); /* before they are read: what changes meanwhile is read again */
        memcpy(tls->seen, now, sizeof now);
        status = make_context(tls, &tls->ctx, err);
    }
    if (status != SL_OK) {
        sl_tls_close(tls);
        return status;
    }
    tls->left_s = left_s_of(SSL_CTX_get0_certificate(tls->ctx));
    *out = tls;
    return SL_OK;
}

void sl_tls_close(struct sl_tls *tls)
{
    if (!tls)
        return;
    SSL_CTX_free(tls->ctx);
    for (int i = 0; i < FILES; i++)
        free(tls->paths[i]);
    free(tls);
}

uint32_t sl_tls_era(const struct sl_tls *tls)
{
    return tls->era;
}

void sl_tls_metrics(const struct sl_tls *tls, struct sl_text *text)
{
    sl_metric_head(text, "gauge", "sluice_tls_certificate_left_seconds",
                   "Until the certificate in use expires.");
    sl_text_add(text, "sluice_tls_certificate_left_seconds %lld\n", (long long)tls->left_s);
    sl_metric_head(text, "counter", "sluice_tls_replacements",
                   "Certificate files that changed, by what came of it.");
    sl_text_add(text,
                "sluice_tls_replacements_total{result=\"taken\"} %llu\n"
                "sluice_tls_replacements_total{result=\"refused\"} %llu\n",
                (unsigned long long)tls->n_taken, (unsigned long long)tls->n_refused);
}

/* ---- a session ---- */

struct sl_tls_session *sl_tls_begin(struct sl_tls *tls, int fd)
{
    struct sl_tls_session *session = calloc(1, sizeof *session);
    if (!session)
        return NULL;
    session->tls = tls;
    session->era = tls->era;
    session->ssl = SSL_new(tls->ctx);
    if (!session->ssl || SSL_set_fd(session->ssl, fd) != 1) {
        ERR_clear_error();
        sl_tls_end(session);
        return NULL;
    }
    SSL_set_app_data(session->ssl, session);
    SSL_set_accept_state(session->ssl);
    return session;
}

static const char *why_failed(struct sl_tls_session *session)
{
    unsigned long error = ERR_peek_last_error();
    long verdict = SSL_get_verify_result(session->ssl);
    if (verdict != X509_V_OK)
        snprintf(session->why, sizeof session->why, "its certificate is not taken: %s",
                 X509_verify_cert_error_string(verdict));
    else if (ERR_GET_REASON(error) == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE)
        snprintf(session->why, sizeof session->why, "it has no certificate, and one is required");
    else if (ERR_GET_REASON(error) == SSL_R_HTTP_REQUEST ||
             ERR_GET_REASON(error) == SSL_R_WRONG_VERSION_NUMBER)
        snprintf(session->why, sizeof session->why, "it does not speak TLS, which this port wants");
    else
        snprintf(session->why, sizeof session->why, "the TLS handshake failed: %s",
                 error ? ERR_reason_error_string(error) : "the other end has gone");
    ERR_clear_error();
    return session->why;
}

enum sl_tls_step sl_tls_shake(struct sl_tls_session *session)
{
    ERR_clear_error();
    int done = SSL_do_handshake(session->ssl);
    if (done == 1) {
        const unsigned char *protocol;
        unsigned n;
        SSL_get0_alpn_selected(session->ssl, &protocol, &n);
        if (n != 2) {
            snprintf(session->why, sizeof session->why, "it does not ask for h2 (ALPN)");
            return SL_TLS_FAILED;
        }
        session->done = true;
        return SL_TLS_DONE;
    }
    switch (SSL_get_error(session->ssl, done)) {
    case SSL_ERROR_WANT_READ:
        return SL_TLS_READS;
    case SSL_ERROR_WANT_WRITE:
        return SL_TLS_WRITES;
    default:
        session->broken = true;
        why_failed(session);
        return SL_TLS_FAILED;
    }
}

const char *sl_tls_why(struct sl_tls_session *session)
{
    return session->why;
}

static uint32_t names_of(const GENERAL_NAMES *all, struct sl_cert_name names[SL_CERT_NAMES + 1])
{
    uint32_t n = 0;
    for (int i = 0; all && i < sk_GENERAL_NAME_num(all) && n <= SL_CERT_NAMES; i++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(all, i);
        if (name->type != GEN_URI && name->type != GEN_DNS)
            continue;
        const ASN1_IA5STRING *text =
            name->type == GEN_URI ? name->d.uniformResourceIdentifier : name->d.dNSName;
        names[n++] = (struct sl_cert_name){name->type == GEN_URI, (const char *)ASN1_STRING_get0_data(text),
                                           (size_t)ASN1_STRING_length(text)};
    }
    return n;
}

void sl_tls_who(struct sl_tls_session *session, struct sl_caller *caller, int64_t *left_s, uint32_t *era)
{
    struct sl_cert_name names[SL_CERT_NAMES + 1];
    X509 *cert = SSL_get0_peer_certificate(session->ssl);
    *era = session->era;
    *left_s = left_s_of(cert);
    *caller = (struct sl_caller){.role = session->tls->config.ca ? SL_CALLER_CLIENT : SL_CALLER_OPEN};
    if (!cert)
        return;
    GENERAL_NAMES *all = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
    uint32_t n = names_of(all, names);
    if (n > SL_CERT_NAMES)
        *caller = (struct sl_caller){.role = SL_CALLER_STRANGER, .why = "it has more than 64 names"};
    else
        sl_caller_read(caller, &session->tls->rules, names, n);
    GENERAL_NAMES_free(all);
    ERR_clear_error();
}

static ssize_t result_of(struct sl_tls_session *session, int n)
{
    switch (SSL_get_error(session->ssl, n)) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE:
        errno = EAGAIN;
        return -1;
    case SSL_ERROR_ZERO_RETURN:
        return 0;
    default:
        session->broken = true;
        ERR_clear_error();
        errno = ECONNRESET;
        return -1;
    }
}

ssize_t sl_tls_read(struct sl_tls_session *session, void *into, size_t room)
{
    ERR_clear_error();
    int n = SSL_read(session->ssl, into, room > INT32_MAX ? INT32_MAX : (int)room);
    if (session->n_afterthoughts > AFTERTHOUGHTS) {
        errno = ECONNRESET;
        return -1;
    }
    return n > 0 ? n : result_of(session, n);
}

ssize_t sl_tls_write(struct sl_tls_session *session, const void *from, size_t bytes)
{
    ERR_clear_error();
    int n = SSL_write(session->ssl, from, bytes > INT32_MAX ? INT32_MAX : (int)bytes);
    ssize_t result = n > 0 ? n : result_of(session, n);
    if (result ==
        0) { /* the other end has said goodbye and takes nothing more: for who writes no end, but a failure */
        errno = EPIPE;
        return -1;
    }
    return result;
}

bool sl_tls_pending(const struct sl_tls_session *session)
{
    return SSL_pending(session->ssl) > 0;
}

void sl_tls_bye(struct sl_tls_session *session)
{
    if (!session->broken && SSL_is_init_finished(session->ssl))
        SSL_shutdown(session->ssl);
    ERR_clear_error();
}

void sl_tls_end(struct sl_tls_session *session)
{
    if (!session)
        return;
    SSL_free(session->ssl);
    free(session);
}
