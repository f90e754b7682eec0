/* config.json -> switches: both dialects, defaults, which layers are MoE, YaRN against figures from
 * transformers, and one row per thing that must be refused by name. A config is a base text with
 * one piece put in before the last brace; jansson refuses duplicates, so pieces that replace a key
 * name the base's key to drop. */
#include "model/shape.h"
#include "tests/model/files.h"
#include <math.h>

static const char base[] =
    "{\"model_type\":\"qwen3_moe\",\"hidden_size\":96,\"num_hidden_layers\":6,\"num_attention_"
    "heads\":4,"
    "\"num_key_value_heads\":2,\"head_dim\":32,\"vocab_size\":259,\"num_experts\":5,"
    "\"num_experts_per_tok\":2,\"moe_intermediate_size\":48,\"intermediate_size\":80,"
    "\"max_position_embeddings\":512";

/* Base without the keys that `more` gives anew, plus `more`. */
static sl_status parse(struct sl_shape *shape, const char *more, const char *generation, struct sl_err *err)
{
    char text[4096] = "";
    const char *at = base;
    while (*at) {
        const char *end = strchr(at, ',');
        size_t n = end ? (size_t)(end - at) : strlen(at);
        char key[64];
        const char *quote = strchr(at, '"');
        snprintf(key, sizeof key, "%.*s", (int)(strchr(quote + 1, '"') - quote) + 1, quote);
        strcat(key, ":");
        if (!strstr(more, key)) {
            if (text[0])
                strcat(text, ",");
            strncat(text, at + (*at == '{'), n - (*at == '{'));
        }
        at += n + (end != NULL);
    }
    char full[8192];
    snprintf(full, sizeof full, "{%s%s%s}", text, *more ? "," : "", more);
    return sl_shape_parse(shape, full, strlen(full), generation, generation ? strlen(generation) : 0, err);
}

SL_TEST(reads_the_switches_and_defaults)
{
    struct sl_shape s;
    struct sl_err err = {0};
    CHECK_INT(parse(&s, "", NULL, &err), SL_OK);
    CHECK_STR(err.text, "");
    CHECK_STR(s.model_type, "qwen3_moe");
    CHECK_STR(s.architecture, "Qwen3MoeForCausalLM");
    CHECK_INT(s.n_layers, 6);
    CHECK_INT(s.d_model, 96);
    CHECK_INT(s.d_head, 32);
    CHECK_INT(s.n_q, 4);
    CHECK_INT(s.n_kv, 2);
    CHECK_INT(s.top_k, 2);
    CHECK_INT(s.d_expert, 48);
    CHECK_INT(s.d_dense, 0); /* no dense layer */
    CHECK(!s.renorm && !s.tied_head && s.qk_norm && !s.qkv_bias && !s.shared_gate);
    CHECK(s.norm_eps == 1e-6f);
    CHECK(s.softmax_scale == (float)(1 / sqrt(32.0)));
    CHECK(s.rope_factor == 1 && s.rope_inv_freq[0] == 1);
    CHECK(fabsf(s.rope_inv_freq[15] / 1.77827941e-4f - 1) < 1e-6f); /* 10000^(-30/32) */
    CHECK_INT(s.n_eos, 0);
    CHECK_INT(s.bos, -1);
    CHECK_INT(s.pad, -1);
    for (int i = 0; i < 6; i++)
        CHECK_INT(s.is_moe[i], 1);
}

SL_TEST(head_dim_follows_from_the_hidden_size_when_absent)
{
    struct sl_shape s;
    struct sl_err err = {0};
    REQUIRE(parse(&s, "\"head_dim\":null", NULL, &err) == SL_OK);
    CHECK_INT(s.d_head, 24);
}

SL_TEST(which_layers_are_moe)
{
    static const struct {
        const char *more;
        const char *moe;
    } cases[] = {
        {"\"decoder_sparse_step\":2", "010101"},
        {"\"decoder_sparse_step\":3", "001001"},
        {"\"decoder_sparse_step\":7", "000000"},
        {"\"mlp_only_layers\":[0,4]", "011101"},
        {"\"mlp_only_layers\":[3,99,-1],\"decoder_sparse_step\":2", "010001"},
        {"\"mlp_only_layers\":null", "111111"},
        {"\"num_experts\":0", "000000"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct sl_shape s;
        struct sl_err err = {0};
        CHECK_INT(parse(&s, cases[i].more, NULL, &err), SL_OK);
        char moe[8] = "";
        for (int k = 0; k < 6; k++)
            moe[k] = (char)('0' + s.is_moe[k]);
        CHECK_STR(moe, cases[i].moe);
        CHECK_INT(s.n_experts, strchr(moe, '1') ? 5 : 0);
        CHECK_INT(s.d_dense, strchr(moe, '0') ? 80 : 0);
    }
}

SL_TEST(both_dialects_give_the_same_switches)
{
    struct sl_shape a, b;
    struct sl_err err = {0};
    REQUIRE(parse(&a, "\"rope_theta\":1000000.0,\"rope_scaling\":null,\"torch_dtype\":\"bfloat16\"", NULL,
                  &err) == SL_OK);
    REQUIRE(parse(&b,
                  "\"rope_parameters\":{\"rope_theta\":1000000,\"rope_type\":\"default\"},"
                  "\"dtype\":\"bfloat16\",\"num_experts\":null,\"num_local_experts\":5",
                  NULL, &err) == SL_OK);
    CHECK(memcmp(&a, &b, sizeof a) == 0);
    REQUIRE(parse(&a, "\"rope_theta\":1e4,\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4}", NULL, &err) ==
            SL_OK);
    REQUIRE(parse(&b,
                  "\"rope_parameters\":{\"rope_theta\":1e4,\"rope_type\":\"yarn\",\"factor\":4.0,"
                  "\"original_max_position_embeddings\":512}",
                  NULL, &err) == SL_OK);
    CHECK(memcmp(&a, &b, sizeof a) == 0);
}

/* tests/golden/tiny-NAME.json holds transformers' own table for the recipe of the same name. */
static void compare_with_golden(const char *name, const char *more)
{
    struct sl_shape s;
    struct sl_err err = {0};
    char path[128];
    size_t bytes;
    snprintf(path, sizeof path, "tests/golden/tiny-%s.json", name);
    if (!exists(path)) {
        sl_test_fail(__FILE__, __LINE__, "%s is not there", path);
        return;
    }
    REQUIRE(parse(&s, more, NULL, &err) == SL_OK);
    char *text = read_text(path, &bytes);
    char *at = strstr(text, "\"rope_inv_freq\":[");
    REQUIRE(at);
    at += strlen("\"rope_inv_freq\":[");
    for (uint32_t i = 0; i < s.d_head / 2; i++) {
        float want = strtof(at, &at);
        at++;
        if (!(fabsf(s.rope_inv_freq[i] - want) <= 3e-7f * want))
            sl_test_fail(__FILE__, __LINE__, "%s: inv_freq[%u] is %.9g, expected %.9g", name, i,
                         (double)s.rope_inv_freq[i], (double)want);
    }
    at = strstr(text, "\"rope_factor\":");
    REQUIRE(at);
    CHECK(fabsf(s.rope_factor - strtof(at + strlen("\"rope_factor\":"), NULL)) < 3e-7f);
    free(text);
}

SL_TEST(yarn_is_what_transformers_computes)
{
    compare_with_golden("base", "");
    compare_with_golden("yarn", "\"rope_parameters\":{\"rope_type\":\"yarn\",\"factor\":8.0,"
                                "\"original_max_position_embeddings\":64,\"rope_theta\":10000.0}");
    compare_with_golden("yarn-old",
                        "\"rope_theta\":1000000.0,\"rope_scaling\":{\"type\":\"yarn\",\"factor\":16.0,"
                        "\"beta_fast\":16,\"beta_slow\":2,\"attention_factor\":1.25,"
                        "\"original_max_position_embeddings\":32}");
    compare_with_golden("all-experts",
                        "\"head_dim\":64,\"rope_parameters\":{\"rope_type\":\"yarn\",\"factor\":4.0,"
                        "\"mscale\":1.0,\"mscale_all_dim\":0.5,\"truncate\":false,"
                        "\"original_max_position_embeddings\":128,\"rope_theta\":10000.0}");
}

SL_TEST(the_context_of_yarn_is_its_factor_times_the_original)
{
    struct sl_shape s;
    struct sl_err err = {0};
    uint32_t plain;
    REQUIRE(parse(&s, "", NULL, &err) == SL_OK);
    plain = s.max_pos;
    /* Qwen3's card: rope_scaling is added, max_position_embeddings stays */
    REQUIRE(parse(&s,
                  "\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4.0,"
                  "\"original_max_position_embeddings\":32768}",
                  NULL, &err) == SL_OK);
    CHECK_INT(s.max_pos, 131072);
    REQUIRE(parse(&s, "\"rope_scaling\":{\"type\":\"yarn\",\"factor\":2.5}", NULL, &err) == SL_OK);
    CHECK_INT(s.max_pos, plain * 5 / 2);
    CHECK(parse(&s,
                "\"rope_scaling\":{\"type\":\"yarn\",\"factor\":1000,"
                "\"original_max_position_embeddings\":32768}",
                NULL, &err) == SL_E_DATA);
    CHECK(strstr(err.text, "factor"));
}

SL_TEST(a_quantised_checkpoint_is_named_by_its_form)
{
    static const struct {
        const char *keys, *said;
    } cases[] = {
        {"\"quantization_config\":{\"quant_method\":\"fp8\",\"weight_block_size\":[128,128]}",
         "quantised as fp8 ("},
        {"\"quantization_config\":{\"quant_method\":\"gptq\",\"bits\":4}", "quantised as gptq ("},
        {"\"quantization_config\":{\"quant_method\":\"awq\"}", "quantised as awq ("},
        {"\"quantization_config\":{\"quant_method\":\"compressed-tensors\",\"format\":\"pack-quantized\"}",
         "quantised as compressed-tensors (pack-quantized)"},
        {"\"compression_config\":{\"quant_method\":\"compressed-tensors\"}",
         "quantised as compressed-tensors"},
        {"\"quantization_config\":7", "quantised as something unnamed"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct sl_shape s;
        struct sl_err err = {0};
        CHECK(parse(&s, cases[i].keys, NULL, &err) == SL_E_DATA);
        if (!strstr(err.text, cases[i].said) || !strstr(err.text, "or wait for a version that reads it"))
            sl_test_fail(__FILE__, __LINE__, "case %zu: %s", i, err.text);
    }
}

SL_TEST(end_of_text_comes_from_the_generation_config)
{
    struct sl_shape s;
    struct sl_err err = {0};
    REQUIRE(parse(&s, "\"eos_token_id\":7,\"pad_token_id\":3", NULL, &err) == SL_OK);
    CHECK_INT(s.n_eos, 1);
    CHECK_INT(s.eos[0], 7);
    CHECK_INT(s.pad, 3);
    REQUIRE(parse(&s, "\"eos_token_id\":7", "{\"eos_token_id\":[9,258],\"temperature\":0.6}", &err) == SL_OK);
    CHECK_INT(s.n_eos, 2);
    CHECK_INT(s.eos[1], 258);
    REQUIRE(parse(&s, "\"eos_token_id\":[7,8]", "{\"bos_token_id\":5}", &err) == SL_OK);
    CHECK_INT(s.n_eos, 2);
    CHECK_INT(s.eos[0], 7);
    CHECK_INT(s.bos, 5);
    REQUIRE(parse(&s, "\"eos_token_id\":[258,1]", NULL, &err) == SL_OK);
    CHECK_INT(s.n_eos, 2);
}

/* A text could not end with it. */
SL_TEST(an_end_of_text_outside_the_vocabulary_is_refused)
{
    struct sl_shape s;
    struct sl_err err;
    CHECK_INT(parse(&s, "\"eos_token_id\":[1,259]", NULL, &err), SL_E_DATA);
    CHECK_CONTAINS(err.text, "config.json: eos_token_id 259 is outside the vocabulary of 259");
    CHECK_INT(parse(&s, "\"eos_token_id\":-1", NULL, &err), SL_E_DATA);
    CHECK_INT(parse(&s, "\"eos_token_id\":7", "{\"eos_token_id\":300}", &err), SL_E_DATA);
    CHECK_CONTAINS(err.text, "generation_config.json: eos_token_id 300");
    CHECK_INT(parse(&s, "\"eos_token_id\":null", "{}", &err), SL_OK);
    CHECK_INT(s.n_eos, 0);
}

SL_TEST(recommended_sampling_must_be_what_a_request_may_ask_for)
{
    static const char *const good[] = {
        "{\"temperature\":0}", "{\"temperature\":0.6,\"top_p\":1,\"top_k\":20,\"min_p\":0}",
        "{\"top_p\":null}", "{\"repetition_penalty\":1.05,\"presence_penalty\":-2,\"frequency_penalty\":2}",
        "{\"top_k\":50.0}"};
    static const char *const bad[][2] = {{"{\"temperature\":-0.1}", "temperature"},
                                         {"{\"temperature\":\"0.6\"}", "temperature"},
                                         {"{\"top_p\":0}", "top_p"},
                                         {"{\"top_p\":1.01}", "top_p"},
                                         {"{\"min_p\":1.5}", "min_p"},
                                         {"{\"min_p\":-1}", "min_p"},
                                         {"{\"top_k\":-1}", "top_k"},
                                         {"{\"top_k\":1.5}", "top_k"},
                                         {"{\"top_k\":true}", "top_k"},
                                         {"{\"repetition_penalty\":0}", "repetition_penalty"},
                                         {"{\"presence_penalty\":2.5}", "presence_penalty"},
                                         {"{\"frequency_penalty\":[]}", "frequency_penalty"}};
    struct sl_shape s;
    struct sl_err err;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        CHECK_INT(parse(&s, "", good[i], &err), SL_OK);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK_INT(parse(&s, "", bad[i][0], &err), SL_E_DATA);
        CHECK_CONTAINS(err.text, "generation_config.json: ");
        CHECK_CONTAINS(err.text, bad[i][1]);
    }
}

SL_TEST(keys_that_change_nothing_are_accepted)
{
    static const char *const more[] = {
        "\"architectures\":[\"Qwen3MoeForCausalLM\"],\"initializer_range\":0.02,\"use_cache\":true",
        "\"transformers_version\":\"4.51.0\",\"router_aux_loss_coef\":0.001,\"attention_dropout\":"
        "0.0",
        "\"sliding_window\":4096,\"use_sliding_window\":false,\"max_window_layers\":6",
        "\"_name_or_path\":\"x\",\"chunk_size_feed_forward\":0,\"id2label\":{\"0\":\"A\"}",
        "\"layer_types\":[\"full_attention\",\"full_attention\",\"full_attention\",\"full_"
        "attention\","
        "\"full_attention\",\"full_attention\"]",
        "\"qkv_bias\":false,\"use_qk_norm\":true,\"shared_expert_intermediate_size\":0",
        "\"quantization_config\":null,\"anything_unknown\":null,\"hidden_act\":\"silu\"",
        "\"rope_scaling\":{\"rope_type\":\"default\"},\"rope_theta\":10000",
        "\"hidden_size\":96.0,\"rms_norm_eps\":1e-05",
    };
    for (size_t i = 0; i < sizeof more / sizeof *more; i++) {
        struct sl_shape s;
        struct sl_err err = {0};
        CHECK_INT(parse(&s, more[i], NULL, &err), SL_OK);
        CHECK_STR(err.text, "");
    }
}

static const struct {
    const char *more, *says;
} bad[] = {
    {"\"model_type\":\"llama\"", "qwen3_moe"},
    {"\"model_type\":7", "model_type"},
    {"\"model_type\":null", "model_type"},
    {"\"architectures\":[\"Qwen3MoeForSequenceClassification\"]", "architectures"},
    {"\"architectures\":\"Qwen3MoeForCausalLM\"", "architectures"},
    {"\"scoring_func\":\"sigmoid\"", "scoring_func"},
    {"\"n_group\":4", "n_group"},
    {"\"hidden_act\":\"gelu\"", "silu"},
    {"\"attention_bias\":true", "attention_bias"},
    {"\"qkv_bias\":true", "qkv_bias"},
    {"\"use_qk_norm\":false", "use_qk_norm"},
    {"\"use_sliding_window\":true", "use_sliding_window"},
    {"\"quantization_config\":{\"quant_method\":\"fp8\"}", "quantization_config"},
    {"\"shared_expert_intermediate_size\":512", "shared_expert_intermediate_size"},
    {"\"per_layer_config\":{\"1\":{\"head_dim\":16}}", "per_layer_config"},
    {"\"auto_map\":{\"AutoModel\":\"x.py\"}", "auto_map"},
    {"\"layer_types\":[\"sliding_attention\"]", "layer_types"},
    {"\"layer_types\":[\"full_attention\",\"full_attention\",\"sliding_attention\",\"full_"
     "attention\","
     "\"full_attention\",\"full_attention\"]",
     "layer_types[2]"},
    {"\"hidden_size\":0", "hidden_size"},
    {"\"hidden_size\":-1", "hidden_size"},
    {"\"hidden_size\":96.5", "hidden_size"},
    {"\"hidden_size\":\"96\"", "hidden_size"},
    {"\"hidden_size\":null", "hidden_size is missing"},
    {"\"hidden_size\":9223372036854775807", "hidden_size"},
    {"\"hidden_size\":1e300", "hidden_size"},
    {"\"num_hidden_layers\":257", "num_hidden_layers"},
    {"\"vocab_size\":1048577", "vocab_size"},
    {"\"max_position_embeddings\":4194305", "max_position_embeddings"},
    {"\"head_dim\":31", "odd"},
    {"\"head_dim\":514", "head_dim"},
    {"\"num_key_value_heads\":3", "multiple"},
    {"\"num_attention_heads\":4096,\"num_key_value_heads\":4096,\"head_dim\":512,\"x\":null", ""},
    {"\"num_experts\":4097", "num_experts"},
    {"\"num_experts\":null", "num_experts is missing"},
    {"\"num_experts\":4,\"num_local_experts\":8", "num_local_experts"},
    {"\"num_experts_per_tok\":6", "num_experts_per_tok"},
    {"\"num_experts_per_tok\":0", "num_experts_per_tok"},
    {"\"moe_intermediate_size\":null", "moe_intermediate_size"},
    {"\"decoder_sparse_step\":0", "decoder_sparse_step"},
    {"\"mlp_only_layers\":3", "mlp_only_layers"},
    {"\"mlp_only_layers\":[\"a\"]", "mlp_only_layers"},
    {"\"mlp_only_layers\":[1],\"intermediate_size\":null", "intermediate_size"},
    {"\"norm_topk_prob\":1", "norm_topk_prob"},
    {"\"tie_word_embeddings\":\"no\"", "tie_word_embeddings"},
    {"\"rms_norm_eps\":-1e-6", "rms_norm_eps"},
    {"\"rms_norm_eps\":NaN", "NaN"},
    {"\"rope_theta\":0", "rope_theta"},
    {"\"rope_theta\":1e999", "JSON"},
    {"\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8}", "llama3"},
    {"\"rope_scaling\":{\"type\":\"linear\",\"factor\":2}", "linear"},
    {"\"rope_scaling\":{\"rope_type\":\"yarn\"}", "factor"},
    {"\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":0.5}", "factor"},
    {"\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4,\"finetuned\":true}", "finetuned"},
    {"\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4,\"beta_fast\":1,\"beta_slow\":2}", "beta_fast"},
    {"\"rope_scaling\":{\"rope_type\":\"default\",\"mrope_section\":[1,2]}", "mrope_section"},
    {"\"rope_scaling\":{\"rope_type\":\"default\"},\"rope_parameters\":{\"rope_type\":\"default\"}", "both"},
    {"\"rope_scaling\":2", "rope_scaling"},
    {"\"partial_rotary_factor\":0.5", "partial_rotary_factor"},
    {"\"eos_token_id\":\"x\"", "eos_token_id"},
    {"\"eos_token_id\":[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16]", "eos_token_id"},
    {"\"bos_token_id\":1.5", "bos_token_id"},
    {"\"vocab_size\":5,\"vocab_size\":5", "duplicate"},
};

SL_TEST(refuses_by_name)
{
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct sl_shape s;
        struct sl_err err = {0};
        sl_status status = parse(&s, bad[i].more, NULL, &err);
        if (bad[i].says[0] == '\0') /* large, but legal */
            CHECK_INT(status, SL_OK);
        else
            CHECK_INT(status, SL_E_DATA);
        CHECK_CONTAINS(err.text, bad[i].says);
    }
}

SL_TEST(reads_the_demo_and_names_a_missing_file)
{
    struct sl_shape s;
    struct sl_err err = {0};
    REQUIRE(sl_shape_load(&s, "demo", &err) == SL_OK);
    CHECK_INT(s.n_experts, 16);
    CHECK_INT(s.eos[0], 4093);
    CHECK(s.renorm);
    CHECK_INT(sl_shape_load(&s, sl_test_dir(), &err), SL_E_DATA);
    CHECK_CONTAINS(err.text, "config.json");
    write_text(path_in(sl_test_dir(), "config.json"), "{\"model_type\":\"mamba\"}");
    CHECK_INT(sl_shape_load(&s, sl_test_dir(), &err), SL_E_DATA);
    CHECK_CONTAINS(err.text, "mamba");
    CHECK_CONTAINS(err.text, sl_test_dir());
}
