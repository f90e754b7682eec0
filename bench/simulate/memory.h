/* Memory that worlds of one thread have from each other. */
#ifndef SL_BENCH_SIMULATE_MEMORY_H
#define SL_BENCH_SIMULATE_MEMORY_H

#include <stdbool.h>

struct sl_kept_memory {
    unsigned before;     /* from where the thread's memory came */
    bool on, background; /* background: a thread gave back what was freed */
};

/* From now on this thread's memory stays with the process when it is freed, for the next that is asked for. Where that cannot be had,
 * nothing changes but the time it takes. */
struct sl_kept_memory sl_memory_keep(void);
void sl_memory_keep_no_more(const struct sl_kept_memory *kept);

#endif
