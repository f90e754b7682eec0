/* The names of base/mutate.h. What is linked with this can be told by its environment which one is there, test programs that know
 * nothing of it, too. */
#include "tests/mutants/mutate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum sl_mutation sl_mutation;

static const struct sl_mutation_named names[SL_N_MUTATIONS] = {
#define NAMED(name, word, room, what) [SL_MUTATION_##name] = {word, room, what},
    SL_MUTATIONS_ALL(NAMED)
#undef NAMED
};

const struct sl_mutation_named *sl_mutation_named(enum sl_mutation mutation)
{
    return &names[mutation];
}

bool sl_mutate(const char *word)
{
    for (int i = SL_MUTATION_NONE + 1; i < SL_N_MUTATIONS; i++)
        if (strcmp(names[i].word, word) == 0) {
            sl_mutation = (enum sl_mutation)i;
            return true;
        }
    return false;
}

__attribute__((constructor)) static void by_environment(void)
{
    const char *word = getenv("SLUICE_MUTATE");
    if (!word || sl_mutate(word))
        return;
    fprintf(stderr, "there is no mutation \"%s\"; sluice-mutants --mutate list names them\n", word);
    exit(64);
}
