/* Packs with integer formats: what is bound is what the checkpoint says, up to the format's rounding; the
 * bytes don't depend on threads; rules by layer, rotation and calibration do what they say; nonsense is
 * refused. Values come from their definition (files.h), read back through kernels/quant.h, the specification
 * of the layout. */
#include "model/pack/pack.h"
#include "model/pack/pack_impl.h"
#include "model/pack/weights.h"
#include "model/quantise/quantise.h"
#include "tests/model/files.h"
#include <math.h>

static const struct sl_loading unverified = {.verify = SL_VERIFY_OFF};

static const char *src;

static struct sl_formats all_in(enum sl_dtype dtype)
{
    struct sl_formats f = {0};
    for (int c = 0; c < SL_CLASS_ROUTER; c++)
        f.classes[c] = dtype;
    return f;
}

static struct sl_pack *pack_with(const char *name, const struct sl_pack_options *options)
{
    struct sl_err err = {0};
    struct sl_pack *pack;
    const char *dst = path_in(sl_test_dir(), name);
    SET_UP(sl_pack_write(src, dst, options, &err) == SL_OK && sl_pack_open(&pack, dst, &err) == SL_OK,
           err.text);
    return pack;
}

/* Adds signal and noise of one row of a panel against value_at; a rotated panel is compared with the rotated
 * row. */
static void compare_row(const struct sl_panel *p, size_t offset, uint32_t output, const char *source,
                        uint32_t row, double snr[2])
{
    float w[64];
    const uint8_t *block =
        (const uint8_t *)p->data + offset + output / SL_LANES * sl_quant_block_bytes(p->dtype, p->k);
    for (uint32_t i = 0; i < p->k; i++)
        w[i] = value_at(source, row, i);
    if (p->rotation)
        sl_rotate_weights(w, 1, p->k, p->rotation);
    for (uint32_t i = 0; i < p->k; i++) {
        double S = sl_quant_row_scales(block)[output % SL_LANES];
        double got = S * sl_quant_weight(p->dtype, p->k, block, output % SL_LANES, i);
        snr[0] += w[i] * w[i];
        snr[1] += (w[i] - got) * (w[i] - got);
    }
}

static double decibels(const double snr[2])
{
    return 10 * log10(snr[0] / (snr[1] + 1e-300));
}

/* Uniform values, so the bounds lie a little under what a uniform grid of that many levels gives. */
static const struct {
    enum sl_dtype dtype;
    double least;
} formats[] = {{SL_I8, 40}, {SL_I4, 20}, {SL_I4G16, 20}, {SL_I3, 14}, {SL_I2, 8}};
enum { N_FORMATS = sizeof formats / sizeof *formats };

static void check_experts(const struct sl_layer *layer, double least)
{
    double gate_up[2] = {0, 0}, down[2] = {0, 0};
    for (uint32_t e = 0; e < E; e++) {
        char gate[96], up[96], out[96];
        snprintf(gate, sizeof gate, "model.layers.1.mlp.experts.%u.gate_proj.weight", e);
        snprintf(up, sizeof up, "model.layers.1.mlp.experts.%u.up_proj.weight", e);
        snprintf(out, sizeof out, "model.layers.1.mlp.experts.%u.down_proj.weight", e);
        for (uint32_t r = 0; r < I; r++) {
            compare_row(&layer->expert0.gate_up, e * layer->gate_up_stride, r, gate, r, gate_up);
            compare_row(&layer->expert0.gate_up, e * layer->gate_up_stride, 16 + r, up, r, gate_up);
        }
        for (uint32_t r = 0; r < H; r++)
            compare_row(&layer->expert0.down, e * layer->down_stride, r, out, r, down);
    }
    CHECK(decibels(gate_up) > least);
    CHECK(decibels(down) > least);
    CHECK(sl_quant_row_scales(layer->expert0.gate_up.data)[I] == 0); /* padding */
}

static void check_dense(const struct sl_weights *w, double least)
{
    double sum[2] = {0, 0};
    for (uint32_t r = 0; r < DENSE; r++) {
        uint32_t output = r / 16 * 32 + r % 16;
        compare_row(&w->layers[0].dense.gate_up, 0, output, "model.layers.0.mlp.gate_proj.weight", r, sum);
        compare_row(&w->layers[0].dense.gate_up, 0, output + 16, "model.layers.0.mlp.up_proj.weight", r, sum);
    }
    for (uint32_t r = 0; r < H; r++) {
        compare_row(&w->layers[0].dense.down, 0, r, "model.layers.0.mlp.down_proj.weight", r, sum);
        compare_row(&w->layers[1].o, 0, r, "model.layers.1.self_attn.o_proj.weight", r, sum);
    }
    for (uint32_t r = 0; r < NKV * HEAD; r++)
        compare_row(&w->layers[1].qkv, 0, NQ * HEAD + r, "model.layers.1.self_attn.k_proj.weight", r, sum);
    for (uint32_t r = 0; r < VOCAB; r++)
        compare_row(&w->head, 0, r, "lm_head.weight", r, sum);
    CHECK(decibels(sum) > least);
}

static void check_pack(const struct sl_pack *pack, enum sl_dtype dtype, bool rotated, double least)
{
    struct sl_err err = {0};
    struct sl_weights w;
    CHECK_INT(sl_weights_open(&w, pack, 0, LAYERS, true, true, NULL, &err), SL_OK);
    CHECK_STR(err.text, "");
    REQUIRE(w.layers);
    const struct sl_layer *layer = &w.layers[1];
    CHECK_INT(layer->qkv.dtype, dtype);
    CHECK_INT(layer->expert0.down.dtype, dtype);
    CHECK_INT(layer->expert0.gate_up.rotation, rotated ? 8 : 0); /* of 24 inputs */
    CHECK_INT(layer->expert0.down.rotation, rotated ? 2 : 0);    /* of 10 */
    CHECK_INT(layer->o.rotation, rotated ? 32 : 0);
    CHECK_INT(layer->router.dtype, SL_BF16);
    CHECK_INT((uintptr_t)layer->expert0.down.data % 64, 0);
    CHECK_INT(layer->down_stride, sl_panel_bytes(dtype, H, I));
    CHECK_INT(layer->gate_up_stride, sl_panel_bytes(dtype, 32, H));
    check_experts(layer, least);
    check_dense(&w, least);
    sl_weights_close(&w);
}

SL_TEST(kv_auto_is_i8_with_integer_experts_alone)
{
    struct sl_pack_options exact = {0}, coarse = {0}, attention = {0};
    src = checkpoint_plain(false);
    coarse.formats = all_in(SL_I4);
    attention.formats.classes[SL_CLASS_ATTENTION] = SL_I8;
    struct sl_pack *packs[3] = {pack_with("kv0", &exact), pack_with("kv1", &coarse),
                                pack_with("kv2", &attention)};
    CHECK_INT(sl_pack_kv_dtype(packs[0], "auto"), SL_BF16);
    CHECK_INT(sl_pack_kv_dtype(packs[1], "auto"), SL_I8);
    CHECK_INT(sl_pack_kv_dtype(packs[2], "auto"), SL_BF16);
    CHECK_INT(sl_pack_kv_dtype(packs[1], "f32"), SL_F32);
    for (int i = 0; i < 3; i++)
        sl_pack_close(packs[i]);
}

SL_TEST(a_format_has_one_spelling)
{
    static const char *const good[] = {"bf16", "f32", "i8", "i8+a16", "i4g16+h128", "i8+h64+a16"};
    static const char *const bad[] = {"",           "i5",
                                      "i8+",        "i8+h0",
                                      "i8+h3",      "i8+h512",
                                      "i8+a8",      "i8+a16+h64",
                                      "i8+a16+a16", "bf16+a16",
                                      "f32+h64",    "i8+h064",
                                      "+a16",       "i4g16+h128+a16+a16+a16+a16"};
    struct sl_format f;
    char text[SL_FORMAT_ROOM];
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        CHECK(sl_format_parse(&f, good[i]));
        sl_format_print(f, text);
        CHECK_STR(text, good[i]);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (sl_format_parse(&f, bad[i]))
            sl_test_fail(__FILE__, __LINE__, "'%s' was taken for a format", bad[i]);
}

SL_TEST(every_format_of_every_class_binds_and_reads_back)
{
    src = checkpoint_plain(false);
    for (int i = 0; i < N_FORMATS; i++)
        for (int rotated = 0; rotated < 2; rotated++) {
            char name[16], text[SL_FORMAT_ROOM], got[64];
            struct sl_pack_summary summary;
            struct sl_pack_options options = {
                .formats = all_in(formats[i].dtype), .threads = 2, .summary = &summary};
            options.rotate = rotated ? SL_ROTATE_ON : SL_ROTATE_OFF;
            snprintf(name, sizeof name, "p%d%d", i, rotated);
            struct sl_pack *pack = pack_with(name, &options);
            check_pack(pack, formats[i].dtype, rotated, formats[i].least);
            sl_format_print(
                (struct sl_format){formats[i].dtype, rotated ? 128 : 0, formats[i].dtype == SL_I8 ? 2 : 0},
                text);
            sl_pack_class_format(pack, SL_CLASS_DOWN, got, sizeof got);
            CHECK_STR(got, text);
            CHECK_STR(summary.digest, sl_pack_digest(pack));
            const struct sl_pack_class *down = &summary.classes[SL_CLASS_DOWN];
            CHECK_INT(down->use.weights, E * H * I);
            CHECK_INT(down->use.bytes, E * sl_panel_bytes(formats[i].dtype, H, I));
            CHECK(10 * log10(down->signal / down->noise) > formats[i].least);
            CHECK(summary.classes[SL_CLASS_EMBED].noise == 0);
            sl_pack_close(pack);
        }
}

static void check_same_files(const char *a, const char *b)
{
    static const char *const names[] = {"pack.json", "layer-0000.safetensors", "layer-0001.safetensors",
                                        "embed.safetensors", "head.safetensors"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        size_t m, n;
        char *x = read_text(path_in(path_in(sl_test_dir(), a), names[i]), &m);
        char *y = read_text(path_in(path_in(sl_test_dir(), b), names[i]), &n);
        CHECK(m == n && memcmp(x, y, m) == 0);
        free(x);
        free(y);
    }
}

SL_TEST(any_number_of_threads_gives_the_same_bytes)
{
    static const uint32_t threads[] = {1, 2, 3, 7, 1};
    src = checkpoint_plain(false);
    for (int i = 0; i < 5; i++) {
        char name[8];
        snprintf(name, sizeof name, "t%d", i);
        struct sl_pack_options options = {.formats = all_in(SL_I3), .threads = threads[i]};
        sl_pack_close(pack_with(name, &options));
        check_same_files("t0", name);
    }
}

/* ---- rules ---- */

SL_TEST(rules_apply_to_the_experts_of_their_layers_and_the_last_wins)
{
    struct sl_err err = {0};
    struct sl_formats f = all_in(SL_I4);
    CHECK_INT(sl_formats_keep(&f, "first:2=i8,last:1=bf16", &err), SL_OK);
    CHECK_INT(sl_formats_keep(&f, "1=i3", &err), SL_OK);
    CHECK_INT(sl_formats_of(&f, SL_CLASS_DOWN, 0, 6), SL_I8);
    CHECK_INT(sl_formats_of(&f, SL_CLASS_GATE_UP, 1, 6), SL_I3);
    CHECK_INT(sl_formats_of(&f, SL_CLASS_GATE_UP, 2, 6), SL_I4);
    CHECK_INT(sl_formats_of(&f, SL_CLASS_GATE_UP, 5, 6), SL_BF16);
    CHECK_INT(sl_formats_of(&f, SL_CLASS_ATTENTION, 0, 6), SL_I4);
    CHECK_INT(sl_formats_of(&f, SL_CLASS_HEAD, SL_NO_LAYER, 6), SL_I4);
    CHECK(!sl_dtype_is_integer(sl_formats_of(&f, SL_CLASS_ROUTER, 0, 6)));
    CHECK_INT(sl_formats_check(&f, 6, &err), SL_OK);
    CHECK_INT(sl_formats_check(&f, 1, &err), SL_E_USAGE);
    CHECK_CONTAINS(err.text, "first:");
}

SL_TEST(rules_that_are_none_are_refused)
{
    static const char *const bad[] = {"",
                                      ",",
                                      "first=i8",
                                      "first:=i8",
                                      "first:1",
                                      "1=",
                                      "1=i5",
                                      "1=f32",
                                      "-1=i8",
                                      " 1=i8",
                                      "1 =i8",
                                      "first:1=i8,",
                                      "last:1=i8 ",
                                      "mid:1=i8",
                                      "first:99999999999=i8",
                                      "first:-1=i8",
                                      "=i8",
                                      "first:1=i8;last:1=i8",
                                      "1=i8=i8"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct sl_err err = {0};
        struct sl_formats f = {0};
        if (sl_formats_keep(&f, bad[i], &err) != SL_E_USAGE)
            sl_test_fail(__FILE__, __LINE__, "'%s' was accepted", bad[i]);
        CHECK_CONTAINS(err.text, "--keep");
    }
}

SL_TEST(a_kept_layer_is_an_exception_in_the_manifest)
{
    struct sl_err err = {0};
    struct sl_weights w;
    char text[64];
    src = checkpoint_plain(false);
    struct sl_pack_options options = {.formats = all_in(SL_I4)};
    REQUIRE(sl_formats_keep(&options.formats, "last:1=bf16", &err) == SL_OK);
    struct sl_pack *pack = pack_with("kept", &options);
    sl_pack_class_format(pack, SL_CLASS_DOWN, text, sizeof text);
    CHECK_STR(text, "bf16"); /* the one layer with experts */
    sl_pack_class_format(pack, SL_CLASS_ATTENTION, text, sizeof text);
    CHECK_STR(text, "i4");
    REQUIRE(sl_weights_open(&w, pack, 0, LAYERS, true, true, NULL, &err) == SL_OK);
    CHECK_INT(w.layers[1].expert0.down.dtype, SL_BF16);
    CHECK_INT(w.layers[1].qkv.dtype, SL_I4);
    sl_weights_close(&w);
    sl_pack_close(pack);
}

SL_TEST(formats_have_one_spelling)
{
    static const char *const bad[] = {"",        "i5",    "I4",         "i4+",     "i4+h",    "i4+h0",
                                      "i4+h1",   "i4+h3", "i4+h512",    "i4+h064", "i4+h64 ", "bf16+h64",
                                      "f32+h64", "i4h64", "i4+h64+h64", "i4+h+64"};
    struct sl_format f;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (sl_format_parse(&f, bad[i]))
            sl_test_fail(__FILE__, __LINE__, "'%s' was accepted", bad[i]);
    CHECK(sl_format_parse(&f, "i4g16+h256") && f.dtype == SL_I4G16 && f.rotation == 256);
    CHECK_INT(sl_rotation_of(128, 2880), 64);
    CHECK_INT(sl_rotation_of(128, 4096), 128);
    CHECK_INT(sl_rotation_of(128, 15), 0);
}

/* ---- what is refused ---- */

SL_TEST(a_nan_is_named_when_it_would_be_quantised)
{
    static const enum sl_rotate rotations[] = {SL_ROTATE_OFF, SL_ROTATE_AUTO};
    static const uint32_t bits[] = {0x7FC00000u, 0xFF800000u};
    for (int i = 0; i < 2; i++) {
        struct sl_err err = {0};
        struct checkpoint *c = calloc(1, sizeof *c);
        struct sl_pack_options options = {.formats = all_in(SL_I4), .threads = 3, .rotate = rotations[i]};
        c->poison = "model.layers.1.mlp.experts.2.up_proj.weight";
        c->poison_bits = bits[i];
        src = path_in(sl_test_dir(), "src");
        checkpoint_write(c, src);
        CHECK_INT(sl_pack_write(src, path_in(sl_test_dir(), "dst"), &options, &err), SL_E_DATA);
        CHECK_CONTAINS(err.text, c->poison);
        CHECK(!exists(path_in(sl_test_dir(), "dst")));
        free(c);
    }
}

/* A tensor or a manifest that lies about a format is found before a byte is believed. */
SL_TEST(a_header_that_contradicts_the_format_is_refused)
{
    static const struct {
        const char *from, *to, *says;
    } edits[] = {
        {"\"o\":{\"dtype\":\"U8\"", "\"o\":{\"dtype\":\"I8\"", "not U8"},
        {"\"qkv\":{\"dtype\":\"U8\",\"shape\":[4,", "\"qkv\":{\"dtype\":\"U8\",\"shape\":[2,", "layer-0001"},
        {"\"experts.down\":{\"dtype\":\"U8\",\"shape\":[3,2,",
         "\"experts.down\":{\"dtype\":\"U8\",\"shape\":[2,3,", "'experts.down'"},
    };
    src = checkpoint_plain(false);
    struct sl_pack_options options = {.formats = all_in(SL_I4)};
    struct sl_pack *pack = pack_with("dst", &options);
    const char *dst = path_in(sl_test_dir(), "dst");
    const char *path = path_in(dst, "layer-0001.safetensors");
    for (size_t i = 0; i < sizeof edits / sizeof *edits; i++) {
        struct sl_err err = {0};
        struct sl_weights w;
        change_text(path, edits[i].from, edits[i].to);
        CHECK_INT(sl_weights_open(&w, pack, 1, 2, false, false, &unverified, &err), SL_E_DATA);
        CHECK_CONTAINS(err.text, edits[i].says);
        change_text(path, edits[i].to, edits[i].from);
    }
    sl_pack_close(pack);
}

/* ---- calibration ---- */

struct fake {                           /* inputs of which the first half are large */
    struct sl_input_moments moments[3]; /* by width: H, I, NQ * HEAD */
    uint32_t n_layers, layers[LAYERS + 1];
    bool full;
};

static sl_status fake_layer(void *arg, uint32_t layer, struct sl_err *err)
{
    struct fake *f = arg;
    (void)err;
    CHECK(f->n_layers <= LAYERS);
    f->layers[f->n_layers++] = layer;
    return SL_OK;
}

static const struct sl_input_moments *fake_moments(void *arg, enum sl_site site, uint32_t expert)
{
    struct fake *f = arg;
    if (site == SL_SITE_EXPERTS_DOWN)
        return expert == 1 ? NULL : &f->moments[1];
    if (site == SL_SITE_SINGLE_DOWN)
        return NULL;
    return site == SL_SITE_O ? &f->moments[2] : &f->moments[0];
}

enum { FAKE_ROWS = 40 };

static float fake_input(uint32_t row, uint32_t i, uint32_t k)
{
    return value_at("x", row, i) * (i < k / 2 ? 8.0f : 0.25f);
}

static void fake_init(struct fake *f)
{
    static const uint32_t widths[] = {H, I, NQ * HEAD};
    for (int m = 0; m < 3; m++) {
        uint32_t k = widths[m];
        float *x = malloc(FAKE_ROWS * k * sizeof *x);
        for (uint32_t r = 0; r < FAKE_ROWS; r++)
            for (uint32_t i = 0; i < k; i++)
                x[r * k + i] = fake_input(r, i, k);
        sl_input_moments_init(&f->moments[m], k, f->full, NULL);
        sl_input_moments_add(&f->moments[m], &sl_ops_ref, x, FAKE_ROWS);
        free(x);
    }
}

/* Squared error of the outputs of expert 0's gate on the inputs that calibration saw. */
static double output_error(const struct sl_pack *pack)
{
    struct sl_err err = {0};
    struct sl_weights w;
    double sum = 0;
    if (sl_weights_open(&w, pack, 1, 2, false, false, NULL, &err) != SL_OK)
        return HUGE_VAL;
    const struct sl_panel *p = &w.layers[0].expert0.gate_up;
    for (uint32_t row = 0; row < FAKE_ROWS; row++)
        for (uint32_t r = 0; r < I; r++) {
            double e = 0;
            for (uint32_t i = 0; i < H; i++)
                e += fake_input(row, i, H) *
                     (value_at("model.layers.1.mlp.experts.0.gate_proj.weight", r, i) -
                      (double)sl_quant_row_scales(p->data)[r] * sl_quant_weight(p->dtype, H, p->data, r, i));
            sum += e * e;
        }
    sl_weights_close(&w);
    return sum;
}

SL_TEST(calibration_lowers_the_error_of_outputs_and_feedback_more)
{
    double error[3];
    src = checkpoint_plain(false);
    for (int with = 0; with < 3; with++) {
        static const char *const names[] = {"without", "weighed", "fed"};
        struct fake fake = {.full = with == 2};
        fake_init(&fake);
        struct sl_pack_calibration calibration = {fake_layer, fake_moments, &fake, fake.full};
        struct sl_pack_summary summary;
        struct sl_pack_options options = {.formats = all_in(SL_I2),
                                          .rotate = SL_ROTATE_OFF,
                                          .threads = 2,
                                          .calibration = with ? &calibration : NULL,
                                          .summary = &summary};
        struct sl_pack *pack = pack_with(names[with], &options);
        error[with] = output_error(pack);
        CHECK((summary.classes[SL_CLASS_GATE_UP].weighed_noise > 0) == (with > 0));
        CHECK_INT(fake.n_layers, with ? LAYERS + 1 : 0);
        CHECK(!with || (fake.layers[0] == 0 && fake.layers[LAYERS] == LAYERS));
        sl_pack_close(pack);
        for (int m = 0; m < 3; m++)
            sl_input_moments_fini(&fake.moments[m]);
    }
    CHECK(error[1] < error[0]);
    CHECK(error[2] < error[1]);
}
