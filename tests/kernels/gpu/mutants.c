/* The names of kernels/gpu/mutants.h, and the variable that says which of them is there: linked with the bodies that have them. */
#include "tests/kernels/gpu/mutants.h"

enum gpu_mutant gpu_mutant;

static const struct {
    const char *name, *what;
} words[GPU_N_MUTANTS] = {[GPU_MUTANT_NONE] = {"NONE", "as it is"},
#define NAMED(name, what) [GPU_MUTANT_##name] = {#name, what},
                          GPU_MUTANTS_ALL(NAMED)
#undef NAMED
};

const char *gpu_mutant_name(enum gpu_mutant mutant)
{
    return words[mutant].name;
}

const char *gpu_mutant_what(enum gpu_mutant mutant)
{
    return words[mutant].what;
}
