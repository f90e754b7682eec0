/* Choosing a GPU among those of the driver, and its context (session.h). */
#include "kernels/cuda/session.h"
#include <string.h>

static sl_status attribute(const struct sl_cuda *cuda, sl_cu_device device, unsigned which, int *value,
                           struct sl_err *err)
{
    return sl_cu_check(cuda, cuda->device_attribute(value, which, device), "asking what it is", err);
}

static sl_status describe(const struct sl_cuda *cuda, uint32_t number, struct sl_gpu *gpu, struct sl_err *err)
{
    static const char what[] = "asking what it is";
    sl_cu_device device;
    int major, minor, multiprocessors, has_ecc;
    size_t bytes;
    *gpu = (struct sl_gpu){.number = number};
    SL_TRY(sl_cu_check(cuda, cuda->device_get(&device, (int)number), what, err));
    SL_TRY(sl_cu_check(cuda, cuda->device_name(gpu->name, sizeof gpu->name - 1, device), what, err));
    SL_TRY(sl_cu_check(cuda, cuda->device_bus(gpu->bus, sizeof gpu->bus - 1, device), what, err));
    SL_TRY(sl_cu_check(cuda, cuda->device_uuid((struct CUuuid_st *)(void *)gpu->uuid, device), what, err));
    SL_TRY(sl_cu_check(cuda, cuda->device_bytes(&bytes, device), what, err));
    SL_TRY(attribute(cuda, device, SL_CU_CAPABILITY_MAJOR, &major, err));
    SL_TRY(attribute(cuda, device, SL_CU_CAPABILITY_MINOR, &minor, err));
    SL_TRY(attribute(cuda, device, SL_CU_COMPUTE_MODE, &gpu->mode, err));
    SL_TRY(attribute(cuda, device, SL_CU_MULTIPROCESSORS, &multiprocessors, err));
    SL_TRY(attribute(cuda, device, SL_CU_HAS_ECC, &has_ecc, err));
    gpu->bytes = bytes;
    gpu->capability = (uint32_t)(major * 10 + minor);
    gpu->multiprocessors = (uint32_t)multiprocessors;
    gpu->has_ecc = has_ecc != 0;
    return SL_OK;
}

sl_status sl_gpu_list(const struct sl_cuda *cuda, struct sl_gpu *gpus, uint32_t *n, struct sl_err *err)
{
    int count = 0;
    *n = 0;
    SL_TRY(sl_cu_check(cuda, cuda->device_count(&count), "counting", err));
    uint32_t most = count < 0 ? 0 : count > SL_GPU_MOST ? SL_GPU_MOST : (uint32_t)count;
    for (uint32_t i = 0; i < most; i++)
        SL_TRY(describe(cuda, i, &gpus[i], err));
    *n = most;
    return SL_OK;
}

/* The driver knows of other programs only now. */
static sl_status make_context(struct sl_gpu_session *s, struct sl_err *err)
{
    sl_cu_result result = s->cuda->ctx_retain(&s->context, s->device);
    if (result == SL_CU_DEVICE_UNAVAILABLE)
        return sl_fail(
            err, SL_E_UNAVAILABLE,
            "cuda:%u (%s) is in use by a program that has it for itself: end it, or `nvidia-smi -i %u -c DEFAULT`",
            s->gpu.number, s->gpu.name, s->gpu.number);
    if (result != SL_CU_OK)
        s->context = NULL;
    SL_TRY(sl_cu_check(s->cuda, result, "making a context", err));
    SL_TRY(sl_cu_check(s->cuda, s->cuda->ctx_set_current(s->context), "making its context current", err));
    size_t free_bytes, total;
    SL_TRY(sl_cu_check(s->cuda, s->cuda->mem_info(&free_bytes, &total), "asking for its free memory", err));
    s->free_bytes = free_bytes;
    return SL_OK;
}

static sl_status take(struct sl_gpu_session *s, const struct sl_gpu *gpu, const struct sl_gpu_need *need,
                      bool shared, const char *folder, struct sl_err *err)
{
    char uuid[SL_GPU_UUID_TEXT];
    s->gpu = *gpu;
    SL_TRY(sl_gpu_suits(gpu, need, err));
    SL_TRY(sl_cu_check(s->cuda, s->cuda->device_get(&s->device, (int)gpu->number), "looking it up", err));
    sl_gpu_uuid_text(uuid, gpu);
    SL_TRY(sl_gpu_hold_take(&s->hold, uuid, shared, folder, err));
    SL_TRY(make_context(s, err));
    if (s->free_bytes < need->bytes)
        return sl_fail(
            err, SL_E_UNAVAILABLE,
            "cuda:%u (%s) has %.2f GiB free of %.2f and this stage needs %.2f: end what uses it, or give it less",
            gpu->number, gpu->name, (double)s->free_bytes / 0x1p30, (double)gpu->bytes / 0x1p30,
            (double)need->bytes / 0x1p30);
    return SL_OK;
}

/* One after the other; of several that can't be had, the sentence is the first one's. */
static sl_status take_any(struct sl_gpu_session *s, const struct sl_gpu *gpus, uint32_t n,
                          const struct sl_gpu_need *need, const char *folder, struct sl_err *err)
{
    struct sl_err first = {0}, this;
    for (uint32_t i = 0; i < n; i++) {
        if (take(s, &gpus[i], need, false, folder, &this) == SL_OK)
            return SL_OK;
        sl_gpu_session_close(s);
        if (!first.text[0])
            first = this;
    }
    if (n == 0)
        return sl_fail(err, SL_E_UNAVAILABLE,
                       "the driver lists no GPU: see `nvidia-smi -L`, and CUDA_VISIBLE_DEVICES");
    return sl_fail(err, SL_E_UNAVAILABLE, "none of %u GPUs can be had; the first: %s", n, first.text);
}

sl_status sl_gpu_session_open(struct sl_gpu_session *session, const struct sl_cuda *cuda,
                              const struct sl_gpu_choice *choice, const struct sl_gpu_need *need,
                              const char *folder, struct sl_err *err)
{
    struct sl_gpu gpus[SL_GPU_MOST];
    uint32_t n, which;
    *session = (struct sl_gpu_session){.cuda = cuda, .hold.fd = -1};
    SL_TRY(sl_gpu_list(cuda, gpus, &n, err));
    if (choice->by == SL_GPU_ANY)
        return take_any(session, gpus, n, need, folder, err);
    SL_TRY(sl_gpu_find(gpus, n, choice, &which, err));
    sl_status status = take(session, &gpus[which], need, choice->shared, folder, err);
    if (status != SL_OK)
        sl_gpu_session_close(session);
    return status;
}

void sl_gpu_session_close(struct sl_gpu_session *session)
{
    if (session
            ->context) /* after a final error this fails, and there is nothing that could be done about it */
        session->cuda->ctx_release(session->device);
    session->context = NULL;
    sl_gpu_hold_release(&session->hold);
}
