/* Names of a certificate, and rules. Lines: the first is a list of rules, then a name each, whose first byte says which kind it
 * is. Who is no stranger has a role of the four, a printable name, and said it in one way. */
#include "node/rpc/caller.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void require(bool promise)
{
    if (!promise)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static struct sl_role_rules rules;
    struct sl_cert_name names[SL_CERT_NAMES];
    struct sl_caller caller;
    struct sl_err err = {0};
    const uint8_t *end = memchr(data, '\n', bytes);
    size_t line = end ? (size_t)(end - data) : bytes;
    char *list = malloc(line + 1);
    require(list != NULL);
    memcpy(list, data, line);
    list[line] = 0;
    if (sl_role_rules_read(&rules, list, "--tls-role", &err) != SL_OK) {
        require(err.text[0] != 0);
        rules.n = 0;
    }
    free(list);
    uint32_t n = 0;
    for (size_t at = line + 1; at < bytes && n < SL_CERT_NAMES;) {
        end = memchr(data + at, '\n', bytes - at);
        line = end ? (size_t)(end - data) - at : bytes - at;
        if (line > 0)
            names[n++] = (struct sl_cert_name){data[at] == 'u', (const char *)data + at + 1, line - 1};
        at += line + 1;
    }
    sl_caller_read(&caller, &rules, names, n);
    require(caller.role >= SL_CALLER_STRANGER && caller.role < SL_CALLER_ROLES);
    require((caller.role == SL_CALLER_STRANGER) == (caller.why != NULL));
    require(memchr(caller.name, 0, sizeof caller.name) != NULL);
    require((caller.role == SL_CALLER_STRANGER) == !caller.name[0]);
    for (const char *c = caller.name; *c; c++)
        require(*c > ' ' && *c < 0x7f);
    return 0;
}
