/* Packs with random weights in the shape of real models, for benches (pack.h): blocks are drawn as they lie
 * in the file, at the speed of the disk, and no float is ever quantised.
 *
 * A weight has variance 1/k, so a matrix keeps the variance of its input: norms of 1 hand it 1, and scores,
 * gates, the feed-forward's hidden values and logits are of order 1, as in a trained model. Every draw
 * depends on the seed, the piece and the block's number only. */
#include "base/rng.h"
#include "model/pack/pack_plan_impl.h"
#include <assert.h>
#include <math.h>
#include <stdlib.h>

/* ---- shapes: what decides sizes and maths in the config.json of each model as published ---- */

#define QWEN3_MOE                                                                                            \
    "\"model_type\": \"qwen3_moe\", \"architectures\": [\"Qwen3MoeForCausalLM\"], \"vocab_size\": 151936, "  \
    "\"max_position_embeddings\": 40960, \"rope_theta\": 1000000.0, \"rms_norm_eps\": 1e-06, \"head_dim\": " \
    "128, "                                                                                                  \
    "\"num_experts\": 128, \"num_experts_per_tok\": 8, \"norm_topk_prob\": true, \"decoder_sparse_step\": "  \
    "1, "                                                                                                    \
    "\"tie_word_embeddings\": false, \"eos_token_id\": 151645, \"bos_token_id\": 151643, "

static const struct {
    const char *name, *config;
} shapes[] = {
    {"qwen3-30b-a3b",
     "{" QWEN3_MOE "\"hidden_size\": 2048, \"num_hidden_layers\": 48, \"num_attention_heads\": 32, "
     "\"num_key_value_heads\": 4, \"moe_intermediate_size\": 768, \"intermediate_size\": 6144}"},
    {"qwen3-235b-a22b",
     "{" QWEN3_MOE "\"hidden_size\": 4096, \"num_hidden_layers\": 94, \"num_attention_heads\": 64, "
     "\"num_key_value_heads\": 4, \"moe_intermediate_size\": 1536, \"intermediate_size\": 12288}"},
    {"olmoe-1b-7b",
     "{\"model_type\": \"olmoe\", \"architectures\": [\"OlmoeForCausalLM\"], \"vocab_size\": 50304, "
     "\"max_position_embeddings\": 4096, \"rope_theta\": 10000.0, \"rms_norm_eps\": 1e-05, "
     "\"hidden_size\": 2048, \"num_hidden_layers\": 16, \"num_attention_heads\": 16, "
     "\"num_key_value_heads\": 16, \"intermediate_size\": 1024, \"num_experts\": 64, "
     "\"num_experts_per_tok\": 8, \"norm_topk_prob\": false, \"tie_word_embeddings\": false, "
     "\"eos_token_id\": 50279}"},
    {"deepseek-v2-lite",
     "{\"model_type\": \"deepseek_v2\", \"architectures\": [\"DeepseekV2ForCausalLM\"], \"vocab_size\": "
     "102400, "
     "\"max_position_embeddings\": 163840, \"rope_theta\": 10000.0, \"rms_norm_eps\": 1e-06, "
     "\"hidden_size\": 2048, "
     "\"num_hidden_layers\": 27, \"num_attention_heads\": 16, \"num_key_value_heads\": 16, \"kv_lora_rank\": "
     "512, "
     "\"qk_nope_head_dim\": 128, \"qk_rope_head_dim\": 64, \"v_head_dim\": 128, \"q_lora_rank\": null, "
     "\"intermediate_size\": 10944, \"moe_intermediate_size\": 1408, \"n_routed_experts\": 64, "
     "\"n_shared_experts\": 2, \"num_experts_per_tok\": 6, \"first_k_dense_replace\": 1, \"norm_topk_prob\": "
     "false, "
     "\"scoring_func\": \"softmax\", \"tie_word_embeddings\": false, \"eos_token_id\": 100001}"},
    {"gpt-oss-20b",
     "{\"model_type\": \"gpt_oss\", \"architectures\": [\"GptOssForCausalLM\"], \"vocab_size\": 201088, "
     "\"max_position_embeddings\": 131072, \"rope_theta\": 150000.0, \"rms_norm_eps\": 1e-05, "
     "\"hidden_size\": 2880, "
     "\"num_hidden_layers\": 24, \"num_attention_heads\": 64, \"num_key_value_heads\": 8, \"head_dim\": 64, "
     "\"intermediate_size\": 2880, \"num_local_experts\": 32, \"num_experts_per_tok\": 4, "
     "\"sliding_window\": 128, "
     "\"attention_bias\": true, \"swiglu_limit\": 7.0, \"tie_word_embeddings\": false, \"eos_token_id\": "
     "200002}"},
};
const char sl_pack_random_shapes[] =
    "qwen3-30b-a3b, qwen3-235b-a22b, olmoe-1b-7b, deepseek-v2-lite, gpt-oss-20b";

/* Lists with an entry for each layer are cut, lists of layers lose those that are gone. */
static bool cut_layers(json_t *config, uint32_t layers)
{
    json_t *types = json_object_get(config, "layer_types"),
           *dense = json_object_get(config, "mlp_only_layers");
    while (json_array_size(types) > layers)
        json_array_remove(types, json_array_size(types) - 1);
    for (size_t i = json_array_size(dense); i-- > 0;)
        if (json_integer_value(json_array_get(dense, i)) >= (json_int_t)layers)
            json_array_remove(dense, i);
    return json_object_set_new(config, "num_hidden_layers", json_integer(layers)) == 0;
}

static sl_status read_config(const char *shape, json_t **config, struct sl_err *err)
{
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        if (strcmp(shape, shapes[i].name) == 0)
            return sl_json_parse(config, shapes[i].config, strlen(shapes[i].config), shape, err);
    if (!strchr(shape, '/') && !strchr(shape, '.'))
        return sl_fail(err, SL_E_USAGE, "there is no shape '%.60s'; there are %s, or name a config.json",
                       shape, sl_pack_random_shapes);
    return sl_json_read(config, shape, 4 << 20, err);
}

sl_status sl_random_config(const char *shape, uint32_t layers, char **text, struct sl_err *err)
{
    json_t *config;
    *text = NULL;
    SL_TRY(read_config(shape, &config, err));
    json_int_t has = json_integer_value(json_object_get(config, "num_hidden_layers"));
    sl_status status = SL_OK;
    if ((json_int_t)layers > has)
        status = sl_fail(err, SL_E_USAGE, "%.100s has %lld layers, not %u", shape, (long long)has, layers);
    else if (layers == 0 || cut_layers(config, layers))
        *text = json_dumps(config, JSON_INDENT(2));
    if (status == SL_OK && !*text)
        status = sl_fail(err, SL_E_NOMEM, "no memory for the config.json of %.100s", shape);
    json_decref(config);
    return status;
}

/* ---- drawing ---- */

struct drawing {
    const struct sl_piece *piece;
    uint64_t seed;
};

static struct sl_rng rng_of_block(const struct drawing *d, uint64_t number)
{
    return (struct sl_rng){.seed = sl_rng_at(d->seed, number)};
}

static void draw_bytes(struct sl_rng *rng, uint8_t *to, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += 8) {
        uint64_t word = sl_rng_next(rng);
        memcpy(to + i, &word, bytes - i < 8 ? bytes - i : 8);
    }
}

/* Whether an output is one that the padding to 16 added; gate and up are padded each. */
static bool is_padding(const struct sl_piece *piece, uint32_t row)
{
    if (piece->interleaved)
        return row / (2 * SL_LANES) * SL_LANES + row % SL_LANES >= piece->rows / 2;
    return row >= piece->rows;
}

/* Uniform floats of standard deviation `deviation`, in the piece's dtype; n values `stride` apart. */
static void draw_floats(struct sl_rng *rng, enum sl_dtype dtype, double deviation, uint8_t *to, size_t n,
                        size_t stride)
{
    float scale = (float)(deviation * sqrt(3.0) / 32768);
    uint64_t word = 0;
    for (size_t i = 0; i < n; i++, word >>= 16) {
        if (i % 4 == 0)
            word = sl_rng_next(rng);
        float value = (float)(int16_t)(word & 0xFFFF) * scale;
        uint16_t half = sl_f32_to_bf16(value);
        memcpy(to + i * stride * sl_dtype_bytes(dtype), dtype == SL_BF16 ? (void *)&half : (void *)&value,
               sl_dtype_bytes(dtype));
    }
}

static void draw_panel(const struct sl_piece *piece, uint32_t row, struct sl_rng *rng, uint8_t *block)
{
    size_t width = sl_dtype_bytes(piece->dtype);
    memset(block, 0, SL_LANES * width * piece->k);
    for (uint32_t c = 0; c < SL_LANES; c++)
        if (!is_padding(piece, row + c))
            draw_floats(rng, piece->dtype, 1 / sqrt(piece->k), block + c * width, piece->k, SL_LANES);
}

/* The root mean square of w8 for uniform q and, in groups, s uniform in 8..15. */
static double rms_of(const struct sl_quant_rule *rule)
{
    double square = 0, scale = 0;
    for (int32_t q = rule->group ? 0 : 1; q < rule->levels; q++) { /* i8 has no -128 */
        double u = rule->step * q - rule->zero;
        square += u * u / (rule->group ? rule->levels : rule->levels - 1);
    }
    for (int s = 8; s < 16; s++)
        scale += s * s / 8.0;
    return sqrt(rule->group ? square * scale : square);
}

/* q from random bits, s from 8 to 15, S within a quarter of what gives the variance. */
static void draw_quantised(const struct sl_piece *piece, uint32_t row, struct sl_rng *rng, uint8_t *block)
{
    const struct sl_quant_rule *rule = sl_quant_rule_of(piece->dtype);
    size_t scales = sl_quant_scale_bytes(piece->dtype, piece->k),
           bytes = sl_quant_block_bytes(piece->dtype, piece->k);
    double plain = 1 / (rms_of(rule) * sqrt(piece->k)) / (piece->rotation ? sqrt(piece->rotation) : 1);
    float S[SL_LANES];
    for (uint32_t c = 0; c < SL_LANES; c++) {
        double gain = 0.75 + 0.5 * sl_rng_unit(sl_rng_next(rng));
        S[c] = is_padding(piece, row + c) ? 0 : sl_round_up12((float)(plain * gain));
    }
    memcpy(block, S, sizeof S);
    draw_bytes(rng, block + sizeof S, bytes - sizeof S);
    for (size_t i = 0; i < scales; i++)
        block[sizeof S + i] |= 0x88;
    if (piece->dtype == SL_I8)
        for (size_t i = sizeof S + scales; i < bytes; i++)
            block[i] = (uint8_t)(block[i] + (block[i] == 0));
}

/* Rows and vectors: sixteen rows of the piece, or what is left of them. */
static void draw_rows(const struct sl_piece *piece, uint32_t row, struct sl_rng *rng, uint8_t *block,
                      size_t *bytes)
{
    uint32_t n = piece->n - row < SL_LANES ? piece->n - row : SL_LANES;
    static const float one = 1;
    *bytes = (size_t)n * piece->k * sl_dtype_bytes(piece->dtype);
    if (piece->kind == SL_PIECE_ROWS)
        draw_floats(rng, piece->dtype, 1, block, (size_t)n * piece->k, 1);
    else
        for (uint32_t i = 0; i < n; i++)
            memcpy(block + i * sizeof one, &one, sizeof one);
}

static sl_status draw_block(void *arg, uint64_t number, uint8_t *block, size_t *bytes,
                            struct sl_quantise_report *report, void *scratch, struct sl_err *err)
{
    const struct drawing *d = arg;
    uint32_t row = (uint32_t)(number % sl_piece_blocks(d->piece)) * SL_LANES;
    struct sl_rng rng = rng_of_block(d, number);
    (void)report;
    (void)scratch;
    (void)err;
    if (d->piece->kind != SL_PIECE_PANELS)
        draw_rows(d->piece, row, &rng, block, bytes);
    else if (sl_dtype_is_integer(d->piece->dtype))
        draw_quantised(d->piece, row, &rng, block);
    else
        draw_panel(d->piece, row, &rng, block);
    return SL_OK;
}

sl_status sl_piece_random(const struct sl_piece *piece, const struct sl_piece_job *job, struct sl_out *out,
                          struct sl_err *err)
{
    struct drawing drawing = {piece, job->seed};
    struct sl_quantise_report nothing = {0};
    size_t bytes = sl_dtype_is_integer(piece->dtype)
                       ? sl_quant_block_bytes(piece->dtype, piece->k)
                       : (size_t)SL_LANES * piece->k * sl_dtype_bytes(piece->dtype);
    struct sl_blocks blocks = {.n = (uint64_t)piece->units * sl_piece_blocks(piece),
                               .block_bytes = bytes,
                               .threads = job->threads,
                               .make = draw_block,
                               .arg = &drawing};
    return sl_blocks_run(&blocks, out, &nothing, err);
}
