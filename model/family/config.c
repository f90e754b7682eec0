/* config.json -> switches (shape.h). One family so far: qwen3_moe.
 *
 * A family is a mapping; what it does not know it refuses by name. Every key of the file falls into
 * one of three classes: used (read below), harmless whatever it says (training, caching, sampling
 * defaults, labels), or harmless only at a given value (a switch that we do not have must be off).
 * Anything else could change the result and is refused, because a model that runs with one switch
 * ignored gives wrong text without an error. Defaults are transformers'. */
#include "model/family/config_impl.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_CONFIG_BYTES = 4 << 20 };

/* Read by this file or by config_rope.c. */
/* clang-format off */
static const char *const used_keys[] = {
    "model_type", "architectures", "num_hidden_layers", "hidden_size", "vocab_size",
    "max_position_embeddings", "num_attention_heads", "num_key_value_heads", "head_dim",
    "num_experts", "num_local_experts", "num_experts_per_tok", "moe_intermediate_size",
    "intermediate_size", "norm_topk_prob", "tie_word_embeddings", "rms_norm_eps",
    "decoder_sparse_step", "mlp_only_layers", "layer_types", "rope_theta", "rope_scaling",
    "rope_parameters", "partial_rotary_factor", "eos_token_id", "bos_token_id", "pad_token_id",
    NULL};
/* clang-format on */

/* Without effect on the text that a given prompt and given sampling values produce. sliding_window
 * is here since qwen3_moe looks at it only when use_sliding_window is true. */
/* clang-format off */
static const char *const harmless_keys[] = {
    "initializer_range", "use_cache", "transformers_version", "router_aux_loss_coef",
    "output_router_logits", "attention_dropout", "hidden_dropout", "embd_pdrop", "resid_pdrop",
    "classifier_dropout", "sliding_window", "max_window_layers", "dtype", "torch_dtype",
    "_name_or_path", "name_or_path", "_commit_hash", "_attn_implementation",
    "_attn_implementation_autoset", "attn_implementation", "_experts_implementation",
    "experts_implementation", "pretraining_tp", "return_dict", "output_hidden_states",
    "output_attentions", "output_scores", "torchscript", "use_bfloat16", "tf_legacy_loss",
    "finetuning_task", "id2label", "label2id", "num_labels", "problem_type",
    "task_specific_params", "tokenizer_class", "prefix", "sep_token_id",
    "decoder_start_token_id", "tie_encoder_decoder", "tie_last_hidden_states",
    "cross_attention_hidden_size", "num_nextn_predict_layers", "max_length", "min_length",
    "do_sample", "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty",
    "temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty",
    "length_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids",
    "num_return_sequences", "return_dict_in_generate", "forced_bos_token_id",
    "forced_eos_token_id", "remove_invalid_values", "exponential_decay_length_penalty",
    "suppress_tokens", "begin_suppress_tokens", "unsloth_fixed", "unsloth_version",
    "model_max_length", "torch_compile", "use_mambapy", NULL};
/* clang-format on */

/* Keys that must have the value named (null and absent are always fine). */
static const struct fixed_key {
    const char *name, *json;
} fixed_keys[] = {{"hidden_act", "\"silu\""},
                  {"attention_bias", "false"},
                  {"qkv_bias", "false"},
                  {"mlp_bias", "false"},
                  {"use_qk_norm", "true"},
                  {"use_sliding_window", "false"},
                  {"is_encoder_decoder", "false"},
                  {"is_decoder", "false"},
                  {"add_cross_attention", "false"},
                  {"chunk_size_feed_forward", "0"},
                  {"pruned_heads", "{}"},
                  {"per_layer_config", "{}"},
                  {"auto_map", "{}"},
                  {"n_shared_experts", "0"},
                  {"num_shared_experts", "0"},
                  {"shared_expert_intermediate_size", "0"},
                  {"quantization_config", "null"}, /* check_quantised has refused it by name */
                  {"compression_config", "null"},
                  {"text_config", "null"}};

static bool in_list(const char *const *list, const char *key)
{
    for (; *list; list++)
        if (strcmp(*list, key) == 0)
            return true;
    return false;
}

static const struct fixed_key *fixed_find(const char *key)
{
    for (size_t i = 0; i < sizeof fixed_keys / sizeof *fixed_keys; i++)
        if (strcmp(fixed_keys[i].name, key) == 0)
            return &fixed_keys[i];
    return NULL;
}

static sl_status check_fixed(const struct fixed_key *fixed, const json_t *value, struct sl_err *err)
{
    if (json_is_null(value))
        return SL_OK;
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
    if (!text)
        return sl_fail(err, SL_E_NOMEM, "no memory to read config.json");
    sl_status status = SL_OK;
    if (strcmp(text, fixed->json) != 0)
        status = sl_fail(err, SL_E_DATA, "config.json: %s is %.60s; only %s is supported", fixed->name, text,
                         fixed->json);
    free(text);
    return status;
}

/* Weights in another form than BF16, F16 or F32, named as its maker names it. */
static sl_status check_quantised(const json_t *root, struct sl_err *err)
{
    static const char *const keys[] = {"quantization_config", "compression_config"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const json_t *value = sl_config_value(root, keys[i]);
        if (!value)
            continue;
        const char *method = json_string_value(json_object_get(value, "quant_method"));
        const char *format = json_string_value(json_object_get(value, "format"));
        return sl_fail(
            err, SL_E_DATA,
            "config.json: the model is quantised as %.40s%s%.40s%s (%s), which is not read yet; take its "
            "repository with BF16 weights (`sluice pack` quantises those), or wait for a version that reads it",
            method ? method : "something unnamed", format ? " (" : "", format ? format : "",
            format ? ")" : "", keys[i]);
    }
    return SL_OK;
}

static sl_status check_keys(json_t *root, struct sl_err *err)
{
    const char *key;
    json_t *value;
    json_object_foreach(root, key, value)
    {
        const struct fixed_key *fixed = fixed_find(key);
        if (fixed)
            SL_TRY(check_fixed(fixed, value, err));
        else if (!json_is_null(value) && !in_list(used_keys, key) && !in_list(harmless_keys, key))
            return sl_fail(err, SL_E_DATA,
                           "config.json: key '%.80s' is not known for qwen3_moe; it could change the "
                           "result, so it is refused (remove it if it has no effect)",
                           key);
    }
    return SL_OK;
}

static sl_status read_family(struct sl_shape *shape, const json_t *root, struct sl_err *err)
{
    const char *type = json_string_value(json_object_get(root, "model_type"));
    if (!type || strcmp(type, "qwen3_moe") != 0)
        return sl_fail(err, SL_E_DATA,
                       "config.json: model_type '%.40s' is not supported; supported are: "
                       "qwen3_moe",
                       type ? type : "(missing)");
    strcpy(shape->model_type, "qwen3_moe");
    strcpy(shape->architecture, "Qwen3MoeForCausalLM");
    const json_t *list = sl_config_value(root, "architectures");
    if (!list)
        return SL_OK;
    const char *name = json_string_value(json_array_get(list, 0));
    if (json_array_size(list) != 1 || !name || strcmp(name, "Qwen3MoeForCausalLM") != 0)
        return sl_fail(err, SL_E_DATA,
                       "config.json: architectures must be [\"Qwen3MoeForCausalLM\"], not "
                       "'%.60s'",
                       name ? name : "something else");
    return SL_OK;
}

static sl_status read_attention(struct sl_shape *s, const json_t *root, struct sl_err *err)
{
    SL_TRY(sl_config_u32(root, "num_attention_heads", 1, 4096, -1, &s->n_q, err));
    SL_TRY(sl_config_u32(root, "num_key_value_heads", 1, 4096, -1, &s->n_kv, err));
    SL_TRY(sl_config_u32(root, "head_dim", 2, SL_MAX_HEAD, s->d_model / s->n_q, &s->d_head, err));
    if (s->n_q % s->n_kv != 0)
        return sl_fail(err, SL_E_DATA,
                       "config.json: num_attention_heads %u is not a multiple of "
                       "num_key_value_heads %u",
                       s->n_q, s->n_kv);
    if (s->d_head % 2 != 0)
        return sl_fail(err, SL_E_DATA, "config.json: head_dim %u is odd; rope needs an even one", s->d_head);
    s->qk_norm = true;
    s->softmax_scale = (float)(1 / sqrt((double)s->d_head));
    double eps = 1e-6;
    SL_TRY(sl_config_real(root, "rms_norm_eps", 0, 1, &eps, err));
    s->norm_eps = (float)eps;
    return sl_config_rope(s, root, err);
}

static sl_status mark_dense(struct sl_shape *s, const json_t *root, struct sl_err *err)
{
    const json_t *list = sl_config_value(root, "mlp_only_layers");
    if (list && !json_is_array(list))
        return sl_fail(err, SL_E_DATA, "config.json: mlp_only_layers must be a list of layer numbers");
    for (size_t i = 0; i < json_array_size(list); i++) {
        int64_t layer;
        if (!sl_config_integral(json_array_get(list, i), &layer))
            return sl_fail(err, SL_E_DATA, "config.json: mlp_only_layers must hold integers only");
        if (layer >= 0 && layer < s->n_layers) /* others name no layer, and transformers lets them pass */
            s->is_moe[layer] = 0;
    }
    return SL_OK;
}

/* Which layers are MoE, and the widths that occur. */
static sl_status read_feed_forward(struct sl_shape *s, const json_t *root, struct sl_err *err)
{
    const char *key = sl_config_value(root, "num_local_experts") && !sl_config_value(root, "num_experts")
                          ? "num_local_experts" /* what transformers 5 writes */
                          : "num_experts";
    uint32_t n_experts, step, other;
    SL_TRY(sl_config_u32(root, key, 0, 4096, -1, &n_experts, err));
    SL_TRY(sl_config_u32(root, "num_local_experts", 0, 4096, n_experts, &other, err));
    if (other != n_experts)
        return sl_fail(err, SL_E_DATA, "config.json: num_experts is %u but num_local_experts is %u",
                       n_experts, other);
    SL_TRY(sl_config_u32(root, "decoder_sparse_step", 1, 1u << 20, 1, &step, err));
    for (uint32_t i = 0; i < s->n_layers; i++)
        s->is_moe[i] = n_experts > 0 && (i + 1) % step == 0;
    SL_TRY(mark_dense(s, root, err));
    uint32_t n_moe = 0;
    for (uint32_t i = 0; i < s->n_layers; i++)
        n_moe += s->is_moe[i];
    if (n_moe > 0) {
        s->n_experts = n_experts;
        SL_TRY(sl_config_u32(root, "num_experts_per_tok", 1, SL_MAX_TOP_K, -1, &s->top_k, err));
        SL_TRY(sl_config_u32(root, "moe_intermediate_size", 1, 1u << 20, -1, &s->d_expert, err));
        SL_TRY(sl_config_bool(root, "norm_topk_prob", &s->renorm, err));
        if (s->top_k > n_experts)
            return sl_fail(err, SL_E_DATA, "config.json: num_experts_per_tok %u is more than %s %u", s->top_k,
                           key, n_experts);
    }
    if (n_moe < s->n_layers)
        SL_TRY(sl_config_u32(root, "intermediate_size", 1, 1u << 20, -1, &s->d_dense, err));
    return SL_OK;
}

static sl_status check_layer_types(const struct sl_shape *s, const json_t *root, struct sl_err *err)
{
    const json_t *list = sl_config_value(root, "layer_types");
    if (!list)
        return SL_OK;
    if (!json_is_array(list) || json_array_size(list) != s->n_layers)
        return sl_fail(err, SL_E_DATA, "config.json: layer_types must be a list of %u strings", s->n_layers);
    for (uint32_t i = 0; i < s->n_layers; i++) {
        const char *type = json_string_value(json_array_get(list, i));
        if (!type || strcmp(type, "full_attention") != 0)
            return sl_fail(err, SL_E_DATA,
                           "config.json: layer_types[%u] is '%.40s'; only 'full_attention' is supported", i,
                           type ? type : "(no string)");
    }
    return SL_OK;
}

/* Products that buffers are computed from must fit 32 bits, so that nobody below has to ask. */
static sl_status check_products(const struct sl_shape *s, struct sl_err *err)
{
    static const char *const remedy = "the model is larger than sluice's planned sizes";
    uint32_t rows, product;
    if (__builtin_mul_overflow(s->n_q + 2 * s->n_kv, s->d_head, &rows) || rows > 1u << 24)
        return sl_fail(err, SL_E_DATA, "config.json: num_attention_heads times head_dim is too large: %s",
                       remedy);
    if (__builtin_mul_overflow(s->n_experts, s->d_expert, &product))
        return sl_fail(err, SL_E_DATA,
                       "config.json: num_experts times moe_intermediate_size is too large: %s", remedy);
    return SL_OK;
}

/* One id or null; an id outside the vocabulary can never be seen, so it counts as none. */
static sl_status read_id(const json_t *first, const json_t *second, const char *key, uint32_t vocab,
                         int32_t *out, struct sl_err *err)
{
    const json_t *value = sl_config_value(first, key);
    if (!value)
        value = sl_config_value(second, key);
    int64_t id = -1;
    if (json_is_array(value)) /* llama-style lists occur for bos; the first counts */
        value = json_array_get(value, 0);
    if (value && !sl_config_integral(value, &id))
        return sl_fail(err, SL_E_DATA, "%s must be an integer or null", key);
    *out = id >= 0 && id < vocab ? (int32_t)id : -1;
    return SL_OK;
}

/* End of text: generation_config.json decides where it speaks, as generate() does. */
static sl_status read_eos(struct sl_shape *s, const json_t *generation, const json_t *root,
                          struct sl_err *err)
{
    const json_t *value = sl_config_value(generation, "eos_token_id");
    const char *file = value ? "generation_config.json" : "config.json";
    if (!value)
        value = sl_config_value(root, "eos_token_id");
    if (!value)
        return SL_OK;
    size_t n = json_is_array(value) ? json_array_size(value) : 1;
    if (n > SL_MAX_EOS)
        return sl_fail(err, SL_E_DATA, "%s: %zu eos_token_id; at most %d are supported", file, n, SL_MAX_EOS);
    for (size_t i = 0; i < n; i++) {
        int64_t id;
        if (!sl_config_integral(json_is_array(value) ? json_array_get(value, i) : value, &id))
            return sl_fail(err, SL_E_DATA, "%s: eos_token_id must be an integer or a list of integers", file);
        if (id < 0 || id >= s->vocab)
            return sl_fail(
                err, SL_E_DATA,
                "%s: eos_token_id %lld is outside the vocabulary of %u, so no text could end with it; correct it, or "
                "remove it if the model has none",
                file, (long long)id, s->vocab);
        s->eos[s->n_eos++] = (uint32_t)id;
    }
    return SL_OK;
}

static sl_status read_shape(struct sl_shape *s, json_t *root, const json_t *generation, struct sl_err *err)
{
    SL_TRY(check_quantised(root, err));
    SL_TRY(read_family(s, root, err));
    SL_TRY(check_keys(root, err));
    SL_TRY(sl_config_u32(root, "num_hidden_layers", 1, SL_MAX_LAYERS, -1, &s->n_layers, err));
    SL_TRY(sl_config_u32(root, "hidden_size", 1, 1u << 20, -1, &s->d_model, err));
    SL_TRY(sl_config_u32(root, "vocab_size", 1, 1u << 20, -1, &s->vocab, err));
    SL_TRY(sl_config_u32(root, "max_position_embeddings", 1, 1u << 22, -1, &s->max_pos, err));
    SL_TRY(sl_config_bool(root, "tie_word_embeddings", &s->tied_head, err));
    SL_TRY(read_attention(s, root, err));
    SL_TRY(read_feed_forward(s, root, err));
    SL_TRY(check_layer_types(s, root, err));
    SL_TRY(check_products(s, err));
    SL_TRY(sl_config_generation(generation, err));
    SL_TRY(read_eos(s, generation, root, err));
    SL_TRY(read_id(generation, root, "bos_token_id", s->vocab, &s->bos, err));
    return read_id(generation, root, "pad_token_id", s->vocab, &s->pad, err);
}

sl_status sl_shape_parse(struct sl_shape *shape, const char *config, size_t config_bytes,
                         const char *generation, size_t generation_bytes, struct sl_err *err)
{
    memset(shape, 0, sizeof *shape);
    json_t *root = NULL, *gen = NULL;
    sl_status status = sl_json_parse(&root, config, config_bytes, "config.json", err);
    if (status == SL_OK && generation)
        status = sl_json_parse(&gen, generation, generation_bytes, "generation_config.json", err);
    if (status == SL_OK)
        status = read_shape(shape, root, gen, err);
    json_decref(root);
    json_decref(gen);
    return status;
}

sl_status sl_shape_load(struct sl_shape *shape, const char *dir, struct sl_err *err)
{
    memset(shape, 0, sizeof *shape);
    char *config_path = sl_path_join(dir, "config.json");
    char *generation_path = sl_path_join(dir, "generation_config.json");
    char *config = NULL, *generation = NULL;
    size_t config_bytes = 0, generation_bytes = 0;
    sl_status status = SL_OK;
    if (!config_path || !generation_path)
        status = sl_fail(err, SL_E_NOMEM, "no memory to read %.200s/config.json", dir);
    if (status == SL_OK)
        status = sl_file_read(&config, &config_bytes, config_path, MAX_CONFIG_BYTES, err);
    if (status == SL_OK && access(generation_path, F_OK) == 0)
        status = sl_file_read(&generation, &generation_bytes, generation_path, MAX_CONFIG_BYTES, err);
    if (status == SL_OK) {
        status = sl_shape_parse(shape, config, config_bytes, generation, generation_bytes, err);
        if (status != SL_OK)
            sl_err_prefix(err, "%.120s", dir);
    }
    free(config);
    free(generation);
    free(config_path);
    free(generation_path);
    return status;
}
