/* `sluice simulate`, for the table of all commands. */
#ifndef SL_BENCH_SIMULATE_CMD_SIMULATE_H
#define SL_BENCH_SIMULATE_CMD_SIMULATE_H

#include "node/command/options.h"

extern const struct sl_command sl_command_simulate;

#endif
