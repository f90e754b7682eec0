/* Who owns which KV page: sequences with their page tables, pages with counts. Every node of a pipeline keeps such a table
 * and changes it by the order log alone; so does the decider, who chooses the numbers, and so does the simulator. Pure.
 *
 * A page is used while a sequence has it (count) or somebody reads it: a frame that is being sent, or, with the decider, the
 * prefix cache (readers). Several sequences may have a page that is complete, a prefix; one that is written belongs to one. What
 * was written to a page stays in it until another sequence is given it to write to, so who decides may give it to one that
 * begins with the same prefix even when nobody has had it in between. */
#ifndef SL_PIPELINE_DECIDE_SEQUENCES_H
#define SL_PIPELINE_DECIDE_SEQUENCES_H

#include "base/arena.h"
#include "pipeline/decide/limits.h"

struct sl_sequence { /* one prompt's timeline on this node */
    uint64_t id;
    bool live;
    uint32_t n_pages;
    uint32_t *pages; /* numbers, [pages of a context]; SL_NO_PAGE: not known yet */
};

struct sl_sequences {
    uint32_t max_sequences, max_pages; /* max_pages: of a sequence */
    struct sl_sequence *sequences;
    uint32_t n_live;
    uint32_t n_pages, n_used; /* of the pool */
    uint32_t *count;          /* [n_pages] sequences that have the page */
    uint32_t *readers;        /* [n_pages] frames that are read from it */
    uint64_t *used, *written; /* bits of pages: used, and ever given to be written to */
    uint32_t next;            /* where sl_sequences_take looks first */
};

size_t sl_sequences_bytes(uint32_t max_sequences, uint32_t context_tokens, uint32_t n_pages);
/* SL_E_NOMEM: the arena was planned too small. */
sl_status sl_sequences_init(struct sl_sequences *t, struct sl_arena *arena, uint32_t max_sequences,
                            uint32_t context_tokens, uint32_t n_pages);

struct sl_sequence *sl_sequences_find(const struct sl_sequences *t, uint64_t id); /* NULL: not here */
struct sl_sequence *sl_sequences_open(struct sl_sequences *t, uint64_t id);       /* NULL: table full */
void sl_sequences_close(struct sl_sequences *t, struct sl_sequence *s); /* its pages and its entry go back */
/* It keeps its first n_pages pages. */
void sl_sequences_cut(struct sl_sequences *t, struct sl_sequence *s, uint32_t n_pages);

/* Page `index` of s has this number. written: positions of it will be written, so nobody else may have it; else what it holds
 * is meant. SL_AGAIN: a frame is still being read from it; SL_E_PROTOCOL: it is another's, or nothing was ever written to it, or s
 * has another there. *fresh: nobody had it before, so it wants clearing. */
sl_status sl_sequences_put(struct sl_sequences *t, struct sl_sequence *s, uint32_t index, uint32_t page,
                           bool written, bool *fresh);
/* A number that is free; SL_E_EXHAUSTED. For who decides. */
sl_status sl_sequences_take(struct sl_sequences *t, uint32_t *page);

void sl_sequences_read_begin(struct sl_sequences *t, uint32_t page);
void sl_sequences_read_end(struct sl_sequences *t, uint32_t page);

/* Every slice of a RUN record finds its sequence and its pages: found[i] is that of slice i, and fresh(user, page) is called
 * for each page that wants clearing. All or nothing: SL_AGAIN (a page has readers) changes nothing and can be tried again;
 * SL_E_PROTOCOL: the record contradicts the log so far, and the node can't go on. *bad says why (static). */
sl_status sl_sequences_apply(struct sl_sequences *t, const struct sl_order *order, const uint8_t *meta,
                             const struct sl_order_limits *limits, struct sl_sequence *found[SL_MAX_SLICES],
                             void (*fresh)(void *user, uint32_t page), void *user, const char **bad);

/* For tests: NULL, or which promise the table breaks (static). */
const char *sl_sequences_check(const struct sl_sequences *t);

#endif
