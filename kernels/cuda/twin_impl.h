/* What the parts of the twin share (twin.h): twin.c devices, contexts and modules, twin_memory.c, twin_streams.c,
 * twin_graphs.c. The tags of its
 * things are those that cuda.h gives the driver's, since they are what the table's handles point to. All under one lock. */
#ifndef SL_KERNELS_CUDA_TWIN_IMPL_H
#define SL_KERNELS_CUDA_TWIN_IMPL_H

#include "base/rng.h"
#include "kernels/cuda/twin.h"

struct twin_memory { /* of a context, or of the host */
    struct twin_memory *next;
    uint8_t *at;
    size_t bytes;
    uint8_t *pages; /* that are shut and opened; with the guards around them if it is the twin's own */
    size_t pages_bytes;
    bool ours; /* to be unmapped */
};

enum twin_op_verb {
    TWIN_DO_COPY,
    TWIN_DO_FILL,
    TWIN_DO_LAUNCH,
    TWIN_DO_RECORD,
    TWIN_DO_WAIT,
    TWIN_DO_GRAPH,
    TWIN_DO_STEPS
};
struct twin_op {
    enum twin_op_verb verb;
    uint8_t value;
    void *to;
    const void *from;
    size_t bytes, shared_bytes;
    struct CUevent_st *event;
    uint64_t count; /* of records of the event */
    const struct sl_cu_twin_kernel *kernel;
    uint32_t n_blocks;
    uint64_t
        number; /* of the launch; of a graph's: among those of the graph, and of the graph: of its first one */
    struct CUgraphExec_st *exec;
    bool (*step)(void *arg); /* of another library's */
    void *arg;
    _Alignas(16) uint8_t params[SL_CU_TWIN_PARAMS];
};

enum { TWIN_OPS = 512 }; /* queued in a stream; with one more the caller waits, as a driver's does */
struct CUstream_st {
    struct CUstream_st *next;
    struct CUctx_st *context;
    struct twin_op ops[TWIN_OPS];
    uint64_t given, done;
    uint32_t nodes_done;         /* of the graph that is next */
    struct CUgraph_st *captured; /* what it is given goes there; or NULL */
    uint32_t weight;             /* in the draw of who is next */
    bool hangs, held;            /* held: another library's work at its head was asked, and is not over */
};
struct twin_ops { /* of a graph, in order */
    struct twin_op *list;
    uint32_t n, n_launches;
};
struct CUgraph_st {
    struct CUgraph_st *next;
    struct CUctx_st *context;
    struct twin_ops ops;
    const void *thread; /* while it is captured: whose, and whether somebody has spoiled it */
    bool spoiled;
};
struct CUgraphExec_st {
    struct CUgraphExec_st *next;
    struct CUctx_st *context;
    struct twin_ops ops;
    uint64_t given, done;
    bool uploaded;
};
struct CUevent_st { /* once destroyed it stays until the context goes: queued work may know it */
    struct CUevent_st *next;
    struct CUctx_st *context;
    uint64_t recorded, done; /* how often */
    uint64_t step;           /* when it came last, on the twin's clock */
    bool timed, gone;
};
struct CUfunc_st {
    struct CUfunc_st *next;
    struct CUctx_st *context;
    const struct sl_cu_twin_kernel *kernel;
    size_t shared_most;
    bool loaded;
};
struct CUmod_st {
    struct CUmod_st *next;
    struct CUctx_st *context;
};
struct CUctx_st { /* the one of a device */
    uint32_t device, n_retained;
    struct twin_memory *memory;
    uint64_t used_bytes;
    struct CUstream_st *streams;
    struct CUevent_st *events;
    struct CUgraph_st *graphs;
    struct CUgraphExec_st *execs;
    struct CUfunc_st *functions;
    struct CUmod_st *modules;
    sl_cu_result final; /* 0: it is well */
    uint32_t tells_in;  /* calls until that is told */
    bool lost;          /* no more of its work is done */
    bool open;          /* its memory, while a call does some of its work */
};

struct twin_world {
    struct sl_cu_twin_config config;
    struct sl_rng rng;
    struct CUctx_st contexts[SL_CU_TWIN_DEVICES];
    struct twin_memory *pinned;
    uint64_t n_launches, n_taken, clock; /* asked for; asked for; operations done */
    uint32_t haste; /* 0: work is late; 1: sometimes done when it is given; 2: always, as far as may be */
    bool started;   /* cuInit has been called */
    struct sl_cu_twin_report report;
};
extern struct twin_world sl_twin_world;
extern _Thread_local struct CUctx_st *sl_twin_current;

/* Held until the end of the block. */
int sl_twin_lock(void);
void sl_twin_unlock(const int *held);
#define TWIN_LOCKED __attribute__((cleanup(sl_twin_unlock), unused)) const int held_ = sl_twin_lock()

uint32_t sl_twin_draw(uint32_t n); /* [0, n) */
void sl_twin_misuse(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Whether the fault is that what is taken now is not to be had. */
bool sl_twin_refused(void);

/* What a call that needs a context says before it does anything: 0, or why it can't. */
sl_cu_result sl_twin_enter(void);
#define TWIN_ENTER                                                                                           \
    TWIN_LOCKED;                                                                                             \
    do {                                                                                                     \
        sl_cu_result entered_ = sl_twin_enter();                                                             \
        if (entered_ != SL_CU_OK)                                                                            \
            return entered_;                                                                                 \
    } while (0)

/* The same of what a capture does not see and a driver therefore refuses meanwhile, whichever thread asks: the capture is
 * spoiled, too. */
bool sl_twin_spoils(const struct CUctx_st *context);
#define TWIN_ENTER_APART                                                                                     \
    TWIN_ENTER;                                                                                              \
    do {                                                                                                     \
        if (sl_twin_spoils(sl_twin_current))                                                                 \
            return SL_CU_CAPTURE_UNSUPPORTED;                                                                \
    } while (0)

/* twin_memory.c */
/* All of a context's: shut to everybody, or open for the work that a call does. */
void sl_twin_memory_shut(struct CUctx_st *context, bool shut);
void *sl_twin_memory_find(const struct CUctx_st *context, sl_cu_at at,
                          size_t bytes); /* NULL: not in one allocation */
bool sl_twin_is_pinned(const void *at, size_t bytes);
void sl_twin_memory_end(struct twin_memory **list);

/* twin_streams.c */
bool sl_twin_step(
    struct CUctx_st
        *context); /* does one operation, and leaves the memory open; false: there is none that may be done */
void sl_twin_run(struct CUctx_st *context); /* all that may be done */
bool sl_twin_idle(const struct CUctx_st *context);
bool sl_twin_reads(const struct CUctx_st *context, const void *at,
                   size_t bytes); /* a queued copy, from there */

/* A place for an operation, as what is asked for by the caller; a stream that is captured has it in its graph. */
sl_cu_result sl_twin_give(struct CUstream_st *stream, struct twin_op **op);
/* It is filled in. */
sl_cu_result sl_twin_given(struct CUstream_st *stream);

/* twin_graphs.c */
struct twin_op *sl_twin_capture(struct CUgraph_st *graph); /* NULL: no memory */
void sl_twin_graphs_end(struct CUctx_st *context);

/* The functions of the table, as SL_CU_CALLS has them. */
#define TWIN_PROTOTYPE(field, name, arguments) sl_cu_result sl_twin_##field arguments;
SL_CU_CALLS(TWIN_PROTOTYPE)

#endif
