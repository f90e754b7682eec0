/* Nodes of known kinds: what their devices achieve. The one place where these rates stand.
 *
 * H100, H200: what tables of measured kernels come to (aiconfigurator): experts and projections in FP8, attention in BF16 with 128
 * heads, memory at 0.8 of its peak; NVLink 450 GB/s each way, a 400 Gbit NIC for each GPU. H20: matrices at two thirds of 296 TFLOP/s
 * and memory at 0.8 of 4 TB/s are assumed; attention is fitted, by least squares of relative errors, to two published times to
 * a first token on one node each (SGLang, 15 January 2026: DeepSeek-V3.1 on 8 GPUs 48.5 s, Qwen3-235B on 4 GPUs 55.5 s, prompts of
 * 128K). The five others of that page are predicted by it: tests/bench/plan/test_published.c. */
#include "bench/plan/nodes.h"
#include <stdio.h>
#include <string.h>

static const struct sl_plan_kind kinds[] = {
    {"h20", 8, .memory_gb = 96, .matrix_tflops = 200, .attention_tflops = 136.5, .memory_gbs = 3200,
     .inner_gbs = 300, .layer_us = 100, .gbit = 3200},
    {"h100", 8, .memory_gb = 80, .matrix_tflops = 1000, .attention_tflops = 632, .memory_gbs = 2680,
     .inner_gbs = 340, .layer_us = 100, .gbit = 3200},
    {"h200", 8, .memory_gb = 141, .matrix_tflops = 1000, .attention_tflops = 632, .memory_gbs = 3840,
     .inner_gbs = 340, .layer_us = 100, .gbit = 3200},
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
