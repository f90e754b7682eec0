/* CANCELs that a stage knows of before they come: the coordinator tells every stage at once, beside the order log, which sequence the
 * log cancels and with which record, so that chunks which stand before it, behind those of others, need not be run. A hint: it may be
 * lost, late, or told twice, and only what is computed for nobody depends on it. The record itself comes all the same, and what it
 * brings about is brought about by it alone. Pure; of fixed size; one thread. */
#ifndef SL_PIPELINE_DECIDE_FORETOLD_H
#define SL_PIPELINE_DECIDE_FORETOLD_H

#include <stdbool.h>
#include <stdint.h>

enum { SL_FORETOLD = 64 }; /* at once; of more, those that come the soonest are forgotten */

struct sl_foretold_cancel {
    uint64_t seq, number; /* of the CANCEL record; seq 0: none */
};

struct sl_foretold {
    uint32_t n;
    struct sl_foretold_cancel of[SL_FORETOLD];
};

/* applied: the last record that the stage has applied. What was to come before is none of its business any more. */
void sl_foretold_add(struct sl_foretold *f, struct sl_foretold_cancel cancel, uint64_t applied);
bool sl_foretold_has(const struct sl_foretold *f, uint64_t seq);
/* The stage has applied record `number`: what came with it, or was to come before, is forgotten. */
void sl_foretold_applied(struct sl_foretold *f, uint64_t number);

#endif
