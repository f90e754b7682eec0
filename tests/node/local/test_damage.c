/* A damaged frame in a running pipeline, over both transports, with the real roles: the request ends DATA_LOSS, or the pipeline
 * says what it lost; what was told before is right, and there is never a wrong token. */
#include "base/log.h"
#include "model/pack/pack.h"
#include "node/local/cluster.h"
#include "pipeline/link/transport_impl.h"
#include "tests/check.h"
#include "tests/node/local/cut_lines.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

enum { STAGES = 2, PROMPT = 150, OUT = 12, DECODE = STAGES + 1 };

struct told { /* what a caller heard */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool done;
    sl_status status;
    uint32_t n, ids[OUT];
    char error[320];
};

static void on_piece(void *user, const struct sl_generated *p)
{
    struct told *t = user;
    pthread_mutex_lock(&t->lock);
    for (uint32_t i = 0; i < p->n_tokens && t->n < OUT; i++)
        t->ids[t->n++] = p->tokens[i].id;
    if (p->done) {
        t->status = p->status;
        snprintf(t->error, sizeof t->error, "%s", p->error ? p->error : "");
        t->done = true;
    }
    pthread_cond_broadcast(&t->changed);
    pthread_mutex_unlock(&t->lock);
}

static void ask(struct sl_cluster *cluster, struct told *t)
{
    uint32_t ids[PROMPT];
    uint64_t handle;
    struct sl_err err;
    for (uint32_t i = 0; i < PROMPT; i++)
        ids[i] = (i * 53 + 11) % 4000;
    struct sl_generate g = {.ids = ids,
                            .n_ids = PROMPT,
                            .max_tokens = OUT,
                            .ignore_eos = true,
                            .sampling = {.temperature = 0.8f, .top_p = 1, .seed = 9, .n_logprobs = -1},
                            .prompt_logprobs = -1,
                            .deadline_ms = -1};
    *t = (struct told){0};
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->changed, NULL);
    if (sl_coordinator_submit(sl_cluster_coordinator(cluster), &g, on_piece, t, &handle, &err) != SL_OK)
        sl_test_fail(__FILE__, __LINE__, "%s", err.text);
    pthread_mutex_lock(&t->lock);
    while (!t->done)
        pthread_cond_wait(&t->changed, &t->lock);
    pthread_mutex_unlock(&t->lock);
}

static struct sl_cluster *start(const char *transport)
{
    static char path[300];
    struct sl_err err;
    struct sl_cluster *cluster = NULL;
    snprintf(path, sizeof path, "%s/pack", sl_test_dir());
    sl_log_init("test", SL_LOG_WARN);
    if (!sl_pack_is_pack(path) && sl_pack_write("demo", path, &(struct sl_pack_options){0}, &err) != SL_OK)
        sl_test_fail(__FILE__, __LINE__, "%s", err.text);
    struct sl_cluster_config config = {.model = path,
                                       .n_stages = STAGES,
                                       .n_threads = 1,
                                       .chunk_tokens = 64,
                                       .transport = transport,
                                       .kv = "bf16",
                                       .context_tokens = 256,
                                       .max_running = 2,
                                       .quiet = true};
    if (sl_cluster_start(&cluster, &config, &err) != SL_OK)
        sl_test_fail(__FILE__, __LINE__, "%s", err.text);
    return cluster;
}

struct damage {
    const char *what;
    uint32_t sender; /* node */
    enum sl_wire_kind kind;
    enum sl_damage where;
    uint32_t at;
    bool request_alone; /* the pipeline goes on */
};

static const struct damage damages[] = {
    {"KV, page", 1, SL_WIRE_KV, SL_DAMAGE_ROWS, 700, true},
    {"KV of the last stage, page", 2, SL_WIRE_KV, SL_DAMAGE_ROWS, 3, true},
    {"KV, header", 1, SL_WIRE_KV, SL_DAMAGE_HEADER, 60, false},
    {"ORDER to stage 0, record", 0, SL_WIRE_ORDER, SL_DAMAGE_META, 9, false},
    {"ORDER to stage 0, header", 0, SL_WIRE_ORDER, SL_DAMAGE_HEADER, 20, false},
    {"ORDER between stages, header", 1, SL_WIRE_ORDER, SL_DAMAGE_HEADER, 30, false},
    {"ORDER between stages, record", 1, SL_WIRE_ORDER, SL_DAMAGE_META, 40, false},
    {"ORDER between stages, rows", 1, SL_WIRE_ORDER, SL_DAMAGE_ROWS, 5000, false},
    {"RESULT, header", 2, SL_WIRE_RESULT, SL_DAMAGE_HEADER, 90, false},
    {"RESULT, body", 2, SL_WIRE_RESULT, SL_DAMAGE_META, 100, false},
    {"ADOPT, header", 0, SL_WIRE_ADOPT, SL_DAMAGE_HEADER, 16, false},
    {"ADOPT, body", 0, SL_WIRE_ADOPT, SL_DAMAGE_META, 13, false},
    {"TOKENS, header", DECODE, SL_WIRE_TOKENS, SL_DAMAGE_HEADER, 96, false},
    {"TOKENS, body", DECODE, SL_WIRE_TOKENS, SL_DAMAGE_META, 17, false},
};

/* What was lost is named, and what to do. */
static bool names_it(const char *error)
{
    static const char *const names[] = {"stage", "decode", "KV pages"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strstr(error, names[i]))
            return strstr(error, "again") != NULL;
    return false;
}

static void meet(const char *transport, const struct damage *d, const struct told *right)
{
    struct told t, again;
    struct sl_cluster *cluster = start(transport);
    if (!sl_io_fault_damage(sl_cluster_io(cluster, d->sender), 0, d->kind, d->where, d->at))
        sl_test_fail(__FILE__, __LINE__, "%s over %s: the damage could not be planted", d->what, transport);
    ask(cluster, &t);
    bool prefix = t.n <= right->n && memcmp(t.ids, right->ids, t.n * sizeof *t.ids) == 0;
    bool said = t.status == SL_E_CORRUPT || (!d->request_alone && t.status == SL_E_UNAVAILABLE);
    if (!prefix || !said || !names_it(t.error))
        sl_test_fail(__FILE__, __LINE__, "%s over %s: %u tokens (%s), status %d, \"%s\"", d->what, transport,
                     t.n, prefix ? "right" : "wrong", t.status, t.error);
    ask(cluster, &again);
    if (d->request_alone) { /* and the next one is as if nothing had been */
        CHECK_INT(again.status, SL_OK);
        CHECK(again.n == right->n && memcmp(again.ids, right->ids, sizeof right->ids) == 0);
        CHECK(sl_coordinator_wait_idle(sl_cluster_coordinator(cluster), 60000));
    } else {
        CHECK_INT(again.status, SL_E_UNAVAILABLE);
        CHECK_INT(sl_coordinator_life(sl_cluster_coordinator(cluster)), SL_LIFE_LOST);
    }
    sl_cluster_stop(cluster);
}

static void meet_all(const char *transport)
{
    struct told right;
    struct sl_cluster *cluster = start(transport);
    ask(cluster, &right);
    CHECK_INT(right.status, SL_OK);
    CHECK_INT(right.n, OUT);
    sl_cluster_stop(cluster);
    for (size_t i = 0; i < sizeof damages / sizeof *damages; i++)
        meet(transport, &damages[i], &right);
}

SL_TEST(a_damaged_frame_is_never_a_token_over_the_local_transport)
{
    meet_all("local");
}

SL_TEST(a_damaged_frame_is_never_a_token_over_ucx)
{
    meet_all("ucx");
}

/* Frames in flight are lost with their lines; they come again, once, and nobody outside learns of it. */
SL_TEST(a_network_that_blinks_changes_no_token)
{
    struct told right, t;
    struct cutter cutter = {.cluster = start("ucx"), .n_nodes = DECODE + 1};
    ask(cutter.cluster, &right);
    CHECK_INT(right.status, SL_OK);
    cutter_begin(&cutter);
    for (int i = 0; i < 10; i++) {
        ask(cutter.cluster, &t);
        if (t.status != SL_OK)
            sl_test_fail(__FILE__, __LINE__, "request %d: %s", i, t.error);
        CHECK(t.n == right.n && memcmp(t.ids, right.ids, sizeof right.ids) == 0);
    }
    cutter_end(&cutter);
    CHECK(cutter.n_cuts >= 4);
    CHECK_INT(sl_coordinator_life(sl_cluster_coordinator(cutter.cluster)), SL_LIFE_READY);
    sl_cluster_stop(cutter.cluster);
}
