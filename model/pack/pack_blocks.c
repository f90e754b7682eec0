/* Many threads make the blocks of a piece, one writes them in order (pack_plan_impl.h).
 *
 * Blocks depend on nothing but their number, so the file has the same bytes for any number of threads.
 * Threads take numbers in order into a ring of slots; the caller's thread empties the ring from its front, so
 * memory is the ring, whatever the piece: a few blocks a thread. One thread makes and writes in turn and
 * starts no other. */
#include "base/clock.h"
#include "model/pack/pack_plan_impl.h"
#include <pthread.h>
#include <stdlib.h>

enum {
    SLOTS_PER_THREAD = 4, /* a thread works ahead while the writer digests */
    MAX_THREADS = 256,
    CACHE_LINE = 64
};

struct slot {
    enum { FREE, TAKEN, DONE } state;
    uint8_t *block;
    size_t bytes;
    struct sl_quantise_report report;
    struct sl_err err;
};

struct crew {
    const struct sl_blocks *job;
    struct slot *slots;
    uint32_t n_slots;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint64_t next; /* block to be taken */
    bool stop;
    uint8_t *memory; /* of all slots' blocks */
};

static void add_report(struct sl_quantise_report *sum, const struct sl_quantise_report *more)
{
    sum->signal += more->signal;
    sum->noise += more->noise;
    sum->plain_signal += more->plain_signal;
    sum->plain_noise += more->plain_noise;
}

static void *new_scratch(const struct sl_blocks *job)
{
    size_t bytes = (job->scratch_bytes + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
    return aligned_alloc(CACHE_LINE, bytes ? bytes : CACHE_LINE);
}

static void make(const struct sl_blocks *job, uint64_t number, struct slot *slot, void *scratch)
{
    slot->bytes = job->block_bytes;
    slot->report = (struct sl_quantise_report){0};
    slot->err.status = SL_OK;
    sl_status status =
        job->make(job->arg, number, slot->block, &slot->bytes, &slot->report, scratch, &slot->err);
    slot->err.status = status;
}

/* Writes what a slot holds. */
static sl_status take(struct slot *slot, struct sl_out *out, struct sl_quantise_report *sum,
                      struct sl_err *err)
{
    if (slot->err.status != SL_OK) {
        if (err)
            *err = slot->err;
        return slot->err.status;
    }
    add_report(sum, &slot->report);
    return slot->bytes > 0 && out ? sl_out_write(out, slot->block, slot->bytes, err) : SL_OK;
}

static sl_status run_alone(const struct sl_blocks *job, struct sl_out *out, struct sl_quantise_report *sum,
                           struct sl_err *err)
{
    struct slot slot = {.block = malloc(job->block_bytes + 1)};
    void *scratch = new_scratch(job);
    sl_status status = SL_OK;
    if (!slot.block || !scratch)
        status = sl_fail(err, SL_E_NOMEM, "no memory to pack");
    for (uint64_t i = 0; i < job->n && status == SL_OK; i++) {
        make(job, i, &slot, scratch);
        status = take(&slot, out, sum, err);
    }
    free(slot.block);
    free(scratch);
    return status;
}

static void *member(void *arg)
{
    struct crew *crew = arg;
    void *scratch = new_scratch(crew->job);
    pthread_mutex_lock(&crew->lock);
    while (!crew->stop && crew->next < crew->job->n) {
        struct slot *slot = &crew->slots[crew->next % crew->n_slots];
        if (slot->state != FREE) {
            pthread_cond_wait(&crew->changed, &crew->lock);
            continue;
        }
        uint64_t number = crew->next++;
        slot->state = TAKEN;
        pthread_mutex_unlock(&crew->lock);
        if (scratch)
            make(crew->job, number, slot, scratch);
        else
            sl_fail(&slot->err, SL_E_NOMEM, "no memory to pack");
        pthread_mutex_lock(&crew->lock);
        slot->state = DONE;
        pthread_cond_broadcast(&crew->changed);
    }
    pthread_mutex_unlock(&crew->lock);
    free(scratch);
    return NULL;
}

/* The writer's side: slots in order, until all are written or one fails. */
static sl_status drain(struct crew *crew, struct sl_out *out, struct sl_quantise_report *sum,
                       struct sl_err *err)
{
    sl_status status = SL_OK;
    for (uint64_t i = 0; i < crew->job->n && status == SL_OK; i++) {
        struct slot *slot = &crew->slots[i % crew->n_slots];
        pthread_mutex_lock(&crew->lock);
        while (slot->state != DONE)
            pthread_cond_wait(&crew->changed, &crew->lock);
        pthread_mutex_unlock(&crew->lock);
        status = take(slot, out, sum, err);
        pthread_mutex_lock(&crew->lock);
        slot->state = FREE;
        pthread_cond_broadcast(&crew->changed);
        pthread_mutex_unlock(&crew->lock);
    }
    return status;
}

static sl_status run_crew(struct crew *crew, uint32_t n_threads, struct sl_out *out,
                          struct sl_quantise_report *sum, struct sl_err *err)
{
    pthread_t threads[MAX_THREADS];
    uint32_t started = 0;
    while (started < n_threads && pthread_create(&threads[started], NULL, member, crew) == 0)
        started++;
    sl_status status =
        started > 0 ? drain(crew, out, sum, err)
                    : sl_fail(err, SL_E_UNAVAILABLE, "can't start a thread to pack with; try --threads 1");
    pthread_mutex_lock(&crew->lock);
    crew->stop = true;
    pthread_cond_broadcast(&crew->changed);
    pthread_mutex_unlock(&crew->lock);
    for (uint32_t i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
    return status;
}

sl_status sl_blocks_run(const struct sl_blocks *blocks, struct sl_out *out, struct sl_quantise_report *sum,
                        struct sl_err *err)
{
    uint32_t n_threads = blocks->threads < MAX_THREADS ? blocks->threads : MAX_THREADS;
    if (n_threads > blocks->n)
        n_threads = (uint32_t)blocks->n;
    if (n_threads <= 1)
        return run_alone(blocks, out, sum, err);
    struct crew crew = {.job = blocks, .n_slots = n_threads * SLOTS_PER_THREAD};
    crew.slots = calloc(crew.n_slots, sizeof *crew.slots);
    crew.memory = malloc(crew.n_slots * blocks->block_bytes + 1);
    sl_status status = SL_OK;
    if (!crew.slots || !crew.memory)
        status = sl_fail(err, SL_E_NOMEM, "no memory to pack");
    for (uint32_t i = 0; i < crew.n_slots && status == SL_OK; i++)
        crew.slots[i].block = crew.memory + i * blocks->block_bytes;
    if (status == SL_OK) {
        pthread_mutex_init(&crew.lock, NULL);
        sl_clock_cond_init(&crew.changed);
        status = run_crew(&crew, n_threads, out, sum, err);
        pthread_mutex_destroy(&crew.lock);
        pthread_cond_destroy(&crew.changed);
    }
    free(crew.memory);
    free(crew.slots);
    return status;
}
