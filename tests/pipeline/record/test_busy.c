/* What stages did for others while a request waited: against a simple oracle (every record looked at for itself), and the bounds:
 * what was forgotten, who has no first token, clocks that jump. */
#include "base/rng.h"
#include "pipeline/record/busy.h"
#include "tests/check.h"
#include <stdlib.h>

enum { STAGES = 2, ROOM = 16 };

static const int64_t no_offset[STAGES];

struct ring {
    struct sl_arena arena;
    struct sl_busy busy;
    struct sl_foreign out[STAGES * SL_FOREIGN_MAX];
};

static void make(struct ring *r, uint32_t room)
{
    REQUIRE(sl_arena_init(&r->arena, sl_busy_bytes(STAGES, room), NULL) == SL_OK);
    REQUIRE(sl_busy_init(&r->busy, &r->arena, STAGES, room) == SL_OK);
}

/* Stage 1 runs it when stage 0 has done it. */
static void ran(struct ring *r, uint64_t begin_us, uint64_t us)
{
    struct sl_trace traces[STAGES] = {{.begin_us = begin_us, .end_us = begin_us + us},
                                      {.begin_us = begin_us + us, .end_us = begin_us + 2 * us}};
    sl_busy_add(&r->busy, traces, no_offset);
}

SL_TEST(what_ran_before_its_own_chunk_is_foreign)
{
    struct ring r;
    make(&r, ROOM);
    ran(&r, 900, 150);  /* began before it was submitted */
    ran(&r, 1050, 100); /* follows at once: one interval with it */
    ran(&r, 1150, 100); /* its own */
    ran(&r, 1250, 100);
    struct sl_span own[] = {{.stage = 0, .begin_us = 1150, .end_us = 1250},
                            {.stage = 1, .begin_us = 1250, .end_us = 1350}};
    struct sl_timeline t = {
        .submit_us = 1000, .first_token_us = 1300, .n_stages = STAGES, .n_spans = 2, .spans = own};
    REQUIRE(sl_busy_foreign(&r.busy, &t, r.out) == 3);
    CHECK(r.out[0].stage == 0 && r.out[0].begin_us == 1000 && r.out[0].end_us == 1150);
    CHECK(r.out[1].stage == 0 && r.out[1].begin_us == 1250 && r.out[1].end_us == 1300);
    CHECK(r.out[2].stage == 1 && r.out[2].begin_us == 1050 && r.out[2].end_us == 1250);
    t.first_token_us = 0; /* it was cancelled before there was one */
    t.done_us = 1100;
    t.n_spans = 0;
    REQUIRE(sl_busy_foreign(&r.busy, &t, r.out) == 2);
    CHECK_INT(r.out[1].end_us, 1100);
    t.done_us = 1000;
    CHECK_INT(sl_busy_foreign(&r.busy, &t, r.out), 0);
    sl_arena_fini(&r.arena);
}

SL_TEST(what_is_forgotten_is_not_told)
{
    struct ring r;
    make(&r, ROOM);
    for (uint32_t i = 0; i < 3 * ROOM; i++)
        ran(&r, 1000 + 100 * i, 90);
    struct sl_timeline t = {.submit_us = 1000, .first_token_us = 1000 + 300 * ROOM, .n_stages = STAGES};
    REQUIRE(sl_busy_foreign(&r.busy, &t, r.out) > 0);
    CHECK_INT(r.out[0].begin_us, 1000 + 200 * ROOM);
    CHECK_INT(sl_busy_last(&r.busy, 1)->end_us, 1000 + 100 * (3 * ROOM - 1) + 180);
    sl_arena_fini(&r.arena);
}

/* Of every microsecond: whether a record of others ran, and whether it is told; they differ by merged gaps alone. */
SL_TEST(every_moment_of_others_is_told_and_none_of_its_own)
{
    for (uint64_t seed = 1; seed <= 50; seed++) {
        enum { LONG = 4096 };
        static bool others[LONG], mine[LONG];
        struct sl_rng rng = {.seed = seed};
        struct ring r;
        struct sl_span own[64];
        uint32_t n_own = 0;
        make(&r, 64);
        memset(others, 0, sizeof others);
        memset(mine, 0, sizeof mine);
        for (uint64_t at = 1 + sl_rng_next(&rng) % 50, us; n_own < 60 && at + 200 < LONG;
             at += us + 20 + sl_rng_next(&rng) % 100) {
            us = 1 + sl_rng_next(&rng) % 80;
            bool is_own = sl_rng_next(&rng) % 3 == 0;
            ran(&r, at, us);
            if (is_own)
                own[n_own++] = (struct sl_span){.stage = 0, .begin_us = at, .end_us = at + us};
            for (uint64_t i = at; i < at + us; i++)
                (is_own ? mine : others)[i] = true;
        }
        struct sl_timeline t = {
            .submit_us = 1, .first_token_us = LONG, .n_stages = STAGES, .n_spans = n_own, .spans = own};
        uint32_t n = sl_busy_foreign(&r.busy, &t, r.out);
        for (uint32_t i = 0; i < n; i++)
            for (uint64_t at = r.out[i].begin_us; r.out[i].stage == 0 && at < r.out[i].end_us; at++) {
                CHECK(!mine[at]);
                others[at] = false;
            }
        for (uint32_t at = 0; at < LONG; at++)
            CHECK(!others[at]);
        sl_arena_fini(&r.arena);
    }
}

/* Nodes say what they like: no more than there is room for, and in bounds. */
SL_TEST(clocks_that_jump_are_bounded)
{
    struct sl_rng rng = {.seed = 7};
    struct ring r;
    make(&r, 2048);
    for (uint32_t i = 0; i < 5000; i++) {
        uint64_t at = sl_rng_next(&rng) % 100000, us = sl_rng_next(&rng) % 50;
        struct sl_trace traces[STAGES] = {{.begin_us = at, .end_us = at + us},
                                          {.begin_us = UINT64_MAX - at, .end_us = at}};
        sl_busy_add(&r.busy, traces, no_offset);
    }
    struct sl_timeline t = {.submit_us = 500, .first_token_us = 90000, .n_stages = STAGES};
    uint32_t n = sl_busy_foreign(&r.busy, &t, r.out);
    CHECK(n > 0 && n <= STAGES * SL_FOREIGN_MAX);
    for (uint32_t i = 0; i < n; i++)
        CHECK(r.out[i].stage < STAGES && r.out[i].begin_us >= 500 && r.out[i].end_us <= 90000 &&
              r.out[i].begin_us < r.out[i].end_us);
    sl_arena_fini(&r.arena);
}
