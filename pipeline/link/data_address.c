/* Data addresses (data_address.h). The data plane belongs to one interface: over several UCX would stripe. */
#include "pipeline/link/data_address.h"

#include <ifaddrs.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

void sl_data_address_text(const struct sockaddr_storage *address, char *text, size_t room)
{
    socklen_t bytes =
        address->ss_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
    if (getnameinfo((const struct sockaddr *)address, bytes, text, (socklen_t)room, NULL, 0,
                    NI_NUMERICHOST) != 0)
        snprintf(text, room, "?");
}

bool sl_data_address_same(const struct sockaddr_storage *a, const struct sockaddr_storage *b)
{
    if (a->ss_family != b->ss_family)
        return false;
    if (a->ss_family == AF_INET)
        return ((const struct sockaddr_in *)a)->sin_addr.s_addr ==
               ((const struct sockaddr_in *)b)->sin_addr.s_addr;
    return a->ss_family == AF_INET6 &&
           memcmp(&((const struct sockaddr_in6 *)a)->sin6_addr, &((const struct sockaddr_in6 *)b)->sin6_addr,
                  sizeof(struct in6_addr)) == 0;
}

void sl_data_address_set_port(struct sockaddr_storage *address, uint16_t port)
{
    if (address->ss_family == AF_INET)
        ((struct sockaddr_in *)address)->sin_port = htons(port);
    else
        ((struct sockaddr_in6 *)address)->sin6_port = htons(port);
}

static bool is_any(const struct sockaddr_storage *address)
{
    if (address->ss_family == AF_INET)
        return ((const struct sockaddr_in *)address)->sin_addr.s_addr == htonl(INADDR_ANY);
    return IN6_IS_ADDR_UNSPECIFIED(&((const struct sockaddr_in6 *)address)->sin6_addr);
}

static bool is_link_local(const struct sockaddr_storage *address)
{
    return address->ss_family == AF_INET6 &&
           IN6_IS_ADDR_LINKLOCAL(&((const struct sockaddr_in6 *)address)->sin6_addr);
}

/* UCX listens at the first address of its interface, whichever it was told. For IPv6 it passes some over; what it took in the
 * end is looked at when it runs. */
static sl_status check_first(const struct sl_data_address *address, const struct ifaddrs *all,
                             const char *text, struct sl_err *err)
{
    struct sockaddr_storage first = {0};
    char name[64];
    for (const struct ifaddrs *i = all; i && address->at.ss_family == AF_INET; i = i->ifa_next) {
        if (!i->ifa_addr || i->ifa_addr->sa_family != AF_INET || strcmp(i->ifa_name, address->interface) != 0)
            continue;
        memcpy(&first, i->ifa_addr, sizeof(struct sockaddr_in));
        if (sl_data_address_same(&first, &address->at))
            return SL_OK;
        sl_data_address_text(&first, name, sizeof name);
        return sl_fail(
            err, SL_E_CONFIG,
            "UCX listens at the first address of an interface, for %s at %s, and cannot at %s; give "
            "--data-address %s, or an interface of its own",
            address->interface, name, text, name);
    }
    return SL_OK;
}

/* All of 127/8 is the loopback interface's, which has one of them in its list. */
static bool owns(const struct ifaddrs *i, const struct sockaddr_storage *address)
{
    struct sockaddr_storage at = {0};
    if (!i->ifa_addr || i->ifa_addr->sa_family != address->ss_family)
        return false;
    memcpy(&at, i->ifa_addr,
           address->ss_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6));
    return sl_data_address_same(&at, address) ||
           (address->ss_family == AF_INET && (i->ifa_flags & IFF_LOOPBACK) &&
            ntohl(((const struct sockaddr_in *)address)->sin_addr.s_addr) >> 24 == 127);
}

/* SL_AGAIN: none has it. */
static sl_status find_interface(struct sl_data_address *address, const char *text, struct sl_err *err)
{
    struct ifaddrs *all;
    address->interface[0] = 0;
    if (getifaddrs(&all) != 0)
        return SL_AGAIN;
    for (struct ifaddrs *i = all; i && !address->interface[0]; i = i->ifa_next)
        if (owns(i, &address->at))
            snprintf(address->interface, sizeof address->interface, "%s", i->ifa_name);
    sl_status status = address->interface[0] ? check_first(address, all, text, err) : SL_AGAIN;
    freeifaddrs(all);
    return status;
}

static sl_status pick(struct sl_data_address *out, const struct addrinfo *found, const char *text,
                      struct sl_err *err)
{
    char numeric[64];
    for (const struct addrinfo *i = found; i; i = i->ai_next) {
        if (i->ai_family != AF_INET && i->ai_family != AF_INET6)
            continue;
        memset(out, 0, sizeof *out);
        memcpy(&out->at, i->ai_addr, i->ai_addrlen);
        out->bytes = i->ai_addrlen;
        if (is_any(&out->at))
            return sl_fail(err, SL_E_CONFIG,
                           "the data address \"%s\" means every interface, but data goes over one; name the "
                           "address of the interface that the neighbours use",
                           text);
        if (is_link_local(&out->at))
            return sl_fail(
                err, SL_E_CONFIG,
                "the data address \"%s\" holds on one network link only, and UCX does not carry its zone; "
                "give the interface a global or unique local address (fd00::/8) and name that",
                text);
        sl_status status = find_interface(out, text, err);
        if (status != SL_AGAIN)
            return status;
    }
    sl_data_address_text(&out->at, numeric, sizeof numeric);
    return sl_fail(
        err, SL_E_UNAVAILABLE,
        "no network interface of this machine has the data address %s%s%s%s; name the address of the one "
        "interface that the neighbours use",
        text, strcmp(text, numeric) != 0 ? " (" : "", strcmp(text, numeric) != 0 ? numeric : "",
        strcmp(text, numeric) != 0 ? ")" : "");
}

sl_status sl_data_address_find(struct sl_data_address *address, const char *text, struct sl_err *err)
{
    char name[256];
    size_t n = strlen(text);
    bool bracketed = n > 2 && text[0] == '[' && text[n - 1] == ']';
    snprintf(name, sizeof name, "%.*s", bracketed ? (int)n - 2 : (int)n, text + bracketed);
    if (n >= sizeof name)
        return sl_fail(err, SL_E_CONFIG, "the data address \"%.40s...\" is longer than a name can be", text);
    if (strcmp(name, "*") == 0)
        snprintf(name, sizeof name, "0.0.0.0");
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
    int error = getaddrinfo(name, NULL, &hints, &found);
    if (error)
        return sl_fail(
            err, SL_E_CONFIG,
            "the data address \"%s\" is no IP address and no name that this machine knows (%s); give an "
            "address or a name of this machine's",
            text, gai_strerror(error));
    sl_status status = pick(address, found, text, err);
    freeaddrinfo(found);
    return status;
}
