/* The commands of the bench room, for the table in main.c. */
#ifndef SL_BENCH_COMMANDS_H
#define SL_BENCH_COMMANDS_H

#include "node/command/options.h"

extern const struct sl_command sl_command_bench_kernels, sl_command_bench_prefill, sl_command_bench_decode,
    sl_command_bench_pipeline, sl_command_bench_decide;

#endif
