/* node/edge/schedule_json.c, read back by a JSON library: whatever an id has in it. */
#include "node/edge/schedule_json.h"
#include "tests/check.h"
#include <jansson.h>
#include <math.h>
#include <stdlib.h>

static json_t *read_back(const struct sl_core_view *view)
{
    struct sl_text text = {0};
    json_error_t error;
    sl_schedule_json(view, &text);
    json_t *root = json_loads(text.data, JSON_REJECT_DUPLICATES, &error);
    if (!root)
        sl_test_fail(__FILE__, __LINE__, "%s in %s", error.text, text.data);
    free(text.data);
    return root;
}

SL_TEST(an_empty_queue_is_json)
{
    struct sl_core_view *view = calloc(1, sizeof *view);
    view->schedule = SL_SCHEDULE_FIFO;
    json_t *root = read_back(view);
    CHECK_STR(json_string_value(json_object_get(root, "schedule")), "fifo");
    CHECK(json_is_null(json_object_get(root, "budget_ms")));
    CHECK_INT(json_array_size(json_object_get(root, "queue")), 0);
    CHECK(json_is_true(json_object_get(root, "all_tenants")));
    json_decref(root);
    free(view);
}

SL_TEST(entries_and_tenants_come_with_times_from_now_on)
{
    struct sl_core_view *view = calloc(1, sizeof *view);
    view->now_us = 5000000;
    view->budget_us = 1500;
    view->n_entries = view->n_entries_all = 2;
    view->n_tenants = 1;
    view->more_tenants = true;
    view->entries[0] = (struct sl_view_entry){.id = "a\"b\\c\n\x7f\xc3\xa9",
                                              .tenant = "t",
                                              .priority = -2,
                                              .prompt_tokens = 100,
                                              .pos = 64,
                                              .admitted = true,
                                              .deadline_us = 5500000,
                                              .due_us = 4999000,
                                              .key_us = 5012500};
    view->entries[1].key_us = NAN;
    view->tenants[0] = (struct sl_view_tenant){"t", 2, 1e6, 1, 36};
    json_t *root = read_back(view), *queue = json_object_get(root, "queue"),
           *first = json_array_get(queue, 0);
    CHECK_INT(json_array_size(queue), 2);
    CHECK_STR(json_string_value(json_object_get(first, "request")), "a\"b\\c\n\x7f\xc3\xa9");
    CHECK(json_number_value(json_object_get(first, "deadline_ms")) == 500);
    CHECK(json_number_value(json_object_get(first, "due_ms")) == -1);
    CHECK(json_number_value(json_object_get(first, "key_ms")) == 12.5);
    CHECK(json_is_null(json_object_get(first, "predicted_begin_ms")));
    CHECK_INT(json_integer_value(json_object_get(first, "tokens_cut")), 64);
    CHECK_INT(json_integer_value(json_object_get(first, "priority")), -2);
    CHECK(json_is_null(json_object_get(json_array_get(queue, 1), "key_ms")));
    CHECK(json_is_false(json_object_get(root, "all_tenants")));
    json_t *tenant = json_array_get(json_object_get(root, "tenants"), 0);
    CHECK(json_number_value(json_object_get(tenant, "used_ms")) == 1000);
    CHECK_INT(json_integer_value(json_object_get(tenant, "tokens_uncut")), 36);
    CHECK(json_number_value(json_object_get(root, "budget_ms")) == 1.5);
    json_decref(root);
    free(view);
}

SL_TEST(decode_workers_that_are_here_say_what_they_keep)
{
    struct sl_core_view *view = calloc(1, sizeof *view);
    view->n_decoders = 3;
    view->decoders[0] =
        (struct sl_decoder_load){.state = SL_DECODER_HERE, .decoding = 2, .pages_used = 12, .pages_kept = 7};
    view->decoders[2] = (struct sl_decoder_load){.state = SL_DECODER_LEAVING, .silent = true};
    json_t *root = read_back(view), *all = json_object_get(root, "decoders"), *first = json_array_get(all, 0),
           *last = json_array_get(all, 1);
    CHECK_INT(json_array_size(all), 2);
    CHECK_INT(json_integer_value(json_object_get(first, "answers")), 2);
    CHECK_INT(json_integer_value(json_object_get(first, "pages")), 12);
    CHECK_INT(json_integer_value(json_object_get(first, "kept_pages")), 7);
    CHECK(json_is_false(json_object_get(first, "leaving")));
    CHECK_INT(json_integer_value(json_object_get(last, "decoder")), 2);
    CHECK(json_is_true(json_object_get(last, "leaving")) && json_is_true(json_object_get(last, "silent")));
    json_decref(root);
    free(view);
}
