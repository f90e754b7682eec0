/* Who a certificate's names make of its holder: roles by SPIFFE ids, roles by rules, and what hostile names must not become. */
#include "tests/check.h"

#include "node/rpc/caller.h"
#include <stdio.h>
#include <string.h>

static struct sl_caller read_names(const char *list, const struct sl_cert_name *names, uint32_t n)
{
    struct sl_role_rules rules;
    struct sl_caller caller;
    struct sl_err err = {0};
    if (sl_role_rules_read(&rules, list, "--tls-role", &err) != SL_OK)
        sl_test_fail(__FILE__, __LINE__, "%s", err.text);
    sl_caller_read(&caller, &rules, names, n);
    return caller;
}

static struct sl_caller of_uri(const char *list, const char *uri)
{
    return read_names(list, &(struct sl_cert_name){true, uri, strlen(uri)}, 1);
}

static struct sl_caller of_host(const char *list, const char *host)
{
    return read_names(list, &(struct sl_cert_name){false, host, strlen(host)}, 1);
}

SL_TEST(a_spiffe_id_says_its_role_and_what_stands_before_it_is_the_name)
{
    static const struct {
        const char *uri, *name;
        enum sl_caller_role role;
    } good[] = {
        {"spiffe://corp.example/role/client", "corp.example", SL_CALLER_CLIENT},
        {"spiffe://corp.example/team-a/role/gateway", "corp.example/team-a", SL_CALLER_GATEWAY},
        {"spiffe://d/ns/x_1/sa/y/role/node", "d/ns/x_1/sa/y", SL_CALLER_NODE},
        {"spiffe://d/role/admin", "d", SL_CALLER_ADMIN},
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        struct sl_caller caller = of_uri(NULL, good[i].uri);
        CHECK_INT(caller.role, good[i].role);
        CHECK_STR(caller.name, good[i].name);
    }
}

SL_TEST(a_spiffe_id_that_says_no_role_or_two_is_a_stranger_with_a_reason)
{
    static const char *const bad[] = {
        "spiffe://d/role/root",
        "spiffe://d/role/",
        "spiffe://d/role",
        "spiffe://d",
        "spiffe://d/role/admin/x",
        "spiffe://d/role/admin/role/client",
        "spiffe://d//role/admin",
        "spiffe:///role/admin",
        "spiffe://d/../role/admin",
        "spiffe://d/./role/admin",
        "spiffe://d/role/admin/",
        "spiffe://d/role/ADMIN",
        "spiffe://d/role/admin?x",
        "spiffe://d/role/admin#x",
        "spiffe://d/%72ole/role/admin",
        "SPIFFE://d/role/admin",
        "https://d/role/admin",
        "spiffe://u@d/role/admin",
        "spiffe://d:1/role/admin",
        "spiffe://d/role/open",
        "spiffe://d/role/stranger",
        "spiffe://d/a b/role/admin",
        "spiffe://d/\x7f/role/admin",
        "spiffe://d/\xc3\xa9/role/admin",
        "spiffe://d/xrole/admin",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct sl_caller caller = of_uri(NULL, bad[i]);
        if (caller.role != SL_CALLER_STRANGER || !caller.why || caller.name[0])
            sl_test_fail(__FILE__, __LINE__, "%s is %s", bad[i], sl_caller_roles[caller.role]);
    }
}

SL_TEST(a_name_with_a_nul_in_it_is_nobodys)
{
    static const char uri[] = "spiffe://d/role/admin\0/role/client", host[] = "gate.example\0.evil";
    struct sl_cert_name names[] = {{true, uri, sizeof uri - 1}, {false, host, sizeof host - 1}};
    CHECK_INT(read_names(NULL, &names[0], 1).role, SL_CALLER_STRANGER);
    CHECK_INT(read_names("gate.example=gateway", &names[1], 1).role, SL_CALLER_STRANGER);
    CHECK_INT(read_names("gate.example=gateway", names, 0).role, SL_CALLER_STRANGER);
}

SL_TEST(a_second_spiffe_id_beside_the_first_is_no_choice)
{
    static const char a[] = "spiffe://d/role/client", b[] = "spiffe://d/role/admin";
    struct sl_cert_name names[] = {{true, a, sizeof a - 1}, {true, b, sizeof b - 1}};
    CHECK_INT(read_names(NULL, names, 2).role, SL_CALLER_STRANGER);
    CHECK_INT(read_names("spiffe://d/*/client=client", names, 2).role, SL_CALLER_STRANGER);
}

SL_TEST(a_name_too_long_for_a_tenant_is_refused_and_not_cut)
{
    char uri[200] = "spiffe://";
    memset(uri + 9, 'x', 63);
    strcpy(uri + 9 + 63, "/role/client");
    CHECK_INT(of_uri(NULL, uri).role, SL_CALLER_CLIENT);
    memset(uri + 9, 'x', 64);
    strcpy(uri + 9 + 64, "/role/client");
    CHECK_INT(of_uri(NULL, uri).role, SL_CALLER_STRANGER);
}

SL_TEST(rules_decide_alone_and_in_their_order)
{
    static const char rules[] =
        "smg.example=gateway,*.nodes.example=node,spiffe://d/*/ops=admin,*.example=client";
    CHECK_INT(of_host(rules, "smg.example").role, SL_CALLER_GATEWAY);
    CHECK_INT(of_host(rules, "SMG.Example").role, SL_CALLER_GATEWAY);
    CHECK_INT(of_host(rules, "n1.nodes.example").role, SL_CALLER_NODE);
    CHECK_INT(of_host(rules, "a.n1.nodes.example").role, SL_CALLER_STRANGER);
    CHECK_INT(of_host(rules, "other.example").role, SL_CALLER_CLIENT);
    CHECK_STR(of_host(rules, "other.example").name, "other.example");
    CHECK_INT(of_uri(rules, "spiffe://d/x/ops").role, SL_CALLER_ADMIN);
    CHECK_STR(of_uri(rules, "spiffe://d/x/ops").name, "d/x/ops");
    CHECK_INT(of_uri(rules, "spiffe://d/x/y/ops").role, SL_CALLER_STRANGER);
    CHECK_INT(of_uri(rules, "spiffe://d/role/admin").role,
              SL_CALLER_STRANGER); /* not by its own word any more */
    static const char admin[] = "spiffe://d/x/ops", client[] = "a.example";
    struct sl_cert_name names[] = {{false, client, sizeof client - 1}, {true, admin, sizeof admin - 1}};
    CHECK_INT(read_names(rules, names, 2).role, SL_CALLER_ADMIN); /* by the rules' order, not by the names' */
}

/* The same stated once more, slowly: every way in which stars can be filled. */
static bool fits(const char *p, const char *s, size_t n, char stop)
{
    if (!*p)
        return n == 0;
    if (*p == '*') {
        for (size_t k = 1; k <= n && s[k - 1] != stop; k++)
            if (fits(p + 1, s + k, n - k, stop))
                return true;
        return false;
    }
    return n > 0 && *p == *s && fits(p + 1, s + 1, n - 1, stop);
}

SL_TEST(a_star_is_one_label_or_segment_however_many_there_are)
{
    static const char letters[] = "ab./*";
    uint32_t n_fits = 0, state = 1;
    for (int round = 0; round < 200000; round++) {
        char pattern[8] = "", name[10] = "";
        for (int i = 0; i < 7; i++) {
            state = state * 1664525u + 1013904223u;
            if (i < 1 + (int)(state >> 29))
                pattern[i] = letters[(state >> 16) % 5];
        }
        size_t n = 1 + (state >> 28) % 9;
        for (size_t i = 0; i < n; i++) {
            state = state * 1664525u + 1013904223u;
            name[i] = letters[(state >> 16) % 4];
        }
        bool uri = round & 1, one = sl_role_fits(pattern, name, n, uri);
        n_fits += one;
        if (one != fits(pattern, name, n, uri ? '/' : '.'))
            sl_test_fail(__FILE__, __LINE__, "%s fits %s: %d", pattern, name, one);
    }
    CHECK(n_fits > 1000);
}

SL_TEST(a_rule_that_is_none_is_refused_by_its_text)
{
    static const char *const bad[] = {"x",          "=admin",     "x=",        "x=root",
                                      "x=open",     "x=stranger", "x=client,", ",",
                                      "a b=client", "x=Admin",    "x =client"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct sl_role_rules rules;
        struct sl_err err = {0};
        sl_status status = sl_role_rules_read(&rules, bad[i], "--tls-role", &err);
        if (strcmp(bad[i], "x=client,") == 0)
            CHECK_INT(status, SL_OK); /* a comma at the end of a list is none */
        else if (status != SL_E_USAGE || !strstr(err.text, "--tls-role"))
            sl_test_fail(__FILE__, __LINE__, "\"%s\": %s", bad[i], err.text);
    }
    char many[SL_ROLE_RULES * 10 + 20] = "";
    for (int i = 0; i <= SL_ROLE_RULES; i++)
        strcat(many, "x=client,");
    struct sl_role_rules rules;
    struct sl_err err = {0};
    CHECK_INT(sl_role_rules_read(&rules, many, "--tls-role", &err), SL_E_USAGE);
}
