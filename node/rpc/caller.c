/* Names of a certificate to a role and a name (caller.h). Nothing is guessed: a name with a byte that is not printable, a second
 * spiffe:// URI, a role said twice make a stranger. */
#include "node/rpc/caller.h"
#include <stdio.h>
#include <string.h>
#include <strings.h>

const char *const sl_caller_roles[SL_CALLER_ROLES] = {
    [SL_CALLER_OPEN] = "open",       [SL_CALLER_STRANGER] = "stranger", [SL_CALLER_CLIENT] = "client",
    [SL_CALLER_GATEWAY] = "gateway", [SL_CALLER_NODE] = "node",         [SL_CALLER_ADMIN] = "admin",
};
static const char SPIFFE[] = "spiffe://", ROLE[] = "/role/";

/* ---- rules ---- */

static bool role_of(const char *text, size_t n, enum sl_caller_role *role)
{
    for (int i = SL_CALLER_CLIENT; i < SL_CALLER_ROLES; i++)
        if (strlen(sl_caller_roles[i]) == n && memcmp(text, sl_caller_roles[i], n) == 0) {
            *role = (enum sl_caller_role)i;
            return true;
        }
    return false;
}

static bool is_plain(const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (text[i] <= ' ' || text[i] >= 0x7f)
            return false;
    return n > 0;
}

static sl_status read_rule(struct sl_role_rules *rules, const char *item, size_t n, const char *option,
                           struct sl_err *err)
{
    size_t pattern = n;
    while (pattern > 0 && item[pattern - 1] != '=') /* a URI may hold one, too */
        pattern--;
    enum sl_caller_role role;
    if (pattern < 2 || pattern > SL_ROLE_PATTERN_BYTES || !is_plain(item, pattern - 1) ||
        !role_of(item + pattern, n - pattern, &role))
        return sl_fail(err, SL_E_USAGE,
                       "%s \"%.*s\" is no rule: write PATTERN=ROLE, with a name as a certificate has it "
                       "(* is a label or a segment) and client, gateway, node or admin",
                       option, (int)(n < 80 ? n : 80), item);
    if (rules->n == SL_ROLE_RULES)
        return sl_fail(err, SL_E_USAGE, "%s gives more than %d rules; use a * in some", option,
                       SL_ROLE_RULES);
    memcpy(rules->list[rules->n].pattern, item, pattern - 1);
    rules->list[rules->n].pattern[pattern - 1] = 0;
    rules->list[rules->n++].role = role;
    return SL_OK;
}

sl_status sl_role_rules_read(struct sl_role_rules *rules, const char *list, const char *option,
                             struct sl_err *err)
{
    *rules = (struct sl_role_rules){0};
    while (list && *list) {
        size_t n = strcspn(list, ",");
        SL_TRY(read_rule(rules, list, n, option, err));
        list += n + (list[n] == ',');
    }
    return SL_OK;
}

static bool same_byte(char a, char b, bool is_uri)
{
    return is_uri ? a == b : strncasecmp(&a, &b, 1) == 0;
}

bool sl_role_fits(const char *pattern, const char *name, size_t n_bytes, bool is_uri)
{
    const char stop = is_uri ? '/' : '.';
    const char *star = NULL; /* the newest; it has taken up to `taken` */
    size_t at = 0, taken = 0;
    while (at < n_bytes) {
        if (*pattern == '*' && name[at] != stop) {
            star = pattern++;
            taken = ++at;
        } else if (*pattern && *pattern != '*' && same_byte(*pattern, name[at], is_uri)) {
            pattern++, at++;
        } else if (star &&
                   name[taken] !=
                       stop) { /* it takes one more. An older one need not: it ends at the same stop */
            at = ++taken;
            pattern = star + 1;
        } else {
            return false;
        }
    }
    return *pattern == 0;
}

/* ---- names ---- */

static void be_stranger(struct sl_caller *caller, const char *why)
{
    *caller = (struct sl_caller){.role = SL_CALLER_STRANGER, .why = why};
}

static void be(struct sl_caller *caller, enum sl_caller_role role, const char *name, size_t n)
{
    if (n >= SL_CALLER_NAME_BYTES) {
        be_stranger(caller, "its name is longer than 63 characters");
        return;
    }
    *caller = (struct sl_caller){.role = role};
    memcpy(caller->name, name, n);
}

static bool is_spiffe(const struct sl_cert_name *name)
{
    return name->is_uri && name->n_bytes > strlen(SPIFFE) &&
           strncasecmp(name->text, SPIFFE, strlen(SPIFFE)) == 0;
}

/* spiffe:// and what is behind it as SPIFFE allows it: segments of letters, digits, dots, dashes and underscores, none of them
 * empty, "." or "..". */
static bool is_well_formed(const char *id, size_t n)
{
    size_t begin = 0;
    for (size_t i = 0; i <= n; i++) {
        if (i < n && id[i] != '/') {
            char c = id[i];
            if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
                  c == '-' || c == '_'))
                return false;
            continue;
        }
        size_t segment = i - begin;
        if (segment == 0 || (segment <= 2 && memcmp(id + begin, "..", segment) == 0))
            return false;
        begin = i + 1;
    }
    return true;
}

/* DOMAIN/PATH/role/ROLE: the name is what stands before /role/, which must be there once. */
static void read_spiffe(struct sl_caller *caller, const struct sl_cert_name *name)
{
    char id[SL_CERT_NAME_BYTES];
    size_t n = name->n_bytes - strlen(SPIFFE);
    if (n >= sizeof id || memcmp(name->text, SPIFFE, strlen(SPIFFE)) != 0 ||
        !is_well_formed(name->text + strlen(SPIFFE), n)) {
        be_stranger(caller, "its SPIFFE id is malformed");
        return;
    }
    memcpy(id, name->text + strlen(SPIFFE), n);
    id[n] = 0;
    const char *marker = strstr(id, ROLE);
    enum sl_caller_role role;
    if (!marker || strstr(marker + 1, ROLE) ||
        !role_of(marker + strlen(ROLE), strlen(marker + strlen(ROLE)), &role))
        be_stranger(caller, "its SPIFFE id does not end in /role/client, gateway, node or admin");
    else
        be(caller, role, id, (size_t)(marker - id));
}

static void read_by_rules(struct sl_caller *caller, const struct sl_role_rules *rules,
                          const struct sl_cert_name *names, uint32_t n)
{
    for (uint32_t r = 0; r < rules->n; r++)
        for (uint32_t i = 0; i < n; i++) {
            size_t skipped = is_spiffe(&names[i]) ? strlen(SPIFFE) : 0;
            if (!sl_role_fits(rules->list[r].pattern, names[i].text, names[i].n_bytes, names[i].is_uri))
                continue;
            be(caller, rules->list[r].role, names[i].text + skipped, names[i].n_bytes - skipped);
            return;
        }
    be_stranger(caller, "no --tls-role fits any of its names");
}

void sl_caller_read(struct sl_caller *caller, const struct sl_role_rules *rules,
                    const struct sl_cert_name *names, uint32_t n)
{
    const struct sl_cert_name *spiffe = NULL;
    uint32_t n_spiffe = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (!is_plain(names[i].text, names[i].n_bytes) || names[i].n_bytes >= SL_CERT_NAME_BYTES) {
            be_stranger(caller, "one of its names is empty, too long or not printable");
            return;
        }
        if (is_spiffe(&names[i])) {
            spiffe = &names[i];
            n_spiffe++;
        }
    }
    if (n_spiffe > 1)
        be_stranger(caller, "it has several SPIFFE ids, and one is allowed");
    else if (rules->n)
        read_by_rules(caller, rules, names, n);
    else if (spiffe)
        read_spiffe(caller, spiffe);
    else
        be_stranger(caller, "it has no URI spiffe://DOMAIN/.../role/ROLE, and there is no --tls-role");
}
