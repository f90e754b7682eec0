/* pipeline/decide/core_check.c over everything that can happen to the whole core at once: requests with deadlines, targets, tenants,
 * priorities, many answers and beginnings in common; cancels, stop strings, failures, flushes, silence; results and tokens that
 * come late; and what decode workers are told to have they have. After every event its tables keep their promises, and when no more comes everything ends by itself. */
#include "base/digest.h"
#include "base/rng.h"
#include "pipeline/decide/core_impl.h"
#include "tests/pipeline/decide/core_world.h"
#include <math.h>

enum { SEEDS = 150, STEPS = 3000, MOST = 40, WORKED = 64, FAMILIES = 3, TOKEN = 20 };

struct driven { /* a request, until its last word */
    struct heard heard;
    uint32_t ids[CONTEXT], n_asked;
    bool live;
};

struct driven_sequence { /* a sequence on the decode worker */
    uint64_t seq;
    uint32_t decoder, prompt, n_before, n_out, max_tokens, n_pages;
    bool adopted, silent, last, told_to_go;
    const uint32_t *pages; /* on the decode worker */
};

struct drive {
    struct core_world *w;
    struct sl_rng rng;
    struct driven told[MOST];
    struct driven_sequence worked[WORKED];
    uint32_t n_worked, n_read, families[FAMILIES][CONTEXT], any_ids[CONTEXT];
    bool silent;
    uint32_t n_lost;
    uint64_t content[SL_MAX_DECODERS]
                    [4 * CONTEXT / SL_PAGE]; /* of pages of decode workers; 0: nobody knows */
    uint64_t n_kept, n_events, n_refused, n_late, n_ended, n_tokens, n_set_back, n_cached, n_evicted,
        n_failed, n_room;
};

static uint32_t draw(struct drive *d, uint32_t below)
{
    return (uint32_t)(sl_rng_next(&d->rng) % below);
}

/* ---- the world ---- */

static void make_core(struct drive *d)
{
    static const struct sl_plan_model model = {
        .n_layers = 4, .max_pos = CONTEXT, .d_model = 8, .vocab = 1000, .kv_layer_bytes = 64};
    static const struct sl_tenant_weight weights[] = {{"gold", 4}, {"poor", 0.25}};
    struct core_world *w = d->w;
    struct sl_plan_options options = {.n_stages = STAGES,
                                      .n_decoders = 1 + draw(d, 3),
                                      .chunk_tokens = draw(d, 3) ? 0 : 1 + draw(d, 200),
                                      .max_prefill = 1 + draw(d, 8),
                                      .max_running = 1 + draw(d, 8),
                                      .kv_tokens = CONTEXT * (uint64_t)(1 + draw(d, 3)),
                                      .epoch = 1};
    *w = (struct core_world){.actions = {.list = w->list, .room = ROOM}, .now_us = 1000};
    REQUIRE(sl_plan_make(&w->plan, &model, &options, NULL) == SL_OK);
    struct sl_core_config config = {.plan = &w->plan,
                                    .schedule = draw(d, 4) ? SL_SCHEDULE_SLO : SL_SCHEDULE_FIFO,
                                    .n_end_ids = 1,
                                    .end_ids = {EOS},
                                    .max_requests = MOST - 8,
                                    .max_waiting_bytes = draw(d, 4) ? 0 : 3000,
                                    .max_waiting_us = draw(d, 4) ? 0 : 1 + draw(d, 3000000),
                                    .max_waiting_tokens = draw(d, 4) ? 0 : 1 + draw(d, 5000),
                                    .expect_tokens = draw(d, 2) ? 0 : 1 + draw(d, 20),
                                    .chunk_us = draw(d, 3) ? 0 : 1 + draw(d, 20000),
                                    .slo_us = draw(d, 3) ? 0 : 1 + draw(d, 200000),
                                    .runs = draw(d, 4) ? 0 : 1 + draw(d, 8),
                                    .prefix_cache = true,
                                    .n_decoders = options.n_decoders,
                                    .alone_us = 5000,
                                    .n_weights = 2,
                                    .weights = weights};
    uint32_t prompts = w->plan.max_prefill;
    REQUIRE(sl_arena_init(&w->arena, sl_core_bytes(&config), NULL) == SL_OK);
    REQUIRE(sl_core_init(&w->core, &w->arena, &config) == SL_OK);
    REQUIRE(sl_core_max_actions(w->core) <= ROOM);
    REQUIRE(sl_arena_init(&w->tables, sl_sequences_bytes(prompts, CONTEXT, w->plan.n_pages), NULL) == SL_OK);
    REQUIRE(sl_sequences_init(&w->stage, &w->tables, prompts, CONTEXT, w->plan.n_pages) == SL_OK);
    for (uint32_t k = 0; k < STAGES && draw(d, 4); k++)
        sl_core_cost(w->core, k,
                     &(struct sl_cost){.us = {1 + draw(d, 3000), 0.01 * draw(d, 100), 1 + draw(d, 50),
                                              0.0001 * draw(d, 100), draw(d, 3000)},
                                       .hit = 1.0 / 16});
    sl_core_complete(w->core, &w->actions);
    carry_out(w);
}

/* ---- what pages of decode workers hold ---- */

/* What the sequence will have, or has, in a page of its own: a hash of all ids up to its end, and of the salt. */
static uint64_t content_of(const struct drive *d, uint64_t seq, uint32_t page)
{
    const struct sl_core *core = d->w->core;
    const struct sl_stay *s = &core->stays[seq / SL_MAX_N % core->n_stays];
    uint32_t k = seq % SL_MAX_N, n = (page + 1) * SL_PAGE, ids[CONTEXT + 1];
    if (s->seq != seq - k || !sl_core_is_alive(s, k))
        return 0;
    const struct sl_ask *ask = s->request->ask;
    sl_core_copy_ids_of(ids, ask, ask->said[s->first + k].ids, 0, n);
    ids[n] = ask->cache_salt[0];
    return sl_xxh3(ids, (n + 1) * sizeof *ids) | 1;
}

/* What a TAKE says to lie there does; all other pages are to be written. */
static void look_at_pages(struct drive *d, uint32_t decoder, const struct sl_adopt *adopt)
{
    uint32_t first_own = adopt->kind == SL_ADOPT_FORK   ? adopt->prompt_tokens / SL_PAGE
                         : adopt->kind == SL_ADOPT_TAKE ? adopt->n_kept
                                                        : 0;
    const uint32_t *pages = (const uint32_t *)(const void *)adopt->pages;
    d->n_kept += adopt->n_kept;
    for (uint32_t i = 0; i < adopt->n_kept; i++) {
        uint64_t wanted = content_of(d, adopt->seq, i);
        CHECK(wanted == 0 || d->content[decoder][pages[i]] == wanted);
    }
    for (uint32_t i = first_own; i < adopt->n_pages; i++)
        d->content[decoder][pages[i]] = 0;
}

/* Of one that nobody wants any more it is not known what it fills; what it shares with others was filled before. */
static void fill_pages(struct drive *d, const struct driven_sequence *it, uint32_t from, uint32_t n_tokens)
{
    for (uint32_t i = from / SL_PAGE; i < n_tokens / SL_PAGE; i++) {
        uint64_t is = content_of(d, it->seq, i), *content = &d->content[it->decoder][it->pages[i]];
        *content = is ? is : *content;
    }
}

/* What it was told of is looked for again in what it is told next: as many ADOPTs as there is room for are kept. */
static void read_adopts(struct drive *d)
{
    for (; d->n_read < d->w->n_adopts; d->n_read++) {
        const struct sl_adopt *adopt = &d->w->adopts[d->n_read % LOG];
        uint32_t decoder = d->w->adopted_by[d->n_read % LOG];
        struct driven_sequence *it = NULL;
        if (adopt->kind != SL_ADOPT_CANCEL)
            look_at_pages(d, decoder, adopt);
        for (uint32_t i = 0; i < d->n_worked; i++)
            it = d->worked[i].seq == adopt->seq ? &d->worked[i] : it;
        if (adopt->kind == SL_ADOPT_TAKE || adopt->kind == SL_ADOPT_FORK) {
            REQUIRE(it == NULL && d->n_worked < WORKED);
            d->worked[d->n_worked++] =
                (struct driven_sequence){.seq = adopt->seq,
                                         .decoder = decoder,
                                         .prompt = adopt->prompt_tokens,
                                         .n_before = adopt->n_out,
                                         .n_out = adopt->n_out,
                                         .max_tokens = adopt->max_tokens,
                                         .n_pages = adopt->n_pages,
                                         .silent = adopt->silent,
                                         .pages = (const uint32_t *)(const void *)adopt->pages};
        } else if (adopt->kind == SL_ADOPT_GROW) {
            REQUIRE(it != NULL);
            CHECK_INT(adopt->page_first, it->n_pages);
            it->n_pages += adopt->n_pages;
        } else if (it) {
            it->told_to_go = true;
        } else { /* it never had it: it says so */
            REQUIRE(d->n_worked < WORKED);
            d->worked[d->n_worked++] =
                (struct driven_sequence){.seq = adopt->seq, .decoder = decoder, .told_to_go = true};
        }
    }
}

static void leave(struct drive *d, uint32_t i, enum sl_tokens_kind kind)
{
    uint64_t seq = d->worked[i].seq;
    d->w->speaker = d->worked[i].decoder;
    d->worked[i] = d->worked[--d->n_worked];
    CHECK(say(d->w, seq, kind, 0, 0) == NULL);
}

/* The decode worker does the next thing for sequence i. false: it can't. */
static bool work_at(struct drive *d, uint32_t i)
{
    struct driven_sequence *it = &d->worked[i];
    d->w->speaker = it->decoder;
    if (it->told_to_go || it->last) {
        leave(d, i, SL_TOKENS_ENDED);
        return true;
    }
    if (!it->adopted) {
        it->adopted = true;
        fill_pages(d, it, 0, it->prompt);
        CHECK(say(d->w, it->seq, SL_TOKENS_ADOPTED, 0, 0) == NULL);
        return true;
    }
    if (it->silent) { /* it was there for others to be made of */
        leave(d, i, SL_TOKENS_ENDED);
        return true;
    }
    if (it->prompt + it->n_out - it->n_before >= SL_PAGE * it->n_pages)
        return false; /* it sits out */
    d->n_tokens++;
    uint32_t pos = it->prompt + it->n_out - it->n_before; /* which is written now */
    fill_pages(d, it, pos, pos + 1);
    bool full = ++it->n_out == it->max_tokens, stops = draw(d, 200) == 0;
    it->last = full || stops;
    CHECK(say(d->w, it->seq, SL_TOKENS_TOKEN, stops ? EOS : TOKEN,
              stops  ? SL_TEXT_STOPS
              : full ? SL_TEXT_IS_FULL
                     : SL_TEXT_GOES_ON) == NULL);
    return true;
}

static bool work(struct drive *d, bool may_fail)
{
    bool any = false;
    read_adopts(d);
    uint32_t n = 1 + draw(d, 8);
    for (uint32_t k = 0; k < n && d->n_worked > 0; k++) {
        uint32_t i = draw(d, d->n_worked);
        if (may_fail && draw(d, 2000) == 0) {
            d->n_failed++;
            leave(d, i, SL_TOKENS_FAILED);
        } else {
            any = work_at(d, i) || any;
        }
        d->n_events++;
        read_adopts(d);
    }
    return any;
}

/* ---- events ---- */

static void draw_prompt(struct drive *d, struct driven *t, uint32_t n)
{
    const uint32_t *family = d->families[draw(d, FAMILIES)];
    uint32_t common = draw(d, 4) ? draw(d, CONTEXT) : 0;
    for (uint32_t i = 0; i < n; i++)
        t->ids[i] = i < common ? family[i] : draw(d, 1000);
}

/* The next turn of a conversation: what was asked, what was told, and more, as much as there is room for. */
static uint32_t draw_turn(struct drive *d, struct driven *t)
{
    const struct driven *before = &d->told[draw(d, MOST)];
    uint32_t n = before->n_asked, n_told = before->heard.n, more = draw(d, 100);
    if (before == t || n_told == 0 || n + n_told + more > CONTEXT - 60)
        return 0;
    memcpy(t->ids, before->ids, n * sizeof *t->ids);
    memcpy(t->ids + n, before->heard.tokens, n_told * sizeof *t->ids);
    for (uint32_t i = n + n_told; i < n + n_told + more; i++)
        t->ids[i] = draw(d, 1000);
    return n + n_told + more;
}

static void draw_ask(struct drive *d, struct driven *t)
{
    static const char *const tenants[] = {"", "one", "gold", "poor"};
    struct sl_ask *a = &t->heard.ask;
    uint32_t n = 1 + draw(d, draw(d, 3) ? 200 : CONTEXT - 60);
    uint64_t now = d->w->now_us;
    uint32_t turn = draw(d, 2) ? draw_turn(d, t) : 0;
    if (turn)
        n = turn;
    else
        draw_prompt(d, t, n);
    t->n_asked = n;
    *a = (struct sl_ask){.ids = t->ids,
                         .n_ids = n,
                         .max_tokens = draw(d, 3) ? draw(d, 60) : 1 + draw(d, CONTEXT - n),
                         .sampling = {.top_p = 1, .n_logprobs = -1},
                         .prompt_logprobs = -1,
                         .held_bytes = draw(d, 1000),
                         .deadline_us = draw(d, 6) ? 0 : now - 50 + draw(d, 300000),
                         .target_us = draw(d, 3)   ? 0
                                      : draw(d, 8) ? now + draw(d, 300000)
                                                   : draw(d, 3),
                         .priority = (int32_t)draw(d, 5) - 2,
                         .user = &t->heard};
    if (a->max_tokens > 0 && draw(d, 4) == 0)
        a->n = draw(d, 2 + d->w->plan.max_running);
    a->cache_salt[0] = draw(d, 4) ? 0 : (uint8_t)draw(d, 3);
    strcpy(a->tenant, tenants[draw(d, 4)]);
    if (draw(d, 5) == 0)
        snprintf(a->id, sizeof a->id, "id %u", draw(d, 6));
    a->said[0].ids = t->heard.tokens;
    for (uint32_t i = 1; i < SL_MAX_N; i++)
        a->said[i].ids = d->any_ids;
}

/* (11) Who is refused leaves nothing; (18) who waits has nothing, which sl_core_check sees. */
static void arrive(struct drive *d)
{
    struct driven *t = &d->told[draw(d, MOST)];
    struct sl_core_load before, after;
    if (t->live)
        return;
    *t = (struct driven){.live = true};
    draw_ask(d, t);
    bool refills = d->w->core->refills.active; /* whoever comes ends it */
    sl_core_load(d->w->core, &before);
    submit(d->w, &t->heard);
    sl_core_load(d->w->core, &after);
    CHECK_INT(after.live, before.live + (t->heard.seq != 0));
    if (t->heard.seq)
        return;
    d->n_refused++;
    CHECK(t->heard.all_ended && t->heard.status != SL_OK && t->heard.n == 0);
    if (!refills)
        CHECK(before.pages_used == after.pages_used &&
              memcmp(before.decoders, after.decoders, sizeof before.decoders) == 0 &&
              before.waiting == after.waiting && before.waiting_tokens == after.waiting_tokens &&
              before.waiting_bytes == after.waiting_bytes && before.records == after.records);
}

/* The answer that decodes for longest on a decode worker, or NULL. */
static const struct sl_branch *oldest_decoding(const struct sl_core *core, uint32_t decoder)
{
    for (const struct sl_stay *s = core->begun; s; s = s->next_begun)
        for (uint32_t k = 0; k < s->n && s->entry.decoder == decoder; k++)
            if (s->decode[k] == SL_DECODE_ADOPTED && sl_core_is_alive(s, k))
                return sl_core_answer_of(s, k);
    return NULL;
}

/* (1) With room in the window nobody who has pages is left uncut; (19) whoever decodes for longest is not set back. */
/* An answer that runs on a decode worker, as it is expected to end. */
struct coming_end {
    double us;
    uint32_t pages;
};

static uint32_t endings_of(const struct sl_core *core, uint32_t decoder, struct coming_end *endings)
{
    uint32_t n = 0;
    for (const struct sl_stay *s = core->begun; s; s = s->next_begun)
        for (uint32_t k = 0; k < s->n && s->request->ask; k++) {
            if (!sl_core_is_alive(s, k) || s->decode[k] == SL_DECODE_NONE || s->entry.decoder != decoder)
                continue;
            uint32_t n_out = sl_core_answer_of(s, k)->n_out,
                     becomes = sl_growth_expect(&core->growth, n_out, s->request->ask->max_tokens);
            endings[n++] = (struct coming_end){(becomes - n_out) * core->time.step_us, s->granted[k]};
        }
    return n;
}

/* The soonest end with which, and with all that end by then, there is room; the last when there never is. */
static double expected_room_us(const struct sl_core *core, const struct sl_schedule_entry *e,
                               uint32_t decoder)
{
    const struct sl_schedule_decoder *taken = &core->schedule.decoders[decoder];
    struct coming_end endings[SL_MAX_BATCH];
    uint32_t n = endings_of(core, decoder, endings);
    double soonest = INFINITY, last = 0;
    if (sl_schedule_fits_decoder(&core->schedule, e, decoder, 0))
        return 0;
    for (uint32_t i = 0; i < n; i++) {
        uint64_t places = core->plan.max_running - taken->n_decoding,
                 pages = core->plan.n_pages - taken->pages_used;
        for (uint32_t k = 0; k < n; k++) {
            places += endings[k].us <= endings[i].us;
            pages += endings[k].us <= endings[i].us ? endings[k].pages : 0;
        }
        last = fmax(last, endings[i].us);
        if (places >= e->n_places && pages >= e->decode_pages)
            soonest = fmin(soonest, endings[i].us);
    }
    return soonest < INFINITY ? soonest : last;
}

/* Of who would come now, as large as any: the decode worker that has room first. */
static void check_outlook(struct drive *d)
{
    const struct sl_core *core = d->w->core;
    struct sl_outlook outlook;
    struct sl_schedule_entry e;
    uint32_t n_ids = 1 + draw(d, 200);
    double least = INFINITY;
    sl_schedule_entry_init(&e, &core->plan, n_ids, draw(d, 8) ? 1 + draw(d, 200) : 0, 1,
                           1 + draw(d, core->plan.max_running));
    for (uint32_t i = 0; i < core->plan.max_decoders; i++)
        if (core->decoders[i].state == SL_DECODER_HERE)
            least = fmin(least, expected_room_us(core, &e, i));
    sl_core_outlook(core, &e, &outlook);
    CHECK(outlook.room_us == (e.n_places > 0 && least < INFINITY ? least : 0));
    d->n_room += outlook.room_us > 0;
}

static void decide_and_look(struct drive *d)
{
    struct sl_core *core = d->w->core;
    const struct sl_branch *oldest[SL_MAX_DECODERS];
    uint32_t n_set_back[SL_MAX_DECODERS], n = core->plan.max_decoders;
    for (uint32_t i = 0; i < n; i++) {
        oldest[i] = oldest_decoding(core, i);
        n_set_back[i] = oldest[i] ? oldest[i]->n_set_back : 0;
    }
    d->w->now_us += draw(d, 3) ? 0 : draw(d, 20000);
    decide(d->w);
    check_outlook(d);
    for (uint32_t i = 0; i < n; i++)
        CHECK(!oldest[i] || !oldest[i]->alive || oldest[i]->n_set_back == n_set_back[i]);
    uint32_t window = core->config.runs                           ? core->config.runs
                      : core->config.schedule == SL_SCHEDULE_FIFO ? sl_plan_fifo_runs(&core->plan)
                                                                  : core->policy.budget.runs;
    bool idle = core->runs_in_flight < window && core->runs_in_flight < core->max_runs,
         refills = core->refills.active; /* which has one chunk under way */
    CHECK(d->silent || !idle || refills || !core->schedule.head || !core->schedule.head->admitted);
}

static bool answer_one(struct drive *d)
{
    for (uint32_t k = 0; k < STAGES; k++) {
        uint64_t begin = d->w->now_us + draw(d, 1000);
        d->w->traces[k] = (struct sl_trace){.recv_us = begin - draw(d, 2) * draw(d, 500),
                                            .begin_us = begin,
                                            .end_us = begin + draw(d, 20000)};
    }
    return answer(d->w, TOKEN);
}

/* All that it had goes on elsewhere, or there, where another comes at once. */
static void lose_decoder(struct drive *d, uint32_t decoder)
{
    uint32_t n = 0;
    read_adopts(d);
    for (uint32_t i = 0; i < d->n_worked; i++)
        if (d->worked[i].decoder != decoder)
            d->worked[n++] = d->worked[i];
    d->n_worked = n;
    memset(d->content[decoder], 0, sizeof d->content[decoder]);
    sl_core_decoder_lost(d->w->core, decoder, NULL, &d->w->actions);
    carry_out(d->w);
    sl_core_decoder_joins(d->w->core, decoder, ++d->n_lost % SL_DECODER_LIVES, &d->w->actions);
    carry_out(d->w);
}

static void meddle(struct drive *d)
{
    struct driven *t = &d->told[draw(d, MOST)];
    switch (draw(d, 9)) {
    case 0:
    case 1:
        sl_core_cancel(d->w->core, t->heard.seq, &d->w->actions);
        break;
    case 2:
    case 3:
        if (t->heard.n > 0)
            sl_core_text_ends(d->w->core, t->heard.seq, t->heard.n, &d->w->actions);
        break;
    case 4:
        if (draw(d, 4) == 0)
            sl_core_fail(d->w->core, t->heard.seq, SL_E_NOMEM, "it is too much", &d->w->actions);
        break;
    case 5:
        if (draw(d, 10) == 0)
            sl_core_flush_prefixes(d->w->core);
        break;
    case 6:
        d->silent = !d->silent && draw(d, 4) == 0;
        sl_core_silence(d->w->core, d->silent, &d->w->actions);
        break;
    case 7:
        if (draw(d, 10) == 0)
            lose_decoder(d, draw(d, d->w->plan.max_decoders));
        break;
    default:
        sl_core_cancel_id(d->w->core, t->heard.ask.id, &d->w->actions);
    }
    carry_out(d->w);
}

static void forget_ended(struct drive *d)
{
    for (uint32_t i = 0; i < MOST; i++) {
        struct driven *t = &d->told[i];
        if (!t->live || !t->heard.all_ended)
            continue;
        d->n_ended++;
        d->n_late += t->heard.status == SL_E_DEADLINE;
        CHECK_INT(t->heard.n_ended, t->heard.seq && t->heard.ask.n ? t->heard.ask.n : 1);
        t->live = false;
    }
}

static void step(struct drive *d)
{
    uint32_t dice = draw(d, 16);
    d->n_events++;
    if (dice < 2)
        arrive(d);
    else if (dice < 6)
        decide_and_look(d);
    else if (dice < 9)
        answer_one(d);
    else if (dice < 15)
        work(d, true);
    else
        meddle(d);
    forget_ended(d);
}

/* Nobody is stuck: without a cancel, and with no time passing, all that has come ends. */
static void run_out(struct drive *d)
{
    struct sl_core_load load;
    sl_core_silence(d->w->core, d->silent = false, &d->w->actions);
    sl_core_load(d->w->core, &load);
    for (uint32_t idle = 0; (load.live > 0 || d->w->core->refills.n > 0) && idle < 200; d->n_events++) {
        decide_and_look(d);
        bool any = answer_one(d);
        any = work(d, false) || any;
        idle = any ? 0 : idle + 1;
        sl_core_load(d->w->core, &load);
    }
    forget_ended(d);
    for (uint32_t i = 0; i < MOST; i++)
        CHECK(!d->told[i].live);
    while (answer_one(d))
        decide_and_look(d);
    d->n_cached += load.prompt_tokens_cached;
    d->n_evicted += load.pages_evicted;
    d->n_set_back += load.set_back;
    check_all_back(d->w);
}

static void run_seed(struct drive *d, uint64_t seed)
{
    d->rng = (struct sl_rng){seed, 0};
    d->n_worked = d->n_read = 0;
    memset(d->content, 0, sizeof d->content);
    d->silent = false;
    memset(d->told, 0, sizeof d->told);
    d->w = malloc(sizeof *d->w);
    for (uint32_t f = 0; f < FAMILIES; f++)
        for (uint32_t i = 0; i < CONTEXT; i++)
            d->families[f][i] = draw(d, 1000);
    make_core(d);
    for (int i = 0; i < STEPS; i++)
        step(d);
    run_out(d);
    end_world(d->w);
}

/* (17), (18), (20), (22) are what sl_core_check looks at after every event; (20) that tokens go on where they were is heard. */
SL_TEST(the_tables_keep_their_promises_whatever_happens_and_everything_ends)
{
    struct drive *d = calloc(1, sizeof *d);
    const char *more = getenv("SLUICE_SEEDS");
    uint64_t seeds = more ? strtoull(more, NULL, 10) : SEEDS;
    for (uint32_t i = 0; i < CONTEXT; i++)
        d->any_ids[i] = TOKEN;
    for (uint64_t seed = 1; seed <= seeds; seed++)
        run_seed(d, seed);
    CHECK(d->n_lost > seeds && d->n_refused > seeds && d->n_late > 0 && d->n_ended > 30 * seeds &&
          d->n_cached > 100 * seeds && d->n_evicted > seeds && d->n_set_back > seeds / 4 &&
          d->n_kept > 10 * seeds && d->n_failed > 0 && d->n_room > seeds); /* it was about something */
    CHECK(d->n_set_back <= d->n_tokens / SL_PAGE);                         /* (21) */
    free(d);
}
