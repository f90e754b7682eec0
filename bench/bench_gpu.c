/* The GPU of bench_gpu.h. Its twin is a world of its own, whose kernels are those that have been asked for, and whose memory checks
 * that they keep to it. */
#include "bench/bench_gpu.h"
#include "kernels/gpu/launched.h"
#include <stdlib.h>
#include <string.h>

enum {
    KERNELS = 64,
    ALIGNED = 256,
    PIECE = 8 << 20, /* of pinned memory */
    PATIENCE_MS = 60 * 1000,
    TWIN_ROOM = 4 << 20
};
static const uint64_t most_room = 6ull << 30;

static struct sl_cu_twin_kernel names[KERNELS]; /* what the twin's world knows; "" behind them */
static uint32_t n_names;

static bool did(struct sl_bench_gpu *g, sl_cu_result result, const char *what)
{
    if (g->status == SL_OK)
        g->status = sl_cu_check(g->cuda, result, what, &g->err);
    return g->status == SL_OK;
}

static bool wait(struct sl_bench_gpu *g)
{
    if (did(g, g->cuda->event_record(g->end, g->stream), "recording an event"))
        g->status = sl_cu_wait(g->cuda, g->end, PATIENCE_MS, "a kernel", &g->err);
    return g->status == SL_OK;
}

/* ---- open ---- */

static sl_status open_twin(struct sl_bench_gpu *g, struct sl_err *err)
{
    struct sl_gpu gpus[SL_GPU_MOST];
    uint32_t n;
    struct sl_cu_twin_config config = {.seed = 1,
                                       .n_devices = 1,
                                       .device_bytes = 2 * TWIN_ROOM,
                                       .capability = 90,
                                       .kernels = names,
                                       .n_kernels = KERNELS};
    for (uint32_t i = n_names = 0; i < KERNELS; i++)
        names[i] = (struct sl_cu_twin_kernel){.name = ""};
    gpu_launched_memory(&config);
    sl_cu_twin_start(&config);
    g->cuda = sl_cu_twin();
    SL_TRY(sl_cu_check(g->cuda, g->cuda->init(0), "starting the twin of the driver", err));
    SL_TRY(sl_gpu_list(g->cuda, gpus, &n, err));
    g->gpu = gpus[0];
    SL_TRY(sl_cu_check(g->cuda, g->cuda->ctx_retain(&g->session.context, 0), "making a context", err));
    return sl_cu_check(g->cuda, g->cuda->ctx_set_current(g->session.context), "making a context", err);
}

static sl_status open_cuda(struct sl_bench_gpu *g, const char *which, struct sl_err *err)
{
    struct sl_gpu_choice choice;
    const struct sl_gpu_need need = {sl_gpu_least_capability, 1u << 30};
    SL_TRY(sl_gpu_choice_read(&choice, which, err));
    SL_TRY(sl_cuda_open(&g->cuda, err));
    SL_TRY(sl_gpu_session_open(&g->session, g->cuda, &choice, &need, NULL, err));
    g->gpu = g->session.gpu;
    g->kind = sl_gpu_kind_of(g->gpu.name);
    return SL_OK;
}

static sl_status make(struct sl_bench_gpu *g, struct sl_err *err)
{
    static const size_t n_bytes = 4;
    static const struct sl_gpu_image any = {"twin", (const uint8_t *)"twin", &n_bytes};
    const struct sl_cuda *cuda = g->cuda;
    uint64_t half = g->session.free_bytes / 2;
    g->room = g->twin ? TWIN_ROOM : (size_t)(half < most_room ? half : most_room);
    SL_TRY(sl_gpu_modules_load(&g->modules, cuda, g->twin ? &any : sl_gpu_images,
                               g->twin ? 1 : sl_gpu_n_images, err));
    SL_TRY(sl_cu_check(cuda, cuda->stream_create(&g->stream, SL_CU_STREAM_NON_BLOCKING), "making a stream",
                       err));
    SL_TRY(sl_cu_check(cuda, cuda->event_create(&g->begin, 0), "making an event", err));
    SL_TRY(sl_cu_check(cuda, cuda->event_create(&g->end, 0), "making an event", err));
    SL_TRY(sl_cu_check(cuda, cuda->mem_alloc(&g->memory, g->room), "taking memory", err));
    return sl_cu_check(cuda, cuda->host_alloc(&g->pinned, PIECE, 0), "pinning memory", err);
}

sl_status sl_bench_gpu_open(struct sl_bench_gpu *g, const char *which, struct sl_err *err)
{
    *g = (struct sl_bench_gpu){.twin = strcmp(which, "twin") == 0};
    SL_TRY(g->twin ? open_twin(g, err) : open_cuda(g, which, err));
    return make(g, err);
}

void sl_bench_gpu_close(struct sl_bench_gpu *g)
{
    if (!g->session.context)
        return;
    if (g->end)
        wait(g);
    if (g->pinned)
        g->cuda->host_free(g->pinned);
    if (g->memory)
        g->cuda->mem_free(g->memory);
    if (g->begin)
        g->cuda->event_destroy(g->begin);
    if (g->end)
        g->cuda->event_destroy(g->end);
    if (g->stream)
        g->cuda->stream_destroy(g->stream);
    sl_gpu_modules_unload(&g->modules);
    if (!g->twin) {
        sl_gpu_session_close(&g->session);
        return;
    }
    g->cuda->ctx_release(0);
    sl_cu_twin_stop();
    gpu_free_all();
}

/* ---- memory ---- */

sl_cu_at sl_bench_gpu_take(struct sl_bench_gpu *g, size_t bytes)
{
    sl_cu_at at = g->memory + g->used;
    if (g->status == SL_OK && bytes > g->room - g->used)
        g->status =
            sl_fail(&g->err, SL_E_NOMEM, "a case needs more than the %.2f GiB that were taken of the GPU",
                    (double)g->room / 0x1p30);
    if (g->status != SL_OK)
        return 0;
    g->used += (bytes + ALIGNED - 1) / ALIGNED * ALIGNED;
    return at;
}

static void write_to(struct sl_bench_gpu *g, sl_cu_at at, const void *from, size_t bytes)
{
    for (size_t done = 0, n; g->status == SL_OK && done < bytes; done += n) {
        n = bytes - done < PIECE ? bytes - done : PIECE;
        memcpy(g->pinned, (const uint8_t *)from + done, n);
        if (did(g, g->cuda->copy_in(at + done, g->pinned, n, g->stream), "copying in"))
            wait(g);
    }
}

void *sl_bench_gpu_put_often(struct sl_bench_gpu *g, const void *from, size_t bytes, uint32_t period,
                             size_t n)
{
    const size_t first = bytes * (n < period ? n : period), total = bytes * n;
    sl_cu_at at = sl_bench_gpu_take(g, total);
    write_to(g, at, from, first);
    for (size_t done = first, more; g->status == SL_OK && done < total; done += more) {
        more = total - done < done ? total - done : done;
        did(g, g->cuda->copy_within(at + done, at, more, g->stream), "copying");
    }
    return (void *)(uintptr_t)at;
}

void *sl_bench_gpu_put(struct sl_bench_gpu *g, const void *from, size_t bytes)
{
    return sl_bench_gpu_put_often(g, from, bytes, 1, 1);
}

void sl_bench_gpu_get(struct sl_bench_gpu *g, void *to, sl_cu_at from, size_t bytes)
{
    for (size_t done = 0, n; g->status == SL_OK && done < bytes; done += n) {
        n = bytes - done < PIECE ? bytes - done : PIECE;
        if (did(g, g->cuda->copy_out(g->pinned, from + done, n, g->stream), "copying out") && wait(g))
            memcpy((uint8_t *)to + done, g->pinned, n);
    }
}

void sl_bench_gpu_fill(struct sl_bench_gpu *g, sl_cu_at at, uint8_t value, size_t bytes)
{
    if (g->status == SL_OK)
        did(g, g->cuda->fill(at, value, bytes, g->stream), "filling");
}

void sl_bench_gpu_reset(struct sl_bench_gpu *g)
{
    if (g->status == SL_OK)
        wait(g);
    g->used = 0;
}

/* ---- launches ---- */

/* By name, which the twin learns here. */
static bool look_up(struct sl_bench_gpu *g, const struct gpu_kernel *kernel, uint32_t shared,
                    sl_cu_function *function, struct sl_err *err)
{
    uint32_t i = 0;
    while (g->twin && i < n_names && names[i].arg != kernel)
        i++;
    if (g->twin && i == n_names && n_names < KERNELS)
        names[n_names++] = gpu_launched(kernel);
    return sl_gpu_modules_find(&g->modules, kernel->name, shared, function, err) == SL_OK;
}

bool sl_bench_gpu_has(struct sl_bench_gpu *g, const struct gpu_kernel *kernel)
{
    sl_cu_function function;
    struct sl_err ignored;
    return look_up(g, kernel, 0, &function, &ignored);
}

static size_t grid_of(struct sl_bench_gpu *g, const struct sl_bench_launch *l, sl_cu_function function)
{
    int fits = 0;
    if (l->all || !did(g, g->cuda->function_fits(&fits, function, (int)l->kernel->warps * 32, l->shared),
                       l->kernel->name))
        return l->blocks;
    if (fits < 1)
        g->status = sl_fail(&g->err, SL_E_UNAVAILABLE,
                            "the kernel %s does not fit a multiprocessor of this GPU", l->kernel->name);
    size_t most = (size_t)fits * g->gpu.multiprocessors;
    return l->blocks < most ? l->blocks : most;
}

static void launch_times(struct sl_bench_gpu *g, const struct sl_bench_launch *l, uint32_t times)
{
    sl_cu_function function;
    struct sl_bench_launch mine = *l;
    uint64_t base = l->params[l->pointer / 8];
    if (g->status != SL_OK)
        return;
    if (!look_up(g, l->kernel, l->shared, &function, &g->err)) {
        g->status = g->err.status;
        return;
    }
    size_t blocks = grid_of(g, l, function);
    void *arguments[] = {mine.params};
    for (uint32_t i = 0; g->status == SL_OK && blocks > 0 && i < times; i++) {
        if (l->copies > 1)
            mine.params[l->pointer / 8] = base + i % l->copies * l->step;
        did(g,
            g->cuda->launch(function, (unsigned)blocks, 1, 1, l->kernel->warps * 32, 1, 1, l->shared,
                            g->stream, arguments, NULL),
            l->kernel->name);
    }
}

/* What the twin's machine has found is an error of ours. */
static void look_at_findings(struct sl_bench_gpu *g, const char *name)
{
    struct gpu_report report = gpu_take_report();
    if (g->twin && g->status == SL_OK && gpu_findings(&report) > 0)
        g->status = sl_fail(&g->err, SL_E_INTERNAL, "the twin says of %s: %s", name, report.first);
}

void sl_bench_gpu_launch(struct sl_bench_gpu *g, const struct sl_bench_launch *launch)
{
    launch_times(g, launch, 1);
    if (g->status == SL_OK)
        wait(g);
    look_at_findings(g, launch->kernel->name);
}

static double since_begin_us(struct sl_bench_gpu *g)
{
    float ms = 0;
    if (g->status == SL_OK && wait(g))
        did(g, g->cuda->event_elapsed(&ms, g->begin, g->end), "reading a time");
    return 1000 * (double)ms;
}

double sl_bench_gpu_us(struct sl_bench_gpu *g, const struct sl_bench_launch *launch, uint32_t times)
{
    if (g->status != SL_OK || !did(g, g->cuda->event_record(g->begin, g->stream), "recording an event"))
        return 0;
    launch_times(g, launch, times);
    double us = since_begin_us(g);
    look_at_findings(g, launch->kernel->name);
    return us / times;
}

double sl_bench_gpu_copy_rate(struct sl_bench_gpu *g)
{
    const size_t half = g->room / 4 / ALIGNED * ALIGNED;
    enum { TIMES = 4 };
    if (g->status != SL_OK)
        return 0;
    for (int i = 0; i <= TIMES; i++) { /* the first warms up */
        if (i == 1)
            did(g, g->cuda->event_record(g->begin, g->stream), "recording an event");
        did(g, g->cuda->copy_within(g->memory + half, g->memory, half, g->stream), "copying");
    }
    double us = since_begin_us(g);
    return us > 0 ? 2.0 * TIMES * (double)half / (1000 * us) : 0;
}
