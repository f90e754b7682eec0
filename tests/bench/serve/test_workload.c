/* Tests of the load: what is drawn follows from the seed alone, lengths and arrivals are what was said, prefixes are shared. */
#include "bench/serve/target.h"
#include "bench/serve/workload.h"
#include "tests/check.h"

#include <stdlib.h>

static struct sl_workload one_class(void)
{
    struct sl_workload w = {.n_classes = 1, .seed = 7};
    sl_load_class_init(&w.classes[0], "all");
    w.classes[0].rate = 10;
    w.classes[0].n_requests = 100;
    return w;
}

SL_TEST(lengths_are_read_and_drawn_as_said)
{
    struct sl_length length;
    struct sl_err err;
    struct sl_rng rng = {3, 0};
    REQUIRE(sl_length_parse(&length, "512", &err) == SL_OK);
    CHECK_INT(sl_length_draw(&length, &rng), 512);
    REQUIRE(sl_length_parse(&length, "10-12", &err) == SL_OK);
    uint32_t seen[3] = {0};
    for (int i = 0; i < 3000; i++) {
        uint32_t n = sl_length_draw(&length, &rng);
        REQUIRE(n >= 10 && n <= 12);
        seen[n - 10]++;
    }
    CHECK(seen[0] > 900 && seen[1] > 900 && seen[2] > 900);
    REQUIRE(sl_length_parse(&length, "lognormal:100:0.5", &err) == SL_OK);
    uint32_t below = 0;
    for (int i = 0; i < 10000; i++)
        below += sl_length_draw(&length, &rng) < 100;
    CHECK(below > 4700 && below < 5300); /* 100 is the median */
    REQUIRE(sl_length_parse(&length, "normal:100:10", &err) == SL_OK);
    double sum = 0;
    for (int i = 0; i < 10000; i++)
        sum += sl_length_draw(&length, &rng);
    CHECK(sum / 10000 > 99.5 && sum / 10000 < 100.5);
}

SL_TEST(a_length_that_is_none_is_refused)
{
    static const char *const bad[] = {"",         "0",          "-5",          "x",
                                      "5x",       "5-",         "9-5",         "1.5",
                                      "normal:",  "normal:5",   "5:6",         "lognormal:5:x",
                                      "99999999", "1-99999999", "nan",         "inf",
                                      "5-inf",    "5-nan",      "normal:5:1:1"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct sl_length length;
        struct sl_err err;
        if (sl_length_parse(&length, bad[i], &err) != SL_E_USAGE)
            sl_test_fail(__FILE__, __LINE__, "\"%s\" was taken", bad[i]);
    }
}

SL_TEST(a_request_follows_from_the_seed_alone)
{
    struct sl_workload w = one_class();
    struct sl_err err;
    REQUIRE(sl_length_parse(&w.classes[0].input, "1-100000", &err) == SL_OK);
    struct sl_drawn a, b;
    sl_workload_draw(&w, 0, 5, 0, &a);
    for (uint64_t i = 0; i < 50; i++)
        sl_workload_draw(&w, 0, i, 0, &b);
    sl_workload_draw(&w, 0, 5, 0, &b);
    CHECK_INT(a.input_tokens, b.input_tokens);
    w.seed = 8;
    sl_workload_draw(&w, 0, 5, 0, &b);
    CHECK(a.input_tokens != b.input_tokens);
}

SL_TEST(arrivals_of_classes_come_in_order_and_end_as_said)
{
    struct sl_workload w = one_class();
    struct sl_err err;
    w.n_classes = 3;
    sl_load_class_init(&w.classes[1], "second");
    w.classes[1].rate = 100;
    sl_load_class_init(&w.classes[2], "closed");
    w.classes[2].concurrency = 4;
    w.seconds = 5;
    struct sl_due *dues;
    uint32_t n, of_class[3] = {0};
    REQUIRE(sl_workload_check(&w, &err) == SL_OK);
    REQUIRE(sl_workload_dues(&w, &dues, &n, &err) == SL_OK);
    for (uint32_t i = 0; i < n; i++) {
        of_class[dues[i].load_class]++;
        CHECK(dues[i].at_ns < 5000000000u);
        CHECK(i == 0 || dues[i].at_ns >= dues[i - 1].at_ns);
    }
    CHECK(of_class[0] > 20 && of_class[0] <= 100);
    CHECK(of_class[1] > 400 && of_class[1] < 600);
    CHECK_INT(of_class[2], 4);
    free(dues);
}

SL_TEST(cancellations_hit_the_share_that_was_asked_for)
{
    struct sl_workload w = one_class();
    w.classes[0].cancel_share = 0.25;
    w.classes[0].cancel_tokens = 3;
    uint32_t n = 0;
    for (uint64_t i = 0; i < 10000; i++) {
        struct sl_drawn drawn;
        sl_workload_draw(&w, 0, i, 0, &drawn);
        n += drawn.cancel_tokens == 3;
    }
    CHECK(n > 2300 && n < 2700);
}

static void ids_of(struct sl_workload *w, uint64_t index, uint32_t *ids, uint32_t room, uint32_t *n)
{
    struct sl_prompts prompts = {.form = SL_PROMPT_IDS, .vocabulary = 1000};
    struct sl_call_ask ask = {0};
    struct sl_drawn drawn;
    sl_workload_draw(w, 0, index, 0, &drawn);
    REQUIRE(sl_prompts_make(&prompts, w, 0, &drawn, NULL, &ask));
    REQUIRE(ask.n_ids <= room);
    memcpy(ids, ask.ids, ask.n_ids * sizeof *ids);
    *n = ask.n_ids;
    sl_prompts_free(&prompts);
}

static uint32_t common(const uint32_t *a, const uint32_t *b, uint32_t n)
{
    uint32_t i = 0;
    while (i < n && a[i] == b[i])
        i++;
    return i;
}

SL_TEST(requests_of_a_group_share_their_prefix_and_nothing_else)
{
    struct sl_workload w = one_class();
    w.classes[0].prefix_groups = 3;
    w.classes[0].prefix_tokens = 100;
    w.classes[0].input.a = 150;
    uint32_t a[200], b[200], c[200], n;
    ids_of(&w, 1, a, 200, &n);
    ids_of(&w, 4, b, 200, &n);
    ids_of(&w, 2, c, 200, &n);
    CHECK_INT(n, 150);
    uint32_t shared = common(a, b, n);
    CHECK(shared >= 100 && shared < 103);
    CHECK(common(a, c, n) < 3);
    for (uint32_t i = 0; i < n; i++)
        CHECK(a[i] >= 1000 / 64 && a[i] < 1000 * 7 / 8);
}

SL_TEST(hash_ids_of_a_trace_become_shared_blocks)
{
    static const char text[] =
        "{\"timestamp\": 0, \"input_length\": 1100, \"output_length\": 5, \"hash_ids\": [7, 8, 9]}\n"
        "{\"timestamp\": 27, \"input_length\": 1100, \"output_length\": 5, \"hash_ids\": [7, 8, 10]}\n";
    struct sl_workload w = one_class();
    struct sl_err err;
    w.classes[0].rate = 0;
    w.classes[0].n_requests = 0;
    REQUIRE(sl_arrival_trace_parse(&w.classes[0].trace, text, sizeof text - 1, "trace", 0, &err) == SL_OK);
    uint32_t a[1100], b[1100], n;
    ids_of(&w, 0, a, 1100, &n);
    ids_of(&w, 1, b, 1100, &n);
    CHECK_INT(n, 1100);
    uint32_t shared = common(a, b, n);
    CHECK(shared >= 1024 && shared < 1027);
    struct sl_due *dues;
    REQUIRE(sl_workload_dues(&w, &dues, &n, &err) == SL_OK);
    CHECK_INT(n, 2);
    CHECK_INT(dues[1].at_ns, 27000000);
    free(dues);
    sl_workload_free(&w);
}

SL_TEST(a_conversation_says_all_that_was_said_before)
{
    struct sl_workload w = one_class();
    w.classes[0].turns = 2;
    w.classes[0].input.a = 10;
    struct sl_prompts prompts = {.form = SL_PROMPT_IDS, .vocabulary = 1000};
    struct sl_talk talk = {0};
    struct sl_call_ask ask = {0};
    struct sl_drawn drawn;
    sl_workload_draw(&w, 0, 0, 0, &drawn);
    REQUIRE(sl_prompts_make(&prompts, &w, 0, &drawn, &talk, &ask));
    CHECK_INT(ask.n_ids, 10);
    uint32_t first[10];
    memcpy(first, ask.ids, sizeof first);
    REQUIRE(sl_talk_add_ids(&talk, (const uint32_t[]){501, 502}, 2));
    sl_workload_draw(&w, 0, 0, 1, &drawn);
    REQUIRE(sl_prompts_make(&prompts, &w, 0, &drawn, &talk, &ask));
    CHECK_INT(ask.n_ids, 22);
    CHECK(memcmp(ask.ids, first, sizeof first) == 0);
    CHECK(ask.ids[10] == 501 && ask.ids[11] == 502);
    CHECK(memcmp(ask.ids + 12, first, sizeof first) != 0); /* the new turn is another one */
    sl_talk_free(&talk);
    sl_prompts_free(&prompts);
}

SL_TEST(a_conversation_as_chat_is_a_list_of_messages)
{
    struct sl_workload w = one_class();
    w.classes[0].turns = 2;
    w.classes[0].input.a = 2;
    struct sl_prompts prompts = {.form = SL_PROMPT_CHAT};
    struct sl_talk talk = {0};
    struct sl_call_ask ask = {0};
    struct sl_drawn drawn;
    sl_workload_draw(&w, 0, 0, 0, &drawn);
    REQUIRE(sl_prompts_make(&prompts, &w, 0, &drawn, &talk, &ask));
    CHECK_CONTAINS(ask.messages, "[{\"role\":\"user\",\"content\":\"");
    REQUIRE(sl_talk_add_text(&talk, SL_PROMPT_CHAT, "a \"quoted\" answer\n"));
    sl_workload_draw(&w, 0, 0, 1, &drawn);
    REQUIRE(sl_prompts_make(&prompts, &w, 0, &drawn, &talk, &ask));
    CHECK_CONTAINS(
        ask.messages,
        "{\"role\":\"assistant\",\"content\":\"a \\\"quoted\\\" answer\\u000a\"},{\"role\":\"user\"");
    sl_talk_free(&talk);
    sl_prompts_free(&prompts);
}

SL_TEST(a_class_that_cannot_be_is_refused_by_name)
{
    struct sl_err err;
    struct sl_workload w = one_class();
    w.classes[0].concurrency = 2;
    CHECK(sl_workload_check(&w, &err) == SL_E_USAGE);
    CHECK_CONTAINS(err.text, "class all has arrivals of several kinds");
    w = one_class();
    w.classes[0].n_requests = 0;
    CHECK(sl_workload_check(&w, &err) == SL_E_USAGE);
    CHECK_CONTAINS(err.text, "never ends");
    w = one_class();
    w.classes[0].rate = 0;
    CHECK(sl_workload_check(&w, &err) == SL_E_USAGE);
    w = one_class();
    w.classes[0].cancel_share = 0.5;
    CHECK(sl_workload_check(&w, &err) == SL_E_USAGE);
    w = one_class();
    w.n_classes = 2;
    w.classes[1] = w.classes[0];
    CHECK(sl_workload_check(&w, &err) == SL_E_USAGE);
    CHECK_CONTAINS(err.text, "two classes are named all");
}

SL_TEST(headers_are_lower_case_and_without_control_characters)
{
    struct sl_workload w = one_class();
    struct sl_load_class *c = &w.classes[0];
    struct sl_err err;
    REQUIRE(sl_load_class_header(c, "X-Tenant-Id: a b", &err) == SL_OK);
    CHECK_STR(c->header_names[0], "x-tenant-id");
    CHECK_STR(c->header_values[0], "a b");
    CHECK(sl_load_class_header(c, "nothing", &err) == SL_E_USAGE);
    CHECK(sl_load_class_header(c, ": value", &err) == SL_E_USAGE);
    CHECK(sl_load_class_header(c, "a\r\nb: value", &err) == SL_E_USAGE);
    CHECK(sl_load_class_header(c, "a: va\r\nlue", &err) == SL_E_USAGE);
    CHECK_INT(c->n_headers, 1);
    sl_workload_free(&w);
}
