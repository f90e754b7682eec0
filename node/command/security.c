/* What security.h promises: options become configurations or a sentence, and listeners become lines of the log. */
#include "node/command/security.h"
#include "base/log.h"
#include "node/rpc/listen.h"
#include "node/rpc/rpc.h"
#include <sys/resource.h>

sl_status sl_client_tls_use(const struct sl_client_tls *tls, struct sl_err *err)
{
    const struct sl_tls_files *files = &tls->files;
    if (!tls->on && !files->ca && !files->cert && !files->key && !files->name)
        return SL_OK;
    SL_TRY(sl_tls_files_check(files, err));
    sl_rpc_use_tls(files);
    return SL_OK;
}

sl_status sl_serving_tls_read(struct sl_serving_tls *tls, const struct sl_server_tls *options,
                              struct sl_err *err)
{
    const struct sl_tls_files *files = &options->files;
    *tls = (struct sl_serving_tls){.on = files->cert != NULL};
    if (!tls->on && (files->key || files->ca || options->require_client || options->role))
        return sl_fail(
            err, SL_E_USAGE,
            "--tls-key, --tls-ca, --tls-require-client and --tls-role want --tls-cert, or there is "
            "no TLS");
    if (!files->ca && (options->require_client || options->role))
        return sl_fail(err, SL_E_USAGE,
                       "--tls-require-client and --tls-role want --tls-ca, by which clients are known");
    if (options->trust_headers && options->require_client)
        return sl_fail(
            err, SL_E_USAGE,
            "--trust-headers does not go with --tls-require-client, where a certificate says who is "
            "a gateway");
    SL_TRY(sl_role_rules_read(&tls->rules, options->role, "--tls-role", err));
    SL_TRY(sl_tls_files_check(files, err));
    tls->config = (struct sl_tls_config){.cert = files->cert,
                                         .key = files->key,
                                         .ca = files->ca,
                                         .require_client = options->require_client,
                                         .rules = &tls->rules};
    return SL_OK;
}

sl_status sl_check_open(const struct sl_join_key *key, bool certified, bool insecure, bool local,
                        const char *option, const char *address, struct sl_err *err)
{
    if (!key->open || certified || insecure || local)
        return SL_OK;
    return sl_fail(
        err, SL_E_USAGE,
        "--%s %s is reachable from the network, and whoever reaches it could take a stage's place: give all "
        "nodes one --join-key-file, or certificates (--tls-cert, --tls-key, --tls-ca), or say "
        "--insecure-network",
        option, address);
}

/* ---- what the network is told ---- */

static const char *who_calls(const struct sl_banner *b)
{
    if (b->tls->on && b->tls->config.require_client)
        return "TLS, a certificate is required and says what its holder may call";
    if (b->tls->on && b->tls->config.ca)
        return "TLS, a certificate says what its holder may call, who has none is a client";
    if (b->tls->on)
        return b->keyed ? "TLS, and nobody is asked who he is: who reaches it may call all, but join only "
                          "with the join key; --tls-ca asks"
                        : "TLS, and nobody is asked who he is: who reaches it may call all, and join; "
                          "--tls-ca asks";
    return b->keyed ? "in the clear, and nobody is asked who he is: who reaches it may call all, but join "
                      "only with the join key"
                    : "in the clear, and nobody is asked who he is: who reaches it may call all, and join";
}

static const char *how_far(const char *address)
{
    return sl_listen_is_local(address) ? "this machine only" : "reachable from the network";
}

void sl_banner_log(const struct sl_banner *b)
{
    sl_log_info("gRPC on %s: %s; %s", b->listen, how_far(b->listen), who_calls(b));
    if (!b->tls->config.ca)
        sl_log_info("x-tenant-id, x-cache-salt and x-priority of whoever calls are %s",
                    b->trusting ? "believed" : "refused; --trust-headers believes them");
    if (b->socket)
        sl_log_info("gRPC on the socket %s: nodes of this machine and this user alone, with the join key",
                    b->socket);
    if (b->ops)
        sl_log_info(
            "ops HTTP on %s: %s; in the clear, metrics and probes for who reaches it, /debug for this "
            "machine alone",
            b->ops, how_far(b->ops));
    sl_log_info(
        "data port %s:%u (UCX; heard by %s; neither encrypted nor signed: keep it on a private network)",
        b->data_host, b->data_port, b->data_shielded ? "the hosts of its neighbours" : "whoever reaches it");
}

void sl_no_cores(void)
{
    /* 1 and not 0: for Linux the only limit that also keeps a core from a program that core_pattern names. */
    struct rlimit none = {1, 1};
    if (setrlimit(RLIMIT_CORE, &none) != 0) {
        none.rlim_cur = none.rlim_max = 0; /* the hard limit is that already */
        setrlimit(RLIMIT_CORE, &none);
    }
}
