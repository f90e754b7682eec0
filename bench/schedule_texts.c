/* Stretches of one pool of ids, as schedule_texts.h has them. */
#include "bench/schedule_texts.h"
#include "base/rng.h"
#include <stdlib.h>
#include <string.h>

enum { POOL_IDS = 1 << 20 };

sl_status sl_bench_texts_init(struct sl_bench_texts *t, uint64_t seed, uint32_t most, struct sl_err *err)
{
    *t = (struct sl_bench_texts){.seed = seed, .pool = calloc(POOL_IDS + most, sizeof *t->pool)};
    if (!t->pool)
        return sl_fail(err, SL_E_NOMEM, "out of memory for the texts of prompts");
    for (uint32_t i = 0; i < POOL_IDS + most; i++)
        t->pool[i] = (uint32_t)(SL_BENCH_ID + 1 + sl_rng_at(seed, i) % (SL_BENCH_VOCAB - 2));
    return SL_OK;
}

void sl_bench_texts_fini(struct sl_bench_texts *t)
{
    free(t->pool);
    t->pool = NULL;
}

const uint32_t *sl_bench_texts_own(const struct sl_bench_texts *t, uint32_t which)
{
    return t->pool + sl_rng_at(t->seed ^ 0x1D5, which) % POOL_IDS;
}

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

void sl_bench_texts_write(const struct sl_bench_texts *t, const struct sl_bench_traffic *load, uint32_t which,
                          uint32_t *ids, uint32_t n)
{
    const struct sl_bench_request *r = &load->requests[which];
    uint32_t begun = least(n, r->n_text);
    memcpy(ids, t->pool + sl_rng_at(t->seed ^ 0x7E7, r->text) % POOL_IDS, begun * sizeof *ids);
    if (r->before) {
        const struct sl_bench_request *before = &load->requests[r->before - 1];
        begun = least(n, before->n);
        sl_bench_texts_write(t, load, r->before - 1, ids, begun);
        for (; begun < least(n, before->n + before->n_out); begun++)
            ids[begun] = SL_BENCH_ID;
    }
    memcpy(ids + begun, sl_bench_texts_own(t, which), (n - begun) * sizeof *ids);
}
