/* Files that are there whole or not at all, and texts of strangers in them. */
#include "bench/serve/written.h"
#include "tests/check.h"

#include <math.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static char *path_in(const char *name)
{
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", sl_test_dir(), name);
    return path;
}

static const char *content(const char *path)
{
    static char text[256];
    FILE *from = fopen(path, "r");
    size_t n = from ? fread(text, 1, sizeof text - 1, from) : 0;
    if (from)
        fclose(from);
    text[n] = 0;
    return from ? text : "(none)";
}

static const char *said(void (*write)(FILE *, const char *), const char *text)
{
    static char *out;
    size_t bytes;
    free(out);
    out = NULL;
    FILE *to = open_memstream(&out, &bytes);
    if (!to)
        exit(1);
    write(to, text);
    fclose(to);
    return out;
}

SL_TEST(what_stood_there_stays_until_all_of_it_is_written)
{
    struct sl_written written;
    const char *path = path_in("a");
    REQUIRE(sl_written_open(&written, "page", path, NULL) == SL_OK);
    fputs("old", written.to);
    CHECK_STR(content(path), "(none)");
    REQUIRE(sl_written_close(&written, NULL) == SL_OK);
    CHECK_STR(content(path), "old");
    REQUIRE(sl_written_open(&written, "page", path, NULL) == SL_OK);
    fputs("new", written.to);
    fflush(written.to);
    CHECK_STR(content(path), "old");
    sl_written_drop(&written);
    CHECK_STR(content(path), "old");
    REQUIRE(sl_written_open(&written, "page", path, NULL) == SL_OK);
    fputs("new", written.to);
    REQUIRE(sl_written_close(&written, NULL) == SL_OK);
    CHECK_STR(content(path), "new");
    unlink(path);
    CHECK_INT(rmdir(sl_test_dir()), 0); /* nothing was left beside it */
}

SL_TEST(what_cannot_be_moved_to_its_place_leaves_nothing)
{
    struct sl_written written;
    struct sl_err err;
    const char *path = path_in("a");
    REQUIRE(sl_written_open(&written, "page", path, NULL) == SL_OK);
    REQUIRE(mkdir(path, 0700) == 0); /* meanwhile somebody takes the place */
    CHECK_INT(sl_written_close(&written, &err), SL_E_IO);
    CHECK_CONTAINS(err.text, path);
    CHECK_INT(rmdir(path), 0);
    CHECK_INT(rmdir(sl_test_dir()), 0);
}

SL_TEST(an_error_names_the_path)
{
    struct sl_written written;
    struct sl_err err;
    const char *path = path_in("no/such/folder");
    CHECK_INT(sl_written_open(&written, "page", path, &err), SL_E_IO);
    CHECK_CONTAINS(err.text, path);
    CHECK_CONTAINS(err.text, "No such file");
    REQUIRE(sl_written_open(&written, "results", "/dev/full", &err) == SL_OK);
    fputs("x", written.to);
    CHECK_INT(sl_written_close(&written, &err), SL_E_IO);
    CHECK_CONTAINS(err.text, "results /dev/full: No space left");
    CHECK(access("/dev/full", W_OK) == 0);
}

SL_TEST(text_stays_text)
{
    CHECK_STR(said(sl_write_html, "<b a=\"1\">&amp;\n</b>"), "&lt;b a=&quot;1&quot;&gt;&amp;amp; &lt;/b&gt;");
    CHECK_STR(said(sl_write_html, "é 語 \xf0\x9f\x98\x80"), "é 語 \xf0\x9f\x98\x80");
    CHECK_STR(said(sl_write_json, "\"\\\n\x01 é"), "\"\\\"\\\\\\u000a\\u0001 é\"");
    CHECK_STR(said(sl_write_json, NULL), "null");
}

SL_TEST(what_is_no_utf8_is_replaced)
{
    static const char *const bad[] = {"\xff",
                                      "\x80",
                                      "\xc3",
                                      "\xc0\xaf",
                                      "\xe0\x80\x80",
                                      "\xed\xa0\x80",
                                      "\xf4\x90\x80\x80",
                                      "\xef\xbf\xbf",
                                      "\xf0\x9f\x98",
                                      "\xc3(",
                                      "\x01",
                                      "\x7f"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const char *html = said(sl_write_html, bad[i]);
        CHECK(strncmp(html, "\xef\xbf\xbd", 3) == 0);
        const char *json = said(sl_write_json, bad[i]);
        CHECK(strncmp(json, "\"\\u", 3) == 0);
        for (; *json; json++)
            CHECK((unsigned char)*json < 0x80);
    }
}

SL_TEST(numbers_are_numbers_or_null)
{
    static const double values[] = {0, 1.5, 1e9, NAN, INFINITY, -INFINITY};
    static const char *const names[] = {"0", "1.5", "1e+09", "null", "null", "null"};
    for (int i = 0; i < 6; i++) {
        char *out = NULL;
        size_t bytes;
        FILE *to = open_memstream(&out, &bytes);
        REQUIRE(to != NULL);
        sl_write_number(to, values[i]);
        fclose(to);
        CHECK_STR(out, names[i]);
        free(out);
    }
}
