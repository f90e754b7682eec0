/* A GPU taken for a bench, or its twin: memory that is handed out piece by piece and given back all at once, and launches that are
 * timed by events. The first thing that fails is kept (`status`, `err`), and what follows does nothing.
 *
 * The twin's clock counts operations: what is timed there is no figure. */
#ifndef SL_BENCH_BENCH_GPU_H
#define SL_BENCH_BENCH_GPU_H

#include "kernels/cuda/kinds.h"
#include "kernels/cuda/modules.h"
#include "kernels/cuda/session.h"
#include "kernels/gpu/host.h"

struct sl_bench_gpu {
    const struct sl_cuda *cuda;
    struct sl_gpu_session session; /* of a GPU */
    struct sl_gpu gpu;
    bool twin;
    const struct sl_gpu_kind *kind; /* NULL: not known, as of a twin */
    struct sl_gpu_modules modules;
    sl_cu_stream stream;
    sl_cu_event begin, end;
    sl_cu_at memory;
    size_t room, used;
    void *pinned;
    sl_status status;
    struct sl_err err;
};

/* which: "cuda", "cuda:N", "cuda:UUID" or "twin". To be closed if it fails, too. */
sl_status sl_bench_gpu_open(struct sl_bench_gpu *g, const char *which, struct sl_err *err);
void sl_bench_gpu_close(struct sl_bench_gpu *g);

/* Device memory, a multiple of 256; 0 when something has failed. `reset` gives all of it back. */
sl_cu_at sl_bench_gpu_take(struct sl_bench_gpu *g, size_t bytes);
/* Taken, and written: as a kernel's parameters have it. */
void *sl_bench_gpu_put(struct sl_bench_gpu *g, const void *from, size_t bytes);
/* n things of `bytes`, of which `period` are at `from`: they come again and again. */
void *sl_bench_gpu_put_often(struct sl_bench_gpu *g, const void *from, size_t bytes, uint32_t period,
                             size_t n);
void sl_bench_gpu_fill(struct sl_bench_gpu *g, sl_cu_at at, uint8_t value, size_t bytes);
void sl_bench_gpu_get(struct sl_bench_gpu *g, void *to, sl_cu_at from, size_t bytes); /* when all is done */
void sl_bench_gpu_reset(struct sl_bench_gpu *g);

/* A launch, and what differs from one to the next: a pointer of its parameters, which goes round `copies` places, so that what it
 * reads is in no cache. */
struct sl_bench_launch {
    const struct gpu_kernel *kernel;
    uint32_t shared;     /* bytes */
    size_t blocks;       /* that there is work for */
    bool all;            /* each block has a number of its own; else as many as the GPU runs at once do */
    uint64_t params[64]; /* as the kernel has them */
    size_t pointer;      /* where in them */
    size_t step;         /* bytes from place to place */
    uint32_t copies;     /* 1: none */
};
/* false: this GPU has no such kernel. */
bool sl_bench_gpu_has(struct sl_bench_gpu *g, const struct gpu_kernel *kernel);
void sl_bench_gpu_launch(struct sl_bench_gpu *g, const struct sl_bench_launch *launch);
/* Microseconds of one of so many, back to back. */
double sl_bench_gpu_us(struct sl_bench_gpu *g, const struct sl_bench_launch *launch, uint32_t times);
/* Bytes read and written a nanosecond by a copy within the memory, as it comes. */
double sl_bench_gpu_copy_rate(struct sl_bench_gpu *g);

#endif
