/* Kernels that are broken on purpose, by name: what the twin checks is worth what it finds in these, many of which a GPU would run
 * without a word and with the right bits. As in base/mutate.h a hook is one word in a condition that is there anyway; it is the
 * constant 0 for nvcc and in the product, and a variable where the bodies are compiled once more with GPU_MUTANTS, for the
 * programs tests/kernels/gpu/test_*_mutants.c. Each must be found there, by the bits of the output or by a finding of host.h. */
#ifndef SL_KERNELS_GPU_MUTANTS_H
#define SL_KERNELS_GPU_MUTANTS_H

/* X(NAME, "what is wrong") */
#define GPU_MUTANTS_GEMM8(X)

#define GPU_MUTANTS_ALL(X) GPU_MUTANTS_GEMM8(X)

enum gpu_mutant {
    GPU_MUTANT_NONE,
#define GPU_MUTANT_OF(name, what) GPU_MUTANT_##name,
    GPU_MUTANTS_ALL(GPU_MUTANT_OF)
#undef GPU_MUTANT_OF
        GPU_N_MUTANTS
};

#ifdef GPU_MUTANTS
extern enum gpu_mutant gpu_mutant; /* the one that is there now: tests/kernels/gpu/mutants.c */
#define GPU_MUTATED(name) (gpu_mutant == GPU_MUTANT_##name)
#else
#define GPU_MUTATED(name) ((void)GPU_MUTANT_##name, 0)
#endif

#endif
