/* pipeline/decide/schedule.c and plan.c: cuts cover every prompt once and in order, budgets never overrun, arrival order holds;
 * the plan's links and sizes agree at both ends. Many seeds: the code is pure. */
#include "base/rng.h"
#include "pipeline/decide/schedule.h"
#include "pipeline/record/messages.h"
#include "tests/check.h"
#include <stdlib.h>

static const struct sl_plan_model small = {
    .n_layers = 6, .max_pos = 4096, .d_model = 64, .vocab = 100, .kv_layer_bytes = 16384};

static struct sl_plan make_plan(uint32_t chunk, uint64_t kv_tokens, uint32_t running)
{
    struct sl_plan plan;
    struct sl_plan_options o = {.n_stages = 2,
                                .n_decoders = 1,
                                .chunk_tokens = chunk,
                                .max_prefill = running,
                                .max_running = running,
                                .kv_tokens = kv_tokens,
                                .epoch = 7};
    struct sl_err err;
    if (sl_plan_make(&plan, &small, &o, &err) != SL_OK)
        sl_test_fail(__FILE__, __LINE__, "%s", err.text);
    return plan;
}

enum { N = 40 };

struct state {
    struct sl_schedule s;
    struct sl_schedule_entry entries[N];
    uint32_t covered[N], admitted, ended;
    bool live[N];
};

static void check_cuts(struct state *st, const struct sl_cut *cuts, uint32_t n, const struct sl_plan *plan)
{
    uint32_t sum = 0, last = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t e = (uint32_t)(cuts[i].entry - st->entries);
        CHECK_INT(cuts[i].pos, st->covered[e]); /* no gap, no overlap */
        CHECK(cuts[i].n > 0 && cuts[i].entry->admitted);
        CHECK(i == 0 || e > last); /* arrival order */
        st->covered[e] += cuts[i].n;
        CHECK(st->covered[e] <= cuts[i].entry->prompt_tokens);
        /* only the last may be unfinished */
        CHECK(i + 1 == n || st->covered[e] == cuts[i].entry->prompt_tokens);
        sum += cuts[i].n;
        last = e;
    }
    CHECK(sum <= plan->max_chunk);
}

static void run_seed(uint64_t seed)
{
    struct sl_rng rng = {seed, 0};
    struct sl_plan plan =
        make_plan((uint32_t)(sl_rng_next(&rng) % 3 ? sl_rng_next(&rng) % 200 + 1 : 0), 8192, 5);
    struct state *st = calloc(1, sizeof *st);
    sl_schedule_init(&st->s, &plan);
    uint32_t pushed = 0;
    for (int turn = 0; turn < 2000000 && st->ended < N; turn++) {
        uint64_t dice = sl_rng_next(&rng) % 4;
        if (dice == 0 && pushed < N) {
            sl_schedule_entry_init(&st->entries[pushed], &plan, (uint32_t)(sl_rng_next(&rng) % 1000) + 1, 96,
                                   1, 1);
            sl_schedule_push(&st->s, &st->entries[pushed++]);
        } else if (dice == 1) {
            struct sl_schedule_entry *e = sl_schedule_next(&st->s);
            if (e && sl_schedule_fits_decoder(&st->s, e, 0, 0)) {
                sl_schedule_admit(&st->s, e, 0);
                CHECK_INT(e - st->entries, st->admitted); /* strictly in arrival order */
                st->live[st->admitted++] = true;
            }
        } else if (dice == 2) {
            struct sl_cut cuts[SL_MAX_SLICES];
            check_cuts(st, cuts, sl_schedule_cut(&st->s, cuts), &plan);
        } else {
            for (uint32_t i = 0; i < st->admitted; i++)
                if (st->live[i] && st->covered[i] == st->entries[i].prompt_tokens) {
                    sl_schedule_give_decode(&st->s, &st->entries[i], st->entries[i].decode_pages, 1);
                    sl_schedule_end(&st->s, &st->entries[i]);
                    st->live[i] = false;
                    st->ended++;
                    break;
                }
        }
        CHECK(st->s.prefill_pages_used <= plan.n_pages && st->s.decoders[0].pages_used <= plan.n_pages);
        CHECK(st->s.n_prefilling <= 5 && st->s.n_decoding <= 5);
    }
    CHECK_INT(st->ended, N);
    CHECK_INT(st->s.prefill_pages_used, 0);
    CHECK_INT(st->s.decoders[0].pages_used, 0);
    CHECK(st->s.head == NULL);
    free(st);
}

SL_TEST(every_prompt_is_cut_once_in_order_within_budget)
{
    for (uint64_t seed = 1; seed <= 200; seed++)
        run_seed(seed);
}

static void admit_all(struct sl_schedule *s)
{
    for (struct sl_schedule_entry *e; (e = sl_schedule_next(s));) {
        REQUIRE(sl_schedule_fits_decoder(s, e, 0, 0));
        sl_schedule_admit(s, e, 0);
    }
}

SL_TEST(requests_share_what_a_chunk_leaves_free)
{
    struct sl_plan plan = make_plan(64, 8192, 4);
    struct sl_schedule s;
    struct sl_schedule_entry e[3];
    struct sl_cut cuts[SL_MAX_SLICES];
    sl_schedule_init(&s, &plan);
    uint32_t prompts[3] = {100, 20, 200};
    for (uint32_t i = 0; i < 3; i++) {
        sl_schedule_entry_init(&e[i], &plan, prompts[i], 0, 1, 1);
        sl_schedule_push(&s, &e[i]);
    }
    CHECK_INT(sl_schedule_cut(&s, cuts), 0); /* nobody admitted yet */
    admit_all(&s);
    CHECK_INT(sl_schedule_cut(&s, cuts), 1);
    CHECK_INT(sl_schedule_cut(&s, cuts), 3); /* 36 of the first, 20 of the second, 8 of the third */
    CHECK_INT(cuts[0].n, 36);
    CHECK_INT(cuts[1].n, 20);
    CHECK_INT(cuts[2].n, 8);
    CHECK_INT(sl_schedule_cut(&s, cuts), 1);
    CHECK_INT(cuts[0].pos, 8);
    sl_schedule_remove(&s, &e[2]); /* cancelled half-way */
    CHECK_INT(sl_schedule_cut(&s, cuts), 0);
}

SL_TEST(prompts_whose_steering_does_not_fit_one_record_end_in_the_next)
{
    struct sl_plan plan = make_plan(256, 8192, 4);
    struct sl_schedule s;
    struct sl_schedule_entry e[4];
    struct sl_cut cuts[SL_MAX_SLICES];
    const uint32_t sixth = plan.steering_bytes / 6;
    const uint32_t steering[4] = {4 * sixth, 3 * sixth, 0, plan.steering_bytes};
    sl_schedule_init(&s, &plan);
    for (uint32_t i = 0; i < 4; i++) {
        sl_schedule_entry_init(&e[i], &plan, 20, 0, 1, 1);
        e[i].steering_bytes = steering[i];
        sl_schedule_push(&s, &e[i]);
    }
    admit_all(&s);
    CHECK_INT(sl_schedule_cut(&s, cuts), 1);
    CHECK_INT(sl_schedule_cut(&s, cuts), 2); /* one without any always fits */
    CHECK(cuts[0].entry == &e[1] && cuts[0].n == 20 && cuts[1].entry == &e[2]);
    CHECK_INT(sl_schedule_cut(&s, cuts), 1); /* the largest, alone */
    CHECK_INT(sl_schedule_cut(&s, cuts), 0);
}

SL_TEST(chunks_follow_the_prompt_unless_they_are_fixed)
{
    struct sl_plan plan = make_plan(0, 8192, 4);
    CHECK_INT(sl_plan_chunk_for(&plan, 1), 64);
    CHECK_INT(sl_plan_chunk_for(&plan, 3000), 384); /* 375 rounded up to a page */
    CHECK_INT(sl_plan_chunk_for(&plan, 4096), 512);
    plan = make_plan(7, 8192, 4);
    CHECK_INT(sl_plan_chunk_for(&plan, 3000), 7);
}

SL_TEST(the_links_of_a_plan_join_everybody_once)
{
    for (uint32_t size = 0; size < 18; size++) {
        uint32_t n_stages = 1 + size / 3, places = 1 + size % 3;
        struct sl_plan plan;
        struct sl_plan_options o = {
            .n_stages = n_stages, .n_decoders = 1, .max_decoders = places, .epoch = UINT64_MAX};
        REQUIRE(sl_plan_make(&plan, &small, &o, NULL) == SL_OK);
        struct sl_plan_link links[SL_MAX_LINKS];
        uint32_t n = sl_plan_links(&plan, links), layers = 0;
        CHECK_INT(n, n_stages + 1 + places * (n_stages + 1));
        for (uint32_t i = 0; i < n; i++) {
            CHECK(links[i].to_slots >= 1 && links[i].to_slots <= 64 && links[i].from_slots >= 1);
            CHECK_INT(links[i].decoder, sl_plan_decoder_of(&plan, links[i].to));
            CHECK_INT(sl_plan_link_peer(links[i].id, links[i].from), links[i].to);
            CHECK_INT(sl_plan_link_peer(links[i].id, links[i].to), links[i].from);
            for (uint32_t j = 0; j < i; j++)
                CHECK(links[i].id != links[j].id);
        }
        plan.decoder_life[places - 1] =
            SL_DECODER_LIVES - 1; /* another has the place: its links are others */
        struct sl_plan_link later[SL_MAX_LINKS];
        CHECK_INT(sl_plan_links(&plan, later), n);
        for (uint32_t i = 0; i < n; i++) {
            CHECK((later[i].id == links[i].id) == (links[i].decoder != places - 1));
            CHECK_INT(sl_plan_link_peer(later[i].id, links[i].to), links[i].from);
        }
        for (uint32_t k = 0; k < n_stages; k++) {
            struct sl_share c = sl_plan_share(&plan, k, 1);
            CHECK_INT(c.begin, layers);
            layers = c.end;
            CHECK_INT(c.with_embed, k == 0);
            CHECK_INT(c.with_head, k + 1 == n_stages);
        }
        CHECK_INT(layers, 6);
    }
}

SL_TEST(a_plan_that_cannot_be_is_refused)
{
    struct sl_plan plan;
    struct sl_err err;
    struct sl_plan_options o = {.n_stages = 7};
    CHECK_INT(sl_plan_make(&plan, &small, &o, &err), SL_E_CONFIG);
    CHECK_CONTAINS(err.text, "6");
    o = (struct sl_plan_options){.n_stages = 2, .context_tokens = 5000};
    CHECK_INT(sl_plan_make(&plan, &small, &o, &err), SL_E_CONFIG);
    o = (struct sl_plan_options){.n_stages = 2, .kv_tokens = 100};
    CHECK_INT(sl_plan_make(&plan, &small, &o, &err), SL_E_CONFIG);
    o = (struct sl_plan_options){.n_stages = 2, .max_running = 100000};
    CHECK_INT(sl_plan_make(&plan, &small, &o, &err), SL_E_CONFIG);
}

/* Each layer of each place is pushed to the one part that has it, once. */
static void check_kv_links(const struct sl_plan *plan, const struct sl_plan_link *links, uint32_t n)
{
    uint32_t layers = 0;
    for (uint32_t k = 0; k < plan->n_stages; k++)
        for (uint32_t part = 0, begin, end; part < plan->n_parts; part++)
            if (sl_plan_overlap(plan, k, part, &begin, &end)) {
                uint32_t found = 0;
                for (uint32_t i = 0; i < n; i++)
                    found += links[i].kind == SL_LINK_KV && links[i].from == sl_plan_stage_node(k) &&
                             links[i].to == sl_plan_part_node(plan, 0, part) &&
                             links[i].to_slot_bytes == (end - begin) * plan->kv_layer_bytes;
                CHECK_INT(found, 1);
                layers += end - begin;
            }
    CHECK_INT(layers, plan->n_layers);
}

SL_TEST(the_parts_of_a_decode_worker_share_its_layers_and_make_a_ring)
{
    for (uint32_t size = 0; size < 3 * 5 * 6; size++) {
        struct sl_plan_options o = {.n_stages = 1 + size % 5,
                                    .n_decoders = 1,
                                    .max_decoders = 1 + size / 5 % 3,
                                    .n_parts = 1 + size / 15,
                                    .max_running = 10,
                                    .epoch = 3};
        struct sl_plan plan;
        struct sl_plan_link links[SL_MAX_LINKS];
        REQUIRE(sl_plan_make(&plan, &small, &o, NULL) == SL_OK);
        uint32_t n = sl_plan_links(&plan, links), n_ring = 0, n_members = sl_plan_n_members(&plan);
        CHECK_INT(n_members, plan.n_stages + plan.max_decoders * plan.n_parts);
        for (uint32_t d = 0; d < plan.max_decoders; d++)
            for (uint32_t part = 0, layers = 0; part < plan.n_parts; part++) {
                uint32_t node = sl_plan_part_node(&plan, d, part);
                struct sl_share share = sl_plan_share(&plan, node - 1, 1);
                CHECK(node > plan.n_stages && node <= n_members);
                CHECK_INT(sl_plan_decoder_of(&plan, node), d);
                CHECK_INT(sl_plan_part_of(&plan, node), part);
                CHECK(share.begin == layers && share.end > layers);
                CHECK(share.with_embed == (part == 0) && share.with_head == (part + 1 == plan.n_parts));
                CHECK(share.max_tokens * plan.n_parts >= plan.max_running && share.max_sequences == 10);
                layers = share.end;
            }
        CHECK_INT(sl_plan_part_node(&plan, 0, plan.n_parts - 1), sl_plan_decode_node(&plan, 0));
        for (uint32_t i = 0; i < n; i++) {
            n_ring += links[i].kind == SL_LINK_RING;
            CHECK(links[i].from <= n_members && links[i].to <= n_members);
            CHECK(links[i].to <= plan.n_stages || links[i].decoder == sl_plan_decoder_of(&plan, links[i].to));
            for (uint32_t j = 0; j < i; j++)
                CHECK(links[i].id != links[j].id);
        }
        CHECK_INT(n_ring, plan.n_parts > 1 ? plan.max_decoders * plan.n_parts : 0);
        check_kv_links(&plan, links, n);
    }
}

SL_TEST(a_plan_with_more_parts_or_links_than_there_can_be_is_refused)
{
    struct sl_plan plan;
    struct sl_err err;
    struct sl_plan_options o = {.n_stages = 1, .n_decoders = 1, .n_parts = SL_MAX_PARTS, .epoch = 3};
    struct sl_plan_model model = small;
    model.n_layers = 80;
    REQUIRE(sl_plan_make(&plan, &model, &o, &err) == SL_OK);
    o.max_decoders =
        SL_MAX_DECODERS; /* one stage has all layers, and so a link to each part: and two others */
    CHECK_INT(sl_plan_make(&plan, &model, &o, &err), SL_E_CONFIG);
    CHECK(strstr(err.text, "more than 64 links; ask for fewer places or parts") != NULL);
    o.n_stages = 8;
    REQUIRE(sl_plan_make(&plan, &model, &o, &err) == SL_OK);
    o.n_parts = SL_MAX_PARTS + 1;
    CHECK_INT(sl_plan_make(&plan, &model, &o, &err), SL_E_CONFIG);
    model.n_layers = 3;
    o.n_stages = 1;
    o.n_parts = 4;
    CHECK_INT(sl_plan_make(&plan, &model, &o, &err), SL_E_CONFIG);
    CHECK_STR(err.text, "a decode worker of 4 parts cannot share 3 layers; ask for 1 to 3 decode stages");
}
