/* Which way an integer product takes, by its number of rows: the one choice that only the machine can answer.
 *
 * With few rows a coded weight is decoded in registers each time it is used, with many it is decoded once to
 * a panel in the second cache (kernels/cpu/int_body.inc). Where one becomes faster than the other depends on
 * the processor, its caches and its memory. Both give the same bits, so the choice may differ between
 * machines and between runs. */
#ifndef SL_KERNELS_TUNE_H
#define SL_KERNELS_TUNE_H

#include "base/status.h"
#include "kernels/panel.h"

struct sl_ops;

enum { SL_TUNE_ROWS_MAX = 4096, SL_TUNE_DEFAULT = SL_TUNE_ROWS_MAX + 1 };

/* Per integer format the most rows that are decoded in registers; SL_TUNE_DEFAULT leaves it to the kernel. */
struct sl_tune {
    uint32_t few_rows[SL_DTYPES];
};

/* What holds in this process from now on; NULL: the kernels' own defaults, as at the start. Any thread. */
void sl_tune_set(const struct sl_tune *tune);
/* For the kernels: the threshold of a format, or what they would choose themselves. */
uint32_t sl_tune_few_rows(enum sl_dtype dtype, uint32_t otherwise);

/* Measures every coded format with `ops`: one thread, at most about a second of it; the setting of the
 * process is the defaults afterwards. What could not be measured in that time is left at SL_TUNE_DEFAULT. */
sl_status sl_tune_measure(struct sl_tune *tune, const struct sl_ops *ops, struct sl_err *err);

/* The table of this processor and of `ops`, from a file in the directory; or else measured and written there.
 * A file that is not to the letter what we write is measured anew and replaced. *saved: whether the file
 * holds the table now; that it does not (a directory that cannot be written) is no error. */
sl_status sl_tune_ensure(struct sl_tune *tune, const struct sl_ops *ops, const char *dir, bool *saved,
                         struct sl_err *err);

#endif
