/* Tests of traces: both forms, and what is wrong with a file said with its line. */
#include "bench/serve/trace.h"
#include "tests/check.h"

#include <stdio.h>
#include <stdlib.h>

static sl_status read_text(struct sl_arrival_trace **trace, const char *text, uint32_t max_rows,
                           struct sl_err *err)
{
    return sl_arrival_trace_parse(trace, text, strlen(text), "t", max_rows, err);
}

SL_TEST(mooncake_rows_have_times_lengths_and_hashes)
{
    struct sl_arrival_trace *trace;
    struct sl_err err;
    REQUIRE(
        read_text(
            &trace,
            "{\"timestamp\": 1000, \"input_length\": 6758, \"output_length\": 500, \"hash_ids\": [0, 1, 2]}\r\n\n"
            "{\"timestamp\": 4027.5, \"input_length\": 7, \"output_length\": 1}",
            0, &err) == SL_OK);
    CHECK_INT(trace->n_rows, 2);
    CHECK_INT(trace->rows[0].at_us, 0);
    CHECK_INT(trace->rows[0].n_hashes, 3);
    CHECK_INT(trace->rows[1].at_us, 3027500);
    CHECK_INT(trace->rows[1].input_tokens, 7);
    CHECK_INT(trace->rows[1].n_hashes, 0);
    sl_arrival_trace_free(trace);
}

SL_TEST(burstgpt_columns_are_found_by_name_and_failed_rows_left_out)
{
    struct sl_arrival_trace *trace;
    struct sl_err err;
    REQUIRE(
        read_text(
            &trace,
            "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,ChatGPT,472,18,490,API log\n"
            "45.5,ChatGPT,1087,0,1087,API log\n118,GPT-4,417,276,693,Conversation log\n",
            0, &err) == SL_OK);
    CHECK_INT(trace->n_rows, 2);
    CHECK_INT(trace->n_left_out, 1);
    CHECK_INT(trace->rows[1].at_us, 113000000);
    CHECK_INT(trace->rows[1].output_tokens, 276);
    sl_arrival_trace_free(trace);
}

SL_TEST(what_is_wrong_is_said_with_its_line)
{
    static const struct {
        const char *text, *sentence;
    } bad[] = {
        {"", "empty"},
        {"\n\n", "no rows"},
        {"a,b,c\n1,2,3\n", "is no trace"},
        {"{\"timestamp\": 1}\n", "line 1: it has no timestamp, input_length or output_length"},
        {"{\"timestamp\": 1, \"input_length\": 5, \"output_length\": 5}\nx\n",
         "line 2: it is no JSON object"},
        {"{\"timestamp\": 5, \"input_length\": 5, \"output_length\": 5}\n{\"timestamp\": 4, \"input_length\": 5, \"output_length\": 5}",
         "line 2: its time is before that of the row above"},
        {"{\"timestamp\": -5, \"input_length\": 5, \"output_length\": 5}", "line 1: its time"},
        {"{\"timestamp\": 1e300, \"input_length\": 5, \"output_length\": 5}", "line 1: its time"},
        {"{\"timestamp\": 5, \"input_length\": 0, \"output_length\": 5}", "line 1: its lengths"},
        {"{\"timestamp\": 5, \"input_length\": 5, \"output_length\": 1e9}", "line 1: its lengths"},
        {"{\"timestamp\": 5, \"input_length\": 5, \"output_length\": 5, \"hash_ids\": 3}",
         "line 1: its hash_ids"},
        {"{\"timestamp\": 5, \"input_length\": 5, \"output_length\": 5, \"hash_ids\": [\"x\"]}",
         "line 1: hash_ids"},
        {"Timestamp,Request tokens,Response tokens\n1,2\n", "line 2: a column has no number"},
        {"Timestamp,Request tokens,Response tokens\n1,2,\n", "line 2: a column has no number"},
        {"Timestamp,Request tokens,Response tokens\n1,nan,3\n", "line 2: its lengths"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct sl_arrival_trace *trace;
        struct sl_err err;
        CHECK(read_text(&trace, bad[i].text, 0, &err) == SL_E_DATA);
        CHECK(trace == NULL);
        CHECK_CONTAINS(err.text, bad[i].sentence);
    }
}

SL_TEST(the_first_rows_are_enough_when_so_many_are_asked_for)
{
    struct sl_arrival_trace *trace;
    struct sl_err err;
    REQUIRE(read_text(&trace, "Timestamp,Request tokens,Response tokens\n1,2,3\n2,2,3\nrubbish\n", 2, &err) ==
            SL_OK);
    CHECK_INT(trace->n_rows, 2);
    sl_arrival_trace_free(trace);
    CHECK(sl_arrival_trace_read(&trace, "/nowhere/trace.jsonl", 0, &err) == SL_E_IO);
    CHECK_CONTAINS(err.text, "/nowhere/trace.jsonl");
}

SL_TEST(a_line_without_end_is_refused_before_memory_is)
{
    size_t n = (1 << 20) + 10;
    char *text = malloc(n);
    struct sl_arrival_trace *trace;
    struct sl_err err;
    REQUIRE(text != NULL);
    memset(text, '{', n);
    CHECK(sl_arrival_trace_parse(&trace, text, n, "t", 0, &err) == SL_E_DATA);
    CHECK_CONTAINS(err.text, "longer than 1 MiB");
    free(text);
}
