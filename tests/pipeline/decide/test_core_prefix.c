/* pipeline/decide/core_prefix.c: what a prompt begins behind, who holds it, and who gives way. Requests want one token, so that
 * they are done when the stages are. A pool has 16 pages, a context 8. */
#include "pipeline/decide/core_impl.h"
#include "tests/pipeline/decide/core_world.h"

static struct core_world *cached_world(uint32_t running)
{
    struct core_world *w = malloc(sizeof *w);
    make_world_with(w, running, 0, true);
    return w;
}

static uint32_t cached_tokens(const struct core_world *w)
{
    struct sl_core_load load;
    sl_core_load(w->core, &load);
    return (uint32_t)load.prompt_tokens_cached;
}

/* Prefilled to its first token, and gone. Returns how much of it was cached. */
static uint32_t prefill(struct core_world *w, struct heard *h)
{
    uint32_t before = cached_tokens(w);
    submit(w, h);
    answer_all(w, 42);
    CHECK(h->ended && h->status == SL_OK && h->n == 1);
    return cached_tokens(w) - before;
}

static uint32_t prefill_of(struct core_world *w, const uint32_t *ids, uint32_t n_ids, uint8_t salt)
{
    struct heard *h = ask(w, n_ids, 1);
    h->ask.ids = ids;
    h->ask.cache_salt[0] = salt;
    uint32_t n = prefill(w, h);
    free(h);
    return n;
}

SL_TEST(a_prompt_begins_behind_whole_pages_and_never_its_last_token)
{
    struct core_world *w = cached_world(RUNNING);
    uint32_t other[CONTEXT];
    for (uint32_t i = 0; i < CONTEXT; i++)
        other[i] = i < 100 ? i : 500;
    CHECK_INT(prefill_of(w, w->ids, 200, 0), 0);
    CHECK_INT(prefill_of(w, w->ids, 64, 0), 0);
    CHECK_INT(prefill_of(w, w->ids, 65, 0), 64);
    CHECK_INT(prefill_of(w, w->ids, 128, 0), 64);
    CHECK_INT(prefill_of(w, w->ids, 192, 0), 128);
    CHECK_INT(prefill_of(w, w->ids, 400, 0), 192);
    CHECK_INT(prefill_of(w, w->ids, 400, 0), 384);
    CHECK_INT(prefill_of(w, other, 300, 0), 64);
    CHECK_INT(prefill_of(w, w->ids, 200, 1), 0); /* nor of another salt */
    CHECK_INT(prefill_of(w, w->ids, 200, 1), 192);
    CHECK_INT(prefill_of(w, w->ids, 200, 2), 0);
    sl_core_flush_prefixes(w->core);
    CHECK_INT(prefill_of(w, w->ids, 200, 0), 0);
    struct heard *h = ask(w, 200, 1);
    h->ask.prompt_logprobs = 0; /* each position of it must be run */
    submit(w, h);
    decide(w);
    CHECK_INT(w->log[(w->head - 1) % LOG].order.slices[0].flags & SL_SLICE_FIRST, 0);
    CHECK_INT(cached_tokens(w), 64 + 64 + 128 + 192 + 384 + 64 + 192);
    sl_core_cancel(w->core, h->seq, &w->actions);
    carry_out(w);
    free(h);
    sl_arena_fini(&w->arena);
    sl_arena_fini(&w->tables);
    free(w);
}

SL_TEST(a_first_slice_behind_a_prefix_names_all_its_pages)
{
    struct core_world *w = cached_world(RUNNING);
    struct heard *h = ask(w, 300, 5);
    prefill_of(w, w->ids, 200, 0);
    submit(w, h);
    decide(w);
    const struct sl_order_slice *s = &w->log[(w->tail) % LOG].order.slices[0];
    CHECK_INT(s->pos, 192);
    CHECK_INT(s->n, CHUNK);
    CHECK_INT(s->page_first, 0);
    CHECK_INT(s->n_pages, 4);
    CHECK(s->flags & SL_SLICE_FIRST && s->flags & SL_SLICE_HANDOFF);
    answer_all(w, 42);
    CHECK_INT(h->n, 1);
    CHECK(say(w, h->seq, SL_TOKENS_ADOPTED, 0, 0) == NULL);
    sl_core_cancel(w->core, h->seq, &w->actions);
    carry_out(w);
    answer_all(w, 0);
    say(w, h->seq, SL_TOKENS_ENDED, 0, 0);
    answer_all(w, 0);
    CHECK(h->ended);
    check_all_back(w);
    free(h);
    end_world(w);
}

/* Twenty ask the same at once: what the first has filled is not filled again, though none of it was there when they came. */
SL_TEST(those_that_come_together_compute_a_prefix_once)
{
    struct core_world *w = cached_world(2);
    struct heard *h[REQUESTS];
    struct sl_core_load load;
    for (uint32_t i = 0; i < REQUESTS; i++) {
        h[i] = ask(w, 200, 1);
        submit(w, h[i]);
    }
    answer_all(w, 42);
    sl_core_load(w->core, &load);
    CHECK_INT(load.prompt_tokens_computed, 200 + (REQUESTS - 1) * 8);
    CHECK_INT(load.pages_cached, 3);
    for (uint32_t i = 0; i < REQUESTS; i++) {
        CHECK(h[i]->ended && h[i]->status == SL_OK);
        free(h[i]);
    }
    check_all_back(w);
    end_world(w);
}

SL_TEST(what_is_about_to_be_used_is_not_evicted_and_the_rest_is_by_last_use)
{
    struct core_world *w = cached_world(1);
    uint32_t other[CONTEXT];
    for (uint32_t i = 0; i < CONTEXT; i++)
        other[i] = 1 + i;
    prefill_of(w, w->ids, 320, 0); /* five pages */
    prefill_of(w, other, 448, 0);  /* seven: of sixteen four are free */
    struct heard *big = ask(w, 400, 1), *waits = ask(w, 321, 1);
    uint32_t third[CONTEXT];
    for (uint32_t i = 0; i < CONTEXT; i++)
        third[i] = 2 + i;
    big->ask.ids = third;
    submit(w, big);   /* wants seven pages */
    submit(w, waits); /* and this holds the older five */
    answer_all(w, 42);
    CHECK_INT(cached_tokens(w), 320);
    CHECK_INT(prefill_of(w, other, 449, 0), 256); /* of which three had to go, from the end on */
    free(big);
    free(waits);
    check_all_back(w);
    end_world(w);
}

/* The pool is that of two contexts: two long prefixes are held by those who wait, and who is first has no pages. */
SL_TEST(who_waits_gives_way_with_what_it_holds)
{
    struct core_world *w = cached_world(1);
    uint32_t ids[3][CONTEXT];
    for (uint32_t k = 0; k < 3; k++)
        for (uint32_t i = 0; i < CONTEXT; i++)
            ids[k][i] = 1 + k + i;
    prefill_of(w, ids[0], 449, 0);
    prefill_of(w, ids[1], 449, 0); /* fourteen pages are cached */
    struct heard *first = ask(w, 512, 1), *h[2];
    first->ask.ids = ids[2];
    submit(w, first);
    for (uint32_t k = 0; k < 2; k++) {
        h[k] = ask(w, 450, 1);
        h[k]->ask.ids = ids[k];
        submit(w, h[k]);
    }
    CHECK_INT(w->core->prefix.n_held, 14);
    answer_all(w, 42);
    CHECK(first->ended && first->status == SL_OK);
    for (uint32_t k = 0; k < 2; k++) {
        CHECK(h[k]->ended && h[k]->status == SL_OK);
        free(h[k]);
    }
    free(first);
    check_all_back(w);
    end_world(w);
}

SL_TEST(a_record_names_no_more_shared_pages_than_a_context_has)
{
    struct core_world *w = cached_world(RUNNING);
    struct heard *h[RUNNING];
    prefill_of(w, w->ids, 385, 0); /* six pages */
    for (uint32_t i = 0; i < RUNNING; i++) {
        h[i] = ask(w, 390, 1);
        submit(w, h[i]);
    }
    decide(w);
    for (uint32_t at = w->tail; at != w->head; at++) {
        CHECK_INT(w->log[at % LOG].order.n_slices, 1);
        CHECK_INT(w->log[at % LOG].order.n_pages, 7);
    }
    answer_all(w, 42);
    for (uint32_t i = 0; i < RUNNING; i++) {
        CHECK(h[i]->ended);
        free(h[i]);
    }
    check_all_back(w);
    end_world(w);
}

/* What is asked for again and again stays, whatever else passes by once. */
SL_TEST(a_flood_of_prompts_that_nobody_repeats_leaves_what_is_used)
{
    struct core_world *w = cached_world(2);
    uint32_t once[CONTEXT];
    prefill_of(w, w->ids, 257, 0);
    for (uint32_t k = 0; k < 300; k++) {
        for (uint32_t i = 0; i < CONTEXT; i++)
            once[i] = 1 + (k + i) % 900;
        CHECK_INT(prefill_of(w, once, 200, (uint8_t)k), 0);
        if (k % 3 == 0)
            CHECK_INT(prefill_of(w, w->ids, 257, 0), 256);
    }
    struct sl_core_load load;
    sl_core_load(w->core, &load);
    CHECK(load.pages_cached <= load.n_pages && load.pages_evicted > 300);
    check_all_back(w);
    end_world(w);
}

/* What is prefilled again, because the decode worker that it was pushed to is gone, is there: only its end is computed. */
SL_TEST(a_prompt_whose_decode_worker_is_lost_begins_behind_itself)
{
    struct core_world *w = malloc(sizeof *w);
    make_whole_world(w, 2, RUNNING, 0, true);
    struct heard *h = ask(w, 300, 8);
    struct sl_core_load load;
    submit(w, h);
    decide(w);
    uint32_t n = 0;
    for (uint32_t at = w->tail; at != w->head; at++)
        n += w->log[at % LOG].order.n_tokens;
    CHECK(n >= 2 * SL_PAGE && n < 300);
    uint32_t decoder = w->log[w->tail % LOG].order.slices[0].decoder;
    sl_core_decoder_lost(w->core, decoder, NULL, &w->actions);
    carry_out(w);
    answer_all(w, 42);
    sl_core_load(w->core, &load);
    CHECK_INT(load.prompt_tokens_computed, n + 300 - n / SL_PAGE * SL_PAGE);
    CHECK_INT(load.prompt_tokens_cached, n / SL_PAGE * SL_PAGE);
    CHECK_INT(h->n, 1);
    const struct sl_adopt *take = &w->adopts[w->n_adopts - 1];
    w->speaker = w->adopted_by[w->n_adopts - 1];
    CHECK(w->speaker != decoder && take->kind == SL_ADOPT_TAKE);
    uint64_t seq = take->seq;
    CHECK(say(w, seq, SL_TOKENS_ADOPTED, 0, 0) == NULL);
    sl_core_cancel(w->core, h->seq, &w->actions);
    carry_out(w);
    say(w, seq, SL_TOKENS_ENDED, 0, 0);
    answer_all(w, 0);
    check_all_back(w);
    free(h);
    end_world(w);
}

SL_TEST(who_follows_the_events_hears_of_what_has_no_salt)
{
    struct core_world *w = cached_world(RUNNING);
    struct sl_prefix_reader reader;
    struct sl_prefix_event event;
    sl_core_prefix_events_from(w->core, &reader, 0);
    CHECK(!sl_core_prefix_event(w->core, &reader, &event));
    prefill_of(w, w->ids, 130, 7);
    prefill_of(w, w->ids, 130, 0);
    for (uint32_t i = 0; i < 2; i++) {
        REQUIRE(sl_core_prefix_event(w->core, &reader, &event));
        CHECK_INT(event.kind, SL_PREFIX_STORED);
        CHECK_INT(event.has_parent, i);
        CHECK_INT(event.ids[3], i * SL_PAGE + 3);
    }
    CHECK(!sl_core_prefix_event(w->core, &reader, &event));
    sl_core_flush_prefixes(w->core);
    REQUIRE(sl_core_prefix_event(w->core, &reader, &event));
    CHECK_INT(event.kind, SL_PREFIX_CLEARED);
    CHECK_INT(reader.number, 3);
    end_world(w);
}

/* Two with the same prompt, of which the second is cut beside the end of the first: it fills a page that the first has filled, and
 * let go of, while all other pages are promised. */
SL_TEST(who_fills_a_page_that_is_cached_already_takes_none_that_is_promised_to_others)
{
    static uint32_t ids[4][CONTEXT];
    static const uint32_t n_ids[6] = {64, 30, 128, 200, 500, 250};
    struct core_world *w = cached_world(4);
    struct heard *h[6];
    for (uint32_t i = 0; i < 4 * CONTEXT; i++)
        ids[i / CONTEXT][i % CONTEXT] = 500 + i / CONTEXT;
    for (uint32_t i = 0; i < 6; i++) {
        h[i] = ask(w, n_ids[i], 1);
        h[i]->ask.ids = i == 2 || i == 3 ? w->ids : ids[i < 2 ? i : i - 2];
    }
    for (uint32_t i = 0; i < 4; i++)
        submit(w, h[i]);
    decide(w); /* 64; 30 and 34; 64; 30 and the first 34 behind one page */
    CHECK_INT(w->n_runs, 4);
    sl_core_silence(w->core, true, &w->actions);
    answer_all(w, 1);
    CHECK(h[0]->ended && h[1]->ended && h[2]->ended && !h[3]->ended);
    submit(w, h[4]), submit(w, h[5]);
    sl_core_silence(w->core, false, &w->actions);
    struct sl_core_load load;
    decide(w);
    sl_core_load(w->core, &load);
    CHECK(load.waiting == 0 && load.pages_used == 16);
    answer_all(w, 1);
    for (uint32_t i = 0; i < 6; i++) {
        CHECK(h[i]->ended && h[i]->status == SL_OK && h[i]->n == 1);
        free(h[i]);
    }
    check_all_back(w);
    end_world(w);
}

/* What records under way fill is in the cache before it is computed; whoever is cancelled leaves nothing there that may never be. */
SL_TEST(what_is_cancelled_on_its_way_is_not_cached)
{
    struct core_world *w = cached_world(RUNNING);
    struct heard *h = ask(w, 400, 1);
    struct sl_core_load load;
    submit(w, h);
    decide(w);
    answer(w, 42); /* the first page is there, others are under way */
    sl_core_load(w->core, &load);
    CHECK(load.pages_cached > 1 && load.records > load.records_answered);
    sl_core_cancel(w->core, h->seq, &w->actions);
    carry_out(w);
    CHECK_INT(w->log[(w->head - 1) % LOG].kind, SL_ORDER_CANCEL);
    sl_core_load(w->core, &load);
    CHECK_INT(load.pages_cached, 1);
    answer_all(w, 42);
    CHECK_INT(prefill_of(w, w->ids, 400, 0), 64);
    CHECK_INT(prefill_of(w, w->ids, 400, 0), 384);
    free(h);
    check_all_back(w);
    end_world(w);
}

SL_TEST(what_others_begin_behind_is_computed_though_it_was_cancelled)
{
    struct core_world *w = cached_world(RUNNING);
    struct heard *h = ask(w, 200, 1), *other = ask(w, 250, 1);
    submit(w, h);
    decide(w);
    submit(w, other); /* holds what is under way */
    sl_core_cancel(w->core, h->seq, &w->actions);
    carry_out(w);
    CHECK_INT(w->log[(w->head - 1) % LOG].kind, SL_ORDER_FREE);
    answer_all(w, 42);
    CHECK(other->ended && other->status == SL_OK && cached_tokens(w) > 0);
    free(h);
    free(other);
    check_all_back(w);
    end_world(w);
}
