/* The distinct ids of a text that grows, and how often each came: what penalties of an output count. They travel with an answer
 * that begins anew on the decode worker (ADOPT), so that who goes on with it penalises what was said and not what he happened
 * to see. As bytes: for each id, ascending, how far it lies behind the one before, and its count, both LEB128 (seven bits a
 * byte, the lowest first, the eighth is set when more follow). An answer's ids lie close and come seldom, so an id is some two
 * bytes: a text of a whole context is bounded by that, not by eight. Pure. */
#ifndef SL_PIPELINE_RECORD_COUNTS_H
#define SL_PIPELINE_RECORD_COUNTS_H

#include "base/bytes.h"
#include "base/status.h"

struct sl_counts {
    uint32_t n, room;
    uint32_t *ids, *counts; /* [room] */
};
/* Linear, and short against the row of logits that it is for. No more distinct ids than there is room. */
void sl_counts_add(struct sl_counts *c, uint32_t id);

/* The most that a text of n_ids ids may take. */
size_t sl_counts_max_bytes(uint32_t n_ids, uint32_t vocab);
/* ids: [n], ascending, each as often as it came, all below vocab. Returns the bytes; out has sl_counts_max_bytes(n, vocab). */
size_t sl_counts_pack(uint8_t *out, const uint32_t *ids, uint32_t n, uint32_t vocab);
/* NULL, or what is wrong (static). c: NULL to look only; else empty, and it gets what there is. *n_ids: how many ids the text
 * has. Zero bytes are right and mean an empty text. */
const char *sl_counts_read(struct sl_counts *c, const uint8_t *bytes, size_t n_bytes, uint32_t vocab,
                           uint32_t *n_ids);

#endif
