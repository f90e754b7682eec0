/* Certificates, keys and CAs from PEM files (tls_impl.h). A file is read whole before it is parsed, with a bound, so that one that
 * is being written is at worst a half one: that is said as such, and nothing of it is used. Contents of keys are wiped. */
#include "node/rpc/tls_impl.h"
#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FILE_BYTES = 1 << 20, CHAIN_MOST = 16, CA_MOST = 1024 };
static const char CIPHERS[] = "ECDHE+AESGCM:ECDHE+CHACHA20"; /* of TLS 1.2; those of 1.3 are all good */

const char *sl_tls_reason(void)
{
    const char *reason = ERR_reason_error_string(ERR_peek_last_error());
    ERR_clear_error();
    return reason ? reason : "the connection broke";
}

sl_status sl_tls_file_read(const char *path, const char *what, char **text, struct sl_err *err)
{
    size_t n = 0;
    ssize_t got = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    char *all = fd < 0 ? NULL : malloc(FILE_BYTES + 2);
    if (fd >= 0 && !all) {
        close(fd);
        return sl_fail(err, SL_E_NOMEM, "no memory for the %s file %s", what, path);
    }
    while (fd >= 0 && n <= FILE_BYTES &&
           ((got = read(fd, all + n, FILE_BYTES + 1 - n)) > 0 || (got < 0 && errno == EINTR)))
        n += got > 0 ? (size_t)got : 0;
    int error = errno;
    if (fd >= 0)
        close(fd);
    if (fd >= 0 && got == 0 && n > 0 && n <= FILE_BYTES) {
        all[n] = 0;
        *text = all;
        return SL_OK;
    }
    free(all);
    if (fd < 0 || got < 0)
        return sl_fail(err, SL_E_CONFIG, "the %s file %s cannot be read: %s", what, path, strerror(error));
    return sl_fail(err, SL_E_CONFIG, "the %s file %s is %s", what, path, n ? "longer than 1 MiB" : "empty");
}

static void wipe(char *text)
{
    explicit_bzero(text, strlen(text));
    free(text);
}

/* ---- certificates ---- */

/* All certificates of a text, in their order. What is between them is passed over, as everywhere. */
static sl_status parse_certs(STACK_OF(X509) * list, const char *text, const char *what, const char *path,
                             int most, struct sl_err *err)
{
    BIO *bio = BIO_new_mem_buf(text, -1);
    X509 *cert;
    while (bio && (cert = PEM_read_bio_X509(bio, NULL, NULL, NULL)))
        if (sk_X509_num(list) == most || !sk_X509_push(list, cert)) {
            X509_free(cert);
            BIO_free(bio);
            return sl_fail(err, SL_E_CONFIG, "the %s file %s has more than %d certificates", what, path,
                           most);
        }
    unsigned long error = ERR_peek_last_error();
    bool at_end = ERR_GET_LIB(error) == ERR_LIB_PEM && ERR_GET_REASON(error) == PEM_R_NO_START_LINE;
    ERR_clear_error();
    BIO_free(bio);
    if (!at_end)
        return sl_fail(err, SL_E_CONFIG, "the %s file %s is cut off or damaged; write it whole", what, path);
    if (sk_X509_num(list) == 0)
        return sl_fail(err, SL_E_CONFIG, "the %s file %s has no certificate in PEM form", what, path);
    return SL_OK;
}

static sl_status load_certs(STACK_OF(X509) * *list, const char *what, const char *path, int most,
                            struct sl_err *err)
{
    char *text;
    *list = NULL;
    SL_TRY(sl_tls_file_read(path, what, &text, err));
    *list = sk_X509_new_null();
    sl_status status = *list ? parse_certs(*list, text, what, path, most, err)
                             : sl_fail(err, SL_E_NOMEM, "no memory for the %s file %s", what, path);
    free(text);
    if (status != SL_OK) {
        sk_X509_pop_free(*list, X509_free);
        *list = NULL;
    }
    return status;
}

/* "Nov 30 04:11:07 2026 GMT" */
static const char *shown(char out[64], const ASN1_TIME *time)
{
    BIO *bio = BIO_new(BIO_s_mem());
    int n = bio && ASN1_TIME_print(bio, time) ? BIO_read(bio, out, 63) : 0;
    out[n > 0 ? n : 0] = 0;
    BIO_free(bio);
    return out;
}

static sl_status check_time(X509 *cert, const char *path, struct sl_err *err)
{
    char when[64];
    if (X509_cmp_current_time(X509_get0_notBefore(cert)) > 0)
        return sl_fail(err, SL_E_CONFIG,
                       "the certificate file %s is not valid before %s; look at the clocks, or wait", path,
                       shown(when, X509_get0_notBefore(cert)));
    if (X509_cmp_current_time(X509_get0_notAfter(cert)) < 0)
        return sl_fail(err, SL_E_CONFIG, "the certificate file %s expired on %s; renew it", path,
                       shown(when, X509_get0_notAfter(cert)));
    return SL_OK;
}

/* ---- keys ---- */

static int no_password(char *out, int room, int writing, void *user)
{
    (void)out, (void)room, (void)writing, (void)user;
    return -1;
}

static sl_status load_key(EVP_PKEY **key, const char *path, struct sl_err *err)
{
    char *text;
    SL_TRY(sl_tls_file_read(path, "key", &text, err));
    bool encrypted = strstr(text, "ENCRYPTED") != NULL, begun = strstr(text, "PRIVATE KEY-----") != NULL;
    BIO *bio = BIO_new_mem_buf(text, -1);
    *key = bio ? PEM_read_bio_PrivateKey(bio, NULL, no_password, NULL) : NULL;
    BIO_free(bio);
    wipe(text);
    ERR_clear_error();
    if (*key)
        return SL_OK;
    if (encrypted)
        return sl_fail(err, SL_E_CONFIG,
                       "the key file %s has a passphrase, which nobody can type here; store it without",
                       path);
    return sl_fail(err, SL_E_CONFIG, "the key file %s %s", path,
                   begun ? "is cut off or damaged; write it whole" : "has no private key in PEM form");
}

/* ---- both ---- */

void sl_tls_pair_free(struct sl_tls_pair *pair)
{
    X509_free(pair->cert);
    sk_X509_pop_free(pair->chain, X509_free);
    EVP_PKEY_free(pair->key);
    *pair = (struct sl_tls_pair){0};
}

static sl_status check_pair(const struct sl_tls_pair *pair, const char *cert, const char *key,
                            struct sl_err *err)
{
    bool agree = X509_check_private_key(pair->cert, pair->key) == 1;
    ERR_clear_error();
    if (!agree)
        return sl_fail(err, SL_E_CONFIG,
                       "the key file %s is not the key of the certificate file %s; replace both together",
                       key, cert);
    return check_time(pair->cert, cert, err);
}

sl_status sl_tls_pair_load(struct sl_tls_pair *pair, const char *cert, const char *key, struct sl_err *err)
{
    *pair = (struct sl_tls_pair){0};
    SL_TRY(load_certs(&pair->chain, "certificate", cert, CHAIN_MOST, err));
    pair->cert = sk_X509_shift(pair->chain);
    sl_status status = load_key(&pair->key, key, err);
    if (status == SL_OK)
        status = check_pair(pair, cert, key, err);
    if (status != SL_OK)
        sl_tls_pair_free(pair);
    return status;
}

sl_status sl_tls_trust_load(X509_STORE **store, STACK_OF(X509_NAME) * *names, const char *ca,
                            struct sl_err *err)
{
    STACK_OF(X509) * list;
    SL_TRY(load_certs(&list, "CA", ca, CA_MOST, err));
    bool good = (*store = X509_STORE_new()) && (!names || (*names = sk_X509_NAME_new_null()));
    for (int i = 0; good && i < sk_X509_num(list); i++) {
        X509 *cert = sk_X509_value(list, i);
        X509_NAME *name = names ? X509_NAME_dup(X509_get_subject_name(cert)) : NULL;
        good =
            X509_STORE_add_cert(*store, cert) == 1 && (!names || (name && sk_X509_NAME_push(*names, name)));
    }
    sk_X509_pop_free(list, X509_free);
    if (good)
        return SL_OK;
    ERR_clear_error();
    X509_STORE_free(*store);
    if (names)
        sk_X509_NAME_pop_free(*names, X509_NAME_free);
    return sl_fail(err, SL_E_NOMEM, "no memory for the CA file %s", ca);
}

SSL_CTX *sl_tls_context(const SSL_METHOD *method)
{
    SSL_CTX *ctx = SSL_CTX_new(method);
    if (!ctx)
        return NULL;
    SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION);
    SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_NO_TICKET |
                                 SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_IGNORE_UNEXPECTED_EOF);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_num_tickets(ctx, 0);
    SSL_CTX_set_security_level(ctx, 2);
    if (SSL_CTX_set_cipher_list(ctx, CIPHERS) != 1) {
        SSL_CTX_free(ctx);
        return NULL;
    }
    return ctx;
}

sl_status sl_tls_files_check(const struct sl_tls_files *files, struct sl_err *err)
{
    struct sl_tls_pair pair;
    X509_STORE *store;
    if (!files->cert != !files->key)
        return sl_fail(err, SL_E_USAGE, "--tls-cert and --tls-key go together");
    if (files->cert) {
        SL_TRY(sl_tls_pair_load(&pair, files->cert, files->key, err));
        sl_tls_pair_free(&pair);
    }
    if (files->ca) {
        SL_TRY(sl_tls_trust_load(&store, NULL, files->ca, err));
        X509_STORE_free(store);
    }
    return SL_OK;
}
