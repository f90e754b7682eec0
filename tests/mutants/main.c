/* sluice-mutants: sluice with faults in it that can be chosen by name, to see what finds them. `--mutate NAME` comes first, then a
 * command of sluice with its options; `--mutate list` names the faults. */
#include "base/log.h"
#include "base/signals.h"
#include "bench/commands.h"
#include "tests/mutants/mutate.h"

#include <stdio.h>
#include <string.h>

static int list(void)
{
    for (int i = SL_MUTATION_NONE + 1; i < SL_N_MUTATIONS; i++) {
        const struct sl_mutation_named *named = sl_mutation_named((enum sl_mutation)i);
        printf("%-16s %-8s %s\n", named->word, named->room, named->what);
    }
    return 0;
}

int main(int argc, char **argv)
{
    sl_signals_give_back();
    sl_log_init("sluice-mutants", SL_LOG_INFO);
    if (argc < 3 || strcmp(argv[1], "--mutate") != 0) {
        fprintf(stderr, "usage: sluice-mutants --mutate NAME COMMAND [OPTIONS] | --mutate list\n");
        return 64;
    }
    if (strcmp(argv[2], "list") == 0)
        return list();
    if (!sl_mutate(argv[2])) {
        fprintf(stderr, "there is no mutation \"%s\"; sluice-mutants --mutate list names them\n", argv[2]);
        return 64;
    }
    argv[2] = argv[0];
    return sl_commands_main(sl_commands_all, argc - 2, argv + 2);
}
