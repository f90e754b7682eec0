/* The order log: one numbered sequence of decisions per pipeline, written by the coordinator alone, carried down the
 * stages with the chunks, applied by each in order and exactly once. No stage schedules, so no two can disagree.
 *
 * A record travels as the meta bytes of an SL_WIRE_ORDER frame: the record, room for one trace a stage, and (towards
 * stage 0) the token ids. The rows, when the record runs a chunk, follow behind. Its size does not change on the way, so
 * a stage works in the frame it received and passes the same bytes on. */
#ifndef SL_PIPELINE_RECORD_ORDER_H
#define SL_PIPELINE_RECORD_ORDER_H

#include "base/bytes.h"
#include "base/status.h"
#include "pipeline/record/token.h"

enum {
    SL_MAX_SLICES = 16,
    SL_MAX_STAGES = 60 /* an io has 64 links, and the decode worker has one to each */
};

enum sl_order_kind {
    SL_ORDER_RUN = 1,
    SL_ORDER_CANCEL, /* stop work on seq and free it, once the KV pushes already queued have left */
    SL_ORDER_FREE,   /* seq is done here: its pages go back */
    SL_ORDER_HANDOFF /* from now on push the KV pages of seq to the decode worker */
};

enum sl_slice_flags {
    SL_SLICE_FIRST = 1,  /* opens the sequence */
    SL_SLICE_LAST = 2,   /* ends the prompt: the last stage samples the first token */
    SL_SLICE_DIGEST = 4, /* report the digest of the logits */
    SL_SLICE_NO_EOS = 8  /* min_tokens: the first token may not end the text */
};

struct sl_order_slice { /* positions [pos, pos + n) of sequence seq */
    uint64_t seq;
    uint32_t pos, n;
    uint32_t index; /* number of the slice within its sequence */
    uint32_t prompt_tokens;
    uint32_t flags;
    int32_t prompt_logprobs; /* -1: none; else how many of the best per position besides the token itself */
    /* with prompt_logprobs: the id after the slice, whose log-probability its last row gives */
    uint32_t next_id;
    struct sl_sampling sampling;
};

struct sl_order {
    uint64_t number; /* 1, 2, 3, ... */
    enum sl_order_kind kind;
    uint64_t seq; /* CANCEL, FREE, HANDOFF */
    uint32_t n_tokens;
    uint32_t n_slices;
    struct sl_order_slice slices[SL_MAX_SLICES];
};

struct sl_trace { /* what one stage did with one record; wall clock */
    uint64_t recv_us, begin_us, end_us;
    /* what its operations take at the peaks of their instructions; MFU = that / (end - begin) */
    uint64_t at_peak_us;
};

/* Bytes of the meta part for n_stages stages and chunks of at most max_tokens: a multiple of 64, the same on every link. */
uint32_t sl_order_meta_bytes(uint32_t n_stages, uint32_t max_tokens);

/* meta has sl_order_meta_bytes bytes. ids: [order->n_tokens], for RUN. */
void sl_order_pack(uint8_t *meta, const struct sl_order *order, const uint32_t *ids, uint32_t n_stages,
                   uint32_t max_tokens);

struct sl_order_limits {
    uint32_t n_stages, max_tokens, context_tokens, vocab;
};
/* NULL, or what is wrong (static). Checked: kind, counts, ranges without overflow, sums, flags, sampling values, ids. */
const char *sl_order_unpack(struct sl_order *order, const uint8_t *meta, size_t bytes,
                            const struct sl_order_limits *limits);

/* The parts behind the record. */
void sl_order_set_trace(uint8_t *meta, uint32_t stage, const struct sl_trace *trace);
struct sl_trace sl_order_trace(const uint8_t *meta, uint32_t stage);
const uint8_t *sl_order_ids(const uint8_t *meta, uint32_t n_stages); /* little-endian u32, unaligned */

#endif
