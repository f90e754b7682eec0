/* The kernels that are broken on purpose (kernels/gpu/mutants.h), for the programs test_*_mutants.c: which one is there, and its words. */
#ifndef SL_TESTS_KERNELS_GPU_MUTANTS_H
#define SL_TESTS_KERNELS_GPU_MUTANTS_H

#include "kernels/gpu/mutants.h"

extern enum gpu_mutant gpu_mutant;
const char *gpu_mutant_name(enum gpu_mutant mutant);
const char *gpu_mutant_what(enum gpu_mutant mutant);

#endif
