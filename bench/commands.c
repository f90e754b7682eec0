/* The table of all commands: main.c runs it, and a test holds their options to one another. */
#include "bench/commands.h"
#include "bench/plan/cmd_plan.h"
#include "bench/serve/selftest/cmd_scripted.h"
#include "bench/simulate/cmd_simulate.h"
#include "node/command/commands.h"

/* clang-format off */ /* one a line, whatever their number */
const struct sl_command *const sl_commands_all[] = {
    &sl_command_serve,
    &sl_command_coordinator,
    &sl_command_stage,
    &sl_command_decode,
    &sl_command_worker,
    &sl_command_generate,
    &sl_command_score,
    &sl_command_eval,
    &sl_command_pack,
    &sl_command_inspect,
    &sl_command_check,
    &sl_command_cache,
    &sl_command_calibrate,
    &sl_command_simulate,
    &sl_command_plan,
    &sl_command_bench_kernels,
    &sl_command_bench_load,
    &sl_command_bench_prefill,
    &sl_command_bench_decode,
    &sl_command_bench_pipeline,
    &sl_command_bench_layout,
    &sl_command_bench_decide,
    &sl_command_bench_schedule,
    &sl_command_bench_cost,
    &sl_command_bench_links,
    &sl_command_bench_serve,
    &sl_command_bench_scripted,
    &sl_command_top,
    &sl_command_report,
    &sl_command_health,
    &sl_command_man,
    &sl_command_completion,
    &sl_command_version,
    NULL,
};
/* clang-format on */
