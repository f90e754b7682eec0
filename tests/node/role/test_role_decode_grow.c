/* node/role/role_decode.c with answers that are granted pages as they grow: one without a page sits out, alone, and has the same
 * bits when it goes on; one that was set back and is taken anew goes on as if it had never been away. */
#include "tests/node/role/world.h"

enum { PROMPT = 110, OUT = 32, AT_GRANT = 19 /* tokens when position 128 has no page */ };

static const struct sl_sampling how = {.temperature = 0.9f,
                                       .top_p = 0.95f,
                                       .seed = 5,
                                       .n_logprobs = -1,
                                       .presence_penalty = 0.5f,
                                       .frequency_penalty = 0.4f,
                                       .repetition_penalty = 1.3f};

static struct w_heard make_alone(void)
{
    struct w_world *w = w_open(2, 4, 32);
    w_generate(w, 1, PROMPT, OUT, &how);
    struct w_heard alone = w->heard[1];
    CHECK_INT(alone.n, OUT);
    w_close(w);
    return alone;
}

/* A TAKE of sequence 1 with the pages of its prompt alone. */
static sl_status take(struct w_world *w)
{
    uint32_t pages[W_CONTEXT / SL_PAGE];
    uint8_t steering[W_STEERING];
    struct sl_adopt adopt = {.kind = SL_ADOPT_TAKE,
                             .seq = 1,
                             .prompt_tokens = PROMPT,
                             .first_id = w->heard[1].ids[0],
                             .n_out = 1,
                             .max_tokens = OUT,
                             .digest = true,
                             .sampling = how,
                             .n_pages = sl_pages_of(PROMPT),
                             .pages = (const uint8_t *)pages,
                             .steering_bytes = w_steer(w, 1, PROMPT, &how, steering),
                             .steering = steering};
    for (uint32_t i = 0; i < adopt.n_pages; i++)
        pages[i] = w_page(w, 1, i).decode;
    return w_send_adopt(w, &adopt, SL_OK);
}

static sl_status grow(struct w_world *w, uint64_t seq, uint32_t first, uint32_t page)
{
    return w_send_adopt(w,
                        &(struct sl_adopt){.kind = SL_ADOPT_GROW,
                                           .seq = seq,
                                           .page_first = first,
                                           .n_pages = 1,
                                           .pages = (const uint8_t *)&page,
                                           .sampling = w_greedy},
                        SL_OK);
}

/* Sequence 1 has come as far as its pages go. */
static struct w_world *open_at_grant(void)
{
    struct w_world *w = w_open(2, 4, 32);
    CHECK_INT(w_write_run(w, 1, PROMPT, &how), SL_OK);
    w_settle(w);
    CHECK_INT(take(w), SL_OK);
    w_settle(w);
    CHECK(w->heard[1].n == AT_GRANT && w->heard[1].ended == 0);
    return w;
}

static void end_world(struct w_world *w)
{
    for (uint32_t node = 1; node <= sl_plan_n_members(&w->plan); node++)
        CHECK_INT(w_pages_used(&w->nodes[node]), 0);
    w_close(w);
}

SL_TEST(a_sequence_without_a_page_sits_out_and_goes_on_with_the_same_bits)
{
    struct w_heard alone = make_alone();
    struct w_world *w = open_at_grant();
    CHECK_INT(w_work(w_decode(w)), 0); /* and does not keep the worker busy */
    CHECK(!w_decode(w)->actions.go_on);
    w_write_run(w, 2, 20, &w_greedy); /* nor others waiting */
    w_settle(w);
    CHECK_INT(w_take(w, 2, 20, 10, &w_greedy), SL_OK);
    w_settle(w);
    CHECK(w->heard[2].n == 10 && w->heard[2].ended == 1 && w->heard[1].n == AT_GRANT);
    CHECK_INT(grow(w, 1, 2, w_page(w, 1, 2).decode), SL_OK);
    w_settle(w);
    const struct w_heard *h = &w->heard[1];
    CHECK(h->n == OUT && h->ended == 1 && memcmp(h->ids, alone.ids, sizeof h->ids) == 0);
    CHECK(h->kv_digest == alone.kv_digest && h->logits_digest == alone.logits_digest);
    w_write_control(w, SL_ORDER_FREE, 1);
    w_write_control(w, SL_ORDER_FREE, 2);
    w_settle(w);
    end_world(w);
}

static int by_id(const void *a, const void *b)
{
    const uint32_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

/* Sequence 2: the prompt of 1 and all that was told of it but the last token. */
static void write_again(struct w_world *w, const struct w_heard *told)
{
    struct w_chunk *c = calloc(1, sizeof *c);
    uint32_t n = PROMPT + told->n - 1;
    c->order.kind = SL_ORDER_RUN;
    w_add(w, c, 2, 0, n, n, &how);
    c->order.slices[0].flags |= SL_SLICE_RESTORE;
    c->order.slices[0].steering_bytes = 0;
    for (uint32_t i = 0; i < n; i++)
        c->ids[i] = i < PROMPT ? w_id(w, 1, i) : told->ids[i - PROMPT];
    CHECK_INT(w_write(w, c), SL_OK);
    free(c);
}

static sl_status take_again(struct w_world *w, const struct w_heard *told)
{
    uint32_t pages[W_CONTEXT / SL_PAGE], sorted[W_TOKENS];
    uint8_t steering[W_STEERING], counts[4 * W_TOKENS];
    struct sl_adopt adopt = {.kind = SL_ADOPT_TAKE,
                             .seq = 2,
                             .prompt_tokens = PROMPT + told->n - 1,
                             .first_id = told->ids[told->n - 1],
                             .n_out = told->n,
                             .max_tokens = OUT,
                             .digest = true,
                             .logits_digest = told->logits_digest,
                             .sampling = how,
                             .n_pages = sl_pages_of(PROMPT + OUT - 1),
                             .pages = (const uint8_t *)pages,
                             .steering_bytes = w_steer(w, 1, PROMPT, &how, steering),
                             .steering = steering,
                             .counts = counts};
    memcpy(sorted, told->ids, told->n * sizeof *sorted);
    qsort(sorted, told->n, sizeof *sorted, by_id);
    adopt.counts_bytes = (uint32_t)sl_counts_pack(counts, sorted, told->n, w->plan.vocab);
    for (uint32_t i = 0; i < adopt.n_pages; i++)
        pages[i] = w_page(w, 2, i).decode;
    return w_send_adopt(w, &adopt, SL_OK);
}

SL_TEST(an_answer_that_was_set_back_goes_on_as_if_it_had_never_been_away)
{
    struct w_heard alone = make_alone();
    struct w_world *w = open_at_grant();
    CHECK_INT(w_cancel(w, 1), SL_OK);
    w_write_control(w, SL_ORDER_FREE, 1);
    w_settle(w);
    struct w_heard told = w->heard[1];
    CHECK(told.ended == 1 && told.failed == SL_OK && told.n == AT_GRANT);
    write_again(w, &told);
    w_settle(w);
    CHECK_INT(w->heard[2].n, 0); /* no token comes of its prefill */
    CHECK_INT(take_again(w, &told), SL_OK);
    w_settle(w);
    const struct w_heard *h = &w->heard[2];
    CHECK(h->ended == 1 && h->failed == SL_OK && h->n == OUT - AT_GRANT);
    CHECK(memcmp(told.ids, alone.ids, AT_GRANT * sizeof *h->ids) == 0);
    CHECK(memcmp(h->ids, alone.ids + AT_GRANT, h->n * sizeof *h->ids) == 0);
    CHECK(h->kv_digest == alone.kv_digest && h->logits_digest == alone.logits_digest);
    w_write_control(w, SL_ORDER_FREE, 2);
    w_settle(w);
    end_world(w);
}

SL_TEST(a_grant_that_comes_behind_the_end_is_nothing)
{
    struct w_world *w = open_at_grant();
    CHECK_INT(w_cancel(w, 1), SL_OK);
    CHECK_INT(grow(w, 1, 2, w_page(w, 1, 2).decode), SL_OK);
    w_write_control(w, SL_ORDER_FREE, 1);
    w_settle(w);
    CHECK(w->heard[1].ended == 1 && w->heard[1].failed == SL_OK);
    end_world(w);
}

SL_TEST(a_grant_that_contradicts_the_log_ends_the_worker_or_the_sequence)
{
    for (int wrong = 0; wrong < 3; wrong++) {
        struct w_world *w = open_at_grant();
        CHECK_INT(grow(w, wrong == 0 ? 3 : 1, wrong == 1 ? 3 : 2, w_page(w, 1, wrong == 2 ? 1 : 2).decode),
                  SL_OK);
        CHECK_INT(w_step(w_decode(w), NULL), wrong == 2 ? SL_OK : SL_E_PROTOCOL);
        if (wrong < 2)
            CHECK_CONTAINS(w_decode(w)->err.text,
                           wrong == 0 ? "what is not here" : "other pages than its next");
        w_settle(w);
        CHECK(wrong < 2 || (w->heard[1].ended == 1 && w->heard[1].failed == SL_E_CORRUPT));
        w_close(w);
    }
}
