/* Every allocation fails once: pack open, weights and stage (what a worker does when it joins), the coordinator, and request
 * admission must each end in an error and leak nothing that a sanitizer would see. */
#include "base/log.h"
#include "model/pack/pack.h"
#include "node/coordinator/members.h"
#include "node/local/cluster.h"
#include "pipeline/stage/stage.h"
#include "tests/check.h"
#include "tests/failing.h"
#include <stdatomic.h>
#include <stdlib.h>

static char pack_path[300];

static void make_pack(void)
{
    sl_log_init("test", SL_LOG_ERROR);
    snprintf(pack_path, sizeof pack_path, "%s/pack", sl_test_dir());
    struct sl_err err;
    if (sl_pack_write("demo", pack_path, &(struct sl_pack_options){0}, &err) != SL_OK)
        sl_test_fail(__FILE__, __LINE__, "%s", err.text);
}

/* Calls step with the 1st, 2nd, ... allocation failing, until it goes through without one having failed. Returns how many
 * allocations there were; every failure must have been an error with a sentence. */
static long loop(sl_status (*step)(struct sl_err *err), const char *what)
{
    for (long n = 0; n < 100000; n++) {
        struct sl_err err = {0};
        failed = false;
        countdown = n;
        sl_status status = step(&err);
        countdown = -1;
        if (!failed) {
            if (status != SL_OK)
                sl_test_fail(__FILE__, __LINE__, "%s fails without reason: %s", what, err.text);
            return n;
        }
        if (status != SL_OK && err.text[0] == 0)
            sl_test_fail(__FILE__, __LINE__, "%s: allocation %ld failed without a sentence", what, n);
    }
    return -1;
}

static sl_status open_pack(struct sl_err *err)
{
    struct sl_pack *pack;
    SL_TRY(sl_pack_open(&pack, pack_path, err));
    sl_pack_close(pack);
    return SL_OK;
}

SL_TEST(opening_a_pack)
{
    make_pack();
    CHECK(loop(open_pack, "pack open") > 5);
}

static struct sl_pack *the_pack;
static enum sl_device_kind the_device;

static sl_status bind_stage(struct sl_err *err)
{
    struct sl_plan plan;
    struct sl_plan_options options = {.n_stages = 2, .n_decoders = 1, .context_tokens = 128};
    SL_TRY(sl_plan_for_shape(&plan, sl_pack_shape(the_pack), &options, err));
    struct sl_share config = sl_plan_share(&plan, 1, 1);
    config.device = the_device;
    struct sl_stage *stage;
    SL_TRY(sl_stage_create(&stage, the_pack, &config, NULL, err));
    sl_stage_destroy(stage);
    struct sl_io_address at = {.n = 1};
    struct sl_members_config control_config = {.plan = &plan, .model_digest = "x", .data = &at};
    struct sl_members *control;
    SL_TRY(sl_members_create(&control, &control_config, err));
    sl_members_destroy(control);
    return SL_OK;
}

SL_TEST(joining_and_binding_a_stage)
{
    make_pack();
    REQUIRE(sl_pack_open(&the_pack, pack_path, NULL) == SL_OK);
    CHECK(loop(bind_stage, "stage") > 5);
    the_device = SL_DEVICE_LATE;
    CHECK(loop(bind_stage, "stage on another device") > 10);
    the_device = SL_DEVICE_TWIN;
    CHECK(loop(bind_stage, "stage on the twin of a GPU") > 100);
    sl_pack_close(the_pack);
}

static struct sl_cluster *the_cluster;

static void on_piece(void *user, const struct sl_generated *piece)
{
    (void)user, (void)piece;
}

static sl_status admit(struct sl_err *err)
{
    uint32_t ids[40] = {1, 2, 3};
    uint64_t handle;
    struct sl_generate ask = {.ids = ids,
                              .n_ids = 40,
                              .max_tokens = 2,
                              .sampling = {.top_p = 1, .n_logprobs = -1},
                              .prompt_logprobs = 1,
                              .n_stop = 2,
                              .stop = {"abc", "de"},
                              .deadline_ms = -1};
    return sl_coordinator_submit(sl_cluster_coordinator(the_cluster), &ask, on_piece, NULL, &handle, err);
}

SL_TEST(admitting_a_request)
{
    make_pack();
    struct sl_cluster_config config = {.model = pack_path,
                                       .n_stages = 1,
                                       .n_threads = 1,
                                       .transport = "local",
                                       .kv = "bf16",
                                       .context_tokens = 64};
    struct sl_err err;
    REQUIRE(sl_cluster_start(&the_cluster, &config, &err) == SL_OK);
    CHECK(loop(admit, "admission") > 3);
    CHECK(sl_coordinator_wait_idle(sl_cluster_coordinator(the_cluster), 60000));
    sl_cluster_stop(the_cluster);
}

static void arm(void *user)
{
    (void)user;
    failed = false;
    countdown = 0;
}

static void disarm(void *user)
{
    (void)user;
    countdown = -1;
}

static void on_end(void *user, const struct sl_generated *piece)
{
    if (piece->done)
        atomic_store((_Atomic int *)user, piece->status);
}

/* Room for the log-probabilities of its prompt is taken when it is admitted, on the coordinator's thread. */
SL_TEST(a_request_without_room_for_its_answer_ends_alone)
{
    make_pack();
    struct sl_cluster_config config = {.model = pack_path,
                                       .n_stages = 1,
                                       .n_threads = 1,
                                       .transport = "local",
                                       .kv = "bf16",
                                       .context_tokens = 64};
    struct sl_err err;
    uint32_t ids[40] = {1, 2, 3};
    uint64_t handle;
    _Atomic int status[2] = {-1, -1};
    struct sl_generate ask = {.ids = ids,
                              .n_ids = 40,
                              .max_tokens = 2,
                              .sampling = {.top_p = 1, .n_logprobs = -1},
                              .prompt_logprobs = 1,
                              .deadline_ms = -1};
    REQUIRE(sl_cluster_start(&the_cluster, &config, &err) == SL_OK);
    struct sl_coordinator *c = sl_cluster_coordinator(the_cluster);
    for (int i = 0; i < 2; i++) {
        REQUIRE(sl_coordinator_call(c, i == 0 ? arm : disarm, NULL) == SL_OK);
        REQUIRE(sl_coordinator_submit(c, &ask, on_end, &status[i], &handle, &err) == SL_OK);
        CHECK(sl_coordinator_wait_idle(c, 60000));
    }
    CHECK_INT(status[0], SL_E_EXHAUSTED);
    CHECK_INT(status[1], SL_OK);
    sl_cluster_stop(the_cluster);
}
