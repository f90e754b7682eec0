/* The twin of NVIDIA's driver: the same table of functions (driver.h) over a GPU that is not there, so that whoever works with a
 * GPU is tried without one, and harder than one would try him.
 *
 *   memory   a device's is an allocation between pages that nobody may touch, filled with 0xA5, and shut while none of its work
 *            is done: host code that follows an address of the device dies of it
 *   work     is late. What is put into a stream is done when somebody asks for an event or a stream, one operation after another,
 *            of streams drawn by seed among those whose events allow it; copies read and write at that moment, and what a copy to
 *            the host has not brought yet is 0xA5. By the same seed it may instead be early, which finds who counts on lateness.
 *            So a forgotten event, or memory that is used again too soon, gives other bytes, where a GPU would mostly be in time
 *   graphs   what a stream is given while it is captured, with the parameters as they are then; a launch of it is its operations,
 *            one after another, with other streams' work in between
 *   strict   what a driver lets pass and we do not want is counted, with a sentence: memory that is not pinned, the legacy
 *            stream, an event that was never recorded, a copy onto a part of itself, things given back while work of theirs is
 *            queued, or not at all, a kernel or a graph that would be loaded by its first launch
 *   refused  what a driver refuses: shared memory beyond the capability's, memory of the host registered twice, what a capture
 *            would not see
 *   faults   an error of the n-th launch, told at once or by a later call; a launch that never ends; no memory; no device
 *
 * It lies beside the driver and not with the kernels (kernels/gpu) since what it promises is the driver's; it knows a kernel only
 * by name, as a function that is called with the parameters that were there when it was launched. The memory that kernels are
 * checked in may be theirs, too: `alloc` of the config.
 *
 * Threads: any; a context's work is done in the thread that asks for it. One world a process. */
#ifndef SL_KERNELS_CUDA_TWIN_H
#define SL_KERNELS_CUDA_TWIN_H

#include "kernels/cuda/driver.h"

struct sl_cu_twin_kernel {
    const char *name;
    size_t params_bytes; /* of its one argument, a struct by value: at most SL_CU_TWIN_PARAMS */
    uint32_t threads;    /* of a block */
    uint32_t per_sm;     /* blocks that fit on a multiprocessor */
    void (*run)(const struct sl_cu_twin_kernel *kernel, const void *params, uint32_t n_blocks,
                size_t shared_bytes, uint64_t seed);
    const void *arg; /* run's own */
};

enum sl_cu_twin_faults {
    SL_CU_TWIN_WELL,
    SL_CU_TWIN_FAILS, /* the launch does nothing, and its context is lost with `result` */
    SL_CU_TWIN_HANGS, /* it never ends, nor what waits for it */
    SL_CU_TWIN_NO_MEMORY, /* what is taken as that number is not to be had: memory, a stream, an event, a module */
};
struct sl_cu_twin_fault {
    enum sl_cu_twin_faults kind;
    uint32_t at; /* which launch (or taking), from 0, in the order of calls */
    sl_cu_result result;
    uint32_t later; /* FAILS: so many calls go on as if nothing was, and the context's work is done */
};

enum { SL_CU_TWIN_PARAMS = 512, SL_CU_TWIN_DEVICES = 8 };
struct sl_cu_twin_config {
    uint64_t seed;
    uint32_t n_devices;    /* 0: the driver finds none */
    uint64_t device_bytes; /* of memory, each */
    uint32_t capability;   /* 90: 9.0 */
    int mode;              /* SL_CU_MODE_* */
    bool no_graphs;        /* it can't capture a stream */
    bool no_ecc;           /* of its memory */
    sl_cu_result init;     /* what cuInit says */
    uint32_t in_use;       /* bit n: another program has device n for itself */
    const struct sl_cu_twin_kernel *kernels;
    uint32_t n_kernels;
    struct sl_cu_twin_fault fault;
    /* NULL: the twin's own. At a multiple of 4096, with all pages of it to be had, filled with 0xA5. */
    void *(*alloc)(size_t bytes);
    void (*free)(void *at);
};

struct sl_cu_twin_report {
    uint64_t launches, graphs, copies, misuses; /* done, asked for, done, found */
    char first[200];                            /* misuse, as a sentence; "" */
};

/* A new world; the one before is gone with all that was in it. The config's arrays outlive it. */
void sl_cu_twin_start(const struct sl_cu_twin_config *config);
void sl_cu_twin_stop(void);
const struct sl_cuda *sl_cu_twin(void); /* its driver */
struct sl_cu_twin_report sl_cu_twin_take_report(void);

/* What another library puts into a stream, as NCCL does with its transfers; that library's twin finds this function where the real one
 * finds the driver, among the symbols of the process. When it is its turn `step` is asked to go on, with the device's memory open, again
 * and again until it says that it is over; what stands behind it in the stream waits, the caller does not. It must not call the driver.
 * false: `stream` is none of this world's. */
__attribute__((visibility("default"))) bool sl_cu_twin_give(void *stream, bool (*step)(void *arg), void *arg);

#endif
