/* The table of kinds.h. Peaks are those of data sheets as they are recalled, dense, none of them measured by us, but:
 *   H200      a copy within its memory was seen at 4.3 TB/s
 *   RTX 5090  INT8 as others have measured its products, which are at the rate of its FP8
 * mma.sync on Hopper is recalled to come to 62 % of wgmma at best (arXiv 2402.13499); of an H20, whose tensor cores are throttled, and of
 * a B200, whose integers are tcgen05's, nothing is known. A B300 has hardly any INT8 and is no kind until there is another way. */
#include "kernels/cuda/kinds.h"
#include <string.h>
#include <strings.h>

static const char recalled[] = "a data sheet, recalled",
                  recalled_hopper[] = "a data sheet, recalled; IMMA as 62 % of IGMMA, recalled",
                  recalled_copied[] =
                      "a data sheet, recalled; IMMA as 62 % of IGMMA, recalled; copies measured",
                  recalled_products[] = "a data sheet, recalled; INT8 as others measured its products";

const struct sl_gpu_kind sl_gpu_kinds[] = {
    {.name = "h20",
     .word = "H20",
     .from = recalled,
     .int8_tops = 296,
     .bf16_tflops = 148,
     .f32_tflops = 44,
     .igmma_tops = 296,
     .memory_gb = 96,
     .memory_gbs = 4000,
     .link_gbs = 450},
    {.name = "h100",
     .word = "H100",
     .from = recalled_hopper,
     .int8_tops = 1979,
     .bf16_tflops = 989,
     .f32_tflops = 67,
     .imma_tops = 1227,
     .igmma_tops = 1979,
     .memory_gb = 80,
     .memory_gbs = 3350,
     .link_gbs = 450},
    {.name = "h200",
     .word = "H200",
     .from = recalled_copied,
     .int8_tops = 1979,
     .bf16_tflops = 989,
     .f32_tflops = 67,
     .imma_tops = 1227,
     .igmma_tops = 1979,
     .memory_gb = 141,
     .memory_gbs = 4800,
     .copy_gbs = 4300,
     .link_gbs = 450},
    {.name = "b200",
     .word = "B200",
     .from = recalled,
     .int8_tops = 4500,
     .bf16_tflops = 2250,
     .f32_tflops = 75,
     .memory_gb = 180,
     .memory_gbs = 8000,
     .link_gbs = 900},
    {.name = "a100",
     .word = "A100",
     .from = recalled,
     .int8_tops = 624,
     .bf16_tflops = 312,
     .f32_tflops = 19.5,
     .imma_tops = 624,
     .memory_gb = 80,
     .memory_gbs = 2039,
     .link_gbs = 300},
    {.name = "l40s",
     .word = "L40S",
     .from = recalled,
     .int8_tops = 733,
     .bf16_tflops = 362,
     .f32_tflops = 91.6,
     .imma_tops = 733,
     .memory_gb = 48,
     .memory_gbs = 864,
     .link_gbs = 32},
    {.name = "rtx-5090",
     .word = "5090",
     .from = recalled_products,
     .int8_tops = 408,
     .bf16_tflops = 209,
     .f32_tflops = 105,
     .imma_tops = 408,
     .memory_gb = 32,
     .memory_gbs = 1792,
     .link_gbs = 64},
};
const uint32_t sl_gpu_n_kinds = sizeof sl_gpu_kinds / sizeof *sl_gpu_kinds;

const struct sl_gpu_kind *sl_gpu_kind_find(const char *name)
{
    for (uint32_t i = 0; i < sl_gpu_n_kinds; i++)
        if (strcasecmp(sl_gpu_kinds[i].name, name) == 0)
            return &sl_gpu_kinds[i];
    return NULL;
}

/* Between spaces and dashes. */
static bool has_word(const char *text, const char *word)
{
    size_t n = strlen(word);
    for (const char *at = text; *at; at += strcspn(at, " -"), at += strspn(at, " -"))
        if (strcspn(at, " -") == n && strncmp(at, word, n) == 0)
            return true;
    return false;
}

const struct sl_gpu_kind *sl_gpu_kind_of(const char *driver_name)
{
    if (has_word(driver_name, "PCIe") || has_word(driver_name, "PCIE") || has_word(driver_name, "NVL") ||
        has_word(driver_name, "MIG"))
        return NULL;
    for (uint32_t i = 0; i < sl_gpu_n_kinds; i++)
        if (has_word(driver_name, sl_gpu_kinds[i].word))
            return &sl_gpu_kinds[i];
    return NULL;
}
