/* kernels/cuda/session.c: a GPU is chosen, held and has a context, or one sentence says why not; over the twin. */
#include "kernels/cuda/session.h"
#include "kernels/cuda/twin.h"
#include "tests/check.h"
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

static const struct sl_gpu_need no_need = {.capability = 80};

static void start(struct sl_cu_twin_config config)
{
    config.device_bytes = config.device_bytes ? config.device_bytes : 1 << 20;
    config.capability = config.capability ? config.capability : 90;
    sl_cu_twin_start(&config);
    sl_cu_twin()->init(0);
}

static sl_status open_text(struct sl_gpu_session *session, const char *text, const struct sl_gpu_need *need,
                           const char *folder, struct sl_err *err)
{
    struct sl_gpu_choice choice;
    SL_TRY(sl_gpu_choice_read(&choice, text, err));
    return sl_gpu_session_open(session, sl_cu_twin(), &choice, need, folder, err);
}

/* Refused with this, and nothing of it is left: neither its lock nor a context. */
static void refused(const char *text, const struct sl_gpu_need *need, sl_status status, const char *why)
{
    struct sl_gpu_session session = {.hold.fd = -1};
    struct sl_err err = {0};
    CHECK_INT(open_text(&session, text, need, sl_test_dir(), &err), status);
    CHECK_CONTAINS(err.text, why);
    CHECK_INT(session.hold.fd, -1);
    CHECK(!session.context);
}

SL_TEST(a_gpu_is_opened_by_number_and_by_the_uuid_that_is_told)
{
    struct sl_gpu_session session, other;
    struct sl_err err;
    sl_cu_at at;
    char text[64] = "cuda:", uuid[SL_GPU_UUID_TEXT];
    const char *folder = sl_test_dir();
    start((struct sl_cu_twin_config){.n_devices = 3});
    REQUIRE(open_text(&session, "cuda:2", &no_need, folder, &err) == SL_OK);
    CHECK(session.gpu.number == 2 && session.gpu.capability == 90 && session.gpu.multiprocessors == 4 &&
          session.gpu.has_ecc);
    CHECK_INT(session.free_bytes, 1 << 20);
    CHECK_STR(session.gpu.bus, "0000:03:00.0");
    sl_gpu_uuid_text(uuid, &session.gpu);
    snprintf(text + 5, sizeof text - 5, "%s", uuid);
    CHECK_INT(open_text(&other, text, &no_need, folder, &err), SL_OK); /* another stage of this process */
    CHECK(other.gpu.number == 2 && other.context == session.context);
    sl_gpu_session_close(&session);
    CHECK_INT(other.cuda->mem_alloc(&at, 100), SL_CU_OK); /* its context is there yet */
    CHECK_INT(other.cuda->mem_free(at), SL_CU_OK);
    sl_gpu_session_close(&other);
    sl_gpu_session_close(&other);
    CHECK_INT(sl_cu_twin_take_report().misuses, 0);
    sl_cu_twin_stop();
}

/* As another process has it: by a description of the file that is not the session's. */
static int lock_as_another(const char *folder, uint32_t number)
{
    struct sl_gpu gpus[SL_GPU_MOST];
    struct sl_err err;
    uint32_t n;
    char uuid[SL_GPU_UUID_TEXT], path[512];
    if (sl_cu_twin()->init(0) != SL_CU_OK || sl_gpu_list(sl_cu_twin(), gpus, &n, &err) != SL_OK)
        abort();
    sl_gpu_uuid_text(uuid, &gpus[number]);
    snprintf(path, sizeof path, "%s/sluice-%s.lock", folder, uuid);
    int fd = open(path, O_RDWR | O_CREAT, 0600);
    if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) != 0)
        abort();
    return fd;
}

SL_TEST(auto_takes_the_first_that_nobody_else_has_and_says_when_there_is_none)
{
    struct sl_gpu_session session;
    struct sl_err err;
    const char *folder = sl_test_dir();
    start((struct sl_cu_twin_config){.n_devices = 4, .in_use = 1u << 1});
    static const uint32_t wanted[] = {0, 2, 3};
    int locks[3];
    for (int i = 0; i < 3; i++) {
        REQUIRE(open_text(&session, "auto", &no_need, folder, &err) == SL_OK);
        CHECK_INT(session.gpu.number, wanted[i]);
        sl_gpu_session_close(&session);
        locks[i] = lock_as_another(folder, wanted[i]);
    }
    CHECK_INT(open_text(&session, "auto", &no_need, folder, &err), SL_E_UNAVAILABLE);
    CHECK_CONTAINS(err.text, "none of 4 GPUs can be had; the first: process ");
    for (int i = 0; i < 3; i++)
        close(locks[i]);
    sl_cu_twin_stop();
}

SL_TEST(what_cannot_be_had_is_one_sentence_and_leaves_nothing)
{
    start((struct sl_cu_twin_config){.n_devices = 2, .in_use = 1});
    refused("cuda:2", &no_need, SL_E_UNAVAILABLE, "there is no cuda:2: the driver lists 2");
    refused("cuda:GPU-01234567-89ab-cdef-0123-456789abcdef", &no_need, SL_E_UNAVAILABLE,
            "no GPU has the UUID 01234567");
    refused("cuda:0", &no_need, SL_E_UNAVAILABLE,
            "cuda:0 (a twin of a GPU) is in use by a program that has it for itself");
    refused("cuda:1", &(struct sl_gpu_need){80, 2 << 20}, SL_E_UNAVAILABLE,
            "this stage needs 0.00: give it fewer layers");
    refused("cuda:1", &(struct sl_gpu_need){100, 0}, SL_E_UNAVAILABLE,
            "has compute capability 9.0; our kernels need 10.0");
    refused("gpu", &no_need, SL_E_USAGE, "names no GPU");
    start((struct sl_cu_twin_config){.n_devices = 1, .mode = SL_CU_MODE_PROHIBITED});
    refused("cuda:0", &no_need, SL_E_UNAVAILABLE, "is in the compute mode that forbids programs");
    refused("auto", &no_need, SL_E_UNAVAILABLE, "none of 1 GPUs can be had; the first: cuda:0");
    start((struct sl_cu_twin_config){.n_devices = 1});
    struct sl_gpu_session session;
    struct sl_err err;
    sl_cu_at at;
    const char *folder = sl_test_dir();
    const struct sl_gpu_need most = {.bytes = 1 << 20};
    REQUIRE(open_text(&session, "cuda:0", &no_need, folder, &err) == SL_OK);
    CHECK_INT(session.cuda->mem_alloc(&at, 1000), SL_CU_OK); /* as another program would have it */
    sl_gpu_hold_release(&session.hold);
    struct sl_gpu_session second;
    CHECK_INT(open_text(&second, "cuda:0", &most, folder, &err), SL_E_UNAVAILABLE);
    CHECK_CONTAINS(err.text, "GiB free of 0.00 and this stage needs 0.00: end what uses it, or give it less");
    CHECK(second.hold.fd == -1 && !second.context);
    sl_gpu_session_close(&session);
    sl_cu_twin_stop();
}
