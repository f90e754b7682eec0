/* The drawings, to the letter where a person would notice: rows, numbers, the diagonal, the figures
 * below.
 *
 * The example is a pipeline of two stages and three chunks in round numbers: stage 1 begins a chunk
 * when stage 0 ends it, has one gap of 10 ms, and the first token comes at 80 ms. 80 cells of axis
 * make a cell a millisecond. */
#include "node/client/timeline.h"

#include "tests/check.h"

#include <stdlib.h>

enum { T0 = 1000000000 };

#define MS(x) (T0 + (uint64_t)((x)*1000))

static const struct sl_span spans[] = {
    {1, 1, 64, 64, MS(40), MS(40), MS(50), MS(55), 0, 0},
    {0, 0, 0, 64, MS(0), MS(0), MS(20), MS(22), 0, 0},
    {0, 1, 64, 64, MS(0), MS(20), MS(40), MS(42), 0, 0},
    {1, 0, 0, 64, MS(20), MS(20), MS(40), MS(45), 0, 0},
    {0, 2, 128, 32, MS(0), MS(40), MS(60), MS(62), 0, 0},
    {1, 2, 128, 32, MS(60), MS(60), MS(80), MS(79), 0, 0},
};
static const struct sl_timeline example = {T0, 0, MS(80), MS(500), 2, 6, spans, 0, NULL};

static const char *drawn(const struct sl_timeline *timeline, uint32_t columns, bool colour)
{
    static char *text;
    size_t bytes;
    free(text);
    text = NULL;
    FILE *to = open_memstream(&text, &bytes);
    if (!to)
        exit(1);
    sl_timeline_draw(timeline, to, columns, colour);
    fclose(to);
    return text;
}

/* clang-format off */
SL_TEST(the_drawing_shows_the_diagonal) /* a picture, one line a line */
{
    CHECK_STR(drawn(&example, 90, false),
        "160 tokens, 3 chunks, 2 stages: first token after 80.0 ms (2000 tokens/s)\n"
        "\n"
        "                                                                             first token ▾\n"
        "stage 0   ├────────0─────────┤├────────1─────────┤├────────2─────────┤                    \n"
        "stage 1                       ├────────0─────────┤├───1────┤··········├────────2─────────┤\n"
        "decode KV                                              ◆0        ◆1                      ◆\n"
        "          ┴─────────┴─────────┴─────────┴─────────┴─────────┴─────────┴─────────┴────────┴\n"
        "          0 ms      10        20        30        40        50        60        70\n"
        "\n"
        "TTFT            80.0 ms\n"
        "stage 0         60.0 ms busy 100.0 %         0.0 ms bubble\n"
        "stage 1         50.0 ms busy  83.3 %        10.0 ms bubble\n"
        "done           500.0 ms\n");
}
/* clang-format on */

/* The request came 40 ms earlier and waited for others; in the gap of stage 1 others ran, too. */
static const struct sl_foreign others[] = {
    {0, MS(0), MS(40)}, {1, MS(10), MS(60)}, {1, MS(90), MS(100)}, {1, MS(130), MS(200)}, {7, MS(0), MS(9)},
};

static struct sl_timeline that_waited(struct sl_span moved[6])
{
    struct sl_timeline t = example;
    for (uint32_t i = 0; i < 6; i++) {
        moved[i] = spans[i];
        moved[i].begin_us += 40000;
        moved[i].end_us += 40000;
        moved[i].kv_acked_us = 0;
    }
    t.first_token_us = MS(120);
    t.spans = moved;
    t.n_foreign = sizeof others / sizeof *others;
    t.foreign = others;
    return t;
}

/* clang-format off */
SL_TEST(what_it_waited_for_is_grey)
{
    struct sl_span moved[6];
    struct sl_timeline t = that_waited(moved);
    const char *text = drawn(&t, 70, false);
    CHECK_CONTAINS(text,
        "stage 0   ░░░░░░░░░░░░░░░░░░░░├───0────┤├───1────┤├───2────┤          \n");
    CHECK_CONTAINS(text,
        "stage 1        ░░░░░░░░░░░░░░░░░░░░░░░░░├───0────┤├─1─┤░░░░░├───2────┤\n");
}
/* clang-format on */

SL_TEST(what_is_done_for_others_is_no_bubble)
{
    struct sl_span moved[6];
    struct sl_timeline t = that_waited(moved);
    const char *text = drawn(&t, 90, false);
    CHECK_CONTAINS(text, "stage 0         60.0 ms busy 100.0 %         0.0 ms bubble  others 40.0 ms\n");
    CHECK_CONTAINS(text, "stage 1         50.0 ms busy  83.3 %         0.0 ms bubble  others 60.0 ms\n");
    CHECK(!strstr(drawn(&example, 90, false), "others"));
}

/* Cells of each line, escapes left out, must not pass the width that was asked for. */
static uint32_t widest_row(const char *text)
{
    uint32_t widest = 0, width = 0, line = 0;
    for (; *text; text++) {
        if (*text == '\x1b')
            while (*text != 'm')
                text++;
        else if (*text == '\n') {
            if (line++ > 0 && width > widest) /* the headline may be longer */
                widest = width;
            width = 0;
        } else
            width += ((unsigned char)*text & 0xC0) != 0x80;
    }
    return widest;
}

SL_TEST(rows_keep_to_the_width)
{
    for (uint32_t columns = 60; columns <= 200; columns += 7) {
        CHECK_INT(widest_row(drawn(&example, columns, false)), columns);
        CHECK_INT(widest_row(drawn(&example, columns, true)), columns);
        struct sl_span moved[6];
        struct sl_timeline waited = that_waited(moved);
        CHECK_INT(widest_row(drawn(&waited, columns, true)),
                  columns > 74 ? columns : 74); /* the sums below */
    }
    drawn(&example, 0, true); /* a terminal that says it has no columns */
    drawn(&example, UINT32_MAX, true);
}

/* Spans that know what their work takes at the machine's peaks: 15 of 20 ms, 2 of 10 ms. */
SL_TEST(mfu_stands_under_each_chunk)
{
    struct sl_span some[6];
    struct sl_timeline timeline = example;
    memcpy(some, spans, sizeof some);
    timeline.spans = some;
    for (uint32_t i = 0; i < 6; i++)
        some[i].at_peak_us = some[i].stage == 0 ? 15000 : 0;
    some[0].at_peak_us = 2000;
    const char *text = drawn(&timeline, 90, false);
    CHECK_CONTAINS(
        text,
        "\n    MFU            75%                 75%                 75%                            \n");
    CHECK_CONTAINS(
        text,
        "\n    MFU                                               20%                                 \n");
    CHECK_CONTAINS(text, "stage 0         60.0 ms busy 100.0 %         0.0 ms bubble  MFU 75.0 %\n");
    CHECK_CONTAINS(text, "stage 1         50.0 ms busy  83.3 %        10.0 ms bubble  MFU 4.0 %\n");
    CHECK_INT(widest_row(drawn(&timeline, 90, true)), 90);
    CHECK(!strstr(drawn(&example, 90, false), "MFU"));
}

/* Chunks of 20 ms, of which the first should take 25 and the others 19. */
SL_TEST(what_was_predicted_stands_beside_what_was_measured)
{
    struct sl_span some[6];
    struct sl_timeline timeline = example;
    memcpy(some, spans, sizeof some);
    timeline.spans = some;
    uint32_t n = 0;
    for (uint32_t i = 0; i < 6; i++)
        if (some[i].stage == 0)
            some[i].predicted_us = n++ == 0 ? 25000 : 19000;
    const char *text = drawn(&timeline, 90, false);
    CHECK_CONTAINS(text,
                   "stage 0         60.0 ms busy 100.0 %         0.0 ms bubble  predicted 63.0 ms (+5 %, a "
                   "chunk up to +25 %)\n");
    CHECK_CONTAINS(text, "stage 1         50.0 ms busy  83.3 %        10.0 ms bubble\n");
    CHECK(!strstr(drawn(&example, 90, false), "predicted"));
}

SL_TEST(colour_is_asked_for)
{
    CHECK(!strchr(drawn(&example, 90, false), '\x1b'));
    const char *text = drawn(&example, 90, true);
    CHECK_CONTAINS(text, "48;5;75m         0          \x1b[0m\x1b[38;5;16;48;5;215m         1          ");
    CHECK(!strstr(text, "├"));
}

SL_TEST(chunks_side_by_side_never_share_a_colour)
{
    struct sl_span many[40];
    for (uint32_t i = 0; i < 40; i++)
        many[i] = (struct sl_span){0, i, i, 1, MS(i), MS(i), MS(i + 1), 0, 0, 0};
    struct sl_timeline timeline = {T0, 0, MS(40), MS(40), 1, 40, many, 0, NULL};
    const char *text = drawn(&timeline, 90, true), *at = text;
    int before = -1, seen = 0;
    while ((at = strstr(at, "38;5;16;48;5;")) != NULL) {
        int colour = atoi(at += strlen("38;5;16;48;5;"));
        CHECK(colour != before);
        before = colour;
        seen++;
    }
    CHECK_INT(seen, 40);
    CHECK(!strstr(text, "decode KV")); /* nothing was handed off */
}

SL_TEST(what_did_not_happen_is_not_drawn)
{
    struct sl_timeline none = {T0, 0, 0, 0, 2, 0, NULL, 0, NULL};
    CHECK_CONTAINS(drawn(&none, 80, true), "no stage reported any work");
    struct sl_timeline early = example;
    early.first_token_us = 0;
    early.done_us = 0;
    const char *text = drawn(&early, 90, false);
    CHECK_CONTAINS(text, "no first token yet");
    CHECK(!strstr(text, "▾") && !strstr(text, "TTFT") && !strstr(text, "done"));
}

/* Spans come over the network: times before admission, backwards, far away, and stages that we do
 * not have. */
SL_TEST(spans_out_of_place_do_no_harm)
{
    static const struct sl_span odd[] = {
        {0, 7, 0, 5, 0, T0 - 500, MS(3), 0, UINT64_MAX, UINT64_MAX},
        {0, 8, UINT32_MAX, UINT32_MAX, 0, MS(9), MS(4), MS(2), UINT64_MAX,
         UINT64_MAX},                                        /* ends before it begins */
        {9, 9, 0, 5, 0, MS(1), MS(2), MS(2), UINT64_MAX, 0}, /* of no stage */
        {1, UINT32_MAX, 0, 5, 0, MS(1), UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX},
        {1, UINT32_MAX, 0, 5, UINT64_MAX, 0, 0, 0, UINT64_MAX, UINT64_MAX},
    };
    struct sl_timeline timeline = {T0, 0, MS(1), 0, 2, 5, odd, 0, NULL};
    char path[512];
    struct sl_err err;
    CHECK_CONTAINS(drawn(&timeline, 80, true), "stage 1");
    snprintf(path, sizeof path, "%s/odd.svg", sl_test_dir());
    CHECK_INT(sl_timeline_svg(&timeline, path, &err), SL_OK);
    timeline.n_spans = 1;
    CHECK_CONTAINS(drawn(&timeline, 80, false), "stage 0          3.0 ms busy 100.0 %");
}

static uint32_t count(const char *text, const char *part)
{
    uint32_t n = 0;
    for (; (text = strstr(text, part)) != NULL; text++)
        n++;
    return n;
}

SL_TEST(the_svg_has_a_bar_a_span_and_a_mark_a_chunk)
{
    char path[512];
    static char text[65536];
    struct sl_err err;
    snprintf(path, sizeof path, "%s/timeline.svg", sl_test_dir());
    REQUIRE(sl_timeline_svg(&example, path, &err) == SL_OK);
    FILE *file = fopen(path, "r");
    REQUIRE(file);
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    fclose(file);
    CHECK(strncmp(text, "<svg xmlns=\"http://www.w3.org/2000/svg\"", 39) == 0);
    CHECK_INT(count(text, "<rect"), 1 + 6);
    CHECK_INT(count(text, "the decode worker has chunk"), 3);
    CHECK_INT(count(text, " C"), 3); /* one hand-off a chunk */
    CHECK_INT(count(text, "<text"), count(text, "</text>"));
    CHECK_INT(count(text, "<title"), count(text, "</title>"));
    CHECK_CONTAINS(text, "chunk 1 on stage 1: tokens 64 to 128, 40.00 to 50.00 ms (10.00 ms)");
    CHECK_CONTAINS(text, "busy 83.3 %");
    CHECK_CONTAINS(text, "first token");
    CHECK_CONTAINS(text, "</svg>");
}

SL_TEST(the_svg_has_a_grey_bar_for_work_of_others)
{
    char path[512];
    static char text[65536];
    struct sl_err err;
    struct sl_span moved[6];
    struct sl_timeline t = that_waited(moved);
    snprintf(path, sizeof path, "%s/waited.svg", sl_test_dir());
    REQUIRE(sl_timeline_svg(&t, path, &err) == SL_OK);
    FILE *file = fopen(path, "r");
    REQUIRE(file);
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    fclose(file);
    CHECK_INT(count(text, "<rect"), 1 + 6 + 3); /* not after the axis, nor of a stage that is not there */
    CHECK_INT(count(text, "for other requests"), 3);
    CHECK_CONTAINS(text, "stage 1 for other requests: 10.00 to 60.00 ms");
    CHECK_CONTAINS(text, ">bubble 0.0 ms<");
    CHECK_CONTAINS(text, ">others 60.0 ms<");
}

SL_TEST(a_path_that_cannot_be_written_is_named)
{
    struct sl_err err;
    CHECK_INT(sl_timeline_svg(&example, "/nonexistent/t.svg", &err), SL_E_IO);
    CHECK_CONTAINS(err.text, "/nonexistent/t.svg");
    CHECK_INT(sl_timeline_svg(&example, "/dev/full", &err), SL_E_IO);
    CHECK_CONTAINS(err.text, "/dev/full");
}
