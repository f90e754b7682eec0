/* TLS at the door: certificates that are watched, handshakes step by step, and who is at the other end. The only files that
 * include OpenSSL's protocol are tls*.c.
 *
 * It ends here and not in gRPC: the door counts frames (frames.h), which must be in plain text, and what it bounds without TLS it
 * bounds with it. The core behind it speaks h2c over a socket pair as ever; the caller is the connection's, and comes to a call
 * by its ticket.
 *
 * TLS 1.2 and 1.3, forward secrecy and authenticated encryption only, ALPN h2. No resumption: each connection proves anew who it
 * is. Files are looked at every second, by what their path says (a Secret's symlinks are followed), and taken together or not at
 * all: half a file, a key of another certificate, one that is not valid now keep what is in use, and are said once. Connections
 * that were proved by what was replaced are told to go when the door gets to know it (sl_tls_era).
 *
 * One at a time after sl_tls_open: the door's lock. */
#ifndef SL_NODE_RPC_TLS_H
#define SL_NODE_RPC_TLS_H

#include "base/status.h"
#include "base/text.h"
#include "node/rpc/caller.h"
#include <sys/types.h>

struct sl_tls_config {                 /* paths of PEM files */
    const char *cert, *key, *ca;       /* ca NULL: clients are not asked for certificates */
    bool require_client;               /* with ca: who has none is shut out */
    const struct sl_role_rules *rules; /* copied; NULL: none */
};

struct sl_tls;
/* SL_E_CONFIG: what is wrong with which file, in a sentence. */
sl_status sl_tls_open(struct sl_tls **tls, const struct sl_tls_config *config, struct sl_err *err);
void sl_tls_close(struct sl_tls *tls);         /* NULL is fine */
void sl_tls_look(struct sl_tls *tls);          /* whether files have changed; now and then */
uint32_t sl_tls_era(const struct sl_tls *tls); /* one more with each replacement that was taken */
void sl_tls_metrics(const struct sl_tls *tls, struct sl_text *text);

struct sl_tls_session;
struct sl_tls_session *sl_tls_begin(struct sl_tls *tls, int fd); /* fd stays the caller's; NULL: no memory */
enum sl_tls_step { SL_TLS_DONE, SL_TLS_READS, SL_TLS_WRITES, SL_TLS_FAILED };
enum sl_tls_step sl_tls_shake(struct sl_tls_session *session);
/* After FAILED: why, for people; good until the next call. */
const char *sl_tls_why(struct sl_tls_session *session);
/* After DONE: who it is, until when that holds (seconds from now; -1: it showed no certificate), and by what it was proved. */
void sl_tls_who(struct sl_tls_session *session, struct sl_caller *caller, int64_t *left_s, uint32_t *era);
/* Like recv and send on a non-blocking socket: -1 and EAGAIN, 0 at the end. What arrives besides data is bounded. */
ssize_t sl_tls_read(struct sl_tls_session *session, void *into, size_t room);
ssize_t sl_tls_write(struct sl_tls_session *session, const void *from, size_t bytes);
bool sl_tls_pending(const struct sl_tls_session *session); /* bytes that epoll does not know of */
void sl_tls_bye(struct sl_tls_session *session);           /* nothing more will be said */
void sl_tls_end(struct sl_tls_session *session);           /* NULL is fine */

/* ---- for clients ---- */

struct sl_tls_files { /* paths of PEM files; NULL: the system's roots, no certificate, the host's own name */
    const char *ca, *cert, *key, *name;
};
/* Whether they can be used now. SL_E_CONFIG: a sentence. */
sl_status sl_tls_files_check(const struct sl_tls_files *files, struct sl_err *err);
/* The bytes of a PEM file, NUL-terminated, malloc'ed. SL_E_CONFIG. */
sl_status sl_tls_file_read(const char *path, const char *what, char **text, struct sl_err *err);
/* A call to HOST:PORT has failed for want of a connection: tries a handshake by itself, for timeout_ms at most, and says in one
 * sentence what is wrong with it. SL_OK: nothing is, or it can't be told. */
sl_status sl_tls_explain(const char *endpoint, const struct sl_tls_files *files, uint32_t timeout_ms,
                         struct sl_err *err);

#endif
