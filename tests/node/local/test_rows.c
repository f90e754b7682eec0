/* Rows from GPU to GPU in a whole pipeline, on the twins of GPU, driver and NCCL (tests/pipeline/link/nccl_twin): answers and digests are
 * those of the CPU for any cut of stages and chunks, whichever of the rows go by NCCL; what goes wrong on the way is survived, or found. */
#include "base/log.h"
#include "kernels/gpu/device.h"
#include "model/pack/pack.h"
#include "node/local/cluster.h"
#include "tests/node/local/cut_lines.h"
#include "tests/pipeline/link/nccl_host.h"
#include <pthread.h>
#include <string.h>

enum {
    PROMPT = 40,
    OUT = 2,
    ROW_BYTES = 256 * 4,
    CUTS = 7 /* an eighth in a row, before a frame has got through, is a link's end */
};

struct came {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool done;
    sl_status status;
    uint32_t n, ids[OUT];
    uint64_t logits, kv;
    char error[300];
};

static void on_piece(void *user, const struct sl_generated *p)
{
    struct came *a = user;
    pthread_mutex_lock(&a->lock);
    for (uint32_t i = 0; i < p->n_tokens && a->n < OUT; i++)
        a->ids[a->n++] = p->tokens[i].id;
    if (p->done) {
        a->done = true;
        a->status = p->status;
        a->logits = p->logits_digest;
        a->kv = p->kv_digest;
        snprintf(a->error, sizeof a->error, "%s", p->error ? p->error : "");
    }
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
}

static const char *pack_path(void)
{
    static char path[300];
    struct sl_err err;
    struct sl_pack_options options = {.threads = 1};
    for (int i = 0; i < SL_CLASSES; i++)
        options.formats.classes[i] = SL_I8;
    snprintf(path, sizeof path, "%s/pack", sl_test_dir());
    sl_log_init("test", SL_LOG_ERROR);
    if (!sl_pack_is_pack(path) && sl_pack_write("demo", path, &options, &err) != SL_OK)
        sl_test_fail(__FILE__, __LINE__, "%s", err.text);
    return path;
}

struct how {
    const char *device;
    uint32_t n_stages, chunk;
    uint64_t rows_from; /* 0: staged */
    uint64_t seed;
    const char *fault;
    int after, times;
    const char *transport;
    enum sl_rows_way way; /* staged: NCCL, if rows_from says that any go beside */
    uint32_t *n_cuts;     /* NULL: the lines stay; else how often they were cut, by the seed */
};

/* The answer to one prompt, in chunks of so many tokens. */
static struct came ask(const struct how *how)
{
    struct came a = {.status = SL_E_INTERNAL};
    struct sl_err err;
    struct sl_cluster *cluster = NULL;
    uint32_t ids[PROMPT];
    uint64_t handle;
    struct sl_cluster_config config = {.model = pack_path(),
                                       .n_stages = how->n_stages,
                                       .n_threads = 1,
                                       .chunk_tokens = how->chunk,
                                       .transport = how->transport,
                                       .kv = "i8",
                                       .kv_tokens = 1024,
                                       .max_running = 2,
                                       .max_prefill = 2,
                                       .context_tokens = 192,
                                       .device = how->device,
                                       .rows = how->way         ? how->way
                                               : how->rows_from ? SL_ROWS_NCCL
                                                                : SL_ROWS_STAGED,
                                       .rows_from = how->rows_from,
                                       .quiet = true};
    pthread_mutex_init(&a.lock, NULL);
    pthread_cond_init(&a.changed, NULL);
    sl_gpu_twin_as(&(struct sl_gpu_twin){.seed = how->seed});
    if (!twin_begin() || sl_cluster_start(&cluster, &config, &err) != SL_OK) {
        sl_test_fail(__FILE__, __LINE__, "%s", err.text);
        return a;
    }
    twin.fault(how->fault ? how->fault : "none", how->after, how->times);
    struct cutter cutter = {
        .cluster = cluster, .n_nodes = how->n_stages + 1, .most = CUTS, .seed = how->seed};
    if (how->n_cuts)
        cutter_begin(&cutter);
    for (uint32_t i = 0; i < PROMPT; i++)
        ids[i] = (i * 37 + i * i) % 4000;
    struct sl_generate g = {.ids = ids,
                            .n_ids = PROMPT,
                            .max_tokens = OUT,
                            .ignore_eos = true,
                            .sampling = {.temperature = 0.8f, .top_p = 0.95f, .seed = 5},
                            .prompt_logprobs = -1,
                            .want_digest = true,
                            .deadline_ms = -1};
    if (sl_coordinator_submit(sl_cluster_coordinator(cluster), &g, on_piece, &a, &handle, &err) == SL_OK) {
        pthread_mutex_lock(&a.lock);
        while (!a.done)
            pthread_cond_wait(&a.changed, &a.lock);
        pthread_mutex_unlock(&a.lock);
    } else {
        sl_test_fail(__FILE__, __LINE__, "%s", err.text);
    }
    if (how->n_cuts) {
        cutter_end(&cutter);
        *how->n_cuts += cutter.n_cuts;
    }
    sl_cluster_stop(cluster);
    return a;
}

static struct came want; /* of the CPU */

static struct came ask_twins(const struct how *how)
{
    if (!want.done)
        want = ask(&(struct how){.device = "cpu", .n_stages = 1, .chunk = 64});
    CHECK(want.logits && want.kv && want.n == OUT);
    return ask(how);
}

static void check_same(const struct came *got, int line)
{
    if (got->status != SL_OK || got->n != OUT || memcmp(got->ids, want.ids, sizeof want.ids) != 0 ||
        got->logits != want.logits || got->kv != want.kv)
        sl_test_fail(__FILE__, line, "another answer: %s %s", sl_status_name(got->status), got->error);
}

SL_TEST(answers_are_those_of_the_cpu_however_rows_go)
{
    static const struct {
        struct how how;
        int transfers; /* an end each of a chunk's, from stage to stage */
    } cases[] = {
        {{.device = "twin", .n_stages = 2, .chunk = 24, .rows_from = 1, .seed = 1},
         2 * 2}, /* chunks of 24 and 16 */
        {{.device = "twin", .n_stages = 2, .chunk = 24, .rows_from = 20 * ROW_BYTES, .seed = 2},
         2 * 1}, /* the second is too small */
        {{.device = "twin", .n_stages = 3, .chunk = 24, .rows_from = 1, .seed = 3},
         2 * 2 * 2}, /* what came goes on */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct came got = ask_twins(&cases[i].how);
        check_same(&got, __LINE__);
        CHECK_INT(twin.transfers(), cases[i].transfers);
        CHECK_INT(twin.mismatches(), 0);
        CHECK_INT(twin.comms(), 0);
    }
}

SL_TEST(answers_are_those_of_the_cpu_when_rows_go_by_ucx)
{
    for (uint64_t seed = 1; seed <= 3; seed++) { /* of the twin's streams: how late copies are */
        struct came got = ask_twins(&(struct how){.device = "twin",
                                                  .n_stages = seed == 1 ? 3 : 2,
                                                  .chunk = 24,
                                                  .rows_from = seed == 3 ? 20 * ROW_BYTES : 1,
                                                  .seed = seed,
                                                  .transport = "ucx",
                                                  .way = SL_ROWS_UCX});
        check_same(&got, __LINE__);
    }
}

/* What a twin is to copy, what UCX has begun, the greeting: all of it comes home with its line. */
SL_TEST(answers_are_those_of_the_cpu_when_lines_break_amid_rows_by_ucx)
{
    uint32_t n_cuts = 0;
    const char *more = getenv("SLUICE_SEEDS");
    uint64_t seeds = more ? strtoull(more, NULL, 10) : 2;
    for (uint64_t seed = 1; seed <= seeds; seed++) {
        struct came got = ask_twins(&(struct how){.device = "twin",
                                                  .n_stages = 2 + seed % 2,
                                                  .chunk = 4,
                                                  .rows_from = 1,
                                                  .seed = seed,
                                                  .transport = "ucx",
                                                  .way = SL_ROWS_UCX,
                                                  .n_cuts = &n_cuts});
        check_same(&got, __LINE__);
    }
    CHECK(n_cuts > 0);
}

SL_TEST(rows_that_fail_on_the_way_come_over_another_line)
{
    struct came got = ask_twins(&(struct how){.device = "twin",
                                              .n_stages = 2,
                                              .chunk = 24,
                                              .rows_from = 1,
                                              .seed = 4,
                                              .fault = "async_error",
                                              .after = 1,
                                              .times = 2,
                                              .transport = "ucx"});
    check_same(&got, __LINE__);
    CHECK_INT(twin.struck(), 2);
    CHECK_INT(twin.comms(), 0);
}

SL_TEST(a_byte_that_changed_on_the_way_is_found_and_never_answered_with)
{
    struct came got = ask_twins(&(struct how){.device = "twin",
                                              .n_stages = 2,
                                              .chunk = 24,
                                              .rows_from = 1,
                                              .seed = 5,
                                              .fault = "corrupt",
                                              .after = 1,
                                              .times = 1});
    CHECK_INT(twin.struck(), 1);
    CHECK(got.status != SL_OK && got.n == 0);
}
