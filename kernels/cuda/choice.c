/* --device of a GPU, read and looked up (choice.h). */
#include "kernels/cuda/choice.h"
#include "kernels/cuda/driver.h"
#include <stdio.h>
#include <string.h>

enum { UUID_CHARS = 36 };

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The text's end, or "/shared" and that. */
static bool read_shared(bool *shared, const char *text)
{
    *shared = strcmp(text, "/shared") == 0;
    return *shared || !*text;
}

/* 8-4-4-4-12 digits; `end` is behind them. */
static bool read_uuid(uint8_t uuid[16], const char *text, const char **end)
{
    if (strnlen(text, UUID_CHARS) != UUID_CHARS)
        return false;
    *end = text + UUID_CHARS;
    for (uint32_t at = 0, n = 0; at < UUID_CHARS; at++) {
        if (at == 8 || at == 13 || at == 18 || at == 23) {
            if (text[at] != '-')
                return false;
            continue;
        }
        int digit = hex_digit(text[at]);
        if (digit < 0)
            return false;
        uuid[n / 2] = (uint8_t)(n % 2 ? uuid[n / 2] | digit : digit << 4);
        n++;
    }
    return true;
}

static bool read_number(uint32_t *number, const char *text, const char **end)
{
    uint32_t value = 0;
    const char *c = text;
    for (; *c >= '0' && *c <= '9' && value < SL_GPU_MOST; c++)
        value = value * 10 + (uint32_t)(*c - '0');
    if (c == text || value >= SL_GPU_MOST || (text[0] == '0' && c > text + 1))
        return false;
    *number = value;
    *end = c;
    return true;
}

sl_status sl_gpu_choice_read(struct sl_gpu_choice *choice, const char *text, struct sl_err *err)
{
    static const char prefix[] = "cuda:";
    *choice = (struct sl_gpu_choice){.by = SL_GPU_ANY};
    if (strcmp(text, "cuda") == 0 || strcmp(text, "auto") == 0)
        return SL_OK;
    if (strncmp(text, prefix, sizeof prefix - 1) == 0) {
        const char *which = text + sizeof prefix - 1, *end;
        choice->by = SL_GPU_BY_NUMBER;
        if (read_number(&choice->number, which, &end) && read_shared(&choice->shared, end))
            return SL_OK;
        choice->by = SL_GPU_BY_UUID;
        if (strncmp(which, "GPU-", 4) == 0 || strncmp(which, "MIG-", 4) == 0)
            which += 4;
        if (read_uuid(choice->uuid, which, &end) && read_shared(&choice->shared, end))
            return SL_OK;
    }
    return sl_fail(
        err, SL_E_USAGE,
        "\"%.60s\" names no GPU: use cuda, cuda:N with N from 0 to %d, or cuda:UUID as `nvidia-smi -L` lists it, "
        "the latter two also with /shared behind them",
        text, SL_GPU_MOST - 1);
}

void sl_gpu_uuid_text(char text[SL_GPU_UUID_TEXT], const struct sl_gpu *gpu)
{
    const uint8_t *u = gpu->uuid;
    snprintf(text, SL_GPU_UUID_TEXT,
             "%s-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x",
             strstr(gpu->name, " MIG ") ? "MIG" : "GPU", u[0], u[1], u[2], u[3], u[4], u[5], u[6], u[7], u[8],
             u[9], u[10], u[11], u[12], u[13], u[14], u[15]);
}

sl_status sl_gpu_suits(const struct sl_gpu *gpu, const struct sl_gpu_need *need, struct sl_err *err)
{
    if (gpu->mode == SL_CU_MODE_PROHIBITED)
        return sl_fail(
            err, SL_E_UNAVAILABLE,
            "cuda:%u (%s) is in the compute mode that forbids programs: `nvidia-smi -i %u -c DEFAULT`",
            gpu->number, gpu->name, gpu->number);
    if (gpu->capability < need->capability)
        return sl_fail(
            err, SL_E_UNAVAILABLE,
            "cuda:%u (%s) has compute capability %u.%u; our kernels need %u.%u: take another GPU or the CPU",
            gpu->number, gpu->name, gpu->capability / 10, gpu->capability % 10, need->capability / 10,
            need->capability % 10);
    if (gpu->bytes < need->bytes)
        return sl_fail(err, SL_E_UNAVAILABLE,
                       "cuda:%u (%s) has %.2f GiB and this stage needs %.2f: give it fewer layers or pages",
                       gpu->number, gpu->name, (double)gpu->bytes / 0x1p30, (double)need->bytes / 0x1p30);
    return SL_OK;
}

sl_status sl_gpu_find(const struct sl_gpu *gpus, uint32_t n, const struct sl_gpu_choice *choice,
                      uint32_t *found, struct sl_err *err)
{
    for (uint32_t i = 0; i < n; i++) {
        bool meant = choice->by == SL_GPU_BY_NUMBER ? gpus[i].number == choice->number
                                                    : memcmp(gpus[i].uuid, choice->uuid, 16) == 0;
        if (meant) {
            *found = i;
            return SL_OK;
        }
    }
    if (choice->by == SL_GPU_BY_NUMBER)
        return sl_fail(err, SL_E_UNAVAILABLE,
                       "there is no cuda:%u: the driver lists %u, from cuda:0 on (`nvidia-smi -L`)",
                       choice->number, n);
    char text[SL_GPU_UUID_TEXT];
    struct sl_gpu named = {.number = 0};
    memcpy(named.uuid, choice->uuid, 16);
    sl_gpu_uuid_text(text, &named);
    return sl_fail(err, SL_E_UNAVAILABLE,
                   "no GPU has the UUID %s: the driver lists %u others (`nvidia-smi -L`)", text + 4, n);
}
