/* pipeline/decide/sequences.c: pages have one owner or are shared, the log alone decides which, and a record that contradicts
 * what went before changes nothing. */
#include "base/rng.h"
#include "pipeline/decide/sequences.h"
#include "tests/check.h"
#include <stdlib.h>

enum { PAGES = 8, CONTEXT = 6 * SL_PAGE, SEQUENCES = 3 };
static const struct sl_order_limits limits = {1, 128, CONTEXT, 100, PAGES, PAGES, 1};

struct log_table {
    struct sl_arena arena;
    struct sl_sequences t;
    uint32_t cleared[PAGES];
};

static void make(struct log_table *table)
{
    *table = (struct log_table){0};
    REQUIRE(sl_arena_init(&table->arena, sl_sequences_bytes(SEQUENCES, CONTEXT, PAGES), NULL) == SL_OK);
    REQUIRE(sl_sequences_init(&table->t, &table->arena, SEQUENCES, CONTEXT, PAGES) == SL_OK);
}

static void clear(void *user, uint32_t page)
{
    ((struct log_table *)user)->cleared[page]++;
}

/* One slice [pos, pos + n) of seq whose pages from page_first on are `pages`. */
static sl_status apply(struct log_table *table, uint64_t seq, uint32_t pos, uint32_t n, uint32_t page_first,
                       const uint32_t *pages)
{
    struct sl_order order = {.number = 1, .kind = SL_ORDER_RUN, .n_tokens = n, .n_slices = 1}, back;
    struct sl_page_numbers numbers[8];
    uint32_t ids[128] = {0}, n_pages = sl_pages_of(pos + n) - page_first;
    order.n_pages = n_pages;
    order.slices[0] = (struct sl_order_slice){.seq = seq,
                                              .pos = pos,
                                              .n = n,
                                              .prompt_tokens = CONTEXT,
                                              .flags = page_first == 0 ? SL_SLICE_FIRST : 0,
                                              .prompt_logprobs = -1,
                                              .page_first = page_first,
                                              .n_pages = n_pages,
                                              .sampling = {.top_p = 1, .n_logprobs = -1}};
    if (sl_sequences_find(&table->t, seq))
        order.slices[0].flags = 0;
    for (uint32_t i = 0; i < n_pages; i++)
        numbers[i] = (struct sl_page_numbers){pages[i], SL_NO_PAGE};
    uint8_t *meta = malloc(sl_order_meta_bytes(&limits));
    sl_order_pack(meta, &order, ids, numbers, &limits);
    sl_status status = SL_E_INVALID;
    struct sl_sequence *found[SL_MAX_SLICES];
    const char *bad = sl_order_unpack(&back, meta, sl_order_meta_bytes(&limits), &limits);
    if (!bad)
        status = sl_sequences_apply(&table->t, &back, meta, &limits, found, clear, table, &bad);
    free(meta);
    CHECK((status == SL_E_PROTOCOL) == (bad != NULL) || status == SL_E_INVALID || status == SL_AGAIN);
    return status;
}

static uint32_t page_of(const struct log_table *table, uint64_t seq, uint32_t index)
{
    const struct sl_sequence *s = sl_sequences_find(&table->t, seq);
    return s && index < s->n_pages ? s->pages[index] : SL_NO_PAGE;
}

SL_TEST(a_sequence_gets_the_pages_that_the_record_names)
{
    struct log_table table;
    make(&table);
    CHECK_INT(apply(&table, 7, 0, 100, 0, (uint32_t[]){5, 2}), SL_OK);
    CHECK_INT(apply(&table, 7, 100, 28, 2, NULL), SL_OK); /* what is left of the second page */
    CHECK_INT(apply(&table, 7, 128, 1, 2, (uint32_t[]){0}), SL_OK);
    CHECK_INT(page_of(&table, 7, 0), 5);
    CHECK_INT(page_of(&table, 7, 2), 0);
    CHECK_INT(table.t.n_used, 3);
    CHECK_INT(table.cleared[5], 1);
    sl_sequences_close(&table.t, sl_sequences_find(&table.t, 7));
    CHECK_INT(table.t.n_used, 0);
    CHECK_INT(table.t.n_live, 0);
    sl_arena_fini(&table.arena);
}

SL_TEST(a_page_of_another_is_never_written)
{
    struct log_table table;
    make(&table);
    REQUIRE(apply(&table, 1, 0, 128, 0, (uint32_t[]){0, 1}) == SL_OK);
    CHECK_INT(apply(&table, 2, 0, 128, 0, (uint32_t[]){2, 1}), SL_E_PROTOCOL);
    CHECK(sl_sequences_find(&table.t, 2) == NULL); /* nothing was changed */
    CHECK_INT(table.t.n_used, 2);
    CHECK_INT(apply(&table, 2, 0, 128, 0, (uint32_t[]){2, 3}), SL_OK);
    sl_arena_fini(&table.arena);
}

SL_TEST(a_prefix_is_shared_and_counted)
{
    struct log_table table;
    make(&table);
    REQUIRE(apply(&table, 1, 0, 128, 0, (uint32_t[]){4, 6}) == SL_OK);
    CHECK_INT(apply(&table, 2, 128, 10, 0, (uint32_t[]){4, 6, 7}), SL_OK); /* opens behind its prefix */
    CHECK_INT(table.t.count[4], 2);
    CHECK_INT(table.cleared[4], 1);
    CHECK_INT(apply(&table, 3, 64, 10, 0, (uint32_t[]){0, 1}), SL_E_PROTOCOL); /* page 0 holds nothing */
    CHECK_INT(apply(&table, 3, 100, 10, 0, (uint32_t[]){4, 6}), SL_E_INVALID); /* would write page 6 */
    CHECK_INT(apply(&table, 2, 64, 64, 1, (uint32_t[]){6}), SL_E_PROTOCOL); /* would write into the prefix */
    sl_sequences_close(&table.t, sl_sequences_find(&table.t, 1));
    CHECK_INT(table.t.n_used, 2); /* that cut the sequence to its prefix */
    CHECK_INT(apply(&table, 2, 128, 10, 2, (uint32_t[]){7}), SL_OK);
    CHECK_INT(table.t.n_used, 3);
    CHECK_INT(apply(&table, 3, 128, 10, 0, (uint32_t[]){4, 6, 5}),
              SL_OK); /* the prefix outlives who made it */
    sl_arena_fini(&table.arena);
}

SL_TEST(a_prefix_that_nobody_has_any_more_is_still_in_its_pages)
{
    struct log_table table;
    make(&table);
    REQUIRE(apply(&table, 1, 0, 128, 0, (uint32_t[]){4, 6}) == SL_OK);
    sl_sequences_close(&table.t, sl_sequences_find(&table.t, 1));
    CHECK_INT(table.t.n_used, 0);
    CHECK_INT(apply(&table, 2, 128, 10, 0, (uint32_t[]){4, 6, 7}), SL_OK);
    CHECK_INT(table.cleared[4] + table.cleared[6], 2); /* when they were given to be written to */
    CHECK_INT(table.t.n_used, 3);
    CHECK_INT(apply(&table, 3, 64, 64, 0, (uint32_t[]){5, 0}),
              SL_E_PROTOCOL); /* in page 5 was never anything */
    sl_sequences_close(&table.t, sl_sequences_find(&table.t, 2));
    CHECK_INT(apply(&table, 4, 0, 64, 0, (uint32_t[]){4}), SL_OK); /* and now it holds another's */
    CHECK_INT(table.cleared[4], 2);
    sl_arena_fini(&table.arena);
}

SL_TEST(numbers_go_round_so_that_what_was_left_last_is_written_over_last)
{
    struct log_table table;
    make(&table);
    struct sl_sequence *s = sl_sequences_open(&table.t, 1);
    for (uint32_t i = 0; i < 3 * PAGES; i++) {
        uint32_t page;
        bool fresh;
        REQUIRE(sl_sequences_take(&table.t, &page) == SL_OK);
        CHECK_INT(page, i % PAGES);
        REQUIRE(sl_sequences_put(&table.t, s, 0, page, true, &fresh) == SL_OK);
        sl_sequences_cut(&table.t, s, 0);
    }
    sl_arena_fini(&table.arena);
}

SL_TEST(a_sequence_that_is_set_back_keeps_what_is_before)
{
    struct log_table table;
    make(&table);
    REQUIRE(apply(&table, 1, 0, 128, 0, (uint32_t[]){0, 1}) == SL_OK);
    REQUIRE(apply(&table, 1, 128, 128, 2, (uint32_t[]){2, 3}) == SL_OK);
    CHECK_INT(apply(&table, 1, 64, 64, 1, (uint32_t[]){1}), SL_OK); /* again from 64 on, in the same page */
    CHECK_INT(table.t.n_used, 2);
    CHECK_INT(apply(&table, 1, 128, 64, 2, (uint32_t[]){7}), SL_OK);
    CHECK_INT(page_of(&table, 1, 2), 7);
    CHECK_INT(apply(&table, 1, 320, 63, 5, (uint32_t[]){6}), SL_E_PROTOCOL); /* leaves out pages */
    sl_arena_fini(&table.arena);
}

SL_TEST(a_page_that_is_being_read_is_waited_for)
{
    struct log_table table;
    make(&table);
    REQUIRE(apply(&table, 1, 0, 64, 0, (uint32_t[]){3}) == SL_OK);
    sl_sequences_read_begin(&table.t, 3);
    sl_sequences_close(&table.t, sl_sequences_find(&table.t, 1));
    CHECK_INT(table.t.n_used, 1);
    CHECK_INT(apply(&table, 2, 0, 128, 0, (uint32_t[]){0, 3}), SL_AGAIN);
    CHECK(sl_sequences_find(&table.t, 2) == NULL);
    sl_sequences_read_end(&table.t, 3);
    CHECK_INT(apply(&table, 2, 0, 128, 0, (uint32_t[]){0, 3}), SL_OK);
    CHECK_INT(table.cleared[3], 2);
    sl_arena_fini(&table.arena);
}

SL_TEST(the_table_and_the_log_must_agree_who_is_open)
{
    struct log_table table;
    make(&table);
    CHECK_INT(apply(&table, 1, 64, 64, 1, (uint32_t[]){1}), SL_E_PROTOCOL); /* goes on with nobody */
    for (uint32_t i = 0; i < SEQUENCES; i++)
        REQUIRE(apply(&table, i, 0, 1, 0, &i) == SL_OK);
    CHECK_INT(apply(&table, 9, 0, 1, 0, (uint32_t[]){7}), SL_E_PROTOCOL); /* more than were planned */
    sl_arena_fini(&table.arena);
}

SL_TEST(numbers_are_taken_until_the_pool_ends)
{
    struct log_table table;
    make(&table);
    struct sl_sequence *s = sl_sequences_open(&table.t, 1);
    uint32_t page;
    bool fresh;
    for (uint32_t i = 0; i < 6; i++) {
        REQUIRE(sl_sequences_take(&table.t, &page) == SL_OK);
        REQUIRE(sl_sequences_put(&table.t, s, i, page, true, &fresh) == SL_OK);
    }
    CHECK_INT(sl_sequences_put(&table.t, s, 2, page, true, &fresh), SL_E_PROTOCOL); /* it has another there */
    CHECK_INT(sl_sequences_put(&table.t, s, 5, page, true, &fresh), SL_OK);         /* it has that one */
    CHECK_INT(sl_sequences_put(&table.t, s, 6, page, true, &fresh), SL_E_PROTOCOL); /* beyond a context */
    struct sl_sequence *other = sl_sequences_open(&table.t, 2);
    for (uint32_t i = 0; i < 2; i++) {
        REQUIRE(sl_sequences_take(&table.t, &page) == SL_OK);
        REQUIRE(sl_sequences_put(&table.t, other, i + 1, page, true, &fresh) ==
                SL_OK); /* with a hole before */
    }
    CHECK_INT(other->pages[0], SL_NO_PAGE);
    CHECK_INT(sl_sequences_take(&table.t, &page), SL_E_EXHAUSTED);
    sl_sequences_cut(&table.t, s, 3);
    CHECK_INT(sl_sequences_take(&table.t, &page), SL_OK);
    sl_sequences_close(&table.t, other);
    CHECK_INT(table.t.n_used, 3);
    sl_arena_fini(&table.arena);
}

/* Each refusal by sl_sequences_put itself, whoever asked before: a record's slices contradict each other, a decode worker has pages of
 * its own. */
SL_TEST(a_page_that_may_not_be_had_is_not_given_and_nothing_changes)
{
    enum { WRITTEN = 5, UNWRITTEN = 0, READ = 3 };
    static const struct {
        uint32_t page;
        bool written;
        sl_status status;
    } rows[] = {{WRITTEN, true, SL_E_PROTOCOL},
                {UNWRITTEN, false, SL_E_PROTOCOL},
                {PAGES, true, SL_E_PROTOCOL},
                {PAGES, false, SL_E_PROTOCOL},
                {READ, true, SL_AGAIN}};
    struct log_table table;
    bool fresh;
    make(&table);
    REQUIRE(apply(&table, 1, 0, 64, 0, (uint32_t[]){WRITTEN}) == SL_OK);
    sl_sequences_read_begin(&table.t, READ);
    struct sl_sequence *s = sl_sequences_open(&table.t, 2);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        CHECK_INT(sl_sequences_put(&table.t, s, 0, rows[i].page, rows[i].written, &fresh), rows[i].status);
        CHECK(!fresh && s->n_pages == 0 && table.t.count[WRITTEN] == 1 && table.t.n_used == 2);
        CHECK(sl_sequences_check(&table.t) == NULL);
    }
    CHECK_INT(sl_sequences_put(&table.t, s, 0, WRITTEN, false, &fresh), SL_OK); /* it may be shared */
    CHECK_INT(table.t.count[WRITTEN], 2);
    sl_arena_fini(&table.arena);
}

/* Page after page in turn: the first that is free from behind the last one on, and from the beginning again. What was given back
 * last is taken last. */
SL_TEST(numbers_are_taken_in_turn)
{
    struct sl_rng rng = {5, 0};
    for (int turn = 0; turn < 40; turn++) {
        uint32_t n_pages = 1 + (uint32_t)(sl_rng_next(&rng) % 300), at = 0, page;
        struct sl_arena arena;
        struct sl_sequences t;
        REQUIRE(sl_arena_init(&arena, sl_sequences_bytes(1, 64, n_pages), NULL) == SL_OK);
        REQUIRE(sl_sequences_init(&t, &arena, 1, 64, n_pages) == SL_OK);
        for (int k = 0; k < 600; k++) {
            uint32_t other = (uint32_t)(sl_rng_next(&rng) % n_pages), expected = at, looked = 0;
            if (t.readers[other] && sl_rng_next(&rng) % 2)
                sl_sequences_read_end(&t, other);
            while (looked < n_pages && t.readers[expected]) {
                expected = (expected + 1) % n_pages;
                looked++;
            }
            CHECK_INT(sl_sequences_take(&t, &page), looked < n_pages ? SL_OK : SL_E_EXHAUSTED);
            if (looked == n_pages)
                continue;
            CHECK_INT(page, expected);
            sl_sequences_read_begin(&t, page);
            at = (page + 1) % n_pages;
        }
        sl_arena_fini(&arena);
    }
}
