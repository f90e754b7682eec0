/* Tests of the live view: rates are of the time between two scrapes, a figure that nobody tells is a dash, and a frame fits. */
#include "node/client/top.h"
#include "tests/check.h"

#include <math.h>
#include <stdlib.h>

static struct sl_top *new_top(uint32_t n)
{
    struct sl_top *top = calloc(1, sizeof *top);
    static const char *const addresses[] = {"10.0.0.1:8081", "10.0.0.2:8081"};
    top->n = n;
    for (uint32_t i = 0; i < n; i++)
        top->sources[i].address = addresses[i];
    return top;
}

static void end_top(struct sl_top *top)
{
    sl_top_free(top);
    free(top);
}

static void take(struct sl_top *top, uint32_t source, double at_s, const char *text)
{
    struct sl_scrape scrape;
    if (sl_scrape_read(&scrape, text, strlen(text)))
        sl_top_take(top, source, &scrape, at_s, "");
    if (source == 0)
        sl_top_note(top);
}

static const char *frame(const struct sl_top *top, uint32_t columns, uint32_t rows, bool colour)
{
    static char kept[32768];
    struct sl_text text = {0};
    sl_top_draw(top, columns, rows, colour, &text);
    snprintf(kept, sizeof kept, "%s", text.data ? text.data : "");
    free(text.data);
    return kept;
}

#define COORDINATOR(computed, decoded, busy0, busy1)                                                         \
    "sluice_build_info{version=\"1.2.3\",git=\"x\"} 1\nsluice_ready 1\nsluice_requests_running 4\n"          \
    "sluice_requests_waiting 7\nsluice_prefill_tokens_waiting_uncached 900\n"                                \
    "sluice_prompt_tokens_total{source=\"computed\"} " #computed                                             \
    "\nsluice_prompt_tokens_total{source=\"cached\"} 0\nsluice_generation_tokens_total " #decoded            \
    "\nsluice_stage_chunk_measured_seconds_total{role=\"stage 0\"} " #busy0                                  \
    "\nsluice_stage_chunk_measured_seconds_total{role=\"stage 1\"} " #busy1                                  \
    "\nsluice_kv_cache_usage_ratio 0.5\nsluice_decode_kv_cache_usage_ratio 0.25\n"                           \
    "sluice_prefix_cache_usage_ratio 1\nsluice_decoder_answers{decoder=\"0\"} 3\n"                           \
    "sluice_decoder_step_seconds{decoder=\"0\"} 0.0125\n"

SL_TEST(rates_are_what_was_gained_a_second)
{
    struct sl_top *top = new_top(1);
    take(top, 0, 100, COORDINATOR(1000, 10, 5, 5));
    CHECK_CONTAINS(frame(top, 80, 0, false), "prefill        – tokens/s"); /* one scrape is no rate */
    take(top, 0, 102, COORDINATOR(5000, 30, 6.5, 5.2));
    const char *drawn = frame(top, 80, 0, false);
    CHECK_CONTAINS(drawn, "sluice 1.2.3  10.0.0.1:8081  ready\n");
    CHECK_CONTAINS(drawn, "prefill     2000 tokens/s");
    CHECK_CONTAINS(drawn, "decode        10 tokens/s   running 4   waiting 7, 900 tokens");
    CHECK_CONTAINS(drawn, "stage 0    ██████████████████······  75 %         –      – %       – %\n");
    CHECK_CONTAINS(drawn, "stage 1    ██▍·····················  10 %");
    CHECK_CONTAINS(drawn, "stages     ████████████············  50 %\n");
    CHECK_CONTAINS(drawn, "cached     ████████████████████████ 100 %   of prompts 0 % were cached\n");
    CHECK_CONTAINS(drawn, "0                3     12.50\n");
    end_top(top);
}

SL_TEST(a_counter_that_fell_is_no_rate)
{
    struct sl_top *top = new_top(1);
    take(top, 0, 100, COORDINATOR(5000, 10, 5, 5));
    take(top, 0, 102, COORDINATOR(10, 0, 0, 0));
    CHECK_CONTAINS(frame(top, 80, 0, false), "prefill        – tokens/s");
    CHECK_INT(top->n_history, 0);
    end_top(top);
}

SL_TEST(the_port_of_a_stage_adds_its_mfu_and_tokens)
{
    struct sl_top *top = new_top(2);
    take(top, 1, 100,
         "sluice_stage_tokens_total{role=\"stage 1\"} 0\nsluice_stage_mfu_ratio{role=\"stage 1\"} 0.4\n");
    take(top, 0, 100, COORDINATOR(1000, 10, 5, 5));
    take(top, 1, 101,
         "sluice_stage_tokens_total{role=\"stage 1\"} 640\nsluice_stage_mfu_ratio{role=\"stage 1\"} 0.41\n");
    take(top, 0, 101, COORDINATOR(2000, 10, 5.5, 5.75));
    CHECK_CONTAINS(frame(top, 80, 0, false), "stage 1    ██████████████████······  75 %       640   41.0 %");
    sl_top_take(top, 1, NULL, 102, "nobody answers at 10.0.0.2:8081");
    CHECK_CONTAINS(frame(top, 80, 0, false), "\nnobody answers at 10.0.0.2:8081\n");
    end_top(top);
}

SL_TEST(a_node_that_does_not_answer_is_said_with_why)
{
    struct sl_top *top = new_top(1);
    sl_top_take(top, 0, NULL, 1, "nobody answers there");
    CHECK_STR(frame(top, 80, 0, false), "sluice top  10.0.0.1:8081\nnobody answers there\n");
    end_top(top);
}

static uint32_t widest(const char *text, uint32_t *lines)
{
    uint32_t most = 0, n = 0;
    *lines = 0;
    for (bool escape = false; *text; text++) {
        escape = escape || *text == '\x1b';
        if (*text == '\n') {
            most = n > most ? n : most;
            n = 0;
            ++*lines;
        } else if (!escape && ((unsigned char)*text & 0xc0) != 0x80) {
            n++;
        }
        escape = escape && *text != 'm';
    }
    return most;
}

SL_TEST(a_frame_is_never_wider_or_longer_than_the_terminal)
{
    struct sl_top *top = new_top(1);
    uint32_t lines;
    top->has_queue = true;
    top->queue =
        (struct sl_queue_view){.n = 30, .requests = 99, .runs_in_flight = 5, .max_runs = 5, .budget_ms = 4};
    for (uint32_t i = 0; i < 30; i++)
        top->queue.rows[i] =
            (struct sl_queue_row){.request = "a-request-with-a-long-long-long-name-äöüäöüäöü",
                                  .tenant = "ein-mieter-äöü",
                                  .due_ms = NAN,
                                  .late = true};
    take(top, 0, 100, COORDINATOR(1000, 10, 5, 5));
    take(top, 0, 102, COORDINATOR(5e15, 3e300, 6.5, 5.2));
    for (uint32_t columns = SL_TOP_MIN_COLUMNS; columns < 100; columns++)
        for (int colour = 0; colour < 2; colour++)
            CHECK(widest(frame(top, columns, 0, colour), &lines) <= columns);
    for (uint32_t rows = 1; rows < 40; rows++) {
        widest(frame(top, 80, rows, true), &lines);
        CHECK(lines <= rows);
    }
    CHECK_CONTAINS(frame(top, 80, 0, false), "chunks 5 of 5 in flight, budget 4.0 ms\n");
    CHECK_CONTAINS(frame(top, 80, 0, false), "\nand 69 more\n");
    end_top(top);
}

SL_TEST(history_and_quantiles_are_of_the_last_frames_only)
{
    struct sl_top *top = new_top(1);
    for (int i = 0; i < 3 * SL_TOP_HISTORY; i++) {
        char text[400];
        snprintf(text, sizeof text,
                 "sluice_requests_running 1\nsluice_prompt_tokens_total{source=\"computed\"} %d\n"
                 "sluice_time_to_first_token_seconds_bucket{le=\"0.1\"} %d\n"
                 "sluice_time_to_first_token_seconds_bucket{le=\"0.2\"} %d\n"
                 "sluice_time_to_first_token_seconds_count %d\n",
                 100 * i, i < SL_TOP_HISTORY ? i : SL_TOP_HISTORY, i, i);
        take(top, 0, i, text);
    }
    CHECK_INT(top->n_history, SL_TOP_HISTORY);
    CHECK_INT(top->n_past, SL_TOP_HISTORY);
    CHECK_CONTAINS(frame(top, 80, 0, false), "TTFT       150.0 ms median     199.0 ms p99");
    end_top(top);
}

SL_TEST(who_waits_is_read_from_the_schedule)
{
    static const char json[] =
        "{\"budget_ms\":4.5,\"runs_in_flight\":2,\"max_runs\":5,\"pages\":{\"stages\":44,\"cached\":40,"
        "\"decode\":4,\"of\":2048},\"requests\":2,\"queue\":[{\"request\":\"a\\u001b[2J\",\"tenant\":\"t\","
        "\"prompt_tokens\":2754,\"tokens_cut\":-1,\"admitted\":true,\"late\":true,\"due_ms\":null},7]}";
    struct sl_queue_view *q = calloc(1, sizeof *q);
    REQUIRE(q && sl_queue_view_read(q, json, sizeof json - 1));
    CHECK_INT(q->runs_in_flight, 2);
    CHECK_INT(q->all_pages, 2048);
    CHECK_INT(q->n, 2);
    CHECK_STR(q->rows[0].request, "a?[2J"); /* a terminal is told nothing by a request */
    CHECK_INT(q->rows[0].prompt_tokens, 2754);
    CHECK_INT(q->rows[0].tokens_cut, 0);
    CHECK(q->rows[0].late && q->rows[0].admitted && isnan(q->rows[0].due_ms));
    CHECK(!sl_queue_view_read(q, "{}", 2));
    CHECK(!sl_queue_view_read(q, "[", 1));
    free(q);
}

SL_TEST(what_is_cut_is_not_cut_within_a_character)
{
    char out[5];
    sl_printable(out, sizeof out, "abcä");
    CHECK_STR(out, "abc");
    sl_printable(out, sizeof out, "abcd");
    CHECK_STR(out, "abcd");
    sl_printable(out, sizeof out, "aäbc");
    CHECK_STR(out, "aäb");
}
