/* --device and --devices, read (device_kind.h). Only who is about to open a device looks whether there is a GPU: looking starts
 * the driver, and who starts other processes has no business with it. */
#include "pipeline/stage/device_kind.h"
#include "kernels/cuda/images.h"
#include "kernels/cuda/session.h"
#include "kernels/isa.h"
#include <stdio.h>
#include <string.h>

static bool has_gpu(void)
{
    const struct sl_cuda *cuda;
    struct sl_gpu gpus[SL_GPU_MOST];
    struct sl_err err;
    uint32_t n = 0;
    return sl_gpu_n_images > 0 && sl_cuda_open(&cuda, &err) == SL_OK &&
           sl_gpu_list(cuda, gpus, &n, &err) == SL_OK && n > 0;
}

/* look: for a GPU, where that is asked for. */
static sl_status read_kind(enum sl_device_kind *kind, const char *text, bool look, struct sl_err *err)
{
    struct sl_gpu_choice choice;
    *kind = SL_DEVICE_CPU;
    if (!text || strcmp(text, "cpu") == 0)
        return SL_OK;
    if (strcmp(text, "twin") == 0)
        *kind = SL_DEVICE_TWIN;
    else if (strcmp(text, "auto") == 0)
        *kind = look && has_gpu() ? SL_DEVICE_CUDA : SL_DEVICE_CPU;
    else if (strncmp(text, "cuda", 4) != 0)
        return sl_fail(err, SL_E_USAGE,
                       "device \"%.60s\" is unknown; use cpu, cuda, cuda:N, cuda:UUID, auto or twin", text);
    else {
        SL_TRY(sl_gpu_choice_read(&choice, text, err));
        *kind = SL_DEVICE_CUDA;
    }
    return SL_OK;
}

sl_status sl_device_kind_read(enum sl_device_kind *kind, const char *text, struct sl_err *err)
{
    return read_kind(kind, text, true, err);
}

bool sl_device_is_shared(const char *text)
{
    const char *end = text ? strrchr(text, '/') : NULL;
    return end && strcmp(end, "/shared") == 0;
}

sl_status sl_device_look(enum sl_device_kind kind, struct sl_err *err)
{
    const struct sl_cuda *cuda;
    return kind == SL_DEVICE_CUDA ? sl_cuda_open(&cuda, err) : SL_OK;
}

uint32_t sl_device_profiles(enum sl_device_kind kind)
{
    switch (kind) { /* no default: the compiler asks for a new one */
    case SL_DEVICE_CUDA:
    case SL_DEVICE_TWIN:
        return 1u << SL_PROFILE_F32;
    case SL_DEVICE_CPU:
    case SL_DEVICE_LATE:
        break;
    }
    return sl_ops_profiles();
}

sl_status sl_device_of_list(char text[SL_DEVICE_TEXT], const char *list, uint32_t number, uint32_t n_nodes,
                            struct sl_err *err)
{
    uint32_t n = 0;
    snprintf(text, SL_DEVICE_TEXT, "cpu");
    for (const char *at = list; at; n++) {
        char entry[SL_DEVICE_TEXT];
        enum sl_device_kind kind;
        size_t bytes = strcspn(at, ",");
        if (n == n_nodes)
            return sl_fail(
                err, SL_E_USAGE,
                "--devices has more than the %u processes that there are: stages first, then decode workers",
                n_nodes);
        snprintf(entry, sizeof entry, "%.*s", bytes < sizeof entry ? (int)bytes : (int)sizeof entry - 1, at);
        SL_TRY(read_kind(&kind, entry, false, err));
        if (n == number)
            memcpy(text, entry, sizeof entry);
        at = at[bytes] ? at + bytes + 1 : NULL;
    }
    return SL_OK;
}
