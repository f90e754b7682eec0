/* pipeline/decide/core_grow.c: who begins, who is granted a page, who sits out and who is set back. The test is the decode worker:
 * it makes a token of every sequence whose next position has a page. A pool has 16 pages, a context 8. */
#include "base/rng.h"
#include "pipeline/decide/core_impl.h"
#include "tests/pipeline/decide/core_world.h"

enum { MOST = 500, PROMPT = 10 };

struct worked { /* a sequence on the decode worker */
    uint64_t seq;
    uint32_t prompt, n_before, n_out, max_tokens, n_pages, last_id;
    bool live, told_to_go;
};

struct grown {
    struct core_world *w;
    struct worked all[64];
    uint32_t n, n_read; /* ADOPTs that were looked at */
    uint32_t n_tokens;
};

static struct worked *find_worked(struct grown *k, uint64_t seq)
{
    for (uint32_t i = 0; i < k->n; i++)
        if (k->all[i].seq == seq)
            return &k->all[i];
    return NULL;
}

static struct grown *begin_work(uint32_t running, uint32_t expect_tokens)
{
    struct grown *k = calloc(1, sizeof *k);
    k->w = malloc(sizeof *k->w);
    make_world_that_expects(k->w, running, expect_tokens);
    return k;
}

static void end_work(struct grown *k)
{
    end_world(k->w);
    free(k);
}

/* What the decode worker is told; a sequence that it takes is adopted, one that is to go is gone when `let_go` says so. */
static void read_adopts(struct grown *k)
{
    for (; k->n_read < k->w->n_adopts; k->n_read++) {
        struct sl_adopt adopt = k->w->adopts[k->n_read % LOG];
        struct worked *it = find_worked(k, adopt.seq);
        if (adopt.kind == SL_ADOPT_TAKE) {
            k->all[k->n++] = (struct worked){
                adopt.seq,     adopt.prompt_tokens, adopt.n_out, adopt.n_out, adopt.max_tokens,
                adopt.n_pages, adopt.first_id,      true,        false};
            CHECK(say(k->w, adopt.seq, SL_TOKENS_ADOPTED, 0, 0) == NULL);
        } else if (adopt.kind == SL_ADOPT_GROW) {
            REQUIRE(it != NULL && adopt.page_first == it->n_pages);
            it->n_pages += adopt.n_pages;
        } else {
            REQUIRE(it != NULL);
            it->told_to_go = true;
        }
    }
}

/* Room for others: those that are gone are not looked for again. */
static uint32_t forget_gone(struct grown *k)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < k->n; i++)
        if (k->all[i].live)
            k->all[n++] = k->all[i];
    return n;
}

static bool can_step(const struct worked *it)
{
    return it->live && !it->told_to_go && it->prompt + it->n_out - it->n_before < SL_PAGE * it->n_pages;
}

static void gone(struct grown *k, struct worked *it)
{
    it->live = false;
    CHECK(say(k->w, it->seq, SL_TOKENS_ENDED, 0, 0) == NULL);
}

/* One token of everybody who can; false: nobody could. Those told to go are gone before, unless they linger. */
static bool step(struct grown *k, bool linger)
{
    bool any = false;
    answer_all(k->w, 20);
    read_adopts(k);
    for (uint32_t i = 0; i < k->n; i++) {
        struct worked *it = &k->all[i];
        if (it->live && it->told_to_go && !linger) {
            gone(k, it);
            any = true;
        }
        if (!can_step(it))
            continue;
        any = true;
        k->n_tokens++;
        bool last = ++it->n_out == it->max_tokens;
        it->last_id = 100 + it->n_out; /* the id tells which token it is */
        CHECK(say(k->w, it->seq, SL_TOKENS_TOKEN, it->last_id, last ? 2 : 0) == NULL);
        if (last)
            gone(k, it);
    }
    return any;
}

static uint32_t n_decoding(const struct grown *k)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < k->n; i++)
        n += k->all[i].live && !k->all[i].told_to_go;
    return n;
}

static void check_whole(const struct heard *h, uint32_t n)
{
    CHECK(h->all_ended && h->status == SL_OK && h->finish == SL_FINISH_LENGTH && h->n == n);
    for (uint32_t i = 1; i < h->n; i++)
        if (h->tokens[i] != 100 + i + 1)
            sl_test_fail(__FILE__, __LINE__, "token %u is number %u", i + 1, h->tokens[i] - 100);
}

SL_TEST(answers_whose_length_nobody_knows_run_together)
{
    struct grown *k = begin_work(3, 20);
    struct heard *h[3];
    struct sl_core_load load;
    for (int i = 0; i < 3; i++)
        submit(k->w, h[i] = ask(k->w, PROMPT, MOST));
    step(k, false);
    sl_core_load(k->w->core, &load);
    CHECK(load.running == 3 && load.waiting == 0 && load.decode_pages_used == 3);
    while (step(k, false))
        ;
    for (int i = 0; i < 3; i++) {
        check_whole(h[i], MOST);
        free(h[i]);
    }
    check_all_back(k->w);
    end_work(k);
}

SL_TEST(who_would_not_fit_with_what_the_others_become_waits_unless_nobody_is_there)
{
    struct grown *k = begin_work(3, 450);
    struct heard *h[3];
    struct sl_core_load load;
    for (int i = 0; i < 3; i++) /* 8 pages each in the end: two would be more than 49 of 50 of 16 */
        submit(k->w, h[i] = ask(k->w, PROMPT, MOST));
    step(k, false);
    sl_core_load(k->w->core, &load);
    CHECK(load.running == 1 && load.waiting == 2);
    while (step(k, false))
        CHECK(n_decoding(k) <= 2); /* the first is known to be near its end */
    for (int i = 0; i < 3; i++) {
        check_whole(h[i], MOST);
        CHECK_INT(h[i]->n_set_back, 0);
        free(h[i]);
    }
    end_work(k);
}

/* Three that grow to 8 pages each in 16: the youngest goes, waits without anything, and comes again behind nobody. */
SL_TEST(the_youngest_is_set_back_holds_nothing_and_goes_on_with_its_next_token)
{
    struct grown *k = begin_work(3, 20);
    struct heard *h[4];
    struct sl_core_load load;
    for (int i = 0; i < 4; i++)
        submit(k->w, h[i] = ask(k->w, PROMPT, MOST));
    while (h[2]->n_set_back == 0 && step(k, false))
        ;
    sl_core_load(k->w->core, &load);
    CHECK(h[0]->n_set_back == 0 && h[1]->n_set_back == 0 && h[3]->n_set_back == 0);
    CHECK(load.running == 2 && load.waiting == 2 && load.set_back == 1); /* the fourth is behind it */
    uint32_t told = h[2]->n, before = k->n;
    while (k->n == before && step(k, false))
        ;
    const struct worked *again = &k->all[before];
    CHECK(again->seq / SL_MAX_N != h[2]->seq / SL_MAX_N); /* a stay of its own */
    CHECK(again->prompt == PROMPT + told - 1 && again->n_before == told);
    CHECK_INT(h[3]->n, 0);
    while (step(k, false))
        ;
    for (int i = 0; i < 4; i++) {
        check_whole(h[i], MOST);
        free(h[i]);
    }
    CHECK(k->n_tokens == 4 * (MOST - 1)); /* no token was made twice */
    check_all_back(k->w);
    end_work(k);
}

/* Two that are being prefilled have all other pages: nobody goes on, and nobody is younger, until the first of them decodes. */
SL_TEST(the_oldest_is_never_set_back_even_when_it_sits_out_alone)
{
    struct grown *k = begin_work(3, 20);
    struct heard *h[3];
    struct sl_core_load load;
    submit(k->w, h[0] = ask(k->w, PROMPT, MOST));
    for (int i = 0; i < 10; i++)
        step(k, false);
    submit(k->w, h[1] = ask(k->w, 400, 100));
    submit(k->w, h[2] = ask(k->w, 400, 100));
    struct worked *first = &k->all[0];
    do { /* no record is answered */
        decide(k->w);
        read_adopts(k);
        if (can_step(first))
            CHECK(say(k->w, first->seq, SL_TOKENS_TOKEN, 100 + ++first->n_out, 0) == NULL);
    } while (can_step(first));
    decide(k->w);
    sl_core_load(k->w->core, &load);
    CHECK(load.running == 3 && load.sitting_out == 1 && load.set_back == 0 && load.decode_pages_used == 16);
    CHECK_INT(h[0]->n, 2 * SL_PAGE - PROMPT + 1);
    while (step(k, false))
        ;
    check_whole(h[0], MOST);
    check_whole(h[1], 100);
    check_whole(h[2], 100);
    CHECK(h[0]->n_set_back == 0 && h[1]->n_set_back + h[2]->n_set_back > 0);
    for (int i = 0; i < 3; i++)
        free(h[i]);
    end_work(k);
}

static struct grown *three_of_which_one_is_to_go(struct heard *h[3])
{
    struct grown *k = begin_work(3, 20);
    for (int i = 0; i < 3; i++)
        submit(k->w, h[i] = ask(k->w, PROMPT, MOST));
    step(k, true);
    const struct worked *young = find_worked(k, h[2]->seq);
    while (!young->told_to_go && step(k, true))
        ;
    return k;
}

SL_TEST(while_one_leaves_nobody_else_is_set_back)
{
    struct heard *h[3];
    struct grown *k = three_of_which_one_is_to_go(h);
    struct sl_core_load load;
    while (step(k, true)) /* its pages do not come */
        ;
    sl_core_load(k->w->core, &load);
    CHECK(load.set_back == 1 && load.sitting_out > 0);
    while (step(k, false))
        ;
    for (int i = 0; i < 3; i++) {
        check_whole(h[i], MOST);
        free(h[i]);
    }
    end_work(k);
}

/* Two of four have come to the end of the pool; the other two are thirty tokens behind. */
SL_TEST(when_half_of_the_batch_sits_out_one_is_set_back)
{
    struct grown *k = begin_work(4, 20);
    struct heard *h[4];
    struct sl_core_load load = {0};
    for (int i = 0; i < 4; i++)
        submit(k->w, h[i] = ask(k->w, i < 2 ? 10 : 40, 400));
    while (load.set_back == 0 && step(k, false))
        sl_core_load(k->w->core, &load);
    CHECK(load.set_back == 1 && find_worked(k, h[3]->seq)->told_to_go);
    CHECK(can_step(find_worked(k, h[0]->seq)) && can_step(find_worked(k, h[1]->seq)));
    while (step(k, false))
        ;
    for (int i = 0; i < 4; i++) {
        check_whole(h[i], 400);
        free(h[i]);
    }
    end_work(k);
}

SL_TEST(who_was_set_back_twice_is_spared_while_there_is_another)
{
    struct grown *k = begin_work(3, 20);
    struct heard *h[3];
    for (int i = 0; i < 3; i++)
        submit(k->w, h[i] = ask(k->w, PROMPT, MOST));
    step(k, false);
    for (uint32_t i = 0; i < k->w->core->config.max_requests; i++) {
        struct sl_request *r = &k->w->core->requests[i];
        if (r->seq && r->seq == h[2]->seq)
            r->answers[0].n_set_back = 2;
    }
    while (h[1]->n_set_back + h[2]->n_set_back == 0 && step(k, false))
        ;
    CHECK(h[1]->n_set_back == 1 && h[2]->n_set_back == 0);
    while (step(k, false))
        ;
    for (int i = 0; i < 3; i++) {
        check_whole(h[i], MOST);
        free(h[i]);
    }
    end_work(k);
}

/* Lengths as they are in use: most are short and some ten times as long. The estimate is the decider's own. */
SL_TEST(with_lengths_that_stay_as_they_are_less_than_one_in_64_is_set_back)
{
    enum { MANY = 1500 };
    struct grown *k = begin_work(3, 0);
    struct heard *h[MANY] = {NULL};
    struct sl_rng rng = {11, 0};
    struct sl_core_load load;
    uint32_t ended = 0, from = 0;
    for (uint32_t n = 0; ended < MANY;) {
        for (sl_core_load(k->w->core, &load); n < MANY && load.live < 5; sl_core_load(k->w->core, &load)) {
            uint32_t x = (uint32_t)(sl_rng_next(&rng) % 100), out = 20 + x * x * x / 2500;
            submit(k->w, h[n] = ask(k->w, PROMPT + (uint32_t)(sl_rng_next(&rng) % 60), out));
            n++;
        }
        step(k, false);
        k->n = k->n > 40 ? forget_gone(k) : k->n;
        for (ended = from; ended < n && h[ended]->all_ended; ended++)
            ;
        from = ended;
    }
    sl_core_load(k->w->core, &load);
    CHECK(load.set_back <= MANY / 64);
    for (uint32_t i = 0; i < MANY; i++)
        free(h[i]);
    check_all_back(k->w);
    end_work(k);
}

/* What it said before it heard that it is to go is told, and it comes again behind that; a stop string in it ends it. */
SL_TEST(a_token_that_crossed_the_setting_back_counts)
{
    for (int ends = 0; ends < 2; ends++) {
        struct heard *h[3];
        struct grown *k = three_of_which_one_is_to_go(h);
        struct worked *young = find_worked(k, h[2]->seq);
        uint32_t told = h[2]->n;
        REQUIRE(young->told_to_go);
        CHECK(say(k->w, young->seq, SL_TOKENS_TOKEN, 100 + told + 1, 0) == NULL);
        CHECK_INT(h[2]->n, told + 1);
        if (ends) {
            sl_core_text_ends(k->w->core, h[2]->seq, told + 1, &k->w->actions);
            carry_out(k->w);
            CHECK(h[2]->ended && h[2]->finish == SL_FINISH_STOP && h[2]->kv_digest == 0);
            CHECK(say(k->w, young->seq, SL_TOKENS_TOKEN, 9, 0) == NULL); /* behind its end */
        }
        young->n_out++;
        gone(k, young);
        CHECK(h[2]->n_set_back == !ends && h[2]->ended == ends && h[2]->n == told + 1);
        k->n_tokens = 0;
        while (step(k, false))
            ;
        check_whole(h[0], MOST);
        if (!ends)
            check_whole(h[2], MOST);
        check_all_back(k->w);
        for (int i = 0; i < 3; i++)
            free(h[i]);
        end_work(k);
    }
}

SL_TEST(one_that_waits_again_can_be_cancelled_lost_and_drained)
{
    for (int how = 0; how < 3; how++) {
        struct grown *k = begin_work(3, 20);
        struct heard *h[3];
        for (int i = 0; i < 3; i++)
            submit(k->w, h[i] = ask(k->w, PROMPT, MOST));
        while (h[2]->n_set_back == 0 && step(k, false))
            ;
        uint32_t told = h[2]->n;
        if (how == 0)
            sl_core_cancel(k->w->core, h[2]->seq, &k->w->actions);
        else if (how == 1)
            sl_core_lose(k->w->core, SL_E_UNAVAILABLE, "gone", &k->w->actions);
        else
            sl_core_drain(k->w->core, &k->w->actions);
        carry_out(k->w);
        CHECK_INT(h[2]->ended, how < 2);
        CHECK(h[2]->n == told && (how != 1 || h[2]->status == SL_E_UNAVAILABLE));
        while (how != 1 && step(k, false))
            ;
        if (how == 2)
            check_whole(h[2], MOST);
        if (how != 1) {
            check_all_back(k->w);
            check_whole(h[0], MOST);
        }
        free(h[0]), free(h[1]), free(h[2]);
        end_work(k);
    }
}

SL_TEST(a_deadline_is_for_the_first_time_alone)
{
    struct grown *k = begin_work(3, 20);
    struct heard *h[3];
    for (int i = 0; i < 3; i++) {
        h[i] = ask(k->w, PROMPT, MOST);
        h[i]->ask.deadline_us = 1000;
        submit(k->w, h[i]);
    }
    while (h[2]->n_set_back == 0 && step(k, false))
        ;
    sl_core_decide(k->w->core, 5000, &k->w->actions);
    carry_out(k->w);
    CHECK(!h[2]->ended && sl_core_wake_us(k->w->core) == 0);
    while (step(k, false))
        ;
    for (int i = 0; i < 3; i++) {
        check_whole(h[i], MOST);
        free(h[i]);
    }
    end_work(k);
}
