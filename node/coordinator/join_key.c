/* Proofs of membership (join_key.h). Every MAC begins with a label of its own and has fixed lengths before what varies, so that
 * none can be taken for another. */
#include "node/coordinator/join_key.h"
#include "base/bytes.h"
#include "base/digest.h"
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { LABEL = 16 };

/* HMAC(key; label padded to 16, a, b) */
static void mac(const uint8_t key[32], const char *label, const void *a, size_t n_a, const void *b,
                size_t n_b, uint8_t out[32])
{
    uint8_t text[LABEL + 64 + SL_JOIN_TICKET] = {0};
    assert(strlen(label) < LABEL && LABEL + n_a + n_b <= sizeof text);
    memcpy(text, label, strlen(label));
    memcpy(text + LABEL, a, n_a);
    if (n_b > 0)
        memcpy(text + LABEL + n_a, b, n_b);
    sl_hmac_sha256(key, text, LABEL + n_a + n_b, out);
}

/* ---- keys ---- */

static ssize_t read_all(int fd, uint8_t *out, size_t room)
{
    size_t n = 0;
    while (n < room) {
        ssize_t got = read(fd, out + n, room - n);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -1;
        if (got == 0)
            break;
        n += (size_t)got;
    }
    return (ssize_t)n;
}

static bool is_blank(uint8_t c)
{
    return c == '\n' || c == '\r' || c == ' ' || c == '\t';
}

sl_status sl_join_key_load(struct sl_join_key *key, const char *path, struct sl_err *err)
{
    static const uint8_t nobodys[32] = {0};
    uint8_t text[SL_KEY_BYTES_MAX + 1];
    *key = (struct sl_join_key){.open = !path};
    if (!path)
        return SL_OK;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    ssize_t n = fd < 0 ? -1 : read_all(fd, text, sizeof text);
    int error = errno;
    if (fd >= 0)
        close(fd);
    if (n < 0)
        return sl_fail(err, SL_E_CONFIG, "the join key file %s cannot be read: %s", path, strerror(error));
    int inherited;
    if (sscanf(path, "/dev/fd/%d", &inherited) == 1)
        close(inherited);
    while (n > 0 && n <= SL_KEY_BYTES_MAX && is_blank(text[n - 1]))
        n--;
    if (n < SL_KEY_BYTES_MIN || n > SL_KEY_BYTES_MAX)
        return sl_fail(
            err, SL_E_CONFIG,
            "the join key file %s must hold %d to %d bytes; make one with: head -c 32 /dev/urandom | base64",
            path, SL_KEY_BYTES_MIN, SL_KEY_BYTES_MAX);
    sl_hmac_sha256(nobodys, text, (size_t)n, key->bytes);
    explicit_bzero(text, sizeof text);
    return SL_OK;
}

sl_status sl_join_key_make(int *fd, char path[32], struct sl_err *err)
{
    uint8_t secret[32];
    char text[2 * sizeof secret];
    *fd = memfd_create("sluice-join-key", 0);
    if (*fd < 0 || sl_random_bytes(secret, sizeof secret) != SL_OK)
        return sl_fail(err, SL_E_IO, "a join key cannot be made: %s", strerror(errno));
    for (size_t i = 0; i < sizeof secret; i++) {
        text[2 * i] = "0123456789abcdef"[secret[i] >> 4];
        text[2 * i + 1] = "0123456789abcdef"[secret[i] & 15];
    }
    if (write(*fd, text, sizeof text) != (ssize_t)sizeof text)
        return sl_fail(err, SL_E_IO, "a join key cannot be kept: %s", strerror(errno));
    snprintf(path, 32, "/dev/fd/%d", *fd);
    explicit_bzero(secret, sizeof secret);
    explicit_bzero(text, sizeof text);
    return SL_OK;
}

/* ---- tickets ---- */

sl_status sl_ticket_office_init(struct sl_ticket_office *office)
{
    *office = (struct sl_ticket_office){0};
    return sl_random_bytes(office->secret, sizeof office->secret);
}

enum { TICKET_TIME = 16, TICKET_MAC = 24 };

sl_status sl_ticket_make(const struct sl_ticket_office *office, uint64_t now_ms,
                         uint8_t ticket[SL_JOIN_TICKET])
{
    SL_TRY(sl_random_bytes(ticket, TICKET_TIME));
    sl_put64(ticket + TICKET_TIME, now_ms);
    mac(office->secret, "ticket", ticket, TICKET_MAC, NULL, 0, ticket + TICKET_MAC);
    return SL_OK;
}

const char *sl_ticket_use(struct sl_ticket_office *office, uint64_t now_ms, const uint8_t *ticket,
                          size_t bytes)
{
    uint8_t expected[32];
    if (bytes != SL_JOIN_TICKET)
        return "the ticket is malformed";
    mac(office->secret, "ticket", ticket, TICKET_MAC, NULL, 0, expected);
    if (!sl_equal_constant_time(expected, ticket + TICKET_MAC, sizeof expected))
        return "the ticket is not one of this coordinator";
    uint64_t made_ms = sl_get64(ticket + TICKET_TIME); /* its own clock: never ahead */
    if (now_ms - made_ms > SL_TICKET_LIFE_MS)
        return "the ticket is too old";
    for (uint32_t i = 0; i < office->n_used && i < SL_TICKETS_USED; i++)
        if (now_ms < office->used[i].until_ms && memcmp(office->used[i].random, ticket, TICKET_TIME) == 0)
            return "the ticket was used before";
    uint32_t place = office->n_used++ % SL_TICKETS_USED;
    memcpy(office->used[place].random, ticket, TICKET_TIME);
    office->used[place].until_ms = made_ms + SL_TICKET_LIFE_MS + 1;
    return NULL;
}

/* ---- proofs ---- */

void sl_join_welcome(const struct sl_join_key *key, const uint8_t nonce[SL_JOIN_NONCE],
                     const uint8_t ticket[SL_JOIN_TICKET], uint8_t proof[SL_JOIN_PROOF])
{
    mac(key->bytes, "coordinator", nonce, SL_JOIN_NONCE, ticket, SL_JOIN_TICKET, proof);
}

void sl_join_session(const struct sl_join_key *key, const uint8_t nonce[SL_JOIN_NONCE],
                     const uint8_t ticket[SL_JOIN_TICKET], uint8_t session[32])
{
    mac(key->bytes, "member", nonce, SL_JOIN_NONCE, ticket, SL_JOIN_TICKET, session);
}

void sl_join_own_key(const struct sl_join_key *key, const uint8_t member[SL_JOIN_NONCE], uint8_t own[32])
{
    mac(key->bytes, "same member", member, SL_JOIN_NONCE, NULL, 0, own);
}

void sl_join_about(uint64_t epoch, uint64_t number, uint8_t about[SL_JOIN_ABOUT])
{
    sl_put64(about, epoch);
    sl_put64(about + 8, number);
}

/* The message may be long: it is taken in by a MAC of its own. */
void sl_join_proof(const uint8_t by[32], const char *kind, const void *message, size_t bytes,
                   uint8_t proof[SL_JOIN_PROOF])
{
    uint8_t of_message[32];
    sl_hmac_sha256(by, message, bytes, of_message);
    mac(by, kind, of_message, sizeof of_message, NULL, 0, proof);
}

bool sl_join_proved(const uint8_t by[32], const char *kind, const void *message, size_t bytes,
                    const uint8_t *proof, size_t proof_bytes)
{
    uint8_t expected[SL_JOIN_PROOF];
    sl_join_proof(by, kind, message, bytes, expected);
    return proof_bytes == sizeof expected && sl_equal_constant_time(expected, proof, sizeof expected);
}

void sl_join_link_secret(const struct sl_join_key *key, uint64_t epoch, const uint8_t salt[SL_JOIN_NONCE],
                         uint8_t secret[32])
{
    uint8_t number[8];
    sl_put64(number, epoch);
    mac(key->bytes, "links", number, sizeof number, salt, SL_JOIN_NONCE, secret);
}
