/* The ids of prompts in the small simulated world: which of them begin alike is what the prefix cache is about. */
#ifndef SL_BENCH_SCHEDULE_TEXTS_H
#define SL_BENCH_SCHEDULE_TEXTS_H

#include "bench/schedule_load.h"

enum { SL_BENCH_END_ID = 0, SL_BENCH_ID = 1 /* what a text ends with, and all other tokens of answers */ };
enum { SL_BENCH_VOCAB = 50000 };

struct sl_bench_texts {
    uint64_t seed;
    uint32_t *pool; /* of which what is a request's own is a stretch: no two begin alike */
};

/* SL_E_NOMEM. most: tokens of a prompt. What it took is freed with sl_bench_texts_fini, after an error, too. */
sl_status sl_bench_texts_init(struct sl_bench_texts *texts, uint64_t seed, uint32_t most, struct sl_err *err);
void sl_bench_texts_fini(struct sl_bench_texts *texts);
/* The prompt of request `which` when nothing of it is anybody else's. */
const uint32_t *sl_bench_texts_own(const struct sl_bench_texts *texts, uint32_t which);
/* The first n ids of its prompt: of the text that it shares, or of the turns before it, and then its own. */
void sl_bench_texts_write(const struct sl_bench_texts *texts, const struct sl_bench_traffic *load,
                          uint32_t which, uint32_t *ids, uint32_t n);

#endif
