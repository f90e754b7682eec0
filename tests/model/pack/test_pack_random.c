/* Random packs: blocks are valid and of the variance promised in every format, the same seed gives the same
 * bytes, and shapes that cannot be made are named. The real shapes, whose vocabularies alone are 700 MiB, are
 * in e2e/test_pack.py. */
#include "model/pack/pack.h"
#include "model/pack/weights.h"
#include "tests/model/files.h"
#include <math.h>

static const char small[] =
    "{\"model_type\":\"qwen3_moe\",\"architectures\":[\"Qwen3MoeForCausalLM\"],\"hidden_size\":96,"
    "\"num_hidden_layers\":3,\"num_attention_heads\":4,\"num_key_value_heads\":2,\"head_dim\":16,\"vocab_"
    "size\":70,"
    "\"num_experts\":5,\"num_experts_per_tok\":2,\"moe_intermediate_size\":40,\"intermediate_size\":72,"
    "\"max_position_embeddings\":128,\"mlp_only_layers\":[2],\"norm_topk_prob\":true}";

static const char *small_config(void)
{
    const char *path = path_in(sl_test_dir(), "config.json");
    write_text(path, small);
    return path;
}

static struct sl_pack *random_pack(const char *shape, uint32_t layers, uint64_t seed, enum sl_dtype dtype,
                                   enum sl_rotate rotate, const char *name)
{
    struct sl_err err = {0};
    struct sl_pack *pack;
    struct sl_pack_options options = {.rotate = rotate, .threads = 2};
    for (int c = 0; c < SL_CLASS_ROUTER; c++)
        options.formats.classes[c] = dtype;
    const char *dst = path_in(sl_test_dir(), name);
    SET_UP(sl_pack_write_random(shape, layers, seed, dst, &options, &err) == SL_OK &&
               sl_pack_open(&pack, dst, &err) == SL_OK && sl_pack_verify(pack, NULL, &err) == SL_OK,
           err.text);
    return pack;
}

/* Variance of the weights times k, with a rotation's scale taken out; every w8 within a byte. */
static double variance(const struct sl_panel *p)
{
    double sum = 0;
    for (uint32_t c = 0; c < p->n; c++)
        for (uint32_t i = 0; i < p->k; i++) {
            const uint8_t *block =
                (const uint8_t *)p->data + c / SL_LANES * sl_quant_block_bytes(p->dtype, p->k);
            int32_t w8 = sl_quant_weight(p->dtype, p->k, block, c % SL_LANES, i);
            double w = (double)sl_quant_row_scales(block)[c % SL_LANES] * w8;
            CHECK(w8 >= -127 && w8 <= 127);
            sum += w * w;
        }
    return sum / p->n * (p->rotation ? p->rotation : 1);
}

static void check_variance(const struct sl_panel *p)
{
    double v = variance(p);
    if (!(v > 0.75 && v < 1.35))
        sl_test_fail(__FILE__, __LINE__, "%u x %u in %s has variance %g / k", p->n, p->k,
                     sl_dtype_name(p->dtype), v);
}

SL_TEST(random_blocks_are_valid_in_every_format)
{
    static const enum sl_dtype formats[] = {SL_I8, SL_I4, SL_I4G16, SL_I3, SL_I2};
    const char *config = small_config();
    for (int i = 0; i < 5; i++)
        for (int rotated = 0; rotated < 2; rotated++) {
            struct sl_err err = {0};
            struct sl_weights w;
            char name[16];
            snprintf(name, sizeof name, "r%d%d", i, rotated);
            struct sl_pack *pack =
                random_pack(config, 0, 1, formats[i], rotated ? SL_ROTATE_ON : SL_ROTATE_AUTO, name);
            REQUIRE(sl_weights_open(&w, pack, 0, 3, true, true, NULL, &err) == SL_OK);
            CHECK_INT(w.layers[0].qkv.rotation, rotated ? 32 : 0);
            check_variance(&w.layers[0].qkv);
            check_variance(&w.layers[1].o);
            check_variance(&w.layers[1].expert0.down);
            check_variance(&w.layers[2].dense.down);
            CHECK(w.layers[0].attn_norm[95] == 1 && w.final_norm[0] == 1);
            /* 40 gates are two and a half blocks: the padding after them is silent */
            const uint8_t *third =
                (const uint8_t *)w.layers[0].expert0.gate_up.data + 4 * sl_quant_block_bytes(formats[i], 96);
            CHECK(sl_quant_row_scales(third)[7] > 0 && sl_quant_row_scales(third)[8] == 0);
            sl_weights_close(&w);
            sl_pack_close(pack);
        }
}

SL_TEST(the_seed_decides)
{
    const char *config = small_config();
    struct sl_pack *a = random_pack(config, 0, 7, SL_I4, SL_ROTATE_OFF, "a");
    struct sl_pack *b = random_pack(config, 0, 7, SL_I4, SL_ROTATE_OFF, "b");
    struct sl_pack *c = random_pack(config, 0, 8, SL_I4, SL_ROTATE_OFF, "c");
    CHECK_STR(sl_pack_digest(a), sl_pack_digest(b));
    CHECK(strcmp(sl_pack_digest(a), sl_pack_digest(c)) != 0);
    sl_pack_close(a);
    sl_pack_close(b);
    sl_pack_close(c);
}

SL_TEST(floats_are_random_too)
{
    struct sl_err err = {0};
    struct sl_weights w;
    double sum = 0;
    struct sl_pack *pack = random_pack(small_config(), 1, 1, SL_F32, SL_ROTATE_AUTO, "f");
    CHECK_INT(sl_pack_shape(pack)->n_layers, 1);
    REQUIRE(sl_weights_open(&w, pack, 0, 1, true, true, NULL, &err) == SL_OK);
    REQUIRE(w.embed_dtype == SL_BF16);
    for (int i = 0; i < 70 * 96; i++) {
        double v = sl_bf16_to_f32(((const uint16_t *)w.embed)[i]);
        sum += v * v;
    }
    CHECK(fabs(sum / (70 * 96) - 1) < 0.1);
    sl_weights_close(&w);
    sl_pack_close(pack);
}

SL_TEST(shapes_that_cannot_be_made_are_named)
{
    static const struct {
        const char *shape;
        uint32_t layers;
        const char *says;
    } bad[] = {{"gpt-oss-20b", 0, "gpt_oss"},       {"olmoe-1b-7b", 1, "olmoe"},
               {"deepseek-v2-lite", 0, "deepseek"}, {"qwen9", 0, "qwen3-235b-a22b"},
               {"qwen3-30b-a3b", 49, "48 layers"},  {"/nowhere/config.json", 0, "/nowhere"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct sl_err err = {0};
        struct sl_pack_options options = {0};
        const char *dst = path_in(sl_test_dir(), "dst");
        CHECK(sl_pack_write_random(bad[i].shape, bad[i].layers, 1, dst, &options, &err) != SL_OK);
        CHECK_CONTAINS(err.text, bad[i].says);
        CHECK(!exists(dst));
    }
}
