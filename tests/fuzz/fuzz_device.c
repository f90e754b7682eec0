/* What --device says of a GPU. What is taken names one by number, by UUID or any, and said again it is the same one; what is
 * not taken is refused with a sentence. */
#include "kernels/cuda/choice.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void require(bool promise)
{
    if (!promise)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct sl_gpu_choice choice, again;
    struct sl_err err = {0};
    char *text = malloc(bytes + 1), said[64];
    require(text != NULL);
    memcpy(text, data, bytes);
    text[bytes] = 0;
    if (sl_gpu_choice_read(&choice, text, &err) != SL_OK) {
        require(err.status == SL_E_USAGE && err.text[0] != 0);
        free(text);
        return 0;
    }
    free(text);
    struct sl_gpu gpu = {.number = choice.number};
    memcpy(gpu.uuid, choice.uuid, sizeof gpu.uuid);
    char uuid[SL_GPU_UUID_TEXT];
    sl_gpu_uuid_text(uuid, &gpu);
    const char *shared = choice.shared ? "/shared" : "";
    if (choice.by == SL_GPU_BY_NUMBER)
        snprintf(said, sizeof said, "cuda:%u%s", choice.number, shared);
    else
        snprintf(said, sizeof said, "%s%s%s",
                 choice.by == SL_GPU_ANY ? "auto" : "cuda:", choice.by == SL_GPU_ANY ? "" : uuid, shared);
    require(choice.by != SL_GPU_BY_NUMBER || choice.number < SL_GPU_MOST);
    require(sl_gpu_choice_read(&again, said, &err) == SL_OK);
    require(again.by == choice.by && again.number == choice.number && again.shared == choice.shared &&
            memcmp(again.uuid, choice.uuid, 16) == 0);
    return 0;
}
