/* node/edge/traceparent.c: what is a traceparent to the letter, and what is as if it had not come. */
#include "node/edge/traceparent.h"
#include "tests/check.h"
#include <string.h>

#define TRACE "4bf92f3577b34da6a3ce929d0e0e4736"
#define PARENT "00f067aa0ba902b7"

static bool reads(const char *text)
{
    struct sl_traceparent out;
    memset(&out, 0xee, sizeof out);
    bool whole = sl_traceparent_read(&out, text, strlen(text));
    static const struct sl_traceparent none;
    CHECK(whole || memcmp(&out, &none, sizeof out) == 0);
    return whole;
}

SL_TEST(a_traceparent_is_read_with_its_flag)
{
    struct sl_traceparent out;
    const char *text = "00-" TRACE "-" PARENT "-01";
    char hex[33];
    CHECK(sl_traceparent_read(&out, text, strlen(text)));
    CHECK(out.sampled);
    sl_hex_write(hex, out.trace_id, sizeof out.trace_id);
    CHECK_STR(hex, TRACE);
    sl_hex_write(hex, out.parent_id, sizeof out.parent_id);
    CHECK_STR(hex, PARENT);
    text = "00-" TRACE "-" PARENT "-fe";
    CHECK(sl_traceparent_read(&out, text, strlen(text)));
    CHECK(!out.sampled);
}

SL_TEST(what_is_not_to_the_letter_is_none)
{
    CHECK(!reads(""));
    CHECK(!reads("00-" TRACE "-" PARENT));
    CHECK(!reads("00-" TRACE "-" PARENT "-0"));
    CHECK(!reads("00-" TRACE "-" PARENT "-0g"));
    CHECK(!reads("00-" TRACE "-" PARENT "-01-more")); /* not of version 0 */
    CHECK(!reads("00-" TRACE "-" PARENT "-011"));
    CHECK(!reads("ff-" TRACE "-" PARENT "-01"));
    CHECK(!reads("0x-" TRACE "-" PARENT "-01"));
    CHECK(!reads("00_" TRACE "-" PARENT "-01"));
    CHECK(!reads("00-" TRACE "_" PARENT "-01"));
    CHECK(!reads("00-" TRACE "-" PARENT "_01"));
    CHECK(!reads("00-4BF92F3577B34DA6A3CE929D0E0E4736-" PARENT "-01"));
    CHECK(!reads("00-00000000000000000000000000000000-" PARENT "-01"));
    CHECK(!reads("00-" TRACE "-0000000000000000-01"));
}

SL_TEST(a_version_to_come_may_say_more_behind_a_dash)
{
    CHECK(reads("01-" TRACE "-" PARENT "-01"));
    CHECK(reads("cc-" TRACE "-" PARENT "-01-what-the-future-will-be-like"));
    CHECK(!reads("cc-" TRACE "-" PARENT "-01.what"));
}

SL_TEST(what_is_written_is_read_again)
{
    struct sl_traceparent in = {.trace_id = {0x4b, [15] = 0x36}, .parent_id = {[7] = 0xb7}, .sampled = true},
                          out;
    char text[SL_TRACEPARENT_ROOM];
    for (int sampled = 0; sampled < 2; sampled++) {
        in.sampled = sampled;
        sl_traceparent_write(text, &in);
        CHECK(sl_traceparent_read(&out, text, strlen(text)));
        CHECK(memcmp(in.trace_id, out.trace_id, sizeof in.trace_id) == 0 && in.sampled == out.sampled &&
              memcmp(in.parent_id, out.parent_id, sizeof in.parent_id) == 0);
    }
    CHECK_STR(text, "00-4b000000000000000000000000000036-00000000000000b7-01");
}
