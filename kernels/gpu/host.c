/* Blocks and warps of the twin: fibres, barriers, the order that a seed draws, and what a report is (host.h). */
#include "kernels/gpu/gpu.h"
#include "kernels/gpu/host_impl.h"
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STACK_BYTES = 512 * 1024 };

_Thread_local struct gpu_machine *gpu_machine;
_Thread_local struct gpu_report gpu_report;

static const char *const names[GPU_FINDINGS] = {
    [GPU_BOUNDS] = "out of bounds",        [GPU_UNWRITTEN] = "unwritten",
    [GPU_RACE_WARPS] = "race of warps",    [GPU_RACE_LANES] = "race of lanes",
    [GPU_RACE_BLOCKS] = "race of blocks",  [GPU_RACE_COPY] = "copy under way",
    [GPU_BARRIER] = "barrier not reached", [GPU_LEFT_OVER] = "left over",
    [GPU_OVERFLOW] = "too much under way", [GPU_NO_FENCE] = "no fence",
    [GPU_REGISTERS] = "registers",
};

const char *gpu_finding_name(enum gpu_finding kind)
{
    return names[kind];
}

uint64_t gpu_findings(const struct gpu_report *report)
{
    uint64_t n = 0;
    for (int i = 0; i < GPU_FINDINGS; i++)
        n += report->found[i];
    return n;
}

struct gpu_report gpu_take_report(void)
{
    struct gpu_report r = gpu_report;
    gpu_report = (struct gpu_report){0};
    return r;
}

void gpu_found(enum gpu_finding kind, const char *what, uint64_t where, int lane)
{
    const struct gpu_machine *m = gpu_machine;
    if (!gpu_report.first[0])
        snprintf(gpu_report.first, sizeof gpu_report.first,
                 "%s: %s (%s, block %u, warp %u, lane %d, at 0x%llx)", names[kind], what, m->kernel->name,
                 m->block, m->self ? m->self->index : 0, lane, (unsigned long long)where);
    gpu_report.found[kind]++;
}

/* ---- what a warp asks of its place ---- */

wu w_lane(void)
{
    wu r;
    GPU_EACH_LANE r[l] = (uint32_t)l;
    return r;
}

uint32_t gpu_warp(void)
{
    return gpu_machine->self->index;
}

uint32_t gpu_block(void)
{
    return gpu_machine->block;
}

uint32_t gpu_blocks(void)
{
    return gpu_machine->n_blocks;
}

void warp_sync(void)
{
    gpu_machine->self->syncs++;
}

void gpu_yield(void)
{
    swapcontext(&gpu_machine->self->context, &gpu_machine->home);
}

void block_sync(void)
{
    struct gpu_warp *w = gpu_machine->self;
    w->waits = true;
    w->syncs++;
    gpu_yield();
}

/* ---- registers ---- */

/* What a lane has when its block is launched: a multiprocessor's, shared out among as many warps as launch bounds say, in eights. */
static uint32_t registers_of(const struct gpu_kernel *kernel)
{
    enum { OF_MULTIPROCESSOR = 65536, MOST = 255 };
    uint32_t each = OF_MULTIPROCESSOR / (kernel->warps * 32 * kernel->per_sm);
    return (each < MOST ? each : MOST) / 8 * 8;
}

/* What setmaxnreg takes. */
static bool may_have(uint32_t n, bool rightly)
{
    if (rightly && n % 8 == 0 && n >= 24 && n <= 256 && gpu_machine->n_warps % 4 == 0)
        return true;
    gpu_found(GPU_REGISTERS, "a number that four warps can't have from here on", n, -1);
    return false;
}

void gpu_give_registers(uint32_t n)
{
    struct gpu_warp *w = gpu_machine->self;
    if (!may_have(n, n <= w->registers))
        return;
    gpu_machine->registers += w->registers - n;
    w->registers = n;
}

void gpu_take_registers(uint32_t n)
{
    struct gpu_warp *w = gpu_machine->self;
    if (!may_have(n, n >= w->registers))
        return;
    w->wants = n - w->registers;
    gpu_yield();
    gpu_machine->registers -= w->wants;
    w->registers = n;
    w->wants = 0;
}

/* Those of four warps are theirs together. */
static void check_registers(const struct gpu_machine *m)
{
    for (uint32_t i = 0; i < m->n_warps; i++)
        if (m->warps[i].done && m->warps[i / 4 * 4].done &&
            m->warps[i].registers != m->warps[i / 4 * 4].registers)
            gpu_found(GPU_REGISTERS, "not all of four warps have given them, or taken", i, -1);
}

/* ---- a block ---- */

static void warp_main(void)
{
    struct gpu_machine *m = gpu_machine;
    m->kernel->entry(m->params);
    m->self->done = true;
    /* By its return to `home`: TSan counts who has not returned, up to 64k of them. */
}

static uint32_t draw(struct gpu_machine *m, uint32_t n)
{
    m->rng = m->rng * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(m->rng >> 33) % n;
}

static void warp_begin(struct gpu_warp *w, uint32_t index)
{
    uint8_t *stack = w->stack ? w->stack : malloc(STACK_BYTES);
    struct gpu_copy *copies = w->copies ? w->copies : malloc(GPU_COPIES_MAX * sizeof *copies);
    assert(stack && copies);
    memset(w, 0, sizeof *w);
    w->index = index;
    w->stack = stack;
    w->copies = copies;
    w->past.clock[index] = 1;
    w->syncs = 1;
    w->registers = registers_of(gpu_machine->kernel);
    getcontext(&w->context);
    w->context.uc_stack.ss_sp = stack;
    w->context.uc_stack.ss_size = STACK_BYTES;
    w->context.uc_link = &gpu_machine->home;
    makecontext(&w->context, warp_main, 0);
}

void gpu_join(struct gpu_past *into, const struct gpu_past *more)
{
    for (uint32_t i = 0; i < GPU_WARPS_MAX; i++) {
        into->clock[i] = more->clock[i] > into->clock[i] ? more->clock[i] : into->clock[i];
        into->fences[i] = more->fences[i] > into->fences[i] ? more->fences[i] : into->fences[i];
    }
}

/* All that are left have arrived: what each has behind it, all have. */
static void release_barrier(struct gpu_machine *m)
{
    struct gpu_past joined = {0};
    for (uint32_t i = 0; i < m->n_warps; i++)
        gpu_join(&joined, &m->warps[i].past);
    for (uint32_t i = 0; i < m->n_warps; i++) {
        m->warps[i].past = joined;
        m->warps[i].past.clock[i]++;
        m->warps[i].waits = false;
    }
}

/* Nobody can go on who is left. */
static void say_who_is_left(const struct gpu_machine *m)
{
    for (uint32_t i = 0; i < m->n_warps; i++)
        if (m->warps[i].wants > m->registers) {
            gpu_found(GPU_REGISTERS, "a warp waits for more than others have given, for ever",
                      m->warps[i].wants, -1);
            return;
        }
    gpu_found(GPU_BARRIER, "those that are left wait for what never comes", 0, -1);
}

/* A warp that can go on, drawn; NULL: all are done, or none ever can. */
static struct gpu_warp *next_warp(struct gpu_machine *m)
{
    for (;;) {
        uint32_t ready[GPU_WARPS_MAX], n = 0, n_done = 0, n_waiting = 0;
        for (uint32_t i = 0; i < m->n_warps; i++) {
            const struct gpu_warp *w = &m->warps[i];
            n_done += w->done;
            n_waiting += w->waits;
            if (!w->done && !w->waits && w->wants <= m->registers &&
                (!w->waits_on || gpu_phase_is_over(w->waits_on, w->parity)))
                ready[n++] = i;
        }
        if (n > 0)
            return &m->warps[ready[draw(m, n)]];
        if (n_done == m->n_warps)
            return NULL;
        if (n_done + n_waiting < m->n_warps) {
            say_who_is_left(m);
            return NULL;
        }
        if (n_done > 0)
            gpu_found(GPU_BARRIER, "some warps have ended without it", 0, -1);
        release_barrier(m);
    }
}

static void run_block(struct gpu_machine *m)
{
    memset(m->shared, 0xA5, m->shared_bytes);
    m->serial++;
    m->n_barriers = m->registers = 0;
    for (uint32_t i = 0; i < m->n_warps; i++)
        warp_begin(&m->warps[i], i);
    while ((m->self = next_warp(m)))
        swapcontext(&m->home, &m->self->context);
    for (uint32_t i = 0; i < m->n_warps; i++)
        if (m->warps[i].n_copies + m->warps[i].n_products > 0)
            gpu_found(GPU_LEFT_OVER, "the block has ended and nobody waited for them", 0, -1);
    check_registers(m);
    gpu_report.blocks++;
}

static struct gpu_machine *machine_of_thread(void)
{
    if (!gpu_machine) {
        gpu_machine = calloc(1, sizeof *gpu_machine);
        assert(gpu_machine);
        gpu_machine->serial = 1;
    }
    return gpu_machine;
}

void gpu_machine_free(void)
{
    for (uint32_t i = 0; gpu_machine && i < GPU_WARPS_MAX; i++) {
        free(gpu_machine->warps[i].stack);
        free(gpu_machine->warps[i].copies);
    }
    free(gpu_machine);
    gpu_machine = NULL;
}

void gpu_launch(const struct gpu_kernel *kernel, const void *params, uint32_t n_blocks, size_t shared_bytes,
                uint64_t seed)
{
    struct gpu_machine *m = machine_of_thread();
    assert(kernel->warps <= GPU_WARPS_MAX && shared_bytes <= GPU_SHARED_MAX);
    uint32_t *order = malloc((n_blocks + 1) * sizeof *order);
    assert(order);
    m->kernel = kernel;
    m->params = params;
    m->n_warps = kernel->warps;
    m->n_blocks = n_blocks;
    m->shared_bytes = (uint32_t)shared_bytes;
    m->launch_first = m->serial + 1;
    m->rng = seed * 2 + 1;
    for (uint32_t i = 0; i < n_blocks; i++) {
        uint32_t at = draw(m, i + 1);
        order[i] = order[at];
        order[at] = i;
    }
    for (uint32_t i = 0; i < n_blocks; i++) {
        m->block = order[i];
        run_block(m);
    }
    free(order);
}
