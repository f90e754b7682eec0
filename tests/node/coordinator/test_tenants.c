/* node/coordinator/tenants.c: names that a gateway may send, and lists of weights that an operator may type. */
#include "node/coordinator/tenants.h"
#include "tests/check.h"
#include <stdlib.h>

SL_TEST(a_name_is_printable_and_fits)
{
    char name[SL_MAX_TENANT + 1];
    memset(name, 'a', sizeof name);
    CHECK(sl_tenant_is_name("", 0));
    CHECK(sl_tenant_is_name("team-7/blue=x", 13));
    CHECK(sl_tenant_is_name(name, SL_MAX_TENANT - 1));
    CHECK(!sl_tenant_is_name(name, SL_MAX_TENANT));
    for (int byte = 0; byte < 256; byte++) {
        name[3] = (char)byte;
        CHECK_INT(sl_tenant_is_name(name, 5), byte > 0x20 && byte < 0x7f);
    }
}

SL_TEST(a_list_of_weights_is_read)
{
    struct sl_tenant_weights w;
    struct sl_err err;
    CHECK_INT(sl_tenant_weights_read(&w, NULL, "--tenant-weight", &err), SL_OK);
    CHECK_INT(w.n, 0);
    CHECK_INT(sl_tenant_weights_read(&w, "a=2,b=0.5,c=d=1000,=3,", "--tenant-weight", &err), SL_OK);
    REQUIRE(w.n == 4);
    CHECK(w.list[0].weight == 2 && w.list[1].weight == 0.5 && w.list[2].weight == 1000);
    CHECK_STR(w.list[0].tenant, "a");
    CHECK_STR(w.list[2].tenant, "c=d");
    CHECK_STR(w.list[3].tenant, "");
}

SL_TEST(what_is_no_weight_is_refused_by_name)
{
    static const char *const bad[] = {
        "a=0",      "a=0.0",
        "a=-1",     "a=+1",
        "a=nan",    "a=inf",
        "a=1e3",    "a=0x2",
        "a=",       "a=.",
        "a=1..2",   "a= 1",
        "a=1 ",     "a=two",
        "a=1000.1", "a",
        "=",        ",a=1",
        "a b=1",    "a=1,,b=2",
        "a=0.0001", "a=99999999999999999999",
        "a=1,a=2",  "\x80=1",
    };
    struct sl_tenant_weights w;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct sl_err err = {0};
        sl_status status = sl_tenant_weights_read(&w, bad[i], "--tenant-weight", &err);
        if (status != SL_E_USAGE)
            sl_test_fail(__FILE__, __LINE__, "\"%s\" is taken", bad[i]);
        CHECK_CONTAINS(err.text, "--tenant-weight");
    }
}

SL_TEST(more_weights_than_there_is_room_for_are_refused)
{
    char list[80 * 8] = "", *at = list;
    struct sl_tenant_weights w;
    struct sl_err err;
    for (int i = 0; i < SL_MAX_WEIGHTS; i++)
        at += sprintf(at, "t%d=1,", i);
    CHECK_INT(sl_tenant_weights_read(&w, list, "--tenant-weight", &err), SL_OK);
    CHECK_INT(w.n, SL_MAX_WEIGHTS);
    strcpy(at, "u=1");
    CHECK_INT(sl_tenant_weights_read(&w, list, "--tenant-weight", &err), SL_E_USAGE);
    CHECK_CONTAINS(err.text, "more than 64");
}
