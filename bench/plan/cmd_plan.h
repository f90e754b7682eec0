/* `sluice plan`: the row of the table of commands. */
#ifndef SL_BENCH_PLAN_CMD_PLAN_H
#define SL_BENCH_PLAN_CMD_PLAN_H

#include "node/command/options.h"

extern const struct sl_command sl_command_plan;

#endif
