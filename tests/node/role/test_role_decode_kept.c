/* Pages that a decode worker keeps: a prompt that begins with what it has been sent before is taken with those pages, and the
 * stages push the rest; whoever contradicts that ends its sequence, and no other. */
#include "tests/node/role/world.h"

static const struct sl_sampling warm = {.temperature = 0.9f, .top_p = 0.95f, .seed = 11, .n_logprobs = -1};

/* Of one prompt: w_id() says so, and their pages are others. Vocabulary: 70. */
enum { FIRST = 1, AGAIN = 71 };

/* One slice of it; of its first n_kept pages those that it opens have no number on the decode worker. */
static void run_slice(struct w_world *w, uint64_t seq, uint32_t pos, uint32_t n, uint32_t prompt,
                      uint32_t n_kept)
{
    struct w_chunk *c = calloc(1, sizeof *c);
    c->order.kind = SL_ORDER_RUN;
    w_add(w, c, seq, pos, n, prompt, &warm);
    for (uint32_t i = 0, first = c->order.slices[0].page_first; first + i < n_kept && i < c->order.n_pages;
         i++)
        c->pages[i].decode = SL_NO_PAGE;
    CHECK_INT(w_write(w, c), SL_OK);
    w_settle(w);
    free(c);
}

static void run(struct w_world *w, uint64_t seq, uint32_t prompt, uint32_t n_kept)
{
    for (uint32_t pos = 0; pos < prompt; pos += 2 * SL_PAGE)
        run_slice(w, seq, pos, prompt - pos < 2 * SL_PAGE ? prompt - pos : 2 * SL_PAGE, prompt, n_kept);
}

/* Its first n_kept pages are those of another. */
static void take(struct w_world *w, uint64_t seq, uint32_t prompt, uint32_t n_kept, uint64_t of)
{
    uint32_t pages[W_CONTEXT / SL_PAGE];
    struct sl_adopt adopt = {.kind = SL_ADOPT_TAKE,
                             .seq = seq,
                             .n_kept = n_kept,
                             .prompt_tokens = prompt,
                             .first_id = w->heard[seq].ids[0],
                             .n_out = 1,
                             .max_tokens = 8,
                             .digest = true,
                             .sampling = warm,
                             .n_pages = sl_pages_of(prompt + 7),
                             .pages = (const uint8_t *)pages};
    for (uint32_t i = 0; i < adopt.n_pages; i++)
        pages[i] = w_page(w, i < n_kept ? of : seq, i).decode;
    CHECK_INT(w_send_adopt(w, &adopt, SL_OK), SL_OK);
    w_settle(w);
}

static void give_back(struct w_world *w, uint64_t seq)
{
    CHECK_INT(w_write_control(w, SL_ORDER_FREE, seq), SL_OK);
    w_settle(w);
}

/* A prompt has been there, and is gone. */
static struct w_world *used_world(uint32_t n_stages, uint32_t prompt)
{
    struct w_world *w = w_open(n_stages, 4, 32);
    run(w, FIRST, prompt, 0);
    take(w, FIRST, prompt, 0, FIRST);
    give_back(w, FIRST);
    CHECK(w->heard[FIRST].ended == 1 && w->heard[FIRST].failed == SL_OK && w->heard[FIRST].n == 8);
    CHECK_INT(w_pages_used(w_decode(w)), 0);
    return w;
}

static uint64_t kv_frames(struct w_world *w)
{
    return atomic_load(&w_decode(w)->meter.kv_frames);
}

static void check_same(const struct w_world *w)
{
    const struct w_heard *a = &w->heard[FIRST], *b = &w->heard[AGAIN];
    CHECK(b->ended == 1 && b->failed == SL_OK && b->n == a->n && memcmp(a->ids, b->ids, sizeof a->ids) == 0);
    CHECK(a->kv_digest == b->kv_digest && a->logits_digest == b->logits_digest && a->kv_digest != 0);
}

/* Also a prompt that ends with a page: nothing is pushed then. The TAKE comes behind the pages, as it does when stages are fast. */
SL_TEST(what_lies_there_is_not_pushed_and_the_answer_is_the_same_bit_for_bit)
{
    static const uint32_t prompts[] = {100, 128, 200};
    for (uint32_t n_stages = 1; n_stages <= 3; n_stages += 2)
        for (uint32_t p = 0; p < 3; p++)
            for (uint32_t n_kept = 0; n_kept <= prompts[p] / SL_PAGE; n_kept++) {
                struct w_world *w = used_world(n_stages, prompts[p]);
                uint64_t frames = kv_frames(w);
                run(w, AGAIN, prompts[p], n_kept);
                take(w, AGAIN, prompts[p], n_kept, FIRST);
                give_back(w, AGAIN);
                CHECK_INT(kv_frames(w) - frames, n_stages * (sl_pages_of(prompts[p]) - n_kept));
                check_same(w);
                for (uint32_t node = 1; node <= 1 + n_stages; node++)
                    CHECK_INT(w_pages_used(&w->nodes[node]), 0);
                w_close(w);
            }
}

/* Its TAKE is there before any page, and in between. */
SL_TEST(what_lies_there_is_known_by_the_take_or_by_the_first_page)
{
    for (uint32_t n_before = 0; n_before < 3; n_before++) {
        struct w_world *w = used_world(3, 200);
        w->hold_kv = true;
        run(w, AGAIN, 200, 2);
        w->hold_kv = false;
        for (uint32_t k = 0; k < n_before; k++)
            CHECK_INT(w_deliver(w, w_stage(w, k), w_find(w_stage(w, k), SL_WIRE_KV)), SL_OK);
        w_work(w_decode(w));
        w->hold_kv = true;
        take(w, AGAIN, 200, 2, FIRST);
        CHECK_INT(w->heard[AGAIN].adopted, 0);
        w->hold_kv = false;
        w_settle(w);
        give_back(w, AGAIN);
        check_same(w);
        w_close(w);
    }
}

SL_TEST(a_take_that_disagrees_with_what_came_ends_its_sequence)
{
    for (uint32_t pushed_from = 0; pushed_from < 3; pushed_from++)
        for (uint32_t n_kept = 0; n_kept < 3; n_kept++) {
            struct w_world *w = used_world(2, 200);
            run(w, AGAIN, 200, pushed_from);
            take(w, AGAIN, 200, n_kept, FIRST);
            if (pushed_from == n_kept) {
                check_same(w);
            } else {
                CHECK_INT(w->heard[AGAIN].failed, SL_E_CORRUPT);
                CHECK_INT(w->heard[AGAIN].ended, 1);
                CHECK_INT(w->heard[AGAIN].n, 1); /* not one token of it */
            }
            CHECK_INT(w_pages_used(w_decode(w)), 0);
            w_close(w);
        }
}

/* Of a worker that was never sent anything, as one that has come in the place of another. */
SL_TEST(what_was_never_written_does_not_lie_there)
{
    struct w_world *w = w_open(2, 4, 32);
    run(w, AGAIN, 200, 2);
    take(w, AGAIN, 200, 2, FIRST);
    CHECK_INT(w->heard[AGAIN].failed, SL_E_CORRUPT);
    CHECK_INT(w->heard[AGAIN].n, 1);
    CHECK_INT(w_pages_used(w_decode(w)), 0);
    w_close(w);
}

SL_TEST(a_stage_that_begins_elsewhere_than_another_ends_the_sequence)
{
    struct w_world *w = used_world(2, 200);
    w->hold_kv = true;
    run(w, AGAIN, 200, 1);
    CHECK(w_count(w_stage(w, 0), SL_WIRE_KV) == 3 && w_count(w_stage(w, 1), SL_WIRE_KV) == 3);
    w->hold_kv = false;
    CHECK_INT(w_deliver(w, w_stage(w, 0), w_find(w_stage(w, 0), SL_WIRE_KV)), SL_OK);
    struct sl_role_action a = w_stage(w, 1)->sent[w_find(w_stage(w, 1), SL_WIRE_KV)];
    a.wire.token_first = 2 * SL_PAGE;
    CHECK_INT(w_give(w_decode(w), a.link, &a.wire, a.payload, SL_OK), SL_OK);
    w_settle(w);
    CHECK_INT(w->heard[AGAIN].failed, SL_E_CORRUPT);
    CHECK_INT(w_pages_used(w_decode(w)), 0);
    w_close(w);
}

/* In two slices: the page between them was opened by the first, and lies there. */
SL_TEST(a_page_that_one_slice_opens_and_another_fills_is_not_pushed_when_it_lies_there)
{
    struct w_world *w = used_world(2, 200);
    uint64_t frames = kv_frames(w);
    run_slice(w, AGAIN, 0, 90, 200, 2); /* the second page is open at 90 */
    run_slice(w, AGAIN, 90, 110, 200, 2);
    take(w, AGAIN, 200, 2, FIRST);
    give_back(w, AGAIN);
    CHECK_INT(kv_frames(w) - frames, 2 * 2);
    check_same(w);
    w_close(w);
}
