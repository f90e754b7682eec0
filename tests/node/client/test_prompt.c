/* Tests of node/client/prompt.c: the spellings of a list of token ids, what is refused and where, and the
 * three sources. Text is tokenized by model/tokenizer/tokenizer.c, which has tests of its own; here only ids
 * and files are looked at. */
#include "node/client/prompt.h"
#include "tests/check.h"

#include <stdlib.h>

static void check_ids(const char *text, const uint32_t *expected, uint32_t n)
{
    struct sl_prompt prompt = {0};
    struct sl_err err = {0};
    if (sl_prompt_parse_ids(&prompt, text, strlen(text), "F", &err) != SL_OK) {
        sl_test_fail(__FILE__, __LINE__, "\"%s\": %s", text, err.text);
        return;
    }
    CHECK_INT(prompt.n_ids, n);
    for (uint32_t i = 0; i < n && i < prompt.n_ids; i++)
        CHECK_INT(prompt.ids[i], expected[i]);
    sl_prompt_free(&prompt);
}

SL_TEST(lists_of_ids)
{
    static const uint32_t ids[] = {0, 17, 4294967295u};
    check_ids("[0, 17, 4294967295]", ids, 3);
    check_ids("[0,17,4294967295]\n", ids, 3);
    check_ids("0 17\n4294967295\n", ids, 3);
    check_ids("0,17,4294967295", ids, 3);
    check_ids(" 0 , 17\t4294967295 ", ids, 3);
    check_ids("[0]", ids, 1);
    check_ids("[]", ids, 0);
    check_ids("", ids, 0);
}

SL_TEST(lists_that_are_refused)
{
    static const char *const bad[] = {
        "[1, 2", "1]",  "[1 2]",      "[1,, 2]", "[1,]",    "1,",    "-1",  "1.5",
        "0x10",  "one", "4294967296", "[1] 2",   "[\"1\"]", "[[1]]", "1;2", "99999999999999999999999"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct sl_prompt prompt = {0};
        struct sl_err err = {0};
        sl_status status = sl_prompt_parse_ids(&prompt, bad[i], strlen(bad[i]), "ids.json", &err);
        if (status != SL_E_DATA)
            sl_test_fail(__FILE__, __LINE__, "\"%s\" was taken", bad[i]);
        else
            CHECK_CONTAINS(err.text, "ids.json is not a list of token ids (byte ");
        sl_prompt_free(&prompt);
    }
}

/* The text need not end with a zero byte: it comes from a file. */
SL_TEST(reads_no_byte_beyond_the_text)
{
    char *text = malloc(4);
    REQUIRE(text != NULL);
    memcpy(text, "12 3", 4);
    struct sl_prompt prompt = {0};
    struct sl_err err;
    CHECK_INT(sl_prompt_parse_ids(&prompt, text, 4, "F", &err), SL_OK);
    CHECK_INT(prompt.n_ids, 2);
    CHECK_INT(prompt.ids[1], 3);
    sl_prompt_free(&prompt);
    free(text);
}

SL_TEST(files_of_ids)
{
    char path[512];
    snprintf(path, sizeof path, "%s/ids", sl_test_dir());
    FILE *file = fopen(path, "w");
    REQUIRE(file != NULL);
    for (uint32_t i = 0; i < 50000; i++) /* more than one buffer */
        fprintf(file, "%u\n", i);
    fclose(file);
    struct sl_prompt prompt;
    struct sl_err err = {0};
    REQUIRE(sl_prompt_read(&prompt, NULL, NULL, path, NULL, &err) == SL_OK);
    CHECK_INT(prompt.n_ids, 50000);
    CHECK_INT(prompt.ids[49999], 49999);
    sl_prompt_free(&prompt);
    file = fopen(path, "w");
    REQUIRE(file != NULL);
    fclose(file);
    CHECK_INT(sl_prompt_read(&prompt, NULL, NULL, path, NULL, &err), SL_E_USAGE);
    CHECK_CONTAINS(err.text, "the prompt is empty");
    CHECK_INT(sl_prompt_read(&prompt, NULL, NULL, "/nonexistent/ids", NULL, &err), SL_E_IO);
    CHECK_CONTAINS(err.text, "/nonexistent/ids cannot be opened");
}
