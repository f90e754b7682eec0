/* Faults as people make them, planted in the tree by name, to show that its tests and simulators notice them: one that finds
 * nothing proves nothing. They are in `sluice-mutants` only, a second binary of the same sources (tests/mutants): what has a hook is
 * compiled there once more with SL_MUTATIONS. In the product SL_MUTATED is the constant 0, so that nothing of it is in the object
 * code, while the compiler still knows every name.
 *
 * A hook is one word in a condition that is there anyway, or one short line: `if (SL_MUTATED(SKIP_FREE)) return;`. It says what is
 * forgotten, and changes nothing else; what a sharper test would find stays as it is, and the test becomes sharper. */
#ifndef SL_BASE_MUTATE_H
#define SL_BASE_MUTATE_H

/* X(NAME, "its name on the command line", "room", "what it does") */
#define SL_MUTATIONS_ALL(X)                                                                                  \
    X(SKIP_AGING, "skip-aging", "decide", "who is late never heads a chunk in its turn")                     \
    X(LATE_NEVER, "late-never", "decide", "nobody is ever late")                                             \
    X(LATE_CANCEL, "late-cancel", "decide", "a deadline that has passed is not looked at")                   \
    X(FORGET_CANCEL, "forget-cancel", "decide", "a decode worker is not told that nobody wants an answer")   \
    X(DOUBLE_APPLY, "double-apply", "decide", "the answer to a record is counted twice")                     \
    X(SAME_SEED, "same-seed", "decide", "all answers of a request are sampled with its first seed")          \
    X(OLD_LIFE, "old-life", "decide", "pages go to the decode worker that had the place before")             \
    X(BACK_OF_QUEUE, "back-of-queue", "decide", "who was set back waits behind all who came later")          \
    X(SKIP_FREE, "skip-free", "pages", "stages are not told that a prompt is done, and keep its pages")      \
    X(WRONG_PAGE, "wrong-page", "pages", "an answer that grows is told the number of the page before")       \
    X(LEAK_PAGE, "leak-page", "pages", "of the pages that an answer gives back one stays promised")          \
    X(REUSE_READ, "reuse-read", "pages", "a page that is being sent is written to again")                    \
    X(BLIND_SALT, "blind-salt", "pages", "what is cached under one salt is found under another")             \
    X(KEEP_CANCELLED, "keep-cancelled", "pages", "what a cancelled prompt would have filled is cached")      \
    X(KEEP_LOST, "keep-lost", "pages", "what a decode worker that is gone had is believed to lie there")     \
    X(LOST_CREDIT, "lost-credit", "link", "credit is forgotten that comes while other is under way")         \
    X(FREE_CREDIT, "free-credit", "link", "for each slot that comes back there are two credits")             \
    X(WRONG_SLOT, "wrong-slot", "link", "it is the slot beside it that is free when one comes back")         \
    X(EARLY_SENT, "early-sent", "link", "a frame counts as sent when it has left, not when it was taken")    \
    X(HALF_THERE, "half-there", "link", "a frame is delivered that has not landed yet")                      \
    X(NOT_AGAIN, "not-again", "link", "what a broken line had under way is not sent again")                  \
    X(HALF_FRAME, "half-frame", "link", "what a broken line had brought in half keeps its slot")             \
    X(NO_SIGN, "no-sign", "link", "frames are no sign of life")                                              \
    X(OWN_ABSENCE, "own-absence", "link", "who was stopped holds it against a peer whose line has broken")   \
    X(ROWS_UNAWAITED, "rows-unawaited", "nccl", "a frame counts as whole without its rows")                  \
    X(ROWS_UNREADY, "rows-unready", "nccl", "rows are sent before they are written")                         \
    X(ROWS_IN_PROGRESS, "rows-in-progress", "nccl", "a call that has only begun is taken for done")          \
    X(ROWS_AS_THEY_COME, "rows-as-they-come", "nccl", "receives are posted in the order of the headers")     \
    X(ROWS_PATIENT, "rows-patient", "nccl", "a transfer may take for ever")                                  \
    X(ROWS_DEAF, "rows-deaf", "nccl", "what NCCL says of itself is not heard")                               \
    X(ROWS_UNABORTED, "rows-unaborted", "nccl", "buffers are given back while NCCL may write to them")       \
    X(ROWS_NO_WATCHDOG, "rows-no-watchdog", "nccl", "a communicator that does not end is waited for")        \
    X(ROWS_OLD_ID, "rows-old-id", "nccl", "both ends meet under their own ids")                              \
    X(ROWS_ANY_SIZE, "rows-any-size", "ucx", "rows may be of another size than their header says")           \
    X(ROWS_AGAIN, "rows-again", "ucx", "rows that have come may come again")                                 \
    X(ROWS_OF_NONE, "rows-of-none", "ucx", "rows that nobody waits for are passed over")                     \
    X(ROWS_FALL_BACK, "rows-fall-back", "ucx", "rows go by tcp when UCX has taken that for want of better")

enum sl_mutation {
    SL_MUTATION_NONE,
#define SL_MUTATION_OF(name, word, room, what) SL_MUTATION_##name,
    SL_MUTATIONS_ALL(SL_MUTATION_OF)
#undef SL_MUTATION_OF
        SL_N_MUTATIONS
};

#ifdef SL_MUTATIONS
/* The one that was chosen, before anything runs: tests/mutants/mutate.c. */
extern enum sl_mutation sl_mutation;
#define SL_MUTATED(name) (sl_mutation == SL_MUTATION_##name ? 1u : 0u)
#else
#define SL_MUTATED(name) ((void)SL_MUTATION_##name, 0u)
#endif

#endif
