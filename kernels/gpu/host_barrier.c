/* Barriers in shared memory of the twin: who waits for a phase has behind it what they had who arrived in it (host.h). */
#include "kernels/gpu/gpu.h"
#include "kernels/gpu/host_impl.h"
#include <string.h>

static struct gpu_barrier *barrier_at(uint32_t at)
{
    struct gpu_machine *m = gpu_machine;
    for (uint32_t i = 0; i < m->n_barriers; i++)
        if (m->barriers[i].at == at) {
            gpu_word_read(at, 15, 0); /* whether it was made before */
            return &m->barriers[i];
        }
    gpu_found(GPU_BARRIER, "nobody has made a barrier there", at, -1);
    return NULL;
}

void mbar_init(uint32_t at, uint32_t count)
{
    struct gpu_machine *m = gpu_machine;
    if (!gpu_shared_may(at, 8, 0))
        return;
    if (m->n_barriers == GPU_BARRIERS_MAX) {
        gpu_found(GPU_OVERFLOW, "more barriers than the twin keeps", at, -1);
        return;
    }
    gpu_word_write(at, 15, 0, false);
    gpu_word_write(at + 4, 15, 0, false);
    m->barriers[m->n_barriers++] = (struct gpu_barrier){.at = at, .count = count, .pending = count};
}

void mbar_arrive(uint32_t at)
{
    struct gpu_warp *w = gpu_machine->self;
    struct gpu_barrier *b = barrier_at(at);
    if (!b)
        return;
    w->syncs++;
    gpu_join(&b->arrived, &w->past);
    w->past.clock[w->index]++;
    if (--b->pending > 0)
        return;
    b->over = b->arrived;
    b->pending = b->count;
    b->phase++;
}

void mbar_wait(uint32_t at, uint32_t parity)
{
    struct gpu_warp *w = gpu_machine->self;
    struct gpu_barrier *b = barrier_at(at);
    if (!b)
        return;
    w->waits_on = b;
    w->parity = parity;
    gpu_yield(); /* also when it need not wait: any order is legal */
    w->waits_on = NULL;
    w->syncs++;
    gpu_join(&w->past, &b->over);
}
