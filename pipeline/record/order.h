/* The order log: one numbered sequence of decisions per pipeline, written by the coordinator alone, carried down the
 * stages with the chunks, applied by each in order and exactly once. No stage schedules, so no two can disagree.
 *
 * A record travels as the meta bytes of an SL_WIRE_ORDER frame: the record, room for one trace a stage, the token ids (which
 * stage 0 reads), the numbers of the KV pages that its slices open, and the steering of those that end their prompts. The
 * rows, when the record runs a chunk, follow behind.
 * Its size does not change on the way, so a stage works in the frame it received and passes the same bytes on.
 *
 * Pages have numbers that the record decides: every stage has a pool of the same size and puts page i of a sequence where the
 * record says, so the log alone tells what each pool holds. A slice names the sequence's pages from page_first on, as they are
 * after it; pages of the sequence from there on that it had before go back. Pages before pos may be shared with other
 * sequences (a prefix), those that the slice writes may not. A first slice that begins behind a prefix names all its pages: they
 * hold what an earlier record had written to them. Of a sequence that is handed off, each page has a number on the decode worker,
 * too, and one that is shared is pushed with the slice that names it; but the first of its pages may lie there already: those have
 * none, and are not pushed, whoever fills them. */
#ifndef SL_PIPELINE_RECORD_ORDER_H
#define SL_PIPELINE_RECORD_ORDER_H

#include "base/bytes.h"
#include "base/status.h"
#include "pipeline/record/steering.h"
#include "pipeline/record/token.h"

enum {
    SL_MAX_SLICES = 32,
    SL_MAX_N = 16,            /* answers to one prompt */
    SL_MAX_DECODE_STOPS = 96, /* ids that end a text */
    SL_MAX_STAGES = 60,       /* an io has 64 links, and a decode worker has one to each */
    SL_MAX_DECODERS = 8,      /* decode workers at once: places for them */
    SL_DECODER_LIVES =
        1024 /* that have had one place, one after the other, before their numbers come again */
};

enum {
    SL_PAGE = 64
}; /* tokens of a KV page: the kernels' SL_PAGE_TOKENS, which stage.c holds to be the same */

/* Pages that hold n tokens. */
static inline uint32_t sl_pages_of(uint32_t n_tokens)
{
    return (uint32_t)(((uint64_t)n_tokens + SL_PAGE - 1) / SL_PAGE);
}

enum sl_order_kind {
    SL_ORDER_RUN = 1,
    /* seq is given up: its pages go back when the KV pushes already queued have left. Nobody wants what records before this one
     * still make of it, or begins behind it: a stage that sees it coming need not compute them (sl_order_give_up) */
    SL_ORDER_CANCEL,
    SL_ORDER_FREE /* seq is done here: its pages go back likewise */
};

enum sl_slice_flags {
    SL_SLICE_FIRST = 1,    /* opens the sequence, at the begin of a page */
    SL_SLICE_LAST = 2,     /* ends the prompt: the last stage samples the first token */
    SL_SLICE_DIGEST = 4,   /* report the digest of the logits */
    SL_SLICE_HANDOFF = 16, /* push the pages that it fills to the decode worker */
    SL_SLICE_RESTORE = 32  /* no token comes of it, only pages: its last were told before, or nobody asked */
};

struct sl_order_slice { /* positions [pos, pos + n) of sequence seq */
    uint64_t seq;
    uint32_t pos, n;
    uint32_t index; /* number of the slice within its request: a later stay counts on */
    uint32_t prompt_tokens;
    uint32_t flags;
    /* HANDOFF: to whom, by its place and by how many had that before: pages for one that is gone go nowhere */
    uint32_t decoder, decoder_life;
    int32_t prompt_logprobs; /* -1: none; else how many of the best per position besides the token itself */
    /* with prompt_logprobs: the id after the slice, whose log-probability its last row gives */
    uint32_t next_id;
    uint32_t page_first,
        n_pages; /* pages [page_first, page_first + n_pages) of the sequence have numbers in the record */
    uint32_t pages_at; /* of the first of them among the record's */
    struct sl_sampling sampling;
    uint32_t n_more; /* with LAST: first tokens beside the one, of seeds sampling.seed + 1, + 2, ... */
    uint32_t steering_bytes; /* with LAST; of all slices, with their bans, at most sl_order_steering_bytes */
    const uint8_t *steering; /* what is to be packed; of an unpacked record, in its bytes */
    uint32_t
        n_bans; /* with LAST: ids that the first token may not be, since they would end the text too early */
    const uint8_t *bans; /* likewise: little-endian u32, unaligned */
};

/* Rows of a slice whose logits are wanted: its last ones. Of the others nobody needs more than K and V of the model's last layer. */
static inline uint32_t sl_order_rows_wanted(const struct sl_order_slice *slice)
{
    if (slice->prompt_logprobs >= 0)
        return slice->n;
    return (slice->flags & SL_SLICE_LAST) && !(slice->flags & SL_SLICE_RESTORE) ? 1 : 0;
}

/* A page's number in the pools of the stages, and on the decode worker; there SL_NO_PAGE when it is not pushed. */
struct sl_page_numbers {
    uint32_t stage, decode;
};
#define SL_NO_PAGE UINT32_MAX

struct sl_order {
    uint64_t number; /* 1, 2, 3, ... */
    enum sl_order_kind kind;
    uint64_t seq; /* CANCEL, FREE */
    uint32_t n_tokens;
    uint32_t n_slices;
    uint32_t n_pages; /* of all slices */
    struct sl_order_slice slices[SL_MAX_SLICES];
};

struct sl_trace { /* what one stage did with one record, on its node's clock */
    uint64_t recv_us, begin_us, end_us;
    /* what its operations take at the peaks of their instructions; MFU = that / (end - begin) */
    uint64_t at_peak_us;
    /* the clock of the next node of the order log minus that of this one (of the last stage: the coordinator's minus its own), as
     * measured over the link between them; 0: not known. For drawings: span.h */
    int64_t next_offset_us;
};

/* begin_us of a stage that has given a record up: all that it runs was cancelled. Its rows are no one's, and no stage behind may
 * compute with them; what it says of pages holds. end_us is when it had run it nevertheless; 0: it has not. */
#define SL_GIVEN_UP UINT64_MAX

enum { SL_TRACE_BYTES = 40 };
void sl_trace_put(struct sl_cursor *c, const struct sl_trace *trace);
struct sl_trace sl_trace_get(struct sl_cursor *c);

struct sl_order_limits {
    uint32_t n_stages, max_tokens, context_tokens, vocab;
    uint32_t n_pages, n_decode_pages; /* of the pools */
    uint32_t max_decoders;            /* places of decode workers */
};

/* Bytes of the meta part: a multiple of 64, the same on every link. Of limits the first four count. */
uint32_t sl_order_meta_bytes(const struct sl_order_limits *limits);
/* Room in a record for what steers the prompts that end in it: as much as one may have. */
uint32_t sl_order_steering_bytes(uint32_t vocab);
/* Most pages of a record: a whole context that is opened at once, and the ragged ends of its slices. */
uint32_t sl_order_max_pages(const struct sl_order_limits *limits);

/* meta has sl_order_meta_bytes bytes. ids: [order->n_tokens], pages: [order->n_pages]; both for RUN. */
void sl_order_pack(uint8_t *meta, const struct sl_order *order, const uint32_t *ids,
                   const struct sl_page_numbers *pages, const struct sl_order_limits *limits);

/* NULL, or what is wrong (static). Checked: kind, counts, ranges without overflow, sums, flags, sampling values, ids, page
 * numbers, steering. */
const char *sl_order_unpack(struct sl_order *order, const uint8_t *meta, size_t bytes,
                            const struct sl_order_limits *limits);

/* Of any bytes of that size: the sequence that they cancel; 0: they cancel none. */
uint64_t sl_order_cancels(const uint8_t *meta);

/* The parts behind the record. */
void sl_order_set_trace(uint8_t *meta, uint32_t stage, const struct sl_trace *trace);
struct sl_trace sl_order_trace(const uint8_t *meta, uint32_t stage);
const uint8_t *sl_order_ids(const uint8_t *meta, uint32_t n_stages); /* little-endian u32, unaligned */
/* Page i of the record, i < order->n_pages. */
struct sl_page_numbers sl_order_page(const uint8_t *meta, const struct sl_order_limits *limits, uint32_t i);

#endif
