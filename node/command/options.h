/* One table of options for every command: the command line, the environment (SLUICE_...), the YAML file and --help are all read
 * from it. Command line > environment > file (--config F) > default. */
#ifndef SL_NODE_COMMAND_OPTIONS_H
#define SL_NODE_COMMAND_OPTIONS_H

#include "base/status.h"
#include <stdint.h>
#include <stdio.h>

enum sl_option_type {
    SL_OPT_STRING,
    SL_OPT_UINT,
    SL_OPT_FLOAT,
    SL_OPT_BOOL,
    SL_OPT_CHOICE,
    SL_OPT_ADDRESS /* HOST:PORT */,
    SL_OPT_LIST /* a string; given several times on the command line, they are joined by commas */
};

struct sl_option {
    const char *name; /* "max-tokens": --max-tokens, SLUICE_MAX_TOKENS, max-tokens: in YAML */
    enum sl_option_type type;
    /* of the field in the command's struct: const char *, uint32_t, double, bool, const char * (choice, address) */
    size_t offset;
    const char *fallback;    /* default as text; NULL: none (string stays NULL, numbers 0) */
    const char *choices;     /* "bf16|f32" */
    double minimum, maximum; /* for numbers, inclusive; both 0: unbounded. NaN is always refused. */
    const char *unit;        /* "tokens", shown in help */
    const char *help;        /* a sentence */
};

struct sl_command {
    const char *name, *arguments;    /* "serve", "PATH" */
    const char *summary;             /* one line for `sluice --help` */
    const char *description;         /* for `sluice serve --help` */
    const struct sl_option *options; /* ends with name == NULL */
    size_t struct_bytes;             /* of the struct that holds the values */
    uint32_t min_args, max_args;     /* positional */
    /* values: the filled struct. Returns the exit code. */
    int (*run)(const void *values, const char *const *args, uint32_t n_args);
};

/* argv[0] is skipped, as in main. Also accepted by every command: --help and --config FILE (SLUICE_CONFIG). A wrong value is
 * SL_E_USAGE on the command line and SL_E_CONFIG in the environment or the file; strings from the file live as long as the process.
 * Whole numbers may be written 4096, 4k (1000), 4K (1024), 2M. Fills values (zeroed, struct_bytes), and args (pointers into argv).
 * SL_E_USAGE: one sentence with the option and what is accepted. *help is set when --help was asked for. */
sl_status sl_options_parse(const struct sl_command *command, int argc, char **argv, void *values,
                           const char **args, uint32_t *n_args, bool *help, struct sl_err *err);
void sl_options_help(const struct sl_command *command, FILE *to);

/* Warns of SLUICE_... variables that no command knows. */
void sl_options_warn_unknown(const struct sl_command *const *commands);
/* For a child that is given all it needs on its command line: removes what this process's options came from. */
void sl_options_clear_environment(void);

/* Prints "sluice NAME: sentence" on stderr and returns the exit code of the error: how every run() fails. */
int sl_command_failed(const char *name, const struct sl_err *err);

/* main(): finds argv[1] (or "argv[1] argv[2]": a name may be two words, "bench kernels") in the commands, parses, prints errors as "sluice serve: sentence" and returns the exit code. */
int sl_commands_main(const struct sl_command *const *commands, int argc, char **argv);

#endif
