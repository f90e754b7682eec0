/* node/edge/records_json.c, read back by a JSON library, line by line. */
#include "node/edge/records_json.h"
#include "tests/check.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static json_int_t number(const json_t *object, const char *name)
{
    return json_integer_value(json_object_get(object, name));
}

static json_t *line(const char **at)
{
    json_error_t error;
    size_t n = strcspn(*at, "\n");
    CHECK((*at)[n] == '\n');
    json_t *root = json_loadb(*at, n, JSON_REJECT_DUPLICATES, &error);
    if (!root)
        sl_test_fail(__FILE__, __LINE__, "%s in %.*s", error.text, (int)n, *at);
    *at += n + 1;
    return root;
}

SL_TEST(a_record_is_a_line_with_its_slices_and_pages)
{
    struct sl_arena arena;
    struct sl_tail tail;
    struct sl_text text = {0};
    REQUIRE(sl_arena_init(&arena, sl_tail_bytes(), NULL) == SL_OK && sl_tail_init(&tail, &arena) == SL_OK);
    sl_records_json(&tail, 0, &text);
    REQUIRE(text.data != NULL);
    CHECK_STR(text.data, "");
    struct sl_order run = {.number = 8, .kind = SL_ORDER_RUN, .n_slices = 2, .n_pages = 3};
    run.slices[0] =
        (struct sl_order_slice){.seq = 5, .n = 20, .flags = SL_SLICE_FIRST | SL_SLICE_LAST, .n_pages = 1};
    run.slices[1] = (struct sl_order_slice){.seq = 6,
                                            .pos = 64,
                                            .n = 100,
                                            .flags = SL_SLICE_HANDOFF | SL_SLICE_RESTORE,
                                            .decoder = 3,
                                            .page_first = 1,
                                            .n_pages = 2,
                                            .pages_at = 1};
    sl_tail_add(&tail, 1000000, &run, (struct sl_page_numbers[]){{9, SL_NO_PAGE}, {1, 2}, {3, SL_NO_PAGE}});
    sl_tail_add(&tail, 1500000, &(struct sl_order){.number = 9, .kind = SL_ORDER_CANCEL, .seq = 5}, NULL);
    sl_tail_add(&tail, 1500000, &(struct sl_order){.number = 10, .kind = SL_ORDER_FREE, .seq = 6}, NULL);
    sl_records_json(&tail, 2000000, &text);
    const char *at = text.data;
    json_t *first = line(&at), *slices = json_object_get(first, "slices"), *one = json_array_get(slices, 0),
           *other = json_array_get(slices, 1), *pages = json_object_get(other, "pages");
    CHECK(number(first, "record") == 8 && json_real_value(json_object_get(first, "at_ms")) == -1000);
    CHECK_STR(json_string_value(json_object_get(first, "kind")), "run");
    CHECK(!json_object_get(first, "seq") && json_array_size(slices) == 2);
    CHECK(number(one, "seq") == 5 && number(one, "pos") == 0 && number(one, "tokens") == 20);
    CHECK(json_is_true(json_object_get(one, "first")) && json_is_true(json_object_get(one, "last")));
    CHECK(!json_object_get(one, "decoder") && !json_object_get(one, "restore"));
    CHECK(number(other, "pos") == 64 && number(other, "decoder") == 3 && number(other, "first_page") == 1);
    CHECK(json_is_true(json_object_get(other, "restore")) && !json_object_get(other, "first"));
    REQUIRE(json_array_size(pages) == 2);
    CHECK_INT(json_integer_value(json_array_get(json_array_get(pages, 0), 1)), 2);
    CHECK_INT(json_array_size(json_array_get(pages, 1)), 1); /* it is not pushed */
    json_t *cancel = line(&at), *free_one = line(&at);
    CHECK_STR(json_string_value(json_object_get(cancel, "kind")), "cancel");
    CHECK(number(cancel, "seq") == 5 && !json_object_get(cancel, "slices"));
    CHECK_STR(json_string_value(json_object_get(free_one, "kind")), "free");
    CHECK(number(free_one, "seq") == 6 && *at == 0);
    json_decref(first);
    json_decref(cancel);
    json_decref(free_one);
    free(text.data);
    sl_arena_fini(&arena);
}
