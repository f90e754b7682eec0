/* Which of the faults of base/mutate.h is there: chosen by name, once, before anything runs. */
#ifndef SL_TESTS_MUTANTS_MUTATE_H
#define SL_TESTS_MUTANTS_MUTATE_H

#include "base/mutate.h"
#include <stdbool.h>

struct sl_mutation_named {
    const char *word, *room, *what;
};
const struct sl_mutation_named *sl_mutation_named(enum sl_mutation mutation);

bool sl_mutate(const char *word); /* false: there is none of that name */

#endif
