/* What a machine can do at most, and how near to it a piece of work came.
 *
 * Two limits: multiply-adds a second of the instruction that a kernel is made of, and bytes a
 * second that memory delivers. Work of `ops` operations on `bytes` of weights and pages takes at
 * least max(ops / peak, bytes / bandwidth), its roofline; which of the two is larger is the limit
 * that it runs into.
 *
 * A peak is what the instruction does on registers alone. Both are measured, on every member of a
 * team at once: clocks fall when all processors work, and memory is shared. ops: a multiply-add
 * counts two. */
#ifndef SL_KERNELS_ROOFLINE_H
#define SL_KERNELS_ROOFLINE_H

#include "kernels/isa.h"
#include "kernels/team.h"

enum sl_peak {
    SL_PEAK_F32,  /* fused multiply-adds of floats */
    SL_PEAK_BF16, /* dot products of bf16: profile bf16dot */
    SL_PEAK_INT8, /* dot products of bytes, or the best mix of instructions that does them */
    SL_PEAKS
};

struct sl_roofline { /* of all members together; 0: there is no such instruction, or nothing is known of it */
    double ops_per_ns[SL_PEAKS];
    double mma_ops_per_ns; /* of a GPU: SL_PEAK_INT8 by mma.sync alone (kernels/cuda/kinds.h) */
    double bytes_per_ns;
};

/* "vpdpbusd, 64 bytes"; NULL when the table has no such instruction, as ref never has. */
const char *sl_peak_instruction(const struct sl_ops *ops, enum sl_peak peak);

/* Operations a nanosecond of the whole team, over about `ns`; 0 when there is no such instruction.
 */
double sl_peak_measure(struct sl_team *team, const struct sl_ops *ops, enum sl_peak peak, uint64_t ns);
/* Bytes a nanosecond that the team reads of `memory`, in one stream a member or in four, whichever
 * is faster. `memory` is meant to be four times larger than the caches, or more. */
double sl_read_measure(struct sl_team *team, const void *memory, size_t bytes);

/* All of it, the best of a few rounds of some 10 ms; as much again goes for memory that is given
 * back at the end. */
sl_status sl_roofline_measure(struct sl_roofline *roofline, const struct sl_ops *ops, uint32_t n_threads,
                              uint32_t best_of, struct sl_err *err);

/* At least so long: nanoseconds of the whole team. A limit that is 0 is none. */
static inline double sl_roofline_compute_ns(const struct sl_roofline *r, enum sl_peak peak, double ops)
{
    return r->ops_per_ns[peak] > 0 ? ops / r->ops_per_ns[peak] : 0;
}
/* The same where integers have mma.sync alone. */
static inline double sl_roofline_mma_ns(const struct sl_roofline *r, enum sl_peak peak, double ops)
{
    return peak == SL_PEAK_INT8 && r->mma_ops_per_ns > 0 ? ops / r->mma_ops_per_ns
                                                         : sl_roofline_compute_ns(r, peak, ops);
}
static inline double sl_roofline_memory_ns(const struct sl_roofline *r, double bytes)
{
    return r->bytes_per_ns > 0 ? bytes / r->bytes_per_ns : 0;
}

#endif
