/* Where the time of a stage goes: per member of its team, per part, nanoseconds of work, operations and bytes.
 *
 * Every member adds to its own line, so counting costs no sharing; the sums are read by the team's creating thread
 * between runs. A part's time is work only; what is left of members x wall time is waiting (imbalance, barriers,
 * serial code). ops: multiply-adds count two. bytes: weights and KV pages touched, each once per task that reads it
 * (what memory has to deliver when nothing is in cache), which is what the memory roofline is drawn from.
 *
 * A GPU is a team of one whose time is that between events of its compute stream (kernels/gpu/device_parts.c); what a launch reads
 * counts once there, since its blocks share a cache. */
#ifndef SL_KERNELS_PARTS_H
#define SL_KERNELS_PARTS_H

#include "base/clock.h"

enum sl_part {
    SL_PART_PROJECTION, /* q|k|v and output products */
    SL_PART_ATTENTION,  /* rope, append, attend */
    SL_PART_ROUTER,     /* gate logits, top-k, grouping */
    SL_PART_EXPERTS,    /* gate|up, SwiGLU, down; dense and shared feed-forwards too */
    SL_PART_QUANTISE,   /* activations to s8, rotation */
    SL_PART_NORMS,      /* norms, combine, residual, embedding */
    SL_PART_HEAD,       /* the head's product */
    SL_PART_STEPS, /* of a GPU: token steps that are one launch; time alone, what they do is counted in its parts */
    SL_PARTS
};

struct sl_part_sum {
    uint64_t ns, ops, bytes;
};

/* One member's line; cache-line aligned by its owner. */
struct sl_parts {
    struct sl_part_sum part[SL_PARTS];
};

/* Adds the time since *since, and moves *since to now: consecutive parts of one task need one clock read each. */
static inline void sl_part_add(struct sl_parts *parts, enum sl_part part, uint64_t *since, uint64_t ops,
                               uint64_t bytes)
{
    uint64_t now = sl_clock_ns();
    parts->part[part].ns += now - *since;
    parts->part[part].ops += ops;
    parts->part[part].bytes += bytes;
    *since = now;
}

const char *sl_part_name(enum sl_part part); /* "attention": the label of metrics and reports */

#endif
