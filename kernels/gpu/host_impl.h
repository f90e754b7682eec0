/* The twin's machine from inside (host.h): one a thread, shared by the files of memory, of shared memory, of fibres and of products. */
#ifndef SL_KERNELS_GPU_HOST_IMPL_H
#define SL_KERNELS_GPU_HOST_IMPL_H

#include "kernels/gpu/host.h"
#include <stdbool.h>
#include <ucontext.h>

enum {
    GPU_COPIES_MAX = 8192, /* of a warp, under way */
    GPU_GROUPS_MAX = 64,
    GPU_PRODUCTS_MAX = 16,    /* of four warps, under way, of each of them */
    GPU_BARRIERS_MAX = 64,    /* in shared memory, of a block */
    GPU_LANES_SEVERAL = 254,  /* in the place of a lane's number */
    GPU_BLOCKS_SEVERAL = 254, /* in that of a warp's */
    GPU_WARPS_SEVERAL = 255,
};

struct gpu_seen { /* a warp's last reads of a word, those of one clock and one sync */
    uint32_t clock, sync;
    uint8_t bytes, lane[4]; /* a mask, and who of each */
};

enum gpu_word_state { GPU_WORD_EMPTY, GPU_WORD_WRITTEN, GPU_WORD_COPY };
struct gpu_word {   /* the shadow of 4 bytes of shared memory */
    uint32_t block; /* the serial of the block it is about: to others it is empty */
    uint8_t state, writer;
    uint8_t written, bytes; /* masks: ever written; written by the last writer since its last sync */
    uint8_t lane[4];        /* of it, that wrote each of those */
    uint32_t clock, sync;   /* the writer's */
    uint32_t fence;         /* how many fence_async it had made */
    struct gpu_seen read[GPU_WARPS_MAX];
};

struct gpu_byte {                     /* the shadow of a byte of global memory */
    uint32_t writer_block, writer_at; /* serial of the block, 0: no kernel; the warp's clock */
    uint32_t reader_block, reader_at;
    uint32_t sync, reader_sync;
    uint8_t writer_warp, writer_lane, reader_warp, reader_lane;
};

struct gpu_copy {
    uint32_t to;
    uint8_t lane, bytes[16];
};

/* What of each warp has happened before something: its clock, and its calls of fence_async. */
struct gpu_past {
    uint32_t clock[GPU_WARPS_MAX], fences[GPU_WARPS_MAX];
};

struct gpu_barrier { /* in shared memory */
    uint32_t at, count, pending, phase;
    struct gpu_past arrived, over; /* of this phase so far; of the one before */
};

struct gpu_product {
    void *c; /* wi[64] */
    uint32_t a[4][32];
    uint64_t b;
    struct gpu_past past;
};

struct gpu_warp {
    ucontext_t context;
    uint8_t *stack;
    uint32_t index;
    struct gpu_past past;
    uint32_t syncs; /* from 1 */
    bool done, waits;
    const struct gpu_barrier *waits_on; /* in shared memory, for the end of the phase of that parity; NULL */
    uint32_t parity;
    struct gpu_copy *copies; /* oldest first */
    uint32_t n_copies, n_groups, group_end[GPU_GROUPS_MAX];
    uint32_t registers, wants; /* of a lane: that it has; that it waits for, beside them */
    bool fenced;               /* by wgmma_fence, since the last wait for all products */
    uint32_t n_products, n_product_groups, product_end[GPU_PRODUCTS_MAX];
    struct gpu_product products[GPU_PRODUCTS_MAX]; /* oldest first */
};

struct gpu_machine {
    ucontext_t home;
    struct gpu_warp warps[GPU_WARPS_MAX], *self;
    uint32_t n_warps, block, n_blocks;
    uint32_t serial,
        launch_first; /* of this block, of the launch's first one: from 2 on, never given twice */
    uint32_t shared_bytes, registers; /* registers: of a lane, that warps have given and none has taken */
    const struct gpu_kernel *kernel;
    const void *params;
    uint64_t rng;
    uint32_t n_barriers;
    struct gpu_barrier barriers[GPU_BARRIERS_MAX];
    uint8_t shared[GPU_SHARED_MAX];
    struct gpu_word shadow[GPU_SHARED_MAX / 4];
};

extern _Thread_local struct gpu_machine *gpu_machine; /* NULL before the first launch */
extern _Thread_local struct gpu_report gpu_report;
extern _Thread_local bool gpu_bounds_only;

/* One more of a kind; the first is kept in words. where: an offset or an address. lane < 0: the warp. */
void gpu_machine_free(void);
void gpu_found(enum gpu_finding kind, const char *what, uint64_t where, int lane);

/* Whether the running warp has whatever that warp did at that time behind it. */
static inline bool gpu_knows(uint32_t warp, uint32_t clock)
{
    const struct gpu_warp *self = gpu_machine->self;
    return warp == self->index || clock <= self->past.clock[warp];
}

void gpu_join(struct gpu_past *into, const struct gpu_past *more);
/* The running warp waits, and others run. */
void gpu_yield(void);
static inline bool gpu_phase_is_over(const struct gpu_barrier *b, uint32_t parity)
{
    return b->phase % 2 != parity;
}

/* Whether these bytes may be touched; if so, the shadow notes it, with what is wrong about it. */
bool gpu_global_may(const void *at, uint32_t bytes, bool write, int lane);

/* Shared memory: bounds; one word, of which `mask` bytes are meant. */
bool gpu_shared_may(uint32_t at, uint32_t bytes, int lane);
void gpu_word_read(uint32_t at, uint8_t mask, int lane);
void gpu_word_note_product(uint32_t at); /* all lanes read it */
void gpu_word_write(uint32_t at, uint8_t mask, int lane, bool copy);
/* at: of each lane whose bit in `lanes` is set. */
void gpu_count_banks(const uint32_t at[32], uint32_t bytes, uint32_t lanes);

#endif
