/* What the tile headers and the kernels share: how to make a loop over registers vanish.
 *
 * The micro-kernels keep their sums in arrays indexed by loop counters; they live in registers only
 * if every such loop is unrolled whole, at -O2, by both compilers. gcc and clang each ignore the
 * other's pragma (clang silently), and what is left then is correct and four times slower: the
 * kernel bench shows it. */
#ifndef SL_KERNELS_CPU_TILE_H
#define SL_KERNELS_CPU_TILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TILE_INLINE __attribute__((always_inline)) static inline

/* A loop of constant length over registers. */
#define TILE_EACH(i, n) TILE_UNROLL for (int i = 0; i < (n); i++)
/* The same for an n that may be 1: it has `most` rounds always, of which those beyond n vanish. Of a loop of a single round
 * clang forgets to unroll the loop around it, and what that one indexes is then in memory. */
#define TILE_EACH_OF(i, n, most)                                                                             \
    TILE_EACH (i, most)                                                                                      \
        if (i < (n))

#ifdef __clang__
#define TILE_UNROLL _Pragma("clang loop unroll(full)")
#else
#define TILE_UNROLL _Pragma("GCC unroll 32")
#endif

/* What a micro-kernel multiplies: packed rows times panel blocks that lie side by side. */
struct tile_in {
    /* input t of row i is a[t * a_step + i]; where rows are packed as bf16, inputs 2t and 2t+1 */
    const float *a;
    size_t a_step;
    const char *b; /* the first of the panel blocks */
    size_t b_block_bytes;
    uint32_t k;
};
typedef void tile_fn(const struct tile_in *in, float *c, size_t c_stride, bool accumulate);

#endif
