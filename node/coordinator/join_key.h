/* Who may be a member of a pipeline: proofs of a secret that all its nodes share and that never travels.
 *
 *   member       Hello(nonce)                     ->  coordinator
 *                ticket, welcome = HMAC(key; "coordinator", nonce, ticket)
 *   both         session = HMAC(key; "member", nonce, ticket)
 *   member       Join(node, nonce, ticket, HMAC(session; "join", node))
 *                Plan(epoch, salt, ...)           both: links = HMAC(key; "links", epoch, salt), link i = HMAC(links; i)
 *   both         own = HMAC(key; "same member", node.member)
 *   member       Ready, Leave, Silence(HMAC(own; "ready", ..., epoch, number))
 *
 * node.member is 16 random bytes that a process draws once and says in every Join, so that it, and nobody else, can take up its
 * place again when the stream broke: its proof needs the key, a ticket that was never used, and these bytes. What it sends
 * besides is proven by `own`, which no break changes.
 *
 * A ticket is the coordinator's: random bytes, the time, and a MAC of its own, so that strangers who ask for tickets cost it no
 * memory. It is good for SL_TICKET_LIFE_MS, and once. What it keeps out: whoever does not know the key. What it does not: one
 * who reads or changes what travels (that is for TLS), and one who reaches the data ports (transport_ucx.c).
 *
 * Without a key (`open`) all of it runs with a key that everybody knows: mistakes are found, strangers are not. Even then only
 * who has read node.member on its way can take up the place of a member. */
#ifndef SL_NODE_COORDINATOR_JOIN_KEY_H
#define SL_NODE_COORDINATOR_JOIN_KEY_H

#include "base/status.h"
#include <stdint.h>

enum {
    SL_JOIN_NONCE = 16,
    SL_JOIN_PROOF = 32,
    SL_JOIN_TICKET = 16 + 8 + 32, /* random bytes, ms, MAC */
    SL_TICKET_LIFE_MS = 30000,
    SL_TICKETS_USED =
        1024, /* remembered; more joins than that in a ticket's life make the oldest usable again */
    SL_KEY_BYTES_MIN = 16,
    SL_KEY_BYTES_MAX = 4096
};

struct sl_join_key {
    uint8_t bytes[32];
    bool open; /* no key was given */
};

/* The key is the file's content without blanks at its end, SL_KEY_BYTES_MIN to SL_KEY_BYTES_MAX bytes. path NULL: open. A path of
 * /dev/fd is closed when it was read. SL_E_CONFIG names the path and the remedy. */
sl_status sl_join_key_load(struct sl_join_key *key, const char *path, struct sl_err *err);
/* A new secret in memory that only those who inherit the descriptor can read; *path is what to give to their
 * --join-key-file, "/dev/fd/7". The descriptor is the caller's and stays open over exec. SL_E_IO. */
sl_status sl_join_key_make(int *fd, char path[32], struct sl_err *err);

/* ---- the coordinator's side: one thread at a time ---- */

struct sl_ticket_office {
    uint8_t secret[32];
    struct {
        uint8_t random[16];
        uint64_t until_ms;
    } used[SL_TICKETS_USED];
    uint32_t n_used;
};

sl_status sl_ticket_office_init(struct sl_ticket_office *office);
sl_status sl_ticket_make(const struct sl_ticket_office *office, uint64_t now_ms,
                         uint8_t ticket[SL_JOIN_TICKET]);
/* NULL, or what is wrong with it (static). One that is good is used up. */
const char *sl_ticket_use(struct sl_ticket_office *office, uint64_t now_ms, const uint8_t *ticket,
                          size_t bytes);

/* ---- both sides; any thread ---- */

void sl_join_welcome(const struct sl_join_key *key, const uint8_t nonce[SL_JOIN_NONCE],
                     const uint8_t ticket[SL_JOIN_TICKET], uint8_t proof[SL_JOIN_PROOF]);
void sl_join_session(const struct sl_join_key *key, const uint8_t nonce[SL_JOIN_NONCE],
                     const uint8_t ticket[SL_JOIN_TICKET], uint8_t session[32]);
/* What a member proves its messages with, whichever of its streams stands. */
void sl_join_own_key(const struct sl_join_key *key, const uint8_t member[SL_JOIN_NONCE], uint8_t own[32]);
/* What a proof of Ready, Leave (number 0) and Silence is about. */
enum { SL_JOIN_ABOUT = 16 };
void sl_join_about(uint64_t epoch, uint64_t number, uint8_t about[SL_JOIN_ABOUT]);
/* Of a message of one kind: "join" by a session, "ready", "leave", "silent" and "heard" by a member's own key. */
void sl_join_proof(const uint8_t by[32], const char *kind, const void *message, size_t bytes,
                   uint8_t proof[SL_JOIN_PROOF]);
bool sl_join_proved(const uint8_t by[32], const char *kind, const void *message, size_t bytes,
                    const uint8_t *proof, size_t proof_bytes);
/* The secret of all links of an epoch; the key of one is its HMAC of the link's id (links.c). */
void sl_join_link_secret(const struct sl_join_key *key, uint64_t epoch, const uint8_t salt[SL_JOIN_NONCE],
                         uint8_t secret[32]);

#endif
