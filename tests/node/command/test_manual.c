/* Tests of pages and completions of a table that means ill: what it says is text, in roff and in both shells. */
#include "node/command/manual.h"
#include "tests/check.h"

#include <stdlib.h>

struct values {
    const char *text;
    bool on;
};

static const struct sl_option options[] = {
    {"a-choice", SL_OPT_CHOICE, 0, "x", "x|y", 0, 0, NULL,
     ".SH ends a section: it's [a] \\fBtrap\\fR; $(touch planted)."},
    {"on", SL_OPT_BOOL, offsetof(struct values, on), "true", NULL, 0, 0, NULL, "'quoted."},
    {"a-file", SL_OPT_STRING, 0, NULL, NULL, 0, 0, NULL, "A file."},
    {0},
};
static const struct sl_command one = {
    "one", "PATH", "the \"first\": it's one", ".Nothing", options, sizeof(struct values), 0, 1, NULL};
static const struct sl_command two = {"group two", "", "the second", "-x", options, sizeof(struct values),
                                      0,           1,  NULL};
static const struct sl_command three = {"group three",         "", "the third", "y", options,
                                        sizeof(struct values), 0,  1,           NULL};
static const struct sl_command *const table[] = {&one, &two, &three, NULL};

SL_TEST(what_a_table_says_is_no_markup)
{
    struct sl_text page = {0};
    char name[80];
    sl_manual_page(&page, table, &one);
    REQUIRE(page.data != NULL);
    CHECK_CONTAINS(page.data, "\n\\&.SH ends a section: it's [a] \\efBtrap\\efR; $(touch planted).");
    CHECK_CONTAINS(page.data, "\n\\&.Nothing\n");
    CHECK_CONTAINS(page.data, "\n\\&'quoted.");
    CHECK_CONTAINS(page.data, "\\fB\\-\\-a\\-choice\\fR \\fIx|y\\fR\n");
    CHECK_CONTAINS(page.data, "(\\fBSLUICE_A_CHOICE\\fR)");
    free(page.data);
    sl_manual_name(name, &two);
    CHECK_STR(name, "sluice-group-two.1");
    sl_manual_name(name, NULL);
    CHECK_STR(name, "sluice.1");
}

SL_TEST(the_overview_lists_every_command)
{
    struct sl_text page = {0};
    sl_manual_page(&page, table, NULL);
    REQUIRE(page.data != NULL);
    CHECK_CONTAINS(page.data, "\\fBsluice\\-one\\fR(1)\nthe \"first\": it's one\n");
    CHECK_CONTAINS(page.data, "\\fBsluice\\-group\\-three\\fR(1)\nthe third\n");
    free(page.data);
}

/* What bash offers behind these words. */
static void complete(char out[400], const char *words, int at)
{
    struct sl_text script = {0};
    char path[300], command[900];
    sl_completion_bash(&script, table);
    snprintf(path, sizeof path, "%s/completion", sl_test_dir());
    FILE *file = fopen(path, "w");
    if (!script.data || !file || fputs(script.data, file) < 0)
        sl_test_fail(__FILE__, __LINE__, "the script can't be written");
    if (file)
        fclose(file);
    free(script.data);
    snprintf(
        command, sizeof command,
        "bash --norc -c 'source %s; COMP_WORDS=(sluice %s); COMP_CWORD=%d; _sluice; echo \"${COMPREPLY[@]}\"'",
        path, words, at);
    FILE *pipe = popen(command, "r");
    out[0] = 0;
    if (!pipe || !fgets(out, 400, pipe))
        out[0] = 0;
    if (pipe && pclose(pipe) != 0)
        sl_test_fail(__FILE__, __LINE__, "bash failed: %s", command);
}

SL_TEST(bash_offers_commands_options_and_values)
{
    char out[400];
    complete(out, "\"\"", 1);
    CHECK_STR(out, "one group --help\n");
    complete(out, "group \"\"", 2);
    CHECK_STR(out, "two three\n");
    complete(out, "group two --", 3);
    CHECK_STR(out, "--a-choice --no-on --a-file --config --help\n");
    complete(out, "one --a-choice \"\"", 3);
    CHECK_STR(out, "x y\n");
    complete(out, "one --a-choice = y", 4);
    CHECK_STR(out, "y\n");
}

SL_TEST(quotes_and_brackets_of_a_help_end_no_word_of_zsh)
{
    struct sl_text script = {0};
    sl_completion_zsh(&script, table);
    REQUIRE(script.data != NULL);
    CHECK_CONTAINS(script.data, "'one:the \"first\"\\: it'\\''s one'");
    CHECK_CONTAINS(script.data, "'--no-on['\\''quoted]'");
    CHECK_CONTAINS(
        script.data,
        "--a-choice=[.SH ends a section\\: it'\\''s \\[a\\] \\\\fBtrap\\\\fR; $(touch planted)]:a-choice:(x y)'");
    CHECK_CONTAINS(script.data, "'--a-file=[A file]:a-file:_files'");
    CHECK_CONTAINS(script.data, "group) names=(two three ) ;;");
    free(script.data);
}
