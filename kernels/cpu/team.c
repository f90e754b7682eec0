/* The team: an epoch that the caller releases, a countdown that the members bring to zero, and two
 * futexes.
 *
 * Every wait first spins, because the next run of a busy stage follows within microseconds and a
 * futex costs more than that to sleep and wake; then it sleeps, so an idle stage costs nothing. How
 * long it spins is learnt: a wait that turned out longer than SPIN_MAX_NS halves the budget, a
 * short one doubles it. When more threads are runnable than there are processors, waits are long (a
 * whole time slice), the budgets shrink to almost nothing, and the spinning does not take the
 * processor from the member it waits for.
 *
 * A sleeper announces itself before it sleeps and the waker looks after it has changed the word;
 * both are sequentially consistent, so one of them sees the other, and the futex itself checks the
 * word again. */
#include "kernels/team.h"
#include "base/arena.h"
#include "base/clock.h"
#include <assert.h>
#include <immintrin.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { SPIN_MAX_NS = 50000, SPIN_MIN_NS = 500, SPINS_PER_LOOK = 32 };

struct team_member {
    struct sl_team *team;
    uint32_t index;
    pthread_t thread;
};

struct account { /* padded, so that no two members write one cache line */
    _Alignas(SL_CACHE_LINE) struct sl_parts parts;
};

struct sl_team {
    uint32_t n_members;
    size_t scratch_bytes; /* of one member, rounded to cache lines */
    struct sl_arena arena;
    struct team_member *members; /* 1 .. n_members - 1 have threads */
    struct account *accounts;
    uint32_t spin_ns; /* the caller's budget */

    sl_team_fn *fn; /* of the run in progress; NULL tells the members to leave */
    void *arg;

    /* Words that several threads write, each on a cache line of its own. */
    _Alignas(SL_CACHE_LINE) _Atomic uint32_t epoch;
    _Atomic uint32_t n_asleep; /* members that are, or are about to be, in futex_wait on epoch */
    _Alignas(SL_CACHE_LINE) _Atomic uint32_t n_running;
    _Atomic uint32_t caller_asleep;
    _Alignas(SL_CACHE_LINE) _Atomic uint32_t next_task;
};

static void futex_wait(_Atomic uint32_t *word, uint32_t value)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

/* Spins until *word is not `value`, then sleeps. `asleep` counts who may be sleeping on the word.
 */
static void wait_while(_Atomic uint32_t *word, uint32_t value, _Atomic uint32_t *asleep, uint32_t *spin_ns)
{
    if (atomic_load_explicit(word, memory_order_acquire) != value)
        return;
    uint64_t begin_ns = sl_clock_ns(), waited_ns = 0;
    while (waited_ns < *spin_ns) {
        for (int i = 0; i < SPINS_PER_LOOK; i++) {
            if (atomic_load_explicit(word, memory_order_acquire) != value)
                goto arrived;
            _mm_pause();
        }
        waited_ns = sl_clock_ns() - begin_ns;
    }
    atomic_fetch_add(asleep, 1);
    while (atomic_load(word) == value)
        futex_wait(word, value);
    atomic_fetch_sub(asleep, 1);
arrived:
    waited_ns = sl_clock_ns() - begin_ns;
    if (waited_ns > SPIN_MAX_NS)
        *spin_ns = *spin_ns / 2 > SPIN_MIN_NS ? *spin_ns / 2 : SPIN_MIN_NS;
    else
        *spin_ns = *spin_ns * 2 < SPIN_MAX_NS ? *spin_ns * 2 : SPIN_MAX_NS;
}

static void *team_scratch(struct sl_team *team, uint32_t member)
{
    return team->arena.base ? team->arena.base + member * team->scratch_bytes : NULL;
}

static void *member_main(void *opaque)
{
    struct team_member *self = opaque;
    struct sl_team *team = self->team;
    uint32_t spin_ns = SPIN_MAX_NS;
    for (uint32_t seen = 0;; seen++) {
        wait_while(&team->epoch, seen, &team->n_asleep, &spin_ns);
        if (!team->fn)
            return NULL;
        team->fn(team->arg, self->index, team->n_members, team_scratch(team, self->index));
        /* Once the count is 0 the caller goes on, unless it sleeps. The team outlives this: destroy
         * joins. */
        uint32_t left = atomic_fetch_sub(&team->n_running, 1) - 1;
        if (left == 0 && atomic_load(&team->caller_asleep))
            futex_wake(&team->n_running);
    }
}

/* Publishes fn to the members; what was written before is theirs to read. */
static void team_release(struct sl_team *team, sl_team_fn *fn, void *arg)
{
    team->fn = fn;
    team->arg = arg;
    atomic_store_explicit(&team->n_running, team->n_members - 1, memory_order_relaxed);
    atomic_store_explicit(&team->next_task, 0, memory_order_relaxed);
    atomic_fetch_add(&team->epoch, 1);
    if (atomic_load(&team->n_asleep))
        futex_wake(&team->epoch);
}

void sl_team_run(struct sl_team *team, sl_team_fn *fn, void *arg)
{
    assert(fn);
    if (team->n_members == 1) {
        atomic_store_explicit(&team->next_task, 0, memory_order_relaxed);
        fn(arg, 0, 1, team_scratch(team, 0));
        return;
    }
    team_release(team, fn, arg);
    fn(arg, 0, team->n_members, team_scratch(team, 0));
    for (uint32_t left; (left = atomic_load(&team->n_running)) != 0;)
        wait_while(&team->n_running, left, &team->caller_asleep, &team->spin_ns);
}

uint32_t sl_team_next(struct sl_team *team)
{
    return atomic_fetch_add_explicit(&team->next_task, 1, memory_order_relaxed);
}

uint32_t sl_team_size(const struct sl_team *team)
{
    return team->n_members;
}

struct sl_parts *sl_team_parts(struct sl_team *team, uint32_t member)
{
    return &team->accounts[member].parts;
}

void sl_team_parts_sum(struct sl_team *team, struct sl_parts *sum)
{
    *sum = (struct sl_parts){0};
    for (uint32_t m = 0; m < team->n_members; m++)
        for (int i = 0; i < SL_PARTS; i++) {
            const struct sl_part_sum *from = &team->accounts[m].parts.part[i];
            sum->part[i].ns += from->ns;
            sum->part[i].ops += from->ops;
            sum->part[i].bytes += from->bytes;
        }
}

const char *sl_part_name(enum sl_part part)
{
    static const char *const names[SL_PARTS] = {
        [SL_PART_PROJECTION] = "projection",
        [SL_PART_ATTENTION] = "attention",
        [SL_PART_ROUTER] = "router",
        [SL_PART_EXPERTS] = "experts",
        [SL_PART_QUANTISE] = "quantise",
        [SL_PART_NORMS] = "norms",
        [SL_PART_HEAD] = "head",
        [SL_PART_STEPS] = "steps",
    };
    return names[part];
}

/* Signals go to the threads that expect them, never to a member: it inherits a mask of everything.
 */
static int start_member(struct team_member *member)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&member->thread, NULL, member_main, member);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error == 0) {
        char name[16];
        snprintf(name, sizeof name, "sl-team-%u", member->index);
        pthread_setname_np(member->thread, name);
    }
    return error;
}

sl_status sl_team_create(struct sl_team **team, uint32_t n_threads, size_t scratch_bytes, struct sl_err *err)
{
    *team = NULL;
    if (n_threads == 0 || n_threads > SL_TEAM_MAX)
        return sl_fail(err, SL_E_CONFIG, "a stage cannot have %u threads; choose 1 to %d", n_threads,
                       SL_TEAM_MAX);
    struct sl_team *t = aligned_alloc(SL_CACHE_LINE, sizeof *t);
    struct team_member *members = calloc(n_threads, sizeof *members);
    struct account *accounts = aligned_alloc(SL_CACHE_LINE, n_threads * sizeof *accounts);
    if (!t || !members || !accounts) {
        free(t);
        free(members);
        free(accounts);
        return sl_fail(err, SL_E_NOMEM, "no memory for a team of %u threads; free some memory", n_threads);
    }
    memset(accounts, 0, n_threads * sizeof *accounts);
    *t = (struct sl_team){.n_members = 1, .members = members, .accounts = accounts, .spin_ns = SPIN_MAX_NS};
    t->scratch_bytes = sl_arena_round(scratch_bytes);
    size_t all_bytes;
    sl_status status = SL_OK;
    if (t->scratch_bytes < scratch_bytes || !sl_mul_size(t->scratch_bytes, n_threads, &all_bytes))
        status = sl_fail(err, SL_E_NOMEM,
                         "%zu bytes of scratch for each of %u threads do not fit "
                         "into memory; use fewer threads",
                         scratch_bytes, n_threads);
    else if (all_bytes > 0)
        status = sl_arena_init(&t->arena, all_bytes, err);
    for (uint32_t i = 1; status == SL_OK && i < n_threads; i++) {
        members[i] = (struct team_member){.team = t, .index = i};
        int error = start_member(&members[i]);
        if (error != 0)
            status = sl_fail(err, SL_E_UNAVAILABLE,
                             "cannot start thread %u of %u (%s); use fewer "
                             "threads or raise the limit on processes",
                             i, n_threads, strerror(error));
        else
            t->n_members = i + 1;
    }
    if (status != SL_OK) {
        sl_team_destroy(t);
        return status;
    }
    *team = t;
    return SL_OK;
}

void sl_team_destroy(struct sl_team *team)
{
    if (!team)
        return;
    if (team->n_members > 1)
        team_release(team, NULL, NULL);
    for (uint32_t i = 1; i < team->n_members; i++)
        pthread_join(team->members[i].thread, NULL);
    sl_arena_fini(&team->arena);
    free(team->members);
    free(team->accounts);
    free(team);
}
