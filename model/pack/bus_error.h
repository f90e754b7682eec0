/* What happens when a mapped file can't be read where it is needed: it became shorter, or the disk failed. The system sends
 * SIGBUS to the thread that looked; without this, the process dies without a word.
 *
 * The one handler of the process finds the mapping among those declared here. Of a guarded one, whose owner looks after it (scrub.c),
 * the rest is replaced by zeros and the fault is noted: the thread goes on, and nothing that it computes leaves the node
 * (sl_weights_faulted). Of any other mapping the file and the remedy are named on stderr and the process ends with 65. A SIGBUS from
 * elsewhere does what it always did. */
#ifndef SL_MODEL_PACK_BUS_ERROR_H
#define SL_MODEL_PACK_BUS_ERROR_H

#include "base/status.h"
#include <stdint.h>

struct sl_mapping;
/* path: kept. The first call takes SIGBUS for the process. NULL: no memory. Any thread. */
struct sl_mapping *sl_mapping_declare(const void *begin, uint64_t bytes, const char *path);
void sl_mapping_forget(struct sl_mapping *mapping); /* before it is unmapped; NULL is fine */
void sl_mapping_guard(struct sl_mapping *mapping);  /* somebody asks sl_mapping_faulted from now on */
bool sl_mapping_faulted(const struct sl_mapping *mapping);
/* Whether any mapping of the process was: one load, for who computes with them. */
bool sl_weights_faulted(void);

#endif
