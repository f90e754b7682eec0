/* `sluice bench kernels`: every kernel of every instruction set of this machine, timed beside the
 * machine's own peak and checked against the scalar reference. Writes a table for people or one
 * JSON object to stdout. */
#ifndef SL_BENCH_KERNELS_H
#define SL_BENCH_KERNELS_H

#include <stdbool.h>

/* The exit code: 0; 70 when a result is not the reference's, bit for bit; 71 when memory is short.
 */
int sl_bench_kernels(bool json);

#endif
