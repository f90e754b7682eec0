/* Kernels that are broken on purpose, by name: what the twin checks is worth what it finds in these, many of which a GPU would run
 * without a word and with the right bits. As in base/mutate.h a hook is one word in a condition that is there anyway; it is the
 * constant 0 for nvcc and in the product, and a variable where the bodies are compiled once more with GPU_MUTANTS, for the
 * programs tests/kernels/gpu/test_*_mutants.c. Each must be found there, by the bits of the output or by a finding of host.h. */
#ifndef SL_KERNELS_GPU_MUTANTS_H
#define SL_KERNELS_GPU_MUTANTS_H

/* X(NAME, "what is wrong") */
#define GPU_MUTANTS_GEMM8(X)                                                                                 \
    X(GEMM8_NO_SWIZZLE, "weights lie in shared memory as they come: banks conflict")                         \
    X(GEMM8_NO_PITCH, "rows of activations lie side by side: banks conflict")                                \
    X(GEMM8_PAST_UNITS, "units behind the last one are copied, too")                                         \
    X(GEMM8_OTHER_GROUP, "the scale of the group beside it")                                                 \
    X(GEMM8_OTHER_LANE, "a fragment of B wrong by one bit of the lane")                                      \
    X(GEMM8_SIGNS, "the operand with a sign is the other one")                                               \
    X(GEMM8_WAITS_SHORT, "waits for one stage too few")                                                      \
    X(GEMM8_NO_BARRIER, "no barrier after the wait")                                                         \
    X(GEMM8_TOO_EARLY, "a stage is asked for before all have read what lies in its slot")                    \
    X(GEMM8_NEXT_TASK_TOO_EARLY, "no barrier before the next task's, or digit's, first stages")              \
    X(GEMM8_PAIR_FOR_TOKEN, "a pair has the scale and sum of the token of its own number")                   \
    X(GEMM8_ZERO_127, "weights are taken for w8 + 127")                                                      \
    X(GEMM8_PAST_COLUMNS, "columns behind the last one are stored")                                          \
    X(GEMM8_UP_IS_GATE, "gate and up are swapped")                                                           \
    X(GEMM8_PAST_ROWS, "a row behind the tile's last one is stored")                                         \
    X(GEMM8_TASK_TWICE, "two blocks do the same task, with the same bits")                                   \
    X(GEMM8_DIGITS_SWAPPED, "the second digits are added first")

#define GPU_MUTANTS_GEMM8_FEW(X)                                                                             \
    X(GEMM8_FEW_GROUP, "odd units have the scales of the even ones before them")                             \
    X(GEMM8_FEW_EIGHT, "rows behind the eighth are multiplied only if there are sixteen")                    \
    X(GEMM8_FEW_WHOLE_ROUNDS, "the last round is left out, of which not all units are there")                \
    X(GEMM8_FEW_SEVEN, "the last warp's sums are left out")                                                  \
    X(GEMM8_FEW_BARRIER, "sums of other warps are read without a barrier")                                   \
    X(GEMM8_FEW_ONE_HALF, "sums are written over while other warps still read those of the task before")     \
    X(GEMM8_FEW_SECOND_ALONE, "the second digits take the place of the first")

#define GPU_MUTANTS_GEMM8_WG(X)                                                                              \
    X(GEMM8_WG_NO_SWIZZLE, "rows lie in shared memory as they come, and are read in the swizzle")            \
    X(GEMM8_WG_NO_FENCE, "no fence between what is copied and the tensor cores that read it")                \
    X(GEMM8_WG_FENCE_LATE, "that fence behind what tells of the stage")                                      \
    X(GEMM8_WG_TELLS_EARLY, "a stage is told of that has not landed")                                        \
    X(GEMM8_WG_NOT_EMPTY, "a slot is filled without a look whether it is empty")                             \
    X(GEMM8_WG_NOT_FULL, "a slot is read without a look whether it is full")                                 \
    X(GEMM8_WG_PARITY, "waits for the phase before")                                                         \
    X(GEMM8_WG_FREES_EARLY, "a slot is given back before it is read")                                        \
    X(GEMM8_WG_LEFT_RUNNING, "products are not waited for")                                                  \
    X(GEMM8_WG_REGISTERS, "no wgmma_fence behind the writes to registers")                                   \
    X(GEMM8_WG_THREE, "a slot counts as empty when three of the four have read it")                          \
    X(GEMM8_WG_POOL, "the copying warps keep registers that those which multiply wait for")                  \
    X(GEMM8_WG_UNMADE, "barriers are used before all know that they are made")

#define GPU_MUTANTS_ATTEND8(X)                                                                               \
    X(ATTEND8_FLIP, "pieces of u are not exchanged by query")                                                \
    X(ATTEND8_TREE, "the tree over a page's partial sums begins at its other end")                           \
    X(ATTEND8_MASK, "a row does not see its own key")                                                        \
    X(ATTEND8_ZERO, "the bytes of K are taken as they are, 128 too large")                                   \
    X(ATTEND8_SCALES, "all keys have the scales of the first sixteen values")                                \
    X(ATTEND8_TINY, "weights that count as nothing are divided by")                                          \
    X(ATTEND8_SYNC, "u is read without a warp_sync after it was written")                                    \
    X(ATTEND8_SYNC_BACK, "u is written without a warp_sync after it was read")                               \
    X(ATTEND8_MERGE, "a segment takes the place of those before it")                                         \
    X(ATTEND8_MERGE_SYNC, "m and l are written without a warp_sync after they were read")

#define GPU_MUTANTS_ROWS8(X)                                                                                 \
    X(QUANTISE8_SCALE, "the scale of s8 keeps all its bits")                                                 \
    X(ROW8_ROTATION, "the last level of the rotation is left out")                                           \
    X(ROW8_LEVELS, "no barrier between levels of the rotation")                                              \
    X(ROW8_OTHERS, "peaks and sums of other warps are read without a barrier")                               \
    X(MIX_FACTORS, "the past of a merge is not scaled")                                                      \
    X(NORM_TREE, "the tree over a norm's partial sums begins at its other end")                              \
    X(NORM_SYNC, "the norm is read without a barrier after it was written")

#define GPU_MUTANTS_PLACE(X)                                                                                 \
    X(PLACE_ROPE, "the second half of a head is turned the other way")                                       \
    X(PLACE_SYNC, "a head is turned without a warp_sync after it was normalised")                            \
    X(PLACE_SYNC_BACK, "the next head is read into memory that lanes still read")                            \
    X(PLACE_NORM, "v is normalised as k is")                                                                 \
    X(PLACE_ZERO, "K gets its bytes without 128")                                                            \
    X(PLACE_KEPT, "positions are those of the rows that were not kept")

#define GPU_MUTANTS_ROUTE(X)                                                                                 \
    X(CHOOSE_TREE, "the softmax's partial sums are added in the opposite order")                             \
    X(CHOOSE_TIE, "of equal scores the higher expert goes first")                                            \
    X(CHOOSE_SYNC, "gates are read from another lane without warp_sync")                                     \
    X(GROUP_BARRIER, "counts of other warps are read without a barrier")                                     \
    X(GROUP_UNSTABLE, "the pairs of a warp's step are dealt out backwards")                                  \
    X(TASKS_ORDER, "a height begins where the one above it does")

#define GPU_MUTANTS_ELEMENTS(X)                                                                              \
    X(COMBINE_ORDER, "experts are added in the opposite order")                                              \
    X(SIGMOID_SYNC, "inputs are written over while other lanes still read them")

#define GPU_MUTANTS_GEMM(X)                                                                                  \
    X(GEMM_ORDER, "four inputs are added in the opposite order")                                             \
    X(GEMM_WAIT, "weights are read while their copy is under way")                                           \
    X(GEMM_BARRIER, "rows are read without a barrier after other warps' writes")

#define GPU_MUTANTS_ATTEND(X)                                                                                \
    X(ATTEND_QUERY_SYNC, "queries are read from other lanes without a warp_sync")                            \
    X(ATTEND_WEIGHT_SYNC, "weights are read from other lanes without a warp_sync")                           \
    X(ATTEND_TREE, "the tree over a page's partial sums begins at its other end")                            \
    X(ATTEND_OWN_KEY, "a row does not see its own key")                                                      \
    X(ATTEND_MERGE, "a segment takes the place of those before it")

#define GPU_MUTANTS_LANES(X)                                                                                 \
    X(LANES_CARRY, "what a lower word carries is lost")                                                      \
    X(LANES_KEY, "pieces have the keys of their places in the rows")                                         \
    X(LANES_TAIL, "what lies behind the last piece counts as zeros")                                         \
    X(LANES_BARRIER, "sums of other warps are read without a barrier")

#define GPU_MUTANTS_ALL(X)                                                                                   \
    GPU_MUTANTS_GEMM8(X)                                                                                     \
    GPU_MUTANTS_GEMM8_FEW(X)                                                                                 \
    GPU_MUTANTS_GEMM8_WG(X)                                                                                  \
    GPU_MUTANTS_ATTEND8(X)                                                                                   \
    GPU_MUTANTS_ROWS8(X)                                                                                     \
    GPU_MUTANTS_PLACE(X)                                                                                     \
    GPU_MUTANTS_ROUTE(X)                                                                                     \
    GPU_MUTANTS_ELEMENTS(X) GPU_MUTANTS_GEMM(X) GPU_MUTANTS_ATTEND(X) GPU_MUTANTS_LANES(X)

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
#define GPU_MUTATED(name) (0 * GPU_MUTANT_##name)
#endif

#endif
