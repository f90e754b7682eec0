/* pipeline/record/order.c and messages.c: round trips, and every field out of range refused. */
#include "base/rng.h"
#include "pipeline/record/messages.h"
#include "pipeline/record/order.h"
#include "tests/check.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { STAGES = 3, CHUNK = 40, VOCAB = 100, CONTEXT = 500 };
static const struct sl_order_limits limits = {STAGES, CHUNK, CONTEXT, VOCAB, 50, 60, 3};
static const struct sl_page_numbers pages[2] = {{49, 59}, {3, SL_NO_PAGE}};

static struct sl_order make_run(void)
{
    struct sl_order order = {.number = 9, .kind = SL_ORDER_RUN, .n_tokens = 12, .n_slices = 2, .n_pages = 1};
    order.slices[0] = (struct sl_order_slice){
        .seq = 4,
        .pos = 10,
        .n = 10,
        .index = 1,
        .prompt_tokens = 20,
        .page_first = 1,
        .flags = SL_SLICE_LAST,
        .prompt_logprobs = -1,
        .sampling = {
            .temperature = 0.5f, .top_k = 3, .top_p = 0.9f, .min_p = 0.1f, .seed = 77, .n_logprobs = 5}};
    order.slices[1] = (struct sl_order_slice){.seq = 5,
                                              .pos = 0,
                                              .n = 2,
                                              .prompt_tokens = 30,
                                              .n_pages = 1,
                                              .flags = SL_SLICE_FIRST | SL_SLICE_HANDOFF,
                                              .decoder = 2,
                                              .decoder_life = 1023,
                                              .prompt_logprobs = 2,
                                              .next_id = 99,
                                              .sampling = {.top_p = 1, .n_logprobs = -1}};
    return order;
}

static const char *try_order(const struct sl_order *order, const uint32_t *ids)
{
    uint8_t *meta = malloc(sl_order_meta_bytes(&limits));
    struct sl_order back;
    sl_order_pack(meta, order, ids, pages, &limits);
    const char *bad = sl_order_unpack(&back, meta, sl_order_meta_bytes(&limits), &limits);
    free(meta);
    return bad;
}

SL_TEST(a_record_comes_back_as_it_went)
{
    uint32_t ids[CHUNK];
    for (uint32_t i = 0; i < CHUNK; i++)
        ids[i] = i;
    struct sl_order order = make_run(), back;
    size_t bytes = sl_order_meta_bytes(&limits);
    uint8_t *meta = malloc(bytes);
    CHECK_INT(bytes % 64, 0);
    sl_order_pack(meta, &order, ids, pages, &limits);
    sl_order_set_trace(meta, 2, &(struct sl_trace){1, 2, 3, 4, -5});
    const char *bad = sl_order_unpack(&back, meta, bytes, &limits);
    CHECK(bad == NULL);
    CHECK_INT(back.number, 9);
    CHECK_INT(back.slices[0].seq, 4);
    CHECK_INT(back.slices[0].sampling.top_k, 3);
    CHECK_INT(back.slices[0].sampling.seed, 77);
    CHECK_INT(back.slices[1].next_id, 99);
    CHECK_INT(back.slices[1].decoder, 2);
    CHECK_INT(back.slices[1].decoder_life, 1023);
    CHECK_INT(back.slices[1].sampling.n_logprobs, -1);
    CHECK_INT(sl_get32(sl_order_ids(meta, STAGES) + 4 * 11), 11);
    CHECK_INT(sl_order_trace(meta, 2).end_us, 3);
    CHECK_INT(sl_order_trace(meta, 2).at_peak_us, 4);
    CHECK_INT(sl_order_trace(meta, 2).next_offset_us, -5);
    CHECK_INT(sl_order_trace(meta, 1).end_us, 0);
    CHECK_INT(back.slices[1].n_pages, 1);
    CHECK_INT(back.slices[1].pages_at, 0);
    CHECK_INT(sl_order_page(meta, &limits, 0).stage, 49);
    CHECK_INT(sl_order_page(meta, &limits, 0).decode, 59);
    CHECK(sl_order_unpack(&back, meta, bytes - 64, &limits) != NULL);
    free(meta);
}

SL_TEST(a_record_out_of_range_is_refused)
{
    uint32_t ids[CHUNK] = {0};
    struct sl_order o = make_run();
    CHECK(try_order(&o, ids) == NULL);
#define REFUSED(change)                                                                                      \
    do {                                                                                                     \
        o = make_run();                                                                                      \
        change;                                                                                              \
        CHECK(try_order(&o, ids) != NULL);                                                                   \
    } while (0)
    REFUSED(o.number = 0);
    REFUSED(o.kind = (enum sl_order_kind)9);
    REFUSED(o.n_slices = 0);
    REFUSED(o.n_tokens = 13);
    REFUSED(o.slices[0].n = 0);
    REFUSED(o.slices[0].pos = UINT32_MAX - 3);
    REFUSED(o.slices[0].prompt_tokens = CONTEXT + 1);
    REFUSED(o.slices[0].flags = 0);
    REFUSED(o.slices[0].flags |= 1u << 20);
    REFUSED(o.slices[1].flags = 0);
    REFUSED(o.slices[1].decoder = 3);
    REFUSED(o.slices[1].decoder_life = SL_DECODER_LIVES);
    REFUSED(o.slices[0].decoder = 1); /* it is not handed off */
    REFUSED(o.slices[1].next_id = VOCAB);
    REFUSED(o.slices[1].prompt_logprobs = SL_MAX_LOGPROBS + 1);
    REFUSED(o.slices[0].sampling.temperature = NAN);
    REFUSED(o.kind = SL_ORDER_FREE);
    REFUSED(o.n_pages = 2);
    REFUSED(o.slices[0].page_first = 2);
    REFUSED(o.slices[1].page_first = 1);
    REFUSED(o.slices[1].n_pages = 2);
    REFUSED(o.slices[0].flags |= SL_SLICE_FIRST);
    REFUSED((o.slices[1].pos = 32, o.slices[1].prompt_tokens = 60)); /* a first slice inside a page */
    ids[3] = VOCAB;
    REFUSED(o.number = 1);
    ids[3] = 0;
    const struct sl_page_numbers wrong[3] = {{50, 0}, {0, 60}, {0, SL_NO_PAGE}};
    for (int i = 0; i < 3; i++) { /* outside a pool, or pushed to nowhere */
        uint8_t *meta = malloc(sl_order_meta_bytes(&limits));
        o = make_run();
        sl_order_pack(meta, &o, ids, &wrong[i], &limits);
        CHECK(sl_order_unpack(&o, meta, sl_order_meta_bytes(&limits), &limits) != NULL);
        free(meta);
    }
}

/* The first slice ends its prompt: a bias and two ids. */
static uint32_t make_steering(uint8_t bytes[64])
{
    static const struct sl_bias bias = {99, -2.5f};
    uint64_t seen[2] = {0};
    uint32_t n = sl_ids_mark(seen, (uint32_t[]){3, 70}, 2);
    sl_steering_pack(bytes, &bias, 1, seen, n, VOCAB);
    return sl_steering_bytes(1, n, VOCAB);
}

SL_TEST(steering_travels_with_the_slice_that_ends_its_prompt)
{
    uint32_t ids[CHUNK] = {0};
    uint8_t steering[64], *meta = malloc(sl_order_meta_bytes(&limits));
    struct sl_order o = make_run(), back;
    struct sl_steering s;
    uint32_t bytes = make_steering(steering);
    o.slices[0].steering = o.slices[1].steering = steering;
    o.slices[0].steering_bytes = bytes;
    o.slices[0].sampling.repetition_penalty = 1.1f;
    o.slices[0].sampling.presence_penalty = -1;
    o.slices[0].sampling.frequency_penalty = 2;
    sl_order_pack(meta, &o, ids, pages, &limits);
    CHECK(sl_order_unpack(&back, meta, sl_order_meta_bytes(&limits), &limits) == NULL);
    CHECK(back.slices[0].sampling.repetition_penalty == 1.1f &&
          back.slices[0].sampling.presence_penalty == -1);
    CHECK(back.slices[0].sampling.frequency_penalty == 2);
    CHECK(sl_steering_read(&s, back.slices[0].steering, back.slices[0].steering_bytes, VOCAB) == NULL);
    CHECK_INT(s.n_ids, 2);
    CHECK(sl_steering_bias(&s, 0).id == 99 && sl_steering_bias(&s, 0).value == -2.5f);
    CHECK_INT(back.slices[1].steering_bytes, 0);
    o.slices[0].steering_bytes = 0; /* nothing to count */
    CHECK(try_order(&o, ids) != NULL);
    o.slices[0].steering_bytes = bytes - 4;
    CHECK(try_order(&o, ids) != NULL);
    o.slices[0].steering_bytes = bytes;
    sl_put32(steering + 12, VOCAB); /* the bias' id */
    CHECK(try_order(&o, ids) != NULL);
    make_steering(steering);
    CHECK(try_order(&o, ids) == NULL);
    o.slices[1].steering_bytes = bytes; /* its prompt goes on */
    CHECK(try_order(&o, ids) != NULL);
    o.slices[1].steering_bytes = 0;
    const uint32_t bans[SL_MAX_DECODE_STOPS + 1] = {3, VOCAB + 9}; /* none need be in the vocabulary */
    o.slices[0].bans = o.slices[1].bans = (const uint8_t *)bans;
    o.slices[0].n_bans = SL_MAX_DECODE_STOPS;
    sl_order_pack(meta, &o, ids, pages, &limits);
    CHECK(sl_order_unpack(&back, meta, sl_order_meta_bytes(&limits), &limits) == NULL);
    CHECK(back.slices[0].n_bans == SL_MAX_DECODE_STOPS && sl_get32(back.slices[0].bans + 4) == VOCAB + 9);
    CHECK(sl_steering_read(&s, back.slices[0].steering, back.slices[0].steering_bytes, VOCAB) == NULL);
    o.slices[0].n_bans = SL_MAX_DECODE_STOPS + 1;
    CHECK(try_order(&o, ids) != NULL);
    o.slices[0].n_bans = 0;
    o.slices[1].n_bans = 1; /* its prompt goes on */
    CHECK(try_order(&o, ids) != NULL);
    o.slices[1].n_bans = 0;
    o.slices[0].n_more = SL_MAX_N - 1; /* first tokens, only where a prompt ends, and so many at most */
    CHECK(try_order(&o, ids) == NULL);
    o.slices[0].n_more = SL_MAX_N;
    CHECK(try_order(&o, ids) != NULL);
    o.slices[0].n_more = 0;
    o.slices[1].n_more = 1;
    CHECK(try_order(&o, ids) != NULL);
    o.slices[1].n_more = 0;
    const float wrong[] = {2.5f, -2.5f, NAN};
    for (int i = 0; i < 3; i++) {
        o.slices[0].sampling.presence_penalty = wrong[i];
        CHECK(try_order(&o, ids) != NULL);
        o.slices[0].sampling.presence_penalty = 0;
        o.slices[0].sampling.frequency_penalty = wrong[i];
        CHECK(try_order(&o, ids) != NULL);
        o.slices[0].sampling.frequency_penalty = 0;
    }
    o.slices[0].sampling.repetition_penalty = -1;
    CHECK(try_order(&o, ids) != NULL);
    free(meta);
}

/* The first pages of a prompt, whole ones, may lie at the decode worker; what follows one that is pushed is pushed. */
SL_TEST(what_is_not_pushed_is_the_begin_of_a_prompt)
{
    static const struct {
        struct sl_page_numbers of[3];
        uint32_t prompt_tokens;
        bool right;
    } all[] = {{{{1, SL_NO_PAGE}, {2, SL_NO_PAGE}, {3, 7}}, 131, true},
               {{{1, SL_NO_PAGE}, {2, 6}, {3, 7}}, 131, true},
               {{{1, SL_NO_PAGE}, {2, SL_NO_PAGE}, {3, SL_NO_PAGE}}, 192, true},
               {{{1, SL_NO_PAGE}, {2, SL_NO_PAGE}, {3, SL_NO_PAGE}}, 191, false},
               {{{1, 5}, {2, SL_NO_PAGE}, {3, 7}}, 192, false},
               {{{1, 5}, {2, 6}, {3, SL_NO_PAGE}}, 192, false}};
    uint32_t ids[CHUNK] = {0};
    uint8_t *meta = malloc(sl_order_meta_bytes(&limits));
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        struct sl_order back, o = make_run();
        o.n_slices = 1;
        o.slices[0] = o.slices[1];
        o.slices[0].pos = 128;
        o.slices[0].n_pages = o.n_pages = 3;
        o.slices[0].prompt_tokens = all[i].prompt_tokens;
        o.n_tokens = o.slices[0].n;
        sl_order_pack(meta, &o, ids, all[i].of, &limits);
        const char *bad = sl_order_unpack(&back, meta, sl_order_meta_bytes(&limits), &limits);
        CHECK_INT(bad == NULL, all[i].right);
    }
    free(meta);
}

SL_TEST(a_slice_that_restores_asks_for_nothing_that_was_told)
{
    uint32_t ids[CHUNK] = {0};
    uint8_t steering[64];
    struct sl_order o = make_run();
    struct sl_order_slice *s = &o.slices[0];
    s->flags |= SL_SLICE_RESTORE | SL_SLICE_HANDOFF;
    s->prompt_logprobs = -1;
    s->sampling.repetition_penalty = 1.5f; /* the ids of the prompt come with ADOPT */
    CHECK(try_order(&o, ids) == NULL);
    s->flags &= ~(uint32_t)SL_SLICE_HANDOFF; /* it fills pages for whoever comes */
    CHECK(try_order(&o, ids) == NULL);
    s->flags |= SL_SLICE_HANDOFF;
    s->prompt_logprobs = 0;
    CHECK(try_order(&o, ids) != NULL);
    s->prompt_logprobs = -1;
    s->n_more = 1;
    CHECK(try_order(&o, ids) != NULL);
    s->n_more = 0;
    s->steering = steering;
    s->steering_bytes = make_steering(steering);
    CHECK(try_order(&o, ids) != NULL);
    s->steering_bytes = 0;
    s->n_bans = 1;
    s->bans = steering;
    CHECK(try_order(&o, ids) != NULL);
}

SL_TEST(random_bytes_are_never_believed)
{
    size_t bytes = sl_order_meta_bytes(&limits);
    uint8_t *meta = malloc(bytes);
    struct sl_rng rng = {1, 0};
    uint32_t ids[CHUNK] = {0};
    uint8_t steering[64];
    struct sl_order order = make_run(), back;
    order.slices[0].steering = steering;
    order.slices[0].steering_bytes = make_steering(steering);
    /* one byte changed: accepted or refused, but never read out of bounds (ASan) */
    for (int i = 0; i < 20000; i++) {
        sl_order_pack(meta, &order, ids, pages, &limits);
        meta[sl_rng_next(&rng) % bytes] ^= (uint8_t)sl_rng_next(&rng);
        if (sl_order_unpack(&back, meta, bytes, &limits) == NULL && back.kind == SL_ORDER_RUN)
            CHECK(back.n_slices <= SL_MAX_SLICES && back.n_tokens <= CHUNK);
    }
    free(meta);
}

SL_TEST(results_come_back_as_they_went)
{
    uint8_t *room = malloc(sl_result_max_bytes(STAGES, CHUNK));
    struct sl_cursor out = sl_cursor_over(room, sl_result_max_bytes(STAGES, CHUNK));
    struct sl_result_head head = {.number = 5, .kind = SL_ORDER_RUN, .n_slices = 1}, head_back;
    head.traces[1].begin_us = 12;
    head.traces[1].at_peak_us = 13;
    head.traces[1].next_offset_us = INT64_MIN;
    struct sl_result_slice slice = {.seq = 3,
                                    .index = 2,
                                    .pos = 64,
                                    .n = 10,
                                    .has_token = true,
                                    .logits_digest = 42,
                                    .n_prompt = 1},
                           back;
    slice.n_more = 2;
    slice.more[1] = (struct sl_token_out){.id = 9, .logprob = -3};
    slice.first = (struct sl_token_out){
        .id = 7, .logprob = -0.5f, .n_top = 2, .top_ids = {7, 8}, .top_logprobs = {-0.5f, -1}};
    struct sl_token_out prompt = {.id = 6, .logprob = -2}, prompt_back;
    sl_result_put_head(&out, &head, STAGES);
    sl_result_put_slice(&out, &slice);
    sl_token_put(&out, &prompt);
    CHECK(!out.bad);
    struct sl_cursor in = sl_cursor_over(room, (size_t)(out.at - room));
    CHECK(sl_result_get_head(&in, &head_back, STAGES) && sl_result_get_slice(&in, &back) &&
          sl_token_get(&in, &prompt_back));
    CHECK_INT(head_back.traces[1].begin_us, 12);
    CHECK_INT(head_back.traces[1].at_peak_us, 13);
    CHECK_INT(head_back.traces[1].next_offset_us, INT64_MIN);
    CHECK_INT(head_back.traces[0].next_offset_us, 0);
    CHECK_INT(back.first.top_ids[1], 8);
    CHECK(back.n_more == 2 && back.more[1].id == 9 && back.more[1].logprob == -3);
    CHECK_INT(back.logits_digest, 42);
    CHECK_INT(prompt_back.id, 6);
    CHECK(in.at == in.end);
    for (size_t n = 0; n < (size_t)(out.at - room); n++) { /* every truncation is noticed */
        in = sl_cursor_over(room, n);
        CHECK(!(sl_result_get_head(&in, &head_back, STAGES) && sl_result_get_slice(&in, &back) &&
                sl_token_get(&in, &prompt_back)));
    }
    free(room);
}

/* Of an answer that comes again: 30 were told, of which 29 are in its prompt; and what grows. */
SL_TEST(an_adopt_says_what_was_told_and_a_grant_says_pages)
{
    uint8_t room[1024], counts[64], numbers[12] = {9, 0, 0, 0, 7, 0, 0, 0, 8, 0, 0, 0};
    uint32_t said[30];
    for (uint32_t i = 0; i < 30; i++)
        said[i] = i / 3;
    struct sl_adopt back, adopt = {.kind = SL_ADOPT_TAKE,
                                   .seq = 16,
                                   .prompt_tokens = 100,
                                   .first_id = 3,
                                   .n_out = 30,
                                   .max_tokens = 60,
                                   .logits_digest = 77,
                                   .n_pages = 3,
                                   .pages = numbers,
                                   .sampling = {.top_p = 1, .n_logprobs = -1, .presence_penalty = 1},
                                   .counts = counts,
                                   .counts_bytes = (uint32_t)sl_counts_pack(counts, said, 30, VOCAB)};
#define ACCEPTED() (sl_adopt_unpack(&back, room, sl_adopt_pack(room, &adopt), &limits) == NULL)
    uint32_t n_ids;
    CHECK(ACCEPTED());
    CHECK(back.n_out == 30 && back.logits_digest == 77 && back.page_first == 0);
    CHECK(sl_counts_read(NULL, back.counts, back.counts_bytes, VOCAB, &n_ids) == NULL && n_ids == 30);
    adopt.n_kept = 1; /* 100 positions have one whole page */
    CHECK(ACCEPTED() && back.n_kept == 1);
    adopt.n_kept = 2;
    CHECK(!ACCEPTED());
    adopt.n_kept = 0;
    adopt.n_out = 29; /* counts of another text */
    CHECK(!ACCEPTED());
    adopt.n_out = 30;
    adopt.counts_bytes = 0;
    CHECK(!ACCEPTED());
    adopt.sampling.presence_penalty = 0; /* nobody counts */
    CHECK(ACCEPTED());
    adopt.n_out = 61; /* more than it may become */
    CHECK(!ACCEPTED());
    adopt.n_out = 0;
    CHECK(!ACCEPTED());
    adopt.n_out = 101;
    adopt.max_tokens = 200; /* as many as were told are not in a prompt of 100 */
    CHECK(!ACCEPTED());
    adopt.n_out = 30;
    adopt.max_tokens = 60;
    adopt.n_forks = 1;
    CHECK(!ACCEPTED());
    adopt = (struct sl_adopt){.kind = SL_ADOPT_GROW,
                              .seq = 16,
                              .page_first = 2,
                              .n_pages = 3,
                              .pages = numbers,
                              .sampling = {.top_p = 1}};
    CHECK(ACCEPTED());
    CHECK(back.kind == SL_ADOPT_GROW && back.page_first == 2 && sl_get32(back.pages + 8) == 8);
    adopt.n_pages = 0;
    CHECK(!ACCEPTED());
    adopt.n_pages = 3;
    adopt.page_first = 0;
    CHECK(!ACCEPTED());
    adopt.page_first = UINT32_MAX;
    CHECK(!ACCEPTED());
    adopt.page_first = sl_pages_of(CONTEXT) - 2;
    CHECK(!ACCEPTED());
    adopt.page_first = 2;
    numbers[4] = 60; /* the pool has 60 */
    CHECK(!ACCEPTED());
    numbers[4] = 7;
    adopt.counts = counts;
    adopt.counts_bytes = 2;
    CHECK(!ACCEPTED());
#undef ACCEPTED
}

SL_TEST(adopt_and_tokens_come_back_as_they_went)
{
    uint8_t room[1024], steering[64], numbers[12] = {59, 0, 0, 0, 7, 0, 0, 0, 8, 0, 0, 0};
    struct sl_adopt adopt = {.kind = SL_ADOPT_TAKE,
                             .seq = 9,
                             .prompt_tokens = 100,
                             .first_id = 3,
                             .n_out = 1,
                             .max_tokens = 50,
                             .n_stops = 2,
                             .stops = {1, 2},
                             .n_pages = 3,
                             .pages = numbers,
                             .sampling = {1, 0, 1, 0, 5, 0, .repetition_penalty = 2},
                             .steering = steering,
                             .steering_bytes = make_steering(steering)},
                    back;
    struct sl_steering steers;
    size_t bytes = sl_adopt_pack(room, &adopt);
    CHECK(sl_adopt_unpack(&back, room, bytes, &limits) == NULL);
    CHECK_INT(back.stops[1], 2);
    CHECK_INT(sl_get32(back.pages + 4), 7);
    CHECK_INT(back.max_tokens, 50);
    CHECK(sl_steering_read(&steers, back.steering, back.steering_bytes, VOCAB) == NULL);
    CHECK(steers.n_ids == 2 && sl_steering_bias(&steers, 0).id == 99);
    steering[15] ^= 1;
    CHECK(sl_adopt_unpack(&back, room, sl_adopt_pack(room, &adopt), &limits) != NULL);
    steering[15] ^= 1;
    adopt.steering_bytes = 0;
    CHECK(sl_adopt_unpack(&back, room, sl_adopt_pack(room, &adopt), &limits) != NULL);
    adopt.steering_bytes = make_steering(steering);
    bytes = sl_adopt_pack(room, &adopt);
    CHECK(sl_adopt_unpack(&back, room, bytes, &limits) == NULL);
    CHECK(sl_adopt_unpack(&back, room, bytes - 1, &limits) != NULL);
    numbers[0] = 60; /* the pool has 60 */
    CHECK(sl_adopt_unpack(&back, room, sl_adopt_pack(room, &adopt), &limits) != NULL);
    numbers[0] = 1;
    adopt.n_pages = 1; /* 100 positions need two */
    CHECK(sl_adopt_unpack(&back, room, sl_adopt_pack(room, &adopt), &limits) != NULL);
    adopt.n_pages = 3;
    adopt.max_tokens = CONTEXT;
    CHECK(sl_adopt_unpack(&back, room, sl_adopt_pack(room, &adopt), &limits) != NULL);
    adopt.max_tokens = 50;
    struct {
        enum sl_adopt_kind kind;
        uint64_t from;
        uint32_t n_forks;
        bool silent, right;
    } forks[] = {{SL_ADOPT_TAKE, 0, 15, true, true},         {SL_ADOPT_TAKE, 0, 16, false, false},
                 {SL_ADOPT_TAKE, 0, 0, true, false},         {SL_ADOPT_TAKE, 8, 1, false, false},
                 {SL_ADOPT_FORK, 8, 0, false, true},         {SL_ADOPT_FORK, 8, 1, false, false},
                 {SL_ADOPT_FORK, 8, 0, true, false},         {SL_ADOPT_FORK, 9, 0, false, false},
                 {(enum sl_adopt_kind)5, 0, 0, false, false}};
    for (size_t i = 0; i < sizeof forks / sizeof *forks; i++) {
        adopt.kind = forks[i].kind;
        adopt.from = forks[i].from;
        adopt.n_forks = forks[i].n_forks;
        adopt.silent = forks[i].silent;
        CHECK_INT(sl_adopt_unpack(&back, room, sl_adopt_pack(room, &adopt), &limits) == NULL, forks[i].right);
        CHECK(!forks[i].right || (back.from == forks[i].from && back.n_forks == forks[i].n_forks &&
                                  back.silent == forks[i].silent && back.kind == forks[i].kind));
    }
    struct sl_cursor out = sl_cursor_over(room, sizeof room);
    struct sl_tokens_entry entries[5] =
        {{.kind = SL_TOKENS_TOKEN,
          .seq = 1,
          .token = {.id = 4, .logprob = -1},
          .finish = 2,
          .logits_digest = 6},
         {.kind = SL_TOKENS_ARRIVED, .seq = 2, .stage = 1, .chunk = 3, .at_us = 99},
         {.kind = SL_TOKENS_ENDED, .seq = 3, .kv_digest = 8, .logits_digest = 9},
         {.kind = SL_TOKENS_FAILED, .seq = 4, .status = SL_E_CORRUPT},
         {.kind = SL_TOKENS_STEP, .rows = 3, .step_us = 900}},
                           got;
    for (int i = 0; i < 5; i++)
        sl_tokens_put(&out, &entries[i]);
    struct sl_cursor in = sl_cursor_over(room, (size_t)(out.at - room));
    int n = 0;
    for (; sl_tokens_get(&in, &got); n++)
        CHECK(got.kind == entries[n].kind && got.seq == entries[n].seq && got.finish == entries[n].finish &&
              got.at_us == entries[n].at_us && got.kv_digest == entries[n].kv_digest &&
              got.status == entries[n].status && got.logits_digest == entries[n].logits_digest &&
              got.rows == entries[n].rows && got.step_us == entries[n].step_us);
    CHECK_INT(n, 5);
    CHECK(!in.bad);
    in = sl_cursor_over(room, 5);
    CHECK(!sl_tokens_get(&in, &got));
    CHECK(in.bad);
}

SL_TEST(a_record_has_room_for_as_many_slices_as_it_may_hold)
{
    uint32_t ids[CHUNK] = {0};
    struct sl_order order = {
        .number = 1, .kind = SL_ORDER_RUN, .n_tokens = SL_MAX_SLICES, .n_slices = SL_MAX_SLICES};
    for (uint32_t i = 0; i < SL_MAX_SLICES; i++)
        order.slices[i] = (struct sl_order_slice){.seq = i + 1,
                                                  .pos = 9,
                                                  .n = 1,
                                                  .index = 1,
                                                  .prompt_tokens = 10,
                                                  .page_first = 1,
                                                  .flags = SL_SLICE_LAST,
                                                  .prompt_logprobs = -1,
                                                  .sampling = {.top_p = 1, .seed = i, .n_logprobs = -1}};
    CHECK(try_order(&order, ids) == NULL);
}

static size_t read_corpus(const char *name, uint8_t *out, size_t room)
{
    char path[128];
    snprintf(path, sizeof path, "tests/fuzz/corpus/order/%s", name);
    FILE *f = fopen(path, "rb");
    size_t n = f ? fread(out, 1, room, f) : 0;
    if (!f)
        sl_test_fail(__FILE__, __LINE__, "no %s", path);
    else
        fclose(f);
    return n;
}

/* Else the fuzzer would look at refusals alone, and nobody would know: a change of the format makes these anew. */
SL_TEST(the_fuzzers_corpus_has_records_that_are_accepted)
{
    static const struct sl_order_limits fuzzers = {2, 16, 4096, 4096, 1000, 1000, 4};
    static const char *const runs[] = {"run-steered", "run-behind"}, *const adopts[] = {
                                                                         "adopt-list", "adopt-bitmap",
                                                                         "adopt-again", "adopt-kept",
                                                                         "adopt-grow"};
    static uint8_t bytes[1 << 16], meta[1 << 16];
    struct sl_order order;
    struct sl_adopt adopt;
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        size_t n = read_corpus(runs[i], bytes, sizeof bytes), size = sl_order_meta_bytes(&fuzzers);
        memset(meta, 0, sizeof meta);
        memcpy(meta, bytes + 1, n - 1 < size ? n - 1 : size);
        const char *bad = sl_order_unpack(&order, meta, size, &fuzzers);
        CHECK_STR(bad ? bad : "accepted", "accepted");
        CHECK_INT(order.kind, SL_ORDER_RUN);
    }
    for (size_t i = 0; i < sizeof adopts / sizeof *adopts; i++) {
        size_t n = read_corpus(adopts[i], bytes, sizeof bytes);
        const char *bad = sl_adopt_unpack(&adopt, bytes + 1, n - 1, &fuzzers);
        CHECK_STR(bad ? bad : "accepted", "accepted");
        CHECK_INT(adopt.kind, i < 4 ? SL_ADOPT_TAKE : SL_ADOPT_GROW);
    }
}
