/* Certificates as files that change under us, handshakes, and who is at the other end. Certificates are made here, in a folder of
 * the test's; the client is OpenSSL's, over a socket pair. */
#include "tests/check.h"

#include "node/rpc/tls.h"
#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { DAY = 86400 };

struct party {
    X509 *cert;
    EVP_PKEY *key;
};

static char folder[] = "/tmp/sluice-tls-XXXXXX";

static const char *path(const char *name)
{
    static char paths[8][96];
    static int next;
    char *out = paths[next++ % 8];
    snprintf(out, sizeof paths[0], "%s/%s", folder, name);
    return out;
}

static void write_file(const char *name, const char *text, size_t n)
{
    FILE *file = fopen(path(name), "wb");
    if (!file || fwrite(text, 1, n, file) != n)
        sl_test_fail(__FILE__, __LINE__, "%s cannot be written", name);
    if (file)
        fclose(file);
}

static void add_extension(X509 *cert, X509 *issuer, int what, const char *value)
{
    X509V3_CTX context;
    X509V3_set_ctx(&context, issuer, cert, NULL, NULL, 0);
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &context, what, value);
    X509_add_ext(cert, extension, -1);
    X509_EXTENSION_free(extension);
}

/* issuer NULL: by itself, a CA. Valid from..to, in seconds from now. */
static struct party make(const struct party *issuer, const char *names, long from, long to)
{
    static long serial;
    struct party p = {X509_new(), EVP_EC_gen("P-256")};
    X509_set_version(p.cert, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(p.cert), ++serial);
    X509_gmtime_adj(X509_getm_notBefore(p.cert), from);
    X509_gmtime_adj(X509_getm_notAfter(p.cert), to);
    X509_set_pubkey(p.cert, p.key);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(p.cert), "CN", MBSTRING_ASC,
                               (const unsigned char *)(issuer ? "leaf" : "ca"), -1, -1, 0);
    X509_set_issuer_name(p.cert, X509_get_subject_name(issuer ? issuer->cert : p.cert));
    add_extension(p.cert, issuer ? issuer->cert : p.cert, NID_basic_constraints,
                  issuer ? "critical,CA:FALSE" : "critical,CA:TRUE");
    if (names)
        add_extension(p.cert, issuer->cert, NID_subject_alt_name, names);
    X509_sign(p.cert, issuer ? issuer->key : p.key, EVP_sha256());
    return p;
}

static void party_free(struct party *p)
{
    X509_free(p->cert);
    EVP_PKEY_free(p->key);
}

static void write_bio(const char *name, BIO *bio)
{
    char *text;
    long n = BIO_get_mem_data(bio, &text);
    write_file(name, text, (size_t)n);
    BIO_free(bio);
}

static void write_cert(const char *name, const struct party *p)
{
    BIO *bio = BIO_new(BIO_s_mem());
    PEM_write_bio_X509(bio, p->cert);
    write_bio(name, bio);
}

static void write_key(const char *name, const struct party *p)
{
    BIO *bio = BIO_new(BIO_s_mem());
    PEM_write_bio_PrivateKey(bio, p->key, NULL, NULL, 0, NULL, NULL);
    write_bio(name, bio);
}

/* ---- a world: a CA, another, a server, clients ---- */

struct tls_world {
    struct party ca, other_ca, server;
    struct sl_tls *tls;
};

static struct sl_tls_config config_of(bool require)
{
    static char cert[96], key[96], ca[96];
    snprintf(cert, sizeof cert, "%s/server.crt", folder);
    snprintf(key, sizeof key, "%s/server.key", folder);
    snprintf(ca, sizeof ca, "%s/ca.crt", folder);
    return (struct sl_tls_config){cert, key, ca, require, NULL};
}

static void write_server(const struct tls_world *w)
{
    write_cert("server.crt", &w->server);
    write_key("server.key", &w->server);
}

static bool world_open(struct tls_world *w, bool require)
{
    struct sl_err err = {0};
    signal(SIGPIPE, SIG_IGN);
    strcpy(folder + strlen(folder) - 6, "XXXXXX");
    if (!mkdtemp(folder)) {
        sl_test_fail(__FILE__, __LINE__, "no folder");
        return false;
    }
    w->ca = make(NULL, NULL, -DAY, DAY);
    w->other_ca = make(NULL, NULL, -DAY, DAY);
    w->server = make(&w->ca, "DNS:localhost", -DAY, DAY);
    write_cert("ca.crt", &w->ca);
    write_server(w);
    struct sl_tls_config config = config_of(require);
    if (sl_tls_open(&w->tls, &config, &err) != SL_OK)
        sl_test_fail(__FILE__, __LINE__, "%s", err.text);
    return w->tls != NULL;
}

static void world_close(struct tls_world *w)
{
    char command[128];
    sl_tls_close(w->tls);
    party_free(&w->ca);
    party_free(&w->other_ca);
    party_free(&w->server);
    snprintf(command, sizeof command, "rm -r %s", folder);
    CHECK_INT(system(command), 0);
    ERR_clear_error();
}

/* ---- handshakes ---- */

struct peer {
    int fds[2];
    SSL_CTX *ctx;
    SSL *ssl;
    struct sl_tls_session *session;
    enum sl_tls_step step;
    int client_error;
};

static void peer_open(struct peer *p, struct tls_world *w, const struct party *who, int version,
                      const char *alpn)
{
    memset(p, 0, sizeof *p);
    CHECK_INT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, p->fds), 0);
    p->ctx = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_security_level(p->ctx, 0);
    SSL_CTX_set_min_proto_version(p->ctx, version);
    SSL_CTX_set_max_proto_version(p->ctx, version);
    if (who) {
        SSL_CTX_use_certificate(p->ctx, who->cert);
        SSL_CTX_use_PrivateKey(p->ctx, who->key);
    }
    p->ssl = SSL_new(p->ctx);
    if (alpn)
        SSL_set_alpn_protos(p->ssl, (const unsigned char *)alpn, (unsigned)strlen(alpn));
    SSL_set_fd(p->ssl, p->fds[0]);
    SSL_set_connect_state(p->ssl);
    p->session = sl_tls_begin(w->tls, p->fds[1]);
}

static void peer_shake(struct peer *p)
{
    bool done = false;
    for (int i = 0; i < 100 && (p->step = sl_tls_shake(p->session)) != SL_TLS_FAILED &&
                    !(p->step == SL_TLS_DONE && done);
         i++) {
        ERR_clear_error();
        int n = SSL_do_handshake(p->ssl);
        done = n == 1;
        p->client_error = SSL_get_error(p->ssl, n);
        if (p->client_error == SSL_ERROR_SSL)
            break;
        if (p->step == SL_TLS_DONE)
            break;
    }
    if (p->step != SL_TLS_DONE && p->step != SL_TLS_FAILED) /* the client has given up */
        p->step = sl_tls_shake(p->session);
}

static void peer_close(struct peer *p)
{
    sl_tls_end(p->session);
    SSL_free(p->ssl);
    SSL_CTX_free(p->ctx);
    close(p->fds[0]);
    close(p->fds[1]);
    ERR_clear_error();
}

/* What the server makes of a client: its role, or why not. */
static enum sl_caller_role role_of(struct tls_world *w, const struct party *who, const char **why)
{
    static char kept[160];
    struct peer p;
    struct sl_caller caller = {SL_CALLER_ROLES, "", NULL};
    int64_t left_s;
    uint32_t era;
    peer_open(&p, w, who, TLS1_3_VERSION, "\2h2");
    peer_shake(&p);
    if (p.step == SL_TLS_DONE) {
        sl_tls_who(p.session, &caller, &left_s, &era);
        CHECK_INT(era, sl_tls_era(w->tls));
        CHECK(who ? left_s > 0 : left_s == -1);
    }
    snprintf(kept, sizeof kept, "%s", p.step == SL_TLS_FAILED ? sl_tls_why(p.session) : "");
    *why = kept;
    peer_close(&p);
    return caller.role;
}

SL_TEST(a_certificate_of_our_ca_has_the_role_that_it_says_and_no_other_comes_in)
{
    struct tls_world w = {0};
    const char *why;
    if (!world_open(&w, true))
        return;
    static const char *const uris[] = {"client", "gateway", "node", "admin"};
    for (int i = 0; i < 4; i++) {
        char names[80];
        snprintf(names, sizeof names, "URI:spiffe://test/x/role/%s,DNS:x", uris[i]);
        struct party good = make(&w.ca, names, -DAY, DAY), stolen = make(&w.other_ca, names, -DAY, DAY),
                     old = make(&w.ca, names, -2 * DAY, -DAY), young = make(&w.ca, names, DAY, 2 * DAY);
        CHECK_INT(role_of(&w, &good, &why), SL_CALLER_CLIENT + i);
        CHECK_INT(role_of(&w, &stolen, &why), SL_CALLER_ROLES);
        CHECK(strstr(why, "its certificate is not taken") != NULL);
        CHECK_INT(role_of(&w, &old, &why), SL_CALLER_ROLES);
        CHECK(strstr(why, "expired") != NULL);
        CHECK_INT(role_of(&w, &young, &why), SL_CALLER_ROLES);
        CHECK(strstr(why, "not yet valid") != NULL);
        party_free(&good);
        party_free(&stolen);
        party_free(&old);
        party_free(&young);
    }
    CHECK_INT(role_of(&w, &w.server, &why), SL_CALLER_STRANGER); /* it has no role */
    CHECK_INT(role_of(&w, NULL, &why), SL_CALLER_ROLES);
    CHECK_STR(why, "it has no certificate, and one is required");
    world_close(&w);
}

SL_TEST(without_being_required_a_certificate_may_be_left_out_but_not_be_bad)
{
    struct tls_world w = {0};
    const char *why;
    if (!world_open(&w, false))
        return;
    struct party stolen = make(&w.other_ca, "URI:spiffe://test/x/role/admin", -DAY, DAY);
    CHECK_INT(role_of(&w, NULL, &why), SL_CALLER_CLIENT);
    CHECK_INT(role_of(&w, &stolen, &why), SL_CALLER_ROLES);
    party_free(&stolen);
    world_close(&w);
}

SL_TEST(old_versions_weak_ciphers_and_other_protocols_are_refused)
{
    struct tls_world w = {0};
    struct peer p;
    if (!world_open(&w, false))
        return;
    static const struct {
        int version;
        const char *alpn, *ciphers;
        bool good;
    } cases[] = {
        {TLS1_2_VERSION, "\2h2", NULL, true},
        {TLS1_2_VERSION, "\2h2", "ECDHE-ECDSA-AES128-GCM-SHA256", true},
        {TLS1_3_VERSION, "\10grpc-exp\2h2", NULL, true},
        {TLS1_1_VERSION, "\2h2", NULL, false},
        {TLS1_VERSION, "\2h2", NULL, false},
        {TLS1_2_VERSION, "\2h2", "ECDHE-ECDSA-AES128-SHA", false},
        {TLS1_2_VERSION, "\2h2", "AES128-GCM-SHA256", false},
        {TLS1_3_VERSION, "\10http/1.1", NULL, false},
        {TLS1_3_VERSION, NULL, NULL, false},
        {TLS1_2_VERSION, NULL, NULL, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        peer_open(&p, &w, NULL, cases[i].version, cases[i].alpn);
        if (cases[i].ciphers)
            SSL_set_cipher_list(p.ssl, cases[i].ciphers);
        peer_shake(&p);
        if ((p.step == SL_TLS_DONE) != cases[i].good)
            sl_test_fail(__FILE__, __LINE__, "case %zu: %s", i,
                         p.step == SL_TLS_DONE ? "taken" : sl_tls_why(p.session));
        peer_close(&p);
    }
    world_close(&w);
}

SL_TEST(bytes_go_both_ways_and_the_end_is_an_end)
{
    struct tls_world w = {0};
    struct peer p;
    char text[8] = "";
    if (!world_open(&w, false))
        return;
    peer_open(&p, &w, NULL, TLS1_3_VERSION, "\2h2");
    peer_shake(&p);
    CHECK_INT(p.step, SL_TLS_DONE);
    CHECK_INT(sl_tls_read(p.session, text, 8), -1);
    CHECK_INT(errno, EAGAIN);
    CHECK_INT(SSL_write(p.ssl, "abcdef", 6), 6);
    CHECK_INT(sl_tls_read(p.session, text, 4), 4);
    CHECK(sl_tls_pending(p.session)); /* of which epoll would say nothing */
    CHECK_INT(sl_tls_read(p.session, text + 4, 4), 2);
    CHECK(strcmp(text, "abcdef") == 0 && !sl_tls_pending(p.session));
    CHECK_INT(sl_tls_write(p.session, "xyz", 3), 3);
    CHECK_INT(SSL_read(p.ssl, text, 8), 3);
    SSL_shutdown(p.ssl);
    CHECK_INT(sl_tls_read(p.session, text, 8), 0);
    shutdown(p.fds[0], SHUT_RD);
    CHECK_INT(sl_tls_write(p.session, "x", 1), -1); /* an end would be tried again for ever */
    CHECK(errno == EPIPE || errno == ECONNRESET);
    peer_close(&p);
    world_close(&w);
}

SL_TEST(a_flood_of_new_keys_is_the_end_of_a_connection)
{
    struct tls_world w = {0};
    struct peer p;
    char byte;
    if (!world_open(&w, false))
        return;
    peer_open(&p, &w, NULL, TLS1_3_VERSION, "\2h2");
    peer_shake(&p);
    uint32_t n = 0;
    ssize_t got = -1;
    errno = EAGAIN;
    for (; n < 1000 && got == -1 && errno == EAGAIN; n++) {
        SSL_key_update(p.ssl, SSL_KEY_UPDATE_NOT_REQUESTED);
        SSL_do_handshake(p.ssl);
        got = sl_tls_read(p.session, &byte, 1);
    }
    CHECK(n > 32 && n < 200);
    CHECK_INT(errno, ECONNRESET);
    peer_close(&p);
    world_close(&w);
}

/* ---- files ---- */

static void expect(const struct sl_tls_config *config, const char *said)
{
    struct sl_tls *tls = NULL;
    struct sl_err err = {0};
    sl_status status = sl_tls_open(&tls, config, &err);
    if (status != SL_E_CONFIG || !strstr(err.text, said))
        sl_test_fail(__FILE__, __LINE__, "wanted \"%s\", got \"%s\"", said, status == SL_OK ? "" : err.text);
    sl_tls_close(tls);
}

SL_TEST(each_way_in_which_files_are_wrong_has_its_sentence)
{
    struct tls_world w = {0};
    if (!world_open(&w, true))
        return;
    struct sl_tls_config config = config_of(true);
    struct party old = make(&w.ca, "DNS:localhost", -2 * DAY, -DAY),
                 young = make(&w.ca, "DNS:localhost", DAY, 2 * DAY),
                 other = make(&w.ca, "DNS:localhost", -DAY, DAY);
    char text[4096];
    FILE *file = fopen(config.cert, "rb");
    size_t n = fread(text, 1, sizeof text, file);
    fclose(file);

    write_file("server.crt", text, n / 2);
    expect(&config, "server.crt is cut off or damaged; write it whole");
    write_file("server.crt", "", 0);
    expect(&config, "server.crt is empty");
    write_file("server.crt", "hello\n", 6);
    expect(&config, "server.crt has no certificate in PEM form");
    unlink(config.cert);
    expect(&config, "server.crt cannot be read: No such file or directory");
    write_cert("server.crt", &other);
    expect(&config, "is not the key of the certificate file");
    write_cert("server.crt", &old), write_key("server.key", &old);
    expect(&config, "server.crt expired on");
    write_cert("server.crt", &young), write_key("server.key", &young);
    expect(&config, "server.crt is not valid before");
    write_server(&w);
    write_file("server.key", "-----BEGIN PRIVATE KEY-----\nMIGH", 32);
    expect(&config, "server.key is cut off or damaged");
    write_file("server.key", "hello", 5);
    expect(&config, "server.key has no private key in PEM form");
    write_file("server.key", "-----BEGIN ENCRYPTED PRIVATE KEY-----\n", 38);
    expect(&config, "server.key has a passphrase");
    write_server(&w);
    write_file("ca.crt", "hello", 5);
    expect(&config, "the CA file");
    write_cert("ca.crt", &w.ca);
    party_free(&old);
    party_free(&young);
    party_free(&other);
    world_close(&w);
}

/* The names of the certificate that a newcomer is shown. */
static bool shows(struct tls_world *w, const struct party *server)
{
    struct peer p;
    peer_open(&p, w, NULL, TLS1_3_VERSION, "\2h2");
    peer_shake(&p);
    X509 *shown = SSL_get0_peer_certificate(p.ssl);
    bool same = p.step == SL_TLS_DONE && shown && X509_cmp(shown, server->cert) == 0;
    peer_close(&p);
    return same;
}

SL_TEST(half_a_replacement_keeps_what_is_in_use_and_the_whole_takes_its_place)
{
    struct tls_world w = {0};
    if (!world_open(&w, false))
        return;
    struct party next = make(&w.ca, "DNS:localhost", -DAY, DAY),
                 old = make(&w.ca, "DNS:localhost", -2 * DAY, -DAY);
    sl_tls_look(w.tls);
    CHECK_INT(sl_tls_era(w.tls), 0);
    write_cert("server.crt", &next); /* its key comes later */
    for (int i = 0; i < 3; i++)
        sl_tls_look(w.tls);
    CHECK_INT(sl_tls_era(w.tls), 0);
    CHECK(shows(&w, &w.server));
    write_file("server.key", "-----BEGIN PRIVATE KEY-----\n", 28);
    sl_tls_look(w.tls);
    unlink(path("server.key"));
    sl_tls_look(w.tls);
    CHECK_INT(sl_tls_era(w.tls), 0);
    CHECK(shows(&w, &w.server));
    write_key("server.key", &next);
    sl_tls_look(w.tls);
    CHECK_INT(sl_tls_era(w.tls), 1);
    CHECK(shows(&w, &next));
    write_cert("server.crt", &old), write_key("server.key", &old);
    sl_tls_look(w.tls);
    CHECK_INT(sl_tls_era(w.tls), 1);
    CHECK(shows(&w, &next));
    struct sl_text text = {0};
    sl_tls_metrics(w.tls, &text);
    CHECK(strstr(text.data, "sluice_tls_replacements_total{result=\"taken\"} 1\n") != NULL);
    CHECK(strstr(text.data, "sluice_tls_replacements_total{result=\"refused\"} 4\n") !=
          NULL); /* each said once */
    free(text.data);
    party_free(&next);
    party_free(&old);
    world_close(&w);
}

SL_TEST(a_secrets_symlinks_are_followed_when_they_are_swapped)
{
    struct tls_world w = {0};
    struct sl_err err = {0};
    if (!world_open(&w, false))
        return;
    struct party next = make(&w.ca, "DNS:localhost", -DAY, DAY);
    char command[400];
    snprintf(
        command, sizeof command,
        "cd %s && mkdir v1 v2 && mv server.crt server.key v1 && ln -s v1 ..data && ln -s ..data/server.crt "
        "server.crt && ln -s ..data/server.key server.key",
        folder);
    CHECK_INT(system(command), 0);
    struct sl_tls_config config = config_of(false);
    sl_tls_close(w.tls);
    CHECK_INT(sl_tls_open(&w.tls, &config, &err), SL_OK);
    CHECK(shows(&w, &w.server));
    write_cert("v2/server.crt", &next), write_key("v2/server.key", &next);
    sl_tls_look(w.tls);
    CHECK_INT(sl_tls_era(w.tls), 0);
    snprintf(command, sizeof command, "cd %s && ln -s v2 ..new && mv -T ..new ..data", folder);
    CHECK_INT(system(command), 0);
    sl_tls_look(w.tls);
    CHECK_INT(sl_tls_era(w.tls), 1);
    CHECK(shows(&w, &next));
    party_free(&next);
    world_close(&w);
}

SL_TEST(a_session_that_began_before_a_replacement_goes_on_and_is_known_as_such)
{
    struct tls_world w = {0};
    struct peer p;
    struct sl_caller caller;
    int64_t left_s;
    uint32_t era;
    char byte;
    if (!world_open(&w, true))
        return;
    struct party next = make(&w.ca, "DNS:localhost", -DAY, DAY),
                 client = make(&w.ca, "URI:spiffe://test/role/client", -DAY, 3600);
    peer_open(&p, &w, &client, TLS1_3_VERSION, "\2h2");
    peer_shake(&p);
    CHECK_INT(p.step, SL_TLS_DONE);
    write_cert("server.crt", &next), write_key("server.key", &next);
    sl_tls_look(w.tls);
    sl_tls_who(p.session, &caller, &left_s, &era);
    CHECK(era == 0 && sl_tls_era(w.tls) == 1);
    CHECK(left_s > 3000 && left_s <= 3600);
    CHECK_INT(SSL_write(p.ssl, "x", 1), 1);
    CHECK_INT(sl_tls_read(p.session, &byte, 1), 1);
    peer_close(&p);
    party_free(&next);
    party_free(&client);
    world_close(&w);
}
