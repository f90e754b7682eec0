/* The first word of the command line: finds the command, lets the option table read the rest, runs
 * it, and says in one sentence on stderr why it could not. Exit codes are those of sysexits
 * (base/status.h); a result that could not be written to stdout (a full disk, a closed pipe) is a
 * failure too. */
#include "base/notify.h"
#include "node/command/options.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_ARGS = 32 };

int sl_command_failed(const char *name, const struct sl_err *err)
{
    fflush(stdout);
    fprintf(stderr, "sluice %s: %s\n", name, err->text);
    sl_notify("STATUS=%s", err->text);
    return sl_status_exit_code(err->status);
}

static bool is_in_group(const struct sl_command *command, const char *group)
{
    size_t bytes = strlen(group);
    return strncmp(command->name, group, bytes) == 0 && command->name[bytes] == ' ';
}

/* Of all commands, or of those whose first of two words is `group`. */
static void print_commands(const struct sl_command *const *commands, const char *group, FILE *to)
{
    for (; *commands; commands++) {
        char form[80];
        if (group && !is_in_group(*commands, group))
            continue;
        snprintf(form, sizeof form, "%s %s", (*commands)->name, (*commands)->arguments);
        fprintf(to, "  %-28s %s\n", form, (*commands)->summary);
    }
    fputs("\n`sluice COMMAND --help` explains one of them.\n", to);
}

static void print_overview(const struct sl_command *const *commands, FILE *to)
{
    fputs("sluice serves Mixture-of-Experts models: prompts are prefilled by a pipeline of nodes "
          "that each hold\n"
          "a range of layers with all their experts.\n\nUsage: sluice COMMAND [arguments] "
          "[options]\n\n",
          to);
    print_commands(commands, NULL, to);
}

/* A name of two words takes two arguments; *n_words says how many it took. */
static const struct sl_command *find(const struct sl_command *const *commands, int argc, char **argv,
                                     int *n_words)
{
    char both[128] = "";
    if (argc > 2)
        snprintf(both, sizeof both, "%.60s %.60s", argv[1], argv[2]);
    for (; *commands; commands++) {
        *n_words = strchr((*commands)->name, ' ') ? 2 : 1;
        if (strcmp((*commands)->name, *n_words == 2 ? both : argv[1]) == 0)
            return *commands;
    }
    return NULL;
}

static int finish_output(const char *name, int code)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return code;
    struct sl_err err;
    sl_fail(&err, SL_E_IO, "the output could not be written: %s", strerror(errno));
    return code ? code : sl_command_failed(name, &err);
}

/* An unknown command, or the first word of some. */
static int not_found(const struct sl_command *const *commands, int argc, char **argv)
{
    bool group = false;
    for (const struct sl_command *const *c = commands; *c; c++)
        group = group || is_in_group(*c, argv[1]);
    if (group && argc > 2 && (strcmp(argv[2], "--help") == 0 || strcmp(argv[2], "-h") == 0)) {
        printf("Usage: sluice %s WHAT [arguments] [options]\n\n", argv[1]);
        print_commands(commands, argv[1], stdout);
        return finish_output("help", 0);
    }
    if (!group) {
        fprintf(stderr, "sluice: there is no command \"%.80s\"; `sluice --help` lists them\n", argv[1]);
        return sl_status_exit_code(SL_E_USAGE);
    }
    fprintf(stderr, "sluice %s: say which:", argv[1]);
    const char *separator = " ";
    for (; *commands; commands++)
        if (is_in_group(*commands, argv[1])) {
            fprintf(stderr, "%s`sluice %s`", separator, (*commands)->name);
            separator = ", ";
        }
    fputc('\n', stderr);
    return sl_status_exit_code(SL_E_USAGE);
}

int sl_commands_main(const struct sl_command *const *commands, int argc, char **argv)
{
    static char help_word[] = "--help", version_word[] = "version";
    char *swapped[3] = {argv[0], NULL, help_word};
    if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        (argc == 2 && strcmp(argv[1], "help") == 0)) {
        print_overview(commands, argc < 2 ? stderr : stdout);
        return argc < 2 ? sl_status_exit_code(SL_E_USAGE) : finish_output("help", 0);
    }
    if (strcmp(argv[1], "--version") == 0) {
        argv[1] = version_word;
    } else if (argc == 3 && strcmp(argv[1], "help") == 0) { /* `help X` is `X --help` */
        swapped[1] = argv[2];
        argv = swapped;
    }
    int n_words;
    const struct sl_command *command = find(commands, argc, argv, &n_words);
    if (!command)
        return not_found(commands, argc, argv);
    struct sl_err err;
    const char *args[MAX_ARGS];
    uint32_t n_args;
    bool help;
    void *values = calloc(1, command->struct_bytes + 1);
    if (!values || command->max_args > MAX_ARGS) {
        free(values);
        sl_fail(&err, SL_E_INTERNAL, "the command cannot be started: no memory");
        return sl_command_failed(command->name, &err);
    }
    int code = 0;
    if (sl_options_parse(command, argc - n_words, argv + n_words, values, args, &n_args, &help, &err) !=
        SL_OK)
        code = sl_command_failed(command->name, &err);
    else if (help)
        sl_options_help(command, stdout);
    else {
        sl_options_warn_unknown(commands);
        code = command->run(values, args, n_args);
    }
    free(values);
    return finish_output(command->name, code);
}
