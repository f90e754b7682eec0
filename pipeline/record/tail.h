/* The end of the order log: its last records, as many as there is room for, and what each says of pages and positions: for whoever
 * looks at a node, and to hold two pipelines against each other. Of a slice all is kept but what its sampling is steered by. */
#ifndef SL_PIPELINE_RECORD_TAIL_H
#define SL_PIPELINE_RECORD_TAIL_H

#include "base/arena.h"
#include "pipeline/record/order.h"

enum {
    SL_TAIL_WORDS = 1 << 16 /* some thousand records of one prompt, or a few that open a whole context */
};

struct sl_tail {         /* one thread's; a copy is whole when words are copied, too */
    uint32_t *words;     /* [SL_TAIL_WORDS], a ring */
    uint64_t begin, end; /* numbers of words since the start: what lies between them is remembered */
};

size_t sl_tail_bytes(void);
sl_status sl_tail_init(struct sl_tail *tail, struct sl_arena *arena);
/* The oldest make room for it. pages: [order->n_pages]; order and pages NULL where the record is none that runs. */
void sl_tail_add(struct sl_tail *tail, uint64_t at_us, const struct sl_order *order,
                 const struct sl_page_numbers *pages);

struct sl_tail_record {
    uint64_t at_us;
    struct sl_order order; /* number, kind, seq; of slices seq, pos, n, flags, decoder and which pages */
    uint64_t pages_at;     /* of the first page, in words */
};
/* The record at *at, which is tail->begin at first and then the next one's; false: there is none. */
bool sl_tail_next(const struct sl_tail *tail, uint64_t *at, struct sl_tail_record *record);
/* Page i of it, i < order.n_pages. */
struct sl_page_numbers sl_tail_page(const struct sl_tail *tail, const struct sl_tail_record *record,
                                    uint32_t i);

#endif
