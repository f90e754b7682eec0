/* Prefixes that are computed once, in real stages: an answer has the same tokens, logits and KV pages, bit for bit, whether its
 * prompt was computed, found in the cache, or found there while others push each other's pages out; and whether its pages were
 * pushed to the decode worker or lay there. */
#include "base/log.h"
#include "model/pack/pack.h"
#include "node/local/cluster.h"
#include "tests/check.h"
#include <pthread.h>
#include <stdlib.h>

enum { PROMPTS = 6, LENGTH = 330, OUT = 5, ROUNDS = 3, FIRST_TURN = 318, MORE = 20 };

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

static void submit_asked(struct sl_cluster *cluster, const struct sl_generate *ask, struct cached_answer *a)
{
    uint64_t handle;
    struct sl_err err;
    *a = (struct cached_answer){0};
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->changed, NULL);
    if (sl_coordinator_submit(sl_cluster_coordinator(cluster), ask, on_piece, a, &handle, &err) != SL_OK)
        sl_test_fail(__FILE__, __LINE__, "%s", err.text);
}

static struct sl_generate ask_of(const uint32_t *ids, uint32_t n_ids)
{
    return (struct sl_generate){.ids = ids,
                                .n_ids = n_ids,
                                .max_tokens = OUT,
                                .ignore_eos = true,
                                .sampling = {.temperature = 0.8f, .top_p = 0.95f, .seed = 5, .n_logprobs = 0},
                                .prompt_logprobs = -1,
                                .want_digest = true,
                                .deadline_ms = -1};
}

static void submit(struct sl_cluster *cluster, uint32_t which, uint8_t salt, struct cached_answer *a)
{
    uint32_t ids[LENGTH];
    make_prompt(which, ids);
    struct sl_generate ask = ask_of(ids, LENGTH - which * 20);
    ask.cache_salt[0] = salt;
    if (which % 2) /* what it has asked counts, computed or not */
        ask.sampling.repetition_penalty = 1.3f;
    submit_asked(cluster, &ask, a);
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
                                       .n_parts =
                                           prefix_cache ? 1 + stages % 3 : 1, /* no bit depends on it */
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
    CHECK(sl_coordinator_wait_idle(sl_cluster_coordinator(cluster), sl_test_patience_ms(10000)));
    sl_coordinator_load(sl_cluster_coordinator(cluster), &load);
    CHECK(load.prompt_tokens_cached > 0 && load.pages_evicted > 0 && load.handoff_tokens_kept > 0);
    CHECK(load.kv_pages_used == 0 && load.decode_pages_used == 0);
    CHECK(load.kv_pages_cached > 0 && load.decoders[0].pages_kept > 0);
    sl_cluster_stop(cluster);
}

/* ---- what lies at the decode worker ---- */

struct turns { /* a conversation: the second turn is the first, its answer, and more */
    uint32_t ids[FIRST_TURN + OUT + MORE];
    struct cached_answer first, second;
};

static void take_turn(struct sl_cluster *cluster, struct turns *t, bool second, bool only_prefill,
                      bool logprobs)
{
    struct cached_answer *a = second ? &t->second : &t->first;
    struct sl_generate ask = ask_of(t->ids, second ? FIRST_TURN + OUT + MORE : FIRST_TURN);
    ask.max_tokens = only_prefill ? 1 : OUT;
    ask.prompt_logprobs = logprobs ? 0 : -1;
    submit_asked(cluster, &ask, a);
    wait_for(a);
    if (!second)
        memcpy(t->ids + FIRST_TURN, a->ids, sizeof a->ids);
}

/* Of hand-offs since the last call: tokens that lay there. */
static uint32_t kept_since(struct sl_cluster *cluster, uint64_t *before)
{
    struct sl_load load;
    CHECK(sl_coordinator_wait_idle(sl_cluster_coordinator(cluster), sl_test_patience_ms(10000)));
    sl_coordinator_load(sl_cluster_coordinator(cluster), &load);
    uint64_t kept = load.handoff_tokens_kept - *before;
    *before = load.handoff_tokens_kept;
    return (uint32_t)kept;
}

static void begin_turns(struct turns *t, uint32_t which)
{
    uint32_t ids[LENGTH];
    make_prompt(which, ids);
    memcpy(t->ids, ids, FIRST_TURN * sizeof *ids);
    for (uint32_t i = 0; i < MORE; i++)
        t->ids[FIRST_TURN + OUT + i] = 7 * i + which;
}

/* The fifth page of the prompt is the decode worker's work. Computed by nobody else; found there and on the stages; found there alone,
 * since each position is to be run; and found on the stages alone, which have prefilled it for nobody. */
SL_TEST(a_second_turn_is_the_same_bit_for_bit_wherever_its_pages_lie)
{
    static const char *const formats[] = {"bf16", "i8"};
    for (uint32_t f = 0; f < 2; f++)
        for (uint32_t stages = 1; stages <= 3; stages += 2) {
            struct turns computed, t;
            uint64_t kept = 0;
            struct sl_cluster *cluster = start(stages, 0, formats[f], false, 60);
            begin_turns(&computed, 0);
            take_turn(cluster, &computed, false, false, false);
            take_turn(cluster, &computed, true, false, false);
            CHECK_INT(kept_since(cluster, &kept), 0);
            sl_cluster_stop(cluster);

            cluster = start(stages, f ? 40 : 0, formats[f], true, 60);
            begin_turns(&t, 0);
            take_turn(cluster, &t, false, false, false);
            check_same(&t.first, &computed.first);
            CHECK_INT(kept_since(cluster, &kept), 0);
            take_turn(cluster, &t, true, false, false);
            check_same(&t.second, &computed.second);
            CHECK_INT(kept_since(cluster, &kept), 320);
            take_turn(cluster, &t, true, false, true);
            check_same(&t.second, &computed.second);
            CHECK(t.second.cached == 0 && kept_since(cluster, &kept) == 320);
            CHECK(sl_coordinator_flush_prefixes(sl_cluster_coordinator(cluster)));
            take_turn(cluster, &t, true, true, false);
            take_turn(cluster, &t, true, false, false);
            check_same(&t.second, &computed.second);
            CHECK(t.second.cached == 320 && kept_since(cluster, &kept) == 0);
            sl_cluster_stop(cluster);
        }
}
