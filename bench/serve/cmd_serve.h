/* The command of this room, `sluice bench serve`; bench/commands.c lists it. */
#ifndef SL_BENCH_SERVE_CMD_SERVE_H
#define SL_BENCH_SERVE_CMD_SERVE_H

#include "node/command/options.h"

extern const struct sl_command sl_command_bench_serve;

#endif
