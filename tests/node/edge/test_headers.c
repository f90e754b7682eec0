/* node/edge/headers.c: metadata as clients send it and as nobody should. */
#include "base/rng.h"
#include "node/coordinator/tenants.h"
#include "node/edge/headers.h"
#include "tests/check.h"
#include <stdlib.h>

static struct sl_header_value of(const char *text)
{
    return (struct sl_header_value){1, text, strlen(text)};
}

static sl_status read_one(struct sl_generate *g, enum sl_header header, struct sl_header_value value,
                          struct sl_err *err)
{
    struct sl_header_value values[SL_HEADERS] = {{0}};
    values[header] = value;
    *g = (struct sl_generate){.deadline_ms = -1};
    *err = (struct sl_err){0};
    return sl_headers_read(g, values, err);
}

SL_TEST(what_is_not_there_changes_nothing)
{
    struct sl_header_value values[SL_HEADERS] = {{0}};
    struct sl_generate g = {.priority = 0};
    struct sl_err err;
    CHECK_INT(sl_headers_read(&g, values, &err), SL_OK);
    CHECK(g.tenant[0] == 0 && g.priority == 0 && g.slo_ms == 0);
}

SL_TEST(each_header_is_read)
{
    struct sl_generate g;
    struct sl_err err;
    CHECK_INT(read_one(&g, SL_HEADER_TENANT, of("team-7"), &err), SL_OK);
    CHECK_STR(g.tenant, "team-7");
    CHECK_INT(read_one(&g, SL_HEADER_TENANT, of(""), &err), SL_OK);
    CHECK_STR(g.tenant, "");
    for (int priority = SL_PRIORITY_LEAST; priority <= SL_PRIORITY_MOST; priority++) {
        char text[8];
        snprintf(text, sizeof text, "%d", priority);
        CHECK_INT(read_one(&g, SL_HEADER_PRIORITY, of(text), &err), SL_OK);
        CHECK_INT(g.priority, priority);
    }
    CHECK_INT(read_one(&g, SL_HEADER_SLO_TTFT, of("1"), &err), SL_OK);
    CHECK_INT(g.slo_ms, 1);
    CHECK_INT(read_one(&g, SL_HEADER_SLO_TTFT, of("86400000"), &err), SL_OK);
    CHECK_INT(g.slo_ms, 86400000);
}

SL_TEST(a_salt_becomes_a_digest_and_a_long_one_a_sentence)
{
    static char megabyte[1 << 20];
    static const uint8_t none[SL_PREFIX_NAME];
    struct sl_generate g, other;
    struct sl_err err;
    memset(megabyte, 'x', sizeof megabyte);
    CHECK_INT(read_one(&g, SL_HEADER_CACHE_SALT, of("tenant a"), &err), SL_OK);
    CHECK(memcmp(g.cache_salt, none, sizeof none) != 0);
    CHECK_INT(read_one(&other, SL_HEADER_CACHE_SALT, of("tenant a"), &err), SL_OK);
    CHECK(memcmp(g.cache_salt, other.cache_salt, sizeof none) == 0);
    CHECK_INT(read_one(&other, SL_HEADER_CACHE_SALT, of("tenant b"), &err), SL_OK);
    CHECK(memcmp(g.cache_salt, other.cache_salt, sizeof none) != 0);
    CHECK_INT(read_one(&g, SL_HEADER_CACHE_SALT, of(""), &err), SL_OK);
    CHECK(memcmp(g.cache_salt, none, sizeof none) == 0);
    struct sl_header_value long_one = {1, megabyte, SL_MAX_SALT_BYTES};
    CHECK_INT(read_one(&g, SL_HEADER_CACHE_SALT, long_one, &err), SL_OK);
    long_one.n_bytes = sizeof megabyte;
    CHECK_INT(read_one(&g, SL_HEADER_CACHE_SALT, long_one, &err), SL_E_INVALID);
    CHECK_STR(err.text, "x-cache-salt has 1048576 bytes: send at most 256, or a digest of it");
    CHECK(memcmp(g.cache_salt, none, sizeof none) == 0);
}

SL_TEST(hostile_values_get_a_sentence_that_names_the_header)
{
    static const struct {
        enum sl_header header;
        const char *value;
    } bad[] = {
        {SL_HEADER_PRIORITY, "3"},
        {SL_HEADER_PRIORITY, "-3"},
        {SL_HEADER_PRIORITY, ""},
        {SL_HEADER_PRIORITY, "-"},
        {SL_HEADER_PRIORITY, "+1"},
        {SL_HEADER_PRIORITY, "1.0"},
        {SL_HEADER_PRIORITY, " 1"},
        {SL_HEADER_PRIORITY, "high"},
        {SL_HEADER_PRIORITY, "99999999999999999999999999999999999999999999"},
        {SL_HEADER_PRIORITY, "-99999999999999999999999999999999999999999999"},
        {SL_HEADER_SLO_TTFT, "0"},
        {SL_HEADER_SLO_TTFT, "-0"},
        {SL_HEADER_SLO_TTFT, "-1"},
        {SL_HEADER_SLO_TTFT, "86400001"},
        {SL_HEADER_SLO_TTFT, "18446744073709551617"}, /* 1, to whoever lets it wrap */
        {SL_HEADER_SLO_TTFT, "4294967297"},
        {SL_HEADER_SLO_TTFT, "nan"},
        {SL_HEADER_SLO_TTFT, "1e3"},
        {SL_HEADER_SLO_TTFT, "0x10"},
        {SL_HEADER_SLO_TTFT, "500ms"},
        {SL_HEADER_SLO_TTFT, ""},
        {SL_HEADER_TENANT, "two words"},
        {SL_HEADER_TENANT, "tab\there"},
        {SL_HEADER_TENANT, "\x1b[31mred"},
        {SL_HEADER_TENANT, "\xc3\xa9"},
        {SL_HEADER_TENANT, "a123456789012345678901234567890123456789012345678901234567890123"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct sl_generate g;
        struct sl_err err;
        if (read_one(&g, bad[i].header, of(bad[i].value), &err) != SL_E_INVALID)
            sl_test_fail(__FILE__, __LINE__, "%s \"%s\" is taken", sl_header_name(bad[i].header),
                         bad[i].value);
        CHECK_CONTAINS(err.text, sl_header_name(bad[i].header));
        CHECK(strchr(err.text, '\x1b') == NULL && strchr(err.text, '\t') == NULL);
    }
}

SL_TEST(a_header_that_is_there_twice_is_refused)
{
    struct sl_generate g;
    struct sl_err err;
    for (int k = 0; k < SL_HEADERS; k++) {
        struct sl_header_value twice = {2, "1", 1};
        CHECK_INT(read_one(&g, (enum sl_header)k, twice, &err), SL_E_INVALID);
        CHECK_CONTAINS(err.text, "is there 2 times");
    }
}

/* Whatever bytes come: refused with a sentence, or values within their bounds. The copy ends where the value does, so that a
 * sanitizer sees a byte too many. */
SL_TEST(no_bytes_at_all_give_a_value_out_of_bounds)
{
    static const char likely[] = "0123456789-+.eEx \t\nnaif";
    struct sl_rng rng = {7, 0};
    uint32_t taken = 0;
    for (uint32_t round = 0; round < 30000; round++) {
        size_t n = sl_rng_next(&rng) % 70;
        char *bytes = malloc(n ? n : 1);
        for (size_t i = 0; i < n; i++)
            bytes[i] = round % 3 ? likely[sl_rng_next(&rng) % (sizeof likely - 1)]
                                 : (char)(sl_rng_next(&rng) & 0xff);
        struct sl_header_value value = {1, bytes, n > 8 && round % 2 ? n % 4 : n};
        enum sl_header header = (enum sl_header)(round % SL_HEADERS);
        struct sl_generate g;
        struct sl_err err;
        sl_status status = read_one(&g, header, value, &err);
        taken += status == SL_OK;
        CHECK(status == SL_OK || (status == SL_E_INVALID && err.text[0]));
        if (status == SL_OK) {
            CHECK(sl_tenant_is_name(g.tenant, strnlen(g.tenant, sizeof g.tenant)));
            CHECK(g.priority >= SL_PRIORITY_LEAST && g.priority <= SL_PRIORITY_MOST);
            CHECK(g.slo_ms <= SL_MAX_SLO_MS && (header != SL_HEADER_SLO_TTFT || g.slo_ms >= 1));
        }
        free(bytes);
    }
    CHECK(taken > 100);
}

/* ---- who is believed ---- */

static sl_status read_of(struct sl_generate *generate, enum sl_caller_role role, const char *name,
                         bool trusting, const char *tenant, const char *priority, const char *salt,
                         struct sl_err *err)
{
    struct sl_caller caller = {.role = role};
    const char *const texts[SL_HEADERS] = {
        [SL_HEADER_TENANT] = tenant, [SL_HEADER_PRIORITY] = priority, [SL_HEADER_CACHE_SALT] = salt};
    struct sl_header_value values[SL_HEADERS] = {{0}};
    strcpy(caller.name, name);
    for (int k = 0; k < SL_HEADERS; k++)
        if (texts[k])
            values[k] = (struct sl_header_value){1, texts[k], strlen(texts[k])};
    *generate = (struct sl_generate){.deadline_ms = -1};
    return sl_headers_of(generate, values, &caller, trusting, err);
}

SL_TEST(a_gateway_speaks_for_others_and_for_itself_when_it_names_none)
{
    struct sl_generate g, plain;
    struct sl_err err = {0};
    CHECK_INT(read_of(&plain, SL_CALLER_OPEN, "", true, "t", "1", "s", &err), SL_OK);
    CHECK_INT(read_of(&g, SL_CALLER_GATEWAY, "gate", false, "t", "1", "s", &err), SL_OK);
    CHECK_STR(g.tenant, "t");
    CHECK_STR(g.owner, "gate");
    CHECK_INT(g.priority, 1);
    CHECK(memcmp(g.cache_salt, plain.cache_salt, sizeof g.cache_salt) == 0);
    CHECK_INT(read_of(&g, SL_CALLER_GATEWAY, "gate", false, NULL, NULL, NULL, &err), SL_OK);
    CHECK_STR(g.tenant, "gate");
}

SL_TEST(who_has_a_certificate_speaks_for_himself_whatever_he_says)
{
    static const enum sl_caller_role roles[] = {SL_CALLER_CLIENT, SL_CALLER_ADMIN};
    struct sl_generate g, bare, salted, other;
    struct sl_err err = {0};
    for (int i = 0; i < 2; i++)
        for (int trusting = 0; trusting < 2; trusting++) {
            CHECK_INT(read_of(&g, roles[i], "me", trusting, "you", "2", NULL, &err), SL_OK);
            CHECK_STR(g.tenant, "me");
            CHECK_STR(g.owner, "me");
            CHECK_INT(g.priority, 0);
        }
    /* His prefixes are his: not another's, not those of nobody, and a salt of his divides them. */
    static const uint8_t none[sizeof g.cache_salt];
    CHECK_INT(read_of(&bare, SL_CALLER_CLIENT, "me", false, NULL, NULL, NULL, &err), SL_OK);
    CHECK_INT(read_of(&salted, SL_CALLER_CLIENT, "me", false, NULL, NULL, "s", &err), SL_OK);
    CHECK_INT(read_of(&other, SL_CALLER_CLIENT, "you", false, NULL, NULL, "s", &err), SL_OK);
    CHECK_INT(read_of(&g, SL_CALLER_GATEWAY, "gate", false, NULL, NULL, "me", &err), SL_OK);
    CHECK(memcmp(bare.cache_salt, none, sizeof none) != 0);
    CHECK(memcmp(bare.cache_salt, salted.cache_salt, sizeof none) != 0);
    CHECK(memcmp(salted.cache_salt, other.cache_salt, sizeof none) != 0);
    CHECK(memcmp(bare.cache_salt, g.cache_salt, sizeof none) != 0);
}

SL_TEST(who_is_not_known_is_not_believed_and_is_told_which_header)
{
    struct sl_generate g;
    struct sl_err err = {0};
    CHECK_INT(read_of(&g, SL_CALLER_OPEN, "", false, NULL, NULL, NULL, &err), SL_OK);
    CHECK_STR(g.tenant, "");
    CHECK_INT(read_of(&g, SL_CALLER_OPEN, "", false, "t", NULL, NULL, &err), SL_E_DENIED);
    CHECK(strstr(err.text, "x-tenant-id is believed of gateways only") != NULL);
    CHECK_INT(read_of(&g, SL_CALLER_OPEN, "", false, NULL, "0", NULL, &err), SL_E_DENIED);
    CHECK(strstr(err.text, "x-priority") != NULL);
    CHECK_INT(read_of(&g, SL_CALLER_CLIENT, "", true, NULL, NULL, "s", &err), SL_E_DENIED);
    CHECK(strstr(err.text, "x-cache-salt") != NULL && strstr(err.text, "--trust-headers") != NULL);
}
