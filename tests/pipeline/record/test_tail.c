/* The end of the order log: what comes out is what was written, the newest first to stay, however long records are. */
#include "base/rng.h"
#include "pipeline/record/tail.h"
#include "tests/check.h"
#include <stdlib.h>

struct log {
    struct sl_arena arena;
    struct sl_tail tail;
};

static void begin(struct log *l)
{
    REQUIRE(sl_arena_init(&l->arena, sl_tail_bytes(), NULL) == SL_OK);
    REQUIRE(sl_tail_init(&l->tail, &l->arena) == SL_OK);
}

/* Everything of a record follows from its number. */
static void make(uint64_t number, uint32_t most_pages, struct sl_order *order, struct sl_page_numbers *pages)
{
    struct sl_rng rng = {number, 7};
    *order = (struct sl_order){.number = number, .kind = SL_ORDER_RUN};
    if (sl_rng_next(&rng) % 4 == 0) {
        order->kind = sl_rng_next(&rng) % 2 ? SL_ORDER_FREE : SL_ORDER_CANCEL;
        order->seq = sl_rng_next(&rng);
        return;
    }
    order->n_slices = 1 + (uint32_t)(sl_rng_next(&rng) % SL_MAX_SLICES);
    for (uint32_t i = 0; i < order->n_slices; i++) {
        struct sl_order_slice *s = &order->slices[i];
        *s = (struct sl_order_slice){.seq = sl_rng_next(&rng),
                                     .pos = (uint32_t)sl_rng_next(&rng),
                                     .n = (uint32_t)(sl_rng_next(&rng) % 512),
                                     .flags = (uint32_t)(sl_rng_next(&rng) % 64),
                                     .decoder = (uint32_t)(sl_rng_next(&rng) % SL_MAX_DECODERS),
                                     .page_first = (uint32_t)(sl_rng_next(&rng) % 100),
                                     .n_pages = (uint32_t)(sl_rng_next(&rng) % most_pages),
                                     .pages_at = order->n_pages};
        order->n_tokens += s->n;
        order->n_pages += s->n_pages;
    }
    for (uint32_t i = 0; i < order->n_pages; i++)
        pages[i] = (struct sl_page_numbers){(uint32_t)sl_rng_next(&rng), (uint32_t)sl_rng_next(&rng)};
}

static bool same_slice(const struct sl_order_slice *a, const struct sl_order_slice *b)
{
    return a->seq == b->seq && a->pos == b->pos && a->n == b->n && a->flags == b->flags &&
           a->decoder == b->decoder && a->page_first == b->page_first && a->n_pages == b->n_pages &&
           a->pages_at == b->pages_at;
}

/* Whether all that is there is as it was written, one after the other up to the last; how many. */
static uint64_t look(const struct sl_tail *tail, uint64_t last, uint32_t most_pages,
                     struct sl_page_numbers *pages)
{
    struct sl_tail_record got;
    struct sl_order want;
    uint64_t n = 0, at = tail->begin, before = 0;
    for (; sl_tail_next(tail, &at, &got); n++) {
        make(got.order.number, most_pages, &want, pages);
        CHECK(got.at_us == 1000 * got.order.number);
        CHECK(got.order.kind == want.kind && got.order.seq == want.seq);
        CHECK(got.order.n_slices == want.n_slices && got.order.n_tokens == want.n_tokens);
        CHECK_INT(got.order.n_pages, want.n_pages);
        for (uint32_t i = 0; i < want.n_slices; i++)
            CHECK(same_slice(&got.order.slices[i], &want.slices[i]));
        for (uint32_t i = 0; i < want.n_pages && i < got.order.n_pages; i++) {
            struct sl_page_numbers page = sl_tail_page(tail, &got, i);
            CHECK(page.stage == pages[i].stage && page.decode == pages[i].decode);
        }
        CHECK(n == 0 || got.order.number == before + 1);
        before = got.order.number;
    }
    CHECK(before == last);
    return n;
}

SL_TEST(what_was_written_last_is_there_as_it_was_written)
{
    static const uint32_t most_pages[] = {1, 40, 900};
    struct sl_page_numbers *pages = malloc(SL_MAX_SLICES * 900 * sizeof *pages);
    REQUIRE(pages);
    for (size_t kind = 0; kind < sizeof most_pages / sizeof *most_pages; kind++) {
        struct log l;
        struct sl_order order;
        uint64_t words = 0, n = 0;
        begin(&l);
        CHECK(look(&l.tail, 0, most_pages[kind], pages) == 0);
        for (uint64_t number = 1; number <= 3000 / (kind + 1); number++) {
            make(number, most_pages[kind], &order, pages);
            sl_tail_add(&l.tail, 1000 * number, &order, order.n_slices ? pages : NULL);
            words = l.tail.end - l.tail.begin;
            CHECK(words <= SL_TAIL_WORDS);
            if (number % 500 == 0 || number < 4)
                n = look(&l.tail, number, most_pages[kind], pages);
            CHECK(number > 3 || n == number); /* as long as there is room, all of them */
        }
        /* and nobody was forgotten for whom there was room */
        CHECK(n > 0 && words > SL_TAIL_WORDS - (9 + SL_MAX_SLICES * (8 + 2 * most_pages[kind])));
        sl_arena_fini(&l.arena);
    }
    free(pages);
}

SL_TEST(a_record_that_has_no_room_leaves_none)
{
    struct log l;
    struct sl_order order = {.number = 1, .kind = SL_ORDER_FREE, .seq = 5};
    struct sl_tail_record record;
    struct sl_page_numbers *pages = calloc(SL_TAIL_WORDS, sizeof *pages);
    REQUIRE(pages);
    begin(&l);
    sl_tail_add(&l.tail, 1, &order, NULL);
    order = (struct sl_order){.number = 2, .kind = SL_ORDER_RUN, .n_slices = 1, .n_pages = SL_TAIL_WORDS / 2};
    order.slices[0].n_pages = order.n_pages;
    sl_tail_add(&l.tail, 2, &order, pages);
    uint64_t at = l.tail.begin;
    CHECK(!sl_tail_next(&l.tail, &at, &record)); /* the one before would seem to be the last */
    order = (struct sl_order){.number = 3, .kind = SL_ORDER_FREE, .seq = 6};
    sl_tail_add(&l.tail, 3, &order, NULL);
    at = l.tail.begin;
    CHECK(sl_tail_next(&l.tail, &at, &record) && record.order.number == 3 && record.order.seq == 6);
    sl_arena_fini(&l.arena);
    free(pages);
}
