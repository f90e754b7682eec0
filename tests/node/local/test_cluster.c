/* The whole pipeline in one process, on the bundled checkpoint: the same bits whatever the number of stages, the chunking, the
 * threads, the transport and the company; requests that end early give everything back; a prompt scored is a prompt generated. */
#include "base/cpu.h"
#include "base/log.h"
#include "model/pack/pack.h"
#include "node/local/cluster.h"
#include "tests/check.h"
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

enum { N_PROMPTS = 5, OUT = 6, MAX_OUT = 160 };

/* How the pack is made and served; the tests of the pipeline itself take it as it stands. */
static const char *kv = "bf16";
static struct sl_pack_options packing;
static uint32_t pack_number;
static uint64_t late;          /* of sl_cluster_config */
static uint32_t parts = 1;     /* of each decode worker */
static const uint32_t *layers; /* of each stage; NULL: cut equally */

struct answer {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool done;
    sl_status status;
    enum sl_finish finish;
    uint32_t n, ids[MAX_OUT], n_prompt;
    float logprobs[MAX_OUT], prompt_sum;
    uint64_t logits, kv;
    char error[200];
    int64_t stop_id;
    char stop[32];
    uint32_t cancel_after; /* 0: never */
    struct sl_coordinator *c;
    uint64_t handle;
};

static void on_piece(void *user, const struct sl_generated *p)
{
    struct answer *a = (struct answer *)user + p->index;
    pthread_mutex_lock(&a->lock);
    for (uint32_t i = 0; i < p->n_tokens && a->n < MAX_OUT; i++) {
        a->ids[a->n] = p->tokens[i].id;
        a->logprobs[a->n++] = p->tokens[i].logprob;
    }
    for (uint32_t i = 1; i < p->n_prompt; i++, a->n_prompt++)
        a->prompt_sum += p->prompt[i].logprob;
    if (p->done) {
        a->done = true;
        a->status = p->status;
        a->finish = p->finish;
        a->logits = p->logits_digest;
        a->kv = p->kv_digest;
        a->stop_id = p->matched_stop_id;
        snprintf(a->stop, sizeof a->stop, "%s", p->matched_stop ? p->matched_stop : "");
        snprintf(a->error, sizeof a->error, "%s", p->error ? p->error : "");
    }
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
}

static void wait_tokens(struct answer *a, uint32_t n)
{
    pthread_mutex_lock(&a->lock);
    while (!a->done && a->n < n)
        pthread_cond_wait(&a->changed, &a->lock);
    pthread_mutex_unlock(&a->lock);
}

static void wait_answer(struct answer *a)
{
    wait_tokens(a, UINT32_MAX);
}

static void init_answer(struct answer *a)
{
    *a = (struct answer){.stop_id = -1};
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->changed, NULL);
}

static const char *pack_path(void)
{
    static char path[300];
    snprintf(path, sizeof path, "%s/pack%u", sl_test_dir(), pack_number);
    if (sl_pack_is_pack(path))
        return path; /* made earlier in this test */
    struct sl_err err;
    sl_log_init("test", SL_LOG_WARN);
    if (sl_pack_write("demo", path, &packing, &err) != SL_OK)
        sl_test_fail(__FILE__, __LINE__, "%s", err.text);
    return path;
}

/* Prompts of 1, 64, 65, 130 and 47 tokens of arbitrary ids. */
static uint32_t make_prompt(uint32_t which, uint32_t *ids)
{
    static const uint32_t lengths[N_PROMPTS] = {130, 64, 65, 1, 47};
    for (uint32_t i = 0; i < lengths[which]; i++)
        ids[i] = (i * 37 + which * 101 + i * i) % 4000;
    return lengths[which];
}

static struct sl_generate make_ask(const uint32_t *ids, uint32_t n, uint32_t max_tokens)
{
    return (struct sl_generate){.ids = ids,
                                .n_ids = n,
                                .max_tokens = max_tokens,
                                .ignore_eos = true,
                                .sampling = {.temperature = 0.8f, .top_p = 0.95f, .seed = 5, .n_logprobs = 0},
                                .prompt_logprobs = -1,
                                .want_digest = true,
                                .deadline_ms = -1};
}

/* Three of five are moved by what they have asked and said; so are their bits, and nobody else's. */
static void steer(struct sl_generate *ask, uint32_t which)
{
    static const struct sl_bias bias[] = {{7, 4}, {300, -100}, {3999, 2.5f}};
    if (which % 3 == 0)
        return;
    ask->sampling.repetition_penalty = 1.3f;
    ask->sampling.frequency_penalty = 0.4f;
    ask->sampling.presence_penalty = which == 1 ? 0.5f : -0.5f;
    ask->bias = bias;
    ask->n_bias = which == 2 ? 3 : 0;
}

static bool submit(struct sl_cluster *cluster, const struct sl_generate *ask, struct answer *a)
{
    struct sl_err err;
    uint64_t handle;
    if (sl_coordinator_submit(sl_cluster_coordinator(cluster), ask, on_piece, a, &handle, &err) == SL_OK) {
        a->handle = handle;
        return true;
    }
    sl_test_fail(__FILE__, __LINE__, "%s", err.text);
    return false;
}

/* In one process, with one thread a stage, for prompts and answers of so many tokens together. */
static struct sl_cluster_config config_of(uint32_t stages, uint32_t chunk, uint32_t context)
{
    return (struct sl_cluster_config){.model = pack_path(),
                                      .n_stages = stages,
                                      .n_threads = 1,
                                      .chunk_tokens = chunk,
                                      .transport = "local",
                                      .kv = "bf16",
                                      .context_tokens = context,
                                      .quiet = true};
}

/* Bit for bit: digests, ids and log-probabilities. */
static bool same_answer(const struct answer *a, const struct answer *b)
{
    return a->logits == b->logits && a->kv == b->kv && memcmp(a->ids, b->ids, sizeof a->ids) == 0 &&
           memcmp(a->logprobs, b->logprobs, sizeof a->logprobs) == 0;
}

static struct sl_cluster *start(uint32_t stages, uint32_t chunk, uint32_t threads, const char *transport)
{
    struct sl_cluster *cluster = NULL;
    struct sl_err err;
    struct sl_cluster_config config = config_of(stages, chunk, 256);
    config.n_threads = threads;
    config.transport = transport;
    config.kv = kv;
    config.late = late;
    config.n_parts = parts;
    config.layers = layers;
    if (sl_cluster_start(&cluster, &config, &err) != SL_OK)
        sl_test_fail(__FILE__, __LINE__, "%u stages, %u parts, chunk %u, %u threads, %s: %s", stages, parts,
                     chunk, threads, transport, err.text);
    return cluster;
}

static void ask_all(struct sl_cluster *cluster, struct answer *answers, bool at_once)
{
    uint32_t ids[256];
    for (uint32_t i = 0; i < N_PROMPTS; i++) {
        init_answer(&answers[i]);
        struct sl_generate ask = make_ask(ids, make_prompt(i, ids), OUT);
        steer(&ask, i);
        if (submit(cluster, &ask, &answers[i]) && !at_once)
            wait_answer(&answers[i]);
    }
    for (uint32_t i = 0; i < N_PROMPTS; i++)
        wait_answer(&answers[i]);
}

static struct answer reference[N_PROMPTS];

static void make_reference(void)
{
    if (reference[0].done)
        return;
    struct sl_cluster *cluster = start(1, 512, 1, "local");
    if (!cluster)
        return;
    ask_all(cluster, reference, false);
    sl_cluster_stop(cluster);
    for (uint32_t i = 0; i < N_PROMPTS; i++)
        CHECK(reference[i].status == SL_OK && reference[i].n == OUT && reference[i].kv != 0 &&
              reference[i].logits != 0);
}

static void compare_once(const char *transport, uint32_t stages, uint32_t chunk, uint32_t threads,
                         bool at_once)
{
    struct answer answers[N_PROMPTS];
    struct sl_cluster *cluster = start(stages, chunk, threads, transport);
    if (!cluster)
        return;
    ask_all(cluster, answers, at_once);
    sl_cluster_stop(cluster);
    for (uint32_t i = 0; i < N_PROMPTS; i++)
        if (!same_answer(&answers[i], &reference[i]))
            sl_test_fail(__FILE__, __LINE__,
                         "%s, %u stages, %u parts, chunk %u, %u threads, %s: prompt %u gives other bits (%s)",
                         transport, stages, parts, chunk, threads, at_once ? "5 at once" : "alone", i,
                         answers[i].error);
}

static void compare(const char *transport, uint32_t stages, uint32_t chunk, uint32_t threads)
{
    compare_once(transport, stages, chunk, threads, false);
    compare_once(transport, stages, chunk, threads, true);
}

/* Stages, chunks, threads and parts of the decode worker: any two values of any two of them meet (the last two are squares over the
 * first two, orthogonal ones, other for each transport). SLUICE_SEEDS: with each number of threads. */
static void same_bits(const char *transport, uint32_t other)
{
    static const uint32_t stages[] = {1, 2, 3, 6}, chunks[] = {1, 7, 64, 256}, threads[] = {1, 2, 3};
    bool all = getenv("SLUICE_SEEDS") != NULL;
    make_reference();
    for (uint32_t s = 0; s < 4; s++)
        for (uint32_t c = 0; c < 4; c++)
            for (uint32_t t = 0; t < 3; t++) {
                if (!all && t != (s + c + other) % 3)
                    continue;
                parts = 1 + (s + 2 * c + other + t * all) % 3;
                compare(transport, stages[s], chunks[c], threads[t]);
            }
    parts = 1;
}

SL_TEST(stages_of_unequal_layers_give_the_same_bits)
{
    static const struct {
        uint32_t n_stages, layers[4], chunk, parts;
    } cuts[] = {{3, {3, 2, 1}, 64, 1}, {3, {1, 4, 1}, 7, 2}, {2, {5, 1}, 64, 3}, {4, {1, 1, 1, 3}, 256, 3}};
    make_reference();
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
        layers = cuts[i].layers;
        parts = cuts[i].parts;
        compare("local", cuts[i].n_stages, cuts[i].chunk, 1);
    }
    struct sl_cluster_config config = config_of(3, 64, 256);
    struct sl_cluster *cluster = NULL;
    struct sl_err err;
    config.layers = (const uint32_t[]){3, 3, 3};
    CHECK_INT(sl_cluster_start(&cluster, &config, &err), SL_E_CONFIG); /* it is looked at */
    layers = NULL;
    parts = 1;
}

/* The answers to one prompt, each as if it were the only one, with the seeds that follow. */
SL_TEST(several_answers_have_the_bits_of_their_seeds_however_the_work_is_cut)
{
    enum { ANSWERS = 4 };
    static struct answer alone[N_PROMPTS][ANSWERS], together[N_PROMPTS][ANSWERS];
    static const uint32_t cuts[][4] = {{1, 256, 1, 1}, {2, 7, 2, 3}, {3, 64, 1, 2}, {6, 1, 1, 6}};
    uint32_t ids[256];
    struct sl_cluster *cluster = start(1, 512, 1, "local");
    REQUIRE(cluster != NULL);
    for (uint32_t i = 0; i < N_PROMPTS; i++)
        for (uint32_t k = 0; k < ANSWERS; k++) {
            struct sl_generate ask = make_ask(ids, make_prompt(i, ids), OUT);
            steer(&ask, i);
            ask.sampling.seed += k;
            init_answer(&alone[i][k]);
            REQUIRE(submit(cluster, &ask, &alone[i][k]));
            wait_answer(&alone[i][k]);
        }
    sl_cluster_stop(cluster);
    for (size_t c = 0; c < sizeof cuts / sizeof *cuts; c++) {
        parts = cuts[c][3];
        cluster = start(cuts[c][0], cuts[c][1], cuts[c][2], "local");
        parts = 1;
        REQUIRE(cluster != NULL);
        for (uint32_t i = 0; i < N_PROMPTS; i++) {
            struct sl_generate ask = make_ask(ids, make_prompt(i, ids), OUT);
            steer(&ask, i);
            ask.n = ANSWERS;
            for (uint32_t k = 0; k < ANSWERS; k++)
                init_answer(&together[i][k]);
            REQUIRE(submit(cluster, &ask, together[i]));
        }
        for (uint32_t i = 0; i < N_PROMPTS; i++)
            for (uint32_t k = 0; k < ANSWERS; k++) {
                wait_answer(&together[i][k]);
                if (!same_answer(&together[i][k], &alone[i][k]))
                    sl_test_fail(__FILE__, __LINE__,
                                 "%u stages, %u parts, chunk %u: answer %u to prompt %u has other bits (%s)",
                                 cuts[c][0], cuts[c][3], cuts[c][1], k, i, together[i][k].error);
            }
        sl_cluster_stop(cluster);
    }
    CHECK(alone[0][0].ids[1] != alone[0][1].ids[1] || alone[0][0].ids[0] != alone[0][1].ids[0]);
}

/* One way to pack and one kind of KV pages, over stages, chunks, threads and instruction sets. */
static void same_bits_on_every_isa(bool on_ref)
{
    static const struct {
        const char *isa; /* of SLUICE_CPU; NULL: the best of this machine */
        uint32_t needs;
        uint32_t stages, chunk, threads;
    } runs[] = {{NULL, 0, 2, 7, 2},
                {NULL, 0, 1, 256, 3},
                {"avx512", SL_CPU_AVX512, 6, 64, 1},
                {"avxvnni", SL_CPU_AVXVNNI, 2, 64, 1},
                {"avx2", SL_CPU_AVX2, 3, 256, 1},
                {"ref", 0, 1, 64, 2}};
    memset(reference, 0, sizeof reference);
    make_reference();
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        if ((sl_cpu_detect() & runs[i].needs) != runs[i].needs)
            continue; /* said once, by the test */
        if (!on_ref && runs[i].isa && strcmp(runs[i].isa, "ref") == 0)
            continue; /* slow, and the same comparison is made kernel by kernel */
        if (runs[i].isa)
            setenv("SLUICE_CPU", runs[i].isa, 1);
        compare("local", runs[i].stages, runs[i].chunk, runs[i].threads);
        unsetenv("SLUICE_CPU");
    }
    memset(reference, 0, sizeof reference);
}

SL_TEST(the_same_bits_in_every_format_on_every_instruction_set)
{
    static const struct {
        enum sl_dtype dense, gate_up, down;
        enum sl_rotate rotate;
        enum sl_activations activations;
        const char *kv;
    } packs[] = {{SL_I8, SL_I8, SL_I8, SL_ROTATE_OFF, SL_ACTIVATIONS_AUTO, "i8"},
                 {SL_I8, SL_I8, SL_I8, SL_ROTATE_ON, SL_ACTIVATIONS_8, "bf16"},
                 {SL_I8, SL_I4, SL_I4G16, SL_ROTATE_ON, SL_ACTIVATIONS_AUTO, "auto"},
                 {SL_I4G16, SL_I2, SL_I3, SL_ROTATE_OFF, SL_ACTIVATIONS_AUTO, "f32"},
                 {SL_F32, SL_I3, SL_I4, SL_ROTATE_AUTO, SL_ACTIVATIONS_16, "i8"}};
    if (getenv("SLUICE_CPU"))
        return sl_test_skip("SLUICE_CPU is set: the comparison of instruction sets needs all of them");
    if (!(sl_cpu_detect() & SL_CPU_AVXVNNI))
        printf("AVX-VNNI is not on this machine: compared only under emulation, kernel by kernel\n");
    if (!(sl_cpu_detect() & SL_CPU_AVX512))
        printf("AVX-512 is not on this machine: compared only under emulation, kernel by kernel\n");
    for (size_t i = 0; i < sizeof packs / sizeof *packs; i++) {
        packing = (struct sl_pack_options){.rotate = packs[i].rotate};
        packing.formats.activations = packs[i].activations;
        packing.formats.classes[SL_CLASS_ATTENTION] = packing.formats.classes[SL_CLASS_HEAD] = packs[i].dense;
        packing.formats.classes[SL_CLASS_GATE_UP] = packs[i].gate_up;
        packing.formats.classes[SL_CLASS_DOWN] = packs[i].down;
        kv = packs[i].kv;
        pack_number++;
        same_bits_on_every_isa(i == 2);
    }
    packing = (struct sl_pack_options){0};
    kv = "bf16";
    pack_number = 0;
}

/* Formats, cuts and kinds in company are in tests/pipeline/stage/test_device.c; here the roles are in between. */
SL_TEST(a_node_on_another_device_changes_no_bit)
{
    packing.formats.classes[SL_CLASS_ATTENTION] = packing.formats.classes[SL_CLASS_HEAD] = SL_I8;
    packing.formats.classes[SL_CLASS_GATE_UP] = packing.formats.classes[SL_CLASS_DOWN] = SL_I4;
    kv = "i8";
    pack_number++;
    memset(reference, 0, sizeof reference);
    make_reference();
    late = 1; /* the first of two stages: pages go from it to a decode worker on the CPU */
    compare_once("local", 2, 50, 2, false);
    late = 6; /* the second stage and the decode worker: rows and pages come from a CPU */
    compare_once("ucx", 2, 64, 2, true);
    late = 0;
    memset(reference, 0, sizeof reference);
    packing = (struct sl_pack_options){0};
    kv = "bf16";
    pack_number = 0;
}

SL_TEST(the_same_bits_over_the_local_transport)
{
    same_bits("local", 0);
}

SL_TEST(the_same_bits_over_ucx)
{
    same_bits("ucx", 1);
}

static void check_all_back(struct sl_cluster *cluster)
{
    struct sl_load load;
    CHECK(sl_coordinator_wait_idle(sl_cluster_coordinator(cluster), 60000));
    sl_coordinator_load(sl_cluster_coordinator(cluster), &load);
    CHECK_INT(load.running + load.waiting, 0);
    CHECK_INT(load.kv_pages_used, 0);
    CHECK_INT(load.decode_pages_used, 0);
}

SL_TEST(a_cancel_at_any_time_gives_every_page_back)
{
    make_reference();
    struct sl_cluster *cluster = start(2, 16, 1, "local");
    REQUIRE(cluster);
    uint32_t ids[256], n = make_prompt(0, ids), aborted = 0;
    for (uint32_t after = 0; after < 8; after++) {
        struct answer a, beside;
        init_answer(&a);
        init_answer(&beside);
        struct sl_generate ask = make_ask(ids, n, 60), small = make_ask(ids, 64, OUT);
        REQUIRE(submit(cluster, &ask, &a) && submit(cluster, &small, &beside));
        if (after > 0)
            wait_tokens(&a, after);
        sl_coordinator_cancel(sl_cluster_coordinator(cluster), a.handle);
        wait_answer(&a);
        wait_answer(&beside);
        CHECK_INT(a.status, SL_OK);
        aborted += a.finish == SL_FINISH_ABORT; /* on a busy machine a cancel may come after the last token */
        CHECK(a.finish == SL_FINISH_ABORT || (a.finish == SL_FINISH_LENGTH && a.n == ask.max_tokens));
        CHECK_INT(beside.finish, SL_FINISH_LENGTH);
        check_all_back(cluster);
    }
    CHECK(aborted > 0);
    struct answer again; /* and the node still gives the right bits */
    init_answer(&again);
    struct sl_generate ask = make_ask(ids, n, OUT);
    REQUIRE(submit(cluster, &ask, &again));
    wait_answer(&again);
    CHECK(again.logits == reference[0].logits && again.kv == reference[0].kv);
    check_all_back(cluster);
    sl_cluster_stop(cluster);
}

SL_TEST(stops_end_the_text_where_they_should)
{
    make_reference();
    struct sl_cluster *cluster = start(2, 64, 1, "local");
    REQUIRE(cluster);
    uint32_t ids[256], n = make_prompt(0, ids);
    for (uint32_t at = 0; at < 3; at++) { /* the first, second and third token as a stop id */
        struct answer a;
        init_answer(&a);
        struct sl_generate ask = make_ask(ids, n, OUT);
        ask.n_stop_ids = 1;
        ask.stop_ids[0] = reference[0].ids[at];
        REQUIRE(submit(cluster, &ask, &a));
        wait_answer(&a);
        CHECK_INT(a.finish, SL_FINISH_STOP);
        CHECK_INT(a.stop_id, reference[0].ids[at]);
        CHECK(a.n <= at + 1 && a.n > 0 && a.ids[a.n - 1] == reference[0].ids[at]);
        check_all_back(cluster);
    }
    struct answer a, b;
    init_answer(&a);
    init_answer(&b);
    size_t bytes;
    bool special;
    char stop[64];
    const char *piece = sl_tokenizer_piece(sl_coordinator_tokenizer(sl_cluster_coordinator(cluster)),
                                           reference[0].ids[2], &bytes, &special);
    snprintf(stop, sizeof stop, "%.*s", (int)bytes, piece);
    struct sl_generate ask = make_ask(ids, n, OUT);
    ask.n_stop = 1;
    ask.stop[0] = stop;
    REQUIRE(submit(cluster, &ask, &a));
    wait_answer(&a);
    CHECK_INT(a.finish, SL_FINISH_STOP);
    CHECK_STR(a.stop, stop);
    CHECK(a.n <= 3);
    ask = make_ask(ids, n, OUT);
    ask.n_stop_ids = 1;
    ask.stop_ids[0] = reference[0].ids[0];
    ask.min_tokens = 3;
    REQUIRE(submit(cluster, &ask, &b));
    wait_answer(&b);
    CHECK(b.n >= 3);
    check_all_back(cluster);
    sl_cluster_stop(cluster);
}

SL_TEST(a_score_agrees_with_itself_in_any_chunks)
{
    float sums[3];
    static const uint32_t chunks[3] = {256, 64, 1};
    uint32_t ids[256], n = make_prompt(0, ids);
    for (int i = 0; i < 3; i++) {
        struct sl_cluster_config config = config_of(1 + (uint32_t)i, chunks[i], 256);
        struct sl_cluster *cluster;
        struct sl_err err;
        struct answer a;
        config.kv = "f32";
        config.without_decode = true;
        REQUIRE(sl_cluster_start(&cluster, &config, &err) == SL_OK);
        init_answer(&a);
        struct sl_generate ask = make_ask(ids, n, 0);
        ask.prompt_logprobs = 2;
        REQUIRE(submit(cluster, &ask, &a));
        wait_answer(&a);
        CHECK_INT(a.status, SL_OK);
        CHECK_INT(a.n_prompt, n - 1);
        sums[i] = a.prompt_sum;
        ask.max_tokens = 5; /* nobody is there to decode */
        uint64_t handle;
        CHECK_INT(sl_coordinator_submit(sl_cluster_coordinator(cluster), &ask, on_piece, &a, &handle, &err),
                  SL_E_UNAVAILABLE);
        sl_cluster_stop(cluster);
    }
    CHECK(sums[0] == sums[1] && sums[1] == sums[2] && sums[0] < 0);
}

static sl_status refused(struct sl_cluster *cluster, const struct sl_generate *ask, struct sl_err *err)
{
    uint64_t handle;
    return sl_coordinator_submit(sl_cluster_coordinator(cluster), ask, on_piece, NULL, &handle, err);
}

/* What depends on the state of things is said by the first and last piece. */
static void check_refused(struct sl_cluster *cluster, const struct sl_generate *ask, sl_status status,
                          const char *why)
{
    struct answer a;
    init_answer(&a);
    REQUIRE(submit(cluster, ask, &a));
    wait_answer(&a);
    CHECK_INT(a.status, status);
    CHECK_INT(a.n, 0);
    CHECK_CONTAINS(a.error, why);
}

SL_TEST(what_cannot_be_served_is_refused_in_a_sentence)
{
    struct sl_cluster *cluster = start(1, 64, 1, "local");
    REQUIRE(cluster);
    uint32_t ids[300] = {1, 2, 5000};
    struct sl_err err;
    struct sl_generate ask = make_ask(ids, 3, 4);
    CHECK_INT(refused(cluster, &ask, &err), SL_E_INVALID);
    CHECK_CONTAINS(err.text, "5000");
    ids[2] = 3;
    ask = make_ask(ids, 300, 4);
    CHECK_INT(refused(cluster, &ask, &err), SL_E_INVALID);
    CHECK_CONTAINS(err.text, "256");
    ask = make_ask(ids, 200, 57);
    CHECK_INT(refused(cluster, &ask, &err), SL_E_INVALID);
    ask = make_ask(ids, 0, 4);
    CHECK_INT(refused(cluster, &ask, &err), SL_E_INVALID);
    ask = make_ask(ids, 3, 4);
    ask.sampling.temperature = -1;
    CHECK_INT(refused(cluster, &ask, &err), SL_E_INVALID);
    struct answer a;
    init_answer(&a);
    ask = make_ask(ids, 200, 50);
    snprintf(ask.request_id, sizeof ask.request_id, "twice");
    REQUIRE(submit(cluster, &ask, &a));
    check_refused(cluster, &ask, SL_E_EXISTS, "is live");
    sl_coordinator_cancel_id(sl_cluster_coordinator(cluster), "twice", NULL);
    sl_coordinator_cancel_id(sl_cluster_coordinator(cluster), "nobody", NULL);
    wait_answer(&a);
    sl_coordinator_drain(sl_cluster_coordinator(cluster));
    ask.request_id[0] = 0;
    check_refused(cluster, &ask, SL_E_UNAVAILABLE, "draining");
    check_all_back(cluster);
    sl_cluster_stop(cluster);
}

/* Many short answers have taught the node to expect short ones; then come long ones, in a pool of one context. */
SL_TEST(answers_that_are_set_back_keep_their_bits)
{
    enum { SHORT = 40, LONG = 8, LENGTH = 140 };
    static struct answer alone[LONG], together[LONG];
    struct sl_cluster_config config = config_of(3, 48, 256);
    struct sl_cluster *cluster;
    struct sl_err err;
    struct sl_load load;
    uint32_t ids[256];
    config.kv_tokens = 256;
    REQUIRE(sl_cluster_start(&cluster, &config, &err) == SL_OK);
    for (uint32_t i = 0; i < SHORT + 2 * LONG; i++) {
        bool is_short = i < SHORT, is_alone = i < SHORT + LONG;
        struct answer one, *a = is_short ? &one : is_alone ? &alone[i - SHORT] : &together[i - SHORT - LONG];
        init_answer(a);
        struct sl_generate ask = make_ask(ids, make_prompt(1 + i % 4, ids), is_short ? 2 : LENGTH);
        steer(&ask, 1 + i % 4);
        ask.sampling.seed = i % LONG;
        REQUIRE(submit(cluster, &ask, a));
        if (is_alone)
            wait_answer(a);
    }
    for (uint32_t i = 0; i < LONG; i++) {
        wait_answer(&together[i]);
        CHECK(together[i].status == SL_OK && together[i].n == LENGTH && alone[i].kv != 0);
        if (!same_answer(&together[i], &alone[i]))
            sl_test_fail(__FILE__, __LINE__, "answer %u has other bits (%s)", i, together[i].error);
    }
    sl_coordinator_load(sl_cluster_coordinator(cluster), &load);
    CHECK(load.set_back > 0);
    check_all_back(cluster);
    sl_cluster_stop(cluster);
}

/* Two of three die under way: what they had goes on, and so do the chains of its digests. */
SL_TEST(answers_whose_decode_worker_is_lost_keep_their_bits)
{
    enum { ANSWERS = 9, LENGTH = 140 };
    static struct answer alone[ANSWERS], together[ANSWERS];
    struct sl_cluster_config config = config_of(3, 48, 300);
    struct sl_cluster *cluster;
    struct sl_err err;
    struct sl_load load;
    uint32_t ids[256];
    config.n_decoders = 3;
    config.n_parts = 2;
    REQUIRE(sl_cluster_start(&cluster, &config, &err) == SL_OK);
    for (uint32_t i = 0; i < 2 * ANSWERS; i++) {
        struct answer *a = i < ANSWERS ? &alone[i] : &together[i - ANSWERS];
        init_answer(a);
        struct sl_generate ask = make_ask(ids, make_prompt(i % ANSWERS % N_PROMPTS, ids), LENGTH);
        steer(&ask, i % ANSWERS);
        ask.sampling.seed = i % ANSWERS;
        REQUIRE(submit(cluster, &ask, a));
        if (i < ANSWERS)
            wait_answer(a);
    }
    for (uint32_t d = 0; d < 2; d++) {
        for (uint32_t i = 0; i < ANSWERS; i++)
            wait_tokens(&together[i], 10 + 60 * d);
        sl_cluster_end_decoder(cluster, d, d); /* one end of it, and the other */
    }
    for (uint32_t i = 0; i < ANSWERS; i++) {
        wait_answer(&together[i]);
        CHECK(together[i].status == SL_OK && together[i].n == LENGTH && alone[i].kv != 0);
        if (together[i].kv ==
            0) { /* all of it was told, and not yet by all parts that it is gone: no digests */
            together[i].kv = alone[i].kv;
            together[i].logits = alone[i].logits;
        }
        if (!same_answer(&together[i], &alone[i]))
            sl_test_fail(__FILE__, __LINE__, "answer %u has other bits (%s)", i, together[i].error);
    }
    sl_coordinator_load(sl_cluster_coordinator(cluster), &load);
    CHECK(load.moved > 0 && load.set_back == 0 && load.n_decoders == 1);
    check_all_back(cluster);
    sl_cluster_end_decoder(cluster, 2, 0); /* nobody can come: now it is lost */
    while (sl_coordinator_life(sl_cluster_coordinator(cluster)) == SL_LIFE_READY)
        sched_yield();
    CHECK_INT(sl_coordinator_life(sl_cluster_coordinator(cluster)), SL_LIFE_LOST);
    sl_cluster_stop(cluster);
}

SL_TEST(more_requests_than_pages_wait_their_turn)
{
    struct sl_cluster_config config = config_of(2, 64, 256);
    struct sl_cluster *cluster;
    struct sl_err err;
    config.max_running = 3;
    config.n_parts = 3;
    REQUIRE(sl_cluster_start(&cluster, &config, &err) == SL_OK);
    enum { MANY = 24 };
    static struct answer answers[MANY];
    uint32_t ids[256];
    for (uint32_t i = 0; i < MANY; i++) {
        init_answer(&answers[i]);
        struct sl_generate ask = make_ask(ids, make_prompt(i % N_PROMPTS, ids), OUT);
        steer(&ask, i % N_PROMPTS);
        REQUIRE(submit(cluster, &ask, &answers[i]));
    }
    make_reference();
    for (uint32_t i = 0; i < MANY; i++) {
        wait_answer(&answers[i]);
        CHECK_INT(answers[i].finish, SL_FINISH_LENGTH);
        CHECK(answers[i].logits == reference[i % N_PROMPTS].logits &&
              answers[i].kv == reference[i % N_PROMPTS].kv);
    }
    check_all_back(cluster);
    sl_cluster_stop(cluster);
}
