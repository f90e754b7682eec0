/* Tests of server-sent events: the same events come of every way in which the bytes can be cut. */
#include "bench/serve/sse.h"
#include "tests/check.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

struct sse_heard {
    char text[512];
    uint32_t n;
};

static void hear(void *user, char *data, size_t bytes)
{
    struct sse_heard *heard = user;
    CHECK_INT(strlen(data), bytes);
    heard->n++;
    strncat(heard->text, data, sizeof heard->text - strlen(heard->text) - 2);
    strcat(heard->text, "|");
}

static const char stream[] =
    ": comment\r\ndata: {\"a\":1}\r\n\r\nevent: x\nid: 7\ndata:two\ndata: lines\n\n\n\ndata\ndata:\n\ndata: [DONE]\n\n";
static const char *const wanted = "{\"a\":1}|two\nlines||[DONE]|";

SL_TEST(events_are_the_same_however_the_bytes_are_cut)
{
    for (size_t piece = 1; piece <= sizeof stream; piece++) {
        struct sl_sse sse = {0};
        struct sse_heard heard = {0};
        for (size_t at = 0; at < sizeof stream - 1; at += piece) {
            size_t left = sizeof stream - 1 - at;
            REQUIRE(sl_sse_feed(&sse, stream + at, left < piece ? left : piece, hear, &heard) == SL_OK);
        }
        CHECK_STR(heard.text, wanted);
        sl_sse_free(&sse);
    }
}

SL_TEST(what_has_no_last_empty_line_is_an_event_too)
{
    struct sl_sse sse = {0};
    struct sse_heard heard = {0};
    REQUIRE(sl_sse_feed(&sse, "data: a\n\ndata: b", 16, hear, &heard) == SL_OK);
    CHECK_STR(heard.text, "a|");
    sl_sse_end(&sse, hear, &heard);
    CHECK_STR(heard.text, "a|b|");
    sl_sse_end(&sse, hear, &heard);
    CHECK_INT(heard.n, 2);
    sl_sse_free(&sse);
}

SL_TEST(a_line_without_end_is_an_error_and_not_all_memory)
{
    struct sl_sse sse = {0};
    struct sse_heard heard = {0};
    char *block = calloc(1, 1 << 20);
    REQUIRE(block != NULL);
    memset(block, 'x', 1 << 20);
    sl_status status = sl_sse_feed(&sse, "data: ", 6, hear, &heard);
    for (int i = 0; i < 5 && status == SL_OK; i++)
        status = sl_sse_feed(&sse, block, 1 << 20, hear, &heard);
    CHECK(status == SL_E_PROTOCOL);
    CHECK(sse.room <= 2 * SL_SSE_MAX_EVENT + 16);
    sl_sse_reset(&sse);
    REQUIRE(sl_sse_feed(&sse, "data: b\n\n", 9, hear, &heard) == SL_OK);
    CHECK_STR(heard.text, "b|");
    sl_sse_free(&sse);
    free(block);
}
