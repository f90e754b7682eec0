/* The command `sluice bench scripted`, for the table of all commands. */
#ifndef SL_BENCH_SERVE_SELFTEST_CMD_SCRIPTED_H
#define SL_BENCH_SERVE_SELFTEST_CMD_SCRIPTED_H

#include "node/command/options.h"

extern const struct sl_command sl_command_bench_scripted;

#endif
