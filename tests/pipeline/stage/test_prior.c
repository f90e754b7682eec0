/* What chunks of a stage should take before anybody has measured one (pipeline/stage/prior.h): bytes over the speed of memory and
 * operations over peaks, and of a GPU nobody knows more than of the slowest there is. */
#include "kernels/cuda/kinds.h"
#include "kernels/page.h"
#include "pipeline/stage/prior.h"
#include "tests/model/random_pack.h"
#include <math.h>

enum { N_LAYERS = 4, N_MOE = 3, WIDTH = 96, HEADS = 4 * 32, KV_HEADS = 2 * 32, N_VOCAB = 70 };
static const char config_text[] =
    "{\"model_type\":\"qwen3_moe\",\"architectures\":[\"Qwen3MoeForCausalLM\"],\"hidden_size\":96,"
    "\"num_hidden_layers\":4,\"num_attention_heads\":4,\"num_key_value_heads\":2,\"head_dim\":32,"
    "\"vocab_size\":70,\"num_experts\":9,\"num_experts_per_tok\":3,\"moe_intermediate_size\":64,"
    "\"intermediate_size\":160,\"max_position_embeddings\":1024,\"mlp_only_layers\":[2],\"norm_topk_prob\":true}";

static struct sl_pack *make_pack(void)
{
    return random_pack_of(config_text, SL_I8, SL_I4, SL_ROTATE_OFF);
}

static struct sl_stage *make_stage(const struct sl_pack *pack, enum sl_device_kind device)
{
    const struct sl_share share = {.end = N_LAYERS,
                                   .with_embed = true,
                                   .with_head = true,
                                   .n_threads = 3,
                                   .device = device,
                                   .kv_dtype = SL_I8,
                                   .n_pages = 4,
                                   .max_tokens = 32,
                                   .max_sequences = 2,
                                   .context_tokens = 256};
    struct sl_err err = {0};
    struct sl_stage *stage = NULL;
    if (sl_stage_create(&stage, pack, &share, NULL, &err) != SL_OK)
        sl_test_fail(__FILE__, __LINE__, "%s", err.text);
    return stage;
}

static bool near(double a, double b)
{
    return fabs(a - b) <= 1e-9 * fabs(b);
}

/* Both of one model: what only sizes and formats say is the same wherever the weights are. */
SL_TEST(what_is_read_of_weights_does_not_depend_on_the_device)
{
    struct sl_pack *pack = make_pack();
    struct sl_stage *cpu = make_stage(pack, SL_DEVICE_CPU), *gpu = make_stage(pack, SL_DEVICE_TWIN);
    struct sl_stage_reads here = sl_stage_reads_of(cpu), there = sl_stage_reads_of(gpu);
    CHECK(here.always > 0 && here.routed > 0 && here.head >= N_VOCAB * WIDTH);
    CHECK(here.always == there.always && here.routed == there.routed && here.head == there.head);
    sl_stage_destroy(cpu);
    sl_stage_destroy(gpu);
    sl_pack_close(pack);
}

SL_TEST(a_token_step_takes_as_long_as_memory_takes_for_its_weights_and_pages)
{
    struct sl_pack *pack = make_pack();
    struct sl_stage *stage = make_stage(pack, SL_DEVICE_TWIN);
    const struct sl_roofline memory = {.ops_per_ns = {[SL_PEAK_F32] = 1e30, [SL_PEAK_INT8] = 1e30},
                                       .bytes_per_ns = 0.001};
    struct sl_stage_reads reads = sl_stage_reads_of(stage);
    struct sl_cost cost;
    struct sl_cost_chunk step = {0};
    sl_stage_prior(&cost, stage, &memory);
    double fixed = 10 * N_LAYERS, each_head = 10 + (double)reads.head + (double)reads.always / N_LAYERS +
                                              (double)reads.routed / N_LAYERS / 3;
    sl_cost_add(&step, 2 * SL_PAGE_TOKENS, 1);
    sl_cost_add(&step, SL_PAGE_TOKENS, 1);
    CHECK(near(sl_cost_of(&cost, &step), fixed + (double)reads.always +
                                             3.0 * (double)sl_stage_page_bytes(stage) +
                                             (double)reads.routed * (1 - 4.0 / 9)));
    double without = sl_cost_of(&cost, &step);
    sl_cost_want(&step, 1);
    CHECK(near(sl_cost_of(&cost, &step), without + each_head));
    sl_stage_destroy(stage);
    sl_pack_close(pack);
}

SL_TEST(a_row_takes_as_long_as_its_operations)
{
    struct sl_pack *pack = make_pack();
    struct sl_stage *stage = make_stage(pack, SL_DEVICE_TWIN);
    const struct sl_roofline compute = {.ops_per_ns = {[SL_PEAK_F32] = 0.001, [SL_PEAK_INT8] = 0.001},
                                        .bytes_per_ns = 1e30};
    const double projections = 2.0 * N_LAYERS * (2 * HEADS + 2 * KV_HEADS) * WIDTH,
                 experts = 2.0 * N_MOE * (3 * 64 * 3 + 9) * WIDTH + 2.0 * 3 * 160 * WIDTH;
    struct sl_cost cost;
    sl_stage_prior(&cost, stage, &compute);
    CHECK(near(cost.us[SL_COST_B], projections + experts));
    CHECK(near(cost.us[SL_COST_A], 2.0 * N_LAYERS * HEADS));
    sl_stage_destroy(stage);
    sl_pack_close(pack);
}

/* Whoever is waited for, however he is called: longer than the roofline says of any kind, and not longer than of the slowest. */
SL_TEST(no_gpu_is_given_up_sooner_than_its_kernels_may_take)
{
    struct sl_pack *pack = make_pack();
    struct sl_stage *stage = make_stage(pack, SL_DEVICE_TWIN);
    struct sl_cost unknown, known, prior;
    sl_stage_at_worst(&unknown, stage, &(struct sl_roofline){.bytes_per_ns = 0});
    CHECK(sl_cost_is_sane(&unknown));
    for (uint32_t i = 0; i < sl_gpu_n_kinds; i++) {
        const struct sl_gpu_kind *k = &sl_gpu_kinds[i];
        const struct sl_roofline roofline = {
            .ops_per_ns = {[SL_PEAK_F32] = 1000 * k->f32_tflops, [SL_PEAK_INT8] = 1000 * k->int8_tops},
            .bytes_per_ns = k->memory_gbs};
        sl_stage_prior(&prior, stage, &roofline);
        sl_stage_at_worst(&known, stage, &roofline);
        for (int t = 0; t < SL_COST_TERMS; t++)
            CHECK(known.us[t] >= 20 * prior.us[t] && known.us[t] <= unknown.us[t] && prior.us[t] > 0);
    }
    sl_stage_destroy(stage);
    sl_pack_close(pack);
}
