/* The binary: one table of commands (bench/commands.c). What each does is in node/command/cmd_*.c and bench/cmd_bench.c;
 * how the command line is read is in node/command/options.c. */
#include "base/log.h"
#include "base/signals.h"
#include "bench/commands.h"

int main(int argc, char **argv)
{
    sl_signals_give_back();
    sl_log_init("sluice", SL_LOG_INFO);
    return sl_commands_main(sl_commands_all, argc, argv);
}
