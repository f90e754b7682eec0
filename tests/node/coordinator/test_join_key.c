/* node/coordinator/join_key.c: who knows the key can join, once a ticket; nobody else can. */
#include "node/coordinator/join_key.h"
#include "tests/check.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static sl_status load(const char *text, size_t bytes, struct sl_join_key *key, struct sl_err *err)
{
    char path[300];
    snprintf(path, sizeof path, "%s/key", sl_test_dir());
    FILE *f = fopen(path, "w");
    if (!f || fwrite(text, 1, bytes, f) != bytes || fclose(f) != 0)
        sl_test_fail(__FILE__, __LINE__, "cannot write %s", path);
    return sl_join_key_load(key, path, err);
}

SL_TEST(a_key_is_a_files_content_without_blanks_at_its_end)
{
    struct sl_join_key a, b, c;
    struct sl_err err;
    CHECK_INT(load("0123456789abcdef", 16, &a, &err), SL_OK);
    CHECK_INT(load("0123456789abcdef\r\n", 18, &b, &err), SL_OK);
    CHECK_INT(load("0123456789abcdeg\n", 17, &c, &err), SL_OK);
    CHECK(!a.open && memcmp(a.bytes, b.bytes, sizeof a.bytes) == 0);
    CHECK(memcmp(a.bytes, c.bytes, sizeof a.bytes) != 0);
}

SL_TEST(a_key_that_is_too_short_too_long_or_not_there_is_refused_by_name)
{
    static char text[SL_KEY_BYTES_MAX + 2];
    struct sl_join_key key;
    struct sl_err err;
    memset(text, 'k', sizeof text);
    const size_t refused[] = {0, 1, SL_KEY_BYTES_MIN - 1, SL_KEY_BYTES_MAX + 1, SL_KEY_BYTES_MAX + 2};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        CHECK_INT(load(text, refused[i], &key, &err), SL_E_CONFIG);
        CHECK_CONTAINS(err.text, "/key must hold 16 to 4096 bytes");
    }
    CHECK_INT(load(text, SL_KEY_BYTES_MAX, &key, &err), SL_OK);
    CHECK_INT(load("\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n", 20, &key, &err), SL_E_CONFIG);
    CHECK_INT(sl_join_key_load(&key, "/nowhere/key", &err), SL_E_CONFIG);
    CHECK_CONTAINS(err.text, "/nowhere/key cannot be read");
    CHECK_INT(sl_join_key_load(&key, "/tmp", &err), SL_E_CONFIG);
}

SL_TEST(without_a_file_the_door_is_open_and_says_so)
{
    struct sl_join_key key;
    CHECK_INT(sl_join_key_load(&key, NULL, NULL), SL_OK);
    CHECK(key.open);
}

SL_TEST(a_made_key_goes_by_its_descriptor_alone)
{
    struct sl_join_key a, b, other;
    struct sl_err err;
    char path[32], again[32];
    int fd, fd2;
    CHECK_INT(sl_join_key_make(&fd, path, &err), SL_OK);
    CHECK_INT(fcntl(fd, F_GETFD), 0); /* it goes on over exec */
    int kept = dup(fd);
    CHECK_INT(sl_join_key_load(&a, path, &err), SL_OK);
    CHECK_INT(fcntl(fd, F_GETFD), -1); /* read once, then closed */
    snprintf(path, sizeof path, "/dev/fd/%d", kept);
    CHECK_INT(sl_join_key_load(&b, path, &err), SL_OK); /* another process that inherited it */
    CHECK(!a.open && memcmp(a.bytes, b.bytes, sizeof a.bytes) == 0);
    CHECK_INT(sl_join_key_make(&fd2, again, &err), SL_OK);
    CHECK_INT(sl_join_key_load(&other, again, &err), SL_OK);
    CHECK(memcmp(a.bytes, other.bytes, sizeof a.bytes) != 0);
}

SL_TEST(a_ticket_is_good_once_for_a_while_and_here_alone)
{
    static struct sl_ticket_office here, there;
    uint8_t ticket[SL_JOIN_TICKET], late[SL_JOIN_TICKET];
    CHECK_INT(sl_ticket_office_init(&here), SL_OK);
    CHECK_INT(sl_ticket_office_init(&there), SL_OK);
    CHECK_INT(sl_ticket_make(&here, 1000, ticket), SL_OK);
    CHECK_INT(sl_ticket_make(&here, 1000, late), SL_OK);
    CHECK_CONTAINS(sl_ticket_use(&there, 1000, ticket, sizeof ticket), "not one of this coordinator");
    CHECK_CONTAINS(sl_ticket_use(&here, 1000, ticket, sizeof ticket - 1), "malformed");
    for (size_t i = 0; i < sizeof ticket; i++) {
        ticket[i] ^= 1;
        CHECK(sl_ticket_use(&here, 1000, ticket, sizeof ticket) != NULL);
        ticket[i] ^= 1;
    }
    CHECK(sl_ticket_use(&here, 2000, ticket, sizeof ticket) == NULL);
    CHECK_CONTAINS(sl_ticket_use(&here, 2000, ticket, sizeof ticket), "used before");
    CHECK_CONTAINS(sl_ticket_use(&here, 1000 + SL_TICKET_LIFE_MS, ticket, sizeof ticket), "used before");
    CHECK_CONTAINS(sl_ticket_use(&here, 1001 + SL_TICKET_LIFE_MS, late, sizeof late), "too old");
}

SL_TEST(a_proof_holds_for_one_key_one_session_one_kind_and_one_message)
{
    struct sl_join_key key = {.bytes = {1}}, other = {.bytes = {2}};
    uint8_t nonce[SL_JOIN_NONCE] = {3}, ticket[SL_JOIN_TICKET] = {4}, session[32], strange[32], proof[32],
            p[32];
    sl_join_session(&key, nonce, ticket, session);
    sl_join_proof(session, "join", "node", 4, proof);
    CHECK(sl_join_proved(session, "join", "node", 4, proof, sizeof proof));
    CHECK(!sl_join_proved(session, "leave", "node", 4, proof, sizeof proof));
    CHECK(!sl_join_proved(session, "join", "Node", 4, proof, sizeof proof));
    CHECK(!sl_join_proved(session, "join", "node", 3, proof, sizeof proof));
    CHECK(!sl_join_proved(session, "join", "node", 4, proof, sizeof proof - 1));
    sl_join_session(&other, nonce, ticket, strange);
    CHECK(!sl_join_proved(strange, "join", "node", 4, proof, sizeof proof));
    nonce[0]++;
    sl_join_session(&key, nonce, ticket, strange);
    CHECK(!sl_join_proved(strange, "join", "node", 4, proof, sizeof proof));
    nonce[0]--;
    ticket[40]++;
    sl_join_session(&key, nonce, ticket, strange);
    CHECK(!sl_join_proved(strange, "join", "node", 4, proof, sizeof proof));
    ticket[40]--;
    sl_join_welcome(&key, nonce, ticket, p); /* what the coordinator says is not what a member says */
    CHECK(memcmp(p, session, sizeof p) != 0);
    sl_join_welcome(&other, nonce, ticket, proof);
    CHECK(memcmp(p, proof, sizeof p) != 0);
}

SL_TEST(a_members_own_key_differs_by_key_and_member_and_is_no_session)
{
    struct sl_join_key key = {.bytes = {1}}, other = {.bytes = {2}};
    uint8_t member[SL_JOIN_NONCE] = {3}, ticket[SL_JOIN_TICKET] = {0}, a[32], b[32];
    sl_join_own_key(&key, member, a);
    sl_join_own_key(&key, member, b);
    CHECK(memcmp(a, b, sizeof a) == 0);
    sl_join_own_key(&other, member, b);
    CHECK(memcmp(a, b, sizeof a) != 0);
    sl_join_session(&key, member, ticket, b);
    CHECK(memcmp(a, b, sizeof a) != 0);
    member[15]++;
    sl_join_own_key(&key, member, b);
    CHECK(memcmp(a, b, sizeof a) != 0);
}

SL_TEST(link_secrets_differ_by_key_epoch_and_salt)
{
    struct sl_join_key key = {.bytes = {1}}, other = {.bytes = {2}};
    uint8_t salt[SL_JOIN_NONCE] = {5}, a[32], b[32];
    sl_join_link_secret(&key, 7, salt, a);
    sl_join_link_secret(&key, 7, salt, b);
    CHECK(memcmp(a, b, sizeof a) == 0);
    sl_join_link_secret(&key, 8, salt, b);
    CHECK(memcmp(a, b, sizeof a) != 0);
    sl_join_link_secret(&other, 7, salt, b);
    CHECK(memcmp(a, b, sizeof a) != 0);
    salt[15]++;
    sl_join_link_secret(&key, 7, salt, b);
    CHECK(memcmp(a, b, sizeof a) != 0);
}
