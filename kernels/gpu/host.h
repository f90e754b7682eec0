/* The twin: a GPU's blocks, warps and memories on the host, which runs a kernel (gpu.h) and says what is wrong with it.
 *
 * Order. Blocks run one after the other, warps of a block as fibres that are drawn by seed between barriers. That gives one of the
 * legal orders; what another order might give is found by what happened before what: each warp has a vector clock, barriers join
 * them, and each word of shared memory and byte of global memory remembers who wrote and read it last. Found are, by kind:
 *   - accesses outside shared memory or what gpu_alloc gave, or not aligned; they are left out
 *   - reads of shared memory that this block has not written, or of poisoned global memory that no kernel has
 *   - two warps of a block at the same bytes without a barrier between, one of them writing (two that write bytes of one word of
 *     shared memory count, too); two lanes of a warp without a warp_sync or a barrier; two blocks of a launch at all
 *   - the target of a copy that is under way: a copy lands in cp_wait, as late as it may, and until then there is 0xC5
 *   - a barrier that some warps never reach, or that all wait for in vain (the block is given up); copies or products of four warps
 *     that nobody waited for; more of them than the machine keeps
 *   - operands of such a product, which are read in wgmma_wait, as late as may be: that were written without a fence_async between
 *     them and what told of them, or after the product was asked for; a product without a wgmma_fence since the last wait for all
 *   - registers that four warps do not give or take together, or that a block has not got: a warp that takes waits until others have
 *     given as many, out of what the block was launched with, and that is by its launch bounds, in eights
 * Memory begins as 0xA5. Bank conflicts are counted as the rule is documented: 32 banks of 4 bytes, accesses of 8 and 16 bytes a
 * lane by halves and quarters of a warp. Nothing is said about time, and nothing about what only silicon shows.
 *
 * All state is the calling thread's: memory, machine and report. A launch returns when it has run. */
#ifndef SL_KERNELS_GPU_HOST_H
#define SL_KERNELS_GPU_HOST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct gpu_kernel {
    const char *name; /* of the device's function, too */
    void (*entry)(const void *params);
    uint32_t warps, per_sm; /* of a block; blocks that the registers of a multiprocessor are shared by */
    size_t params_bytes;
};

enum gpu_finding {
    GPU_BOUNDS,
    GPU_UNWRITTEN,
    GPU_RACE_WARPS,
    GPU_RACE_LANES,
    GPU_RACE_BLOCKS,
    GPU_RACE_COPY,
    GPU_BARRIER,
    GPU_LEFT_OVER,
    GPU_OVERFLOW,
    GPU_NO_FENCE,
    GPU_REGISTERS,
    GPU_FINDINGS
};

struct gpu_report {
    uint64_t found[GPU_FINDINGS];
    char first[240]; /* the first finding, as a sentence; "" */
    /* what was done: shared accesses of a warp, the wavefronts that they take and would without conflicts; copies of 16 bytes;
     * products of a warp; blocks */
    uint64_t accesses, wavefronts, wavefronts_ideal, copies, products, blocks;
};

/* shared_bytes: at most GPU_SHARED_MAX. The seed draws the order of blocks and warps; any is legal. */
enum { GPU_SHARED_MAX = 232448, GPU_WARPS_MAX = 16 };
void gpu_launch(const struct gpu_kernel *kernel, const void *params, uint32_t n_blocks, size_t shared_bytes,
                uint64_t seed);
struct gpu_report gpu_take_report(void); /* since the last time */
uint64_t gpu_findings(const struct gpu_report *report);
const char *gpu_finding_name(enum gpu_finding kind);

/* Global memory, all of it 0xA5, at a multiple of 4096, before a page that nobody may touch. A kernel's accesses are held to it. */
void *gpu_alloc(size_t bytes);
/* Fills with 0xA5 again, and until a kernel has written a byte no kernel may read it. [at, at + bytes) lies in one allocation. */
void gpu_poison(void *at, size_t bytes);
void gpu_free(void *at); /* NULL is fine */
void gpu_free_all(void); /* of this thread, its machine, too */

/* The thread's memory, machine and what it checks change places with what was put aside, zeroed in the beginning: for work that goes from one thread
 * to another, or beside other work in one. Nothing is running meanwhile. */
struct gpu_aside {
    void *allocations, *machine;
    uint32_t n, room;
    bool bounds_only;
};
void gpu_swap(struct gpu_aside *aside);

/* Bounds only for the accesses of this thread's launches, from now on, and nothing counted: what a device that is used for its results
 * wants. */
void gpu_check_bounds_only(int yes);

#endif
