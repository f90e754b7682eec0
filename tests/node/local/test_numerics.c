/* Numerics profiles through the whole pipeline, in one process: within bf16dot the same bits whatever the stages, the
 * chunks, the threads and the company; another profile, other bits; and what a machine does that lacks one.
 *
 * The processor is made to lack AVX512_BF16 by SLUICE_CPU, so both sides are tested on one machine; where it really
 * lacks it, what needs it is skipped aloud. Profile f32 has its own, larger matrix in test_cluster.c, and processes that
 * must agree with each other are in tests/e2e/test_numerics.py. */
#include "base/log.h"
#include "model/pack/pack.h"
#include "node/local/cluster.h"
#include "tests/check.h"
#include <pthread.h>
#include <stdlib.h>

enum { N_PROMPTS = 3, OUT = 5 };

struct run_answer {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool done;
    sl_status status;
    uint64_t logits, kv;
};

static void on_piece(void *user, const struct sl_generated *p)
{
    struct run_answer *a = user;
    pthread_mutex_lock(&a->lock);
    if (p->done) {
        a->done = true;
        a->status = p->status;
        a->logits = p->logits_digest;
        a->kv = p->kv_digest;
    }
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
}

static void wait_answer(struct run_answer *a)
{
    pthread_mutex_lock(&a->lock);
    while (!a->done)
        pthread_cond_wait(&a->changed, &a->lock);
    pthread_mutex_unlock(&a->lock);
}

static const char *pack_path(void)
{
    static char path[300];
    struct sl_err err;
    snprintf(path, sizeof path, "%s/pack", sl_test_dir());
    sl_log_init("test", SL_LOG_ERROR);
    if (!sl_pack_is_pack(path) && sl_pack_write("demo", path, &(struct sl_pack_options){0}, &err) != SL_OK)
        sl_test_fail(__FILE__, __LINE__, "%s", err.text);
    return path;
}

static sl_status start(struct sl_cluster **cluster, const char *numerics, uint32_t stages, uint32_t chunk,
                       uint32_t threads, struct sl_err *err)
{
    struct sl_cluster_config config = {.model = pack_path(),
                                       .n_stages = stages,
                                       .n_threads = threads,
                                       .chunk_tokens = chunk,
                                       .numerics = numerics,
                                       .context_tokens = 256,
                                       .quiet = true};
    *cluster = NULL;
    return sl_cluster_start(cluster, &config, err);
}

/* Prompts of 130, 65 and 9 arbitrary ids, one after the other or all at once. */
static void ask_all(struct sl_cluster *cluster, struct run_answer *answers, bool at_once)
{
    static const uint32_t lengths[N_PROMPTS] = {130, 65, 9};
    uint32_t ids[N_PROMPTS][130];
    for (uint32_t p = 0; p < N_PROMPTS; p++) {
        struct sl_err err;
        uint64_t handle;
        for (uint32_t i = 0; i < lengths[p]; i++)
            ids[p][i] = (i * 37 + p * 101 + i * i) % 4000;
        answers[p] = (struct run_answer){.done = false};
        pthread_mutex_init(&answers[p].lock, NULL);
        pthread_cond_init(&answers[p].changed, NULL);
        struct sl_generate ask = {.ids = ids[p],
                                  .n_ids = lengths[p],
                                  .max_tokens = OUT,
                                  .ignore_eos = true,
                                  .sampling = {.top_p = 1},
                                  .prompt_logprobs = -1,
                                  .want_digest = true,
                                  .deadline_ms = -1};
        if (sl_coordinator_submit(sl_cluster_coordinator(cluster), &ask, on_piece, &answers[p], &handle,
                                  &err) != SL_OK) {
            sl_test_fail(__FILE__, __LINE__, "%s", err.text);
            answers[p].done = true;
        }
        if (!at_once)
            wait_answer(&answers[p]);
    }
    for (uint32_t p = 0; p < N_PROMPTS; p++) {
        wait_answer(&answers[p]);
        CHECK_INT(answers[p].status, SL_OK);
    }
}

/* The digests of one cluster's answers; false when it did not start. */
static bool digest(const char *numerics, uint32_t stages, uint32_t chunk, uint32_t threads, bool at_once,
                   struct run_answer *answers)
{
    struct sl_cluster *cluster;
    struct sl_err err;
    if (start(&cluster, numerics, stages, chunk, threads, &err) != SL_OK) {
        sl_test_fail(__FILE__, __LINE__, "%s, %u stages: %s", numerics, stages, err.text);
        return false;
    }
    ask_all(cluster, answers, at_once);
    sl_cluster_stop(cluster);
    return true;
}

static bool has_bf16dot(void)
{
    bool has = sl_ops_profiles() & 1u << SL_PROFILE_BF16DOT;
    if (!has)
        sl_test_skip("this machine does not offer bf16dot (no AVX512_BF16, or SLUICE_CPU hides it)");
    return has;
}

SL_TEST(bf16dot_has_the_same_bits_however_the_work_is_cut)
{
    static const uint32_t stages[] = {1, 2, 6}, chunks[] = {1, 7, 64, 256}, threads[] = {1, 3};
    struct run_answer reference[N_PROMPTS], got[N_PROMPTS];
    if (!has_bf16dot() || !digest("bf16dot", 1, 256, 1, false, reference))
        return;
    for (int s = 0; s < 3; s++)
        for (int c = 0; c < 4; c++)
            for (int t = 0; t < 2; t++) {
                bool at_once = (s + c + t) % 2;
                if (!digest("bf16dot", stages[s], chunks[c], threads[t], at_once, got))
                    return;
                for (uint32_t p = 0; p < N_PROMPTS; p++)
                    if (got[p].logits != reference[p].logits || got[p].kv != reference[p].kv)
                        sl_test_fail(__FILE__, __LINE__,
                                     "%u stages, chunk %u, %u threads, %s: prompt %u has other bits",
                                     stages[s], chunks[c], threads[t], at_once ? "at once" : "alone", p);
            }
}

SL_TEST(auto_is_the_best_there_is_and_profiles_differ)
{
    struct run_answer f32[N_PROMPTS], dot[N_PROMPTS], best[N_PROMPTS];
    if (!has_bf16dot() || !digest("f32", 1, 256, 1, false, f32) ||
        !digest("bf16dot", 1, 256, 1, false, dot) || !digest("auto", 2, 64, 1, true, best))
        return;
    for (uint32_t p = 0; p < N_PROMPTS; p++) {
        CHECK(f32[p].logits != dot[p].logits);
        CHECK(f32[p].kv != dot[p].kv);
        CHECK(best[p].logits == dot[p].logits && best[p].kv == dot[p].kv);
    }
}

SL_TEST(without_the_instruction_auto_is_f32_and_bf16dot_is_refused)
{
    struct run_answer f32[N_PROMPTS], best[N_PROMPTS];
    struct sl_cluster *cluster;
    struct sl_err err;
    char *before = getenv("SLUICE_CPU"), *kept = before ? strdup(before) : NULL;
    bool same = digest("f32", 1, 256, 1, false, f32);
    setenv("SLUICE_CPU", "ref", 1);
    CHECK_INT(start(&cluster, "bf16dot", 1, 64, 1, &err), SL_E_CONFIG);
    CHECK_CONTAINS(err.text, "AVX512_BF16");
    same = same && digest("auto", 2, 64, 2, true, best);
    if (kept)
        setenv("SLUICE_CPU", kept, 1);
    else
        unsetenv("SLUICE_CPU");
    free(kept);
    for (uint32_t p = 0; same && p < N_PROMPTS; p++)
        CHECK(best[p].logits == f32[p].logits && best[p].kv == f32[p].kv);
    CHECK_INT(start(&cluster, "f16", 1, 64, 1, &err), SL_E_USAGE);
    CHECK_CONTAINS(err.text, "f16");
}

SL_TEST(the_coordinator_knows_its_profile)
{
    struct sl_cluster *cluster;
    struct sl_err err;
    REQUIRE(start(&cluster, NULL, 1, 64, 1, &err) == SL_OK);
    CHECK_STR(sl_coordinator_profile(sl_cluster_coordinator(cluster)), "f32");
    sl_cluster_stop(cluster);
}
