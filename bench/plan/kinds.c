/* Nodes of known kinds: what their devices achieve. The one place where these rates stand, with where each is from, which
 * `sluice plan` says (`rates`). None is of our own kernels: these have not run on a GPU yet (README.md, "Figures").
 *
 * H100, H200: what tables of measured kernels come to (aiconfigurator): experts and projections in FP8, attention in BF16 with 128
 * heads, memory at 0.8 of its peak; NVLink 450 GB/s each way, a 400 Gbit NIC for each GPU. H20: matrices at two thirds of 296 TFLOP/s
 * and memory at 0.8 of 4 TB/s are assumed; attention is fitted, by least squares of relative errors, to two published times to
 * a first token on one node each (SGLang, 15 January 2026: DeepSeek-V3.1 on 8 GPUs 48.5 s, Qwen3-235B on 4 GPUs 55.5 s, prompts of
 * 128K). The five others of that page are predicted by it: tests/bench/plan/test_published.c.
 * The others: shares of peaks, those that H100 and H200 reach of theirs (INT8 1979 and bf16 989 TFLOP/s): 0.5 of dense INT8, 0.64 of
 * dense bf16, 0.8 of memory, 0.75 of what links the devices; peaks as data sheets are recalled:
 *              INT8   bf16   GB   GB/s   between devices, each way
 *   A100        624    312   80   2039   300
 *   L40S        733    362   48    864    32 (PCIe 4)
 *   B200       4500   2250  180   8000   900
 *   RTX 5090    408    209   32   1792    64 (PCIe 5); INT8 as others have measured its products, which are at the rate of its FP8
 * and the NICs are assumed. (A B300 has hardly any INT8: it is no kind until there is another way.) */
#include "bench/plan/nodes.h"
#include <stdio.h>
#include <string.h>

static const char measured[] = "measured on others' kernels (FP8, attention in BF16)",
                  assumed_and_fitted[] = "assumed shares of peaks; attention fitted to two published times",
                  recalled[] = "shares, as an H100 has them, of peaks that are recalled, not measured",
                  recalled_but_products[] =
                      "shares of peaks: of products as others measured them, the rest recalled";

static const struct sl_plan_kind kinds[] = {
    {"h20", 8, .rates = assumed_and_fitted, .memory_gb = 96, .matrix_tflops = 200, .attention_tflops = 136.5,
     .memory_gbs = 3200, .inner_gbs = 300, .layer_us = 100, .gbit = 3200},
    {"h100", 8, .rates = measured, .memory_gb = 80, .matrix_tflops = 1000, .attention_tflops = 632,
     .memory_gbs = 2680, .inner_gbs = 340, .layer_us = 100, .gbit = 3200},
    {"h200", 8, .rates = measured, .memory_gb = 141, .matrix_tflops = 1000, .attention_tflops = 632,
     .memory_gbs = 3840, .inner_gbs = 340, .layer_us = 100, .gbit = 3200},
    {"b200", 8, .rates = recalled, .memory_gb = 180, .matrix_tflops = 2250, .attention_tflops = 1440,
     .memory_gbs = 6400, .inner_gbs = 675, .layer_us = 100, .gbit = 3200},
    {"a100", 8, .rates = recalled, .memory_gb = 80, .matrix_tflops = 312, .attention_tflops = 200,
     .memory_gbs = 1630, .inner_gbs = 225, .layer_us = 100, .gbit = 1600},
    {"l40s", 4, .rates = recalled, .memory_gb = 48, .matrix_tflops = 366, .attention_tflops = 232,
     .memory_gbs = 690, .inner_gbs = 24, .layer_us = 100, .gbit = 400},
    {"rtx-5090", 1, .rates = recalled_but_products, .memory_gb = 32, .matrix_tflops = 204,
     .attention_tflops = 134, .memory_gbs = 1430, .inner_gbs = 48, .layer_us = 100, .gbit = 25},
};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

const struct sl_plan_kind *sl_plan_kind_find(const char *name)
{
    for (int i = 0; i < N_KINDS; i++)
        if (strcasecmp(kinds[i].name, name) == 0)
            return &kinds[i];
    return NULL;
}

void sl_plan_kind_names(char *names, size_t room)
{
    size_t n = 0;
    for (int i = 0; i < N_KINDS && n < room; i++)
        n += (size_t)snprintf(names + n, room - n, "%s%s", i ? ", " : "", kinds[i].name);
}
