/* The binary: one table of commands. What each does is in node/cmd_*.c and bench/cmd_bench.c; how
 * the command line is read is in node/command/options.c. */
#include "base/log.h"
#include "bench/commands.h"
#include "node/command/commands.h"

int main(int argc, char **argv)
{
    static const struct sl_command *const commands[] = {
        &sl_command_serve,        &sl_command_coordinator,    &sl_command_stage,
        &sl_command_decode,       &sl_command_generate,       &sl_command_score,
        &sl_command_eval,         &sl_command_pack,           &sl_command_inspect,
        &sl_command_check,        &sl_command_bench_kernels,  &sl_command_bench_prefill,
        &sl_command_bench_decode, &sl_command_bench_pipeline, &sl_command_bench_decide,
        &sl_command_health,       &sl_command_version,        NULL,
    };
    sl_log_init("sluice", SL_LOG_INFO);
    return sl_commands_main(commands, argc, argv);
}
