/* `sluice man` and `sluice completion`: the tables of all commands as man pages and as completions. Here, because only this room
 * knows them all. */
#include "bench/commands.h"
#include "node/command/manual.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct sl_option no_options[] = {{0}};

static sl_status write_page(const char *folder, const struct sl_command *command, struct sl_err *err)
{
    char name[80], path[4096];
    struct sl_text text = {0};
    sl_manual_name(name, command);
    snprintf(path, sizeof path, "%.4000s/%s", folder, name);
    sl_manual_page(&text, sl_commands_all, command);
    FILE *file = text.data ? fopen(path, "w") : NULL;
    bool written = file && fwrite(text.data, 1, text.bytes, file) == text.bytes;
    written = file && fclose(file) == 0 && written;
    free(text.data);
    return written
               ? SL_OK
               : sl_fail(err, SL_E_IO, "cannot write %s: %s; give a directory that exists and may be written",
                         path, strerror(errno));
}

static int run_man(const void *values, const char *const *args, uint32_t n_args)
{
    struct sl_err err;
    (void)values, (void)n_args;
    sl_status status = write_page(args[0], NULL, &err);
    for (const struct sl_command *const *c = sl_commands_all; *c && status == SL_OK; c++)
        status = write_page(args[0], *c, &err);
    return status == SL_OK ? 0 : sl_command_failed("man", &err);
}

static int run_completion(const void *values, const char *const *args, uint32_t n_args)
{
    struct sl_text text = {0};
    struct sl_err err;
    (void)values, (void)n_args;
    if (strcmp(args[0], "bash") == 0) {
        sl_completion_bash(&text, sl_commands_all);
    } else if (strcmp(args[0], "zsh") == 0) {
        sl_completion_zsh(&text, sl_commands_all);
    } else {
        sl_fail(&err, SL_E_USAGE, "there is no completion for \"%.40s\"; give bash or zsh", args[0]);
        return sl_command_failed("completion", &err);
    }
    if (text.data)
        fputs(text.data, stdout);
    free(text.data);
    return 0;
}

const struct sl_command sl_command_man = {
    "man",
    "DIR",
    "write the man pages of all commands into a directory",
    "One page a command, sluice-serve.1 and so on, and sluice.1, from the tables that --help is made of.",
    no_options,
    0,
    1,
    1,
    run_man};
const struct sl_command sl_command_completion = {
    "completion",
    "SHELL",
    "print the completion for bash or zsh",
    "For the current shell: source <(sluice completion bash). The Debian package brings both.",
    no_options,
    0,
    1,
    1,
    run_completion};
