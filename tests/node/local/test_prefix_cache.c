/* Prefixes that are computed once, in real stages: an answer has the same tokens, logits and KV pages, bit for bit, whether its
 * prompt was computed, found in the cache, or found there while others push each other's pages out. */
#include "base/log.h"
#include "model/pack/pack.h"
#include "node/local/cluster.h"
#include "tests/check.h"
#include <pthread.h>
#include <stdlib.h>

enum { PROMPTS = 6, LENGTH = 330, OUT = 5, ROUNDS = 3 };

struct cached_answer {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool done;
    uint32_t n, ids[OUT], cached;
    uint64_t logits, kv;
    char error[200];
};

static void on_piece(void *user, const struct sl_generated *p)
{
    struct cached_answer *a = user;
    pthread_mutex_lock(&a->lock);
    for (uint32_t i = 0; i < p->n_tokens && a->n < OUT; i++)
        a->ids[a->n++] = p->tokens[i].id;
    if (p->done) {
        a->done = true;
        a->cached = p->cached_tokens;
        a->logits = p->logits_digest;
        a->kv = p->kv_digest;
        snprintf(a->error, sizeof a->error, "%s", p->error ? p->error : "");
    }
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
}

/* Prompts 2k and 2k + 1 begin alike, for 200 tokens. */
static void make_prompt(uint32_t which, uint32_t *ids)
{
    for (uint32_t i = 0; i < LENGTH; i++)
        ids[i] = (i * 37 + (i < 200 ? which / 2 : 50 + which) * 101 + i * i) % 4000;
}

static void submit(struct sl_cluster *cluster, uint32_t which, uint8_t salt, struct cached_answer *a)
{
    uint32_t ids[LENGTH];
    uint64_t handle;
    struct sl_err err;
    make_prompt(which, ids);
    struct sl_generate ask = {.ids = ids,
                              .n_ids = LENGTH - which * 20,
                              .max_tokens = OUT,
                              .ignore_eos = true,
                              .sampling = {.temperature = 0.8f, .top_p = 0.95f, .seed = 5, .n_logprobs = 0},
                              .prompt_logprobs = -1,
                              .want_digest = true,
                              .deadline_ms = -1,
                              .cache_salt = {salt}};
    if (which % 2) /* what it has asked counts, computed or not */
        ask.sampling.repetition_penalty = 1.3f;
    *a = (struct cached_answer){0};
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->changed, NULL);
    if (sl_coordinator_submit(sl_cluster_coordinator(cluster), &ask, on_piece, a, &handle, &err) != SL_OK)
        sl_test_fail(__FILE__, __LINE__, "%s", err.text);
}

static void wait_for(struct cached_answer *a)
{
    pthread_mutex_lock(&a->lock);
    while (!a->done)
        pthread_cond_wait(&a->changed, &a->lock);
    pthread_mutex_unlock(&a->lock);
    CHECK_STR(a->error, "");
}

static uint32_t ask_alone(struct sl_cluster *cluster, uint32_t which, uint8_t salt, struct cached_answer *a)
{
    submit(cluster, which, salt, a);
    wait_for(a);
    return a->cached;
}

static struct sl_cluster *start(uint32_t stages, uint32_t chunk, const char *kv, bool prefix_cache,
                                uint32_t pages)
{
    static char path[300];
    struct sl_cluster *cluster = NULL;
    struct sl_pack_options packing = {0};
    struct sl_err err;
    sl_log_init("test", SL_LOG_WARN);
    snprintf(path, sizeof path, "%s/pack", sl_test_dir());
    if (!sl_pack_is_pack(path) && sl_pack_write("demo", path, &packing, &err) != SL_OK)
        sl_test_fail(__FILE__, __LINE__, "%s", err.text);
    struct sl_cluster_config config = {.model = path,
                                       .n_stages = stages,
                                       .n_threads = 1,
                                       .chunk_tokens = chunk,
                                       .kv = kv,
                                       .context_tokens = 384,
                                       .kv_tokens = pages * SL_PAGE,
                                       .prefix_cache = prefix_cache,
                                       .quiet = true};
    if (sl_cluster_start(&cluster, &config, &err) != SL_OK)
        sl_test_fail(__FILE__, __LINE__, "%s", err.text);
    return cluster;
}

static void check_same(const struct cached_answer *a, const struct cached_answer *b)
{
    CHECK_INT(a->n, OUT);
    CHECK(memcmp(a->ids, b->ids, sizeof a->ids) == 0);
    CHECK(a->logits == b->logits && a->kv == b->kv && a->kv != 0);
}

static void compute(struct cached_answer computed[PROMPTS], const char *kv)
{
    struct sl_cluster *cluster = start(1, 0, kv, false, 60);
    for (uint32_t i = 0; i < PROMPTS; i++)
        CHECK_INT(ask_alone(cluster, i, 0, &computed[i]), 0);
    CHECK_INT(ask_alone(cluster, 0, 0, &computed[0]), 0);
    sl_cluster_stop(cluster);
}

SL_TEST(an_answer_is_the_same_bit_for_bit_when_its_prefix_was_there)
{
    static const char *const formats[] = {"bf16", "i8"};
    for (uint32_t f = 0; f < 2; f++) {
        struct cached_answer computed[PROMPTS], a;
        compute(computed, formats[f]);
        struct sl_cluster *cluster = start(1 + 2 * f, f ? 40 : 0, formats[f], true, 60);
        CHECK_INT(ask_alone(cluster, 0, 0, &a), 0);
        check_same(&a, &computed[0]);
        CHECK_INT(ask_alone(cluster, 0, 0, &a), LENGTH / SL_PAGE * SL_PAGE);
        check_same(&a, &computed[0]);
        CHECK_INT(ask_alone(cluster, 1, 0, &a), 192); /* the other has so much of it */
        check_same(&a, &computed[1]);
        CHECK_INT(ask_alone(cluster, 0, 1, &a), 0);
        check_same(&a, &computed[0]);
        CHECK_INT(ask_alone(cluster, 0, 1, &a), LENGTH / SL_PAGE * SL_PAGE);
        check_same(&a, &computed[0]);
        CHECK(sl_coordinator_flush_prefixes(sl_cluster_coordinator(cluster)));
        CHECK_INT(ask_alone(cluster, 0, 0, &a), 0);
        check_same(&a, &computed[0]);
        sl_cluster_stop(cluster);
    }
}

/* The pool holds a third of all prompts, so what is found is what the others have left of it just then. */
SL_TEST(an_answer_is_the_same_while_others_push_its_prefix_out)
{
    struct cached_answer computed[PROMPTS], all[ROUNDS * PROMPTS];
    struct sl_load load;
    compute(computed, "bf16");
    struct sl_cluster *cluster = start(2, 0, "bf16", true, 12);
    for (uint32_t i = 0; i < ROUNDS * PROMPTS; i++)
        submit(cluster, (i * 5 + i / PROMPTS) % PROMPTS, 0, &all[i]);
    for (uint32_t i = 0; i < ROUNDS * PROMPTS; i++) {
        wait_for(&all[i]);
        check_same(&all[i], &computed[(i * 5 + i / PROMPTS) % PROMPTS]);
    }
    CHECK(sl_coordinator_wait_idle(sl_cluster_coordinator(cluster), 10000));
    sl_coordinator_load(sl_cluster_coordinator(cluster), &load);
    CHECK(load.prompt_tokens_cached > 0 && load.pages_evicted > 0);
    CHECK_INT(load.kv_pages_used, 0);
    CHECK(load.kv_pages_cached > 0);
    sl_cluster_stop(cluster);
}
