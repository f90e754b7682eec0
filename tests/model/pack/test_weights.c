/* Binding a layer range: which files are mapped, what the views say, and damaged packs refused. The
 * values behind the views are those of the checkpoint's definition (files.h). */
#include "model/pack/pack_impl.h"
#include "model/pack/weights.h"
#include "tests/model/files.h"
#include <stdlib.h>
#include <unistd.h>

static const struct sl_loading unverified = {.verify = SL_VERIFY_OFF};

static const char *dst;

static struct sl_pack *make_pack(bool tied)
{
    struct sl_err err = {0};
    struct sl_pack *pack;
    dst = path_in(sl_test_dir(), "dst");
    SET_UP(sl_pack_write(checkpoint_plain(tied), dst, &(struct sl_pack_options){0}, &err) == SL_OK &&
               sl_pack_open(&pack, dst, &err) == SL_OK,
           err.text);
    return pack;
}

static float at(const struct sl_panel *panel, size_t offset, uint32_t output, uint32_t input)
{
    const uint8_t *data = (const uint8_t *)panel->data + offset;
    uint16_t h;
    memcpy(&h, data + 2 * sl_panel_at(panel->k, output, input), 2);
    return sl_bf16_to_f32(h);
}

static void check_moe_layer(const struct sl_layer *layer)
{
    CHECK(layer->is_moe && !layer->has_shared && !layer->qkv_bias);
    CHECK(!layer->dense.gate_up.data);
    CHECK_INT(layer->router.n, E);
    CHECK_INT(layer->qkv.n, (NQ + 2 * NKV) * HEAD);
    CHECK_INT(layer->qkv.k, H);
    CHECK_INT(layer->qkv.dtype, SL_BF16);
    CHECK_INT(layer->o.k, NQ * HEAD);
    CHECK_INT(layer->expert0.gate_up.n, 32); /* 2 * round16(10) */
    CHECK_INT(layer->expert0.gate_up.k, H);
    CHECK_INT(layer->expert0.down.n, H);
    CHECK_INT(layer->expert0.down.k, I);
    CHECK_INT(layer->gate_up_stride, 32 * H * 2);
    CHECK_INT(layer->down_stride, 32 * I * 2);
    CHECK_INT((uintptr_t)layer->expert0.down.data % 64, 0);
    CHECK_INT(layer->down_stride % 64, 0);
    CHECK(at(&layer->expert0.gate_up, 2 * layer->gate_up_stride, 16 + 9, 23) ==
          value_at("model.layers.1.mlp.experts.2.up_proj.weight", 9, 23));
    CHECK(at(&layer->expert0.down, layer->down_stride, 23, 9) ==
          value_at("model.layers.1.mlp.experts.1.down_proj.weight", 23, 9));
    CHECK(layer->q_norm[7] == value_at("model.layers.1.self_attn.q_norm.weight", 7, 0));
    CHECK(layer->k_norm[0] == value_at("model.layers.1.self_attn.k_norm.weight", 0, 0));
}

enum { MAPPED, COPIED, APART, WAYS };
static struct sl_loading loading_of(int way, enum sl_verify verify)
{
    return (struct sl_loading){.verify = verify, .copy = way == COPIED, .apart = way == APART, .threads = 2};
}

/* Opened, and whatever else it takes until all bytes have been looked at. */
static sl_status load(struct sl_weights *w, const struct sl_pack *pack, uint32_t begin, uint32_t end,
                      const struct sl_loading *how, struct sl_err *err)
{
    size_t bytes = 1;
    const void *from;
    SL_TRY(sl_weights_open(w, pack, begin, end, true, true, how, err));
    uint8_t *piece = malloc(sl_weights_piece(w));
    sl_status status = SL_OK;
    while (how->apart && status == SL_OK && bytes > 0)
        status = sl_weights_next(w, piece, &from, &bytes, err);
    free(piece);
    if (status != SL_OK)
        sl_weights_close(w);
    return status;
}

SL_TEST(binds_all_layers)
{
    struct sl_err err = {0};
    struct sl_weights w;
    struct sl_pack *pack = make_pack(false);
    CHECK_INT(sl_weights_open(&w, pack, 0, LAYERS, true, true, NULL, &err), SL_OK);
    CHECK_STR(err.text, "");
    REQUIRE(w.layers);
    CHECK(!w.layers[0].is_moe);
    CHECK_INT(w.layers[0].dense.gate_up.n, 64); /* 2 * round16(18) */
    CHECK_INT(w.layers[0].dense.down.k, DENSE);
    check_moe_layer(&w.layers[1]);
    CHECK_INT(w.embed_dtype, SL_BF16);
    CHECK(sl_bf16_to_f32(((const uint16_t *)w.embed)[3 * H + 5]) ==
          value_at("model.embed_tokens.weight", 3, 5));
    CHECK_INT(w.head.n, VOCAB);
    CHECK(at(&w.head, 0, VOCAB - 1, 2) == value_at("lm_head.weight", VOCAB - 1, 2));
    CHECK(w.final_norm[1] == value_at("model.norm.weight", 1, 0));
    CHECK_INT(w.mapped_bytes, sl_pack_embed_bytes(pack) + sl_pack_head_bytes(pack) +
                                  sl_pack_layer_bytes(pack, 0) + sl_pack_layer_bytes(pack, 1));
    sl_weights_close(&w);
    CHECK(!w.layers);
    sl_weights_close(&w);
    sl_pack_close(pack);
}

/* A stage maps its own files and no others: the others may even be gone. */
SL_TEST(a_stage_maps_only_its_own_files)
{
    struct sl_err err = {0};
    struct sl_weights w;
    struct sl_pack *pack = make_pack(false);
    unlink(path_in(dst, "layer-0000.safetensors"));
    unlink(path_in(dst, "embed.safetensors"));
    unlink(path_in(dst, "head.safetensors"));
    REQUIRE(sl_weights_open(&w, pack, 1, 2, false, false, NULL, &err) == SL_OK);
    check_moe_layer(&w.layers[0]);
    CHECK(!w.embed && !w.head.data && !w.final_norm);
    CHECK_INT(w.mapped_bytes, sl_pack_layer_bytes(pack, 1));
    sl_weights_close(&w);
    CHECK_INT(sl_weights_open(&w, pack, 0, 1, false, false, NULL, &err), SL_E_DATA);
    CHECK_CONTAINS(err.text, "layer-0000");
    CHECK(!w.layers && !w.private_maps);
    sl_pack_close(pack);
}

SL_TEST(an_empty_range_and_a_wrong_one)
{
    struct sl_err err = {0};
    struct sl_weights w;
    struct sl_pack *pack = make_pack(true);
    CHECK_INT(sl_weights_open(&w, pack, 1, 1, true, false, &unverified, &err), SL_OK);
    CHECK(w.embed);
    sl_weights_close(&w);
    CHECK_INT(sl_weights_open(&w, pack, 2, 1, true, true, &unverified, &err), SL_E_INVALID);
    sl_weights_close(&w);
    CHECK_INT(sl_weights_open(&w, pack, 0, 3, true, true, &unverified, &err), SL_E_INVALID);
    CHECK_CONTAINS(err.text, "0..3");
    sl_weights_close(&w);
    REQUIRE(sl_weights_open(&w, pack, 1, 2, false, true, &unverified, &err) == SL_OK);
    CHECK(at(&w.head, 0, 11, 2) == value_at("model.embed_tokens.weight", 11, 2)); /* tied */
    sl_weights_close(&w);
    sl_pack_close(pack);
}

/* ---- verified while loading ---- */

SL_TEST(a_changed_byte_is_named_with_its_file_and_tensor)
{
    struct sl_err err = {0};
    struct sl_weights w;
    struct sl_pack *pack = make_pack(false);
    flip_byte(path_in(dst, "layer-0001.safetensors"), 4096 + 700);
    for (int way = 0; way < WAYS; way++) {
        for (int verify = SL_VERIFY_FAST; verify <= SL_VERIFY_FULL; verify++) {
            struct sl_loading how = loading_of(way, (enum sl_verify)verify);
            CHECK_INT(load(&w, pack, 0, 2, &how, &err), SL_E_DATA);
            CHECK_CONTAINS(err.text, "layer-0001.safetensors");
            if (way != APART || verify == SL_VERIFY_FAST) /* of a whole file before a block of it */
                CHECK_CONTAINS(err.text, "tensors '");
            CHECK_CONTAINS(err.text, "pack the checkpoint again");
            CHECK_INT(load(&w, pack, 0, 1, &how, &err), SL_OK); /* another stage's */
            sl_weights_close(&w);
        }
        struct sl_loading how = loading_of(way, SL_VERIFY_OFF);
        CHECK_INT(load(&w, pack, 0, 2, &how, &err), SL_OK);
        sl_weights_close(&w);
    }
    flip_byte(path_in(dst, "layer-0001.safetensors"), 4096 + 700);
    flip_byte(path_in(dst, "layer-0001.safetensors"), 8); /* the '{': no name can be read any more */
    for (int way = 0; way < WAYS; way++) {
        struct sl_loading how = loading_of(way, SL_VERIFY_FAST);
        CHECK_INT(load(&w, pack, 0, 2, &how, &err), SL_E_DATA);
        CHECK_CONTAINS(err.text, "its header");
    }
    sl_pack_close(pack);
}

/* Every byte of every file: of the weights when they are loaded, of the rest when the pack is opened. */
SL_TEST(no_byte_of_a_pack_can_change_unnoticed)
{
    struct sl_err err = {0};
    struct sl_weights w;
    struct sl_pack *pack = make_pack(false);
    const struct sl_manifest *m = sl_pack_manifest(pack);
    for (uint32_t f = 0; f < m->n_files; f++)
        for (uint64_t at = f * 7; at < m->files[f].bytes; at += m->files[f].bytes / 60 + 1) {
            struct sl_pack *damaged = NULL;
            flip_byte(path_in(dst, m->files[f].name), (long)at);
            sl_status status = sl_pack_open(&damaged, dst, &err);
            struct sl_loading how = loading_of(at / 7 % 2 ? APART : MAPPED, SL_VERIFY_FAST);
            if (status == SL_OK)
                status = load(&w, damaged, 0, LAYERS, &how, &err);
            if (status != SL_E_DATA || !strstr(err.text, m->files[f].name))
                sl_test_fail(__FILE__, __LINE__, "byte %llu of %s: %d, %s", (unsigned long long)at,
                             m->files[f].name, status, err.text);
            sl_pack_close(damaged);
            flip_byte(path_in(dst, m->files[f].name), (long)at);
        }
    CHECK_INT(sl_weights_open(&w, pack, 0, LAYERS, true, true, NULL, &err), SL_OK);
    sl_weights_close(&w);
    sl_pack_close(pack);
}

SL_TEST(what_is_read_from_a_pack_is_what_was_digested)
{
    struct sl_err err = {0};
    char *text;
    size_t bytes;
    struct sl_pack *pack = make_pack(false);
    REQUIRE(sl_pack_read(pack, "config.json", &text, &bytes, &err) == SL_OK);
    CHECK(strstr(text, "qwen3_moe"));
    free(text);
    CHECK_INT(sl_pack_read(pack, "nothing.json", &text, &bytes, &err), SL_E_NOT_FOUND);
    CHECK_INT(sl_pack_read(pack, "head.safetensors", &text, &bytes, &err), SL_E_NOT_FOUND);
    flip_byte(path_in(dst, "config.json"), 30); /* after it was opened */
    CHECK_INT(sl_pack_read(pack, "config.json", &text, &bytes, &err), SL_E_DATA);
    CHECK_CONTAINS(err.text, "config.json has other bytes");
    sl_pack_close(pack);
}

SL_TEST(a_private_copy_is_not_changed_by_a_write_to_the_file)
{
    struct sl_err err = {0};
    struct sl_weights w;
    struct sl_pack *pack = make_pack(false);
    REQUIRE(sl_weights_open(&w, pack, 1, 2, false, false, &(struct sl_loading){.copy = true}, &err) == SL_OK);
    check_moe_layer(&w.layers[0]);
    REQUIRE(truncate(path_in(dst, "layer-0001.safetensors"), 0) == 0);
    check_moe_layer(&w.layers[0]);
    sl_weights_close(&w);
    sl_pack_close(pack);
}

/* As an older sluice packed it. */
static struct sl_pack *without_digests(struct sl_pack *pack)
{
    struct sl_err err;
    struct sl_manifest *m = malloc(sizeof *m);
    char *text;
    *m = *sl_pack_manifest(pack);
    SET_UP(strcmp(m->files[--m->n_files].name, SL_PACK_DIGESTS) == 0 &&
               sl_manifest_print(m, &text, &err) == SL_OK,
           "the manifest of a pack without digests");
    write_bytes(path_in(dst, "pack.json"), text, strlen(text));
    unlink(path_in(dst, SL_PACK_DIGESTS));
    free(text);
    free(m);
    sl_pack_close(pack);
    SET_UP(sl_pack_open(&pack, dst, &err) == SL_OK, err.text);
    return pack;
}

SL_TEST(a_pack_without_block_digests_is_verified_by_sha256_and_can_be_given_them)
{
    struct sl_err err = {0};
    struct sl_weights w;
    char digest[65];
    struct sl_pack *pack = make_pack(false);
    REQUIRE(sl_pack_has_digests(pack));
    strcpy(digest, sl_pack_digest(pack));
    pack = without_digests(pack);
    REQUIRE(!sl_pack_has_digests(pack));
    CHECK(strcmp(digest, sl_pack_digest(pack)) != 0);
    flip_byte(path_in(dst, "head.safetensors"), 4200);
    for (int way = 0; way < WAYS; way++) {
        struct sl_loading how = loading_of(way, SL_VERIFY_FAST);
        CHECK_INT(load(&w, pack, 0, 2, &how, &err), SL_E_DATA);
        CHECK_CONTAINS(err.text, "head.safetensors");
    }
    CHECK_INT(sl_pack_add_digests(pack, NULL, &err), SL_E_DATA); /* not of what is damaged */
    flip_byte(path_in(dst, "head.safetensors"), 4200);
    CHECK_INT(sl_weights_open(&w, pack, 0, 2, true, true, NULL, &err), SL_OK);
    sl_weights_close(&w);
    CHECK_INT(sl_pack_add_digests(pack, NULL, &err), SL_OK);
    sl_pack_close(pack);
    REQUIRE(sl_pack_open(&pack, dst, &err) == SL_OK);
    CHECK(sl_pack_has_digests(pack));
    CHECK_STR(sl_pack_digest(pack), digest); /* the same on every node, and the same as packed with them */
    CHECK_INT(sl_pack_verify(pack, NULL, &err), SL_OK);
    sl_pack_close(pack);
}

SL_TEST(a_list_of_digests_that_does_not_fit_is_refused)
{
    struct sl_err err = {0};
    uint64_t *digests, few[9] = {0};
    char *text;
    size_t bytes;
    struct sl_pack *pack = make_pack(false);
    const struct sl_manifest *m = sl_pack_manifest(pack);
    uint64_t n = sl_manifest_blocks(m, m->n_files);
    REQUIRE(n == 4 && sl_digests_print(few, n, &text, &bytes, &err) == SL_OK);
    CHECK_INT(sl_digests_parse(&digests, m, (const uint8_t *)text, bytes, &err), SL_OK);
    free(digests);
    for (size_t less = 1; less <= bytes; less++)
        CHECK_INT(sl_digests_parse(&digests, m, (const uint8_t *)text, bytes - less, &err), SL_E_DATA);
    text[8]++;
    CHECK_INT(sl_digests_parse(&digests, m, (const uint8_t *)text, bytes, &err), SL_E_DATA);
    CHECK_CONTAINS(err.text, "use a newer sluice");
    text[8]--;
    text[16]++;
    CHECK_INT(sl_digests_parse(&digests, m, (const uint8_t *)text, bytes, &err), SL_E_DATA);
    text[16]--;
    text[0] = 'x';
    CHECK_INT(sl_digests_parse(&digests, m, (const uint8_t *)text, bytes, &err), SL_E_DATA);
    free(text);
    sl_pack_close(pack);
}

/* A header that was changed is judged tensor by tensor even when digests are not asked for. */
SL_TEST(a_tensor_of_a_layer_file_must_be_what_the_config_asks_for)
{
    static const struct {
        const char *from, *to, *says;
    } edits[] = {
        {"\"router\"", "\"rooter\"", "'router'"},
        {"\"attn_norm\"", "\"attn_morn\"", "'attn_norm'"},
        {"\"experts.down\":{\"dtype\":\"BF16\",\"shape\":[3,2,10,16]",
         "\"experts.down\":{\"dtype\":\"BF16\",\"shape\":[3,2,16,10]", "'experts.down'"},
        {"\"qkv\":{\"dtype\":\"BF16\"", "\"qkv\":{\"dtype\":\"F16\" ", "'qkv'"},
        {"\"q_norm\":{\"dtype\":\"F32\"", "\"q_norm\":{\"dtype\":\"I32\"", "'q_norm'"},
    };
    struct sl_pack *pack = make_pack(false);
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

/* ---- apart ---- */

/* Whether a byte can be read there: asked of the system, which does not die of it. */
static bool is_memory(const void *at)
{
    int ends[2];
    if (pipe(ends) != 0)
        return true;
    bool read = write(ends[1], at, 1) == 1;
    close(ends[0]);
    close(ends[1]);
    return read;
}

SL_TEST(weights_that_are_apart_are_no_memory_and_come_as_they_were_packed)
{
    struct sl_err err = {0};
    struct sl_weights w, mapped;
    const struct sl_loading how = loading_of(APART, SL_VERIFY_FAST);
    const void *from;
    size_t bytes = 1, n_came = 0, n_panels = 0, n;
    struct sl_pack *pack = make_pack(false);
    REQUIRE(sl_weights_open(&w, pack, 0, LAYERS, true, true, &how, &err) == SL_OK);
    char *maps = read_text("/proc/self/maps", &n);
    CHECK(maps && !strstr(maps, dst)); /* no file of the pack */
    free(maps);
    CHECK(!is_memory(w.layers[1].expert0.gate_up.data) && !is_memory(w.embed) && !is_memory(w.head.data));
    REQUIRE(sl_weights_open(&mapped, pack, 0, LAYERS, true, true, NULL, &err) == SL_OK);
    const struct sl_panel *panels[][2] = {{&w.layers[0].dense.down, &mapped.layers[0].dense.down},
                                          {&w.layers[1].qkv, &mapped.layers[1].qkv},
                                          {&w.head, &mapped.head}};
    uint8_t *piece = malloc(sl_weights_piece(&w));
    while (sl_weights_next(&w, piece, &from, &bytes, &err) == SL_OK && bytes > 0) {
        n_came += bytes;
        for (size_t i = 0; i < 3; i++) {
            const uint8_t *data = panels[i][0]->data, *begin = from;
            size_t all = sl_panel_bytes(panels[i][0]->dtype, panels[i][0]->n, panels[i][0]->k);
            if (data < begin || data >= begin + bytes)
                continue;
            n_panels++;
            CHECK(memcmp(piece + (data - begin), panels[i][1]->data, all) == 0);
        }
    }
    CHECK_INT(n_panels, 3);
    CHECK_INT(n_came, w.mapped_bytes);
    free(piece);
    sl_weights_close(&w);
    sl_weights_close(&mapped);
    sl_pack_close(pack);
}

/* Whatever the file was compared by before: what counts is what is brought. */
SL_TEST(a_byte_that_changes_between_opening_and_reading_is_found)
{
    struct sl_err err = {0};
    struct sl_weights w;
    struct sl_pack *pack = make_pack(false);
    for (int old = 0; old < 2; old++) {
        pack = old ? without_digests(pack) : pack;
        for (int verify = SL_VERIFY_FAST; verify <= SL_VERIFY_FULL; verify++) {
            const struct sl_loading how = loading_of(APART, (enum sl_verify)verify);
            const void *from;
            size_t bytes = 1;
            sl_status status = SL_OK;
            REQUIRE(sl_weights_open(&w, pack, 0, LAYERS, true, true, &how, &err) == SL_OK);
            uint8_t *piece = malloc(sl_weights_piece(&w));
            flip_byte(path_in(dst, "layer-0001.safetensors"), 4096 + 700);
            while (status == SL_OK && bytes > 0)
                status = sl_weights_next(&w, piece, &from, &bytes, &err);
            CHECK_INT(status, SL_E_DATA);
            CHECK_CONTAINS(err.text,
                           "layer-0001.safetensors has other bytes than when it was packed, in MiB 0");
            flip_byte(path_in(dst, "layer-0001.safetensors"), 4096 + 700);
            free(piece);
            sl_weights_close(&w);
        }
    }
    const struct sl_loading how = loading_of(APART, SL_VERIFY_OFF);
    REQUIRE(sl_weights_open(&w, pack, 0, LAYERS, true, true, &how, &err) == SL_OK);
    REQUIRE(truncate(path_in(dst, "embed.safetensors"), 4096) == 0);
    uint8_t *piece = malloc(sl_weights_piece(&w));
    const void *from;
    size_t bytes;
    CHECK_INT(sl_weights_next(&w, piece, &from, &bytes, &err), SL_E_DATA);
    CHECK_CONTAINS(err.text, "became shorter while it was read");
    free(piece);
    sl_weights_close(&w);
    sl_pack_close(pack);
}

/* The same file with a header of more than a block. */
static struct sl_pack *with_long_header(struct sl_pack *pack, const char *name)
{
    enum { MORE = 1500 * 1024 };
    struct sl_err err;
    size_t bytes;
    struct sl_manifest *m = malloc(sizeof *m);
    char *text = read_text(path_in(dst, name), &bytes);
    uint64_t n;
    memcpy(&n, text, 8);
    char *longer = malloc(bytes + MORE);
    memcpy(longer, text, 8 + n);
    memset(longer + 8 + n, ' ', MORE);
    memcpy(longer + 8 + n + MORE, text + 8 + n, bytes - 8 - n);
    n += MORE;
    memcpy(longer, &n, 8);
    write_bytes(path_in(dst, name), longer, bytes + MORE);
    free(text);
    free(longer);
    *m = *sl_pack_manifest(pack);
    for (uint32_t i = 0; i < m->n_files; i++)
        if (strcmp(m->files[i].name, name) == 0)
            m->files[i].bytes += MORE;
    CHECK_INT(sl_manifest_print(m, &text, &err), SL_OK);
    write_text(path_in(dst, "pack.json"), text);
    free(text);
    free(m);
    sl_pack_close(pack);
    SET_UP(sl_pack_open(&pack, dst, &err) == SL_OK, err.text);
    return pack;
}

SL_TEST(a_header_of_more_than_a_block_is_read_whole)
{
    struct sl_err err = {0};
    struct sl_weights w;
    const struct sl_loading how = loading_of(APART, SL_VERIFY_OFF);
    struct sl_pack *pack = make_pack(false);
    pack = with_long_header(without_digests(pack), "layer-0001.safetensors");
    CHECK_INT(load(&w, pack, 0, LAYERS, &how, &err), SL_OK);
    CHECK(w.layers && w.layers[1].qkv.data && !is_memory(w.layers[1].qkv.data));
    sl_weights_close(&w);
    sl_pack_close(pack);
}

/* A pack of version 1 has one class "experts" and no integers; its files are those of an exact
 * pack. */
SL_TEST(packs_of_version_1_open)
{
    struct sl_err err = {0};
    struct sl_weights w;
    struct sl_manifest m;
    char *text, format[32];
    size_t bytes;
    sl_pack_close(make_pack(false));
    const char *path = path_in(dst, "pack.json");
    text = read_text(path, &bytes);
    REQUIRE(sl_manifest_parse(&m, text, bytes, &err) == SL_OK);
    free(text);
    for (uint32_t version = 1; version <= 3; version += 2) {
        struct sl_pack *pack = NULL;
        m.version = version;
        json_object_del(m.formats, "experts.gate_up");
        json_object_del(m.formats, "experts.down");
        json_object_set_new(m.formats, "experts", json_string("bf16"));
        REQUIRE(sl_manifest_print(&m, &text, &err) == SL_OK);
        write_text(path, text);
        free(text);
        CHECK_INT(sl_pack_open(&pack, dst, &err), version == 1 ? SL_OK : SL_E_DATA);
        if (version == 1) {
            REQUIRE(sl_weights_open(&w, pack, 0, LAYERS, true, true, NULL, &err) == SL_OK);
            check_moe_layer(&w.layers[1]);
            sl_pack_class_format(pack, SL_CLASS_DOWN, format, sizeof format);
            CHECK_STR(format, "bf16");
            sl_weights_close(&w);
        }
        sl_pack_close(pack);
    }
    CHECK_CONTAINS(err.text, "format_version is 3, and this sluice reads 1 to 2");
    sl_manifest_fini(&m);
}

/* Every class's bytes and weights, against the shapes of the checkpoint. */
SL_TEST(the_account_counts_weights_without_padding)
{
    struct sl_err err = {0};
    struct sl_weights w;
    struct sl_class_use uses[SL_CLASSES] = {0};
    struct sl_pack *pack = make_pack(false);
    REQUIRE(sl_weights_open(&w, pack, 0, LAYERS, true, true, &unverified, &err) == SL_OK);
    sl_weights_account(&w, sl_pack_shape(pack), uses);
    CHECK_INT(uses[SL_CLASS_GATE_UP].weights, E * 2 * I * H);
    CHECK_INT(uses[SL_CLASS_GATE_UP].bytes, E * 32 * H * 2);
    CHECK_INT(uses[SL_CLASS_DOWN].weights, E * H * I);
    CHECK_INT(uses[SL_CLASS_DENSE].weights, 3 * DENSE * H);
    CHECK_INT(uses[SL_CLASS_ATTENTION].weights, LAYERS * ((NQ + 2 * NKV) * HEAD * H + H * NQ * HEAD));
    CHECK_INT(uses[SL_CLASS_HEAD].weights, VOCAB * H);
    CHECK_INT(uses[SL_CLASS_EMBED].bytes, VOCAB * H * 2);
    CHECK_INT(uses[SL_CLASS_ROUTER].weights, E * H);
    CHECK_INT(uses[SL_CLASS_NORMS].weights, LAYERS * (2 * H + 2 * HEAD) + H);
    sl_weights_close(&w);
    sl_pack_close(pack);
}
