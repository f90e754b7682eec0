/* The commands of the bench room, and the table of all commands, which only the topmost room can know. */
#ifndef SL_BENCH_COMMANDS_H
#define SL_BENCH_COMMANDS_H

#include "bench/serve/cmd_serve.h"
#include "node/command/options.h"

extern const struct sl_command sl_command_bench_kernels, sl_command_bench_load, sl_command_bench_prefill,
    sl_command_bench_decode, sl_command_bench_pipeline, sl_command_bench_decide, sl_command_bench_schedule,
    sl_command_bench_cost, sl_command_bench_links, sl_command_bench_layout;
extern const struct sl_command sl_command_man, sl_command_completion;

extern const struct sl_command *const sl_commands_all[]; /* in the order of the overview; ends with NULL */

#endif
