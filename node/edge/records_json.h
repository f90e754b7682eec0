/* Records of the order log as JSON, one a line, for /debug/records. */
#ifndef SL_NODE_EDGE_RECORDS_JSON_H
#define SL_NODE_EDGE_RECORDS_JSON_H

#include "base/text.h"
#include "pipeline/record/tail.h"

/* All that is remembered, the oldest first; times are counted from now_us on. */
void sl_records_json(const struct sl_tail *tail, uint64_t now_us, struct sl_text *text);

#endif
