/* The team: everybody runs once a run, the caller comes back after the last, tasks are handed out
 * once each. Idle teams are put to sleep by letting real work be uneven, never by sleeping in the
 * test; under ThreadSanitizer the plain writes below are the check that a run's memory is published
 * both ways. */
#include "kernels/team.h"
#include "tests/check.h"
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>

enum { MEMBERS = 4, TASKS = 100 };

struct work {
    struct sl_team *team;
    uint32_t visits[MEMBERS]; /* plain: each member writes its own */
    uint8_t done[TASKS];
    void *scratch[MEMBERS];
    uint32_t n_members;
};

static void visit(void *arg, uint32_t member, uint32_t n_members, void *scratch)
{
    struct work *w = arg;
    w->visits[member]++;
    w->scratch[member] = scratch;
    if (member == 0)
        w->n_members = n_members;
    memset(scratch, (int)member + 1, 100);
}

static void take_tasks(void *arg, uint32_t member, uint32_t n_members, void *scratch)
{
    (void)member, (void)n_members, (void)scratch;
    struct work *w = arg;
    for (uint32_t task; (task = sl_team_next(w->team)) < TASKS;)
        w->done[task]++;
}

static void work_for(uint32_t rounds)
{
    for (uint32_t i = 0; i < rounds; i++)
        __asm__ volatile("" ::: "memory"); /* not optimised away */
}

/* Member 1 works until its 50 microseconds are long over for the others, which must then be woken.
 */
static void uneven(void *arg, uint32_t member, uint32_t n_members, void *scratch)
{
    (void)n_members, (void)scratch;
    struct work *w = arg;
    if (member == 1)
        work_for(300000);
    w->visits[member]++;
}

SL_TEST(every_member_runs_once_and_has_its_own_scratch)
{
    struct work w = {0};
    struct sl_err err;
    REQUIRE(sl_team_create(&w.team, MEMBERS, 100, &err) == SL_OK);
    CHECK_INT(sl_team_size(w.team), MEMBERS);
    for (uint32_t run = 1; run <= 500; run++) {
        sl_team_run(w.team, visit, &w);
        for (uint32_t i = 0; i < MEMBERS; i++)
            CHECK_INT(w.visits[i], run);
    }
    CHECK_INT(w.n_members, MEMBERS);
    for (uint32_t i = 0; i < MEMBERS; i++) {
        CHECK((uintptr_t)w.scratch[i] % 64 == 0);
        for (int j = 0; j < 100; j++)
            CHECK_INT(((uint8_t *)w.scratch[i])[j], i + 1);
    }
    sl_team_destroy(w.team);
}

SL_TEST(tasks_are_handed_out_once_each_in_every_run)
{
    for (uint32_t n = 1; n <= MEMBERS; n++) {
        struct work w = {0};
        REQUIRE(sl_team_create(&w.team, n, 64, NULL) == SL_OK);
        for (int run = 1; run <= 50; run++) {
            sl_team_run(w.team, take_tasks, &w);
            for (int i = 0; i < TASKS; i++)
                CHECK_INT(w.done[i], run);
        }
        sl_team_destroy(w.team);
    }
}

SL_TEST(sleepers_are_woken)
{
    struct work w = {0};
    REQUIRE(sl_team_create(&w.team, MEMBERS, 0, NULL) == SL_OK);
    for (uint32_t run = 1; run <= 60; run++) {
        sl_team_run(w.team, uneven, &w);
        work_for(200000); /* now the members wait for the caller */
        for (uint32_t i = 0; i < MEMBERS; i++)
            CHECK_INT(w.visits[i], run);
    }
    sl_team_destroy(w.team);
}

SL_TEST(a_team_of_one_needs_no_thread)
{
    struct work w = {0};
    REQUIRE(sl_team_create(&w.team, 1, 100, NULL) == SL_OK);
    sl_team_run(w.team, visit, &w);
    CHECK_INT(w.visits[0], 1);
    CHECK_INT(w.n_members, 1);
    sl_team_destroy(w.team);
}

SL_TEST(teams_that_never_ran_and_null_can_be_destroyed)
{
    struct sl_team *team;
    for (uint32_t n = 1; n <= 8; n++) {
        REQUIRE(sl_team_create(&team, n, 64, NULL) == SL_OK);
        sl_team_destroy(team);
    }
    sl_team_destroy(NULL);
}

SL_TEST(impossible_teams_are_refused_with_a_sentence)
{
    struct sl_team *team = (struct sl_team *)&team;
    struct sl_err err;
    CHECK_INT(sl_team_create(&team, 0, 64, &err), SL_E_CONFIG);
    CHECK(team == NULL);
    CHECK_CONTAINS(err.text, "0 threads");
    CHECK_INT(sl_team_create(&team, 100000, 64, &err), SL_E_CONFIG);
    CHECK_INT(sl_team_create(&team, 4, SIZE_MAX - 5, &err), SL_E_NOMEM);
    CHECK_INT(sl_team_create(&team, 4, SIZE_MAX / 2, &err), SL_E_NOMEM);
}

static void look_at_mask(void *arg, uint32_t member, uint32_t n_members, void *scratch)
{
    (void)n_members, (void)scratch;
    sigset_t mask;
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    ((int *)arg)[member] = sigismember(&mask, SIGTERM);
}

SL_TEST(signals_stay_with_the_caller)
{
    struct sl_team *team;
    int blocked[2] = {-1, -1};
    REQUIRE(sl_team_create(&team, 2, 0, NULL) == SL_OK);
    sl_team_run(team, look_at_mask, blocked);
    CHECK_INT(blocked[0], 0);
    CHECK_INT(blocked[1], 1);
    sl_team_destroy(team);
}
