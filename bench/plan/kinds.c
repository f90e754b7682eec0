/* Nodes of known kinds: what their devices achieve. The one place where these rates stand, with where each is from, which
 * `sluice plan` says (`rates`). None is of our own kernels: these have not run on a GPU yet (README.md, "Figures").
 *
 * H100, H200: what tables of measured kernels come to (aiconfigurator): experts and projections in FP8, attention in BF16 with 128
 * heads, memory at 0.8 of its peak; NVLink 450 GB/s each way, a 400 Gbit NIC for each GPU. H20: matrices at two thirds of 296 TFLOP/s
 * and memory at 0.8 of 4 TB/s are assumed; attention is fitted, by least squares of relative errors, to two published times to
 * a first token on one node each (SGLang, 15 January 2026: DeepSeek-V3.1 on 8 GPUs 48.5 s, Qwen3-235B on 4 GPUs 55.5 s, prompts of
 * 128K). The five others of that page are predicted by it: tests/bench/plan/test_published.c.
 * The others: shares of their peaks (kernels/cuda/kinds.h), those that H100 and H200 reach of theirs: 0.5 of dense INT8, 0.64 of
 * dense bf16, 0.8 of memory, 0.75 of what links the devices; the NICs are assumed. */
#include "kernels/cuda/kinds.h"
#include "bench/plan/nodes.h"
#include <assert.h>
#include <stdio.h>
#include <string.h>

static const char measured[] = "measured on others' kernels (FP8, attention in BF16)",
                  assumed_and_fitted[] = "assumed shares of peaks; attention fitted to two published times",
                  recalled[] = "shares, as an H100 has them, of peaks that are recalled, not measured",
                  recalled_but_products[] =
                      "shares of peaks: of products as others measured them, the rest recalled";

static struct sl_plan_kind kinds[] = {
    /* what is left out here is a share of the peak: fill_in */
    {"h20", 8, .rates = assumed_and_fitted, .memory_gb = 96, .matrix_tflops = 200, .attention_tflops = 136.5,
     .memory_gbs = 3200, .inner_gbs = 300, .layer_us = 100, .gbit = 3200},
    {"h100", 8, .rates = measured, .memory_gb = 80, .matrix_tflops = 1000, .attention_tflops = 632,
     .memory_gbs = 2680, .inner_gbs = 340, .layer_us = 100, .gbit = 3200},
    {"h200", 8, .rates = measured, .memory_gb = 141, .matrix_tflops = 1000, .attention_tflops = 632,
     .memory_gbs = 3840, .inner_gbs = 340, .layer_us = 100, .gbit = 3200},
    {"b200", 8, .rates = recalled, .layer_us = 100, .gbit = 3200},
    {"a100", 8, .rates = recalled, .layer_us = 100, .gbit = 1600},
    {"l40s", 4, .rates = recalled, .layer_us = 100, .gbit = 400},
    {"rtx-5090", 1, .rates = recalled_but_products, .layer_us = 100, .gbit = 25},
};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

static void fill_in(struct sl_plan_kind *kind)
{
    const struct sl_gpu_kind *gpu = sl_gpu_kind_find(kind->name);
    if (kind->memory_gb > 0)
        return;
    assert(gpu);
    kind->memory_gb = gpu->memory_gb;
    kind->matrix_tflops = 0.5 * gpu->int8_tops;
    kind->attention_tflops = 0.64 * gpu->bf16_tflops;
    kind->memory_gbs = 0.8 * gpu->memory_gbs;
    kind->inner_gbs = 0.75 * gpu->link_gbs;
}

const struct sl_plan_kind *sl_plan_kind_find(const char *name)
{
    for (int i = 0; i < N_KINDS; i++)
        if (strcasecmp(kinds[i].name, name) == 0) {
            fill_in(&kinds[i]);
            return &kinds[i];
        }
    return NULL;
}

void sl_plan_kind_names(char *names, size_t room)
{
    size_t n = 0;
    for (int i = 0; i < N_KINDS && n < room; i++)
        n += (size_t)snprintf(names + n, room - n, "%s%s", i ? ", " : "", kinds[i].name);
}
