/* Tests of the files that say what a load is. */
#include "bench/serve/workload.h"
#include "tests/check.h"

#include <stdio.h>
#include <stdlib.h>

static const char *write_file(const char *name, const char *text)
{
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", sl_test_dir(), name);
    FILE *to = fopen(path, "w");
    if (to) {
        fputs(text, to);
        fclose(to);
    }
    return path;
}

SL_TEST(a_mix_has_classes_with_all_that_an_option_can_say)
{
    struct sl_workload w = {.seed = 1, .seconds = 60};
    struct sl_err err = {0};
    const char *path = write_file(
        "mix.json",
        "{\"classes\": [{\"name\": \"chat\", \"rate\": 4, \"arrivals\": \"gamma:0.5\", \"input\": \"lognormal:200:0.5\","
        " \"output\": 64, \"turns\": 3, \"think_ms\": 500, \"slo\": {\"ttft\": 500, \"tpot\": 50},"
        " \"headers\": {\"X-Tenant-Id\": \"a\", \"x-priority\": \"1\"}, \"deadline_ms\": 9000},"
        " {\"name\": \"batch\", \"concurrency\": 8, \"input\": \"100-200\", \"requests\": 40, \"prefix_groups\": 2,"
        " \"prefix_tokens\": 50, \"cancel\": {\"share\": 0.1, \"ms\": 20}}]}");
    sl_status status = sl_mix_read(&w, path, &err);
    if (status != SL_OK)
        sl_test_fail(__FILE__, __LINE__, "%s", err.text);
    REQUIRE(status == SL_OK && sl_workload_check(&w, &err) == SL_OK);
    CHECK_INT(w.n_classes, 2);
    const struct sl_load_class *chat = &w.classes[0], *batch = &w.classes[1];
    CHECK_STR(chat->name, "chat");
    CHECK(chat->rate == 4 && chat->arrivals.kind == SL_ARRIVAL_GAMMA && chat->arrivals.shape == 0.5);
    CHECK(chat->limits.ttft_ms == 500 && chat->limits.tpot_ms == 50 && chat->limits.e2e_ms == 0);
    CHECK_INT(chat->turns, 3);
    CHECK_INT(chat->deadline_ms, 9000);
    CHECK_INT(chat->n_headers, 2);
    CHECK_STR(chat->header_names[0], "x-tenant-id");
    CHECK(batch->concurrency == 8 && batch->cancel_share == 0.1 && batch->cancel_ms == 20);
    CHECK(batch->input.kind == SL_LENGTH_UNIFORM && batch->output.a == 64);
    sl_workload_free(&w);
}

SL_TEST(what_a_mix_cannot_say_is_refused_with_its_class)
{
    static const struct {
        const char *text, *sentence;
    } bad[] = {
        {"{}", "a mix is {\"classes\""},
        {"[]", "must be a JSON object"},
        {"{\"classes\": [], \"seed\": 1}", "a mix is"},
        {"{\"classes\": [3]}", "class 0: it is no object"},
        {"{\"classes\": [{\"rate\": 1}, {\"speed\": 3}]}", "class 1: \"speed\" is no member of a class"},
        {"{\"classes\": [{\"rate\": \"x\"}]}", "\"rate\" is no number"},
        {"{\"classes\": [{\"rate\": -1}]}", "\"rate\" is no number"},
        {"{\"classes\": [{\"concurrency\": 1.5}]}", "\"concurrency\" is no whole number"},
        {"{\"classes\": [{\"input\": {}}]}", "is no length"},
        {"{\"classes\": [{\"name\": 3}]}", "\"name\" is no string"},
        {"{\"classes\": [{\"slo\": {\"itl\": 3}}]}", "\"itl\" is no member of \"slo\""},
        {"{\"classes\": [{\"headers\": {\"a\": 3}}]}", "header \"a\" is no string"},
        {"{\"classes\": [{\"arrivals\": \"sometimes\"}]}", "no arrival process"},
        {"{\"classes\": [{\"trace\": \"/nowhere.jsonl\"}]}", "/nowhere.jsonl"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct sl_workload w = {0};
        struct sl_err err = {0};
        CHECK(sl_mix_read(&w, write_file("bad.json", bad[i].text), &err) != SL_OK);
        CHECK_CONTAINS(err.text, bad[i].sentence);
        sl_workload_free(&w);
    }
}

SL_TEST(prompts_of_a_file_are_lines_or_windows)
{
    struct sl_corpus *corpus;
    struct sl_err err = {0};
    REQUIRE(sl_corpus_read(&corpus,
                           write_file("p.jsonl",
                                      "{\"prompt\": \"a\", \"output_tokens\": 7}\n\n{\"input_ids\": [1, 2]}\n"
                                      "{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}]}\n"),
                           &err) == SL_OK);
    CHECK_INT(corpus->n_lines, 3);
    CHECK_INT(corpus->lines[0].output_tokens, 7);
    CHECK_INT(corpus->lines[1].n_ids, 2);
    CHECK_CONTAINS(corpus->lines[2].messages, "\"role\":\"user\"");
    sl_corpus_free(corpus);
    CHECK(sl_corpus_read(&corpus, write_file("q.jsonl", "{\"prompt\": \"a\"}\n{\"promt\": \"b\"}\n"), &err) ==
          SL_E_DATA);
    CHECK_CONTAINS(err.text, "line 2: it has no prompt");
    CHECK(sl_corpus_read(&corpus, write_file("r.jsonl", "{\"input_ids\": [-1]}"), &err) == SL_E_DATA);
    CHECK(sl_corpus_read(&corpus, write_file("t.txt", ""), &err) == SL_E_DATA);
    REQUIRE(sl_corpus_read(&corpus, write_file("t.txt", "It was the best of times"), &err) == SL_OK);
    CHECK_INT(corpus->n_lines, 0);
    sl_corpus_free(corpus);
}
