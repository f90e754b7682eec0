/* Data addresses: what is understood, and that the rest is refused in a sentence that names it. */
#include "pipeline/link/data_address.h"
#include "tests/check.h"

#include <arpa/inet.h>
#include <netinet/in.h>

SL_TEST(name_and_number_lead_to_the_interface)
{
    static const char *const same[] = {"127.0.0.1", "localhost"};
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        struct sl_data_address address;
        struct sl_err err = {0};
        char text[64];
        CHECK_INT(sl_data_address_find(&address, same[i], &err), SL_OK);
        CHECK_STR(address.interface, "lo");
        sl_data_address_text(&address.at, text, sizeof text);
        CHECK_STR(text, "127.0.0.1");
    }
}

SL_TEST(address_that_cannot_be_bound_is_refused_by_name)
{
    static const struct {
        const char *address;
        sl_status status;
        const char *says;
    } rows[] = {{"no such name", SL_E_CONFIG, "no such name"},
                {"", SL_E_CONFIG, "no IP address"},
                {"127.0.0.1:13000", SL_E_CONFIG, "127.0.0.1:13000"},
                {"[::1", SL_E_CONFIG, "[::1"},
                {"0.0.0.0", SL_E_CONFIG, "every interface"},
                {"::", SL_E_CONFIG, "every interface"},
                {"[::]", SL_E_CONFIG, "every interface"},
                {"*", SL_E_CONFIG, "every interface"},
                {"fe80::1%lo", SL_E_CONFIG, "fe80::1%lo"},
                {"[fe80::1%lo]", SL_E_CONFIG, "one network link only"},
                {"203.0.113.9", SL_E_UNAVAILABLE, "203.0.113.9"},
                {"[2001:db8::9]", SL_E_UNAVAILABLE, "2001:db8::9"},
                {"127.0.0.2", SL_E_CONFIG, "give --data-address 127.0.0.1"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct sl_data_address address;
        struct sl_err err = {0};
        CHECK_INT(sl_data_address_find(&address, rows[i].address, &err), rows[i].status);
        CHECK_CONTAINS(err.text, rows[i].says);
    }
    char longest[400];
    struct sl_data_address address;
    struct sl_err err = {0};
    memset(longest, 'a', sizeof longest);
    longest[sizeof longest - 1] = 0;
    CHECK_INT(sl_data_address_find(&address, longest, &err), SL_E_CONFIG);
    CHECK_CONTAINS(err.text, "longer than a name can be");
}

SL_TEST(addresses_are_compared_without_their_ports)
{
    struct sockaddr_storage a = {.ss_family = AF_INET}, b = a, c = {.ss_family = AF_INET6};
    inet_pton(AF_INET, "10.0.0.1", &((struct sockaddr_in *)&a)->sin_addr);
    inet_pton(AF_INET, "10.0.0.2", &((struct sockaddr_in *)&b)->sin_addr);
    CHECK(!sl_data_address_same(&a, &b) && !sl_data_address_same(&a, &c));
    b = a;
    sl_data_address_set_port(&b, 7);
    CHECK(sl_data_address_same(&a, &b));
    CHECK_INT(ntohs(((struct sockaddr_in *)&b)->sin_port), 7);
    struct sockaddr_storage d = c;
    inet_pton(AF_INET6, "fd00::2", &((struct sockaddr_in6 *)&c)->sin6_addr);
    CHECK(!sl_data_address_same(&c, &d));
    sl_data_address_set_port(&c, 9);
    CHECK_INT(ntohs(((struct sockaddr_in6 *)&c)->sin6_port), 9);
}
