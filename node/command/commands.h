/* The commands of the node room, for the table in bench/commands.c. Those that serve are in cmd_serve.c and
 * cmd_roles.c, the client's in cmd_generate.c, those that look at files in cmd_inspect.c; packing in cmd_pack.c,
 * what is packed by itself in cmd_cache.c; what chunks cost in cmd_calibrate.c; the live view in cmd_top.c, the bundle for who
 * helps in cmd_report.c. */
#ifndef SL_NODE_COMMAND_COMMANDS_H
#define SL_NODE_COMMAND_COMMANDS_H

#include "node/command/options.h"

extern const struct sl_command sl_command_serve, sl_command_coordinator, sl_command_stage, sl_command_decode,
    sl_command_worker;
extern const struct sl_command sl_command_generate, sl_command_score, sl_command_eval;
extern const struct sl_command sl_command_pack, sl_command_inspect, sl_command_check, sl_command_cache;
extern const struct sl_command sl_command_calibrate, sl_command_top, sl_command_report, sl_command_health,
    sl_command_version;

#endif
