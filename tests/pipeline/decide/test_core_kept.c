/* pipeline/decide/core_kept.c: what decode workers keep, who begins with it and where, who holds it, and when it is gone. A pool has
 * 16 pages, a context 8. */
#include "pipeline/decide/core_impl.h"
#include "tests/pipeline/decide/core_world.h"

static struct core_world *kept_world(uint32_t n_decoders, uint32_t running)
{
    struct core_world *w = malloc(sizeof *w);
    make_whole_world(w, n_decoders, running, 8, true);
    return w;
}

/* Prompt and answer of a conversation so far, as the next turn asks for them, with what is new. */
struct turn {
    uint32_t ids[CONTEXT], n;
    uint8_t salt;
    struct heard *h;
    uint64_t seq;
    uint32_t n_kept, n_pushed, decoder; /* pages of its prompt: that lay there, that its records push */
};

static void say_more(struct turn *t, uint32_t n, uint32_t what)
{
    for (uint32_t i = 0; i < n; i++)
        t->ids[t->n++] = what;
}

/* Its prompt is prefilled and taken. */
static void begin(struct core_world *w, struct turn *t, uint32_t max_tokens)
{
    uint32_t first = w->head, n_adopts = w->n_adopts;
    t->h = ask(w, t->n, max_tokens);
    t->h->ask.ids = t->ids;
    t->h->ask.cache_salt[0] = t->salt;
    submit(w, t->h);
    answer_all(w, 20);
    REQUIRE(w->n_adopts == n_adopts + 1);
    const struct sl_adopt *take = &w->adopts[n_adopts];
    CHECK_INT(take->kind, SL_ADOPT_TAKE);
    t->seq = take->seq;
    t->n_kept = take->n_kept;
    t->decoder = w->adopted_by[n_adopts];
    t->n_pushed = 0;
    for (uint32_t at = first; at != w->head; at++)
        t->n_pushed += w->log[at % LOG].n_pushed;
    CHECK_INT(t->n_pushed + t->n_kept, sl_pages_of(t->n));
}

static void adopt(struct core_world *w, const struct turn *t)
{
    w->speaker = t->decoder;
    CHECK(say(w, t->seq, SL_TOKENS_ADOPTED, 0, 0) == NULL);
    answer_all(w, 0);
}

static void decode(struct core_world *w, const struct turn *t, uint32_t n)
{
    w->speaker = t->decoder;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t is_last = t->h->n + 1 == t->h->ask.max_tokens;
        CHECK(say(w, t->seq, SL_TOKENS_TOKEN, 30 + i % 100, is_last ? SL_TEXT_IS_FULL : 0) == NULL);
        decide(w); /* it is granted more */
    }
}

/* It is gone from its worker; what was said is the begin of the next turn. */
static void end(struct core_world *w, struct turn *t)
{
    w->speaker = t->decoder;
    CHECK(say(w, t->seq, SL_TOKENS_ENDED, 0, 0) == NULL);
    answer_all(w, 0);
    CHECK(t->h->ended && t->h->status == SL_OK);
    for (uint32_t i = 0; i < t->h->n; i++)
        t->ids[t->n++] = t->h->tokens[i];
    free(t->h);
}

static void take_turn(struct core_world *w, struct turn *t, uint32_t max_tokens)
{
    begin(w, t, max_tokens);
    adopt(w, t);
    decode(w, t, max_tokens - 1);
    end(w, t);
}

static uint32_t pages_kept(const struct core_world *w, uint32_t decoder)
{
    struct sl_core_load load;
    sl_core_load(w->core, &load);
    return load.decoders[decoder].pages_kept;
}

static void let_all_go(struct core_world *w)
{
    check_all_back(w);
    for (uint32_t d = 0; d < w->plan.max_decoders; d++)
        CHECK_INT(w->core->decoders[d].pages.n_used, pages_kept(w, d));
    end_world(w);
}

SL_TEST(a_second_turn_pushes_only_what_is_new)
{
    struct core_world *w = kept_world(1, RUNNING);
    struct turn t = {.n = 0};
    struct sl_core_load load;
    say_more(&t, 200, 3);
    take_turn(w, &t, 60); /* 259 positions were written, so 4 whole pages */
    CHECK(t.n_kept == 0 && t.n_pushed == 4 && t.n == 260);
    CHECK_INT(pages_kept(w, 0), 4);
    say_more(&t, 70, 4);
    take_turn(w, &t, 20); /* 349 */
    CHECK(t.n_kept == 4 && t.n_pushed == 2);
    sl_core_load(w->core, &load);
    CHECK_INT(load.handoff_tokens_kept, 256);
    CHECK_INT(load.handoff_tokens_pushed, 200 + 330 - 256);
    say_more(&t, 34, 5); /* 384, six pages, of which the last was never whole there */
    take_turn(w, &t, 2);
    CHECK(t.n_kept == 5 && t.n_pushed == 1);
    let_all_go(w);
}

/* Its last token was told and never run: there is no KV of it. */
SL_TEST(the_last_token_of_an_answer_fills_no_page)
{
    struct core_world *w = kept_world(1, RUNNING);
    struct turn t = {.n = 0};
    say_more(&t, 196, 3);
    take_turn(w, &t, 60);
    CHECK(t.n == 256 && pages_kept(w, 0) == 3);
    take_turn(w, &t, 2);
    CHECK(t.n_kept == 3 && t.n_pushed == 1);
    let_all_go(w);
}

/* All pages of it may lie there, the last one included: nobody writes to them. */
SL_TEST(a_prompt_of_whole_pages_that_lie_there_is_not_pushed_at_all)
{
    struct core_world *w = kept_world(1, RUNNING);
    struct turn t = {.n = 0};
    say_more(&t, 192, 3);
    take_turn(w, &t, 2);
    t.n = 192;
    take_turn(w, &t, 2);
    CHECK(t.n_kept == 3 && t.n_pushed == 0);
    t.n = 191;
    take_turn(w, &t, 2);
    CHECK(t.n_kept == 2 && t.n_pushed == 1);
    let_all_go(w);
}

SL_TEST(salts_share_nothing_and_a_flush_leaves_nothing)
{
    struct core_world *w = kept_world(1, RUNNING);
    struct turn t[4] = {{.salt = 0}, {.salt = 1}, {.salt = 1}, {.salt = 0}};
    for (uint32_t i = 0; i < 4; i++) {
        say_more(&t[i], 200, 3);
        if (i == 3)
            sl_core_flush_prefixes(w->core);
        take_turn(w, &t[i], 4);
        CHECK_INT(t[i].n_kept, i == 2 ? 3 : 0);
    }
    CHECK_INT(pages_kept(w, 0), 3);
    let_all_go(w);
}

/* What it holds is lost to those who come, and not to itself. */
SL_TEST(a_flush_under_way_takes_no_page_from_who_has_it)
{
    struct core_world *w = kept_world(1, RUNNING);
    struct turn t = {.n = 0}, other = {.n = 0};
    say_more(&t, 200, 3);
    say_more(&other, 200, 3);
    take_turn(w, &t, 2);
    t.n = 200;
    begin(w, &t, 40);
    CHECK_INT(t.n_kept, 3);
    sl_core_flush_prefixes(w->core);
    adopt(w, &t);
    take_turn(w, &other, 4);
    CHECK_INT(other.n_kept, 0);
    decode(w, &t, 39);
    end(w, &t);
    other.n = 200;
    take_turn(w, &other, 2);
    CHECK_INT(other.n_kept, 3); /* its own */
    let_all_go(w);
}

/* The prompt of one that is still there, and what is held by several goes with the last of them. */
SL_TEST(those_who_are_there_at_once_have_a_prompt_in_the_same_pages)
{
    struct core_world *w = kept_world(1, RUNNING);
    struct turn t[3] = {{.n = 0}};
    struct sl_core_load load;
    for (uint32_t i = 0; i < 3; i++) {
        say_more(&t[i], 256, 3);
        say_more(&t[i], 10, 4 + i);
        begin(w, &t[i], 20);
        adopt(w, &t[i]);
        CHECK_INT(t[i].n_kept, i ? 4 : 0);
    }
    sl_core_load(w->core, &load);
    CHECK_INT(load.decode_pages_used, 4 + 3);
    for (uint32_t i = 0; i < 3; i++) {
        decode(w, &t[i], 19);
        end(w, &t[i]);
    }
    CHECK_INT(pages_kept(w, 0), 4);
    let_all_go(w);
}

/* Both were prefilled before either was there: each has its own pages, of which one is enough. */
SL_TEST(what_two_have_pushed_is_kept_once)
{
    struct core_world *w = kept_world(1, RUNNING);
    struct turn t[2] = {{.n = 0}};
    for (uint32_t i = 0; i < 2; i++) {
        say_more(&t[i], 200, 3);
        begin(w, &t[i], 4);
        CHECK_INT(t[i].n_kept, 0);
    }
    for (uint32_t i = 0; i < 2; i++)
        adopt(w, &t[i]);
    CHECK_INT(w->core->decoders[0].pages.n_used, 8);
    CHECK_INT(pages_kept(w, 0), 3);
    for (uint32_t i = 0; i < 2; i++) {
        decode(w, &t[i], 3);
        end(w, &t[i]);
    }
    CHECK_INT(pages_kept(w, 0), 3);
    let_all_go(w);
}

/* What is kept twice is not held by who goes on: with its own pages beside it, it would lack the last one that it may have. */
SL_TEST(an_answer_alone_gets_every_page_of_the_pool_though_others_left_its_prompt)
{
    struct core_world *w = kept_world(1, 2);
    struct turn t[2] = {{.n = 0}};
    for (uint32_t i = 0; i < 2; i++) {
        say_more(&t[i], 440, 3);
        begin(w, &t[i], i ? 70 : 2); /* seven pages each, at once */
        CHECK_INT(t[i].n_kept, 0);
    }
    for (uint32_t i = 0; i < 2; i++)
        adopt(w, &t[i]);
    decode(w, &t[0], 1);
    end(w, &t[0]);
    CHECK_INT(pages_kept(w, 0), 6);
    struct sl_core_load load;
    sl_core_load(w->core, &load);
    CHECK_INT(load.decode_pages_used, 8); /* of the other alone */
    decode(w, &t[1], 69);
    end(w, &t[1]);
    let_all_go(w);
}

/* 16 pages: what is about to be used stays, and of the rest goes what was used last. */
SL_TEST(what_is_kept_is_free_on_demand_but_for_what_is_about_to_be_used)
{
    struct core_world *w = kept_world(1, 2);
    struct turn old = {.n = 0}, used = {.n = 0}, big = {.n = 0};
    say_more(&old, 257, 3);
    take_turn(w, &old, 2);
    say_more(&used, 257, 4);
    take_turn(w, &used, 2);
    CHECK_INT(pages_kept(w, 0), 8);
    old.n = 257;
    begin(w, &old, 2); /* holds the older four */
    CHECK_INT(old.n_kept, 4);
    say_more(&big, 448, 5);
    begin(w, &big, 2); /* 8 of the 15 others */
    CHECK_INT(big.n_kept, 0);
    CHECK(pages_kept(w, 0) == 4 + 3 && w->core->decoders[0].kept.n_evicted == 1);
    adopt(w, &old);
    adopt(w, &big);
    decode(w, &old, 1);
    decode(w, &big, 1);
    end(w, &old);
    end(w, &big);
    let_all_go(w);
}

SL_TEST(a_worker_that_comes_in_the_place_of_another_has_nothing)
{
    struct core_world *w = kept_world(1, RUNNING);
    struct turn t = {.n = 0};
    say_more(&t, 200, 3);
    take_turn(w, &t, 4);
    CHECK_INT(pages_kept(w, 0), 3);
    sl_core_decoder_lost(w->core, 0, NULL, &w->actions);
    carry_out(w);
    CHECK_INT(pages_kept(w, 0), 0);
    sl_core_decoder_joins(w->core, 0, 1, &w->actions);
    carry_out(w);
    t.n = 200;
    take_turn(w, &t, 4);
    CHECK(t.n_kept == 0 && t.n_pushed == 4);
    let_all_go(w);
}

/* Among workers that are alike; one that has no place left is not waited for. */
SL_TEST(an_answer_begins_where_most_of_its_prompt_lies)
{
    struct core_world *w = kept_world(3, 1);
    struct turn t = {.n = 0}, same = {.n = 0}, other = {.n = 0};
    say_more(&t, 200, 3);
    take_turn(w, &t, 4);
    say_more(&other, 300, 4);
    take_turn(w, &other, 4);
    uint32_t was = t.decoder;
    t.n = 200;
    begin(w, &t, 4);
    CHECK(t.decoder == was && t.n_kept == 3);
    say_more(&same, 200, 3);
    begin(w, &same, 4);
    CHECK(same.decoder != was && same.n_kept == 0);
    adopt(w, &t);
    adopt(w, &same);
    decode(w, &t, 3);
    decode(w, &same, 3);
    end(w, &t);
    end(w, &same);
    let_all_go(w);
}

/* Its text ends with a string, or nobody wants it any more: its holder has its memory back before the worker has said that it is gone. */
SL_TEST(what_was_told_of_an_answer_that_is_cut_off_is_kept)
{
    for (uint32_t by_cancel = 0; by_cancel < 2; by_cancel++) {
        struct core_world *w = kept_world(1, RUNNING);
        struct turn t = {.n = 0};
        say_more(&t, 200, 3);
        begin(w, &t, 100);
        adopt(w, &t);
        decode(w, &t, 79); /* 80 told, 279 written */
        if (by_cancel)
            sl_core_cancel(w->core, t.h->seq, &w->actions);
        else
            sl_core_text_ends(w->core, t.h->seq, t.h->n, &w->actions);
        carry_out(w);
        CHECK(t.h->all_ended);
        t.h->ask = (struct sl_ask){0};
        CHECK(say(w, t.seq, SL_TOKENS_TOKEN, 5, 0) == NULL); /* it was on its way */
        end(w, &t);
        CHECK_INT(pages_kept(w, 0), 4);
        take_turn(w, &t, 2);
        CHECK_INT(t.n_kept, 4);
        let_all_go(w);
    }
}

/* Damage is not kept, nor is what never came. */
SL_TEST(what_failed_or_was_not_adopted_is_not_kept)
{
    struct core_world *w = kept_world(1, RUNNING);
    struct turn t = {.n = 0};
    say_more(&t, 200, 3);
    begin(w, &t, 20);
    w->speaker = 0;
    CHECK(say(w, t.seq, SL_TOKENS_FAILED, 0, 0) == NULL);
    CHECK(t.h->ended && t.h->status == SL_E_CORRUPT);
    answer_all(w, 0);
    CHECK_INT(pages_kept(w, 0), 0);
    free(t.h);
    begin(w, &t, 20);
    CHECK_INT(t.n_kept, 0);
    sl_core_cancel(w->core, t.h->seq, &w->actions);
    carry_out(w);
    CHECK(say(w, t.seq, SL_TOKENS_ENDED, 0, 0) == NULL);
    answer_all(w, 0);
    CHECK_INT(pages_kept(w, 0), 0);
    free(t.h);
    let_all_go(w);
}

/* The prompt's pages are of all answers to it; the last that goes leaves what it has made. */
SL_TEST(of_several_answers_the_prompt_and_the_last_of_them_are_kept)
{
    struct core_world *w = kept_world(1, RUNNING);
    struct turn t = {.n = 0};
    struct heard *h = ask(w, 200, 80);
    h->ask.n = 2;
    h->ask.said[1].ids = h->tokens;
    submit(w, h);
    answer_all(w, 20);
    REQUIRE(w->n_adopts == 2);
    uint64_t seq = w->adopts[0].seq;
    w->speaker = 0;
    for (uint64_t k = 0; k < 2; k++)
        CHECK(say(w, seq + k, SL_TOKENS_ADOPTED, 0, 0) == NULL);
    answer_all(w, 0);
    CHECK_INT(pages_kept(w, 0), 3);
    for (uint32_t i = 0; i < 79; i++) {
        for (uint64_t k = 0; k < 2; k++)
            CHECK(say(w, seq + k, SL_TOKENS_TOKEN, 40, i == 78 ? SL_TEXT_IS_FULL : 0) == NULL);
        decide(w);
    }
    CHECK(say(w, seq, SL_TOKENS_ENDED, 0, 0) == NULL);
    CHECK_INT(pages_kept(w, 0), 3);
    CHECK(say(w, seq + 1, SL_TOKENS_ENDED, 0, 0) == NULL);
    CHECK_INT(pages_kept(w, 0), 4);
    CHECK(h->all_ended);
    answer_all(w, 0);
    free(h);
    memcpy(t.ids, w->ids, sizeof t.ids);
    t.n = 200;
    take_turn(w, &t, 2);
    CHECK_INT(t.n_kept, 3);
    let_all_go(w);
}

/* Three that outgrow the pool: the youngest gives its pages back, and finds there what nobody took from it. */
SL_TEST(an_answer_that_is_set_back_finds_its_pages_where_it_was)
{
    struct core_world *w = kept_world(1, 3);
    struct turn t[3] = {{.n = 0}};
    struct sl_core_load load;
    for (uint32_t i = 0; i < 3; i++) {
        say_more(&t[i], 200, 3 + i);
        begin(w, &t[i], 200);
        adopt(w, &t[i]);
    }
    uint32_t n_adopts = w->n_adopts;
    decode(w, &t[0], 90); /* its sixth page; the others get their fifth */
    for (uint32_t i = 0; i < 4; i++)
        decode(w, &t[1 + i % 2], 60); /* 320 positions, and no page for the next */
    sl_core_load(w->core, &load);
    REQUIRE(load.set_back == 1);
    while (w->adopts[n_adopts].kind != SL_ADOPT_CANCEL)
        n_adopts++;
    CHECK_INT(w->adopts[n_adopts].seq, t[2].seq);
    w->speaker = 0;
    CHECK(say(w, t[2].seq, SL_TOKENS_ENDED, 0, 0) == NULL);
    CHECK_INT(t[2].h->n_set_back, 1);
    CHECK_INT(pages_kept(w, 0), 3 + 3 + 5);
    decide(w);
    CHECK_INT(pages_kept(w, 0), 3 + 3 + 4); /* the other goes on with the last of them */
    for (uint32_t i = 0; i < 2; i++) {
        sl_core_cancel(w->core, t[i].h->seq, &w->actions);
        carry_out(w);
        end(w, &t[i]);
    }
    answer_all(w, 0);
    const struct sl_adopt *take = &w->adopts[w->n_adopts - 1];
    while (take->kind != SL_ADOPT_TAKE)
        take--;
    CHECK(take->seq != t[2].seq && take->n_out == 121 && take->n_kept == 4);
    t[2].seq = take->seq;
    adopt(w, &t[2]);
    sl_core_cancel(w->core, t[2].h->seq, &w->actions);
    carry_out(w);
    end(w, &t[2]);
    let_all_go(w);
}

SL_TEST(without_a_cache_nothing_is_kept)
{
    struct core_world *w = malloc(sizeof *w);
    make_whole_world(w, 1, RUNNING, 8, false);
    struct turn t = {.n = 0};
    for (uint32_t i = 0; i < 2; i++) {
        t.n = 0;
        say_more(&t, 200, 3);
        take_turn(w, &t, 4);
        CHECK(t.n_kept == 0 && t.n_pushed == 4);
    }
    let_all_go(w);
}
