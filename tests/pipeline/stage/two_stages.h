/* What the tests of devices share: a small model at random, with a dense layer before its last, in two stages, and two sequences of ids
 * for it. */
#ifndef SL_TESTS_PIPELINE_STAGE_TWO_STAGES_H
#define SL_TESTS_PIPELINE_STAGE_TWO_STAGES_H

#include "pipeline/stage/stage.h"
#include "tests/model/random_pack.h"

#ifndef N_LAYERS
#define N_LAYERS 3
#endif

enum { CONTEXT = 192, STEPS = 2, WIDTH = 96, WORDS = 70, N_STAGES = 2 };

static const uint32_t layer_begin[N_STAGES + 1] = {0, 1, N_LAYERS};
static uint32_t n_layers = N_LAYERS, n_heads = 4, d_head = 32, n_experts = 9;

static struct sl_pack *make_pack(enum sl_dtype dense, enum sl_dtype experts, enum sl_rotate rotate)
{
    char text[700];
    snprintf(
        text, sizeof text,
        "{\"model_type\":\"qwen3_moe\",\"architectures\":[\"Qwen3MoeForCausalLM\"],\"hidden_size\":%d,"
        "\"num_hidden_layers\":%u,\"num_attention_heads\":%u,\"num_key_value_heads\":2,\"head_dim\":%u,"
        "\"vocab_size\":%d,\"num_experts\":%u,\"num_experts_per_tok\":3,\"moe_intermediate_size\":64,"
        "\"intermediate_size\":160,\"max_position_embeddings\":256,\"mlp_only_layers\":[%u],\"norm_topk_prob\":true}",
        WIDTH, n_layers, n_heads, d_head, WORDS, n_experts, n_layers - 2);
    return random_pack_of(text, dense, experts, rotate);
}

/* With both sequences open, and their pages. What the share has of these, and its layers and device, is the caller's to say. */
static struct sl_stage *open_stage(const struct sl_pack *pack, struct sl_share share,
                                   struct sl_sequence *sequences[2])
{
    struct sl_err err = {0};
    struct sl_stage *stage;
    share.n_pages = 2 * CONTEXT / SL_PAGE;
    share.max_sequences = 2;
    share.context_tokens = CONTEXT;
    SET_UP(sl_stage_create(&stage, pack, &share, NULL, &err) == SL_OK, err.text);
    for (uint32_t s = 0; s < 2; s++) {
        sequences[s] = sl_sequences_open(sl_stage_sequences(stage), s);
        CHECK_INT(sl_stage_reserve(stage, sequences[s], CONTEXT), SL_OK);
    }
    return stage;
}

static void draw_ids(uint32_t ids[2][CONTEXT])
{
    for (uint32_t s = 0; s < 2; s++)
        for (uint32_t i = 0; i < CONTEXT; i++)
            ids[s][i] = (i * 37 + s * 11 + i * i) % WORDS;
}

static uint32_t at_most(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

#endif
