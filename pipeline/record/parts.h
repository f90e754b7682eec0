/* What flows around a decode worker that is cut by layers into parts, beside the ADOPTs that its chief passes on and the TOKENS that the
 * others tell it: STEP, the rows of a micro-batch on their way through the layers, and ENDS, what no part is to have any more.
 * Readers check every count and length before they believe it. */
#ifndef SL_PIPELINE_RECORD_PARTS_H
#define SL_PIPELINE_RECORD_PARTS_H

#include "base/bytes.h"
#include "pipeline/record/wire.h"

/* ---- STEP: meta bytes of a fixed length, and behind them, but on the way to the first part, rows [n][d_model] of f32 ---- */

struct sl_step_row { /* one more token of a sequence */
    uint64_t seq;
    uint32_t pos, id;
};

struct sl_step {
    uint32_t number,
        n; /* steps are numbered as they are begun, and come back in this order; n may be 0 by then */
    struct sl_step_row *rows; /* [max_rows] */
};

struct sl_step_limits {
    uint32_t max_rows, context_tokens, vocab;
};

size_t sl_step_bytes(uint32_t max_rows); /* whole cache lines: rows lie behind */
void sl_step_pack(uint8_t *out, const struct sl_step *step, uint32_t max_rows);
/* NULL, or what is wrong (static). step->rows is room of the caller's for max_rows. */
const char *sl_step_unpack(struct sl_step *step, const uint8_t *in, size_t bytes,
                           const struct sl_step_limits *limits);

/* What the header of its frame says of the rows behind the meta bytes; a step that has lost all of its rows travels on without. */
void sl_step_set_rows(const struct sl_step *step, struct sl_wire *wire, uint32_t d_model);
bool sl_step_has_rows(const struct sl_step *step, const struct sl_wire *wire, uint32_t d_model);

/* ---- ENDS: any number of entries back to back ---- */

enum { SL_PARTS_END_BYTES = 32 };
struct
    sl_parts_end { /* a sequence that ended at the chief, on its way through the parts in the order of their layers */
    uint64_t seq;
    int32_t status;
    uint32_t n_tokens;                 /* of the KV digest; 0: nobody wants one, or it can't be had */
    uint64_t kv_digest, logits_digest; /* the first: the chain up to here */
};

void sl_parts_end_put(struct sl_cursor *c, const struct sl_parts_end *end);
/* false at the end of the bytes, and when they are bad (then c->bad is set). */
bool sl_parts_end_get(struct sl_cursor *c, struct sl_parts_end *end, uint32_t context_tokens);

#endif
