/* UCX's words about its lanes (transport_ucx_lanes.h): a line like
 *     #   lane[1]:  2:cuda_ipc/cuda.0 md[2]  -> md[2]/cuda_ipc/sysdev[0] rma_bw#0
 * for each. */
#include "pipeline/link/transport_ucx_lanes.h"

#include <stdio.h>
#include <string.h>

struct sl_ucx_lanes sl_ucx_lanes_read(const char *text)
{
    struct sl_ucx_lanes lanes = {.list = ""};
    char name[64], device[64];
    size_t n = 0;
    for (const char *at = text; (at = strstr(at, "lane[")); at++) {
        if (sscanf(at, "lane[%*u]: %*u:%63[a-z0-9_]/%63[^. \n]", name, device) != 2)
            continue;
        const char *end = strchrnul(at, '\n'), *reach = strstr(at, " rma_bw");
        bool more = strcmp(name, "tcp") != 0;
        lanes.more |= more;
        lanes.reaches |= more && reach && reach < end;
        if (n < sizeof lanes.list)
            n += (size_t)snprintf(lanes.list + n, sizeof lanes.list - n, "%s%s/%s", n > 0 ? ", " : "", name,
                                  device);
    }
    return lanes;
}

bool sl_ucx_tls_has_more(const char *tls)
{
    static const char *const others[] = {"tcp", "self", "cuda_copy", "gdr_copy"};
    if (tls[0] == '^') /* all but these */
        return true;
    for (const char *at = tls; *at; at += *at == ',') {
        size_t n = strcspn(at, ","), i = 0;
        while (i < sizeof others / sizeof *others &&
               !(strlen(others[i]) == n && memcmp(others[i], at, n) == 0))
            i++;
        if (n > 0 && i == sizeof others / sizeof *others)
            return true;
        at += n;
    }
    return false;
}
