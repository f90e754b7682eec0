/* The page: well formed whatever is in it, with what was measured said and nothing made up. How it looks
 * is looked at, not tested. */
#include "tests/bench/serve/reports.h"
#include "tests/check.h"

#include <ctype.h>
#include <unistd.h>

static struct made made;

/* The page of a report, or NULL; the caller frees it. */
static char *page_of(const struct made_config *config, void (*change)(void))
{
    char path[512];
    size_t bytes;
    struct sl_err err = {0};
    snprintf(path, sizeof path, "%s/page.html", sl_test_dir());
    if (!made_init(&made, config))
        return NULL;
    if (change)
        change();
    sl_status status = sl_report_html(&made.report, path, &err);
    made_fini(&made);
    if (status != SL_OK) {
        sl_test_fail(__FILE__, __LINE__, "%s", err.text);
        return NULL;
    }
    char *text = made_read(path, &bytes);
    unlink(path);
    if (text && strlen(text) == bytes)
        return text;
    free(text);
    return NULL;
}

/* ---- a checker of tags ---- */

static const char *const known_tags[] = {
    "html",    "head",       "meta",  "title", "style", "body", "header", "h1",  "h2",
    "h3",      "p",          "span",  "small", "code",  "b",    "em",     "div", "details",
    "summary", "table",      "thead", "tbody", "tr",    "th",   "td",     "ul",  "li",
    "figure",  "figcaption", "svg",   "g",     "path",  "rect", "text",   NULL};

static bool is_known(const char *name, size_t n)
{
    for (const char *const *tag = known_tags; *tag; tag++)
        if (strlen(*tag) == n && strncmp(*tag, name, n) == 0)
            return true;
    return false;
}

static bool is_entity(const char *at)
{
    return !strncmp(at, "&lt;", 4) || !strncmp(at, "&gt;", 4) || !strncmp(at, "&amp;", 5) ||
           !strncmp(at, "&quot;", 6);
}

/* After the name of a tag: attributes as name="value". Where the tag ends, or NULL. */
static const char *skip_attributes(const char *at)
{
    while (*at == ' ') {
        at++;
        while (isalpha((unsigned char)*at) || *at == '-' || isdigit((unsigned char)*at))
            at++;
        if (at[0] != '=' || at[1] != '"')
            return NULL;
        for (at += 2; *at != '"'; at++)
            if (!*at || *at == '<' || (*at == '&' && !is_entity(at)))
                return NULL;
        at++;
    }
    return at;
}

/* NULL: every tag is known and closed in its turn, every attribute quoted, every & an entity. Else where
 * not. */
static const char *first_fault(const char *page)
{
    struct {
        const char *name;
        size_t n;
    } open[64];
    uint32_t depth = 0;
    const char *at = page;
    if (strncmp(at, "<!DOCTYPE html>\n", 16) != 0)
        return at;
    for (at += 16; *at;) {
        if (*at == '&' && !is_entity(at))
            return at;
        if (*at != '<') {
            at++;
            continue;
        }
        bool closes = at[1] == '/';
        const char *name = at + 1 + closes, *end = name;
        while (isalnum((unsigned char)*end))
            end++;
        size_t n = (size_t)(end - name);
        if (!is_known(name, n))
            return at;
        if (closes) {
            if (*end != '>' || depth == 0 || open[depth - 1].n != n ||
                strncmp(open[depth - 1].name, name, n) != 0)
                return at;
            depth--;
            at = end + 1;
            continue;
        }
        end = skip_attributes(end);
        if (!end || !(*end == '>' || (end[0] == '/' && end[1] == '>')))
            return at;
        if (*end == '>') {
            if (depth == 64)
                return at;
            open[depth].name = name;
            open[depth++].n = n;
        }
        at = end + (*end == '>' ? 1 : 2);
    }
    return depth == 0 ? NULL : at;
}

SL_TEST(the_checker_of_tags_sees_faults)
{
    static const char *const bad[] = {
        "<p>",   "</p>",         "<p></b>",       "<script></script>", "<p a=b></p>",
        "a & b", "<p a=\"<\"/>", "<p a=\"&x\"/>", "<b><p></b></p>",    "<p"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char page[128];
        snprintf(page, sizeof page, "<!DOCTYPE html>\n<html>%s</html>", bad[i]);
        CHECK(first_fault(page) != NULL);
    }
    CHECK(first_fault("<!DOCTYPE html>\n<html><p a=\"&lt;\">&amp;<svg/></p></html>") == NULL);
}

/* ---- pages ---- */

/* A number that is none, as printf says it: a word of its own. */
static bool has_word(const char *page, const char *word)
{
    for (const char *at = page; (at = strstr(at, word)) != NULL; at++)
        if (!isalpha((unsigned char)at[-1]) && !isalpha((unsigned char)at[strlen(word)]))
            return true;
    return false;
}

static void check_whole(const char *page)
{
    REQUIRE(page != NULL);
    const char *fault = first_fault(page);
    if (fault)
        sl_test_fail(__FILE__, __LINE__, "not well formed: %.120s", fault);
    CHECK(!has_word(page, "nan") && !has_word(page, "inf"));
    /* readable without a network: nothing is fetched */
    CHECK(!strstr(page, "src=") && !strstr(page, "href=") && !strstr(page, "url(") &&
          !strstr(page, "@import"));
}

static const struct made_config ten = {
    .n_runs = 1, .n_requests = 10, .n_classes = 1, .n_stages = 4, .rate = 4, .most_tokens = 40};
static const struct made_config sweep = {.n_runs = 6,
                                         .n_requests = 250,
                                         .n_classes = 3,
                                         .sweep = true,
                                         .rate = 6,
                                         .fail_share = 0.05,
                                         .most_tokens = 20};
static const struct made_config ours = {.n_runs = 1,
                                        .n_requests = 500,
                                        .n_classes = 3,
                                        .n_stages = 4,
                                        .rate = 20,
                                        .fail_share = 0.02,
                                        .warm_s = 2,
                                        .most_tokens = 20};

SL_TEST(pages_are_well_formed)
{
    const struct made_config configs[] = {
        ten,
        sweep,
        ours,
        {.n_runs = 3,
         .n_requests = 100,
         .n_classes = 2,
         .n_stages = 2,
         .rate = 12,
         .fail_share = 0.02,
         .most_tokens = 20},
        {.n_runs = 3,
         .n_requests = 60,
         .n_classes = 1,
         .n_stages = 3,
         .sweep = true,
         .rate = 9,
         .most_tokens = 20},
        {.n_runs = 1, .n_requests = 1, .n_classes = 1, .rate = 4, .most_tokens = 1},
        {.n_runs = 2, .n_requests = 0, .n_classes = 2, .sweep = true, .rate = 4, .most_tokens = 1},
        {.n_runs = 1, .n_requests = 60, .n_classes = 2, .rate = 4, .fail_share = 1, .most_tokens = 1}};
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) {
        char *page = page_of(&configs[i], NULL);
        check_whole(page);
        free(page);
    }
}

SL_TEST(names_of_strangers_are_text)
{
    char *page = page_of(&ours, NULL);
    check_whole(page); /* no tag "script" is known to it */
    REQUIRE(page != NULL);
    CHECK_CONTAINS(page, "batch &lt;script&gt;alert(1)&lt;/script&gt; &amp; &quot;co&quot;");
    CHECK_CONTAINS(page, "Qwen3-30B-A3B &lt;cut&gt;");
    CHECK_CONTAINS(page, "&lt;/td&gt;&lt;script&gt;");
    CHECK_CONTAINS(page, "the stream broke: &lt;b&gt;connection reset&lt;/b&gt; \xef\xbf\xbd\xef\xbf\xbd( "
                         "&quot;by&quot; peer\xef\xbf\xbd");
    free(page);
}

SL_TEST(a_figure_without_data_is_left_out)
{
    static const char *const captions[] = {
        "TTFT over rate",     "Goodput and throughput", "Output</h3>",
        "TTFT, distribution", "TPOT, distribution",     "ITL, distribution",
        "Where TTFT went",    "<h3>Requests",           "Stages over time"};
    static const struct {
        struct made_config config;
        const char *has;
    } cases[] = {
        {{.n_runs = 1, .n_classes = 1, .rate = 4}, "---------"},
        {{.n_runs = 1, .n_requests = 40, .n_classes = 1, .rate = 4, .fail_share = 1, .most_tokens = 1},
         "-------+-"},
        {{.n_runs = 1, .n_requests = 40, .n_classes = 1, .rate = 4, .most_tokens = 9}, "---+++-+-"},
        {{.n_runs = 1, .n_requests = 40, .n_classes = 1, .n_stages = 2, .rate = 4, .most_tokens = 9},
         "---++++++"},
        {{.n_runs = 2, .n_requests = 40, .n_classes = 1, .sweep = true, .rate = 4, .most_tokens = 9},
         "++++++-+-"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *page = page_of(&cases[i].config, NULL);
        check_whole(page);
        for (size_t k = 0; page && k < sizeof captions / sizeof *captions; k++)
            if ((strstr(page, captions[k]) != NULL) != (cases[i].has[k] == '+'))
                sl_test_fail(__FILE__, __LINE__, "case %zu: \"%s\" is %s", i, captions[k],
                             cases[i].has[k] == '+' ? "missing" : "drawn");
        free(page);
    }
}

SL_TEST(a_distribution_leaves_the_figure_where_failures_begin)
{
    static const double shares[] = {0.05, 0.3, 0.7};
    for (int i = 0; i < 3; i++) {
        struct made_config config = {.n_runs = 1,
                                     .n_requests = 400,
                                     .n_classes = 1,
                                     .rate = 10,
                                     .fail_share = shares[i],
                                     .most_tokens = 5};
        REQUIRE(made_init(&made, &config));
        double share = made.runs[0].all.figures[SL_TTFT].n_failed / 400.0;
        made_fini(&made);
        char *page = page_of(&config, NULL);
        REQUIRE(page != NULL);
        const char *figure = strstr(page, "TTFT, distribution"),
                   *cross = figure ? strstr(figure, "class=\"cross\" d=\"M") : NULL;
        REQUIRE(cross != NULL);
        /* 58 to 466 units are 1 to 800 of 1 / (1 - q), log; the middle of the mark is 4 units further than
         * its begin */
        CHECK(fabs(strtod(cross + 18, NULL) + 4 - (58 + 408 * log(1 / share) / log(800))) < 0.1);
        const char *curve = strstr(strstr(figure, "class=\"axis\""), "class=\"l k0\" d=\""),
                   *end = curve ? strstr(curve, "\"/>") : NULL;
        REQUIRE(end != NULL);
        CHECK(strncmp(end - 5, "V28.0", 5) == 0); /* straight up to the top, which is at 28 */
        free(page);
    }
}

static void spoil(void)
{
    made.runs[0].invalid = true;
}

SL_TEST(an_invalid_run_is_said_at_the_top)
{
    char *page = page_of(&ten, NULL), *spoiled = page_of(&ten, spoil);
    check_whole(spoiled);
    REQUIRE(page && spoiled);
    CHECK(!strstr(page, "INVALID"));
    CHECK_CONTAINS(spoiled, "<b>INVALID</b> 1 of 1 runs");
    CHECK(strstr(spoiled, "INVALID") < strstr(spoiled, "Key figures"));
    free(page);
    free(spoiled);
}

SL_TEST(a_report_without_a_run_says_so)
{
    struct made_config none = ten;
    none.n_runs = 0;
    char *page = page_of(&none, NULL);
    check_whole(page);
    CHECK(page && strstr(page, "Nothing was measured"));
    free(page);
}

SL_TEST(what_is_not_known_is_not_shown_as_a_number)
{
    struct made_config most_fail = {
        .n_runs = 1, .n_requests = 400, .n_classes = 1, .rate = 10, .fail_share = 0.7, .most_tokens = 10};
    char *few = page_of(&ten, NULL), *failed = page_of(&most_fail, NULL);
    REQUIRE(few && failed);
    CHECK_CONTAINS(few, "too few samples"); /* the p99 of ten requests */
    CHECK_CONTAINS(few, "<td class=\"na\">n/a</td>");
    CHECK_CONTAINS(failed, "lies among failed requests"); /* the median when most fail */
    CHECK_CONTAINS(failed, "<td class=\"bad\">failed");
    CHECK_CONTAINS(failed, "class=\"cross\""); /* and in the distribution */
    free(few);
    free(failed);
}

SL_TEST(a_curve_without_a_known_point_is_told_in_words)
{
    struct made_config config = {
        .n_runs = 2, .n_requests = 250, .n_classes = 2, .sweep = true, .rate = 6, .most_tokens = 9};
    char *page = page_of(&config, NULL);
    check_whole(page);
    REQUIRE(page != NULL);
    CHECK_CONTAINS(page, "Too few samples for p99.");
    CHECK(!strstr(page, "TTFT p99 by class"));
    free(page);
}

SL_TEST(a_large_run_is_a_small_page)
{
    struct made_config large = {.n_runs = 1,
                                .n_requests = 100000,
                                .n_classes = 3,
                                .n_stages = 4,
                                .rate = 22,
                                .fail_share = 0.003,
                                .most_tokens = 4};
    char *page = page_of(&large, NULL), *again = page_of(&large, NULL);
    check_whole(page);
    REQUIRE(page && again);
    CHECK(strlen(page) < 3000000);
    CHECK_CONTAINS(page, "400 of 100000 requests, evenly by their number");
    CHECK(strcmp(page, again) == 0); /* the same requests are drawn each time */
    free(page);
    free(again);
}

SL_TEST(a_page_that_cannot_be_written_says_which)
{
    struct sl_err err;
    REQUIRE(made_init(&made, &ten));
    CHECK_INT(sl_report_html(&made.report, "/dev/full", &err), SL_E_IO);
    CHECK_CONTAINS(err.text, "page /dev/full");
    CHECK_INT(sl_report_html(&made.report, "/no/such/folder/page.html", &err), SL_E_IO);
    CHECK_CONTAINS(err.text, "/no/such/folder/page.html");
    made_fini(&made);
}
